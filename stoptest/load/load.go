package load

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Load is a running load.
type Load struct {
	cfg     Config
	dial    func(ctx context.Context, client int) (net.Conn, error) // nil: groups have their own
	started time.Time
	ctx     context.Context // done: no further request begins
	cancel  context.CancelFunc
	ready   atomic.Bool
	signal  atomic.Pointer[time.Time]
	reload  atomic.Pointer[time.Time] // when it was done
	clients sync.WaitGroup

	mu      sync.Mutex
	groups  []*group
	number  int // of clients so far
	losses  []Loss
	dropped int // losses beyond maxLosses
}

// Start starts the clients. An error says what is wrong with the Config.
func Start(cfg Config) (*Load, error) {
	cfg.Run = cmp.Or(cfg.Run, strings.ToLower(rand.Text()[:6]))
	cfg.AnswerTimeout = cmp.Or(cfg.AnswerTimeout, 30*time.Second)
	cfg.DialTimeout = cmp.Or(cfg.DialTimeout, 10*time.Second)
	cfg.MaxTime = cmp.Or(cfg.MaxTime, 5*time.Minute)
	if strings.ContainsAny(cfg.Run, "- \r\n") {
		return nil, fmt.Errorf("load: run %q: must have no '-' and no white space", cfg.Run)
	}
	if strings.ContainsAny(cfg.Host+cfg.EchoHeader, " \r\n") {
		return nil, errors.New("load: white space in a header's name or in the host")
	}
	if err := CheckHeader(cfg.Header); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	l := &Load{cfg: cfg, dial: cfg.Dial, started: time.Now()}
	if l.dial == nil && cfg.Addr != "" {
		dial, err := dialer(cfg.Addr)
		if err != nil {
			return nil, fmt.Errorf("load: %w", err)
		}
		l.dial = dial
	}
	groups := make([]*group, len(cfg.Groups))
	for i, spec := range cfg.Groups {
		g, err := l.newGroup(spec)
		if err != nil {
			return nil, fmt.Errorf("load: group %d: %w", i, err)
		}
		groups[i] = g
	}
	l.ctx, l.cancel = context.WithTimeout(context.Background(), cfg.MaxTime)
	for _, g := range groups {
		l.add(g)
	}
	return l, nil
}

// Add starts a further group, such as slow requests that should be in flight at
// the signal. It must not be called after Wait.
func (l *Load) Add(spec Group) error {
	g, err := l.newGroup(spec)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	l.add(g)
	return nil
}

// Ready waits until each client has had the given number of answers, or as
// many as its group's Requests allow, and those that are Idle have fallen
// silent. For Events and WebSocket, events and echoes count as answers. It returns
// an error if a client ends before that, if a dial is refused, or as [Load.CheckMethods]
// does.
func (l *Load) Ready(ctx context.Context, answers int) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		waiting, err := l.findCold(answers)
		if err != nil || waiting == "" {
			l.ready.Store(err == nil)
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("load: %s: %w", waiting, ctx.Err())
		case <-tick.C:
		}
	}
}

// findCold describes a client that Ready waits for, or returns "".
func (l *Load) findCold(answers int) (string, error) {
	if err := l.CheckMethods(); err != nil {
		return "", err
	}
	for _, g := range l.allGroups() {
		want := answers
		if g.Requests > 0 {
			want = min(want, g.Requests)
		}
		for _, c := range g.clients {
			c.mu.Lock()
			got, messages, silent, ended, early, last := c.row.Answered, c.row.Messages, c.silent, c.row.Running == 0, c.row.RefusedEarly, c.lastFailure
			c.mu.Unlock()
			warm, what := got >= want, "answers"
			if last != "" {
				last = "; its last failure: " + last
			}
			switch g.Kind {
			case Idle:
				warm = silent
			case Events:
				got, warm, what = messages, messages >= answers, "events"
			case WebSocket:
				got, warm, what = messages, messages >= answers, "echoes"
			}
			switch {
			case early > 0:
				return "", fmt.Errorf("load: %s client %d: refused before the signal%s", g.Name, c.index, last)
			case !warm && ended:
				return "", fmt.Errorf("load: %s client %d ended after %d %s, want %d%s", g.Name, c.index, got, what, want, last)
			case !warm:
				return fmt.Sprintf("%s client %d has %d %s, want %d%s", g.Name, c.index, got, what, want, last), nil
			}
		}
	}
	return "", nil
}

// CheckMethods returns an error if a request was answered 405, or 501 before the signal:
// the server does not do what the load asks of it.
func (l *Load) CheckMethods() error {
	for _, g := range l.allGroups() {
		for _, c := range g.clients {
			c.mu.Lock()
			status := c.unknownMethod
			c.mu.Unlock()
			if status != 0 {
				return fmt.Errorf("load: %s client %d: %s %s was answered %d %s", g.Name, c.index, g.Method, g.Path, status, http.StatusText(status))
			}
		}
	}
	return nil
}

func (l *Load) allGroups() []*group {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.groups[:len(l.groups):len(l.groups)]
}

// Signalled records that the server gets the signal at t. From then on a client
// whose dial is refused ends, and an answer 5xx is [FailedStatus]. Dials that are
// refused before are counted as early. Only the first call counts.
func (l *Load) Signalled(t time.Time) {
	if l.signal.CompareAndSwap(nil, &t) && l.cfg.GoesOn {
		l.watchConns()
	}
}

func (l *Load) isSignalled() bool { return l.signal.Load() != nil }

// isAfterSignal reports whether the signal was sent, at t or before.
func (l *Load) isAfterSignal(t time.Time) bool {
	signal := l.signal.Load()
	return signal != nil && !t.Before(*signal)
}

// Stop ends the load of a server that keeps running: no further request begins,
// and clients end their streams. It does not wait, and ends no request.
func (l *Load) Stop() { l.cancel() }

// Wait waits until all clients have ended, which takes at most the times of the
// Config, and returns the ledger.
func (l *Load) Wait() Ledger {
	l.clients.Wait()
	l.cancel()
	return l.Snapshot()
}
