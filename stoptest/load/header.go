package load

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// field is a line of a request's header.
type field struct{ name, value string }

// CheckHeader returns an error if h cannot be a [Config.Header]: if a name or a value
// has characters that a header must not have, or if it says where the request, or
// the connection, ends, or is the request's ID. Host is for Config.Host.
func CheckHeader(h http.Header) error {
	for name, values := range h {
		switch http.CanonicalHeaderKey(name) {
		case "Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Upgrade",
			"Expect", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions":
			return fmt.Errorf("header %s: the clients set it as their requests need it", name)
		}
		if strings.EqualFold(name, idHeader) {
			return fmt.Errorf("header %s: it carries the request's ID", name)
		}
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("header %q: not a name", name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fmt.Errorf("header %s: %q is not a value", name, v)
			}
		}
	}
	return nil
}

// fields returns the header's lines, but the host and the ID: those of the clients,
// and extra, which replaces them.
func (g *Group) fields(extra http.Header) []field {
	own := []field{{"User-Agent", "stoptest"}}
	switch g.Kind {
	case Events:
		own = append(own, field{"Accept", "text/event-stream"}, field{"Cache-Control", "no-store"})
	case WebSocket:
		own = append(own, field{"Connection", "Upgrade"}, field{"Upgrade", "websocket"},
			field{"Sec-WebSocket-Version", "13"}, field{"Sec-WebSocket-Key", wsKey})
	}
	if g.Body > 0 {
		own = append(own, field{"Content-Type", "application/octet-stream"})
	}
	if g.Body > 0 || g.Method != http.MethodGet && g.Method != http.MethodHead {
		own = append(own, field{"Content-Length", strconv.Itoa(g.Body)})
	}
	replaced := func(f field) bool {
		for name := range extra {
			if strings.EqualFold(name, f.name) {
				return true
			}
		}
		return false
	}
	all := slices.DeleteFunc(own, replaced)
	for _, name := range slices.Sorted(maps.Keys(extra)) {
		for _, v := range extra[name] {
			all = append(all, field{name, strings.TrimSpace(v)})
		}
	}
	return all
}
