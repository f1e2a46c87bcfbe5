package middlebox

import (
	"math"
	"net/netip"
	"time"
)

// Never is later than everything.
const Never = int64(math.MaxInt64)

// closingIdle is how long a flow is kept after both sides have sent a FIN or
// one a RST: late retransmissions still pass. Linux's conntrack has the same
// two minutes for TIME-WAIT.
const closingIdle = 2 * time.Minute

// pair is a direction of a flow: the addresses in a packet's header.
type pair struct {
	proto    uint8
	src, dst netip.AddrPort
}

func (p pair) reversed() pair { return pair{p.proto, p.dst, p.src} }

// flow is one connection through the box: what its packets look like when they
// come, and what they are to look like when they leave.
type flow struct {
	in, out [2]pair // 0: from who opened it; 1: towards them
	fin     [2]bool

	last       int64
	closing    bool
	prev, next *flow
}

// hit is a flow and the direction that a packet goes in.
type hit struct {
	f   *flow
	way int
}

// table knows flows by their packets. Those not used for a while are
// forgotten, the longest unused first.
type table struct {
	idle time.Duration // 0: never
	by   map[pair]hit
	open list // by last use
	shut list
	n    int

	Opened, Expired, Forgotten, Most int64
}

func newTable(idle time.Duration) *table {
	return &table{idle: idle, by: map[pair]hit{}}
}

// list is a list of flows, the longest unused first.
type list struct{ head, tail *flow }

func (l *list) push(f *flow) {
	f.prev, f.next = l.tail, nil
	if l.tail == nil {
		l.head = f
	} else {
		l.tail.next = f
	}
	l.tail = f
}

func (l *list) remove(f *flow) {
	if f.prev == nil {
		l.head = f.next
	} else {
		f.prev.next = f.next
	}
	if f.next == nil {
		l.tail = f.prev
	} else {
		f.next.prev = f.prev
	}
	f.prev, f.next = nil, nil
}

func (t *table) list(f *flow) *list {
	if f.closing {
		return &t.shut
	}
	return &t.open
}

// add makes a flow that can be found from both sides. A direction that another
// flow has is taken from it: the newest wins, as in boxes that keep no state
// but the latest SYN's.
func (t *table) add(now int64, f *flow) *flow {
	f.last = now
	t.by[f.in[0]], t.by[f.in[1]] = hit{f, 0}, hit{f, 1}
	t.open.push(f)
	t.n++
	t.Opened++
	t.Most = max(t.Most, int64(t.n))
	return f
}

func (t *table) remove(f *flow) {
	for i := range f.in {
		if t.by[f.in[i]].f == f {
			delete(t.by, f.in[i])
		}
	}
	t.list(f).remove(f)
	t.n--
}

// find is the flow of a packet that came. A SYN of a flow that is over begins
// another one.
func (t *table) find(now int64, p *Packet) (hit, bool) {
	t.expire(now)
	h, ok := t.by[pair{p.Proto, p.Src, p.Dst}]
	if ok && h.f.closing && p.opens() && p.Proto == TCP {
		t.remove(h.f)
		t.Expired++
		return hit{}, false
	}
	return h, ok
}

// used notes that a packet of the flow passes, and gives it its new addresses.
func (t *table) used(now int64, h hit, p *Packet) []Out {
	f := h.f
	l := t.list(f)
	l.remove(f)
	f.last = now
	if p.Proto == TCP {
		f.fin[h.way] = f.fin[h.way] || p.Flags&FIN != 0
		f.closing = f.closing || p.Flags&RST != 0 || f.fin[0] && f.fin[1]
	}
	t.list(f).push(f)
	return []Out{{Src: f.out[h.way].src, Dst: f.out[h.way].dst}}
}

func (t *table) until(f *flow) int64 {
	d := t.idle
	if f.closing && (d == 0 || closingIdle < d) {
		d = closingIdle
	}
	if d == 0 {
		return Never
	}
	return f.last + int64(d)
}

// expire forgets the flows whose time is over.
func (t *table) expire(now int64) {
	for _, l := range []*list{&t.open, &t.shut} {
		for l.head != nil && t.until(l.head) <= now {
			t.remove(l.head)
			t.Expired++
		}
	}
}

// wake is when the next flow's time may be over.
func (t *table) wake() int64 {
	at := Never
	for _, l := range []*list{&t.open, &t.shut} {
		if l.head != nil {
			at = min(at, t.until(l.head))
		}
	}
	return at
}

// forget forgets all flows.
func (t *table) forget() {
	t.Forgotten += int64(t.n)
	t.by, t.open, t.shut, t.n = map[pair]hit{}, list{}, list{}, 0
}
