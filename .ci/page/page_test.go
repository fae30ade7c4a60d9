//go:build unix

// Package page tests the status page in a real Chromium.
//
//	go test -C .ci/page ./... [-args -shots DIR]
package page

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

var shots = flag.String("shots", "", "directory for screenshots")

// chromium starts a browser with one tab, and fails the test for whatever the
// console says: a page that its policy keeps from something, an exception.
func chromium(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox)
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func watchConsole(ctx context.Context, t *testing.T) {
	chromedp.ListenTarget(ctx, func(event any) {
		switch e := event.(type) {
		case *log.EventEntryAdded:
			if !strings.Contains(e.Entry.Text, "ERR_CONNECTION_REFUSED") && !strings.Contains(e.Entry.Text, "ERR_INCOMPLETE") { // at the end
				t.Errorf("console: %s %s", e.Entry.Text, e.Entry.URL)
			}
		case *runtime.EventExceptionThrown:
			t.Errorf("exception: %v", e.ExceptionDetails)
		}
	})
}

// A server is lastcall with a status page before a program that holds requests
// to /hold… until release.
type server struct {
	cmd         *exec.Cmd
	addr, admin string
	release     chan struct{}

	mu  sync.Mutex
	log strings.Builder
}

func serve(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{release: make(chan struct{})}
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "lines" {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "lines")
			w.WriteHeader(http.StatusSwitchingProtocols)
			nc, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			io.Copy(io.Discard, nc)
			return
		}
		if strings.HasPrefix(r.URL.Path, "/hold") {
			select {
			case <-s.release:
			case <-r.Context().Done():
			}
		}
		io.WriteString(w, "hello")
	}))
	t.Cleanup(program.Close)
	s.start(t, append([]string{"-proxy", program.URL}, args...)...)
	return s
}

// start builds and starts lastcall.
func (s *server) start(t *testing.T, args ...string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "lastcall")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	s.cmd = exec.Command(binary, append([]string{"-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0"}, args...)...)
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	})
	serving := make(chan struct{})
	admin, addr := regexp.MustCompile(`msg="status page" addr=(\S+)`), regexp.MustCompile(`msg=serving addr=(\S+)`)
	go func() {
		for sc := bufio.NewScanner(stderr); sc.Scan(); {
			s.mu.Lock()
			fmt.Fprintln(&s.log, sc.Text())
			s.mu.Unlock()
			if m := admin.FindStringSubmatch(sc.Text()); m != nil {
				s.admin = m[1]
			}
			if m := addr.FindStringSubmatch(sc.Text()); m != nil {
				s.addr = m[1]
				close(serving)
			}
		}
	}()
	select {
	case <-serving:
	case <-time.After(20 * time.Second):
		t.Fatal("lastcall does not serve after 20 s")
	}
}

// hold begins requests that the program holds, and returns when they are all
// in flight; wait waits for their answers.
func (s *server) hold(t *testing.T, paths ...string) (wait func()) {
	t.Helper()
	var all sync.WaitGroup
	for _, path := range paths {
		all.Go(func() {
			c, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
			answer, _ := io.ReadAll(c)
			if !strings.HasSuffix(string(answer), "hello") {
				t.Errorf("%s: %q, want hello", path, answer)
			}
		})
	}
	s.wantCount(t, "inflight", len(paths))
	return all.Wait
}

func (s *server) wantCount(t *testing.T, key string, n int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if in := s.get(t, "/status"); strings.Contains(in, fmt.Sprintf("%q: %d,\n", key, n)) {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("no %d %s after 20 s: %s", n, key, in)
		}
	}
}

func (s *server) get(t *testing.T, path string) string {
	t.Helper()
	res, err := http.Get("http://" + s.admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return string(b)
}

func shoot(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	if *shots == "" {
		return
	}
	var png []byte
	if err := chromedp.Run(ctx, chromedp.FullScreenshot(&png, 100)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*shots, name+".png"), png, 0o644); err != nil {
		t.Fatal(err)
	}
}

