// Package systemd has an actor that tells systemd what its process does: that it is
// ready, that it loads its settings again, how far its stop is, and that it is not
// hung. The unit says Type=notify or notify-reload; see sd_notify(3).
//
//	g.Add(systemd.Notify(&stop, systemd.Config{Check: systemd.Ask(srv, l)}))
package systemd

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/actors"
)

// Variables are the names of the environment variables by which systemd tells a
// process where it listens for messages, and how often. A program that the process
// starts should not get them.
var Variables = [...]string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}

// Enabled reports whether systemd, or what acts as it, listens for messages of this
// process.
func Enabled() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// Config holds the optional settings of [Notify]. The zero value works.
type Config struct {
	// Check returns nil if the process works. It is called while the process is
	// ready, if the unit has WatchdogSec=, four times in that time, and one call
	// at a time. Its context ends after half of that time. systemd restarts the
	// process when no call has returned nil for all of that time. At
	// Stop.MaxConns, and from the phase Draining on, Check is not called: then,
	// and if Check is nil, it is enough that the actor runs. See [Ask].
	Check func(context.Context) error

	// Reload loads the settings of the process again. It is called when SIGHUP
	// comes, one call at a time, and systemd learns when it begins and when it
	// has returned. Its context ends with the actor. Nil leaves SIGHUP alone.
	Reload func(context.Context)
}

// Notify returns an actor that tells systemd about the process:
//
//	READY                  when Snapshot.Ready of the stop becomes true
//	RELOADING, then READY  when SIGHUP comes, with Config.Reload
//	STOPPING               when the stop begins for good: [actors.Stop.Undrain] cannot
//	                       take it back
//	EXTEND_TIMEOUT_USEC    during the stop, until its deadline: systemd waits longer
//	                       than TimeoutStopSec, but not for a process that hangs
//	STATUS                 the phase, and in a stop how much is left, once a second
//	WATCHDOG               with WatchdogSec, see Config.Check
//
// A process that has started a successor (see [actors.Upgrade]) sends nothing in its
// stop: the unit is the successor's then. The successor sends WATCHDOG, too.
//
// The actor returns when it has been interrupted and the stop is done, or its
// deadline has passed. In an [actors.Supervisor], give it the highest stage.
//
// Nothing depends on systemd. A message that cannot be sent is logged (warn), the
// first time, and changes nothing; a stop waits up to 100 ms for a message that
// systemd does not take, and for calls of Check and Reload. Unless [Enabled], the
// actor only waits for its interrupt.
//
// A nil stop means the defaults of [actors.Stop].
func Notify(stop *actors.Stop, cfg Config) (execute func() error, interrupt func(error)) {
	if stop == nil {
		stop = new(actors.Stop)
	}
	n := &notifier{
		Config:      cfg,
		stop:        stop,
		logger:      log.With(stop, "actor", "systemd"),
		hangups:     make(chan os.Signal, 1),
		interrupted: make(chan time.Time, 1),
		messages:    make(chan string, 16),
	}
	var err error
	if n.watchdog, err = daemon.SdWatchdogEnabled(false); err != nil {
		level.Warn(n.logger).Log("msg", "no watchdog", "err", err)
	}
	if n.watchdog > 0 {
		os.Unsetenv("WATCHDOG_PID") // a successor is watched, too
	}
	if cfg.Reload != nil && !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(n.hangups, syscall.SIGHUP)
	}
	return n.execute, n.interrupt
}

const (
	// startInterval is how often the actor looks whether the process is ready.
	startInterval = 20 * time.Millisecond

	// statusInterval is how often the actor looks whether the status has changed.
	statusInterval = time.Second

	// extension is how long systemd waits for the next message of a stop. It is
	// so much more than statusInterval that a busy machine is no reason to kill.
	extension = 15 * time.Second

	// patience is how long the end of the actor waits for a message, Check and
	// Reload.
	patience = 100 * time.Millisecond
)

type notifier struct {
	Config
	stop    *actors.Stop
	logger  log.Logger
	hangups chan os.Signal // gets SIGHUP, for good

	watchdog time.Duration // WatchdogSec; 0: not set

	once        sync.Once
	interrupted chan time.Time // gets the deadline at the first interrupt
	messages    chan string    // for systemd, to sendMessages

	// Only execute uses the following.
	ready    bool // READY was sent
	stopping bool // STOPPING was sent
	status   string
}

func (n *notifier) interrupt(cause error) {
	n.stop.Begin(cause) // before DeadlineOf, which needs it
	n.once.Do(func() { n.interrupted <- n.stop.DeadlineOf(cause) })
}

