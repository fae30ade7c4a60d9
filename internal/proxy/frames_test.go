package proxy

import (
	"bytes"
	"encoding/binary"
	"math"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// frame is a frame as RFC 6455 section 5.2 draws it.
func frame(first byte, masked bool, payload string) string {
	b := []byte{first, 0}
	switch n := len(payload); {
	case n < 126:
		b[1] = byte(n)
	case n <= math.MaxUint16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if masked {
		b[1] |= 0x80
		b = append(b, "mask"...)
	}
	return string(b) + payload
}

// messageEnds is where messages, and control frames between two, end in a
// whole stream, and where the first Close frame does; -1: nowhere.
func messageEnds(s []byte) (ends []int, closed int) {
	closed = -1
	partial := false
	for at := 0; ; {
		head := s[at:]
		if len(head) < 2 {
			return ends, closed
		}
		size, n := 2, uint64(head[1]%128)
		if n == 126 {
			if size = 4; len(head) < size {
				return ends, closed
			}
			n = uint64(head[2])<<8 + uint64(head[3])
		} else if n == 127 {
			if size = 10; len(head) < size {
				return ends, closed
			}
			n = 0
			for _, b := range head[2:10] {
				n = n<<8 + uint64(b)
			}
		}
		if head[1] >= 128 {
			size += 4
		}
		if len(head) < size || uint64(len(head)-size) < n {
			return ends, closed
		}
		at += size + int(n)
		opcode := head[0] % 16
		if opcode < 8 {
			partial = head[0] < 128
		}
		if opcode == 8 && closed < 0 {
			closed = at
		}
		if !partial {
			ends = append(ends, at)
		}
	}
}

// pieces cuts s into pieces of the sizes given, over and over.
func pieces(s, sizes []byte) (list [][]byte) {
	for i := 0; len(s) > 0; i++ {
		n := len(s)
		if len(sizes) > 0 {
			n = min(n, int(sizes[i%len(sizes)])+1)
		}
		list = append(list, s[:n])
		s = s[n:]
	}
	return list
}

// sink is a connection that remembers what is written.
type sink struct {
	net.Conn
	got bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) { return s.got.Write(p) }

// FuzzFrames has a stream come in pieces, and the turn to end it before one of
// them.
func FuzzFrames(f *testing.F) {
	for _, s := range []string{
		"",
		frame(0x81, false, "hello") + frame(0x82, false, ""),
		frame(0xc1, true, strings.Repeat("x", 126)) + frame(0x89, false, "ping") + "\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x05hello",
		frame(0x01, false, "frag") + frame(0x89, false, "ping") + frame(0x00, false, "") + frame(0x80, false, "ment") + frame(0x81, false, "next"),
		frame(0x81, false, "bye") + frame(0x88, false, "\x03\xe8") + frame(0x81, false, "after"),
		frame(0x02, false, "half") + frame(0x88, true, ""),
		"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff", // as long as can be
	} {
		f.Add([]byte(s), []byte{0}, uint(0))
		f.Add([]byte(s), []byte{0, 2, 5}, uint(3))
		f.Add([]byte(s), []byte{}, uint(1))
	}
	f.Fuzz(func(t *testing.T, stream, sizes []byte, turn uint) {
		wantEnds, wantClosed := messageEnds(stream)
		var fs frameParser
		var ends []int
		at, closedAt := 0, -1
		for _, p := range pieces(stream, sizes) {
			for len(p) > 0 {
				n := fs.advance(p)
				if n == 0 {
					t.Fatalf("next stays at %d", at)
				}
				at, p = at+n, p[n:]
				if fs.between() {
					ends = append(ends, at)
				}
				if fs.closed && closedAt < 0 {
					closedAt = at
				}
			}
		}
		if diff := cmp.Diff(wantEnds, ends); diff != "" || closedAt != wantClosed {
			t.Errorf("%.80q in pieces of %d: ends (-want +got), Close at %d, want %d:\n%s", stream, sizes, closedAt, wantClosed, diff)
		}

		list := pieces(stream, sizes)
		before := int(turn % uint(len(list)+1))
		var to sink
		c := newWebSocket(t.Context(), &to, &to)
		from := 0 // what was passed on at the turn
		for i, p := range append(list, nil) {
			if i == before {
				from = len(bytes.Join(list[:i], nil))
				c.closeDue = true
				if c.closeNowLocked() {
					c.sendCloseLocked()
				}
			}
			if n, err := c.Write(p); n != len(p) || err != nil {
				t.Fatalf("Write = %d, %v, want %d", n, err, len(p))
			}
		}
		want := stream
		for _, end := range append([]int{0}, wantEnds...) {
			if end >= from {
				if wantClosed < 0 || end < wantClosed {
					want = append(stream[:end:end], closeToClient...)
				}
				break
			}
		}
		if got := to.got.Bytes(); !bytes.Equal(got, want) {
			t.Errorf("%.80q in pieces of %d, turn at %d: the client got %d bytes, want %d: %.80q", stream, sizes, from, len(got), len(want), got)
		}
	})
}

// TestCloseToServer unmasks it.
func TestCloseToServer(t *testing.T) {
	f := closeToServer()
	if len(f) != 8 || f[0] != 0x88 || f[1] != 0x82 {
		t.Fatalf("header % x, want a masked Close of 2 bytes", f)
	}
	if code := int(f[6]^f[2])<<8 | int(f[7]^f[3]); code != 1001 {
		t.Errorf("status %d, want 1001", code)
	}
}
