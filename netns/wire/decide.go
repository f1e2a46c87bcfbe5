package wire

import (
	"math"
	"slices"
	"time"
)

// fate is what the wire decides for one frame.
type fate uint8

const (
	delivered fate = iota
	lost
	queueDropped
	mtuDropped
	blackholed
	faultDropped
	held // until its hold ends, a release, or its successor comes
)

// verdict is the whole of what happens to a frame.
type verdict struct {
	fate fate
	due  int64 // departure, CLOCK_MONOTONIC ns
	copy bool  // a second copy leaves right behind
	bit  int   // to flip, from the frame's first bit; 0 is none
	hold int32 // the fault that holds it, as an index plus one
	// stray is its number where its hold ends by sequence.
	stray int32
}

const (
	slotTime   = int64(time.Millisecond) // of by-time fates
	chainBytes = 1448                    // a step of the by-byte chain: a full segment with timestamps
)

// model decides. It has no clock and no sockets: stamps and frames come in,
// verdicts go out. Stamps of one direction should not go back, but nothing
// breaks if they do.
type model struct {
	fates  Fates
	dirs   [2]direction
	flows  *flows
	log    *FateLog
	faults []Fault
	seen   []int // frames that matched each fault
	taken  []int
	t0     int64
	strays []stray
	freed  []int32 // strays that go on behind the frame just decided
	tell   func(Happening)
	f      frame // scratch
	p      place
}

// direction is one direction's configuration in effect and its state.
type direction struct {
	base Direction
	key  uint64 // seed, link and direction
	// What holds for stamps in [from, until).
	from, until int64
	on          Direction
	random      bool
	matchers    []int // faults that drop or hold by match
	chance      struct{ loss, bad, good, reorder, duplicate, corrupt chance }
	chain       chain
	bursty      bool
	shape       *shape

	line line
	last int64 // departure of the last frame in order
	// by-time: the slot that is open and what it has seen.
	slot    int64
	slotN   uint64
	slotBad bool
	// unpaired: how many were drawn, and the chain's state.
	drawn uint64
	bad   bool

	count tally
}

func newModel(c Config) (*model, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	m := &model{fates: c.Fates, flows: newFlows(maxFlows)}
	if m.fates == "" {
		m.fates = ByByte
	}
	if m.fates == ByByte { // the other kinds have no packets to compare
		m.log = &FateLog{}
	}
	for dir, d := range []Direction{dirB: c.TowardsB, dirA: c.TowardsA} {
		x := &m.dirs[dir]
		x.base = d
		x.key = absorb(absorbString(absorb(0, c.Seed), c.Link), uint64(dir))
		x.slot = math.MinInt64
	}
	for _, f := range c.Faults {
		m.add(f)
	}
	for dir := range m.dirs {
		d := &m.dirs[dir]
		m.resolve(d, dir, math.MinInt64)
		d.bad = d.chain.bad(d.key, 0)
	}
	return m, nil
}

// add takes a validated fault.
func (m *model) add(f Fault) {
	m.faults = append(m.faults, f)
	m.seen = append(m.seen, 0)
	m.taken = append(m.taken, 0)
	if f.Do == DoRelease {
		// A release ends the holds of its name.
		for i := range m.faults {
			if h := &m.faults[i]; h.Do == DoHold && h.Name == f.Name && h.At <= f.At && h.end() > f.At {
				h.For = time.Duration(max(1, f.At-h.At))
			}
		}
	}
	for i := range m.dirs {
		m.dirs[i].until = math.MinInt64 // resolve at the next frame
	}
}

