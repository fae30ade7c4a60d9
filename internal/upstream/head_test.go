package upstream

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// FuzzAppendHead compares with http.Request.Write.
func FuzzAppendHead(f *testing.F) {
	r, _ := http.NewRequest("GET", "http://example.com:81/a?b", nil)
	r.Header.Set("User-Agent", "")
	if _, ok := appendHead(nil, r); !ok {
		f.Error("appendHead leaves everything to Request.Write")
	}
	f.Add("GET", "example.com", "/a/b%2Fc?d=e", "agent", "Cookie: a=b\nX-Forwarded-For: 192.0.2.1\nCookie: c=d")
	f.Add("POST", "example.com:81", "/", "", "Content-Length: 3\nTransfer-Encoding: chunked\nHost: x\nTrailer: x\nTe: trailers")
	f.Add("PUT", "[2001:db8::1%25eth0]:80", "", " a ", "A:  b \t\nA:")
	f.Add("OPTIONS", "EXAMPLE.com", "*", "a", "")
	f.Add("HEAD", "bücher.example", "/ü?ü", "a", "x: y")
	f.Add("GET", `a";b\`, "//a//../b?", "a", strings.Repeat("N: 1\n", 40))
	f.Fuzz(func(t *testing.T, method, host, uri, agent, header string) {
		u, err := url.ParseRequestURI(uri)
		if err != nil {
			u = &url.URL{Path: uri}
		}
		u.Scheme, u.Host = "http", "program.example"
		r := &http.Request{Method: method, Host: host, URL: u, Header: http.Header{"User-Agent": {agent}}}
		for line := range strings.Lines(header) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
			if name == "" || strings.ContainsFunc(name, notToken) || strings.ContainsFunc(value, isControl) {
				t.Skip() // http.Transport refuses it
			}
			r.Header[name] = append(r.Header[name], value)
		}
		if strings.ContainsFunc(agent, isControl) || strings.ContainsFunc(method, notToken) {
			t.Skip()
		}
		got, ok := appendHead(nil, r)
		if !ok {
			return
		}
		var want bytes.Buffer
		if err := r.Write(&want); err != nil {
			t.Fatalf("appended %q, want %v", got, err)
		}
		if string(got) != want.String() {
			t.Errorf("appended %q, want %q", got, want.String())
		}
	})
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

func notToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
}
