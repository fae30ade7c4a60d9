package load

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"lastcall/internal/wiretest"
)

// TestPlainShutdownLoses: net/http's own stop loses requests of keep-alive
// clients, https://go.dev/issue/75591. A ledger that shows none is wrong.
func TestPlainShutdownLoses(t *testing.T) {
	t.Parallel()
	var s served
	ln, err := net.Listen("tcp", wiretest.LoopbackIP()+":0")
	if err != nil {
		t.Fatal(err)
	}
	begun, proceed := make(chan struct{}), make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/slow" {
			close(begun)
			<-proceed
		}
		id := r.Header.Get("X-Request-Id")
		s.add(id)
		w.Header().Set("X-Echo", id)
		io.WriteString(w, id)
	})}
	exited := make(chan struct{})
	go func() { srv.Serve(ln); close(exited) }()

	l := start(t, Config{Addr: ln.Addr().String(), EchoHeader: "X-Echo", EchoBody: true, Groups: []Group{
		{Kind: Reuse, N: 100, Think: 5 * time.Millisecond, Body: 64},
		{Kind: Look, N: 100, Think: 5 * time.Millisecond, Body: 64},
		{Kind: Connect, N: 16, Body: 64},
	}})
	ready(t, l, 5)
	if err := l.Add(Group{Name: "slow", Requests: 1, Path: "/slow"}); err != nil {
		t.Fatal(err)
	}
	wiretest.Wait(t, begun, "a slow request")
	l.Signalled(time.Now())
	close(proceed)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	<-exited
	led := l.Wait()
	t.Logf("\n%s", led)

	blind, all := led.Row("reuse"), led.Total
	if blind.Lost == 0 {
		t.Error("blind clients lost 0, want more")
	}
	if all.Refused != 216 || all.RefusedEarly != 0 || all.ErrorStatus+all.WrongAnswer+all.ClientError != 0 {
		t.Errorf("total = %+v, want each of 216 clients refused once, at its end", all)
	}
	if all.LastAnswer.Before(led.Signal) || all.FirstRefusal.Before(led.Signal) || all.AnsweredAfter == 0 {
		t.Errorf("last answer %v, first refusal %v after the signal, %d answers after it",
			led.SinceSignal(all.LastAnswer), led.SinceSignal(all.FirstRefusal), all.AnsweredAfter)
	}
	if len(led.Losses) != all.Lost+all.ResetOnConnect {
		t.Errorf("%d losses in detail, want %d", len(led.Losses), all.Lost+all.ResetOnConnect)
	}
	for _, x := range led.Losses {
		if x.Outcome == Lost && x.Failed.Before(led.Signal) {
			t.Errorf("lost before the signal: %+v", x)
		}
	}
	got := led.Compare(slices.Values(s.all()))
	if got.Foreign+len(got.Unserved)+len(got.Twice) != 0 || got.Count-len(got.Unanswered) != all.Answered {
		t.Errorf("%d served, %d foreign, %d unanswered, %d unserved, %d twice; want %d answered and served",
			got.Count, got.Foreign, len(got.Unanswered), len(got.Unserved), len(got.Twice), all.Answered)
	}
}

func TestSlowRequestsInFlightAtTheSignal(t *testing.T) {
	release := make(chan struct{})
	addr := rawServer(t, func(c *serverConn) {
		for {
			id, ok := c.request()
			if !ok {
				return
			}
			<-release
			c.answer(id)
		}
	})
	l := start(t, Config{Addr: addr})
	if err := l.Add(Group{Name: "slow", N: 20, Requests: 1}); err != nil {
		t.Fatal(err)
	}
	inFlight := func() int { led := l.Snapshot(); return led.Row("slow").InFlight }
	wiretest.WaitFor(t, "20 requests in flight", func() bool { return inFlight() == 20 })
	l.Signalled(time.Now())
	close(release)
	led := l.Wait()
	wantCounts(t, led, led.Total, Counts{Clients: 20, Requests: 20, Answered: 20, AnsweredAfter: 20, Conns: 20})
	if led.Total.LastAnswer.Before(led.Signal) {
		t.Errorf("last answer %v, want after the signal", led.SinceSignal(led.Total.LastAnswer))
	}
}

func TestIdleConnections(t *testing.T) {
	stop := make(chan struct{})
	addr := rawServer(t, func(c *serverConn) {
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			for {
				id, ok := c.request()
				if !ok {
					return
				}
				c.answer(id)
			}
		}()
		select {
		case <-stop:
			c.reset()
		case <-gone:
		}
		c.Close()
		<-gone
	})
	fin := rawServer(t, func(c *serverConn) { <-stop })

	l := start(t, Config{Addr: addr, Groups: []Group{
		{Name: "used", Kind: Idle, N: 10, Requests: 3, Think: time.Millisecond},
		{Name: "never used", Kind: Idle, N: 10},
	}})
	lf := start(t, Config{Addr: fin, Groups: []Group{{Kind: Idle, N: 10}}})
	ready(t, l, 3)
	ready(t, lf, 0)
	at := time.Now()
	l.Signalled(at)
	close(stop)
	led, fins := l.Wait(), lf.Wait()
	wantCounts(t, led, led.Row("used"), Counts{Clients: 10, Requests: 30, Answered: 30, SilentRST: 10})
	wantCounts(t, led, led.Row("never used"), Counts{Clients: 10, SilentRST: 10, Conns: 10})
	wantCounts(t, fins, fins.Total, Counts{Clients: 10, SilentFIN: 10})
	if r := led.Total; r.LastClosed.Before(at) {
		t.Errorf("closed until %v after the signal", led.SinceSignal(r.LastClosed))
	}
}

