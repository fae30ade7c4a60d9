package drain_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"

	"golang.org/x/net/netutil"

	"lastcall/actors"
	"lastcall/internal/drain"
	"lastcall/internal/wiretest"
)

// lines is a logger that keeps the lines with a certain message.
type lines struct {
	msg string

	mu   sync.Mutex
	kept [][]any
}

func (l *lines) Log(keyvals ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(keyvals, any("msg")); i >= 0 && strings.Contains(keyvals[i+1].(string), l.msg) {
		l.kept = append(l.kept, slices.Clone(keyvals))
	}
	return nil
}

// after returns the lines when the stop has logged all.
func (l *lines) after(stop *actors.Stop) [][]any {
	stop.Err(nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", wiretest.LoopbackIP()+":0") // multipath TCP
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// While a request is in flight newcomers are refused at once, also at a
// listener of net.Listen.
func TestNewcomersAreRefused(t *testing.T) {
	l := listen(t)
	log := &lines{msg: "newcomers cannot be refused"}
	stop := &actors.Stop{Logger: log}
	entered, proceed := make(chan struct{}), make(chan struct{})
	execute, interrupt := actors.HTTP(stop, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-proceed
		io.WriteString(w, "hello")
	})}, l)
	done := make(chan error)
	go func() { done <- execute() }()
	answer := make(chan error)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String())
		if err == nil {
			resp.Body.Close()
		}
		answer <- err
	}()
	<-entered
	interrupt(nil)
	<-stop.Draining()
	wiretest.WaitFor(t, "the door to be shut", func() bool {
		nc, err := net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
		if err == nil {
			nc.Close()
			return false
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Dial() = %v, want %v", err, syscall.ECONNREFUSED)
		}
		return true
	})
	close(proceed)
	if err := <-answer; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("execute() = %v, want nil", err)
	}
	if kept := log.after(stop); len(kept) > 0 {
		t.Errorf("logged %v, want no warning", kept)
	}
}

func TestTLSListenerIsAnError(t *testing.T) {
	stop := new(actors.Stop)
	execute, _ := actors.HTTP(stop, new(http.Server), tls.NewListener(listen(t), &tls.Config{Certificates: make([]tls.Certificate, 1)}))
	if err := execute(); !errors.Is(err, drain.ErrTLSListener) {
		t.Errorf("execute() = %v, want %v", err, drain.ErrTLSListener)
	}
	if err := stop.Err(nil); !errors.Is(err, drain.ErrTLSListener) {
		t.Errorf("Err() = %v, want %v", err, drain.ErrTLSListener)
	}
}

// noDescriptor hides the listener's descriptor, as some wrappers do.
type noDescriptor struct{ hidden net.Listener }

func (l noDescriptor) Accept() (net.Conn, error) { return l.hidden.Accept() }
func (l noDescriptor) Close() error              { return l.hidden.Close() }
func (l noDescriptor) Addr() net.Addr            { return l.hidden.Addr() }

func TestListenerThatCannotRefuseIsWarnedOf(t *testing.T) {
	for _, tt := range []struct {
		name     string
		listener net.Listener
		want     int
	}{
		{"net.Listen", listen(t), 0},
		{"without descriptor", noDescriptor{listen(t)}, 1},
		{"LimitListener", netutil.LimitListener(listen(t), 1), 0},
		{"inherited", actors.Inherited(listen(t)), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			warnings := &lines{msg: "newcomers cannot be refused"}
			logger := log.Logger(warnings)
			stop := &actors.Stop{Logger: logger}
			execute, interrupt := actors.HTTP(stop, new(http.Server), tt.listener)
			done := make(chan error)
			go func() { done <- execute() }()
			wiretest.WaitFor(t, "the server to be ready", func() bool { return stop.Phase() == actors.Ready })
			interrupt(nil)
			if err := <-done; err != nil {
				t.Errorf("execute() = %v, want nil", err)
			}
			if kept := warnings.after(stop); len(kept) != tt.want {
				t.Errorf("warnings: %v, want %d", kept, tt.want)
			}
		})
	}
}

// eofListener has no address and no connection to accept.
type eofListener struct{}

func (eofListener) Accept() (net.Conn, error) { return nil, io.EOF }
func (eofListener) Close() error              { return nil }
func (eofListener) Addr() net.Addr            { return nil }

func TestListenerWithoutAddress(t *testing.T) {
	execute, _ := actors.HTTP(nil, new(http.Server), eofListener{})
	if err := execute(); !errors.Is(err, io.EOF) {
		t.Errorf("execute() = %v, want %v", err, io.EOF)
	}
}
