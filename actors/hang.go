package actors

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/go-kit/log/level"

	"lastcall/internal/awake"
)

// HangError says that an actor in a [Supervisor] had not returned one second after
// its deadline, or one second after a second SIGINT (see [Signal]). The function
// that the group executes has then returned without it, and nothing waits for it
// any more. Its goroutine runs until the process ends.
//
// The log has a line (error) with the stack. The exit status is 1, see
// [ExitStatus].
type HangError struct {
	Actor string
	After time.Duration // since it was interrupted
	Stack []byte        // of execute, or of interrupt if execute has returned, as a panic prints it
}

func (e *HangError) Error() string {
	return fmt.Sprintf("%s: has not returned %v after its interrupt", e.Actor, e.After.Round(time.Millisecond))
}

// awaitEnd waits for an actor that is interrupted to return, until returnTime
// after its deadline.
func (a *supervised) awaitEnd() error {
	a.sup.mu.Lock()
	deadline := a.deadlineLocked()
	a.sup.mu.Unlock()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-a.done:
		return a.result()
	case <-a.sup.stop.cutting:
	case <-timer.C:
	}
	select {
	case <-a.done:
		return a.result()
	case <-awake.After(returnTime):
		return a.leaveBehind()
	}
}

// deadlineLocked returns the actor's deadline, or zero before the turn of its
// stage.
func (a *supervised) deadlineLocked() time.Time {
	st, s := a.stage, a.sup
	if st.turnAt.IsZero() {
		return time.Time{}
	}
	deadline := st.deadline
	if a.cfg.Within > 0 {
		from := s.stop.drainTime()
		if from.Before(st.turnAt) {
			from = st.turnAt
		}
		if own := from.Add(a.cfg.Within); own.Before(deadline) {
			deadline = own
		}
	}
	if deadline.Before(st.turnAt) { // the earlier stages have used all the time
		return st.turnAt
	}
	return deadline
}

// leaveBehind stops waiting for an actor that hangs.
func (a *supervised) leaveBehind() error {
	s, now := a.sup, time.Now()
	s.mu.Lock()
	if !slices.Contains(legalSteps[a.state], Hung) { // it has ended just now
		s.mu.Unlock()
		<-a.done
		return a.result()
	}
	a.setStateLocked(Hung)
	id := a.executeGoroutine
	if id == 0 {
		id = a.interruptGoroutine
	}
	after := now.Sub(a.stage.turnAt)
	s.mu.Unlock()

	err := &HangError{Actor: a.name, After: after, Stack: stackOf(s.stacks(now), id)}
	s.stop.recordActorError(err, a.withName)
	level.Error(a.logger).Log("msg", "actor has not returned, leaving it behind", "elapsed", after, "stack", string(err.Stack))
	s.mu.Lock()
	a.err = err
	a.leaveStageLocked()
	s.mu.Unlock()
	s.giveTurns()
	return a.result()
}

// stacks returns the stacks of all goroutines at that time or later. A dump stops
// the world, so actors that hang at the same time share one.
func (s *Supervisor) stacks(then time.Time) []byte {
	s.dumpMu.Lock()
	defer s.dumpMu.Unlock()
	if s.dumpedAt.Before(then) || s.dump == nil {
		s.dumpedAt = time.Now()
		for size := 64 << 10; ; size *= 2 {
			s.dump = make([]byte, size)
			if n := runtime.Stack(s.dump, true); n < size || size >= 64<<20 {
				s.dump = s.dump[:n]
				break
			}
		}
	}
	return s.dump
}

// stackOf returns the stack of one goroutine in a dump.
func stackOf(dump []byte, id uint64) []byte {
	head := fmt.Appendf(nil, "goroutine %d ", id)
	for stack := range bytes.SplitSeq(dump, []byte("\n\n")) {
		if bytes.HasPrefix(stack, head) {
			return bytes.Clone(bytes.TrimSpace(stack))
		}
	}
	return []byte("not found")
}

// goroutine returns the number of this goroutine, which only the text of its
// stack has. Labels of pprof cannot be used instead: goroutines that the actor
// starts inherit them, and pprof.Do in the actor replaces them.
func goroutine() uint64 {
	var buf [64]byte
	_, text, _ := bytes.Cut(buf[:runtime.Stack(buf[:], false)], []byte("goroutine "))
	text, _, _ = bytes.Cut(text, []byte(" "))
	id, _ := strconv.ParseUint(string(text), 10, 64)
	return id
}
