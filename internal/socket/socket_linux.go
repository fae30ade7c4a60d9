package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// noInterface is an index that no network interface has: the kernel counts them
// from 1.
const noInterface = 0x7ffffffe

var (
	errShared = errors.New("SO_REUSEPORT is set: others may listen on the port")
	errBound  = errors.New("bound to an interface already")
)

// Hide hides a listening TCP socket from new connections: the kernel finds no
// listener for their SYN and refuses them at once. Handshakes under way
// complete all the same, as the kernel finds them by themselves, and the accept
// queue is served as before.
//
// The socket is bound to an interface that does not exist (SO_BINDTOIFINDEX,
// Linux 5.0). That takes no privilege since Linux 5.7, and works for multipath
// TCP, too.
//
// A socket of a SO_REUSEPORT group is not hidden: newcomers that the kernel had
// assigned to it would be refused although another socket of the group listens.
//
// When Hide returns, Handshakes counts every handshake that may still end in the
// queue.
func Hide(l net.Listener) error {
	return control(l, func(fd int) error {
		if err := hideable(fd); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, noInterface); err != nil {
			return err
		}
		settle()
		return nil
	})
}

// settle waits until the kernel has listed the handshakes of those SYNs for which
// it had found the listener before newcomers were refused. That takes it some
// 10 µs; this waits for 200. (time.Sleep would take a millisecond, as that is the
// unit of epoll_wait.)
func settle() {
	unix.Nanosleep(&unix.Timespec{Nsec: 200_000}, nil)
}

func hideable(fd int) error {
	if on, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT); on != 0 {
		return errShared
	}
	if index, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX); err != nil {
		return err
	} else if index != 0 {
		return errBound
	}
	return nil
}

// DropSYN has a listening TCP socket drop the SYN of new connections, and no
// other segment: a classic BPF filter (SO_ATTACH_FILTER in socket(7)) that
// takes no privilege. A client sends its SYN again after a second, and is
// refused once the socket is closed. Multipath TCP sockets refuse the filter.
//
// Sockets that are accepted inherit the filter, which passes all but a SYN. As
// with Hide, Handshakes then counts every handshake that may end in the queue.
func DropSYN(l net.Listener) error {
	const (
		flags    = 13 // offset in the TCP header, where the kernel starts to look
		syn, ack = 0x02, 0x10
	)
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 18},
	}
	return control(l, func(fd int) error {
		if err := attachFilter(fd, prog); err != nil {
			return err
		}
		settle()
		return nil
	})
}

// DropData has the kernel drop the segments with data that a connection gets from now on,
// and acknowledge none of them. Those without data, which acknowledge or end, still arrive.
// A unix socket refuses what its peer writes, and Reads find the end behind what has
// arrived. Multipath TCP sockets refuse the filter.
func DropData(nc net.Conn) error {
	const offset = 12 // of the length of the TCP header, in its upper four bits, in units of 4 bytes
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: offset},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xf0},
		{Code: unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K, K: 2},
		{Code: unix.BPF_MISC | unix.BPF_TAX},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_X, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 18},
	}
	return control(nc, func(fd int) error {
		if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
			return err
		} else if domain == unix.AF_UNIX {
			return unix.Shutdown(fd, unix.SHUT_RD)
		}
		return attachFilter(fd, prog)
	})
}

func attachFilter(fd int, prog []unix.SockFilter) error {
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
}

// Refuses reports whether newcomers are refused at a listening socket, because of Hide or
// DropSYN, or because its path has gone: perhaps by another process that has it.
func Refuses(l net.Listener) (refuses bool) {
	if path := Path(l.Addr()); path != "" {
		_, err := os.Lstat(path)
		return errors.Is(err, fs.ErrNotExist)
	}
	control(l, func(fd int) error {
		index, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
		var filter uint32 // its length
		unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_GET_FILTER, 0, uintptr(unsafe.Pointer(&filter)), 0)
		refuses = index == noInterface || filter > 0
		return nil
	})
	return refuses
}

// CanRefuse returns why neither Hide nor DropSYN is going to work, or nil. It
// assumes that DropSYN works unless the socket is one of multipath TCP.
func CanRefuse(l net.Listener) error {
	return control(l, func(fd int) error {
		err := hideable(fd)
		if err == nil {
			err = knowsHide()
		}
		if err == nil {
			return nil
		}
		if proto, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); proto == unix.IPPROTO_MPTCP {
			return fmt.Errorf("multipath TCP, %w", err)
		}
		return nil
	})
}

// knowsHide tries Hide on a socket of its own.
func knowsHide() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, noInterface)
}

