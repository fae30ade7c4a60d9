package app

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/peterbourgon/ff/v3"

	"lastcall/actors"
	"lastcall/internal/proxy"
)

// Settings are what the flags, the environment and the file say.
type Settings struct {
	listen addresses
	dir    string
	list   bool
	proxy  string

	proxyTimeout time.Duration
	wsSpread     time.Duration

	tlsCert, tlsKey string
	h2c             bool

	lameDuck  time.Duration
	grace     time.Duration
	idleGrace time.Duration
	report    string

	readTimeout       time.Duration
	readHeaderTimeout time.Duration
	writeTimeout      time.Duration
	idleTimeout       time.Duration
	maxHeaderBytes    int

	admin        string
	healthPrefix string
	accessLog    bool
	logFormat    string
	logLevel     string
	version      bool
}

const usage = `lastcall serves files, or stands in front of a program, and stops without
losing an HTTP request.  Stop it with kill -INT (Ctrl-C), kill -TERM, or by closing its terminal.

usage: lastcall [flags]

What to serve (neither: a start page)
  -dir PATH, -list           files of a directory; list those that have no index.html
  -proxy URL                 a program: http://, https://, h2c://HOST:PORT or unix:PATH
  -proxy-timeout 1m0s        how long it may take to begin an answer, and then say nothing
Where
  -listen :8080              HOST:PORT or unix:PATH; may be repeated; sockets that systemd
                             passes are served too, and instead of the default
  -tls-cert FILE             HTTPS, with HTTP/2: the certificate and its chain, in PEM
  -tls-key FILE              its key; both are loaded again if they change, and by kill -HUP
  -h2c                       HTTP/2 without TLS too, for clients that know
  -health-prefix /           where healthz, livez, readyz live, or off
  -admin HOST:PORT|unix:PATH a status page, metrics, profiles and settings, for whoever can connect
Stop
  -lame-duck 0s              go on accepting, not ready, for so long first
  -grace 30s                 then cut what is not finished after so long; 0s: at once
  -idle-grace 5s             wait for a quiet connection for so long at the most; 0s: for none
  -report FILE               write how it went, as JSON
  -ws-spread 5s              end a program's WebSockets and event streams over so long at the most
Clients
  -read-header-timeout 5s    for a request's header
  -read-timeout 5s           without progress of its body
  -write-timeout 10s         without progress of the answer
  -idle-timeout 2m0s         between requests
  -max-header-bytes 65536
Logs and settings
  -access-log                a line a request
  -log-format logfmt         or json
  -log-level info            or debug, warn, error
  -config FILE               a setting a line: "grace 10s"; flags and environment win
  -version, -help
Each flag is also an environment variable: LASTCALL_IDLE_GRACE=2s. Timeouts of 0s are off.
`

// flags makes the flag set, and gives c the defaults.
func (c *Settings) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("lastcall", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}

	c.listen = addresses{list: []string{":8080"}}
	fs.Var(&c.listen, "listen", "")
	fs.Var((*nonEmpty)(&c.dir), "dir", "")
	fs.Var((*boolean)(&c.list), "list", "")
	fs.Var((*nonEmpty)(&c.proxy), "proxy", "")
	fs.Var((*nonEmpty)(&c.tlsCert), "tls-cert", "")
	fs.Var((*nonEmpty)(&c.tlsKey), "tls-key", "")
	fs.Var((*boolean)(&c.h2c), "h2c", "")
	fs.Var((*nonEmpty)(&c.admin), "admin", "")
	fs.StringVar(&c.healthPrefix, "health-prefix", "/", "")
	fs.Var((*nonEmpty)(&c.report), "report", "")
	fs.Var((*boolean)(&c.accessLog), "access-log", "")
	c.logFormat, c.logLevel, c.maxHeaderBytes = "logfmt", "info", 64<<10
	fs.Var(choice{&c.logFormat, []string{"logfmt", "json"}}, "log-format", "")
	fs.Var(choice{&c.logLevel, []string{"debug", "info", "warn", "error"}}, "log-level", "")
	fs.Var((*size)(&c.maxHeaderBytes), "max-header-bytes", "")
	fs.Var((*boolean)(&c.version), "version", "")
	fs.Var(new(nonEmpty), "config", "")

	setting := func(value *time.Duration, name string, byDefault time.Duration) {
		*value = byDefault
		fs.Var((*duration)(value), name, "")
	}
	setting(&c.lameDuck, "lame-duck", 0)
	setting(&c.grace, "grace", actors.DefaultGrace)
	setting(&c.idleGrace, "idle-grace", actors.DefaultIdleGrace)
	setting(&c.proxyTimeout, "proxy-timeout", time.Minute)
	setting(&c.wsSpread, "ws-spread", proxy.DefaultSpread)
	setting(&c.readTimeout, "read-timeout", 5*time.Second)
	setting(&c.readHeaderTimeout, "read-header-timeout", 5*time.Second)
	setting(&c.writeTimeout, "write-timeout", 10*time.Second)
	setting(&c.idleTimeout, "idle-timeout", 120*time.Second)
	return fs
}

