package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http/httpguts"

	"lastcall/internal/socket"
	"lastcall/stoptest/line"
	"lastcall/stoptest/load"
)

// urlFlag is an http or https URL, or a path of one.
type urlFlag struct {
	*url.URL
	socket string // the path of the unix socket to ask over; empty: none
}

func (u *urlFlag) String() string {
	if u.URL == nil {
		return ""
	}
	if u.socket != "" {
		return "unix:" + u.socket + ":" + u.path()
	}
	return u.URL.String()
}

func (u *urlFlag) Set(s string) error {
	if rest, ok := strings.CutPrefix(s, "unix:"); ok {
		path, target := socket.CutTarget(rest)
		v, err := url.Parse("http://localhost" + cmp.Or(target, "/"))
		if err != nil {
			return err
		}
		if path == "" {
			return fmt.Errorf("%q: want unix:SOCKET:/PATH", s)
		}
		u.URL, u.socket = v, path
		return nil
	}
	v, err := url.Parse(s)
	if err != nil {
		return err
	}
	switch v.Scheme {
	case "ws", "wss":
		v.Scheme = "http" + v.Scheme[2:]
	case "http", "https":
	case "":
		if !strings.HasPrefix(s, "/") {
			return fmt.Errorf("%q: want http://HOST:PORT/PATH, or unix:SOCKET:/PATH", s)
		}
	default:
		return fmt.Errorf("%q: want http:// or https://, or unix:SOCKET:/PATH", s)
	}
	u.URL, u.socket = v, ""
	return nil
}

// resolve makes a path a URL on the host, or the socket, of base.
func (u *urlFlag) resolve(base *urlFlag) {
	if u.Host == "" {
		u.socket = base.socket
	}
	u.URL = base.ResolveReference(u.URL)
}

// addr returns host and port, or "unix:" and the path of the socket.
func (u *urlFlag) addr() string {
	if u.socket != "" {
		return "unix:" + u.socket
	}
	port := u.Port()
	if port == "" {
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func (u *urlFlag) path() string { return cmp.Or(u.RequestURI(), "/") }

// dial connects to what the URL names.
func (u *urlFlag) dial(ctx context.Context) (net.Conn, error) {
	if u.socket != "" {
		return new(net.Dialer).DialContext(ctx, "unix", u.socket)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", u.addr())
}

// headerFlag is the lines of a header.
type headerFlag struct{ http.Header }

func (h *headerFlag) String() string { return "" }

func (h *headerFlag) Set(s string) error {
	name, value, ok := strings.Cut(s, ":")
	if !ok {
		return fmt.Errorf("%q: want 'Name: value'", s)
	}
	line := http.Header{name: {strings.TrimSpace(value)}}
	if strings.EqualFold(name, "Host") {
		if host := line[name][0]; host == "" || !httpguts.ValidHostHeader(host) {
			return fmt.Errorf("header Host: %q is not a host", host)
		}
	} else if err := load.CheckHeader(line); err != nil {
		return err
	}
	if h.Header == nil {
		h.Header = http.Header{}
	}
	h.Add(name, line[name][0])
	return nil
}

// without returns the header without one of its names.
func (h *headerFlag) without(name string) http.Header {
	others := h.Clone()
	others.Del(name)
	return others
}

type signalFlag struct{ syscall.Signal }

func (f *signalFlag) String() string {
	if f.Signal == 0 {
		return ""
	}
	return signalName(f.Signal)
}

func (f *signalFlag) Set(s string) (err error) {
	f.Signal, err = parseSignal(s)
	return err
}

// statusFlag is a list of 5xx statuses.
type statusFlag []int

func (f *statusFlag) String() string { return strings.Trim(fmt.Sprint([]int(*f)), "[]") }

func (f *statusFlag) Set(s string) error {
	*f = nil
	for part := range strings.SplitSeq(s, ",") {
		status, err := strconv.Atoi(part)
		if err != nil || status < 500 || status > 599 {
			return fmt.Errorf("%q: want statuses from 500 to 599, such as 503,504", part)
		}
		*f = append(*f, status)
	}
	return nil
}

// lineFlag is the properties of a line. Nil means none.
type lineFlag struct{ *line.Config }

func (l *lineFlag) String() string { return "" }

func (l *lineFlag) Set(s string) error {
	var c line.Config
	for part := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(part, "=")
		var err error
		switch key {
		case "delay":
			err = (*durationFlag)(&c.Delay).Set(value)
		case "jitter":
			err = (*durationFlag)(&c.Jitter).Set(value)
		case "loss":
			number, percent := strings.CutSuffix(value, "%")
			if c.Loss, err = strconv.ParseFloat(number, 64); percent {
				c.Loss /= 100
			}
			if err != nil || !(c.Loss >= 0 && c.Loss <= 1) {
				err = fmt.Errorf("loss %q: want 0%% to 100%%", value)
			}
		default:
			err = fmt.Errorf("%q: want delay=, jitter= or loss=", part)
		}
		if err != nil {
			return err
		}
	}
	if c.Jitter > c.Delay {
		return fmt.Errorf("jitter %v is more than the delay", c.Jitter)
	}
	l.Config = &c
	return nil
}

type versionsFlag map[string]string

func (v *versionsFlag) String() string { return "" }

func (v *versionsFlag) Set(s string) error {
	*v = versionsFlag{}
	for part := range strings.SplitSeq(s, ",") {
		key, text, ok := strings.Cut(part, "=")
		if !ok || key == "" {
			return fmt.Errorf("%q: want KEY=TEXT", part)
		}
		(*v)[key] = text
	}
	return nil
}

// durationFlag is a time.Duration that is not negative.
type durationFlag time.Duration

func (d *durationFlag) String() string { return time.Duration(*d).String() }

func (d *durationFlag) Set(s string) error {
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration of zero or more, such as 30s", s)
	}
	*d = durationFlag(v)
	return nil
}
