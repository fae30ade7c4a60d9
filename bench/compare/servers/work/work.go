// Package work is what all the Go servers of the comparison do, and the program
// that the proxies stand before.
package work

import (
	"io"
	"net/http"
	"time"
)

// Handler answers at once with the request's ID; /slow takes 2 s to do so.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", answer)
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(2 * time.Second):
			answer(w, r)
		case <-r.Context().Done():
		}
	})
	return mux
}

func answer(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.Header().Set("X-Echo", r.Header.Get("X-Request-Id"))
	io.WriteString(w, "hello\n")
}

// Protocols are HTTP/1.1, and HTTP/2 without TLS.
func Protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return p
}
