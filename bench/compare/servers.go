package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"lastcall/stoptest/report"
)

// server is one that is compared. In its command, $BIN is where the programs
// are that build makes, $SERVERS the directory servers, and $DIR a directory
// of its own.
type server struct {
	name, title string
	version     string // whose
	command     []string
	signal      string // TERM if empty
	scenario    string // the only one it is in; empty: those in which it is stopped
	reload      string // stoptest's -reload, in that scenario

	h2Apart bool   // HTTP/2 has a port of its own
	noH2    bool   // or is not spoken
	files   bool   // no program: GET only, nothing slow, no echo
	config  string // of servers, with $LISTEN and others to be filled in, to $DIR
}

var servers = []server{
	{name: "idiom", title: "net/http idiom", version: "go", command: []string{"$BIN/idiom"}},
	{name: "oklogrun", title: "oklog/run README", version: "go", command: []string{"$BIN/oklogrun"}},
	{name: "ory", title: "ory/graceful", version: "go", command: []string{"$BIN/ory"}},
	{name: "tableflip", title: "cloudflare/tableflip", version: "go", command: []string{"$BIN/tableflip"}},
	{name: "node", title: "Node http", version: "node", command: []string{"node", "$SERVERS/server.js"}, noH2: true},
	{name: "caddy", title: "Caddy proxy", version: "caddy",
		command: []string{"$BIN/caddy", "run", "--config", "$SERVERS/Caddyfile", "--adapter", "caddyfile"}},
	{name: "nginx", title: "nginx proxy", version: "nginx", signal: "QUIT",
		config: "nginx.conf", h2Apart: true, command: []string{"nginx", "-c", "$DIR/nginx.conf", "-g", "daemon off;"}},
	{name: "haproxy", title: "HAProxy", version: "haproxy", signal: "USR1",
		command: []string{"haproxy", "-db", "-f", "$SERVERS/haproxy.cfg"}},
	{name: "haproxy-idle-close", title: "HAProxy, idle-close", version: "haproxy", signal: "USR1",
		command: []string{"haproxy", "-db", "-f", "$SERVERS/haproxy-idle-close.cfg"}},
	{name: "lastcall-library", title: "lastcall library", version: "go", command: []string{"$BIN/library"}},
	{name: "lastcall-proxy", title: "lastcall proxy", version: "go",
		command: []string{"$BIN/lastcall", "-h2c", "-listen", "$LISTEN", "-proxy", "unix:$UPSTREAM", "-log-level", "error"}},
	{name: "lastcall-files", title: "lastcall files", version: "go", files: true,
		command: []string{"$BIN/lastcall", "-h2c", "-listen", "$LISTEN", "-dir", "$DIR", "-log-level", "error"}},

	{name: "restart", title: "nginx, systemctl restart", version: "nginx", signal: "QUIT",
		config: "nginx-deploy.conf", h2Apart: true, command: []string{"$SERVERS/deploy", "restart", "start"}, scenario: "deploy", reload: "$SERVERS/systemd restart"},
	{name: "nginx", title: "nginx, two ports and a reload", version: "nginx", signal: "QUIT",
		config: "nginx-deploy.conf", h2Apart: true, command: []string{"$SERVERS/deploy", "nginx", "start"}, scenario: "deploy", reload: "$SERVERS/deploy nginx"},
	{name: "haproxy", title: "HAProxy, two servers and its runtime API", version: "haproxy", signal: "USR1",
		command: []string{"$SERVERS/deploy", "haproxy", "start"}, scenario: "deploy", reload: "$SERVERS/deploy haproxy"},
	{name: "lastcall-replace", title: "lastcall, -deploy replace", version: "go",
		command: append([]string{"$BIN/lastcall", "-deploy", "replace"}, lastcallProgram...), scenario: "deploy", reload: lastcallDeploy},
	{name: "lastcall", title: "lastcall deploy", version: "go",
		command: append([]string{"$BIN/lastcall"}, lastcallProgram...), scenario: "deploy", reload: lastcallDeploy},

	{name: "activated", title: "net/http idiom, socket activation", version: "go", scenario: "restart", reload: "HUP",
		command: []string{"$BIN/activate", "$BIN/idiom"}},
	{name: "tableflip", title: "cloudflare/tableflip", version: "go", scenario: "restart", reload: "HUP", command: []string{"$BIN/tableflip"}},
	{name: "caddy", title: "Caddy, caddy reload", version: "caddy", scenario: "restart",
		command: []string{"sh", "-c", caddyAdmin + "exec $BIN/caddy run " + caddyConfig},
		reload:  caddyAdmin + "exec $BIN/caddy reload --force --address $ADMIN " + caddyConfig},
	{name: "nginx-reload", title: "nginx, SIGHUP", version: "nginx", signal: "QUIT", scenario: "restart", reload: "HUP",
		config: "nginx.conf", command: []string{"nginx", "-c", "$DIR/nginx.conf", "-g", "daemon off;"}},
	{name: "nginx-upgrade", title: "nginx, SIGUSR2 and SIGQUIT", version: "nginx", scenario: "restart",
		config: "nginx.conf", command: []string{"$SERVERS/nginx", "start"}, reload: "$SERVERS/nginx upgrade"},
	{name: "haproxy", title: "HAProxy, SIGUSR2", version: "haproxy", scenario: "restart", reload: "USR2",
		command: []string{"haproxy", "-W", "-db", "-f", "$SERVERS/haproxy.cfg"}},
	{name: "haproxy-idle-close", title: "HAProxy, idle-close, SIGUSR2", version: "haproxy", scenario: "restart", reload: "USR2",
		command: []string{"haproxy", "-W", "-db", "-f", "$SERVERS/haproxy-idle-close.cfg"}},
	{name: "lastcall-library", title: "lastcall library, SIGUSR2", version: "go", scenario: "restart", reload: "USR2", command: []string{"$BIN/upgrade"}},
	{name: "lastcall-proxy", title: "lastcall proxy, SIGUSR2", version: "go", scenario: "restart", reload: "USR2",
		command: []string{"$BIN/lastcall", "-listen", "$LISTEN", "-proxy", "unix:$UPSTREAM", "-log-level", "error"}},
}

