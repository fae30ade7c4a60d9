package drain

import (
	"bytes"
	"strings"
)

// framing follows a connection's HTTP/1 requests just closely enough to tell
// where one ends, so that no more is read than belongs to it. Under TLS it follows
// records instead. The zero value follows nothing.
//
// A header ends with an empty line, and so does a chunked body. Within a body of
// known length nothing is looked for. To stop at an empty line within a chunk
// does no harm: the rest is handed out with the next Read.
type framing struct {
	on         bool
	tls        bool // net/http serves the connection over TLS: what is pending are records; set once
	records    records
	started    bool     // a line that is not empty precedes in this message
	line       int      // bytes in the line so far, with a CR at its end
	cr         bool     // the last of them is a CR
	headEnded  bool     // an empty line was the last that was handed out
	field      [15]byte // the first bytes of the line
	length     bool     // a line since the last body was a Content-Length
	body       int64    // bytes of the current body yet to come; -1: unknown
	restUnread bool     // net/http was kept from reading its rest, which has not come
	pending    []byte   // arrived, not yet handed out
	head       []byte   // handed out of a request whose header is not whole yet

	afterPost bool // net/http skips a few empty lines before the next request
}

// unanswered is all that has arrived of a request whose header is not whole yet.
func (f *framing) unanswered() []byte {
	return append(f.head[:len(f.head):len(f.head)], f.pending...)
}

// stop follows requests no more. Records are still followed, and what is pending is handed
// out.
func (f *framing) stop() { f.on, f.body = false, -1 }

// endBody notes that nothing of the body is left: what is pending is the next
// request, or empty lines before it. It reports whether some of a request is.
func (f *framing) endBody() bool {
	f.body, f.length, f.restUnread = 0, false, false
	return !onlyEmptyLines(f.pending)
}

// take hands out from what is pending, or returns how much may be read.
func (f *framing) take(p []byte) (n, limit int) {
	limit = len(p)
	if f.on && f.body > 0 {
		limit = int(min(int64(limit), f.body))
	}
	if len(f.pending) == 0 {
		return 0, limit
	}
	n = copy(p[:limit], f.pending)
	n = f.end(p[:n])
	if f.pending = f.pending[n:]; len(f.pending) == 0 {
		f.pending = nil
	}
	return n, limit
}

// split returns how much of p, which has just arrived, to hand out. It keeps
// the rest.
func (f *framing) split(p []byte) int {
	n := f.end(p)
	if n < len(p) {
		f.pending = bytes.Clone(p[n:])
	}
	return n
}

// end returns how much of p belongs together, and moves on by as much.
func (f *framing) end(p []byte) int {
	if f.tls {
		n, _ := f.records.follow(p)
		for f.body != 0 && n < len(p) { // this is slow, but finds what follows the body
			m, _ := f.records.follow(p[n:])
			n += m
		}
		return n
	}
	if !f.on {
		return len(p)
	}
	if f.body > 0 {
		n := int(min(int64(len(p)), f.body))
		f.body -= int64(n)
		return n
	}
	f.headEnded = false
	for i := 0; i < len(p); {
		nl := bytes.IndexByte(p[i:], '\n')
		if f.line < len(f.field) {
			copy(f.field[f.line:], p[i:])
		}
		if nl < 0 {
			rest := p[i:]
			f.line += len(rest)
			f.cr = rest[len(rest)-1] == '\r'
			return len(p)
		}
		length := f.line + nl
		if nl > 0 && p[i+nl-1] == '\r' || nl == 0 && f.cr {
			length--
		}
		f.line, f.cr = 0, false
		i += nl + 1
		switch {
		case length > 0:
			f.started = true
			f.length = f.length || length >= len(f.field) && f.field[0]|0x20 == 'c' && strings.EqualFold(string(f.field[:]), "content-length:")
		case f.started: // an empty line before a message does not end one
			f.started, f.headEnded = false, true
			return i
		}
	}
	return len(p)
}

// behind reports whether something of a further request is pending. body is how
// many bytes that are not will come before one; -1 is unknown.
func (f *framing) behind() (yes bool, body int64) {
	if f.body < 0 || !f.on && f.body > 0 { // records are longer than what is in them
		return false, -1
	}
	n := int64(len(f.pending))
	if n > f.body {
		return !onlyEmptyLines(f.pending[f.body:]), 0
	}
	return false, f.body - n
}

// bodyLeft reports whether some of the body has not been read, as far as that is known.
func (f *framing) bodyLeft() bool { return (f.on || f.restUnread) && f.body != 0 }

// onlyEmptyLines reports whether p is nothing or what may precede a request:
// RFC 9112 section 2.2.
func onlyEmptyLines(p []byte) bool {
	for _, b := range p {
		if b != '\r' && b != '\n' {
			return false
		}
	}
	return true
}

// records follows the records that a TLS client sends.
type records struct {
	header [5]byte // of the record that is arriving
	have   int     // bytes of header
	length int     // of the record's content
	left   int     // bytes of the content yet to come
}

// follow follows p to the end of a record, and returns how much that is. It reports
// whether the record is whole.
func (r *records) follow(p []byte) (n int, whole bool) {
	if r.have < len(r.header) {
		n = copy(r.header[r.have:], p)
		r.have += n
		if r.have < len(r.header) {
			return n, false
		}
		r.length = int(r.header[3])<<8 | int(r.header[4])
		r.left = r.length
	}
	m := min(r.left, len(p)-n)
	r.left -= m
	if r.left > 0 {
		return n + m, false
	}
	r.have = 0
	return n + m, true
}

// partial reports whether a part of a record has come.
func (r *records) partial() bool { return r.have > 0 }

// isAlert reports whether the last record was an alert, such as close_notify. In TLS 1.3
// it looks as 2 bytes of anything do.
func (r *records) isAlert() bool {
	const alert, ciphered = 21, 23
	return r.have == 0 && (r.header[0] == alert || r.header[0] == ciphered && r.length == 2+1+16)
}
