package actors

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// AdminConfig is what [Admin] may be told besides. The zero value works.
type AdminConfig struct {
	// Supervisor is the one whose actors the status shows. Nil shows none.
	Supervisor *Supervisor

	// LogLevel is what PUT /log-level sets, and the status shows. Nil leaves
	// that path out. Set is called with what the client sent, without blanks
	// around it, and with calls at the same time; an error of it is the answer.
	LogLevel flag.Value

	// Handlers are further ones, by pattern (see [http.ServeMux]). They are as
	// guarded as the others.
	Handlers map[string]http.Handler

	// Hosts are names by which clients may ask, besides those that a browser
	// cannot be tricked with: IP addresses, names without a dot, those below
	// localhost, and the machine's own.
	Hosts []string
}

// Admin returns an actor that serves a window onto the process, for those who
// run it, on a listener of its own:
//
//	GET /                    the status page, which follows what goes on
//	GET /status              the same as JSON
//	GET /debug/pprof/        profiles and traces, for go tool pprof
//	GET /healthz, /livez, /readyz  see [Health]
//	GET, PUT /log-level      with AdminConfig.LogLevel; the body is the level
//	GET, PUT /lame-duck      on or off; see [Stop.SetLameDuck]
//
// Whoever can connect may use it: listen on a loopback address, or on a unix
// socket that is nobody else's. Web pages may not, whoever opens them:
// requests that a browser makes for another site are refused, and so are those
// that ask for a host by a name that anybody could have (DNS rebinding). (At an
// address that is not loopback a browser does not say, without TLS, for which
// site it gets something: there a page could have a profile made, but not read
// it, nor change anything.)
//
// It is the last to go. Its requests are not those that a stop counts and waits
// for. Once interrupted it goes on until the others that share the stop have
// stopped (HTTP, Graceful), or the deadline has passed; then it closes, whatever
// its clients do, within half a second. In a [Supervisor], give it the highest
// stage.
//
// The listener is closed at the end. A nil stop means the defaults of [Stop].
func Admin(stop *Stop, l net.Listener, cfg AdminConfig) (execute func() error, interrupt func(error)) {
	a := &admin{
		actor:       newActor(stop, "admin", ""),
		AdminConfig: cfg,
		listener:    l,
		closing:     make(chan struct{}),
		seats:       make(chan struct{}, mostViewers),
	}
	a.close = sync.OnceFunc(func() { close(a.closing) })
	h := a.handler() // patterns that are wrong panic here
	return func() error { return a.returned(a.execute(h)) }, a.interrupt
}

const (
	// mostViewers is how many may follow the status page at a time.
	mostViewers = 32

	// adminPatience is for whatever waits for a client of the admin listener.
	adminPatience = 5 * time.Second

	// adminLeave is how long such clients have when it closes.
	adminLeave = 250 * time.Millisecond
)

type admin struct {
	*actor
	AdminConfig
	listener net.Listener
	closing  chan struct{} // closed when it ends, by close
	close    func()
	seats    chan struct{} // held by those who follow the status page
}

func (a *admin) execute(h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: adminPatience,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          stdlog.New(log.NewStdlibAdapter(level.Debug(a.logger)), "", 0),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(a.listener) }()
	select {
	case err := <-served:
		a.close()
		srv.Close()
		return fmt.Errorf("admin: %w", err)
	case <-a.asked:
	}
	select {
	case <-a.stop.Done():
	case <-time.After(time.Until(a.bound(0)) + adminLeave): // the end is to be seen, too
	}
	a.close()
	ctx, cancel := context.WithTimeout(context.Background(), adminLeave)
	defer cancel()
	srv.Shutdown(ctx)
	srv.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin: %w", err)
	}
	return nil
}

func (a *admin) handler() http.Handler {
	mux := http.NewServeMux()
	a.status(mux)
	profiles(mux, a.closing)
	health := Health(a.stop, "/", nil)
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		mux.Handle(path, health)
	}
	a.setting(mux, "/lame-duck", duck{a.stop})
	if a.LogLevel != nil {
		a.setting(mux, "/log-level", a.LogLevel)
	}
	for pattern, h := range a.Handlers {
		mux.Handle(pattern, h)
	}
	return a.guard(mux)
}

// setting serves a value that may be read and set.
func (a *admin) setting(mux *http.ServeMux, path string, v flag.Value) {
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, v)
	})
	mux.HandleFunc("PUT "+path, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64))
		if err == nil {
			err = v.Set(strings.TrimSpace(string(b)))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		level.Info(a.logger).Log("msg", "set", "path", path, "to", v, "client", r.RemoteAddr)
		fmt.Fprintln(w, v)
	})
}

// guard keeps out what a browser asks for on behalf of some other site, and
// bounds what an answer may take.
func (a *admin) guard(next http.Handler) http.Handler {
	var origin http.CrossOriginProtection // for methods that change something
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		err := origin.Check(r)
		switch site := r.Header.Get("Sec-Fetch-Site"); {
		case err != nil:
		case !a.known(r.Host):
			err = fmt.Errorf("host %q is not known here: ask by address", r.Host)
		case site == "" || site == "none" || site == "same-origin":
		case r.URL.Path == "/" && r.Header.Get("Sec-Fetch-Mode") == "navigate": // a link to the page
		default:
			err = errors.New("not for other sites")
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		rc := http.NewResponseController(w)
		rc.SetWriteDeadline(time.Now().Add(time.Minute))
		if r.ContentLength != 0 {
			rc.SetReadDeadline(time.Now().Add(adminPatience))
		}
		next.ServeHTTP(w, r)
	})
}

// known reports whether a request may ask for host: one that no stranger can
// have made up and let point here.
func (a *admin) known(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	if !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost") {
		return true
	}
	own, _ := os.Hostname()
	for _, name := range slices.Concat(a.Hosts, []string{own}) {
		if strings.EqualFold(host, name) {
			return true
		}
	}
	return false
}

// duck is the lame-duck setting of a stop as a flag.Value.
type duck struct{ *Stop }

func (d duck) String() string {
	if d.out.Load() {
		return "on"
	}
	return "off"
}

func (d duck) Set(s string) error {
	on, ok := map[string]bool{"on": true, "off": false}[s]
	if !ok {
		return fmt.Errorf("lame duck %q: want on or off", s)
	}
	d.SetLameDuck(on)
	return nil
}
