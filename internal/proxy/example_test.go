package proxy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"lastcall/internal/proxy"
)

func ExampleNew() {
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s for %s", r.URL, r.Header.Get("X-Forwarded-For"))
	}))
	defer program.Close()

	h, err := proxy.New(program.URL, proxy.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	req := httptest.NewRequest("GET", "/page?q=1", nil)
	req.Header.Set("X-Forwarded-For", "127.0.0.1") // says the client
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	fmt.Println(rec.Body)
	// Output: /page?q=1 for 192.0.2.1
}

func ExampleNew_target() {
	_, err := proxy.New("localhost:3000", proxy.Config{})
	fmt.Println(err)
	// Output: target "localhost:3000": want http://HOST:PORT, https://HOST:PORT, h2c://HOST:PORT or unix:PATH
}
