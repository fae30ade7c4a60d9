package proxy

import (
	"crypto/rand"
	"encoding/binary"
	"math"
)

// frameParser follows one direction of a WebSocket from frame to frame (RFC
// 6455 section 5.2). It reads only the header of a frame. It ignores the
// reserved bits, and what extensions do to the payload.
type frameParser struct {
	header     [10]byte // of the current frame, without the mask
	headerRead int      // bytes of the header so far
	left       uint64   // bytes of mask and payload to come, once the header is complete
	partial    bool     // in the middle of a message: its last frame had no FIN
	closed     bool     // a Close frame has passed
}

// A frame's first byte.
const (
	fin     = 0x80
	control = 0x08 // this bit of the opcode
	opClose = 0x08
)

// between reports whether the stream is between two messages. Control frames
// may come in the middle of a message.
func (f *frameParser) between() bool { return f.headerRead == 0 && !f.partial }

// advance parses up to the end of the current frame, or all of p. It returns
// how many bytes it parsed.
func (f *frameParser) advance(p []byte) (n int) {
	for ; f.headerRead < f.headerSize(); n++ {
		if n == len(p) {
			return n
		}
		f.header[f.headerRead] = p[n]
		f.headerRead++
		if f.headerRead == f.headerSize() {
			f.left = f.payloadSize()
		}
	}
	take := min(f.left, uint64(len(p)-n))
	f.left -= take
	n += int(take)
	if f.left > 0 {
		return n
	}
	switch opcode := f.header[0] & 0x0f; {
	case opcode == opClose:
		f.closed = true
	case opcode&control == 0:
		f.partial = f.header[0]&fin == 0
	}
	f.headerRead = 0
	return n
}

// headerSize returns the size of the header, without the mask, as far as it is
// known.
func (f *frameParser) headerSize() int {
	if f.headerRead < 2 {
		return 2
	}
	switch f.header[1] & 0x7f {
	case 126:
		return 4
	case 127:
		return 10
	}
	return 2
}

// payloadSize returns the size of mask and payload.
func (f *frameParser) payloadSize() uint64 {
	n := uint64(f.header[1] & 0x7f)
	switch n {
	case 126:
		n = uint64(binary.BigEndian.Uint16(f.header[2:]))
	case 127:
		n = binary.BigEndian.Uint64(f.header[2:])
	}
	if f.header[1]&0x80 != 0 && n <= math.MaxUint64-4 {
		n += 4
	}
	return n
}

const goingAway = 1001 // RFC 6455 section 7.4.1

// closeToClient is a Close frame (going away) of a server.
var closeToClient = []byte{fin | opClose, 2, goingAway >> 8, goingAway & 0xff}

// closeToServer returns a Close frame (going away) of a client, which is masked
// (RFC 6455 section 5.3).
func closeToServer() []byte {
	frame := []byte{fin | opClose, 0x80 | 2, 0, 0, 0, 0, goingAway >> 8, goingAway & 0xff}
	mask := frame[2:6]
	rand.Read(mask)
	frame[6] ^= mask[0]
	frame[7] ^= mask[1]
	return frame
}
