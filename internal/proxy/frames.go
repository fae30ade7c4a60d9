package proxy

import (
	"crypto/rand"
	"encoding/binary"
	"math"
)

// frames follows one direction of a WebSocket from frame to frame (RFC 6455
// section 5.2). Of a frame it reads no more than the header; what extensions
// make of the rest, and of the header's reserved bits, does not matter to it.
type frames struct {
	head    [10]byte // the current frame's, without the mask
	got     int      // bytes of it
	left    uint64   // mask and payload yet to come, once the header is there
	partial bool     // in the middle of a message: a frame of it without FIN was the last
	closed  bool     // a Close frame has passed
}

// A frame's first byte.
const (
	fin     = 0x80
	control = 0x08 // this bit of the opcode
	opClose = 0x08
)

// between reports whether the stream is between two messages. Control frames
// may come in the middle of one.
func (f *frames) between() bool { return f.got == 0 && !f.partial }

// next goes on to the end of the current frame, or to the end of p, and
// returns how far it got.
func (f *frames) next(p []byte) (n int) {
	for ; f.got < f.size(); n++ {
		if n == len(p) {
			return n
		}
		f.head[f.got] = p[n]
		f.got++
		if f.got == f.size() {
			f.left = f.rest()
		}
	}
	take := min(f.left, uint64(len(p)-n))
	f.left -= take
	n += int(take)
	if f.left > 0 {
		return n
	}
	switch opcode := f.head[0] & 0x0f; {
	case opcode == opClose:
		f.closed = true
	case opcode&control == 0:
		f.partial = f.head[0]&fin == 0
	}
	f.got = 0
	return n
}

// size is that of the header as far as it is known, without the mask.
func (f *frames) size() int {
	if f.got < 2 {
		return 2
	}
	switch f.head[1] & 0x7f {
	case 126:
		return 4
	case 127:
		return 10
	}
	return 2
}

// rest is the size of the mask and the payload.
func (f *frames) rest() uint64 {
	n := uint64(f.head[1] & 0x7f)
	switch n {
	case 126:
		n = uint64(binary.BigEndian.Uint16(f.head[2:]))
	case 127:
		n = binary.BigEndian.Uint64(f.head[2:])
	}
	if f.head[1]&0x80 != 0 && n <= math.MaxUint64-4 {
		n += 4
	}
	return n
}

const goingAway = 1001 // RFC 6455 section 7.4.1

// closeToClient is a Close frame, going away, as a server sends it.
var closeToClient = []byte{fin | opClose, 2, goingAway >> 8, goingAway & 0xff}

// closeToServer is one as a client sends it: masked (RFC 6455 section 5.3).
func closeToServer() []byte {
	frame := []byte{fin | opClose, 0x80 | 2, 0, 0, 0, 0, goingAway >> 8, goingAway & 0xff}
	mask := frame[2:6]
	rand.Read(mask)
	frame[6] ^= mask[0]
	frame[7] ^= mask[1]
	return frame
}
