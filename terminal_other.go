//go:build !unix

package main

import "io"

func terminalOf(io.Writer) *terminal { return nil }
