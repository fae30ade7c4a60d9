package actors

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-kit/log/level"
)

// EveryConfig is what [Every] may be told besides. The zero value works.
type EveryConfig struct {
	// Name is the actor's in logs and errors. Empty means "every".
	Name string

	// AtStart runs the job also when execute begins.
	AtStart bool

	// Jitter puts each run off by a time drawn anew from between zero and this,
	// so that many processes do not do the same at once. Zero and less put off
	// nothing. It is no reason to miss a run unless it is longer than the
	// schedule's pauses.
	Jitter time.Duration

	// Grace is how long a run may go on once the actor was interrupted; its
	// context is cancelled then. Zero means until the deadline of the stop,
	// which it never exceeds; less cancels at once.
	Grace time.Duration

	// EndOnError makes an error of the job the actor's, which ends the group.
	// By default it is logged, and the job is run again when its time comes.
	EndOnError bool
}

// Every returns an actor that runs a job when schedule says, one run at a time.
//
//	g.Add(actors.Every(&stop, actors.Interval(time.Minute), refresh, actors.EveryConfig{}))
//
// Times that pass while a run goes on are not made up for: a line in the log
// (warn) says how many were missed, and the next run is at the next time to
// come. With [Cron] the same holds for times that passed while the machine was
// suspended, or because the clock was set; that is noticed within a minute.
//
// When the actor is interrupted, no run begins any more, and one in progress
// may finish within its grace. If its context had to be cancelled and it then
// returns an error, it counts as cut, see [CutError]; one that ignores its
// context holds the group. In the stop an error of the job goes to [Stop.Err]
// only with EndOnError.
//
// A schedule that comes to its end, or does not advance, is an error of
// execute. A nil stop means the defaults of [Stop].
func Every(stop *Stop, schedule Schedule, job func(context.Context) error, cfg EveryConfig) (execute func() error, interrupt func(error)) {
	e := &every{actor: newActor(stop, cfg.Name, "every"), EveryConfig: cfg, schedule: schedule, job: job}
	return e.execute(e.runs), e.interrupt
}

type every struct {
	*actor
	EveryConfig
	schedule Schedule
	job      func(context.Context) error
}

func (e *every) runs() error {
	ctx, cancel := e.limit(e.Grace)
	defer cancel()
	due := time.Now()
	for first := e.AtStart; ; first = false {
		if !first {
			var err error
			if due, err = e.next(due); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
		}
		at := due
		if e.Jitter > 0 {
			at = at.Add(rand.N(e.Jitter))
		}
		if !e.wait(at) {
			return nil
		}
		began := time.Now()
		cut, err := e.run(ctx, e.job)
		switch {
		case cut:
			return nil
		case err == nil:
			level.Debug(e.logger).Log("msg", "job done", "elapsed", time.Since(began))
		case e.EndOnError:
			return fmt.Errorf("%s: %w", e.name, err)
		default:
			level.Warn(e.logger).Log("msg", "job failed, going on", "err", err, "elapsed", time.Since(began))
		}
	}
}

// next returns when the next run is due, and says what was missed meanwhile.
func (e *every) next(due time.Time) (time.Time, error) {
	now, before := time.Now(), due
	for missed := 0; ; missed++ {
		next := e.schedule.Next(due)
		if !next.After(due) {
			return due, fmt.Errorf("the schedule has no time after %v", due.Round(0))
		}
		if next.After(now) {
			if missed > 0 {
				level.Warn(e.logger).Log("msg", "missed, not made up for", "times", missed, "since", before.UTC().Format(time.RFC3339), "next", next.UTC().Format(time.RFC3339))
			}
			return next, nil
		}
		due = next
	}
}

// wait waits until at, and reports whether the job is to run then.
func (e *every) wait(at time.Time) bool {
	for {
		// A timer stands still while the process is suspended, and knows
		// nothing of a clock that is set.
		t := time.NewTimer(min(time.Until(at), time.Minute))
		select {
		case <-e.asked:
			t.Stop()
			return false
		case <-t.C:
			if !time.Now().Before(at) {
				return !e.interrupted()
			}
		}
	}
}

// run runs a job, and reports whether it was cut, which it then counts.
func (a *actor) run(ctx context.Context, job func(context.Context) error) (cut bool, err error) {
	err = job(ctx)
	cut = err != nil && ctx.Err() != nil
	if cut {
		level.Warn(a.logger).Log("msg", "job cut", "err", err)
		a.stop.recordForced(a.name)
	}
	return cut, err
}
