package app

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"lastcall/actors"
	"lastcall/actors/systemd"
	"lastcall/internal/socket"
	"lastcall/internal/upstream"
)

// ProgramTime is how much of -grace a program has for its end, whatever the last
// request takes.
const ProgramTime = 5 * time.Second

// newProgram returns what runs the program that the settings name after --, or nil
// if they name none. Requests reach it through the router.
func newProgram(cfg *Settings, stop *actors.Stop, router actors.Router) (*actors.Generations, error) {
	if len(cfg.program) == 0 {
		return nil, nil
	}
	if _, err := exec.LookPath(cfg.program[0]); err != nil {
		return nil, fmt.Errorf("-- %s: %w", cfg.program[0], err)
	}
	policies := map[string]actors.RestartPolicy{"never": actors.RestartNever, "on-failure": actors.RestartOnFailure, "always": actors.RestartAlways}
	return &actors.Generations{
		Stop:         stop,
		Command:      cfg.command(cfg.program),
		Addr:         cfg.proxy,
		Replace:      cfg.deploy == "replace",
		Check:        cfg.checkProgram,
		StartTimeout: cfg.programStart,
		Router:       router,
		When:         policies[cfg.programRestart],
	}, nil
}

// command returns the Command of a command line, whose program is looked up at
// each start. It gets the environment of this process without the settings, and
// without what systemd says to this process alone. With -proxy the program listens
// where that says; otherwise on PORT of HOST. The path of a unix socket that its last
// process has left behind is removed: few programs replace it.
func (c *Settings) command(line []string) actors.Command {
	return func(addr string) *exec.Cmd {
		if path, ok := strings.CutPrefix(addr, "unix:"); ok {
			socket.RemoveStale(path)
		}
		cmd := exec.Command(line[0], line[1:]...)
		for _, v := range os.Environ() {
			name, _, _ := strings.Cut(v, "=")
			if !strings.HasPrefix(name, envPrefix) && !slices.Contains(systemd.Variables[:], name) {
				cmd.Env = append(cmd.Env, v)
			}
		}
		if host, port, err := net.SplitHostPort(addr); err == nil && c.proxy == "" {
			cmd.Env = append(cmd.Env, "HOST="+host, "PORT="+port)
		}
		return cmd
	}
}

// checkProgram returns nil if the program at addr is ready: if it accepts a
// connection, or with -program-health if it answers that with a status below 400.
func (c *Settings) checkProgram(ctx context.Context, addr string) error {
	if c.proxy == "" {
		addr = "http://" + addr
	}
	if c.programHealth == "" {
		nc, err := upstream.Dial(ctx, addr)
		if err != nil {
			return c.notListening(addr, err)
		}
		return nc.Close()
	}
	to, transport, err := upstream.New(addr, upstream.Config{ResponseTimeout: healthTimeout, DialTimeout: healthTimeout})
	if err != nil {
		return err
	}
	if t, ok := transport.(interface{ CloseIdleConnections() }); ok {
		defer t.CloseIdleConnections()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(to.String(), "/")+c.programHealth, nil)
	if err != nil {
		return err
	}
	r.Header.Set("User-Agent", "lastcall")
	res, err := transport.RoundTrip(r)
	if err != nil {
		return c.notListening(addr, err)
	}
	res.Body.Close()
	if res.StatusCode >= 400 {
		return fmt.Errorf("%s answers %s", c.programHealth, res.Status)
	}
	return nil
}

// notListening returns err, or if nobody listens at addr an error that says where
// the program was to listen.
func (c *Settings) notListening(addr string, err error) error {
	switch {
	case !upstream.IsRefused(err):
		return err
	case c.proxy != "":
		return fmt.Errorf("it does not listen at %s, as -proxy says: %w", addr, err)
	}
	host, port, _ := net.SplitHostPort(strings.TrimPrefix(addr, "http://"))
	return fmt.Errorf("it does not listen on PORT=%s of HOST=%s: %w", port, host, err)
}

// healthTimeout is how long one answer to -program-health may take.
const healthTimeout = 5 * time.Second
