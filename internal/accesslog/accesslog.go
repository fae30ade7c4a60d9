// Package accesslog records requests, and logs them.
package accesslog

import (
	"bufio"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"lastcall/internal/unwrap"
)

// StatusClientClosed is the status that nginx logs for a request whose client went away
// before its answer began.
const StatusClientClosed = 499

// Request is a request that has ended.
type Request struct {
	Method string
	URI    string // as requested
	Proto  string
	Client string // remote address
	Host   string
	Agent  string

	By      string        // who answered: a name given to [By], or that of the Handler
	Status  int           // 0: the response had not begun; 101 when a handler took the connection over
	Bytes   int64         // of the response's body; those of a connection that was taken over are not counted
	TTFB    time.Duration // until the response began; 0: it did not
	Elapsed time.Duration // until the handler returned
	Aborted bool          // the handler broke off its response
	Cut     bool          // the request had not ended at the end of the stop
}

// Handler records each request when its handler has returned, also one that has
// taken over the connection (WebSocket).
type Handler struct {
	next   http.Handler
	by     string
	record []func(Request)

	mu   sync.Mutex
	open map[*recorder]struct{}
}

// New returns a Handler that calls the functions of record for each request that
// next has answered. by says who did, where no [By] does.
func New(next http.Handler, by string, record ...func(Request)) *Handler {
	return &Handler{next: next, by: by, record: record, open: make(map[*recorder]struct{})}
}

// By says in the record of a request that next has answered it.
func By(name string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rec, ok := w.(*recorder); ok {
			rec.setBy(name)
		}
		next.ServeHTTP(w, r)
	})
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w, start: time.Now(), isHead: r.Method == http.MethodHead}
	rec.server, _ = unwrap.Find[cuttable](w)
	rec.request = Request{ // handlers may change what is in r
		Method: r.Method, URI: r.RequestURI, Proto: r.Proto, Client: r.RemoteAddr, Host: r.Host, Agent: r.UserAgent(), By: h.by,
	}
	h.mu.Lock()
	h.open[rec] = struct{}{}
	h.mu.Unlock()
	aborted := true
	defer func() { // perhaps panicking: net/http closes the connection
		if !aborted {
			rec.begin(http.StatusOK) // net/http's, for a handler that writes nothing
		}
		h.end(rec, aborted)
	}()
	h.next.ServeHTTP(rec, r)
	aborted = false
}

// Close records the requests that have not ended when patience has passed. What their
// handlers do from then on is not recorded.
func (h *Handler) Close(patience time.Duration) {
	open := h.list()
	for end := time.Now().Add(patience); len(open) > 0 && time.Now().Before(end); open = h.list() {
		time.Sleep(time.Millisecond)
	}
	for _, rec := range open {
		h.end(rec, false)
	}
}

func (h *Handler) list() []*recorder {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.open))
}

// end records a request, once.
func (h *Handler) end(rec *recorder, aborted bool) {
	h.mu.Lock()
	_, open := h.open[rec]
	delete(h.open, rec)
	h.mu.Unlock()
	if !open {
		return
	}
	rec.mu.Lock()
	r := rec.request
	rec.mu.Unlock()
	r.Elapsed = time.Since(rec.start)
	r.Cut = rec.wasCut()
	r.Aborted = aborted && !r.Cut
	if r.Status == StatusClientClosed {
		r.TTFB = 0
	}
	for _, record := range h.record {
		record(r)
	}
}

// cuttable is the ResponseWriter that the server has made.
type cuttable interface{ WasCut() bool }

// recorder records the status and the size of a response.
type recorder struct {
	http.ResponseWriter
	server cuttable // nil: it does not say
	start  time.Time
	isHead bool // what the handler writes as a body is not sent

	mu      sync.Mutex // Close may come while the handler runs
	request Request
}

func (r *recorder) wasCut() bool { return r.server != nil && r.server.WasCut() }

func (r *recorder) setBy(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.request.By = name
}

func (r *recorder) begin(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.request.Status == 0 && !r.wasCut() && (status >= 200 || status == http.StatusSwitchingProtocols) {
		r.request.Status, r.request.TTFB = status, time.Since(r.start)
	}
}

func (r *recorder) count(n int64) {
	if r.isHead || r.wasCut() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.request.Bytes += n
}

func (r *recorder) WriteHeader(status int) {
	r.begin(status)
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.begin(http.StatusOK)
	n, err := r.ResponseWriter.Write(p)
	r.count(int64(n))
	return n, err
}

// ReadFrom keeps sendfile.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	r.begin(http.StatusOK)
	n, err := io.Copy(r.ResponseWriter, src)
	r.count(n)
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
