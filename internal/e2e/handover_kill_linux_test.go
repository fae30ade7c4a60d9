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
	"os/signal"
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
var handoverSteps = []string{"taker's hello", "giver's hello", "listeners", "ready", "conns", "have", "yours", "sole", "alone", "yours alone", "conns 2", "have 2", "yours 2", "end"}

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
	if at >= before("yours alone") { // it was the last that accepted
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
	program := startCounter(t)
	few := []killing{
		giverKilled(after("listeners")), giverKilled(after("conns 2")), takerKilled(after("conns")), takerKilled(after("yours")),
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
			k.test(t, program)
		})
	}
}

// A change is one process and its successor, with clients, and a relay between them.
type change struct {
	*relay
	giver, taker *Process
	half         *asker // of whose second request a part was read
	upload       *asker // whose request is being answered
}

func newChange(t *testing.T, network string, program *counter) *change {
	t.Helper()
	dir := t.TempDir()
	listen := wiretest.LoopbackIP() + ":0"
	if network == "unix" {
		listen = "unix:" + dir + "/http"
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	lastcall := func(path string) *exec.Cmd {
		return Lastcall("-listen", listen, "-proxy", program.url, "-read-header-timeout", "1m", "-read-timeout", "1m", "-idle-grace", "20s", "-grace", "40s", "-handover", "unix:"+path)
	}
	u := &change{giver: Launch(t, Here, lastcall(dir+"/giver"))}

	u.half = newAsker(t, u.giver.Addr, "half")
	u.half.ask("GET", "", 0)
	u.half.want(answered)
	u.half.ask("GET", "", 20)
	u.upload = newAsker(t, u.giver.Addr, "upload")
	u.upload.ask("POST", "body", 1)
	WaitFor(t, "the upload to reach the program", func() bool { return program.count(u.upload.asked[0]) == 1 })

	u.relay = newRelay(t, dir+"/taker", dir+"/giver")
	u.taker = Start(t, Here, lastcall(dir+"/taker"))
	return u
}

// reach passes packets on until the moment, and then calls act, which has to pass on
// what is left. The upload ends when the giver is the only one that has it.
func (u *change) reach(t *testing.T, at moment, act func(p packet)) {
	t.Helper()
	rest := sync.OnceFunc(func() { u.upload.ask("GET", "", 20) }) // of the upload, and a part of the next
	u.relay.run(t, at, rest, act)
	rest()
}

// finish has the clients end their requests.
func (u *change) finish(half, upload, behind string) {
	u.half.t.Helper()
	u.half.finish()
	u.half.want(half)
	u.upload.want(upload)
	u.upload.finish()
	u.upload.want(behind)
}

func (k killing) test(t *testing.T, program *counter) {
	u := newChange(t, "tcp", program)
	victim, survivor := u.taker, u.giver
	if k.giver {
		victim, survivor = u.giver, u.taker
	}
	u.reach(t, k.at, func(p packet) {
		survivor.halt(t)
		if k.at%2 == 1 {
			p.pass(t)
		}
		victim.cmd.Process.Kill()
		<-victim.done
		p.cut()
		survivor.cmd.Process.Signal(syscall.SIGCONT)
	})
	u.finish(k.half, k.upload, k.behind)
	if k.newcomer == lost && !k.giver { // the giver has begun its stop
		u.half.Close()
		u.upload.Close()
		if status := survivor.Wait(t); status != 0 {
			t.Errorf("exit status of the giver = %d, want 0", status)
		}
	}
	newcomer := newAsker(t, u.giver.Addr, "newcomer")
	newcomer.ask("GET", "", 0)
	newcomer.want(k.newcomer)
	for _, a := range []*asker{u.half, u.upload, newcomer} {
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
	if failed := strings.Contains(u.giver.Log(), `msg="upgrade failed, going on as before"`); !k.giver && failed != (k.at < before("yours alone")) {
		t.Errorf("the giver says that the upgrade has failed: %v", failed)
	}
}

// TestStoppedInHandover stops one of the two processes, or both, at each packet.
// Nothing is lost. When the giver stops before the upgrade is done, both end; when the
// taker does, the giver serves on.
func TestStoppedInHandover(t *testing.T) {
	t.Parallel()
	program := startCounter(t)
	few := []string{"have"}
	for i, step := range handoverSteps {
		for _, who := range []string{"giver", "taker", "both"} {
			early := before(step) < before("ready") // the taker does not serve yet
			if !*Long && !slices.Contains(few, step) || early && who != "giver" {
				continue
			}
			t.Run(who+" stopped at "+step, func(t *testing.T) {
				t.Parallel()
				u := newChange(t, "tcp", program)
				at := moment(2 * i)
				u.reach(t, at, func(p packet) {
					for _, process := range []*Process{u.giver, u.taker} {
						if who == "both" || (who == "giver") == (process == u.giver) {
							process.cmd.Process.Signal(syscall.SIGTERM)
							WaitFor(t, "the stop", func() bool { return closed(process.done) || strings.Contains(process.Log(), "phase=draining") })
						}
					}
					p.to.WriteMsgUnix(p.data, p.oob, nil) // if it has not gone
					go passAll(p.from, p.to)
					go passAll(p.to, p.from)
				})
				u.finish(answered, answered, answered)
				if who == "giver" && at <= before("alone") || who == "both" {
					u.giver.Wait(t)
					u.half.Close()
					u.upload.Close()
					u.taker.Wait(t)
				}
				newcomer := newAsker(t, u.giver.Addr, "newcomer")
				newcomer.ask("GET", "", 0)
				want := lost
				if who == "taker" && at <= before("sole") || who == "giver" && at > before("alone") {
					want = answered
				}
				newcomer.want(want)
				for _, a := range []*asker{u.half, u.upload, newcomer} {
					a.Close()
				}
				for _, p := range []*Process{u.giver, u.taker} {
					if want == answered {
						p.cmd.Process.Signal(syscall.SIGTERM)
					}
					p.Wait(t)
					if strings.Contains(p.Log(), "not a clean stop") && (who != "giver" || p == u.giver) {
						t.Error("a process did not stop cleanly")
					}
				}
			})
		}
	}
}

// TestStoppedAndKilledInHandover kills the giver when its stop has made the listener
// refuse newcomers. The taker, at which they would be refused for ever, answers what it
// has and ends with an error.
func TestStoppedAndKilledInHandover(t *testing.T) {
	t.Parallel()
	program := startCounter(t)
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			u := newChange(t, network, program)
			u.reach(t, before("have"), func(p packet) {
				u.giver.cmd.Process.Signal(syscall.SIGTERM)
				WaitFor(t, "newcomers to be refused", func() bool {
					nc, err := net.Dial(network, u.giver.Addr)
					if err == nil {
						nc.Close()
					}
					return err != nil
				})
				u.giver.cmd.Process.Kill()
				<-u.giver.done
				p.cut()
			})
			u.finish(answered, lost, lost)
			u.half.Close()
			if status := u.taker.Wait(t); status == 0 {
				t.Error("exit status of the taker = 0, want that of an error")
			}
		})
	}
}

