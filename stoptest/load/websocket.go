package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// The example of RFC 6455, section 1.3. The key should be random so that a
// cached answer does not pass; no cache is between this client and its server.
const (
	wsKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	wsAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// Opcodes and status codes of RFC 6455.
const (
	wsContinuation = 0
	wsText         = 1
	wsClose        = 8
	wsPing         = 9
	wsPong         = 10

	wsNormal         = 1000
	wsGoingAway      = 1001
	wsServiceRestart = 1012
)

// maxMessage is the largest frame that a server may send, in bytes.
const maxMessage = 1 << 20

// chat begins a WebSocket and sends messages, each after the echo of the one
// before, until the server closes. The end is clean if the server sends a Close
// frame whose status is not an error, and then a FIN. (Whether the server waited
// for the client's Close frame cannot be seen.) When the load ends, the client
// closes.
func (c *client) chat(cn *conn, loss Loss, writeErr error) (goOn bool) {
	c.reader.upgrade = true
	ans, err := c.reader.read(false)
	c.reader.upgrade = false
	if err != nil || ans.status != http.StatusSwitchingProtocols || c.checkAnswer(ans, loss.Before) != nil {
		return c.judge(cn, loss, ans, err, writeErr)
	}
	_ = cn.SetReadDeadline(time.Time{})
	ws := webSocket{client: c, cn: cn, nextAt: time.Now()}
	wake := context.AfterFunc(c.load.ctx, func() { _ = cn.SetReadDeadline(time.Unix(1, 0)) })
	outcome, err := ws.run()
	wake()
	c.mu.Lock()
	if outcome == CleanEnd {
		if ws.waiting != nil {
			c.row.Unechoed++
			c.row.UnechoedFor = max(c.row.UnechoedFor, ws.closedAt.Sub(ws.sentAt))
		}
		if ws.status == wsGoingAway {
			c.row.GoingAway++
		}
	}
	c.mu.Unlock()
	loss.Outcome, loss.AnswerBytes = outcome, c.reader.received
	if err != nil {
		loss.How = howOf(err)
		return c.endFailed(loss, err)
	}
	c.dropConn()
	c.record(outcome, loss.Wrote, time.Now())
	return c.load.ctx.Err() == nil
}

// webSocket is an open WebSocket.
type webSocket struct {
	*client
	cn       *conn
	sent     int       // messages sent
	waiting  []byte    // the message without an echo; nil: none
	nextAt   time.Time // when the next message is due
	message  []byte    // what has come of the present message
	closing  bool      // the client has sent a Close frame first
	sentAt   time.Time // when waiting, or the client's Close frame, was sent
	status   int       // of the server's Close frame
	closedAt time.Time // when it came
}

// run returns how the WebSocket ended, and an error if that was not clean.
func (ws *webSocket) run() (Outcome, error) {
	timeout := ws.load.cfg.AnswerTimeout
	for {
		now := time.Now()
		ending := ws.load.ctx.Err() != nil
		if ending && !ws.closing && ws.waiting == nil {
			ws.closing, ws.sentAt = true, now
			if err := ws.send(wsClose, binary.BigEndian.AppendUint16(nil, wsNormal)); err != nil {
				return Cut, err
			}
		}
		deadline := ws.nextAt
		switch {
		case ws.waiting != nil || ws.closing:
			deadline = ws.sentAt.Add(timeout)
		case !now.Before(ws.nextAt) && ws.noInput():
			ws.waiting, ws.sentAt = strconv.AppendInt(append(append([]byte(nil), ws.id...), ' '), int64(ws.sent), 10), now
			ws.sent++
			// If the write fails, read returns why, or a Close frame that
			// came before.
			_ = ws.send(wsText, ws.waiting)
			deadline = ws.sentAt.Add(timeout)
		case !now.Before(ws.nextAt):
			deadline = now.Add(timeout) // to read what has come
		}
		_ = ws.cn.SetReadDeadline(deadline)
		if !ending && ws.load.ctx.Err() != nil {
			continue // the load has just ended
		}
		over, err := ws.read()
		switch {
		case over && ws.closing:
			return Answered, nil
		case over:
			return ws.answerClose()
		case err == nil:
		case howOf(err) != Timeout:
			return Cut, err
		case (ws.waiting != nil || ws.closing) && !time.Now().Before(deadline):
			return Cut, fmt.Errorf("nothing came for %v: %w", timeout, err)
		}
	}
}

// noInput reports whether everything that came was read.
func (ws *webSocket) noInput() bool {
	if ws.reader.pos < ws.reader.end {
		return false
	}
	p := ws.cn.pending()
	return p == Nothing || p == Unknown
}

// read handles the next frame, and reports whether it is a Close frame.
func (ws *webSocket) read() (over bool, err error) {
	op, fin, payload, err := ws.reader.frame()
	if err != nil {
		return false, err
	}
	switch op {
	case wsPing:
		return false, ws.send(wsPong, payload)
	case wsPong:
		return false, nil
	case wsClose:
		ws.status, ws.closedAt = 1005, time.Now() // no status
		if len(payload) >= 2 {
			ws.status = int(binary.BigEndian.Uint16(payload))
		}
		if ws.message != nil {
			return false, malformed("Close within a message")
		}
		return true, nil
	case wsText:
		if ws.message != nil {
			return false, malformed("a message within another")
		}
		ws.message = append([]byte{}, payload...)
	case wsContinuation:
		if ws.message == nil {
			return false, malformed("continuation of nothing")
		}
		ws.message = append(ws.message, payload...)
	default:
		return false, malformed("opcode %d", op)
	}
	if !fin {
		return false, nil
	}
	if string(ws.message) != string(ws.waiting) {
		return false, malformed("message %.80q, want the echo of %.80q", ws.message, ws.waiting)
	}
	ws.message, ws.waiting = nil, nil
	ws.nextAt = time.Now().Add(ws.nextThink())
	ws.count(&ws.row.Messages, 1)
	return false, nil
}

// answerClose answers the server's Close frame, and waits for the server to close.
func (ws *webSocket) answerClose() (Outcome, error) {
	switch ws.status {
	case wsNormal, wsGoingAway, wsServiceRestart:
	default:
		return Cut, fmt.Errorf("closed with status %d", ws.status)
	}
	_ = ws.cn.SetReadDeadline(time.Now().Add(ws.load.cfg.AnswerTimeout))
	if err := ws.send(wsClose, binary.BigEndian.AppendUint16(nil, uint16(ws.status))); err != nil {
		return Cut, err
	}
	_, _, _, err := ws.reader.frame()
	if err == nil {
		return Cut, malformed("a frame after Close")
	}
	if howOf(err) != FIN || ws.reader.pos < ws.reader.end {
		return Cut, fmt.Errorf("after the Close frames: %w", err)
	}
	return CleanEnd, nil
}

// send writes a masked frame.
func (ws *webSocket) send(op byte, payload []byte) error {
	_ = ws.cn.SetWriteDeadline(time.Now().Add(ws.load.cfg.AnswerTimeout))
	b := append(make([]byte, 0, len(payload)+8), 0x80|op)
	if len(payload) < 126 {
		b = append(b, 0x80|byte(len(payload)))
	} else {
		b = append(b, 0x80|126, byte(len(payload)>>8), byte(len(payload)))
	}
	var mask [4]byte
	binary.BigEndian.PutUint32(mask[:], ws.rng.Uint32())
	b = append(b, mask[:]...)
	for i, x := range payload {
		b = append(b, x^mask[i%4])
	}
	_, err := ws.cn.Write(b)
	return err
}

// frame reads the next frame of a WebSocket. The payload is valid until the next
// call. It may be called again after a timeout.
func (a *answerReader) frame() (op byte, fin bool, payload []byte, err error) {
	for {
		if b := a.buf[a.pos:a.end]; len(b) >= 2 {
			length, head := int(b[1]&0x7f), 2
			switch {
			case b[0]&0x70 != 0 || b[1]&0x80 != 0:
				return 0, false, nil, malformed("frame begins with % x", b[:2])
			case b[0]&8 != 0 && (length > 125 || b[0]&0x80 == 0):
				return 0, false, nil, malformed("control frame begins with % x", b[:2])
			case length == 126 && len(b) >= 4:
				length, head = int(binary.BigEndian.Uint16(b[2:])), 4
			case length == 127 && len(b) >= 10:
				if n := binary.BigEndian.Uint64(b[2:]); n > maxMessage {
					return 0, false, nil, malformed("frame of %d bytes", n)
				}
				length, head = int(binary.BigEndian.Uint64(b[2:])), 10
			case length > 125:
				length = maxMessage // not known yet
			}
			if len(b) >= head+length {
				a.pos += head + length
				return b[0] & 15, b[0]&0x80 != 0, b[head : head+length], nil
			}
		}
		if err := a.fill(); err != nil {
			return 0, false, nil, err
		}
	}
}
