package proxy

import (
	"bytes"
	"fmt"
	"net/http/httputil"
	"net/netip"
	"strings"

	"lastcall/internal/request"
)

// Trust says which peers are believed what they say of the clients before them.
// The zero value trusts nobody.
type Trust struct {
	Networks []netip.Prefix
	Unix     bool // those that connect to a unix socket
}

// ParseTrust parses networks (10.0.0.0/8), addresses, and "unix", with commas
// between them.
func ParseTrust(s string) (t Trust, err error) {
	for word := range strings.SplitSeq(s, ",") {
		word = strings.TrimSpace(word)
		if word == "unix" {
			t.Unix = true
			continue
		}
		network, err := netip.ParsePrefix(word)
		if addr, addrErr := netip.ParseAddr(word); addrErr == nil && addr.Zone() == "" {
			network, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil || network.Addr().Is4In6() {
			return Trust{}, fmt.Errorf("%q is not a network: want 10.0.0.0/8, 192.0.2.1, 2001:db8::/32 or unix, with commas between them", word)
		}
		t.Networks = append(t.Networks, network.Masked())
	}
	return t, nil
}

// String returns what ParseTrust parses.
func (t Trust) String() string {
	var words []string
	for _, network := range t.Networks {
		words = append(words, network.String())
	}
	if t.Unix {
		words = append(words, "unix")
	}
	return strings.Join(words, ",")
}

// peer returns the address in a RemoteAddr, which is not valid for a unix socket,
// and whether it is trusted.
func (t *Trust) peer(remote string) (addr netip.Addr, trusted bool) {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}, t.Unix
	}
	addr = ap.Addr().Unmap().WithZone("")
	for _, network := range t.Networks {
		if network.Contains(addr) {
			return addr, true
		}
	}
	return addr, false
}

// forwarded sets X-Forwarded-For, -Host and -Proto, and Forwarded (RFC 7239),
// which says the same. It removes what else programs believe of the client,
// unless the peer is trusted: then it keeps that, X-Forwarded-Host and -Proto,
// and appends to X-Forwarded-For. A Forwarded of the peer is replaced, because
// most balancers do not set it, and pass on that of their client.
func (p *proxy) forwarded(r *httputil.ProxyRequest) {
	peer, trusted := p.trust.peer(r.In.RemoteAddr)
	in, out := r.In.Header, r.Out.Header
	for name := range out {
		if c := aboutClient(name); c == disguised || c == claim && !trusted {
			delete(out, name)
		}
	}
	addrs, host, proto := []string(nil), []string{r.Out.Host}, []string{"http"}
	if r.In.TLS != nil {
		proto[0] = "https"
	}
	if trusted {
		// From r.In: Connection of a client further away may have named them.
		for _, line := range in["X-Forwarded-For"] {
			for addr := range strings.SplitSeq(line, ",") {
				if addr = strings.Trim(addr, " \t"); addr != "" {
					addrs = append(addrs, addr)
				}
			}
		}
		if v := in["X-Forwarded-Host"]; saysSomething(v) {
			host = v
		}
		if v := in["X-Forwarded-Proto"]; saysSomething(v) {
			proto = v
		}
	}
	if peer.IsValid() {
		addrs = append(addrs, peer.String())
	}
	if delete(out, "X-Forwarded-For"); len(addrs) > 0 {
		out["X-Forwarded-For"] = []string{strings.Join(addrs, ", ")}
	}
	out["X-Forwarded-Host"], out["X-Forwarded-Proto"] = host, proto

	if !peer.IsValid() {
		addrs = append(addrs, "") // has no address
	}
	var b strings.Builder
	for i, addr := range addrs {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("for=" + node(addr))
		if i == 0 {
			b.WriteString(`;host="` + quoted(host[0]) + `"`)
			if name, _, _ := strings.Cut(proto[0], ","); request.IsToken(strings.Trim(name, " \t")) {
				b.WriteString(";proto=" + strings.Trim(name, " \t"))
			}
		}
	}
	out["Forwarded"] = []string{b.String()}
}

func saysSomething(values []string) bool {
	return strings.Trim(strings.Join(values, ""), " \t,") != ""
}

