package load

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReadAnswer(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	tests := []struct {
		name, text string
		method     string // GET
		status     int    // 0: an error
		close      bool
		body, echo string
		left       string // not read
		eof        bool   // the error is that of an early end
	}{
		{name: "length", text: ok + "Content-Length: 3\r\n\r\nabcHTTP", status: 200, body: "abc", left: "HTTP"},
		{name: "no reason", text: "HTTP/1.1 201\r\nContent-Length: 0\r\n\r\n", status: 201},
		{name: "empty reason", text: "HTTP/1.1 201 \r\nContent-Length: 0\r\n\r\n", status: 201},
		{name: "twice the same length", text: ok + "content-length: 1\r\nCONTENT-LENGTH:1\r\n\r\na", status: 200, body: "a"},
		{name: "chunks", text: ok + "Transfer-Encoding: Chunked\r\n\r\n1\r\na\r\nA;x=y\r\n0123456789\r\n0\r\nT: v\r\n\r\nrest", status: 200, body: "a0123456789", left: "rest"},
		{name: "close", text: ok + "Connection: keep-alive, Close\r\nContent-Length: 0\r\n\r\n", status: 200, close: true},
		{name: "until the end", text: ok + "\r\nabc", status: 200, close: true, body: "abc"},
		{name: "HTTP/1.0", text: "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200, close: true},
		{name: "HTTP/1.0 keep-alive", text: "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", status: 200},
		{name: "interim", text: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-Echo: no\r\nConnection: close\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n", status: 200},
		{name: "HEAD", method: "HEAD", text: ok + "Content-Length: 3\r\n\r\n", status: 200},
		{name: "204", text: "HTTP/1.1 204 No Content\r\n\r\n", status: 204},
		{name: "304", text: "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", status: 304},
		{name: "echo", text: ok + "x-eCHO:\t me \r\nContent-Length: 0\r\n\r\n", status: 200, echo: "me"},

		{name: "nothing", eof: true},
		{name: "half a status line", text: "HTTP/1.1 20", eof: true},
		{name: "no empty line", text: ok + "Content-Length: 0\r\n", eof: true},
		{name: "short body", text: ok + "Content-Length: 3\r\n\r\nab", eof: true},
		{name: "short chunk", text: ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nab", eof: true},
		{name: "no last chunk", text: ok + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", eof: true},
		{name: "HTTP/2", text: "HTTP/2.0 200 OK\r\n\r\n"},
		{name: "not a number", text: "HTTP/1.1 2xx OK\r\n\r\n"},
		{name: "600", text: "HTTP/1.1 600 OK\r\n\r\n"},
		{name: "four digits", text: "HTTP/1.1 2000 OK\r\n\r\n"},
		{name: "101", text: "HTTP/1.1 101 Switching Protocols\r\n\r\n"},
		{name: "LF", text: "HTTP/1.1 200 OK\nContent-Length: 0\n\n"},
		{name: "negative length", text: ok + "Content-Length: -1\r\n\r\n"},
		{name: "signed length", text: ok + "Content-Length: +1\r\n\r\na"},
		{name: "two lengths", text: ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"},
		{name: "length and chunks", text: ok + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{name: "gzip", text: ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
		{name: "chunk too long", text: ok + "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n"},
		{name: "chunk size", text: ok + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n"},
		{name: "trailer", text: ok + "Transfer-Encoding: chunked\r\n\r\n0\r\nno colon\r\n\r\n"},
		{name: "space before colon", text: ok + "Content-Length : 0\r\n\r\n"},
		{name: "folded", text: ok + "X: a\r\n b: c\r\n\r\n"},
		{name: "endless line", text: ok + "X: " + strings.Repeat("x", 2*maxLine)},
		{name: "endless header", text: ok + strings.Repeat("X: "+strings.Repeat("x", 1000)+"\r\n", 2000)},
	}
	for _, test := range tests {
		for how, wrap := range map[string]func(io.Reader) io.Reader{
			"whole":   func(r io.Reader) io.Reader { return r },
			"by byte": iotest.OneByteReader,
		} {
			t.Run(test.name+" "+how, func(t *testing.T) {
				src := strings.NewReader(test.text)
				a := &answerReader{src: wrap(src), echoName: []byte("X-Echo"), keepBody: true}
				ans, err := a.read(test.method == "HEAD")
				if test.status == 0 {
					if test.eof != errors.Is(err, io.EOF) || test.eof == errors.Is(err, errMalformed) {
						t.Fatalf("read = %+v, %v; want an error, at an early end %v", ans, err, test.eof)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				left, _ := io.ReadAll(src)
				if got := string(a.buf[a.pos:a.end]) + string(left); got != test.left {
					t.Errorf("left %q, want %q", got, test.left)
				}
				if ans.status != test.status || ans.close != test.close || string(ans.body) != test.body || string(ans.echo) != test.echo {
					t.Errorf("read = %d, close %v, body %q, echo %q; want %d, %v, %q, %q",
						ans.status, ans.close, ans.body, ans.echo, test.status, test.close, test.body, test.echo)
				}
			})
		}
	}
}

// FuzzReadAnswer: what this reader takes for a whole answer, net/http does too.
func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nT: v\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\n\r\nabc"))
	f.Fuzz(func(t *testing.T, text []byte) {
		a := &answerReader{src: bytes.NewReader(text), keepBody: true}
		ans, err := a.read(false)
		if err != nil {
			return
		}
		br := bufio.NewReader(bytes.NewReader(text))
		for {
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Skip() // it knows of more that can be wrong with a header
			}
			if resp.StatusCode < 200 {
				continue
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatalf("net/http reads the body: %v; the reader %d, %q", err, ans.status, ans.body)
			}
			body = body[:min(len(body), keepBody)]
			if resp.StatusCode != ans.status || !bytes.Equal(body, ans.body) {
				t.Fatalf("net/http reads %d, %q; the reader %d, %q", resp.StatusCode, body, ans.status, ans.body)
			}
			return
		}
	})
}

func TestIDs(t *testing.T) {
	for id, ok := range map[string]bool{
		"run-0-1-2": true, "run-12-345-678901": true,
		"": false, "run": false, "run-": false, "run-1-2": false, "run-1-2-3-4": false, "nur-1-2-3": false,
		"run-1-2-": false, "run-1-2-x": false, "run-1-2--3": false, "run-1-2-03": false,
	} {
		g, c, s, got := parseID("run", id)
		if got != ok || ok && string(appendID(nil, "run", g, c, s)) != id {
			t.Errorf("parseID(%q) = %d, %d, %d, %v; want %v and the same again", id, g, c, s, got, ok)
		}
	}
	for text, ok := range map[string]bool{
		"run-0-0-1": true, "id=run-0-0-1\n": true, "run-0-0-10 run-0-0-1": true,
		"": false, "run-0-0-10": false, "run-0-0-": false,
	} {
		if got := hasID([]byte(text), []byte("run-0-0-1")); got != ok {
			t.Errorf("hasID(%q) = %v, want %v", text, got, ok)
		}
	}
}
