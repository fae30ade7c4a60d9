package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
)

// errMalformed matches the errors of parsing an answer.
var errMalformed = errors.New("malformed answer")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errMalformed, fmt.Sprintf(format, args...))
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

const (
	maxLine   = 64 << 10 // of an answer's header, in bytes
	maxHeader = 1 << 20  // all lines of an answer's headers, trailers and chunk sizes
	keepBody  = 4 << 10  // of the body, for the ID
)

// answer holds what a client checks of an answer.
type answer struct {
	status int
	close  bool   // the connection is not used again
	echo   []byte // the echo header's value; nil if there was none
	body   []byte // its first keepBody bytes, if asked for

	events bool   // text/event-stream
	accept []byte // Sec-WebSocket-Accept
	ended  bool   // the end of the body was marked, not only by the end of the connection
}

// answerReader parses answers strictly, so that half an answer never counts as a
// whole one.
type answerReader struct {
	src      io.Reader
	buf      []byte
	pos, end int   // buf[pos:end] has not been parsed
	received int64 // bytes of the present answer
	lines    int   // bytes of its lines
	echoName []byte
	keepBody bool
	upgrade  bool // 101 is an answer
	// tee is called with nil after the header, and then with each piece of the
	// body. It may be nil.
	tee    func([]byte)
	answer answer // reused
}

// read returns the whole answer to a request with the given method, valid
// until the next call. It skips interim answers (1xx). An error that is an
// io.EOF means that the other side ended the connection before the answer.
func (a *answerReader) read(head bool) (*answer, error) {
	a.received, a.lines = 0, 0
	for {
		length, chunked, err := a.header()
		if err != nil {
			return nil, err
		}
		ans := &a.answer
		switch s := ans.status; {
		case s == 101 && a.upgrade:
			return ans, nil
		case s == 101:
			return nil, malformed("101 that nobody asked for")
		case s < 200:
			continue
		}
		if a.tee != nil {
			a.tee(nil)
		}
		ans.ended = true
		switch s := ans.status; {
		case head || s == 204 || s == 304:
			return ans, nil
		case chunked:
			return ans, a.skipChunks()
		case length >= 0:
			return ans, a.skip(length)
		default: // the body ends with the connection
			ans.close, ans.ended = true, false
			return ans, a.skipToEOF()
		}
	}
}

// header reads a status line and header lines.
func (a *answerReader) header() (length int64, chunked bool, err error) {
	a.answer = answer{echo: a.answer.echo[:0], body: a.answer.body[:0], accept: a.answer.accept[:0]}
	echoed, keep, length := false, false, int64(-1)
	line, err := a.line()
	if err != nil {
		return 0, false, err
	}
	// HTTP/1.1 200 OK
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[7] != '0' && line[7] != '1' ||
		line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return 0, false, malformed("status line %.40q", line)
	}
	old := line[7] == '0'
	status, ok := number(line[9:12], 10)
	if !ok || status < 100 || status > 599 {
		return 0, false, malformed("status line %.40q", line)
	}
	a.answer.status = int(status)
	for {
		line, err := a.line()
		if err != nil {
			return 0, false, err
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(name) == 0 || bytes.ContainsAny(name, " \t") {
			return 0, false, malformed("header line %.40q", line)
		}
		value = bytes.Trim(value, " \t")
		if len(a.echoName) > 0 && bytes.EqualFold(name, a.echoName) {
			a.answer.echo, echoed = append(a.answer.echo[:0], value...), true
		}
		switch { // the length is compared first, for speed
		case len(name) == 14 && equalFold(name, "content-length"):
			n, ok := number(value, 10)
			if !ok || length >= 0 && n != length {
				return 0, false, malformed("Content-Length %.40q", value)
			}
			length = n
		case len(name) == 17 && equalFold(name, "transfer-encoding"):
			if chunked || !equalFold(value, "chunked") {
				return 0, false, malformed("Transfer-Encoding %.40q", value)
			}
			chunked = true
		case len(name) == 10 && equalFold(name, "connection"):
			for token := range bytes.SplitSeq(value, []byte(",")) {
				token = bytes.Trim(token, " \t")
				a.answer.close = a.answer.close || equalFold(token, "close")
				keep = keep || equalFold(token, "keep-alive")
			}
		case len(name) == 12 && equalFold(name, "content-type"):
			kind, _, _ := bytes.Cut(value, []byte(";"))
			a.answer.events = equalFold(bytes.TrimRight(kind, " \t"), "text/event-stream")
		case len(name) == 20 && equalFold(name, "sec-websocket-accept"):
			a.answer.accept = append(a.answer.accept[:0], value...)
		}
	}
	if chunked && length >= 0 {
		return 0, false, malformed("both Content-Length and Transfer-Encoding")
	}
	if chunked && old {
		return 0, false, malformed("chunks in HTTP/1.0")
	}
	if !echoed {
		a.answer.echo = nil
	}
	a.answer.close = a.answer.close || old && !keep
	return length, chunked, nil
}

