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

	// Jitter is the longest delay of a run. Each run is delayed by a random
	// time up to it, so that many processes do not run the job at once. Zero
	// and negative values delay nothing. A Jitter that is longer than the
	// schedule's pauses makes runs be missed.
	Jitter time.Duration

	// Grace is how long a run may take after the actor was interrupted. Then its
	// context is cancelled. Zero means until the deadline of the stop, and so
	// does a longer time. A negative value cancels at once.
	Grace time.Duration

	// EndOnError makes execute return an error of the job, which ends the
	// group. Otherwise the error is logged (warn), and the job runs again at
	// its next time.
	EndOnError bool
}

// Every returns an actor that runs a job at the times of a schedule, one run at a
// time.
//
//	g.Add(actors.Every(&stop, actors.Interval(time.Minute), refresh, actors.EveryConfig{}))
//
// Times that pass during a run are missed. A line in the log (warn) says how many,
// and the job runs again at the next time of the schedule.
//
// An [Interval] counts the time during which the machine runs, whatever the clock
// shows. Every other schedule follows the clock. If the clock jumps by more than a
// minute, because it was set or because the machine was suspended, Every notices
// within a minute and continues from the time that the clock shows then. A line
// in the log (warn) says so if the next time is another. The times that a jump
// forward skips are missed. The times that a jump backward repeats are run again.
// A smaller jump may delay a run. Daylight saving time is not a jump, see [Cron].
//
// After the interrupt no run begins. A run in progress may end within Grace. If its
// context was cancelled and it returns an error, the actor is in the [CutError] of
// the stop. A job that ignores its context holds the group. During the stop an
// error of the job is in [Stop.Err] only with EndOnError.
//
// A schedule that has no further time, or whose next time is not later, is an
// error of execute. A nil stop means the defaults of [Stop].
func Every(stop *Stop, schedule Schedule, job func(context.Context) error, cfg EveryConfig) (execute func() error, interrupt func(error)) {
	e := newEvery(stop, schedule, job, cfg)
	return e.execute(e.runJobs), e.interrupt
}

const (
	// maxJump is the largest difference between the clock and the time that has
	// passed that is not a jump. NTP makes at most 2 s in an hour.
	maxJump = time.Minute

	// clockCheck is how often the clock is compared with the time that has
	// passed. A timer does not notice that the clock is set, and does not run
	// while the machine is suspended.
	clockCheck = time.Minute

	// maxMissed is how many missed times are counted.
	maxMissed = 1000
)

type every struct {
	*actor
	EveryConfig
	schedule Schedule
	job      func(context.Context) error

	clock func() time.Time // returns what the clock shows
	wall  time.Time        // what the clock showed at mono
	mono  time.Time        // when readClock was called last, with a monotonic reading
}

func newEvery(stop *Stop, schedule Schedule, job func(context.Context) error, cfg EveryConfig) *every {
	return &every{actor: newActor(stop, cfg.Name, "every"), EveryConfig: cfg, schedule: schedule, job: job, clock: time.Now}
}

// runJobs is execute.
func (e *every) runJobs() error {
	ctx, cancel := e.workContext(e.Grace)
	defer cancel()
	if e.schedule == nil {
		return fmt.Errorf("%s: no schedule", e.name)
	}
	due, _ := e.readClock()
	for first := e.AtStart; ; first = false {
		if e.isInterrupted() { // there is no next run
			return nil
		}
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

// readClock returns the present time of the schedule, which for an Interval has a
// monotonic reading. jump is by how much more the clock has moved since the last call
// than time has passed, or 0 if that is at most maxJump.
func (e *every) readClock() (now time.Time, jump time.Duration) {
	if _, interval := e.schedule.(Interval); interval {
		return time.Now(), 0
	}
	now = e.clock().Round(0)
	mono := time.Now()
	by := now.Sub(e.wall) - mono.Sub(e.mono)
	first := e.mono.IsZero()
	e.wall, e.mono = now, mono
	if first || by.Abs() <= maxJump {
		return now, 0
	}
	return now, by
}

// nextTime returns the schedule's first time after t.
func (e *every) nextTime(t time.Time) (time.Time, error) {
	next := e.schedule.Next(t)
	if !next.After(t) {
		return t, fmt.Errorf("the schedule has no time after %v", t.Round(0))
	}
	return next, nil
}

// next returns the first time after due that has not passed, and logs how many
// have.
func (e *every) next(due time.Time) (next time.Time, err error) {
	next, err = e.nextTime(due)
	now, jump := e.readClock()
	if jump != 0 && err == nil {
		return e.resumeAfterJump(next, now, jump)
	}
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

// resumeAfterJump returns the first time after now, to which the clock has jumped, and
// logs it unless it is the expected one.
func (e *every) resumeAfterJump(expected, now time.Time, by time.Duration) (time.Time, error) {
	next, err := e.nextTime(now)
	if err == nil && !next.Equal(expected) {
		level.Warn(e.logger).Log("msg", "the clock has jumped, going on from now", "by", by.Round(time.Second), "now", now.UTC().Format(time.RFC3339), "next", next.UTC().Format(time.RFC3339))
	}
	return next, err
}

// awaitRun waits until the time that is due, or another one if the clock jumps,
// and returns that. It returns early when the actor is interrupted.
func (e *every) awaitRun(due time.Time) (time.Time, error) {
	at := e.jittered(due)
	for {
		now, jump := e.readClock()
		if jump < 0 || jump > 0 && !now.Before(at) {
			next, err := e.resumeAfterJump(due, now, jump)
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

// jittered returns due with a random delay.
func (e *every) jittered(due time.Time) time.Time {
	if e.Jitter > 0 {
		return due.Add(rand.N(e.Jitter))
	}
	return due
}

// runJob runs a job. It reports, and records, whether the job was cut.
func (a *actor) runJob(ctx context.Context, job func(context.Context) error) (cut bool, err error) {
	err = job(ctx)
	cut = err != nil && ctx.Err() != nil
	if cut {
		level.Warn(a.logger).Log("msg", "job cut", "err", err)
		a.stop.recordForced(a.name)
	}
	return cut, err
}
