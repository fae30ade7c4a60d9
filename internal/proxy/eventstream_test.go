package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lastcall/actors"
	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// betweenEvents reports whether an event stream that has come to s, from the
// start, is between two events.
func betweenEvents(s string) bool {
	if before, ok := strings.CutSuffix(s, "\r"); ok { // is that the whole end of the line?
		if i := strings.LastIndexAny(before, "\r\n"); i < 0 || before[i] == '\n' {
			return false
		}
	}
	s = strings.ReplaceAll(s, "\r\n", "\n")
	lines := strings.Split(strings.ReplaceAll(s, "\r", "\n"), "\n")
	if lines[len(lines)-1] != "" {
		return false // in the middle of a line
	}
	for _, line := range slices.Backward(lines[:len(lines)-1]) {
		switch {
		case line == "":
			return true
		case line[0] != ':':
			return false
		}
	}
	return true
}

// endingBody is a body that tells the stream to end before one of its pieces.
type endingBody struct {
	pieces [][]byte
	before int
	tell   func()
	closed bool
}

func (b *endingBody) Read(p []byte) (int, error) {
	if b.before--; b.before == -1 {
		b.tell()
	}
	if b.closed {
		return 0, io.ErrClosedPipe
	}
	if len(b.pieces) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, b.pieces[0])
	b.pieces = b.pieces[1:]
	return n, nil
}

func (b *endingBody) Close() error {
	b.closed = true
	return nil
}

// FuzzEvents has a stream come in pieces, and the turn to end it before one of
// them.
func FuzzEvents(f *testing.F) {
	for _, s := range []string{
		"",
		"data: 1\n\ndata: 2\n\n",
		"data: 1\r\n\r\nid: 2\r\ndata\r\n\r\n",
		"data: 1\r\rdata: 2\r\r",
		": hello\n\ndata: 1\n: in an event\n\n: beat\n: beat\ndata: 2\n",
		"\n\r\n\r\r\n\n",
		"data: 1\n\r\ndata: 2\r\n\rdata: 3\r\n\n",
		"\xef\xbb\xbfdata: 1\n\n",
	} {
		f.Add([]byte(s), []byte{0}, uint(0))
		f.Add([]byte(s), []byte{0, 2, 5}, uint(3))
		f.Add([]byte(s), []byte{}, uint(1))
	}
	f.Fuzz(func(t *testing.T, stream, sizes []byte, turn uint) {
		if len(stream) > 1000 {
			return // the oracle is slow
		}
		var want, got []int
		for i := 1; i <= len(stream); i++ {
			if betweenEvents(string(stream[:i])) {
				want = append(want, i)
			}
		}
		var e eventParser
		at := 0
		for _, p := range pieces(stream, sizes) {
			for len(p) > 0 {
				n := e.advance(p)
				at, p = at+n, p[n:]
				if e.between() {
					got = append(got, at)
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q in pieces of %d: ends (-want +got):\n%s", stream, sizes, diff)
		}

		body := &endingBody{pieces: pieces(stream, sizes)}
		body.before = int(turn % uint(len(body.pieces)+1))
		from := len(bytes.Join(body.pieces[:body.before], nil))
		s := &eventStream{body: body, gone: make(chan struct{})}
		body.tell = func() {
			if ended := s.end(false); ended != (from == 0 || betweenEvents(string(stream[:from]))) {
				t.Errorf("%q: end at %d = %v", stream, from, ended)
			}
		}
		wantTo, wantErr := stream, error(io.ErrUnexpectedEOF)
		for i := from; i <= len(stream); i++ {
			if betweenEvents(string(stream[:i])) {
				wantTo, wantErr = stream[:i], nil
				break
			}
		}
		var read bytes.Buffer // in reads that take a piece whole, as endingBody needs it
		_, err := io.CopyBuffer(struct{ io.Writer }{&read}, s, make([]byte, 1000))
		s.Close()
		if all := read.Bytes(); !bytes.Equal(all, wantTo) || err != wantErr {
			t.Errorf("%q in pieces of %d, turn at %d = %q, %v, want %q, %v", stream, sizes, from, all, err, wantTo, wantErr)
		}
	})
}

// eventProgram streams before, then, when goOn is closed, after, and then nothing
// until it is left.
func eventProgram(t testing.TB, header http.Header, before, after string, goOn <-chan struct{}, left chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		for name, v := range header {
			w.Header()[name] = v
		}
		io.WriteString(w, before)
		http.NewResponseController(w).Flush()
		select {
		case <-goOn:
		case <-r.Context().Done():
			left <- struct{}{}
			return
		}
		io.WriteString(w, after)
		http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			left <- struct{}{}
		case <-time.After(time.Minute):
			t.Error("the program was not left")
		}
	}
}

