package load

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"lastcall/internal/wiretest"
)

// httpServer is a perfect one, without and with TLS, which speaks HTTP/1 and
// HTTP/2.
func httpServer(t testing.TB, s *served) (plain, encrypted *httptest.Server) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil || n != r.ContentLength {
			return
		}
		id := r.Header.Get("X-Request-Id")
		s.add(id)
		w.Header().Set("X-Echo", id)
		fmt.Fprint(w, id)
	})
	plain, encrypted = httptest.NewUnstartedServer(h), httptest.NewUnstartedServer(h)
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetHTTP1(true)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	t.Cleanup(plain.Close)
	encrypted.EnableHTTP2 = true
	encrypted.StartTLS()
	t.Cleanup(encrypted.Close)
	return plain, encrypted
}

func TestHTTP2LosesNothing(t *testing.T) {
	t.Parallel()
	var s served
	plain, encrypted := httpServer(t, &s)
	tls := encrypted.Client().Transport.(*http.Transport).TLSClientConfig
	l := start(t, Config{Addr: plain.Listener.Addr().String(), EchoHeader: "X-Echo", EchoBody: true, Groups: []Group{
		{Name: "h2c", Kind: HTTP2, N: 3, Streams: 8, Requests: 20, Body: 100},
		{Name: "TLS", Kind: HTTP2, N: 3, Streams: 8, Requests: 20, Addr: encrypted.Listener.Addr().String(), TLS: tls, Method: "POST"},
		{Name: "large", Kind: HTTP2, N: 2, Streams: 4, Requests: 3, Body: 3 << 20}, // beyond all windows
		{Name: "slow", Kind: HTTP2, Streams: 4, Requests: 2, Body: 1 << 20, BodyTime: 100 * time.Millisecond},
		{Name: "HEAD", Kind: HTTP2, Requests: 2, Method: "OPTIONS"},
	}})
	led := l.Wait()
	wantCounts(t, led, led.Row("h2c"), Counts{Clients: 24, Requests: 480, Answered: 480, Conns: 3})
	wantCounts(t, led, led.Row("TLS"), Counts{Clients: 24, Requests: 480, Answered: 480, Conns: 3})
	wantCounts(t, led, led.Row("large"), Counts{Clients: 8, Requests: 24, Answered: 24, Conns: 2})
	wantCounts(t, led, led.Row("slow"), Counts{Clients: 4, Requests: 8, Answered: 8, Conns: 1})
	if got := led.Row("slow").Slowest; got < 100*time.Millisecond {
		t.Errorf("slowest answer to a body of 100 ms took %v", got)
	}
	got := led.Compare(slices.Values(s.all()))
	if got.Count != led.Total.Requests || got.Foreign != 0 || len(got.Unanswered)+len(got.Unserved)+len(got.Twice) > 0 {
		t.Errorf("Compare(served) = %+v, want %d served and nothing else", got, led.Total.Requests)
	}
}

// server2 is a server's side of an HTTP/2 connection, by hand.
type server2 struct {
	*serverConn
	fr   *http2.Framer
	enc  *hpack.Encoder
	head bytes.Buffer
	ids  map[uint32]string // of requests, by stream
}

// newServer2 is for a connection whose preface has been read.
func newServer2(w io.Writer, r io.Reader) *server2 {
	s := &server2{fr: http2.NewFramer(w, r), ids: map[uint32]string{}}
	s.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	s.enc = hpack.NewEncoder(&s.head)
	return s
}