// ReadSettings reads the settings from args, the environment and the file, in
// falling order of priority. It returns nil if args ask for help or the version,
// which it writes to stdout. An error is one of usage.
func ReadSettings(args []string, stdout io.Writer) (*Settings, error) {
	c, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return nil, nil
	case err != nil:
		return nil, usageError{err}
	case c.version:
		fmt.Fprintln(stdout, "lastcall", version(debug.ReadBuildInfo()))
		return nil, nil
	}
	return &c, nil
}

// NewStop returns a Stop as the settings ask for it.
func (c *Settings) NewStop(l Log) *actors.Stop {
	return &actors.Stop{Logger: l.logger, LameDuck: c.lameDuck, Grace: orNone(c.grace), IdleGrace: orNone(c.idleGrace)}
}

// parse returns flag.ErrHelp if args ask for help.
func parse(args []string) (Settings, error) {
	var c Settings
	fs := c.flags()
	os.Unsetenv("LASTCALL_VERSION") // not a setting: images name the version that they hold so
	err := ff.Parse(fs, args,
		ff.WithEnvVarPrefix("LASTCALL"),
		ff.WithConfigFileFlag("config"),
		ff.WithConfigFileParser(parseFile),
	)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return c, flag.ErrHelp
	case err != nil:
		return c, tidyError(err)
	case fs.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q: settings are flags, such as -dir %s", fs.Arg(0), fs.Arg(0))
	}
	return c, c.check()
}

// parseFile is ff.PlainParser, but returns read errors. PlainParser treats them as
// the end of the file.
func parseFile(r io.Reader, set func(name, value string) error) error {
	var read bytes.Buffer
	lines := bufio.NewScanner(io.TeeReader(r, &read))
	for lines.Scan() {
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return errors.New("-config: a line is longer than 64 KiB")
	case err != nil:
		return err
	}
	return ff.PlainParser(&read, set)
}

// tidyError removes what ff says of itself from an error, and adds what would be
// right.
func tidyError(err error) error {
	if errors.As(err, new(*fs.PathError)) {
		return fmt.Errorf("-config: %w", err)
	}
	s := err.Error()
	for _, prefix := range []string{"error parsing commandline arguments: ", "error parsing environment variables: "} {
		s = strings.TrimPrefix(s, prefix)
	}
	if strings.HasPrefix(s, "flag provided but not defined") {
		s += "; -help lists those there are"
	}
	return errors.New(s)
}

