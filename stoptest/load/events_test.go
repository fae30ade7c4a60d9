package load

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const streamHeader = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"

// chunk writes one.
func (c *serverConn) chunk(text string) { writeChunk(c, text) }

func writeChunk(w io.Writer, text string) { fmt.Fprintf(w, "%x\r\n%s\r\n", len(text), text) }

// Each client asks for four streams, each of which has two events and then the
// end that is the case.
func TestEventStreams(t *testing.T) {
	row := Counts{Clients: 2, Requests: 8, Messages: 16}
	clean, cut := row, row
	clean.CleanEnd, cut.Cut = 8, 8
	tests := []struct {
		name string
		end  func(c *serverConn)
		want Counts
		how  How
	}{
		{"final chunk", func(c *serverConn) { c.chunk("") }, clean, 0},
		{"final chunk after a comment", func(c *serverConn) { c.chunk(": so long\n"); c.chunk("") }, clean, 0},
		{"FIN", func(*serverConn) {}, cut, FIN},
		{"FIN within an event", func(c *serverConn) { c.chunk("data: x") }, cut, FIN},
		{"half a final chunk", func(c *serverConn) { fmt.Fprint(c, "0\r\n") }, cut, FIN},
		{"RST", (*serverConn).reset, cut, RST},
		{"final chunk within an event", func(c *serverConn) { c.chunk("data: x\n"); c.chunk("") }, cut, Malformed},
		{"final chunk within a line", func(c *serverConn) { c.chunk(":x"); c.chunk("") }, cut, Malformed},
		{"no chunk", func(c *serverConn) { fmt.Fprint(c, "oops\r\n") }, cut, Malformed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			addr := rawServer(t, func(c *serverConn) {
				id, ok := c.request()
				if !ok {
					return
				}
				fmt.Fprintf(c, "%sConnection: close\r\nX-Echo: %s\r\n\r\n", streamHeader, id)
				c.chunk(": hello\n\nid: 1\nda")
				c.chunk("ta: one\n\ndata: two\r")
				c.chunk("\n\r\n")
				test.end(c)
			})
			l := start(t, Config{Addr: addr, EchoHeader: "X-Echo", EchoBody: true, Groups: []Group{{Kind: Events, N: 2, Requests: 4}}})
			led := l.Wait()
			wantCounts(t, led, led.Total, test.want)
			for _, s := range led.Losses {
				if s.Outcome != Cut || s.How != test.how || s.AnswerBytes == 0 {
					t.Errorf("loss = %+v, want how %v", s, test.how)
				}
			}
		})
	}
}

func TestEventStreamsThatDoNotBegin(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		want         Counts
	}{
		{"error status", "HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", Counts{Clients: 1, Requests: 2, ErrorStatus: 2}},
		{"another type", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", Counts{Clients: 1, Requests: 2, WrongAnswer: 2}},
		{"no header", "", Counts{Clients: 1, Requests: 2, Lost: 2}},
		{"half a header", streamHeader, Counts{Clients: 1, Requests: 2, Lost: 2}},
		{"no end but the connection's", "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: x\n\n", Counts{Clients: 1, Requests: 2, Messages: 2, Cut: 2}},
		{"another's", streamHeader + "Connection: close\r\nX-Echo: y\r\n\r\n0\r\n\r\n", Counts{Clients: 1, Requests: 2, Cut: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := rawServer(t, func(c *serverConn) {
				if _, ok := c.request(); ok {
					io.WriteString(c, tt.answer)
				}
			})
			cfg := Config{Addr: addr, Groups: []Group{{Kind: Events, Requests: 2}}}
			if tt.name == "another's" {
				cfg.EchoHeader = "X-Echo"
			}
			led := start(t, cfg).Wait()
			wantCounts(t, led, led.Total, tt.want)
		})
	}
}

// TestEventStreamOnTheSameConnection: the final chunk isn't the connection's
// end, and silence isn't the stream's. At the load's end the client leaves.
func TestEventStreamOnTheSameConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := memoryServer(t, func(c net.Conn) {
			r := bufio.NewReader(c)
			for n := 0; ; n++ {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				io.WriteString(c, streamHeader+"\r\n")
				writeChunk(c, "data: x\n\n")
				if n < 3 {
					time.Sleep(30 * time.Millisecond) // longer than AnswerTimeout
					writeChunk(c, "")
				}
			}
		})
		l := start(t, Config{Dial: dial, AnswerTimeout: 20 * time.Millisecond, Groups: []Group{{Kind: Events}}})
		ready(t, l, 4)
		l.Stop()
		led := l.Wait()
		wantCounts(t, led, led.Total, Counts{Clients: 1, Requests: 4, Messages: 4, CleanEnd: 3, Answered: 1, Conns: 1})
	})
}

func TestEventCounter(t *testing.T) {
	for _, tt := range []struct {
		text    string
		whole   int
		between bool
	}{
		{"", 0, true},
		{"data: x", 0, false},
		{"data: x\n", 0, false},
		{"data: x\n\n", 1, true},
		{"data: x\r\n\r\n", 1, true},
		{"data: x\r\r", 1, true},
		{"data: x\r\n\n", 1, true},
		{"data: x\r\n", 0, false},
		{":\n", 0, true},
		{":", 0, false},
		{"\n\n\n", 0, true},
		{":x\ndata\n:y\n\n\n", 1, true},
		{"a\n\nb\n\nc\n", 2, false},
	} {
		var at eventCounter
		var apart eventCounter
		whole := at.write([]byte(tt.text))
		for _, b := range strings.Split(tt.text, "") {
			apart.write([]byte(b))
		}
		if whole != tt.whole || at.between() != tt.between || at != apart {
			t.Errorf("%q: %d events, between %v, want %d, %v; byte by byte %+v, want %+v", tt.text, whole, at.between(), tt.whole, tt.between, apart, at)
		}
	}
}
