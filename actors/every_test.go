package actors_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/run"

	"lastcall/actors"
)

// started is an actor whose execute has been called.
type started struct {
	interrupt func(error)
	done      chan struct{}
	err       error // once done
}

func begin(execute func() error, interrupt func(error)) *started {
	s := &started{interrupt: interrupt, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.err = execute()
	}()
	return s
}

// end interrupts, twice, and returns how long it took and how it went.
func (s *started) end() (time.Duration, error) {
	began := time.Now()
	s.interrupt(nil)
	s.interrupt(nil)
	<-s.done
	took := time.Since(began)
	s.interrupt(nil) // after it, too
	return took, s.err
}

func TestEvery(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  actors.EveryConfig
		want []time.Duration // when runs begin, in 35 s
	}{
		{"interval", actors.EveryConfig{}, []time.Duration{10 * time.Second, 20 * time.Second, 30 * time.Second}},
		{"at start", actors.EveryConfig{AtStart: true}, []time.Duration{0, 10 * time.Second, 20 * time.Second, 30 * time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var stop actors.Stop
				var got []time.Duration
				start := time.Now()
				a := begin(actors.Every(&stop, actors.Interval(10*time.Second), func(context.Context) error {
					got = append(got, time.Since(start))
					time.Sleep(3 * time.Second) // does not shift the next
					return errors.New("failed, but that is no reason to end")
				}, tt.cfg))
				time.Sleep(35 * time.Second)
				if took, err := a.end(); took != 0 || err != nil || stop.Err(nil) != nil {
					t.Errorf("ended after %v with %v, %v; want at once and cleanly", took, err, stop.Err(nil))
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("ran at %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// TestEveryMissed: runs do not overlap, and what is missed is said.
func TestEveryMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		stop := actors.Stop{Logger: &log}
		var got []time.Duration
		start := time.Now()
		a := begin(actors.Every(&stop, actors.Interval(10*time.Second), func(context.Context) error {
			got = append(got, time.Since(start))
			if len(got) == 1 {
				time.Sleep(35 * time.Second) // until 45
			}
			return nil
		}, actors.EveryConfig{Name: "slow"}))
		time.Sleep(65 * time.Second)
		a.end()
		if want := []time.Duration{10 * time.Second, 50 * time.Second, 60 * time.Second}; !slices.Equal(got, want) {
			t.Errorf("ran at %v, want %v", got, want)
		}
		if log.count(`level=warn actor=slow msg="missed, not made up for" times=3`) != 1 || log.count("missed") != 1 {
			t.Errorf("the log does not say once that 3 were missed:\n%v", &log)
		}
	})
}

// TestEveryMissedAtEnd: after the interrupt there is no next run, and the log names none.
func TestEveryMissedAtEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		a := begin(actors.Every(&actors.Stop{Logger: &log}, actors.Interval(10*time.Second), func(context.Context) error {
			time.Sleep(35 * time.Second)
			return nil
		}, actors.EveryConfig{}))
		time.Sleep(20 * time.Second)
		if _, err := a.end(); err != nil || log.count("missed") != 0 {
			t.Errorf("err = %v, and the log:\n%s\nwant no line of what was missed", err, &log)
		}
	})
}

func TestEveryJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval, jitter = time.Minute, 20 * time.Second
		late := make(map[time.Duration]bool)
		start, n := time.Now(), 0
		a := begin(actors.Every(nil, actors.Interval(interval), func(context.Context) error {
			n++
			d := time.Since(start) - time.Duration(n)*interval
			if d < 0 || d >= jitter {
				t.Errorf("run %d was %v late, want less than %v", n, d, jitter)
			}
			late[d] = true
			return nil
		}, actors.EveryConfig{Jitter: jitter}))
		time.Sleep(100*interval + interval/2)
		a.end()
		if n != 100 || len(late) < 50 {
			t.Errorf("%d runs with %d different jitters, want 100 and more than 50", n, len(late))
		}
	})
}

