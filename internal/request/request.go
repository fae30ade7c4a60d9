// Package request checks what net/http lets through in the first line of a
// request, so that programs which read it in another way cannot be misled.
package request

import (
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"strings"
)

// Target is what a request asks for, byte for byte as the client wrote it.
type Target struct {
	Path  string // begins with "/", or is "*"
	Query string // begins with "?", or is empty
}

// Check returns the target of a request that http.Server has read, or an error
// that says what is malformed in it. net/http has checked the names and values
// of the header. Check adds:
//
//   - The method is a token (RFC 9110 section 5.6.2).
//   - The target is a path, an absolute URL of http or https with an authority,
//     or "*" for OPTIONS (RFC 9112 section 3.2). Over HTTP/2 it is a path or
//     "*" (RFC 9113 section 8.3.1). It has no blanks, no control characters and
//     no fragment.
//   - The authority is a host, and a port or none (RFC 3986 section 3.2), without
//     a user. Only HTTP/1.0 may have none. Over HTTP/2, Host says the same.
//   - Over HTTP/2, Content-Length says how long the body is.
//
// CONNECT has an authority in the place of a target, and is an error here.
func Check(r *http.Request) (Target, error) {
	uri := r.RequestURI
	switch {
	case !IsToken(r.Method):
		return Target{}, errors.New("the method is not a token")
	case r.Method == http.MethodConnect:
		return Target{}, errors.New("CONNECT has no path")
	case !isAuthority(r.Host) && (r.Host != "" || r.ProtoAtLeast(1, 1)):
		return Target{}, errors.New("the authority is not HOST or HOST:PORT")
	}
	for i := range len(uri) {
		if c := uri[i]; c <= ' ' || c == 0x7f || c == '#' {
			return Target{}, errors.New("the target has a blank, a control character or a fragment")
		}
	}
	if r.ProtoMajor >= 2 {
		if err := checkHTTP2(r); err != nil {
			return Target{}, err
		}
	}
	var path string
	switch {
	case strings.HasPrefix(uri, "/"):
		path = uri
	case uri == "*" && r.Method == http.MethodOptions:
		return Target{Path: "*"}, nil
	case r.ProtoMajor >= 2 || r.URL.Host == "" || r.URL.Opaque != "" || r.URL.User != nil || r.URL.Scheme != "http" && r.URL.Scheme != "https":
		return Target{}, errors.New(`the target is not a path, a URL of http or https, or "*" for OPTIONS`)
	default:
		path = uri[len(r.URL.Scheme)+len("://"):]
		if i := strings.IndexAny(path, "/?"); i >= 0 {
			path = path[i:]
		} else {
			path = ""
		}
	}
	path, query := cutQuery(path)
	switch {
	case path != "":
	case query == "" && r.Method == http.MethodOptions:
		path = "*" // RFC 9112 section 3.2.4
	default:
		path = "/"
	}
	return Target{path, query}, nil
}

func cutQuery(s string) (path, query string) {
	if i := strings.IndexByte(s, '?'); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

// checkHTTP2 checks what net/http does not in the header of HTTP/2.
func checkHTTP2(r *http.Request) error {
	if hosts := r.Header["Host"]; len(hosts) > 1 || len(hosts) == 1 && !strings.EqualFold(hosts[0], r.Host) {
		return errors.New("the Host is not the authority")
	}
	if lengths := r.Header["Content-Length"]; len(lengths) > 0 {
		n, err := strconv.ParseUint(lengths[0], 10, 63)
		if len(lengths) > 1 || err != nil || int64(n) != r.ContentLength {
			return errors.New("the Content-Length is not the length of the body")
		}
	}
	return nil
}

// MayHaveBody reports whether something may follow the header of a request. Over
// HTTP/2, that Content-Length is 0 does not say that the stream has ended.
func MayHaveBody(r *http.Request) bool {
	return r.ContentLength != 0 || r.ProtoMajor >= 2 && r.Header["Content-Length"] != nil
}

// Leaves reports whether a program may see a path lead out of the one that it
// is put behind. Programs decode paths in different ways, and Leaves takes the
// worst for each segment: "/" may be encoded once or more often, or in more bytes
// than UTF-8 allows, "\" may be a "/", what follows ";" (Tomcat), "?", "#" or NUL may
// be cut off, blanks and control characters may be left out, and slashes that follow
// each other may be one.
func Leaves(path string) bool {
	if !strings.ContainsAny(path, ".%") {
		return false
	}
	depth := 0
	for segment := range strings.SplitSeq(path, "/") {
		switch up := ups(segment); {
		case up > 0:
			if depth -= up; depth < 0 {
				return true
			}
		case !isEmpty(segment):
			depth++
		}
	}
	return false
}

// ups returns in how many ways a segment leads up.
func ups(segment string) (n int) {
	for part := range strings.FieldsFuncSeq(decode(segment), isSlash) {
		if name(part) == ".." || name(visible(part)) == ".." {
			n++
		}
	}
	return n
}

// isEmpty reports whether a segment may lead nowhere.
func isEmpty(segment string) bool {
	for part := range strings.FieldsFuncSeq(decode(segment), isSlash) {
		if !isDot(name(part)) && !isDot(name(visible(part))) {
			return false
		}
	}
	return true
}

func isDot(s string) bool { return s == "" || s == "." }

// name returns a segment without its parameters.
func name(s string) string {
	if i := strings.IndexAny(s, ";?#\x00"); i >= 0 {
		return s[:i]
	}
	return s
}

// visible returns s without blanks and control characters.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
}

