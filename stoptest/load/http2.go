package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// errStreamReset is matched by the end of a stream that RST_STREAM brought.
var errStreamReset = errors.New("RST_STREAM")

// errDisowned is that GOAWAY calls a stream not served of which an answer came.
var errDisowned = fmt.Errorf("%w: GOAWAY disowns a stream that has begun", errStreamReset)

// errIdle ends a connection that the server wants to be left, once nothing is
// open on it.
var errIdle = errors.New("no stream is left")

// errLoadsEnd ends event streams that the server does not end.
var errLoadsEnd = errors.New("the load ends")

// shared2 is what the clients that share a connection have in common.
type shared2 struct {
	mu    sync.Mutex
	cn    *conn2 // to open streams on; nil: to be dialled
	users int    // clients that have not ended
}

// leave is called when a client ends. The last one closes the connection.
func (s *shared2) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	if s.users == 0 && s.cn != nil {
		s.cn.nc.Close()
	}
}

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

// stream2 is a stream. What the answer is may be read once done is closed.
type stream2 struct {
	id     uint32
	window int64 // under conn2's mu
	done   chan struct{}

	status int
	echo   []byte
	body   []byte // its first keepBody bytes
	length int64  // Content-Length; below 0 if there is none
	headed bool   // answers HEAD
	got    int64  // bytes of body
	err    error  // what came instead of an answer
	safe   bool   // not served: may be sent again
	ended  time.Time

	events    *client // the one that follows events; nil: none
	streaming bool    // they have begun
	at        eventCounter
	unwatch   func() bool
}

// stream makes a request over HTTP/2. It ends in exactly one of: an answer; safe
// to retry, as GOAWAY or REFUSED_STREAM says; lost.
func (c *client) stream() (goOn bool) {
	c.nextID()
	var cn *conn2
	var s *stream2
	loss := Loss{}
	for s == nil {
		if cn, goOn = c.connection(); cn == nil {
			return goOn
		}
		c.mu.Lock()
		c.inFlight = true
		c.mu.Unlock()
		s = cn.begin(c, &loss)
	}
	timeout := c.load.cfg.AnswerTimeout + c.BodyTime
	timer := time.AfterFunc(timeout, func() {
		cn.mu.Lock()
		streaming := s.streaming
		cn.mu.Unlock()
		if !streaming {
			cn.cancel(s, fmt.Errorf("nothing came for %v: %w", timeout, os.ErrDeadlineExceeded))
		}
	})
	defer timer.Stop()

	var early error
	if len(c.body) > 0 {
		write := func(piece []byte, last bool) error {
			n, err := cn.writeData(s, piece, last)
			loss.Sent += n
			return err
		}
		if c.BodyTime > 0 {
			early = c.pieces(write)
		} else {
			early = write(c.body, true)
		}
	}
	// If the connection failed in a write, its reader finds that out, and what
	// the server had said before.
	<-s.done
	if early != nil && s.err == nil && !s.safe {
		cn.reset(s)
	}

	loss.AnswerBytes = s.got
	switch {
	case s.streaming:
		return c.streamed(s, loss)
	case s.safe && s.status == 0:
		c.ledger(SafeToRetry, loss.Wrote, s.ended)
		if errors.Is(s.err, errStreamReset) {
			return c.pause(redial) // the server has too many
		}
		return c.load.ctx.Err() == nil
	case s.safe && s.err == nil:
		s.err = errDisowned
		fallthrough
	case s.err != nil:
		loss.Outcome, loss.How = Lost, howOf(s.err)
		return c.failed(loss, s.err)
	}
	if err := c.wrong(&answer{status: s.status, echo: s.echo, body: s.body}, Unknown); err != nil {
		loss.Outcome, loss.How = wrongOutcome(err), Malformed
		return c.failed(loss, err)
	}
	c.answeredWith(s.status, loss, s.ended)
	return true
}

