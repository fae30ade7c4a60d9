package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

type group struct {
	Group
	load    *Load
	number  int
	host    string // header
	dial    func(ctx context.Context, client int) (net.Conn, error)
	fields  []field // of the header, but the host and the ID
	head    string  // the request up to the ID
	tail    []byte  // what comes after it, with a small body
	body    []byte  // a large body, shared by the clients
	clients []*client
}

// largeBody is the size in bytes from which the clients of a group share a body. A
// smaller one is written together with the header.
const largeBody = 16 << 10

func (l *Load) newGroup(spec Group) (*group, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	g := &group{Group: spec, load: l, dial: spec.Dial}
	g.fields = spec.fields(l.cfg.Header)
	g.host = cmp.Or(l.cfg.Host, hostOf(cmp.Or(g.Addr, l.cfg.Addr)))
	switch {
	case g.dial != nil:
	case g.Addr != "":
		dial, err := dialer(g.Addr)
		if err != nil {
			return nil, err
		}
		g.dial = dial
	case l.dial != nil:
		g.dial = l.dial
	default:
		return nil, errors.New("no address")
	}
	if g.TLS != nil {
		g.TLS = g.TLS.Clone()
		g.TLS.NextProtos = []string{protoHTTP1}
		if g.Streams > 0 {
			g.TLS.NextProtos[0] = protoHTTP2
		}
		if g.TLS.ServerName == "" {
			g.TLS.ServerName = hostname(g.host)
		}
	}
	return g, nil
}

// add starts the clients of a group.
func (l *Load) add(g *group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g.number = len(l.groups)
	var head strings.Builder
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\n", g.Method, g.Path, g.host)
	for _, f := range g.fields {
		fmt.Fprintf(&head, "%s: %s\r\n", f.name, f.value)
	}
	g.head = head.String() + idHeader + ": "
	g.tail = []byte("\r\n\r\n")
	if g.Body < largeBody && g.BodyTime == 0 && g.Streams == 0 {
		g.tail = append(g.tail, strings.Repeat("x", g.Body)...)
	} else {
		g.body = []byte(strings.Repeat("x", g.Body))
	}
	var shared *sharedConn
	for i := range g.N * max(g.Streams, 1) {
		c := newClient(g, i, l.number)
		l.number++
		if g.Streams > 0 {
			if i%g.Streams == 0 {
				shared = &sharedConn{users: g.Streams}
			}
			c.shared = shared
		}
		g.clients = append(g.clients, c)
		l.clients.Go(c.run)
	}
	l.groups = append(l.groups, g)
}

func hostOf(addr string) string {
	if addr == "" || strings.HasPrefix(addr, "unix:") {
		return "localhost"
	}
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return ap.String()
	}
	return addr
}

// hostname returns a Host header without the port.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}
