package app

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"lastcall/internal/proxy"
	"lastcall/internal/request"
	"lastcall/internal/socket"
)

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
		if err := socket.CheckPath(path); err != nil {
			return fmt.Errorf("address %q: %w", addr, err)
		}
		return nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" || !isHost(host) {
		return fmt.Errorf("address %q: %s", addr, want)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("address %q: port %q: want a number from 0 to 65535, or the name of a service", addr, port)
	}
	return nil
}

// isAt reports whether who listens at addr, as -listen has it, is what the target of -proxy
// names, as far as that can be known without asking for names.
func isAt(target, addr string) bool {
	if strings.HasPrefix(target, "unix:") || strings.HasPrefix(addr, "unix:") {
		return target == addr
	}
	to, err := url.Parse(target)
	if err != nil {
		return false // and refused elsewhere
	}
	host, port, _ := net.SplitHostPort(addr)
	own, _ := net.LookupPort("tcp", port)
	theirs, _ := net.LookupPort("tcp", cmp.Or(to.Port(), strings.Replace(to.Scheme, "h2c", "http", 1)))
	ip := func(host string) netip.Addr {
		ip, _ := netip.ParseAddr(strings.Replace(cmp.Or(host, "::"), "localhost", "127.0.0.1", 1))
		return ip
	}
	a, b := ip(host), ip(to.Hostname())
	return own == theirs && (strings.EqualFold(host, to.Hostname()) || a.IsValid() && a == b ||
		a.IsUnspecified() && (a.Is6() || b.Is4()) && (b.IsLoopback() || b.IsUnspecified()))
}

// isHost reports whether s may be a host: an address, a name, or nothing. Digits and dots
// alone are an address that is wrong.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil || s == "" {
		return true
	}
	odd := func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`"#%/:<>?@[\]^{|}`+"`", r) }
	return strings.Trim(s, "0123456789.") != "" && !strings.ContainsFunc(s, odd)
}

// protocols is the value of -proxy-upgrade.
type protocols []string

func (p *protocols) String() string { return strings.Join(*p, ",") }

func (p *protocols) Set(s string) error {
	list := protocols{}
	for name := range strings.SplitSeq(s, ",") {
		name = strings.TrimSpace(name)
		if name == "none" && s == name {
			break
		}
		protocol, version, ok := strings.Cut(name, "/")
		if name == "none" || !request.IsToken(protocol) || ok && !request.IsToken(version) {
			return fmt.Errorf("%q is not a protocol: want names such as websocket, with commas between them, or none", name)
		}
		list = append(list, name)
	}
	*p = list
	return nil
}

// trust is the value of -trust-forwarded.
type trust struct{ proxy.Trust }

func (t *trust) Set(s string) (err error) {
	t.Trust, err = proxy.ParseTrust(s)
	return err
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

// accessLog is a switch that may also say no-query.
type accessLog struct{ on, noQuery bool }

func (a *accessLog) String() string {
	if a.noQuery {
		return "no-query"
	}
	return strconv.FormatBool(a.on)
}

func (a *accessLog) IsBoolFlag() bool { return true }

func (a *accessLog) Set(s string) error {
	if s == "no-query" {
		*a = accessLog{on: true, noQuery: true}
		return nil
	}
	v, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("%q is not true, false or no-query", s)
	}
	*a = accessLog{on: v}
	return nil
}

// number is a flag whose value is from min to max, which want says.
type number struct {
	value    *int
	min, max int
	want     string
}

func (n number) String() string { return strconv.Itoa(*n.value) }

func (n number) Set(s string) error {
	v, err := strconv.Atoi(s)
	if err != nil || v < n.min || v > n.max {
		return fmt.Errorf("%q is not a number of %s", s, n.want)
	}
	*n.value = v
	return nil
}

// mode is the permissions of a file. 0 means those that the umask leaves.
type mode fs.FileMode

func (m *mode) String() string {
	if *m == 0 {
		return ""
	}
	return fmt.Sprintf("%04o", fs.FileMode(*m))
}

func (m *mode) Set(s string) error {
	v, err := strconv.ParseUint(s, 8, 32)
	if err != nil || v == 0 || v > 0o777 {
		return fmt.Errorf("%q is not a mode of a file, such as 0660", s)
	}
	*m = mode(v)
	return nil
}

// duration is a time.Duration that is not negative, and at most maxDuration.
type duration time.Duration

// maxDuration is as good as any longer time. Sums of it do not overflow.
const maxDuration = 50 * 365 * 24 * time.Hour

func (d *duration) String() string { return time.Duration(*d).String() }

func (d *duration) Set(s string) error {
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration of zero or more, such as 30s", s)
	}
	*d = duration(min(v, maxDuration))
	return nil
}

// lameDuck is a duration, or auto: until no client has come for quiet.
type lameDuck struct {
	longest time.Duration
	quiet   time.Duration // 0: for longest, always
}

// autoLameDuck are the bounds of -lame-duck auto. Balancers learn within seconds that
// an instance is gone; some only after 30.
var autoLameDuck = lameDuck{longest: 30 * time.Second, quiet: 2 * time.Second}

func (l *lameDuck) String() string {
	if *l == autoLameDuck {
		return "auto"
	}
	return l.longest.String()
}

func (l *lameDuck) Set(s string) error {
	*l = lameDuck{}
	if s == "auto" {
		*l = autoLameDuck
		return nil
	}
	if err := (*duration)(&l.longest).Set(s); err != nil {
		return fmt.Errorf("%w, or auto", err)
	}
	return nil
}

// orNone returns a setting as fields of the library have it: there 0 means the
// default, and less than 0 means none.
func orNone[T int | time.Duration](v T) T {
	if v == 0 {
		return -1
	}
	return v
}
