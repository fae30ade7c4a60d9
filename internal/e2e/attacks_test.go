//go:build unix

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An attack is what one client does, many times over.
type attack struct {
	name    string
	clients int
	do      func(a attacker)
	again   bool // on a new connection when one has ended
}

// An attacker is one connection of an attack.
type attacker struct {
	net.Conn
	ended   <-chan struct{} // closed when the attack ends
	working func()          // called when the attack is under way
}

// send writes s, and reports whether the connection still takes it.
func (a attacker) send(s string) bool {
	_, err := io.WriteString(a, s)
	return err == nil
}

// hold keeps the connection open, and does not read from it.
func (a attacker) hold() { a.working(); <-a.ended }

// drip writes s again and again, with pauses.
func (a attacker) drip(every time.Duration, s string) {
	for a.send(s) {
		a.working()
		select {
		case <-a.ended:
			return
		case <-time.After(every):
		}
	}
	a.hold() // and do not close
}

// flood writes s again and again, some megabytes a second with -long, and some
// hundred kilobytes without: more would take the machine from the honest clients,
// and from other tests.
func (a attacker) flood(s string) {
	a.drip(pause(time.Millisecond, 20*time.Millisecond), strings.Repeat(s, max(1, 4096/len(s))))
}

// pause returns a client's pause: the first with -long, and the second without.
func pause(long, short time.Duration) time.Duration {
	if *Long {
		return long
	}
	return short
}

// discard reads and drops what the server sends.
func (a attacker) discard() { go io.Copy(io.Discard, a) }

const (
	getSmall = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	getBig   = "GET /big HTTP/1.1\r\nHost: x\r\n\r\n"
	halfHead = "GET / HTTP/1.1\r\nHost: x\r\n"
	post     = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
	early    = "POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
	chunked  = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
)

var http1Attacks = []attack{
	{name: "silent", clients: 1500, do: attacker.hold},
	{name: "slow header", clients: 100, do: func(a attacker) { a.send(halfHead); a.drip(100*time.Millisecond, "X: y\r\n") }},
	{name: "empty lines", clients: 10, do: func(a attacker) { a.flood("\r\n") }},
	{name: "large header", clients: 100, do: func(a attacker) {
		a.send(halfHead)
		a.send("X: " + strings.Repeat("x", 60<<10))
		a.hold()
	}},
	{name: "byte by byte", clients: 50, do: func(a attacker) {
		a.discard()
		a.working()
		for n := 0; a.send(getSmall[n%len(getSmall) : n%len(getSmall)+1]); n++ {
			time.Sleep(5 * time.Millisecond)
		}
	}},
	{name: "slow body", clients: 50, do: func(a attacker) { a.send(post); a.drip(100*time.Millisecond, "x") }},
	{name: "slow chunks", clients: 50, do: func(a attacker) { a.send(chunked); a.drip(100*time.Millisecond, "1\r\nx\r\n") }},
	{name: "no body", clients: 50, do: func(a attacker) {
		a.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		a.hold()
	}},
	{name: "slow reader", clients: 50, do: func(a attacker) { a.send(getBig); a.hold() }},
	{name: "half-closed", clients: 50, do: func(a attacker) { a.send(getBig); closeWrite(a); a.hold() }},
	{name: "half-closed in the header", clients: 50, do: func(a attacker) { a.send(halfHead); closeWrite(a); a.hold() }},
	{name: "endless requests", clients: 8, do: func(a attacker) {
		for r := bufio.NewReader(a); a.send(getSmall); a.working() {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				break
			}
			io.Copy(io.Discard, resp.Body)
			time.Sleep(pause(0, time.Millisecond))
		}
		a.hold()
	}},
	{name: "endless pipeline", clients: 4, do: func(a attacker) { a.discard(); a.flood(getSmall) }},
	{name: "pipeline never read", clients: 20, do: func(a attacker) { a.flood(getSmall) }},
	{name: "goes on after its answer", clients: 8, do: func(a attacker) { a.discard(); a.send(early); a.flood(strings.Repeat("x", 16<<10)) }},
	{name: "drips after its answer", clients: 50, do: func(a attacker) { a.discard(); a.send(early); a.drip(100*time.Millisecond, "x") }},
	{name: "connects and resets", clients: 4, again: true, do: func(a attacker) { reset(a); a.working() }},
	{name: "asks and resets", clients: 4, again: true, do: func(a attacker) { a.send(getSmall); reset(a); a.working() }},
}

