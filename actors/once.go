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
	// so does a longer time. A negative one cancels at once.
	Grace time.Duration
}

// Once returns an actor that runs a job to its end and then waits to be
// interrupted: a migration, the warming of a cache. In a run.Group the job alone
// would end the group when it is done.
//
// The other actors of the group start at the same time. Those that need what the
// job does wait for it in a [Supervisor], with the option [StartFirst].
//
// An error of the job ends the group, and is in [Stop.Err] even if another actor
// ended first. A job whose context was cancelled and that returns an error then
// counts as cut, see [CutError]. If the interrupt comes before execute, the job
// is not run. A nil stop means the defaults of [Stop].
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
