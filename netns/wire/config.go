package wire

import (
	"fmt"
	"math"
	"time"
)

// Towards names a direction of a link by the end its frames travel to.
type Towards string

const (
	// Both directions. The zero value.
	Both Towards = ""
	// TowardsA are the frames that enter at port B and leave at port A.
	TowardsA Towards = "a"
	// TowardsB are the frames that enter at port A and leave at port B.
	TowardsB Towards = "b"
)

// Fates says what a random fate is a function of.
type Fates string

const (
	// ByByte draws a frame's fate from its place in its flow: the direction,
	// the flow's ordinal towards its destination, the offset of the first
	// payload byte from the ISN and the number of earlier segments that
	// covered that byte. The zero value means ByByte too.
	ByByte Fates = "by-byte"
	// ByTime draws from the link's time in slots of 1 ms and the frame's
	// count within its slot: arms whose flows differ meet the same channel.
	ByTime Fates = "by-time"
	// Unpaired draws from one sequence for each direction, in order of arrival.
	Unpaired Fates = "unpaired"
)

// Config is a link's wire. The zero value is a perfect cable: no delay, no
// loss, no limit. It travels to the process that runs the wire as JSON, in
// which durations are integers of nanoseconds (names end in _ns), rates are
// bit/s and sizes bytes.
type Config struct {
	// Link is the link's name. Two links with one seed have different fates.
	Link string `json:"link,omitempty"`
	// Seed is where every random fate of the trial comes from.
	Seed     uint64    `json:"seed,omitempty"`
	Fates    Fates     `json:"fates,omitempty"`
	TowardsA Direction `json:"towards_a,omitzero"`
	TowardsB Direction `json:"towards_b,omitzero"`
	// Faults are changes known before the start; more can be added with
	// Wire.Do while it runs.
	Faults []Fault `json:"faults,omitempty"`
	// MaxFrames bounds the frames on the wire in both directions together.
	// Zero means 32,768 (64 MiB at an MTU of 1,500, touched only when used).
	MaxFrames int `json:"max_frames,omitempty"`
	// NoWatch keeps the wire from watching the clock shortly before a
	// departure: less punctual, but right where time stands still in a busy
	// loop (a guest on the virtual clock).
	NoWatch bool `json:"no_watch,omitempty"`
	// Normal leaves the wire's thread under the normal scheduling policy
	// instead of the lowest real-time one, where that is allowed.
	Normal bool `json:"normal,omitempty"`
	// Release is what lets frames go at their time. The zero value takes fq
	// where the kernel has it.
	Release Release `json:"release,omitempty"`
}

// Release is what lets frames go at their time.
type Release string

const (
	// AutoRelease is FQ where the kernel has it, Timerfd elsewhere. The zero
	// value means it too.
	AutoRelease Release = "auto"
	// FQ hands a frame over as soon as it is decided, with its departure as
	// SO_TXTIME, to the kernel's fq on the port.
	FQ Release = "fq"
	// Timerfd keeps frames until a timer goes off.
	Timerfd Release = "timerfd"
)

// Symmetric is a wire that does the same in both directions.
func Symmetric(d Direction) Config { return Config{TowardsA: d, TowardsB: d} }

// Direction is what happens to the frames that travel one way. A frame passes
// in this order: blackhole, MTU, drops and holds by match, queue and rate,
// loss, then delay with jitter, reordering, duplication and corruption. Loss
// is the medium's, past the queue: a lost frame has used the rate.
type Direction struct {
	// Delay is added to every frame, after its last bit was serialized.
	Delay time.Duration `json:"delay_ns,omitempty"`
	// Jitter is the scale of a random part of the delay: half of the range
	// for Uniform, one standard deviation for the others. A delay never falls
	// below zero, and jitter keeps the order of frames unless
	// Reorder.ByJitter.
	Jitter     time.Duration `json:"jitter_ns,omitempty"`
	JitterDist JitterDist    `json:"jitter_dist,omitempty"`
	// Rate in bit/s; zero is unlimited. The bytes counted are those of the
	// Ethernet frame, header included, without preamble, FCS and gap: what
	// the kernel's qdiscs count.
	Rate  int64 `json:"rate,omitempty"`
	Queue Queue `json:"queue,omitzero"`

	Loss    Loss    `json:"loss,omitzero"`
	Reorder Reorder `json:"reorder,omitzero"`
	// Duplicate is the chance that a second copy leaves right behind a frame.
	Duplicate float64 `json:"duplicate,omitempty"`
	// Corrupt is the chance that one bit beyond the Ethernet header is
	// flipped, after checksums were filled in.
	Corrupt float64 `json:"corrupt,omitempty"`
	// MTU in bytes of the packet without its Ethernet header; zero is
	// unlimited. Larger packets vanish without ICMP.
	MTU       int       `json:"mtu,omitempty"`
	Blackhole Blackhole `json:"blackhole,omitempty"`
}

