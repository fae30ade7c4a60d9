//go:build unix

package e2e

import (
	"net/http"
	"testing"
)

func TestMain(m *testing.M) {
	Main(m, map[string]Program{
		"streams":            func(_ *Work, args []string) error { return idiom(streams(), args[0]) },
		"everything":         func(work *Work, args []string) error { return idiom(everything(work), args[0]) },
		"everything library": func(work *Work, args []string) error { return everythingLibrary(everything(work), args[0], args[1]) },
		"early":              func(work *Work, args []string) error { return library(target(work), args[0]) },
		"abused":             func(work *Work, args []string) error { return idiom(abused(work), args[0]) },
		"child":              func(work *Work, args []string) error { return runChild(work, args) },
		"reads nothing":      func(_ *Work, args []string) error { return idiom(http.HandlerFunc(readsNothing), args[0]) },
		"untimed":            func(work *Work, args []string) error { return untimed(target(work), args) },
	})
}
