//go:build unix

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frameWriter writes the frames of a corpus, whatever the rules are.
type frameWriter struct {
	nc     net.Conn
	framer *http2.Framer
	buf    bytes.Buffer
	enc    *hpack.Encoder
}

func newFrameWriter(nc net.Conn) *frameWriter {
	w := &frameWriter{nc: nc, framer: http2.NewFramer(nc, nc)}
	w.framer.AllowIllegalWrites = true
	w.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.framer.MaxHeaderListSize = 16 << 20
	w.enc = hpack.NewEncoder(&w.buf)
	return w
}

func (w *frameWriter) encode(fields [][2]string) []byte {
	w.buf.Reset()
	for _, f := range fields {
		// Nothing goes into the table, which frames that are refused would upset.
		w.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true})
	}
	return slices.Clone(w.buf.Bytes())
}

// send sends a frame.
func (w *frameWriter) send(f *frameStep) error { return w.sendFrom(f, 1) }

// sendFrom sends a frame in which the streams are counted from first: that is the
// frame's stream 1.
func (w *frameWriter) sendFrom(f *frameStep, first uint32) error {
	number := func(i int) uint32 {
		if i >= len(f.words) {
			return 0
		}
		n, _ := strconv.ParseUint(f.words[i], 10, 32)
		return uint32(n)
	}
	stream := func(i int) uint32 {
		n := number(i)
		if n > 0 && n < 1<<31-1 {
			n += first - 1
		}
		return n
	}
	id, end := stream(0), slices.Contains(f.words, "END_STREAM")
	code := func() http2.ErrCode {
		for code := http2.ErrCode(0); code < 14; code++ {
			if code.String() == f.words[len(f.words)-1] {
				return code
			}
		}
		return http2.ErrCodeProtocol
	}
	block := w.encode(f.fields)
	if i := slices.Index(f.words, "TIMES"); i >= 0 {
		once := *f
		once.words = f.words[:i]
		for range number(i + 1) {
			if err := w.sendFrom(&once, first); err != nil {
				return err
			}
		}
		return nil
	}
	switch f.kind {
	case "HEADERS", "TRAILERS":
		const most = 16 << 10
		fragment, rest := block[:min(len(block), most)], block[min(len(block), most):]
		open := slices.Contains(f.words, "NO_END_HEADERS")
		w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: fragment,
			EndStream: end || f.kind == "TRAILERS" && !slices.Contains(f.words, "OPEN"), EndHeaders: len(rest) == 0 && !open})
		for len(rest) > 0 {
			fragment, rest = rest[:min(len(rest), most)], rest[min(len(rest), most):]
			w.framer.WriteContinuation(id, len(rest) == 0 && !open, fragment)
		}
	case "CONTINUATION":
		w.framer.WriteContinuation(id, !slices.Contains(f.words, "NO_END_HEADERS"), block)
	case "DATA":
		w.framer.WriteData(id, end, []byte(f.payload))
	case "RST_STREAM":
		w.framer.WriteRSTStream(id, code())
	case "GOAWAY":
		w.framer.WriteGoAway(id, code(), nil)
	case "WINDOW_UPDATE":
		w.framer.WriteWindowUpdate(id, number(1))
	case "PUSH_PROMISE":
		w.framer.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: stream(1), BlockFragment: block, EndHeaders: true})
	case "PRIORITY":
		w.framer.WritePriority(id, http2.PriorityParam{StreamDep: stream(1), Weight: 15})
	case "RAW":
		w.framer.WriteRawFrame(http2.FrameType(number(0)), http2.Flags(number(1)), stream(2), []byte(f.payload))
	case "BYTES":
		io.WriteString(w.nc, f.payload)
	default:
		return fmt.Errorf("no frame %s", f.kind)
	}
	return nil
}

// overHTTP2 returns the steps of a client over HTTP/1.1 as those of one over HTTP/2,
// if there are such: for well-formed requests that say nothing of the connection.
func overHTTP2(steps []corpusStep) (list []corpusStep, ok bool) {
	sent, answered := uint32(0), uint32(0) // streams
	stream := func(n uint32) string { return strconv.FormatUint(uint64(2*n-1), 10) }
	for _, s := range steps {
		switch {
		case s.expect != nil:
			e := *s.expect
			if e.first == "bytes" || e.first == "nothing" {
				return nil, false
			}
			e.words = append(slices.Clone(e.words), "stream", stream(answered+1))
			if !strings.HasPrefix(e.first, "1") {
				answered++
			}
			s.expect = &e
		case s.send != "":
			for br := bufio.NewReader(strings.NewReader(s.send)); ; {
				if _, err := br.Peek(1); err != nil {
					break
				}
				sent++
				frames, ok := requestFrames(br, stream(sent))
				if !ok {
					return nil, false
				}
				list = append(list, frames...)
			}
			continue
		case s.do != "then" && s.do != "waits":
			return nil, false
		}
		list = append(list, s)
	}
	return list, sent > 0
}

// requestFrames reads a request of HTTP/1.1, and returns its frames.
func requestFrames(br *bufio.Reader, stream string) (list []corpusStep, ok bool) {
	m := new(message)
	if readHead(br, m) != nil || readBody(br, m, m, false) != nil {
		return nil, false
	}
	line, host := strings.Split(m.first, " "), values(m.fields, "Host")
	if len(line) != 3 || line[2] != "HTTP/1.1" || !token.MatchString(line[0]) || line[0] == "CONNECT" || !strings.HasPrefix(line[1], "/") || len(host) != 1 {
		return nil, false
	}
	head := &frameStep{kind: "HEADERS", words: []string{stream}, fields: [][2]string{
		{":method", line[0]}, {":scheme", "http"}, {":authority", host[0]}, {":path", line[1]}}}
	for _, f := range m.fields {
		switch name := strings.ToLower(f[0]); name {
		case "host":
		case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te":
			return nil, false
		default:
			head.fields = append(head.fields, [2]string{name, f[1]})
		}
	}
	list = append(list, corpusStep{frame: head})
	if len(m.body) == 0 {
		head.words = append(head.words, "END_STREAM")
		return list, true
	}
	return append(list, corpusStep{frame: &frameStep{kind: "DATA", words: []string{stream, "END_STREAM"}, payload: string(m.body)}}), true
}
