package actors_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"
	"golang.org/x/sys/unix"

	"lastcall/actors"
	"lastcall/internal/wiretest"
)

// helper is the command that runs this test binary as another process.
func helper(name string, prefix ...string) *exec.Cmd {
	args := append(prefix, os.Args[0])
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "HELPER="+name)
	return cmd
}

func init() { runHelper = runChild }

// runChild does what the process of helper is for.
func runChild(name string) {
	switch name {
	case "churn":
		churn()
	case "adopt":
		if os.Getpid() != 1 {
			if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
		}
		adopt()
	case "terminal":
		terminal()
	case "zombie":
		execute, _ := actors.Process(nil, exec.Command("sh", "-c", "(sleep 0.05 &) ; sleep 0.3"), actors.ProcessConfig{})
		began := time.Now()
		err := execute()
		fmt.Println("done", err, time.Since(began) > 15*time.Second)
	}
}

// churn runs programs while threads come and go, and does not end. It returns if
// the programs do not start.
func churn() {
	const programs = 5
	started := make(chan struct{}, programs)
	out := log.NewSyncLogger(log.NewLogfmtLogger(os.Stdout))
	logger := log.LoggerFunc(func(keyvals ...any) error {
		err := out.Log(keyvals...)
		if slices.Contains(keyvals, any("started")) {
			started <- struct{}{}
		}
		return err
	})
	var threads sync.WaitGroup
	for range programs {
		execute, _ := actors.Process(&actors.Stop{Logger: logger}, exec.Command("sleep", "1000"), actors.ProcessConfig{})
		threads.Go(func() { fmt.Println("over", execute()) })
		for range 20 {
			// The thread of a goroutine that ends while it is locked ends, too.
			threads.Go(func() { runtime.LockOSThread(); time.Sleep(time.Millisecond) })
		}
	}
	for range programs {
		select {
		case <-started:
		case <-time.After(wiretest.Patience):
			return
		}
	}
	for range 500 {
		var some sync.WaitGroup
		for range 4 {
			some.Go(func() { runtime.LockOSThread(); time.Sleep(100 * time.Microsecond) })
		}
		some.Wait()
	}
	fmt.Println("churned")
	select {}
}

// TestProcessDiesWithParent: but not with a thread of it.
func TestProcessDiesWithParent(t *testing.T) {
	t.Parallel()
	cmd := helper("churn")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []string
	for s := bufio.NewScanner(stdout); s.Scan(); {
		if _, pid, ok := strings.Cut(s.Text(), "pid="); ok {
			pids = append(pids, pid)
		}
		if strings.Contains(s.Text(), "over") || strings.Contains(s.Text(), "ended") {
			t.Errorf("with a thread: %s", s.Text())
		}
		if s.Text() == "churned" {
			break
		}
	}
	if len(pids) != 5 {
		t.Errorf("%d programs have been started, want 5", len(pids))
	}
	cmd.Process.Kill()
	cmd.Wait()
	for _, pid := range pids {
		gone := func() bool {
			b, err := os.ReadFile("/proc/" + pid + "/stat")
			return err != nil || !bytes.Contains(b, []byte("(sleep) S"))
		}
		for deadline := time.Now().Add(10 * time.Second); !gone(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				n, _ := strconv.Atoi(pid)
				syscall.Kill(n, syscall.SIGKILL)
				t.Errorf("%s runs 10 s after its parent was killed", pid)
				break
			}
		}
	}
}

// terminal runs programs that use the terminal.
func terminal() {
	for _, tt := range []struct {
		script  string
		session bool
		stops   bool
	}{
		{"read x </dev/tty", false, true},
		{"stty tostop </dev/tty", false, true},
		{"read x; echo read", false, false}, // /dev/null
		{"read x </dev/tty || echo refused", true, false},
	} {
		var log lines
		stop := actors.Stop{Logger: &log}
		cmd := sh(tt.script)
		if tt.session {
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		}
		a := begin(actors.Process(&stop, cmd, actors.ProcessConfig{}))
		stopped := false
		for deadline := time.Now().Add(20 * time.Second); !stopped && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if _, pid, ok := strings.Cut(log.String(), "pid="); ok {
				pid, _, _ = strings.Cut(pid, "\n")
				b, _ := os.ReadFile("/proc/" + pid + "/stat")
				stopped = bytes.Contains(b, []byte(") T "))
			}
			select {
			case <-a.done:
				deadline = time.Time{}
			default:
			}
		}
		began := time.Now()
		a.interrupt(nil)
		<-a.done
		if err := stop.Err(a.err); err != nil || stopped != tt.stops || time.Since(began) > 15*time.Second {
			fmt.Printf("bad: %s: %v, stopped %v, ended %v after the interrupt\n%v\n", tt.script, err, stopped, time.Since(began), &log)
		}
	}
	fmt.Println("done")
}

