//go:build unix

package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

const limit = 10 * time.Second

// everyTransport runs f in a bubble of fake time, beside the program h, with
// each transport there is; its limit is limit.
func everyTransport(t *testing.T, h http.HandlerFunc, f func(t *testing.T, rt http.RoundTripper)) {
	for _, way := range []string{"Transport", "Standard", "h2c"} {
		t.Run(way, func(t *testing.T) { withTransport(t, way, h, f) })
	}
}

func withTransport(t *testing.T, way string, h http.HandlerFunc, f func(t *testing.T, rt http.RoundTripper)) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // until all have ended
		m := wiretest.NewMemory()
		program := &http.Server{Handler: h, Protocols: new(http.Protocols)}
		program.Protocols.SetHTTP1(true)
		program.Protocols.SetUnencryptedHTTP2(true)
		done := make(chan struct{})
		go func() {
			defer close(done)
			program.Serve(m)
		}()
		defer func() {
			program.Close()
			<-done
		}()
		dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := m.Dial()
			return slowpeer.LimitWrites(nc, limit, 1), err
		}
		if way == "Transport" {
			d := &transport{responseTimeout: limit, pool: pool{dial: func(ctx context.Context) (net.Conn, error) { return dial(ctx, "", "") }}}
			f(t, d)
			return
		}
		tr := &http.Transport{DialContext: dial, ResponseHeaderTimeout: limit, Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(way == "Standard")
		tr.Protocols.SetUnencryptedHTTP2(way == "h2c")
		s := newStandard(tr)
		defer s.CloseIdleConnections()
		f(t, s)
	})
}

// TestStall has programs that say nothing in the middle of an answer.
func TestStall(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header http.Header
		cut    bool
	}{
		{"chunked", nil, true},
		{"of known length", http.Header{"Content-Length": {"100"}}, true},
		{"JSON", http.Header{"Content-Type": {"application/json"}}, true},
		{"events", http.Header{"Content-Type": {"Text/Event-Stream; charset=utf-8"}}, false},
		{"gRPC", http.Header{"Content-Type": {"application/grpc"}}, false},
		{"gRPC with protobuf", http.Header{"Content-Type": {"application/grpc+proto"}}, false},
		{"not gRPC", http.Header{"Content-Type": {"application/grpc-web"}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			everyTransport(t, func(w http.ResponseWriter, r *http.Request) {
				for name, v := range tt.header {
					w.Header()[name] = v
				}
				for range 20 {
					io.WriteString(w, ".")
					http.NewResponseController(w).Flush()
					time.Sleep(limit - time.Second)
				}
				io.WriteString(w, ".")
				http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(time.Hour):
				}
				io.WriteString(w, "x")
			}, func(t *testing.T, rt http.RoundTripper) {
				r, _ := http.NewRequest("GET", "http://x/", nil)
				res, err := rt.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				b := make([]byte, 21)
				for i := range b {
					time.Sleep(2 * limit) // the client is slow, which is its right
					if _, err := io.ReadFull(res.Body, b[i:i+1]); err != nil {
						t.Fatalf("the answer ended after %d bytes with %v", i, err)
					}
				}
				start := time.Now()
				_, err = io.ReadFull(res.Body, b[:1])
				took := time.Since(start)
				if tt.cut && (!isTimeout(err) || took != limit) {
					t.Errorf("the answer ended with %v after %v, want a timeout after %v", err, took, limit)
				}
				if !tt.cut && err != nil {
					t.Errorf("the answer ended with %v after %v", err, took)
				}
			})
		})
	}
}

