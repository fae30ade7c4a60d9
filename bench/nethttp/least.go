package main

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
)

// least does the least for which a RoundTripper is enough here: it writes the
// request and reads the answer, on the handler's goroutine, over one of the
// connections that it keeps. It checks nothing and waits for good: what it costs is
// the least that a proxy of httputil.ReverseProxy can cost over HTTP/1.1.
type least struct {
	mu   sync.Mutex
	idle []*leastConn
}

type leastConn struct {
	net.Conn
	r *bufio.Reader
	w *bufio.Writer
}

func (l *least) RoundTrip(r *http.Request) (*http.Response, error) {
	c, err := l.get(r.URL.Host)
	if err != nil {
		return nil, err
	}
	resp, err := c.roundTrip(r)
	if err != nil {
		c.Close()
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = append(l.idle, c)
	return resp, nil
}

func (l *least) get(addr string) (*leastConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.idle); n > 0 {
		c := l.idle[n-1]
		l.idle = l.idle[:n-1]
		return c, nil
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &leastConn{nc, bufio.NewReader(nc), bufio.NewWriter(nc)}, nil
}

func (c *leastConn) roundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Write(c.w); err != nil {
		return nil, err
	}
	if err := c.w.Flush(); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(c.r, r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, err
}
