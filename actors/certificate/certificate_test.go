package certificate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
)

// newPair makes a certificate that signs itself, and its key, both in PEM.
func newPair(t testing.TB, serial int64, from, to time.Time) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: "test"},
		DNSNames:     []string{"a.example", "b.example"},
		NotBefore:    from,
		NotAfter:     to,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// buffer collects what is logged.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// take returns what was logged since the last call.
func (b *buffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return b.text.String()
}

// watchedPair is a certificate under watch, in a bubble with a clock of its own.
type watchedPair struct {
	*Pair
	t       *testing.T
	dir     string
	log     buffer // what was not checked yet
	hangups chan os.Signal
}

// watch runs steps in a bubble, over the pair of serial number 1.
func watch(t *testing.T, steps func(w *watchedPair)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &watchedPair{t: t, dir: dir, hangups: make(chan os.Signal)}
		cert, key := w.pair(1)
		w.write("cert", cert)
		w.write("key", key)
		var err error
		w.Pair, err = Load(filepath.Join(dir, "cert"), filepath.Join(dir, "key"), log.NewLogfmtLogger(&w.log))
		if err != nil {
			t.Fatal(err)
		}
		done, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			w.watch(w.hangups, done)
		}()
		time.Sleep(10 * pollInterval)
		w.want(1, `^level=info msg="certificate taken" cert=\S+ subject="?CN=test"? names=a.example,b.example serial=1 not_after=2000-01-02T00:00:00Z$`)
		steps(w)
		close(done)
		<-ended
		w.want(-1, "^$")
	})
}

func (w *watchedPair) pair(serial int64) (cert, key []byte) {
	return newPair(w.t, serial, time.Now().Add(-time.Hour), time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC))
}

// write writes a file with the bubble's time.
func (w *watchedPair) write(name string, text []byte) {
	w.t.Helper()
	name = filepath.Join(w.dir, name)
	if err := os.WriteFile(name, text, 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Chtimes(name, time.Now(), time.Now()); err != nil {
		w.t.Fatal(err)
	}
}

// want checks the pair in use, unless serial is negative, and what was logged
// since the last check.
func (w *watchedPair) want(serial int64, logged string) {
	w.t.Helper()
	synctest.Wait()
	pair, _ := w.GetCertificate(nil)
	if got := pair.Leaf.SerialNumber.Int64(); serial >= 0 && got != serial {
		w.t.Errorf("serial of the certificate in use = %d, want %d", got, serial)
	}
	got := strings.TrimSuffix(w.log.take(), "\n")
	if !regexp.MustCompile(logged).MatchString(got) {
		w.t.Errorf("logged:\n%s\nwant %s", got, logged)
	}
}

const takenLine = `^level=info msg="certificate taken" [^\n]*$`

func TestChanges(t *testing.T) {
	watch(t, func(w *watchedPair) {
		cert, key := w.pair(2)
		w.write("cert", cert)
		w.write("key", key)
		time.Sleep(2*pollInterval + time.Millisecond)
		w.want(2, takenLine)
		time.Sleep(10 * pollInterval)
		w.want(2, "^$")

		w.write("cert", cert) // touched only
		time.Sleep(10 * pollInterval)
		w.want(2, "^$")
	})
}

func TestWrittenInSteps(t *testing.T) {
	watch(t, func(w *watchedPair) {
		cert, key := w.pair(2)
		for _, step := range []func(){
			func() { w.write("cert", nil) },
			func() { w.write("cert", cert[:100]) },
			func() { w.write("cert", cert) },
			func() { w.write("key", key[:50]) },
			func() { w.write("key", key) },
		} {
			step()
			time.Sleep(pollInterval * 9 / 10)
			w.want(1, "^$")
		}
		time.Sleep(2 * pollInterval)
		w.want(2, takenLine)
	})
}

func TestNotTaken(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(w *watchedPair)
		why   string
	}{
		{"key of another", func(w *watchedPair) { _, key := w.pair(2); w.write("key", key) },
			`key: tls: private key does not match public key`},
		{"certificate of another", func(w *watchedPair) { cert, _ := w.pair(2); w.write("cert", cert) },
			`key: tls: private key does not match public key`},
		{"no certificate", func(w *watchedPair) { w.write("cert", []byte("nonsense\n")) },
			`cert: no certificate in it \(want -----BEGIN CERTIFICATE-----\)`},
		{"empty key", func(w *watchedPair) { w.write("key", nil) },
			`key: tls: failed to find any PEM data in key input`},
		{"half of the chain", func(w *watchedPair) {
			text, err := os.ReadFile(w.certFile)
			if err != nil {
				t.Fatal(err)
			}
			w.write("cert", append(text, text[:len(text)/2]...))
		}, `cert: of 2 certificates in it 1 are whole`},
		{"not a certificate", func(w *watchedPair) {
			w.write("cert", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))
		}, `cert: x509: malformed certificate`},
		{"missing", func(w *watchedPair) { os.Remove(w.keyFile) }, `open \S+key: \S`},
		{"not a file", func(w *watchedPair) { os.Remove(w.keyFile); os.Mkdir(w.keyFile, 0o700) }, `key: not a regular file`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			watch(t, func(w *watchedPair) {
				cert, err := os.ReadFile(w.certFile)
				if err != nil {
					t.Fatal(err)
				}
				key, err := os.ReadFile(w.keyFile)
				if err != nil {
					t.Fatal(err)
				}
				tt.spoil(w)
				time.Sleep(10 * pollInterval)
				warned := `^level=warn msg="certificate not taken, the one before stays" err="[^\n]*` + tt.why + `[^\n]*"`
				w.want(1, warned+"$")

				w.hangups <- os.Interrupt // who asks is told again
				w.want(1, warned+"$")

				os.Remove(w.keyFile)
				w.write("cert", cert)
				w.write("key", key)
				time.Sleep(10 * pollInterval)

				w.want(1, `^level=info msg="certificate unchanged" cert=\S+$`)

				cert, key = w.pair(3)
				w.write("cert", cert)
				w.write("key", key)
				time.Sleep(3 * pollInterval)
				w.want(3, takenLine)
			})
		})
	}
}

