package slowpeer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

// short is a timeout on real sockets. What must be slower or faster differs by a
// factor that a busy machine does not use up.
const short = 400 * time.Millisecond

func ExampleHandler() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	upload := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		fmt.Println("stalled:", errors.Is(err, os.ErrDeadlineExceeded))
	})
	cfg := Config{Read: 50 * time.Millisecond}
	s := &http.Server{Handler: Handler(upload, cfg)}
	done := make(chan error)
	go func() { done <- s.Serve(Listener(l, cfg)) }()

	nc, _ := net.Dial("tcp", l.Addr().String())
	io.WriteString(nc, "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1000\r\n\r\nand no more")
	io.Copy(io.Discard, nc) // until the server lets go
	nc.Close()
	s.Close()
	<-done
	// Output: stalled: true
}

func ExampleListener() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	l = Listener(l, Config{Write: 50 * time.Millisecond})
	client, err := net.Dial("tcp", l.Addr().String()) // reads nothing
	if err != nil {
		fmt.Println(err)
		return
	}
	nc, err := l.Accept()
	if err != nil {
		fmt.Println(err)
		return
	}
	for err == nil {
		_, err = nc.Write(make([]byte, 1<<20))
	}
	fmt.Println("stalled:", errors.Is(err, os.ErrDeadlineExceeded))
	nc.Close()
	client.Close()
	l.Close()
	// Output: stalled: true
}

// sendRequest connects with a small receive buffer, and sends the text of a request.
func sendRequest(t *testing.T, addr, text string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.(*net.TCPConn).SetReadBuffer(16 << 10)
	if _, err := io.WriteString(nc, text); err != nil {
		t.Fatal(err)
	}
	return nc
}

// paced reads size bytes every interval.
type paced struct {
	r     io.Reader
	size  int
	every time.Duration
}

func (p paced) Read(b []byte) (int, error) {
	time.Sleep(p.every)
	return p.r.Read(b[:min(p.size, len(b))])
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8) ^ byte(i*7)
	}
	return b
}

// sender serves body in the way that is named, and says what came of it.
func sender(t *testing.T, way string, body []byte) (http.Handler, <-chan error) {
	result := make(chan error, 1)
	name := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(name, body, 0o600); err != nil {
		t.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		var err error
		switch way {
		case "write":
			_, err = w.Write(body)
		case "copy":
			_, err = io.Copy(w, struct{ io.Reader }{bytes.NewReader(body)})
		case "sendfile":
			var f *os.File
			if f, err = os.Open(name); err == nil {
				_, err = io.Copy(w, f)
				f.Close()
			}
		}
		result <- err
	}), result
}

var ways = []string{"write", "copy", "sendfile"}

func TestStalledReader(t *testing.T) {
	t.Parallel()
	body := pattern(32 << 20)
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			h, result := sender(t, way, body)
			addr := serve(t, h, Config{Write: short})
			start := time.Now()
			sendRequest(t, addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if err := wiretest.Wait(t, result, "the handler"); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the handler got %v, want %v", err, os.ErrDeadlineExceeded)
			}
			if took := time.Since(start); took < short/2 || took > wiretest.Patience {
				t.Errorf("cut after %v, want about %v", took, short)
			}
		})
	}
}

