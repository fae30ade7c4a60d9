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

	// Grace is how long the job may go on once the actor was interrupted; its
	// context is cancelled then. Zero means until the deadline of the stop,
	// which always holds; a negative value cancels at once.
	Grace time.Duration
}

// Once returns an actor that runs a job to its end and then waits to be
// interrupted: a migration, the warming of a cache. In a run.Group the job
// itself would end everything when it is done.
//
// An error of the job ends the group, and is in [Stop.Err] also if another
// actor ended first. If it returns one because its context had to be cancelled,
// it counts as cut instead, see [CutError]. If the interrupt comes before
// execute, the job is not run. A nil stop means the defaults of [Stop].
func Once(stop *Stop, job func(context.Context) error, cfg OnceConfig) (execute func() error, interrupt func(error)) {
	a := newActor(stop, cfg.Name, "once")
	return a.execute(func() error {
		ctx, cancel := a.limit(cfg.Grace)
		defer cancel()
		began := time.Now()
		switch cut, err := a.run(ctx, job); {
		case cut:
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", a.name, err)
		}
		level.Debug(a.logger).Log("msg", "job done", "elapsed", time.Since(began))
		<-a.asked
		return nil
	}), a.interrupt
}
