package upstream

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"lastcall/internal/clock"
)

// errSilent is the error of a program that stalls within an exchange.
var errSilent error = silentError{}

type silentError struct{}

func (silentError) Error() string   { return "the program makes no progress" }
func (silentError) Timeout() bool   { return true }
func (silentError) Temporary() bool { return true }

// maySayNothing reports whether a response is a stream in which the program says
// something when it has something to say, and nothing for as long as it has not.
func maySayNothing(res *http.Response) bool {
	kind, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	return kind == "text/event-stream" || kind == "application/grpc" || strings.HasPrefix(kind, "application/grpc+")
}

// watch ends an exchange when it has waited for the program for too long:
//
//   - before the response, for the program to take what the client has sent;
//     http.Transport itself waits for the response to the whole request;
//   - in the response, for its next part; a part of the request that the client
//     sends meanwhile counts as progress.
//
// Time in which the client is slow is free. A nil watch has no limit.
type watch struct {
	limit time.Duration
	fire  func()

	mu       sync.Mutex
	timer    *time.Timer
	timerSet bool
	since    time.Duration // the last progress, by clock.Now()
	sending  bool          // the program has not taken all that it was sent
	reading  bool          // the next part of the response is awaited
	begun    bool          // the response has begun
	fired    bool          // the limit is over
	stopped  bool
}

func newWatch(limit time.Duration, fire func()) *watch { return &watch{limit: limit, fire: fire} }

// waitingLocked reports whether it is the program's turn.
func (w *watch) waitingLocked() bool { return !w.stopped && (w.reading || w.sending && !w.begun) }

// progressLocked begins to wait, or to wait anew.
func (w *watch) progressLocked() {
	w.since = clock.Now()
	if w.timerSet || !w.waitingLocked() {
		return
	}
	w.timerSet = true
	if w.timer == nil {
		w.timer = time.AfterFunc(w.limit, w.onTimer)
	} else {
		w.timer.Reset(w.limit)
	}
}

func (w *watch) onTimer() {
	w.mu.Lock()
	w.timerSet = false
	if !w.waitingLocked() {
		w.mu.Unlock()
		return
	}
	if left := w.limit - (clock.Now() - w.since); left > 0 {
		w.timerSet = true
		w.timer.Reset(left)
		w.mu.Unlock()
		return
	}
	w.fired, w.stopped = true, true
	w.mu.Unlock()
	w.fire()
}

// uploaded is called when the client has sent a part of the request, or is asked
// for one.
func (w *watch) uploaded(sending bool) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sending = sending; sending {
		w.progressLocked()
	}
}

// responded is called when the response has begun.
func (w *watch) responded(unlimited bool) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun, w.stopped = true, w.stopped || unlimited
}

// await is called before the response is read.
func (w *watch) await() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading = true
	w.progressLocked()
}

// received is called when the response was read. It reports whether the limit
// is over.
func (w *watch) received() bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading = false
	return w.fired
}

// stop ends the watch.
func (w *watch) stop() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// watchedUpload is the body of a request.
type watchedUpload struct {
	io.ReadCloser
	watch *watch
}

func (u *watchedUpload) Read(p []byte) (int, error) {
	u.watch.uploaded(false)
	n, err := u.ReadCloser.Read(p)
	u.watch.uploaded(n > 0)
	return n, err
}

func (u *watchedUpload) Close() error {
	u.watch.uploaded(false)
	return u.ReadCloser.Close()
}
