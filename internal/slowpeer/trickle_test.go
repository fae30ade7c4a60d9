package slowpeer

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestRate is on an in-memory connection and fake time, where it is the
// reader, and no kernel, that decides how much it takes and when.
func TestRate(t *testing.T) {
	const limit = 10 * time.Second
	tests := []struct {
		name     string
		size     int // bytes at a time
		every    time.Duration
		cut      bool
		min, max time.Duration // when it ends
	}{
		{"stalled", 0, 0, true, limit, limit},
		{"a byte a second", 1, time.Second, true, limit, limit + time.Second},
		{"just too slow", MinRate * 9 / 10, time.Second, true, 90 * time.Second, 110 * time.Second},
		{"just fast enough", MinRate * 11 / 10, time.Second, false, 181 * time.Second, 182 * time.Second},
		{"rarely, but enough", MinRate * 10, 9 * time.Second, false, 180 * time.Second, 181 * time.Second},
		{"too rarely", MinRate * 100, 11 * time.Second, true, limit, limit},
	}
	for _, tt := range tests {
		for _, way := range []string{"written", "read"} {
			t.Run(tt.name+"/"+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					nc, peer := net.Pipe()
					full := budget{limit: limit, rate: MinRate}
					c := newConn(nc, full, full)
					body := make([]byte, 100_000)
					if tt.size == 1 || tt.size == 0 {
						body = body[:1000]
					}
					done := make(chan struct{})
					go func() {
						defer close(done)
						for b := make([]byte, tt.size); tt.every > 0; {
							time.Sleep(tt.every)
							var err error
							if way == "written" {
								_, err = io.ReadFull(peer, b)
							} else {
								_, err = peer.Write(b)
							}
							if err != nil {
								return
							}
						}
					}()
					start := time.Now()
					var err error
					if way == "written" {
						_, err = c.Write(body)
					} else {
						c.SetReadDeadline(renewMarker)
						_, err = io.ReadFull(c, body)
					}
					took := time.Since(start)
					nc.Close()
					peer.Close()
					<-done
					if tt.cut != errors.Is(err, os.ErrDeadlineExceeded) || !tt.cut && err != nil {
						t.Errorf("ended with %v after %v, want cut: %v", err, took, tt.cut)
					}
					if took < tt.min || took > tt.max {
						t.Errorf("ended after %v, want %v to %v", took, tt.min, tt.max)
					}
				})
			})
		}
	}
}

// TestIdleIsFree does not charge a peer for the time between transfers.
func TestIdleIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc, peer := net.Pipe()
		full := budget{limit: time.Second, rate: MinRate}
		c := newConn(nc, full, full)
		c.SetReadDeadline(renewMarker)
		done := make(chan struct{})
		go func() {
			defer close(done)
			io.Copy(peer, peer) // answers at once
		}()
		for range 10 {
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		nc.Close()
		peer.Close()
		<-done
	})
}
