package drain

import (
	"bytes"
	"testing"
)

// FuzzFraming hands a stream to a framing in pieces, as a socket would, and
// takes it out in pieces, as net/http would. Nothing may be lost or turned
// round, and no piece may go past an empty line.
func FuzzFraming(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\n\nPOST"), uint8(7), uint8(100))
	f.Add([]byte("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\nGET"), uint8(255), uint8(1))
	f.Add([]byte("a\r"+"\n\r"+"\n\r\n"), uint8(1), uint8(3))
	f.Fuzz(func(t *testing.T, stream []byte, in, out uint8) {
		fr := framing{on: true}
		arrives := bytes.Clone(stream)
		var got []byte
		p := make([]byte, int(out)+1)
		begun := 0 // of the message
		for {
			n, limit := fr.take(p)
			if n == 0 {
				if n = copy(p[:min(limit, int(in)+1)], arrives); n == 0 {
					break
				}
				arrives = arrives[n:]
				n = fr.split(p[:n])
			}
			got = append(got, p[:n]...)
			msg := got[begun:]
			if end := emptyLine(msg); end >= 0 {
				if end < len(msg) {
					t.Fatalf("%q was handed out with %q behind its end", msg[:end], msg[end:])
				}
				begun = len(got)
			}
		}
		if !bytes.Equal(got, stream) {
			t.Fatalf("handed out %q of %q", got, stream)
		}
	})
}

// emptyLine returns where the first empty line of p ends that another line
// precedes, or -1.
func emptyLine(p []byte) int {
	started := false
	for at := 0; ; {
		nl := bytes.IndexByte(p[at:], '\n')
		if nl < 0 {
			return -1
		}
		line := p[at : at+nl]
		at += nl + 1
		switch {
		case len(line) > 1 || len(line) == 1 && line[0] != '\r':
			started = true
		case started:
			return at
		}
	}
}

func TestFramingOfBody(t *testing.T) {
	const header, body, next = "POST / HTTP/1.1\r\n\r\n", "\r\n\r\n!!", "GET / HTTP/1.1\r\n\r\n"
	fr := framing{on: true}
	p := []byte(header + body + next)
	if n := fr.split(p); n != len(header) {
		t.Fatalf("handed out %q, want the header", p[:n])
	}
	fr.body = int64(len(body))
	if behind, _ := fr.behind(); !behind {
		t.Error("nothing behind, though the next request is")
	}
	n, _ := fr.take(p)
	if string(p[:n]) != body {
		t.Errorf("handed out %q, want the body", p[:n])
	}
	if n, _ = fr.take(p); string(p[:n]) != next {
		t.Errorf("handed out %q, want the next request", p[:n])
	}
	if behind, body := fr.behind(); behind || body != 0 {
		t.Errorf("behind() = %v, %v at the end, want false, 0", behind, body)
	}
}
