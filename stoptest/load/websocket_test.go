package load

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// upgrade reads a WebSocket's handshake and accepts it.
func (c *serverConn) upgrade() bool {
	id, ok := c.request()
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Echo: %s\r\nSec-WebSocket-Accept: %s\r\n\r\n", id, wsAccept)
	return ok
}

func serverFrame(first byte, payload string) string {
	if len(payload) > 125 {
		return string([]byte{first, 126, byte(len(payload) >> 8), byte(len(payload))}) + payload
	}
	return string([]byte{first, byte(len(payload))}) + payload
}

func closeFrame(status uint16) string {
	return serverFrame(0x80|wsClose, string(binary.BigEndian.AppendUint16(nil, status))+"bye")
}

// clientFrame reads one, which must be masked and whole.
func clientFrame(r *bufio.Reader) (op byte, payload []byte, err error) {
	var head [6]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	if head[0]&0x80 == 0 || head[1]&0x80 == 0 || head[1]&0x7f > 125 {
		return 0, nil, errors.New("not a short, whole, masked frame")
	}
	payload = make([]byte, head[1]&0x7f)
	_, err = io.ReadFull(r, payload)
	for i := range payload {
		payload[i] ^= head[2+i%4]
	}
	return head[0] & 15, payload, err
}

// Each client begins three WebSockets, each of which has two messages echoed; the
// third message gets the answer that is the case.
func TestWebSockets(t *testing.T) {
	t.Parallel()
	row := Counts{Clients: 2, Requests: 6, Messages: 12}
	clean, cut := row, row
	clean.CleanEnd, clean.GoingAway, clean.Unechoed = 6, 6, 6
	other := clean
	other.GoingAway = 0
	cut.Cut = 6
	echoed := clean
	echoed.Messages, echoed.Unechoed = 18, 0
	// closing says Close, behind other frames, waits for the client's, and closes.
	closing := func(c *serverConn, status uint16, others ...string) {
		io.WriteString(c, strings.Join(others, "")+closeFrame(status))
		for {
			op, payload, err := clientFrame(c.r)
			if err != nil || op == wsClose && binary.BigEndian.Uint16(payload) != status {
				c.reset() // shows
			}
			if err != nil || op == wsClose {
				return
			}
		}
	}
	tests := []struct {
		name string
		end  func(c *serverConn, message string)
		want Counts
		how  How
	}{
		{"1001", func(c *serverConn, _ string) { closing(c, 1001) }, clean, 0},
		{"after a while 1001", func(c *serverConn, _ string) { time.Sleep(50 * time.Millisecond); closing(c, 1001) }, clean, 0},
		{"1000", func(c *serverConn, _ string) { closing(c, 1000) }, other, 0},
		{"1012", func(c *serverConn, _ string) { closing(c, 1012) }, other, 0},
		{"echo, then 1001", func(c *serverConn, m string) {
			closing(c, 1001, serverFrame(0x80|wsText, m))
		}, echoed, 0},
		{"echo in parts with a ping between, then 1001", func(c *serverConn, m string) {
			io.WriteString(c, serverFrame(wsText, m[:2]))
			io.WriteString(c, serverFrame(0x80|wsPing, "are you there"))
			if op, p, err := clientFrame(c.r); err != nil || op != wsPong || string(p) != "are you there" {
				c.reset()
			}
			io.WriteString(c, serverFrame(0, m[2:4]))
			closing(c, 1001, serverFrame(0x80, m[4:]))
		}, echoed, 0},
		{"1011", func(c *serverConn, _ string) { closing(c, 1011) }, cut, OtherError},
		{"Close without status", func(c *serverConn, _ string) { io.WriteString(c, serverFrame(0x80|wsClose, "")) }, cut, OtherError},
		{"FIN", func(*serverConn, string) {}, cut, FIN},
		{"RST", func(c *serverConn, _ string) { c.reset() }, cut, RST},
		{"RST after Close", func(c *serverConn, _ string) {
			io.WriteString(c, closeFrame(1001))
			clientFrame(c.r)
			c.reset()
		}, cut, RST},
		{"no FIN after Close", func(c *serverConn, _ string) {
			io.WriteString(c, closeFrame(1001))
			io.Copy(io.Discard, c.r)
		}, cut, Timeout},
		{"half a Close", func(c *serverConn, _ string) { io.WriteString(c, closeFrame(1001)[:3]) }, cut, FIN},
		{"half a message", func(c *serverConn, m string) { io.WriteString(c, serverFrame(wsText, m[:2])) }, cut, FIN},
		{"Close within a message", func(c *serverConn, m string) {
			io.WriteString(c, serverFrame(wsText, m[:2]))
			closing(c, 1001)
		}, cut, Malformed},
		{"a message after Close", func(c *serverConn, m string) {
			io.WriteString(c, closeFrame(1001)+serverFrame(0x80|wsText, m))
			io.Copy(io.Discard, c.r)
		}, cut, Malformed},
		{"another's echo", func(c *serverConn, m string) { io.WriteString(c, serverFrame(0x80|wsText, m+"x")) }, cut, Malformed},
		{"masked", func(c *serverConn, m string) { c.Write([]byte{0x81, 0x80, 0, 0, 0, 0}) }, cut, Malformed},
		{"no echo", func(c *serverConn, _ string) { io.Copy(io.Discard, c.r) }, cut, Timeout},
	}
	var checks []func()
	for _, test := range tests {
		addr := rawServer(t, func(c *serverConn) {
			if !c.upgrade() {
				return
			}
			for range 2 {
				if _, m, err := clientFrame(c.r); err == nil {
					io.WriteString(c, serverFrame(0x80|wsText, string(m)))
				}
			}
			_, m, err := clientFrame(c.r)
			if err != nil {
				return
			}
			test.end(c, string(m))
		})
		cfg := Config{Addr: addr, EchoHeader: "X-Echo", EchoBody: true, Groups: []Group{{Kind: WebSocket, N: 2, Requests: 3}}}
		if strings.HasPrefix(test.name, "echo") {
			cfg.Groups[0].Think = 100 * time.Millisecond // no fourth message before the Close frame
		}
		if test.how == Timeout {
			// Longer than a machine stands still, and so once only.
			cfg.AnswerTimeout, cfg.Groups[0].Requests = 3*time.Second, 1
			test.want.Requests, test.want.Messages, test.want.Cut = 2, 4, 2
		}
		// All cases run at the same time, as they mostly wait.
		l := start(t, cfg)
		checks = append(checks, func() {
			t.Run(test.name, func(t *testing.T) {
				led := l.Wait()
				wantCounts(t, led, led.Total, test.want)
				if age := led.Total.UnechoedFor; (age > 0) != (led.Total.Unechoed > 0) || strings.HasPrefix(test.name, "after") && age < 50*time.Millisecond {
					t.Errorf("%d messages not echoed for %v", led.Total.Unechoed, age)
				}
				for _, s := range led.Losses {
					if s.Outcome != Cut || s.How != test.how || s.AnswerBytes == 0 {
						t.Errorf("loss = %+v, want how %v", s, test.how)
					}
				}
			})
		})
	}
	for _, check := range checks {
		check()
	}
}

