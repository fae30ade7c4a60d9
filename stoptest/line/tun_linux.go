package line

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	device = "line0"
	mtu    = 1500
	// txQueue is how many packets the kernel keeps for the reader of a
	// device; with the usual 500, a burst is cut.
	txQueue = 16384
)

// newTUN makes a device in the thread's namespace, and brings it up. It goes
// when its descriptor, which is non-blocking, is closed.
func newTUN(local, peer netip.Addr) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	err = request(device, func(r *unix.Ifreq) error {
		r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	})
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("make a TUN device: %w", err)
	}
	if err := deviceUp(local, peer); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func deviceUp(local, peer netip.Addr) error {
	mask := netip.AddrFrom4([4]byte{255, 255, 255, 252})
	return withSocket(func(fd int) error {
		for _, set := range []struct {
			what  string
			ioctl uint
			fill  func(*unix.Ifreq) error
		}{
			{"address", unix.SIOCSIFADDR, inet4(local)},
			{"peer", unix.SIOCSIFDSTADDR, inet4(peer)},
			{"netmask", unix.SIOCSIFNETMASK, inet4(mask)},
			{"MTU", unix.SIOCSIFMTU, number(mtu)},
			{"queue", unix.SIOCSIFTXQLEN, number(txQueue)},
			{"flags", unix.SIOCSIFFLAGS, up},
		} {
			err := request(device, func(r *unix.Ifreq) error {
				if err := set.fill(r); err != nil {
					return err
				}
				return unix.IoctlIfreq(fd, set.ioctl, r)
			})
			if err != nil {
				return fmt.Errorf("set the device's %s: %w", set.what, err)
			}
		}
		return nil
	})
}

func loopbackUp() error {
	return withSocket(func(fd int) error {
		err := request("lo", func(r *unix.Ifreq) error {
			_ = up(r)
			return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
		})
		if err != nil {
			return fmt.Errorf("bring loopback up: %w", err)
		}
		return nil
	})
}

func up(r *unix.Ifreq) error {
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return nil
}

func request(device string, f func(*unix.Ifreq) error) error {
	r, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	return f(r)
}

func inet4(a netip.Addr) func(*unix.Ifreq) error {
	return func(r *unix.Ifreq) error {
		b := a.As4()
		return r.SetInet4Addr(b[:])
	}
}

func number(n uint32) func(*unix.Ifreq) error {
	return func(r *unix.Ifreq) error {
		r.SetUint32(n)
		return nil
	}
}

// withSocket gives f a socket to configure devices with.
func withSocket(f func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	return f(fd)
}