func (n *notifier) execute() error {
	if !Enabled() {
		<-n.interrupted
		return nil
	}
	sent := make(chan struct{})
	go n.sendMessages(sent)
	var calls sync.WaitGroup // of Check and Reload
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		cancel()
		go func() {
			calls.Wait()
			close(n.messages)
		}()
		select {
		case <-sent:
		case <-time.After(patience):
		}
	}()

	look := time.NewTicker(startInterval)
	defer look.Stop()
	var check <-chan time.Time // nil: there is no watchdog, or a check runs
	var checks *time.Ticker
	if n.watchdog > 0 {
		checks = time.NewTicker(max(n.watchdog/4, time.Millisecond))
		defer checks.Stop()
		check = checks.C
	}
	checked, reloaded := make(chan struct{}, 1), make(chan struct{}, 1)
	hangups := n.hangups
	begun, done := n.stop.Begun(), (<-chan struct{})(nil)
	var late <-chan time.Time
	for {
		select {
		case <-look.C:
			if n.update() && !n.stopping {
				look.Reset(statusInterval)
			}
		case <-begun:
			begun = nil
			n.update()
			look.Reset(statusInterval)
		case <-hangups:
			hangups = nil // until Reload has returned
			n.beginReload()
			calls.Go(func() { n.Reload(ctx); reloaded <- struct{}{} })
		case <-reloaded:
			hangups = n.hangups
			n.endReload()
		case <-check:
			if !n.ready {
				continue
			}
			if !n.shouldCheck() {
				n.send(daemon.SdNotifyWatchdog)
				continue
			}
			check = nil
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, n.watchdog/2)
				defer cancel()
				err := n.Check(ctx)
				if err != nil && n.shouldCheck() { // the stop has not closed the listener
					level.Warn(n.logger).Log("msg", "the check of the watchdog has failed", "err", err, "watchdog", n.watchdog)
				} else {
					n.send(daemon.SdNotifyWatchdog)
				}
				checked <- struct{}{}
			})
		case <-checked:
			check = checks.C
		case deadline := <-n.interrupted:
			done = n.stop.Done()
			timer := time.NewTimer(time.Until(deadline))
			defer timer.Stop()
			late = timer.C
		case <-done:
			return nil
		case <-late:
			return nil
		}
	}
}

// shouldCheck reports whether Check should be called.
func (n *notifier) shouldCheck() bool {
	s := n.stop.Snapshot()
	full := n.stop.MaxConns > 0 && s.Open >= n.stop.MaxConns
	return n.Check != nil && !full && s.Phase < actors.Draining
}

// update tells systemd what has changed, and reports whether READY was sent.
func (n *notifier) update() (ready bool) {
	s := n.stop.Snapshot()
	var lines []string
	if !s.Began.IsZero() && !s.CanUndrain { // systemd has no way back from STOPPING
		if !n.stopping {
			n.stopping = true
			lines = append(lines, daemon.SdNotifyStopping)
		}
		if time.Now().Before(s.Deadline) {
			lines = append(lines, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extension.Microseconds()))
		}
	} else if s.Ready && !n.ready {
		n.ready = true
		lines = append(lines, daemon.SdNotifyReady)
	}
	if status := statusOf(s); status != n.status {
		n.status = status
		lines = append(lines, "STATUS="+status)
	}
	if len(lines) > 0 {
		n.send(strings.Join(lines, "\n"))
	}
	return n.ready
}

// statusOf returns what systemctl status shows.
func statusOf(s actors.Snapshot) string {
	switch {
	case s.Phase == actors.LameDuck, s.Phase == actors.Draining:
		left := max(time.Until(s.Deadline)+time.Second-1, 0).Truncate(time.Second)
		return fmt.Sprintf("%v: %d in flight, %d idle, %d open, %v left", s.Phase, s.InFlight, s.Idle, s.Open, left)
	case s.Phase == actors.Ready && s.OutOfService:
		return "out of service"
	case s.Phase == actors.Ready && !s.Ready:
		return "program not ready"
	}
	return s.Phase.String()
}

// beginReload and endReload tell systemd of a reload. Before READY was sent, and
// after STOPPING, a reload is not the state of the process.
func (n *notifier) beginReload() {
	if n.ready && !n.stopping {
		n.send(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
	}
}

func (n *notifier) endReload() {
	if n.ready && !n.stopping {
		n.send(daemon.SdNotifyReady)
	}
}

// send gives a message to sendMessages. It drops the message if many wait, because
// systemd takes none.
func (n *notifier) send(message string) {
	select {
	case n.messages <- message:
	default:
	}
}

// sendMessages sends the messages to systemd, and closes sent when it has sent the
// last.
func (n *notifier) sendMessages(sent chan<- struct{}) {
	defer close(sent)
	failed := false
	for m := range n.messages {
		if _, err := daemon.SdNotify(false, m); err != nil && !failed {
			failed = true
			level.Warn(n.logger).Log("msg", "systemd gets no messages", "err", err)
		}
	}
}