// TestTrickleReader reads 100 bytes a second.
func TestTrickleReader(t *testing.T) {
	inMemory(t, func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		_, err := w.Write(pattern(32 << 20))
		if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took > 3*short/2 {
			t.Errorf("the handler got %v after %v, want %v after about %v", err, took, os.ErrDeadlineExceeded, short)
		}
	}, Config{Write: short}, func(t *testing.T, m *wiretest.Memory) {
		io.Copy(io.Discard, paced{dialMemory(t, m, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"), 1, 10 * time.Millisecond})
	})
}

// TestSilentHandler has nothing to write for several timeouts: it is the
// program that is silent, not the client.
func TestSilentHandler(t *testing.T) {
	inMemory(t, func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
			time.Sleep(time.Hour)
			if err := r.Context().Err(); err != nil {
				t.Errorf("context: %v", err)
			}
		}
	}, Config{}, func(t *testing.T, m *wiretest.Memory) {
		resp, err := http.ReadResponse(bufio.NewReader(dialMemory(t, m, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if want := "data: 0\n\ndata: 1\n\ndata: 2\n\n"; string(got) != want || err != nil {
			t.Errorf("body = %q, %v, want %q", got, err, want)
		}
	})
}

func TestUpload(t *testing.T) {
	cfg := Config{Read: short}
	tests := []struct {
		name  string
		size  int // of a part
		every time.Duration
		parts int
		then  bool // the upload ends there; else it stalls
		whole bool // it arrives
	}{
		{"at once", 100_000, 0, 1, true, true},
		{"slowly", 1000, short / 10, 60, true, true},
		{"stalls at the start", 0, 0, 0, false, false},
		{"stalls", 1000, short / 10, 5, false, false},
		{"trickles", 1, short / 20, 1000, true, false},
	}
	for _, tt := range tests {
		for _, framing := range []string{"length", "chunked"} {
			t.Run(tt.name+"/"+framing, func(t *testing.T) {
				type read struct {
					n   int64
					err error
				}
				var result chan read
				upload := func(w http.ResponseWriter, r *http.Request) {
					n, err := io.Copy(io.Discard, r.Body)
					result <- read{n, err}
				}
				inMemory(t, upload, cfg, func(t *testing.T, m *wiretest.Memory) {
					result = make(chan read, 1)
					length := tt.size * tt.parts
					if !tt.then {
						length++
					}
					head := fmt.Sprintf("Content-Length: %d", length)
					if framing == "chunked" {
						head = "Transfer-Encoding: chunked"
					}
					nc := dialMemory(t, m, "POST / HTTP/1.1\r\nHost: x\r\n"+head+"\r\n\r\n")
					part := strings.Repeat("x", tt.size)
					if framing == "chunked" {
						part = fmt.Sprintf("%x\r\n%s\r\n", tt.size, part)
					}
					cut := make(chan struct{})
					defer func() { <-cut }()
					go func() {
						defer close(cut)
						for range tt.parts {
							if _, err := io.WriteString(nc, part); err != nil {
								return
							}
							time.Sleep(tt.every)
						}
						if tt.then && framing == "chunked" {
							io.WriteString(nc, "0\r\n\r\n")
						}
					}()
					start := time.Now()
					got := <-result
					took := time.Since(start)
					if tt.whole && (got.err != nil || got.n != int64(length)) {
						t.Errorf("read %d bytes, %v after %v, want %d", got.n, got.err, took, length)
					}
					if tt.whole {
						return
					}
					if !errors.Is(got.err, os.ErrDeadlineExceeded) || took > 3*short {
						t.Errorf("read %d bytes, %v after %v, want %v after about %v", got.n, got.err, took, os.ErrDeadlineExceeded, short)
					}
					nc.SetReadDeadline(time.Now().Add(10 * time.Second))
					if _, err := io.Copy(io.Discard, nc); errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("the connection was not closed")
					}
				})
			})
		}
	}
}

// TestUnreadBody has handlers that answer without reading the body, which
// net/http then discards by itself: before it sends the header.
func TestUnreadBody(t *testing.T) {
	cfg := Config{Read: short}
	for _, size := range []int{10, 100_000} { // one that is sent when the handler has returned, one before
		for _, body := range []string{"none of it", "some of it", "all of it"} {
			t.Run(fmt.Sprint(size, body), func(t *testing.T) {
				answer := func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(2 * short) // takes longer than any deadline that was set before
					w.Write(make([]byte, size))
					if size > 10 {
						time.Sleep(2 * short)
					}
					if err := r.Context().Err(); err != nil && body == "all of it" {
						t.Errorf("context: %v", err)
					}
				}
				inMemory(t, answer, cfg, func(t *testing.T, m *wiretest.Memory) {
					sent := map[string]int{"none of it": 0, "some of it": 500, "all of it": 1000}[body]
					nc := dialMemory(t, m, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"+strings.Repeat("x", sent))
					nc.SetReadDeadline(time.Now().Add(20 * time.Second))
					br := bufio.NewReader(nc)
					resp, err := http.ReadResponse(br, nil)
					if err != nil {
						t.Fatal(err)
					}
					if n, err := io.Copy(io.Discard, resp.Body); n != int64(size) || err != nil {
						t.Errorf("answer of %d bytes, %v, want %d", n, err, size)
					}
					if resp.Close != (sent < 1000) {
						t.Errorf("Connection: close = %v, want %v", resp.Close, sent < 1000)
					}
					if resp.Close {
						return
					}
					// No deadline is left behind for the pause, or the next request.
					time.Sleep(2 * short)
					io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					if resp, err = http.ReadResponse(br, nil); err != nil {
						t.Fatalf("next request: %v", err)
					}
					if n, err := io.Copy(io.Discard, resp.Body); n != int64(size) || err != nil {
						t.Errorf("next answer of %d bytes, %v, want %d", n, err, size)
					}
				})
			})
		}
	}
}

// TestSlowHandler takes longer than all timeouts, and is left alone.
func TestSlowHandler(t *testing.T) {
	for _, first := range []bool{true, false} {
		inMemory(t, func(w http.ResponseWriter, r *http.Request) {
			if first {
				io.Copy(io.Discard, r.Body)
			}
			select {
			case <-r.Context().Done():
				t.Errorf("context: %v", context.Cause(r.Context()))
			case <-time.After(time.Hour):
			}
			n, err := io.Copy(w, r.Body)
			if want := map[bool]int64{false: 4}[first]; n != want || err != nil {
				t.Errorf("read %d, %v, want %d", n, err, want)
			}
		}, Config{}, func(t *testing.T, m *wiretest.Memory) {
			transport := &http.Transport{DialContext: m.DialContext}
			defer transport.CloseIdleConnections()
			resp, err := (&http.Client{Transport: transport}).Post("http://x", "text/plain", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		})
	}
}

func TestExpectContinue(t *testing.T) {
	cfg := Config{Read: short}
	for _, reads := range []bool{true, false} {
		t.Run(fmt.Sprint("handler reads ", reads), func(t *testing.T) {
			inMemory(t, func(w http.ResponseWriter, r *http.Request) {
				if reads {
					io.Copy(w, r.Body)
				} else {
					w.WriteHeader(http.StatusForbidden)
				}
			}, cfg, func(t *testing.T, m *wiretest.Memory) {
				nc := dialMemory(t, m, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
				nc.SetReadDeadline(time.Now().Add(10 * time.Second))
				br := bufio.NewReader(nc)
				start := time.Now()
				resp, err := http.ReadResponse(br, nil)
				if err != nil {
					t.Fatal(err)
				}
				if !reads {
					if resp.StatusCode != http.StatusForbidden || time.Since(start) > 0 {
						t.Errorf("status = %d after %v, want 403 at once", resp.StatusCode, time.Since(start))
					}
					return
				}
				if resp.StatusCode != http.StatusContinue {
					t.Fatalf("status = %d, want 100", resp.StatusCode)
				}
				io.WriteString(nc, "body")
				if resp, err = http.ReadResponse(br, nil); err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(resp.Body); string(got) != "body" || err != nil {
					t.Errorf("answer = %q, %v, want body", got, err)
				}
			})
		})
	}
}

// TestWriteDeadline sets one, which progress does not renew, and takes it back.
func TestWriteDeadline(t *testing.T) {
	inMemory(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.SetWriteDeadline(time.Now().Add(-time.Second))
		rc.SetWriteDeadline(time.Time{})
		w.Write(make([]byte, 1<<10))
		if err := rc.Flush(); err != nil {
			t.Errorf("flush without a deadline: %v", err)
		}
		start := time.Now()
		rc.SetWriteDeadline(start.Add(short))
		_, err := w.Write(make([]byte, 64<<20))
		if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != short {
			t.Errorf("the handler got %v after %v, want %v after %v", err, took, os.ErrDeadlineExceeded, short)
		}
	}, Config{Write: time.Minute}, func(t *testing.T, m *wiretest.Memory) {
		io.Copy(io.Discard, paced{dialMemory(t, m, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"), 16 << 10, 5 * time.Millisecond})
	})
}

func TestTimeoutNone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := Listener(l, Config{Read: -1, Write: -1}); got != l {
		t.Errorf("Listener without limits = %T, want the listener itself", got)
	}
	for _, cfg := range []Config{{Read: -1, Write: wiretest.Patience}, {Read: wiretest.Patience, Write: -1}} {
		result := make(chan error, 1)
		addr := serve(t, Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(w, r.Body)
			result <- err
		}), cfg), cfg)
		sendRequest(t, addr, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
		if err := wiretest.Wait(t, result, "the handler"); err != nil {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