func run(ctx context.Context, t *testing.T, what string, actions ...chromedp.Action) {
	t.Helper()
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// until waits for an expression to be true in the page.
func until(js string) chromedp.Action {
	return chromedp.Poll(js, nil, chromedp.WithPollingTimeout(20*time.Second))
}

func text(selector string) string {
	return fmt.Sprintf("document.querySelector(%q).textContent", selector)
}

const hostile = "/hold/&lt;img%20src=x%20onerror=alert(1)>'\"&<script>alert(2)</script>"

// headline waits for the text and the level of what the page says first.
func headline(want, level string) chromedp.Action {
	return until(fmt.Sprintf("document.querySelector('#headline').textContent === %q && document.querySelector('#headline').dataset.level === %q && document.title.startsWith(%q)", want, level, want))
}

// phone shows the page as wide as a phone, reports what is cut off at the right,
// and goes back to a desk.
func phone(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	var clipped []string
	run(ctx, t, "phone", chromedp.EmulateViewport(375, 740, chromedp.EmulateMobile),
		chromedp.Evaluate(`[...document.body.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 ||
			!e.matches("select, option") && getComputedStyle(e).display !== "inline" && e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML.slice(0, 200))`, &clipped))
	if len(clipped) > 0 {
		t.Errorf("on a phone (%s) this is cut off: %q", name, clipped)
	}
	shoot(ctx, t, name+"-phone")
	run(ctx, t, "desk", chromedp.EmulateViewport(1100, 800))
}

// wantAccessible reports what a screen reader would miss, or hear too often.
func wantAccessible(ctx context.Context, t *testing.T) {
	t.Helper()
	var missing []string
	run(ctx, t, "what a screen reader needs", chromedp.Evaluate(`[
		...["html[lang]", "body > header h1", "body > main", "nav[aria-label]", "#headline[role=status]", "[aria-current=step]", "#live h2"].filter(s => !document.querySelector(s)),
		...[...document.querySelectorAll("th:not([scope]), table:not([aria-labelledby])")].map(e => e.outerHTML.slice(0, 100)),
		...[...document.querySelectorAll("[aria-labelledby]")].map(e => e.getAttribute("aria-labelledby")).filter(id => !document.getElementById(id)),
		...[...document.querySelectorAll("#live [role], #live [aria-live]")].map(e => e.outerHTML.slice(0, 100)),
	]`, &missing))
	if len(missing) > 0 {
		t.Errorf("missing, or in the part that changes each second: %q", missing)
	}
	var said int
	run(ctx, t, "two updates in which nothing is to be said",
		chromedp.Evaluate(`window.said = 0; window.updates = 0;
			for (const e of document.querySelectorAll("[role=status]")) new MutationObserver(() => said++).observe(e, {childList: true, characterData: true, subtree: true});
			new MutationObserver(() => updates++).observe(document.querySelector("#live"), {childList: true});`, nil),
		until("updates >= 2"), chromedp.Evaluate("said", &said))
	if said > 0 {
		t.Errorf("a screen reader says %d times in two updates that nothing has changed", said)
	}
}

func TestPage(t *testing.T) {
	ctx := chromium(t)
	s := serve(t, "-grace", "5m")
	watchConsole(ctx, t)
	run(ctx, t, "the page", chromedp.EmulateViewport(1100, 800),
		chromedp.Navigate("http://"+s.admin+"/"),
		headline("ready", "good"), until("!document.querySelector('#settings').hidden"))
	host, _ := os.Hostname()
	var title string
	run(ctx, t, "the heading", chromedp.Evaluate(text("h1"), &title))
	if want := "lastcall on " + host + " " + s.addr; title != want {
		t.Errorf("the heading is %q, want %q", title, want)
	}

	wait := s.hold(t, "/hold/report.pdf", hostile, "/hold/"+strings.Repeat("long-", 60))
	run(ctx, t, "the requests in flight, without reloading",
		until(text("#live")+".includes('&lt;img%20src=x') && "+text("#live")+".includes('report.pdf')"),
		until("document.querySelectorAll('#live img, #live script').length === 0"))
	wantAccessible(ctx, t)
	shoot(ctx, t, "ready")
	phone(ctx, t, "ready")

	// By keyboard: the first control is the button.
	var log string
	run(ctx, t, "out of service", chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(" "),
		headline("out of service", "warn"), until(text("#live")+".includes('out of service: not ready')"))
	if got := s.get(t, "/readyz"); got != "out of service\n" {
		t.Errorf("readyz = %q, want out of service", got)
	}
	shoot(ctx, t, "out-of-service")
	phone(ctx, t, "out-of-service")
	run(ctx, t, "back in service", chromedp.KeyEvent(" "), headline("ready", "good"),
		chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent("d"))
	for deadline := time.Now().Add(20 * time.Second); log != "debug\n"; time.Sleep(5 * time.Millisecond) {
		if log = s.get(t, "/log-level"); time.Now().After(deadline) {
			t.Fatalf("log level = %q, want debug", log)
		}
	}

	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	run(ctx, t, "the drain, without reloading", headline("draining", "now"), until("!!document.querySelector('progress')"))
	shoot(ctx, t, "draining")
	phone(ctx, t, "draining")
	run(ctx, t, "dark", emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}))
	shoot(ctx, t, "draining-dark")
	close(s.release)
	wait()
	run(ctx, t, "the end", headline("stopped, nothing lost", "good"), until(text("#message")+".includes('has ended')"), until("document.querySelector('#settings').hidden"))
	shoot(ctx, t, "stopped-dark")
	run(ctx, t, "light", emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "light"}}))
	shoot(ctx, t, "stopped")
	phone(ctx, t, "stopped")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("lastcall ended with %v\n%s", err, &s.log)
	}
}

