package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"lastcall/stoptest/report"
)

const (
	watchEvery = 5 * time.Millisecond

	// From these on the clients may be the bottleneck.
	busyShare = 0.8                   // of all cores
	busyDelay = 20 * time.Millisecond // of one wake-up in 100
)

// watchClients measures whether the clients are the bottleneck: how much CPU time
// they use, and how late a goroutine runs that pauses as they do.
func watchClients() *watch {
	w := &watch{began: time.Now(), cpuBefore: cpuTime(), stop: make(chan struct{}), done: make(chan struct{})}
	w.end = sync.OnceValue(w.result)
	go w.run()
	return w
}

type watch struct {
	began     time.Time
	cpuBefore time.Duration
	late      []time.Duration // valid when done is closed
	stop      chan struct{}
	done      chan struct{}
	end       func() report.Clients
}

func (w *watch) run() {
	defer close(w.done)
	timer := time.NewTimer(watchEvery)
	defer timer.Stop()
	for {
		due := time.Now().Add(watchEvery)
		timer.Reset(watchEvery)
		select {
		case <-timer.C:
			w.late = append(w.late, time.Since(due))
		case <-w.stop:
			return
		}
	}
}

func (w *watch) result() report.Clients {
	close(w.stop)
	<-w.done
	c := report.Clients{CPU: (cpuTime() - w.cpuBefore).Seconds() / time.Since(w.began).Seconds()}
	if n := len(w.late); n > 0 {
		slices.Sort(w.late)
		c.Delay = max(0, w.late[n*99/100].Seconds())
	}
	var why []string
	if cores := float64(runtime.NumCPU()); c.CPU > busyShare*cores {
		why = append(why, fmt.Sprintf("they used %.1f of %.0f cores", c.CPU, cores))
	}
	if c.Delay > busyDelay.Seconds() {
		why = append(why, fmt.Sprintf("one time in 100 they ran %v late or more", seconds(c.Delay)))
	}
	c.Bottleneck = strings.Join(why, ", ")
	return c
}