func isSlash(r rune) bool { return r == '/' || r == '\\' }

// decode decodes a path until nothing in it is encoded, in UTF-8 that is too long
// neither. A broken escape stays.
func decode(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		b = append(b, s[i])
		for { // what is decoded may end another one
			c, n := lastEncoded(b)
			if n == 0 {
				break
			}
			b = append(b[:len(b)-n], c)
		}
	}
	return string(b)
}

// lastEncoded returns the byte that the last n of b stand for: as %2E, or as ASCII in UTF-8
// that is too long. n is 0 if they stand for themselves.
func lastEncoded(b []byte) (c byte, n int) {
	if n := len(b); n >= 3 && b[n-3] == '%' {
		if c, err := strconv.ParseUint(string(b[n-2:]), 16, 8); err == nil {
			return byte(c), 3
		}
	}
	value, shift := 0, 0
	for n := 1; n <= min(len(b), 6); n++ {
		c := b[len(b)-n]
		if c&0xc0 == 0x80 {
			value |= int(c&0x3f) << shift
			shift += 6
			continue
		}
		leads := n > 1 && c>>(7-n) == 1<<(n+1)-2 // n ones, and a zero
		if value |= int(c&(0x7f>>n)) << shift; leads && value < 0x80 {
			return byte(value), n
		}
		break
	}
	return 0, 0
}

// IsToken reports whether s is a token of RFC 9110 section 5.6.2.
func IsToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; !IsAlphanumeric(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// isAuthority reports whether s is a host, and a port or none. An address of
// IPv6 has no zone: that means something to the client only, and net/http takes it
// out of Host.
func isAuthority(s string) bool {
	host, port := s, ""
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 2 {
			return false
		}
		for i := range s[1:end] { // an address of IPv6
			if c := s[1+i]; !IsAlphanumeric(c) && strings.IndexByte(":._~-", c) < 0 {
				return false
			}
		}
		host, port = "", s[end+1:]
	} else if i := strings.IndexByte(s, ':'); i == 0 {
		return false
	} else if i > 0 {
		host, port = s[:i], s[i:]
	} else if s == "" {
		return false
	}
	for i := range len(host) {
		switch c := host[i]; {
		case c == '%':
			if i+2 >= len(host) || !isHex(host[i+1]) || !isHex(host[i+2]) {
				return false
			}
		case !IsAlphanumeric(c) && strings.IndexByte("-._~!$&'()*+,;=", c) < 0:
			return false
		}
	}
	for i := range len(port) {
		if c := port[i]; i == 0 && c != ':' || i > 0 && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' || '0' <= c && c <= '9'
}

// IsAlphanumeric reports whether c is a letter or a digit of ASCII.
func IsAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// Handler answers 400 to requests that are malformed. The handler next gets the
// others, and CONNECT, which it has to know.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			if _, err := Check(r); err != nil {
				Refuse(w, r, err)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// Refuse answers 400 to a request that is malformed. What an HTTP/1 client sends
// behind it is not read.
func Refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	http.Error(w, "malformed request: "+err.Error(), http.StatusBadRequest)
}

// ExpectsContinue reports whether the client waits for 100 (Continue) before it
// sends its body.
//
// Over HTTP/2, net/http takes Expect out of the header. Its Request.Body has a field
// that says so: needsContinue. If a Go release does without that, the answer is false,
// and the client gets its 100 as soon as somebody reads the body.
func ExpectsContinue(r *http.Request) bool {
	if r.ProtoMajor < 2 {
		return strings.EqualFold(r.Header.Get("Expect"), "100-continue")
	}
	v := reflect.ValueOf(r.Body)
	for {
		for v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return false
		}
		if field := v.FieldByName("needsContinue"); field.Kind() == reflect.Bool {
			return field.Bool()
		}
		v = v.FieldByName("ReadCloser") // of one that wraps another
	}
}
