package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lastcall/internal/wiretest"
)

// handoverSteps are the packets of a handover, in their order. Behind alone the giver
// gives a connection that was busy until then.
var handoverSteps = []string{"taker's hello", "giver's hello", "listeners", "ready", "conns", "have", "yours", "sole", "alone", "conns 2", "have 2", "yours 2", "end"}

// A moment is just before or after a packet is passed on.
type moment int

func before(step string) moment { return moment(2 * slices.Index(handoverSteps, step)) }
func after(step string) moment  { return before(step) + 1 }

func (m moment) String() string {
	return [...]string{"before ", "after "}[m%2] + handoverSteps[m/2]
}

// What becomes of a request.
const (
	answered = "answered"
	lost     = "lost"
)

// A killing is the end of one of two processes during a handover, and what the text
// in docs/upgrading.md allows.
type killing struct {
	at    moment
	giver bool // it is killed; else the taker

	half     string // of which a part was read before the upgrade
	upload   string // under way during the upgrade
	behind   string // a part of it comes together with the rest of the upload
	newcomer string
}

func killings() (list []killing) {
	for at := before("taker's hello"); at <= after("end"); at++ {
		list = append(list, takerKilled(at), giverKilled(at))
	}
	return list
}

// takerKilled: what the giver has said is the taker's is lost.
func takerKilled(at moment) killing {
	k := killing{at: at, half: answered, upload: answered, behind: answered, newcomer: answered}
	if at >= before("yours") {
		k.half = lost
	}
	if at >= before("yours 2") {
		k.behind = lost
	}
	if at >= after("alone") { // it was the last that accepted
		k.newcomer = lost
	}
	return k
}

// giverKilled: what has not come to the taker is lost.
func giverKilled(at moment) killing {
	k := killing{at: at, giver: true, half: answered, upload: answered, behind: answered, newcomer: answered}
	if at < after("conns") {
		k.half = lost
	}
	if at < before("conns 2") {
		k.upload = lost
	}
	if at < after("conns 2") {
		k.behind = lost
	}
	if at < after("listeners") { // nobody has them
		k.newcomer = lost
	}
	return k
}

// TestKilledInHandover kills one of the two processes of an upgrade before and after
// each packet. The test is the line between them: it passes the packets on. What is
// lost is what the killed process had. The other one serves on.
func TestKilledInHandover(t *testing.T) {
	t.Parallel()
	program := &counter{served: make(map[string]int)}
	backend := httptest.NewServer(program)
	t.Cleanup(func() {
		backend.Close()
		program.check(t)
	})
	few := []killing{
		giverKilled(after("listeners")), giverKilled(after("conns")), giverKilled(before("yours")), giverKilled(after("conns 2")),
		takerKilled(after("conns")), takerKilled(after("have")), takerKilled(after("yours")), takerKilled(after("conns 2")),
	}
	for _, k := range killings() {
		if !*Long && !slices.Contains(few, k) {
			continue
		}
		victim := "taker"
		if k.giver {
			victim = "giver"
		}
		t.Run(fmt.Sprintf("%s killed %v", victim, k.at), func(t *testing.T) {
			t.Parallel()
			k.test(t, backend.URL, program)
		})
	}
}

func (k killing) test(t *testing.T, backend string, program *counter) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	lastcall := func(path string) *exec.Cmd {
		return Lastcall("-listen", "127.0.0.1:0", "-proxy", backend, "-read-header-timeout", "1m", "-idle-grace", "20s", "-grace", "40s", "-handover", "unix:"+path)
	}
	giver := Launch(t, Here, lastcall(dir+"/giver"))

	half := newAsker(t, giver.Addr, "half")
	half.ask("GET", "", 0)
	half.want(answered)
	half.ask("GET", "", 20)
	upload := newAsker(t, giver.Addr, "upload")
	upload.ask("POST", "body", 1)
	WaitFor(t, "the upload to reach the program", func() bool { return program.count(upload.asked[0]) == 1 })

	r := newRelay(t, dir+"/taker", dir+"/giver")
	taker := Start(t, Here, lastcall(dir+"/taker"))
	victim, survivor := taker, giver
	if k.giver {
		victim, survivor = giver, taker
	}
	rest := sync.OnceFunc(func() { upload.ask("GET", "", 20) }) // of the upload, and a part of the next
	r.run(t, k.at, rest, victim, survivor)
	rest()

	half.finish()
	half.want(k.half)
	upload.want(k.upload)
	upload.finish()
	upload.want(k.behind)
	if k.newcomer == lost && !k.giver { // the giver has begun its stop
		half.Close()
		upload.Close()
		if status := survivor.Wait(t); status != 0 {
			t.Errorf("exit status of the giver = %d, want 0", status)
		}
	}
	newcomer := newAsker(t, giver.Addr, "newcomer")
	newcomer.ask("GET", "", 0)
	newcomer.want(k.newcomer)
	for _, a := range []*asker{half, upload, newcomer} {
		a.Close()
	}
	switch {
	case k.newcomer == answered:
		survivor.stopCleanly(t)
	case k.giver:
		if status := survivor.Wait(t); status == 0 {
			t.Error("exit status of the taker = 0, want that of an error")
		}
	}
	if failed := strings.Contains(giver.Log(), `msg="upgrade failed, going on as before"`); !k.giver && failed != (k.at < after("alone")) {
		t.Errorf("the giver says that the upgrade has failed: %v", failed)
	}
}

