package admin

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// guard refuses requests that a browser makes for another site, and bounds the
// time that a request and its answer take.
func (a *admin) guard(next http.Handler) http.Handler {
	var origin http.CrossOriginProtection // for the methods that change something
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		err := origin.Check(r)
		switch site := r.Header.Get("Sec-Fetch-Site"); {
		case err != nil:
		case !a.isKnownHost(r.Host):
			err = fmt.Errorf("host %q is not known here: ask by address", r.Host)
		case site == "" || site == "none" || site == "same-origin":
		case r.URL.Path == "/" && r.Header.Get("Sec-Fetch-Mode") == "navigate": // a link to the page
		default:
			err = errors.New("not for other sites")
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		rc := http.NewResponseController(w)
		rc.SetWriteDeadline(time.Now().Add(time.Minute))
		if r.ContentLength != 0 {
			rc.SetReadDeadline(time.Now().Add(clientTimeout))
		}
		next.ServeHTTP(w, r)
	})
}

// isKnownHost reports whether a request may ask for host: a stranger cannot have
// made up the name and pointed it here.
func (a *admin) isKnownHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	if !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost") {
		return true
	}
	return slices.ContainsFunc(append(slices.Clone(a.Hosts), a.host), func(name string) bool { return strings.EqualFold(host, name) })
}