// TestTriedAgain mends a failure in a way that cannot be seen from
// outside, as that of a process that has run out of descriptors is.
func TestTriedAgain(t *testing.T) {
	watch(t, func(w *watchedPair) {
		key, err := os.ReadFile(w.keyFile)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		w.write("key", make([]byte, len(key)))
		time.Sleep(10 * pollInterval)
		w.want(1, `key: tls: failed to find any PEM data in key input"$`)

		w.write("key", key)
		if err := os.Chtimes(w.keyFile, at, at); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * pollInterval)
		w.want(1, `^level=info msg="certificate unchanged" cert=\S+$`)
	})
}

func TestAtHangup(t *testing.T) {
	watch(t, func(w *watchedPair) {
		w.hangups <- os.Interrupt
		w.want(1, `^level=info msg="certificate unchanged" cert=\S+$`)

		cert, key := w.pair(2)
		w.write("cert", cert)
		w.write("key", key)
		w.hangups <- os.Interrupt
		w.want(2, takenLine) // with no time gone by
	})
}

func TestReload(t *testing.T) {
	watch(t, func(w *watchedPair) {
		w.Reload(context.Background())
		w.want(1, `^level=info msg="certificate unchanged" cert=\S+$`)

		cert, key := w.pair(2)
		w.write("cert", cert)
		w.write("key", key)
		w.Reload(context.Background())
		w.want(2, takenLine)

		unwatched, err := Load(w.certFile, w.keyFile, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		unwatched.Reload(ctx)
		if ctx.Err() == nil {
			t.Error("Reload() returned though nothing watches the pair")
		}
	})
}

// TestSecretMount swaps a symbolic link, as Kubernetes does with the
// files of a secret: cert -> ..data/cert, ..data -> a directory.
func TestSecretMount(t *testing.T) {
	watch(t, func(w *watchedPair) {
		mount := func(dir string, serial int64) {
			if err := os.Mkdir(filepath.Join(w.dir, dir), 0o700); err != nil {
				t.Fatal(err)
			}
			cert, key := w.pair(serial)
			w.write(dir+"/cert", cert)
			w.write(dir+"/key", key)
			link := filepath.Join(w.dir, "..data_tmp")
			if err := os.Symlink(dir, link); err != nil {
				t.Skip("no symbolic links here: ", err)
			}
			if err := os.Rename(link, filepath.Join(w.dir, "..data")); err != nil {
				t.Fatal(err)
			}
		}
		mount("..1", 2)
		for _, name := range []string{"cert", "key"} {
			if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("..data/"+name, filepath.Join(w.dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * pollInterval)
		w.want(2, takenLine)
		mount("..2", 3)
		os.RemoveAll(filepath.Join(w.dir, "..1"))
		time.Sleep(3 * pollInterval)
		w.want(3, takenLine)
	})
}

func TestOutOfItsTime(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name     string
		from, to time.Time
		want     string
	}{
		{"expired", now.Add(-2 * time.Hour), now.Add(-time.Hour), `msg="certificate has expired"`},
		{"not yet", now.Add(time.Hour), now.Add(2 * time.Hour), `msg="certificate is not valid yet"`},
	} {
		dir := t.TempDir()
		certFile, keyFile := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
		cert, key := newPair(t, 1, tt.from, tt.to)
		if err := os.WriteFile(certFile, cert, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(keyFile, key, 0o600); err != nil {
			t.Fatal(err)
		}
		var out buffer
		if _, err := Load(certFile, keyFile, log.NewLogfmtLogger(&out)); err != nil {
			t.Errorf("%s: Load() = %v, want it taken", tt.name, err)
		}
		if got := out.take(); !strings.Contains(got, "level=warn "+tt.want) {
			t.Errorf("%s: logged:\n%s\nwant level=warn %s", tt.name, got, tt.want)
		}
	}
}

func TestInterrupt(t *testing.T) {
	c := &Pair{logger: log.NewNopLogger()}
	for _, before := range []bool{true, false} {
		execute, interrupt := c.Watch(syscall.SIGHUP)
		if before {
			interrupt(nil)
		}
		ended := make(chan error, 1)
		go func() { ended <- execute() }()
		interrupt(nil)
		interrupt(nil)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("execute() = %v, want nil", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("execute has not returned 10 s after interrupt (before it: %v)", before)
		}
	}
}
