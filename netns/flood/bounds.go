package flood

import (
	"fmt"
	"time"
)

// The bounds of every flood, whatever it is asked for.
const (
	MaxRate    = 20_000 // SYNs a second
	MaxFor     = 20 * time.Second
	MaxPackets = 400_000 // MaxRate for MaxFor
	MaxSources = 1000    // of netns.SpoofedSources
)

// Config is what a flood is asked for. It names no interface and no hardware
// address: the kernel is asked for those.
type Config struct {
	// To are the servers, IPv4 address:port, taken in turn.
	To      []string
	Rate    float64 // SYNs a second, over all of To
	Sources int     // source addresses; 0: 1
	Packets int
	For     time.Duration
	Seed    uint64 // of ports and sequence numbers
}

// Check says in one line what is wrong and what to write instead.
func (c Config) Check() error {
	switch {
	case len(c.To) == 0:
		return fmt.Errorf("flood: nobody to send to: write the name of a server of the run")
	case !(c.Rate > 0) || c.Rate > MaxRate:
		return fmt.Errorf("flood: a rate of %g SYNs a second: write 1/s to %d/s, the most that a flood may have", c.Rate, MaxRate)
	case c.For <= 0 || c.For > MaxFor:
		return fmt.Errorf("flood: it lasts %v: write a time up to %v, the longest that a flood may take", c.For, MaxFor)
	case c.Packets < 1 || c.Packets > MaxPackets:
		return fmt.Errorf("flood: %d packets: write 1 to %d", c.Packets, MaxPackets)
	case c.Sources < 0 || c.Sources > MaxSources:
		return fmt.Errorf("flood: %d source addresses: write 1 to %d", c.Sources, MaxSources)
	}
	return nil
}

const (
	// tick is how often the sender wakes up at most. A wake-up is what costs on
	// a virtual clock, and SYNs some milliseconds apart are a flood as well.
	tick = 5 * time.Millisecond

	// perTick is what one tick may send, so that making up for a pause of the
	// machine's own is no burst above MaxRate.
	perTick = int64(MaxRate * tick / time.Second)

	// stale is how late a SYN may be and still be sent: beyond, it is left out.
	stale = time.Second
)

// pace says when which SYN is due: arithmetic, without a clock. It holds the
// bounds whatever it was given.
type pace struct {
	rate    float64
	length  time.Duration
	packets int64
}

func newPace(c Config) pace {
	p := pace{rate: min(c.Rate, MaxRate), length: min(c.For, MaxFor), packets: min(int64(c.Packets), MaxPackets)}
	if !(p.rate > 0) || p.length < 0 || p.packets < 0 {
		return pace{rate: 1}
	}
	return p
}

// at is when SYN n is due, from 0, after the flood's begin; beyond any flood's
// end it is just that.
func (p pace) at(n int64) time.Duration {
	return time.Duration(min(float64(n)/p.rate*1e9, float64(2*MaxFor)))
}

// due are the SYNs [from, to) that are to be sent now, elapsed after the
// begin, when next is the first that neither was sent nor left out: those of
// the tick that has begun. skipped are those before from that have become
// stale. It is over when nothing is due any more.
func (p pace) due(elapsed time.Duration, next int64) (from, to, skipped int64, over bool) {
	end := p.first(p.length)
	end = min(end, p.packets)
	if elapsed >= p.length || next >= end {
		return next, next, max(0, end-next), true
	}
	from = max(next, min(p.first(elapsed-stale), end))
	to = max(from, min(p.first(ended(elapsed)), end, from+perTick))
	return from, to, from - next, false
}

// first is the first SYN that is due at d or later.
func (p pace) first(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	d = min(d, MaxFor+tick)
	n := int64(float64(d) / 1e9 * p.rate)
	for n > 0 && p.at(n-1) >= d {
		n--
	}
	for p.at(n) < d {
		n++
	}
	return n
}

// ended is when the tick is over that d lies in.
func ended(d time.Duration) time.Duration { return (d/tick + 1) * tick }

// wake is when to look again: at the beginning of the tick in which the next
// SYN is due, and never after the end.
func (p pace) wake(elapsed time.Duration, next int64) time.Duration {
	return min(max(p.at(next)/tick*tick, ended(elapsed)), p.length)
}
