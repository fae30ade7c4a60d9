package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"lastcall/internal/printable"
	"lastcall/stoptest/load"
)

// awaitAnswer waits until the server answers the URL. What waiting does not mend is an
// error at once: a status that says that the server does not know the method, or a
// certificate that does not pass.
func (t *trial) awaitAnswer(ctx context.Context) error {
	t.show("waiting for an answer", nil)
	within, cancel := context.WithTimeout(ctx, t.startWait)
	defer cancel()
	client := &http.Client{
		Transport: &http.Transport{
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return t.dial(ctx) },
			DisableKeepAlives: true,
			Protocols:         t.protocols(),
			TLSClientConfig:   t.tlsConfig,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	last := errors.New("nothing came")
	for {
		began := time.Now()
		req, err := http.NewRequestWithContext(within, t.method, t.url.URL.String(), bytes.NewReader(make([]byte, t.body)))
		if err != nil {
			return err
		}
		req.Header = t.header.without("Host")
		req.Host = t.header.Get("Host")
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode < 400 {
				return nil
			}
			err = fmt.Errorf("%s %s: %s", t.method, t.url.String(), resp.Status)
			if resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusNotImplemented {
				other := ", such as GET,"
				if allow := resp.Header.Get("Allow"); allow != "" {
					other = fmt.Sprintf(" (the server allows %s),", printable.Clip(allow, printable.Max))
				} else if t.method == http.MethodGet {
					other = ""
				}
				return fmt.Errorf("%w: want another -method%s or another -url", err, other)
			}
		}
		if errors.As(err, new(*tls.CertificateVerificationError)) {
			return fmt.Errorf("%w: want -cacert or -insecure", err)
		}
		if within.Err() == nil {
			last = err
		} else if pending := time.Since(began); pending > 100*time.Millisecond {
			last = fmt.Errorf("%s %s: no answer for %v", t.method, t.url.String(), seconds(pending.Seconds()))
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-within.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("no answer to test with in %v: %w", t.startWait, last)
		}
	}
}

// protocols returns how to ask -url: over HTTP/2 if all clients that ask it do, as the
// server may know nothing else.
func (t *trial) protocols() *http.Protocols {
	early, late := t.groups(nil)
	asksHTTP1 := func(g load.Group) bool { return g.Kind != load.HTTP2 && (g.Kind != load.Idle || g.Requests > 0) }
	p := new(http.Protocols)
	switch {
	case t.h2URL.URL != nil || slices.ContainsFunc(append(early, late...), asksHTTP1):
		p.SetHTTP1(true)
	case t.h2 == "tls":
		p.SetHTTP2(true)
	case t.h2 == "h2c":
		p.SetUnencryptedHTTP2(true)
	default:
		p.SetHTTP1(true)
	}
	return p
}

// warmUp loads the server until the moment of the signal.
func (t *trial) warmUp(ctx context.Context, late []load.Group) error {
	within, cancel := context.WithTimeout(ctx, t.startWait)
	defer cancel()
	if err := t.traffic.Ready(within, 1); err != nil {
		return err
	}
	t.show("loading", t.traffic)
	if err := sleep(ctx, t.load); err != nil || len(late) == 0 {
		return cmp.Or(err, t.traffic.CheckMethods())
	}
	want := 0
	for _, g := range late {
		want += g.N
		if err := t.traffic.Add(g); err != nil {
			return err
		}
	}
	for begun := time.Now(); ; {
		n := 0
		led := t.traffic.Snapshot()
		for _, g := range late {
			row := led.Row(g.Name)
			n += row.InFlight + row.Requests
		}
		if n >= want {
			break
		}
		if time.Since(begun) > lateWait {
			return fmt.Errorf("%d of %d requests that were to be in flight at the signal were sent within %v", n, want, lateWait)
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	settle := t.pauses.settle
	if t.line.Config != nil {
		settle += 4 * t.line.Delay // a handshake and the request
	}
	return cmp.Or(sleep(ctx, settle), t.traffic.CheckMethods(), t.checkLate(late))
}

// checkLate returns an error if no request of a group is in flight that should be at the
// signal: it would test nothing.
func (t *trial) checkLate(late []load.Group) error {
	led := t.traffic.Snapshot()
	for _, g := range late {
		row := led.Row(g.Name)
		if row.Requests < g.N {
			continue
		}
		want := "a -slow-url whose answer takes a second or more"
		if g.Name != "slow" {
			want = "an -upload-url that is answered after the whole body"
		}
		statuses := ""
		if row.ErrorStatus > 0 {
			statuses = fmt.Sprintf(" (%d were answered with an error status)", row.ErrorStatus)
		}
		return fmt.Errorf("%s: all requests had ended before the signal%s: want %s", g.Name, statuses, want)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
