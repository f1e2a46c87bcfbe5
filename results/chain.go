package results

import "math"

// ChainKind is the timer that sends a chain's packets.
type ChainKind string

const (
	ChainRTO       ChainKind = "retransmission" // data or a FIN, again and again
	ChainSYN       ChainKind = "SYN"            // a SYN or SYN-ACK
	ChainKeepalive ChainKind = "keepalive"
	ChainWindow    ChainKind = "window probe"
)

// RTOMax is TCP_RTO_MAX (include/net/tcp.h), s: no backoff goes beyond it,
// unless tcp_rto_max_ms says so.
const RTOMax = 120.0

// A Chain is what one host's TCP sent into a silence: packets that a timer
// sent, with no answer in between.
type Chain struct {
	Kind  ChainKind `json:"kind"`
	Flow  string    `json:"flow"` // "10.77.0.1:40000>10.77.0.2:80": who sends first
	Host  string    `json:"host"`
	Peer  string    `json:"peer"`
	Fault string    `json:"fault,omitempty"` // the last one before it
	Since float64   `json:"since"`           // of the fault, or of the last packet before the silence where there is none: s since go
	From  float64   `json:"from"`            // what the first gap counts from: s since go
	HZ    int       `json:"hz,omitempty"`    // of the kernel; 0: unknown, then nothing is predicted
	// First is the nominal delay that the prediction begins with, s: the RTO,
	// or the keepalive time. 0: nothing is predicted.
	First float64     `json:"first,omitempty"`
	Next  float64     `json:"next,omitempty"` // keepalive: the interval
	Limit float64     `json:"limit"`          // the longest timeout
	Steps []ChainStep `json:"steps"`
	End   string      `json:"end,omitempty"` // what ended the silence, in words
}

// A ChainStep is one packet of a chain, s.
type ChainStep struct {
	At      float64 `json:"at"`                // since go
	Gap     float64 `json:"gap,omitempty"`     // since the step before; 0: not known
	Nominal float64 `json:"nominal,omitempty"` // the timer's delay; 0: nothing is predicted
	Latest  float64 `json:"latest,omitempty"`  // nominal + a granule of the timer wheel
	Probe   bool    `json:"probe,omitempty"`   // a tail loss probe (RFC 8985 7), no timeout
	Frame   int     `json:"frame,omitempty"`   // number in the capture file
}

// Beyond says that a step came outside of [nominal, latest]. A tick on either
// side is the clock's edge, not the timer's.
func (c *Chain) Beyond(i int) bool {
	s := c.Steps[i]
	if s.Nominal == 0 || c.HZ == 0 || s.Probe {
		return false // when a probe is due is not the backoff's
	}
	tick := 1 / float64(c.HZ)
	return s.Gap < s.Nominal-tick || s.Gap > s.Latest+tick
}

// Timeouts counts the steps that a timeout sent, tail loss probes apart, and
// those of them that are beyond what was predicted.
func (c *Chain) Timeouts() (steps, beyond int) {
	for i, s := range c.Steps {
		if !s.Probe {
			steps++
		}
		if c.Beyond(i) {
			beyond++
		}
	}
	return steps, beyond
}

// Predict computes the chain from its first delay, which is none of the
// sheet's numbers: TCP measured it. Of the whole ticks that the first gap
// leaves open, that one is taken which explains most steps (inet_csk_rto is in
// ticks); every further gap doubles it, up to limit (tcp_retransmit_timer). hz
// is the kernel's; 0 leaves the chain without a prediction.
func (c *Chain) Predict(hz int, limit float64) {
	c.HZ, c.Limit = hz, limit
	c.markProbe()
	if hz <= 0 {
		return
	}
	first := c.firstTimeout()
	if first < 0 {
		return
	}
	gap, tick := c.Steps[first].Gap, 1/float64(hz)
	best, least, off := 0.0, len(c.Steps)+1, 0.0
	hi := math.Floor(gap/tick + 1.5)
	lo := math.Ceil((gap-granule(gap, hz))/tick - 2.5)
	for n := hi; n >= max(lo, 1); n-- {
		c.lay(first, n*tick)
		if _, beyond := c.Timeouts(); beyond < least || beyond == least && c.off() < off {
			best, least, off = n*tick, beyond, c.off()
		}
	}
	c.First = best
	c.lay(first, best)
}

// off adds up by how much steps miss their prediction, s. A timer that is set
// where another fires is at least a tick late: its bucket is the next one
// (calc_index).
func (c *Chain) off() float64 {
	sum, tick := 0.0, 1/float64(c.HZ)
	for i, s := range c.Steps {
		if s.Nominal == 0 || s.Probe {
			continue
		}
		least := s.Nominal
		if i > 0 {
			least += tick / 2
		}
		sum += max(0, least-s.Gap, s.Gap-s.Latest)
	}
	return sum
}

