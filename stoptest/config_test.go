//go:build unix

package main

import (
	"bytes"
	"context"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"lastcall/stoptest/load"
	"lastcall/stoptest/report"
)

func TestUsageErrors(t *testing.T) {
	const url = "-url=http://127.0.0.1:1/"
	for _, tt := range []struct {
		args string // the command follows it, except in the first ones
		want string
	}{
		{"", "-url: want the address"},
		{url, "no command"},
		{url + " --", "no command"},
		{"-url /path -- x", "want http:// or https:// and a host"},
		{"-url localhost:80 -- x", "want http:// or https://"},
		{"-url ftp://x -- x", "want http:// or https://"},
		{"-no-such-flag -- x", "flag provided but not defined: -no-such-flag"},
		{url + " -stops 0 -- x", "-stops 0: want 1 or more"},
		{url + " -stops many -- x", "invalid value"},
		{url + " -signal NONE -- x", `"NONE": want a signal such as TERM`},
		{url + " -second 99999 -- x", "want a signal such as TERM"},
		{url + " -second INT -reload HUP -- x", "-second, -reload: want one of them"},
		{url + " -second INT -method GET -- x", "-second, -method GET: want -upload-url with them"},
		{url + " -profile heavy -- x", `"heavy": want light, full, long-think, none`},
		{url + " -clients slow=1 -- x", "want -slow-url with it"},
		{url + " -clients h2=1x1 -- x", "want -h2 with it"},
		{url + " -clients h2=4 -h2 h2c -- x", "for h2 two, such as 8x16"},
		{url + " -clients h2=4x0 -h2 h2c -- x", "connections x streams"},
		{url + " -clients connect=1x1 -- x", "want a number"},
		{url + " -clients connect=-1 -- x", "want a number"},
		{url + " -clients fast=1 -- x", "want one of reuse, look"},
		{url + " -profile none -- x", "no clients: want one or more"},
		{url + " -profile long-think -clients look=0,reuse=0 -- x", "no clients: want one or more"},
		{url + " -h2 on -- x", "want off, h2c, tls"},
		{url + " -h2 tls -- x", "-url is http://"},
		{"-url https://x -h2 h2c -- x", "-h2 h2c: -url is https://"},
		{"-url https://x -h2 tls -h2-url http://y -- x", "-h2 tls: -h2-url is http://"},
		{"-url https://x -h2 h2c -h2-url /y -- x", "-h2 h2c: -h2-url is https://"},
		{"-url http://me:secret@x/ -- x", "-url http://me:xxxxx@x/: want no user in it, but -header"},
		{url + " -ws-url ws://me@x/ -- x", "-ws-url http://me@x/: want no user in it"},
		{url + " -echo-header a:b -- x", `-echo-header "a:b": want a name`},
		{url + " -max-wait 0 -- x", "-max-wait, -start-wait: want more than 0s"},
		{url + " -start-wait 0s -- x", "-max-wait, -start-wait: want more than 0s"},
		{url + " -method GE(T -- x", "want one such as POST"},
		{url + " -header X-Request-Id:1 -- x", "header X-Request-Id: it carries the request's ID"},
		{url + " -header Host:a/b -- x", `header Host: "a/b" is not a host`},
		{url + " -header Host: -- x", `header Host: "" is not a host`},
		{url + " -method GET -body 64 -- x", "-method GET: want no -body with it"},
		{url + " -header Name -- x", "want 'Name: value'"},
		{url + " -header Content-Length:3 -- x", "header Content-Length: the clients set it"},
		{url + " -cacert a.pem -insecure -- x", "-insecure, -cacert: want one of them"},
		{url + " -cacert /no/such/file -- x", "-cacert: open /no/such/file"},
		{url + " -cacert /dev/null -- x", "-cacert /dev/null: no certificate in it"},
		{"-url unix: -- x", "want unix:SOCKET:/PATH"},
		{"-url unix:/a/b -line delay=1ms -- x", "-line: want a host in -url, not a socket"},
		{url + " -ws-url unix:/a/b -line delay=1ms -- x", "-line: want a host in -ws-url, not a socket"},
		{url + " -method= -- x", "want one such as POST"},
		{url + " -body -1 -- x", "want a number of bytes"},
		{url + " -max-wait 5 -- x", "is not a duration of zero or more"},
		{url + " -think -5ms -- x", "is not a duration of zero or more"},
		{url + " -allow-status 404 -- x", "want statuses from 500 to 599, such as 503,504"},
		{url + " -allow-status 503, -- x", "want statuses from 500 to 599"},
		{url + " -line delay -- x", "is not a duration of zero or more"},
		{url + " -line latency=1ms -- x", "want delay=, jitter= or loss="},
		{url + " -line loss=101% -- x", "want 0% to 100%"},
		{url + " -line loss=lots -- x", "want 0% to 100%"},
		{url + " -line delay=1ms,jitter=2ms -- x", "more than the delay"},
		{url + " -versions nginx -- x", "want KEY=TEXT"},
		{url + " -json /no/such/directory/a.json -- x", "-json: open /no/such/directory/a.json"},
		{url + " -output / -- x", "-output: open /"},
		{url + " -plot /no/such/directory/a.svg -- x", "-plot: open /no/such/directory/a.svg"},
		{url + " -plot a.png -- x", `-plot "a.png": want a name that ends in .svg`},
		{"-compare a.json b.json -plot c.svg", `-compare: "-plot": want flags before the reports`},
		{"-compare -plot a.png a.json", `-plot "a.png": want a name that ends in .svg`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			status := run(context.Background(), strings.Fields(tt.args), &stdout, &stderr)
			if status != 2 || stdout.Len() > 0 || !strings.HasPrefix(stderr.String(), "stoptest: ") || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("status %d, stdout %q, stderr %q; want 2, nothing, and %q", status, &stdout, &stderr, tt.want)
			}
		})
	}
}

