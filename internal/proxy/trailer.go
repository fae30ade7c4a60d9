package proxy

import (
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"strings"

	"golang.org/x/net/http/httpguts"

	"lastcall/internal/request"
)

// passTrailers leaves of the trailers that the client has announced those that
// may be one. Programs merge them into the header, and then they are what the
// proxy has taken out of it, or checked.
func passTrailers(r *httputil.ProxyRequest) {
	if r.Out.Body == nil { // net/http's client of HTTP/2 would announce some, and never end the stream
		r.Out.Trailer = nil
	}
	dropTrailers(r.Out.Trailer, r.In.Header["Connection"])
}

// trimValues removes blanks around values, which net/http leaves in a line that was
// folded, and in what came over HTTP/2. There they are malformed (RFC 9113 section 8.2.1).
func trimValues(h http.Header) {
	for _, values := range h {
		for i, v := range values {
			if trimmed := textproto.TrimString(v); len(trimmed) < len(v) {
				values[i] = trimmed
			}
		}
	}
}

// dropTrailers removes the trailers that may not be one, or that Connection names.
func dropTrailers(trailer http.Header, connection []string) {
	trimValues(trailer)
	for name := range trailer {
		if !mayTrail(name) || named(connection, name) {
			delete(trailer, name)
		}
	}
}

// mayTrail reports whether a field may be a trailer: not one that says where a
// message goes or ends, who sends it, or how it is to be read (RFC 9110 section
// 6.5.1).
func mayTrail(name string) bool {
	if !request.IsToken(name) || aboutClient(name) != nothing {
		return false
	}
	name = textproto.CanonicalMIMEHeaderKey(hyphened(name))
	for _, prefix := range []string{"Accept", "Access-Control-", "Content-", "Proxy", "Sec-"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	switch name {
	case "Cookie", "Cookie2", "Set-Cookie", "Upgrade", "Http2-Settings", "Via", "Origin", "Referer", "User-Agent", "From", "Date",
		"Early-Data", "Location", "Last-Event-Id", "X-Http-Method", "X-Http-Method-Override", "X-Method-Override":
		return false
	}
	return httpguts.ValidTrailerHeader(name)
}

// named reports whether the lines of Connection name a field.
func named(connection []string, name string) bool {
	for _, line := range connection {
		for option := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.Trim(option, " \t"), name) {
				return true
			}
		}
	}
	return false
}
