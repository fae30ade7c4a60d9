package main

import (
	"context"
	"fmt"
	"lastcall/stoptest/report"
	"strconv"
	"time"
)

// stops sends the signal, and waits until the server has exited and all
// clients have ended, for maxWait at most.
func (t *trial) stops(ctx context.Context, told time.Time, stop *report.Stop) error {
	if err := t.srv.signal(t.signal.Signal); err != nil {
		return t.why(err)
	}
	t.show("stopping", t.traffic)
	var second <-chan time.Time
	if t.twice {
		second = time.After(t.pauses.second)
	}
	deadline := time.After(t.maxWait)
	for exited, ended := t.srv.exited, t.ended; exited != nil || ended != nil; {
		select {
		case <-exited:
			exited = nil
		case <-ended:
			ended = nil
		case <-second:
			at := time.Since(told).Seconds()
			if t.srv.signal(t.second.Signal) == nil {
				stop.SecondSignal, stop.Second = t.second.String(), &at
			}
		case <-deadline:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// reloads has the server reload, and lets the load go on.
func (t *trial) reloads(ctx context.Context) (err error) {
	t.show("reloading", t.traffic)
	if t.reloadBy != 0 {
		if err := t.srv.signal(t.reloadBy); err != nil {
			return t.why(err)
		}
		return sleep(ctx, t.pauses.afterReload)
	}
	// A process that the command starts may be the server from now on.
	env := []string{"STOPTEST_PID=" + strconv.Itoa(t.srv.pid)}
	t.helper, err = startServer(t.in, []string{"/bin/sh", "-c", t.reload}, env, t.srv.output)
	if err != nil {
		return fmt.Errorf("-reload: %w", err)
	}
	select {
	case <-t.helper.exited:
	case <-time.After(t.maxWait):
		return fmt.Errorf("-reload: %s has not ended after %v", t.reload, t.maxWait)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if t.helper.status != 0 {
		return fmt.Errorf("-reload: %s has exited with status %d", t.reload, t.helper.status)
	}
	return sleep(ctx, t.pauses.afterReload)
}

// quit ends a server that has gone on, with -signal.
func (t *trial) quit(ctx context.Context) {
	if t.srv.signal(t.signal.Signal) != nil {
		return
	}
	select {
	case <-t.srv.exited:
	case <-time.After(t.maxWait):
	case <-ctx.Done():
	}
}
