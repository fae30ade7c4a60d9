package main

import (
	"cmp"
	"fmt"
	"lastcall/stoptest/line"
	"lastcall/stoptest/plot"
	"net"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// urlFlag is an http or https URL, or a path of one.
type urlFlag struct{ *url.URL }

func (u *urlFlag) String() string {
	if u.URL == nil {
		return ""
	}
	return u.URL.String()
}

func (u *urlFlag) Set(s string) error {
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
			return fmt.Errorf("%q: want http://HOST:PORT/PATH", s)
		}
	default:
		return fmt.Errorf("%q: want http:// or https://", s)
	}
	u.URL = v
	return nil
}

// addr returns host and port.
func (u *urlFlag) addr() string {
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

// plotFlag is the files to draw to.
type plotFlag []string

func (p *plotFlag) String() string { return strings.Join(*p, ",") }

func (p *plotFlag) Set(s string) error {
	for path := range strings.SplitSeq(s, ",") {
		if _, err := plot.Format(path); err != nil {
			return err
		}
		*p = append(*p, path)
	}
	return nil
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
