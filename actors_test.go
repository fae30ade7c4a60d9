//go:build unix

package main

import (
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"lastcall/internal/e2e"
	"lastcall/stoptest/line"
	"lastcall/stoptest/load"
)

// These tests run the real binary, load it over real sockets, stop it with real
// signals, and account for each request. Some start this test binary again, as a
// program that uses the library, or as the program behind the proxy.

func TestMain(m *testing.M) { e2e.Main(m, nil) }

// stopBoth stops the binary and a program that uses the library under the mixed
// load, over the line if there is one.
func stopBoth(t *testing.T, over *line.Line) {
	for name, start := range map[string]e2e.Starter{"proxy": e2e.StartProxy, "library": e2e.StartLibrary} {
		t.Run(name, func(t *testing.T) {
			e2e.ParallelIfFew(t) // with one another
			for range *e2e.Stops {
				tr := e2e.Mixed(5 * time.Millisecond).Few()
				ledger, served := e2e.StopUnderLoad(t, start, over, tr)
				e2e.CheckNothingLost(t, ledger, served, tr)
			}
		})
	}
}

func TestStopUnderLoad(t *testing.T) { stopBoth(t, nil) }

func TestStopWithLongThinkTime(t *testing.T) {
	t.Parallel()
	think := 600 * time.Millisecond // more than a client is assumed to pause that has not paused yet
	if *e2e.Long {
		think = 1500 * time.Millisecond
	}
	tr := e2e.Traffic{Warm: 3, Groups: []load.Group{
		{Name: "blind", Kind: load.Reuse, N: 500, Think: think, Method: "POST", Body: 16},
		{Name: "looking", Kind: load.Look, N: 500, Think: think, Method: "POST", Body: 16},
	}}.Few()
	for range *e2e.Stops {
		ledger, served := e2e.StopUnderLoad(t, e2e.StartProxy, nil, tr)
		e2e.CheckNothingLost(t, ledger, served, tr)
	}
}

func TestStopOverLongLine(t *testing.T) {
	e2e.ParallelIfFew(t)
	stopBoth(t, e2e.LongLine(t, line.Config{Delay: 50 * time.Millisecond}))
}

// TestIdiomLoses shows that these tests can fail: the idiom of the tutorials loses
// requests under the same load.
func TestIdiomLoses(t *testing.T) {
	e2e.ParallelIfFew(t)
	ledger, _ := e2e.StopUnderLoad(t, e2e.StartIdiom, nil, e2e.Mixed(5*time.Millisecond).Few())
	if ledger.Total.Lost == 0 {
		t.Error("signal.NotifyContext and Shutdown lost nothing; then what is this project for?")
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		signals []os.Signal
		status  int
		cut     bool
		log     string
	}{
		{"one INT", []os.Signal{syscall.SIGINT}, 0, false, `cause="received signal interrupt"`},
		{"one TERM", []os.Signal{syscall.SIGTERM}, 0, false, `cause="received signal terminated"`},
		{"INT twice", []os.Signal{syscall.SIGINT, syscall.SIGINT}, 128 + 2, true, `msg="request cut" class=http1 method=GET path=/slow`},
		{"TERM twice", []os.Signal{syscall.SIGTERM, syscall.SIGTERM}, 0, false, `msg="already stopping" signal=terminated`},
		{"INT then TERM", []os.Signal{syscall.SIGINT, syscall.SIGTERM}, 0, false, `msg="already stopping" signal=terminated`},
		{"TERM then INT", []os.Signal{syscall.SIGTERM, syscall.SIGINT}, 128 + 2, true, `msg="request cut" class=http1 method=GET path=/slow`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := e2e.StartProxy(t, e2e.Here, "127.0.0.1")
			answer := e2e.BeginSlow(t, s)
			for i, sig := range tt.signals {
				if i > 0 {
					s.Server.WaitLog(t, "phase=draining") // two signals of a kind would become one
					time.Sleep(time.Second)               // as would interrupts less than 0.3 s apart
				}
				s.Server.Signal(t, sig)
			}
			if !tt.cut {
				s.Server.WaitLog(t, tt.log) // which comes before the request's end
				e2e.FinishSlow(t, s)
			}
			if status := s.Server.Wait(t); status != tt.status {
				t.Errorf("exit status = %d, want %d", status, tt.status)
			}
			if err := <-answer; (err != nil) != tt.cut {
				t.Errorf("the request ended with %v, want cut: %v", err, tt.cut)
			}
			if !strings.Contains(s.Server.Log(), tt.log) {
				t.Errorf("the log lacks %s", tt.log)
			}
		})
	}
}

func TestCutAtDeadline(t *testing.T) {
	t.Parallel()
	s := e2e.StartProxyWith("-grace", "1s")(t, e2e.Here, "127.0.0.1")
	begun := time.Now()
	answer := e2e.BeginSlow(t, s)
	at := s.Server.Signal(t, syscall.SIGTERM)
	if status := s.Server.Wait(t); status != 3 { // clean except for work that was cut
		t.Errorf("exit status = %d, want 3", status)
	}
	if took := s.Server.Ended.Sub(at); took < time.Second {
		t.Errorf("the stop took %v, want the second of -grace", took)
	}
	if err := <-answer; err == nil {
		t.Error("the request was answered, want it cut")
	}
	named := regexp.MustCompile(`msg="request cut" class=http1 method=GET path=/slow client=127\.0\.0\.1:\d+ age=(\S+) sent=0\n`).FindStringSubmatch(s.Server.Log())
	if named == nil {
		t.Fatal("the log does not name what was cut")
	}
	if age, err := time.ParseDuration(named[1]); err != nil || age < time.Second || age > s.Server.Ended.Sub(begun) {
		t.Errorf("age = %s, want a second and what went before the signal", named[1])
	}
}
