package drain

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	http2Preface        = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	http2PrefaceTimeout = 10 * time.Second // net/http's

	frameHeaderSize   = 9
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePushPromise  = 5
	framePing         = 6
	frameGoAway       = 7
	frameContinuation = 9
	flagEndStream     = 1
	flagEndHeaders    = 4
	pingSize          = 8
	internalError     = 2
	maxStream         = 1<<31 - 1
)

// frameConn is an HTTP/2 connection as net/http gets it, above TLS. It follows the
// frames that net/http reads and writes, and writes GOAWAY between two of them.
type frameConn struct {
	net.Conn // a *tls.Conn, or what Accept has returned
	conn     *conn

	ping     atomic.Uint64 // the payload of the PING behind GOAWAY; 0: it was not sent
	pingedAt atomic.Int64  // how many bytes of the connection precede it; 0: it was not sent, or is answered

	read frames // by net/http

	mu      sync.Mutex // held while writing
	written frames     // by net/http
	due     bool       // GOAWAY is to be written
}

// tlsFrameConn is a frameConn over TLS: net/http takes Request.TLS from
// ConnectionState, and checks that the version and cipher suite are good enough.
type tlsFrameConn struct {
	*frameConn
	connectionStater
}

// disguised is how net/http hands an HTTP/2 connection without TLS to the entry
// protoUnencrypted of its table: in a *tls.Conn around this.
type disguised struct {
	net.Conn
	inner net.Conn
}

func (d disguised) UnencryptedNetConn() net.Conn { return d.inner }

// disguise returns the connection as protoUnencrypted wants it.
func (fc *frameConn) disguise() *tls.Conn {
	d := disguised{fc.Conn, fc}
	if stater, ok := fc.Conn.(connectionStater); ok {
		d.inner = tlsFrameConn{fc, stater}
	}
	return tls.Client(d, nil)
}

// Read follows what the client sends, and looks for the answer to the PING. net/http reads
// the payload of a frame by itself, so this costs no more than a comparison. If the payload
// comes in pieces, the answer is not seen, and the second GOAWAY is sent by its time.
func (fc *frameConn) Read(p []byte) (int, error) {
	n, err := fc.Conn.Read(p)
	if events := fc.read.follow(p[:n], fromClient); len(events) > 0 && fc.conn != nil {
		fc.conn.onFramesRead(events)
	}
	if n == pingSize && len(p) == pingSize {
		if ping := fc.ping.Load(); ping != 0 && ping == binary.BigEndian.Uint64(p) {
			fc.pingedAt.Store(0)
			fc.conn.onGoAwayAnswered()
		}
	}
	return n, err
}

func (fc *frameConn) Write(p []byte) (n int, err error) {
	fc.mu.Lock()
	defer fc.mu.Unlock()
	n, err = fc.Conn.Write(p)
	if events := fc.written.follow(p[:n], fromServer); len(events) > 0 && fc.conn != nil {
		fc.conn.onFramesWritten(events)
	}
	fc.writeDueLocked()
	return n, err
}

// writeGoAway writes the first GOAWAY, and a PING, as soon as net/http is between
// two frames.
func (fc *frameConn) writeGoAway() {
	fc.mu.Lock()
	defer fc.mu.Unlock()
	fc.due = true
	fc.writeDueLocked()
}

func (fc *frameConn) writeDueLocked() {
	if !fc.due || !fc.written.between() {
		return
	}
	fc.due = false
	if fc.written.goneAway { // the last stream of a second one must not be a later one (RFC 9113 section 6.8)
		return
	}
	ping := max(1, rand.Uint64())
	fc.ping.Store(ping)
	if fc.conn != nil {
		fc.pingedAt.Store(fc.conn.batch.Load().end())
	}
	b := []byte{0, 0, 8, frameGoAway, 0, 0, 0, 0, 0}
	b = binary.BigEndian.AppendUint32(b, maxStream)
	b = append(b, 0, 0, 0, 0)                        // NO_ERROR
	b = append(b, 0, 0, 8, framePing, 0, 0, 0, 0, 0) // the length, the type, flags, the stream
	b = binary.BigEndian.AppendUint64(b, ping)
	fc.Conn.Write(b) // after an error the next Write of net/http fails, too
}

// frames follows what one side sends, to find where frames end, and what they do.
type frames struct {
	begun      bool // the first, SETTINGS, has come
	header     [frameHeaderSize]byte
	headerRead int
	left       int  // of the payload
	unfinished bool // a CONTINUATION must follow
	goneAway   bool // GOAWAY has come

	current   event  // that of the latest frame, which is not here to its end; or none
	value     uint64 // the beginning of its payload
	valueLeft int    // how many bytes of that are to come
	events    []event
}

