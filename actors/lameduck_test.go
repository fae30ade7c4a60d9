package actors_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lastcall/actors"
)

// pipes is a listener in memory.
type pipes struct {
	conns chan net.Conn
	over  chan struct{}
	close func()
}

func newPipes() *pipes {
	p := &pipes{conns: make(chan net.Conn), over: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.over) })
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-p.conns:
		return nc, nil
	case <-p.over:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return new(net.UnixAddr) }

// dial returns nil if the listener is closed.
func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client
	case <-p.over:
		return nil
	}
}

// get makes a request, and reads the answer.
func get(t *testing.T, nc net.Conn, path, agent string) {
	t.Helper()
	if _, err := io.WriteString(nc, "GET "+path+" HTTP/1.1\r\nHost: x\r\nUser-Agent: "+agent+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

// TestLameDuckQuiet has the lame-duck time end when no client comes any more.
func TestLameDuckQuiet(t *testing.T) {
	const longest, quiet, grace = 30 * time.Second, 2 * time.Second, 10 * time.Second
	fresh := func(path, agent string) func(*testing.T, *pipes, net.Conn) {
		return func(t *testing.T, p *pipes, _ net.Conn) {
			if nc := p.dial(); nc != nil {
				get(t, nc, path, agent)
				nc.Close()
			}
		}
	}
	for _, tt := range []struct {
		name   string
		visit  func(t *testing.T, p *pipes, old net.Conn) // once a second
		visits int                                        // so often
		want   time.Duration                              // how long the lame-duck time is
	}{
		{"nobody comes", nil, 0, quiet},
		{"clients come for 5 s", fresh("/", "curl/8"), 5, 5*time.Second + quiet},
		{"clients never cease", fresh("/", "curl/8"), 100, longest},
		{"probes by their path", fresh("/-/readyz", "curl/8"), 100, quiet},
		{"probes of Kubernetes", fresh("/", "kube-probe/1.31"), 100, quiet},
		{"scrapes", fresh("/metrics", "Prometheus/3.1.0"), 100, quiet},
		{"connections without a request", func(t *testing.T, p *pipes, _ net.Conn) {
			if nc := p.dial(); nc != nil {
				nc.Close()
			}
		}, 100, quiet},
		{"a client that was there before", func(t *testing.T, p *pipes, old net.Conn) { get(t, old, "/", "curl/8") }, 1, quiet},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stop := &actors.Stop{LameDuck: longest, LameDuckQuiet: quiet, Grace: grace}
				p := newPipes()
				execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})}, p)
				var visits sync.WaitGroup
				ended := make(chan error)
				go func() { ended <- execute() }()
				old := p.dial()
				get(t, old, "/", "curl/8")
				began := time.Now()
				interrupt(nil)
				visits.Go(func() {
					for range tt.visits {
						select {
						case <-stop.Draining():
							return
						case <-time.After(time.Second):
							tt.visit(t, p, old)
						}
					}
				})
				<-stop.Draining()
				if took := time.Since(began); took != tt.want {
					t.Errorf("draining began %v after the stop, want %v", took, tt.want)
				}
				if deadline, _ := stop.Deadline(); deadline.Sub(began) != tt.want+grace {
					t.Errorf("the deadline is %v after the stop began, want %v", deadline.Sub(began), tt.want+grace)
				}
				visits.Wait()
				old.Close()
				if err := <-ended; err != nil {
					t.Errorf("execute = %v, want nil", err)
				}
			})
		})
	}
}

// TestUndrain takes a stop back, begins it again, and lets it become final: by its
// time, or by a signal.
func TestUndrain(t *testing.T) {
	const lameDuck, grace = 10 * time.Second, 5 * time.Second
	for name, signal := range map[string]bool{"time": false, "signal": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stop := &actors.Stop{LameDuck: lameDuck, Grace: grace}
				p := newPipes()
				execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})}, p)
				ended := make(chan error)
				go func() { ended <- execute() }()
				check := func(when string, phase actors.Phase, last, undrain bool) {
					t.Helper()
					nc := p.dial()
					if nc == nil {
						t.Fatalf("%s: the listener is closed", when)
					}
					defer nc.Close()
					io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
					if err != nil {
						t.Fatal(err)
					}
					if snap := stop.Snapshot(); snap.Phase != phase || resp.Close != last || snap.CanUndrain != undrain {
						t.Errorf("%s: phase %v, the answer is the last: %v, can be taken back: %v, want %v, %v, %v",
							when, snap.Phase, resp.Close, snap.CanUndrain, phase, last, undrain)
					}
				}
				synctest.Wait()
				check("at first", actors.Ready, false, false)
				if stop.Undrain() {
					t.Error("Undrain = true without a stop")
				}
				stop.Drain(nil)
				check("Drain", actors.LameDuck, true, true)
				time.Sleep(lameDuck / 2)
				if !stop.Undrain() {
					t.Error("Undrain = false, want true")
				}
				check("Undrain", actors.Ready, false, false)
				time.Sleep(2 * lameDuck)
				check("long after Undrain", actors.Ready, false, false)

				began := time.Now()
				stop.Drain(nil)
				time.Sleep(lameDuck / 2)
				check("Drain again", actors.LameDuck, true, true)
				if signal {
					interrupt(nil)
					check("interrupt", actors.LameDuck, true, false)
					if stop.Undrain() {
						t.Error("Undrain = true after an interrupt")
					}
				}
				<-stop.Draining()
				if took := time.Since(began); took != lameDuck {
					t.Errorf("draining began %v after Drain, want %v", took, lameDuck)
				}
				if deadline, ok := stop.Deadline(); !ok || deadline.Sub(began) != lameDuck+grace {
					t.Errorf("the deadline is %v after Drain, want %v", deadline.Sub(began), lameDuck+grace)
				}
				if stop.Undrain() {
					t.Error("Undrain = true while draining")
				}
				if err := <-ended; err != nil {
					t.Errorf("execute = %v, want nil", err)
				}
				if snap := stop.Snapshot(); !snap.Began.Equal(began) {
					t.Errorf("the stop began %v after Drain, want 0", snap.Began.Sub(began))
				}
			})
		})
	}
}
