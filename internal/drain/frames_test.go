package drain

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"golang.org/x/net/http2"
)

// recorder is a connection that keeps what is written.
type recorder struct {
	net.Conn
	bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) { return r.Buffer.Write(p) }
func (r *recorder) Read(p []byte) (int, error)  { return 0, io.EOF }

// TestGoAwayBetweenFrames writes frames in pieces, and GOAWAY at any moment: it comes
// after the first frame, between two others, and never between HEADERS and
// CONTINUATION.
func TestGoAwayBetweenFrames(t *testing.T) {
	for range 2000 {
		var out bytes.Buffer
		fr := http2.NewFramer(&out, nil)
		fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 14})
		for id := uint32(1); id < 20; id += 2 {
			switch rand.IntN(4) {
			case 0:
				fr.WriteSettings() // of no payload
			case 1:
				fr.WriteData(id, true, make([]byte, rand.IntN(3000)))
			case 2:
				fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: make([]byte, rand.IntN(50)), EndHeaders: true})
			case 3:
				fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: make([]byte, rand.IntN(50))})
				fr.WriteContinuation(id, false, make([]byte, rand.IntN(50)))
				fr.WriteContinuation(id, true, nil)
			}
		}
		want := bytes.Clone(out.Bytes())

		r := new(recorder)
		fc := &frameConn{Conn: r}
		whole, when := out.Bytes(), rand.IntN(out.Len()+1)
		for at := 0; at < len(whole); {
			if at <= when {
				when = -1
				fc.writeGoAway()
			}
			n := min(len(whole)-at, 1+rand.IntN(1<<rand.IntN(11)))
			if m, err := fc.Write(whole[at : at+n]); m != n || err != nil {
				t.Fatalf("Write(%d bytes) = %d, %v", n, m, err)
			}
			at += n
		}

		const added = 2*frameHeaderSize + 16
		at := bytes.Index(r.Bytes(), []byte{0, 0, 8, frameGoAway, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 8, framePing, 0, 0, 0, 0, 0})
		if at < 0 || !bytes.Equal(slices.Concat(r.Bytes()[:at], r.Bytes()[at+added:]), want) {
			t.Fatalf("GOAWAY and PING are at %d of %d bytes, of which %d are net/http's, want them once, and else nothing changed", at, r.Len(), len(want))
		}
		check := http2.NewFramer(io.Discard, &r.Buffer) // refuses what is between HEADERS and CONTINUATION
		var types []http2.FrameType
		for {
			f, err := check.ReadFrame()
			if err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("after the frames %v: %v", types, err)
			}
			types = append(types, f.Header().Type)
		}
		if types[0] != http2.FrameSettings {
			t.Fatalf("the first frame is %v, want SETTINGS", types[0])
		}
	}
}