// TestPageOfCut stops a server that does not finish in time.
func TestPageOfCut(t *testing.T) {
	for name, tt := range map[string]struct {
		requests, upgraded int
		headline, level    string
	}{
		"cut":          {2, 0, "stopped, 2 requests cut", "bad"},
		"cut-both":     {1, 2, "stopped, 1 request and 2 hijacked connections cut", "bad"},
		"cut-upgraded": {0, 2, "stopped, no request lost, but 2 hijacked connections cut", "warn"},
	} {
		t.Run(name, func(t *testing.T) { testPageOfCut(t, name, tt.requests, tt.upgraded, tt.headline, tt.level) })
	}
}

func testPageOfCut(t *testing.T, name string, requests, upgraded int, want, level string) {
	ctx := chromium(t)
	s := serve(t, "-grace", "2s", "-proxy-upgrade", "lines")
	watchConsole(ctx, t)
	run(ctx, t, "the page", chromedp.EmulateViewport(1100, 800), chromedp.Navigate("http://"+s.admin+"/"), headline("ready", "good"))
	paths := []string{"/hold/report.pdf", "/hold/" + strings.Repeat("long-", 60)}
	send := func(path, field string) {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", path, field)
	}
	for _, path := range paths[:requests] {
		send(path, "")
	}
	for _, path := range paths[:upgraded] {
		send(path, "Connection: Upgrade\r\nUpgrade: lines\r\n")
	}
	s.wantCount(t, "inflight", requests)
	s.wantCount(t, "hijacked", upgraded)
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	run(ctx, t, "the end", headline(want, level), until(text("#message")+".includes('has ended')"), until(text(".cut")+".includes('report.pdf')"))
	shoot(ctx, t, name)
	phone(ctx, t, name)
}

// TestMain runs the test binary as the program that lastcall starts, if PORT is set:
// it answers with its process ID.
func TestMain(m *testing.M) {
	if port := os.Getenv("PORT"); port != "" {
		http.ListenAndServe("127.0.0.1:"+port, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, os.Getpid())
		}))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// killProgram kills the program, and returns its process ID.
