package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// TestFullDuplex has a program that answers each piece of a body before
// the next is sent.
func TestFullDuplex(t *testing.T) {
	addr := inFront(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		rc.Flush()
		b := make([]byte, 3)
		for {
			if _, err := io.ReadFull(r.Body, b); err != nil {
				return
			}
			w.Write(b)
			rc.Flush()
		}
	}, Config{})
	for _, tt := range []struct{ name, header, before, after, last string }{
		{"known length", "Content-Length: 9", "", "", ""},
		{"chunked", "Transfer-Encoding: chunked", "3\r\n", "\r\n", "0\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nc := wiretest.Connect(t, addr)
			io.WriteString(nc, "POST / HTTP/1.1\r\nHost: h\r\n"+tt.header+"\r\n\r\n"+tt.before+"one"+tt.after)
			res, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			if !res.Close {
				t.Error("the answer to half a request lets the connection be used again")
			}
			for i, want := range []string{"one", "two", "six"} {
				if i > 0 {
					io.WriteString(nc, tt.before+want+tt.after)
				}
				b := make([]byte, 3)
				if _, err := io.ReadFull(res.Body, b); string(b) != want || err != nil {
					t.Fatalf("got %q, %v, want %q", b, err, want)
				}
			}
			io.WriteString(nc, tt.last)
			if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
				t.Errorf("after the last piece: %q, %v, want the end", rest, err)
			}
		})
	}
}

// TestEarlyAnswer has a program that answers without having read a byte of
// the body, of which the client still sends all, before it reads.
func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	const size = 8 << 10
	program := rawProgram(t, func(nc net.Conn, done <-chan struct{}) {
		fmt.Fprintf(nc, "HTTP/1.1 413 Content Too Large\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size))
		<-done
	})
	addr := serve(t, newProxy(t, "http://"+program, Config{}), slowpeer.Config{Read: -1})
	for _, length := range []int{100 << 10, 8 << 20} {
		nc := wiretest.Connect(t, addr)
		io.WriteString(nc, fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", length))
		br := bufio.NewReader(nc)
		if _, err := br.Peek(1); err != nil {
			t.Fatalf("while nothing of the body is sent: %v, want the answer to begin", err)
		}
		io.Copy(nc, io.LimitReader(zeroes{}, int64(length)))
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Errorf("%d bytes: %v", length, err)
			continue
		}
		if b, err := io.ReadAll(res.Body); len(b) != size || err != nil || res.StatusCode != 413 || !res.Close {
			t.Errorf("%d bytes: the answer is %d, %d bytes, %v, close %v; want 413, %d, the end", length, res.StatusCode, len(b), err, res.Close, size)
		}
	}
}

// TestSilentBody has clients that fall silent in the middle of a body, of
// programs that answer all the same or die. They get their answer and are let
// go, also without a timeout.
func TestSilentBody(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		status       int
	}{
		{"answered", "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno", 413},
		{"died", "", 502},
	} {
		for _, body := range []string{"Content-Length: 1000\r\n\r\nsome", "Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n"} {
			t.Run(tt.name+" "+body[:7], func(t *testing.T) {
				t.Parallel()
				program := rawProgram(t, func(nc net.Conn, done <-chan struct{}) {
					if tt.answer != "" {
						io.WriteString(nc, tt.answer)
						<-done
					}
				})
				nc := wiretest.Connect(t, serve(t, newProxy(t, "http://"+program, Config{}), slowpeer.Config{Read: -1}))
				io.WriteString(nc, "POST / HTTP/1.1\r\nHost: h\r\n"+body)
				br := bufio.NewReader(nc)
				res, err := http.ReadResponse(br, nil)
				if err != nil {
					t.Fatal(err)
				}
				if io.Copy(io.Discard, res.Body); res.StatusCode != tt.status || !res.Close {
					t.Errorf("%d, close %v; want %d, the end", res.StatusCode, res.Close, tt.status)
				}
				if _, err := br.ReadByte(); err != io.EOF {
					t.Errorf("after the answer: %v, want the end", err)
				}
			})
		}
	}
}

// TestQuietBody has clients that pause in their bodies for as long as they
// are answered, which takes longer than they may otherwise be silent.
func TestQuietBody(t *testing.T) {
	const pieces = 12
	program := func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		some := make([]byte, 4) // a connection in memory buffers nothing
		io.ReadFull(r.Body, some)
		for range pieces {
			io.WriteString(w, "piece")
			rc.Flush()
			time.Sleep(2 * time.Second)
		}
		w.Write(some)
		io.Copy(w, r.Body)
	}
	for name, set := range map[string]func(*http.Protocols, bool){
		"HTTP1": (*http.Protocols).SetHTTP1, "h2c": (*http.Protocols).SetUnencryptedHTTP2,
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, program, time.Minute, func(t *testing.T, s *service) {
				protocols := new(http.Protocols)
				set(protocols, true)
				transport := &http.Transport{Protocols: protocols, DialContext: s.memory.DialContext}
				defer transport.CloseIdleConnections()
				body, more := io.Pipe()
				go io.WriteString(more, "some")
				res, err := (&http.Client{Transport: transport}).Post("http://h", "text/plain", body)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				want := strings.Repeat("piece", pieces)
				got := make([]byte, len(want))
				if n, err := io.ReadFull(res.Body, got); err != nil {
					t.Fatalf("got %q, %v, want %q", got[:n], err, want)
				}
				io.WriteString(more, "and more")
				more.Close()
				if rest, err := io.ReadAll(res.Body); string(rest) != "someand more" || err != nil {
					t.Errorf("the rest is %q, %v, want the body", rest, err)
				}
			})
		})
	}
}

// TestUnreadBody has no program to take the body: a small one does not
// cost the client its connection.
func TestUnreadBody(t *testing.T) {
	addr := serve(t, newProxy(t, "http://"+wiretest.Refusing, Config{Hold: -1}), slowpeer.Config{})
	nc := wiretest.Connect(t, addr)
	br := bufio.NewReader(nc)
	for range 3 {
		io.WriteString(nc, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody")
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if io.Copy(io.Discard, res.Body); res.StatusCode != http.StatusBadGateway || res.Close {
			t.Errorf("%d, close %v; want 502, and the connection kept", res.StatusCode, res.Close)
		}
	}
}

// zeroes are as many as are wanted.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }
