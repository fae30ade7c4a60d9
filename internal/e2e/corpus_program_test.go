//go:build unix

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/url"
	pathpkg "path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// sentinel is the target of the plain request that follows each case.
const sentinel = "/served-still"

// A scripted is the program behind the proxy: it records each request as it
// comes, and answers as the case says.
type scripted struct {
	addr   string
	prefix string // the path under which it is

	mu      sync.Mutex
	changed sync.Cond
	answers [][]corpusStep
	seen    []*message
	doubts  []string // of heads that were not beyond doubt
	conns   map[net.Conn]bool
	busy    int // connections with a request that has not ended
}

// A message is a request or an answer as it came.
type message struct {
	first    string // the request line, or the status
	fields   [][2]string
	body     []byte
	trailers [][2]string
	cut      bool
	ended    bool   // of HTTP/2
	reset    string // of HTTP/2: the code
}

// startScripted starts a program that speaks HTTP/1.1, or HTTP/2 without TLS.
func startScripted(t testing.TB, http2 bool) *scripted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &scripted{addr: l.Addr().String(), conns: make(map[net.Conn]bool)}
	p.changed.L = &p.mu
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.conns[nc] = true
			p.mu.Unlock()
			wg.Go(func() {
				if http2 {
					p.serveHTTP2(nc.(*net.TCPConn))
				} else {
					p.serve(nc.(*net.TCPConn), nc)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for nc := range p.conns {
			nc.Close()
		}
		p.mu.Unlock()
		wg.Wait()
	})
	return p
}

// begin makes the program answer as a case says.
func (p *scripted) begin(answers [][]corpusStep) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers, p.seen, p.doubts = answers, nil, nil
}

// quiet reports whether no connection has a request that has not ended.
func (p *scripted) quiet() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.busy == 0
}

func (p *scripted) heads() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.seen)
}

func (p *scripted) serve(nc *net.TCPConn, from io.Reader) {
	defer func() {
		nc.CloseWrite() // a child that is about to be executed may hold the descriptor
		nc.Close()
		p.mu.Lock()
		delete(p.conns, nc)
		p.mu.Unlock()
	}()
	br := bufio.NewReaderSize(from, 256<<10)
	for {
		if _, err := br.Peek(1); err != nil {
			return
		}
		p.mu.Lock()
		p.busy++
		p.mu.Unlock()
		more := p.serveOne(nc, br)
		p.mu.Lock()
		p.busy--
		p.mu.Unlock()
		if !more {
			return
		}
	}
}

// serveOne reports whether another request may follow.
func (p *scripted) serveOne(nc *net.TCPConn, br *bufio.Reader) bool {
	m := &message{cut: true} // until its body has been read
	err := readHead(br, m)
	if err == nil {
		err = strictHead(m, p.prefix)
	}
	_, target, _ := strings.Cut(m.first, " ")
	if strings.Contains(target, sentinel) && err == nil {
		io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nalive")
		return true
	}
	steps := p.see(m, err)
	if err != nil {
		return false
	}

	bodyRead := false
	readBody := func() bool {
		if bodyRead {
			return !m.cut
		}
		bodyRead = true
		var got message
		err := readBody(br, m, &got, false)
		if err == nil {
			err = strictTrailers(got.trailers)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		m.body, m.trailers, m.cut = got.body, got.trailers, err != nil
		return err == nil
	}
	if len(steps) == 0 {
		if !readBody() {
			return false
		}
		body := "ok"
		if strings.HasPrefix(m.first, "HEAD ") {
			body = ""
		}
		io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"+body)
		return true
	}
	if steps[0].do == "at once" {
		steps = steps[1:]
	} else if !readBody() {
		return false
	}
	var out strings.Builder
	for i, s := range steps {
		out.WriteString(s.send)
		if s.send != "" && i+1 < len(steps) && steps[i+1].send != "" {
			continue // in one packet
		}
		io.WriteString(nc, out.String())
		out.Reset()
		switch s.do {
		case "":
		case "then":
			awaitAcked()
		case "reads":
			if !readBody() {
				return false
			}
		case "closes":
			return false
		case "resets":
			nc.SetLinger(0)
			nc.Close()
			return false
		case "half-closes":
			nc.CloseWrite()
		case "waits":
			io.Copy(io.Discard, br)
			return false
		default:
			panic("the program does not know how to: " + s.do)
		}
	}
	return readBody()
}

// see records a request, and the doubt about its head, if any. It returns what the
// program does with it.
func (p *scripted) see(m *message, doubt error) []corpusStep {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, m)
	if doubt != nil {
		p.doubts = append(p.doubts, fmt.Sprintf("%v, in %q %q", doubt, m.first, m.fields))
	}
	if n := len(p.answers); n > 0 {
		return p.answers[min(len(p.seen), n)-1]
	}
	return nil
}