// TestEventStreamEnds ends streams between two events, by each protocol.
func TestEventStreamEnds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, before, after, want string }{
		{"idle", "data: 1\n\ndata: 2\n\n", "", "data: 1\n\ndata: 2\n\n"},
		{"in an event", "data: 1\r\n\r\ndata: ", "2\r\n\r\ndata: 3\r\n\r\n", "data: 1\r\n\r\ndata: 2\r\n\r\n"},
		{"before the first", "", "", ""},
	} {
		for _, proto := range []string{"HTTP/1.0", "HTTP/1.1", "HTTP/2.0"} {
			t.Run(tt.name+" "+proto, func(t *testing.T) {
				t.Parallel()
				goOn, left := make(chan struct{}), make(chan struct{}, 1)
				srv := &http.Server{Protocols: new(http.Protocols)}
				srv.Protocols.SetHTTP1(true)
				srv.Protocols.SetUnencryptedHTTP2(true)
				program := serve(t, eventProgram(t, nil, tt.before, tt.after, goOn, left), slowpeer.Config{Read: -1, Write: -1})
				p := newProxy(t, "http://"+program, Config{Spread: -1})
				streams := make(chan *eventStream, 1)
				p.ModifyResponse = func(res *http.Response) error {
					err := p.modifyResponse(res)
					streams <- res.Body.(*eventStream)
					return err
				}
				l, err := actors.Listen(wiretest.LoopbackIP() + ":0")
				if err != nil {
					t.Fatal(err)
				}
				s := start(t, l, p, 30*time.Second, srv)

				var body io.Reader
				var hangUp func()
				if proto == "HTTP/2.0" {
					transport := &http.Transport{Protocols: new(http.Protocols)}
					transport.Protocols.SetUnencryptedHTTP2(true)
					hangUp = transport.CloseIdleConnections // how long it is kept else is not the matter here
					res, err := (&http.Client{Transport: transport, Timeout: wiretest.Patience}).Get("http://" + s.addr)
					if err != nil {
						t.Fatal(err)
					}
					defer res.Body.Close()
					body = res.Body
				} else {
					nc := wiretest.Connect(t, s.addr)
					fmt.Fprintf(nc, "GET / %s\r\nHost: h\r\n\r\n", proto)
					res, err := http.ReadResponse(bufio.NewReader(nc), nil)
					if err != nil || len(res.TransferEncoding) != strings.Count(proto, "1.1") {
						t.Fatalf("GET = %+v, %v", res, err)
					}
					body = res.Body
					hangUp = func() { nc.Close() }
				}
				expect(t, "the client", body, tt.before)
				s.stop.Begin(nil)
				if tt.after != "" { // the stream's turn comes in the middle of an event
					stream := <-streams
					wiretest.WaitFor(t, "the stream's turn", func() bool {
						stream.mu.Lock()
						defer stream.mu.Unlock()
						return stream.due
					})
					close(goOn)
				}
				expect(t, "the client", body, strings.TrimPrefix(tt.want, tt.before))
				expectEnd(t, "the client", body)
				hangUp()
				wiretest.Wait(t, left, "the program to be left")
				s.early(t)
			})
		}
	}
}

// TestEventStreamEndsOverHTTP2 has the program speak HTTP/2 as well.
func TestEventStreamEndsOverHTTP2(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan struct{}, 1)
	program := &http.Server{Handler: eventProgram(t, nil, "data: 1\n\n", "", nil, left), Protocols: new(http.Protocols)}
	program.Protocols.SetUnencryptedHTTP2(true)
	go program.Serve(l)
	defer program.Close()

	s := stoppableBefore(t, "h2c://"+l.Addr().String(), Config{Spread: -1}, 30*time.Second, &http.Server{})
	nc := wiretest.Connect(t, s.addr)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "the client", res.Body, "data: 1\n\n")
	s.stop.Begin(nil)
	expectEnd(t, "the client", res.Body)
	wiretest.Wait(t, left, "the program to be left")
	nc.Close()
	s.early(t)
}

// TestEventStreamDoesNotHoldTheStop has a program that begins an event and
// does not end it.
func TestEventStreamDoesNotHoldTheStop(t *testing.T) {
	var left chan struct{}
	program := func(w http.ResponseWriter, r *http.Request) {
		eventProgram(t, nil, "data: 1\n\ndata: ", "", nil, left)(w, r)
	}
	inMemory(t, program, time.Minute, func(t *testing.T, s *service) {
		left = make(chan struct{}, 1)
		nc := s.connect(t)
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "the client", res.Body, "data: 1\n\ndata: ")
		s.stop.Begin(nil)
		expectEnd(t, "the client", res.Body)
		wiretest.Wait(t, left, "the program to be left")
		nc.Close()
		s.early(t)
	})
}

// TestOtherStreamsAreLeftAlone has answers whose clean end would say too much.
func TestOtherStreamsAreLeftAlone(t *testing.T) {
	for _, tt := range []struct {
		name, method string
		header       http.Header
	}{
		{"POST", "POST", nil},
		{"compressed", "GET", http.Header{"Content-Encoding": {"gzip"}}},
		{"known length", "GET", http.Header{"Content-Length": {"1000"}}},
		{"other type", "GET", http.Header{"Content-Type": {"text/plain"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var left chan struct{}
			program := func(w http.ResponseWriter, r *http.Request) {
				eventProgram(t, tt.header, "data: 1\n\n", "", nil, left)(w, r)
			}
			inMemory(t, program, time.Second, func(t *testing.T, s *service) {
				left = make(chan struct{}, 1)
				nc := s.connect(t)
				fmt.Fprintf(nc, "%s / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", tt.method)
				res, err := http.ReadResponse(bufio.NewReader(nc), nil)
				if err != nil {
					t.Fatal(err)
				}
				s.stop.Begin(nil)
				all, err := io.ReadAll(res.Body)
				if string(all) != "data: 1\n\n" || err == nil {
					t.Errorf("the client got %q, %v, want the event and a break", all, err)
				}
				if err := s.wait(t); !errors.Is(err, actors.ErrCut) {
					t.Errorf("stop: %v, want %v", err, actors.ErrCut)
				}
				if late := time.Since(s.stop.Snapshot().Deadline); late < 0 {
					t.Errorf("cut %v before the deadline", -late)
				}
				wiretest.Wait(t, left, "the program to be left")
			})
		})
	}
}