// http2Server calls serve for each connection, once the preface has been read.
func http2Server(t testing.TB, serve func(c *server2), settings ...http2.Setting) (addr string) {
	return rawServer(t, func(c *serverConn) {
		if _, err := io.ReadFull(c.r, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		s := newServer2(c.TCPConn, c.r)
		s.serverConn = c
		s.fr.WriteSettings(settings...)
		serve(s)
		// To close with something unread, such as the client's ack of the
		// settings, is to reset.
		c.CloseWrite()
		io.Copy(io.Discard, c.r)
	})
}

// memoryHTTP2Server is http2Server without sockets, for bubbles of synctest: it calls
// serve for each request. It reads on meanwhile, as a write in memory waits until it is
// read.
func memoryHTTP2Server(t testing.TB, serve func(c *server2, stream uint32)) func(context.Context, int) (net.Conn, error) {
	return memoryServer(t, func(nc net.Conn) {
		if _, err := io.ReadFull(nc, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		s := newServer2(nc, nc)
		streams := make(chan uint32, 100)
		var writer sync.WaitGroup
		defer writer.Wait()
		defer close(streams)
		writer.Go(func() {
			s.fr.WriteSettings()
			for stream := range streams {
				serve(s, stream)
			}
		})
		for {
			stream, _, ok := s.request()
			if !ok {
				return
			}
			streams <- stream
		}
	})
}

// request reads on to the next whole request.
func (s *server2) request() (stream uint32, id string, ok bool) {
	for {
		f, err := s.fr.ReadFrame()
		if err != nil {
			return 0, "", false
		}
		ended := false
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			for _, h := range f.RegularFields() {
				if h.Name == "x-request-id" {
					s.ids[f.StreamID] = h.Value
				}
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			ended = f.StreamEnded()
		}
		if ended {
			return f.Header().StreamID, s.ids[f.Header().StreamID], true
		}
	}
}

func (s *server2) header(stream uint32, end bool, fields ...string) {
	s.head.Reset()
	for i := 0; i < len(fields); i += 2 {
		s.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	s.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: s.head.Bytes(), EndHeaders: true, EndStream: end})
}

func (s *server2) answer(stream uint32, id string) {
	s.header(stream, false, ":status", "200", "x-echo", id)
	s.fr.WriteData(stream, true, []byte(id))
}

// wait reads what comes, to the connection's end.
func (s *server2) wait() {
	for ok := true; ok; {
		_, _, ok = s.request()
	}
}

// Each connection gives three answers; what happens to the fourth stream is the
// case. Each client makes 20 requests: 15 are answered, 5 not.
func TestHTTP2ServersThatLoseEveryFourthStream(t *testing.T) {
	t.Parallel()
	good := Counts{Clients: 4, Requests: 80, Answered: 80}
	lost := Counts{Clients: 4, Requests: 80, Answered: 60, Lost: 20}
	safe := Counts{Clients: 4, Requests: 80, Answered: 60, SafeToRetry: 20}
	wrong := Counts{Clients: 4, Requests: 80, Answered: 60, WrongAnswer: 20}
	tests := []struct {
		name  string
		fault func(c *server2, stream uint32, id string)
		want  Counts
		how   How
		bytes int64
	}{
		{"reset", func(c *server2, _ uint32, _ string) { c.reset() }, lost, RST, 0},
		{"FIN", func(*server2, uint32, string) {}, lost, FIN, 0},
		{"stream refused", func(c *server2, stream uint32, _ string) {
			c.fr.WriteGoAway(stream, 0, nil)
			c.fr.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
			c.wait()
		}, safe, 0, 0},
		{"stream reset", func(c *server2, stream uint32, _ string) {
			c.fr.WriteGoAway(stream, 0, nil)
			c.fr.WriteRSTStream(stream, http2.ErrCodeInternal)
			c.wait()
		}, lost, StreamReset, 0},
		{"GOAWAY below it", func(c *server2, stream uint32, _ string) {
			c.fr.WriteGoAway(stream-2, 0, nil)
		}, safe, 0, 0},
		{"GOAWAY below it, with an error", func(c *server2, stream uint32, _ string) {
			c.fr.WriteGoAway(stream-2, http2.ErrCodeEnhanceYourCalm, []byte("calm"))
		}, safe, 0, 0},
		{"GOAWAY at it, then FIN", func(c *server2, stream uint32, _ string) {
			c.fr.WriteGoAway(stream, 0, nil)
		}, lost, FIN, 0},
		{"GOAWAY in two steps, below it", func(c *server2, stream uint32, _ string) {
			c.fr.WriteGoAway(1<<31-1, 0, nil)
			c.fr.WriteGoAway(stream-2, 0, nil)
		}, safe, 0, 0},
		{"GOAWAY first, then FIN", func(c *server2, stream uint32, _ string) {
			c.fr.WriteGoAway(1<<31-1, 0, nil)
		}, lost, FIN, 0},
		{"GOAWAY, then the answer", func(c *server2, stream uint32, id string) {
			c.fr.WriteGoAway(1<<31-1, 0, nil)
			c.fr.WriteGoAway(stream, 0, nil)
			c.answer(stream, id)
			c.wait() // the client closes
		}, good, 0, 0},
		{"interim, answer, trailers", func(c *server2, stream uint32, id string) {
			c.fr.WriteGoAway(stream, 0, nil)
			c.header(stream, false, ":status", "103", "x-echo", "no")
			c.header(stream, false, ":status", "200", "x-echo", id, "content-length", "3")
			c.fr.WriteData(stream, false, []byte("abc"))
			c.header(stream, true, "t", "v")
			c.wait()
		}, good, 0, 0},
		{"half an answer", func(c *server2, stream uint32, id string) {
			c.header(stream, false, ":status", "200", "x-echo", id)
			c.fr.WriteData(stream, false, []byte("abc"))
		}, lost, FIN, 3},
		{"half an answer, then disowned", func(c *server2, stream uint32, id string) {
			c.header(stream, false, ":status", "200", "x-echo", id)
			c.fr.WriteData(stream, false, []byte("abc"))
			c.fr.WriteGoAway(stream-2, 0, nil)
			c.wait()
		}, lost, StreamReset, 3},
		{"half an answer, then refused", func(c *server2, stream uint32, id string) {
			c.fr.WriteGoAway(stream, 0, nil)
			c.header(stream, false, ":status", "200", "x-echo", id)
			c.fr.WriteData(stream, false, []byte("abc"))
			c.fr.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
			c.wait()
		}, lost, StreamReset, 3},
		{"content-length without a body", func(c *server2, stream uint32, id string) {
			c.fr.WriteGoAway(stream, 0, nil)
			c.header(stream, true, ":status", "200", "x-echo", id, "content-length", "4")
		}, lost, Malformed, 0},
		{"malformed after GOAWAY", func(c *server2, stream uint32, id string) {
			c.fr.WriteGoAway(stream, 0, nil)
			c.header(stream, true, ":status", "200", "X-Echo", id)
			c.wait() // the client closes
		}, lost, Malformed, 0},
		{"content-length too large", func(c *server2, stream uint32, id string) {
			c.fr.WriteGoAway(stream, 0, nil) // or the next may be sent into the FIN
			c.header(stream, false, ":status", "200", "x-echo", id, "content-length", "4")
			c.fr.WriteData(stream, true, []byte("abc"))
		}, lost, Malformed, 3},
		{"no status", func(c *server2, stream uint32, id string) {
			c.fr.WriteGoAway(stream, 0, nil)
			c.header(stream, true, "x-echo", id)
		}, lost, Malformed, 0},
		{"interim only", func(c *server2, stream uint32, id string) {
			c.fr.WriteGoAway(stream, 0, nil)
			c.header(stream, true, ":status", "103")
		}, lost, Malformed, 0},
		{"not HTTP/2", func(c *server2, _ uint32, _ string) { fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, lost, Malformed, 0},
		{"another's answer", func(c *server2, stream uint32, _ string) {
			c.fr.WriteGoAway(stream, 0, nil)
			c.answer(stream, "run-9-9-9")
		}, wrong, Malformed, 9},
		{"error status without ID", func(c *server2, stream uint32, _ string) {
			c.fr.WriteGoAway(stream, 0, nil)
			c.header(stream, true, ":status", "503")
		}, Counts{Clients: 4, Requests: 80, Answered: 60, ErrorStatus: 20}, 0, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			addr := http2Server(t, func(c *server2) {
				for i := 0; ; i++ {
					stream, id, ok := c.request()
					if !ok {
						return
					}
					if i == 3 {
						test.fault(c, stream, id)
						return
					}
					c.answer(stream, id)
				}
			})
			l := start(t, Config{Addr: addr, EchoHeader: "X-Echo", Groups: []Group{{Kind: HTTP2, N: 4, Requests: 20, Body: 10}}})
			led := l.Wait()
			wantCounts(t, led, led.Total, test.want)
			if want := test.want.Lost + test.want.WrongAnswer; len(led.Losses) != want {
				t.Fatalf("%d losses in detail, want %d", len(led.Losses), want)
			}
			for _, s := range led.Losses {
				if s.How != test.how || s.Earlier != 3 || s.SinceAnswer == 0 || s.Local == "" || s.Remote != addr || s.Sent != 10 ||
					s.AnswerBytes != test.bytes {
					t.Errorf("loss = %+v, want how %v, 3 requests earlier, %d bytes of answer", s, test.how, test.bytes)
				}
			}
		})
	}
}

// TestGoAwayAmongStreams: of those that are open, it is the number that counts.
func TestGoAwayAmongStreams(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer int // of the first so many
		last   uint32
		want   Counts
	}{
		{"half served", 8, 15, Counts{Clients: 16, Requests: 16, Answered: 8, SafeToRetry: 8, Conns: 1}},
		{"half promised", 4, 15, Counts{Clients: 16, Requests: 16, Answered: 4, SafeToRetry: 8, Lost: 4, Conns: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s served
			addr := http2Server(t, func(c *server2) {
				ids := map[uint32]string{}
				for len(ids) < 16 {
					stream, id, ok := c.request()
					if !ok {
						return
					}
					ids[stream] = id
				}
				c.fr.WriteGoAway(tt.last, 0, nil)
				for n := range tt.answer {
					stream := uint32(2*n + 1)
					s.add(ids[stream])
					c.answer(stream, ids[stream])
				}
			})
			l := start(t, Config{Addr: addr, EchoHeader: "X-Echo", Groups: []Group{{Kind: HTTP2, Streams: 16, Requests: 1}}})
			led := l.Wait()
			wantCounts(t, led, led.Total, tt.want)
			if got := led.Compare(slices.Values(s.all())); got.Count != tt.answer || len(got.Unanswered)+len(got.Unserved) > 0 {
				t.Errorf("Compare(served) = %+v, want %d served and answered", got, tt.answer)
			}
		})
	}
}

