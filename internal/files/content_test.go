package files

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// overBoth runs a test over HTTP/1 and HTTP/2. ask sends a GET.
func overBoth(t *testing.T, h http.Handler, test func(t *testing.T, ask func(path string, header ...string) (*http.Response, string))) {
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			transport := &http.Transport{
				TLSClientConfig:   &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs},
				ForceAttemptHTTP2: proto == "HTTP/2.0", DisableCompression: true,
			}
			t.Cleanup(transport.CloseIdleConnections)
			test(t, func(path string, header ...string) (*http.Response, string) {
				t.Helper()
				req, err := http.NewRequest("GET", s.URL+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, field := range header {
					name, value, _ := strings.Cut(field, ": ")
					req.Header.Add(name, value)
				}
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil || resp.Proto != proto {
					t.Fatalf("GET %s: %s, %v", path, resp.Proto, err)
				}
				return resp, string(body)
			})
		})
	}
}

func TestETag(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.txt")
	write := func(text string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	overBoth(t, newFiles(t, dir, false), func(t *testing.T, ask func(path string, header ...string) (*http.Response, string)) {
		want := func(status int, text string, header ...string) {
			t.Helper()
			if resp, body := ask("/a.txt", header...); resp.StatusCode != status || body != text {
				t.Errorf("GET with %q = %d %q, want %d %q", header, resp.StatusCode, body, status, text)
			}
		}
		write("new-file", fileTime)
		resp, _ := ask("/a.txt")
		tag, modified := resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
		if len(tag) < 3 || tag[0] != '"' {
			t.Fatalf("ETag = %s, want a strong one", tag)
		}
		past, future := fileTime.Add(-time.Hour).Format(http.TimeFormat), fileTime.Add(time.Hour).Format(http.TimeFormat)
		want(304, "", "If-None-Match: "+tag)
		want(304, "", "If-None-Match: \"other\"", "If-None-Match: "+tag)
		want(200, "new-file", "If-Match: \"other\"", "If-Match: "+tag)
		want(304, "", "If-None-Match: W/"+tag)
		want(304, "", "If-None-Match: \"x\", "+tag)
		want(304, "", "If-None-Match: *")
		want(304, "", "If-None-Match: "+tag, "If-Modified-Since: "+past) // RFC 9110 section 13.2.2: in that order
		want(200, "new-file", `If-None-Match: "x"`, "If-Modified-Since: "+modified)
		want(304, "", "If-Modified-Since: "+modified)
		want(200, "new-file", "If-Modified-Since: "+past)
		want(200, "new-file", "If-Modified-Since: yesterday")
		want(200, "new-file", "If-Match: "+tag)
		want(412, "", `If-Match: "x"`)
		want(412, "", "If-Match: W/"+tag) // which is no strong match
		want(206, "ew", "Range: bytes=1-2", "If-Range: "+tag)
		want(200, "new-file", "Range: bytes=1-2", `If-Range: "x"`)
		want(200, "new-file", "Range: bytes=1-2", "If-Range: W/"+tag)
		want(206, "ew", "Range: bytes=1-2", "If-Range: "+modified)
		want(304, "", "Range: bytes=1-2", "If-None-Match: "+tag)

		// Back to an older file of the same size.
		write("old-file", fileTime.Add(-time.Hour))
		want(200, "old-file", "If-None-Match: "+tag)
		want(200, "old-file", "If-None-Match: "+tag, "If-Modified-Since: "+modified)
		want(200, "old-file", "If-Modified-Since: "+modified)
		want(200, "old-file", "If-Modified-Since: "+future)
		want(200, "old-file", "Range: bytes=1-2", "If-Range: "+tag)
		want(200, "old-file", "Range: bytes=1-2", "If-Range: "+modified)

		// Another time in the same second, and another size at the same time.
		write("new-file", fileTime.Add(time.Millisecond))
		want(200, "new-file", "If-None-Match: "+tag)
		write("longer file", fileTime)
		want(200, "longer file", "If-None-Match: "+tag)

		// A time that a package manager sets everywhere.
		for _, second := range []int64{0, 1} {
			at := time.Unix(second, 0)
			write("built", at)
			if resp, _ := ask("/a.txt"); resp.Header.Get("ETag") != "" || resp.Header.Get("Last-Modified") != "" {
				t.Errorf("a file of %v has ETag %q, Last-Modified %q, want none", at, resp.Header.Get("ETag"), resp.Header.Get("Last-Modified"))
			}
			want(200, "built", "If-Modified-Since: "+at.UTC().Format(http.TimeFormat))
		}
	})
}

// A file whose time is to come has no Last-Modified, which must not be later than Date.
func TestLastModifiedToCome(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, map[string]string{"a.txt": "text"})
	at := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "a.txt"), at, at); err != nil {
		t.Fatal(err)
	}
	overBoth(t, newFiles(t, dir, false), func(t *testing.T, ask func(path string, header ...string) (*http.Response, string)) {
		resp, _ := ask("/a.txt")
		if got := resp.Header["Last-Modified"]; got != nil {
			t.Errorf("Last-Modified = %q, want none", got)
		}
		if resp, _ := ask("/a.txt", "If-None-Match: "+resp.Header.Get("ETag")); resp.StatusCode != 304 {
			t.Errorf("with its ETag: %d, want 304", resp.StatusCode)
		}
	})
}