// JitterDist is the shape of jitter.
type JitterDist string

const (
	// Uniform between -Jitter and +Jitter. The zero value means Uniform too.
	Uniform JitterDist = "uniform"
	// Normal with a standard deviation of Jitter, cut at four.
	Normal JitterDist = "normal"
	// Pareto of shape 3 with a standard deviation of Jitter, cut at four
	// (which leaves 0.75): mostly a little early, now and then very late.
	Pareto JitterDist = "pareto"
)

// Queue bounds what waits in front of a rate: tail drop once a frame would
// exceed it. At most one of the two is set; neither means unbounded. What
// waits includes the rest of the frame being sent; a frame that finds the line
// idle always passes.
type Queue struct {
	Bytes int64 `json:"bytes,omitempty"`
	// Time stands for Rate × Time bytes.
	Time time.Duration `json:"time_ns,omitempty"`
}

// Loss is a Bernoulli channel of chance P, or a Gilbert–Elliott channel if
// that has a P; not both.
type Loss struct {
	P              float64        `json:"p,omitempty"`
	GilbertElliott GilbertElliott `json:"gilbert_elliott,omitzero"`
}

// GilbertElliott is a channel with a good and a bad state (Gilbert 1960,
// Elliott 1963), in the notation of tc-netem(8). What takes a step of the
// chain depends on the fates: each frame of the direction (unpaired), each
// millisecond of link time (by-time), or each 1,448 bytes of a flow's stream
// and each frame without payload (by-byte). It starts in its stationary state.
type GilbertElliott struct {
	// P is the chance of a step from good to bad.
	P float64 `json:"p,omitempty"`
	// R is the chance of a step from bad to good.
	R float64 `json:"r,omitempty"`
	// H is the chance of delivery in the bad state; zero loses everything.
	H float64 `json:"h,omitempty"`
	// K is the chance of delivery in the good state. Zero stands for one: a
	// good state that delivers nothing is nobody's channel.
	K float64 `json:"k,omitempty"`
}

// deliverGood is K with its zero value resolved.
func (g GilbertElliott) deliverGood() float64 {
	if g.K == 0 {
		return 1
	}
	return g.K
}

// MeanLoss is the share of frames the channel loses in the long run.
func (l Loss) MeanLoss() float64 {
	g := l.GilbertElliott
	if g.P == 0 {
		return l.P
	}
	bad := g.P / (g.P + g.R)
	return bad*(1-g.H) + (1-bad)*(1-g.deliverGood())
}

// Reorder moves single frames out of their order, with chance P.
type Reorder struct {
	P float64 `json:"p,omitempty"`
	// Extra holds such a frame back, so that those behind it overtake. Zero
	// does as netem does: the frame skips delay and jitter and overtakes.
	Extra time.Duration `json:"extra_ns,omitempty"`
	// ByJitter lets jitter reorder frames by itself.
	ByJitter bool `json:"by_jitter,omitempty"`
}

// Blackhole swallows a direction.
type Blackhole string

const (
	// NoBlackhole lets everything pass. The zero value.
	NoBlackhole Blackhole = ""
	// PassARP swallows all but ARP. Without ARP a neighbour entry fails, and
	// EHOSTUNREACH resets TCP's backoff (RFC 6069): an experiment of its own.
	PassARP Blackhole = "pass-arp"
	// SwallowAll swallows ARP too.
	SwallowAll Blackhole = "all"
)

// random reports whether anything in d is drawn.
func (d Direction) random() bool {
	return d.Loss.P > 0 || d.Loss.GilbertElliott.P > 0 || d.Jitter > 0 ||
		d.Reorder.P > 0 || d.Duplicate > 0 || d.Corrupt > 0
}

const (
	maxDelay       = 24 * time.Hour
	minRate        = 1000 // bit/s: a full frame takes 12 s
	maxRate        = 1e12
	maxFramesLimit = 1 << 22
	defaultFrames  = 1 << 15
)

