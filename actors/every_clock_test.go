package actors

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
)

// wallClock is a clock that can be set, over the time of the bubble.
type wallClock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *wallClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset).UTC()
}

// set sets the clock to t, on 2026-03-10 unless it has a date.
func (c *wallClock) set(t *testing.T, to string) {
	t.Helper()
	if !strings.Contains(to, " ") {
		to = "2026-03-10 " + to
	}
	at, err := time.Parse("2006-01-02 15:04:05", to)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = time.Until(at)
}

// counted counts the calls of a schedule's Next.
type counted struct {
	Schedule
	calls int
}

func (c *counted) Next(t time.Time) time.Time {
	c.calls++
	return c.Schedule.Next(t)
}

// everyTest is an Every with a clock that can be set. Its job notes when it ran.
type everyTest struct {
	clock wallClock
	mu    sync.Mutex
	ran   []string // by the clock
	log   strings.Builder
	takes func() // what the job does
	read  func() // called when the clock is read
	loc   *time.Location
	asks  *counted
}

// run begins it in a bubble, and calls f; then it interrupts. That must be
// enough at once.
func (e *everyTest) run(t *testing.T, from, cron string, cfg EveryConfig, f func()) {
	t.Helper()
	schedule, err := Cron(cron, e.loc)
	if err != nil {
		t.Fatal(err)
	}
	e.asks = &counted{Schedule: schedule}
	synctest.Test(t, func(t *testing.T) {
		e.clock.set(t, from)
		stop := &Stop{Logger: log.NewSyncLogger(log.NewLogfmtLogger(&e.log))}
		a := newEvery(stop, e.asks, func(context.Context) error {
			at := e.clock.now().Format("15:04:05")
			e.mu.Lock()
			e.ran = append(e.ran, at)
			e.mu.Unlock()
			if e.takes != nil {
				e.takes()
			}
			return nil
		}, cfg)
		a.clock = func() time.Time {
			if e.read != nil {
				e.read()
			}
			return e.clock.now()
		}
		done := make(chan error)
		go func() { done <- a.execute(a.runJobs)() }()
		synctest.Wait()
		f()
		synctest.Wait()
		began := time.Now()
		a.interrupt(nil)
		if err := <-done; err != nil || time.Since(began) != 0 {
			t.Errorf("ended with %v after %v, want at once", err, time.Since(began))
		}
	})
}

// TestEveryClockSet has a clock that jumps while nothing runs.
func TestEveryClockSet(t *testing.T) {
	for _, tt := range []struct {
		name   string
		from   string
		cron   string
		jitter time.Duration
		after  time.Duration
		to     string // what the clock is set to
		then   time.Duration
		want   []string
		log    string // "" if nothing is to be said
	}{
		{"back 8 h", "12:10:00", "30 * * * *", 0, 30 * time.Second, "04:10:30", 90 * time.Minute, []string{"04:30:00", "05:30:00"}, "by=-8h0m0s"},
		{"back 8 h, each minute", "12:10:00", "* * * * *", 0, 90 * time.Second, "04:10:30", 150 * time.Second, []string{"12:11:00", "04:12:00", "04:13:00"}, "by=-8h1m0s"},
		{"back over a run", "12:29:00", "30 * * * *", 0, 5 * time.Minute, "12:20:00", 15 * time.Minute, []string{"12:30:00", "12:30:00"}, "by=-14m0s"},
		{"back and nothing changes", "12:29:00", "0 13 * * *", 0, 5 * time.Minute, "12:20:00", 45 * time.Minute, []string{"13:00:00"}, ""},
		{"back a little", "12:29:00", "30 * * * *", 0, 61 * time.Second, "12:29:50", 15 * time.Minute, []string{"12:30:00"}, ""},
		{"forward from 1970", "1970-01-01 00:00:20", "* * * * *", 0, 30 * time.Second, "12:10:00", 150 * time.Second, []string{"12:11:00", "12:12:00"}, "by=492"},
		{"suspended over a run", "02:00:00", "0 3 * * *", 0, 10 * time.Minute, "08:00:00", 20 * time.Hour, []string{"03:00:00"}, "by=5h50m0s"},
		{"suspended", "02:00:00", "0 3 * * *", 0, 10 * time.Minute, "02:40:00", time.Hour, []string{"03:00:00"}, ""},
		{"forward a little", "02:00:00", "0 3 * * *", 0, 59*time.Minute + 30*time.Second, "03:00:20", time.Hour, []string{"03:00:50"}, ""},
		{"forward while it is delayed", "03:00:00", "0 3 * * *", time.Nanosecond, 0, "03:00:00", 23 * time.Hour, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e everyTest
			e.run(t, tt.from, tt.cron, EveryConfig{Jitter: tt.jitter}, func() {
				time.Sleep(tt.after)
				e.clock.set(t, tt.to)
				time.Sleep(tt.then)
			})
			if !slices.Equal(e.ran, tt.want) {
				t.Errorf("ran at %v, want %v", e.ran, tt.want)
			}
			log := e.log.String()
			if n := strings.Count(log, `level=warn actor=every msg="the clock has jumped, going on from now" `+tt.log); (tt.log != "") != (n == 1) || n > 1 || strings.Contains(log, "missed") {
				t.Errorf("the log has not just one line with %q:\n%s", tt.log, log)
			}
			if e.asks.calls > 10 {
				t.Errorf("the schedule was asked %d times", e.asks.calls)
			}
		})
	}
}

