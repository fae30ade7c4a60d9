package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/peterbourgon/ff/v3"
	"golang.org/x/net/http/httpguts"

	"lastcall/stoptest/plot"
)

// config holds the settings, from the flags and the environment.
type config struct {
	url, h2URL, slow, upload, sse, ws urlFlag

	method string
	body   int
	h2     string
	echo   string
	header headerFlag

	caCert    string
	insecure  bool
	tlsConfig *tls.Config // without a server's name

	stops    int
	signal   signalFlag
	second   signalFlag
	allow    statusFlag
	reload   string
	reloadBy syscall.Signal // the signal that reload names; 0: it is a command

	profile profile
	clients clientsFlag
	think   time.Duration // negative: the profile's
	load    time.Duration // negative: the profile's

	maxWait   time.Duration
	startWait time.Duration
	pauses    pauses
	line      lineFlag

	name     string
	versions versionsFlag
	json     string
	junit    string
	plot     string
	compare  bool
	output   string

	command []string
}

const usage = `stoptest counts the requests that a server loses when it stops: it starts the
server, loads it as real clients do, tells it to stop, and accounts for each.

usage: stoptest -url URL [flags] -- COMMAND [ARG...]
       stoptest -compare KEPT REPORT...
       stoptest -compare -plot FILE.svg REPORT...

What to ask for (classes of clients without a URL are left out; PATH is one on -url's host)
  -url URL                   answered 2xx or 3xx; the command has to serve it: http://, https://
                             or unix:SOCKET:/PATH
  -method POST -body 64      bytes: a lost POST is the one that no proxy sends again. GET and
                             HEAD have no body; 405 and 501 end the test at once
  -header 'Name: value'      of each request, also Host; repeatable
  -slow-url URL|PATH         requests that are being answered at the signal
  -upload-url URL|PATH       bodies of 1 MiB that take 3s, under way at the signal
  -sse-url URL|PATH          event streams
  -ws-url URL|PATH           WebSockets that echo messages
  -h2 off                    or h2c or tls: streams of HTTP/2, too; for a server that speaks
                             nothing else: -profile none -clients h2=4x8
  -h2-url URL|PATH           for these, if not -url: https:// for tls, http:// for h2c
  -echo-header NAME          of answers, with the request's X-Request-Id: tells duplicates, too
  -cacert FILE               PEM, of who signs the server's certificate, instead of the system's
  -insecure                  certificates are not verified; without it they are
The load
  -profile light             or full, long-think, none
  -clients connect=4,h2=8x16 other numbers: reuse, look, connect, h2 (connections x streams),
                             idle, unused, slow, upload, sse, ws; the report says what they do
  -think TIME                of the profile's keep-alive clients and streams
  -load TIME                 how long, before the signal, if not the profile's
  -line delay=50ms,jitter=10ms,loss=1%
                             between the server and the clients, each way (Linux, root);
                             the server must listen on all addresses, or on 192.0.2.1
The stop
  -stops 5
  -signal TERM
  -max-wait 1m0s             then it did not stop, and is killed
  -second SIGNAL             a further stop, with a second signal 500ms after the first, while a
                             POST to -upload-url, or -url, is in flight
  -reload SIGNAL|COMMAND     instead of a stop; the server is to go on, and connections that it
                             keeps are counted. A COMMAND is the shell's, with $STOPTEST_PID
  -start-wait 30s            for the first answer
  -allow-status 503,...      an answer 5xx counts as lost if it comes after the signal, to a
                             request that began before or after it; but for these
The report
  -json FILE
  -plot FILE.svg             a picture: requests around the signal
  -junit FILE                for a CI system: a test case for each class of clients
  -compare                   no test: is a REPORT that -json wrote worse than the one that was
                             KEPT? With -plot: draw REPORTs side by side
  -name NAME                 of the server; the command's if not given
  -versions KEY=TEXT,...     to be noted in the report
  -output FILE               for what the server writes
Exit status: 0 nothing was lost, 1 something was (-compare: a REPORT is worse), 2 usage,
3 the server could not be tested, or did not stop. Each flag is also an environment variable: STOPTEST_MAX_WAIT=2m.
`

