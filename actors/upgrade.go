package actors

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/oklog/run"

	"lastcall/internal/drain"
	"lastcall/internal/handover"
	"lastcall/internal/socket"
)

// Upgrade replaces a process by its successor without closing a connection: a new
// version of the program takes over the listeners and the connections of the one
// that runs.
//
//	up := &actors.Upgrade{Stop: &stop}
//	l, err := up.Listen("127.0.0.1:8080")
//	...
//	g.Add(actors.HTTP(&stop, srv, l))
//	g.Add(up.Actor())
//	g.Add(actors.Signal(&stop))
//
// kill -USR2 then starts the program at the same path, with the same arguments. It
// gets the listeners. When it is ready, the connections follow, and this process
// ends as after a stop.
//
// # What moves
//
// A connection of HTTP/1 without TLS moves: at once if it is idle or a part of a
// request has arrived, and otherwise when its request has been answered. Its client
// cannot tell. Connections of TLS, of HTTP/2, and hijacked ones are drained as in a
// stop, and so are those of a listener that wraps what it accepts: unless the
// wrapper has a method Transparent() bool that says that Read and Write pass every
// byte unchanged, and the listener a method WrapConn(net.Conn) net.Conn.
//
// # When something fails
//
// A successor that fails before it is ready changes nothing. If it fails while the
// idle connections move, this process goes on with those that it still has, and
// with its listeners. After that (msg="upgrade done") the successor is on its own:
// this process only finishes what it still has.
//
// # Under systemd
//
// A unit of Type=notify goes on with a successor that SIGUSR2 has started: systemd
// learns that it is the main process (MAINPID). From then on this process sends systemd
// nothing, and stops as the unit does: the successor ends after it.
//
// Where systemd stops the old process before it starts the new one, as
// "systemctl restart" does, the listeners and the connections that can move wait in
// its descriptor store in between. See Restart.
//
// A process is ready when its [HTTP] and [Graceful] actors serve. One that has none never
// is, and cannot be upgraded.
//
// All fields are optional. Set them before the first call of a method, and do not
// copy an Upgrade. It needs Linux. Elsewhere Path is an error, Listen only listens, and
// the actor does nothing.
type Upgrade struct {
	// Stop is what the actors share. Nil means the defaults of [Stop].
	Stop *Stop

	// Path is that of a unix socket at which a successor can take over which
	// somebody else starts, with the same Path: a supervisor, or a person. If
	// a process listens there when the program starts, this one is its
	// successor. The directory must be one that only its owner may enter
	// (mode 0700). Empty means none.
	Path string

	// Command makes the command that starts a successor when the process gets
	// SIGUSR2. Nil means the program at the path by which this one was started,
	// with the same arguments, in the present directory. A command without a Path has that
	// one.
	Command func() *exec.Cmd

	// Allow returns why there can be no upgrade now, or nil. Nil allows it.
	Allow func() error

	// StartTimeout is how long a successor may take until it is ready. Zero and
	// negative values mean one minute.
	StartTimeout time.Duration

	// Restart is the signal of a stop after which systemd starts the program again.
	// The unit says RestartKillSignal= (systemd 246), which it sends in a restart
	// and not in a stop, FileDescriptorStoreMax= and KillMode=mixed. Listeners and
	// connections that can move are left in the descriptor store, and are taken by
	// the next process of the unit. They wait there until this one has answered
	// its last request. What does not fit is drained as in a stop. The next process
	// takes them when it is ready, or when another signal stops it before that. If it
	// fails before that, they stay where they are. Nil means none.
	Restart os.Signal

	setup     sync.Once
	setupErr  error
	stop      *Stop
	logger    log.Logger
	program   string // the path of this one
	signals   chan os.Signal
	restarts  chan os.Signal // gets Restart
	stopping  chan struct{}  // closed by the first interrupt
	failed    chan error     // gets why the predecessor goes on by itself
	upgrading atomic.Bool    // execute is busy with a successor
	interrupt func(error)

	mu           sync.Mutex // guards the rest
	offered      []offered  // by a predecessor
	listeners    []*sharedListener
	tickets      *tickets      // nil: none
	keys         handover.Keys // of tickets, of the predecessor
	from         *predecessor  // nil: none
	fromStore    bool          // from is the descriptor store
	owned        chan struct{} // closed by ownListeners, or by endTaking
	ownListeners func()        // notes that the listeners are this process's alone
	tookAll      chan struct{} // closed by endTaking
	endTaking    func()        // notes that no more connections come
}

