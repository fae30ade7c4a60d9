//go:build unix

package e2e

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"go/version"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

// TestCorpus sends hostile and odd requests and answers through the binary, and
// compares what comes of them with the right outcome: see testdata/corpus.
func TestCorpus(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/corpus/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files of the corpus: %v", err)
	}
	pki := newPKI(t)
	var all together
	defer all.Wait()
	for _, path := range paths {
		c := readCorpus(t, path)
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		for i, client := range c.clients {
			if i > 0 && !*Long {
				break // the same code serves the others
			}
			all.run(t, name+"/"+client, func(t *testing.T) { c.test(t, path, corpusWay{client: client}, pki) })
			if client == "http" && *Long {
				all.run(t, name+"/"+client+" in pieces", func(t *testing.T) { c.test(t, path, corpusWay{client: client, pieces: true}, pki) })
			}
			if i == 0 && *Long && c.hasHTTP1Program() {
				all.run(t, name+"/"+client+" to h2c", func(t *testing.T) { c.test(t, path, corpusWay{client: client, toHTTP2: true}, pki) })
			}
		}
	}
}

// A corpusWay is how the cases of a file are sent. Those sent in pieces, or before a
// program that speaks HTTP/2, must have the same outcome.
type corpusWay struct {
	client  string
	pieces  bool // what is sent goes into many packets
	toHTTP2 bool
}

// test runs the cases of a file.
func (c *corpus) test(t *testing.T, path string, way corpusWay, pki *pki) {
	var b *corpusBench
	if !c.apart {
		b = c.start(t, way, pki)
	}
	for _, cs := range c.cases {
		t.Run(cs.name, func(t *testing.T) {
			if cs.needs != "" && version.Compare(goVersion(t), cs.needs) < 0 {
				t.Skipf("needs %s", cs.needs)
			}
			b := b
			if c.apart {
				t.Parallel()
				b = c.start(t, way, pki)
			}
			if way.toHTTP2 && cs.answers != nil {
				t.Skip("the program answers over HTTP/1.1")
			}
			err := b.run(cs)
			if err == errNotHTTP2 {
				t.Skip(err)
			}
			switch pending := cs.isPending(way.client); {
			case !pending && err != nil:
				t.Errorf("%s:%d: %v", path, cs.line, err)
			case pending && err == nil && !strings.HasPrefix(cs.pending, "sometimes"):
				t.Errorf("%s:%d: passes: remove the line pending", path, cs.line)
			case err != nil:
				t.Skipf("pending %s: %v", cs.pending, err)
			}
		})
	}
}

// A corpusBench is a server, and what stands behind it.
type corpusBench struct {
	corpusWay
	trust   *tls.Config
	server  *Process
	program *scripted // nil: files
	plain   *http.Client
	url     string // of a plain request
	logged  int    // so much of the log was looked at

	pendingPatience time.Duration // how long a pending case is waited for
}

func (c *corpus) start(t *testing.T, way corpusWay, pki *pki) *corpusBench {
	t.Helper()
	b := &corpusBench{corpusWay: way, trust: &tls.Config{RootCAs: pki.pool}, pendingPatience: time.Second}
	if c.apart {
		b.pendingPatience = 5 * time.Second // these wait anyway
	}
	flags := []string{"-listen", "127.0.0.1:0"}
	if *Long {
		flags = append(flags, "-log-level", "debug")
	}
	for _, f := range c.flags {
		switch {
		case f == "DIR":
			f = c.makeTree(t)
		case strings.Contains(f, "PROGRAM"):
			b.program = startScripted(t, c.programHTTP2() || way.toHTTP2)
			scheme, prefix, _ := strings.Cut(f, "PROGRAM")
			if way.toHTTP2 {
				scheme = "h2c://"
			}
			b.program.prefix = prefix
			f = cmp.Or(scheme, "http://") + b.program.addr + prefix
		}
		flags = append(flags, f)
	}
	scheme := "http"
	switch way.client {
	case "http":
	case "h2c":
		flags = append(flags, "-h2c")
	case "https", "h2":
		flags = append(flags, pki.flags()...)
		scheme = "https"
	default:
		t.Fatalf("no client %q", way.client)
	}
	b.server = Launch(t, Here, Lastcall(flags...))
	b.plain = &http.Client{Transport: &http.Transport{TLSClientConfig: b.trust}, Timeout: wiretest.Patience}
	t.Cleanup(b.plain.CloseIdleConnections)
	b.url = scheme + "://" + b.server.Addr + sentinel
	if err := b.servesPlain(); err != nil {
		t.Fatal(err)
	}
	return b
}