const (
	caddyAdmin  = "export ADMIN=127.0.0.1:$PORT_ADMIN; "
	caddyConfig = "--config $SERVERS/Caddyfile --adapter caddyfile"
)

var lastcallProgram = []string{"-h2c", "-listen", "$LISTEN", "-admin", "unix:$DIR/admin", "-log-level", "error",
	"--", "sh", "-c", "LISTEN=$HOST:$PORT exec $BIN/idiom"}

const lastcallDeploy = "$BIN/lastcall deploy -admin unix:$DIR/admin"

// scenario is a load. Those without a plot are about the time that a stop
// takes.
type scenario struct {
	name, title string
	stops       int
	plot        bool
	slow        bool // nothing but slow requests
	own         bool // it has servers of its own, which go on: they are reloaded
	args        []string
}

var scenarios = []scenario{
	{name: "full", title: "Profile full", stops: 10, plot: true, args: []string{"-profile", "full"}},
	{name: "long-think", title: "Profile long-think", stops: 5, plot: true, args: []string{"-profile", "long-think"}},
	{name: "line", title: "Profile full, over a line of 100 ms round trip", stops: 5, plot: true,
		args: []string{"-profile", "full", "-line", "delay=50ms"}},
	{name: "deploy", title: "Profile full, and a deploy of the program behind the server", stops: 5, plot: true, own: true, args: []string{"-profile", "full"}},
	{name: "restart", title: "A restart that goes on serving", stops: 5, plot: true, own: true,
		args: []string{"-profile", "none", "-clients", "reuse=100,look=100,connect=2,slow=10,upload=5", "-think", "100ms", "-load", "2s"}},
	{name: "nothing", title: "nothing open", stops: 3, args: []string{"-profile", "none"}},
	{name: "quiet", title: "50 quiet for 3 s", stops: 3, args: []string{"-profile", "none", "-clients", "idle=50", "-load", "3s"}},
	{name: "unused", title: "50 never used, for 3 s", stops: 3, args: []string{"-profile", "none", "-clients", "unused=50", "-load", "3s"}},
	{name: "request", title: "a request with 2 s to go", stops: 3, slow: true, args: []string{"-profile", "none", "-clients", "slow=1"}},
}

