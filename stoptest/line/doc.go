// Package line is a long line between a server and its clients on one machine: two
// network namespaces, joined by TUN devices, and a goroutine between them that
// delays and drops packets. On loopback every server looks better than it is,
// because no packet is ever on its way.
//
// It needs Linux and root, but neither netem nor the ip program. Only open
// descriptors hold the namespaces and devices, so they end with the process.
//
//	ln, err := line.New(line.Config{Delay: 50 * time.Millisecond})
//	if errors.Is(err, line.ErrUnsupported) {
//		t.Skip(err)
//	}
//	defer ln.Close()
//	err = ln.Server(cmd.Start) // the program now runs at the far end
//	conn, err := ln.Dial(ctx, 8080)
//
// # Threads
//
// A namespace belongs to a thread, so [Line.Server] and [Line.Client] run
// their function on a thread that is inside, and sockets and processes that
// the function makes are inside for good. Goroutines that it starts are not.
// The socket of a [net.Dialer] or a [net.ListenConfig] is made by the
// goroutine that calls it, where an IP address is dialled and not a name.
//
// The threads live until [Line.Close], and so may a child process be asked to
// die with its parent: Linux's parent death signal (Pdeathsig) comes when the
// thread ends that started the child, and that is then Close, or the end of
// the process.
package line