func TestRanges(t *testing.T) {
	dir := t.TempDir()
	const text = "0123456789abcdefghij"
	fill(t, dir, map[string]string{"a.txt": text, "empty.txt": ""})
	many := func(n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("%d-%d", 2*i, 2*i))
		}
		return strings.Join(list, ",")
	}
	overBoth(t, newFiles(t, dir, false), func(t *testing.T, ask func(path string, header ...string) (*http.Response, string)) {
		for ranges, status := range map[string]int{
			"0-0":                                206,
			"0-":                                 206,
			"-3":                                 206,
			"0-0,2-2":                            206,
			"2-2,0-0":                            206,
			"0-4, -3":                            206,
			"0-4,5-9":                            206,
			many(8):                              206,
			"99-,0-0":                            206, // one is past the end
			many(9):                              200,
			many(10):                             200,
			"0-0,0-0":                            200,
			"0-5,5-9":                            200,
			"5-,0-5":                             200,
			"0-,-1":                              200,
			"0-,0-,0-,0-":                        200,
			"-5,-5":                              200,
			"-99,0-0":                            200,
			"0-4,2-":                             200,
			strings.Repeat("0-0,", 5000):         200,
			"0-0" + strings.Repeat(",99-", 5000): 200,
			"0-99999999999999999999":             206,
			"-99999999999999999999":              206,
			"-0,0-0":                             206,
			"-0":                                 416,
			"99999999999999999999-":              416,
			"0-1, ,4-5":                          206,
			"0-1,\t":                             206,
			"0 -1,0 -1":                          416,
			"+1-2":                               416,
			"20-":                                416,
			"20-,21-":                            416,
			"5-1,0-0":                            416,
			"x,y":                                416,
		} {
			resp, body := ask("/a.txt", "Range: bytes="+ranges)
			if resp.StatusCode != status || status == 200 && body != text {
				t.Errorf("Range %.30s (%d bytes) = %d with %d bytes, want %d", ranges, len(ranges), resp.StatusCode, len(body), status)
			}
			if got := resp.Header.Get("Content-Range"); status == 416 && got != "bytes */20" {
				t.Errorf("Range %.30s: Content-Range = %q, want bytes */20", ranges, got)
			}
		}
		for _, ranges := range []string{"lines=0-1", "0-1", "Bytes=0-1", "bytes"} {
			if resp, body := ask("/a.txt", "Range: "+ranges); resp.StatusCode != 200 || body != text {
				t.Errorf("Range: %s = %d %q, want 200 with all", ranges, resp.StatusCode, body)
			}
		}
		if resp, body := ask("/empty.txt", "Range: bytes=0-0,-1"); resp.StatusCode/100 == 5 || body != "" && resp.StatusCode == 200 {
			t.Errorf("ranges of an empty file = %d %q", resp.StatusCode, body)
		}
	})
}