// event is what a frame does, or a header in several.
type event struct {
	kind   eventKind
	stream uint32 // goesAway: the last that is served
	code   uint32 // goesAway, resets: why
}

type eventKind int

const (
	none     eventKind = iota
	opens              // a stream, or it is the trailer of one; as soon as the frame begins
	ends               // a stream
	resets             // a stream
	goesAway           // the connection
)

// A side is who sends frames. Of the client the streams that it opens and resets matter,
// of the server those that it ends and resets, and which are the last.
type side int

const (
	fromClient side = iota
	fromServer
)

// follow returns the events, until it is called again.
func (f *frames) follow(p []byte, from side) []event {
	f.events = f.events[:0]
	for len(p) > 0 {
		if f.left == 0 {
			n := copy(f.header[f.headerRead:], p)
			p = p[n:]
			if f.headerRead += n; f.headerRead < frameHeaderSize {
				break
			}
			f.begin(from)
		}
		n := min(f.left, len(p))
		f.left -= n
		for _, b := range p[:min(n, f.valueLeft)] {
			f.value = f.value<<8 | uint64(b)
			f.valueLeft--
		}
		p = p[n:]
		if f.left == 0 && f.current.kind != none && !f.unfinished {
			f.end()
		}
	}
	return f.events
}

// begin notes a frame of which the header is here.
func (f *frames) begin(from side) {
	f.begun, f.headerRead = true, 0
	f.left = int(f.header[0])<<16 | int(f.header[1])<<8 | int(f.header[2])
	kind, flags := f.header[3], f.header[4]
	stream := binary.BigEndian.Uint32(f.header[5:]) & maxStream
	switch kind {
	case frameHeaders, framePushPromise, frameContinuation:
		f.unfinished = flags&flagEndHeaders == 0
	}
	switch {
	case kind == frameGoAway:
		f.goneAway = true
		if from == fromServer {
			f.current, f.valueLeft = event{kind: goesAway}, 8
		}
	case kind == frameReset:
		f.current, f.valueLeft = event{kind: resets, stream: stream}, 4
	case kind == frameHeaders && from == fromClient:
		f.events = append(f.events, event{kind: opens, stream: stream})
	case (kind == frameHeaders || kind == frameData) && from == fromServer && flags&flagEndStream != 0:
		f.current = event{kind: ends, stream: stream}
	}
}

// end notes the end of what has an event.
func (f *frames) end() {
	if f.current.kind == goesAway {
		f.current.stream = uint32(f.value>>32) & maxStream
	}
	f.current.code = uint32(f.value)
	f.events, f.current, f.value, f.valueLeft = append(f.events, f.current), event{}, 0, 0
}

// between reports whether a frame that concerns the connection may come next.
func (f *frames) between() bool {
	return f.begun && f.headerRead == 0 && f.left == 0 && !f.unfinished
}

// servesFrameConn reports whether net/http serves HTTP/2 on a connection of ours: it
// writes SETTINGS to one.
func servesFrameConn(table http2Table) bool {
	serve := table[protoUnencrypted]
	if serve == nil {
		return false
	}
	written := make(settingsWritten, 1)
	quiet := &http.Server{ErrorLog: log.New(io.Discard, "", 0)}
	serve(quiet, (&frameConn{Conn: written}).disguise(), http.NotFoundHandler())
	return len(written) > 0
}

// settingsWritten is a connection that ends when SETTINGS has been written to it, of
// which it then holds a value, or after ten seconds.
type settingsWritten chan struct{}

func (s settingsWritten) Write(p []byte) (int, error) {
	if len(p) > frameHeaderSize && p[3] == frameSettings && len(s) == 0 {
		s <- struct{}{}
	}
	return len(p), nil
}

func (s settingsWritten) Read([]byte) (int, error) {
	select {
	case v := <-s:
		s <- v
	case <-time.After(10 * time.Second):
	}
	return 0, io.EOF
}

func (settingsWritten) Close() error                     { return nil }
func (settingsWritten) LocalAddr() net.Addr              { return new(net.TCPAddr) }
func (settingsWritten) RemoteAddr() net.Addr             { return new(net.TCPAddr) }
func (settingsWritten) SetDeadline(time.Time) error      { return nil }
func (settingsWritten) SetReadDeadline(time.Time) error  { return nil }
func (settingsWritten) SetWriteDeadline(time.Time) error { return nil }
