package wire

import (
	"bytes"
	"encoding/binary"
)

// Directions as indices: what enters at A travels towards B.
const (
	dirB = 0
	dirA = 1
)

const (
	maxFlows  = 1 << 16
	maxHosts  = 1 << 16 // (host, port) destinations that ordinals are kept for
	flowChunk = 1 << 9
	maxSpans  = 1 << 10 // retransmitted stretches remembered per flow and direction
	maxHoles  = 1 << 5  // stretches that were overtaken before they reached the wire
)

// endpoint is a destination that flows are counted towards.
type endpoint struct {
	addr addr
	port uint16
}

// tuple is a flow's addresses and ports, the same for both directions.
type tuple struct {
	a, b         addr
	aPort, bPort uint16
}

func tupleOf(f *frame) tuple {
	if c := bytes.Compare(f.src[:], f.dst[:]); c < 0 || c == 0 && f.sport < f.dport {
		return tuple{f.src, f.dst, f.sport, f.dport}
	}
	return tuple{f.dst, f.src, f.dport, f.sport}
}

// span is a stretch [from, to) of a stream.
type span struct{ from, to int64 }

// half is what is known of one direction of a flow. Offsets count from the
// ISN: the SYN is 0, the first byte 1.
type half struct {
	isn    uint32
	known  bool
	end    int64 // one past the highest offset seen
	counts [kinds]uint32
	// Every byte below end was sent once, except in holes; what was sent
	// again is in spans, the oldest forgotten first. Both are indices into
	// flows.spans plus one.
	holes     int32
	spans     int32
	forgotten uint32
	below     int64 // offsets below this may have been in a forgotten span
}

// flow is one connection. It holds no pointers, so that the collector does not
// look into a table of 65,536 of them.
type flow struct {
	tuple   tuple
	id      uint64 // names the flow in keys: destination and ordinal
	ordinal uint32 // from 1; 0 if its SYN was not seen
	port    uint16 // the port its first SYN went to
	opener  uint8  // the direction of its first SYN
	state   uint8
	credit  uint8 // chances left before it is evicted
	half    [2]half
}

const (
	sawSYNACK = 1 << iota
	sawFINTowardsB
	sawFINTowardsA
	sawRST
)

func (fl *flow) closed() bool {
	return fl.state&sawRST != 0 || fl.state&(sawFINTowardsB|sawFINTowardsA) == sawFINTowardsB|sawFINTowardsA
}

// place is where a frame stands in its flow: with the flow's id, the whole of
// what its fate depends on.
type place struct {
	flow   *flow // nil for what is not TCP
	id     uint64
	offset int64  // data: first payload byte from the ISN
	count  uint32 // data: earlier segments that covered that byte; else frames of its kind before it
	// What the counters want to know.
	firstSYN, againSYN, again bool
}

// flows is a bounded table of connections. Beyond its bound closed and quiet
// ones are forgotten first; a forgotten flow that sends again counts as one
// whose SYN was not seen.
type flows struct {
	limit   int
	byTuple map[tuple]int32
	chunks  []*[flowChunk]flow
	known   int // entries of chunks in use
	hand    int
	towards map[endpoint]uint32
	spans   [][]span
	free    []int32 // of spans
	// Frames that are not TCP are counted by class in a fixed table; classes
	// that share an entry share its count.
	other   [2][4096]uint32
	evicted uint64
}

func newFlows(limit int) *flows {
	return &flows{
		limit:   limit,
		byTuple: make(map[tuple]int32),
		towards: make(map[endpoint]uint32),
	}
}

func (t *flows) at(i int) *flow { return &t.chunks[i/flowChunk][i%flowChunk] }

func addrID(h uint64, a addr) uint64 {
	h = absorb(h, binary.LittleEndian.Uint64(a[:8]))
	return absorb(h, binary.LittleEndian.Uint64(a[8:]))
}

// observe places a frame that travels in direction dir, and remembers it.
func (t *flows) observe(dir int, f *frame, p *place) {
	*p = place{}
	if !f.tcp() {
		t.observeOther(dir, f, p)
		return
	}
	fl := t.lookup(dir, f, p)
	p.flow, p.id = fl, fl.id
	h := &fl.half[dir]
	switch f.kind {
	case kindSYN, kindSYNACK:
		if !h.known || h.isn != f.seq {
			t.forgetSpans(h)
			*h = half{isn: f.seq, known: true, end: 1 + int64(f.payload), counts: h.counts}
		}
		if f.kind == kindSYNACK {
			fl.state |= sawSYNACK
		}
	case kindRST:
		fl.state |= sawRST
	}
	if f.flags&flagFIN != 0 {
		fl.state |= sawFINTowardsB << dir
	}
	if f.kind == kindData {
		p.offset, p.count = t.cover(h, f)
		p.again = p.count > 0
	} else {
		p.count = h.counts[f.kind]
		h.counts[f.kind]++
	}
	fl.credit = 4
	if fl.closed() {
		fl.credit = 1
	}
}

