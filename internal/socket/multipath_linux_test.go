package socket

import (
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// connect returns both ends of a connection, of multipath TCP if the client asks for it
// and the system has it.
func connect(t *testing.T, l *net.TCPListener, multipath bool) (client, server *net.TCPConn) {
	t.Helper()
	var d net.Dialer
	d.SetMultipathTCP(multipath)
	nc, err := d.DialContext(context.Background(), "tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if server, err = l.AcceptTCP(); err != nil {
		nc.Close()
		t.Fatal(err)
	}
	return nc.(*net.TCPConn), server
}

// The kernel's counts are those of one path: they are not used where there may
// be several.
func TestTCPInfo(t *testing.T) {
	for _, multipath := range []bool{false, true} {
		client, server := connect(t, listen(t, "tcp4", true), multipath)
		defer client.Close()
		defer server.Close()
		used, err := server.MultipathTCP()
		if err != nil {
			t.Fatal(err)
		}
		if multipath && !used {
			t.Log("this system has no multipath TCP")
			continue
		}
		info, ok := TCPInfo(server)
		if !ok || info.Counted != !used || info.RTO == 0 || info.Unacked {
			t.Errorf("multipath %v: TCPInfo() = %+v, %v", used, info, ok)
		}
		if n := Unread(server, 0); n != 0 {
			t.Errorf("multipath %v: Unread() = %d, want 0", used, n)
		}
		client.Write([]byte("hello"))
		for deadline := time.Now().Add(30 * time.Second); Unread(server, 0) != 5; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("multipath %v: Unread() = %d after 30 s, want 5", used, Unread(server, 0))
			}
		}
		// A client that reads nothing leaves bytes without acknowledgement, sooner or later.
		written := make(chan error, 1)
		go func() {
			_, err := server.Write(make([]byte, 256<<20)) // more than buffers hold
			written <- err
		}()
		for deadline := time.Now().Add(30 * time.Second); !Unacked(server); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("multipath %v: Unacked() = false for 30 s with a full buffer", used)
			}
		}
		server.Close()
		if err := <-written; err == nil {
			t.Errorf("multipath %v: all was written to a client that does not read", used)
		}
	}
}

// A FIN is no byte to be read, also when a reset has followed it.
func TestUnreadAfterReset(t *testing.T) {
	client, server := connect(t, listen(t, "tcp4", false), false)
	defer server.Close()
	client.Close()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := server.Write([]byte("x")); err != nil {
			break // it was answered by a reset
		}
		if time.Now().After(deadline) {
			t.Fatal("no reset within 30 s")
		}
	}
	if n := Unread(server, 0); n != 0 {
		t.Errorf("Unread() = %d, want 0", n)
	}
}

// What the client has acknowledged stays so when both have closed: the kernel then
// takes the only path off the connection.
func TestUnackedAtEnd(t *testing.T) {
	for _, multipath := range []bool{false, true} {
		l := listen(t, "tcp4", true)
		for range 20 { // for whether the path is gone when we look is chance
			client, server := connect(t, l, multipath)
			for _, c := range []*net.TCPConn{client, server} {
				c.SetDeadline(time.Now().Add(30 * time.Second))
				if _, err := c.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := io.ReadFull(client, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			client.CloseWrite()
			if _, err := io.ReadAll(server); err != nil {
				t.Fatal(err)
			}
			server.CloseWrite()
			if _, err := io.ReadAll(client); err != nil {
				t.Fatal(err)
			}
			client.Close()
			for deadline := time.Now().Add(2 * time.Second); Unacked(server); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("multipath %v: Unacked() = true for 2 s after the client has read all and closed", multipath)
				}
			}
			server.Close()
		}
	}
}