// streamed ends an event stream that has begun, as follow does.
func (c *client) streamed(s *stream2, loss Loss) (goOn bool) {
	s.unwatch()
	err := s.err
	switch {
	case errors.Is(err, errLoadsEnd):
		c.ledger(Answered, loss.Wrote, s.ended)
		return false
	case err != nil:
	case s.safe:
		err = errDisowned
	case !s.at.between():
		err = malformed("the stream's end is within an event")
	default:
		err = c.wrong(&answer{status: s.status, echo: s.echo, events: true}, Unknown)
	}
	if err != nil {
		loss.Outcome, loss.How = Cut, howOf(err)
		return c.failed(loss, err)
	}
	c.ledger(CleanEnd, loss.Wrote, s.ended)
	return true
}

// connection is the shared one, which is dialled if there is none, or none that
// takes streams. Nil: the request has failed with it.
func (c *client) connection() (cn *conn2, goOn bool) {
	sh := c.shared
	sh.mu.Lock()
	cn = sh.cn
	if cn != nil {
		if closed, unused, err := cn.state(); closed {
			sh.cn = nil
			if unused {
				// Closed before anything was asked on it: that is the outcome
				// of the request for which it was made.
				sh.mu.Unlock()
				now := time.Now()
				if err == nil {
					c.ledger(SafeToRetry, now, now)
					return nil, c.pause(redial)
				}
				loss := Loss{Outcome: ResetOnConnect, How: howOf(err), Wrote: now, SinceConnect: now.Sub(cn.made)}
				loss.at(cn.nc)
				return nil, c.failed(loss, err)
			}
		}
	}
	defer sh.mu.Unlock()
	if sh.cn == nil {
		if c.load.ctx.Err() != nil {
			return nil, false // others have tried for long
		}
		began := time.Now()
		raw, err := c.dialled()
		if err != nil {
			return nil, c.refused(began, err)
		}
		c.mu.Lock()
		c.tally.conns++
		c.mu.Unlock()
		sh.cn = c.load.newConn2(raw)
	}
	return sh.cn, true
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

// begin opens a stream and sends the request's header. Nil: the connection is
// closed, and nothing was written.
func (cn *conn2) begin(c *client, loss *Loss) *stream2 {
	cn.wmu.Lock() // the numbers of streams rise on the wire
	defer cn.wmu.Unlock()
	cn.mu.Lock()
	if cn.closed() {
		cn.mu.Unlock()
		return nil
	}
	now := time.Now()
	*loss = Loss{Wrote: now, SinceConnect: now.Sub(cn.made), Earlier: cn.requests}
	loss.at(cn.nc)
	if !cn.answered.IsZero() {
		loss.SinceAnswer = now.Sub(cn.answered)
	}
	s := &stream2{id: cn.nextID, window: cn.initial, done: make(chan struct{}), length: -1, headed: c.Method == http.MethodHead}
	if c.Kind == Events {
		s.events = c
	}
	cn.open[s.id] = s
	cn.nextID += 2
	cn.requests++
	cn.mu.Unlock()

	cn.head.Reset()
	field := func(name, value string) { _ = cn.enc.WriteField(hpack.HeaderField{Name: name, Value: value}) }
	scheme := "http"
	if c.TLS != nil {
		scheme = "https"
	}
	field(":method", c.Method)
	field(":scheme", scheme)
	field(":authority", c.host)
	field(":path", c.Path)
	field("user-agent", "stoptest")
	field(strings.ToLower(c.load.cfg.IDHeader), string(c.id))
	if c.Kind == Events {
		field("accept", "text/event-stream")
		field("cache-control", "no-store")
	}
	if len(c.body) > 0 {
		field("content-type", "application/octet-stream")
	}
	if len(c.body) > 0 || c.Method != http.MethodGet && c.Method != http.MethodHead {
		field("content-length", strconv.Itoa(len(c.body)))
	}
	_ = cn.writeLocked(func() {
		cn.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: cn.head.Bytes(),
			EndHeaders: true, EndStream: len(c.body) == 0})
	})
	return s
}