// Handshakes counts the handshakes under way at a local TCP port.
//
// It asks by sock_diag(7). Where AF_NETLINK is not allowed, as with systemd's
// RestrictAddressFamilies, it reads the lists under /proc.
func Handshakes(port int) (n int, err error) {
	if n, err = dumpHandshakes(port); err == nil {
		return n, nil
	}
	if n, perr := listHandshakes(port); perr == nil {
		return n, nil
	}
	return n, err
}

// listHandshakes is Handshakes by proc_net(5), whose files list every connection.
func listHandshakes(port int) (n int, err error) {
	found := make(map[ends]bool)
	for _, name := range []string{"tcp", "tcp6"} {
		// Not /proc/net, which systemd's ProcSubset=pid hides.
		b, err := os.ReadFile("/proc/self/net/" + name)
		if name == "tcp6" && errors.Is(err, fs.ErrNotExist) {
			continue // the kernel has no IPv6
		}
		if err != nil {
			return 0, err
		}
		findHandshakes(string(b), port, found)
	}
	return len(found), nil
}

// ends are the local and the remote address of a connection.
type ends [2]string

// findHandshakes looks for handshakes in a file of proc_net(5). One may be there twice:
// other connections come and go while the file is read.
func findHandshakes(file string, port int, found map[ends]bool) {
	const synReceived = "03" // TCP_SYN_RECV and TCP_NEW_SYN_RECV
	suffix := fmt.Sprintf(":%04X", port)
	for line := range strings.Lines(file) {
		f := strings.Fields(line) // number, local and remote address, state
		if len(f) > 3 && strings.HasSuffix(f[1], suffix) && f[3] == synReceived {
			found[ends(f[1:3])] = true
		}
	}
}

// dumpHandshakes is Handshakes by sock_diag, in one walk through the kernel's table for
// IPv4 and IPv6, which takes a millisecond or two.
func dumpHandshakes(port int) (n int, err error) {
	const states = 1<<3 | 1<<12 // TCP_SYN_RECV, TCP_NEW_SYN_RECV
	fd, err := askDiag(unix.NLM_F_DUMP, states, unix.AF_UNSPEC, netip.AddrPortFrom(netip.Addr{}, uint16(port)))
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 32<<10)
	for {
		m, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		} else if err != nil {
			return n, err
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:m])
		if err != nil {
			return n, err
		}
		for _, msg := range messages {
			switch msg.Header.Type {
			case unix.NLMSG_DONE:
				return n, nil
			case unix.NLMSG_ERROR:
				return n, errors.New("sock_diag refused")
			case getSock:
				n++
			}
		}
	}
}

// TCPInfo asks the kernel; ok is false if nc is not a TCP connection. Of multipath
// TCP the kernel tells about the first path only, whose counts are not the
// connection's, and of a wrapped one about what is below the wrapper.
func TCPInfo(nc net.Conn) (_ Info, ok bool) {
	if i, ok := nc.(Informer); ok {
		return i.TCPInfo(), true
	}
	var info *unix.TCPInfo
	var uncounted bool
	var unacked, outgoing int64
	err := control(nc, func(fd int) error {
		protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err != nil {
			return err
		}
		if info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err != nil {
			return err
		}
		unacked = int64(info.Unacked) + int64(info.Notsent_bytes) // segments, and bytes
		if uncounted = protocol == unix.IPPROTO_MPTCP || !ReadsAsReceived(nc); uncounted {
			var n int
			n, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
			outgoing = int64(n)
			if protocol == unix.IPPROTO_MPTCP { // else it has what a reset has deleted, too
				unacked = outgoing
			}
		}
		return err
	})
	if err != nil {
		return Info{}, false
	}
	received := int64(info.Bytes_received)
	if info.State == unix.BPF_TCP_CLOSE_WAIT || info.State == unix.BPF_TCP_CLOSE {
		received-- // the kernel counts a FIN; one precedes a reset, as a rule
	}
	return Info{
		RTT:           time.Duration(info.Rtt) * time.Microsecond,
		RTO:           time.Duration(info.Rto) * time.Microsecond,
		Retransmitted: int(info.Total_retrans),
		Unacked:       unacked > 0,
		Outgoing:      outgoing,
		Counted:       !uncounted,
		Acked:         int64(info.Bytes_acked),
		Received:      received,
	}, true
}

// SendQueue returns how many bytes the kernel buffers because the peer has not
// acknowledged them: SIOCOUTQ, see tcp(7). A unix socket counts in buffers, and frees
// each when all of it was read.
func SendQueue(nc net.Conn) (n int64, ok bool) {
	err := control(nc, func(fd int) error {
		queued, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		n = int64(queued)
		return err
	})
	return n, err == nil
}

func queued(nc net.Conn) (n int64) {
	control(nc, func(fd int) error {
		m, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		n = int64(m)
		return err
	})
	return n
}