// An asker asks on one connection, one request after the other.
type asker struct {
	net.Conn
	t     *testing.T
	r     *bufio.Reader
	name  string
	n     int      // requests
	asked []string // the IDs of those without an answer
	left  string   // of the last one, to be sent
	ended error    // of the connection
}

func newAsker(t *testing.T, addr, name string) *asker {
	t.Helper()
	a := &asker{t: t, name: t.Name() + "/" + name}
	if a.Conn, a.ended = net.DialTimeout("tcp", addr, 10*time.Second); a.ended != nil {
		a.Conn, _ = net.Pipe()
		a.Close()
	}
	t.Cleanup(func() { a.Close() })
	a.SetDeadline(time.Now().Add(wiretest.Patience))
	a.r = bufio.NewReader(a.Conn)
	return a
}

// ask sends what is left, and the next request but its last bytes, so many, all at
// once.
func (a *asker) ask(method, body string, but int) {
	a.n++
	id := fmt.Sprintf("%s/%d", a.name, a.n)
	a.asked = append(a.asked, id)
	request := fmt.Sprintf("%s / HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\nContent-Length: %d\r\n\r\n%s", method, id, len(body), body)
	now := a.left + request[:len(request)-but]
	a.left = request[len(request)-but:]
	io.WriteString(a, now) // want says whether the connection has ended
}

// finish sends what is left.
func (a *asker) finish() { io.WriteString(a, a.left) }

// want reads the answer to the first request that has none.
func (a *asker) want(want string) {
	a.t.Helper()
	id, got := a.asked[0], lost
	a.asked = a.asked[1:]
	if a.ended == nil {
		var resp *http.Response
		var body []byte
		if resp, a.ended = http.ReadResponse(a.r, nil); a.ended == nil {
			if body, a.ended = io.ReadAll(resp.Body); string(body) != id {
				a.t.Errorf("%s: answer %d %q", id, resp.StatusCode, body)
			}
			got = answered
		}
		if errors.Is(a.ended, os.ErrDeadlineExceeded) {
			got = "without an answer, on a connection that is open"
		}
	}
	if got != want {
		a.t.Errorf("%s is %s (%v), want %s", id, got, a.ended, want)
	}
}

// A counter answers with the ID of the request.
type counter struct {
	mu     sync.Mutex
	served map[string]int // by ID
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("X-Request-Id")
	c.mu.Lock()
	c.served[id]++
	c.mu.Unlock()
	io.Copy(io.Discard, r.Body)
	io.WriteString(w, id)
}

func (c *counter) count(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.served[id]
}

// check fails the test if a request was served twice.
func (c *counter) check(t *testing.T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, n := range c.served {
		if n > 1 {
			t.Errorf("%s was served %d times", id, n)
		}
	}
}

// A relay passes the packets of a handover on, with their descriptors.
type relay struct {
	listener *net.UnixListener
	giver    string // its path
}

func newRelay(t *testing.T, path, giver string) *relay {
	t.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	l.SetDeadline(time.Now().Add(wiretest.Patience))
	return &relay{l, giver}
}

// run passes packets on until the moment, and then kills victim. survivor sleeps
// meanwhile. run calls alone when it has passed alone on.
func (r *relay) run(t *testing.T, until moment, alone func(), victim, survivor *Process) {
	t.Helper()
	taker, err := r.listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer taker.Close()
	giver, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: r.giver})
	if err != nil {
		t.Fatal(err)
	}
	defer giver.Close()
	for i, step := range handoverSteps {
		kind, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(step, "taker's "), "giver's "), " ")
		from, to := giver, taker
		if slices.Contains([]string{"taker's hello", "ready", "have", "alone", "have 2"}, step) {
			from, to = taker, giver
		}
		from.SetReadDeadline(time.Now().Add(wiretest.Patience))
		buf, oob := make([]byte, 1<<18), make([]byte, 1<<12)
		n, oobn, _, _, err := from.ReadMsgUnix(buf, oob)
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		var p struct{ Type string }
		if err := json.Unmarshal(buf[:n], &p); err != nil || p.Type != kind {
			t.Fatalf("%s: got %q, %v", step, p.Type, err)
		}
		last := int(until/2) == i
		if last {
			survivor.halt(t)
		}
		if !last || until%2 == 1 {
			_, _, err = to.WriteMsgUnix(buf[:n], oob[:oobn], nil)
		}
		closeRights(oob[:oobn])
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if last {
			victim.cmd.Process.Kill()
			<-victim.done
			taker.Close()
			giver.Close()
			survivor.cmd.Process.Signal(syscall.SIGCONT)
			return
		}
		if step == "alone" {
			alone()
		}
	}
}

// halt stops the process for the time being, if it has not ended.
func (p *Process) halt(t *testing.T) {
	t.Helper()
	p.cmd.Process.Signal(syscall.SIGSTOP)
	WaitFor(t, "each thread to halt", func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		for _, name := range tasks {
			stat, _ := os.ReadFile(name)
			_, state, _ := strings.Cut(string(stat), ") ")
			if !strings.HasPrefix(state, "T") && !strings.HasPrefix(state, "Z") && len(stat) > 0 {
				return false
			}
		}
		return true
	})
}

// closeRights closes the descriptors that came with a packet.
func closeRights(oob []byte) {
	messages, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		fds, _ := unix.ParseUnixRights(&m)
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}