// writeData sends a part of the body, as the windows allow.
func (cn *conn2) writeData(s *stream2, p []byte, last bool) (n int, err error) {
	for len(p) > 0 || last {
		cn.mu.Lock()
		for len(p) > 0 && min(cn.window, s.window) <= 0 && s.ended.IsZero() {
			cn.changed.Wait()
		}
		if !s.ended.IsZero() {
			cn.mu.Unlock()
			return n, errEarly
		}
		m := max(0, min(int64(len(p)), cn.window, s.window, cn.maxFrame))
		cn.window -= m
		s.window -= m
		cn.mu.Unlock()
		end := last && m == int64(len(p))
		if err := cn.write(func() { cn.fr.WriteData(s.id, end, p[:m]) }); err != nil {
			return n, err
		}
		n += int(m)
		p = p[m:]
		if end {
			break
		}
	}
	return n, nil
}

// end closes a stream's account. cn.mu is held.
func (cn *conn2) end(s *stream2) {
	delete(cn.open, s.id)
	s.ended = time.Now()
	close(s.done)
	cn.changed.Broadcast()
}

// cancel ends a stream from here, if it has not ended.
func (cn *conn2) cancel(s *stream2, err error) {
	cn.mu.Lock()
	late := !s.ended.IsZero()
	if !late {
		s.err = err
		cn.end(s)
	}
	idle := cn.leaving && len(cn.open) == 0
	cn.mu.Unlock()
	if !late {
		cn.reset(s)
	}
	if idle {
		cn.nc.Close()
	}
}

// reset tells the server that a stream is over.
func (cn *conn2) reset(s *stream2) {
	_ = cn.write(func() { cn.fr.WriteRSTStream(s.id, http2.ErrCodeCancel) })
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

// header takes the header of an answer, or its trailers. cn.mu is held, as in
// data and complete.
func (cn *conn2) header(s *stream2, f *http2.MetaHeadersFrame) {
	if s.status == 0 {
		status, ok := number([]byte(f.PseudoValue("status")), 10)
		if !ok || status < 100 || status > 599 {
			s.err = malformed("status %.40q", f.PseudoValue("status"))
			cn.end(s)
			return
		}
		if status < 200 && !f.StreamEnded() {
			return
		}
		s.status = int(status)
		events := false
		for _, h := range f.RegularFields() {
			switch {
			case h.Name == cn.echo:
				s.echo = []byte(h.Value)
			case h.Name == "content-length":
				if s.length, ok = number([]byte(h.Value), 10); !ok {
					s.err = malformed("content-length %.40q", h.Value)
					cn.end(s)
					return
				}
			case h.Name == "content-type":
				kind, _, _ := strings.Cut(h.Value, ";")
				events = strings.EqualFold(strings.TrimRight(kind, " "), "text/event-stream")
			}
		}
		if events && s.events != nil && s.status == http.StatusOK {
			s.streaming = true
			s.unwatch = context.AfterFunc(s.events.load.ctx, func() { cn.cancel(s, errLoadsEnd) })
		}
	}
	if f.StreamEnded() {
		cn.complete(s)
	}
}

func (cn *conn2) data(s *stream2, f *http2.DataFrame) {
	s.got += int64(len(f.Data()))
	if s.streaming {
		if n := s.at.write(f.Data()); n > 0 {
			s.events.mu.Lock()
			s.events.tally.messages += n
			s.events.mu.Unlock()
		}
	} else if room := keepBody - len(s.body); room > 0 {
		s.body = append(s.body, f.Data()[:min(room, len(f.Data()))]...)
	}
	if f.StreamEnded() {
		cn.complete(s)
	}
}

// complete ends a stream whose answer is whole.
func (cn *conn2) complete(s *stream2) {
	switch {
	case s.status < 200:
		s.err = malformed("the stream ended without an answer")
	case s.length >= 0 && s.length != s.got && !s.headed && s.status != http.StatusNoContent && s.status != http.StatusNotModified:
		s.err = malformed("content-length %d, but %d bytes", s.length, s.got)
	}
	cn.answered = time.Now()
	cn.end(s)
}
