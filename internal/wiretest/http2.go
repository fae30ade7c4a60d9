package wiretest

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An HTTP2 is a client of HTTP/2 that checks nothing of what it sends.
type HTTP2 struct {
	t      testing.TB
	framer *http2.Framer
	stream uint32
}

// A Field is a name and a value, of a header field or a pseudo-header field.
type Field = [2]string

// NewHTTP2 begins HTTP/2 on a connection.
func NewHTTP2(t testing.TB, nc net.Conn) *HTTP2 {
	t.Helper()
	c := &HTTP2{t: t, framer: http2.NewFramer(nc, nc)}
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// Exchange sends a request on a stream of its own, and returns the status and
// the body of its answer. A status of 0 means that the stream was reset.
// Trailers are sent behind a body only.
func (c *HTTP2) Exchange(header []Field, body string, trailer ...Field) (status int, answer string) {
	c.t.Helper()
	c.stream += 2
	id := c.stream - 1
	encode := func(fields []Field) []byte {
		var block bytes.Buffer
		e := hpack.NewEncoder(&block)
		e.SetMaxDynamicTableSize(0)
		for _, f := range fields {
			e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		return block.Bytes()
	}
	check := func(err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatalf("HTTP/2, stream %d: %v", id, err)
		}
	}
	check(c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: encode(header), EndHeaders: true, EndStream: body == ""}))
	if body != "" {
		check(c.framer.WriteData(id, len(trailer) == 0, []byte(body)))
		if len(trailer) > 0 {
			check(c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: encode(trailer), EndHeaders: true, EndStream: true}))
		}
	}
	for {
		f, err := c.framer.ReadFrame()
		check(err)
		ended := false
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == id {
				if s := f.PseudoValue("status"); s != "" {
					status, _ = strconv.Atoi(s)
				}
				ended = f.StreamEnded()
			}
		case *http2.DataFrame:
			if f.StreamID == id {
				answer += string(f.Data())
				ended = f.StreamEnded()
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return 0, answer
			}
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				c.t.Fatalf("HTTP/2, stream %d: GOAWAY %v", id, f.ErrCode)
			}
		}
		if ended && status >= 200 {
			return status, answer
		}
	}
}
