package e2e

import (
	"errors"
	"syscall"
	"testing"
)

// TestProgramDiesWithLastcall kills the binary, which can then end nothing.
func TestProgramDiesWithLastcall(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, asChild(nil))
	pid := killChild(t, p, 0)
	p.Signal(t, syscall.SIGKILL)
	p.Wait(t)
	WaitFor(t, "the program to end", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
}
