// Command compare stops several servers with stoptest, each under the same load,
// and writes a table, the reports and a picture to results/. In the scenarios deploy and
// restart the servers go on: the program behind them is deployed, or they replace
// themselves.
//
//	go run . [-only NAME,...] [-scenarios NAME,...] [-stops N] [-install=false] [-o DIR]
//	go run . -draw
//
// The second makes the table and the pictures of the reports that there are. The
// repository has the table and the pictures, and no reports: a run of some servers
// or scenarios names another directory, or the table in results would have only those.
//
// It needs root to install what is missing (Debian's nginx, haproxy, nodejs and
// systemd), for the long line, and for a systemd in namespaces of its own, which
// restarts a program; Go modules come from the Go proxy.
package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lastcall/stoptest/plot"
	"lastcall/stoptest/report"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// comparison is one run of this program.
type comparison struct {
	root   string // of the module lastcall
	dir    string // temporary
	stderr io.Writer
	stops  int // 0: as many as the scenario says

	upstream string // the socket of the program before which proxies stand
	versions map[string]string
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet("compare", flag.ContinueOnError)
	only := fs.String("only", "", "servers, by name, separated by commas; all if empty")
	which := fs.String("scenarios", "", "scenarios, by name, separated by commas; all if empty")
	stops := fs.Int("stops", 0, "stops a server and scenario, instead of each scenario's number")
	install := fs.Bool("install", true, "install what is missing of Debian's packages")
	draw := fs.Bool("draw", false, "test nothing: make the table and the pictures again")
	out := fs.String("o", "results", "where to write")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	chosen, err := choose(servers, *only, func(s server) string { return s.name })
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	situations, err := choose(scenarios, *which, func(s scenario) string { return s.name })
	if err != nil {
		return fmt.Errorf("-scenarios: %w", err)
	}

	if *draw {
		return conclude(*out)
	}
	named := false
	fs.Visit(func(f *flag.Flag) { named = named || f.Name == "o" })
	if (*only != "" || *which != "") && !named {
		return errors.New("-only and -scenarios want -o DIR: the table in results is of all servers")
	}
	c := &comparison{stderr: stderr, stops: *stops}
	if c.root, err = filepath.Abs("../.."); err != nil {
		return err
	}
	if _, err := os.Stat("servers/nginx.conf"); err != nil {
		return fmt.Errorf("want to be run in bench/compare: %w", err)
	}
	if c.dir, err = os.MkdirTemp("", "compare"); err != nil {
		return err
	}
	defer os.RemoveAll(c.dir)
	if *install {
		if err := c.install(ctx); err != nil {
			return err
		}
	}
	if err := c.build(ctx, uses(chosen, situations, "caddy")); err != nil {
		return err
	}
	end, err := c.startUpstream(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}

	for _, sc := range situations {
		for _, s := range chosen {
			if err := c.test(ctx, s, sc, *out); err != nil {
				return fmt.Errorf("%s, %s: %w", sc.name, s.name, err)
			}
		}
	}
	return conclude(*out)
}

