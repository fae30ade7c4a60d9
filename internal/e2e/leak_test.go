//go:build unix

package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// abused returns the handler of a program that breaks off as its clients do.
func abused(work http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", target(work))
	mux.Handle("/events", streams())
	mux.Handle("/echo", streams())
	mux.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("x", 64<<10))
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/reset", func(w http.ResponseWriter, r *http.Request) {
		if nc, _, err := http.NewResponseController(w).Hijack(); err == nil {
			nc.(*net.TCPConn).SetLinger(0)
			nc.Close()
		}
	})
	mux.HandleFunc("/cut-websocket", func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		ws.Read(r.Context())
		ws.CloseNow()
	})
	return mux
}

// An abuse is a client that does not end as it should. It says whether it wants
// the connection to be reset, or closed.
type abuse struct {
	name string
	do   func(c *net.TCPConn) (reset bool)
}

// asks returns what sends a request and reads at least n bytes of the answer.
func asks(request string, n int64, reset bool) func(c *net.TCPConn) bool {
	return func(c *net.TCPConn) bool {
		io.WriteString(c, request)
		io.CopyN(io.Discard, c, n)
		return reset
	}
}

const (
	upgrade    = " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	switched   = "HTTP/1.1 101 Switching Protocols\r\n\r\n"
	textFrame  = "\x81\x82\x00\x00\x00\x00hi" // a text of two bytes, masked with zeros
	http1Field = " HTTP/1.1\r\nHost: x\r\n"
)

// aborts are for the proxy and for files: both have /big.
var aborts = []abuse{
	{"connects", func(c *net.TCPConn) bool { return true }},
	{"breaks off its head", asks(halfHead, 0, true)},
	{"closes within its head", asks(halfHead, 0, false)},
	{"half-closes within its head", func(c *net.TCPConn) bool {
		io.WriteString(c, halfHead)
		c.CloseWrite()
		io.Copy(io.Discard, c)
		return false
	}},
	{"asks and resets", asks(getSmall, 0, true)},
	{"asks and closes", asks(getSmall, 0, false)},
	{"asks and half-closes", func(c *net.TCPConn) bool {
		io.WriteString(c, getSmall)
		c.CloseWrite()
		io.Copy(io.Discard, c)
		return false
	}},
	{"resets a download", asks(getBig, 64<<10, true)},
	{"closes a download", asks(getBig, 64<<10, false)},
	{"half-closes a download", func(c *net.TCPConn) bool {
		io.WriteString(c, getBig)
		c.CloseWrite()
		io.CopyN(io.Discard, c, 64<<10)
		return true
	}},
	{"resets an upload", func(c *net.TCPConn) bool { return asks(post+strings.Repeat("x", 64<<10), 0, true)(c) }},
	{"closes an upload", func(c *net.TCPConn) bool { return asks(post+strings.Repeat("x", 64<<10), 0, false)(c) }},
	{"half-closes an upload", func(c *net.TCPConn) bool {
		io.WriteString(c, post+"xyz")
		c.CloseWrite()
		io.Copy(io.Discard, c)
		return false
	}},
	{"resets within a chunk", asks(chunked+"64\r\nxyz", 0, true)},
	{"closes after a chunk", asks(chunked+"3\r\nxyz\r\n", 0, false)},
	{"sends no body", asks("POST /"+http1Field+"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", 0, true)},
	{"sends garbage", asks("\x16\x03\x01\x00\r\n\r\n", 20, false)},
	{"sends a bad chunk", asks(chunked+"zz\r\n", 20, false)},
	{"pipelines and resets", asks(strings.Repeat(getSmall, 20), 100, true)},
	{"HTTP/2: resets the connection", http2Abuse("GET", "/big", false, func(c *client2) {})},
	{"HTTP/2: resets a download", http2Abuse("GET", "/big", true, func(c *client2) { c.resetStreams() })},
	{"HTTP/2: resets an upload", http2Abuse("POST", "/", true, func(c *client2) {
		for id := uint32(1); id < 8; id += 2 {
			c.framer.WriteData(id, false, make([]byte, 4<<10))
		}
		c.resetStreams()
	})},
	{"HTTP/2: leaves an upload", http2Abuse("POST", "/", false, func(c *client2) { c.framer.WriteData(1, false, make([]byte, 4<<10)) })},
	{"HTTP/2: goes away", http2Abuse("GET", "/", false, func(c *client2) { c.framer.WriteGoAway(0, 0, nil) })},
	{"HTTP/2: breaks the rules", http2Abuse("GET", "/big", false, func(c *client2) { c.framer.WriteWindowUpdate(0, 0) })},
}

