package actors_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/coder/websocket"
	"github.com/oklog/run"

	"lastcall/actors"
)

// A stream of server-sent events that ends when draining begins, after a whole
// event: the browser's EventSource then connects again by itself.
func ExampleStop_Draining() {
	events := func(w http.ResponseWriter, r *http.Request) {
		draining := actors.StopOf(r.Context()).Draining()
		w.Header().Set("Content-Type", "text/event-stream")
		tick := time.NewTicker(time.Minute)
		defer tick.Stop()
		for n := 1; ; n++ {
			fmt.Fprintf(w, "id: %d\ndata: tick\n\n", n)
			http.NewResponseController(w).Flush()
			select {
			case <-tick.C:
			case <-draining:
				return
			case <-r.Context().Done(): // the client has gone
				return
			}
		}
	}

	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	var stop actors.Stop
	var g run.Group
	g.Add(actors.HTTP(&stop, &http.Server{Handler: http.HandlerFunc(events)}, l))
	g.Add(func() error { // the client
		resp, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			return err
		}
		defer http.DefaultClient.CloseIdleConnections()
		defer resp.Body.Close()
		stop.Begin(nil)
		events, err := io.ReadAll(resp.Body)
		fmt.Printf("%q, then %v\n", events, err)
		return nil
	}, func(error) {})
	fmt.Println(stop.Err(g.Run()))
	// Output:
	// "id: 1\ndata: tick\n\n", then <nil>
	// <nil>
}

// A WebSocket that says 1001 (going away) when draining begins.
func ExampleStop_OnDraining() {
	echo := func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // Accept has answered
		}
		defer ws.CloseNow()
		defer actors.StopOf(r.Context()).OnDraining(func() {
			ws.Close(websocket.StatusGoingAway, "see you soon") // between messages, and waits for the client's
		})()
		ctx := r.Context()
		for {
			kind, message, err := ws.Read(ctx)
			if err != nil {
				return
			}
			if ws.Write(ctx, kind, message) != nil {
				return
			}
		}
	}

	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	var stop actors.Stop
	var g run.Group
	g.Add(actors.HTTP(&stop, &http.Server{Handler: http.HandlerFunc(echo)}, l))
	g.Add(func() error { // the client
		ctx := context.Background()
		ws, _, err := websocket.Dial(ctx, "ws://"+l.Addr().String(), nil)
		if err != nil {
			return err
		}
		defer ws.CloseNow()
		if err := ws.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
			return err
		}
		_, message, err := ws.Read(ctx)
		fmt.Printf("%s, %v\n", message, err)
		stop.Begin(nil)
		_, _, err = ws.Read(ctx)
		fmt.Println(err)
		return nil
	}, func(error) {})
	fmt.Println(stop.Err(g.Run()))
	// Output:
	// hello, <nil>
	// failed to get reader: received close frame: status = StatusGoingAway and reason = "see you soon"
	// <nil>
}

// A cache that is written out when the stop begins, while HTTP still drains.
func ExampleStop_Begun() {
	var stop actors.Stop
	saved := make(chan struct{})
	go func() {
		defer close(saved)
		<-stop.Begun()
		fmt.Println("saved")
	}()

	var g run.Group
	g.Add(actors.Signal(&stop))
	g.Add(func() error { return nil }, func(error) {}) // when this ends, the group does
	err := stop.Err(g.Run())
	<-saved
	fmt.Println(err)
	// Output:
	// saved
	// <nil>
}
