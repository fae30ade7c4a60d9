package drain_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"lastcall/internal/servetest"
	"lastcall/internal/wiretest"
)

// client2 is an HTTP/2 client on one connection, which it does not close by
// itself.
func client2(t *testing.T, s *servetest.Service, overTLS bool) *http.Client {
	// One connection, not one for each of the first requests.
	tr := &http.Transport{MaxConnsPerHost: 1, Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if overTLS {
		tr.Protocols.SetHTTP2(true)
	} else {
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: wiretest.Patience}
}

func fetch(c *http.Client, s *servetest.Service, overTLS bool) (string, error) {
	scheme := "http"
	if overTLS {
		scheme = "https"
	}
	resp, err := c.Get(scheme + "://" + s.Addr + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("HTTP/%d %s", resp.ProtoMajor, body), err
}

// raw2 is a connection that says only what HTTP/2 demands of a client, and
// stays when it is sent GOAWAY.
func raw2(t *testing.T, s *servetest.Service, overTLS bool) net.Conn {
	t.Helper()
	nc := dial2(t, s, overTLS)
	preface(t, nc)
	return nc
}

// dial2 connects, with TLS or without, and says nothing.
func dial2(t *testing.T, s *servetest.Service, overTLS bool) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(wiretest.Patience))
	if overTLS {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	return nc
}

func preface(t *testing.T, nc net.Conn) {
	t.Helper()
	if _, err := io.WriteString(nc, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		t.Fatal(err)
	}
}

// frames reads until the end, and returns the types of the frames. It answers PINGs.
func frames(nc net.Conn) (types []byte, err error) {
	fr := http2.NewFramer(nc, nc)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return types, err
		}
		types = append(types, byte(f.Header().Type))
		if ping, ok := f.(*http2.PingFrame); ok && !ping.IsAck() {
			fr.WritePing(true, ping.Data)
		}
	}
}

const goaway = 7 // the type of the frame

// ask2 sends the preface, with the settings, and a request for /asked on stream 1.
func ask2(t *testing.T, nc net.Conn, settings ...http2.Setting) *http2.Framer {
	t.Helper()
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	fr := http2.NewFramer(nc, nc)
	if err := errors.Join(fr.WriteSettings(settings...), fr.WriteWindowUpdate(0, 1<<30)); err != nil {
		t.Fatal(err)
	}
	askOn(t, fr, 1, "/asked")
	return fr
}

// askOn sends a request on a stream.
func askOn(t *testing.T, fr *http2.Framer, stream uint32, path string, more ...hpack.HeaderField) {
	t.Helper()
	if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: header2("GET", path, more...), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
}

// header2 is the header of a request, in the coding of a new connection.
func header2(method, path string, more ...hpack.HeaderField) []byte {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	fields := append([]hpack.HeaderField{{Name: ":method", Value: method}, {Name: ":scheme", Value: "http"},
		{Name: ":authority", Value: "x"}, {Name: ":path", Value: path}}, more...)
	for _, f := range fields {
		enc.WriteField(f)
	}
	return block.Bytes()
}

// answer2 reads the answer on stream 1 to its end.
func answer2(fr *http2.Framer) (body string, err error) {
	var b strings.Builder
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return b.String(), err
		}
		if d, ok := f.(*http2.DataFrame); ok {
			b.Write(d.Data())
			if d.StreamEnded() {
				return b.String(), nil
			}
		}
	}
}
