package load

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

func TestUploads(t *testing.T) {
	t.Parallel()
	const size, took = 100_000, 2 * time.Second // longer than a machine stands still
	for _, tt := range []struct {
		name  string
		serve func(c *serverConn, body io.Reader, id string, began time.Time)
		want  Counts
		how   How
		early bool
	}{
		{"answered", func(c *serverConn, body io.Reader, id string, began time.Time) {
			var b [1000]byte
			for n := 0; n < size; {
				m, err := body.Read(b[:])
				// Never more than what is due, nor less than a part of it.
				if due := float64(size) * float64(time.Since(began)+50*time.Millisecond) / float64(took); err != nil && err != io.EOF || float64(n) > due {
					return
				}
				n += m
			}
			c.answer(id)
		}, Counts{Clients: 2, Requests: 2, Answered: 2}, 0, false},
		{"reset", func(c *serverConn, body io.Reader, _ string, _ time.Time) {
			io.CopyN(io.Discard, body, size/4)
			c.reset()
		},
			Counts{Clients: 2, Requests: 2, Lost: 2}, RST, true},
		{"FIN", func(c *serverConn, body io.Reader, _ string, _ time.Time) {
			io.CopyN(io.Discard, body, size/4)
			c.CloseWrite()
			io.Copy(io.Discard, body)
		}, Counts{Clients: 2, Requests: 2, Lost: 2}, FIN, true},
		{"FIN after it", func(c *serverConn, body io.Reader, _ string, _ time.Time) { io.Copy(io.Discard, body) }, Counts{Clients: 2, Requests: 2, Lost: 2}, FIN, false},
		{"error status within it", func(c *serverConn, body io.Reader, _ string, _ time.Time) {
			io.CopyN(io.Discard, body, size/4)
			fmt.Fprint(c, "HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			c.CloseWrite()
			io.Copy(io.Discard, body)
		}, Counts{Clients: 2, Requests: 2, ErrorStatus: 2}, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			addr := rawServer(t, func(c *serverConn) {
				if req, err := http.ReadRequest(c.r); err == nil {
					tt.serve(c, req.Body, req.Header.Get("X-Request-Id"), began)
				}
			})
			led := start(t, Config{Addr: addr, EchoHeader: "X-Echo", Groups: []Group{{Kind: Connect, N: 2, Requests: 1, Body: size, BodyTime: took}}}).Wait()
			wantCounts(t, led, led.Total, tt.want)
			if d := time.Since(began); !tt.early && d < took {
				t.Errorf("a body of %v was sent in %v", took, d)
			}
			for _, s := range led.Losses {
				if s.How != tt.how || tt.early && s.Sent >= size || !tt.early && s.Sent < size {
					t.Errorf("loss = %+v, want how %v, the body sent whole: %v", s, tt.how, !tt.early)
				}
			}
		})
	}
}
