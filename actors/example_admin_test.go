package actors_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/oklog/run"

	"lastcall/actors"
)

func ExampleAdmin() {
	l, err := actors.Listen("127.0.0.1:0") // or "unix:PATH"
	if err != nil {
		fmt.Println(err)
		return
	}
	var stop actors.Stop
	sup := &actors.Supervisor{Stop: &stop}
	var g run.Group
	g.Add(sup.Actor("admin", actors.Stage(2))(actors.Admin(&stop, l, actors.AdminConfig{Supervisor: sup})))
	g.Add(sup.Actor("ask")(actors.Once(&stop, func(context.Context) error {
		defer http.DefaultClient.CloseIdleConnections()
		req, err := http.NewRequest("PUT", "http://"+l.Addr().String()+"/lame-duck", strings.NewReader("on"))
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		fmt.Printf("lame duck: %s", b)
		stop.Begin(nil)
		return err
	}, actors.OnceConfig{})))
	fmt.Println(sup.Err(g.Run()))

	// Output:
	// lame duck: on
	// <nil>
}
