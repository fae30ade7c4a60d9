package actors_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-kit/log"
	"github.com/oklog/run"

	"lastcall/actors"
)

// The pool is added first, and yet it is closed last.
func ExampleSupervisor() {
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	closed := make(chan struct{})

	var stop actors.Stop
	sup := &actors.Supervisor{Stop: &stop}
	var g run.Group
	g.Add(sup.Actor("pool", actors.ActorConfig{Stage: 1})(
		func() error { <-closed; return nil },
		func(error) { fmt.Println("closing the pool, HTTP is", stop.Phase()); close(closed) },
	))
	g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(&stop, new(http.Server), l)))
	g.Add(func() error { return nil }, func(error) {}) // when this ends, the group does

	err = sup.Err(g.Run())
	fmt.Println(err, actors.ExitStatus(err))
	// Output:
	// closing the pool, HTTP is stopped
	// <nil> 0
}

// An actor that does not return is left behind, and the log says where it was.
func ExampleHangError() {
	sup := &actors.Supervisor{Stop: &actors.Stop{Grace: 10 * time.Millisecond}}
	var g run.Group
	free := make(chan struct{})
	defer close(free)
	g.Add(sup.Actor("jobs", actors.ActorConfig{})(func() error { <-free; return nil }, func(error) {}))
	g.Add(func() error { return nil }, func(error) {})

	err := sup.Err(g.Run())
	var hang *actors.HangError
	fmt.Println(errors.As(err, &hang), hang.Actor, len(hang.Stack) > 0, actors.ExitStatus(err))
	// Output: true jobs true 1
}

func ExampleActorConfig_contain() {
	var sup actors.Supervisor
	var g run.Group
	g.Add(sup.Actor("plugin", actors.ActorConfig{Contain: true})(func() error { panic("out of luck") }, func(error) {}))

	var contained *actors.PanicError
	if errors.As(sup.Err(g.Run()), &contained) {
		fmt.Println(contained.Actor, contained.Value)
	}
	// Output: plugin out of luck
}

func ExampleRestart() {
	sup := &actors.Supervisor{Stop: &actors.Stop{Logger: log.NewNopLogger()}}
	attempts := 0
	consume := func() error {
		if attempts++; attempts < 3 {
			return errors.New("connection refused") // may be gone the next time
		}
		return backoff.Permanent(errors.New("access denied")) // will not
	}

	var g run.Group
	g.Add(sup.Actor("queue", actors.ActorConfig{Restart: &actors.Restart{MinPause: time.Millisecond}})(consume, func(error) {}))
	fmt.Println(sup.Err(g.Run()))
	fmt.Println("restarts:", sup.Snapshot().Actors[0].Restarts)
	// Output:
	// queue: access denied
	// restarts: 2
}

func ExampleSupervisor_Snapshot() {
	sup := new(actors.Supervisor)
	var g run.Group
	g.Add(sup.Actor("jobs", actors.ActorConfig{})(func() error { return os.ErrPermission }, func(error) {}))
	g.Run()
	for _, a := range sup.Snapshot().Actors {
		fmt.Println(a.Name, a.State, a.Err)
	}
	// Output: jobs failed permission denied
}
