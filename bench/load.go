package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// load is what the servers are loaded with.
type load struct {
	name    string
	files   bool // else the proxy
	tls, h2 bool
	path    string
	clients int // connections
	streams int // on each, at the same time
	times   int // as long as the shortest loads
}

var loads = func() (list []load) {
	for _, tls := range []bool{false, true} {
		for _, h2 := range []bool{false, true} {
			l := load{name: "proxy, " + protocol(tls, h2), tls: tls, h2: h2, path: "/", clients: 64, streams: 1, times: 1}
			if h2 {
				l.clients, l.streams = 8, 8
			}
			list = append(list, l)
		}
	}
	for _, file := range fileSizes {
		for _, p := range []struct{ tls, h2 bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
			l := load{name: file.name + ", " + protocol(p.tls, p.h2), files: true, tls: p.tls, h2: p.h2,
				path: "/" + file.path, clients: file.clients, streams: 1, times: file.times}
			if p.h2 {
				l.clients, l.streams = file.clients/8, 8
			}
			list = append(list, l)
		}
	}
	return list
}()

var fileSizes = []struct {
	name, path string
	size       int
	clients    int
	times      int
}{
	{"1 KB", "1k.html", 1 << 10, 64, 1},
	{"100 KB", "100k.html", 100 << 10, 64, 1},
	{"10 MB", "10m.html", 10 << 20, 8, 3},
}

func protocol(tls, h2 bool) string {
	s := "HTTP/1.1"
	if h2 {
		s = "HTTP/2"
	}
	if tls {
		s += " TLS"
	}
	return s
}

// figures are what one load of one server has shown.
type figures struct {
	rate float64 // requests per second
	p99  float64 // milliseconds
}

// result is what a load has shown, a round after the other.
type result struct {
	load
	full, half map[string][]figures // by the server's name
}

// measure loads all servers of a kind: at full load each, and then all at the
// same rate, half of what the slowest has reached. A round begins with another
// server than the one before.
func (r *result) measure(ctx context.Context, s *servers, round int, seconds float64) error {
	if r.full == nil {
		r.full, r.half = make(map[string][]figures), make(map[string][]figures)
	}
	names := r.met()
	n := round % len(names)
	names = append(names[n:], names[:n]...)
	full, half := make(map[string]figures), make(map[string]figures)
	slowest := math.Inf(1)
	for _, name := range names {
		f, err := r.run(ctx, s, name, seconds, 0)
		if err != nil {
			return err
		}
		full[name], slowest = f, min(slowest, f.rate)
	}
	for _, name := range names {
		f, err := r.run(ctx, s, name, seconds, slowest/2)
		if err != nil {
			return err
		}
		half[name] = f
	}
	for _, name := range names {
		r.full[name], r.half[name] = append(r.full[name], full[name]), append(r.half[name], half[name])
	}
	return nil
}

var finished = regexp.MustCompile(`(?s)finished in [^,]*, ([0-9.]+) req/s.* ([0-9]+) failed, ([0-9]+) errored, ([0-9]+) timeout`)

// run runs h2load: at rate requests per second, or as many as the server
// answers if rate is 0.
func (l load) run(ctx context.Context, s *servers, name string, seconds, rate float64) (f figures, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s, %s: %w", name, l.name, err)
		}
	}()
	logFile := filepath.Join(s.dir, "log")
	if err := os.Remove(logFile); err != nil && !os.IsNotExist(err) {
		return f, err
	}
	scheme := "http"
	if l.tls {
		scheme = "https"
	}
	args := []string{"-t1", "-c", strconv.Itoa(l.clients), "-m", strconv.Itoa(l.streams), "-D", fmt.Sprintf("%.0fms", seconds*float64(l.times)*1000),
		"--warm-up-time=200ms", "--log-file", logFile}
	if l.h2 {
		// Otherwise h2load's window holds back the large files: a browser's is as large.
		args = append(args, "-w", "23", "-W", "24")
	} else {
		args = append(args, "--h1")
	}
	if rate > 0 {
		args = append(args, fmt.Sprintf("--rps=%.3f", rate/float64(l.clients)))
	}
	url := scheme + "://" + net.JoinHostPort("127.0.0.1", s.port(name, l)) + l.path
	out, err := exec.CommandContext(ctx, "h2load", append(args, url)...).CombinedOutput()
	if ctx.Err() != nil {
		return f, context.Cause(ctx)
	}
	m := finished.FindSubmatch(out)
	if err != nil || m == nil {
		return f, fmt.Errorf("h2load: %v\n%s", err, out)
	}
	if string(m[2]) != "0" || string(m[3]) != "0" || string(m[4]) != "0" {
		return f, fmt.Errorf("requests failed:\n%s", out)
	}
	if f.rate, err = strconv.ParseFloat(string(m[1]), 64); err != nil {
		return f, err
	}
	f.p99, err = percentile99(logFile)
	return f, err
}

// percentile99 reads h2load's log: in each line the time, the status, and how
// long the answer took, in microseconds.
func percentile99(file string) (ms float64, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var took []float64
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 3 && fields[1] == "0" {
			continue // not answered by the end of the load
		}
		if len(fields) != 3 || fields[1] != "200" {
			return 0, fmt.Errorf("answered with %q", lines.Text())
		}
		us, err := strconv.ParseFloat(fields[2], 64)
		if err != nil {
			return 0, err
		}
		took = append(took, us/1000)
	}
	if len(took) == 0 {
		return math.NaN(), nil // on a slow machine, of the largest files
	}
	slices.SortFunc(took, cmp.Compare[float64])
	return took[min(len(took)*99/100, len(took)-1)], nil
}