// proxyAborts are for the proxy.
var proxyAborts = []abuse{
	{"resets while the program works", asks("GET /wait"+http1Field+"\r\n", 0, true)},
	{"closes while the program works", asks("GET /wait"+http1Field+"\r\n", 0, false)},
	{"resets an upload that was answered", asks(early, 64<<10, true)},
	{"resets an event stream", asks("GET /events"+http1Field+"\r\n", 500, true)},
	{"closes an event stream", asks("GET /events"+http1Field+"\r\n", 500, false)},
	{"the program cuts its answer", asks("GET /cut"+http1Field+"\r\n", 1<<20, false)},
	{"the program resets", asks("GET /reset"+http1Field+"Connection: close\r\n\r\n", 1<<20, false)},
	{"the program resets after an upload", asks("POST /reset"+http1Field+"Connection: close\r\nContent-Length: 3\r\n\r\nxyz", 1<<20, false)},
	{"resets a WebSocket", asks("GET /echo"+upgrade+textFrame, int64(len(switched)), true)},
	{"closes a WebSocket", asks("GET /echo"+upgrade+textFrame, int64(len(switched)), false)},
	{"half-closes a WebSocket", func(c *net.TCPConn) bool {
		io.WriteString(c, "GET /echo"+upgrade+textFrame)
		c.CloseWrite()
		io.Copy(io.Discard, c)
		return false
	}},
	{"resets within a frame", asks("GET /echo"+upgrade+textFrame[:5], int64(len(switched)), true)},
	{"resets while it is upgraded", asks("GET /echo"+upgrade, 0, true)},
	{"the program cuts a WebSocket", asks("GET /cut-websocket"+upgrade+textFrame, 1<<20, false)},
	{"HTTP/2: resets while the program works", http2Abuse("GET", "/wait", false, func(c *client2) { c.resetStreams() })},
	{"HTTP/2: leaves while the program works", http2Abuse("GET", "/wait", false, func(c *client2) {})},
	{"HTTP/2: the program cuts its answer", http2Abuse("GET", "/cut", true, func(c *client2) {})},
	{"HTTP/2: resets an event stream", http2Abuse("GET", "/events", true, func(c *client2) { c.resetStreams() })},
}

// slow are clients that the timeouts end.
var slow = []abuse{
	{"never ends its head", asks(halfHead, 1<<20, false)},
	{"never ends its body", asks(post, 1<<20, false)},
	{"never reads", func(c *net.TCPConn) bool {
		io.WriteString(c, getBig)
		time.Sleep(3 * leakTimeout)
		return true
	}},
}

const leakTimeout = time.Second // of reads and writes

// http2Abuse returns what opens four streams over HTTP/2, waits for the answer
// to the first if answered is true, and then does the rest.
func http2Abuse(method, path string, answered bool, rest func(c *client2)) func(nc *net.TCPConn) bool {
	return func(nc *net.TCPConn) bool {
		c := startClient2(nc)
		for id := uint32(1); id < 8; id += 2 {
			f := &frameStep{kind: "HEADERS", words: []string{fmt.Sprint(id), "END_STREAM"},
				fields: [][2]string{{":method", method}, {":scheme", "http"}, {":authority", "x"}, {":path", path}}}
			if method == "POST" {
				f.words = f.words[:1]
			}
			c.send(f)
		}
		if answered && method == "GET" {
			c.await(func() bool { return c.streams[1] != nil })
		} else {
			c.framer.WritePing(false, [8]byte{})
			c.await(func() bool { return c.pongs > 0 })
		}
		rest(c)
		c.framer.WritePing(false, [8]byte{1})
		seen := 1
		if answered && method == "GET" {
			seen = 0
		}
		c.await(func() bool { return c.pongs > seen || c.goaway != "" })
		return true
	}
}

