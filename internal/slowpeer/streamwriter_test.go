package slowpeer

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lastcall/internal/wiretest"
)

// TestStreamClosedWindow has a client that opens the windows of its streams never,
// or by a byte now and then. Each is reset, and its handler returns.
func TestStreamClosedWindow(t *testing.T) {
	const streams = 20
	for _, opens := range []bool{false, true} {
		var held atomic.Int32
		inMemory(t, func(w http.ResponseWriter, r *http.Request) {
			held.Add(1)
			defer held.Add(-1)
			for range 100 {
				if _, err := io.WriteString(w, strings.Repeat("x", 32<<10)); err != nil {
					return
				}
			}
		}, Config{Write: time.Second}, func(t *testing.T, m *wiretest.Memory) {
			c := dialH2(t, m, 10)
			go func() {
				for {
					if _, err := c.ReadFrame(); err != nil {
						return
					}
				}
			}()
			for i := range uint32(streams) {
				c.ask(2*i+1, "GET", false)
			}
			for range 60 {
				time.Sleep(time.Second)
				for i := range uint32(streams) {
					if opens {
						c.WriteWindowUpdate(2*i+1, 1)
					}
				}
			}
			if n := held.Load(); n > 0 {
				t.Errorf("opens %v: %d of %d handlers are held after a minute", opens, n, streams)
			}
		})
	}
}

// TestStreamsOnSlowLine has a client that reads slowly, but goes on, from many
// streams with open windows: each waits for its turn for longer than the
// timeout.
func TestStreamsOnSlowLine(t *testing.T) {
	const streams = 50
	body := strings.Repeat("x", 64<<10)
	inMemory(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, body)
	}, Config{Write: time.Second}, func(t *testing.T, m *wiretest.Memory) {
		c := dialH2(t, m, 1<<20)
		for i := range uint32(streams) {
			c.ask(2*i+1, "GET", false)
		}
		got, start := 0, time.Now()
		for got < streams*len(body) {
			f, err := c.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f.Header().Type.String() == "RST_STREAM" {
				t.Fatalf("%v after %v and %d bytes", f, time.Since(start), got)
			}
			if f.Header().Type.String() == "DATA" {
				got += int(f.Header().Length)
				time.Sleep(time.Duration(f.Header().Length) * time.Second / 20_000)
			}
		}
		if took := time.Since(start); took < 20*time.Second {
			t.Errorf("took only %v", took)
		}
	})
}
