package files

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/go-kit/log"

	"lastcall/internal/accesslog"
	"lastcall/internal/slowpeer"
	"lastcall/internal/wiretest"
)

// watched is a listener whose connections note what they are asked to send.
type watched struct {
	net.Listener
	mu   sync.Mutex
	from []string
}

func (l *watched) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &watchedConn{nc.(*net.TCPConn), l}, nil
}

type watchedConn struct {
	*net.TCPConn
	to *watched
}

func (c *watchedConn) ReadFrom(r io.Reader) (int64, error) {
	kind := fmt.Sprintf("%T", r)
	if part, ok := r.(*io.LimitedReader); ok {
		kind = fmt.Sprintf("%T", part.R)
	}
	c.to.mu.Lock()
	c.to.from = append(c.to.from, kind)
	c.to.mu.Unlock()
	return c.TCPConn.ReadFrom(r)
}

// TestSendfile checks that the file itself reaches the TCP connection, where it
// can be sent by the kernel.
func TestSendfile(t *testing.T) {
	dir := t.TempDir()
	text := strings.Repeat("0123456789abcdef", 64<<10)
	fill(t, dir, map[string]string{"big.txt": text})
	h := newFiles(t, dir, false)
	logger := log.NewNopLogger()
	copied := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(dir + "/big.txt")
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		io.Copy(w, f) // which tries f.WriteTo first
	})
	for _, tt := range []struct {
		name string
		h    http.Handler
		cfg  slowpeer.Config
	}{
		{"bare", h, slowpeer.Config{Read: -1, Write: -1}},
		{"timeouts", slowpeer.Handler(h, slowpeer.Config{}), slowpeer.Config{}},
		{"access log", accesslog.New(h, "", accesslog.Log(logger, true)), slowpeer.Config{Read: -1, Write: -1}},
		{"all", slowpeer.Handler(accesslog.New(h, "", accesslog.Log(logger, true)), slowpeer.Config{}), slowpeer.Config{}},
		{"io.Copy", slowpeer.Handler(accesslog.New(copied, "", accesslog.Log(logger, true)), slowpeer.Config{}), slowpeer.Config{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			w := &watched{Listener: l}
			addr := wiretest.ServeOn(t, slowpeer.Listener(w, tt.cfg), tt.h)
			_, body := wiretest.Exchange(t, addr, "GET", "GET /big.txt HTTP/1.1\r\nHost: h\r\n\r\n")
			if body != text {
				t.Errorf("got %d bytes that differ, want %d", len(body), len(text))
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, kind := range w.from {
				if kind != "*os.File" && kind != "os.fileWithoutWriteTo" {
					t.Errorf("the connection was to read from %s, want the file", kind)
				}
			}
			if len(w.from) == 0 {
				t.Error("the connection was never asked to read from the file")
			}
		})
	}
}
