package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Conn is an HTTP/2 connection. A goroutine of its own reads it and ends its
// streams, so that every frame of the server is seen when it comes.
type http2Conn struct {
	nc      net.Conn
	madeAt  time.Time
	timeout time.Duration // of writes
	echo    string        // Config.EchoHeader in lower case

	wmu sync.Mutex // held while writing; taken before mu

	fr      *http2.Framer
	outBuf  bytes.Buffer // frames to be written
	enc     *hpack.Encoder
	headBuf bytes.Buffer

	mu            sync.Mutex
	changed       sync.Cond // signalled when a window or maxStreams grows, or a stream or the connection ends
	settled       bool      // the server's first SETTINGS have come
	open          map[uint32]*http2Stream
	nextID        uint32
	lastServed    uint32 // the server does not serve streams above it
	goneAway      bool   // GOAWAY has come: no stream is opened any more
	err           error  // by which the connection ended
	resetErr      error  // the reset that a write found
	window        int64  // of the connection, in bytes of DATA
	initialWindow int64  // of a new stream
	maxFrame      int64
	maxStreams    int // that may be open; 1 until the server's first SETTINGS
	requests      int
	answered      time.Time
}

// newHTTP2Conn sends the preface and begins to read.
func (l *Load) newHTTP2Conn(raw *conn) *http2Conn {
	cn := &http2Conn{nc: raw.Conn, madeAt: raw.madeAt, timeout: l.cfg.AnswerTimeout, echo: strings.ToLower(l.cfg.EchoHeader),
		open: make(map[uint32]*http2Stream), nextID: 1, lastServed: math.MaxUint32, window: 65535, initialWindow: 65535, maxFrame: 16384, maxStreams: 1}
	cn.changed.L = &cn.mu
	cn.fr = http2.NewFramer(&cn.outBuf, cn.nc)
	cn.fr.SetMaxReadFrameSize(16384) // the default
	cn.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	cn.enc = hpack.NewEncoder(&cn.headBuf)
	cn.enc.SetMaxDynamicTableSize(0) // the server may allow more
	cn.write(func() {
		cn.outBuf.WriteString(http2.ClientPreface)
		// The windows are larger than any answer.
		cn.fr.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: math.MaxInt32})
		cn.fr.WriteWindowUpdate(0, math.MaxInt32-65535)
	})
	l.clients.Go(cn.read)
	return cn
}

// write writes the frames that f makes. The reader sees an error, too.
func (cn *http2Conn) write(f func()) error {
	cn.wmu.Lock()
	defer cn.wmu.Unlock()
	return cn.writeLocked(f)
}

func (cn *http2Conn) writeLocked(f func()) error {
	cn.outBuf.Reset()
	f() // writing to a buffer cannot fail
	if cn.outBuf.Len() == 0 {
		return nil
	}
	_ = cn.nc.SetWriteDeadline(time.Now().Add(cn.timeout))
	_, err := cn.nc.Write(cn.outBuf.Bytes())
	if isReset(err) { // the kernel reports it only once, and so not to the reader
		cn.mu.Lock()
		cn.resetErr = err
		cn.mu.Unlock()
	}
	return err
}

// isClosedLocked reports whether no stream can be opened any more.
func (cn *http2Conn) isClosedLocked() bool {
	return cn.goneAway || cn.err != nil || cn.nextID > math.MaxInt32
}

// state reports whether no stream can be opened any more, and whether none ever was.
// err is the connection's if it ended without GOAWAY.
func (cn *http2Conn) state() (closed, unused bool, err error) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if !cn.goneAway {
		err = cn.err
	}
	return cn.isClosedLocked(), cn.requests == 0, err
}

// read reads frames until the connection ends, and then ends all streams.
func (cn *http2Conn) read() {
	err := cn.readFrames()
	cn.mu.Lock()
	if cn.resetErr != nil && isEOF(err) {
		err = cn.resetErr
	}
	cn.mu.Unlock()
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("within a frame: %w", err)
	} else if errors.As(err, new(http2.ConnectionError)) || errors.Is(err, http2.ErrFrameTooLarge) {
		err = malformed("%v", err)
	}
	cn.nc.Close()
	cn.mu.Lock()
	defer cn.mu.Unlock()
	cn.err = err
	cn.changed.Broadcast()
	for _, s := range cn.open {
		s.err = err
		if cn.goneAway {
			s.err = fmt.Errorf("after GOAWAY with last stream %d, this is %d: %w", cn.lastServed, s.id, err)
		}
		cn.endStreamLocked(s)
	}
}

func (cn *http2Conn) readFrames() error {
	var unseen uint32 // bytes of DATA without a WINDOW_UPDATE
	for {
		f, err := cn.fr.ReadFrame()
		bad := http2.StreamError{}
		if err != nil && !errors.As(err, &bad) {
			return err
		}
		cn.mu.Lock()
		if s := cn.open[bad.StreamID]; err != nil && s != nil {
			s.err = malformed("%v", err)
			cn.endStreamLocked(s)
		}
		var answer func()
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if s := cn.open[f.StreamID]; s != nil {
				cn.onHeadersLocked(s, f)
			}
		case *http2.DataFrame:
			if s := cn.open[f.StreamID]; s != nil {
				cn.onDataLocked(s, f)
			}
			unseen += f.Length
			if unseen > 1<<20 {
				n := unseen
				unseen, answer = 0, func() { cn.fr.WriteWindowUpdate(0, n) }
			}
		case *http2.RSTStreamFrame:
			if s := cn.open[f.StreamID]; s != nil {
				s.err = fmt.Errorf("%w: %v", errStreamReset, f.ErrCode)
				s.safeToRetry = f.ErrCode == http2.ErrCodeRefusedStream
				cn.endStreamLocked(s)
			}
		case *http2.GoAwayFrame:
			cn.goneAway, cn.lastServed = true, min(cn.lastServed, f.LastStreamID)
			cn.changed.Broadcast()
			for id, s := range cn.open {
				if id > cn.lastServed {
					s.safeToRetry = true
					cn.endStreamLocked(s)
				}
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				if !cn.settled {
					cn.settled, cn.maxStreams = true, math.MaxInt
				}
				_ = f.ForeachSetting(cn.onSettingLocked)
				cn.changed.Broadcast()
				answer = func() { cn.fr.WriteSettingsAck() }
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				answer = func() { cn.fr.WritePing(true, f.Data) }
			}
		case *http2.WindowUpdateFrame:
			if s := cn.open[f.StreamID]; s != nil {
				s.window += int64(f.Increment)
			} else if f.StreamID == 0 {
				cn.window += int64(f.Increment)
			}
			cn.changed.Broadcast()
		}
		idle := cn.goneAway && len(cn.open) == 0
		cn.mu.Unlock()
		if answer != nil {
			_ = cn.write(answer)
		}
		if idle {
			return errIdle
		}
	}
}

func (cn *http2Conn) onSettingLocked(s http2.Setting) error {
	switch s.ID {
	case http2.SettingInitialWindowSize:
		for _, open := range cn.open {
			open.window += int64(s.Val) - cn.initialWindow
		}
		cn.initialWindow = int64(s.Val)
	case http2.SettingMaxConcurrentStreams:
		cn.maxStreams = int(s.Val)
	case http2.SettingMaxFrameSize:
		cn.maxFrame = int64(s.Val)
	}
	return nil
}