// TestJobInterrupted: a run in progress may finish within its grace.
func TestJobInterrupted(t *testing.T) {
	errOwn := errors.New("own")
	type pair func(*actors.Stop, func(context.Context) error, time.Duration) (func() error, func(error))
	for name, job := range map[string]pair{
		"Every": func(stop *actors.Stop, job func(context.Context) error, grace time.Duration) (func() error, func(error)) {
			return actors.Every(stop, actors.Interval(time.Hour), job, actors.EveryConfig{Name: "job", AtStart: true, Grace: grace, EndOnError: true})
		},
		"Once": func(stop *actors.Stop, job func(context.Context) error, grace time.Duration) (func() error, func(error)) {
			return actors.Once(stop, job, actors.OnceConfig{Name: "job", Grace: grace})
		},
	} {
		for _, tt := range []struct {
			name  string
			takes time.Duration
			grace time.Duration
			fails error
			took  time.Duration
			err   string // of stop.Err
		}{
			{name: "finishes", takes: 20 * time.Second, took: 20 * time.Second},
			{name: "fails", takes: 20 * time.Second, took: 20 * time.Second, fails: errOwn, err: "job: own"},
			{name: "deadline", takes: time.Hour, took: 30 * time.Second, err: "requests cut at the deadline: 0; ended hard: job"},
			{name: "own grace", takes: time.Hour, grace: 5 * time.Second, took: 5 * time.Second, err: "requests cut at the deadline: 0; ended hard: job"},
			{name: "long grace", takes: time.Hour, grace: time.Hour, took: 30 * time.Second, err: "requests cut at the deadline: 0; ended hard: job"},
			{name: "no grace", takes: time.Hour, grace: -1, err: "requests cut at the deadline: 0; ended hard: job"},
		} {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var stop actors.Stop
					a := begin(job(&stop, func(ctx context.Context) error {
						select {
						case <-time.After(tt.takes):
							return tt.fails
						case <-ctx.Done():
							return ctx.Err()
						}
					}, tt.grace))
					synctest.Wait()
					if took, _ := a.end(); took != tt.took {
						t.Errorf("took %v, want %v", took, tt.took)
					}
					if err := stop.Err(&run.SignalError{Signal: os.Interrupt}); fmt.Sprint(err) != tt.err && (err != nil || tt.err != "") {
						t.Errorf("err = %v, want %q", err, tt.err)
					}
				})
			})
		}
		t.Run(name+"/before", func(t *testing.T) {
			execute, interrupt := job(nil, func(context.Context) error { t.Error("ran"); return nil }, 0)
			interrupt(nil)
			interrupt(nil)
			if err := execute(); err != nil {
				t.Error(err)
			}
		})
		t.Run(name+"/again", func(t *testing.T) {
			// As one that is restarted: the error is the group's only if it is the last.
			var stop actors.Stop
			n := 0
			ran := make(chan struct{})
			execute, interrupt := job(&stop, func(context.Context) error {
				if n++; n == 1 {
					return errOwn
				}
				close(ran)
				return nil
			}, 0)
			if err := execute(); !errors.Is(err, errOwn) || stop.Phase() != actors.Starting {
				t.Errorf("err = %v, phase = %v, want own and starting", err, stop.Phase())
			}
			go func() { <-ran; interrupt(nil) }()
			if err := errors.Join(execute(), stop.Err(nil)); err != nil {
				t.Errorf("err = %v, want none", err)
			}
		})
		t.Run(name+"/unheard", func(t *testing.T) {
			// It fails at the same moment as a signal comes, which run.Group hears first.
			var stop actors.Stop
			execute, interrupt := job(&stop, func(context.Context) error { return errOwn }, 0)
			execute()
			interrupt(&run.SignalError{Signal: os.Interrupt})
			if err := stop.Err(&run.SignalError{Signal: os.Interrupt}); !errors.Is(err, errOwn) {
				t.Errorf("err = %v, want own", err)
			}
		})
	}
}

func TestEveryEnds(t *testing.T) {
	errOwn := errors.New("own")
	execute, _ := actors.Every(nil, actors.Interval(time.Millisecond), func(context.Context) error { return errOwn }, actors.EveryConfig{Name: "job", EndOnError: true})
	if err := execute(); !errors.Is(err, errOwn) || err.Error() != "job: own" {
		t.Errorf("err = %v, want job: own", err)
	}
	for _, d := range []actors.Interval{0, -1} {
		execute, _ := actors.Every(nil, d, func(context.Context) error { return nil }, actors.EveryConfig{})
		if err := execute(); err == nil {
			t.Errorf("interval %d: no error", d)
		}
	}
}

// TestEveryCron: over the change of the clocks.
func TestEveryCron(t *testing.T) {
	loc := location(t, "Europe/Berlin")
	schedule, err := actors.Cron("30 2 * * *", loc)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		// The bubble's clock starts at 2000-01-01 00:00 UTC.
		time.Sleep(time.Until(time.Date(2000, 3, 24, 12, 0, 0, 0, loc)))
		var got []string
		a := begin(actors.Every(nil, schedule, func(context.Context) error {
			got = append(got, time.Now().In(loc).Format("2 15:04"))
			return nil
		}, actors.EveryConfig{}))
		time.Sleep(4 * 24 * time.Hour)
		a.end()
		if want := []string{"25 02:30", "26 03:00", "27 02:30", "28 02:30"}; !slices.Equal(got, want) {
			t.Errorf("ran at %v, want %v", got, want)
		}
	})
}

func ExampleEvery() {
	var stop actors.Stop
	var g run.Group
	n := 0
	g.Add(actors.Every(&stop, actors.Interval(time.Millisecond), func(context.Context) error {
		n++
		fmt.Println("run", n)
		if n == 2 {
			return errors.New("enough")
		}
		return nil
	}, actors.EveryConfig{Name: "refresh", EndOnError: true}))
	fmt.Println(stop.Err(g.Run()))
	// Output:
	// run 1
	// run 2
	// refresh: enough
}

func ExampleOnce() {
	var stop actors.Stop
	migrated := make(chan struct{})
	var g run.Group
	g.Add(actors.Once(&stop, func(ctx context.Context) error {
		fmt.Println("migrated")
		close(migrated)
		return nil
	}, actors.OnceConfig{Name: "migrate"}))
	g.Add(func() error { // goes on when the migration is done
		<-migrated
		fmt.Println("worked")
		return nil
	}, func(error) {})
	fmt.Println(stop.Err(g.Run()))
	// Output:
	// migrated
	// worked
	// <nil>
}
