package actors_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"

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
