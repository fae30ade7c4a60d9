package actors

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/go-kit/log/level"

	"lastcall/internal/handover"
)

// handoverName is the name of the listener at Upgrade.Path.
const handoverName = "handover"

func (u *Upgrade) notify() {
	signal.Notify(u.signals, syscall.SIGUSR2)
	if u.Restart != nil {
		signal.Notify(u.restarts, u.Restart)
	}
}

func (u *Upgrade) execute() error {
	u.stop.recordExecute()
	takers := make(chan net.Conn)
	var upgrading atomic.Bool
	if u.Path != "" {
		l, err := u.Listener(handoverName, u.listenHandover)
		if err != nil {
			u.noneLeft()
			return fmt.Errorf("upgrade: %w", err)
		}
		defer l.Close()
		go u.acceptTakers(l, takers, &upgrading)
	}
	if u.from != nil {
		if err := u.takeOver(u.from.(*handover.Taker)); err != nil {
			return err
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
			return fmt.Errorf("upgrade: %w", err)
		case <-u.restarts:
			u.keep()
			return nil
		case <-u.signals:
			upgrading.Store(true)
			err = u.spawn()
		case nc := <-takers:
			upgrading.Store(true)
			err = u.upgrade(nc, handoverPatience, nil)
		}
		if err == nil {
			return nil
		}
		upgrading.Store(false)
		level.Error(u.logger).Log("msg", "upgrade failed, going on as before", "err", err)
	}
}

// listenHandover listens at Path.
func (u *Upgrade) listenHandover() (net.Listener, error) {
	if found, err := os.Lstat(u.Path); err == nil && found.Mode()&fs.ModeSocket != 0 {
		os.Remove(u.Path) // findPredecessor has found nobody there
	}
	return handover.Listen(u.Path)
}

// restartLater leaves the signal to execute.
func (u *Upgrade) restartLater(sig os.Signal) {
	select {
	case u.restarts <- sig:
	default: // another one has come
	}
}

// pause leaves newcomers to the other process, or not.
func (l *sharedListener) pause(paused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = paused
	l.change.Broadcast()
}

// share says of listeners whether another process has them, too.
func share(list []*sharedListener, shared bool) {
	for _, l := range list {
		l.shared.Store(shared)
	}
}

// unlessBegun calls f, unless the stop has begun, and reports whether it has. f takes
// no locks.
func (s *Stop) unlessBegun(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.began.IsZero() {
		return false
	}
	f()
	return true
}