// Validate says in one line what is wrong with c and what to write instead.
func (c Config) Validate() error {
	switch c.Fates {
	case "", ByByte, ByTime, Unpaired:
	default:
		return fmt.Errorf("wire: fates %q: write by-byte, by-time or unpaired", c.Fates)
	}
	if c.MaxFrames < 0 || c.MaxFrames > maxFramesLimit {
		return fmt.Errorf("wire: max_frames %d: write 1 to %d, or 0 for %d", c.MaxFrames, maxFramesLimit, defaultFrames)
	}
	switch c.Release {
	case "", AutoRelease, FQ, Timerfd:
	default:
		return fmt.Errorf("wire: release %q: write auto, fq or timerfd", c.Release)
	}
	for i, d := range []Direction{c.TowardsA, c.TowardsB} {
		if err := d.validate(c.Fates); err != nil {
			return fmt.Errorf("wire: towards %c: %w", "ab"[i], err)
		}
	}
	for i, f := range c.Faults {
		if err := f.validate(); err != nil {
			return fmt.Errorf("wire: fault %d %q: %w", i, f.Name, err)
		}
		for j, d := range []Direction{c.TowardsA, c.TowardsB} {
			if f.Set == nil {
				continue
			}
			if err := f.Set.apply(d).validate(c.Fates); err != nil {
				return fmt.Errorf("wire: fault %d %q: towards %c: %w", i, f.Name, "ab"[j], err)
			}
		}
	}
	return nil
}

func (d Direction) validate(fates Fates) error {
	for _, v := range []struct {
		name string
		d    time.Duration
	}{{"delay", d.Delay}, {"jitter", d.Jitter}, {"queue time", d.Queue.Time}, {"reorder extra", d.Reorder.Extra}} {
		if v.d < 0 || v.d > maxDelay {
			return fmt.Errorf("%s %v: write 0 to %v", v.name, v.d, maxDelay)
		}
	}
	g := d.Loss.GilbertElliott
	for _, v := range []struct {
		name string
		p    float64
	}{{"loss", d.Loss.P}, {"Gilbert–Elliott p", g.P}, {"Gilbert–Elliott r", g.R}, {"Gilbert–Elliott h", g.H},
		{"Gilbert–Elliott k", g.K}, {"reorder", d.Reorder.P}, {"duplicate", d.Duplicate}, {"corrupt", d.Corrupt}} {
		if !(v.p >= 0 && v.p <= 1) { // also NaN
			return fmt.Errorf("%s %v: a chance is between 0 and 1", v.name, v.p)
		}
	}
	switch d.JitterDist {
	case "", Uniform, Normal, Pareto:
	default:
		return fmt.Errorf("jitter distribution %q: write uniform, normal or pareto", d.JitterDist)
	}
	if d.Rate != 0 && (d.Rate < minRate || d.Rate > maxRate) {
		return fmt.Errorf("rate %d bit/s: write %d to %.0f, or 0 for no limit", d.Rate, minRate, maxRate)
	}
	if d.Queue.Bytes < 0 || d.Queue.Bytes > math.MaxInt32 {
		return fmt.Errorf("queue of %d bytes: write 1 to %d, or 0 for no limit", d.Queue.Bytes, math.MaxInt32)
	}
	if d.Queue.Bytes > 0 && d.Queue.Time > 0 {
		return fmt.Errorf("queue of %d bytes and %v: give one of the two", d.Queue.Bytes, d.Queue.Time)
	}
	if d.Queue != (Queue{}) && d.Rate == 0 {
		return fmt.Errorf("a queue needs a rate: nothing waits in front of an unlimited line")
	}
	if d.Loss.P > 0 && g != (GilbertElliott{}) {
		return fmt.Errorf("loss has a chance and a Gilbert–Elliott channel: give one of the two")
	}
	if g != (GilbertElliott{}) && (g.P == 0 || g.R == 0) {
		return fmt.Errorf("a Gilbert–Elliott channel needs p and r above 0: it has to enter the bad state and to leave it")
	}
	// The state at a point of the chain is found by looking back some
	// 1/(p+r) steps; this bounds what a frame may cost.
	if g.P > 0 && g.P+g.R < 1.0/4096 {
		return fmt.Errorf("Gilbert–Elliott p + r = %v: write 1/4096 or more in all", g.P+g.R)
	}
	if d.Reorder.P > 0 && d.Reorder.Extra == 0 && d.Delay == 0 {
		return fmt.Errorf("reorder without extra skips the delay, and there is none: give a delay or extra")
	}
	if d.MTU < 0 || d.MTU > 65535 || d.MTU > 0 && d.MTU < 68 {
		return fmt.Errorf("mtu %d: write 68 (RFC 791) to 65535, or 0 for no limit", d.MTU)
	}
	switch d.Blackhole {
	case NoBlackhole, PassARP, SwallowAll:
	default:
		return fmt.Errorf("blackhole %q: write pass-arp or all", d.Blackhole)
	}
	return nil
}
