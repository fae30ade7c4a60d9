package app

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"lastcall/actors"
	"lastcall/actors/systemd"
)

// newUpgrade returns what replaces this process by a successor, as the settings ask.
// program may be nil.
func (c *Settings) newUpgrade(stop *actors.Stop, program *actors.Generations) *actors.Upgrade {
	u := &actors.Upgrade{
		Stop:    stop,
		Path:    strings.TrimPrefix(c.handover, "unix:"),
		Allow:   c.allowUpgrade,
		Restart: restartSignal(),
	}
	if program != nil {
		u.Allow = func() error { return errors.Join(c.allowUpgrade(), notDeploying(program)) }
		u.Command = func() *exec.Cmd { return &exec.Cmd{Args: c.successorArgs(program)} }
	}
	return u
}

// notDeploying returns an error during a deploy, which an upgrade would break off.
func notDeploying(program *actors.Generations) error {
	if program.Deploying() {
		return actors.ErrDeploying
	}
	return nil
}

// successorArgs returns the arguments of this process, with the command line of the program
// that was deployed last.
func (c *Settings) successorArgs(program *actors.Generations) []string {
	own := os.Args[:len(os.Args)-len(c.program)]
	for _, g := range program.Snapshot() {
		if g.Current && len(g.Command) > 0 {
			return slices.Concat(own, g.Command)
		}
	}
	return os.Args
}

// restartSignal is RTMIN+1, if systemd runs the process. A unit may say that systemd
// sends it in a restart. Nothing else uses it.
func restartSignal() os.Signal {
	if !systemd.Enabled() {
		return nil
	}
	return syscall.Signal(35)
}

// allowUpgrade returns why this process cannot start a successor.
func (c *Settings) allowUpgrade() error {
	switch {
	case len(c.program) > 0 && (c.proxy != "" || c.deploy == "replace"):
		return errors.New("the program after -- cannot run twice at a time: use lastcall deploy for the program, and a restart for lastcall")
	case os.Getpid() == 1, os.Getppid() == 0: // 0: the parent is in another namespace
		return errors.New("this is the first process of a container, which ends with it: replace the container")
	case systemd.Enabled():
		return nil // systemd learns of the new process
	case os.Getenv("SYSTEMD_EXEC_PID") == fmt.Sprint(os.Getpid()):
		return errors.New("systemd would end the unit with this process: set Type=notify, or use systemctl restart")
	}
	if name := parentName(); supervisors[name] {
		return fmt.Errorf("%s would take the end of this process for that of the service: use its restart", name)
	}
	return nil
}

// supervisors are programs that must have their child's process, by the first 15 bytes of
// their names, which is what the kernel has.
var supervisors = map[string]bool{
	"runsv": true, "s6-supervise": true, "supervise": true, "supervisord": true, "supervise-daemo": true, "circusd": true,
	"dumb-init": true, "tini": true, "docker-init": true, "podman-init": true, "catatonit": true, "containerd-shim": true, "conmon": true,
}

// parentName returns the name of the parent process, or "".
func parentName() string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", os.Getppid()))
	return strings.TrimSpace(string(b))
}