// TestStallBesideUpload has a program that answers nothing while the client
// sends, which goes on for long.
func TestStallBesideUpload(t *testing.T) {
	everyTransport(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		io.WriteString(w, "so ")
		http.NewResponseController(w).Flush()
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}, func(t *testing.T, rt http.RoundTripper) {
		body, more := io.Pipe()
		r, _ := http.NewRequest("POST", "http://x/", body)
		go func() {
			defer more.Close()
			for range 20 {
				io.WriteString(more, "0123456789")
				time.Sleep(limit - time.Second)
			}
		}()
		res, err := rt.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); string(b) != "so 200" || !isTimeout(err) {
			t.Errorf("the answer is %q, %v, want all, and then a timeout", b, err)
		}
	})
}

// TestStallUpload has a program that does not open the window of a stream, and
// does not answer. Over HTTP/1.1 the connection has a limit for that.
func TestStallUpload(t *testing.T) {
	withTransport(t, "h2c", func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	}, func(t *testing.T, rt http.RoundTripper) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		r, _ := http.NewRequestWithContext(ctx, "POST", "http://x/", io.LimitReader(endless{}, 1<<30))
		start := time.Now()
		_, err := rt.RoundTrip(r)
		if took := time.Since(start); !isTimeout(err) || took > 2*limit {
			t.Errorf("ended with %v after %v, want a timeout after %v", err, took, limit)
		}
	})
}

// TestSlowClient has a client that sends nothing for a long time in the middle of
// its request, which is not the program's fault.
func TestSlowClient(t *testing.T) {
	everyTransport(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}, func(t *testing.T, rt http.RoundTripper) {
		body, more := io.Pipe()
		go func() {
			io.WriteString(more, "some ")
			time.Sleep(20 * limit)
			io.WriteString(more, "and more")
			more.Close()
		}()
		r, _ := http.NewRequest("POST", "http://x/", body)
		res, err := rt.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); string(b) != "some and more" || err != nil {
			t.Errorf("the answer is %q, %v", b, err)
		}
	})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestSilentHTTP2 has a program over HTTP/2 on whose first connection nothing
// comes any more after one answer. One request may be lost to that.
func TestSilentHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Hour)
		made := 0
		tr := &http.Transport{ResponseHeaderTimeout: limit, Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
		tr.DialContext = func(context.Context, string, string) (net.Conn, error) {
			nc, program := net.Pipe()
			first := made == 0
			made++
			go func() {
				defer program.Close()
				io.ReadFull(program, make([]byte, len(http2.ClientPreface)))
				f := http2.NewFramer(program, program)
				f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
				writes := make(chan func() error, 100) // a write to a pipe waits for the reader
				defer close(writes)
				go func() {
					for write := range writes {
						write()
					}
				}()
				writes <- func() error { return f.WriteSettings() }
				for silent := false; ; {
					frame, err := f.ReadFrame()
					if err != nil {
						return
					}
					if silent {
						continue
					}
					switch frame := frame.(type) {
					case *http2.PingFrame:
						data := frame.Data
						if !frame.IsAck() {
							writes <- func() error { return f.WritePing(true, data) }
						}
					case *http2.MetaHeadersFrame:
						var header bytes.Buffer
						hpack.NewEncoder(&header).WriteField(hpack.HeaderField{Name: ":status", Value: "204"})
						answer := http2.HeadersFrameParam{StreamID: frame.StreamID, BlockFragment: header.Bytes(), EndStream: true, EndHeaders: true}
						writes <- func() error { return f.WriteHeaders(answer) }
						silent = first
					}
				}
			}()
			return nc, nil
		}
		s := newStandard(tr)
		defer s.CloseIdleConnections()
		var errs []error
		for i := range 20 {
			r, _ := http.NewRequest("POST", "http://x/", nil)
			res, err := s.RoundTrip(r)
			if err == nil {
				res.Body.Close()
			} else {
				errs = append(errs, fmt.Errorf("request %d: %w", i, err))
			}
			time.Sleep(time.Second)
		}
		if len(errs) > 1 || made != 2 {
			t.Errorf("on %d connections %d of 20 requests were lost:\n%v", made, len(errs), errors.Join(errs...))
		}
	})
}
