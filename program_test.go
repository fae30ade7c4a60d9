//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
)

// runAs makes the test binary one of the programs that the tests need beside
// lastcall. Each serves on the address that is its argument, and says on
// standard output, when it ends, which requests it served.
func runAs(name string) {
	work := &work{told: make(chan os.Signal, 1)}
	signal.Notify(work.told, syscall.SIGUSR1)
	srv := &http.Server{Handler: work}
	var err error
	switch name {
	case "program", "idiom":
		err = idiom(srv, os.Args[1])
	case "streams":
		srv.Handler = streams()
		err = idiom(srv, os.Args[1])
	case "everything":
		srv.Handler = everything(work)
		err = idiom(srv, os.Args[1])
	case "everything library":
		err = everythingLibrary(everything(work), os.Args[1], os.Args[2])
	case "library":
		err = library(srv, os.Args[1])
	case "target":
		srv.Handler = target(work)
		err = idiom(srv, os.Args[1])
	case "untimed":
		err = untimed(target(work), os.Args[1:])
	default:
		err = fmt.Errorf("no program %q", name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	work.report(os.Stdout)
}

// idiom stops as every tutorial teaches.
func idiom(srv *http.Server, addr string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
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
func library(srv *http.Server, addr string) error {
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

// work is a handler that remembers the IDs of what it served. What is asked for
// with ?long it answers a second after it was told to (SIGUSR1): however slow
// the machine is, that is in flight at the signal.
type work struct {
	told chan os.Signal

	mu  sync.Mutex
	ids []string
}

func (p *work) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	case r.URL.RawQuery == "long":
		p.told <- <-p.told // the next one is told, too
		time.Sleep(time.Second)
	case r.URL.Path == "/slow":
		time.Sleep(2 * time.Second)
	}
	w.Header().Set("X-Request-Id", id)
	io.WriteString(w, "done\n")
}

func (p *work) report(w io.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := bufio.NewWriter(w)
	defer b.Flush()
	for _, id := range p.ids {
		fmt.Fprintln(b, id)
	}
}
