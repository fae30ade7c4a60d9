//go:build unix

package upstream

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lastcall/internal/buffers"
)

var long = flag.Bool("long", false, "all rows of testdata/exchanges.txt in all ways")

var update = flag.Bool("update", false, "write the outcomes of TestExchanges to testdata/exchanges.txt")

// row is a line of testdata/exchanges.txt.
type row struct {
	name          string
	parts         []string // of the answer; the program pauses between them
	answer        string   // all of them
	upgrade       bool     // the request asks for one
	then, want    string
	standard, why string // if http.Transport differs
	line          string
}

// pause is longer than what transport waits for an answer as if it came at once.
const pause = firstWait + firstWait/2

// pauseMark stands for a pause in an answer.
const pauseMark = "\x00pause\x00"

func readRows(t *testing.T) (comment []string, rows []*row) {
	t.Helper()
	b, err := os.ReadFile("testdata/exchanges.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "#") {
			comment = append(comment, line)
			continue
		}
		columns := strings.Split(strings.TrimSuffix(line, "\n"), " | ")
		if len(columns) != 4 && len(columns) != 6 {
			t.Fatalf("%q has %d columns", line, len(columns))
		}
		r := &row{name: columns[0], parts: strings.Split(unquote(t, columns[1]), pauseMark), want: columns[3], line: strings.Join(columns[:3], " | ")}
		r.answer = strings.Join(r.parts, "")
		r.then, r.upgrade = strings.CutPrefix(columns[2], "upgrade, ")
		r.standard = r.want
		if len(columns) == 6 {
			r.standard, r.why = columns[4], columns[5]
		}
		rows = append(rows, r)
	}
	return comment, rows
}

// unquote returns the string of "a"*3+pause+"b".
func unquote(t *testing.T, s string) string {
	t.Helper()
	var text strings.Builder
	for s != "" {
		if rest, ok := strings.CutPrefix(s, "pause+"); ok {
			text.WriteString(pauseMark)
			s = rest
			continue
		}
		quoted, err := strconv.QuotedPrefix(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		part, _ := strconv.Unquote(quoted)
		s = s[len(quoted):]
		n := 1
		if count, ok := strings.CutPrefix(s, "*"); ok {
			digits := count
			if i := strings.IndexByte(count, '+'); i >= 0 {
				digits = count[:i]
			}
			if n, err = strconv.Atoi(digits); err != nil {
				t.Fatal(err)
			}
			s = count[len(digits):]
		}
		text.WriteString(strings.Repeat(part, n))
		s = strings.TrimPrefix(s, "+")
	}
	return text.String()
}

// String returns the outcome in the words of testdata/exchanges.txt.
func (g got) String() string {
	var s []string
	for _, status := range g.Info {
		s = append(s, strconv.Itoa(status))
	}
	if g.Status != 0 {
		s = append(s, strconv.Itoa(g.Status))
		if g.Body != "" {
			s = append(s, strconv.Quote(g.Body))
		}
	}
	var trailers []string
	for name, v := range g.Trailer {
		trailers = append(trailers, fmt.Sprintf("%s=%.10s", name, strings.Join(v, ",")))
	}
	slices.Sort(trailers)
	s = append(s, trailers...)
	if g.Failed != "" {
		s = append(s, g.Failed+" failed")
	}
	return strings.Join(s, " ")
}

// leavesBytes reports whether the answer to a request of the method is followed by
// more.
func leavesBytes(answer, method string) bool {
	br := bufio.NewReader(strings.NewReader(answer))
	for {
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			return false
		}
		if res.StatusCode/100 == 1 && res.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		_, err = io.Copy(io.Discard, res.Body)
		_, more := br.Peek(1)
		return err == nil && more == nil
	}
}

// way is how a request is sent and how an answer comes.
type way struct {
	name, ask string
	dribble   bool // byte by byte
	early     bool // after the header of the request
}

// outcome runs one exchange and another after it, and returns the outcome.
func outcome(t *testing.T, to func(addr string) http.RoundTripper, r *row, w way, standard bool) (result string, conns int) {
	const plain = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"
	addr, made := perform(t, func(t *testing.T, n int, p *peer) {
		if n > 0 {
			for p.request() != nil {
				p.say(plain)
			}
			return
		}
		if w.early {
			request, err := http.ReadRequest(p.br)
			if err != nil {
				return
			}
			p.sayParts(r.parts)
			io.Copy(io.Discard, request.Body)
		} else if p.request() == nil {
			return
		} else if w.dribble {
			for i := range len(r.answer) {
				p.say(r.answer[i : i+1])
			}
		} else {
			p.sayParts(r.parts)
		}
		switch r.then {
		case "echo":
			b := make([]byte, len(echoed))
			io.ReadFull(p.br, b)
			p.Write(b)
		case "reset":
			p.SetLinger(0)
		case "open":
			for p.request() != nil {
				p.say(plain)
			}
		}
	})
	rt := to(addr)
	method, _, _ := strings.Cut(w.ask, " ")
	var header []string
	if r.upgrade {
		header = append(header, "Upgrade")
	}
	first := ask(rt, addr, w.ask, header...)
	result = first.String()
	if r.then == "reset" && first.Failed != "" {
		result = "failed" // a reset may destroy what was sent before
	}
	if standard && leavesBytes(r.answer, method) {
		return result, 0 // http.Transport may see the rest too late, and take it for the next answer
	}
	if next := ask(rt, addr, "GET", header...); next.Status != 200 || next.Body != "next" || next.Failed != "" {
		t.Errorf("the next answer is %v", next)
	}
	return result, int(made.Load())
}

