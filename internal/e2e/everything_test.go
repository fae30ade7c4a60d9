//go:build unix

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
)

// everything returns a handler of requests, event streams and WebSockets. In a
// program that uses the actors, the streams end when draining begins; in another
// program they go on.
func everything(p *Work) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", p)
	served := func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		p.mu.Lock()
		p.ids = append(p.ids, id)
		p.mu.Unlock()
		w.Header().Set("X-Request-Id", id)
	}
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		served(w, r)
		w.Header().Set("Content-Type", "text/event-stream")
		for n := 1; ; n++ {
			fmt.Fprintf(w, "id: %d\n", n)
			http.NewResponseController(w).Flush()
			time.Sleep(5 * time.Millisecond)
			fmt.Fprint(w, "data: tick\n\n")
			http.NewResponseController(w).Flush()
			select {
			case <-time.After(5 * time.Millisecond):
			case <-actors.StopOf(r.Context()).Draining():
				return
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		served(w, r)
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow()
		ctx, done := context.WithCancel(r.Context())
		defer done()
		go func() {
			select {
			case <-actors.StopOf(ctx).Draining():
				ws.Close(websocket.StatusGoingAway, "")
			case <-ctx.Done():
			}
		}()
		for {
			kind, message, err := ws.Read(ctx)
			if err != nil || ws.Write(ctx, kind, message) != nil {
				return
			}
		}
	})
	return mux
}

// everythingLibrary serves HTTP/1 and h2c on a port, and TLS on another, with
// the actors.
func everythingLibrary(h http.Handler, certFile, keyFile string) error {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	var stop actors.Stop
	var g run.Group
	var addrs []string
	for _, cfg := range []*tls.Config{nil, {Certificates: []tls.Certificate{cert}}} {
		l, err := actors.Listen(wiretest.LoopbackIP() + ":0")
		if err != nil {
			return err
		}
		srv := &http.Server{Handler: h, TLSConfig: cfg, Protocols: new(http.Protocols)}
		srv.Protocols.SetHTTP1(true)
		srv.Protocols.SetHTTP2(cfg != nil)
		srv.Protocols.SetUnencryptedHTTP2(cfg == nil)
		g.Add(actors.HTTP(&stop, srv, l))
		addrs = append(addrs, l.Addr().String())
	}
	g.Add(actors.Signal(&stop))
	fmt.Fprintf(os.Stderr, "msg=serving addr=%s\n", strings.Join(addrs, ","))
	return stop.Err(g.Run())
}

// An everythingServer serves without and with TLS, in one process or two.
type everythingServer struct {
	plain, encrypted string // addresses
	processes        []*Process
	program          *Process // the process that knows what was served
}

var everythingServers = map[string]func(testing.TB, *pki) everythingServer{
	"proxy": func(t testing.TB, pki *pki) everythingServer {
		program := Launch(t, Here, As("everything", "127.0.0.1:0"))
		url := "http://" + program.Addr
		spread := time.Second
		if *Long {
			spread = 5 * time.Second // the default
		}
		plain := Launch(t, Here, Lastcall("-listen", wiretest.LoopbackIP()+":0", "-h2c", "-proxy", url, "-ws-spread", spread.String()))
		encrypted := Launch(t, Here, Lastcall(append(pki.flags(), "-listen", wiretest.LoopbackIP()+":0", "-proxy", url, "-ws-spread", spread.String())...))
		return everythingServer{plain.Addr, encrypted.Addr, []*Process{plain, encrypted}, program}
	},
	"library": func(t testing.TB, pki *pki) everythingServer {
		p := Launch(t, Here, As("everything library", pki.cert, pki.key))
		both := regexp.MustCompile(`msg=serving addr=(\S+),(\S+)`).FindStringSubmatch(p.Log())
		return everythingServer{both[1], both[2], []*Process{p}, p}
	},
}

// atOnce returns clients of every class, without or with TLS, and requests that are
// to be in flight at the signal.
func atOnce(prefix, addr string, cfg *tls.Config, keepAlive, fresh int) (warm, inFlight []load.Group) {
	group := func(g load.Group) load.Group {
		g.Addr, g.TLS = addr, cfg
		g.Name = prefix + g.Name
		return g
	}
	think := Think(5 * time.Millisecond)
	some := max(2, Few(5))
	long, bodyTime := pause(time.Second, 300*time.Millisecond), pause(3*time.Second, time.Second)
	for _, g := range []load.Group{
		{Name: "blind", Kind: load.Reuse, N: keepAlive / 2, Think: think, Method: "POST", Body: 16},
		{Name: "looking", Kind: load.Look, N: keepAlive / 2, Think: think, Method: "POST", Body: 16},
		{Name: "fresh", Kind: load.Connect, N: fresh, Think: pause(0, 20*time.Millisecond), Method: "POST", Body: 16},
		{Name: "h2", Kind: load.HTTP2, N: Few(8), Streams: 16, Think: think, Method: "POST", Body: 16},
		{Name: "events", Kind: load.Events, N: some, Path: "/events", Think: think},
		{Name: "events h2", Kind: load.Events, Streams: some, Path: "/events", Think: think},
		{Name: "websocket", Kind: load.WebSocket, N: 5, Path: "/echo", Think: long},
		{Name: "busy websocket", Kind: load.WebSocket, N: some, Path: "/echo", Think: think},
	} {
		warm = append(warm, group(g))
	}
	for _, g := range []load.Group{
		{Name: "slow", Kind: load.Connect, N: 20, Requests: 1, Path: "/slow?long", Delay: -1},
		{Name: "slow h2", Kind: load.HTTP2, Streams: 20, Requests: 1, Path: "/slow?long", Delay: -1},
		{Name: "upload", Kind: load.Connect, N: 5, Requests: 1, Path: "/upload?long", Body: 1 << 20, BodyTime: bodyTime, Delay: -1},
		{Name: "upload h2", Kind: load.HTTP2, Streams: 5, Requests: 1, Path: "/upload?long", Body: 1 << 20, BodyTime: bodyTime, Delay: -1},
	} {
		inFlight = append(inFlight, group(g))
	}
	return warm, inFlight
}

