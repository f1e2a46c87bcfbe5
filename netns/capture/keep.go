package capture

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Config bounds what a Recorder keeps. The zero value is what the reports of
// this lab need.
type Config struct {
	MaxConnections int           // connections kept from the start; 0 is 200
	MaxPackets     int           // of each, at each tap, besides its close and its repairs; 0 is 64
	WatchMore      int           // further connections, or packets of known ones, from each Watch on; 0 is 50
	Around         time.Duration // kept in full around each Mark, half before and half after; 0 is 1 s
	MaxBytes       int64         // of the file; 0 is 8 MB

	// Spoofed are addresses that no host has: of connections from there, a
	// flood's, only the first few are kept, so that the others have room.
	Spoofed netip.Prefix

	// Names of hosts by address, for the file and the comments.
	Names map[string]string
	// Timers of hosts by name, as far as they are known, for the comments.
	Timers map[string]Timers
	// Changed is called on the recorder's goroutine for each SYN, FIN and RST,
	// and must not block; nil: nobody wants to know.
	Changed func()
}

// Timers are a host's settings that its packets do not tell; 0 is not known.
type Timers struct {
	KeepaliveProbes int
	RTOMax          time.Duration // 0 is TCP_RTO_MAX, 120 s
}

func (c Config) withDefaults() Config {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.MaxConnections, 200)
	def(&c.MaxPackets, 64)
	def(&c.WatchMore, 50)
	if c.Around == 0 {
		c.Around = time.Second
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 8 << 20
	}
	return c
}

const (
	maxRepairs = 256 // retransmissions, closes and the like of a kept connection at one tap
	maxOther   = 500 // ARP, ICMP, UDP … at one tap

	// maxSpoofed are the connections of a flood that are kept.
	maxSpoofed = 20

	// maxMarked bounds what one mark keeps.
	maxMarked = 20_000

	// overhead of a packet in the file besides its bytes: block, flags, and a
	// comment of usual length.
	overhead = 32 + 8 + 4 + 60
)

// keeper decides which packets are kept. It is arithmetic over headers and
// stamps: no clock, no memory of packets.
type keeper struct {
	cfg     Config
	taps    int
	flows   map[flowKey]*flow
	conns   int // connections kept so far, watched ones apart
	spoofed int // and those of a flood
	watches []int64
	gen     int   // watches begun
	genAt   int64 // when the last one did
	slots   int   // connections that it may still take up
	watched int   // connections that all took up
	other   []int // by tap
	marks   []mark
	bytes   int64
	full    int64 // packets that should have been kept, but the file is full
}

type mark struct {
	from, to int64
	kept     int
	cut      int64
}

// flow is a connection of which packets are kept.
type flow struct {
	gen  int
	isn  uint32 // of its SYN; 0 when it was not seen
	syn  bool
	taps []flowTap
}

type flowTap struct {
	left, repairs int
	ord           int64     // packets seen
	sent          [2]uint32 // the highest sequence number after a packet, by direction
	seen          [2]bool
	closing       bool
}

func newKeeper(cfg Config, taps int) *keeper {
	return &keeper{cfg: cfg.withDefaults(), taps: taps, flows: map[flowKey]*flow{}, other: make([]int, taps)}
}

// watch asks for further connections from an instant on.
func (k *keeper) watch(at int64) {
	k.watches = append(k.watches, at)
	slices.Sort(k.watches)
}

// mark asks for everything around an instant. It gives back the mark, to be
// offered what was seen before it was known.
func (k *keeper) mark(at int64, around time.Duration) *mark {
	half := int64(around) / 2
	k.marks = append(k.marks, mark{from: at - half, to: at + half})
	return &k.marks[len(k.marks)-1]
}

// verdict is what the keeper says of a packet.
type verdict struct {
	keep bool
	// ord counts the packets of a kept connection at this tap from 1, kept or
	// not: what was left out shows as a jump. Of a connection of which only
	// marks keep packets, it is minus the mark's number, which is the same
	// for packets between which nothing is missing.
	ord   int64
	again bool // the tap has seen these bytes before
	drop  bool // it is one of a flood's many: no mark brings it back either
}

// keep decides on a packet seen at a tap.
func (k *keeper) keep(tap int, at int64, h *header, caplen int) verdict {
	v := k.wants(tap, at, h)
	for i := range k.marks {
		if m := &k.marks[i]; !v.keep && !v.drop && at >= m.from && at <= m.to {
			if v.keep = m.take(); v.keep && v.ord == 0 {
				v.ord = -int64(i + 1)
			}
		}
	}
	v.keep = v.keep && k.room(caplen)
	return v
}

func (m *mark) take() bool {
	if m.kept == maxMarked {
		m.cut++
		return false
	}
	m.kept++
	return true
}

