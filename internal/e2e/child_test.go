//go:build unix

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lastcall/internal/wiretest"
)

// asChild returns the command that runs the binary with a program of its own: this
// test binary, as runChild. The environment of both has more.
func asChild(flags []string, more ...string) *exec.Cmd {
	// However slow the machine is, the program starts in time.
	slow := []string{"-listen", wiretest.LoopbackIP() + ":0", "-proxy-hold", "1m", "-program-start", "1m"}
	cmd := Lastcall(append(append(slow, flags...), "--", os.Args[0])...)
	cmd.Env = append(append(os.Environ(), "RUN_AS=child"), more...)
	return cmd
}

// runChild is a program that serves at PORT of HOST, and stops as every tutorial
// teaches. It answers /env with its environment, /pid with its process ID, and ends
// with the status of /exit?N. Variables change what it does.
func runChild(work *Work, _ []string) error {
	if file := os.Getenv("CHILD_WAITS"); file != "" { // until it exists
		wiretest.MustWaitFor(file, func() bool { _, err := os.Stat(file); return err == nil })
	}
	if file := os.Getenv("CHILD_FAILS"); file != "" { // as long as it exists
		if _, err := os.Stat(file); err == nil {
			fmt.Println("cannot find the database")
			os.Exit(7)
		}
	}
	if os.Getenv("CHILD_SIGNALS") != "" {
		defer logSignals()()
	}
	die := func() {}
	if file := os.Getenv("CHILD_DIES"); file != "" { // as long as it exists
		if _, err := os.Stat(file); err == nil {
			die = func() {
				fmt.Println("lost the database")
				os.Exit(9)
			}
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/", work)
	mux.Handle("/events", everything(work))
	mux.Handle("/echo", everything(work))
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, strings.Join(os.Environ(), "\n")) })
	mux.HandleFunc("/drip", func(w http.ResponseWriter, r *http.Request) { // in two parts
		w.Header().Set("X-Request-Id", r.Header.Get("X-Request-Id"))
		io.WriteString(w, "begun\n")
		w.(http.Flusher).Flush()
		time.Sleep(50 * time.Millisecond)
		io.WriteString(w, "done\n")
	})
	mux.HandleFunc("/pid", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, os.Getpid())
		time.AfterFunc(500*time.Millisecond, die)
	})
	mux.HandleFunc("/exit", func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.RawQuery)
		os.Exit(status)
	})
	mux.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) {
		if os.Getenv("CHILD_SICK") != "" {
			http.Error(w, "sick", 500)
		}
	})
	addr := net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT"))
	if other := os.Getenv("CHILD_ADDR"); other != "" {
		addr = other
	}
	if d, err := time.ParseDuration(os.Getenv("CHILD_LASTS")); err == nil {
		time.AfterFunc(d, func() { os.Exit(9) })
	}
	l, err := listenAsChild(addr)
	if err != nil {
		return err
	}
	err = idiomOn(l, mux)
	if file := os.Getenv("CHILD_HANGS"); file != "" { // if it exists then
		if _, err := os.Stat(file); err == nil {
			time.Sleep(time.Hour)
		}
	}
	return err
}

// logSignals logs each signal that this process gets, until stop is called.
func logSignals() (stop func()) {
	signals, done := make(chan os.Signal, 100), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTSTP, syscall.SIGCONT)
	go func() {
		defer close(done)
		for sig := range signals {
			fmt.Fprintf(os.Stderr, "msg=got signal=%s\n", unix.SignalName(sig.(syscall.Signal)))
		}
	}()
	return func() {
		time.Sleep(200 * time.Millisecond) // for one that comes twice
		signal.Stop(signals)
		close(signals)
		<-done
	}
}

// gotSignals returns the signals that the programs of the binary have logged, without
// the SIGCONT that comes with each from the binary.
func (p *Process) gotSignals() (names []string) {
	for _, m := range regexp.MustCompile(`msg="msg=got signal=(SIG\w+)"`).FindAllStringSubmatch(p.Log(), -1) {
		if m[1] != "SIGCONT" {
			names = append(names, m[1])
		}
	}
	return names
}

// fetch returns the body of an answer, which has to be 200.
func fetch(t testing.TB, url string) string {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("GET %s = %d %q, %v, want 200", url, res.StatusCode, b, err)
	}
	return string(b)
}