// offered is a listener that a predecessor offers.
type offered struct {
	handover.Listener
	taken *sharedListener // nil: not

	release func() // ends what reserveStored has reserved; nil: nothing is
}

const defaultUpgradeTimeout = time.Minute

// ErrUpgrading is the error of an upgrade during another one.
var ErrUpgrading = errors.New("an upgrade is under way")

// ErrUpgraded matches, by errors.Is, the cause (see [Snapshot]) of the stop of a
// process that has a successor.
var ErrUpgraded = errors.New("upgraded")

// Upgrading reports whether a successor is being started or takes over, or this process
// is one and has not taken over yet. Call it after the first call of another method.
func (u *Upgrade) Upgrading() bool { return u.upgrading.Load() || !closed(u.owned) }

func (u *Upgrade) init() error {
	u.setup.Do(func() {
		u.stop = cmp.Or(u.Stop, new(Stop))
		u.stop.init()
		u.logger = log.With(u.stop.logger(), "actor", "upgrade")
		if u.StartTimeout <= 0 {
			u.StartTimeout = defaultUpgradeTimeout
		}
		u.program = ownPath()
		u.signals, u.restarts = make(chan os.Signal, 1), make(chan os.Signal, 1)
		u.failed = make(chan error, 1)
		u.stopping, u.owned, u.tookAll = make(chan struct{}), make(chan struct{}), make(chan struct{})
		u.ownListeners = sync.OnceFunc(func() { close(u.owned) })
		u.endTaking = sync.OnceFunc(func() {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.ownListeners()
			close(u.tookAll)
			for _, o := range u.offered {
				if o.release != nil {
					o.release()
				}
			}
		})
		u.interrupt = func(cause error) {
			u.stop.begin(cause)
			if isUnstarted(cause) {
				u.endTaking()
			}
			u.mu.Lock()
			defer u.mu.Unlock()
			if !closed(u.stopping) {
				close(u.stopping)
			}
		}
		if u.Path != "" {
			u.setupErr = handover.CheckDir(u.Path) // now, not when the servers serve
		}
		if u.setupErr == nil {
			u.setupErr = u.takeListeners()
		}
		if u.from == nil {
			u.endTaking()
		}
	})
	return u.setupErr
}

// ownPath returns the path by which this process was started. Unlike that of
// os.Executable it has the symbolic links: another version may be behind them.
func ownPath() string {
	path := os.Args[0]
	if !strings.ContainsRune(path, filepath.Separator) {
		if found, err := exec.LookPath(path); err == nil {
			path = found
		}
	}
	abs, err := filepath.Abs(path)
	if info, serr := os.Stat(abs); err != nil || serr != nil || info.IsDir() {
		abs, _ = os.Executable()
	}
	return abs
}

// Listen returns a listener at an address: that of the predecessor, if it has one
// that was made by Listen with this address, or a new one as [Listen] makes it.
func (u *Upgrade) Listen(addr string) (net.Listener, error) {
	return u.Listener(addr, func() (net.Listener, error) { return Listen(addr) })
}

