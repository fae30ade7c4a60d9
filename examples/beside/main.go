// Command beside has actors of its own beside HTTP: a pool of workers, a
// periodic job and a child process.
//
//	go run ./examples/beside -addr 127.0.0.1:8080 &
//	curl -d hello localhost:8080
//	kill %1
package main

import (
	"context"
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/oklog/run"

	"lastcall/actors"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	flag.Parse()
	logger := log.NewLogfmtLogger(log.NewSyncWriter(os.Stderr))
	stop := actors.Stop{Logger: logger, Grace: 20 * time.Second}
	signals, interrupt := actors.Signal(&stop)

	l, err := actors.Listen(*addr)
	if err != nil {
		level.Error(logger).Log("err", err)
		os.Exit(1)
	}
	w := &workers{jobs: make(chan []byte, 100), last: make(chan struct{}), logger: log.With(logger, "actor", "workers")}
	child := exec.Command("sh", "-c", `trap 'echo leaving; exit' TERM; echo here; while :; do sleep 1 & wait; done`)

	const ( // the stages of a stop
		serving = iota
		backing // what serving needs: the workers take jobs for as long as handlers bring some
	)
	sup := &actors.Supervisor{Stop: &stop}
	var g run.Group
	g.Add(sup.Actor("workers", actors.ActorConfig{Stage: backing})(actors.Graceful(&stop, w.run, w.finish, actors.GracefulConfig{})))
	g.Add(sup.Actor("http", actors.ActorConfig{Stage: serving})(actors.HTTP(&stop, &http.Server{Handler: w, ReadHeaderTimeout: 10 * time.Second}, l)))
	g.Add(sup.Actor("report", actors.ActorConfig{Stage: backing})(actors.Every(&stop, actors.Interval(time.Second), w.report, actors.EveryConfig{Jitter: 100 * time.Millisecond})))
	g.Add(sup.Actor("child", actors.ActorConfig{Stage: backing})(actors.Process(&stop, child, actors.ProcessConfig{Name: "child"})))
	g.Add(signals, interrupt)
	level.Info(logger).Log("msg", "serving", "addr", l.Addr())
	if err := sup.Err(g.Run()); err != nil {
		level.Error(logger).Log("msg", "not a clean stop", "err", err)
		os.Exit(actors.ExitStatus(err))
	}
}

// workers do what requests bring, after these have been answered.
type workers struct {
	jobs   chan []byte
	last   chan struct{} // closed when nobody brings any more
	logger log.Logger
	done   atomic.Int64
}

func (w *workers) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, 1<<20))
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case w.jobs <- body:
		rw.WriteHeader(http.StatusAccepted)
	case <-r.Context().Done(): // the client has gone, or was cut
	}
}

// run returns when all jobs have been done.
func (w *workers) run() error {
	var pool sync.WaitGroup
	for range 4 {
		pool.Go(w.work)
	}
	pool.Wait()
	level.Info(w.logger).Log("msg", "no more jobs", "done", w.done.Load())
	return nil
}

// finish asks run to return when the jobs that there are have been done.
func (w *workers) finish(context.Context) error {
	close(w.last)
	return nil
}

func (w *workers) work() {
	do := func([]byte) {
		time.Sleep(10 * time.Millisecond)
		w.done.Add(1)
	}
	for {
		select {
		case job := <-w.jobs:
			do(job)
		case <-w.last:
			for {
				select {
				case job := <-w.jobs:
					do(job)
				default:
					return
				}
			}
		}
	}
}

func (w *workers) report(context.Context) error {
	return level.Info(w.logger).Log("msg", "working", "done", w.done.Load())
}
