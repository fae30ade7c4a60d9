package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"lastcall/internal/drain"
)

// storedPrefix begins the names of the descriptors in the store. The names are short:
// all of them are in one variable of the environment, which can have 128 KiB.
const storedPrefix = "~"

// ErrNoStore is returned when systemd keeps nothing.
var ErrNoStore = errors.New("systemd keeps no descriptor (FileDescriptorStoreMax)")

// closesWithin is how long systemd 254 and later may take to close what they do not
// keep: a process of its own does that, and FDSTORE, which says how much they keep, is not
// set for 0. Before 254 it is closed when a [barrier] ends.
const closesWithin = 250 * time.Millisecond

// A Store is the descriptor store of systemd, in which a process that stops leaves
// its listeners and connections for the next one. Its methods may be called
// concurrently.
type Store struct {
	mu   sync.Mutex
	n    int // messages
	kept int // descriptors
}

// record describes the sockets of one message. It is in a memfd beside them. They come
// back in any order, so each is found by its cookie.
type record struct {
	Listeners []Listener
	Keys
	Conns   []storedConn
	Cookies []uint64 // of the listeners, and then of the connections
}

type storedConn struct {
	Listener string // its address, as addrName has it
	State    *drain.Transfer
}

func addrName(a net.Addr) string { return a.Network() + " " + a.String() }

// Keeps returns [ErrNoStore] if systemd does not keep so many listeners. It takes up to
// closesWithin, and leaves nothing in the store.
func (s *Store) Keeps(listeners int) error { return hasKept(2+listeners, closesWithin) }

// Keep stores listeners, and the keys of TLS session tickets. It follows Keeps.
func (s *Store) Keep(listeners []Listener, keys Keys) error {
	if len(listeners) > maxDescriptors-1 {
		return fmt.Errorf("%d listeners, want %d at most", len(listeners), maxDescriptors-1)
	}
	var sockets []any
	for _, l := range listeners {
		sockets = append(sockets, l.Socket)
	}
	return s.put(&record{Listeners: listeners, Keys: keys}, sockets)
}

// Give stores all of the connections, or none.
func (s *Store) Give(list []*drain.Transfer) (taken int, err error) {
	r := new(record)
	var sockets []any
	for _, t := range list {
		r.Conns = append(r.Conns, storedConn{addrName(t.Listener), t})
		sockets = append(sockets, t.Conn)
	}
	if err := s.put(r, sockets); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNotAll, err)
	}
	return len(list), nil
}

// put stores sockets.
func (s *Store) put(r *record, sockets []any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 1 + len(sockets)
	if most, err := strconv.Atoi(os.Getenv("FDSTORE")); err == nil && s.kept+n > most { // systemd 254 and later
		return ErrNoStore
	}
	name := storedPrefix + strconv.FormatInt(int64(s.n), 36)
	s.n++
	err := withDescriptors(sockets, nil, func(fds []int) error {
		for _, fd := range fds {
			cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
			if err != nil {
				return os.NewSyscallError("SO_COOKIE", err)
			}
			r.Cookies = append(r.Cookies, cookie)
		}
		text, err := newMemory(r)
		if err != nil {
			return err
		}
		defer text.Close()
		return store(name, append([]int{int(text.Fd())}, fds...))
	})
	if err == nil {
		err = hasKept(1, 0)
	}
	if err != nil {
		notify(removal(name), nil) // some of them may be there
		return err
	}
	s.kept += n
	return nil
}

// hasKept returns ErrNoStore if systemd has not kept all that came before, or has no room
// for n more descriptors. It does not say so, and takes the descriptors of one message in
// any order. So n pipes follow in a message of their own: if there is still room for these,
// there was for the others. If not, one is closed, after wait at the latest.
func hasKept(n int, wait time.Duration) error {
	const name = storedPrefix + storedPrefix
	var theirs []int
	var hangups []unix.PollFd
	defer func() {
		for _, p := range hangups {
			unix.Close(int(p.Fd))
		}
	}()
	for range n {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			closeAll(theirs)
			return os.NewSyscallError("pipe", err)
		}
		hangups, theirs = append(hangups, unix.PollFd{Fd: int32(p[0])}), append(theirs, p[1])
	}
	err := store(name, theirs)
	closeAll(theirs)
	if err == nil {
		err = barrier()
	}
	if err == nil {
		end := time.Now().Add(wait)
		closed := 0
		for err = unix.EINTR; err == unix.EINTR; {
			closed, err = unix.Poll(hangups, int(max(time.Until(end), 0).Milliseconds()))
		}
		if err == nil && closed > 0 {
			err = ErrNoStore
		}
	}
	return errors.Join(err, notify(removal(name), nil))
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// store has systemd keep descriptors. It does not take out of the store what a client
// has reset (FDPOLL=0, systemd 246): there would be room again, unseen.
func store(name string, fds []int) error {
	return notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, fds)
}

func removal(name string) string { return "FDSTOREREMOVE=1\nFDNAME=" + name }

// newMemory returns a file without a name that holds the record.
func newMemory(r *record) (*os.File, error) {
	fd, err := unix.MemfdCreate("handover", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "handover")
	if err := json.NewEncoder(f).Encode(r); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// notify sends a message to systemd. (net refuses to send descriptors on a datagram
// socket that is connected.)
func notify(message string, fds []int) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(stepTimeout.Nanoseconds())
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	err = unix.Sendmsg(fd, []byte(message), oob, &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}, 0)
	return os.NewSyscallError("send to NOTIFY_SOCKET", err)
}