var http2Attacks = []attack{
	{name: "half a preface", clients: 50, do: func(a attacker) { a.send(preface[:18]); a.hold() }},
	{name: "without settings", clients: 50, do: func(a attacker) { a.send(preface); a.hold() }},
	{name: "idle", clients: 200, do: func(a attacker) { a.send(preface + settings()); a.hold() }},
	{name: "PING flood", clients: 4, do: func(a attacker) { a.discard(); a.send(preface + settings()); a.flood(frame(ping, 0, 0, "12345678")) }},
	{name: "PING flood never read", clients: 20, do: func(a attacker) { a.send(preface + settings()); a.flood(frame(ping, 0, 0, "12345678")) }},
	{name: "SETTINGS flood", clients: 4, do: func(a attacker) { a.discard(); a.send(preface); a.flood(settings()) }},
	{name: "SETTINGS flood never read", clients: 20, do: func(a attacker) { a.send(preface); a.flood(settings()) }},
	{name: "CONTINUATION flood", clients: 4, do: func(a attacker) {
		a.discard()
		a.send(preface + settings() + frame(headers, 0, 1, request("GET", "/")))
		a.flood(frame(continuation, 0, 1, "\x00\x01x\x01y"))
	}},
	{name: "rapid reset", clients: 2, again: true, do: func(a attacker) {
		a.discard()
		a.send(preface + settings())
		for id := uint32(1); a.send(frame(headers, endHeaders|endStream, id, request("GET", "/")) + frame(rstStream, 0, id, "\x00\x00\x00\x08")); id += 2 {
			a.working()
			if id%32 == 1 {
				time.Sleep(pause(time.Millisecond, 20*time.Millisecond))
			}
		}
	}},
	{name: "endless requests", clients: 2, do: func(a attacker) {
		a.discard()
		a.send(preface + settings())
		for id := uint32(1); a.send(frame(headers, endHeaders|endStream, id, request("GET", "/"))); id += 2 {
			a.working()
			time.Sleep(pause(time.Millisecond, 5*time.Millisecond))
		}
		a.hold()
	}},
	{name: "never read", clients: 5, do: func(a attacker) {
		a.streams(frame(settingsFrame, 0, 0, "\x00\x04\x7f\xff\xff\xff")+frame(windowUpdate, 0, 0, "\x7f\xff\x00\x00"), "GET", "/big", endStream)
		a.hold()
	}},
}

// streamAttacks are attacks that the timeouts of the binary do not end, because
// these are for connections and not for single streams.
var streamAttacks = []attack{
	{name: "empty DATA", clients: 4, do: func(a attacker) {
		a.discard()
		a.send(preface + settings() + frame(headers, endHeaders, 1, request("POST", "/")))
		a.flood(frame(data, 0, 1, ""))
	}},
	{name: "no window", clients: 5, do: func(a attacker) {
		a.discard()
		a.streams(frame(settingsFrame, 0, 0, "\x00\x04\x00\x00\x00\x00"), "GET", "/big", endStream)
		a.drip(100*time.Millisecond, frame(ping, 0, 0, "12345678"))
	}},
	{name: "slow bodies", clients: 5, do: func(a attacker) {
		a.discard()
		a.streams(settings(), "POST", "/", 0)
		a.drip(100*time.Millisecond, frame(data, 0, 1, "x"))
	}},
}

