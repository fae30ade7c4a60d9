package actors

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/go-kit/log/level"
	"github.com/oklog/run"

	"lastcall/internal/drain"
	"lastcall/internal/handover"
	"lastcall/internal/socket"
)

// upgradeVariable is that of the environment by which a successor finds the socket
// to its predecessor.
const upgradeVariable = "HANDOVER_FD"

// takeListeners takes the listeners of a predecessor, if there is one, or of the descriptor
// store.
func (u *Upgrade) takeListeners() error {
	spawned := os.Getenv(upgradeVariable) != ""
	nc, fromStore, err := u.findPredecessor()
	if err != nil || nc == nil {
		return err
	}
	t, err := takeUntilSignal(nc)
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	t.FromStore, t.Spawned = fromStore, spawned
	u.from, u.fromStore, u.keys = t, fromStore, t.Keys
	for _, l := range t.Listeners {
		u.offered = append(u.offered, offered{Listener: l})
	}
	level.Info(u.logger).Log("msg", "upgrade: taking over", "from", t.From(), "listeners", len(u.offered))
	return nil
}

// takeUntilSignal is handover.Take, which SIGINT and SIGTERM end: nothing else listens to
// them yet.
func takeUntilSignal(nc net.Conn) (*handover.Taker, error) {
	signals, over, stopped := make(chan os.Signal, 1), make(chan struct{}), make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		defer close(stopped)
		select {
		case sig := <-signals:
			stopped <- sig
			nc.Close()
		case <-over:
		}
	}()
	t, err := handover.Take(nc)
	signal.Stop(signals) // none comes from here on
	close(over)
	sig, ok := <-stopped
	if !ok {
		select {
		case sig = <-signals:
		default:
			return t, err
		}
	}
	if err == nil {
		t.Close()
	}
	return nil, &run.SignalError{Signal: sig}
}

// findPredecessor connects to the process that has started this one as its
// successor, to what is in the descriptor store, or to the process at Path. It returns
// nil if there is none.
func (u *Upgrade) findPredecessor() (nc net.Conn, fromStore bool, err error) {
	if v := os.Getenv(upgradeVariable); v != "" {
		os.Unsetenv(upgradeVariable) // it is not for those that this process starts
		fd, err := strconv.Atoi(v)
		if err != nil || fd < 3 {
			return nil, false, fmt.Errorf("upgrade: %s=%q: want a descriptor", upgradeVariable, v)
		}
		f := os.NewFile(uintptr(fd), upgradeVariable)
		nc, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, false, fmt.Errorf("upgrade: %s: %w", upgradeVariable, err)
		}
		return nc, false, nil
	}
	stored, err := handover.TakeStored()
	if err != nil {
		return nil, false, fmt.Errorf("upgrade: %w", err)
	}
	if stored != nil {
		nc, err := u.giveStored(stored)
		return nc, true, err
	}
	if u.Path == "" {
		return nil, false, nil
	}
	nc, err = handover.Dial(u.Path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, false, nil
	}
	return nc, false, err
}

// giveStored lets this process take what is stored, as it would from a predecessor.
func (u *Upgrade) giveStored(s *handover.Stored) (net.Conn, error) {
	giver, f, err := handover.Pair()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	taker, err := net.FileConn(f)
	if err != nil {
		giver.Close()
		return nil, err
	}
	go func() {
		if err := s.Give(giver); err != nil {
			level.Warn(u.logger).Log("msg", "upgrade: not everything has come from the descriptor store", "err", err)
		}
	}()
	return taker, nil
}

// takeOver says that this process is ready when it is, and takes connections from
// then on. It reports false if the process stops before.
func (u *Upgrade) takeOver(t *handover.Taker) (taken bool, err error) {
	if !u.awaitReady() {
		t.Fail(errors.New("the successor has stopped before it was ready"))
		u.endTaking() // a drain waits for that
		return false, nil
	}
	engines := u.stop.engines()
	adopts := func(a net.Addr) bool {
		return slices.ContainsFunc(engines, func(e *drain.Server) bool { return e.Adopts(a) })
	}
	reserve := func(a net.Addr) (release func()) {
		for _, e := range engines {
			if release = e.Reserve(a); release != nil {
				break
			}
		}
		return release
	}
	if u.fromStore {
		for _, e := range engines {
			u.reserveStored(e) // one that others serve could not be before
		}
		reserve = func(net.Addr) func() { return func() {} }
	}
	var list []handover.Taken
	var addrs []net.Addr
	var common []*sharedListener
	u.mu.Lock()
	for i := range u.offered {
		o := &u.offered[i]
		var addr net.Addr
		if o.taken == nil {
			o.File.Close()
		} else {
			addr = o.taken.Addr()
			common = append(common, o.taken)
		}
		conns := o.release != nil || !u.fromStore && addr != nil && adopts(addr)
		list, addrs = append(list, handover.Taken{Taken: addr != nil, Conns: conns}), append(addrs, addr)
	}
	u.mu.Unlock()
	if err := t.Ready(list, addrs); err != nil {
		u.endTaking()
		return false, fmt.Errorf("upgrade: %w", err)
	}
	go func() {
		defer u.endTaking()
		adopt := func(tr *drain.Transfer) error {
			for _, e := range engines {
				if err := e.Adopt(tr); err != drain.ErrNotAdopted {
					return err
				}
			}
			return drain.ErrNotAdopted
		}
		agree := func() error {
			if !u.fromStore && closed(u.stop.begun) {
				return errors.New("the successor stops")
			}
			return nil
		}
		own := func() {
			setShared(common, false)
			u.ownListeners()
			level.Info(u.logger).Log("msg", "upgrade: the listeners are this process's alone", "from", t.From(), "adopted", u.stop.Snapshot().Adopted)
		}
		if err := t.Run(reserve, adopt, agree, own); err != nil {
			level.Warn(u.logger).Log("msg", "upgrade: the predecessor has ended early", "from", t.From(), "err", err, "adopted", u.stop.Snapshot().Adopted)
			gone := errors.Is(err, handover.ErrGone)
			setShared(common, !gone) // else the predecessor goes on with them
			if gone {
				err = u.checkListeners()
			}
			if err != nil {
				u.failed <- err
			}
			return
		}
		level.Info(u.logger).Log("msg", "upgrade: the predecessor has ended", "from", t.From(), "adopted", u.stop.Snapshot().Adopted)
	}()
	return true, nil
}

// awaitReady waits until this process is ready. It reports false if the process stops
// first and another one can take the connections: the predecessor, or the next process of
// the unit. If a signal stops the unit for good, no other can, and awaitReady waits until
// the servers have started.
func (u *Upgrade) awaitReady() bool {
	for !u.stop.Snapshot().Ready {
		select {
		case <-u.restarts: // what is stored stays there
			u.stop.begin(restartError{})
		case <-u.stop.begun:
			if !u.fromStore || !u.stop.isLast() {
				return false
			}
			if u.stop.serversStarted() {
				return true
			}
			time.Sleep(time.Millisecond)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return true
}

// serversStarted reports whether every server serves, or has served, or never will.
func (s *Stop) serversStarted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase == Stopped || !slices.ContainsFunc(s.servers, func(srv *server) bool {
		return srv.engine.Load() == nil && !srv.member.skipped && srv.member.step != memberIsDone
	})
}

// checkListeners returns an error if newcomers are refused at a listener: the predecessor has
// begun to close it.
func (u *Upgrade) checkListeners() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, l := range u.listeners {
		if socket.Refuses(l) {
			return fmt.Errorf("the predecessor has stopped, and closed %s", l.name)
		}
	}
	return nil
}