// makeTree makes the files of a corpus.
func (c *corpus) makeTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir() + "/tree"
	changed := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, f := range append(c.tree, []string{"file", sentinel, "alive"}) {
		path := filepath.Join(root, f[1])
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch f[0] {
		case "file":
			err = errors.Join(err, os.WriteFile(path, []byte(f[2]), 0o644), os.Chtimes(path, changed, changed))
		case "link":
			err = errors.Join(err, os.Symlink(f[2], path))
		case "dir":
			err = errors.Join(err, os.MkdirAll(path, 0o755))
		case "pipe":
			err = errors.Join(err, syscall.Mkfifo(path, 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

var plainRequest = corpusStep{send: "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"}
var plainRequest2 = corpusStep{frame: &frameStep{kind: "HEADERS", words: []string{"1", "END_STREAM"}, fields: [][2]string{
	{":method", "GET"}, {":scheme", "http"}, {":authority", "example.com"}, {":path", "/"}}}}

var errNotHTTP2 = errors.New("there is no such request over HTTP/2")

// run sends a case, and returns an error if its outcome is not the right one.
func (b *corpusBench) run(cs *corpusCase) error {
	patience := wiretest.Patience
	if cs.isPending(b.client) {
		patience = b.pendingPatience // it fails sooner or later
	}
	steps := cs.client
	is2 := strings.HasPrefix(b.client, "h2")
	if !slices.ContainsFunc(steps, func(s corpusStep) bool { return s.expect == nil }) {
		if is2 {
			steps = slices.Insert(slices.Clone(steps), 0, plainRequest2)
		} else {
			steps = slices.Insert(slices.Clone(steps), 0, plainRequest)
		}
	}
	if is2 && slices.ContainsFunc(steps, func(s corpusStep) bool { return s.send != "" }) {
		var ok bool
		if steps, ok = overHTTP2(steps); !ok {
			return errNotHTTP2
		}
	}
	if b.program != nil {
		b.program.begin(cs.answers)
	}
	nc, raw, err := dialCase(b.server.Addr, b.client, b.trust, patience)
	if err != nil {
		return err
	}
	waited := 0
	waits := func() error {
		waited++
		return within(patience, "the program to get a request", func() bool { return b.program.heads() >= waited })
	}
	if is2 {
		err = runHTTP2(nc, raw, steps, waits)
	} else {
		err = runHTTP1(nc, raw, steps, b.pieces, waits)
	}
	nc.Close()
	if b.program != nil { // it has also sent what comes after an answer
		err = errors.Join(err, within(patience, "the proxy to be done with the program", b.program.quiet))
	}
	err = errors.Join(err, b.servesPlain())
	if b.program != nil {
		err = errors.Join(err, b.compareSeen(cs))
	}
	return errors.Join(err, b.readLog())
}

// within waits until done returns true.
func within(patience time.Duration, what string, done func() bool) error {
	for deadline := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v for %s", patience, what)
		}
	}
	return nil
}

// servesPlain sends a plain request, which must get its own answer.
func (b *corpusBench) servesPlain() error {
	res, err := b.plain.Get(b.url)
	if err != nil {
		return fmt.Errorf("a plain request afterwards: %v", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || string(body) != "alive" {
		return fmt.Errorf("a plain request afterwards got %d, %q, %v", res.StatusCode, body, err)
	}
	return nil
}

// compareSeen compares what the program has got with what it must get.
func (b *corpusBench) compareSeen(cs *corpusCase) error {
	p := b.program
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, d := range p.doubts {
		errs = append(errs, fmt.Errorf("the program got %s", d))
	}
	want := len(cs.sees)
	if cs.anyOne || want == 0 && cs.answers != nil {
		want = 1
	}
	seen := p.seen
	if len(seen) > want && !cs.unwhole {
		// What a client broke off may reach the program late: in the next case.
		seen = slices.DeleteFunc(slices.Clone(seen), func(m *message) bool { return m.cut })
	}
	var got []string
	for _, m := range seen {
		got = append(got, m.first)
	}
	if cs.maybe && !slices.ContainsFunc(seen, func(m *message) bool { return !m.cut }) {
		return errors.Join(errs...)
	}
	if cs.unwhole {
		for _, m := range seen {
			if !m.cut {
				errs = append(errs, fmt.Errorf("the program got %q whole, with the body %.200q", m.first, m.body))
			}
		}
		return errors.Join(errs...)
	}
	if len(got) != want {
		errs = append(errs, fmt.Errorf("the program got %d requests %q, want %d", len(got), got, want))
	} else {
		for i, e := range cs.sees {
			if b.toHTTP2 && strings.HasSuffix(seen[i].first, "HTTP/2.0") { // not a WebSocket
				e = e.overHTTP2()
			}
			if err := e.compare(seen[i]); err != nil {
				errs = append(errs, fmt.Errorf("the program %v", err))
			}
		}
	}
	return errors.Join(errs...)
}

var badLog = regexp.MustCompile(`.*(panic|goroutine \d|level=error|runtime error).*`)

// readLog looks at what was logged since it was last called.
func (b *corpusBench) readLog() error {
	log := b.server.Log()
	fresh := log[b.logged:]
	b.logged = len(log)
	if line := badLog.FindString(fresh); line != "" {
		return fmt.Errorf("the log says %.300q", line)
	}
	return nil
}
