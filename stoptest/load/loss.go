package load

import (
	"net"
	"time"
)

// Loss describes a request that ended as [Lost], [WrongAnswer], [Duplicated],
// [ResetOnConnect], [ClientError], [Cut] or [FailedStatus]. With HTTP/2
// AnswerBytes and Sent are bytes of the stream, without the headers of frames.
type Loss struct {
	Outcome Outcome
	ID      string
	Group   string
	Client  int
	// Local and Remote are the connection's addresses; empty if there was none.
	Local, Remote string
	// Wrote is when the first byte was about to be written, or the dial began;
	// Failed is when the client learned of the failure.
	Wrote, Failed time.Time
	Err           string
	How           How
	Before        Pending
	Sent          int   // bytes of the request that the kernel took
	AnswerBytes   int64 // that came
	Earlier       int   // requests on that connection before
	// SinceAnswer is the time from the previous answer on that connection to
	// Wrote; zero if there was none. SinceConnect is the time from its connect.
	SinceAnswer, SinceConnect time.Duration
}

func (s *Loss) at(nc net.Conn) {
	s.Local, s.Remote = addrString(nc.LocalAddr()), addrString(nc.RemoteAddr())
}

// maxLosses is how many losses are kept in detail. All are counted.
const maxLosses = 10_000

func (l *Load) keepLoss(loss Loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.losses) == maxLosses {
		l.dropped++
		return
	}
	l.losses = append(l.losses, loss)
}