// The report says what each class does.
func TestClassesAreExplained(t *testing.T) {
	for _, class := range append(classes, "held") {
		var b strings.Builder
		printRows(&b, []report.Row{{Class: class}}, report.Row{Class: "total"})
		if classDoes[class] == "" || !strings.Contains(b.String(), "\n"+class+" clients "+classDoes[class]+".\n") {
			t.Errorf("%s is not explained in:\n%s", class, &b)
		}
	}
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if status := run(context.Background(), []string{"-help"}, &stdout, &stderr); status != 0 || stdout.String() != usage || stderr.Len() > 0 {
		t.Errorf("status %d, stdout %q, stderr %q; want 0 and the usage", status, &stdout, &stderr)
	}
	var c config
	for line := range strings.Lines(usage) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "  -"), " "); ok && strings.HasPrefix(line, "  -") && c.flags().Lookup(name) == nil {
			t.Errorf("the usage has -%s, which is no flag", name)
		}
	}
}

func TestSettings(t *testing.T) {
	t.Setenv("STOPTEST_MAX_WAIT", "7s")
	out := filepath.Join(t.TempDir(), "a.json")
	c, err := parse([]string{"-url", "http://h:1/a/b?c=d", "-slow-url", "/slow", "-ws-url", "wss://other/ws", "-h2", "h2c", "-profile", "full",
		"-clients", "connect=0,h2=2x3", "-line", "delay=50ms,jitter=10ms,loss=1%", "-reload", "sighup", "-json", out, "--", "./dir/server", "-flag"})
	if err != nil {
		t.Fatal(err)
	}
	if c.maxWait != 7*time.Second || c.reloadBy != syscall.SIGHUP || c.name != "server" || len(c.command) != 2 ||
		c.line.Delay != 50*time.Millisecond || c.line.Jitter != 10*time.Millisecond || c.line.Loss != 0.01 || c.think != 5*time.Millisecond {
		t.Errorf("config = %+v", c)
	}
	early, late := c.groups(nil)
	got := map[string]load.Group{}
	for _, g := range append(early, late...) {
		got[g.Name] = g
	}
	if g := got["h2"]; g.N != 2 || g.Streams != 3 || g.Path != "/a/b?c=d" || g.Addr != "h:1" || g.Method != "POST" || g.Body != 64 || g.TLS != nil {
		t.Errorf("h2 = %+v", g)
	}
	if g := got["slow"]; g.N != 20 || g.Path != "/slow" || g.Addr != "h:1" || len(late) != 1 {
		t.Errorf("slow = %+v, and %d that come late", g, len(late))
	}
	if g := got["ws"]; g.Path != "/ws" || g.Addr != "other:443" || g.TLS == nil || g.TLS.ServerName != "other" || g.Method != "GET" {
		t.Errorf("ws = %+v", g)
	}
	if len(got) != 5 { // and reuse, look
		t.Errorf("groups = %v, want those that have a URL and a number", got)
	}
}

// -load 0s is no load, and the files of the report come with the report.
func TestSettingsOfNoLoad(t *testing.T) {
	plot := filepath.Join(t.TempDir(), "a.svg")
	c, err := parse([]string{"-url", "https://h/", "-h2", "h2c", "-h2-url", "http://h:81/", "-load", "0s", "-plot", plot, "--", "x"})
	if err != nil || c.load != 0 {
		t.Errorf("load %v, %v; want 0", c.load, err)
	}
	if exists(plot) {
		t.Errorf("%s is there before the test", plot)
	}
}

// GET and HEAD have no body unless one is asked for, and paths are on the socket of -url.
func TestSettingsOfRequests(t *testing.T) {
	c, err := parse([]string{"-url", "unix:/run/a:b:/c?d=e", "-ws-url", "/ws", "-sse-url", "http://h/events", "-method", "GET",
		"-header", "Accept: a", "-header", "accept: b:c", "-header", "Host: h", "--", "x"})
	if err != nil {
		t.Fatal(err)
	}
	if want := (http.Header{"Accept": {"a", "b:c"}, "Host": {"h"}}); c.body != 0 || !reflect.DeepEqual(c.header.Header, want) || c.url.String() != "unix:/run/a:b:/c?d=e" {
		t.Errorf("body %d, header %v, URL %s; want none, %v, the same", c.body, c.header.Header, &c.url, want)
	}
	early, _ := c.groups(nil)
	for _, g := range early {
		addr, path := "unix:/run/a:b", "/c?d=e"
		switch g.Name {
		case "ws":
			path = "/ws"
		case "sse":
			addr, path = "h:80", "/events"
		}
		if g.Addr != addr || g.Path != path || g.Method != "GET" || g.Body != 0 {
			t.Errorf("%s = %+v, want GET %s at %s", g.Name, g, path, addr)
		}
	}
}

func TestProgressLine(t *testing.T) {
	p := &progress{stops: 20, began: time.Unix(100, 0), terminal: true}
	p.show("loading", nil)
	if got, want := p.line(time.Unix(103, 0)), "stop 1 of 20, loading: 0 requests, 0 lost"; got != want {
		t.Errorf("line = %q, want %q", got, want)
	}
	for range 2 {
		p.addStop(&report.Stop{Total: report.Row{Counts: load.Counts{Requests: 100, Lost: 3, Cut: 1}}})
	}
	p.show("stopping", nil)
	if got, want := p.line(time.Unix(110, 0)), "stop 3 of 20, stopping: 200 requests, 8 lost, about 1m30s left"; got != want {
		t.Errorf("line = %q, want %q", got, want)
	}
}
