package actors

import (
	"context"
	"fmt"
	"time"

	"github.com/go-kit/log/level"
)

// OnceConfig holds the optional settings of [Once]. The zero value works.
type OnceConfig struct {
	// Name is the actor's in logs and errors. Empty means "once".
	Name string

	// Grace is how long the job may take after the actor was interrupted. Then
	// its context is cancelled. Zero means until the deadline of the stop, and
	// so does a longer time. A negative value cancels at once.
	Grace time.Duration
}

// Once returns an actor that runs a job to its end and then waits for its
// interrupt: a migration, the warming of a cache. The job alone would end the
// group when it returns.
//
// The other actors of the group start at the same time. In a [Supervisor]
// StartFirst makes them wait until the job has ended.
//
// An error of the job ends the group, and is in [Stop.Err] also if another actor
// returned first. If the context of the job was cancelled and it returns an error,
// the actor is in the [CutError] of the stop. If the interrupt comes before
// execute, the job does not run. A job that ignores its context holds the group.
// A nil stop means the defaults of [Stop].
func Once(stop *Stop, job func(context.Context) error, cfg OnceConfig) (execute func() error, interrupt func(error)) {
	a := newActor(stop, cfg.Name, "once")
	return a.execute(func() error {
		ctx, cancel := a.workContext(cfg.Grace)
		defer cancel()
		began := time.Now()
		switch cut, err := a.runJob(ctx, job); {
		case cut:
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", a.name, err)
		}
		level.Debug(a.logger).Log("msg", "job done", "elapsed", time.Since(began))
		a.stop.reportReady()
		<-a.stopping
		return nil
	}), a.interrupt
}
