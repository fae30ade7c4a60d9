package load

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// judge ends a request with its answer, or with the error of reading it.
func (c *client) judge(cn *conn, loss Loss, ans *answer, err, writeErr error) (goOn bool) {
	loss.AnswerBytes = c.reader.received
	if err != nil {
		if writeErr != nil && writeErr != errAnsweredEarly {
			err = writeErr
		}
		loss.Outcome, loss.How = Lost, howOf(err)
		return c.endFailed(loss, err)
	}
	if err := c.checkAnswer(ans, loss.Before); err != nil {
		loss.Outcome, loss.How = wrongOutcome(err), Malformed
		return c.endFailed(loss, err)
	}
	cn.answeredAt = time.Now()
	if !ans.ended && ans.status != http.StatusSwitchingProtocols {
		c.count(&c.row.EndedByClose, 1)
	}
	if ans.status >= 500 {
		loss.at(cn.Conn)
	}
	if writeErr != nil || ans.close || c.Kind == Connect || c.Kind == WebSocket {
		c.dropConn()
	}
	c.endAnswered(ans.status, loss, cn.answeredAt)
	return true
}

// endAnswered ends a request with a whole answer, which came at ended.
func (c *client) endAnswered(status int, loss Loss, ended time.Time) {
	outcome := Answered
	if status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented && !c.load.isAfterSignal(ended) {
		c.mu.Lock()
		c.unknownMethod = status
		c.mu.Unlock()
	}
	if status >= 400 {
		c.noteFailure("%v, %s", ErrorStatus, statusText(status))
	}
	switch {
	case status >= 500 && c.load.isAfterSignal(ended) && !slices.Contains(c.load.cfg.AllowStatus, status):
		outcome = FailedStatus
		loss.Outcome, loss.Failed, loss.Err = outcome, ended, statusText(status)
		c.load.keepLoss(c.withID(loss))
	case status >= 400:
		outcome = ErrorStatus
	}
	c.record(outcome, loss.Wrote, ended)
}

// statusText returns "404 Not Found".
func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
}

// errDuplicate matches the error of an answer to a request that was answered
// before.
var errDuplicate = errors.New("a duplicate")

func wrongOutcome(err error) Outcome {
	if errors.Is(err, errDuplicate) {
		return Duplicated
	}
	return WrongAnswer
}

// answeredBefore reports whether id is the ID of an earlier request of this client
// that was answered.
func (c *client) answeredBefore(id []byte) bool {
	g, i, seq, ok := parseID(c.load.cfg.Run, string(id))
	return ok && g == c.group.number && i == c.index && seq < len(c.outcomes) &&
		(c.outcomes[seq] == Answered || c.outcomes[seq] == ErrorStatus || c.outcomes[seq] == FailedStatus)
}

// checkAnswer returns an error if ans is not the one answer to the present request.
func (c *client) checkAnswer(ans *answer, before Pending) error {
	cfg := &c.load.cfg
	id, good := c.id, ans.status < 400
	switch extra := c.reader.end - c.reader.pos; {
	case cfg.EchoHeader != "" && ans.echo != nil && !bytes.Equal(ans.echo, id) && c.answeredBefore(ans.echo):
		return fmt.Errorf("%w: %d to %s is to %s", errDuplicate, ans.status, id, ans.echo)
	case cfg.EchoHeader != "" && c.Kind != WebSocket && bytes.HasPrefix(c.reader.buf[c.reader.pos:c.reader.end], []byte("HTTP/1.")):
		return fmt.Errorf("%w: two answers to %s", errDuplicate, id)
	case extra > 0 && c.Kind != WebSocket:
		return malformed("%d bytes beyond the answer", extra)
	case before == PendingBytes:
		return malformed("%d came before the request was written", ans.status)
	case c.Kind == Events && ans.status == http.StatusOK && !ans.events,
		c.Kind == WebSocket && good && (ans.status != http.StatusSwitchingProtocols || string(ans.accept) != wsAccept):
		return malformed("%d to %s does not begin a stream of %s", ans.status, id, c.Kind)
	case cfg.EchoHeader != "" && (good || ans.echo != nil) && !bytes.Equal(ans.echo, id):
		return malformed("%d to %s has %s %.80q", ans.status, id, cfg.EchoHeader, ans.echo)
	case cfg.EchoBody && good && c.Kind < Events && !hasID(ans.body, id):
		return malformed("%d to %s has no such ID in its body %.80q", ans.status, id, ans.body)
	}
	return nil
}

// endFailed ends a request that was not answered, because of err.
func (c *client) endFailed(loss Loss, err error) (goOn bool) {
	loss.Failed = time.Now()
	if err != nil {
		loss.Err = err.Error()
	}
	c.noteFailure("%v, %s", loss.Outcome, cmp.Or(loss.Err, loss.How.String()))
	loss = c.withID(loss)
	if c.conn != nil {
		loss.at(c.conn.Conn)
		c.dropConn()
	}
	if loss.Outcome == Lost {
		c.mu.Lock()
		c.row.addLost(&loss)
		c.mu.Unlock()
	}
	c.load.keepLoss(loss)
	c.record(loss.Outcome, loss.Wrote, loss.Failed)
	if loss.Outcome == ResetOnConnect || loss.Outcome == ClientError {
		return c.pauseFor(redial)
	}
	return true
}

// withID adds the group, the client and the ID of the present request.
func (c *client) withID(loss Loss) Loss {
	loss.Group, loss.Client = c.Name, c.index
	loss.ID = string(appendID(nil, c.load.cfg.Run, c.group.number, c.index, len(c.outcomes)))
	return loss
}

// record ends a request with its outcome.
func (c *client) record(o Outcome, began, ended time.Time) {
	after := c.load.isAfterSignal(ended)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.row.InFlight = 0
	c.onEndLocked(began)
	c.outcomes = append(c.outcomes, o)
	c.times = append(c.times, span{began.Sub(c.load.started), ended.Sub(c.load.started)})
	c.row.addOutcome(o, began, ended, after)
}
