package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// redial is the pause of a client that was refused before the signal, reset on
// connect, or had an error of its own. It goes on after that, and must not loop
// without a pause.
const redial = 50 * time.Millisecond

// client is one of a group. Only its goroutine uses it, except for the fields
// that mu guards, which snapshots read.
type client struct {
	*group
	index  int // in its group
	number int // over all groups
	timer  *time.Timer
	rng    *rand.Rand
	reader answerReader
	id     []byte   // of the present request
	req    []byte   // all of it, or its header if the body is large
	cn     *conn    // nil: to be dialled
	shared *shared2 // instead of cn, over HTTP/2

	mu       sync.Mutex
	outcomes []Outcome // by sequence number; only appended to
	times    []span    // the same
	tally    tally
	inFlight bool
	silent   bool // Idle, and done with its requests
	ended    bool
}

func newClient(g *group, index, number int) *client {
	c := &client{group: g, index: index, number: number}
	c.rng = rand.New(rand.NewPCG(uint64(number), 0))
	c.timer = time.NewTimer(time.Hour)
	c.reader.echoName = []byte(g.load.cfg.EchoHeader)
	c.reader.keepBody = g.load.cfg.EchoBody
	return c
}

func (c *client) run() {
	defer func() {
		c.drop()
		if c.shared != nil {
			c.shared.leave()
		}
		c.timer.Stop()
		c.mu.Lock()
		c.ended = true
		c.mu.Unlock()
	}()
	delay := c.Delay
	if delay == 0 && c.Think > 0 {
		delay = time.Duration(c.rng.Int64N(int64(max(c.Think, 100*time.Millisecond))))
	}
	if !c.pause(delay) {
		return
	}
	if c.Kind == Idle {
		if c.Requests == 0 || c.work() {
			c.beSilent()
		}
		return
	}
	c.work()
}

// work makes the client's requests, and reports whether it may go on.
func (c *client) work() bool {
	for i := 0; c.Requests == 0 || i < c.Requests; i++ {
		if i > 0 && !c.pause(c.think()) {
			return false
		}
		if !c.request() {
			return false
		}
	}
	return true
}

func (c *client) think() time.Duration {
	if c.Jitter == 0 {
		return c.Think
	}
	return c.Think - c.Jitter + time.Duration(c.rng.Int64N(2*int64(c.Jitter)+1))
}

// pause reports whether the client may go on.
func (c *client) pause(d time.Duration) bool {
	if d <= 0 {
		return c.load.ctx.Err() == nil
	}
	due := time.Now().Add(d)
	c.timer.Reset(d)
	select {
	case <-c.load.ctx.Done():
		return false
	case <-c.timer.C:
	}
	late := time.Since(due)
	c.mu.Lock()
	c.tally.late = max(c.tally.late, late)
	c.mu.Unlock()
	return true
}

// request makes one, which ends in the ledger, and reports whether the client
// may go on.
func (c *client) request() bool {
	if c.shared != nil {
		return c.stream()
	}
	looks := c.Kind == Looking || c.Kind == Events
	if c.cn != nil && looks {
		if p := c.cn.pending(); p != Nothing && p != Unknown {
			c.drop()
			c.mu.Lock()
			c.tally.closedIdle++
			c.mu.Unlock()
		}
	}
	if c.cn == nil {
		if goOn, connected := c.connect(); !connected {
			return goOn
		}
	}
	cn := c.cn

	before := cn.pending()
	now := time.Now()
	loss := Loss{Wrote: now, Before: before, Earlier: cn.requests, SinceConnect: now.Sub(cn.made)}
	if !cn.answered.IsZero() {
		loss.SinceAnswer = now.Sub(cn.answered)
	}
	if cn.requests == 0 && (before == PendingRST || looks && before == PendingFIN) {
		// Closed before anything was written, which the client knows.
		loss.Outcome, loss.How = ResetOnConnect, RST
		if before == PendingFIN {
			loss.How = FIN
		}
		return c.failed(loss, nil)
	}

	c.build()
	c.mu.Lock()
	c.inFlight = true
	c.mu.Unlock()
	_ = cn.SetDeadline(now.Add(c.load.cfg.AnswerTimeout + c.BodyTime)) // fails if closed, as the write then will
	first := cn.requests == 0
	cn.requests++
	var writeErr error
	switch {
	case c.body == nil:
		loss.Sent, writeErr = cn.Write(c.req)
	case c.BodyTime > 0:
		loss.Sent, writeErr = c.trickle(cn)
	default:
		var n int64
		n, writeErr = (&net.Buffers{c.req, c.body}).WriteTo(cn.Conn)
		loss.Sent = int(n)
	}
	if first && loss.Sent == 0 && errors.Is(writeErr, syscall.ECONNRESET) {
		// The RST was in the socket before the request was.
		loss.Outcome, loss.How = ResetOnConnect, RST
		return c.failed(loss, writeErr)
	}
	switch c.Kind {
	case Events:
		return c.follow(cn, loss, writeErr)
	case WebSocket:
		return c.chat(cn, loss, writeErr)
	}
	// The answer may be there although the request couldn't be written: an
	// error status that the server sent before it closed.
	ans, err := c.reader.read(c.Method == "HEAD")
	return c.judge(cn, loss, ans, err, writeErr)
}

