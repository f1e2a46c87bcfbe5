package flood

import (
	"encoding/binary"
	"fmt"
	"math"

	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tcplab/netns"
)

func TestWhatIsAskedBeyondTheBoundsIsRefused(t *testing.T) {
	good := Config{To: []string{"10.77.1.2:80"}, Rate: 2000, Packets: 100, For: time.Second}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		with func(*Config)
		says string
	}{
		{"rate", func(c *Config) { c.Rate = MaxRate + 1 }, "20000/s"},
		{"no rate", func(c *Config) { c.Rate = 0 }, "1/s"},
		{"not a rate", func(c *Config) { c.Rate = math.NaN() }, "1/s"},
		{"endless rate", func(c *Config) { c.Rate = math.Inf(1) }, "20000/s"},
		{"time", func(c *Config) { c.For = MaxFor + 1 }, "20s"},
		{"time backwards", func(c *Config) { c.For = -time.Second }, "20s"},
		{"packets", func(c *Config) { c.Packets = MaxPackets + 1 }, "400000"},
		{"no packets", func(c *Config) { c.Packets = 0 }, "400000"},
		{"sources", func(c *Config) { c.Sources = MaxSources + 1 }, "1000"},
		{"nobody", func(c *Config) { c.To = nil }, "server"},
	} {
		c := good
		tt.with(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// Whatever it is asked for, and however late or early it is woken: the bounds
// hold, and what is sent is sent near its time.
func TestNoAskingAndNoLatenessBreaksTheBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPace(Config{
			Rate: rapid.OneOf(rapid.Float64Range(0.1, 3*MaxRate), rapid.Float64()).Draw(t, "rate"),
			For:  time.Duration(rapid.Int64Range(-1e9, 60e9).Draw(t, "for")), Packets: rapid.IntRange(-1, 3*MaxPackets).Draw(t, "packets"),
		})
		type burst struct {
			at time.Duration
			n  int64
		}
		var bursts []burst
		next, sent, left := int64(0), int64(0), int64(0)
		elapsed := time.Duration(rapid.Int64Range(0, 30e9).Draw(t, "first"))
		for range rapid.IntRange(1, 200).Draw(t, "wakes") {
			from, to, skipped, over := p.due(elapsed, next)
			left += skipped
			if over {
				if to != from {
					t.Fatalf("over, and %d are due", to-from)
				}
				break
			}
			if from < next || to < from {
				t.Fatalf("at %v [%d, %d) after %d", elapsed, from, to, next)
			}
			for _, n := range []int64{from, to - 1} {
				if late := elapsed - p.at(n); to > from && (late > stale+time.Microsecond || late < -tick) {
					t.Fatalf("SYN %d is sent %v after its time", n, late)
				}
			}
			if to > from && elapsed >= MaxFor {
				t.Fatalf("sent at %v", elapsed)
			}
			bursts = append(bursts, burst{elapsed, to - from})
			sent, next = sent+to-from, to
			wake := p.wake(elapsed, next)
			if wake <= elapsed && wake < p.length {
				t.Fatalf("at %v it wants to be woken at %v: it would spin", elapsed, wake)
			}
			elapsed = wake + time.Duration(rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 1e6), rapid.Int64Range(0, 2e9)).Draw(t, "late"))
		}
		if sent > MaxPackets || sent > p.packets {
			t.Fatalf("%d sent of %d", sent, p.packets)
		}
		for i := range bursts {
			n := int64(0)
			for _, b := range bursts[i:] {
				n += b.n
				span := b.at - bursts[i].at
				// A tick at either end is counted whole.
				if most := float64(MaxRate) * (span + 2*tick).Seconds(); float64(n) > most {
					t.Fatalf("%d SYNs within %v, more than %.0f", n, span, most)
				}
			}
		}
	})
}

// What a pause of the machine's has held up is sent after it, no faster than
// any flood may be, and what is too old is not.
func TestAPauseIsMadeUpForWithinTheBounds(t *testing.T) {
	p := newPace(Config{Rate: 2000, Packets: 40_000, For: 20 * time.Second})
	sent, left, next := int64(0), int64(0), int64(0)
	for elapsed := time.Duration(0); ; elapsed = p.wake(elapsed, next) {
		switch elapsed {
		case 3 * time.Second:
			elapsed += 700 * time.Millisecond
		case 9 * time.Second:
			elapsed += 1500 * time.Millisecond
		}
		from, to, skipped, over := p.due(elapsed, next)
		left += skipped
		if over {
			break
		}
		sent, next = sent+to-from, to
	}
	// 0.5 s of the second pause are too old, less the tick that had been sent.
	if sent+left != 40_000 || left < 980 || left > 1000 {
		t.Errorf("%d sent, %d left out", sent, left)
	}
}