func (a *answerReader) skipChunks() error {
	for {
		line, err := a.line()
		if err != nil {
			return err
		}
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, ok := number(bytes.TrimRight(size, " \t"), 16)
		if !ok {
			return malformed("chunk size %.40q", line)
		}
		if n == 0 {
			break
		}
		if err := a.skip(n); err != nil {
			return err
		}
		if line, err = a.line(); err != nil {
			return err
		}
		if len(line) > 0 {
			return malformed("%.40q after a chunk", line)
		}
	}
	for { // trailers
		line, err := a.line()
		if err != nil || len(line) == 0 {
			return err
		}
		if name, _, ok := bytes.Cut(line, []byte(":")); !ok || len(name) == 0 || bytes.ContainsAny(name, " \t") {
			return malformed("trailer line %.40q", line)
		}
	}
}

// skip consumes n bytes of body.
func (a *answerReader) skip(n int64) error {
	for n > 0 {
		if a.pos == a.end {
			if err := a.fill(); err != nil {
				return err
			}
		}
		n -= int64(a.consume(n))
	}
	return nil
}

func (a *answerReader) skipToEOF() error {
	for {
		a.consume(math.MaxInt64)
		if err := a.fill(); isEOF(err) {
			if src, ok := a.src.(*conn); ok {
				return src.endError()
			}
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (a *answerReader) consume(most int64) int {
	b := a.buf[a.pos:a.end]
	if int64(len(b)) > most {
		b = b[:most]
	}
	if room := keepBody - len(a.answer.body); a.keepBody && room > 0 {
		a.answer.body = append(a.answer.body, b[:min(room, len(b))]...)
	}
	if a.tee != nil && len(b) > 0 {
		a.tee(b)
	}
	a.pos += len(b)
	return len(b)
}

// line returns the next line without its CR LF, valid until the next call.
func (a *answerReader) line() ([]byte, error) {
	for seen := 0; ; {
		if i := bytes.IndexByte(a.buf[a.pos+seen:a.end], '\n'); i >= 0 {
			line := a.buf[a.pos : a.pos+seen+i]
			a.pos += seen + i + 1
			a.lines += len(line) + 2
			if a.lines > maxHeader {
				return nil, malformed("more than %d bytes of header", maxHeader)
			}
			if len(line) == 0 || line[len(line)-1] != '\r' {
				return nil, malformed("%.40q ends without CR", line)
			}
			line = line[:len(line)-1]
			if bytes.ContainsAny(line, "\r\x00") {
				return nil, malformed("a control character in %.40q", line)
			}
			return line, nil
		}
		seen = a.end - a.pos
		if seen > maxLine {
			return nil, malformed("a line of more than %d bytes", maxLine)
		}
		if err := a.fill(); err != nil {
			return nil, err
		}
	}
}

// fill makes room in buf and reads.
func (a *answerReader) fill() error {
	if a.pos > 0 {
		a.end = copy(a.buf, a.buf[a.pos:a.end])
		a.pos = 0
	}
	if a.end == len(a.buf) {
		a.buf = append(a.buf, make([]byte, max(len(a.buf), 4096))...)
	}
	n, err := a.src.Read(a.buf[a.end:])
	a.end += n
	a.received += int64(n)
	if n > 0 {
		return nil // the next Read returns the error, if any
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// number parses at most 15 digits, without sign or space.
func number(b []byte, base int64) (int64, bool) {
	if len(b) == 0 || len(b) > 15 {
		return 0, false
	}
	n := int64(0)
	for _, c := range b {
		d := int64(99)
		switch {
		case c >= '0' && c <= '9':
			d = int64(c - '0')
		case c >= 'a' && c <= 'f':
			d = int64(c-'a') + 10
		case c >= 'A' && c <= 'F':
			d = int64(c-'A') + 10
		}
		if d >= base {
			return 0, false
		}
		n = n*base + d
	}
	return n, true
}

// equalFold reports whether b is the lower-case ASCII text, in any case, without
// allocating.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