// flags returns the flag set, and sets the defaults of c.
func (c *config) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("stoptest", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}

	fs.Var(&c.url, "url", "")
	fs.Var(&c.slow, "slow-url", "")
	fs.Var(&c.upload, "upload-url", "")
	fs.Var(&c.sse, "sse-url", "")
	fs.Var(&c.ws, "ws-url", "")
	fs.StringVar(&c.method, "method", http.MethodPost, "")
	fs.IntVar(&c.body, "body", 64, "")
	fs.StringVar(&c.h2, "h2", "off", "")
	fs.Var(&c.h2URL, "h2-url", "")
	fs.StringVar(&c.echo, "echo-header", "", "")
	fs.Var(&c.header, "header", "")
	fs.StringVar(&c.caCert, "cacert", "", "")
	fs.BoolVar(&c.insecure, "insecure", false, "")

	c.profile = profiles["light"]
	fs.Var(&c.profile, "profile", "")
	fs.Var(&c.clients, "clients", "")
	fs.Var(&c.line, "line", "")

	fs.IntVar(&c.stops, "stops", 5, "")
	c.signal.Set("TERM")
	fs.Var(&c.signal, "signal", "")
	fs.Var(&c.second, "second", "")
	fs.Var(&c.allow, "allow-status", "")
	fs.StringVar(&c.reload, "reload", "", "")

	fs.StringVar(&c.name, "name", "", "")
	fs.Var(&c.versions, "versions", "")
	fs.StringVar(&c.json, "json", "", "")
	fs.StringVar(&c.junit, "junit", "", "")
	fs.StringVar(&c.plot, "plot", "", "")
	fs.BoolVar(&c.compare, "compare", false, "")
	fs.StringVar(&c.output, "output", "", "")

	setDuration := func(value *time.Duration, name string, otherwise time.Duration) {
		*value = otherwise
		fs.Var((*durationFlag)(value), name, "")
	}
	setDuration(&c.think, "think", -1)
	setDuration(&c.load, "load", -1)
	setDuration(&c.maxWait, "max-wait", time.Minute)
	setDuration(&c.startWait, "start-wait", 30*time.Second)
	return fs
}

// parse reads the settings from args and the environment, in falling order of
// priority. It returns flag.ErrHelp if help was asked for.
func parse(args []string) (config, error) {
	var c config
	fs := c.flags()
	err := ff.Parse(fs, args, ff.WithEnvVarPrefix("STOPTEST"))
	switch {
	case errors.Is(err, flag.ErrHelp):
		return c, flag.ErrHelp
	case err != nil:
		return c, trimFFPrefix(err)
	}
	c.command = fs.Args()
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["body"] && (c.method == http.MethodGet || c.method == http.MethodHead) {
		c.body = 0
	}
	if c.plot != "" {
		if err := plot.CheckName(c.plot); err != nil {
			return c, fmt.Errorf("-plot %w", err)
		}
	}
	if c.compare {
		return c, c.checkCompare()
	}
	return c, c.check()
}

// trimFFPrefix removes the prefixes that ff puts before an error.
func trimFFPrefix(err error) error {
	s := err.Error()
	for _, prefix := range []string{"error parsing commandline arguments: ", "error parsing environment variables: "} {
		s = strings.TrimPrefix(s, prefix)
	}
	return errors.New(s)
}

// checkCompare is check with -compare.
func (c *config) checkCompare() error {
	switch {
	case c.plot == "" && len(c.command) < 2:
		return errors.New("-compare: want the report that was kept, and others, as -json writes them")
	case len(c.command) == 0:
		return errors.New("-compare: want reports, as -json writes them")
	}
	for _, name := range c.command {
		if strings.HasPrefix(name, "-") {
			return fmt.Errorf("-compare: %q: want flags before the reports", name)
		}
	}
	return nil
}