// status returns the status of an answer.
func status(t testing.TB, url string) int {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

// waitInFlight waits until a request is in flight, as the status page says.
func waitInFlight(t *testing.T, admin string) {
	t.Helper()
	WaitFor(t, "a request in flight", func() bool {
		_, status := ask(t, http.DefaultClient, "GET", "http://"+admin+"/status", "")
		return strings.Contains(status, `"inflight": 1`)
	})
}

// childOf returns the process that the binary runs.
func childOf(t testing.TB, p *Process) (pid int) {
	t.Helper()
	pid, err := strconv.Atoi(fetch(t, "http://"+p.Addr+"/pid"))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// killChild sends a signal to the process that the binary runs.
func killChild(t testing.TB, p *Process, sig syscall.Signal) (pid int) {
	t.Helper()
	pid = childOf(t, p)
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
	return pid
}

// signalAll sends a signal to a program and then SIGTERM to the binary, which does not
// run in between. So it has got its own signal when it sees that the program has ended,
// however late this test was to send it.
func signalAll(t testing.TB, program int, sig syscall.Signal, binary int) {
	t.Helper()
	send := func(pid int, sig syscall.Signal) {
		if err := syscall.Kill(pid, sig); err != nil {
			t.Errorf("kill(%d, %v): %v", pid, sig, err)
		}
	}
	send(binary, syscall.SIGSTOP)
	awaitHalt(t, binary)
	send(program, sig)
	send(binary, syscall.SIGTERM)
	send(binary, syscall.SIGCONT)
}

// awaitHalt waits until each thread of a process that was sent SIGSTOP has halted, on
// Linux, which shows them.
func awaitHalt(t testing.TB, pid int) {
	t.Helper()
	WaitFor(t, "each thread to halt", func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
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

// TestProgram runs a program behind the binary, from its start to its end.
func TestProgram(t *testing.T) {
	t.Parallel()
	start := filepath.Join(t.TempDir(), "start")
	p := Launch(t, Here, asChild([]string{"-program-health", "/health", "-admin", "127.0.0.1:0"}, "CHILD_WAITS="+start, "LASTCALL_GRACE=20s", "WATCHDOG_PID=1", "KEPT=yes"))
	if got := status(t, "http://"+p.Addr+"/readyz"); got != 503 {
		t.Errorf("/readyz = %d before the program is ready, want 503", got)
	}
	held := make(chan string, 1)
	go func() { held <- fetch(t, "http://"+p.Addr+"/env") }()
	waitInFlight(t, adminAddr(t, p))
	if err := os.WriteFile(start, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	env := <-held
	if !regexp.MustCompile(`(?s)(^|\n)KEPT=yes\n.*HOST=127\.0\.0\.1\nPORT=\d+\n`).MatchString(env) || strings.Contains(env, "LASTCALL_") || strings.Contains(env, "WATCHDOG_") {
		t.Errorf("the program's environment is\n%s\nwant HOST, PORT, KEPT, and no LASTCALL_ or WATCHDOG_", env)
	}
	WaitFor(t, "/readyz to be 200", func() bool { return status(t, "http://"+p.Addr+"/readyz") == 200 })
	p.WaitLog(t, `stream=stderr msg="msg=serving addr=127.0.0.1:`) // its output

	answer := make(chan int, 1)
	go func() { answer <- status(t, "http://"+p.Addr+"/slow") }() // takes 2 s
	p.WaitLog(t, `msg="msg=begun path=/slow"`)
	p.Signal(t, syscall.SIGTERM)
	if got := <-answer; got != 200 {
		t.Errorf("the request in flight = %d, want 200", got)
	}
	p.endCleanly(t)
	stopped, ended := strings.Index(p.Log(), "phase=stopped"), strings.Index(p.Log(), "actor=program generation=1 msg=ended")
	if stopped < 0 || ended < stopped {
		t.Error("the program ended before the last request was answered")
	}
}

// TestProgramLongLine: what a program writes is logged whole, as a trace or JSON is long.
func TestProgramLongLine(t *testing.T) {
	t.Parallel()
	p := Start(t, Here, Lastcall("-listen", "127.0.0.1:0", "--", "sh", "-c", `printf '%05000d\n' 0; exec sleep 60`))
	p.WaitLog(t, "stream=stdout msg="+strings.Repeat("0", 5000)+"\n")
	p.Signal(t, syscall.SIGTERM)
	p.Wait(t)
}

// TestProgramExit has the program end by itself, under each -program-restart.
func TestProgramExit(t *testing.T) {
	t.Parallel()
	const again = -1
	for _, tt := range []struct {
		policy, how string
		status      int    // of lastcall, or again: the program is started again
		reason      string // in the log
	}{
		{"never", "exit 0", 0, `status="exit status 0"`},
		{"never", "exit 7", 7, `err="program: exit status 7"`},
		{"never", "kill", 137, `err="program: signal: killed"`},
		{"on-failure", "exit 0", 0, `status="exit status 0"`},
		{"on-failure", "exit 7", again, `err="program: exit status 7"`},
		{"on-failure", "kill", again, `err="program: signal: killed"`},
		{"always", "exit 0", again, `err="exit status 0"`},
		{"always", "exit 7", again, `err="program: exit status 7"`},
		{"always", "kill", again, `err="program: signal: killed"`},
	} {
		t.Run(tt.policy+", "+tt.how, func(t *testing.T) {
			t.Parallel()
			if often := tt.how == map[string]string{"never": "exit 7", "on-failure": "kill", "always": "exit 0"}[tt.policy]; !often {
				LongOnly(t)
			}
			d := startDeployable(t, "-program-restart", tt.policy)
			before := d.pid(t)
			if tt.how == "kill" {
				killChild(t, d.Process, syscall.SIGKILL)
			} else if res, err := http.Post("http://"+d.Addr+"/exit?"+strings.TrimPrefix(tt.how, "exit "), "", nil); err == nil { // a GET may be sent once more
				res.Body.Close()
			}
			if tt.status != again {
				<-d.done
				if got := d.cmd.ProcessState.ExitCode(); got != tt.status {
					t.Errorf("exit status = %d, want %d", got, tt.status)
				}
				if log := d.Log(); !strings.Contains(log, tt.reason) || strings.Count(log, "msg=started") != 1 {
					t.Errorf("the log lacks %s, or the program was started again", tt.reason)
				}
				return
			}
			d.WaitLog(t, `msg="program ended, starting it again" `+tt.reason)
			if after := d.pid(t); after == before {
				t.Errorf("process %s answers, want another", after)
			}
			reason := strings.TrimSuffix(strings.TrimPrefix(tt.reason, `err="`), `"`)
			if g := d.generations(t); len(g) != 1 || g[0].Generation != 1 || g[0].Restarts != 1 || g[0].LastError != reason || strconv.Itoa(g[0].PID) == before {
				t.Errorf("/status shows %+v, want the first, with one restart because of %s", g, reason)
			}
			d.stopCleanly(t)
		})
	}
}

// TestProgramCrashLoop has the program end again and again, until lastcall gives up,
// with the program's status. The page says so meanwhile: the last process of the program
// waits until it has been read.
func TestProgramCrashLoop(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := asChild([]string{"-admin", "127.0.0.1:0", "-program-health", "/health"}, "CHILD_LASTS=1ms", "CHILD_SICK=yes", "DIR="+dir)
	last := len(cmd.Args) - 1
	cmd.Args = append(cmd.Args[:last], "sh", "-c", `echo >> "$DIR/starts"
		[ $(wc -l < "$DIR/starts") -lt 6 ] || until [ -e "$DIR/read" ]; do sleep 0.01; done
		exec "$0"`, cmd.Args[last])
	p := Launch(t, Here, cmd)
	held := make(chan int, 1)
	go func() {
		res, err := http.Get("http://" + p.Addr + "/pid")
		if err != nil {
			held <- 0
			return
		}
		res.Body.Close()
		held <- res.StatusCode
	}()
	client, admin := newClient(t), adminAddr(t, p)
	WaitFor(t, "the last start", func() bool { return strings.Count(p.Log(), "msg=started") == 6 })
	WaitFor(t, "the page to say that the program has failed", func() bool {
		_, page := ask(t, client, "GET", "http://"+admin+"/", "")
		return strings.Contains(page, `data-level="bad">not ready: the program has failed and is started again</p>`) &&
			regexp.MustCompile(`<strong>5 restarts</strong>; ended last: program: exit status 9<`).MatchString(page)
	})
	_, metrics := ask(t, client, "GET", "http://"+admin+"/metrics", "")
	for _, want := range []string{"lastcall_ready 0", `lastcall_program_up{generation="1"} 0`, `lastcall_program_last_error_info{generation="1",reason="exit status 9"} 1`} {
		if !strings.Contains(metrics, "\n"+want+"\n") {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	client.CloseIdleConnections()
	if err := os.WriteFile(filepath.Join(dir, "read"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if status := p.Wait(t); status != 9 {
		t.Errorf("exit status = %d, want 9", status)
	}
	if log := p.Log(); strings.Count(log, "msg=started") != 6 || !strings.Contains(log, "gave up after 5 restarts in 1m0s: program: exit status 9") {
		t.Error("the log lacks 6 starts, or that lastcall gave up")
	}
	if got := <-held; got != 503 {
		t.Errorf("the held request = %d, want 503", got)
	}
}

// TestProgramRestart kills the program again and again. Requests that come
// meanwhile are answered by its next process.
func TestProgramRestart(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, asChild(nil))
	seen := make(map[string]bool)
	for n := range 3 {
		killChild(t, p, syscall.SIGKILL)
		// Until then the kernel completes connections, and then resets them.
		WaitFor(t, "the program's end", func() bool { return strings.Count(p.Log(), "msg=ended") == n+1 })
		for range 5 {
			res, err := http.Post("http://"+p.Addr+"/pid", "text/plain", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != 200 {
				t.Errorf("answer = %d %q, want 200", res.StatusCode, b)
			}
			seen[string(b)] = true
		}
	}
	if len(seen) != 3 {
		t.Errorf("answered by %d processes, want 3", len(seen))
	}
	p.stopCleanly(t)
}

// TestSignalToAll stops the program and then the binary, as a signal to all
// processes of a container does, with a request in flight and a client that has
// yet to send the rest of one.
func TestSignalToAll(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"on-failure", "never"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			p := Launch(t, Here, asChild([]string{"-program-restart", policy, "-read-header-timeout", "1m"}))
			fetch(t, "http://"+p.Addr+"/pid")
			v := visit(t, p.Addr)
			read := func() int {
				res, err := http.ReadResponse(v.r, nil)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, res.Body)
				return res.StatusCode
			}
			const request = "GET /pid HTTP/1.1\r\nHost: h\r\n\r\n"
			v.send(request)
			read()
			v.send(request[:10]) // the connection of an idle client may be closed before it sends more
			answer := make(chan int, 1)
			go func() { answer <- status(t, "http://"+p.Addr+"/slow?long") }()
			p.WaitLog(t, `msg="msg=begun path=/slow"`)
			pid := killChild(t, p, syscall.SIGTERM)
			p.Signal(t, syscall.SIGTERM)
			p.WaitLog(t, "phase=draining")
			v.send(request[10:])
			if got := read(); got != 200 {
				t.Errorf("a request that ends after the signal = %d, want 200", got)
			}
			syscall.Kill(pid, syscall.SIGUSR1) // the other may be answered
			if got := <-answer; got != 200 {
				t.Errorf("the request in flight = %d, want 200", got)
			}
			if status := p.Wait(t); status != 0 || !strings.Contains(p.Log(), "failed=0 cut=0") {
				t.Errorf("exit status = %d, want 0, nothing failed and nothing cut", status)
			}
		})
	}
}

// TestSignalToAllUnderLoad has a signal reach the program just before the binary,
// under load. The clients' account is that of the log.
func TestSignalToAllUnderLoad(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		policy string
		sig    syscall.Signal
	}{
		{"on-failure", syscall.SIGTERM},
		{"never", syscall.SIGINT},
		{"on-failure", syscall.SIGKILL}, // what the program was answering fails
	} {
		t.Run(tt.policy+", "+unix.SignalName(tt.sig), func(t *testing.T) {
			t.Parallel()
			p := Launch(t, Here, asChild([]string{"-program-restart", tt.policy, "-admin", "127.0.0.1:0"}, "CHILD_SIGNALS=yes"))
			l := loadOf(t, p.Addr, 16)
			begun := wiretest.Connect(t, p.Addr)
			io.WriteString(begun, "GET / HT") // holds the stop
			program := childOf(t, p)
			l.Signalled(time.Now())
			signalAll(t, program, tt.sig, p.cmd.Process.Pid)
			p.WaitLog(t, "msg=ended") // before it is asked to: else a kill is its failure
			begun.Close()
			status := p.Wait(t)
			p.expectNamed(t, l)
			n := l.Wait().Total
			if n.AnsweredAfter == 0 {
				t.Error("nothing was answered after the signal: this stop shows nothing")
			}
			if got := p.gotSignals(); tt.sig != syscall.SIGKILL && !slices.Contains(got, unix.SignalName(tt.sig)) {
				t.Errorf("the program got %v, want %v first", got, tt.sig)
			}
			p.expectFailed(t, n.ErrorStatus, status)
		})
	}
}

// expectFailed fails the test unless the log counts so many failed requests, or as many
// fewer as the log names before the stop began, and the exit status says so.
func (p *Process) expectFailed(t testing.TB, n, status int) {
	t.Helper()
	m := regexp.MustCompile(`msg=stopped .* failed=(\d+) cut=0`).FindStringSubmatch(p.Log())
	if m == nil {
		t.Fatal("the log has no line of a stop without a cut")
	}
	failed, _ := strconv.Atoi(m[1])
	before, _, _ := strings.Cut(p.Log(), "phase=draining")
	if early := strings.Count(before, `msg="no answer from the program"`); failed > n || failed < n-early {
		t.Errorf("failed=%d, want %d, but for %d that the log names before the stop", failed, n, early)
	}
	if want := min(failed, 1); status != want {
		t.Errorf("exit status = %d with %d failed, want %d", status, failed, want)
	}
}

// TestSignalToAllIdle does so where nothing needs the program any more.
func TestSignalToAllIdle(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, asChild([]string{"-program-restart", "never"}))
	signalAll(t, childOf(t, p), syscall.SIGTERM, p.cmd.Process.Pid)
	if status := p.Wait(t); status != 0 || strings.Count(p.Log(), "msg=started") != 1 {
		t.Errorf("exit status = %d, want 0, and the program not started again", status)
	}
}

// TestProgramNeverReady has programs that do not come up.
func TestProgramNeverReady(t *testing.T) {
	t.Parallel()
	var all together
	defer all.Wait()
	for _, tt := range []struct {
		name  string
		flags []string
		env   string
		log   string
	}{
		{"sick", []string{"-program-health", "/health"}, "CHILD_SICK=yes", "not ready after 10s"},
		{"slow", nil, "CHILD_WAITS=/nonexistent", "not ready after 10s: it does not listen on PORT="},
	} {
		all.run(t, tt.name, func(t *testing.T) {
			p := Launch(t, Here, asChild(append(tt.flags, "-program-start", "10s", "-program-restart", "never"), tt.env))
			got := make(chan int, 1)
			go func() {
				res, err := http.Get("http://" + p.Addr + "/pid")
				if err != nil {
					got <- 0
					return
				}
				res.Body.Close()
				got <- res.StatusCode
			}()
			if status := p.Wait(t); status != 1 || !strings.Contains(p.Log(), tt.log) {
				t.Errorf("exit status = %d, want 1 and the line %s", status, tt.log)
			}
			if status := <-got; status != 503 {
				t.Errorf("the held request = %d, want 503", status)
			}
		})
	}
}

// TestProgramAddressTaken has another process serve where the program is to listen.
// It gets nothing of the program's clients.
func TestProgramAddressTaken(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer other.Close()
	addr := other.Listener.Addr().String()
	host, port, _ := net.SplitHostPort(addr)
	p := Launch(t, Here, asChild([]string{"-proxy", other.URL, "-program-restart", "never"}, "HOST="+host, "PORT="+port))
	got := make(chan int, 1)
	go func() {
		res, err := http.Get("http://" + p.Addr + "/pid")
		if err != nil { // lastcall has ended before
			got <- 0
			return
		}
		res.Body.Close()
		got <- res.StatusCode
	}()
	if status := p.Wait(t); status != 1 || !strings.Contains(p.Log(), "another process serves at http://"+addr) || strings.Contains(p.Log(), "msg=started") {
		t.Errorf("exit status = %d, want 1, the reason, and no program started", status)
	}
	if status := <-got; status != 0 && status != 503 || asked.Load() != 0 {
		t.Errorf("a request = %d, and %d came to the other process, want 503 and 0", status, asked.Load())
	}
}

// TestHeldInVain has a request of a stop wait for a program that does not come. It
// has failed, although its status says only that the client may try again.
func TestHeldInVain(t *testing.T) {
	t.Parallel()
	p := Launch(t, Here, Lastcall("-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0", "-proxy", "unix:"+t.TempDir()+"/s", "-proxy-hold", "10s"))
	answer := make(chan int, 1)
	go func() { answer <- status(t, "http://"+p.Addr+"/") }()
	waitInFlight(t, adminAddr(t, p))
	p.Signal(t, syscall.SIGTERM)
	if got := <-answer; got != 503 {
		t.Errorf("the held request = %d, want 503", got)
	}
	http.DefaultClient.CloseIdleConnections()
	if status := p.Wait(t); status != 1 || !strings.Contains(p.Log(), "failed=1 cut=0") {
		t.Errorf("exit status = %d, want 1, and one failed", status)
	}
}
