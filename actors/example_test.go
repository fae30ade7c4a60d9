package actors_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/oklog/run"

	"lastcall/actors"
)

func ExampleHTTP() {
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello")
	})}

	var stop actors.Stop
	var g run.Group
	g.Add(actors.HTTP(&stop, srv, l))
	g.Add(func() error { // when this ends, the group does
		resp, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			return err
		}
		defer http.DefaultClient.CloseIdleConnections()
		defer resp.Body.Close()
		_, err = io.Copy(os.Stdout, resp.Body)
		fmt.Println()
		return err
	}, func(error) {})

	fmt.Println(stop.Err(g.Run()), stop.Phase())
	// Output:
	// hello
	// <nil> stopped
}

func ExampleSignal() {
	var stop actors.Stop
	execute, interrupt := actors.Signal(&stop, os.Interrupt, syscall.SIGTERM)

	var g run.Group
	g.Add(execute, interrupt)
	g.Add(func() error { return errors.New("out of luck") }, func(error) {})
	fmt.Println(stop.Err(g.Run()))
	// Output: out of luck
}

func ExampleHealth() {
	stop := new(actors.Stop)
	probe := func() {
		rec := httptest.NewRecorder()
		actors.Health(stop, "/", nil).ServeHTTP(rec, httptest.NewRequest("GET", "/readyz", nil))
		fmt.Print(rec.Code, " ", rec.Body)
	}
	probe()
	stop.Begin(nil)
	probe()
	// Output:
	// 503 starting
	// 503 stopped
}

func ExampleStop_SetReady() {
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	stop := new(actors.Stop)
	srv := &http.Server{Handler: actors.Health(stop, "/", nil)}
	var g run.Group
	g.Add(actors.HTTP(stop, srv, l))
	g.Add(func() error {
		defer http.DefaultClient.CloseIdleConnections()
		for _, ready := range []bool{false, true} {
			stop.SetReady(ready)
			resp, err := http.Get("http://" + l.Addr().String() + "/readyz")
			if err != nil {
				return err
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				return err
			}
			fmt.Print(resp.StatusCode, " ", string(body))
		}
		return nil
	}, func(error) {})
	fmt.Println(stop.Err(g.Run()))
	// Output:
	// 503 out of service
	// 200 ready
	// <nil>
}

func ExampleListen() {
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	fmt.Println(l.Addr().Network())
	// Output: tcp
}

// Sockets that systemd has made for the process, or else one of its own.
func ExampleInherited() {
	passed, err := activation.Listeners()
	if err != nil {
		fmt.Println(err)
		return
	}
	var listeners []net.Listener
	for _, l := range passed {
		listeners = append(listeners, actors.Inherited(l))
	}
	if len(listeners) == 0 {
		l, err := actors.Listen("127.0.0.1:0")
		if err != nil {
			fmt.Println(err)
			return
		}
		listeners = append(listeners, l)
	}

	var stop actors.Stop
	var g run.Group
	g.Add(actors.HTTP(&stop, &http.Server{}, listeners...))
	g.Add(func() error { return nil }, func(error) {}) // ends the group
	fmt.Println(stop.Err(g.Run()), len(listeners))
	// Output: <nil> 1
}

func ExampleStop_Err() {
	stop := new(actors.Stop)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()

	var g run.Group
	g.Add(run.ContextHandler(ctx))
	err := g.Run()
	fmt.Println(err)
	fmt.Println(stop.Err(err)) // being asked to stop is not a failure
	// Output:
	// context canceled
	// <nil>
}
