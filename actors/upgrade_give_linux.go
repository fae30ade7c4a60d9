package actors

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/go-kit/log/level"
	"golang.org/x/sys/unix"

	"lastcall/internal/drain"
	"lastcall/internal/handover"
)

// acceptTakers accepts those that want to take over, one at a time.
func (u *Upgrade) acceptTakers(l net.Listener, takers chan<- net.Conn) {
	select {
	case <-u.owned: // until then they are for the predecessor
	case <-u.stop.begun:
	}
	if closed(u.stop.begun) {
		return
	}
	var pause time.Duration // after an error, as in net/http
	for {
		nc, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, say
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			level.Warn(u.logger).Log("msg", "upgrade: a process that wants to take over is not accepted", "err", err, "again_in", pause)
			time.Sleep(pause)
			continue
		}
		pause = 0
		u.hand(nc, takers)
	}
}

// hand passes a process that wants to take over to execute, or refuses it if another one
// takes over, or a predecessor still has connections to give.
func (u *Upgrade) hand(nc net.Conn, takers chan<- net.Conn) {
	for closed(u.tookAll) && !u.upgrading.Load() {
		select {
		case takers <- nc:
			return
		case <-u.stop.begun:
			handover.Refuse(nc, handover.ErrStopping)
			return
		case <-time.After(100 * time.Millisecond): // execute may have become busy
		}
	}
	handover.Refuse(nc, ErrUpgrading)
}

// storeAndStop begins the stop of a process that systemd starts again, and leaves listeners
// and connections in its descriptor store.
func (u *Upgrade) storeAndStop() {
	if u.stop.Phase() != Ready {
		u.stop.begin(restartError{})
		return
	}
	if u.fromStore {
		<-u.tookAll // soon: what is still in the store comes first
	}
	listeners, keys := u.openListeners()
	var own []handover.Listener
	var addrs []net.Addr
	for _, l := range listeners {
		addrs = append(addrs, l.Addr())
		if !l.passed { // systemd has these
			own = append(own, handover.Listener{Name: l.name, Socket: l})
		}
	}
	store := new(handover.Store)
	if err := store.Keeps(len(own)); err != nil { // known before a stop leaves their sockets to others
		u.stopUnstored(err)
		return
	}
	stored := func(yes bool) {
		for _, l := range listeners {
			l.stored.Store(yes)
		}
	}
	if !u.stop.unlessBegun(func() { stored(true) }) { // from now on no stop hides their sockets
		return
	}
	if err := store.Keep(own, keys); err != nil {
		stored(false)
		u.stopUnstored(err)
		return
	}
	give := func(list []*drain.Transfer) (int, error) {
		n, err := store.Give(list)
		if err != nil {
			level.Warn(u.logger).Log("msg", "restart: the other connections are drained", "err", err, "kept", u.stop.Snapshot().Moved)
		}
		return n, err
	}
	givings := u.stop.give(addrs, give)
	u.stop.beginUpgrade(restartError{}, func() {
		for _, gv := range givings {
			gv.End()
		}
		level.Info(u.logger).Log("msg", "restart: connections are kept in the descriptor store", "kept", u.stop.Snapshot().Moved)
	})
}

// stopUnstored begins the stop of a restart with nothing stored.
func (u *Upgrade) stopUnstored(err error) {
	level.Warn(u.logger).Log("msg", "restart: connections are drained, not kept", "err", err)
	u.stop.begin(restartError{})
}