func TestWebSocketsThatDoNotBegin(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		want         Counts
	}{
		{"error status", "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", Counts{Clients: 1, Requests: 2, ErrorStatus: 2}},
		{"200", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Counts{Clients: 1, Requests: 2, WrongAnswer: 2}},
		{"101 to something else", "HTTP/1.1 101 OK\r\nSec-WebSocket-Accept: x\r\n\r\n", Counts{Clients: 1, Requests: 2, WrongAnswer: 2}},
		{"nothing", "", Counts{Clients: 1, Requests: 2, Lost: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := rawServer(t, func(c *serverConn) {
				if _, ok := c.request(); ok {
					io.WriteString(c, tt.answer)
				}
			})
			led := start(t, Config{Addr: addr, Groups: []Group{{Kind: WebSocket, Requests: 2}}}).Wait()
			wantCounts(t, led, led.Total, tt.want)
		})
	}
}

// TestWebSocketAtTheLoadsEnd: the client says Close, after the echo.
func TestWebSocketAtTheLoadsEnd(t *testing.T) {
	statuses := make(chan uint16, 3)
	addr := rawServer(t, func(c *serverConn) {
		if !c.upgrade() {
			return
		}
		for {
			switch op, m, err := clientFrame(c.r); {
			case err != nil:
				return
			case op == wsClose:
				statuses <- binary.BigEndian.Uint16(m)
				io.WriteString(c, serverFrame(0x80|wsClose, string(m)))
				return
			default:
				io.WriteString(c, serverFrame(0x80|op, string(m)))
			}
		}
	})
	l := start(t, Config{Addr: addr, EchoHeader: "X-Echo", Groups: []Group{
		{Name: "busy", Kind: WebSocket, N: 2}, {Name: "quiet", Kind: WebSocket, Think: time.Hour, Delay: -1}}})
	ready(t, l, 1)
	l.Stop()
	led := l.Wait()
	led.Total.Messages = 0
	wantCounts(t, led, led.Total, Counts{Clients: 3, Requests: 3, Answered: 3, Conns: 3})
	for range 3 {
		if s := <-statuses; s != wsNormal {
			t.Errorf("the client closed with %d, want 1000", s)
		}
	}
}

func TestFrameLengths(t *testing.T) {
	for _, n := range []int{0, 125, 126, 65535, 65536, maxMessage} {
		var b []byte
		switch {
		case n < 126:
			b = []byte{0x81, byte(n)}
		case n < 1<<16:
			b = binary.BigEndian.AppendUint16([]byte{0x81, 126}, uint16(n))
		default:
			b = binary.BigEndian.AppendUint64([]byte{0x81, 127}, uint64(n))
		}
		a := answerReader{src: strings.NewReader(string(b) + strings.Repeat("x", n) + serverFrame(0x8a, "y"))}
		op, fin, p, err := a.frame()
		if op != wsText || !fin || len(p) != n || err != nil {
			t.Errorf("frame() = %d, %v, %d bytes, %v, want text of %d bytes", op, fin, len(p), err, n)
		}
		if op, _, p, err := a.frame(); op != wsPong || string(p) != "y" || err != nil {
			t.Errorf("frame() = %d, %q, %v, want pong y", op, p, err)
		}
	}
	for _, bad := range []string{"\xc1\x00", "\x88\x7e\x01\x00", "\x08\x00", "\x81\x7f\x00\x00\x00\x00\x00\x10\x00\x01"} {
		a := answerReader{src: strings.NewReader(bad)}
		if _, _, _, err := a.frame(); !errors.Is(err, errMalformed) {
			t.Errorf("frame() of % x = %v, want malformed", bad, err)
		}
	}
}
