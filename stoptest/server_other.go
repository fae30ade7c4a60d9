//go:build !unix

package main

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"time"
)

var errNoUnix = errors.New("stoptest needs a Unix; this is " + runtime.GOOS)

func runKeeper() bool { return false }

type place func(f func() error) error

// server is never started on this system.
type server struct {
	pid    int
	exited chan struct{}
	at     time.Time
	status int
	left   int
	output *os.File
	kill   func() error
}

func startServer(_ place, _, _ []string, _ *os.File) (*server, error) { return nil, errNoUnix }
func (s *server) hasExited() bool                                     { return true }
func (s *server) signal(syscall.Signal) error                         { return errNoUnix }
func parseSignal(string) (syscall.Signal, error)                      { return syscall.SIGTERM, nil }
func signalName(syscall.Signal) string                                { return "TERM" }
func kernel() string                                                  { return runtime.GOOS }
func cpuTime() time.Duration                                          { return 0 }
