package socket

import (
	"encoding/binary"
	"fmt"
	"net"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RefuseSYN makes the listening socket drop the first packet of a connection,
// and no other: the SYN of somebody new, who will send it again a second later
// and be refused once the socket is closed. The ACK that completes a
// handshake passes.
//
// Sockets that are accepted inherit the filter, to which it makes no
// difference. It needs no privilege; see socket(7), SO_ATTACH_FILTER.
func RefuseSYN(l net.Listener) error {
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
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
	})
}

// Dropped counts the packets that the socket has dropped: where RefuseSYN is
// in force, the SYNs of newcomers. (Rarely also the end of a handshake that
// finds the queue full; it comes again.)
func Dropped(l net.Listener) (n uint32) {
	const drops = 8 // SK_MEMINFO_DROPS in linux/sock_diag.h
	var info [drops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	control(l, func(fd int) error {
		unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		return nil
	})
	return info[drops]
}

// Handshakes counts the handshakes under way at a local TCP port, by
// sock_diag(7). (/proc/net/tcp has them too, but lists every connection.)
func Handshakes(port int) (n int, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return 0, err
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		m, err := synReceived(fd, family, port)
		if err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

// synReceived asks for one address family.
func synReceived(fd int, family byte, port int) (n int, err error) {
	const (
		sockDiagByFamily = 20           // linux/sock_diag.h
		length           = 16 + 56      // struct nlmsghdr, struct inet_diag_req_v2
		states           = 1<<3 | 1<<12 // TCP_SYN_RECV, TCP_NEW_SYN_RECV
		flags            = unix.NLM_F_REQUEST | unix.NLM_F_DUMP
	)
	req := make([]byte, length)
	binary.NativeEndian.PutUint32(req[0:], length)
	binary.NativeEndian.PutUint16(req[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(req[6:], flags)
	req[16], req[17] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[20:], states)
	binary.BigEndian.PutUint16(req[24:], uint16(port))
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
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
				return n, fmt.Errorf("sock_diag refused")
			case sockDiagByFamily:
				n++
			}
		}
	}
}

// Info is what the kernel knows of a connection.
type Info struct {
	RTT, RTO            time.Duration // round trip and retransmission timeout now
	Unacked             bool          // whether something sent has not been acknowledged
	Acked, Received     int64         // bytes sent and acknowledged; bytes arrived
	Sent, Retransmitted uint64        // segments
}

// TCPInfo asks the kernel, by TCP_INFO; ok is false if it is not a TCP socket.
func TCPInfo(nc net.Conn) (_ Info, ok bool) {
	var info *unix.TCPInfo
	err := control(nc, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	if err != nil {
		return Info{}, false
	}
	received := int64(info.Bytes_received)
	if info.State == unix.BPF_TCP_CLOSE_WAIT {
		received-- // a FIN counts
	}
	return Info{
		RTT:           time.Duration(info.Rtt) * time.Microsecond,
		RTO:           time.Duration(info.Rto) * time.Microsecond,
		Unacked:       info.Unacked > 0 || info.Notsent_bytes > 0,
		Acked:         int64(info.Bytes_acked),
		Received:      received,
		Sent:          uint64(info.Segs_out),
		Retransmitted: uint64(info.Total_retrans),
	}, true
}

// Unread is how many bytes have come that were not read yet.
func Unread(nc net.Conn) (n int64) {
	control(nc, func(fd int) error {
		m, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		n = int64(m)
		return err
	})
	return n
}