// readHead reads a head strictly: lines end with CR LF.
func readHead(br *bufio.Reader, m *message) error {
	for n := 0; ; n++ {
		line, err := br.ReadString('\n')
		if err != nil {
			return fmt.Errorf("the head ends early: %q", line)
		}
		s, ok := strings.CutSuffix(line, "\r\n")
		switch {
		case !ok:
			return fmt.Errorf("a bare LF: %q", line)
		case n == 0:
			m.first = s
			continue
		case s == "":
			return nil
		}
		f, err := splitField(s)
		if err != nil {
			return err
		}
		m.fields = append(m.fields, f)
	}
}

var token = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

func splitField(s string) (f [2]string, err error) {
	name, value, ok := strings.Cut(s, ":")
	if !ok || !token.MatchString(name) {
		return f, fmt.Errorf("not a field: %q", s)
	}
	value = strings.Trim(value, " \t")
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return f, fmt.Errorf("a control character in the field %q", s)
		}
	}
	return [2]string{name, value}, nil
}

// values returns the values of the fields of a name.
func values(fields [][2]string, name string) (list []string) {
	for _, f := range fields {
		if strings.EqualFold(f[0], name) {
			list = append(list, f[1])
		}
	}
	return list
}

// strictHead returns an error if some server might read the head of a request in
// another way than this one does, or might believe of it what only the proxy may
// say.
//
// prefix is the path that no request leaves.
func strictHead(m *message, prefix string) error {
	parts := strings.Split(m.first, " ")
	if len(parts) != 3 || parts[2] != "HTTP/1.1" && parts[2] != "HTTP/2.0" || !token.MatchString(parts[0]) {
		return fmt.Errorf("not a request line: %q", m.first)
	}
	target := parts[1]
	if !strings.HasPrefix(target, "/") && !(target == "*" && parts[0] == "OPTIONS") {
		return fmt.Errorf("the target is neither a path nor *: %q", target)
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return fmt.Errorf("the byte %q in the target", c)
		}
	}
	if err := staysWithin(prefix, target); err != nil {
		return err
	}
	host, length, coding := values(m.fields, "Host"), values(m.fields, "Content-Length"), values(m.fields, "Transfer-Encoding")
	switch {
	case len(host) != 1:
		return fmt.Errorf("%d Host fields", len(host))
	case strings.ContainsAny(host[0], " \t/@?#\\<>\""):
		return fmt.Errorf("the host %q", host[0])
	case len(length)+len(coding) > 1:
		return fmt.Errorf("Content-Length %q and Transfer-Encoding %q", length, coding)
	case len(length) == 1 && !regexp.MustCompile(`^\d{1,18}$`).MatchString(length[0]):
		return fmt.Errorf("the Content-Length %q", length[0])
	case len(coding) == 1 && coding[0] != "chunked":
		return fmt.Errorf("the Transfer-Encoding %q", coding[0])
	}
	for _, f := range m.fields {
		name := strings.ToLower(f[0])
		switch name {
		case "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "proxy", "http2-settings":
			return fmt.Errorf("a field that is not to be passed on: %q", f)
		case "te":
			if f[1] != "trailers" {
				return fmt.Errorf("a field that is not to be passed on: %q", f)
			}
		case "upgrade":
			if !strings.EqualFold(f[1], "websocket") {
				return fmt.Errorf("a field that is not to be passed on: %q", f)
			}
		case "connection":
			if parts[2] == "HTTP/2.0" || !strings.EqualFold(f[1], "upgrade") && !strings.EqualFold(f[1], "close") && !strings.EqualFold(f[1], "keep-alive") {
				return fmt.Errorf("a field that is not to be passed on: %q", f)
			}
		}
		if dashed := strings.ReplaceAll(name, "_", "-"); dashed != name &&
			strings.HasPrefix(dashed, "x-forwarded-") {
			return fmt.Errorf("a field that may be read as another: %q", f)
		}
	}
	return nil
}