// TestFrameEvents sends frames in pieces: the events are the same, and each comes with the
// last byte that it needs.
func TestFrameEvents(t *testing.T) {
	var out bytes.Buffer
	fr := http2.NewFramer(&out, nil)
	type eventAt struct {
		event
		at int // of the byte behind it
	}
	var client, server []eventAt
	fr.WriteSettings()
	for id := uint32(1); id < 200; id += 2 {
		opens := eventAt{event{kind: opens, stream: id}, out.Len() + frameHeaderSize}
		ends := func() eventAt { return eventAt{event{kind: ends, stream: id}, out.Len()} }
		switch id % 14 {
		case 1:
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: make([]byte, 30), EndHeaders: true, EndStream: true})
			client, server = append(client, opens), append(server, ends())
		case 3:
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: make([]byte, 30), EndStream: true})
			fr.WriteContinuation(id, false, make([]byte, 20))
			fr.WriteContinuation(id, true, make([]byte, 20))
			client, server = append(client, opens), append(server, ends())
		case 5:
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: make([]byte, 30), EndHeaders: true})
			fr.WriteData(id, false, make([]byte, 300))
			fr.WriteDataPadded(id, true, nil, make([]byte, 9))
			client, server = append(client, opens), append(server, ends())
		case 7:
			fr.WriteRSTStream(id, http2.ErrCode(0x01020300+id))
			resets := eventAt{event{kind: resets, stream: id, code: 0x01020300 + id}, out.Len()}
			client, server = append(client, resets), append(server, resets)
		case 9:
			fr.WriteGoAway(id, http2.ErrCodeInternal, make([]byte, 20))
			server = append(server, eventAt{event{kind: goesAway, stream: id, code: uint32(http2.ErrCodeInternal)}, out.Len()})
		case 11:
			fr.WritePing(false, [8]byte{1, 2, 3, 4, 5, 6, 7, 8})
			fr.WriteWindowUpdate(id, 1000)
		case 13:
			fr.WriteData(id, true, nil)
			server = append(server, ends())
		}
	}
	for from, want := range map[side][]eventAt{fromClient: client, fromServer: server} {
		for range 500 {
			var f frames
			var got []eventAt
			for p, at := out.Bytes(), 0; at < len(p); {
				n := min(len(p)-at, 1+rand.IntN(1<<rand.IntN(9)))
				for _, e := range f.follow(p[at:at+n], from) {
					if i := len(got); i < len(want) && (want[i].at <= at || want[i].at > at+n) {
						t.Fatalf("side %v: event %d came with bytes %d to %d, want it with %d", from, i, at, at+n, want[i].at)
					}
					got = append(got, eventAt{e, want[min(len(got), len(want)-1)].at})
				}
				at += n
			}
			if !slices.Equal(got, want) {
				t.Fatalf("side %v: events %v, want %v", from, got, want)
			}
		}
	}
}

// TestGoAwayTooLate has net/http write its GOAWAY first: a client would end the
// connection if one that names a later stream followed.
func TestGoAwayTooLate(t *testing.T) {
	r := new(recorder)
	fc := &frameConn{Conn: r}
	fr := http2.NewFramer(fc, nil)
	fr.WriteSettings()
	fr.WriteGoAway(3, http2.ErrCodeNo, nil)
	want := bytes.Clone(r.Bytes())
	fc.writeGoAway()
	fr.WriteData(3, true, nil)
	if got := r.Bytes(); !bytes.HasPrefix(got, want) || len(got) != len(want)+frameHeaderSize {
		t.Errorf("written: %x, want only %x and an empty frame", got, want)
	}
}

// sizes is a connection that notes the sizes of net/http's Reads and Writes.
type sizes struct {
	net.Conn
	mu     sync.Mutex
	reads  []int
	frames frames
	within int // Writes that ended within a frame
}

func (s *sizes) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads = append(s.reads, len(p))
	return n, err
}

func (s *sizes) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frames.follow(p, fromServer)
	if !s.frames.between() {
		s.within++
	}
	return s.Conn.Write(p)
}

// net/http serves HTTP/2 on any net.Conn by the entry protoUnencrypted of its table.
// It reads the payload of a frame by a Read of its own, and ends the Write of a small
// frame with that frame.
func TestAssumeFrameConn(t *testing.T) {
	filled := new(Server)
	filled.http = &http.Server{Protocols: new(http.Protocols)}
	filled.http.Protocols.SetHTTP2(true)
	table := filled.newGoAwayer().TLSNextProto
	if !servesFrameConn(table) {
		t.Fatalf("net/http does not serve a connection of ours by %q", protoUnencrypted)
	}

	nc, client := net.Pipe()
	defer client.Close()
	s := &sizes{Conn: nc}
	served := make(chan struct{})
	go func() {
		defer close(served)
		table[protoUnencrypted](new(http.Server), (&frameConn{Conn: s}).disguise(), http.NotFoundHandler())
	}()
	client.SetDeadline(time.Now().Add(15 * time.Second))
	fr := http2.NewFramer(client, client)
	go func() {
		fr.WriteSettings()
		fr.WritePing(false, [8]byte{1, 2, 3})
	}()
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatalf("%v, want the answer to a PING", err)
		}
		if f.Header().Type == http2.FramePing {
			break
		}
	}
	client.Close()
	<-served
	if want := []int{frameHeaderSize, frameHeaderSize, pingSize}; len(s.reads) < 3 || !slices.Equal(s.reads[:3], want) {
		t.Errorf("the first Reads have the sizes %v, want %v: of the headers of SETTINGS and PING, and of the payload", s.reads, want)
	}
	if s.within > 0 {
		t.Errorf("%d Writes ended within a frame, want 0", s.within)
	}
}

