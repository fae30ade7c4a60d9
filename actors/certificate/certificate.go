// Package certificate loads a TLS certificate, and loads it again when its
// files change:
//
//	pair, err := certificate.Load("cert.pem", "key.pem", logger)
//	srv.TLSConfig = &tls.Config{GetCertificate: pair.GetCertificate}
//	g.Add(pair.Watch())
package certificate

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"lastcall/internal/nonblock"
)

// pollInterval is how often Watch checks the files of a certificate.
const pollInterval = time.Second

// Pair is a TLS certificate with its key, in two PEM files that may change
// while it is in use.
//
// The two are replaced together only: if the files cannot be read, or do not
// belong together, the pair in use stays. Open connections keep the pair that
// they began with.
type Pair struct {
	certFile, keyFile string
	logger            log.Logger

	current atomic.Pointer[tls.Certificate]
	asked   chan chan struct{} // of Reload, for Watch; each is closed when that has reloaded

	// Only the actor uses the following.
	seen   [2]fs.FileInfo // the files at the last check; nil: not there
	read   [2]fs.FileInfo // the files when they were last read
	failed string         // why reading failed; empty: it did not
}

// Load reads a certificate, followed in its file by the chain that signs it,
// and its key. Both must be regular files. logger may be nil. It gets a line
// when a pair was loaded (info), when a pair is expired or not yet valid
// (warn), when others may read its key (warn), and when a changed pair was refused
// (warn). The error names the file.
//
// Others are all users but the owner, and the group unless root owns the file: a
// key of root:GROUP with mode 0640 is how Debian and Kubernetes hand it to one
// program. Windows has no such warning.
func Load(certFile, keyFile string, logger log.Logger) (*Pair, error) {
	if logger == nil {
		logger = log.NewNopLogger()
	}
	c := &Pair{certFile: certFile, keyFile: keyFile, logger: logger, asked: make(chan chan struct{})}
	c.seen = c.stat()
	c.read = c.seen
	pair, err := loadPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	c.use(pair)
	return c, nil
}

// GetCertificate is for the field of that name of a [tls.Config].
func (c *Pair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

// Watch returns an actor that loads the pair again when its files have changed,
// and at once when one of the signals comes (SIGHUP, by custom). Its execute
// returns nil when it is interrupted. The last pair stays in use.
//
// It checks the files once a second, through symbolic links. It reads them when
// they have changed and two checks in a row find the same: so a pair that is
// written in two steps is not read between the two. It logs a failure once, and
// tries again with each check.
//
// The signals are caught from this call on, and for good: once the actor has
// returned SIGHUP does nothing, so that it cannot end a stop that is under way. A
// signal that is ignored already, as SIGHUP is under nohup, stays ignored. Without
// signals none is caught.
func (c *Pair) Watch(signals ...os.Signal) (execute func() error, interrupt func(error)) {
	hangups := make(chan os.Signal, 1)
	for _, sig := range signals {
		if !signal.Ignored(sig) {
			signal.Notify(hangups, sig)
		}
	}
	done := make(chan struct{})
	var once sync.Once
	return func() error { return c.watch(hangups, done) },
		func(error) { once.Do(func() { close(done) }) }
}

// Reload has the actor of Watch load the pair again, as at a signal, and returns when
// it has. It returns early if ctx ends, as it must if the actor does not run.
func (c *Pair) Reload(ctx context.Context) {
	reloaded := make(chan struct{})
	select {
	case c.asked <- reloaded:
	case <-ctx.Done():
		return
	}
	select {
	case <-reloaded:
	case <-ctx.Done():
	}
}

func (c *Pair) watch(hangups <-chan os.Signal, done <-chan struct{}) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			before := c.seen
			c.seen = c.stat()
			unchanged := same(c.seen, before)
			if unchanged && (c.failed != "" || !same(c.seen, c.read)) {
				c.reload(false)
			}
		case <-hangups:
			c.seen = c.stat()
			c.reload(true)
		case reloaded := <-c.asked:
			c.seen = c.stat()
			c.reload(true)
			close(reloaded)
		case <-done:
			return nil
		}
	}
}

// stat returns what the files are now, without reading them.
func (c *Pair) stat() (files [2]fs.FileInfo) {
	for i, name := range []string{c.certFile, c.keyFile} {
		files[i], _ = os.Stat(name) // reading the file reports the error
	}
	return files
}

func same(a, b [2]fs.FileInfo) bool {
	return slices.EqualFunc(a[:], b[:], func(a, b fs.FileInfo) bool {
		if a == nil || b == nil {
			return a == nil && b == nil
		}
		return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
	})
}

// reload reads the files again. It logs that nothing is new only if asked, or if the
// last reading failed.
func (c *Pair) reload(asked bool) {
	c.read = c.seen
	before := c.failed
	c.failed = ""
	pair, err := loadPair(c.certFile, c.keyFile)
	switch {
	case err != nil:
		c.failed = err.Error()
		if asked || c.failed != before {
			level.Warn(c.logger).Log("msg", "certificate not taken, the one before stays", "err", err)
		}
	case !slices.EqualFunc(pair.Certificate, c.current.Load().Certificate, bytes.Equal):
		c.use(pair)
	case asked || before != "":
		level.Info(c.logger).Log("msg", "certificate unchanged", "cert", c.certFile)
	}
}

// use puts a pair into use.
func (c *Pair) use(pair *tls.Certificate) {
	c.current.Store(pair)
	leaf := pair.Leaf
	level.Info(c.logger).Log("msg", "certificate taken", "cert", c.certFile, "subject", leaf.Subject,
		"names", strings.Join(leaf.DNSNames, ","), "serial", fmt.Sprintf("%x", leaf.SerialNumber), "not_after", leaf.NotAfter.UTC())
	if info, err := os.Stat(c.keyFile); err == nil && readByOthers(info) {
		level.Warn(c.logger).Log("msg", "other users can read the key", "key", c.keyFile, "mode", fmt.Sprintf("%04o", info.Mode().Perm()))
	}
	switch now := time.Now(); {
	case now.After(leaf.NotAfter):
		level.Warn(c.logger).Log("msg", "certificate has expired", "cert", c.certFile, "not_after", leaf.NotAfter.UTC())
	case now.Before(leaf.NotBefore):
		level.Warn(c.logger).Log("msg", "certificate is not valid yet", "cert", c.certFile, "not_before", leaf.NotBefore.UTC())
	}
}

// loadPair reads and checks a pair. Its errors name the file.
func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	cert, err := readRegular(certFile)
	if err != nil {
		return nil, err
	}
	key, err := readRegular(keyFile)
	if err != nil {
		return nil, err
	}
	if err := checkChain(cert); err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil { // the certificate is good, so the key is wrong
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	return &pair, nil
}

// checkChain finds what tls.X509KeyPair ignores: an incomplete block, as in a
// file that is still being written, and errors behind the leaf.
func checkChain(text []byte) error {
	const begin = "-----BEGIN CERTIFICATE-----"
	blocks := bytes.Count(text, []byte(begin))
	if blocks == 0 {
		return errors.New("no certificate in it (want " + begin + ")")
	}
	whole := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return err
		}
		whole++
	}
	if whole < blocks {
		return fmt.Errorf("of %d certificates in it %d are whole", blocks, whole)
	}
	return nil
}

// readRegular reads a regular file. A pipe could block for ever.
func readRegular(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|nonblock.Flag, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	return io.ReadAll(f)
}