func TestHTTP2Timeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := memoryHTTP2Server(t, func(*server2, uint32) {})
		l := start(t, Config{Dial: dial, AnswerTimeout: 20 * time.Millisecond, Groups: []Group{{Kind: HTTP2, Streams: 3, Requests: 2}}})
		led := l.Wait()
		wantCounts(t, led, led.Total, Counts{Clients: 3, Requests: 6, Lost: 6, Conns: 1})
		for _, s := range led.Losses {
			if s.How != Timeout || s.Failed.Sub(s.Wrote) != 20*time.Millisecond {
				t.Errorf("loss = %+v, want a timeout after 20 ms", s)
			}
		}
	})
}

// TestHTTP2ConnectionsUnused: no stream was opened on them.
func TestHTTP2ConnectionsUnused(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(c *server2)
		want Counts
	}{
		{"GOAWAY", func(c *server2) { c.fr.WriteGoAway(0, 0, nil); c.wait() }, Counts{Clients: 1, Requests: 1, SafeToRetry: 1, Conns: 1}},
		{"FIN", func(c *server2) {}, Counts{Clients: 1, Requests: 1, ResetOnConnect: 1, Conns: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := start(t, Config{Addr: http2Server(t, tt.end)})
			g, err := l.newGroup(Group{Kind: HTTP2})
			if err != nil {
				t.Fatal(err)
			}
			c := newClient(g, 0, 0)
			c.shared = &sharedConn{users: 1}
			defer c.shared.leave()
			cn, _ := c.connection()
			wiretest.WaitFor(t, "the connection to end", func() bool { closed, _, _ := cn.state(); return closed })
			if cn, _ := c.connection(); cn != nil {
				t.Error("the connection is used all the same")
			}
			wantCounts(t, Ledger{}, Row{Counts: c.row.Counts}, tt.want)
		})
	}
}