// resolve finds what holds for direction dir at the instant now.
func (m *model) resolve(d *direction, dir int, now int64) {
	d.on, d.from, d.until = d.base, math.MinInt64, math.MaxInt64
	d.matchers = d.matchers[:0]
	order := make([]int, 0, len(m.faults))
	for i := range m.faults {
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case m.faults[a].At < m.faults[b].At:
			return -1
		case m.faults[a].At > m.faults[b].At:
			return 1
		}
		return 0
	})
	dark := NoBlackhole
	for _, i := range order {
		f := &m.faults[i]
		if !f.concerns(dir) || f.Do == DoRelease {
			continue
		}
		end := f.end()
		switch {
		case now < f.At:
			d.until = min(d.until, f.At)
			continue
		case now >= end:
			d.from = max(d.from, end)
			continue
		}
		d.from, d.until = max(d.from, f.At), min(d.until, end)
		switch f.Do {
		case DoSet:
			d.on = f.Set.apply(d.on)
		case DoBlackhole, DoPartition:
			if f.ARP || dark == SwallowAll {
				dark = SwallowAll
			} else {
				dark = PassARP
			}
		case DoDrop, DoHold:
			d.matchers = append(d.matchers, i)
		}
	}
	if dark == SwallowAll || dark == PassARP && d.on.Blackhole == NoBlackhole {
		d.on.Blackhole = dark
	}
	d.compile()
}

// compile prepares the thresholds of what holds.
func (d *direction) compile() {
	on := &d.on
	g := on.Loss.GilbertElliott
	d.random = on.random()
	d.bursty = g.P > 0
	d.chain = newChain(g)
	d.chance.loss = chanceOf(on.Loss.P)
	d.chance.bad = chanceOf(1 - g.H)
	d.chance.good = chanceOf(1 - g.deliverGood())
	d.chance.reorder = chanceOf(on.Reorder.P)
	d.chance.duplicate = chanceOf(on.Duplicate)
	d.chance.corrupt = chanceOf(on.Corrupt)
	d.shape = nil
	if on.Jitter > 0 {
		d.shape = shapeOf(on.JitterDist)
	}
}

// decide says what becomes of a frame that travels in direction dir and
// arrived at now, and counts it.
func (m *model) decide(dir int, now int64, b []byte) verdict {
	d := &m.dirs[dir]
	if now < d.from || now >= d.until {
		m.resolve(d, dir, now)
	}
	f, p, c := &m.f, &m.p, &d.count
	decode(b, f)
	m.flows.observe(dir, f, p)
	c.in++
	c.bytesIn += uint64(len(b))
	if p.firstSYN {
		c.firstSYNs++
	}
	if p.againSYN {
		c.againSYNs++
	}
	if p.again {
		c.tcpAgain++
	}
	var key uint64
	if d.random {
		key = m.key(d, now)
	}
	v := m.pass(dir, now, b, key)
	switch v.fate {
	case lost:
		c.lost++
	case queueDropped:
		c.queueDropped++
	case mtuDropped:
		c.mtuDropped++
	case blackholed:
		c.blackholed++
	case faultDropped:
		c.faultDropped++
	case held:
		c.held++
	}
	if m.freed = m.freed[:0]; len(m.strays) > 0 && v.fate == delivered {
		m.release(dir, v.due)
	}
	if v.copy {
		c.duplicated++
	}
	if v.bit > 0 {
		c.corrupted++
	}
	if d.random && m.log != nil {
		m.log.add(key, v.fate)
	}
	return v
}

// key names the frame for its draws.
func (m *model) key(d *direction, now int64) uint64 {
	switch m.fates {
	case ByTime:
		d.openSlot(floorDiv(now-m.t0, slotTime))
		d.slotN++
		return absorb(absorb(d.key, uint64(d.slot)), d.slotN)
	case Unpaired:
		d.drawn++
		return absorb(d.key, d.drawn)
	}
	k := absorb(absorb(d.key, m.p.id), uint64(m.f.kind))
	return absorb(absorb(k, uint64(m.p.offset)), uint64(m.p.count))
}

