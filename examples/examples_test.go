//go:build unix

// Package examples runs the programs below it.
package examples

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// program is an example that runs.
type program struct {
	t    *testing.T
	cmd  *exec.Cmd
	addr string
	done chan struct{}

	mu  sync.Mutex
	log strings.Builder
}

var addr = regexp.MustCompile(`addr=(127\.0\.0\.1:\d+)`)

// start builds an example, runs it, and waits until it says where it serves.
func start(t *testing.T, name string) *program {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "example")
	// Unlike what "go build" links, what "go run" links is kept in the build cache.
	if out, err := exec.Command("go", "run", "-ldflags=-s -w", "-exec=cp", "./"+name, binary).CombinedOutput(); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	p := &program{t: t, cmd: exec.Command(binary, "-addr", "127.0.0.1:0"), done: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	serving := make(chan string, 1)
	go func() {
		defer close(p.done)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			p.mu.Lock()
			fmt.Fprintln(&p.log, s.Text())
			p.mu.Unlock()
			if m := addr.FindStringSubmatch(s.Text()); m != nil && p.addr == "" {
				p.addr = m[1]
				serving <- m[1]
			}
		}
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
	})
	select {
	case <-serving:
	case <-p.done:
		t.Fatalf("%s ended:\n%s", name, &p.log)
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not serve after 20 s:\n%s", name, &p.log)
	}
	return p
}

// end sends SIGTERM.
func (p *program) end() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Error(err)
	}
}

// wait returns the log, when the program has ended, as it should.
func (p *program) wait() string {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(40 * time.Second):
		p.t.Fatal("not ended after 40 s")
	}
	if !p.cmd.ProcessState.Success() {
		p.t.Errorf("%v:\n%s", p.cmd.ProcessState, &p.log)
	}
	return p.log.String()
}

// TestMinimal: 25 lines are enough. It compiles, which go vet sees to.
func TestMinimal(t *testing.T) {
	b, err := os.ReadFile("minimal/main.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "\n"); n > 25 {
		t.Errorf("minimal/main.go has %d lines, want at most 25", n)
	}
}

// TestBeside: the workers do what the last request brought, the job and the
// child end.
func TestBeside(t *testing.T) {
	t.Parallel()
	p := start(t, "beside")
	var accepted atomic.Int64
	var clients sync.WaitGroup
	for range 8 { // until nobody is there any more
		clients.Go(func() {
			for {
				resp, err := http.Post("http://"+p.addr, "text/plain", strings.NewReader("job"))
				if err != nil {
					return
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusAccepted {
					t.Errorf("status %s", resp.Status)
				}
				accepted.Add(1)
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	defer http.DefaultClient.CloseIdleConnections()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		p.mu.Lock()
		ready := strings.Contains(p.log.String(), "msg=here") && strings.Contains(p.log.String(), "msg=working") && accepted.Load() > 100
		p.mu.Unlock()
		if ready {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not all of it works after 20 s:\n%s", &p.log)
		}
	}
	// One request is on its way for some time yet.
	nc, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	fmt.Fprint(nc, "POST / HTTP/1.1\r\nHost: beside\r\nContent-Length: 3\r\n\r\nj")
	p.end()
	clients.Wait()
	time.Sleep(500 * time.Millisecond) // workers that do not wait for it have left
	fmt.Fprint(nc, "ob")
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil || resp.StatusCode != http.StatusAccepted {
		t.Errorf("the last request: %v, %v", resp, err)
	}
	accepted.Add(1)
	log := p.wait()
	for _, want := range []string{"msg=\"no more jobs\" done=" + strconv.FormatInt(accepted.Load(), 10) + "\n", "actor=child stream=stdout msg=leaving"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
}