// node returns an address of X-Forwarded-For, with a port or without, as a node of
// Forwarded (RFC 7239 section 6).
func node(s string) string {
	if addr, err := netip.ParseAddr(s); err == nil {
		if addr = addr.Unmap().WithZone(""); addr.Is4() {
			return addr.String()
		}
		return `"[` + addr.String() + `]"`
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return `"` + netip.AddrPortFrom(ap.Addr().WithZone(""), ap.Port()).String() + `"`
	}
	return "unknown"
}

// quoted escapes a quoted-string (RFC 9110 section 5.6.4).
func quoted(s string) string {
	if strings.ContainsAny(s, `"\`) {
		s = strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(s)
	}
	return s
}

// The kinds of names that aboutClient tells apart.
type clientField int

const (
	nothing   clientField = iota // says nothing of the client
	claim                        // what a balancer may say of the client
	disguised                    // nobody should say so
)

// aboutClient returns what a field of this name may say of a client: its address,
// and the scheme, host or URL that it has asked for. Programs that get the header as CGI
// does cannot tell X_Forwarded_For from X-Forwarded-For, and take Proxy for the setting
// HTTP_PROXY.
func aboutClient(name string) clientField {
	if name == "" || strings.IndexByte("cfpwx", name[0]|0x20) < 0 && !strings.ContainsAny(name, "wW") && !isSuffixFold(name, "ip") {
		return nothing // as most
	}
	var buf [64]byte
	key := appendHyphened(buf[:0], name)
	switch {
	case string(key) == "proxy":
		return disguised
	case !isClaim(key) && !claims[string(key)]:
		return nothing
	}
	for i := range len(name) {
		if c := name[i]; c != '-' && !request.IsAlphanumeric(c) {
			return disguised
		}
	}
	return claim
}

func isSuffixFold(s, suffix string) bool {
	return len(s) >= len(suffix) && strings.EqualFold(s[len(s)-len(suffix):], suffix)
}

// isClaim reports whether the words of a hyphened name say that it is about the client:
// forwarded, forward-for and the like, and client-ip and the like.
func isClaim(key []byte) bool {
	forward, client := false, false
	for more := true; more; {
		var word []byte
		word, key, more = bytes.Cut(key, []byte("-"))
		switch string(word) {
		case "forwarded":
			return true
		case "for", "host", "port", "proto", "scheme", "server", "ssl":
			if forward {
				return true
			}
		case "client", "connecting", "connection", "originating", "real", "remote", "true", "user", "viewer":
			client = true
		case "ip":
			if client && !more {
				return true
			}
		}
		forward = string(word) == "forward"
	}
	return false
}

// hyphened returns a name in lower case, with a hyphen for what is not a letter or
// a digit.
func hyphened(name string) string { return string(appendHyphened(nil, name)) }

func appendHyphened(b []byte, name string) []byte {
	for i := range len(name) {
		switch c := name[i]; {
		case !request.IsAlphanumeric(c):
			b = append(b, '-')
		case 'A' <= c && c <= 'Z':
			b = append(b, c+'a'-'A')
		default:
			b = append(b, c)
		}
	}
	return b
}

// claims has the names, hyphened, that isClaim does not know.
var claims = map[string]bool{
	"cf-connecting-ipv6": true, "cf-pseudo-ipv4": true, "cloudfront-viewer-address": true, "x-azure-clientip": true, "x-azure-socketip": true,
	"x-envoy-external-address": true, "x-original-for": true, "x-original-remote-addr": true, "x-proxyuser-ip": true, "x-real-port": true,
	"x-remote-addr": true,

	"cf-visitor": true, "fastly-ssl": true, "front-end-https": true, "wl-proxy-ssl": true, "x-arr-ssl": true, "x-https": true,
	"x-original-proto": true, "x-original-scheme": true, "x-scheme": true, "x-url-scheme": true,

	"x-host": true, "x-http-host-override": true, "x-original-host": true, "x-original-port": true, "x-original-prefix": true,
	"x-original-uri": true, "x-original-url": true, "x-real-host": true, "x-remote-host": true, "x-rewrite-url": true,
	"x-waws-unencoded-url": true,
}
