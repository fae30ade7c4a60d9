//go:build unix

package actors_test

import (
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/oklog/run"

	"lastcall/actors"
)

// A whole program: serve until a signal comes, then stop without losing a
// request.
func Example() {
	var stop actors.Stop
	srv := &http.Server{Addr: "127.0.0.1:0", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello")
	})}

	ended := make(chan struct{})
	var g run.Group
	g.Add(actors.HTTP(&stop, srv))
	g.Add(actors.Signal(&stop))
	g.Add(func() error { // one's own actor beside them; this one presses Ctrl-C
		self, err := os.FindProcess(os.Getpid())
		if err != nil {
			return err
		}
		if err := self.Signal(os.Interrupt); err != nil {
			return err
		}
		<-ended
		return nil
	}, func(error) { close(ended) })

	err := stop.Err(g.Run())
	fmt.Println(err, stop.Phase())
	// Output: <nil> stopped
}
