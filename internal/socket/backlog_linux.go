package socket

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// getSock is TCPDIAG_GETSOCK of linux/inet_diag.h: a request, and each answer to it.
const getSock = 18

// askDiag sends the older form of a request to sock_diag(7), for the sockets in the
// states. The caller closes the socket, which has the answer.
func askDiag(flags uint16, states uint32, family byte, addr netip.AddrPort) (fd int, err error) {
	const length = 16 + 60 // struct nlmsghdr, struct inet_diag_req
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return -1, err
	}
	req := make([]byte, length)
	binary.NativeEndian.PutUint32(req[0:], length)
	binary.NativeEndian.PutUint16(req[4:], getSock)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|flags)
	req[16] = family
	binary.BigEndian.PutUint16(req[20:], addr.Port()) // struct inet_diag_sockid
	copy(req[24:40], addr.Addr().AsSlice())
	binary.NativeEndian.PutUint32(req[60:], ^uint32(0)) // any socket of that address
	binary.NativeEndian.PutUint32(req[64:], ^uint32(0))
	binary.NativeEndian.PutUint32(req[68:], states)
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	if err == nil {
		err = unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Backlog returns how many connections wait to be accepted by the listener at a
// local address, and how many may. It asks by sock_diag(7).
func Backlog(addr netip.AddrPort) (waiting, most int, err error) {
	const (
		answer    = 4 + 48 + 4*3 // struct inet_diag_msg up to idiag_wqueue
		listening = 10           // TCP_LISTEN
	)
	family, ip := byte(unix.AF_INET), addr.Addr().Unmap()
	if ip.Is6() {
		family = unix.AF_INET6
	}
	fd, err := askDiag(0, 1<<listening, family, netip.AddrPortFrom(ip, addr.Port()))
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 4<<10)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return 0, 0, err
	}
	messages, err := syscall.ParseNetlinkMessage(buf[:n])
	if err != nil {
		return 0, 0, err
	}
	for _, m := range messages {
		if m.Header.Type == getSock && len(m.Data) >= answer && m.Data[1] == listening {
			return int(binary.NativeEndian.Uint32(m.Data[56:])), int(binary.NativeEndian.Uint32(m.Data[60:])), nil
		}
	}
	return 0, 0, errors.New("no listener")
}
