// Package accesslog logs requests.
package accesslog

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// Handler logs one line a request (info) when the request has ended: method,
// path as requested, protocol, status, bytes of the response body, elapsed
// time, client, host and user agent. If the handler breaks off its response,
// the line has aborted=true, and status 0 if the response had not begun. If the
// handler takes over the connection, the line comes when the handler returns.
// Its status is 101 unless the handler wrote another, and the bytes of the
// connection are not counted.
func Handler(next http.Handler, logger log.Logger) http.Handler {
	logger = level.Info(logger)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		start, aborted := time.Now(), true
		method, uri := r.Method, r.RequestURI // handlers may change them
		defer func() {
			if rec.status == 0 && !aborted {
				rec.status = http.StatusOK // net/http's, for a handler that writes nothing
			}
			line := []any{"msg", "request", "method", method, "path", uri, "proto", r.Proto, "status", rec.status,
				"bytes", rec.bytes, "elapsed", time.Since(start).Round(time.Microsecond),
				"client", r.RemoteAddr, "host", r.Host, "agent", r.UserAgent()}
			if aborted { // panicking: net/http closes the connection
				line = append(line, "aborted", true)
			}
			logger.Log(line...)
		}()
		next.ServeHTTP(rec, r)
		aborted = false
	})
}

// recorder records the status and the size of a response.
type recorder struct {
	http.ResponseWriter
	status int // 0: not written yet
	bytes  int64
}

func (r *recorder) begin(status int) {
	if r.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		r.status = status
	}
}

func (r *recorder) WriteHeader(status int) {
	r.begin(status)
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.begin(http.StatusOK)
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// ReadFrom keeps sendfile.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	r.begin(http.StatusOK)
	n, err := io.Copy(r.ResponseWriter, src)
	r.bytes += n
	return n, err
}

func (r *recorder) Flush() { r.FlushError() }

// FlushError is what http.ResponseController calls.
func (r *recorder) FlushError() error {
	r.begin(http.StatusOK)
	return http.NewResponseController(r.ResponseWriter).Flush()
}

func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, buf, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.begin(http.StatusSwitchingProtocols)
	}
	return nc, buf, err
}

// Unwrap gives http.ResponseController everything else.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
