package request

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		request string // the first line, without its protocol
		host    string
		want    Target
		ok      bool
	}{
		{"GET /", "h", Target{"/", ""}, true},
		{"GET /a%2Fb|c\"^\\{}<>`?d=%zz&\"|", "h", Target{"/a%2Fb|c\"^\\{}<>`", "?d=%zz&\"|"}, true},
		{"GET /ü?ü", "h", Target{"/ü", "?ü"}, true},
		{"GET /a?", "h", Target{"/a", "?"}, true},
		{"GET //a//../b??", "h", Target{"//a//../b", "??"}, true},
		{"GET http://h", "x", Target{"/", ""}, true},
		{"GET http://h?a", "x", Target{"/", "?a"}, true},
		{"GET HTTPS://h:81/a/%2f?b/c", "x", Target{"/a/%2f", "?b/c"}, true},
		{"GET http://h//a", "x", Target{"//a", ""}, true},
		{"OPTIONS *", "h", Target{"*", ""}, true},
		{"OPTIONS http://h", "h", Target{"*", ""}, true},
		{"OPTIONS http://h/", "h", Target{"/", ""}, true},
		{"OPTIONS http://h?", "h", Target{"/", "?"}, true},
		{"M-SEARCH /", "h", Target{"/", ""}, true},
		{"GET /", "", Target{}, false},

		{"GET *", "h", Target{}, false},
		{"GET http:http://evil/admin", "h", Target{}, false},
		{"GET http:/admin", "h", Target{}, false},
		{"GET http:///admin", "h", Target{}, false},
		{"GET foo:bar", "h", Target{}, false},
		{"GET foo:/bar", "h", Target{}, false},
		{"GET ftp://h/", "h", Target{}, false},
		{"GET file:///etc/passwd", "h", Target{}, false},
		{"GET http://u@h/", "h", Target{}, false},
		{"GET http://u:p@h/", "h", Target{}, false},
		{"GET http://a%C3%BC/", "h", Target{}, false},
		{"GET http://h:/", "h", Target{"/", ""}, true},
		{"GET /a#b", "h", Target{}, false},
		{"GET /?a#b", "h", Target{}, false},
		{"GET http://h#b", "h", Target{}, false},
		{"CONNECT h:80", "h:80", Target{}, false},
		{"PRI *", "h", Target{}, false},
	} {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(tt.request + " HTTP/1.1\r\nHost: " + tt.host + "\r\n\r\n")))
		if err != nil {
			if tt.ok {
				t.Errorf("%s: %v", tt.request, err)
			}
			continue
		}
		if got, err := Check(r); got != tt.want || err == nil != tt.ok {
			t.Errorf("Check(%s) = %q, %v, want %q", tt.request, got, err, tt.want)
		}
	}
}

func TestIsToken(t *testing.T) {
	for s, want := range map[string]bool{
		"GET": true, "M-SEARCH": true, "a!#$%&'*+-.^_`|~1": true,
		"": false, "GET /": false, "GET\t": false, "G\x00": false, "G:": false, "é": false, "G\r\n": false, "a(": false, "a/b": false,
	} {
		if got := IsToken(s); got != want {
			t.Errorf("IsToken(%q) = %v", s, got)
		}
	}
}

func TestIsAuthority(t *testing.T) {
	for s, want := range map[string]bool{
		"": false, "h": true, "h:": true, "h:80": true, "192.0.2.1:80": true, "[2001:db8::1]": true, "[fe80::1%25eth0]:80": false, "[fe80::1%eth0]": false, "a_b.example.": true,
		"h:80:90": false, ":80": false, "h:8o": false, "[::1": false, "[]": false, "[::1]x": false, "[::1]80": false, "::1": false, "a]": false,
		"u@h": false, "h/": false, "h?": false, "h#": false, "h\\": false, `h"`: false, "h h": false, "h\t": false, "bücher": false, "h:-1": false,
		"a%41": true, "a%4f:80": true, "%": false, "a%4": false, "a%4:80": false, "a%zz": false,
	} {
		if got := isAuthority(s); got != want {
			t.Errorf("isAuthority(%q) = %v", s, got)
		}
	}
}

func TestLeaves(t *testing.T) {
	for path, want := range map[string]bool{
		"/": false, "/a/b": false, "/a/../b": false, "/a/b/../..": false, "/.": false, "/...": false, "/a..": false, "/..a": false,
		"/a%2Fb": false, "/a/%2e%2e/b": false, "/%": false, "/a;b=../c": false, "/100%25": false,
		"/..": true, "/../": true, "/../x": true, "/./../x": true, "/a/../../x": true, "/a//../../x": true, "//..": true,
		"/%2e%2e/x": true, "/%2E./x": true, "/.%2e": true, "/%2e%2e%2fx": true, "/..%2fx": true, "/a%2f../../x": true, "/a/..%2f..%2fx": true,
		`/..\x`: true, `/a\..\..\x`: true, "/..%5cx": true, "/%5c..": true, "/a/%2e/../../x": true, "/;/../x": true,
		"/%c0%ae%c0%ae/x": true, "/..%c0%afx": true, "/%e0%80%ae%e0%80%ae/x": true, "/..%c1%9cx": true, "/.%09./x": true, "/.%0a./x": true, "/.%00./x": true,
		"/%f0%80%80%ae%f0%80%80%ae/x": true, "/..%f0%80%80%afx": true, "/%f8%80%80%80%ae./x": true, "/..%c0%bb/x": true, "/..%e0%80%bb/x": true, "/..%c0%80/x": true,
		"/%fc%80%80%80%80%ae./x": true, "/%c0%a52e%c0%a52e/x": true, "/%e2%80%a6/x": false, "/%c2%ae%c2%ae/x": false, "/%80%ae./x": false,
		"/%20../x": true, "/..%20/x": true, "/..%3fx": true, "/..%23x": true, "/.%7f./x": true, "/a/%20/../../x": true, "/a/%20./../../x": true, "/%00a/../x": true,
		"/%c3%bc.%c3%bc/x": false, "/a%20../x": false, "/..a%09/x": false, "/a?/../x": false, "/a%3f/../x": false,
		"/..;/x": true, "/..;a=b/x": true, "/..%3b/x": true, "/%252e%252e/x": true, "/%25252e./x": true, "/..%252fx": true, "/..%00/x": true,
		"/%252e%252e%252fadmin%253f%25zz": true, `/..%255c%25%25x`: true, "/%2%65%2e/x": true, "/%zz": false, "/%2": false,
	} {
		if got := Leaves(path); got != want {
			t.Errorf("Leaves(%q) = %v", path, got)
		}
	}
}
