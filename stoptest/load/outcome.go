package load

// Outcome is how a request ended.
type Outcome uint8

const (
	Answered       Outcome = iota // a whole answer 2xx or 3xx, see also Row.EndedByClose; a stream that the client ended, at the load's end
	ErrorStatus                   // a whole answer 4xx or 5xx, except FailedStatus
	Refused                       // connect refused, or the SYN not answered in time
	ResetOnConnect                // connect reset, or the connection ended before a byte was written, or in the TLS handshake
	Lost                          // written, if only in part, and no whole answer
	WrongAnswer                   // a whole answer, to something else
	ClientError                   // the client's own: no port, no descriptor, no route, a certificate or a protocol that it refuses
	SafeToRetry                   // HTTP/2: above GOAWAY's last stream ID, or refused by RST_STREAM
	CleanEnd                      // a stream that the server ended as its protocol wants it
	Cut                           // a stream that ended otherwise, once it had begun
	Duplicated                    // a whole answer, to an earlier request that had been answered, or two; needs Config.EchoHeader
	FailedStatus                  // a whole answer 5xx after the signal, see Config.AllowStatus
	outcomes
)

// answered reports whether the server counts such a request as served.
func (o Outcome) answered() bool { return o == Answered || o == CleanEnd }

func (o Outcome) String() string {
	names := [outcomes]string{"answered", "error status", "refused", "reset on connect", "lost", "wrong answer", "client error",
		"safe to retry", "clean end", "cut", "duplicated", "failed status"}
	if o < outcomes {
		return names[o]
	}
	return "no outcome"
}

// How is how a request's connection ended.
type How uint8

const (
	OtherError How = iota
	FIN
	RST
	Timeout
	Malformed   // the answer's text was wrong; the client closed
	StreamReset // RST_STREAM
)

func (h How) String() string {
	return [...]string{"other error", "FIN", "RST", "timeout", "malformed", "RST_STREAM"}[min(h, StreamReset)]
}

// Pending is what the socket held just before the request was written.
type Pending uint8

const (
	Unknown Pending = iota // the system or the connection doesn't tell
	Nothing
	PendingFIN
	PendingRST
	PendingBytes // an answer before its request
)

func (p Pending) String() string {
	return [...]string{"unknown", "nothing", "FIN", "RST", "bytes"}[min(p, PendingBytes)]
}
