package proxy

import (
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
)

// Without descriptors for connections to the program every request fails. That is
// one line a second.
func TestExhausted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		h, err := New("http://127.0.0.1:1", Config{Logger: log.NewLogfmtLogger(&b)})
		if err != nil {
			t.Fatal(err)
		}
		fail := func(errno syscall.Errno) {
			r := httptest.NewRequest("GET", "/", nil)
			w := httptest.NewRecorder()
			err := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", errno)}
			h.(*proxy).handleError(&responseWriter{ResponseWriter: w, request: r}, r, err)
			if w.Code != 502 {
				t.Errorf("%v: status %d, want 502", errno, w.Code)
			}
		}
		for range 30 {
			fail(syscall.EMFILE)
			time.Sleep(100 * time.Millisecond)
		}
		if n := strings.Count(b.String(), "level=warn"); n != 3 || !strings.Contains(b.String(), "times=10") {
			t.Errorf("%d warnings in 3 s, want 3, of 10 requests:\n%s", n, &b)
		}
		b.Reset()
		for range 3 {
			fail(syscall.ECONNREFUSED)
		}
		if n := strings.Count(b.String(), "level=warn"); n != 3 {
			t.Errorf("%d warnings of other failures, want 3", n)
		}
	})
}
