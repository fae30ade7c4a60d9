//go:build unix

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"lastcall/stoptest/line"
)

// TestEarlyAnswerOverLongLine stops a server that answers uploads before it has
// read them: the answer arrives, although the client is still sending (RFC
// 9112 section 9.6). Over the shorter line the half second that net/http waits
// would do as well, over the longer one it does not.
func TestEarlyAnswerOverLongLine(t *testing.T) {
	t.Parallel()
	delays := []time.Duration{200 * time.Millisecond}
	if *Long {
		delays = append(delays, 50*time.Millisecond)
	}
	for _, delay := range delays {
		over := LongLine(t, line.Config{Delay: delay})
		early := func(t *testing.T, start func(ip string) *Process) {
			for range *Stops {
				p := start(over.ServerAddr().String())
				port := int(netip.MustParseAddrPort(p.Addr).Port())
				var asked, all sync.WaitGroup
				for client := range 20 {
					asked.Add(1)
					all.Go(func() {
						if err := upload(t.Context(), over, port, asked.Done); err != nil {
							t.Errorf("client %d: %v", client, err)
						}
					})
				}
				asked.Wait()
				time.Sleep(rand.N(5 * delay)) // any moment will do
				p.Signal(t, syscall.SIGTERM)
				if status := p.Wait(t); status != 0 {
					t.Errorf("exit status = %d, want 0:\n%s", status, p.Log())
				}
				all.Wait()
			}
		}
		t.Run("library/"+delay.String(), func(t *testing.T) {
			t.Parallel()
			early(t, func(ip string) *Process { return Launch(t, over.Server, As("untimed", ip+":0")) })
		})
		t.Run("proxy/"+delay.String(), func(t *testing.T) {
			t.Parallel()
			program := Launch(t, over.Server, As("untimed", "127.0.0.1:0"))
			early(t, func(ip string) *Process {
				return Launch(t, over.Server, Lastcall("-listen", ip+":0", "-proxy", "http://"+program.Addr))
			})
		})
	}
}

// upload sends until the server has closed, and returns what is wrong with the
// answer. asked is called when the header has been sent.
func upload(ctx context.Context, over *line.Line, port int, asked func()) error {
	nc, err := over.Dial(ctx, port)
	if err == nil {
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(30 * time.Second))
		_, err = io.WriteString(nc, "POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
	}
	asked()
	if err != nil {
		return err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for piece := make([]byte, 4<<10); ; {
			if _, err := nc.Write(piece); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	defer func() { nc.Close(); <-sent }()
	time.Sleep(300 * time.Millisecond) // does not read yet: what a reset does is to take the answer away
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(res.Body)
	if err != nil || string(b) != earlyAnswer {
		return fmt.Errorf("answer of %d bytes, %v, want the %d that were sent", len(b), err, len(earlyAnswer))
	}
	return nil
}
