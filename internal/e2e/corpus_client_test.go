//go:build unix

package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// awaitAcked lets what was sent before travel in a packet of its own. If it does
// not, the case shows less, but nothing wrong.
func awaitAcked() { time.Sleep(2 * time.Millisecond) }

// dialCase makes a connection on which nothing takes longer than patience.
func dialCase(addr, client string, trust *tls.Config, patience time.Duration) (net.Conn, *net.TCPConn, error) {
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, nil, err
	}
	nc.SetDeadline(time.Now().Add(patience))
	raw := nc.(*net.TCPConn)
	if client == "https" || client == "h2" {
		cfg := trust.Clone()
		cfg.ServerName = "localhost"
		if client == "h2" {
			cfg.NextProtos = []string{"h2"}
		}
		c := tls.Client(nc, cfg)
		if err := c.Handshake(); err != nil {
			nc.Close()
			return nil, nil, err
		}
		nc = c
	}
	return nc, raw, nil
}

// runHTTP1 takes the steps of the client over a connection of HTTP/1. waits
// waits for the program to have a request.
func runHTTP1(nc net.Conn, raw *net.TCPConn, steps []corpusStep, pieces bool, waits func() error) error {
	br := bufio.NewReader(nc)
	most := 1 << 20 // bytes in a packet
	for i, s := range steps {
		switch {
		case s.send != "":
			if pieces {
				most = 1 + len(s.send)/64
			}
			for piece := range slices.Chunk([]byte(s.send), most) {
				if _, err := nc.Write(piece); err != nil {
					break // the server has closed it
				}
			}
		case s.expect != nil && s.expect.first == "bytes":
			b := make([]byte, len(*s.expect.body))
			n, err := io.ReadFull(br, b)
			if string(b[:n]) != *s.expect.body {
				return fmt.Errorf("bytes %q, %v, want %q", b[:n], err, *s.expect.body)
			}
		case s.expect != nil:
			if err := expectAnswer(br, s.expect, pieces); err != nil {
				return err
			}
		case s.do == "half-closes":
			nc.(interface{ CloseWrite() error }).CloseWrite()
		case s.do == "resets":
			raw.SetLinger(0)
			raw.Close()
			return nil
		case s.do == "then":
			awaitAcked()
		case s.do == "waits":
			if err := waits(); err != nil {
				return err
			}
		default:
			return fmt.Errorf("step %d: a client does not know how to %q", i, s.do)
		}
	}
	// Nothing more comes when the server knows that no request follows.
	nc.(interface{ CloseWrite() error }).CloseWrite()
	rest, err := io.ReadAll(br)
	var timeout net.Error
	switch {
	case len(rest) > 0:
		return fmt.Errorf("then %q, want nothing more", rest[:min(len(rest), 300)])
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("the connection does not end")
	}
	return nil
}

var statusLine = regexp.MustCompile(`^HTTP/1\.[01] ([1-9]\d\d) [\t\x20-\x7e\x80-\xff]*$`)

// expectAnswer reads an answer, and compares. A reset may end an answer to what
// is sent in pieces: net/http closes without reading the rest.
func expectAnswer(br *bufio.Reader, want *expectation, pieces bool) error {
	if _, err := br.Peek(1); err != nil {
		if (want.first == "nothing" || slices.Contains(want.words, "or-nothing")) && !isTimeoutError(err) {
			return nil
		}
		return fmt.Errorf("no answer: %v, want %s", err, want.first)
	}
	m := new(message)
	if err := readHead(br, m); err != nil {
		return fmt.Errorf("answer %q: %v", m.first, err)
	}
	status := statusLine.FindStringSubmatch(m.first)
	if status == nil {
		return fmt.Errorf("status line %q", m.first)
	}
	m.first = status[1]
	code, _ := strconv.Atoi(m.first)
	if code >= 200 && code != 204 && code != 304 && !slices.Contains(want.words, "head") {
		err := readBody(br, m, m, true)
		if isTimeoutError(err) {
			return fmt.Errorf("status %d, and its body does not end", code)
		}
		m.cut = err != nil && !(pieces && errors.Is(err, syscall.ECONNRESET) && !slices.Contains(want.words, "cut"))
	}
	if err := want.compare(m); err != nil {
		return err
	}
	if want.first == "refused" || slices.Contains(want.words, "closed") {
		// net/http closes half a second after it has sent the end.
		if rest, err := io.ReadAll(br); len(rest) > 0 {
			return fmt.Errorf("%d, then %q, want the end of the connection", code, rest[:min(len(rest), 300)])
		} else if isTimeoutError(err) {
			return fmt.Errorf("%d, and the connection stays, want its end", code)
		}
	}
	return nil
}

