package admin_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/actors/admin"
)

func ExampleActor() {
	l, err := actors.Listen("127.0.0.1:0") // or "unix:PATH"
	if err != nil {
		fmt.Println(err)
		return
	}
	var stop actors.Stop
	sup := &actors.Supervisor{Stop: &stop}
	var g run.Group
	g.Add(sup.Actor("admin", actors.ActorConfig{Stage: 2})(admin.Actor(&stop, l, admin.Config{Supervisor: sup})))
	g.Add(sup.Actor("ask", actors.ActorConfig{})(actors.Once(&stop, func(context.Context) error {
		defer http.DefaultClient.CloseIdleConnections()
		req, err := http.NewRequest("PUT", "http://"+l.Addr().String()+"/ready", strings.NewReader("off"))
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		fmt.Printf("ready: %s", b)
		stop.Begin(nil)
		return err
	}, actors.OnceConfig{})))
	fmt.Println(sup.Err(g.Run()))

	// Output:
	// ready: off
	// <nil>
}