// The ID of a stream is in the ResponseWriter of HTTP/2. In that of HTTP/1 nothing looks
// like it.
func TestAssumeStreamID(t *testing.T) {
	ids := make(chan uint32, 2)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { ids <- streamID(w) }))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	c := srv.Client()
	for range 2 {
		res, err := c.Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	if first, second := <-ids, <-ids; first != 1 || second != 3 {
		t.Errorf("streams %d and %d, want 1 and 3", first, second)
	}
	for _, w := range []http.ResponseWriter{httptest.NewRecorder(), struct{ http.ResponseWriter }{}} {
		if id := streamID(w); id != 0 {
			t.Errorf("the stream of a %T is %d, want 0", w, id)
		}
	}
}

// TestOneGoAway has a net/http that this package does not know: it says so, and
// clients get net/http's own GOAWAY.
func TestOneGoAway(t *testing.T) {
	t.Parallel()
	for name, table := range map[string]http2Table{
		"no such entry":         {},
		"it closes":             {protoUnencrypted: func(_ *http.Server, tc *tls.Conn, _ http.Handler) { tc.NetConn().Close() }},
		"it does not know ours": {protoUnencrypted: func(_ *http.Server, tc *tls.Conn, _ http.Handler) {}},
	} {
		if servesFrameConn(table) {
			t.Errorf("%s: servesFrameConn = true, want false", name)
		}
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	var lines bytes.Buffer
	s, err := New(srv, nil, []net.Listener{l}, serving{}, level.NewFilter(log.NewLogfmtLogger(&lines), level.AllowDebug()), Config{})
	if err != nil {
		t.Fatal(err)
	}
	if lines.Len() > 0 {
		t.Errorf("log of this net/http: %s, want nothing", &lines)
	}
	srv.TLSNextProto = nil
	s.wrapHTTP2(func(http2Table) bool { return false })
	if got := lines.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=debug") || !strings.Contains(got, "one GOAWAY") {
		t.Errorf("log = %s, want a line (debug) about one GOAWAY", got)
	}
	failures := s.Start()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.SetDeadline(time.Now().Add(15 * time.Second))
	io.WriteString(client, http2.ClientPreface)
	fr := http2.NewFramer(client, client)
	fr.WriteSettings()
	fr.WritePing(false, [8]byte{})
	goAways := 0
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			break
		}
		switch f := f.(type) {
		case *http2.PingFrame:
			if !f.IsAck() {
				t.Error("a PING came, want none")
			}
			go s.Drain(context.Background())
		case *http2.GoAwayFrame:
			if goAways++; f.LastStreamID != 0 {
				t.Errorf("GOAWAY names stream %d, want 0", f.LastStreamID)
			}
		}
	}
	if goAways != 1 {
		t.Errorf("%d GOAWAYs came, want 1", goAways)
	}
	for range failures {
	}
}

// BenchmarkFrameWrite is what the Write of an answer of two frames costs beside that
// of the connection.
func BenchmarkFrameWrite(b *testing.B) {
	var out bytes.Buffer
	fr := http2.NewFramer(&out, nil)
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 40), EndHeaders: true})
	fr.WriteData(1, true, []byte("hello\n"))
	fc := &frameConn{Conn: discard{}}
	for b.Loop() {
		fc.Write(out.Bytes())
	}
}

type discard struct{ net.Conn }

func (discard) Write(p []byte) (int, error) { return len(p), nil }