func (c *client2) resetStreams() {
	for id := uint32(1); id < 8; id += 2 {
		c.framer.WriteRSTStream(id, 8)
	}
}

// usage is what a process has in use.
type usage struct {
	goroutines, descriptors int
	heap, collections       int
}

var metricLine = regexp.MustCompile(`(?m)^(go_memstats_heap_alloc_bytes|go_gc_duration_seconds_count) ([0-9.e+]+)$`)

func usageOf(t *testing.T, p *Process, client *http.Client, admin string) (u usage) {
	t.Helper()
	// The metrics count the goroutines that collect them, too: as many as there happen
	// to be.
	_, stacks := ask(t, client, "GET", "http://"+admin+"/debug/pprof/goroutine?debug=1", "")
	fmt.Sscanf(stacks, "goroutine profile: total %d", &u.goroutines)
	_, metrics := ask(t, client, "GET", "http://"+admin+"/metrics", "")
	for _, m := range metricLine.FindAllStringSubmatch(metrics, -1) {
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		switch m[1] {
		case "go_memstats_heap_alloc_bytes":
			u.heap = int(v)
		default:
			u.collections = int(v)
		}
	}
	if u.goroutines == 0 || u.heap == 0 {
		t.Fatalf("nothing is said of goroutines or the heap:\n%.2000s\n%.2000s", stacks, metrics)
	}
	fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)) // none where there is no /proc
	u.descriptors = len(fds)
	return u
}

// freshUsage returns the usage of a process that rests.
func freshUsage(t *testing.T, p *Process, client *http.Client, admin string) usage {
	t.Helper()
	WaitFor(t, "every actor to run", func() bool {
		_, status := ask(t, client, "GET", "http://"+admin+"/status", "")
		return strings.Contains(status, `"state": "running"`) && !strings.Contains(status, `"state": "waiting"`)
	})
	fresh := usageOf(t, p, client, admin)
	for range 20 { // some come and go
		fresh.goroutines = max(fresh.goroutines, usageOf(t, p, client, admin).goroutines)
	}
	return fresh
}

// awaitUsage waits until a process has no more goroutines and descriptors than it had.
func awaitUsage(t *testing.T, p *Process, client *http.Client, admin string, fresh usage) {
	t.Helper()
	var u usage
	defer func() {
		if t.Failed() {
			_, stacks := ask(t, client, "GET", "http://"+admin+"/debug/pprof/goroutine?debug=1", "")
			t.Logf("in use %+v, before %+v\n%.20000s", u, fresh, stacks)
		}
	}()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		u = usageOf(t, p, client, admin)
		if u.goroutines <= fresh.goroutines && u.descriptors <= fresh.descriptors {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines and %d descriptors after a minute, want %d and %d as before",
				u.goroutines, u.descriptors, fresh.goroutines, fresh.descriptors)
		}
	}
}

// heapOf returns what is in use of the heap: the least that is seen while the
// collector runs five times, so that pools have been emptied too.
func heapOf(t *testing.T, p *Process, client *http.Client, admin string) int {
	t.Helper()
	u := usageOf(t, p, client, admin)
	least, until := u.heap, u.collections+5
	WaitFor(t, "the collector to run", func() bool {
		u = usageOf(t, p, client, admin)
		least = min(least, u.heap)
		return u.collections >= until
	})
	return least
}