// TestStopWithEverything stops the binary, and a program that uses the
// library, under every class of client at once.
func TestStopWithEverything(t *testing.T) {
	for name, start := range everythingServers {
		t.Run(name, func(t *testing.T) {
			ParallelIfFew(t) // with one another
			if name == "library" {
				LongOnly(t) // the binary has it, too
			}
			for range *Stops {
				stopWithEverything(t, start)
			}
		})
	}
}

// waitBegun waits until the program has begun to serve the requests that are to be
// in flight. Before that, the server may refuse a request over HTTP/2.
func (p *Process) waitBegun(t testing.TB, inFlight []load.Group) {
	t.Helper()
	var want int
	for _, g := range inFlight {
		want += max(g.N, g.Streams)
	}
	WaitFor(t, fmt.Sprint(want, " requests to begin"), func() bool { return strings.Count(p.Log(), "msg=begun") == want })
}

func stopWithEverything(t *testing.T, start func(testing.TB, *pki) everythingServer) {
	pki := newPKI(t)
	s := start(t, pki)
	warm, inFlight := atOnce("", s.plain, nil, 2*Few(100), Few(16))
	warmTLS, inFlightTLS := atOnce("TLS ", s.encrypted, &tls.Config{RootCAs: pki.pool, ServerName: "localhost"}, 2*Few(20), Few(4))
	l := startLoad(t, load.Config{EchoHeader: "X-Request-Id", MaxTime: 2 * time.Minute, MaxUnused: keepsUnused, Groups: append(warm, warmTLS...)}, 3)
	inFlight = append(inFlight, inFlightTLS...)
	for _, g := range inFlight {
		if err := l.Add(g); err != nil {
			t.Fatal(err)
		}
	}
	s.program.waitBegun(t, inFlight)
	time.Sleep(rand.N(300 * time.Millisecond)) // a stop may come at any moment

	l.Signalled(time.Now())
	for _, p := range s.processes {
		p.Signal(t, syscall.SIGTERM)
	}
	s.program.Signal(t, syscall.SIGUSR1)
	for _, p := range s.processes {
		p.endCleanly(t)
	}
	ledger := l.Wait()
	for _, p := range s.processes {
		t.Logf("stopped in %v", p.Ended.Sub(ledger.Signal).Round(time.Millisecond))
	}
	if s.program != s.processes[0] {
		s.program.Signal(t, syscall.SIGTERM)
		s.program.Wait(t)
	}
	served := ledger.Compare(strings.SplitSeq(strings.TrimSpace(s.program.Stdout.String()), "\n"))
	t.Logf("\n%v", ledger)

	n := ledger.Total
	if spoilt(n) != 0 {
		t.Error("not all is well")
	}
	for _, r := range ledger.Rows {
		switch {
		case r.Kind == load.WebSocket && (r.GoingAway != r.CleanEnd || r.GoingAway < r.Clients):
			t.Errorf("%s: %d ended cleanly, %d with 1001, want all, and %d at the least", r.Group, r.CleanEnd, r.GoingAway, r.Clients)
		case r.UnechoedFor > 2*time.Second: // some messages always cross the Close frame
			t.Errorf("%s: a message was not echoed for %v, and then came a Close frame", r.Group, r.UnechoedFor)
		case r.Kind == load.Events && (r.CleanEnd < r.Clients || r.Answered > 0):
			t.Errorf("%s: %d ended cleanly, %d not before the load's end, want %d, 0", r.Group, r.CleanEnd, r.Answered, r.Clients)
		}
	}
	for _, g := range inFlight {
		if r := ledger.Row(g.Name); r.Answered != r.Clients || r.AnsweredAfter != r.Clients {
			t.Errorf("%s: %d answered, %d after the signal, want %d", g.Name, r.Answered, r.AnsweredAfter, r.Clients)
		}
	}
	if len(served.Unanswered) != 0 || len(served.Unserved) != 0 || len(served.Twice) != 0 || served.Count != n.Answered+n.CleanEnd {
		t.Errorf("served %d, of which without answer %d, twice %d; answered but not served %d; want %d, 0, 0, 0",
			served.Count, len(served.Unanswered), len(served.Twice), len(served.Unserved), n.Answered+n.CleanEnd)
	}
}