// spawn starts a successor and lets it take over.
func (u *Upgrade) spawn() error {
	if !closed(u.tookAll) { // a predecessor still has connections to give
		level.Info(u.logger).Log("msg", "upgrade waits until the predecessor has ended")
		select {
		case <-u.tookAll:
			if len(u.failed) > 0 {
				return handover.ErrStopping
			}
		case sig := <-u.restarts:
			u.requeueRestart(sig)
			return handover.ErrStopping
		case <-u.stopping:
			return handover.ErrStopping
		}
	}
	err := u.mayGive()
	if err == nil && u.Allow != nil {
		err = u.Allow()
	}
	if err != nil {
		return err
	}
	own, theirs, err := handover.Pair()
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{Args: os.Args}
	if u.Command != nil {
		cmd = u.Command()
	}
	if cmd.Path == "" && cmd.Err == nil {
		cmd.Path = u.program
	}
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	if len(cmd.ExtraFiles) == 0 {
		inherited := inheritedFiles()
		defer closeAll(inherited)
		cmd.ExtraFiles = inherited
	}
	cmd.Env = append(slices.Clip(cmd.Env), fmt.Sprintf("%s=%d", upgradeVariable, 3+len(cmd.ExtraFiles)))
	cmd.ExtraFiles = append(slices.Clip(cmd.ExtraFiles), theirs)
	if cmd.Stdin == nil {
		cmd.Stdin = os.Stdin
	}
	if cmd.Stdout == nil {
		cmd.Stdout = os.Stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	if os.Getenv("NOTIFY_SOCKET") != "" {
		// A manager waits for the main process only if that is its own child.
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = new(syscall.SysProcAttr)
		}
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_PARENT
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		own.Close()
		return err
	}
	level.Info(u.logger).Log("msg", "upgrade begins", "program", cmd.Path, "pid", cmd.Process.Pid)
	ended := make(chan error, 1)
	go func() {
		err := endError(cmd.Wait())
		if errors.Is(err, syscall.ECHILD) {
			err = nil // the manager knows how it ended
		}
		ended <- err
	}()
	return u.upgrade(own, u.StartTimeout, func(mayServe bool) error {
		if mayServe { // it answers what it has, within the time of a stop
			cmd.Process.Signal(syscall.SIGTERM)
			time.AfterFunc(u.stop.LameDuck+u.stop.grace()+time.Second, func() { cmd.Process.Kill() })
			return nil
		}
		cmd.Process.Kill()
		return <-ended
	})
}

// inheritedFiles returns the descriptors from 3 on that a program inherits, such as a lock of
// the shell that has started this one, up to the first that it does not. That is free for
// another file.
func inheritedFiles() (files []*os.File) {
	for fd := uintptr(3); ; fd++ {
		flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			return files
		}
		own, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return files
		}
		files = append(files, os.NewFile(uintptr(own), "inherited"))
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// errOutOfService is the error of an upgrade after SetReady(false): the successor would not
// know of it.
var errOutOfService = errors.New("out of service: put it back first (SetReady, PUT /ready), or restart it")

// mayGive returns why there is nothing for a successor: it would undo what this process was
// told.
func (u *Upgrade) mayGive() error {
	switch {
	case u.stop.Phase() > Ready:
		return handover.ErrStopping
	case u.stop.outOfService.Load():
		return errOutOfService
	}
	return nil
}

// upgrade lets the successor at the other end of nc take over. It returns nil when
// the stop has begun. If it fails, it calls end, and says whether the successor may have
// a request to answer. A nil end means that somebody else has started the successor.
func (u *Upgrade) upgrade(nc net.Conn, patience time.Duration, end func(mayServe bool) error) (err error) {
	ready := false
	unwatch := u.watchStop(func() { nc.Close() })
	g, err := handover.Accept(nc, patience)
	unwatch()
	if err != nil && (closed(u.stop.begun) || len(u.restarts) > 0) {
		err = handover.ErrStopping
	}
	defer func() {
		if err != nil && g != nil {
			g.Fail(err)
		}
		if err != nil && end != nil {
			if ended := end(ready && !errors.Is(err, handover.ErrGone)); errors.Is(err, handover.ErrGone) && ended != nil {
				err = fmt.Errorf("the successor: %w", ended)
			}
		}
	}()
	if err != nil {
		return err
	}
	unwatch = u.watchStop(g.Abort)
	defer unwatch()
	began := time.Now()
	listeners, keys := u.openListeners()
	var offers []handover.Listener
	for _, l := range listeners {
		offers = append(offers, handover.Listener{Name: l.name, Passed: l.passed, Socket: l})
	}
	taken, err := g.Offer(offers, keys, u.StartTimeout)
	if err != nil {
		return err
	}
	ready = true
	level.Info(u.logger).Log("msg", "upgrade: the successor is ready", "pid", g.PID, "elapsed", time.Since(began).Round(time.Millisecond))
	var kept []*sharedListener
	var addrs []net.Addr
	for i, l := range listeners {
		if !taken[i].Taken {
			continue
		}
		kept = append(kept, l)
		l.pause(true)
		if taken[i].Conns {
			addrs = append(addrs, l.Addr())
		}
	}
	givings, err := u.give(g, addrs)
	if err == nil {
		err = g.Sole(func() error {
			err := u.mayGive()
			if err == nil && !u.stop.unlessBegun(func() { setShared(kept, true) }) {
				err = handover.ErrStopping
			}
			return err
		})
	}
	unwatch()
	if err != nil {
		setShared(kept, false)
		for _, gv := range givings {
			gv.End()
		}
		for _, l := range kept {
			l.pause(false)
		}
		return fmt.Errorf("with %d connections moved: %w", u.stop.Snapshot().Moved, err)
	}
	n := u.stop.Snapshot()
	level.Info(u.logger).Log("msg", "upgrade done", "pid", g.PID, "moved", n.Moved, "open", n.Open, "inflight", n.InFlight, "elapsed", time.Since(began).Round(time.Millisecond))
	if end != nil { // it is of the same unit, if systemd runs this one
		if _, err := daemon.SdNotify(true, fmt.Sprintf("MAINPID=%d", g.PID)); err != nil {
			level.Warn(u.logger).Log("msg", "upgrade: systemd does not learn of the successor", "err", err)
		}
	}
	u.stop.beginUpgrade(&upgradedError{g.PID}, func() {
		for _, gv := range givings {
			if err := gv.End(); err != nil && !errors.Is(err, handover.ErrNotAll) {
				level.Warn(u.logger).Log("msg", "upgrade: connections were closed, not moved", "err", err)
			}
		}
		g.End()
		level.Info(u.logger).Log("msg", "upgrade: everything has moved or ended", "pid", g.PID, "moved", u.stop.Snapshot().Moved)
	})
	return nil
}

