//go:build unix

package e2e

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// wantGoesOn fails the test unless a process serves after a SIGHUP, and ends with
// a clean stop at SIGTERM.
func wantGoesOn(t *testing.T, s Subject, answer <-chan error) {
	t.Helper()
	again := BeginSlow(t, s)
	s.Server.Signal(t, syscall.SIGTERM)
	s.Server.WaitLog(t, "phase=draining")
	s.Server.Signal(t, syscall.SIGHUP) // nor does it cut a stop
	FinishSlow(t, s)
	for _, answer := range []<-chan error{answer, again} {
		if err := <-answer; err != nil {
			t.Errorf("the request ended with %v", err)
		}
	}
	s.Server.endCleanly(t)
}

// startHere starts the binary in front of a program, without a terminal. With a
// command before it, such as nohup, that runs it.
func startHere(t *testing.T, before []string, flags ...string) Subject {
	t.Helper()
	program := Launch(t, Here, As("program", "127.0.0.1:0"))
	cmd := Lastcall(append([]string{"-listen", "127.0.0.1:0", "-proxy", "http://" + program.Addr}, flags...)...)
	if len(before) > 0 {
		cmd = exec.Command(before[0], append(before[1:], cmd.Args...)...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return Subject{Launch(t, Here, cmd), program}
}

// TestHangup: without a terminal SIGHUP is logged and changes nothing.
func TestHangup(t *testing.T) {
	t.Parallel()
	s := startHere(t, nil)
	answer := BeginSlow(t, s)
	s.Server.Signal(t, syscall.SIGHUP)
	s.Server.WaitLog(t, `msg="nothing to load again, going on" signal=hangup`)
	wantGoesOn(t, s, answer)
}

// TestHangupTLS: SIGHUP loads the certificate again.
func TestHangupTLS(t *testing.T) {
	t.Parallel()
	pki := newPKI(t)
	s := startHere(t, nil, pki.flags()...)
	answer := beginSlow(t, s, pki.client(t, 1), "https")
	s.Server.Signal(t, syscall.SIGHUP)
	s.Server.WaitLog(t, `msg="certificate unchanged"`)
	s.Server.Signal(t, syscall.SIGTERM)
	s.Server.WaitLog(t, "phase=draining")
	s.Server.Signal(t, syscall.SIGHUP)
	FinishSlow(t, s)
	if err := <-answer; err != nil {
		t.Errorf("the request ended with %v", err)
	}
	s.Server.endCleanly(t)
}

// TestHangupIgnored: under nohup SIGHUP stays ignored.
func TestHangupIgnored(t *testing.T) {
	t.Parallel()
	s := startHere(t, []string{"nohup"})
	answer := BeginSlow(t, s)
	s.Server.Signal(t, syscall.SIGHUP)
	wantGoesOn(t, s, answer)
	if strings.Contains(s.Server.Log(), "signal=hangup") {
		t.Error("SIGHUP was caught")
	}

	pki := newPKI(t)
	s = startHere(t, []string{"nohup"}, pki.flags()...)
	s.Server.Signal(t, syscall.SIGHUP)
	answer = beginSlow(t, s, pki.client(t, 1), "https")
	FinishSlow(t, s)
	if err := <-answer; err != nil {
		t.Errorf("the request ended with %v", err)
	}
	s.Server.Signal(t, syscall.SIGTERM)
	if status := s.Server.Wait(t); status != 0 || strings.Contains(s.Server.Log(), "certificate unchanged") {
		t.Errorf("exit status = %d, want 0 and no certificate loaded again", status)
	}
}
