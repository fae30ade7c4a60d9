package actors_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/run"

	"lastcall/actors"
)

// readyz returns the status of a probe.
func readyz(stop *actors.Stop) int {
	rec := httptest.NewRecorder()
	actors.Health(stop, "/", nil).ServeHTTP(rec, httptest.NewRequest("GET", "/readyz", nil))
	return rec.Code
}

// noting is an actor that notes its execute and its interrupt.
func noting(d *diary, name string) (execute func() error, interrupt func(error)) {
	interrupted := make(chan struct{})
	return func() error { d.add("%s starts", name); <-interrupted; return nil },
		func(error) { d.add("%s interrupted", name); close(interrupted) }
}

// TestStartFirst has a pool, which is ready after a second, a migration that
// takes one more, and then what uses them, in every order of Add.
func TestStartFirst(t *testing.T) {
	type add = func(*run.Group, *actors.Supervisor, *diary)
	adds := []add{
		func(g *run.Group, sup *actors.Supervisor, d *diary) {
			g.Add(sup.Actor("pool", actors.ActorConfig{Stage: 3, StartFirst: true, Ready: func(context.Context) error {
				time.Sleep(time.Second)
				d.add("pool ready")
				return nil
			}})(noting(d, "pool")))
		},
		func(g *run.Group, sup *actors.Supervisor, d *diary) {
			g.Add(sup.Actor("migrate", actors.ActorConfig{Stage: 2, StartFirst: true})(actors.Once(sup.Stop, func(context.Context) error {
				d.add("migration begins")
				time.Sleep(time.Second)
				d.add("migrated, readyz %d", readyz(sup.Stop))
				return nil
			}, actors.OnceConfig{})))
		},
		func(g *run.Group, sup *actors.Supervisor, d *diary) {
			g.Add(sup.Actor("worker", actors.ActorConfig{Stage: -1})(noting(d, "worker")))
		},
		func(g *run.Group, sup *actors.Supervisor, d *diary) {
			down := make(chan struct{})
			g.Add(sup.Actor("grpc", actors.ActorConfig{})(actors.Graceful(sup.Stop,
				func() error {
					time.Sleep(time.Second)
					d.add("serving, readyz %d", readyz(sup.Stop))
					<-down
					return nil
				},
				func(context.Context) error { close(down); return nil }, actors.GracefulConfig{})))
		},
	}
	for _, order := range permutations(adds) {
		synctest.Test(t, func(t *testing.T) {
			var d, logged diary
			sup := &actors.Supervisor{Stop: &actors.Stop{Logger: &logged}}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var g run.Group
			for _, add := range order {
				add(&g, sup, &d)
			}
			g.Add(run.ContextHandler(ctx))
			if err := sup.Err(ends(t, &g)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Err = %v", err)
			}
			want := []string{"pool starts", "pool ready", "migration begins", "migrated, readyz 503",
				"worker starts", "serving, readyz 200", "worker interrupted", "pool interrupted"}
			if diff := cmp.Diff(want, d.read()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			// An actor that waits is in the group, however long it waits.
			if log := strings.Join(logged.read(), "\n"); strings.Contains(log, "level=warn") || strings.Contains(log, "level=error") {
				t.Errorf("the log has a warning or an error:\n%s", log)
			}
		})
	}
}

// TestStartFirstReports: each actor of this package reports when it is ready,
// without the field Ready.
func TestStartFirstReports(t *testing.T) {
	job := func(d *diary) func(context.Context) error {
		return func(context.Context) error { time.Sleep(time.Second); d.add("ready"); return nil }
	}
	for _, tt := range []struct {
		name string
		make func(*actors.Stop, *diary) (func() error, func(error))
	}{
		{"once", func(stop *actors.Stop, d *diary) (func() error, func(error)) {
			return actors.Once(stop, job(d), actors.OnceConfig{})
		}},
		{"every", func(stop *actors.Stop, d *diary) (func() error, func(error)) {
			return actors.Every(stop, actors.Interval(time.Hour), job(d), actors.EveryConfig{AtStart: true})
		}},
		{"every, later", func(stop *actors.Stop, d *diary) (func() error, func(error)) {
			d.add("ready")
			return actors.Every(stop, actors.Interval(time.Hour), job(d), actors.EveryConfig{})
		}},
		{"graceful", func(stop *actors.Stop, d *diary) (func() error, func(error)) {
			down := make(chan struct{})
			d.add("ready")
			return actors.Graceful(stop, func() error { <-down; return nil }, func(context.Context) error { close(down); return nil }, actors.GracefulConfig{})
		}},
		{"once, at the second attempt", func(stop *actors.Stop, d *diary) (func() error, func(error)) {
			attempts := 0
			return actors.Once(stop, func(ctx context.Context) error {
				if attempts++; attempts == 1 {
					return errors.New("boom")
				}
				return job(d)(ctx)
			}, actors.OnceConfig{})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var d diary
				sup := &actors.Supervisor{Stop: new(actors.Stop)}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var g run.Group
				g.Add(sup.Actor("later", actors.ActorConfig{})(noting(&d, "later")))
				g.Add(sup.Actor("first", actors.ActorConfig{Stage: 1, StartFirst: true, Restart: &actors.Restart{}})(tt.make(sup.Stop, &d)))
				g.Add(run.ContextHandler(ctx))
				time.AfterFunc(time.Minute, cancel)
				if err := sup.Err(ends(t, &g)); err != nil {
					t.Errorf("Err = %v", err)
				}
				if diff := cmp.Diff([]string{"ready", "later starts", "later interrupted"}, d.read()); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
			})
		})
	}
}

