// Command stoptest counts the requests that a server loses when it stops. It
// starts the server, in whatever language that is written, loads it as real
// clients do, sends it the signal, and accounts for every request.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"lastcall/stoptest/plot"
	"lastcall/stoptest/report"
)

func main() {
	if runKeeper() {
		return
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// errInterrupted is the error of a test that a signal has ended.
var errInterrupted = errors.New("interrupted")

// run does what the arguments say, and returns the exit status. Everything that it
// started has ended then.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (status int) {
	return runWith(ctx, args, defaultPauses, stdout, stderr)
}

func runWith(ctx context.Context, args []string, p pauses, stdout, stderr io.Writer) (status int) {
	cfg, err := parse(args)
	cfg.pauses = p
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "stoptest: %v\n", err)
		return 2
	}
	if cfg.compare {
		worse, err := cfg.compareAll(stdout)
		switch {
		case err != nil:
			fmt.Fprintf(stderr, "stoptest: -compare: %v\n", err)
			return 2
		case worse:
			return 1
		}
		return 0
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	go func() {
		select {
		case <-signals:
			cancel(errInterrupted)
		case <-ctx.Done():
		}
	}()

	r := cfg.test(ctx, stderr)
	printReport(stdout, r)
	status = r.Status
	for _, f := range []struct {
		flag, path string
		write      func() error
	}{
		{"json", cfg.json, func() error { return writeFile(cfg.json, r.Write) }},
		{"junit", cfg.junit, func() error { return writeFile(cfg.junit, r.WriteJUnit) }},
		{"plot", cfg.plot, func() error { return plot.File(cfg.plot, r) }},
	} {
		if f.path == "" || f.flag == "plot" && len(r.Stops) == 0 {
			continue
		}
		if err := f.write(); err != nil {
			fmt.Fprintf(stderr, "stoptest: -%s: %v\n", f.flag, err)
			status = 3
		}
	}
	return status
}

// compareAll compares the reports in the files that are the arguments with the first of
// them, or, with -plot, draws them.
func (c *config) compareAll(stdout io.Writer) (worse bool, err error) {
	var reports []*report.Report
	for _, path := range c.command {
		r, err := report.Read(path)
		if err != nil {
			return false, err
		}
		reports = append(reports, r)
	}
	if c.plot != "" {
		return false, plot.File(c.plot, reports...)
	}
	text, worse, err := report.Compare(c.command, reports)
	io.WriteString(stdout, text)
	return worse, err
}

// test makes all stops.
func (c *config) test(ctx context.Context, stderr io.Writer) *report.Report {
	r := &report.Report{
		Server: c.name, Command: c.command, URL: c.url.String(), Date: time.Now().UTC().Truncate(time.Second),
		AllowStatus: c.allow, Kernel: kernel(), CPUs: runtime.NumCPU(), Profile: c.profile.name, Reload: c.reload,
		Versions: map[string]string{"stoptest": version(debug.ReadBuildInfo()), "go": runtime.Version()},
	}
	for k, v := range c.versions {
		r.Versions[k] = v
	}
	if c.reload == "" {
		r.Signal = c.signal.String()
	}
	if l := c.line.Config; l != nil {
		r.Line = &report.Line{Delay: l.Delay.Seconds(), Jitter: l.Jitter.Seconds(), Loss: l.Loss}
	}
	defer r.Judge()

	trials := c.stops
	if c.second.Signal != 0 {
		trials++
	}
	p := newProgress(stderr, trials)
	defer p.close()
	for i := range trials {
		t := trial{config: c, show: p.show, twice: i == c.stops}
		stop, err := t.run(ctx)
		p.show("", nil)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			r.Error = err.Error()
			return r
		}
		p.addStop(&stop)
		if t.twice {
			r.Second = &stop
		} else {
			r.Stops = append(r.Stops, stop)
		}
	}
	return r
}

// writeFile creates a file, and writes it with write.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// version returns the version in the build information.
func version(info *debug.BuildInfo, ok bool) string {
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
