// Bench compares the speed of lastcall with that of HAProxy, nginx, Caddy and
// bare net/http: as a proxy, and with files. README.md says how.
//
//	go run ./bench        # 20 minutes, and up to ten to build Caddy for the first time
//	go run ./bench -quick # 2
//
// All servers run at the same time, and are loaded in turns, so that whatever
// else the machine does meets all of them. What counts is the median of the
// rounds' ratios.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	quick := fs.Bool("quick", false, "one round of short loads")
	rounds := fs.Int("rounds", 4, "rounds; in each, every load meets every server, at full rate and at half")
	seconds := fs.Float64("seconds", 1, "length of one load; of large files, three times that")
	only := fs.String("only", "", "regular expression of the loads to run, as the table names them")
	caddy := fs.String("caddy", "", "Caddy's program, if it need not be built")
	limit := fs.Duration("limit", 25*time.Minute, "end after this time with what there is")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *quick {
		*rounds, *seconds = 1, 0.5
	}
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	for _, tool := range []string{"h2load", "haproxy", "nginx"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w (Debian's packages: nghttp2-client haproxy nginx-light)", err)
		}
	}

	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := start(ctx, dir, *caddy, stderr)
	defer s.end()
	if err != nil {
		return err
	}

	var results []*result
	for _, l := range loads {
		if pattern.MatchString(l.name) {
			results = append(results, &result{load: l})
		}
	}
	loading, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
measuring:
	for round := range *rounds {
		for i, r := range results {
			fmt.Fprintf(stderr, "\rround %d of %d, load %d of %d ", round+1, *rounds, i+1, len(results))
			err := r.measure(loading, s, round, *seconds)
			switch {
			case loading.Err() != nil:
				fmt.Fprint(stderr, "was the last: ", context.Cause(loading))
				break measuring
			case err != nil:
				return err
			}
		}
	}
	fmt.Fprint(stderr, "\n\n")
	fmt.Fprintf(stdout, "%s, %d processors, %s.\n", time.Now().Format(time.DateOnly), runtime.NumCPU(), s.versions())
	writeTables(stdout, results)
	return nil
}