// judge ends a request by its answer, or by the error that came instead.
func (c *client) judge(cn *conn, loss Loss, ans *answer, err, writeErr error) (goOn bool) {
	loss.AnswerBytes = c.reader.got
	if err != nil {
		if writeErr != nil && writeErr != errEarly {
			err = writeErr
		}
		loss.Outcome, loss.How = Lost, howOf(err)
		return c.failed(loss, err)
	}
	if err := c.wrong(ans, loss.Before); err != nil {
		loss.Outcome, loss.How = wrongOutcome(err), Malformed
		return c.failed(loss, err)
	}
	cn.answered = time.Now()
	if ans.status >= 500 {
		loss.at(cn.Conn)
	}
	if writeErr != nil || ans.close || c.Kind == Fresh || c.Kind == WebSocket {
		c.drop()
	}
	c.answeredWith(ans.status, loss, cn.answered)
	return true
}

// answeredWith ends a request by a whole answer, which came at ended.
func (c *client) answeredWith(status int, loss Loss, ended time.Time) {
	outcome := Answered
	switch {
	case status >= 500 && c.load.after(ended) && !slices.Contains(c.load.cfg.AllowStatus, status):
		outcome = FailedStatus
		loss.Outcome, loss.Failed, loss.Err = outcome, ended, strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
		c.load.keep(c.named(loss))
	case status >= 400:
		outcome = ErrorStatus
	}
	c.ledger(outcome, loss.Wrote, ended)
}

// errEarly ends the sending of a body when the answer has come before its end.
var errEarly = errors.New("answered before the whole request")

// bodyEvery is the pause between the pieces of a body that takes BodyTime.
const bodyEvery = 20 * time.Millisecond

// pieces calls write for pieces of the body, the last of which is due after
// BodyTime, until that fails.
func (c *client) pieces(write func(piece []byte, last bool) error) error {
	began, body := time.Now(), c.body
	for sent := 0; ; time.Sleep(bodyEvery) {
		due := len(body)
		if part := float64(time.Since(began)) / float64(c.BodyTime); part < 1 {
			due = int(part * float64(len(body)))
		}
		if due > sent || due == len(body) {
			if err := write(body[sent:due], due == len(body)); err != nil || due == len(body) {
				return err
			}
			sent = due
		}
	}
}

// trickle writes a request whose body takes its time.
func (c *client) trickle(cn *conn) (n int, err error) {
	if n, err = cn.Write(c.req); err != nil {
		return n, err
	}
	return n, c.pieces(func(piece []byte, _ bool) error {
		if p := cn.pending(); p == PendingBytes || p == PendingFIN {
			return errEarly
		}
		m, err := cn.Write(piece)
		n += m
		return err
	})
}

// errDuplicate is matched by what is wrong with one answer too many.
var errDuplicate = errors.New("a duplicate")

func wrongOutcome(err error) Outcome {
	if errors.Is(err, errDuplicate) {
		return Duplicated
	}
	return WrongAnswer
}

// answeredBefore reports whether an ID is that of an earlier request of this
// client which has been answered.
func (c *client) answeredBefore(id []byte) bool {
	g, i, seq, ok := parseID(c.load.cfg.Run, string(id))
	return ok && g == c.group.number && i == c.index && seq < len(c.outcomes) &&
		(c.outcomes[seq] == Answered || c.outcomes[seq] == ErrorStatus || c.outcomes[seq] == FailedStatus)
}

// wrong says why an answer is not the present request's, or not only one.
func (c *client) wrong(ans *answer, before Pending) error {
	cfg := &c.load.cfg
	id, good := c.id, ans.status < 400
	switch extra := c.reader.w - c.reader.r; {
	case cfg.EchoHeader != "" && ans.echo != nil && !bytes.Equal(ans.echo, id) && c.answeredBefore(ans.echo):
		return fmt.Errorf("%w: %d to %s is to %s", errDuplicate, ans.status, id, ans.echo)
	case cfg.EchoHeader != "" && c.Kind != WebSocket && bytes.HasPrefix(c.reader.buf[c.reader.r:c.reader.w], []byte("HTTP/1.")):
		return fmt.Errorf("%w: two answers to %s", errDuplicate, id)
	case extra > 0 && c.Kind != WebSocket:
		return malformed("%d bytes beyond the answer", extra)
	case before == PendingBytes:
		return malformed("%d came before the request was written", ans.status)
	case c.Kind == Events && ans.status == http.StatusOK && !ans.events,
		c.Kind == WebSocket && good && (ans.status != http.StatusSwitchingProtocols || string(ans.accept) != wsAccept):
		return malformed("%d to %s is none that begins a stream of %s", ans.status, id, c.Kind)
	case cfg.EchoHeader != "" && (good || ans.echo != nil) && !bytes.Equal(ans.echo, id):
		return malformed("%d to %s has %s %.80q", ans.status, id, cfg.EchoHeader, ans.echo)
	case cfg.EchoBody && good && c.Kind < Events && !hasID(ans.body, id):
		return malformed("%d to %s has no such ID in its body %.80q", ans.status, id, ans.body)
	}
	return nil
}

