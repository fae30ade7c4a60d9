package line

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// pump carries packets both ways on one thread. The thread sleeps in the kernel,
// not in Go's scheduler, and has priority, so that packets are on time also when
// the cores are saturated.
type pump struct {
	ends  [2]int   // devices, non-blocking
	pipes [2]*pipe // pipes[i] is from ends[i] to the other
	stop  int      // an eventfd
}

func newPump(client, server int, toServer, toClient *pipe) (*pump, error) {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	return &pump{[2]int{client, server}, [2]*pipe{toServer, toClient}, stop}, nil
}

// run carries packets until end. It needs a thread of its own.
func (p *pump) run() {
	// Without permission for this the line is sometimes late.
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{
		Size:     unix.SizeofSchedAttr,
		Policy:   unix.SCHED_RR,
		Flags:    unix.SCHED_FLAG_RESET_ON_FORK,
		Priority: 1,
	}, 0)
	fds := []unix.PollFd{
		{Fd: int32(p.ends[0]), Events: unix.POLLIN},
		{Fd: int32(p.ends[1]), Events: unix.POLLIN},
		{Fd: int32(p.stop), Events: unix.POLLIN},
	}
	for {
		if _, err := unix.Ppoll(fds, p.sleep(), nil); err != nil {
			if err != unix.EINTR {
				return
			}
			fds[0].Revents, fds[1].Revents, fds[2].Revents = 0, 0, 0
		}
		if fds[2].Revents != 0 {
			return
		}
		for i, pipe := range p.pipes {
			if fds[i].Revents != 0 && !pipe.take(p.ends[i]) {
				fds[i].Fd = -1 // the device is of no use any more
			}
			pipe.give(p.ends[1-i])
		}
	}
}

// sleep is until the first packet is due; nil without end.
func (p *pump) sleep() *unix.Timespec {
	var first time.Time
	for _, pipe := range p.pipes {
		if due := pipe.due(); !due.IsZero() && (first.IsZero() || due.Before(first)) {
			first = due
		}
	}
	if first.IsZero() {
		return nil
	}
	ts := unix.NsecToTimespec(max(0, int64(time.Until(first))))
	return &ts
}

// end makes run return.
func (p *pump) end() error {
	_, err := unix.Write(p.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return err
}

// take queues what the device has; false if it is gone.
func (p *pipe) take(fd int) bool {
	// Bounded, so that what is due is given while others keep coming.
	for range 64 {
		buf := p.buffer()
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
			p.free(buf)
			continue
		case err != nil:
			p.free(buf)
			return err == unix.EAGAIN
		case n > 0 && buf[0]>>4 == 4:
			p.push(buf[:n], time.Now())
		default:
			p.free(buf) // the kernel's own IPv6 router messages are no traffic
		}
	}
	return true
}

// give writes what is due to the device.
func (p *pipe) give(fd int) {
	for {
		b := p.pop(time.Now())
		if b == nil {
			return
		}
		_, err := unix.Write(fd, b)
		for err == unix.EINTR {
			_, err = unix.Write(fd, b)
		}
		p.wrote(b, err)
	}
}
