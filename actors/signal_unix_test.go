//go:build unix

package actors_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/wiretest"
)

func sendSelf(sig syscall.Signal) { syscall.Kill(os.Getpid(), sig) }

// work is what a program still has to do once the actors of this package have
// returned. The first SIGINT comes once more meanwhile.
func work() {
	time.Sleep(20 * time.Millisecond)
	sendSelf(syscall.SIGINT)
	time.Sleep(50 * time.Millisecond)
	fmt.Println("saved")
}

// sameInterruptTwice are programs that do work after the first SIGINT.
var sameInterruptTwice = map[string]func() error{
	"own actor": func() error {
		var stop actors.Stop
		return runAndWork(&stop, &stop)
	},
	"nil stop": func() error { return runAndWork(nil, new(actors.Stop)) },
	"supervisor": func() error {
		sup := new(actors.Supervisor)
		var stop actors.Stop
		sup.Stop = &stop
		done := make(chan struct{})
		var g run.Group
		g.Add(sup.Actor("db", actors.ActorConfig{})(func() error { <-done; work(); return nil }, func(error) { close(done) }))
		g.Add(actors.Signal(&stop))
		go sendSelf(syscall.SIGINT)
		return sup.Err(g.Run())
	},
	"ListenAndServe": func() error {
		srv := &http.Server{Addr: "127.0.0.1:0", BaseContext: func(net.Listener) context.Context {
			sendSelf(syscall.SIGINT)
			return context.Background()
		}}
		err := actors.ListenAndServe(srv)
		work()
		return err
	},
}

func runAndWork(stop, errOf *actors.Stop) error {
	done := make(chan struct{})
	var g run.Group
	g.Add(actors.Signal(stop))
	g.Add(func() error { <-done; work(); return nil }, func(error) { close(done) })
	go sendSelf(syscall.SIGINT)
	return errOf.Err(g.Run())
}

// TestSameInterruptTwice: the second of two SIGINTs that are the same one does not end
// the process, however soon the actors of this package have returned.
func TestSameInterruptTwice(t *testing.T) {
	if name := os.Getenv("LASTCALL_CHILD"); name != "" {
		os.Exit(actors.ExitStatus(sameInterruptTwice[name]()))
	}
	t.Parallel()
	for name := range sameInterruptTwice {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if out, status := childOf(t, "TestSameInterruptTwice", name); status != 0 || out != "saved\n" {
				t.Errorf("the process printed %q, status %d, want saved and 0", out, status)
			}
		})
	}
}

// TestSecondInterruptSupervised has an actor of one's own hold a Supervisor, after
// HTTP has returned: a second SIGINT is for it.
func TestSecondInterruptSupervised(t *testing.T) {
	if os.Getenv("LASTCALL_CHILD") != "" {
		var logged lines
		stop := &actors.Stop{Logger: &logged, Grace: time.Hour}
		sup := &actors.Supervisor{Stop: stop}
		var g run.Group
		g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(stop, &http.Server{Addr: "127.0.0.1:0"})))
		g.Add(sup.Actor("db", actors.ActorConfig{Stage: 1})(func() error {
			<-stop.Done()
			time.Sleep(notTheSame)
			sendSelf(syscall.SIGINT)
			logged.until(t, "second interrupt")
			return nil
		}, func(error) {}))
		g.Add(actors.Signal(stop))
		go sendSelf(syscall.SIGINT)
		os.Exit(actors.ExitStatus(sup.Err(g.Run())))
	}
	t.Parallel()
	if out, status := childOf(t, "TestSecondInterruptSupervised", "x"); status != 3 {
		t.Errorf("exit status = %d, want 3:\n%s", status, out)
	}
}

// TestBeginEndsGroup: Begin ends a group in which nothing but Signal watches the stop,
// and so does Drain at the end of the lame-duck time.
func TestBeginEndsGroup(t *testing.T) {
	cause := errors.New("maintenance")
	for name, add := range map[string]func(stop *actors.Stop) (func() error, func(error)){
		"graceful": func(stop *actors.Stop) (func() error, func(error)) {
			return actors.Graceful(stop, nil, func(ctx context.Context) error { return ctx.Err() }, actors.GracefulConfig{})
		},
		"every": func(stop *actors.Stop) (func() error, func(error)) {
			return actors.Every(stop, actors.Interval(time.Hour), func(context.Context) error { return nil }, actors.EveryConfig{})
		},
		"once": func(stop *actors.Stop) (func() error, func(error)) {
			return actors.Once(stop, func(context.Context) error { return nil }, actors.OnceConfig{})
		},
		"process": func(stop *actors.Stop) (func() error, func(error)) {
			return actors.Process(stop, sh("exec sleep 1h"), actors.ProcessConfig{})
		},
	} {
		for _, way := range []string{"Begin", "Drain", "Drain after a lame-duck time"} {
			t.Run(name+", "+way, func(t *testing.T) {
				t.Parallel()
				stop := new(actors.Stop)
				if strings.HasSuffix(way, "time") {
					stop.LameDuck = 20 * time.Millisecond
				}
				var g run.Group
				g.Add(add(stop))
				g.Add(actors.Signal(stop, syscall.SIGTERM))
				started := make(chan struct{})
				end := make(chan struct{})
				g.Add(func() error { close(started); <-end; return nil }, func(error) { close(end) })
				done := make(chan error, 1)
				go func() { done <- stop.Err(g.Run()) }()
				<-started
				if way == "Begin" {
					stop.Begin(cause)
				} else {
					stop.Drain(cause)
				}
				if err := wiretest.Wait(t, done, "the group"); err != nil {
					t.Errorf("Err = %v, want nil", err)
				}
				if got := stop.Snapshot().Cause; got != cause {
					t.Errorf("cause = %v, want %v", got, cause)
				}
			})
		}
	}
}

// TestBeginAndReturn has an actor begin the stop by itself: its error is not lost,
// although Signal returns because of that.
func TestBeginAndReturn(t *testing.T) {
	stop := new(actors.Stop)
	failure := errors.New("no more memory")
	var g run.Group
	g.Add(actors.Signal(stop, syscall.SIGTERM))
	g.Add(func() error { stop.Begin(failure); return failure }, func(error) {})
	if err := stop.Err(g.Run()); err != failure {
		t.Errorf("Err = %v, want %v", err, failure)
	}
}

// TestSignalsGivenBack: a server that cannot be started leaves SIGTERM as it was.
func TestSignalsGivenBack(t *testing.T) {
	if os.Getenv("LASTCALL_CHILD") != "" {
		for range 3 {
			if err := actors.ListenAndServe(&http.Server{Addr: "nonsense"}); err == nil {
				t.Error("ListenAndServe() = nil at a wrong address")
			}
		}
		sendSelf(syscall.SIGTERM)
		time.Sleep(5 * time.Second)
		os.Exit(0)
	}
	t.Parallel()
	if out, status := childOf(t, "TestSignalsGivenBack", "x"); status != -1 {
		t.Errorf("exit status = %d, want that SIGTERM ends the process:\n%s", status, out)
	}
}

// TestServeTLSAgain: after a try that could not listen srv is as it was, so that the
// next one gets its certificate from the files again.
func TestServeTLSAgain(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, dir)
	srv := &http.Server{Addr: "nonsense"}
	for range 2 {
		if err := new(actors.Stop).ListenAndServeTLS(srv, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")); err == nil {
			t.Fatal("ListenAndServeTLS() = nil at a wrong address")
		}
		if srv.TLSConfig != nil {
			t.Error("srv.TLSConfig is not what it was")
		}
	}
}