func TestHTTP2RefusedAfterTheSignal(t *testing.T) {
	l := start(t, Config{Addr: wiretest.Refusing})
	l.Signalled(time.Now())
	if err := l.Add(Group{Kind: HTTP2, N: 2, Streams: 3}); err != nil {
		t.Fatal(err)
	}
	led := l.Wait()
	wantCounts(t, led, led.Total, Counts{Clients: 6, Requests: 6, Refused: 6})
}

// TestHTTP2EventStreams: as TestEventStreams, with END_STREAM for the final chunk.
func TestHTTP2EventStreams(t *testing.T) {
	row := Counts{Clients: 2, Requests: 8, Messages: 16}
	clean, cut := row, row
	clean.CleanEnd, cut.Cut = 8, 8
	for _, tt := range []struct {
		name string
		end  func(c *server2, stream uint32)
		want Counts
		how  How
	}{
		{"END_STREAM", func(c *server2, stream uint32) { c.fr.WriteData(stream, true, nil) }, clean, 0},
		{"END_STREAM within an event", func(c *server2, stream uint32) { c.fr.WriteData(stream, true, []byte("data")) }, cut, Malformed},
		{"RST_STREAM", func(c *server2, stream uint32) { c.fr.WriteRSTStream(stream, http2.ErrCodeNo) }, cut, StreamReset},
		{"RST_STREAM, refused", func(c *server2, stream uint32) { c.fr.WriteRSTStream(stream, http2.ErrCodeRefusedStream) }, cut, StreamReset},
		{"GOAWAY that disowns", func(c *server2, _ uint32) { c.fr.WriteGoAway(0, 0, nil) }, cut, StreamReset},
		{"FIN", func(*server2, uint32) {}, cut, FIN},
		{"RST", func(c *server2, _ uint32) { c.reset() }, cut, RST},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := http2Server(t, func(c *server2) {
				stream, id, ok := c.request()
				if !ok {
					return
				}
				c.fr.WriteGoAway(stream, 0, nil)
				c.header(stream, false, ":status", "200", "x-echo", id, "content-type", "text/event-stream; charset=utf-8")
				c.fr.WriteData(stream, false, []byte("data: 1\n\nda"))
				c.fr.WriteData(stream, false, []byte("ta: 2\n\n"))
				tt.end(c, stream)
			})
			led := start(t, Config{Addr: addr, EchoHeader: "X-Echo", EchoBody: true, Groups: []Group{{Kind: Events, N: 2, Streams: 1, Requests: 4}}}).Wait()
			wantCounts(t, led, led.Total, tt.want)
			for _, s := range led.Losses {
				if s.Outcome != Cut || s.How != tt.how || s.AnswerBytes < 18 {
					t.Errorf("loss = %+v, want how %v", s, tt.how)
				}
			}
		})
	}
}