// Listener returns a listener that is known by a name: that of the predecessor, or
// the one that listen returns. It must have the method SyscallConn. If several have
// one name, they are taken over in the order of the calls. listen does not call a method
// of the Upgrade.
//
// The first call of a method takes from the predecessor. An error of that is
// returned here.
func (u *Upgrade) Listener(name string, listen func() (net.Listener, error)) (net.Listener, error) {
	if err := u.init(); err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range u.offered {
		if o := &u.offered[i]; o.taken == nil && !o.Passed && o.Name == name {
			l, err := u.takeLocked(o)
			if err == nil && socket.Path(l.Addr()) != "" && socket.Refuses(l) {
				if err := o.taken.renew(listen); err != nil {
					return nil, err
				}
			}
			return l, err
		}
	}
	l, err := listen()
	if err != nil {
		return nil, err
	}
	return u.addLocked(name, false, l), nil
}

// Passed returns the listeners that a supervisor has passed to the program: those
// of the predecessor, and those that passed returns. They are as [Inherited] says.
func (u *Upgrade) Passed(passed func() ([]net.Listener, error)) ([]net.Listener, error) {
	if err := u.init(); err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	var list []net.Listener
	for i := range u.offered {
		if o := &u.offered[i]; o.taken == nil && o.Passed {
			l, err := u.takeLocked(o)
			if err != nil {
				return list, err
			}
			list = append(list, l)
		}
	}
	own, err := passed()
	for _, l := range own {
		if i, ok := l.(inherited); ok {
			l = i.Listener
		}
		list = append(list, u.addLocked(l.Addr().String(), true, l))
	}
	return list, err
}

// takeLocked makes a listener of one that is offered.
func (u *Upgrade) takeLocked(o *offered) (net.Listener, error) {
	l, err := net.FileListener(o.File)
	if err != nil {
		return nil, fmt.Errorf("upgrade: %s: %w", o.Name, err)
	}
	o.File.Close()
	o.taken = u.addLocked(o.Name, o.Passed, l)
	if !o.Passed {
		o.taken.SetUnlinkOnClose(true) // if it is this process's alone by then
	}
	o.taken.shared.Store(true) // by the predecessor
	if u.fromStore {
		o.taken.ours = u.stop.isLast
	}
	return o.taken, nil
}

func (u *Upgrade) addLocked(name string, passed bool, l net.Listener) *sharedListener {
	s := newSharedListener(name, passed, l)
	u.listeners = append(u.listeners, s)
	return s
}

// Actor returns the actor. It is called once, after all calls of Listen. execute
// returns when a successor has taken over: the stop has begun then.
func (u *Upgrade) Actor() (execute func() error, interrupt func(error)) {
	if err := u.init(); err != nil {
		return func() error { return err }, func(cause error) { u.stop.begin(cause) }
	}
	u.notify()
	u.stop.upgrade.Store(u)
	return u.execute, u.interrupt
}

// isInherited reports whether another process has the socket that listens at an address:
// the server may have a wrapper of its listener.
func (u *Upgrade) isInherited(addr net.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.ContainsFunc(u.listeners, func(l *sharedListener) bool {
		return drain.SameAddr(l.Addr(), addr) && l.Inherited()
	})
}

// reserveStored has a drain of the server wait until what is in the descriptor store
// has come: nobody else has it. That is too late once the server drains.
func (u *Upgrade) reserveStored(e *drain.Server) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.fromStore || closed(u.tookAll) {
		return
	}
	for i := range u.offered {
		o := &u.offered[i]
		if o.taken != nil && o.release == nil {
			o.release = e.Reserve(o.taken.Addr())
		}
	}
}

// restartError is the cause of the stop in a restart. Like any signal, it is no failure.
type restartError struct{}

func (restartError) Error() string        { return "restart" }
func (restartError) Is(target error) bool { return target == run.ErrSignal }

// isLast reports whether a stop has begun after which systemd does not start the program
// again.
func (s *Stop) isLast() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, restarts := s.cause.(restartError)
	return !s.began.IsZero() && !restarts && isCleanResult(s.cause, true)
}
