//go:build unix

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"

	"golang.org/x/net/http2"
)

// serveHTTP2 is serve over HTTP/2. A WebSocket begins over HTTP/1.1.
func (p *scripted) serveHTTP2(nc *net.TCPConn) {
	start := make([]byte, len("PRI"))
	if n, _ := io.ReadFull(nc, start); string(start) != http2.ClientPreface[:len(start)] {
		p.serve(nc, io.MultiReader(bytes.NewReader(start[:n]), nc))
		return
	}
	w := newFrameWriter(nc)
	open := make(map[uint32]*message)      // the requests that have not ended
	steps := make(map[uint32][]corpusStep) // of those that are not answered
	busy := make(map[uint32]bool)          // the streams on which something is to come
	setBusy := func(id uint32, is bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.busy -= len(busy)
		if busy[id] = is; !is {
			delete(busy, id)
		}
		p.busy += len(busy)
	}
	answer := func(id uint32) {
		setBusy(id, p.answerHTTP2(nc, w, id, steps[id]))
	}
	defer func() {
		nc.CloseWrite() // a child that is about to be executed may hold the descriptor
		nc.Close()
		p.mu.Lock()
		p.busy -= len(busy)
		delete(p.conns, nc)
		p.mu.Unlock()
	}()
	if _, err := io.ReadFull(nc, make([]byte, len(http2.ClientPreface)-len(start))); err != nil {
		return
	}
	w.framer.WriteSettings()
	for {
		frame, err := w.framer.ReadFrame()
		if _, malformed := err.(http2.StreamError); malformed {
			p.mu.Lock()
			p.doubts = append(p.doubts, fmt.Sprintf("a malformed request: %v", w.framer.ErrorDetail()))
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
		id, ended := frame.Header().StreamID, false
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				w.framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				w.framer.WritePing(true, f.Data)
			}
		case *http2.RSTStreamFrame:
			delete(open, id)
			setBusy(id, false)
		case *http2.MetaHeadersFrame:
			var fields [][2]string
			for _, h := range f.RegularFields() {
				fields = append(fields, [2]string{h.Name, h.Value})
			}
			ended = f.StreamEnded()
			if m := open[id]; m != nil {
				p.mu.Lock()
				m.trailers = fields
				p.mu.Unlock()
				break
			}
			m := &message{first: fmt.Sprintf("%s %s HTTP/2.0", f.PseudoValue("method"), f.PseudoValue("path")), cut: true}
			m.fields = append([][2]string{{"Host", f.PseudoValue("authority")}}, fields...)
			if strings.Contains(f.PseudoValue("path"), sentinel) {
				w.sendFrom(plainAnswer2[0].frame, id)
				w.sendFrom(&frameStep{kind: "DATA", words: []string{"1", "END_STREAM"}, payload: "alive"}, id)
				continue
			}
			open[id] = m
			setBusy(id, true)
			steps[id] = p.see(m, strictHead(m, p.prefix))
			if len(steps[id]) == 0 && f.PseudoValue("method") == "HEAD" {
				steps[id] = plainHead2
			} else if len(steps[id]) == 0 {
				steps[id] = plainAnswer2
			} else if steps[id][0].do == "at once" {
				steps[id] = steps[id][1:]
				answer(id)
				steps[id] = nil
			}
		case *http2.DataFrame:
			if m := open[id]; m != nil {
				p.mu.Lock()
				m.body = append(m.body, f.Data()...)
				p.mu.Unlock()
			}
			ended = f.StreamEnded()
		}
		m := open[id]
		if !ended || m == nil {
			continue
		}
		delete(open, id)
		p.mu.Lock()
		m.cut = false
		if err := strictTrailers(m.trailers); err != nil {
			p.doubts = append(p.doubts, err.Error())
		}
		p.mu.Unlock()
		if steps[id] != nil {
			answer(id)
		}
	}
}

// plainAnswer2 is what the program answers where a case says nothing.
var plainAnswer2 = []corpusStep{
	{frame: &frameStep{kind: "HEADERS", words: []string{"1"}, fields: [][2]string{{":status", "200"}}}},
	{frame: &frameStep{kind: "DATA", words: []string{"1", "END_STREAM"}, payload: "ok"}},
}

// plainHead2 is that to HEAD.
var plainHead2 = []corpusStep{
	{frame: &frameStep{kind: "HEADERS", words: []string{"1", "END_STREAM"}, fields: [][2]string{{":status", "200"}, {"content-length", "2"}}}},
}

// answerHTTP2 takes the steps of the program on a stream. It reports whether the
// program waits then.
func (p *scripted) answerHTTP2(nc *net.TCPConn, w *frameWriter, id uint32, steps []corpusStep) (waits bool) {
	for _, s := range steps {
		switch {
		case s.frame != nil:
			if err := w.sendFrom(s.frame, id); err != nil {
				panic(err)
			}
		case s.do == "then":
			awaitAcked()
		case s.do == "closes":
			nc.CloseWrite() // the frames that arrive still do not make it a reset
		case s.do == "resets":
			nc.SetLinger(0)
			nc.Close()
		case s.do == "waits":
			return true
		default:
			panic("the program does not know how to: " + s.do)
		}
	}
	return false
}
