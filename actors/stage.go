package actors

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"
)

// stage holds the actors that are interrupted together. Supervisor.mu guards it.
type stage struct {
	number   int
	mayStart chan struct{} // closed when its actors may start
	unready  int           // how many actors with StartFirst are not ready
	turn     chan struct{} // closed when its actors should be interrupted
	turnAt   time.Time     // when its turn came; zero before
	deadline time.Time     // zero before its turn
	awaited  int           // how many actors have not ended, but for the skipped ones
	reserved time.Duration // the part of Grace that is reserved for it
}

// addToStageLocked puts an actor into its stage.
func (s *Supervisor) addToStageLocked(a *supervised) {
	i, found := slices.BinarySearchFunc(s.stages, a.cfg.Stage, func(st *stage, n int) int { return cmp.Compare(st.number, n) })
	if !found {
		s.stages = slices.Insert(s.stages, i, &stage{number: a.cfg.Stage, mayStart: make(chan struct{}), turn: make(chan struct{})})
	}
	a.stage = s.stages[i]
	a.stage.awaited++
	a.stage.reserved = max(a.stage.reserved, a.cfg.Within)
	if s.stopBegan.IsZero() {
		s.unstarted++
		if a.cfg.StartFirst {
			a.stage.unready++
			s.stop.addUnready(1)
		}
	} else { // too late to wait for it
		a.skipped = true
		a.stage.awaited--
	}
	s.stop.reserve(s.reservedLocked(s.stages[1:]))
}

// reservedLocked returns the time that is reserved for the stages.
func (s *Supervisor) reservedLocked(stages []*stage) (sum time.Duration) {
	for _, st := range stages {
		sum += st.reserved
	}
	return sum
}

// giveTurns, once the stop has begun, gives its turn to each stage whose lower
// stages have ended.
func (s *Supervisor) giveTurns() {
	var turned []*stage
	var before *stage // the last one that has had its turn
	s.mu.Lock()
	if s.stopBegan.IsZero() {
		s.mu.Unlock()
		return
	}
	all := s.reservedLocked(s.stages[1:])
	for i, st := range s.stages {
		if st.turnAt.IsZero() {
			st.turnAt = time.Now()
			st.deadline = s.stop.extendDeadline(s.reservedLocked(s.stages[i+1:]), all)
			turned = append(turned, st)
		} else {
			before = st
		}
		if st.awaited > 0 {
			break
		}
	}
	lines := make([][]any, len(turned))
	for i, st := range turned {
		lines[i] = []any{"msg", "stopping stage", "stage", st.number, "actors", s.runningInLocked(st), "left", max(time.Until(st.deadline), 0).Round(time.Millisecond)}
	}
	only := len(s.stages) == 1 // Stop logs that it stops
	s.mu.Unlock()
	if before != nil && len(turned) > 0 {
		<-before.turn // its line comes first
	}
	for i, st := range turned {
		if !only {
			level.Info(s.stop.logger()).Log(lines[i]...) // before what its actors log of their ends
		}
		close(st.turn)
	}
}

// runningInLocked returns the names of the actors of a stage that have not ended,
// at most ten.
func (s *Supervisor) runningInLocked(st *stage) string {
	var names []string
	for _, a := range s.actors {
		if a.stage == st && a.endedAt.IsZero() {
			if len(names) == 10 {
				names = append(names, "...")
				break
			}
			names = append(names, a.name)
		}
	}
	return strings.Join(names, ",")
}

// skipUnstarted stops waiting for the actors that have not been executed. A
// run.Group starts the goroutines of all its actors before it interrupts any, so
// these are not in the group.
func (s *Supervisor) skipUnstarted() {
	var skipped []*supervised
	s.mu.Lock()
	for _, a := range s.actors {
		if !a.executed && !a.skipped {
			a.skipped = true
			a.stage.awaited--
			s.unstarted--
			skipped = append(skipped, a)
		}
	}
	s.mu.Unlock()
	for _, a := range skipped {
		level.Warn(a.logger).Log("msg", "actor was never started, not waiting for it")
	}
	s.giveTurns()
}