var tlsAttacks = []attack{
	{name: "silent", clients: 200, do: attacker.hold},
	{name: "half a hello", clients: 100, do: func(a attacker) { a.send("\x16\x03\x01\x02\x00\x01"); a.hold() }},
	{name: "slow hello", clients: 100, do: func(a attacker) { a.send("\x16\x03\x01\x02\x00\x01"); a.drip(50*time.Millisecond, "\x00") }},
	{name: "silent after the handshake", clients: 100, do: func(a attacker) { a.handshake(); a.hold() }},
	{name: "slow header", clients: 50, do: func(a attacker) {
		a.handshake().send(halfHead)
		a.hold()
	}},
	{name: "hello flood", clients: 4, again: true, do: func(a attacker) { a.handshake(); reset(a); a.working() }},
}

func closeWrite(a attacker) { a.Conn.(*net.TCPConn).CloseWrite() }

// reset closes with a RST.
func reset(a attacker) {
	a.Conn.(*net.TCPConn).SetLinger(0)
	a.Close()
}

// handshake begins TLS 1.3.
func (a attacker) handshake() attacker {
	c := tls.Client(a.Conn, &tls.Config{InsecureSkipVerify: true})
	c.Handshake()
	a.Conn = c
	return a
}

// HTTP/2, see RFC 9113 section 6.
const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	data          = 0
	headers       = 1
	rstStream     = 3
	settingsFrame = 4
	ping          = 6
	windowUpdate  = 8
	continuation  = 9

	endStream  = 1
	endHeaders = 4
)

func frame(kind, flags byte, stream uint32, payload string) string {
	n := len(payload)
	return string([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags,
		byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)}) + payload
}

func settings() string { return frame(settingsFrame, 0, 0, "") }

// request returns a header block (RFC 7541) of the pseudo-header fields, without
// entries for the table.
func request(method, path string) string {
	field := func(index byte, s string) string { return string([]byte{index, byte(len(s))}) + s }
	return field(2, method) + field(4, path) + "\x86" + field(1, "x") // \x86: the scheme http
}

// streams begins 100 requests.
func (a attacker) streams(settings, method, path string, flags byte) {
	a.send(preface + settings)
	for id := uint32(1); id < 200; id += 2 {
		a.send(frame(headers, endHeaders|flags, id, request(method, path)))
	}
}

// on begins the attack, and returns when it is under way, with a function that
// ends it.
func (at attack) on(t testing.TB, addr string) (end func()) {
	t.Helper()
	at.clients = Few(at.clients)
	if raceEnabled() {
		// The server needs ten times the processor then. Attackers that take all
		// of it take it from the honest clients, who may then not be served by
		// the deadline.
		at.clients = (at.clients + 3) / 4
	}
	over := make(chan struct{})
	var ended, working sync.WaitGroup
	var reached atomic.Int64
	for n := range at.clients {
		working.Add(1)
		ended.Go(func() {
			var once sync.Once
			for {
				// Each has an address of its own: one has too few ports for all.
				d := net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n/200), byte(1+n%200))}}
				nc, err := d.Dial("tcp", addr)
				if err == nil {
					reached.Add(1)
					stop := context.AfterFunc(contextOf(over), func() { nc.Close() })
					at.do(attacker{nc, over, func() { once.Do(working.Done) }})
					stop()
					nc.Close()
				}
				once.Do(working.Done)
				select {
				case <-over:
					return
				default:
				}
				if !at.again || err != nil {
					return
				}
				time.Sleep(pause(time.Millisecond, 10*time.Millisecond))
			}
		})
	}
	working.Wait()
	if reached.Load() < int64(at.clients) {
		t.Errorf("%d of %d attackers reached the server", reached.Load(), at.clients)
	}
	return func() { close(over); ended.Wait() }
}

// contextOf returns a context that ends when the channel is closed.
func contextOf(c <-chan struct{}) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-c; cancel() }()
	return ctx
}
