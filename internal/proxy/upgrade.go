package proxy

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// onlyUpgrade returns the header of a request without Upgrade, unless the client
// may have what it asks for: then Upgrade is that protocol alone. Without Upgrade
// the request is served as any other, as RFC 9110 section 7.8 lets a server do.
//
// A tunnel of a protocol that the proxy does not know would be one past it: in
// one of h2c, requests could have any header.
func (p *proxy) onlyUpgrade(r *http.Request) http.Header {
	if r.Header["Upgrade"] == nil && r.Header["Http2-Settings"] == nil {
		return r.Header
	}
	h := r.Header.Clone()
	delete(h, "Http2-Settings")
	if name := p.upgrade(r); name != "" {
		h["Upgrade"] = []string{name}
	} else {
		delete(h, "Upgrade")
	}
	return h
}

// upgrade returns the first protocol of Upgrade that the client may have, or "".
// A request of HTTP/1.0 has none (RFC 9110 section 7.8). A WebSocket begins with
// a GET (RFC 6455 section 4.1).
func (p *proxy) upgrade(r *http.Request) string {
	if r.ProtoMajor != 1 || r.ProtoMinor < 1 {
		return ""
	}
	for _, line := range r.Header["Upgrade"] {
		for name := range strings.SplitSeq(line, ",") {
			name = strings.Trim(name, " \t")
			allowed := slices.ContainsFunc(p.upgrades, func(s string) bool { return equalFold(s, name) })
			if allowed && (!isWebSocket(name) || r.Method == http.MethodGet && r.ContentLength == 0) {
				return name
			}
		}
	}
	return ""
}

func isWebSocket(upgrade string) bool { return equalFold(upgrade, "websocket") }

// equalFold reports whether two strings, of which one is ASCII, are the same in lower
// case. A letter beyond ASCII, such as ſ, is longer than the one of ASCII that
// strings.EqualFold takes it for.
func equalFold(s, t string) bool { return len(s) == len(t) && strings.EqualFold(s, t) }

// checkSwitch returns an error unless a response 101 (Switching Protocols) switches to
// what r, the request to the program, asks for. ReverseProxy does so too, but leaves
// the connection to the program open then. checkSwitch leaves of the response what a
// client may get: ReverseProxy writes it as it is.
func checkSwitch(res *http.Response, r *http.Request) error {
	asked, got := r.Header.Get("Upgrade"), res.Header.Get("Upgrade")
	if _, ok := res.Body.(*countedConn); !ok || asked == "" || !equalFold(asked, got) {
		return fmt.Errorf("the program switched to the protocol %q, and %q was requested", got, asked)
	}
	dropHopByHop(res.Header)
	res.Header["Connection"], res.Header["Upgrade"] = []string{"Upgrade"}, []string{got}
	res.Status = "" // net/http's
	if r.Method != http.MethodGet {
		get := *r
		get.Method = http.MethodGet // with another one Response.Write invents a Content-Length
		res.Request = &get
	}
	return nil
}