// openSlot moves to the slot of a frame. A stamp that goes back counts into
// the slot that is open.
func (d *direction) openSlot(slot int64) {
	if slot <= d.slot {
		return
	}
	d.slot, d.slotN = slot, 0
	if d.bursty {
		d.slotBad = d.chain.bad(d.key, slot)
	}
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// lossChance is the chance with which the channel loses this frame.
func (m *model) lossChance(d *direction, key uint64) chance {
	if !d.bursty {
		return d.chance.loss
	}
	var bad bool
	switch m.fates {
	case ByTime:
		bad = d.slotBad
	case Unpaired:
		d.bad = d.chain.step(d.bad, draw(key, streamChannel))
		bad = d.bad
	default:
		// A chain for each flow and kind, and for each generation of its
		// bytes: what was lost together is sent again through other weather.
		seed := absorb(absorb(d.key, m.p.id), uint64(m.f.kind))
		at := int64(m.p.count)
		if m.f.kind == kindData {
			seed, at = absorb(seed, uint64(m.p.count)), m.p.offset/chainBytes
		}
		bad = d.chain.bad(seed, at)
	}
	if bad {
		return d.chance.bad
	}
	return d.chance.good
}

// pass takes the frame through the wire.
func (m *model) pass(dir int, now int64, b []byte, key uint64) verdict {
	d := &m.dirs[dir]
	on, f := &d.on, &m.f
	// The channel moves with every frame, also with those it never sees.
	var loses chance
	if d.random {
		loses = m.lossChance(d, key)
	}
	if on.Blackhole == SwallowAll || on.Blackhole == PassARP && !f.arp {
		return verdict{fate: blackholed}
	}
	if on.MTU > 0 && len(b)-etherHeader > on.MTU {
		return verdict{fate: mtuDropped}
	}
	for _, i := range d.matchers {
		if v, ok := m.matched(i, dir, now); ok {
			return v
		}
	}
	left, waiting, ok := d.line.admit(now, len(b), on.Rate, on.Queue)
	if !ok {
		return verdict{fate: queueDropped}
	}
	if w := waiting + int64(len(b)); on.Rate > 0 && w > d.count.maxQueueBytes {
		d.count.maxQueueBytes = w
	}
	if !d.random {
		due := max(left+int64(on.Delay), d.last)
		d.last = due
		return verdict{due: due}
	}
	if loses.hit(draw(key, streamLoss)) {
		return verdict{fate: lost}
	}
	v := verdict{due: d.departure(left, key)}
	v.copy = d.chance.duplicate.hit(draw(key, streamDuplicate))
	if bits := (len(b) - etherHeader) * 8; bits > 0 && d.chance.corrupt.hit(draw(key, streamCorrupt)) {
		v.bit = etherHeader*8 + int(draw(key, streamCorruptBit)%uint64(bits))
	}
	return v
}

// departure is when a frame whose last bit was serialized at left comes out at
// the far end.
func (d *direction) departure(left int64, key uint64) int64 {
	on := &d.on
	delay := int64(on.Delay)
	if d.shape != nil {
		delay += int64(math.Round(float64(on.Jitter) * d.shape.at(draw(key, streamJitter))))
	}
	due := left + max(0, delay)
	if d.chance.reorder.hit(draw(key, streamReorder)) {
		if on.Reorder.Extra > 0 {
			due = max(due, d.last) + int64(on.Reorder.Extra)
		} else {
			due = left
		}
		d.count.reordered++
		return due
	}
	if on.Reorder.ByJitter {
		if due < d.last {
			d.count.reordered++
		}
		d.last = max(d.last, due)
		return due
	}
	due = max(due, d.last)
	d.last = due
	return due
}

// matched reports what a drop or hold does with the current frame.
func (m *model) matched(i, dir int, now int64) (verdict, bool) {
	f := &m.faults[i]
	if !f.Match.wants(&m.f, m.p.flow) {
		return verdict{}, false
	}
	m.seen[i]++
	if !f.Match.turn(m.seen[i]) {
		return verdict{}, false
	}
	m.taken[i]++
	if f.Do == DoDrop {
		return verdict{fate: faultDropped}, true
	}
	v := verdict{fate: held, due: f.end(), hold: int32(i + 1)}
	if f.Successor {
		v.stray = m.keepStray(i, dir, now)
	}
	return v, true
}
