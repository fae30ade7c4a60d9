//go:build !linux

package line

import (
	"context"
	"fmt"
	"net"
	"runtime"
)

// Line is a line between two network namespaces; there is none on this system.
type Line struct{}

// New returns an error that matches [ErrUnsupported].
func New(cfg Config) (*Line, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return nil, unsupported()
}

func unsupported() error { return fmt.Errorf("line: %w: %s", ErrUnsupported, runtime.GOOS) }

func (l *Line) Server(func() error) error { return unsupported() }

func (l *Line) Client(func() error) error { return unsupported() }

func (l *Line) Dial(context.Context, int) (net.Conn, error) { return nil, unsupported() }

func (l *Line) Stats() Stats { return Stats{} }

func (l *Line) Close() error { return nil }
