package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"lastcall/stoptest/report"
)

// stopServer sends the signal, and waits until the server has exited and all clients
// have ended, for maxWait at most. A command that died of the signal passed it to nobody:
// if connections are still accepted after the pause orphan, another process serves on.
func (t *trial) stopServer(ctx context.Context, signalledAt time.Time, stop *report.Stop) error {
	if err := t.server.signal(t.signal.Signal); err != nil {
		return t.explain(err)
	}
	t.show("stopping", t.traffic)
	var second <-chan time.Time
	if t.twice {
		second = time.After(t.pauses.second)
	}
	var orphan <-chan time.Time
	deadline := time.After(t.maxWait)
	for exited, ended := t.server.exited, t.ended; exited != nil || ended != nil; {
		select {
		case <-exited:
			exited = nil
			if t.server.status == 128+int(t.signal.Signal) {
				orphan = time.After(t.pauses.orphan)
			}
		case <-orphan:
			if t.accepts(ctx) {
				return nil
			}
		case <-ended:
			ended = nil
		case <-second:
			at := time.Since(signalledAt).Seconds()
			if t.server.signal(t.second.Signal) == nil {
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

// reloadServer makes the server reload while the load goes on.
func (t *trial) reloadServer(ctx context.Context) (err error) {
	t.show("reloading", t.traffic)
	if t.reloadBy != 0 {
		if err := t.server.signal(t.reloadBy); err != nil {
			return t.explain(err)
		}
		return t.afterReload(ctx)
	}
	// The command may start a process that becomes the server.
	env := []string{"STOPTEST_PID=" + strconv.Itoa(t.server.pid)}
	t.reloader, err = startServer(t.place, []string{"/bin/sh", "-c", t.reload}, env, t.server.output)
	if err != nil {
		return fmt.Errorf("-reload: %w", err)
	}
	select {
	case <-t.reloader.exited:
	case <-time.After(t.maxWait):
		return fmt.Errorf("-reload: %s has not ended after %v", t.reload, t.maxWait)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if t.reloader.status != 0 {
		return fmt.Errorf("-reload: %s has exited with status %d", t.reload, t.reloader.status)
	}
	return t.afterReload(ctx)
}

// afterReload goes on with the load until the reload is done, and each connection that was
// open before it has been asked or is closed. That takes maxWait at most.
func (t *trial) afterReload(ctx context.Context) error {
	if err := sleep(ctx, t.pauses.afterReload); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, t.maxWait)
	defer cancel()
	_ = t.traffic.AwaitKept(within) // the report has the number of those that were not asked
	return context.Cause(ctx)
}

// endServer ends the server with -signal, after a reload.
func (t *trial) endServer(ctx context.Context) {
	if t.server.signal(t.signal.Signal) != nil {
		return
	}
	select {
	case <-t.server.exited:
	case <-time.After(t.maxWait):
	case <-ctx.Done():
	}
}
