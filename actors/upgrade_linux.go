package actors

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-kit/log/level"

	"lastcall/internal/handover"
	"lastcall/internal/socket"
)

// predecessor is the process that this one takes over from.
type predecessor = handover.Taker

func (u *Upgrade) notify() {
	signal.Notify(u.signals, syscall.SIGUSR2)
	if u.Restart != nil {
		signal.Notify(u.restarts, u.Restart)
	}
}

func (u *Upgrade) execute() error {
	u.stop.recordExecute()
	var predecessor *os.Process // of the same unit; nil: there is none
	defer func() { u.awaitEnd(predecessor) }()
	takers := make(chan net.Conn)
	if u.Path != "" {
		l, err := u.Listener("handover "+u.Path, u.listenHandover)
		if err != nil {
			u.endTaking()
			return fmt.Errorf("upgrade: %w", err)
		}
		defer l.Close()
		go u.acceptTakers(l, takers)
	}
	if u.from != nil {
		taken, err := u.takeOver(u.from)
		if err != nil {
			return err
		}
		if taken && u.from.Spawned && os.Getenv("NOTIFY_SOCKET") != "" {
			predecessor, _ = os.FindProcess(u.from.PID) // a pidfd: another process may get the ID
		}
	}
	for {
		var err error
		select {
		case <-u.stopping:
			return nil
		case <-u.stop.begun:
			<-u.stopping
			return nil
		case err := <-u.failed:
			predecessor = nil // it goes on, or has gone
			return fmt.Errorf("upgrade: %w", err)
		case <-u.restarts:
			u.storeAndStop()
			return nil
		case <-u.signals:
			u.upgrading.Store(true)
			err = u.spawn()
		case nc := <-takers:
			u.upgrading.Store(true)
			if err = u.mayGive(); err != nil {
				handover.Refuse(nc, err)
			} else {
				err = u.upgrade(nc, handoverPatience, nil)
			}
		}
		if err == nil {
			return nil
		}
		u.upgrading.Store(false)
		level.Error(u.logger).Log("msg", "upgrade failed, going on as before", "err", err)
	}
}

// awaitEnd has the stop of the main process of a unit wait for the end of its predecessor,
// within its deadline: with KillMode=mixed systemd kills what is left when the main process
// has ended.
func (u *Upgrade) awaitEnd(predecessor *os.Process) {
	if predecessor == nil || len(u.failed) > 0 || !isRunning(predecessor) { // failed: it goes on
		return
	}
	deadline, _ := u.stop.Deadline()
	late := time.NewTimer(time.Until(deadline))
	defer late.Stop()
	level.Info(u.logger).Log("msg", "the predecessor has not ended, waiting for it", "pid", predecessor.Pid)
	for isRunning(predecessor) {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-u.stop.cutting:
			return
		case <-late.C:
			return
		}
	}
}

func isRunning(p *os.Process) bool { return p.Signal(syscall.Signal(0)) == nil }

// listenHandover listens at Path.
func (u *Upgrade) listenHandover() (net.Listener, error) {
	socket.RemoveStale(u.Path)
	return handover.Listen(u.Path)
}

// requeueRestart leaves the signal to execute.
func (u *Upgrade) requeueRestart(sig os.Signal) {
	select {
	case u.restarts <- sig:
	default: // another one has come
	}
}

// unlessBegun calls f unless the stop has begun, and reports whether it has called f. f
// takes no locks.
func (s *Stop) unlessBegun(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.began.IsZero() {
		return false
	}
	f()
	return true
}

func (l *sharedListener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// pause has Accept wait, so that newcomers go to the other process, or ends that.
func (l *sharedListener) pause(paused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = paused
	if d, ok := l.Listener.(interface{ SetDeadline(time.Time) error }); ok {
		end := time.Time{}
		if paused {
			l.pauses++
			end = time.Unix(1, 0) // of an Accept that waits for a newcomer
		}
		d.SetDeadline(end)
	}
	l.change.Broadcast()
}

// setShared notes of listeners whether another process has them, too.
func setShared(list []*sharedListener, shared bool) {
	for _, l := range list {
		l.shared.Store(shared)
	}
}