// barrier returns when systemd has read every message before.
func barrier() error {
	ours, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ours.Close()
	err = notify("BARRIER=1", []int{int(theirs.Fd())})
	theirs.Close()
	if err != nil {
		return err
	}
	ours.SetReadDeadline(time.Now().Add(stepTimeout))
	if _, err := ours.Read(make([]byte, 1)); err != io.EOF {
		return fmt.Errorf("systemd reads no messages: %w", err)
	}
	return nil
}

// Stored is what a process has left in the store for this one.
type Stored struct {
	listeners []Listener
	keys      Keys
	conns     []storedConn
	files     []*os.File // of the connections
	names     []string   // in the store
}

// TakeStored returns what is in the store, or nil if that is nothing. The
// descriptors come in LISTEN_FDS, see sd_listen_fds(3). Then the listeners that a
// socket unit passes are among what is stored, and nothing is left in LISTEN_FDS.
func TakeStored() (*Stored, error) {
	isOurs := func(name string) bool { return strings.HasPrefix(name, storedPrefix) }
	if !slices.ContainsFunc(strings.Split(os.Getenv("LISTEN_FDNAMES"), ":"), isOurs) {
		return nil, nil
	}
	files := activation.Files(true)
	if files == nil { // they are another process's
		return nil, nil
	}
	s := new(Stored)
	sockets := make(map[uint64]*os.File)
	var records []record
	for _, f := range files {
		name, fd := f.Name(), int(descriptorOf(f))
		if !isOurs(name) {
			s.listeners = append(s.listeners, Listener{Name: name, Passed: true, File: f})
			continue
		}
		if !slices.Contains(s.names, name) {
			s.names = append(s.names, name)
		}
		var stat unix.Stat_t
		if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err == nil {
			sockets[cookie] = f
			continue
		}
		if unix.Fstat(fd, &stat); stat.Mode&unix.S_IFMT == unix.S_IFREG {
			var r record
			if err := json.NewDecoder(io.NewSectionReader(f, 0, stat.Size)).Decode(&r); err != nil {
				return nil, fmt.Errorf("%s in the descriptor store: %w", name, err)
			}
			records = append(records, r)
		}
		f.Close()
	}
	for _, r := range records {
		if len(r.Cookies) != len(r.Listeners)+len(r.Conns) {
			return nil, fmt.Errorf("%w: %d sockets in the descriptor store, want %d", ErrProtocol, len(r.Cookies), len(r.Listeners)+len(r.Conns))
		}
		for i, l := range r.Listeners {
			if l.File = sockets[r.Cookies[i]]; l.File != nil {
				s.listeners = append(s.listeners, l)
			}
			delete(sockets, r.Cookies[i])
		}
		if len(r.Keys.List) > 0 {
			s.keys = r.Keys
		}
		for i, c := range r.Conns {
			cookie := r.Cookies[len(r.Listeners)+i]
			if f := sockets[cookie]; f != nil && c.State != nil { // else its client has reset it
				s.conns, s.files = append(s.conns, c), append(s.files, f)
			}
			delete(sockets, cookie)
		}
	}
	for _, f := range sockets { // nobody knows what was read of them
		f.Close()
	}
	return s, nil
}

// Give is the giver of what is stored. It leaves all in the store until the taker is
// ready. Its error says what the taker has not taken: that is closed.
func (s *Stored) Give(nc net.Conn) error {
	defer s.close()
	g, err := Accept(nc, stepTimeout)
	if err != nil {
		return err
	}
	addrs := make(map[string]int)
	for i, l := range s.listeners {
		if nl, err := net.FileListener(l.File); err == nil {
			addrs[addrName(nl.Addr())] = i
			nl.Close()
		}
	}
	offered, err := g.Offer(s.listeners, s.keys, 0)
	if err != nil {
		g.Close()
		return err
	}
	for _, name := range s.names {
		if err := notify(removal(name), nil); err != nil {
			g.Fail(err)
			return err
		}
	}
	if err := barrier(); err != nil {
		g.Fail(err)
		return err
	}
	lost := 0
	for n := 0; len(s.conns) > 0; s.conns, s.files = s.conns[n:], s.files[n:] {
		head := 0
		for n = 0; n < min(len(s.conns), storedBatch) && head <= storedBatchHead; n++ {
			head += len(s.conns[n].State.Head)
		}
		p := &packet{Type: "conns"}
		var sockets []any
		for i, c := range s.conns[:n] {
			if l, ok := addrs[c.Listener]; ok && offered[l].Conns {
				p.Conns = append(p.Conns, conn{l, c.State})
				sockets = append(sockets, s.files[i])
			}
		}
		taken := 0
		if len(p.Conns) > 0 {
			if taken, err = g.give(p, sockets); err != nil && !errors.Is(err, ErrNotAll) {
				g.Fail(err)
				return err
			}
		}
		lost += n - taken
		closeFiles(s.files[:n])
	}
	if err := g.Sole(func() error { return nil }); err != nil {
		g.Fail(err)
		return err
	}
	if err := g.End(); err != nil {
		return err
	}
	if lost > 0 {
		return fmt.Errorf("%w: %d from the descriptor store are closed", ErrNotAll, lost)
	}
	return nil
}

const (
	// storedBatch is how many connections are given at once. Each needs another two
	// descriptors for a moment, of which there may be few.
	storedBatch = 20

	// storedBatchHead is how much of their requests may have been read, but for the
	// last one.
	storedBatchHead = 32 << 10
)

func (s *Stored) close() {
	closeFiles(s.files)
	for _, l := range s.listeners {
		l.File.Close()
	}
}
