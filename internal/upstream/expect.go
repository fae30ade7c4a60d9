package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"time"
)

// continueTimeout is how long a program may take to answer a request that
// expects 100 (Continue). Then the body is sent: some programs do not know the
// expectation. It is long because a program that is busy, and then refuses the
// request, should not get the body. A client that does not wait has its body in
// the connection until then.
const continueTimeout = 5 * time.Second

// errRefused ends the body of a request that the program has answered without
// it.
var errRefused = errors.New("the program refused the body of the request")

// expectsContinue reports whether the client waits for 100 (Continue).
func expectsContinue(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Expect"), "100-continue")
}

// expectation is the body of a request that expects 100 (Continue). To read it
// is to ask the client for it, so Read waits until the program has decided.
//
// http.Transport has a setting for that. But it reads the body of a request
// that was refused, to keep the connection.
type expectation struct {
	io.ReadCloser
	decided chan struct{} // closed when Read may go on, or end with err

	mu    sync.Mutex
	done  bool
	err   error
	timer *time.Timer // runs from the first Read to the answer
	final bool        // the program has answered; the answer may be read still
}

func newExpectation(body io.ReadCloser) *expectation {
	return &expectation{ReadCloser: body, decided: make(chan struct{})}
}

// trace returns a context by which the expectation learns of 100 (Continue).
func (e *expectation) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(status int, _ textproto.MIMEHeader) error {
			if status == http.StatusContinue {
				e.decide(nil)
			}
			return nil
		},
	})
}

func (e *expectation) Read(p []byte) (int, error) {
	e.startTimer()
	<-e.decided
	if e.err != nil {
		return 0, e.err
	}
	return e.ReadCloser.Read(p)
}

func (e *expectation) Close() error {
	e.decide(http.ErrBodyReadAfterClose)
	return e.ReadCloser.Close()
}

func (e *expectation) startTimer() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer == nil && !e.final && !e.done {
		e.timer = time.AfterFunc(continueTimeout, func() { e.decide(nil) })
	}
}

// decide lets Read go on, or end with err. The first decision holds.
func (e *expectation) decide(err error) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.done || err == nil && e.final {
		return
	}
	e.done, e.err = true, err
	close(e.decided)
	e.stopTimerLocked()
}

// answered makes Read wait for the end of the exchange: http.Transport would
// cut the answer if it cannot read the request.
func (e *expectation) answered() {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.final = true
	e.stopTimerLocked()
}

func (e *expectation) stopTimerLocked() {
	if e.timer != nil {
		e.timer.Stop()
	}
}