// granule reckons with a wheel whose own clock is a tick behind when the timer
// is set (forward_timer_base).
func granule(delay float64, hz int) float64 { return WheelGranule(delay+1/float64(hz), hz) }

// firstTimeout is the first step with a known gap that is no probe; −1 when
// there is none.
func (c *Chain) firstTimeout() int {
	for i, s := range c.Steps {
		if !s.Probe && s.Gap > 0 {
			return i
		}
	}
	return -1
}

// lay writes the prediction that begins with rto at step first.
func (c *Chain) lay(first int, rto float64) {
	for i := range c.Steps {
		c.Steps[i].Nominal, c.Steps[i].Latest = 0, 0
	}
	if s := &c.Steps[0]; first == 1 && s.Probe && s.Gap >= rto-1/float64(c.HZ) && s.Gap <= rto+granule(rto, c.HZ) {
		s.Nominal, s.Latest = rto, rto+granule(rto, c.HZ)
	}
	for i := first; i < len(c.Steps); i++ {
		n := min(rto*math.Pow(2, float64(i-first)), c.Limit)
		c.Steps[i].Nominal, c.Steps[i].Latest = n, n+granule(n, c.HZ)
	}
}

// markProbe finds a tail loss probe at the chain's head. Where one segment is
// in flight, Linux sends it when the RTO would be due (tcp_schedule_loss_probe
// takes the earlier of both), and the RTO starts anew from there: two equal
// gaps. Where more are in flight it comes after two round trips, far earlier.
// A chain that grows from its first step has none.
func (c *Chain) markProbe() {
	if c.Kind != ChainRTO || len(c.Steps) < 2 || c.Steps[0].Gap <= 0 || c.Steps[0].Probe {
		return
	}
	a, b := c.Steps[0].Gap, c.Steps[1].Gap
	switch {
	case c.sameAsFirst():
		c.Steps[0].Probe = true
	case len(c.Steps) > 2 && b > 0 && math.Abs(math.Log2(c.Steps[2].Gap/b)-1) < 0.3 && math.Abs(math.Log2(b/a)-1) > 0.3:
		c.Steps[0].Probe = true
	}
}

// sameAsFirst says that the first two gaps are equal, within what the timer
// wheel adds, and below the limit of the backoff.
func (c *Chain) sameAsFirst() bool {
	a, b := c.Steps[0].Gap, c.Steps[1].Gap
	return b > 0 && b < 1.4*a && b > 0.7*a && (c.Limit == 0 || b < 0.9*c.Limit)
}

// PredictKeepalive computes a keepalive chain: the first probe after idle
// seconds without a packet from the peer, the others after interval each
// (tcp_keepalive_timer).
func (c *Chain) PredictKeepalive(hz int, idle, interval float64) {
	c.HZ, c.First, c.Next, c.Limit = hz, idle, interval, max(idle, interval)
	if hz <= 0 {
		return
	}
	for i := range c.Steps {
		s := &c.Steps[i]
		if s.Nominal, s.Latest = interval, 0; i == 0 {
			s.Nominal = idle
		}
		if s.Gap == 0 || s.Nominal == 0 {
			s.Nominal = 0
			continue
		}
		s.Latest = s.Nominal + granule(s.Nominal, hz)
	}
}

// Longest is the chain of a kind at a host with the most steps, the first of
// several.
func Longest(cs []Chain, kind ChainKind, host string) (Chain, bool) {
	best := -1
	for i, c := range cs {
		if c.Kind == kind && c.Host == host && (best < 0 || len(c.Steps) > len(cs[best].Steps)) {
			best = i
		}
	}
	if best < 0 {
		return Chain{}, false
	}
	return cs[best], true
}

// ChainMetrics are the values of a host's longest retransmission and keepalive
// chains, by metric. What is not known is absent.
func ChainMetrics(cs []Chain, host string) map[string]float64 {
	m := map[string]float64{}
	if c, ok := Longest(cs, ChainRTO, host); ok {
		steps, beyond := c.Timeouts()
		m["rto.steps"] = float64(steps)
		last := c.Steps[len(c.Steps)-1]
		m["rto.last.gap"] = last.Gap
		m["rto.time"] = last.At - c.From
		if i := c.firstTimeout(); i >= 0 {
			m["rto.first"] = c.Steps[i].Gap
		}
		if c.First > 0 {
			m["rto.beyond"] = float64(beyond)
		}
	}
	if c, ok := Longest(cs, ChainKeepalive, host); ok {
		steps, beyond := c.Timeouts()
		m["keepalive.steps"] = float64(steps)
		m["keepalive.first"] = c.Steps[0].Gap
		if c.First > 0 && c.HZ > 0 {
			m["keepalive.beyond"] = float64(beyond)
		}
	}
	return m
}
