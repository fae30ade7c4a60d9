package drain_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"lastcall/internal/servetest"
)

// An http.Server whose TLSNextProto is nil fills it before Accept, and the
// entries heed the Shutdown of the server that filled the table. HTTP/2 calls
// ConnState with StateActive when it has registered a connection, so that a
// Shutdown from there sends GOAWAY to it, and sets no read deadline from then on,
// other than none. Without streams it is idle, and closed a second after GOAWAY.
// The connection of HTTP/2 without TLS is found by the method UnencryptedNetConn.
func TestAssumeHTTP2(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, overTLS bool) {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(overTLS)
		protocols.SetUnencryptedHTTP2(!overTLS)
		var config *tls.Config
		if overTLS {
			config = &tls.Config{Certificates: []tls.Certificate{certificate(t)}, NextProtos: []string{"h2", "http/1.1"}}
		}
		filler := &http.Server{Protocols: protocols, TLSConfig: config.Clone(), IdleTimeout: time.Hour, ReadTimeout: time.Hour}
		filled := false
		none := acceptFunc(func() (net.Conn, error) {
			filled = filler.TLSNextProto != nil
			return nil, io.EOF
		})
		if overTLS {
			filler.ServeTLS(none, "", "")
		} else {
			filler.Serve(none)
		}
		if !filled || filler.TLSNextProto == nil {
			t.Fatal("TLSNextProto is not filled before Accept")
		}

		table := make(map[string]func(*http.Server, *tls.Conn, http.Handler))
		for proto, serve := range filler.TLSNextProto {
			table[proto] = func(s *http.Server, tc *tls.Conn, h http.Handler) {
				u, ok := tc.NetConn().(interface{ UnencryptedNetConn() net.Conn })
				if ok == overTLS {
					t.Errorf("%s: has %T the method UnencryptedNetConn: %v", proto, tc.NetConn(), ok)
				} else if ok {
					if _, ok := u.UnencryptedNetConn().(noted); !ok {
						t.Errorf("%s: UnencryptedNetConn is %T, want the listener's", proto, u.UnencryptedNetConn())
					}
				}
				serve(s, tc, h)
			}
		}
		goAway := make(chan struct{})
		srv := &http.Server{Protocols: protocols, TLSConfig: config, TLSNextProto: table, IdleTimeout: time.Hour, ReadTimeout: time.Hour}
		srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, ok := w.(http.Hijacker); ok == (r.ProtoMajor == 2) {
				t.Errorf("a ResponseWriter of %s is a Hijacker: %v", r.Proto, ok)
			}
			io.WriteString(w, "hello")
		})
		var second sync.Once
		srv.ConnState = func(nc net.Conn, state http.ConnState) {
			if state == http.StateActive {
				select {
				case <-goAway:
					second.Do(func() { filler.Shutdown(context.Background()) })
				default:
				}
			}
		}
		s, d := bareServer(t, srv)

		// With streams it is active, without it is idle.
		nc := dial2(t, s, overTLS)
		if body, err := answer2(ask2(t, nc)); body != "hello" || err != nil {
			t.Fatalf("answer = %q, %v", body, err)
		}
		states := func() (list []string) {
			for _, e := range strings.Split(d.String(), ", ") {
				switch e {
				case "new", "active", "idle", "closed":
					list = append(list, e)
				}
			}
			return list
		}
		want := []string{"new", "active", "idle", "active", "idle"}
		servetest.WaitFor(t, "the states "+fmt.Sprint(want), func() bool { return slices.Equal(states(), want) })
		for _, e := range d.since("active", 1) {
			if strings.HasPrefix(e, "deadline") && e != "deadline none" {
				t.Errorf("a read deadline when HTTP/2 has begun: %v", d)
			}
		}
		nc.Close()
		d.waitFor(t, "closed")

		// A connection on which nothing was asked gets GOAWAY from the hook.
		close(goAway)
		at := time.Now()
		quiet := raw2(t, s, overTLS)
		types, err := frames(quiet)
		if took := time.Since(at); !bytes.Contains(types, []byte{goaway}) || took < 900*time.Millisecond || took > 15*time.Second {
			t.Errorf("frames of types %v until %v after %v, want GOAWAY (7), and the end a second later", types, err, took)
		}
	})
}

// acceptFunc is a listener.
type acceptFunc func() (net.Conn, error)

func (f acceptFunc) Accept() (net.Conn, error) { return f() }
func (f acceptFunc) Close() error              { return nil }
func (f acceptFunc) Addr() net.Addr            { return new(net.TCPAddr) }

// HTTP/2 turns "Connection: close" into GOAWAY.
func TestAssumeHTTP2ConnectionClose(t *testing.T) {
	t.Parallel()
	s, _ := bareServer(t, server2(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
	}))
	nc, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(15 * time.Second))
	fr := ask2(t, nc)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatalf("%v, want GOAWAY", err)
		}
		if _, ok := f.(*http2.GoAwayFrame); ok {
			return
		}
	}
}

// A client may open 250 streams at once.
func TestAssumeHTTP2Streams(t *testing.T) {
	t.Parallel()
	s, _ := bareServer(t, server2(t, false, func(http.ResponseWriter, *http.Request) {}))
	nc, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(15 * time.Second))
	f, err := ask2(t, nc).ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	settings, ok := f.(*http2.SettingsFrame)
	if !ok {
		t.Fatalf("the first frame is %v, want SETTINGS", f)
	}
	if n, _ := settings.Value(http2.SettingMaxConcurrentStreams); n != 250 {
		t.Errorf("SETTINGS_MAX_CONCURRENT_STREAMS = %d, want 250", n)
	}
}
