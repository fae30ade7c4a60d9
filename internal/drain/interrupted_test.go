package drain_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"lastcall/actors"
	"lastcall/internal/servetest"
)

// A request of which a part has arrived is named if the program has net/http close its
// connection in a stop, and not if it ends by itself.
func TestInterruptedByTheProgram(t *testing.T) {
	for name, tt := range map[string]struct {
		end   func(srv *http.Server, c *servetest.Client)
		named int
	}{
		"SetKeepAlivesEnabled": {func(srv *http.Server, _ *servetest.Client) { srv.SetKeepAlivesEnabled(false) }, 1},
		"the client goes":      {func(_ *http.Server, c *servetest.Client) { c.Close() }, 0},
		"its time is over":     {func(*http.Server, *servetest.Client) {}, 0},
		"it is malformed":      {func(_ *http.Server, c *servetest.Client) { c.Send("\x00 /\r\n\r\n") }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: 500 * time.Millisecond}
			s := servetest.Start(t, new(actors.Stop), srv)
			c := s.Dial(t)
			c.Send(servetest.Get)
			c.Answer()
			c.Send(servetest.Get[:10])
			servetest.WaitFor(t, "the request", func() bool { return s.Stop.Snapshot().Busy == 1 })
			s.End()
			s.Until(t, actors.Draining)
			tt.end(srv, c)
			err := s.Wait(t)
			var cut *actors.CutError
			if named := errors.As(err, &cut); named != (tt.named > 0) || named && len(cut.Requests) != tt.named {
				t.Errorf("the stop = %v, want %d requests named", err, tt.named)
			}
		})
	}
}