func (p *peer) sayParts(parts []string) {
	for i, s := range parts {
		if i > 0 {
			time.Sleep(pause)
		}
		p.say(s)
	}
}

// outcomeText returns an outcome without the number of connections.
func outcomeText(s string) string { return s[:strings.LastIndex(s, " x")] }

// TestExchanges holds the answers of testdata/exchanges.txt, in several ways,
// against transport and http.Transport.
func TestExchanges(t *testing.T) {
	t.Parallel()
	comment, rows := readRows(t)
	if len(rows) < 120 {
		t.Errorf("%d rows, want at least 120", len(rows))
	}
	own := func(t *testing.T) func(string) http.RoundTripper {
		return func(addr string) http.RoundTripper {
			_, rt, err := New("http://"+addr, Config{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(rt.(interface{ CloseIdleConnections() }).CloseIdleConnections)
			return rt
		}
	}
	standard := func(t *testing.T) func(string) http.RoundTripper {
		return func(string) http.RoundTripper {
			tr := &http.Transport{DisableCompression: true, ReadBufferSize: buffers.Size} // as New has it
			t.Cleanup(tr.CloseIdleConnections)
			return tr
		}
	}
	t.Run("rows", func(t *testing.T) {
		for i, r := range rows {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				get := way{name: "GET", ask: "GET"}
				if *update {
					result, conns := outcome(t, own(t), r, get, false)
					r.want = fmt.Sprintf("%s x%d", result, conns)
					other, conns := outcome(t, standard(t), r, get, true)
					r.standard = fmt.Sprintf("%s x%d", other, conns)
					return
				}
				for _, w := range []way{
					get,
					{name: "GET, byte by byte", ask: "GET", dribble: true},
					{name: "HEAD", ask: "HEAD"},
					{name: "POST", ask: "POST body"},
					{name: "POST, early", ask: "POST body", early: true},
				} {
					if (w.dribble || w.early) && i%4 != 0 && !*long {
						continue
					}
					if r.upgrade && w.ask != "GET" {
						continue
					}
					if w.dribble && len(r.answer) > 1000 {
						continue
					}
					if method, _, _ := strings.Cut(w.ask, " "); (w.dribble || len(r.parts) > 1) && leavesBytes(r.answer, method) { // bytes that come after the next request are its answer
						continue
					}
					result, conns := outcome(t, own(t), r, w, false)
					other, otherConns := outcome(t, standard(t), r, w, true)
					if w.name == "GET" {
						if all := fmt.Sprintf("%s x%d", result, conns); all != r.want {
							t.Errorf("%s: %s, want %s", w.name, all, r.want)
						}
						if all := fmt.Sprintf("%s x%d", other, otherConns); r.why != "" && all != r.standard {
							t.Errorf("%s: http.Transport: %s, want %s", w.name, all, r.standard)
						}
					}
					switch want, standard := outcomeText(r.want), outcomeText(r.standard); {
					case want == standard && result != other:
						t.Errorf("%s: %s, but http.Transport: %s", w.name, result, other)
					case want != standard && (result != want || other != standard): // in all ways
						t.Errorf("%s: %s, and http.Transport: %s; want %s, and %s", w.name, result, other, want, standard)
					}
					if r.why != "" {
						continue // one needs more connections
					}
					// A connection is not kept if a body was not sent in time, or
					// http.Transport has not noticed that it was. A busy machine
					// makes that so.
					if w.ask != "POST body" && otherConns > 0 && conns > otherConns {
						t.Errorf("%s: %d connections, but http.Transport: %d", w.name, conns, otherConns)
					}
				}
			})
		}
	})
	if *update {
		var b bytes.Buffer
		for _, line := range comment {
			b.WriteString(line)
		}
		for _, r := range rows {
			fmt.Fprintf(&b, "%s | %s", r.line, r.want)
			if r.want != r.standard && !strings.HasSuffix(r.standard, "x0") {
				fmt.Fprintf(&b, " | %s | %s", r.standard, r.why)
			}
			b.WriteString("\n")
		}
		if err := os.WriteFile("testdata/exchanges.txt", b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
