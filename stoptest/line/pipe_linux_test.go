package line

import (
	"errors"
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

type arrival struct {
	packet byte
	at     time.Duration
}

// run sends packets at the given moments, and returns the arrivals, at the
// moments at which pop has them.
func run(cfg Config, at ...time.Duration) ([]arrival, Direction) {
	p := newPipe(cfg, 0)
	var got []arrival
	start := time.Unix(0, 0)
	for i := 0; i < len(at) || p.n > 0; {
		due := p.due()
		if i < len(at) && (due.IsZero() || !start.Add(at[i]).After(due)) {
			b := p.buffer()
			b[0] = byte(i)
			p.push(b[:1], start.Add(at[i]))
			i++
			continue
		}
		if b := p.pop(due.Add(-1)); b != nil {
			panic("popped before it was due")
		}
		b := p.pop(due)
		got = append(got, arrival{b[0], due.Sub(start)})
		p.wrote(b, nil)
	}
	return got, p.stats()
}

func TestPipeDelays(t *testing.T) {
	got, count := run(Config{Delay: 50 * ms}, 0, 0, ms, 49*ms, 50*ms, 200*ms)
	want := []arrival{{0, 50 * ms}, {1, 50 * ms}, {2, 51 * ms}, {3, 99 * ms}, {4, 100 * ms}, {5, 250 * ms}}
	if !slices.Equal(got, want) || count != (Direction{Forwarded: 6}) {
		t.Errorf("arrivals = %v, %+v; want %v", got, count, want)
	}
}

func TestPipeJitterKeepsOrder(t *testing.T) {
	var at []time.Duration
	for i := range 200 {
		at = append(at, time.Duration(i)*5*ms)
	}
	got, _ := run(Config{Delay: 50 * ms, Jitter: 20 * ms, Seed: 3}, at...)
	least, most := time.Hour, time.Duration(0)
	for i, a := range got {
		if int(a.packet) != i {
			t.Fatalf("packet %d arrived as number %d", a.packet, i)
		}
		least, most = min(least, a.at-at[i]), max(most, a.at-at[i])
	}
	if len(got) != 200 || least < 30*ms || least > 40*ms || most > 70*ms || most < 60*ms {
		t.Errorf("%d arrived, after %v to %v; want 200, 30 ms to 70 ms", len(got), least, most)
	}
}

func TestPipeLosesTheSameAgain(t *testing.T) {
	at := make([]time.Duration, 200)
	first, count := run(Config{Loss: 0.2, Seed: 7}, at...)
	if count.Lost < 20 || count.Lost > 60 || count.Forwarded != 200-count.Lost || len(first) != count.Forwarded {
		t.Errorf("count = %+v, want some 40 of 200 lost", count)
	}
	if again, _ := run(Config{Loss: 0.2, Seed: 7}, at...); !slices.Equal(first, again) {
		t.Errorf("seed 7 delivered %v, then %v", first, again)
	}
	if other, _ := run(Config{Loss: 0.2, Seed: 8}, at...); slices.Equal(first, other) {
		t.Error("seeds 7 and 8 lost the same packets")
	}
	jittered, _ := run(Config{Delay: 10 * ms, Jitter: 10 * ms, Loss: 0.2, Seed: 7}, at...)
	if len(jittered) != len(first) {
		t.Errorf("with jitter seed 7 delivered %d, want the same %d", len(jittered), len(first))
	}
}

// The pump wakes up when the first packet of either direction is due, and sleeps without
// end if there is none.
func TestPumpSleepsUntilAPacketIsDue(t *testing.T) {
	for _, delays := range [][2]time.Duration{{time.Hour, 2 * time.Hour}, {2 * time.Hour, time.Hour}, {-1, time.Hour}, {time.Hour, -1}} {
		p := &pump{}
		pushed := time.Now()
		for i, delay := range delays {
			p.pipes[i] = newPipe(Config{Delay: delay}, 0)
			if delay > 0 {
				p.pipes[i].push(p.pipes[i].buffer(), pushed)
			}
		}
		ts := p.sleep()
		least := time.Hour - time.Since(pushed)
		if ts == nil || time.Duration(ts.Nano()) > time.Hour || time.Duration(ts.Nano()) < least {
			t.Errorf("delays %v: sleep() = %v, want %v to 1h", delays, ts, least)
		}
	}
	p := &pump{pipes: [2]*pipe{newPipe(Config{}, 0), newPipe(Config{}, 1)}}
	if ts := p.sleep(); ts != nil {
		t.Errorf("without a packet: sleep() = %v, want none", ts)
	}
	p.pipes[1].push(p.pipes[1].buffer(), time.Now().Add(-time.Second))
	if ts := p.sleep(); ts == nil || ts.Nano() != 0 {
		t.Errorf("with a packet that is late: sleep() = %v, want 0", ts)
	}
}

func TestPipeGrows(t *testing.T) {
	at := make([]time.Duration, 5000)
	got, _ := run(Config{Delay: time.Hour}, at...)
	for i, a := range got {
		if a.packet != byte(i) {
			t.Fatalf("arrival %d is packet %d", i, a.packet)
		}
	}
	if len(got) != 5000 {
		t.Errorf("%d arrived, want 5000", len(got))
	}
}

func TestPipeOverflowIsCounted(t *testing.T) {
	p := newPipe(Config{Delay: time.Hour}, 0)
	for range maxQueue + 3 {
		p.push(p.buffer()[:1], time.Now())
	}
	if got, want := p.stats(), (Direction{Overflowed: 3, Waiting: maxQueue}); got != want {
		t.Errorf("stats = %+v, want %+v", got, want)
	}
	p.wrote(p.pop(time.Now().Add(2*time.Hour)), errors.New("the device refused"))
	if got, want := p.stats(), (Direction{Overflowed: 4, Waiting: maxQueue - 1}); got != want {
		t.Errorf("stats = %+v, want %+v", got, want)
	}
}