// TestStartFirstHoldsReady: the process is not ready before the migration is
// done, also if all that serves does so already.
func TestStartFirstHoldsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sup := &actors.Supervisor{Stop: new(actors.Stop)}
		down := make(chan struct{})
		var g run.Group
		g.Add(actors.Graceful(sup.Stop, func() error { <-down; return nil }, func(context.Context) error { close(down); return nil }, actors.GracefulConfig{}))
		g.Add(sup.Actor("migrate", actors.ActorConfig{Stage: 1, StartFirst: true})(actors.Once(sup.Stop, func(context.Context) error {
			time.Sleep(time.Second)
			if status := readyz(sup.Stop); status != 503 || sup.Stop.Phase() != actors.Starting {
				t.Errorf("while it migrates: readyz %d, phase %v, want 503 and starting", status, sup.Stop.Phase())
			}
			return nil
		}, actors.OnceConfig{})))
		g.Add(func() error {
			time.Sleep(2 * time.Second)
			if status := readyz(sup.Stop); status != 200 {
				t.Errorf("when it has migrated: readyz %d, want 200", status)
			}
			return nil
		}, func(error) {})
		if err := sup.Err(ends(t, &g)); err != nil {
			t.Errorf("Err = %v", err)
		}
	})
}

// TestNeverStarted: what waits when the stop begins never starts, and does not
// hold the stop, whatever its lame-duck time.
func TestNeverStarted(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name  string
		ready func(context.Context) error
		job   func(context.Context) error
		stop  func(*actors.Stop, context.CancelFunc)
		want  error
		cause string
	}{
		{"the first fails", nil, func(context.Context) error { time.Sleep(time.Second); return boom }, nil, boom, "migrate"},
		{"it does not get ready", func(context.Context) error { return boom }, func(context.Context) error { return nil }, nil, boom, "migrate"},
		{"a stop begins", nil, func(ctx context.Context) error { time.Sleep(time.Second); return nil },
			func(stop *actors.Stop, _ context.CancelFunc) { time.Sleep(time.Millisecond); stop.Begin(nil) }, nil, ""},
		{"another actor ends", nil, func(ctx context.Context) error { time.Sleep(time.Second); return nil },
			func(_ *actors.Stop, cancel context.CancelFunc) { time.Sleep(time.Millisecond); cancel() }, nil, ""},
		{"Ready is still waiting", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, func(context.Context) error { return nil },
			func(stop *actors.Stop, _ context.CancelFunc) { time.Sleep(time.Millisecond); stop.Begin(nil) }, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var d, logged diary
				sup := &actors.Supervisor{Stop: &actors.Stop{LameDuck: time.Hour, Logger: &logged}}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				l := &memoryListener{closed: make(chan struct{})}
				var g run.Group
				g.Add(sup.Actor("web", actors.ActorConfig{})(actors.HTTP(sup.Stop, &http.Server{Handler: http.NotFoundHandler()}, l)))
				g.Add(sup.Actor("grpc", actors.ActorConfig{})(actors.Graceful(sup.Stop,
					func() error { d.add("grpc starts"); return nil },
					func(context.Context) error { d.add("grpc shut down"); return nil }, actors.GracefulConfig{})))
				g.Add(sup.Actor("worker", actors.ActorConfig{})(noting(&d, "worker")))
				g.Add(sup.Actor("cron", actors.ActorConfig{})(actors.Every(sup.Stop, actors.Interval(time.Hour), func(context.Context) error { d.add("ran"); return nil }, actors.EveryConfig{AtStart: true})))
				g.Add(sup.Actor("migrate", actors.ActorConfig{Stage: 1, StartFirst: true, Ready: tt.ready})(actors.Once(sup.Stop, tt.job, actors.OnceConfig{})))
				g.Add(run.ContextHandler(ctx))
				if tt.stop != nil {
					go tt.stop(sup.Stop, cancel)
				}
				start := time.Now()
				if err := sup.Err(ends(t, &g)); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
					t.Errorf("Err = %v, want %v", err, tt.want)
				}
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("the stop took %v", took)
				}
				got := d.read()
				slices.Sort(got)
				if diff := cmp.Diff([]string{"grpc shut down", "worker interrupted"}, got); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
				if !l.isClosed() || l.accepts > 0 {
					t.Errorf("the listener accepted %d times, closed: %v, want 0 and true", l.accepts, l.isClosed())
				}
				s := sup.Snapshot()
				if s.Phase != actors.Stopped || s.First != tt.cause {
					t.Errorf("phase %v, first %q, want stopped and %q", s.Phase, s.First, tt.cause)
				}
				for _, a := range s.Actors[:4] {
					if a.State != actors.Ended || !a.Began.IsZero() || a.Ended.IsZero() {
						t.Errorf("%s: %+v, want ended without having begun", a.Name, a)
					}
				}
				if n := strings.Count(strings.Join(logged.read(), "\n"), "msg=waiting to start for=migrate"); n != 4 {
					t.Errorf("%d lines say what actors wait for, want 4:\n%s", n, strings.Join(logged.read(), "\n"))
				}
			})
		})
	}
}