// conclude writes the table, and draws the pictures, of all reports that there
// are, also those of earlier runs of other servers or scenarios.
func conclude(out string) error {
	results := make(map[string][]*report.Report) // by scenario
	found := false
	for _, sc := range scenarios {
		var drawn []*report.Report
		for _, s := range servers {
			if !sc.has(s) {
				continue
			}
			if !sc.sends(s) {
				results[sc.name] = append(results[sc.name], &report.Report{Server: s.title, Error: "it has nothing slow"})
			} else if r, err := report.Read(resultFile(out, sc, s)); err == nil {
				found = true
				results[sc.name] = append(results[sc.name], r)
				if len(r.Stops) > 0 {
					drawn = append(drawn, r)
				}
			} else if !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		if sc.plot && len(drawn) > 0 {
			if err := plot.File(filepath.Join(out, sc.name+".svg"), drawn...); err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("no reports in %s", out)
	}
	return writeTable(filepath.Join(out, "results.md"), scenarios, results)
}

// choose picks the ones that are named, in their own order. Several may have a name.
func choose[T any](all []T, names string, name func(T) string) ([]T, error) {
	if names == "" {
		return all, nil
	}
	wanted := map[string]bool{}
	for n := range strings.SplitSeq(names, ",") {
		wanted[n] = true
	}
	var chosen []T
	var known []string
	for _, v := range all {
		if wanted[name(v)] {
			chosen = append(chosen, v)
		}
		known = append(known, name(v))
	}
	for _, v := range chosen {
		delete(wanted, name(v))
	}
	for n := range wanted {
		return nil, fmt.Errorf("%q: want some of %s", n, strings.Join(known, ", "))
	}
	return chosen, nil
}

// command is one that ends when ctx does, and says what it says if it fails.
func (c *comparison) command(ctx context.Context, dir, name string, args ...string) error {
	fmt.Fprintln(c.stderr, "+", name, strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// install gets what is missing from Debian.
func (c *comparison) install(ctx context.Context) error {
	packages := map[string]string{"nginx": "nginx-light", "haproxy": "haproxy", "node": "nodejs", "systemctl": "systemd"}
	var missing []string
	for program, pkg := range packages {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := c.command(ctx, "", "apt-get", "update", "-q"); err != nil {
		return err
	}
	return c.command(ctx, "", "apt-get", append([]string{"install", "-qy", "--no-install-recommends"}, missing...)...)
}

// uses reports whether a server is tested in any of the scenarios.
func uses(servers []server, scenarios []scenario, name string) bool {
	for _, s := range servers {
		for _, sc := range scenarios {
			if s.name == name && sc.has(s) && sc.sends(s) {
				return true
			}
		}
	}
	return false
}

// build makes the Go programs, and asks all for their versions. Caddy, which takes
// minutes, is that of .ci/tools.
func (c *comparison) build(ctx context.Context, caddy bool) error {
	bin := filepath.Join(c.dir, "bin") + "/"
	for _, b := range []struct{ dir, pkg string }{
		{c.root, "."}, {c.root, "./stoptest"}, {"", "./servers/..."},
		{filepath.Join(c.root, ".ci/tools"), "github.com/caddyserver/caddy/v2/cmd/caddy"},
	} {
		if strings.HasSuffix(b.pkg, "/caddy") && !caddy {
			continue
		}
		if err := c.command(ctx, b.dir, "go", "build", "-o", bin, b.pkg); err != nil {
			return err
		}
	}
	c.versions = map[string]string{}
	for name, args := range map[string][]string{
		"nginx": {"nginx", "-v"}, "haproxy": {"haproxy", "-v"}, "node": {"node", "--version"},
		"go": {"go", "env", "GOVERSION"},
	} {
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
		if err != nil {
			continue // it isn't installed; -only may leave it out
		}
		for _, word := range strings.FieldsFunc(string(out), func(r rune) bool { return strings.ContainsRune(" /\n-+", r) }) {
			word = strings.TrimPrefix(strings.TrimPrefix(word, "go"), "v")
			if _, err := strconv.ParseFloat(word[:strings.IndexByte(word+".", '.')], 64); err == nil && strings.Contains(word, ".") {
				c.versions[name] = word
				break
			}
		}
	}
	if !caddy {
		return nil
	}
	info, err := buildinfo.ReadFile(bin + "caddy")
	if err != nil {
		return err
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/caddyserver/caddy/v2" {
			c.versions["caddy"] = strings.TrimPrefix(m.Version, "v")
		}
	}
	return nil
}

// startUpstream starts the program before which the proxies stand; end ends
// it.
func (c *comparison) startUpstream(ctx context.Context) (end func(), err error) {
	c.upstream = filepath.Join(c.dir, "upstream.sock")
	var output bytes.Buffer
	cmd := exec.Command(filepath.Join(c.dir, "bin/upstream"))
	cmd.Env = append(os.Environ(), "UPSTREAM="+c.upstream)
	cmd.Stderr = &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end = func() {
		stdin.Close() // as our own end does, however it comes
		cmd.Wait()
	}
	for range 500 {
		if nc, err := net.Dial("unix", c.upstream); err == nil {
			nc.Close()
			return end, nil
		}
		select {
		case <-ctx.Done():
			end()
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	end()
	return nil, fmt.Errorf("upstream does not listen: %s", &output)
}