// TestLeak has clients and programs break off in all ways, hundreds of times,
// and 10,000 times with -long. Then nothing of it is left.
func TestLeak(t *testing.T) {
	ParallelIfFew(t)
	n, perRequest := 200, 1536
	if *Long {
		n, perRequest = 10000, 64
	}
	for _, tt := range []struct {
		name   string
		kinds  []abuse
		launch func(t *testing.T, flags []string) *Process
	}{
		{"proxy", slices.Concat(aborts, proxyAborts), func(t *testing.T, flags []string) *Process {
			program := Launch(t, Here, As("abused", "127.0.0.1:0"))
			return launchLean(t, append(flags, "-proxy", "http://"+program.Addr)...)
		}},
		{"files", aborts, func(t *testing.T, flags []string) *Process {
			dir := t.TempDir()
			for name, size := range map[string]int{"index.html": 5, "big": 64 << 20} {
				f, err := os.Create(dir + "/" + name)
				if err != nil {
					t.Fatal(err)
				}
				if err := f.Truncate(int64(size)); err != nil {
					t.Fatal(err)
				}
				f.Close()
			}
			return launchLean(t, append(flags, "-dir", dir)...)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ParallelIfFew(t)
			if tt.name == "files" {
				LongOnly(t)
			}
			timeout := leakTimeout.String()
			p := tt.launch(t, []string{"-h2c", "-read-timeout", timeout, "-read-header-timeout", timeout, "-write-timeout", timeout, "-log-level", "info"})
			admin, client := adminAddr(t, p), newClient(t)
			// Connections to the program are kept for some seconds, and net/http
			// closes some of the clients' half a second late.
			settle := func(fresh usage) { t.Helper(); awaitUsage(t, p, client, admin, fresh) }
			fresh := freshUsage(t, p, client, admin)
			abuseServer(t, p.Addr, tt.kinds, len(tt.kinds))
			settle(fresh)
			before := heapOf(t, p, client, admin)

			abuseServer(t, p.Addr, tt.kinds, n)
			settle(fresh)
			// What a request leaves is found by what all leave. What is allowed
			// otherwise is maps that have grown, and what this test itself asks for.
			// Timers hold some for a while.
			const other = 256 << 10
			limit := before + other + n*perRequest
			var after int
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
				if after = heapOf(t, p, client, admin); after <= limit {
					break
				}
				if time.Now().After(deadline) {
					t.Errorf("%d bytes of the heap in use a minute after %d requests, %d before, want at most %d more for each", after, n, before, perRequest)
					break
				}
			}
			t.Logf("%d bytes of the heap in use, %d before", after, before)
			if log := p.Log(); strings.Contains(log, "panic") || strings.Contains(log, "level=error") {
				t.Errorf("an error in the log")
			}
		})
	}
}

// launchLean starts lastcall with a collector that leaves little garbage, and a
// status page.
func launchLean(t *testing.T, flags ...string) *Process {
	cmd := Lastcall(append(flags, "-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0")...)
	cmd.Env = append(os.Environ(), "GOGC=10")
	return Launch(t, Here, cmd)
}

// abuseServer makes n clients, some of them at a time, and returns when all have
// ended. A few are slow.
func abuseServer(t *testing.T, addr string, kinds []abuse, n int) {
	t.Helper()
	var left atomic.Int64
	left.Store(int64(n))
	var unreached atomic.Int64
	client := func(a abuse) {
		nc, err := net.DialTimeout("tcp", addr, 20*time.Second)
		if err != nil {
			unreached.Add(1)
			return
		}
		c := nc.(*net.TCPConn)
		c.SetDeadline(time.Now().Add(time.Minute))
		if a.do(c) {
			c.SetLinger(0)
		}
		c.Close()
	}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for {
				i := left.Add(-1)
				if i < 0 {
					return
				}
				client(kinds[int(i)%len(kinds)])
			}
		})
	}
	for i := range min(n/10, 300) {
		all.Go(func() {
			time.Sleep(rand.N(time.Duration(n) * time.Second / 500))
			client(slow[i%len(slow)])
		})
	}
	all.Wait()
	if unreached.Load() > 0 {
		t.Errorf("%d clients of %d did not reach the server", unreached.Load(), n)
	}
}
