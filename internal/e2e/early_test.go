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
	"testing"
	"time"

	"lastcall/stoptest/line"
)

// TestEarlyAnswerOverLongLine stops a server that answers uploads before it has
// read them: the answer arrives, although the client is still sending (RFC
// 9112 section 9.6). The half second that net/http waits for such a client is
// enough over the line of 100 ms round trip, but not over that of 400 ms.
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
				for client := range Few(20) {
					asked.Add(1)
					all.Go(func() {
						if err := upload(t.Context(), over, port, asked.Done); err != nil {
							t.Errorf("client %d: %v", client, err)
						}
					})
				}
				asked.Wait()
				time.Sleep(rand.N(5 * delay)) // a stop may come at any moment
				p.stopCleanly(t)
				all.Wait()
			}
		}
		t.Run("library/"+delay.String(), func(t *testing.T) {
			t.Parallel()
			LongOnly(t) // the binary has it, too
			early(t, func(ip string) *Process { return Launch(t, over.Server, As("early", ip+":0")) })
		})
		t.Run("proxy/"+delay.String(), func(t *testing.T) {
			t.Parallel()
			program := Launch(t, over.Server, As("early", "127.0.0.1:0"))
			early(t, func(ip string) *Process {
				return Launch(t, over.Server, Lastcall("-listen", ip+":0", "-proxy", "http://"+program.Addr))
			})
		})
	}
}

// upload sends until the server closes the connection, and returns an error if the
// answer is not complete. It calls asked when the header has been sent.
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
			time.Sleep(pause(5*time.Millisecond, 20*time.Millisecond))
		}
	}()
	defer func() { nc.Close(); <-sent }()
	time.Sleep(300 * time.Millisecond) // a reset that comes meanwhile would delete the answer
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(res.Body)
	if err != nil || string(b) != earlyAnswer() {
		return fmt.Errorf("answer of %d bytes, %v, want the %d that were sent", len(b), err, len(earlyAnswer()))
	}
	return nil
}
