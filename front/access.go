package front

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// AccessLog logs a line a request (info), when it has ended: method, path as
// asked for, protocol, status, bytes of the answer's body, time taken, client,
// host and user agent. A request whose handler breaks off its answer is logged
// with aborted=true. A connection that a handler takes over is logged when the
// handler returns, with the status that it wrote.
func AccessLog(next http.Handler, logger log.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		start, aborted := time.Now(), true
		method, uri := r.Method, r.RequestURI
		defer func() {
			line := []any{"msg", "request", "method", method, "path", uri, "proto", r.Proto, "status", rec.status,
				"bytes", rec.bytes, "elapsed", time.Since(start).Round(time.Microsecond),
				"client", r.RemoteAddr, "host", r.Host, "agent", r.UserAgent()}
			if aborted { // panicking: net/http closes the connection
				line = append(line, "aborted", true)
			}
			level.Info(logger).Log(line...)
		}()
		next.ServeHTTP(rec, r)
		aborted = false
	})
}

// recorder notes the status and the size of an answer.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	wrote  bool
}

func (r *recorder) WriteHeader(status int) {
	if !r.wrote && (status >= 200 || status == http.StatusSwitchingProtocols) {
		r.status, r.wrote = status, true
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.wrote = true
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// ReadFrom keeps sendfile.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	r.wrote = true
	n, err := io.Copy(r.ResponseWriter, src)
	r.bytes += n
	return n, err
}

func (r *recorder) Flush() { http.NewResponseController(r.ResponseWriter).Flush() }

func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(r.ResponseWriter).Hijack()
}

// Unwrap gives http.ResponseController the rest.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
