//go:build unix

package e2e

import (
	"debug/buildinfo"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Flags of go test. What runs without them waits for little, and needs little of
// the machine.
var (
	Stops = flag.Int("stops", 1, "how many times each test stops the server under load")
	Long  = flag.Bool("long", false, "all clients, attackers and situations, which takes minutes")
)

// Few returns n with -long, and a fraction of it without.
func Few(n int) int {
	if *Long {
		return n
	}
	return (n + 7) / 8
}

// LongOnly skips the test without -long.
func LongOnly(t *testing.T) {
	t.Helper()
	if !*Long {
		t.Skip("only with -long")
	}
}

// ParallelIfFew lets the test run in parallel with others, unless it has all
// clients, with -long, which need the machine.
func ParallelIfFew(t *testing.T) {
	if !*Long {
		t.Parallel()
	}
}

// together are subtests that run at once. With t.Parallel they would begin after all other
// tests, and end last: they are those that take longest.
type together struct{ sync.WaitGroup }

func (all *together) run(t *testing.T, name string, test func(t *testing.T)) {
	all.Go(func() { t.Run(name, test) })
}

// Think returns d with -long, and 50 ms at least without.
func Think(d time.Duration) time.Duration {
	if *Long {
		return d
	}
	return max(d, 50*time.Millisecond)
}

var binary string // lastcall, which Main has built

// Main is the TestMain of a package. It builds lastcall once, with the race
// detector if the test has it, and runs the tests. A test binary that As starts
// runs as one of the programs instead.
func Main(m *testing.M, more map[string]Program) {
	maps.Copy(programs, more)
	if name := os.Getenv("RUN_AS"); name != "" {
		os.Exit(runAs(programs[name]))
	}
	// Under nohup, or in the background of a script, some are ignored. The processes
	// are not to inherit that.
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
	flag.Parse()
	flag.Set("test.parallel", "16") // tests that run in parallel mostly wait
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "lastcall")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "lastcall")
	info, _ := debug.ReadBuildInfo()
	// Unlike what "go build" links, what "go run" links is kept in the build cache.
	args := []string{"run", "-ldflags=-s -w", "-exec=cp"}
	if raceEnabled() {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, info.Main.Path, binary)...)
	if !raceEnabled() { // which needs cgo
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // the kernel then takes 2 ms less to end the process
	}
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build lastcall: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// goVersion returns the version of Go that lastcall was built with.
func goVersion(t *testing.T) string {
	t.Helper()
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	return info.GoVersion
}

// raceEnabled reports whether this test was built with -race.
func raceEnabled() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}
