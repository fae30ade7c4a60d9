package slowpeer

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestBudget(t *testing.T) {
	const s = time.Second
	tests := []struct {
		name         string
		left, waited time.Duration
		moved        int64
		want         time.Duration
	}{
		{"nothing", 10 * s, 0, 0, 10 * s},
		{"a wait", 10 * s, 4 * s, 0, 6 * s},
		{"the last of it", 4 * s, 4 * s, 0, 0},
		{"overdrawn", 1 * s, 4 * s, 0, -3 * s},
		{"at the least rate", 5 * s, 2 * s, 2 * MinRate, 5 * s},
		{"faster", 5 * s, 2 * s, 4 * MinRate, 7 * s},
		{"never more than full", 10 * s, 1 * s, 9 * MinRate, 10 * s},
		{"enough to fill it", 0, 60 * s, 10 * MinRate, 10 * s},
		{"no overflow", 0, 60 * s, 1 << 62, 10 * s},
		{"saved by less than full", 0, 1 * s, 2 * MinRate, 1 * s},
	}
	for _, tt := range tests {
		a := budget{limit: 10 * s, rate: MinRate, left: tt.left}
		a.settle(tt.waited, tt.moved)
		if a.left != tt.want {
			t.Errorf("%s: settle(%v, %d) leaves %v, want %v", tt.name, tt.waited, tt.moved, a.left, tt.want)
		}
	}
}

// readsAhead is a connection on a system whose sendfile refuses: net copies
// instead, and a timeout finds it with bytes read but not written.
type readsAhead struct {
	net.Conn
	got []byte
}

func (c *readsAhead) SetWriteDeadline(time.Time) error { return nil }

func (c *readsAhead) ReadFrom(r io.Reader) (int64, error) {
	b := make([]byte, 1000)
	n, err := io.ReadFull(r, b)
	if err != nil { // the end
		c.got = append(c.got, b[:n]...)
		return int64(n), nil
	}
	c.got = append(c.got, b[:300]...)
	return 300, os.ErrDeadlineExceeded
}

func TestReadFromGoesBack(t *testing.T) {
	want := pattern(2500)
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, want, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int64{0, 2200} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		inner := &readsAhead{}
		c := newConn(inner, budget{}, budget{limit: time.Minute, rate: MinRate})
		var src io.Reader = f
		size := int64(len(want))
		if limit > 0 {
			src, size = io.LimitReader(f, limit), limit
		}
		n, err := c.ReadFrom(src)
		if n != size || err != nil {
			t.Errorf("ReadFrom = %d, %v, want %d", n, err, size)
		}
		if string(inner.got) != string(want[:size]) {
			t.Errorf("sent %d bytes that are not the file's first %d", len(inner.got), size)
		}
	}
}

// TestForwarding looks through the wrappers for what the socket can do.
func TestForwarding(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listener(inner, Config{})
	defer l.Close()
	if err := l.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now()); err != nil {
		t.Errorf("SetDeadline = %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Accept after the deadline = %v", err)
	}
	l.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Time{})
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, x := range []any{l, nc} {
		rc, err := x.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Errorf("%T.SyscallConn: %v", x, err)
			continue
		}
		if err := rc.Control(func(uintptr) {}); err != nil {
			t.Errorf("%T: Control: %v", x, err)
		}
	}
	if err := nc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Errorf("CloseWrite = %v", err)
	}
	if n, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read after CloseWrite = %d, %v, want EOF", n, err)
	}

	pipe, _ := net.Pipe()
	bare := newConn(pipe, budget{}, budget{})
	if err := bare.CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("CloseWrite of a pipe = %v", err)
	}
	if _, err := bare.SyscallConn(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("SyscallConn of a pipe = %v", err)
	}
}