// TestHTTP2EventStreamOnTheSameConnection: see its like for HTTP/1.1.
func TestHTTP2EventStreamOnTheSameConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		dial := memoryHTTP2Server(t, func(c *server2, stream uint32) {
			c.header(stream, false, ":status", "200", "content-type", "text/event-stream")
			c.fr.WriteData(stream, false, []byte("data: 1\n\n"))
			if n++; n <= 3 {
				time.Sleep(30 * time.Millisecond) // longer than AnswerTimeout
				c.fr.WriteData(stream, true, nil)
			}
		})
		l := start(t, Config{Dial: dial, AnswerTimeout: 20 * time.Millisecond, Groups: []Group{{Kind: Events, Streams: 1}}})
		ready(t, l, 4)
		l.Stop()
		led := l.Wait()
		wantCounts(t, led, led.Total, Counts{Clients: 1, Requests: 4, Messages: 4, CleanEnd: 3, Answered: 1, Conns: 1})
	})
}

// The server allows three streams. It answers when three are open, and none comes
// beyond these.
func TestHTTP2MaxConcurrentStreams(t *testing.T) {
	t.Parallel()
	const allowed = 3
	var most atomic.Int64
	addr := http2Server(t, func(s *server2) {
		open := map[uint32]string{}
		stream, id, ok := s.request() // may come before the settings
		if !ok {
			return
		}
		s.answer(stream, id)
		for n := 1; n < 22; n++ {
			stream, id, ok := s.request()
			if !ok {
				return
			}
			open[stream] = id
			most.Store(max(most.Load(), int64(len(open))))
			if len(open) < allowed {
				continue
			}
			s.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // for a fourth
			if stream, id, ok := s.request(); ok {
				open[stream] = id
				n++
				most.Store(max(most.Load(), int64(len(open))))
			}
			s.SetReadDeadline(time.Time{})
			for stream, id := range open {
				s.answer(stream, id)
				delete(open, stream)
			}
		}
		s.wait()
	}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: allowed})
	led := start(t, Config{Addr: addr, EchoHeader: "X-Echo", Groups: []Group{{Kind: HTTP2, Streams: 22, Requests: 1}}}).Wait()
	if most.Load() != allowed || led.Total.Answered != 22 || led.Total.InFlight != 0 {
		t.Errorf("%d streams at once, want %d\n%s", most.Load(), allowed, led)
	}
}

// A client that waits for a stream ends with the load.
func TestHTTP2NoStreamAllowed(t *testing.T) {
	t.Parallel()
	settled := make(chan struct{})
	addr := http2Server(t, func(s *server2) {
		for {
			f, err := s.fr.ReadFrame()
			if err != nil {
				return
			}
			if f, ok := f.(*http2.SettingsFrame); ok && f.IsAck() {
				close(settled)
			}
			if f, ok := f.(*http2.MetaHeadersFrame); ok {
				s.answer(f.StreamID, "")
			}
		}
	}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
	l := start(t, Config{Addr: addr, Groups: []Group{{Kind: HTTP2, Streams: 4}}})
	<-settled
	before := l.Snapshot().Total.Requests
	l.Stop()
	if led := l.Wait(); led.Total.InFlight != 0 || led.Total.Running != 0 || led.Total.Requests > before+1 {
		t.Errorf("total = %+v, want none in flight, and no new requests after %d", led.Total, before)
	}
}
