package app

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"lastcall/actors"
	"lastcall/internal/proxy"
)

// Settings are what the flags, the environment and the file say.
type Settings struct {
	listen addresses
	dir    string
	list   bool
	proxy  string

	maxUpstream int

	proxyTimeout time.Duration
	proxyUpgrade protocols
	proxyHold    time.Duration
	trust        trust
	wsSpread     time.Duration

	program        []string // the command line after --
	programHealth  string
	programStart   time.Duration
	programRestart string
	deploy         string
	maxConns       int

	maxConnAge      time.Duration
	maxConnRequests int

	unixMode mode

	tlsCert, tlsKey string
	h2c             bool

	lameDuck  lameDuck
	grace     time.Duration
	idleGrace time.Duration
	report    string

	readTimeout       time.Duration
	readHeaderTimeout time.Duration
	writeTimeout      time.Duration
	idleTimeout       time.Duration
	maxHeaderBytes    int

	admin        string
	handover     string
	healthPrefix string
	accessLog    accessLog
	logFormat    string
	logLevel     string
	config       string
	checkOnly    bool         // -check
	deployOnly   bool         // the word deploy
	health       healthTarget // after the word health
	version      bool

	unknownVariables [][2]string // of the environment, with the nearest that is known
}

const usage = `lastcall serves files, or stands in front of a program, and stops without
losing an HTTP request.  Stop it with kill -INT (Ctrl-C), kill -TERM, or by closing its terminal.

usage: lastcall [flags] [-- PROGRAM ARG…]
       lastcall deploy -admin ADDR [-- PROGRAM ARG…]
       lastcall health URL   0 if it answers 200 to 399 within 5s, or 1; unix:SOCKET:/PATH too

What to serve (neither: a start page)
  -dir PATH, -list           files of a directory; list those that have no index.html
  -proxy URL                 a program: http://, https://, h2c://HOST:PORT or unix:PATH
  -proxy-timeout 1m0s        how long it may take to begin an answer, and then say nothing
  -max-upstream 10000        requests it gets at once; some more wait, then 503; 0: no limit
  -proxy-upgrade websocket   protocols that its clients may upgrade to, with commas, or none
  -proxy-hold 10s            hold requests so long while it cannot be reached, then answer 503
  -- PROGRAM ARG…            run the program, and stand in front of it: it is to listen on PORT
                             of HOST, or where -proxy says, and ends after the last request
  -program-health PATH       ready when that answers 200 to 399, not as soon as it can be reached
  -program-start 30s         how long that may take
  -program-restart on-failure  after its end; or never, always
  -deploy overlap            lastcall deploy, PUT /deploy of -admin and kill -USR1 start the program
                             anew beside the old one; replace: after it
  -trust-forwarded NETWORKS  whose X-Forwarded-* is believed: 10.0.0.0/8, 192.0.2.1, unix
Where
  -listen :8080              HOST:PORT or unix:PATH; may be repeated; sockets that systemd
                             passes are served too, and instead of the default
  -unix-mode 0660            who may connect to unix:PATH; by default as the umask says
  -tls-cert FILE             HTTPS, with HTTP/2: the certificate and its chain, in PEM
  -tls-key FILE              its key; both are loaded again if they change, and by kill -HUP
  -h2c                       HTTP/2 without TLS too, for clients that know
  -health-prefix /           where healthz, livez, readyz live, or off
  -admin HOST:PORT|unix:PATH a status page, metrics, profiles and settings, for whoever can connect
Stop
  -lame-duck 0s              go on accepting, not ready, for so long first; auto: until no client
                             has come for 2s, probes and scrapes apart, and for 30s at the most
  -grace 30s                 then cut what is not finished after so long; 0s: at once
  -idle-grace 5s             wait for a quiet connection for so long at the most; 0s: for none
  -report FILE               write how it went, as JSON
  -handover unix:PATH        take over from the lastcall that has this socket, and let the
                             next one do so; kill -USR2 starts a next one without it, too
  -ws-spread 5s              end a program's WebSockets and event streams over so long at the most
Clients
  -read-header-timeout 5s    for a request's header
  -read-timeout 5s           without progress of its body
  -write-timeout 10s         without progress of the answer
  -idle-timeout 2m0s         between requests
  -max-header-bytes 65536
  -max-conns 0               connections at once, further ones wait; 0: no limit
  -max-conn-age 0s           the first answer after that ends a connection; 0s: no limit
  -max-conn-requests 0       the answer to that many ends a connection; 0: no limit
Logs and settings
  -access-log                a line a request, whatever the level; =no-query leaves its query out
  -log-format logfmt         or json
  -log-level info            or debug, warn, error
  -config FILE               a setting a line: "grace 10s"; flags and environment win
  -check                     read all of them, load the certificate, and exit: 0, or 2
  -version, -help            or the words version and help
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
	c.programRestart, c.deploy = "on-failure", "overlap"
	fs.Var((*nonEmpty)(&c.programHealth), "program-health", "")
	fs.Var(choice{&c.programRestart, []string{"never", "on-failure", "always"}}, "program-restart", "")
	fs.Var(choice{&c.deploy, []string{"overlap", "replace"}}, "deploy", "")
	fs.Var((*nonEmpty)(&c.tlsCert), "tls-cert", "")
	fs.Var((*nonEmpty)(&c.tlsKey), "tls-key", "")
	fs.Var((*boolean)(&c.h2c), "h2c", "")
	fs.Var((*nonEmpty)(&c.admin), "admin", "")
	fs.Var((*nonEmpty)(&c.handover), "handover", "")
	fs.StringVar(&c.healthPrefix, "health-prefix", "/", "")
	fs.Var((*nonEmpty)(&c.report), "report", "")
	fs.Var(&c.accessLog, "access-log", "")
	c.logFormat, c.logLevel, c.maxHeaderBytes = "logfmt", "info", 64<<10
	fs.Var(choice{&c.logFormat, []string{"logfmt", "json"}}, "log-format", "")
	fs.Var(choice{&c.logLevel, []string{"debug", "info", "warn", "error"}}, "log-level", "")
	fs.Var(number{&c.maxHeaderBytes, 1, 1 << 30, "bytes from 1 to 1073741824"}, "max-header-bytes", "")
	c.maxUpstream = proxy.DefaultMaxUpstream
	fs.Var(number{&c.maxUpstream, 0, math.MaxInt, "zero or more"}, "max-upstream", "")
	fs.Var(number{&c.maxConns, 0, math.MaxInt, "zero or more"}, "max-conns", "")
	fs.Var(number{&c.maxConnRequests, 0, math.MaxInt, "zero or more"}, "max-conn-requests", "")
	fs.Var(&c.unixMode, "unix-mode", "")
	fs.Var((*boolean)(&c.version), "version", "")
	fs.Var((*nonEmpty)(&c.config), "config", "")
	fs.Var((*boolean)(&c.checkOnly), "check", "")

	setting := func(value *time.Duration, name string, byDefault time.Duration) {
		*value = byDefault
		fs.Var((*duration)(value), name, "")
	}
	setting(&c.maxConnAge, "max-conn-age", 0)
	fs.Var(&c.lameDuck, "lame-duck", "")
	setting(&c.grace, "grace", actors.DefaultGrace)
	setting(&c.idleGrace, "idle-grace", actors.DefaultIdleGrace)
	setting(&c.proxyTimeout, "proxy-timeout", time.Minute)
	fs.Var(&c.trust, "trust-forwarded", "")
	c.proxyUpgrade = protocols{"websocket"}
	fs.Var(&c.proxyUpgrade, "proxy-upgrade", "")
	setting(&c.proxyHold, "proxy-hold", proxy.DefaultHold)
	setting(&c.programStart, "program-start", 30*time.Second)
	setting(&c.wsSpread, "ws-spread", proxy.DefaultSpread)
	setting(&c.readTimeout, "read-timeout", 5*time.Second)
	setting(&c.readHeaderTimeout, "read-header-timeout", 5*time.Second)
	setting(&c.writeTimeout, "write-timeout", 10*time.Second)
	setting(&c.idleTimeout, "idle-timeout", 120*time.Second)
	return fs
}

// ReadSettings reads the settings from args, the environment and the file. The earlier
// of these win. It returns nil if args ask for help or the version, which it writes to
// stdout. Its error is a usageError.
func ReadSettings(args []string, stdout io.Writer) (*Settings, error) {
	c, err := parse(args, os.Environ())
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
	return &actors.Stop{Logger: l.logger, LameDuck: c.lameDuck.longest, LameDuckQuiet: c.lameDuck.quiet, Grace: orNone(c.grace), IdleGrace: orNone(c.idleGrace),
		MaxConns: c.maxConns, MaxConnAge: c.maxConnAge, MaxConnRequests: c.maxConnRequests}
}

// parse returns flag.ErrHelp if args ask for help.
func parse(args, environ []string) (c Settings, err error) {
	if len(args) > 0 && (args[0] == "version" || args[0] == "help") {
		if len(args) > 1 {
			return c, fmt.Errorf("%s takes no arguments", args[0])
		}
		args = []string{"-" + args[0]}
	}
	if len(args) > 0 && args[0] == "health" {
		if len(args) != 2 {
			return c, errors.New("health: want one URL, such as http://127.0.0.1:8080/healthz")
		}
		c.health, err = parseHealthTarget(args[1])
		return c, err
	}
	if c.deployOnly = len(args) > 0 && args[0] == "deploy"; c.deployOnly {
		args = args[1:]
	}
	fs := c.flags()
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return c, flag.ErrHelp
	case err != nil:
		return c, flagError(fs, err)
	case len(args) > fs.NArg() && args[len(args)-fs.NArg()-1] == "--":
		if c.program = fs.Args(); len(c.program) == 0 || c.program[0] == "" {
			return c, errors.New("want a program after --")
		}
	case fs.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q: settings are flags, such as -dir %s; a program comes after --", fs.Arg(0), fs.Arg(0))
	}
	if c.version {
		return c, nil
	}
	if c.unknownVariables, err = setFromEnvironment(fs, environ); err != nil {
		return c, err
	}
	if c.config != "" {
		if err := setFromFile(fs, c.config); err != nil {
			return c, err
		}
	}
	return c, c.check()
}

// flagError adds what would be right to an error of flag.
func flagError(fs *flag.FlagSet, err error) error {
	name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !ok {
		return err
	}
	if near := nearest(name, append(settingNames(fs), flagsAlone...)); near != "" {
		return fmt.Errorf("%w; is it -%s?", err, near)
	}
	return fmt.Errorf("%w; -help lists those there are", err)
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
	if path, ok := strings.CutPrefix(c.handover, "unix:"); c.handover != "" && (!ok || path == "" || path[0] == '@') {
		return fmt.Errorf("-handover %q: want unix:PATH", c.handover)
	}
	if c.handover != "" {
		if err := checkAddress(c.handover); err != nil {
			return fmt.Errorf("-handover: %w", err)
		}
	}
	if err := c.checkOwnAddresses(); err != nil {
		return err
	}
	paths, abstract := 0, 0
	for _, addr := range c.listen.list {
		if strings.HasPrefix(addr, "unix:@") {
			abstract++
		} else if strings.HasPrefix(addr, "unix:") {
			paths++
		}
	}
	switch {
	case c.deployOnly && c.admin == "":
		return errors.New("deploy: want -admin, as the lastcall that runs the program has it")
	case c.deployOnly && c.checkOnly:
		return errors.New("deploy: want it without -check")
	case c.deployOnly:
		return nil
	case c.unixMode != 0 && paths == 0:
		return errors.New("-unix-mode: want -listen unix:PATH with it")
	case c.unixMode != 0 && abstract > 0:
		return errors.New("-unix-mode: an abstract socket is open to every user; want the path of a file")
	case c.dir != "" && c.proxy != "":
		return fmt.Errorf("-dir %q and -proxy %q: want one of them", c.dir, c.proxy)
	case c.dir != "" && len(c.program) > 0:
		return fmt.Errorf("-dir %q and a program after --: want one of them", c.dir)
	case c.programHealth != "" && len(c.program) == 0:
		return errors.New("-program-health: want a program after -- with it")
	case c.programHealth != "" && !isTarget(c.programHealth):
		return fmt.Errorf("-program-health %q: want a path such as /healthz", c.programHealth)
	case len(c.program) > 0 && c.programStart == 0:
		return errors.New("-program-start 0s: want more than that")
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

// isTarget reports whether s is a path, perhaps with a query, as a request line has it.
func isTarget(s string) bool {
	_, err := url.Parse("http://localhost" + s)
	return err == nil && s[0] == '/' && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' })
}

// checkOwnAddresses finds an address that is to be listened at twice, or to be that of the
// program besides: each request would come back for ever. The default of -listen does not
// count: a supervisor may pass others.
func (c *Settings) checkOwnAddresses() error {
	type own struct{ flag, addr string }
	list := []own{{"-admin", c.admin}, {"-handover", c.handover}}
	for _, addr := range c.listen.list {
		list = append(list, own{"-listen", addr})
	}
	for i, o := range list {
		switch at := slices.IndexFunc(list[:i], func(other own) bool { return other.addr == o.addr }); {
		case o.addr == "" || strings.HasSuffix(o.addr, ":0") && !strings.HasPrefix(o.addr, "unix:"):
			continue
		case at >= 0 && (c.listen.set || o.flag != "-listen"):
			return fmt.Errorf("%s %s: is set twice, or is that of %s", o.flag, o.addr, list[at].flag)
		case o.flag != "-handover" && c.proxy != "" && isAt(c.proxy, o.addr) && (c.listen.set || o.flag != "-listen"):
			return fmt.Errorf("-proxy %s: is the address of %s %s; want that of the program", c.proxy, o.flag, o.addr)
		}
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
