//go:build unix

package main

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// To look whether a pipe can be written would wait for who reads, and be the end of it for
// that one.
func TestPipeIsNotTried(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	tried := make(chan error, 1)
	go func() {
		c := config{json: path}
		tried <- c.checkWritable()
	}()
	select {
	case err := <-tried:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("waits for who reads")
	}
}
