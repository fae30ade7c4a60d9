// Package awake measures waits by the time in which the process runs.
package awake

import "time"

const steps = 4

// After returns a channel that is closed when d has passed. It is waited in four steps:
// on a machine that stands still for a while, what came meanwhile has the rest.
func After(d time.Duration) <-chan struct{} {
	over := make(chan struct{})
	var wait func(left int)
	wait = func(left int) {
		if left == 0 {
			close(over)
			return
		}
		time.AfterFunc(d/steps, func() { wait(left - 1) })
	}
	wait(steps)
	return over
}