func isTimeoutError(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func isStatus(s string) bool { return len(s) == 3 }

func isRefusal(status string) bool {
	return strings.HasPrefix(status, "4") || status == "501" || status == "505"
}

// compare returns an error if the message is not as expected.
func (e *expectation) compare(m *message) error {
	got := fmt.Sprintf("%s %q, body %.200q", m.first, m.fields, m.body)
	switch {
	case e.first == "refused" && isRefusal(m.first), e.first == "any":
	case e.first != m.first && !(isStatus(m.first) && slices.Contains(strings.Split(e.first, "|"), m.first)):
		return fmt.Errorf("got %s, want %s", got, e.first)
	}
	if cut := slices.Contains(e.words, "cut"); cut != m.cut && !slices.Contains(e.words, "maybe-cut") {
		return fmt.Errorf("got %s, cut %t, want %t", got, m.cut, cut)
	}
	if err := compareFields(e.fields, e.absent, m.fields); err != nil {
		return fmt.Errorf("got %s: %v", got, err)
	}
	if err := compareFields(e.trailers, e.absentTr, m.trailers); err != nil {
		return fmt.Errorf("got %s: trailer: %v", got, err)
	}
	if e.body != nil && *e.body != string(m.body) {
		return fmt.Errorf("got %s, want the body %.200q", got, *e.body)
	}
	for _, s := range e.contains {
		if !bytes.Contains(m.body, []byte(s)) {
			return fmt.Errorf("got %s, want %q in the body", got, s)
		}
	}
	return nil
}

func compareFields(want [][2]string, absent []string, got [][2]string) error {
	for _, f := range want {
		if w, g := values(want, f[0]), values(got, f[0]); !slices.Equal(w, g) {
			return fmt.Errorf("%s: %q, want %q", f[0], g, w)
		}
	}
	for _, name := range absent {
		if g := values(got, name); g != nil {
			return fmt.Errorf("%s: %q, want none", name, g)
		}
	}
	return nil
}

// client2 is a client of HTTP/2 that keeps no rules.
type client2 struct {
	*frameWriter
	mu      sync.Mutex
	changed sync.Cond
	streams map[uint32]*message
	interim map[uint32][]*message // answers of 1xx
	goaway  string
	err     error // the connection has ended
	pongs   int
}

func startClient2(nc net.Conn) *client2 {
	c := &client2{frameWriter: newFrameWriter(nc), streams: make(map[uint32]*message), interim: make(map[uint32][]*message)}
	c.changed.L = &c.mu
	io.WriteString(nc, http2.ClientPreface)
	c.framer.WriteSettings()
	go c.read()
	return c
}

func (c *client2) read() {
	for {
		f, err := c.framer.ReadFrame()
		c.mu.Lock()
		if err != nil {
			c.err = err
			c.changed.Broadcast()
			c.mu.Unlock()
			return
		}
		id := f.Header().StreamID
		m := c.streams[id]
		if m == nil && id != 0 {
			m = new(message)
			c.streams[id] = m
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			var fields [][2]string
			for _, h := range f.RegularFields() {
				fields = append(fields, [2]string{h.Name, h.Value})
			}
			status := f.PseudoValue("status")
			switch {
			case strings.HasPrefix(status, "1"):
				c.interim[id] = append(c.interim[id], &message{first: status, fields: fields})
			case status != "":
				m.first, m.fields = status, fields
			default:
				m.trailers = fields
			}
			m.ended = m.ended || f.StreamEnded()
		case *http2.DataFrame:
			m.body = append(m.body, f.Data()...)
			m.ended = m.ended || f.StreamEnded()
		case *http2.RSTStreamFrame:
			m.reset = f.ErrCode.String()
		case *http2.GoAwayFrame:
			c.goaway = f.ErrCode.String()
		case *http2.PingFrame:
			if f.IsAck() {
				c.pongs++
			}
		}
		c.changed.Broadcast()
		c.mu.Unlock()
	}
}

// await waits until done returns true, or the connection has ended.
func (c *client2) await(done func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !done() && c.err == nil {
		c.changed.Wait()
	}
}

// runHTTP2 takes the steps of the client over a connection of HTTP/2.
func runHTTP2(nc net.Conn, raw *net.TCPConn, steps []corpusStep, waits func() error) error {
	c := startClient2(nc)
	for _, s := range steps {
		switch {
		case s.frame != nil:
			if err := c.send(s.frame); err != nil {
				return err
			}
		case s.expect != nil:
			if err := c.expect(s.expect); err != nil {
				return err
			}
		case s.do == "resets":
			raw.SetLinger(0)
			raw.Close()
			return nil
		case s.do == "half-closes":
			nc.(interface{ CloseWrite() error }).CloseWrite()
		case s.do == "then":
			awaitAcked()
		case s.do == "waits":
			if err := waits(); err != nil {
				return err
			}
		default:
			return fmt.Errorf("a client of HTTP/2 does not know how to %q", s.do)
		}
	}
	// What the server does on account of the frames comes before its PONG.
	c.framer.WritePing(false, [8]byte{})
	c.await(func() bool { return c.pongs > 0 || c.goaway != "" })
	c.mu.Lock()
	defer c.mu.Unlock()
	if isTimeoutError(c.err) {
		return fmt.Errorf("no PONG comes")
	}
	return nil
}

func (c *client2) expect(e *expectation) error {
	id := uint32(1)
	if i := slices.Index(e.words, "stream"); i >= 0 {
		n, err := strconv.Atoi(e.words[i+1])
		if err != nil {
			return err
		}
		id = uint32(n)
	}
	var m *message
	interim := strings.HasPrefix(e.first, "1")
	c.await(func() bool {
		m = c.streams[id]
		if interim && len(c.interim[id]) > 0 {
			return true
		}
		if e.first == "goaway" {
			return c.goaway != ""
		}
		return m != nil && (m.ended || m.reset != "") || c.goaway != "" && c.goaway != "NO_ERROR" ||
			e.first == "nothing" && c.goaway != ""
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if m == nil {
		m = new(message)
	}
	if interim && len(c.interim[id]) > 0 {
		m, c.interim[id] = c.interim[id][0], c.interim[id][1:]
		return e.compare(m)
	}
	got := fmt.Sprintf("status %q, ended %t, reset %q, GOAWAY %q, %v", m.first, m.ended, m.reset, c.goaway, c.err)
	code := ""
	if len(e.words) > 0 && e.words[0] != "stream" {
		code = e.words[0]
	}
	switch e.first {
	case "nothing":
		if m.first == "" && !isTimeoutError(c.err) {
			return nil
		}
		return fmt.Errorf("got %s, want nothing", got)
	case "refused", "any":
		if e.first == "any" && m.ended && m.first != "" {
			return nil
		}
		if c.goaway != "" && c.goaway != "NO_ERROR" && m.first == "" || m.reset != "" && m.first == "" || (m.ended || m.reset != "") && isRefusal(m.first) {
			return nil
		}
		return fmt.Errorf("got %s, want a refusal", got)
	case "reset":
		if m.reset != "" && (code == "" || slices.Contains(strings.Split(code, "|"), m.reset)) {
			return nil
		}
		return fmt.Errorf("got %s, want a reset %s", got, code)
	case "goaway":
		if c.goaway != "" && (code == "" || slices.Contains(strings.Split(code, "|"), c.goaway)) {
			return nil
		}
		return fmt.Errorf("got %s, want GOAWAY %s", got, code)
	}
	if m.first == "" && m.reset != "" && slices.Contains(e.words, "or-nothing") {
		return nil
	}
	if !m.ended && m.reset == "" && m.first == "" {
		return fmt.Errorf("got %s, want %s", got, e.first)
	}
	cp := *m
	cp.cut = !m.ended // a reset that follows the end is about the request
	return e.compare(&cp)
}

// overHTTP2 returns what a program that speaks HTTP/2 must get of a request.
func (e *expectation) overHTTP2() *expectation {
	to := *e
	if first, ok := strings.CutSuffix(e.first, "HTTP/1.1"); ok {
		to.first = first + "HTTP/2.0"
	}
	to.fields = nil
	for _, f := range e.fields {
		switch strings.ToLower(f[0]) {
		case "connection", "transfer-encoding":
		case "cookie":
			for crumb := range strings.SplitSeq(f[1], "; ") { // RFC 9113 section 8.2.3
				to.fields = append(to.fields, [2]string{f[0], crumb})
			}
		default:
			to.fields = append(to.fields, f)
		}
	}
	return &to
}
