package actors

import (
	"bytes"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"github.com/go-kit/log/level"
)

// returnTime is how long after its deadline an actor may still return: at the
// deadline those of this package only begin to cut.
const returnTime = time.Second

// HangError says that an actor had not returned one second after its deadline
// (after a second interrupt: one second after that, see [Signal]). It was left
// behind: what the group executes has returned for it, and nothing waits for it. Its goroutine goes on until the process ends, which should be soon.
//
// A line in the log (error) has the same. The exit status is 1, see
// [ExitStatus].
type HangError struct {
	Actor string
	After time.Duration // since it was interrupted
	Stack []byte        // of its goroutine, as panics print it: of execute, or of interrupt if only that has not returned
}

func (e *HangError) Error() string {
	return fmt.Sprintf("%s: has not returned %v after its interrupt", e.Actor, e.After.Round(time.Millisecond))
}

// await waits for an actor that is being interrupted, up to its deadline.
func (a *supervised) awaitEnd() error {
	a.sup.mu.Lock()
	overdue := a.deadlineLocked().Add(returnTime)
	a.sup.mu.Unlock()
	timer := time.NewTimer(time.Until(overdue))
	defer timer.Stop()
	cut := a.sup.stop.cutting
	for {
		select {
		case <-a.done:
			return a.result()
		case <-cut:
			cut = nil
			timer.Reset(min(time.Until(overdue), returnTime))
		case <-timer.C:
			return a.leaveBehind()
		}
	}
}

// deadlineLocked returns the actor's deadline, or zero while it is not known.
func (a *supervised) deadlineLocked() time.Time {
	st, s := a.stage, a.sup
	if st.turnAt.IsZero() {
		return time.Time{}
	}
	deadline := st.deadline
	if a.within > 0 {
		from := s.stop.drainTime()
		if from.Before(st.turnAt) {
			from = st.turnAt
		}
		if own := from.Add(a.within); own.Before(deadline) {
			deadline = own
		}
	}
	if deadline.Before(st.turnAt) { // the others have left nothing
		return st.turnAt
	}
	return deadline
}

// leaveBehind gives up on an actor that hangs.
func (a *supervised) leaveBehind() error {
	s, now := a.sup, time.Now()
	s.mu.Lock()
	if a.state != Running && a.state != Restarting && a.state != Stopping { // has ended just now
		s.mu.Unlock()
		<-a.done
		return a.result()
	}
	a.state = Hung
	id := a.executeGoroutine
	if id == 0 {
		id = a.interruptGoroutine
	}
	after := now.Sub(a.stage.turnAt)
	s.mu.Unlock()

	err := &HangError{Actor: a.name, After: after, Stack: stackOf(s.stacks(now), id)}
	s.mu.Lock()
	a.err = err
	a.leaveStageLocked()
	s.mu.Unlock()
	s.stop.recordActorError(err, a.withName)
	level.Error(a.logger).Log("msg", "actor has not returned, leaving it behind", "elapsed", after, "stack", string(err.Stack))
	s.giveTurns()
	return a.result()
}

// stacks returns those of all goroutines, as they were then or later. The world
// is stopped for it, so actors that hang together share one dump.
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

// stackOf finds the stack of one goroutine.
func stackOf(dump []byte, id uint64) []byte {
	head := fmt.Appendf(nil, "goroutine %d ", id)
	for stack := range bytes.SplitSeq(dump, []byte("\n\n")) {
		if bytes.HasPrefix(stack, head) {
			return bytes.Clone(bytes.TrimSpace(stack))
		}
	}
	return []byte("not found")
}

// goroutine returns the number of this goroutine, which is only in the text of
// its stack. The labels of pprof would not do: goroutines that the actor starts
// inherit them, and a pprof.Do in the actor replaces them.
func goroutine() uint64 {
	var buf [64]byte
	_, text, _ := bytes.Cut(buf[:runtime.Stack(buf[:], false)], []byte("goroutine "))
	text, _, _ = bytes.Cut(text, []byte(" "))
	id, _ := strconv.ParseUint(string(text), 10, 64)
	return id
}
