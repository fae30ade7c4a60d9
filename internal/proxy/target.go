package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"lastcall/internal/request"
)

// outgoingURL returns the URL by which the program is asked, or an error if the
// request is malformed. Path and query go to the program byte for byte as the
// client wrote them, with the path of base before them; but bytes that are not
// ASCII are encoded, as browsers do, because no URL may have them. A path that may
// lead out of that of base is an error.
func outgoingURL(base *url.URL, r *http.Request) (*url.URL, error) {
	target, err := request.Check(r)
	if err != nil {
		return nil, err
	}
	target.Path, target.Query = encode(target.Path, ""), encode(target.Query, "")
	u := &url.URL{Scheme: base.Scheme, Host: base.Host, Path: r.URL.Path, ForceQuery: target.Query == "?"}
	if target.Query != "" {
		u.RawQuery = target.Query[1:]
	}
	// Base.EscapedPath has it in another form if one byte of it should be encoded.
	prefix := strings.TrimSuffix(encode(cmp.Or(base.RawPath, base.EscapedPath()), " "), "/")
	switch {
	case target.Path == "*" && prefix != "":
		target.Path, prefix, u.Path = prefix, "", base.Path // all that the client can reach
	case u.Path == "":
		u.Path = target.Path
	}
	if prefix != "" {
		if request.Leaves(target.Path) {
			return nil, errors.New("the path leads out of that of the program")
		}
		u.Path = strings.TrimSuffix(base.Path, "/") + u.Path
	}
	setRawPath(u, prefix+target.Path)
	return u, nil
}

// setRawPath makes raw the path that is sent. url.URL itself replaces a path
// that has bytes which should be encoded, and all that is encoded in it.
func setRawPath(u *url.URL, raw string) {
	if u.EscapedPath() == raw {
		return
	}
	if u.RawPath = raw; u.EscapedPath() == raw {
		return
	}
	if !strings.HasPrefix(raw, "//") {
		u.Opaque = raw
		return
	}
	// As Opaque it would be an authority.
	u.RawPath = encode(raw, "\"<>\\^`{|}")
}

// encode encodes the bytes that are not ASCII, and the odd ones.
func encode(s, odd string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) && !strings.ContainsAny(s, odd) {
		return s
	}
	var b []byte
	for i := range len(s) {
		if c := s[i]; c > unicode.MaxASCII || strings.IndexByte(odd, c) >= 0 {
			b = fmt.Appendf(b, "%%%02X", c)
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

// refuseConnect answers a client that takes the proxy for one of its own choice.
func refuseConnect(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // what follows may not be HTTP
	}
	http.Error(w, "CONNECT is not supported", http.StatusNotImplemented)
}
