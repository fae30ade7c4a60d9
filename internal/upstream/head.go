package upstream

import (
	"net/http"
	"slices"
	"strings"
)

// appendHead appends a request as [http.Request.Write] sends it, at less cost.
// It reports false, and leaves the request to Request.Write, if the request has
// a body or is unusual. http.Server has checked the header.
func appendHead(b []byte, r *http.Request) ([]byte, bool) {
	if r.Body != nil && r.Body != http.NoBody {
		return b, false
	}
	uri, agent := r.URL.RequestURI(), r.Header["User-Agent"]
	if r.Host == "" || !plain(r.Host, isHost) || !plain(uri, isVisible) || len(agent) == 0 || r.Method == "" || r.Close {
		return b, false
	}
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, uri...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = appendField(b, "Host", r.Host)
	if agent[0] != "" {
		b = appendField(b, "User-Agent", agent[0])
	}
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		b = appendField(b, "Content-Length", "0")
	}
	var some [32]string // most requests have no more
	names := some[:0]
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch name {
		case "Host", "User-Agent", "Content-Length", "Transfer-Encoding", "Trailer":
			continue
		}
		for _, value := range r.Header[name] {
			b = appendField(b, name, value)
		}
	}
	return append(b, "\r\n"...), true
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, strings.Trim(value, " \t")...)
	return append(b, "\r\n"...)
}

func plain(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func isHost(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == ':'
}

func isVisible(c byte) bool { return ' ' < c && c < 0x7f }