// check returns an error if values do not fit together, and sets those that depend
// on others.
func (c *config) check() error {
	switch {
	case c.url.URL == nil:
		return errors.New("-url: want the address of something that the command serves")
	case c.url.Host == "":
		return fmt.Errorf("-url %s: want http:// or https:// and a host, or unix:SOCKET:/PATH", c.url.URL)
	case len(c.command) == 0:
		return errors.New("no command: want what starts the server, after --")
	case c.stops < 1:
		return fmt.Errorf("-stops %d: want 1 or more", c.stops)
	case c.body < 0:
		return fmt.Errorf("-body %d: want a number of bytes", c.body)
	case !httpguts.ValidHeaderFieldName(c.method): // a method is a token, too
		return fmt.Errorf("-method %q: want one such as POST", c.method)
	case c.body > 0 && (c.method == http.MethodGet || c.method == http.MethodHead):
		return fmt.Errorf("-method %s: want no -body with it", c.method)
	case c.h2 != "off" && c.h2 != "h2c" && c.h2 != "tls":
		return fmt.Errorf("-h2 %q: want off, h2c, tls", c.h2)
	case c.echo != "" && !httpguts.ValidHeaderFieldName(c.echo):
		return fmt.Errorf("-echo-header %q: want a name such as X-Request-Id", c.echo)
	case c.maxWait == 0 || c.startWait == 0:
		return errors.New("-max-wait, -start-wait: want more than 0s")
	case c.url.socket != "" && c.line.Config != nil:
		return errors.New("-line: want a host in -url, not a socket")
	case c.insecure && c.caCert != "":
		return errors.New("-insecure, -cacert: want one of them")
	case c.second.Signal != 0 && c.reload != "":
		return errors.New("-second, -reload: want one of them")
	}
	if noBody := c.method == http.MethodGet || c.method == http.MethodHead; c.second.Signal != 0 && noBody && c.upload.URL == nil {
		return fmt.Errorf("-second, -method %s: want -upload-url with them, for a POST that is in flight", c.method)
	}
	if err := c.checkURLs(); err != nil {
		return err
	}
	for flag, given := range map[string]bool{"slow-url": c.slow.URL != nil, "upload-url": c.upload.URL != nil,
		"sse-url": c.sse.URL != nil, "ws-url": c.ws.URL != nil, "h2": c.h2 != "off"} {
		class := strings.TrimSuffix(flag, "-url")
		if _, ok := c.clients[class]; ok && !given {
			return fmt.Errorf("-clients %s: want -%s with it", class, flag)
		}
	}
	if c.reload != "" {
		if sig, err := parseSignal(c.reload); err == nil {
			c.reloadBy = sig
		}
	}
	if err := c.loadCA(); err != nil {
		return err
	}
	c.name = cmp.Or(c.name, filepath.Base(c.command[0]))
	if c.load < 0 {
		c.load = c.profile.load
	}
	if c.think < 0 {
		c.think = c.profile.think
	}
	if early, late := c.groups(nil); len(early)+len(late) == 0 {
		return errors.New("-profile, -clients: no clients: want one or more, such as -clients reuse=10")
	}
	return c.checkWritable()
}

// checkURLs completes the URLs, and returns an error if one does not fit.
func (c *config) checkURLs() error {
	for _, u := range []struct {
		flag string
		url  *urlFlag
	}{{"url", &c.url}, {"h2-url", &c.h2URL}, {"slow-url", &c.slow}, {"upload-url", &c.upload}, {"sse-url", &c.sse}, {"ws-url", &c.ws}} {
		if u.url.URL == nil {
			continue
		}
		u.url.resolve(&c.url)
		if u.url.Host == "" {
			return fmt.Errorf("-%s %s: want a host", u.flag, u.url.URL)
		}
		if u.url.User != nil {
			return fmt.Errorf("-%s %s: want no user in it, but -header 'Authorization: …'", u.flag, u.url.Redacted())
		}
		if u.url.socket != "" && c.line.Config != nil {
			return fmt.Errorf("-line: want a host in -%s, not a socket", u.flag)
		}
	}
	h2, h2Flag := &c.url, "url"
	if c.h2URL.URL != nil {
		h2, h2Flag = &c.h2URL, "h2-url"
	}
	if c.h2 == "tls" && h2.Scheme != "https" || c.h2 == "h2c" && h2.Scheme != "http" {
		return fmt.Errorf("-h2 %s: -%s is %s://", c.h2, h2Flag, h2.Scheme)
	}
	return nil
}

// loadCA sets tlsConfig.
func (c *config) loadCA() error {
	c.tlsConfig = &tls.Config{InsecureSkipVerify: c.insecure}
	if c.caCert != "" {
		pem, err := os.ReadFile(c.caCert)
		if err != nil {
			return fmt.Errorf("-cacert: %w", err)
		}
		c.tlsConfig.RootCAs = x509.NewCertPool()
		if !c.tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("-cacert %s: no certificate in it", c.caCert)
		}
	}
	return nil
}

// checkWritable returns an error if a file cannot be written: now, not after an hour of
// testing.
func (c *config) checkWritable() error {
	for _, f := range []struct{ flag, path string }{{"json", c.json}, {"junit", c.junit}, {"plot", c.plot}, {"output", c.output}} {
		if f.path == "" {
			continue
		}
		info, missing := os.Lstat(f.path)
		if missing == nil && info.Mode()&fs.ModeNamedPipe != 0 {
			continue // a pipe has one writer
		}
		file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return fmt.Errorf("-%s: %w", f.flag, err)
		}
		file.Close()
		if missing != nil { // it comes when there is something to write
			os.Remove(f.path)
		}
	}
	return nil
}
