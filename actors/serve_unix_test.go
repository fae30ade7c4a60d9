//go:build unix

package actors_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lastcall/actors"
	"lastcall/actors/admin"
	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
)

// oneLine are the ways to serve with one line, each in a process of its own.
var oneLine = map[string]func(srv *http.Server, dir string) error{
	"ListenAndServe": func(srv *http.Server, _ string) error { return actors.ListenAndServe(srv) },
	"ListenAndServeTLS": func(srv *http.Server, dir string) error {
		return actors.ListenAndServeTLS(srv, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	},
	"Stop.ListenAndServe": func(srv *http.Server, _ string) error {
		stop := actors.Stop{LameDuck: 300 * time.Millisecond, Logger: actors.Slog(nil)}
		return stop.ListenAndServe(srv)
	},
	"ListenAndServeFunc": func(srv *http.Server, _ string) error {
		return actors.ListenAndServeFunc(srv, func(l net.Listener) error { return srv.Serve(l) })
	},
	"Serve": func(srv *http.Server, _ string) error {
		ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer cancel()
		return actors.Serve(ctx, srv)
	},
}

// TestOneLine stops a process under load: it loses nothing, and returns nil.
func TestOneLine(t *testing.T) {
	if name, dir, child := strings.Cut(os.Getenv("LASTCALL_CHILD"), ":"); child {
		srv := &http.Server{
			Addr:        wiretest.LoopbackIP() + ":0",
			Handler:     http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("X-Request-Id")) }),
			BaseContext: func(l net.Listener) context.Context { fmt.Println(l.Addr()); return context.Background() },
		}
		fmt.Println("returned:", oneLine[name](srv, dir))
		os.Exit(0)
	}
	t.Parallel()
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	for name := range oneLine {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := childCommand(context.Background(), "TestOneLine", name+":"+dir)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			killer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
			defer killer.Stop()
			out := bufio.NewReader(stdout)
			addr, err := out.ReadString('\n')
			if err != nil {
				t.Fatalf("no address: %v\n%s", err, &stderr)
			}
			group := load.Group{Kind: load.Reuse, N: 20, Think: 5 * time.Millisecond}
			fresh := load.Group{Kind: load.Connect, N: 2, Think: 10 * time.Millisecond}
			if strings.HasSuffix(name, "TLS") {
				group.TLS = &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
				fresh.TLS = group.TLS
			}
			l, err := load.Start(load.Config{Addr: strings.TrimSpace(addr), EchoBody: true, MaxUnused: 250 * time.Millisecond, Groups: []load.Group{group, fresh}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := l.Ready(ctx, 5); err != nil {
				t.Fatal(err)
			}
			l.Signalled(time.Now())
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			ledger := l.Wait()
			rest, _ := io.ReadAll(out)
			if err := cmd.Wait(); err != nil || string(rest) != "returned: <nil>\n" {
				t.Errorf("the process ended with %v and printed %q, want no error and returned: <nil>\n%s", err, rest, &stderr)
			}
			total := ledger.Total
			if total.Lost+total.ResetOnConnect+total.RefusedEarly+total.ErrorStatus+total.WrongAnswer+total.ClientError != 0 {
				t.Errorf("lost some:\n%s", ledger)
			}
			if silent := name != "Stop.ListenAndServe"; silent == strings.Contains(stderr.String(), "draining") {
				t.Errorf("the log of a clean stop, want it empty: %v\n%s", silent, &stderr)
			}
		})
	}
}

// writeCertificate writes a pair for 127.0.0.1 into dir.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cert.pem", "CERTIFICATE", cert)
	write("key.pem", "PRIVATE KEY", der)
	roots := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(leaf)
	return roots
}

func TestServeErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, tt := range map[string]struct {
		serve func(*actors.Stop) error
		want  string
	}{
		"address in use":      {func(s *actors.Stop) error { return s.ListenAndServe(&http.Server{Addr: l.Addr().String()}) }, "address already in use"},
		"no certificate":      {func(s *actors.Stop) error { return s.ListenAndServeTLS(&http.Server{Addr: "127.0.0.1:0"}, "", "") }, "no certificate"},
		"no such file":        {func(s *actors.Stop) error { return s.ListenAndServeTLS(&http.Server{}, "nowhere.pem", "k.pem") }, "nowhere.pem"},
		"no key file":         {func(s *actors.Stop) error { return s.ListenAndServeTLS(&http.Server{}, "cert.pem", "") }, "cert.pem without a key file"},
		"no certificate file": {func(s *actors.Stop) error { return s.ListenAndServeTLS(&http.Server{}, "", "k.pem") }, "k.pem without a certificate file"},
		"no path":             {func(s *actors.Stop) error { return s.ListenAndServe(&http.Server{Addr: "unix:"}) }, `listen on "unix:": no path`},
		"no listener":         {func(s *actors.Stop) error { return s.Serve(context.Background(), &http.Server{}, nil) }, "http: listener 0 is nil"},
		"nil pointer": {func(s *actors.Stop) error {
			return s.Serve(t.Context(), &http.Server{}, (*net.TCPListener)(nil))
		}, "http: listener 0 is nil"},
		"Plain of none": {func(s *actors.Stop) error {
			return s.Serve(t.Context(), &http.Server{}, actors.Plain(nil))
		}, "http: listener 0 is nil"},
		"Inherited of a nil pointer": {func(s *actors.Stop) error {
			return s.Serve(t.Context(), &http.Server{}, actors.Inherited((*net.UnixListener)(nil)))
		}, "http: listener 0 is nil"},
		"Serve": {func(s *actors.Stop) error {
			return s.Serve(context.Background(), &http.Server{Addr: l.Addr().String()})
		}, "address already in use"},
	} {
		if err := tt.serve(new(actors.Stop)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: err = %v, want %q", name, err, tt.want)
		}
	}
}

// That the context ends is clean, whatever its cause, which the stop knows.
func TestServeContext(t *testing.T) {
	cause := errors.New("another part has failed")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	var stop actors.Stop
	if err := stop.Serve(ctx, &http.Server{Addr: "127.0.0.1:0"}); err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
	if got := stop.Snapshot().Cause; got != cause {
		t.Errorf("cause = %v, want %v", got, cause)
	}
	if err := actors.Serve(ctx, &http.Server{Addr: "127.0.0.1:0"}); err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
}

// A listener that is closed already is an error, and nothing is said of what a stop may
// do to it.
func TestServeClosed(t *testing.T) {
	l, err := net.Listen("tcp", wiretest.LoopbackIP()+":0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	var log lines
	stop := &actors.Stop{Logger: &log}
	if err := stop.Serve(t.Context(), &http.Server{}, l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve() = %v, want %v", err, net.ErrClosed)
	}
	if log.count("a stop may reset") != 0 {
		t.Errorf("the log warns of the stop:\n%s", &log)
	}
}

// An actor without what it needs says so.
func TestNothingToRun(t *testing.T) {
	for want, made := range map[string]func() (func() error, func(error)){
		"every: no schedule":  func() (func() error, func(error)) { return actors.Every(nil, nil, nil, actors.EveryConfig{}) },
		"program: no command": new(actors.Generations).Actor,
		"admin: no listener":  func() (func() error, func(error)) { return admin.Actor(nil, nil, admin.Config{}) },
	} {
		if execute, _ := made(); fmt.Sprint(execute()) != want {
			t.Errorf("execute() is not %q", want)
		}
	}
}

// The package's functions log warnings where the program's own go.
func TestServeWarns(t *testing.T) {
	var out bytes.Buffer
	var mu sync.Mutex
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewTextHandler(lockedWriter{&mu, &out}, &slog.HandlerOptions{Level: slog.LevelDebug})))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := actors.Serve(ctx, new(http.Server), hiding{l}); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "newcomers cannot be refused") {
		t.Errorf("logged:\n%s\nwant one warning", got)
	}
}

// hiding hides the socket of a listener.
type hiding struct{ hidden net.Listener }

func (l hiding) Accept() (net.Conn, error) { return l.hidden.Accept() }
func (l hiding) Close() error              { return l.hidden.Close() }
func (l hiding) Addr() net.Addr            { return l.hidden.Addr() }

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
