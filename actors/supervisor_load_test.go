package actors_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
	"lastcall/internal/wiretest"
	"lastcall/stoptest/load"
)

// database is a driver whose queries take a moment. The pool is database/sql's.
type database struct{}

func (database) Connect(context.Context) (driver.Conn, error) { return database{}, nil }
func (database) Driver() driver.Driver                        { return nil }
func (database) Prepare(string) (driver.Stmt, error)          { return database{}, nil }
func (database) Close() error                                 { return nil }
func (database) Begin() (driver.Tx, error)                    { return nil, driver.ErrSkip }
func (database) NumInput() int                                { return -1 }
func (database) Exec([]driver.Value) (driver.Result, error)   { return nil, driver.ErrSkip }
func (database) Query([]driver.Value) (driver.Rows, error) {
	time.Sleep(time.Millisecond)
	return &rows{}, nil
}

type rows struct{ read bool }

func (*rows) Columns() []string { return []string{"n"} }
func (*rows) Close() error      { return nil }
func (r *rows) Next(to []driver.Value) error {
	if r.read {
		return io.EOF
	}
	r.read, to[0] = true, int64(1)
	return nil
}

// TestPoolOutlivesHTTP stops a service under load whose handlers use a database.
// No request is lost, and none is answered with an error because the pool had
// been closed.
func TestPoolOutlivesHTTP(t *testing.T) {
	t.Parallel()
	db := sql.OpenDB(database{})
	db.SetMaxOpenConns(20)
	l, err := actors.Listen(wiretest.LoopbackIP() + ":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		var n int
		if err := db.QueryRowContext(r.Context(), "select").Scan(&n); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		io.WriteString(w, r.Header.Get("X-Request-Id"))
	})}

	var stop actors.Stop
	sup := &actors.Supervisor{Stop: &stop}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	closed := make(chan struct{})
	var g run.Group
	g.Add(sup.Actor("db", actors.ActorConfig{Stage: 1})(func() error { <-closed; return nil }, func(error) { db.Close(); close(closed) }))
	g.Add(run.ContextHandler(ctx))
	g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(&stop, srv, l)))
	ran := make(chan error, 1)
	go func() { ran <- g.Run() }()

	clients, err := load.Start(load.Config{Addr: l.Addr().String(), EchoBody: true, MaxUnused: 250 * time.Millisecond, Groups: []load.Group{
		{Kind: load.Reuse, N: 50, Think: 5 * time.Millisecond},
		{Kind: load.Look, N: 50, Think: 5 * time.Millisecond},
		{Kind: load.Connect, N: 8},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { clients.Stop(); clients.Wait() }()
	ready, done := context.WithTimeout(ctx, 30*time.Second)
	defer done()
	if err := clients.Ready(ready, 3); err != nil {
		t.Fatal(err)
	}
	clients.Signalled(time.Now())
	cancel()
	ledger := clients.Wait()
	if err := sup.Err(<-ran); err != nil {
		t.Error(err)
	}
	all := ledger.Total
	if all.Lost+all.ErrorStatus+all.WrongAnswer+all.ResetOnConnect+all.ClientError != 0 || all.AnsweredAfter == 0 {
		t.Errorf("%s", ledger)
	}
	if err := db.Ping(); err == nil {
		t.Error("the pool is still open")
	}
}

// TestJobFinishesWhileHTTPDrains has a job in the middle of a run when the stop
// begins, and a request under way that waits for it: both end well, whether the
// job is in the stage of HTTP or in the next.
func TestJobFinishesWhileHTTPDrains(t *testing.T) {
	for _, stage := range []int{0, 1} {
		l, err := actors.Listen(wiretest.LoopbackIP() + ":0")
		if err != nil {
			t.Fatal(err)
		}
		begun, finish, finished, arrived := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
		interrupted := make(chan struct{})
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(arrived)
			<-finished
			select {
			case <-interrupted:
				if stage == 1 {
					t.Error("interrupted before its turn")
				}
			case <-time.After(50 * time.Millisecond): // so that a wrong one would come
			}
			io.WriteString(w, "done")
		})}
		var stop actors.Stop
		sup := &actors.Supervisor{Stop: &stop}
		ctx, cancel := context.WithCancel(t.Context())
		var g run.Group
		g.Add(sup.Actor("jobs", actors.ActorConfig{Stage: stage})(func() error {
			close(begun)
			<-finish // in mid-run
			close(finished)
			<-interrupted // no further run
			return nil
		}, func(error) { close(interrupted) }))
		g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(&stop, srv, l)))
		g.Add(run.ContextHandler(ctx))
		ran, body := make(chan error, 1), make(chan string, 1)
		go func() { ran <- g.Run() }()
		go func() {
			resp, err := http.Get("http://" + l.Addr().String())
			if err != nil {
				body <- err.Error()
				return
			}
			defer http.DefaultClient.CloseIdleConnections()
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			body <- string(b)
		}()
		<-begun
		<-arrived
		cancel()
		<-stop.Draining()
		close(finish)
		if got := <-body; got != "done" {
			t.Errorf("answer = %q, want done", got)
		}
		if err := sup.Err(<-ran); err != nil {
			t.Error(err)
		}
		for _, a := range sup.Snapshot().Actors {
			if a.State != actors.Ended {
				t.Errorf("%s is %s, want ended", a.Name, a.State)
			}
		}
	}
}
