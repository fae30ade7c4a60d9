package actors_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/run"

	"lastcall/actors"
)

func permutations[T any](s []T) (all [][]T) {
	if len(s) == 0 {
		return [][]T{nil}
	}
	for i := range s {
		rest := slices.Concat(s[:i:i], s[i+1:])
		for _, p := range permutations(rest) {
			all = append(all, append([]T{s[i]}, p...))
		}
	}
	return all
}

// TestStages has five actors in three stages, in every order of Add, and each of
// them, or one that is not supervised, ends first. Each takes its time to stop.
func TestStages(t *testing.T) {
	t.Parallel()
	stages := map[string]int{"web": 0, "grpc": 0, "db": 1, "queue": 1, "metrics": 5}
	names := []string{"web", "grpc", "db", "queue", "metrics"}
	for _, first := range append(names, "context") {
		for _, order := range permutations(names) {
			synctest.Test(t, func(t *testing.T) {
				var d, logged diary
				sup := &actors.Supervisor{Stop: &actors.Stop{Logger: &logged}}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var g run.Group
				for _, name := range order {
					interrupted := make(chan struct{})
					g.Add(sup.Actor(name, actors.ActorConfig{Stage: stages[name]})(func() error {
						if name == first {
							time.Sleep(time.Minute)
						} else {
							<-interrupted
							time.Sleep(time.Duration(len(name)) * time.Second) // no two of a stage take the same
						}
						d.add("%d %s", stages[name], name)
						return nil
					}, func(error) {
						close(interrupted)
						d.add("%d interrupt", stages[name])
					}))
				}
				if first == "context" {
					g.Add(run.ContextHandler(ctx))
					time.AfterFunc(time.Minute, cancel)
				}
				if err := sup.Err(ends(t, &g)); err != nil {
					t.Errorf("Err = %v, want nil", err)
				}

				lines := d.read()
				if first != "context" { // it has ended, and is interrupted at once
					want := []string{fmt.Sprintf("%d %s", stages[first], first), fmt.Sprintf("%d interrupt", stages[first])}
					for _, w := range want {
						i := slices.Index(lines, w)
						if i < 0 {
							t.Fatalf("no %q in %q", w, lines)
						}
						lines = slices.Delete(lines, i, i+1)
					}
				}
				var want []string
				for _, n := range []int{0, 1, 5} {
					var ends []string
					for _, name := range []string{"db", "web", "grpc", "queue", "metrics"} { // as long as they take
						if stages[name] == n && name != first {
							want = append(want, fmt.Sprintf("%d interrupt", n))
							ends = append(ends, fmt.Sprintf("%d %s", n, name))
						}
					}
					want = append(want, ends...)
				}
				if diff := cmp.Diff(want, lines); diff != "" {
					t.Errorf("%s ends first, added as %v (-want +got):\n%s", first, order, diff)
				}
				var turns, ends []string
				for _, line := range logged.read() {
					if strings.Contains(line, "stopping stage") {
						turns = append(turns, line[strings.Index(line, "stage="):][:7])
					}
					if name, ok := strings.CutPrefix(line, "level=info actor="); ok {
						ends = append(ends, name)
					}
				}
				if want := []string{"stage=0", "stage=1", "stage=5"}; !slices.Equal(turns, want) {
					t.Errorf("stages logged: %q, want %q", turns, want)
				}
				if len(ends) != 5 {
					t.Errorf("ends logged: %q, want one of each actor", ends)
				}
			})
			if t.Failed() {
				return
			}
		}
	}
}

// TestStagesHTTP has a request under way, of a server that was added last.
func TestStagesHTTP(t *testing.T) {
	var d diary
	stop := &actors.Stop{}
	sup := &actors.Supervisor{Stop: stop}
	l, err := actors.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	arrived, release := make(chan struct{}), make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
		d.add("answer")
	})}
	var g run.Group
	pool, end := latch(nil)
	g.Add(sup.Actor("db", actors.ActorConfig{Stage: 1})(pool, func(err error) { d.add("db interrupted: %v", err); end(err) }))
	g.Add(sup.Actor("http", actors.ActorConfig{})(actors.HTTP(stop, srv, l)))
	g.Add(actors.Signal(stop, syscall.SIGTERM))
	ctx, cancel := context.WithCancel(t.Context())
	g.Add(run.ContextHandler(ctx))
	ran := make(chan error, 1)
	go func() { ran <- g.Run() }()

	got := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String())
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		http.DefaultClient.CloseIdleConnections()
		got <- err
	}()
	<-arrived
	cancel()
	<-stop.Draining()
	close(release)
	if err := <-got; err != nil {
		t.Error(err)
	}
	if err := sup.Err(<-ran); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"answer", "db interrupted: context canceled"}, d.read()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
