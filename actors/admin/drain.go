package admin

import (
	"fmt"
	"net/http"
	"time"

	"github.com/go-kit/log/level"
	"github.com/oklog/run"

	"lastcall/actors"
)

// resultTrailer says how a stop ended, after its steps.
const resultTrailer = "Drain-Result"

// drainError is the cause of a stop that PUT /drain began. Like a signal, it is no
// failure.
type drainError struct{}

func (drainError) Error() string        { return "PUT /drain" }
func (drainError) Is(target error) bool { return target == run.ErrSignal }

// drain begins a stop, or follows one that has begun. It answers with a line at each
// step, and once a second if something has changed, until the stop is over or is
// taken back. A client that goes away changes nothing.
func (a *admin) drain(w http.ResponseWriter, r *http.Request) {
	level.Info(a.logger).Log("msg", "asked to drain", "client", r.RemoteAddr)
	a.stop.Drain(drainError{})
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Trailer", resultTrailer)
	rc := http.NewResponseController(w)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	draining, done, closing := a.stop.Draining(), a.stop.Done(), false
	for last := ""; ; {
		snap := a.stop.Snapshot()
		if text := drainStep(snap); text != last {
			rc.SetWriteDeadline(time.Now().Add(clientTimeout))
			fmt.Fprintln(w, text)
			if rc.Flush() != nil {
				return
			}
			last = text
		}
		switch {
		case snap.Began.IsZero():
			w.Header().Set(resultTrailer, "taken back")
			return
		case snap.Phase == actors.Stopped && len(snap.Cut) > 0:
			w.Header().Set(resultTrailer, "stopped, "+countCut(len(snap.Cut), snap.CutHijacked)+" cut")
			return
		case snap.Phase == actors.Stopped:
			w.Header().Set(resultTrailer, "stopped")
			return
		case closing:
			return
		}
		select {
		case <-tick.C:
		case <-draining:
			draining = nil
		case <-done:
			done = nil
		case <-r.Context().Done():
			return
		case <-a.closing:
			closing = true
		}
	}
}

// drainStep says where a stop is, and what is left.
func drainStep(s actors.Snapshot) string {
	switch {
	case s.Began.IsZero():
		return "taken back"
	case s.Phase == actors.Stopped:
		return fmt.Sprintf("stopped after %s, %d requests drained, %d failed, %s cut", formatDuration(s.Elapsed()), s.Drained, s.Failed, countCut(len(s.Cut), s.CutHijacked))
	case s.CanUndrain:
		return fmt.Sprintf("%v: not ready, still accepting; DELETE /drain takes it back", s.Phase)
	}
	return fmt.Sprintf("%v: %d requests in flight, %d connections open", s.Phase, s.InFlight, s.Open)
}

// undrain takes back a stop that drain began.
func (a *admin) undrain(w http.ResponseWriter, r *http.Request) {
	if !a.stop.Undrain() {
		text := "no stop has begun"
		if !a.stop.Snapshot().Began.IsZero() {
			text = "too late: the stop cannot be taken back"
		}
		http.Error(w, text, http.StatusConflict)
		return
	}
	level.Info(a.logger).Log("msg", "drain taken back", "client", r.RemoteAddr)
	fmt.Fprintln(w, a.stop.Phase())
}
