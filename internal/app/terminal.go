package app

import (
	"fmt"
	"io"
	"sync"
)

// terminal shows log lines and, below them, a line that changes in place.
type terminal struct {
	mu   sync.Mutex
	w    io.Writer
	line string // the last line; empty: none
}

const (
	erase  = "\r\x1b[K" // erases the line that the cursor is on
	noWrap = "\x1b[?7l" // cuts off a line that is too long: if wrapped, it could not be erased
	wrap   = "\x1b[?7h"
)

// Write writes a log line above the last line.
func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.line == "" {
		return t.w.Write(p)
	}
	_, err := fmt.Fprintf(t.w, "%s%s%s%s%s", erase, p, noWrap, t.line, wrap)
	return len(p), err
}

// set changes the last line. An empty one removes it.
func (t *terminal) set(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case line == t.line:
	case line == "":
		fmt.Fprint(t.w, erase)
	default:
		fmt.Fprint(t.w, erase, noWrap, line, wrap)
	}
	t.line = line
}
