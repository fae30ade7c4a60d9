//go:build !unix

package app

import "io"

func terminalOf(io.Writer) *terminal { return nil }