func TestStopEndsALoadThatIsNotRefused(t *testing.T) {
	t.Parallel()
	addr := rawServer(t, func(c *serverConn) {
		for {
			id, ok := c.request()
			if !ok {
				return
			}
			c.answer(id)
		}
	})
	for name, cfg := range map[string]Config{"Stop": {}, "MaxTime": {MaxTime: 2 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			cfg.Addr = addr
			cfg.Groups = []Group{{Kind: Reuse, N: 3}, {Kind: Connect, Think: time.Hour, Delay: -1}, {Kind: Idle, N: 2}}
			l := start(t, cfg)
			if name == "Stop" {
				ready(t, l, 1)
				l.Stop()
			}
			led := l.Wait()
			r := led.Total
			if r.Running != 0 || r.InFlight != 0 || r.Requests == 0 || r.Requests != r.Answered || r.SilentOpen != 2 {
				t.Errorf("total = %+v, want all ended and answered, and 2 silent ones open", r)
			}
		})
	}
}

func TestReadySaysWhoIsLate(t *testing.T) {
	addr := rawServer(t, func(c *serverConn) {
		for {
			id, ok := c.request()
			if !ok {
				return
			}
			c.answer(id)
		}
	})
	l := start(t, Config{Addr: addr, Groups: []Group{{Name: "few", Requests: 2}, {Name: "sleepy", Delay: time.Hour}}})
	wiretest.WaitFor(t, "both answers of few", func() bool { led := l.Snapshot(); return led.Row("few").Answered == 2 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := l.Ready(ctx, 3)
	if err == nil || !strings.Contains(err.Error(), "sleepy client 0 has 0 answers, want 3") {
		t.Errorf("Ready(3) = %v, want sleepy client 0 named", err)
	}
}

// Ready says why a client has no answer.
func TestReadySaysWhy(t *testing.T) {
	says := func(answer string) string {
		return rawServer(t, func(c *serverConn) {
			if _, ok := c.request(); ok {
				io.WriteString(c, answer)
			}
		})
	}
	answers := func(f func(c *server2, stream uint32), settings ...http2.Setting) string {
		return http2Server(t, func(c *server2) {
			for {
				stream, _, ok := c.request()
				if !ok {
					return
				}
				f(c, stream)
			}
		}, settings...)
	}
	refuse := func(c *server2, stream uint32) { c.fr.WriteRSTStream(stream, http2.ErrCodeRefusedStream) }
	_, client := pair()
	for _, tt := range []struct {
		name  string
		addr  string
		group Group
		want  string
	}{
		{"status", says("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), Group{Kind: Events}, "client 0 has 0 events, want 1; its last failure: error status, 404 Not Found"},
		{"another status", says("HTTP/1.1 200 OK\r\nX-Echo: run-0-0-0\r\nContent-Length: 0\r\n\r\n"), Group{Kind: WebSocket}, "does not begin a stream of websocket"},
		{"bare LF", says("HTTP/1.1 200 OK\n\n"), Group{}, `client 0 has 0 answers, want 1; its last failure: lost, malformed answer: "HTTP/1.1 200 OK" ends without CR`},
		{"half an answer", says("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"), Group{}, "its last failure: lost, EOF"},
		{"no echo", says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Group{}, `its last failure: wrong answer, malformed answer: 200 to run-0-0-`},
		{"not TLS", says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Group{TLS: client}, "its last failure: reset on connect, in the TLS handshake: "},
		{"not HTTP/2", says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Group{Kind: HTTP2}, "its last failure: lost, "},
		{"refused streams", answers(refuse), Group{Kind: HTTP2},
			"its last failure: safe to retry, RST_STREAM: REFUSED_STREAM"},
		{"GOAWAY", answers(func(c *server2, _ uint32) { c.fr.WriteGoAway(0, http2.ErrCodeNo, nil) }), Group{Kind: HTTP2}, "its last failure: safe to retry, GOAWAY"},
		{"no streams", answers(refuse, http2.Setting{ID: http2.SettingMaxConcurrentStreams}), Group{Kind: HTTP2},
			"its last failure: the server allows no stream (SETTINGS_MAX_CONCURRENT_STREAMS)"},
		{"refused", wiretest.Refusing, Group{}, "refused before the signal; its last failure: refused, "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := start(t, Config{Addr: tt.addr, Run: "run", EchoHeader: "X-Echo", Groups: []Group{tt.group}})
			got := ""
			defer func() {
				if t.Failed() {
					t.Logf("it said: %s", got)
				}
			}()
			wiretest.WaitFor(t, fmt.Sprintf("%q", tt.want), func() bool {
				waiting, err := l.findCold(1)
				got = fmt.Sprint(waiting, err)
				return strings.Contains(got, tt.want)
			})
		})
	}
}

func TestStartRejects(t *testing.T) {
	const addr = "127.0.0.1:1"
	for want, cfg := range map[string]Config{
		"no such kind":                {Addr: addr, Groups: []Group{{Kind: 77}}},
		"below 0":                     {Addr: addr, Groups: []Group{{N: -1}}},
		"not a request line":          {Addr: addr, Groups: []Group{{Path: "x y"}}},
		"must have no '-'":            {Addr: addr, Run: "a-b"},
		"white space":                 {Addr: addr, EchoHeader: "a b"},
		"missing port in address":     {Addr: "127.0.0.1"},
		"load: group 1: a number or ": {Addr: addr, Groups: []Group{{Delay: time.Hour}, {Body: -1}}},
	} {
		l, err := Start(cfg)
		if err == nil {
			l.Stop()
			l.Wait()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Start(%+v) = %v, want %q", cfg, err, want)
		}
	}
}

func TestWriteTable(t *testing.T) {
	a, total := Counts{Clients: 2, Requests: 9, Refused: 3, RefusedEarly: 1, ErrorStatus: 5, FailedStatus: 4}, Counts{Messages: 8, AnsweredAfter: 4}
	total.Add(&a)
	var b strings.Builder
	WriteTable(&b, "class", []string{"ws", "total"}, []*Counts{&a, &total})
	want := `  class  clients  requests  answered  refused  lost  failed status  refused early  error status
     ws        2         9         0        2     0              4              1             1
  total        2         9         0        2     0              4              1             1
`
	if b.String() != want {
		t.Errorf("WriteTable:\n%s\nwant\n%s", &b, want)
	}
}

func TestLedgerString(t *testing.T) {
	at := time.Unix(1000, 0)
	led := Ledger{Signal: at, Rows: []Row{{Group: "blind", Counts: Counts{Clients: 2, Requests: 12, Answered: 10, Lost: 2, AnsweredAfter: 4}}}}
	led.Rows = append(led.Rows, Row{Group: "fresh", Counts: Counts{Clients: 1, Requests: 1, Refused: 1}, FirstRefusal: at.Add(time.Millisecond)})
	for i := range led.Rows {
		led.Total.add(&led.Rows[i])
	}
	led.Total.Group = "total"
	led.Losses = []Loss{{Outcome: Lost, ID: "r-0-1-5", Group: "blind", Client: 1, Local: "127.0.0.1:5", Remote: "127.0.0.1:80",
		Wrote: at.Add(-2 * time.Millisecond), Failed: at.Add(3 * time.Millisecond), Err: "EOF", How: FIN, Before: Nothing,
		Sent: 90, Earlier: 5, SinceAnswer: 5 * time.Millisecond, SinceConnect: time.Second}}
	want := `  group  clients  requests  answered  refused  lost  after signal
  blind        2        12        10        0     2             4
  fresh        1         1         0        1     0             0
  total        3        13        10        1     2             4
first refusal 1ms after the signal
slowest answer 0s, clients late by up to 0s
lost: r-0-1-5 (blind client 1) 127.0.0.1:5 -> 127.0.0.1:80, written 2ms before the signal, failed 3ms after the signal: FIN, EOF; in the socket before: nothing; sent 90 bytes, got 0; 5 requests before on it, the last answer 5ms earlier, connected 1s earlier
`
	if got := fmt.Sprint(led); got != want {
		t.Errorf("String() =\n%s\nwant\n%s", got, want)
	}
}

// BenchmarkRequest is what a request costs, the raw server's part included.
func BenchmarkRequest(b *testing.B) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
	addr := rawServer(b, func(c *serverConn) {
		buf := make([]byte, 4096)
		for {
			if _, err := c.TCPConn.Read(buf); err != nil {
				return
			}
			c.TCPConn.Write(answer)
		}
	})
	b.ReportAllocs()
	b.ResetTimer()
	l := start(b, Config{Addr: addr, Groups: []Group{{Requests: b.N}}})
	if led := l.Wait(); led.Total.Answered != b.N {
		b.Errorf("%d of %d answered\n%s", led.Total.Answered, b.N, led)
	}
}

// The page about stoptest explains what the report says.
func TestColumnsAreExplained(t *testing.T) {
	b, err := os.ReadFile("../../docs/stoptest.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{"clients": true, "requests": true} // those need no explanation
	for line := range strings.Lines(string(b)) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for name := range strings.SplitSeq(strings.ReplaceAll(cells[1], "*", ""), ",") {
				explained[strings.TrimSpace(name)] = true
			}
		}
	}
	for _, c := range columns[:ofReport] {
		if !explained[c.name] {
			t.Errorf("docs/stoptest.md has no row for %q", c.name)
		}
	}
}
