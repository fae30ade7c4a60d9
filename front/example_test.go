package front_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"lastcall/front"
)

func ExampleFiles() {
	dir, err := os.MkdirTemp("", "site")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	os.WriteFile(filepath.Join(dir, "hello.txt"), []byte("hello, world"), 0o644)
	os.WriteFile(filepath.Join(dir, ".env"), []byte("SECRET=1"), 0o644)

	files, err := front.Files(dir, false)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, path := range []string{"/hello.txt", "/.env", "/"} {
		rec := httptest.NewRecorder()
		files.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		fmt.Println(path, rec.Code)
	}
	// Output:
	// /hello.txt 200
	// /.env 404
	// / 404
}

func ExampleProxy() {
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s for %s", r.URL, r.Header.Get("X-Forwarded-For"))
	}))
	defer program.Close()

	proxy, err := front.Proxy(program.URL, front.ProxyConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	req := httptest.NewRequest("GET", "/page?q=1", nil)
	req.Header.Set("X-Forwarded-For", "127.0.0.1") // says the client
	rec := httptest.NewRecorder()
	proxy.ServeHTTP(rec, req)
	fmt.Println(rec.Body)
	// Output: /page?q=1 for 192.0.2.1
}

func ExampleProxy_target() {
	_, err := front.Proxy("localhost:3000", front.ProxyConfig{})
	fmt.Println(err)
	// Output: target "localhost:3000": want http://HOST:PORT, https://HOST:PORT, h2c://HOST:PORT or unix:PATH
}