// TestEveryClockSetAtRead has a clock that jumps behind one of the times at which it is
// read: two that follow at once must not differ.
func TestEveryClockSetAtRead(t *testing.T) {
	for at := range 20 {
		var e everyTest
		reads := 0
		e.read = func() {
			if reads++; reads == at+2 { // the first is before all
				e.clock.set(t, "08:00:00")
			}
		}
		e.run(t, "02:00:00", "0 3 * * *", EveryConfig{}, func() { time.Sleep(20 * time.Hour) })
		if n := strings.Count(e.log.String(), "the clock has jumped"); !slices.Equal(e.ran, []string{"03:00:00"}) || n != 1 {
			t.Errorf("set at read %d: ran at %v, want [03:00:00]; %d jumps in the log, want 1:\n%s", at, e.ran, n, &e.log)
		}
	}
}

// TestEveryClockSetInRun has a clock that jumps while the job runs.
func TestEveryClockSetInRun(t *testing.T) {
	for _, tt := range []struct {
		name, to string
		want     []string
		log      string
	}{
		{"back", "04:10:00", []string{"12:15:00", "04:15:00", "04:20:00"}, "by=-8h5m30s"},
		{"back over the same time", "12:12:00", []string{"12:15:00", "12:15:00", "12:20:00"}, "by=-3m30s"},
		{"forward", "2036-03-10 12:00:00", []string{"12:15:00", "12:05:00", "12:10:00"}, "by="},
		{"forward, and nothing changes", "12:18:00", []string{"12:15:00", "12:20:00", "12:25:00"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e everyTest
			e.takes = func() {
				if len(e.ran) == 1 {
					time.Sleep(30 * time.Second)
					e.clock.set(t, tt.to)
				}
			}
			e.run(t, "12:10:00", "*/5 * * * *", EveryConfig{}, func() {
				for range 200 {
					time.Sleep(10 * time.Second)
					synctest.Wait()
					e.mu.Lock()
					n := len(e.ran)
					e.mu.Unlock()
					if n == 3 {
						break
					}
				}
			})
			if !slices.Equal(e.ran, tt.want) {
				t.Errorf("ran at %v, want %v", e.ran, tt.want)
			}
			log := e.log.String()
			if n := strings.Count(log, `msg="the clock has jumped, going on from now" `+tt.log); (tt.log != "") != (n == 1) || n > 1 || strings.Contains(log, "missed") {
				t.Errorf("the log has not just one line with %q:\n%s", tt.log, log)
			}
			if e.asks.calls > 12 {
				t.Errorf("the schedule was asked %d times", e.asks.calls)
			}
		})
	}
}

// TestEveryClockDoesNotJump: neither the slewing of a clock nor daylight saving
// time, which begins that night, is a jump.
func TestEveryClockDoesNotJump(t *testing.T) {
	var e everyTest
	var err error
	if e.loc, err = time.LoadLocation("Europe/Berlin"); err != nil {
		t.Fatal(err)
	}
	e.run(t, "2026-03-28 12:00:00", "* * * * *", EveryConfig{}, func() {
		for range 60 * 24 {
			time.Sleep(time.Minute)
			e.clock.mu.Lock()
			e.clock.offset -= 30 * time.Millisecond // as fast as NTP does it
			e.clock.mu.Unlock()
		}
	})
	if n := len(e.ran); n != 60*24-1 || strings.Contains(e.log.String(), "jumped") || strings.Contains(e.log.String(), "missed") {
		t.Errorf("ran %d times, want %d:\n%s", n, 60*24-1, &e.log)
	}
}

// TestEveryIntervalByTime: an Interval does not go by the clock.
func TestEveryIntervalByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wallClock
		var out strings.Builder
		var ran []time.Duration
		start := time.Now()
		a := newEvery(&Stop{Logger: log.NewSyncLogger(log.NewLogfmtLogger(&out))}, Interval(10*time.Minute), func(context.Context) error {
			ran = append(ran, time.Since(start))
			return nil
		}, EveryConfig{})
		a.clock = c.now
		done := make(chan error)
		go func() { done <- a.execute(a.runJobs)() }()
		for _, to := range []string{"1970-01-01 00:00:00", "2026-03-10 12:00:00", "2026-03-10 04:00:00"} {
			c.set(t, to)
			time.Sleep(10*time.Minute + time.Second)
		}
		a.interrupt(nil)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if want := []time.Duration{10 * time.Minute, 20 * time.Minute, 30 * time.Minute}; !slices.Equal(ran, want) || strings.Contains(out.String(), "warn") {
			t.Errorf("ran at %v, want %v:\n%s", ran, want, &out)
		}
	})
}

// TestEveryManyMissed: missed times are not gone through one by one.
func TestEveryManyMissed(t *testing.T) {
	minutely, err := Cron("* * * * *", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		schedule Schedule
		times    string
	}{
		{Interval(time.Nanosecond), fmt.Sprint(int64(30 * 24 * time.Hour))},
		{minutely, `"1000 or more"`},
	} {
		synctest.Test(t, func(t *testing.T) {
			var out strings.Builder
			asks := &counted{Schedule: tt.schedule}
			schedule := Schedule(asks)
			if d, ok := tt.schedule.(Interval); ok {
				schedule = d
			}
			ran := 0
			var a *every
			a = newEvery(&Stop{Logger: log.NewSyncLogger(log.NewLogfmtLogger(&out))}, schedule, func(context.Context) error {
				if ran++; ran == 1 {
					time.Sleep(30 * 24 * time.Hour)
				} else {
					a.interrupt(nil)
				}
				return nil
			}, EveryConfig{})
			if err := a.execute(a.runJobs)(); err != nil || ran != 2 {
				t.Errorf("%v after %d runs, want none after 2", err, ran)
			}
			if !strings.Contains(out.String(), "times="+tt.times) {
				t.Errorf("the log lacks times=%s:\n%s", tt.times, &out)
			}
			if asks.calls > maxMissed+10 {
				t.Errorf("the schedule was asked %d times", asks.calls)
			}
		})
	}
}