// A sender that is woken in time sends each SYN, and no more wake-ups than
// SYNs or ticks.
func TestAPunctualFloodIsWhole(t *testing.T) {
	for _, c := range []Config{
		{Rate: 2000, Packets: 40_000, For: 20 * time.Second}, {Rate: 20_000, Packets: 400_000, For: 20 * time.Second},
		{Rate: 1, Packets: 20, For: 20 * time.Second}, {Rate: 333, Packets: 1000, For: 3500 * time.Millisecond}, {Rate: 7, Packets: 3, For: 20 * time.Second},
	} {
		p := newPace(c)
		sent, wakes, next := int64(0), int64(0), int64(0)
		for elapsed := time.Duration(0); ; elapsed = p.wake(elapsed, next) {
			from, to, skipped, over := p.due(elapsed, next)
			if skipped > 0 {
				t.Fatalf("%+v: %d left out", c, skipped)
			}
			if over {
				break
			}
			wakes++
			sent, next = sent+to-from, to
		}
		want := min(int64(c.Packets), int64(math.Ceil(c.Rate*c.For.Seconds())))
		if sent != want || wakes > min(want, int64(c.For/tick))+1 {
			t.Errorf("%+v: %d sent in %d turns, not %d", c, sent, wakes, want)
		}
	}
}

func TestEachSYNIsOneOfItsOwnFromALabAddress(t *testing.T) {
	a, b := netns.LinkMACs("dark")
	to := []netip.AddrPort{netip.MustParseAddrPort("10.77.1.2:7"), netip.MustParseAddrPort("10.77.1.2:5001")}
	s := newSegments(a, b, to, netns.SpoofedSources, 1000, 7)
	seen := map[string]bool{}
	ports := map[uint16]int{}
	const n = 50_000
	for i := range int64(n) {
		f := s.syn(i, time.Duration(i)*time.Millisecond)
		if string(f[:6]) != string(b) || string(f[6:12]) != string(a) || len(f) != frameLength {
			t.Fatalf("frame %d: % x", i, f[:14])
		}
		ip, tcp := f[14:34], f[34:]
		if fold(sum(ip)) != 0 {
			t.Fatalf("frame %d: the IP checksum does not add up", i)
		}
		if fold(sum(ip[12:20])+6+uint32(len(tcp))+sum(tcp)) != 0 {
			t.Fatalf("frame %d: the TCP checksum does not add up", i)
		}
		src, _ := netip.AddrFromSlice(ip[12:16])
		if !netns.SpoofedSources.Contains(src) || src == netns.SpoofedSources.Addr() {
			t.Fatalf("frame %d comes from %v", i, src)
		}
		id := fmt.Sprintf("% x", append(append([]byte(nil), ip[12:20]...), tcp[:4]...))
		if seen[id] {
			t.Fatalf("frame %d has the addresses and ports of an earlier one", i)
		}
		seen[id] = true
		ports[binary.BigEndian.Uint16(tcp[2:])]++
		if tcp[13] != 2 {
			t.Fatalf("frame %d is no SYN", i)
		}
	}
	if ports[7] != n/2 || ports[5001] != n/2 {
		t.Errorf("targets take turns: %v", ports)
	}
}

func TestAnAddressOutsideOfTheLabIsNoTarget(t *testing.T) {
	for _, bad := range []string{"8.8.8.8:80", "127.0.0.1:80", "0.0.0.0:80", "255.255.255.255:80", "10.76.255.255:80", "10.78.0.0:80", "10.77.252.1:80", "10.77.255.255:80",
		"224.0.0.1:80", "[::1]:80", "[::ffff:10.77.1.2]:80", "10.77.1.2:0", "10.77.1.2", "", "server", "10.77.1.2:80 ", "10.77.1.2%eth0:80"} {
		if got, err := targets([]string{"10.77.1.2:80", bad}); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
	if _, err := targets([]string{"10.77.1.2:80", "10.77.250.1:65535"}); err != nil {
		t.Error(err)
	}
}