// room says whether the file has room for the packet, and takes it. Once it
// is full it stays so: the end is missing, not something in between.
func (k *keeper) room(caplen int) bool {
	n := int64(caplen + overhead)
	if k.full > 0 || k.bytes+n > k.cfg.MaxBytes {
		k.full++
		return false
	}
	k.bytes += n
	return true
}

func (k *keeper) wants(tap int, at int64, h *header) verdict {
	if !h.tcp {
		if k.other[tap] == maxOther {
			return verdict{}
		}
		k.other[tap]++
		return verdict{keep: true}
	}
	for len(k.watches) > 0 && at >= k.watches[0] {
		k.gen, k.genAt, k.slots = k.gen+1, k.watches[0], k.cfg.WatchMore
		k.watches = k.watches[1:]
	}
	key := h.key()
	f := k.flows[key]
	opens := h.flags&(flagSYN|flagACK) == flagSYN
	if f != nil && opens && f.syn && f.isn != h.seq {
		// The same ports again: another connection.
		delete(k.flows, key)
		f = nil
	}
	if f == nil {
		switch {
		case k.ofFlood(h):
			if k.spoofed == maxSpoofed {
				return verdict{drop: true}
			}
			k.spoofed++
		case k.conns < k.cfg.MaxConnections:
			k.conns++
		case k.slots > 0 && at >= k.genAt:
			k.slots--
			k.watched++
		default:
			return verdict{}
		}
		f = &flow{gen: k.gen, taps: make([]flowTap, k.taps)}
		for i := range f.taps {
			f.taps[i].left = k.cfg.MaxPackets
		}
		k.flows[key] = f
	}
	if f.gen < k.gen && k.slots > 0 && at >= k.genAt && !k.ofFlood(h) {
		k.slots--
		k.watched++
		f.gen = k.gen
		for i := range f.taps {
			f.taps[i].left, f.taps[i].repairs = k.cfg.MaxPackets, 0
		}
	}
	if opens {
		f.isn, f.syn = h.seq, true
	}
	return f.taps[tap].take(h)
}

// ofFlood tells whether one end of a packet's connection is spoofed.
func (k *keeper) ofFlood(h *header) bool {
	return k.cfg.Spoofed.IsValid() && (k.cfg.Spoofed.Contains(addr(h.src)) || k.cfg.Spoofed.Contains(addr(h.dst)))
}

// last is the ordinal of the last packet that a tap saw of a connection; 0
// when it is not known.
func (k *keeper) last(key flowKey, isn uint32, opened bool, tap int) int64 {
	if f := k.flows[key]; f != nil && f.syn == opened && (!opened || f.isn == isn) {
		return f.taps[tap].ord
	}
	return 0
}

// take keeps the first packets, and later those that tell of trouble or of
// the end: an RST, a FIN and what answers it, what was sent before, a closed
// window.
func (t *flowTap) take(h *header) verdict {
	dir := 0
	if h.src > h.dst || h.src == h.dst && h.sport > h.dport {
		dir = 1
	}
	t.ord++
	v := verdict{ord: t.ord}
	end := h.end()
	v.again = t.seen[dir] && end != h.seq && !before(t.sent[dir], end)
	// A keepalive or window probe is one byte back.
	probe := t.seen[dir] && end == h.seq && h.seq == t.sent[dir]-1
	// The number of an RST, and of what TIME-WAIT says before a SYN-ACK, is that
	// of another connection with the same ports.
	if h.flags&flagSYN != 0 || h.flags&flagRST == 0 && (!t.seen[dir] || before(t.sent[dir], end)) {
		t.seen[dir], t.sent[dir] = true, end
	}
	if h.flags&(flagFIN|flagRST) != 0 {
		t.closing = true
	}
	switch {
	case t.left > 0:
		t.left--
		v.keep = true
	case (v.again || probe || t.closing || h.win == 0) && t.repairs < maxRepairs:
		t.repairs++
		v.keep = true
	}
	return v
}

// bound says in words what was kept.
func (k *keeper) bound(kept, seen int64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "headers only; the first %d connections (%d packets each at each interface, besides retransmissions and the close)", k.conns, k.cfg.MaxPackets)
	if k.watched > 0 {
		fmt.Fprintf(&b, ", %d from the start of the measuring window on", k.watched)
	}
	if k.spoofed > 0 {
		fmt.Fprintf(&b, ", the first %d of a flood", k.spoofed)
	}
	if len(k.marks) > 0 {
		fmt.Fprintf(&b, ", %v around %d events", k.cfg.Around, len(k.marks))
	}
	fmt.Fprintf(&b, ": %d of %d packets seen", kept, seen)
	var cut int64
	for _, m := range k.marks {
		cut += m.cut
	}
	if cut > 0 {
		fmt.Fprintf(&b, "; around the events %d more were left out", cut)
	}
	if k.full > 0 {
		fmt.Fprintf(&b, "; the file reached its %.3g MB, and %d more were left out", float64(k.cfg.MaxBytes)/(1<<20), k.full)
	}
	return b.String()
}
