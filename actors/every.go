package actors

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-kit/log/level"
)

// EveryConfig holds the optional settings of [Every]. The zero value works.
type EveryConfig struct {
	// Name is the actor's in logs and errors. Empty means "every".
	Name string

	// AtStart runs the job also when execute begins.
	AtStart bool

	// Jitter delays each run by a random time between zero and this, so that
	// many processes do not do the same at once. Zero and negative values delay
	// nothing. A run is missed because of it only if it is longer than the
	// schedule's pauses.
	Jitter time.Duration

	// Grace is how long a run may go on once the actor was interrupted; its
	// context is cancelled then. Zero means until the deadline of the stop,
	// which always holds; a negative value cancels at once.
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
// come.
//
// An [Interval] counts the time that passes while the machine runs, whatever
// the clock shows. Every other schedule goes by the clock. If that jumps by more
// than a minute, because it was set or because the machine was suspended, Every
// notices within a minute and goes on from the time that the clock shows now. A
// line in the log (warn) says so if it makes a difference. What a jump forward
// skips is not made up for; what a jump backward repeats is run again.
// A smaller jump at most delays a run. Daylight saving time is no jump, see
// [Cron].
//
// When the actor is interrupted, no run begins any more, and one in progress
// may finish within its grace. If its context had to be cancelled and it then
// returns an error, it counts as cut, see [CutError]. A job that ignores its
// context holds the group. In the stop an error of the job goes to [Stop.Err]
// only with EndOnError.
//
// A schedule that comes to its end, or does not advance, is an error of
// execute. A nil stop means the defaults of [Stop].
func Every(stop *Stop, schedule Schedule, job func(context.Context) error, cfg EveryConfig) (execute func() error, interrupt func(error)) {
	e := newEvery(stop, schedule, job, cfg)
	return e.execute(e.runJobs), e.interrupt
}

const (
	// maxJump is the largest difference between the clock and the time that
	// passed which is no jump. An hour of NTP's fastest slewing makes 2 s.
	maxJump = time.Minute

	// clockCheck is how often the clock is compared with the time that passed. A
	// timer knows nothing of a clock that is set, and stands still while the
	// machine is suspended.
	clockCheck = time.Minute

	// maxMissed bounds how many missed times are counted one by one.
	maxMissed = 1000
)

type every struct {
	*actor
	EveryConfig
	schedule Schedule
	job      func(context.Context) error

	clock func() time.Time // what the clock on the wall shows
	wall  time.Time        // what it showed when it was last looked at
	mono  time.Time        // when that was; read with its monotonic reading
}

func newEvery(stop *Stop, schedule Schedule, job func(context.Context) error, cfg EveryConfig) *every {
	return &every{actor: newActor(stop, cfg.Name, "every"), EveryConfig: cfg, schedule: schedule, job: job, clock: time.Now}
}

func (e *every) runJobs() error {
	ctx, cancel := e.workContext(e.Grace)
	defer cancel()
	due := e.now()
	e.clockJump()
	for first := e.AtStart; ; first = false {
		var err error
		if !first {
			due, err = e.next(due)
		}
		if err == nil && !first {
			e.stop.reportReady()
		}
		if err == nil {
			due, err = e.awaitRun(due)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		if e.isInterrupted() {
			return nil
		}
		began := time.Now()
		cut, err := e.runJob(ctx, e.job)
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

// byClock reports whether the schedule goes by the clock, and not by the time
// that passes.
func (e *every) byClock() bool {
	_, interval := e.schedule.(Interval)
	return !interval
}

// now returns the time by which the schedule goes. That of an Interval has a
// monotonic reading.
func (e *every) now() time.Time {
	if e.byClock() {
		return e.clock().Round(0)
	}
	return time.Now()
}

// jump returns by how much the clock moved since the last call beyond the time
// that passed. It is 0 unless that is more than maxJump.
func (e *every) clockJump() time.Duration {
	if !e.byClock() {
		return 0
	}
	wall, mono := e.now(), time.Now()
	by := wall.Sub(e.wall) - mono.Sub(e.mono)
	first := e.mono.IsZero()
	e.wall, e.mono = wall, mono
	if first || by.Abs() <= maxJump {
		return 0
	}
	return by
}

// after returns the schedule's first time after t.
func (e *every) nextTime(t time.Time) (time.Time, error) {
	next := e.schedule.Next(t)
	if !next.After(t) {
		return t, fmt.Errorf("the schedule has no time after %v", t.Round(0))
	}
	return next, nil
}

// next returns the first time to come after due, and logs how many were missed.
func (e *every) next(due time.Time) (next time.Time, err error) {
	next, err = e.nextTime(due)
	if by := e.clockJump(); by != 0 && err == nil {
		return e.resumeAfterJump(next, by)
	}
	now := e.now()
	if err != nil || next.After(now) {
		return next, err
	}
	var missed any
	if d, ok := e.schedule.(Interval); ok {
		n := now.Sub(due) / time.Duration(d)
		missed, next = int64(n), due.Add((n+1)*time.Duration(d))
	} else {
		n := 0
		for ; err == nil && !next.After(now) && n < maxMissed && !e.isInterrupted(); n++ {
			next, err = e.nextTime(next)
		}
		if missed = n; err == nil && !next.After(now) {
			missed = fmt.Sprint(n, " or more")
			next, err = e.nextTime(now)
		}
	}
	if err == nil {
		level.Warn(e.logger).Log("msg", "missed, not made up for", "times", missed, "since", due.UTC().Format(time.RFC3339), "next", next.UTC().Format(time.RFC3339))
	}
	return next, err
}

// restart returns the first time to come when the clock has jumped, and logs it
// unless that is the one that was expected.
func (e *every) resumeAfterJump(expected time.Time, by time.Duration) (time.Time, error) {
	next, err := e.nextTime(e.now())
	if err == nil && !next.Equal(expected) {
		level.Warn(e.logger).Log("msg", "the clock has jumped, going on from now", "by", by.Round(time.Second), "now", e.wall.UTC().Format(time.RFC3339), "next", next.UTC().Format(time.RFC3339))
	}
	return next, err
}

// wait waits until the run that is due, or the next one if the clock jumps, and
// returns when it was due. It returns at once when the actor is interrupted.
func (e *every) awaitRun(due time.Time) (time.Time, error) {
	at := e.jittered(due)
	for {
		now := e.now()
		if by := e.clockJump(); by < 0 || by > 0 && !now.Before(at) {
			next, err := e.resumeAfterJump(due, by)
			if err != nil {
				return due, err
			}
			due, at = next, e.jittered(next)
			continue
		}
		if !now.Before(at) {
			return due, nil
		}
		t := time.NewTimer(min(at.Sub(now), clockCheck))
		select {
		case <-e.stopping:
			t.Stop()
			return due, nil
		case <-t.C:
		}
	}
}

// jittered returns when to run what is due.
func (e *every) jittered(due time.Time) time.Time {
	if e.Jitter > 0 {
		return due.Add(rand.N(e.Jitter))
	}
	return due
}

// run runs a job, and reports whether it was cut, which it then counts.
func (a *actor) runJob(ctx context.Context, job func(context.Context) error) (cut bool, err error) {
	err = job(ctx)
	cut = err != nil && ctx.Err() != nil
	if cut {
		level.Warn(a.logger).Log("msg", "job cut", "err", err)
		a.stop.recordForced(a.name)
	}
	return cut, err
}