// TestTakerStopped stops a process whose predecessor says nothing.
func TestTakerStopped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unixpacket", dir+"/handover")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := Start(t, Here, Lastcall("-listen", "127.0.0.1:0", "-handover", "unix:"+dir+"/handover"))
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Read(make([]byte, 1000)); err != nil { // its hello
		t.Fatal(err)
	}
	p.Signal(t, syscall.SIGTERM)
	if status := p.Wait(t); status == 0 {
		t.Error("exit status = 0, want that of an error")
	}
	if log := p.Log(); !strings.Contains(log, "terminated") || strings.Contains(log, "has said nothing") {
		t.Error("the signal was not what ended the process")
	}
}

func init() {
	programs["gives up"] = func(*Work, []string) error { return givesUp() }
	programs["fails"] = func(*Work, []string) error { return failsWhenReady() }
}

// givesUp is a taker that says, when it has a connection, that it has failed. It then
// answers the request of that connection.
func givesUp() error {
	signal.Ignore(syscall.SIGTERM)
	nc, err := net.FileConn(os.NewFile(3, "handover"))
	if err != nil {
		return err
	}
	link := nc.(*net.UnixConn)
	say := func(s string) { io.WriteString(link, s) }
	var conns packet
	say(`{"type":"hello","version":1,"pid":1}`)
	for _, answer := range []string{"", `{"type":"ready","taken":[{"taken":true,"conns":true}]}`, `{"type":"have","n":1}`, `{"type":"failed","error":"out of order"}`} {
		p, err := receivePacket(link, nil)
		if err != nil {
			return err
		}
		if strings.Contains(answer, "have") {
			conns = p
		}
		if answer != "" {
			say(answer)
		}
	}
	messages, err := unix.ParseSocketControlMessage(conns.oob)
	if err != nil {
		return err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	client, err := net.FileConn(os.NewFile(uintptr(fds[0]), "moved"))
	if err != nil {
		return err
	}
	client.SetDeadline(time.Now().Add(wiretest.Patience))
	for r := bufio.NewReader(client); ; {
		if line, err := r.ReadString('\n'); err != nil {
			return err
		} else if line == "\r\n" {
			_, err = io.WriteString(client, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\ntaker")
			client.Close()
			return err
		}
	}
}

// failsWhenReady is a taker that fails as soon as it is ready, and then waits for
// SIGTERM.
func failsWhenReady() error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	nc, err := net.FileConn(os.NewFile(3, "handover"))
	if err != nil {
		return err
	}
	io.WriteString(nc, `{"type":"hello","version":1,"pid":1}`)
	for range 2 { // hello, listeners
		if _, err := receivePacket(nc.(*net.UnixConn), nil); err != nil {
			return err
		}
	}
	io.WriteString(nc, `{"type":"ready","taken":[{"taken":true,"conns":true}]}`)
	io.WriteString(nc, `{"type":"failed","error":"out of order"}`)
	select {
	case <-signals:
		fmt.Fprintln(os.Stderr, "the successor has got SIGTERM")
		return nil
	case <-time.After(wiretest.Patience):
		return errors.New("no SIGTERM")
	}
}

// TestSuccessorGivesUp: a successor that fails when it has a connection answers what
// it has. The old process goes on.
func TestSuccessorGivesUp(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/lastcall"
	if err := os.Symlink(binary, path); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-listen", "127.0.0.1:0", "-dir", site(t, "giver"), "-read-header-timeout", "1m")
	cmd.Env = append(os.Environ(), "RUN_AS=gives up") // for the successor
	p := Launch(t, Here, cmd)
	half := visit(t, p.Addr)
	half.send(askWho)
	half.wantAnswer("giver")
	half.send(askWho[:10])
	os.Remove(path)
	if err := os.Symlink(os.Args[0], path); err != nil {
		t.Fatal(err)
	}
	p.Signal(t, syscall.SIGUSR2)
	p.WaitLog(t, "out of order")
	half.send(askWho[10:])
	half.wantAnswer("taker")
	v := visit(t, p.Addr)
	v.send(askWho)
	v.wantAnswer("giver")
	v.Close()
	p.stopCleanly(t)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// passAll passes packets on until one of the two processes closes.
func passAll(from, to *net.UnixConn) {
	defer to.CloseWrite()
	for {
		from.SetReadDeadline(time.Time{})
		p, err := receivePacket(from, to)
		if err != nil {
			return
		}
		_, _, err = to.WriteMsgUnix(p.data, p.oob, nil)
		p.close()
		if err != nil {
			return
		}
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
	if a.Conn, a.ended = net.DialTimeout(networkOf(addr), addr, 10*time.Second); a.ended != nil {
		a.Conn, _ = net.Pipe()
		a.Close()
	}
	t.Cleanup(func() { a.Close() })
	a.SetDeadline(time.Now().Add(2 * wiretest.Patience))
	a.r = bufio.NewReader(a.Conn)
	return a
}

// networkOf returns the network of an address, which may be the path of a socket.
func networkOf(addr string) string {
	if strings.HasPrefix(addr, "/") {
		return "unix"
	}
	return "tcp"
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
	url    string
	mu     sync.Mutex
	served map[string]int // by ID
}

// startCounter starts a counter. At the end no request may have been served twice.
func startCounter(t *testing.T) *counter {
	c := &counter{served: make(map[string]int)}
	s := httptest.NewServer(c)
	c.url = s.URL
	t.Cleanup(func() {
		s.Close()
		c.check(t)
	})
	return c
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

// A packet is on its way.
type packet struct {
	data, oob []byte
	from, to  *net.UnixConn
}

func receivePacket(from, to *net.UnixConn) (packet, error) {
	data, oob := make([]byte, 1<<18), make([]byte, 1<<12)
	n, oobn, _, _, err := from.ReadMsgUnix(data, oob)
	if errors.Is(err, syscall.ECONNRESET) { // said once, before what the other side had sent
		n, oobn, _, _, err = from.ReadMsgUnix(data, oob)
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	return packet{data[:max(n, 0)], oob[:max(oobn, 0)], from, to}, err
}

// pass passes the packet on, with its descriptors.
func (p packet) pass(t *testing.T) {
	if _, _, err := p.to.WriteMsgUnix(p.data, p.oob, nil); err != nil {
		t.Errorf("pass %.40q on: %v", p.data, err)
	}
}

// cut ends both connections. A process that is being started may have them, too, until
// it runs its program: Close alone would leave them open meanwhile.
func (p packet) cut() {
	for _, c := range []*net.UnixConn{p.from, p.to} {
		c.CloseRead()
		c.CloseWrite()
		c.Close()
	}
}

// close closes the descriptors that have come.
func (p packet) close() {
	messages, _ := unix.ParseSocketControlMessage(p.oob)
	for _, m := range messages {
		fds, _ := unix.ParseUnixRights(&m)
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}

// run passes packets on until the moment, and then calls act with the packet of that
// moment. It calls alone when it has passed "yours alone" on.
func (r *relay) run(t *testing.T, until moment, alone func(), act func(packet)) {
	t.Helper()
	taker, err := r.listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taker.Close() })
	r.listener.Close() // the taker is to listen at the path
	giver, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: r.giver})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { giver.Close() })
	for i, step := range handoverSteps {
		from, to := giver, taker
		if slices.Contains([]string{"taker's hello", "ready", "have", "alone", "have 2"}, step) {
			from, to = taker, giver
		}
		from.SetReadDeadline(time.Now().Add(wiretest.Patience))
		p, err := receivePacket(from, to)
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		var is struct{ Type string }
		if json.Unmarshal(p.data, &is); !slices.Contains(strings.Fields(step), is.Type) {
			t.Fatalf("got %.60q, want %s", p.data, step)
		}
		if int(until/2) == i {
			act(p)
			p.close()
			return
		}
		p.pass(t)
		p.close()
		if step == "yours alone" {
			alone()
		}
	}
}

// halt stops the process for the time being, if it has not ended.
func (p *Process) halt(t *testing.T) {
	t.Helper()
	p.cmd.Process.Signal(syscall.SIGSTOP)
	awaitHalt(t, p.cmd.Process.Pid)
}
