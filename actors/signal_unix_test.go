//go:build unix

package actors_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/wiretest"
)

func sendSelf(sig syscall.Signal) { syscall.Kill(os.Getpid(), sig) }

// firstAt is when a child has sent itself the first SIGINT.
var firstAt atomic.Int64

func sendFirst() {
	firstAt.Store(time.Now().UnixNano())
	sendSelf(syscall.SIGINT)
}

// work is what a program still has to do once the actors of this package have
// returned. The first SIGINT comes once more meanwhile.
func work() {
	time.Sleep(20 * time.Millisecond)
	if time.Since(time.Unix(0, firstAt.Load())) > 150*time.Millisecond { // on a busy machine
		fmt.Println("late")
		os.Exit(0)
	}
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
		go sendFirst()
		return sup.Err(g.Run())
	},
	"ListenAndServe": func() error {
		srv := &http.Server{Addr: "127.0.0.1:0", BaseContext: func(net.Listener) context.Context {
			sendFirst()
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
	go sendFirst()
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
			out, status := "late\n", 0
			for tries := 0; out == "late\n" && tries < 20; tries++ {
				out, status = childOf(t, "TestSameInterruptTwice", name)
			}
			if status != 0 || out != "saved\n" {
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
				if err := wiretest.Wait(t, done, "the group"); way == "Begin" && err != cause || way != "Begin" && err != nil {
					t.Errorf("Err = %v, want nil, or at Begin %v", err, cause)
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
	began := make(chan struct{})
	g.Add(func() error { stop.Begin(failure); <-began; return failure }, func(error) { close(began) })
	if err := stop.Err(g.Run()); err != failure {
		t.Errorf("Err = %v, want %v", err, failure)
	}
}

// TestBeginSupervised begins the stop because of a failure while a request is in flight:
// run.Group has the nil of Signal first.
func TestBeginSupervised(t *testing.T) {
	stop := new(actors.Stop)
	sup := &actors.Supervisor{Stop: stop}
	failure := errors.New("no more memory")
	l, err := net.Listen("tcp", wiretest.LoopbackIP()+":0")
	if err != nil {
		t.Fatal(err)
	}
	var g run.Group
	g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stop.Begin(failure)
		<-stop.Begun()
		io.WriteString(w, "ok")
	})}, l)))
	g.Add(actors.Signal(stop, syscall.SIGTERM))
	done := make(chan error, 1)
	go func() { done <- sup.Err(g.Run()) }()
	if _, body := wiretest.Exchange(t, l.Addr().String(), "GET", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); body != "ok" {
		t.Errorf("answer = %q, want ok", body)
	}
	if err := wiretest.Wait(t, done, "the group"); err != failure {
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