// TestNeverStartedLate has a Graceful that waits to start when the stop begins, and
// whose stage gets its turn late. It is not mistaken for an actor that was not
// added, which is one that is not executed within a second: neither if the group is
// almost a second old when the stop begins, nor if an earlier stage takes more than
// a second.
func TestNeverStartedLate(t *testing.T) {
	for _, slow := range []time.Duration{100 * time.Millisecond, 3 * time.Second} {
		t.Run(slow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var d, logged diary
				sup := &actors.Supervisor{Stop: &actors.Stop{Logger: &logged}}
				var g run.Group
				g.Add(sup.Actor("slow", actors.ActorConfig{})(func() error { return nil }, func(error) { time.Sleep(slow) }))
				g.Add(sup.Actor("grpc", actors.ActorConfig{Stage: 1})(actors.Graceful(sup.Stop, func() error { return nil },
					func(context.Context) error { d.add("grpc shut down"); return nil }, actors.GracefulConfig{})))
				g.Add(sup.Actor("migrate", actors.ActorConfig{Stage: 2, StartFirst: true})(actors.Once(sup.Stop, func(context.Context) error {
					time.Sleep(950 * time.Millisecond)
					return fails()
				}, actors.OnceConfig{})))
				if err := sup.Err(ends(t, &g)); err == nil {
					t.Error("Err = nil, want that of migrate")
				}
				if diff := cmp.Diff([]string{"grpc shut down"}, d.read()); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
				if log := strings.Join(logged.read(), "\n"); strings.Contains(log, "not added") {
					t.Errorf("the log says that an actor is not in the group:\n%s", log)
				}
			})
		})
	}
}

