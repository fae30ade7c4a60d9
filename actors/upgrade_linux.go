package actors

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"sync"
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

// handoverName is the name of the listener at Upgrade.Path.
const handoverName = "handover"

// begin takes the listeners of a predecessor, if there is one, or of the descriptor
// store.
func (u *Upgrade) begin() error {
	nc, fromStore, err := u.findPredecessor()
	if err != nil || nc == nil {
		return err
	}
	t, err := takeUntilSignal(nc)
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	t.FromStore = fromStore
	u.from, u.fromStore, u.keys = t, fromStore, t.Keys
	for _, l := range t.Listeners {
		u.offered = append(u.offered, offered{name: l.Name, passed: l.Passed, file: l.File})
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
	signal.Stop(signals)
	close(over)
	if sig, ok := <-stopped; ok {
		return nil, &run.SignalError{Signal: sig}
	}
	return t, err
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

func (u *Upgrade) notify() {
	signal.Notify(u.signals, syscall.SIGUSR2)
	if u.Restart != nil {
		signal.Notify(u.restarts, u.Restart)
	}
}

func (u *Upgrade) execute() error {
	u.stop.recordExecute()
	takes := false
	defer func() {
		if !takes {
			u.noneLeft()
		}
	}()
	takers := make(chan net.Conn)
	if u.Path != "" {
		l, err := u.Listener(handoverName, u.listenHandover)
		if err != nil {
			return fmt.Errorf("upgrade: %w", err)
		}
		defer l.Close()
		go u.acceptTakers(l, takers)
	}
	if u.from != nil {
		var err error
		if takes, err = u.takeOver(u.from.(*handover.Taker)); err != nil {
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
			err = u.spawn()
		case nc := <-takers:
			err = u.upgrade(nc, handoverPatience, nil)
		}
		if err == nil {
			return nil
		}
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

// acceptTakers accepts those that want to take over, one at a time.
func (u *Upgrade) acceptTakers(l net.Listener, takers chan<- net.Conn) {
	select {
	case <-u.alone: // until then they are for the predecessor
	case <-u.stopping:
		return
	}
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		select {
		case takers <- nc:
		case <-time.After(100 * time.Millisecond):
			handover.Refuse(nc, ErrUpgrading)
		}
	}
}

// takeOver says that this process is ready when it is, and takes connections from
// then on, if it returns true.
func (u *Upgrade) takeOver(t *handover.Taker) (takes bool, err error) {
	if !u.awaitReady() {
		t.Fail(errors.New("the successor has stopped before it was ready"))
		if u.fromStore {
			u.noneLeft() // a drain waits for that
		}
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
	var taken []handover.Taken
	var addrs []net.Addr
	u.mu.Lock()
	for i := range u.offered {
		o := &u.offered[i]
		var addr net.Addr
		if o.taken == nil {
			o.file.Close()
		} else {
			addr = o.taken.Addr()
		}
		conns := o.reserved || !u.fromStore && addr != nil && adopts(addr)
		taken, addrs = append(taken, handover.Taken{Taken: addr != nil, Conns: conns}), append(addrs, addr)
	}
	u.mu.Unlock()
	if err := t.Ready(taken, addrs); err != nil {
		return false, fmt.Errorf("upgrade: %w", err)
	}
	go func() {
		defer u.noneLeft()
		adopt := func(tr *drain.Transfer) error {
			for _, e := range engines {
				if err := e.Adopt(tr); err != drain.ErrNotAdopted {
					return err
				}
			}
			return drain.ErrNotAdopted
		}
		sole := func() error {
			if closed(u.stop.begun) && !u.fromStore {
				return errors.New("the successor stops")
			}
			u.ownsAll()
			level.Info(u.logger).Log("msg", "upgrade: the listeners are this process's alone", "from", t.From(), "adopted", u.stop.Snapshot().Adopted)
			return nil
		}
		if err := t.Run(reserve, adopt, sole); err != nil {
			failure := err // the predecessor goes on, with the listeners
			if errors.Is(err, handover.ErrGone) {
				failure = u.refuses()
			}
			if failure != nil {
				u.failed <- failure
			} else {
				u.ownsAll()
			}
			level.Warn(u.logger).Log("msg", "upgrade: the predecessor has ended early", "from", t.From(), "err", err, "adopted", u.stop.Snapshot().Adopted)
			return
		}
		u.ownsAll()
		level.Info(u.logger).Log("msg", "upgrade: the predecessor has ended", "from", t.From(), "adopted", u.stop.Snapshot().Adopted)
	}()
	return true, nil
}

// awaitReady waits until this process is ready, and reports false if it is not to take
// connections: it stops, and somebody else can take them. That is the predecessor, or
// the next process of the unit where this one has failed or is started again. Where a
// signal has stopped it nobody would.
func (u *Upgrade) awaitReady() bool {
	for !u.stop.Snapshot().Ready {
		select {
		case <-u.restarts: // what is stored stays there
			u.stop.Begin(restartError{})
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

// restartLater leaves the signal to execute.
func (u *Upgrade) restartLater(sig os.Signal) {
	select {
	case u.restarts <- sig:
	default: // another one has come
	}
}

// keep begins the stop of a process that systemd starts again, and leaves listeners
// and connections in its descriptor store.
func (u *Upgrade) keep() {
	if u.stop.Phase() != Ready {
		u.stop.Begin(restartError{})
		return
	}
	if u.fromStore {
		<-u.alone // soon: what is still in the store comes first
	}
	u.mu.Lock()
	listeners, keys := slices.Clone(u.listeners), u.tickets.list()
	u.mu.Unlock()
	var own []handover.Listener
	var addrs []net.Addr
	for _, l := range listeners {
		addrs = append(addrs, l.Addr())
		if !l.passed { // systemd has these
			own = append(own, handover.Listener{Name: l.name, Socket: l})
		}
	}
	store := new(handover.Store)
	if err := store.Keep(own, keys); err != nil {
		level.Warn(u.logger).Log("msg", "restart: connections are drained, not kept", "err", err)
		u.stop.Begin(restartError{})
		return
	}
	for _, l := range listeners {
		l.stored.Store(true)
	}
	give := func(list []*drain.Transfer) (int, error) {
		n, err := store.Give(list)
		if err != nil {
			level.Warn(u.logger).Log("msg", "restart: the other connections are drained", "err", err, "kept", u.stop.Snapshot().Moved)
		}
		return n, err
	}
	var givings []*drain.Giving
	for _, e := range u.stop.engines() {
		givings = append(givings, e.Give(addrs, give))
	}
	u.stop.beginUpgrade(restartError{}, func() {
		for _, gv := range givings {
			gv.End()
		}
		level.Info(u.logger).Log("msg", "restart: connections are kept in the descriptor store", "kept", u.stop.Snapshot().Moved)
	})
}

// spawn starts a successor and lets it take over.
func (u *Upgrade) spawn() error {
	if !closed(u.alone) { // a predecessor still has connections to give
		level.Info(u.logger).Log("msg", "upgrade waits until the predecessor has ended")
		select {
		case <-u.alone:
		case sig := <-u.restarts:
			u.restartLater(sig)
			return errors.New("the process stops")
		case <-u.stopping:
			return errors.New("the process stops")
		}
	}
	if u.Allow != nil {
		if err := u.Allow(); err != nil {
			return err
		}
	}
	own, theirs, err := handover.Pair()
	if err != nil {
		return err
	}
	cmd := exec.Command(u.program, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	if u.Command != nil {
		cmd = u.Command()
	}
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.ExtraFiles = append([]*os.File{theirs}, cmd.ExtraFiles...)
	cmd.Env = append(slices.Clip(cmd.Env), upgradeVariable+"=3")
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
		err := cmd.Wait()
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

// upgrade lets the successor at the other end of nc take over. It returns nil when
// the stop has begun. If it fails, it calls end, unless that is nil, and says whether
// the successor may have a request to answer.
func (u *Upgrade) upgrade(nc net.Conn, patience time.Duration, end func(mayServe bool) error) (err error) {
	ready := false
	g, err := handover.Accept(nc, patience)
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
	over, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-u.stop.begun:
			g.Abort()
		case sig := <-u.restarts:
			g.Abort()
			u.restartLater(sig)
		case <-over:
		}
	}()
	unwatch := sync.OnceFunc(func() { close(over); <-watched })
	defer unwatch()
	began := time.Now()
	u.mu.Lock()
	listeners, keys := slices.Clone(u.listeners), u.tickets.list()
	u.mu.Unlock()
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
	if errors.Is(err, handover.ErrNotAll) {
		level.Warn(u.logger).Log("msg", "upgrade: the other connections are drained", "err", err, "moved", u.stop.Snapshot().Moved)
		err = nil
	}
	if err == nil {
		err = g.Sole()
	}
	if err != nil {
		for _, gv := range givings {
			gv.End()
		}
		for _, l := range kept {
			l.pause(false)
		}
		return fmt.Errorf("with %d connections moved: %w", u.stop.Snapshot().Moved, err)
	}
	for _, l := range kept {
		l.shared.Store(true)
	}
	unwatch()
	if closed(u.stop.begun) { // perhaps before they were: then it closes them as its own
		for _, gv := range givings {
			gv.End()
		}
		for _, l := range kept {
			l.shared.Store(false)
			l.pause(false)
		}
		return errors.New("this process stops")
	}
	n := u.stop.Snapshot()
	level.Info(u.logger).Log("msg", "upgrade done", "pid", g.PID, "moved", n.Moved, "open", n.Open, "inflight", n.InFlight, "elapsed", time.Since(began).Round(time.Millisecond))
	if u.Upgraded != nil {
		u.Upgraded(g.PID)
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

// give begins to give connections away, and returns when those without a request
// have gone.
func (u *Upgrade) give(g *handover.Giver, addrs []net.Addr) (list []*drain.Giving, err error) {
	var wait sync.WaitGroup
	for _, e := range u.stop.engines() {
		list = append(list, e.Give(addrs, g.Give))
	}
	errs := make([]error, len(list))
	for i, gv := range list {
		wait.Go(func() {
			select {
			case <-gv.Settled():
			case <-time.After(settleTimeout):
			case <-gv.Done():
				errs[i] = gv.End()
			}
		})
	}
	wait.Wait()
	return list, errors.Join(errs...)
}

// handoverPatience is how long a process that connects to Path may take for its
// first word.
const handoverPatience = 5 * time.Second

// settleTimeout is how long the idle connections may take to move, at the most.
const settleTimeout = 10 * time.Second

// beginUpgrade begins the stop of a process that has a successor. It calls end when
// the last member has returned.
func (s *Stop) beginUpgrade(cause error, end func()) {
	s.mu.Lock()
	begun := !s.began.IsZero()
	if !begun {
		s.upgraded.Store(true)
	}
	s.endUpgrade = end
	over := s.phase == Stopped
	s.mu.Unlock()
	s.Begin(cause)
	if over {
		end()
	}
}

// ownsAll makes the listeners this process's alone.
func (u *Upgrade) ownsAll() {
	u.mu.Lock()
	list := slices.Clone(u.listeners)
	u.mu.Unlock()
	for _, l := range list {
		l.own()
	}
}

// refuses returns an error if newcomers are refused at a listener: the predecessor has
// begun to close it.
func (u *Upgrade) refuses() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, l := range u.listeners {
		if socket.Refuses(l) {
			return fmt.Errorf("the predecessor has stopped, and closed %s", l.name)
		}
	}
	return nil
}

// pause leaves newcomers to the other process, or not.
func (l *sharedListener) pause(paused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = paused
	l.change.Broadcast()
}

// own says that no other process has the socket any more, unless a supervisor has.
func (l *sharedListener) own() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shared.CompareAndSwap(true, false) && !l.passed && !l.closed {
		l.setUnlinkOnCloseLocked(true)
	}
}

// list returns the keys for a successor.
func (t *tickets) list() (keys [][]byte) {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.keys {
		keys = append(keys, append([]byte(nil), k[:]...))
	}
	return keys
}