// TestProcessTerminal: in the background of a terminal a program that uses it is
// stopped, and ends when it is asked to all the same.
func TestProcessTerminal(t *testing.T) {
	t.Parallel()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skip(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Skip(err)
	}
	tty, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer tty.Close()
	cmd := helper("terminal")
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Run(); err != nil || out.String() != "done\n" {
		t.Errorf("%v:\n%s", err, &out)
	}
}

// adopt runs a program that leaves orphans, while others start children of
// their own and wait for them, some late.
func adopt() {
	const orphans = 30
	var log lines
	stop := &actors.Stop{Logger: &log}
	// Each ( & ) leaves an orphan; some have left the group as well.
	execute, interrupt := actors.Process(stop, exec.Command("sh", "-c", `
		i=0
		while [ $i -lt 15 ]; do
			(sleep 0.0$i & setsid sleep 0.0$i &)
			i=$((i+1))
		done
		echo all; exec sleep 1000`), actors.ProcessConfig{})
	actor := begin(execute, interrupt)

	var own sync.WaitGroup
	for i := range 25 {
		own.Go(func() {
			cmd := exec.Command("sh", "-c", fmt.Sprintf("exit %d", i+1))
			if err := cmd.Start(); err != nil {
				fmt.Println("bad:", err)
				return
			}
			if i%2 == 0 {
				time.Sleep(200 * time.Millisecond) // it has ended long since
			}
			if cmd.Wait(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != i+1 {
				fmt.Println("bad: the wait of child", i+1, "was stolen:", cmd.ProcessState)
			}
		})
	}
	own.Wait()
	// children counts those of this process, and how many of them are zombies.
	children := func() (all, zombies int) {
		out, err := exec.Command("ps", "-A", "-o", "ppid=,stat=,comm=").Output()
		if err != nil {
			fmt.Println("bad:", err)
		}
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); f[0] == strconv.Itoa(os.Getpid()) && f[2] != "ps" {
				all++
				if f[1][0] == 'Z' {
					zombies++
				}
			}
		}
		return all, zombies
	}
	// All orphans are this process's children once the program says so. Then
	// only the program itself is to be left.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		all, zombies := children()
		if log.count("msg=all") == 1 && all == 1 && zombies == 0 {
			break
		}
		if time.Now().After(deadline) {
			fmt.Println("bad:", all, "children with", zombies, "zombies, of", orphans)
			break
		}
	}
	actor.interrupt(nil)
	<-actor.done
	if actor.err != nil || stop.Err(nil) != nil {
		fmt.Println("bad:", actor.err, stop.Err(nil))
	}
	if all, zombies := children(); all > 0 {
		fmt.Println("bad:", all, "children with", zombies, "zombies in the end")
	}
	fmt.Println("done, as process", os.Getpid() == 1)
}

// namespace is the command that runs another in a PID namespace.
func namespace(t *testing.T) []string {
	t.Helper()
	unshare := []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child"}
	if out, err := exec.Command(unshare[0], append(unshare[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("%v: %v: %s", unshare, err, out)
	}
	return unshare
}

// TestProcessZombies: a process 1 that reaps no orphans does not hold the actor,
// whose group then never goes away.
func TestProcessZombies(t *testing.T) {
	t.Parallel()
	cmd := helper("zombie", append(namespace(t), "sh", "-c", `"$@" & exec cat >/dev/null`, "sh")...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "done <nil> false\n" {
		t.Errorf("%q, %v; want done in time", line, err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestProcessAdopts: orphans are reaped, children are left to the code that waits for them.
func TestProcessAdopts(t *testing.T) {
	t.Parallel()
	t.Run("subreaper", func(t *testing.T) {
		t.Parallel()
		out, err := helper("adopt").CombinedOutput()
		if err != nil || string(out) != "done, as process false\n" {
			t.Errorf("%v:\n%s", err, out)
		}
	})
	t.Run("process 1", func(t *testing.T) {
		t.Parallel()
		out, err := helper("adopt", namespace(t)...).CombinedOutput()
		if err != nil || string(out) != "done, as process true\n" {
			t.Errorf("%v:\n%s", err, out)
		}
	})
}
