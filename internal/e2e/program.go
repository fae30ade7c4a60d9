//go:build unix

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
)

// A Program serves until it is stopped. Its arguments begin with an address.
type Program func(work *Work, args []string) error

// programs are those that every test binary can run as.
var programs = map[string]Program{
	"program": func(work *Work, args []string) error { return idiom(work, args[0]) },
	"library": func(work *Work, args []string) error { return library(work, args[0]) },
}

// runAs runs a program. When it has ended, the IDs of the requests that it
// served are written to standard output.
func runAs(program Program) (status int) {
	work := new(Work)
	work.cond.L = &work.mu
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	go func() {
		for range signals {
			work.finish()
		}
	}()
	if err := program(work, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	work.report(os.Stdout)
	return 0
}

// idiom stops as every tutorial teaches.
func idiom(h http.Handler, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return idiomOn(l, h)
}

// idiomOn does so on a listener.
func idiomOn(l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	go srv.Serve(l)
	fmt.Fprintf(os.Stderr, "msg=serving addr=%s\n", l.Addr())
	<-ctx.Done()
	ctx, cancel = context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		return srv.Close()
	}
	return nil
}

// library stops with the actors.
func library(h http.Handler, addr string) error {
	srv := &http.Server{Handler: h}
	l, err := actors.Listen(addr)
	if err != nil {
		return err
	}
	var stop actors.Stop
	var g run.Group
	g.Add(actors.HTTP(&stop, srv, l))
	g.Add(actors.Signal(&stop))
	fmt.Fprintf(os.Stderr, "msg=serving addr=%s\n", l.Addr())
	return stop.Err(g.Run())
}

// Work is a handler that remembers the IDs of the requests that it served. It
// answers a request for /slow after 2 s. One with the query long it answers a
// second after the first SIGUSR1, one with long=2 a second after the second, and so
// on: however slow the machine is, these are in flight when the stop begins.
type Work struct {
	mu       sync.Mutex
	cond     sync.Cond
	finished int // how often finish was called
	ids      []string
}

func (p *Work) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished++
	p.cond.Broadcast()
}

// await waits for the n-th call of finish.
func (p *Work) await(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.finished < n {
		p.cond.Wait()
	}
}

func (p *Work) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/slow", "/upload":
		fmt.Fprintf(os.Stderr, "msg=begun path=%s\n", r.URL.Path)
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	id := r.Header.Get("X-Request-Id")
	if id != "" {
		p.mu.Lock()
		p.ids = append(p.ids, id)
		p.mu.Unlock()
	}
	switch {
	case r.URL.Query().Has("long"):
		fmt.Fprintf(os.Stderr, "msg=waits path=%s\n", r.URL.Path)
		n, _ := strconv.Atoi(r.URL.Query().Get("long"))
		p.await(max(n, 1))
		time.Sleep(time.Second)
	case r.URL.Path == "/slow":
		time.Sleep(2 * time.Second)
	}
	w.Header().Set("X-Request-Id", id)
	io.WriteString(w, "done\n")
}

func (p *Work) report(w io.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := bufio.NewWriter(w)
	defer b.Flush()
	for _, id := range p.ids {
		fmt.Fprintln(b, id)
	}
}