// connect dials. A failure is the outcome of the request that it was for.
func (c *client) connect() (goOn, connected bool) {
	began := time.Now()
	cn, err := c.dialled()
	if err != nil {
		return c.refused(began, err), false
	}
	c.cn = cn
	c.reader.src, c.reader.r, c.reader.w = cn, 0, 0
	c.mu.Lock()
	c.tally.conns++
	c.mu.Unlock()
	return true, true
}

// dialled makes a connection, with TLS if the group has it.
func (c *client) dialled() (cn *conn, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), c.load.cfg.DialTimeout)
	defer cancel()
	nc, err := c.dial(ctx, c.number)
	if err != nil {
		return nil, err
	}
	cn = newConn(nc, time.Now())
	if c.TLS != nil {
		proto := protoHTTP1
		if c.Streams > 0 {
			proto = protoHTTP2
		}
		if err := cn.handshake(ctx, c.TLS, proto); err != nil {
			nc.Close()
			return nil, err
		}
	}
	return cn, nil
}

// refused notes a dial that failed, whose request it was.
func (c *client) refused(began time.Time, err error) (goOn bool) {
	outcome := dialOutcome(err)
	if outcome != Refused {
		return c.failed(Loss{Outcome: outcome, How: howOf(err), Wrote: began}, err)
	}
	early := c.load.cfg.GoesOn || !c.load.signalled()
	c.mu.Lock()
	if early {
		c.tally.early++
	}
	c.mu.Unlock()
	c.ledger(Refused, began, time.Now())
	return early && c.pause(redial)
}

// nextID gives the request its ID.
func (c *client) nextID() {
	c.id = appendID(c.id[:0], c.load.cfg.Run, c.group.number, c.index, len(c.outcomes))
}

// build makes the request, with the next ID.
func (c *client) build() {
	c.nextID()
	c.req = append(c.req[:0], c.head...)
	c.req = append(c.req, c.id...)
	c.req = append(c.req, c.tail...)
}

// failed notes a request that was not answered, and why.
func (c *client) failed(loss Loss, err error) (goOn bool) {
	loss.Failed = time.Now()
	if err != nil {
		loss.Err = err.Error()
	}
	loss = c.named(loss)
	if c.cn != nil {
		loss.at(c.cn.Conn)
		c.drop()
	}
	if loss.Outcome == Lost {
		c.mu.Lock()
		c.tally.lose(&loss)
		c.mu.Unlock()
	}
	c.load.keep(loss)
	c.ledger(loss.Outcome, loss.Wrote, loss.Failed)
	if loss.Outcome == ResetOnConnect || loss.Outcome == ClientError {
		return c.pause(redial)
	}
	return true
}

// named adds which request of which client it was: the present one.
func (c *client) named(loss Loss) Loss {
	loss.Group, loss.Client = c.Name, c.index
	loss.ID = string(appendID(nil, c.load.cfg.Run, c.group.number, c.index, len(c.outcomes)))
	return loss
}

// ledger ends a request.
func (c *client) ledger(o Outcome, began, ended time.Time) {
	after := c.load.after(ended)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight = false
	c.outcomes = append(c.outcomes, o)
	c.times = append(c.times, span{began.Sub(c.load.started), ended.Sub(c.load.started)})
	c.tally.end(o, began, ended, after)
}

func (c *client) drop() {
	if c.cn != nil {
		_ = c.cn.Close()
		c.cn = nil
	}
}

// beSilent holds the connection until the server closes it.
func (c *client) beSilent() {
	for c.cn == nil {
		if goOn, _ := c.connect(); !goOn {
			return
		}
	}
	cn := c.cn
	_ = cn.SetDeadline(time.Time{})
	defer context.AfterFunc(c.load.ctx, func() { _ = cn.SetReadDeadline(time.Unix(1, 0)) })()
	c.mu.Lock()
	c.silent = true
	c.mu.Unlock()
	var b [512]byte
	for {
		// Bytes that nobody asked for, such as a 408, don't end it.
		if _, err := cn.Read(b[:]); err != nil {
			c.mu.Lock()
			c.tally.silenceEnded(howOf(err), time.Now())
			c.mu.Unlock()
			return
		}
	}
}