// lookup finds the frame's flow or begins one. A SYN begins one when its ISN
// is new (the same addresses and ports used again), a repeated one does not.
func (t *flows) lookup(dir int, f *frame, p *place) *flow {
	key := tupleOf(f)
	i, ok := t.byTuple[key]
	if ok && f.kind == kindSYN {
		fl := t.at(int(i))
		h := &fl.half[dir]
		switch {
		case h.known && h.isn == f.seq:
			p.againSYN = true
			return fl
		case int(fl.opener) != dir && fl.state&sawSYNACK == 0 && !fl.closed() && !h.known && fl.ordinal > 0:
			return fl // simultaneous open (RFC 9293 3.5): still one flow
		}
	}
	if ok && f.kind != kindSYN {
		return t.at(int(i))
	}
	if !ok {
		i = t.slot()
		t.byTuple[key] = i
	}
	fl := t.at(int(i))
	t.reset(fl)
	fl.tuple, fl.opener = key, uint8(dir)
	if f.kind == kindSYN {
		p.firstSYN = true
		to := endpoint{f.dst, f.dport}
		n, known := t.towards[to]
		if !known && len(t.towards) >= maxHosts {
			to = endpoint{}
			n = t.towards[to]
		}
		t.towards[to] = n + 1
		fl.ordinal, fl.port = n+1, f.dport
		fl.id = absorb(absorb(addrID(1, f.dst), uint64(f.dport)), uint64(fl.ordinal))
		return fl
	}
	fl.id = absorb(addrID(addrID(2, key.a), key.b), uint64(key.aPort)<<16|uint64(key.bPort))
	return fl
}

// slot is an entry for a new flow, an evicted one's if the table is full.
func (t *flows) slot() int32 {
	if t.known < t.limit {
		if t.known%flowChunk == 0 {
			t.chunks = append(t.chunks, new([flowChunk]flow))
		}
		t.known++
		return int32(t.known - 1)
	}
	// A clock with a few chances each: open flows have more of them than
	// closed ones. The bound on the steps keeps a frame's cost bounded.
	best := t.hand
	for range 64 {
		fl := t.at(t.hand)
		if fl.credit < t.at(best).credit {
			best = t.hand
		}
		if fl.credit == 0 {
			break
		}
		fl.credit--
		if t.hand++; t.hand == t.known {
			t.hand = 0
		}
	}
	t.evicted++
	delete(t.byTuple, t.at(best).tuple)
	return int32(best)
}

func (t *flows) reset(fl *flow) {
	t.forgetSpans(&fl.half[0])
	t.forgetSpans(&fl.half[1])
	*fl = flow{}
}

func (t *flows) forgetSpans(h *half) {
	for _, i := range []*int32{&h.spans, &h.holes} {
		if *i != 0 {
			t.spans[*i-1] = t.spans[*i-1][:0]
			t.free = append(t.free, *i)
			*i = 0
		}
	}
}

// list is the list of spans at i, a new one if i is 0.
func (t *flows) list(i *int32) *[]span {
	if *i == 0 {
		if n := len(t.free); n > 0 {
			*i, t.free = t.free[n-1], t.free[:n-1]
		} else {
			t.spans = append(t.spans, nil)
			*i = int32(len(t.spans))
		}
	}
	return &t.spans[*i-1]
}

// cover is a data segment's offset and how many earlier segments covered its
// first byte. Offsets are 64 bits wide: sequence numbers may wrap.
func (t *flows) cover(h *half, f *frame) (offset int64, count uint32) {
	if !h.known {
		h.isn, h.known, h.end = f.seq-1, true, 1
	}
	offset = h.end + int64(int32(f.seq-(h.isn+uint32(h.end))))
	to := offset + int64(f.payload)
	if offset >= h.end {
		if offset > h.end {
			// A veth hands frames on from two CPUs at once, so that they may
			// overtake each other on the way here. What follows late is no
			// retransmission.
			l := t.list(&h.holes)
			if len(*l) == maxHoles {
				*l = append((*l)[:0], (*l)[1:]...)
			}
			*l = append(*l, span{h.end, offset})
		}
		h.end = to
		return offset, 0
	}
	end := h.end
	h.end = max(h.end, to)
	if h.holes != 0 && fill(t.list(&h.holes), offset, to) {
		return offset, 0
	}
	count = 1
	if offset < h.below {
		count += h.forgotten
	}
	l := t.list(&h.spans)
	for _, v := range *l {
		if v.from <= offset && offset < v.to {
			count++
		}
	}
	// Only what was sent before is sent again; the rest is new.
	v := span{offset, min(to, end)}
	if len(*l) < maxSpans {
		*l = append(*l, v)
	} else {
		old := &(*l)[h.forgotten%maxSpans]
		h.below = max(h.below, old.to)
		*old = v
		h.forgotten++
	}
	return offset, count
}

// fill takes [from, to) out of the hole that from is in; false if it is in none.
func fill(l *[]span, from, to int64) bool {
	for i, v := range *l {
		if from < v.from || from >= v.to {
			continue
		}
		*l = append((*l)[:i], (*l)[i+1:]...)
		if v.from < from {
			*l = append(*l, span{v.from, from})
		}
		if to < v.to {
			*l = append(*l, span{to, v.to})
		}
		return true
	}
	return false
}

// observeOther counts a frame that is not TCP within its class: ARP by
// operation and target, ICMP by addresses and type, UDP by addresses and the
// lower port (the service: ephemeral ports differ between arms).
func (t *flows) observeOther(dir int, f *frame, p *place) {
	port := f.dport
	if f.sport != 0 {
		port = min(port, f.sport)
	}
	id := absorb(absorb(3, uint64(f.ether)<<24|uint64(f.proto)<<16|uint64(port)), 0)
	p.id = addrID(addrID(id, f.src), f.dst)
	n := &t.other[dir][p.id%uint64(len(t.other[dir]))]
	p.count = *n
	*n++
}
