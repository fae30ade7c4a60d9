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

// conn2 is an HTTP/2 connection. A goroutine of its own reads it, and ends its
// streams; so it is always known what the server has said.
type conn2 struct {
	nc      net.Conn
	made    time.Time
	timeout time.Duration // of writes
	echo    string        // header, in lower case

	wmu  sync.Mutex // held while writing; taken before mu
	fr   *http2.Framer
	out  bytes.Buffer // frames to be written
	enc  *hpack.Encoder
	head bytes.Buffer

	mu       sync.Mutex
	changed  sync.Cond // windows, or the end of a stream
	open     map[uint32]*stream2
	nextID   uint32
	last     uint32 // streams above it are not served
	leaving  bool   // GOAWAY has come: no further stream
	err      error  // the connection's end
	wasReset error  // the same, if it was found in writing
	window   int64  // for DATA, of the connection
	initial  int64  // the same of a new stream
	maxFrame int64
	requests int
	answered time.Time
}

// newConn2 begins to speak HTTP/2.
func (l *Load) newConn2(raw *conn) *conn2 {
	cn := &conn2{nc: raw.Conn, made: raw.made, timeout: l.cfg.AnswerTimeout, echo: strings.ToLower(l.cfg.EchoHeader),
		open: make(map[uint32]*stream2), nextID: 1, last: math.MaxUint32, window: 65535, initial: 65535, maxFrame: 16384}
	cn.changed.L = &cn.mu
	cn.fr = http2.NewFramer(&cn.out, cn.nc)
	cn.fr.SetMaxReadFrameSize(16384) // what there is without a setting
	cn.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	cn.enc = hpack.NewEncoder(&cn.head)
	cn.enc.SetMaxDynamicTableSize(0) // whatever the server's settings say, this is less
	cn.write(func() {
		cn.out.WriteString(http2.ClientPreface)
		// Windows that no answer fills.
		cn.fr.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: math.MaxInt32})
		cn.fr.WriteWindowUpdate(0, math.MaxInt32-65535)
	})
	l.clients.Go(cn.read)
	return cn
}

// write writes the frames that f makes. An error shows when reading.
func (cn *conn2) write(f func()) error {
	cn.wmu.Lock()
	defer cn.wmu.Unlock()
	return cn.writeLocked(f)
}

func (cn *conn2) writeLocked(f func()) error {
	cn.out.Reset()
	f() // a write to a buffer doesn't fail
	if cn.out.Len() == 0 {
		return nil
	}
	_ = cn.nc.SetWriteDeadline(time.Now().Add(cn.timeout))
	_, err := cn.nc.Write(cn.out.Bytes())
	if isReset(err) { // the kernel reports it once: here, and not to the reader
		cn.mu.Lock()
		cn.wasReset = err
		cn.mu.Unlock()
	}
	return err
}

// closed reports whether the connection takes no more streams. cn.mu is held.
func (cn *conn2) closed() bool {
	return cn.leaving || cn.err != nil || cn.nextID > math.MaxInt32
}

// state says besides whether it never had one, and by what it ended if that was
// without GOAWAY.
func (cn *conn2) state() (closed, unused bool, err error) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if !cn.leaving {
		err = cn.err
	}
	return cn.closed(), cn.requests == 0, err
}

// read reads frames until the connection's end, which is that of all streams.
func (cn *conn2) read() {
	err := cn.frames()
	cn.mu.Lock()
	if cn.wasReset != nil && isEOF(err) {
		err = cn.wasReset
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
	for _, s := range cn.open {
		s.err = err
		if cn.leaving {
			s.err = fmt.Errorf("after GOAWAY with last stream %d, this is %d: %w", cn.last, s.id, err)
		}
		cn.end(s)
	}
}

func (cn *conn2) frames() error {
	var unseen uint32 // bytes of the connection's window that were used
	for {
		f, err := cn.fr.ReadFrame()
		bad := http2.StreamError{}
		if err != nil && !errors.As(err, &bad) {
			return err
		}
		cn.mu.Lock()
		if s := cn.open[bad.StreamID]; err != nil && s != nil {
			s.err = malformed("%v", err)
			cn.end(s)
		}
		var answer func()
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if s := cn.open[f.StreamID]; s != nil {
				cn.header(s, f)
			}
		case *http2.DataFrame:
			if s := cn.open[f.StreamID]; s != nil {
				cn.data(s, f)
			}
			unseen += f.Length
			if unseen > 1<<20 {
				n := unseen
				unseen, answer = 0, func() { cn.fr.WriteWindowUpdate(0, n) }
			}
		case *http2.RSTStreamFrame:
			if s := cn.open[f.StreamID]; s != nil {
				s.err = fmt.Errorf("%w: %v", errStreamReset, f.ErrCode)
				s.safe = f.ErrCode == http2.ErrCodeRefusedStream
				cn.end(s)
			}
		case *http2.GoAwayFrame:
			cn.leaving, cn.last = true, min(cn.last, f.LastStreamID)
			for id, s := range cn.open {
				if id > cn.last {
					s.safe = true
					cn.end(s)
				}
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = f.ForeachSetting(cn.setting)
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
		idle := cn.leaving && len(cn.open) == 0
		cn.mu.Unlock()
		if answer != nil {
			_ = cn.write(answer)
		}
		if idle {
			return errIdle
		}
	}
}

func (cn *conn2) setting(s http2.Setting) error {
	switch s.ID {
	case http2.SettingInitialWindowSize:
		for _, open := range cn.open {
			open.window += int64(s.Val) - cn.initial
		}
		cn.initial = int64(s.Val)
	case http2.SettingMaxFrameSize:
		cn.maxFrame = int64(s.Val)
	}
	return nil
}