// openListeners returns the listeners that are open, and the keys of session tickets.
func (u *Upgrade) openListeners() (open []*sharedListener, keys handover.Keys) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, l := range u.listeners {
		if !l.isClosed() {
			open = append(open, l)
		}
	}
	return open, u.tickets.list()
}

// upgradedError is the cause of the stop of a process that has a successor.
type upgradedError struct{ pid int }

func (e *upgradedError) Error() string { return fmt.Sprintf("upgraded to process %d", e.pid) }

func (e *upgradedError) Is(target error) bool { return target == ErrUpgraded }

// watchStop calls abort when this process stops or is restarted, until unwatch is
// called.
func (u *Upgrade) watchStop(abort func()) (unwatch func()) {
	over, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-u.stop.begun:
			abort()
		case sig := <-u.restarts:
			abort()
			u.requeueRestart(sig)
		case <-over:
		}
	}()
	return sync.OnceFunc(func() { close(over); <-watched })
}

// give begins to give connections away, and returns when those without a request
// have gone.
func (u *Upgrade) give(g *handover.Giver, addrs []net.Addr) (list []*drain.Giving, err error) {
	list = u.stop.give(addrs, g.Give)
	var wait sync.WaitGroup
	errs := make([]error, len(list))
	for i, gv := range list {
		wait.Go(func() {
			select {
			case <-gv.Settled():
			case <-time.After(settleTimeout):
			case <-gv.Done():
				errs[i] = gv.End()
				if errors.Is(errs[i], handover.ErrNotAll) {
					level.Warn(u.logger).Log("msg", "upgrade: the other connections are drained", "err", errs[i], "moved", u.stop.Snapshot().Moved)
					errs[i] = nil
				}
			}
		})
	}
	wait.Wait()
	return list, errors.Join(errs...)
}

// give begins to give the connections of all servers away.
func (s *Stop) give(addrs []net.Addr, take func([]*drain.Transfer) (int, error)) (list []*drain.Giving) {
	for _, e := range s.engines() {
		list = append(list, e.Give(addrs, take))
	}
	return list
}

// handoverPatience is how long a process that connects to Path may take for its
// first word.
const handoverPatience = 5 * time.Second

// settleTimeout is how long the idle connections may take to move, at the most.
const settleTimeout = 10 * time.Second

// beginUpgrade begins the stop of a process that has a successor. It calls end when
// the last member has returned.
func (s *Stop) beginUpgrade(cause error, end func()) {
	end = sync.OnceFunc(end)
	s.mu.Lock()
	if s.began.IsZero() {
		s.upgraded.Store(true)
	}
	s.endUpgrade = end
	s.mu.Unlock()
	s.begin(cause)
	s.mu.Lock()
	over := s.allLocked(memberIsDone) // the last may not have seen it
	s.mu.Unlock()
	if over {
		end()
	}
}

// list returns the keys for a successor.
func (t *tickets) list() (keys handover.Keys) {
	if t == nil {
		return keys
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.keys {
		keys.List = append(keys.List, k[:])
	}
	keys.Age = time.Since(t.since)
	return keys
}
