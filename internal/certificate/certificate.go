package certificate

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// lookEvery is how often the files of a certificate are looked at.
const lookEvery = time.Second

// Pair is a TLS certificate with its key, in two PEM files that may
// change while it is in use.
//
// A pair is taken only as a whole: if the files cannot be read, or do not
// belong together, the one before stays. Connections that are open keep what
// they began with.
type Pair struct {
	certFile, keyFile string
	logger            log.Logger

	current atomic.Pointer[tls.Certificate]

	// The following are the watcher's.
	seen   [2]fs.FileInfo // the files at the last look; nil: not there
	read   [2]fs.FileInfo // the files when they were last read
	failed string         // why that failed; empty: it did not
}

// Load reads a certificate, followed in its file by the chain that
// signs it, and its key. The files must be regular ones. logger, which may be
// nil, gets a line when a pair was taken (info), when one is out of its time
// (warn), and when a changed one was not taken (warn).
func Load(certFile, keyFile string, logger log.Logger) (*Pair, error) {
	if logger == nil {
		logger = log.NewNopLogger()
	}
	c := &Pair{certFile: certFile, keyFile: keyFile, logger: logger}
	c.seen = c.look()
	c.read = c.seen
	pair, err := loadPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	c.take(pair)
	return c, nil
}

// GetCertificate is for the field of that name of a [tls.Config].
func (c *Pair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

// Watch returns an actor that loads the pair again when its files have changed,
// and at SIGHUP.
//
// It looks at the files once a second, through symbolic links, and reads them
// when they have not changed any more since the look before: who writes them
// in two steps is not caught between the two. At SIGHUP it reads them at once.
// A failure is said once, and tried again with each look.
//
// SIGHUP is caught from this call on, and for good: once the actor has
// returned it does nothing, so that it cannot end a stop that is under way.
// The pair that was taken last stays in use.
func (c *Pair) Watch() (execute func() error, interrupt func(error)) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	done := make(chan struct{})
	var once sync.Once
	return func() error { return c.watch(hangups, done) },
		func(error) { once.Do(func() { close(done) }) }
}

func (c *Pair) watch(hangups <-chan os.Signal, done <-chan struct{}) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			before := c.seen
			c.seen = c.look()
			quiet := same(c.seen, before)
			if quiet && (c.failed != "" || !same(c.seen, c.read)) {
				c.reload(false)
			}
		case <-hangups:
			c.seen = c.look()
			c.reload(true)
		case <-done:
			return nil
		}
	}
}

// look finds out, cheaply, what the files are now.
func (c *Pair) look() (files [2]fs.FileInfo) {
	for i, name := range []string{c.certFile, c.keyFile} {
		files[i], _ = os.Stat(name) // the error is said by who reads the file
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

// reload reads the files again. Somebody who asked for it is told also that
// there is nothing new.
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
		c.take(pair)
	case asked || before != "":
		level.Info(c.logger).Log("msg", "certificate unchanged", "cert", c.certFile)
	}
}

// take puts a pair into use.
func (c *Pair) take(pair *tls.Certificate) {
	c.current.Store(pair)
	leaf := pair.Leaf
	level.Info(c.logger).Log("msg", "certificate taken", "cert", c.certFile, "subject", leaf.Subject,
		"names", strings.Join(leaf.DNSNames, ","), "serial", fmt.Sprintf("%x", leaf.SerialNumber), "not_after", leaf.NotAfter.UTC())
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
	if err != nil { // the certificate is good, and so it is about the key
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	return &pair, nil
}

// checkChain finds what tls.X509KeyPair passes over: a block that is not whole,
// as in a file that is still being written, and what is wrong behind the leaf.
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

// readRegular reads a file that is no pipe, which could hold us up for ever.
func readRegular(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	return os.ReadFile(name)
}
