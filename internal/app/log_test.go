package app

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// shortWriter takes that many bytes, and an error.
type shortWriter struct {
	bytes.Buffer
	left int
}

func (w *shortWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	w.Buffer.Write(p[:n])
	if n < len(p) {
		return n, errors.New("full")
	}
	return n, nil
}

// Behind a part of a line, the next one begins a line.
func TestWholeLines(t *testing.T) {
	w := &shortWriter{left: 6}
	l := wholeLines{w: w}
	io.WriteString(&l, "one\n")
	io.WriteString(&l, "two\n")
	io.WriteString(&l, "three\n")
	w.left = 100
	io.WriteString(&l, "four\n")
	io.WriteString(&l, "five\n")
	if got, want := w.String(), "one\ntw\nfour\nfive\n"; got != want {
		t.Errorf("wrote %q, want %q", got, want)
	}
}