// has reports whether a server is one of the scenario.
func (sc scenario) has(s server) bool {
	if sc.own {
		return s.scenario == sc.name
	}
	return s.scenario == ""
}

// sends reports whether a server of the scenario is sent something.
func (sc scenario) sends(s server) bool { return !s.files || !sc.slow }

// test runs stoptest. The report's file is its result; what the server lost is
// no error.
func (c *comparison) test(ctx context.Context, s server, sc scenario, out string) error {
	if !sc.has(s) || !sc.sends(s) {
		return nil
	}
	host, overLine := "127.0.0.1", strings.Contains(strings.Join(sc.args, " "), "-line")
	if overLine {
		host = "192.0.2.1" // the server's end of stoptest's line
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	portH2, err := freePort()
	if err != nil {
		return err
	}
	var own [3]string // of the program, and of the server's commands
	for i := range own {
		if own[i], err = freePort(); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(c.dir, s.name)
	if err != nil {
		return err
	}
	env := map[string]string{
		"LISTEN": net.JoinHostPort(host, port), "LISTEN_H2": net.JoinHostPort(host, portH2), "HOST": host, "PORT": port,
		"UPSTREAM": c.upstream, "DIR": dir, "BIN": filepath.Join(c.dir, "bin"), "SERVERS": "servers",
		"PORT_A": own[0], "PORT_B": own[1], "PORT_ADMIN": own[2],
	}
	if s.config != "" {
		text, err := os.ReadFile(filepath.Join("servers", s.config))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, s.config), []byte(expand(string(text), env)), 0o644); err != nil {
			return err
		}
	}
	url, file := "http://"+env["LISTEN"], resultFile(out, sc, s)
	if s.files {
		if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("hello\n"), 0o644); err != nil {
			return err
		}
	}
	stops := sc.stops
	if c.stops > 0 {
		stops = c.stops
	}

	args := []string{"-url", url + "/", "-name", s.title, "-versions", s.version + "=" + c.versions[s.version],
		"-json", file, "-stops", fmt.Sprint(stops), "-output", filepath.Join(dir, "output")}
	if s.signal != "" {
		args = append(args, "-signal", s.signal)
	}
	if s.reload != "" {
		args = append(args, "-reload", expand(s.reload, env))
	}
	if s.files {
		args = append(args, "-method", "GET", "-body", "0")
	} else {
		args = append(args, "-slow-url", "/slow", "-upload-url", "/upload", "-echo-header", "X-Echo")
	}
	if !s.noH2 {
		args = append(args, "-h2", "h2c")
	}
	if s.h2Apart {
		args = append(args, "-h2-url", "http://"+env["LISTEN_H2"]+"/")
	}
	args = append(append(args, sc.args...), "--")
	for _, word := range s.command {
		args = append(args, expand(word, env))
	}

	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(c.dir, "bin/stoptest"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it ends the server
	cmd.WaitDelay = time.Minute
	cmd.Env = append(os.Environ(), "HOME="+dir)
	for key, value := range env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	fmt.Fprintf(c.stderr, "\n%s: %s\n", sc.title, s.title)
	said, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r, readErr := report.Read(file)
	if readErr != nil {
		return fmt.Errorf("stoptest: %v\n%s", err, said)
	}
	fmt.Fprintln(c.stderr, r.Verdict)
	if r.Error != "" {
		output, _ := os.ReadFile(filepath.Join(dir, "output"))
		fmt.Fprintf(c.stderr, "%s\n%s\n", r.Error, output)
	}
	return nil
}

func resultFile(out string, sc scenario, s server) string {
	return filepath.Join(out, sc.name+"-"+s.name+".json")
}

// expand fills in the variables that it knows, as $NAME or ${NAME}, and leaves
// others, which are the configuration's own.
func expand(text string, env map[string]string) string {
	var pairs []string
	for _, key := range []string{"LISTEN_H2", "LISTEN", "UPSTREAM", "DIR", "BIN", "SERVERS"} {
		pairs = append(pairs, "${"+key+"}", env[key], "$"+key, env[key])
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	return port, err
}
