//go:build !unix

// Package tty finds terminals.
package tty

import "io"

// Is is false: lines are not drawn in place here.
func Is(io.Writer) bool { return false }