func (s *server) killProgram(t *testing.T) (pid int) {
	t.Helper()
	res, err := http.Get("http://" + s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := fmt.Fscan(res.Body, &pid); err != nil || pid <= 1 {
		t.Fatalf("process ID %d, %v", pid, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestPageOfProgram looks at the program's generations: one that serves, one that
// crashes in a loop, and one that was deployed.
func TestPageOfProgram(t *testing.T) {
	ctx := chromium(t)
	s := new(server)
	s.start(t, "--", os.Args[0])
	watchConsole(ctx, t)
	// row waits for the row of a generation to match, and for more.
	row := func(number int, pattern, more string) chromedp.Action {
		return until(fmt.Sprintf("[...document.querySelectorAll('[aria-labelledby=program] tbody tr')].some(r => r.cells[0].textContent === '%d' && /%s/.test([...r.cells].slice(1).map(c => c.textContent).join(', ')) && %s)", number, pattern, more))
	}
	const bad = "getComputedStyle(%s).color === 'rgb(179, 38, 30)'"
	run(ctx, t, "the first generation", chromedp.EmulateViewport(1100, 800), chromedp.Navigate("http://"+s.admin+"/"), headline("ready", "good"),
		row(1, "^ready, gets new requests; process [0-9]+ for [0-9.]+ s, 0, 0$", "true"))
	wantAccessible(ctx, t)

	for n := 1; n <= 4; n++ {
		s.killProgram(t)
		run(ctx, t, "why it ended", row(1, fmt.Sprintf("^ready, .*; %d restarts?; ended last: program: signal: killed, 0, %[1]d$", n), "true"))
	}
	s.killProgram(t) // the fifth pause is longer than that between two updates
	run(ctx, t, "a crash loop", row(1, "^restarting, gets new requests; 4 restarts; ended last: program: signal: killed, 0, 5$",
		fmt.Sprintf(bad, "r.cells[1]")+" && headline.dataset.level === 'bad' && headline.textContent === 'not ready: the program has failed and is started again'"))
	run(ctx, t, "the program again", headline("ready", "good"),
		row(1, "^ready, gets new requests; process [0-9]+ for [0-9.]+ s; 5 restarts; ended last: program: signal: killed, 0, 5$", fmt.Sprintf(bad, "r.querySelector('strong')")))
	shoot(ctx, t, "program-crashed")
	phone(ctx, t, "program-crashed")

	r, _ := http.NewRequest("PUT", "http://"+s.admin+"/deploy", nil)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	run(ctx, t, "two generations", row(2, "^ready, gets new requests; process [0-9]+ for [0-9.]+ s, 0, 0$", "true"), row(1, "^draining; process [0-9]+ for ", "true"))
	shoot(ctx, t, "program-deployed")
	phone(ctx, t, "program-deployed")
	io.Copy(io.Discard, res.Body) // until the old one has ended
	run(ctx, t, "the old one ended", row(1, "^ended; 5 restarts, 0, 5$", "true"))
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	run(ctx, t, "the end", headline("stopped, nothing lost", "good"))
}

// TestOtherSites: a page of another origin, and one that has had its name
// rebound, can do and see nothing.
func TestOtherSites(t *testing.T) {
	ctx := chromium(t)
	s := serve(t)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<title>evil</title><iframe id=frame src="http://%[1]s/"></iframe><script>
async function tell(what, f) { try { return what + ": " + await f() } catch { return what + ": failed" } }
const admin = "http://%[1]s";
window.result = (async () => (await Promise.all([
	tell("put", async () => (await fetch(admin + "/ready", {method: "PUT", body: "off"})).status),
	tell("blind put", async () => (await fetch(admin + "/ready", {method: "POST", mode: "no-cors", body: "off"})).type),
	tell("read", async () => (await fetch(admin + "/status")).text()),
	tell("events", () => new Promise((ok, no) => { const e = new EventSource(admin + "/status/events"); e.onmessage = e => ok(e.data); e.onerror = no; })),
	tell("script", () => new Promise((ok, no) => { const s = document.createElement("script"); s.src = admin + "/status/script.js"; s.onload = () => ok("loaded"); s.onerror = no; document.head.append(s); })),
])).join("\n"))();
</script>`, s.admin)
	}))
	defer other.Close()
	_, port, _ := net.SplitHostPort(other.Listener.Addr().String())
	var result string
	wait := func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
	run(ctx, t, "another site", chromedp.Navigate("http://localhost:"+port+"/"), chromedp.Evaluate("window.result", &result, wait))
	want := "put: failed\nblind put: failed\nread: failed\nevents: failed\nscript: failed"
	if result != want {
		t.Errorf("another site:\n%s\nwant\n%s", result, want)
	}
	if got := s.get(t, "/ready"); got != "on\n" {
		t.Errorf("ready is %q: another site set it", got)
	}
}