// check finds settings that do not fit each other.
func (c *Settings) check() error {
	if c.admin != "" {
		if err := checkAddress(c.admin); err != nil {
			return fmt.Errorf("-admin: %w", err)
		}
		if strings.HasPrefix(c.admin, "unix:@") {
			return fmt.Errorf("-admin %q: an abstract socket is open to every user; want the path of a file", c.admin)
		}
	}
	switch {
	case c.dir != "" && c.proxy != "":
		return fmt.Errorf("-dir %q and -proxy %q: want one of them", c.dir, c.proxy)
	case c.list && c.dir == "":
		return errors.New("-list: want -dir with it")
	case c.tlsCert != "" && c.tlsKey == "":
		return errors.New("-tls-cert: want -tls-key with it")
	case c.tlsKey != "" && c.tlsCert == "":
		return errors.New("-tls-key: want -tls-cert with it")
	case c.h2c && c.tlsCert != "":
		return errors.New("-h2c: HTTP/2 without TLS; want it without -tls-cert, which brings HTTP/2 too")
	case c.healthPrefix != "off" && (!strings.HasPrefix(c.healthPrefix, "/") || path.Clean(c.healthPrefix) != "/"+strings.Trim(c.healthPrefix, "/")):
		return fmt.Errorf("-health-prefix %q: want a path such as / or /-/health, or off", c.healthPrefix)
	}
	return nil
}

// scheme returns the scheme of the URLs that are served.
func (c *Settings) scheme() string {
	switch {
	case c.tlsCert != "":
		return "https"
	case c.h2c:
		return "h2c" // and HTTP/1
	}
	return "http"
}

// addresses is the value of -listen.
type addresses struct {
	list []string
	set  bool // list is not the default
}

func (a *addresses) String() string { return strings.Join(a.list, ",") }

// Set adds addresses. Commas separate them, because an environment variable cannot
// be repeated as a flag can.
func (a *addresses) Set(s string) error {
	if !a.set {
		a.list, a.set = nil, true
	}
	for addr := range strings.SplitSeq(s, ",") {
		addr = strings.TrimSpace(addr)
		if err := checkAddress(addr); err != nil {
			return err
		}
		a.list = append(a.list, addr)
	}
	return nil
}

func checkAddress(addr string) error {
	const want = "want HOST:PORT, :PORT or unix:PATH"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if path == "" {
			return fmt.Errorf("address %q has no path: %s", addr, want)
		}
		return nil
	}
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" {
		return fmt.Errorf("address %q: %s", addr, want)
	}
	return nil
}

// nonEmpty is a string flag that refuses "". A shell makes that of a variable that
// is not set, and the process must not then run without the setting.
type nonEmpty string

func (n *nonEmpty) String() string { return string(*n) }

func (n *nonEmpty) Set(s string) error {
	if s == "" {
		return errors.New("want a value, or not the flag")
	}
	*n = nonEmpty(s)
	return nil
}

// choice is one of a few words.
type choice struct {
	value *string
	of    []string
}

func (c choice) String() string { return *c.value }

func (c choice) Set(s string) error {
	if !slices.Contains(c.of, s) {
		return fmt.Errorf("%q is none of %s", s, strings.Join(c.of, ", "))
	}
	*c.value = s
	return nil
}

// boolean is a bool flag whose error says which values are right.
type boolean bool

func (b *boolean) String() string   { return strconv.FormatBool(bool(*b)) }
func (b *boolean) IsBoolFlag() bool { return true }

func (b *boolean) Set(s string) error {
	v, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("%q is not true or false", s)
	}
	*b = boolean(v)
	return nil
}

// size is a number of bytes.
type size int

func (n *size) String() string { return strconv.Itoa(int(*n)) }

func (n *size) Set(s string) error {
	v, err := strconv.Atoi(s)
	if err != nil || v < 1 || v > 1<<30 {
		return fmt.Errorf("%q is not a number of bytes from 1 to 1073741824", s)
	}
	*n = size(v)
	return nil
}

// duration is a time.Duration that is not negative.
type duration time.Duration

func (d *duration) String() string { return time.Duration(*d).String() }

func (d *duration) Set(s string) error {
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration of zero or more, such as 30s", s)
	}
	*d = duration(v)
	return nil
}

// orNone returns a setting as fields of the library have it: there 0 means the
// default, and less than 0 means none.
func orNone(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}
