package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"lastcall/stoptest/line"
	"lastcall/stoptest/load"
)

// classes are the classes of clients, in the order of the report.
var classes = []string{"reuse", "look", "connect", "h2", "idle", "unused", "slow", "upload", "sse", "ws"}

// classDoes says what the clients of a class do.
var classDoes = map[string]string{
	"reuse":   "keep their connections, and send the next request without looking whether the server has closed",
	"look":    "keep their connections, and look before each request, as connection pools do",
	"connect": "make a new connection for each request",
	"h2":      "share HTTP/2 connections, with a stream for each request",
	"idle":    "make a request, and stay connected in silence",
	"unused":  "connect, and send nothing",
	"slow":    "have a request that is being answered at the signal",
	"upload":  "are sending a body at the signal",
	"sse":     "listen to event streams",
	"ws":      "talk over WebSockets that echo",
	"held":    "have a request in flight from the first signal to the second",
}

// number is how many clients a class has: n clients, or with HTTP/2 n connections
// with a number of streams each.
type number struct{ n, streams int }

// profile is a load that has a name.
type profile struct {
	name    string
	clients map[string]number
	think   time.Duration // of reuse, look and h2, give or take a quarter
	load    time.Duration // before the signal
}

var profiles = map[string]profile{
	"light": {"light", map[string]number{"reuse": {10, 0}, "look": {10, 0}, "connect": {2, 0}, "h2": {2, 4}, "idle": {2, 0}, "unused": {2, 0},
		"slow": {4, 0}, "upload": {2, 0}, "sse": {2, 0}, "ws": {2, 0}}, 20 * time.Millisecond, time.Second},
	"full": {"full", map[string]number{"reuse": {100, 0}, "look": {100, 0}, "connect": {16, 0}, "h2": {8, 16},
		"slow": {20, 0}, "upload": {10, 0}, "sse": {10, 0}, "ws": {10, 0}}, 5 * time.Millisecond, time.Second},
	"long-think": {"long-think", map[string]number{"reuse": {500, 0}, "look": {500, 0}}, 1500 * time.Millisecond, 2 * time.Second},
	"none":       {name: "none", load: 100 * time.Millisecond},
}

func (p *profile) String() string { return p.name }

func (p *profile) Set(s string) error {
	v, ok := profiles[s]
	if !ok {
		return fmt.Errorf("%q: want light, full, long-think, none", s)
	}
	*p = v
	return nil
}

// clientsFlag has the numbers of clients, by class, that replace the profile's.
type clientsFlag map[string]number

func (c *clientsFlag) String() string { return "" }

func (c *clientsFlag) Set(s string) error {
	*c = clientsFlag{}
	for part := range strings.SplitSeq(s, ",") {
		class, text, _ := strings.Cut(part, "=")
		if !slices.Contains(classes, class) {
			return fmt.Errorf("%q: want one of %s, and a number", part, strings.Join(classes, ", "))
		}
		n, streams, shared := strings.Cut(text, "x")
		var v number
		var err error
		if v.n, err = strconv.Atoi(n); err != nil || v.n < 0 || shared != (class == "h2") {
			return fmt.Errorf("%q: want a number, and for h2 two, such as 8x16", part)
		}
		if shared {
			if v.streams, err = strconv.Atoi(streams); err != nil || v.streams < 1 {
				return fmt.Errorf("%q: want connections x streams, such as 8x16", part)
			}
		}
		(*c)[class] = v
	}
	return nil
}

const (
	uploadBody  = 1 << 20
	streamThink = 50 * time.Millisecond
)

// groups returns the groups of clients for the settings: those that run from the
// start, and those that begin their only request just before the signal.
func (c *config) groups(ln *line.Line) (start, late []load.Group) {
	for _, class := range classes {
		n, other := c.clients[class]
		if !other {
			n = c.profile.clients[class]
		}
		if n.n == 0 {
			continue
		}
		g := load.Group{Name: class, N: n.n, Think: c.think, Jitter: c.think / 4, Method: c.method, Body: c.body}
		u, then := c.url, &start
		get := func() { g.Method, g.Body = "GET", 0 }
		switch class {
		case "reuse":
			g.Kind = load.Reuse
		case "look":
			g.Kind = load.Look
		case "connect":
			g.Kind, g.Think, g.Jitter = load.Connect, 0, 0
		case "h2":
			if c.h2 == "off" {
				continue
			}
			g.Kind, g.Streams = load.HTTP2, n.streams
			if c.h2URL.URL != nil {
				u = c.h2URL
			}
		case "idle":
			g.Kind, g.Requests = load.Idle, 1
		case "unused":
			g.Kind = load.Idle
		case "slow":
			g.Kind, g.Requests, g.Delay, u, then = load.Connect, 1, -1, c.slow, &late
		case "upload":
			g.Kind, g.Requests, g.Delay, u, then = load.Connect, 1, -1, c.upload, &late
			g.Method, g.Body, g.BodyTime = c.uploadMethod(), uploadBody, c.pauses.upload
		case "sse":
			g.Kind, g.Think, g.Jitter, u = load.Events, streamThink, 0, c.sse
			get()
		case "ws":
			g.Kind, g.Think, g.Jitter, u = load.WebSocket, streamThink, 0, c.ws
			get()
		}
		if u.URL == nil {
			continue
		}
		c.setTarget(&g, u, ln)
		*then = append(*then, g)
	}
	return start, late
}

// heldGroup returns a client whose request is in flight during the whole stop: a
// slow upload.
func (c *config) heldGroup(ln *line.Line) load.Group {
	g := load.Group{Name: "held", Kind: load.Connect, N: 1, Requests: 1, Delay: -1, Method: c.uploadMethod(), Body: 10 << 10, BodyTime: c.pauses.held}
	u := c.url
	if c.upload.URL != nil {
		u = c.upload
	}
	c.setTarget(&g, u, ln)
	return g
}

// uploadMethod returns -method, or POST if a request with -method has no body.
func (c *config) uploadMethod() string {
	if c.method == "GET" || c.method == "HEAD" {
		return "POST"
	}
	return c.method
}

// setTarget sets the URL of a group.
func (c *config) setTarget(g *load.Group, u urlFlag, ln *line.Line) {
	g.Path, g.Addr = u.path(), u.addr()
	if u.Scheme == "https" {
		g.TLS = c.tlsConfig.Clone()
		g.TLS.ServerName = u.Hostname()
	}
	if ln != nil {
		port, _ := net.LookupPort("tcp", portOf(g.Addr))
		g.Dial = func(ctx context.Context, _ int) (net.Conn, error) { return ln.Dial(ctx, port) }
	}
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