// memoryListener has no connections.
type memoryListener struct {
	accepts int
	closed  chan struct{}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	l.accepts++
	<-l.closed
	return nil, net.ErrClosed
}

func (l *memoryListener) Close() error {
	if !l.isClosed() {
		close(l.closed)
	}
	return nil
}

func (l *memoryListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *memoryListener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// TestNeverStartedHangs: an actor whose interrupt does not return is left behind
// like any other.
func TestNeverStartedHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sup := &actors.Supervisor{Stop: &actors.Stop{Grace: 5 * time.Second}}
		free := make(chan struct{})
		defer close(free)
		var g run.Group
		g.Add(sup.Actor("web", actors.ActorConfig{})(func() error { return nil }, func(error) { <-free }))
		g.Add(sup.Actor("migrate", actors.ActorConfig{Stage: 1, StartFirst: true})(actors.Once(sup.Stop, func(context.Context) error { return fails() }, actors.OnceConfig{})))
		start := time.Now()
		var hang *actors.HangError
		if err := sup.Err(ends(t, &g)); !errors.As(err, &hang) || hang.Actor != "web" || time.Since(start) != 6*time.Second {
			t.Errorf("Err = %v after %v, want a HangError of web after 6 s", err, time.Since(start))
		}
	})
}

// A migration before HTTP serves. The pool, which the migration needs, starts
// before both and stops after them.
func ExampleActorConfig_startFirst() {
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	closed := make(chan struct{})
	connect := func(context.Context) error { fmt.Println("connected"); return nil } // say, db.PingContext
	migrate := func(context.Context) error { fmt.Println("migrated"); return nil }

	var stop actors.Stop
	sup := &actors.Supervisor{Stop: &stop}
	var g run.Group
	g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(&stop, &http.Server{Handler: actors.Health(&stop, "/", nil)}, l)))
	g.Add(sup.Actor("migrate", actors.ActorConfig{Stage: 1, StartFirst: true})(actors.Once(&stop, migrate, actors.OnceConfig{})))
	g.Add(sup.Actor("pool", actors.ActorConfig{Stage: 2, StartFirst: true, Ready: connect})(
		func() error { <-closed; return nil },
		func(error) { fmt.Println("pool closed"); close(closed) },
	))
	g.Add(func() error { // a client; when this ends, the group does
		resp, err := http.Get("http://" + l.Addr().String() + "/readyz") // waits for HTTP to serve
		if err != nil {
			return err
		}
		defer http.DefaultClient.CloseIdleConnections()
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		fmt.Print(string(body))
		return err
	}, func(error) {})
	fmt.Println(sup.Err(g.Run()))
	// Output:
	// connected
	// migrated
	// ready
	// pool closed
	// <nil>
}

// An actor that never starts has the time of its Within, too.
func TestUnstartedWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := actors.Stop{Grace: 10 * time.Second}
		sup := &actors.Supervisor{Stop: &stop}
		var g run.Group
		var within time.Duration
		shutdown := func(ctx context.Context) error {
			deadline, _ := ctx.Deadline()
			within = time.Until(deadline)
			return nil
		}
		g.Add(sup.Actor("graceful", actors.ActorConfig{Within: 2 * time.Second})(actors.Graceful(&stop, nil, shutdown, actors.GracefulConfig{})))
		var own time.Duration
		g.Add(sup.Actor("own", actors.ActorConfig{Within: 2 * time.Second})(func() error { return nil }, func(cause error) { own = time.Until(stop.DeadlineOf(cause)) }))
		fails := func(context.Context) error { return errors.New("bad") }
		g.Add(sup.Actor("migrate", actors.ActorConfig{Stage: 1, StartFirst: true})(actors.Once(&stop, fails, actors.OnceConfig{})))
		g.Run()
		if within != 2*time.Second || own != 2*time.Second {
			t.Errorf("shutdown had %v, want 2s; DeadlineOf(cause) leaves %v, want 2s", within, own)
		}
	})
}