// staysWithin returns an error if the target, with its dot segments taken however
// a server may take them, is not under the path prefix.
func staysWithin(prefix, target string) error {
	path, _, _ := strings.Cut(target, "?")
	for range 2 { // decoded twice at most
		if resolved := pathpkg.Clean(strings.ReplaceAll(path, `\`, "/")); prefix != "" && resolved != prefix && !strings.HasPrefix(resolved, prefix+"/") {
			return fmt.Errorf("the target %q leaves %s", target, prefix)
		}
		decoded, err := url.PathUnescape(path)
		if err != nil {
			break
		}
		path = decoded
	}
	return nil
}

// strictTrailers returns an error if a trailer would do harm in a program that
// merges trailers into the header (RFC 9110 section 6.5.1).
func strictTrailers(trailers [][2]string) error {
	for _, f := range trailers {
		name := strings.ReplaceAll(strings.ToLower(f[0]), "_", "-")
		for _, prefix := range []string{"x-forwarded-", "content-"} {
			if strings.HasPrefix(name, prefix) {
				return fmt.Errorf("the trailer %q", f)
			}
		}
		if slices.Contains([]string{"host", "authorization", "cookie", "connection", "transfer-encoding", "te", "trailer", "upgrade",
			"forwarded", "keep-alive", "proxy-connection", "proxy-authorization", "x-real-ip", "expect", "range"}, name) {
			return fmt.Errorf("the trailer %q", f)
		}
	}
	return nil
}

// readBody reads the body that follows the head of m into got. Only an answer may
// end with the connection.
func readBody(br *bufio.Reader, m, got *message, answer bool) error {
	length, coding := values(m.fields, "Content-Length"), values(m.fields, "Transfer-Encoding")
	switch {
	case len(coding) == 1 && coding[0] == "chunked" && len(length) == 0:
		return readChunks(br, got)
	case len(length) == 1 && len(coding) == 0:
		n, err := strconv.Atoi(length[0])
		if err != nil {
			return err
		}
		return readN(br, got, n)
	case len(length)+len(coding) > 0:
		return fmt.Errorf("Content-Length %q and Transfer-Encoding %q", length, coding)
	case answer:
		var err error
		got.body, err = io.ReadAll(br)
		return err
	}
	return nil
}

func readN(br *bufio.Reader, got *message, n int) error {
	b, err := io.ReadAll(io.LimitReader(br, int64(n)))
	got.body = append(got.body, b...)
	if err == nil && len(b) < n {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func readChunks(br *bufio.Reader, got *message) error {
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return err
		}
		size, ok := strings.CutSuffix(line, "\r\n")
		n, err := strconv.ParseUint(size, 16, 31)
		if !ok || err != nil {
			return fmt.Errorf("the chunk size %q", line)
		}
		if n == 0 {
			break
		}
		if err := readN(br, got, int(n)); err != nil {
			return err
		}
		if end, err := br.ReadString('\n'); err != nil || end != "\r\n" {
			return fmt.Errorf("the end of a chunk %q", end)
		}
	}
	var tr message
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return err
		}
		s, ok := strings.CutSuffix(line, "\r\n")
		if !ok {
			return fmt.Errorf("a bare LF: %q", line)
		}
		if s == "" {
			got.trailers = tr.fields
			return nil
		}
		f, err := splitField(s)
		if err != nil {
			return err
		}
		tr.fields = append(tr.fields, f)
	}
}
