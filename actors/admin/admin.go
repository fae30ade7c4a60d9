// Package admin has an actor that serves a status page, profiles and settings to
// the people who run the process.
package admin

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/actors"
	"lastcall/internal/asynclog"
	"lastcall/internal/awake"
)

// Config holds the optional settings of [Actor]. The zero value works.
type Config struct {
	// Service is the name of the process in the status. Empty means that of the
	// executable.
	Service string

	// Addr is where the process serves, in the status. Empty leaves it out.
	Addr string

	// Supervisor is the one whose actors the status shows. Nil shows none.
	Supervisor *actors.Supervisor

	// Generations is the program whose generations the status shows. Nil shows
	// none.
	Generations *actors.Generations

	// LogLevel is the value that PUT /log-level sets and the status shows. Nil
	// leaves that path out. Set gets what the client sent, without blanks
	// around it, and may be called concurrently; the client gets its error.
	LogLevel flag.Value

	// Handlers are further handlers, by pattern (see [http.ServeMux]). They are
	// guarded like the others. The status page links to those of a GET.
	Handlers map[string]http.Handler

	// Hosts are further host names that requests may ask for. IP addresses,
	// names without a dot, names below localhost, and the name of this machine
	// are always allowed: a stranger cannot point them at this process.
	Hosts []string
}

// Actor returns an actor that serves these on a listener of its own:
//
//	GET /                    the status page, which keeps itself up to date
//	GET /status              the same as JSON
//	GET /debug/pprof/        profiles and traces, for go tool pprof
//	GET /healthz, /livez, /readyz  see [actors.Health]
//	GET, PUT /log-level      with Config.LogLevel; the body is the level
//	GET, PUT /ready          on or off; see [actors.Stop.SetReady]
//	PUT /drain               begins a stop, and answers with its steps until its end
//	DELETE /drain            takes it back, before draining begins: see [actors.Stop.Drain]
//
// Every client that can connect may use it: listen on a loopback address, or on a
// unix socket that only its owner can open. Web pages may not use it. A request
// that a browser makes for another site is refused, and so is one for a host
// name that a stranger could have pointed here (DNS rebinding). At an address
// that is not loopback, and without TLS, a browser does not say which site a GET
// is for: a page can then have a profile made, but can neither read it nor
// change anything.
//
// The actor stops last, and a stop neither counts its requests nor waits for
// them. Once interrupted it serves until stop.Done is closed or its deadline has
// passed. Then it closes within half a second, whatever its clients do. In an
// [actors.Supervisor], give it the highest stage.
//
// The listener is closed at the end. A nil stop means the defaults of
// [actors.Stop]. Actor panics if a pattern of Config.Handlers is invalid.
func Actor(stop *actors.Stop, l net.Listener, cfg Config) (execute func() error, interrupt func(error)) {
	if stop == nil {
		stop = new(actors.Stop)
	}
	a := &admin{
		Config:      cfg,
		stop:        stop,
		listener:    l,
		logger:      log.With(stop, "actor", "admin"),
		interrupted: make(chan time.Time, 1),
		closing:     make(chan struct{}),
		viewers:     make(chan struct{}, maxViewers),
	}
	if a.Service == "" {
		a.Service = filepath.Base(os.Args[0])
	}
	if a.host, _ = os.Hostname(); a.host == "" {
		a.host = "localhost"
	}
	a.close = sync.OnceFunc(func() { close(a.closing) })
	h := a.handler()
	return func() error { return a.execute(h) }, a.interrupt
}

const (
	// maxViewers is how many clients can follow the status at a time.
	maxViewers = 32

	// clientTimeout bounds each wait for a client.
	clientTimeout = 5 * time.Second

	// closeTimeout is how long clients have when the listener closes.
	closeTimeout = 250 * time.Millisecond
)

type admin struct {
	Config
	stop     *actors.Stop
	host     string // the name of this machine
	listener net.Listener
	logger   log.Logger

	once        sync.Once
	interrupted chan time.Time // gets the deadline at the first interrupt

	closing chan struct{} // closed by close, when the listener is about to be
	close   func()
	viewers chan struct{} // has an element for each client that follows the status
}

func (a *admin) interrupt(cause error) {
	a.stop.Begin(cause) // before DeadlineOf, which needs it
	a.once.Do(func() { a.interrupted <- a.stop.DeadlineOf(cause) })
}

func (a *admin) execute(h http.Handler) error {
	if a.listener == nil {
		return errors.New("admin: no listener")
	}
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: clientTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          asynclog.ErrorLog(a.logger),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(a.listener) }()
	select {
	case err := <-served:
		a.close()
		srv.Close()
		return a.failed(err)
	case deadline := <-a.interrupted:
		a.interrupted <- deadline // for a further execute
		select {
		case <-a.stop.Done():
		case <-time.After(time.Until(deadline)):
			select {
			case <-a.stop.Done():
			case <-awake.After(closeTimeout): // so that clients see the cut
			}
		}
	}
	a.close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-awake.After(closeTimeout):
			cancel()
		case <-ctx.Done():
		}
	}()
	srv.Shutdown(ctx)
	srv.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return a.failed(err)
	}
	return nil
}

// failed records err, because run.Group drops it if another actor ended first.
func (a *admin) failed(err error) error {
	err = fmt.Errorf("admin: %w", err)
	a.stop.RecordError(err)
	return err
}

func (a *admin) handler() http.Handler {
	mux := http.NewServeMux()
	a.handleStatus(mux)
	handleProfiles(mux, a.closing)
	a.handleSetting(mux, "/ready", readySetting{a.stop})
	mux.HandleFunc("PUT /drain", a.drain)
	mux.HandleFunc("DELETE /drain", a.undrain)
	if a.LogLevel != nil {
		a.handleSetting(mux, "/log-level", a.LogLevel)
	}
	for pattern, h := range a.Handlers {
		mux.Handle(pattern, h)
	}
	return a.guard(actors.Health(a.stop, "", mux))
}

// handleSetting serves a value that clients can get and set.
func (a *admin) handleSetting(mux *http.ServeMux, path string, v flag.Value) {
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, v)
	})
	mux.HandleFunc("PUT "+path, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64))
		if err == nil {
			err = v.Set(string(bytes.TrimSpace(b)))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		level.Info(a.logger).Log("msg", "set", "path", path, "to", v, "client", r.RemoteAddr)
		fmt.Fprintln(w, v)
	})
}

// readySetting is [actors.Stop.SetReady] as a flag.Value.
type readySetting struct{ stop *actors.Stop }

func (s readySetting) String() string {
	if s.stop.Snapshot().OutOfService {
		return "off"
	}
	return "on"
}

func (s readySetting) Set(v string) error {
	if v != "on" && v != "off" {
		return fmt.Errorf("ready %q: want on or off", v)
	}
	s.stop.SetReady(v == "on")
	return nil
}
