package middlebox

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// A Policy decides what becomes of packets. Times are in ns and only grow.
type Policy interface {
	// Packet gives what leaves in answer to a packet that came: nothing where
	// it is dropped.
	Packet(now int64, in int, p *Packet) []Out
	// Wake forgets what is to be forgotten by now, and says when to call again.
	Wake(now int64) (next int64)
	// Do applies a fault.
	Do(f Fault) error
	// Counts is what it has done so far.
	Counts() Counts
}

// Fault is a change while the box runs.
type Fault struct {
	Do     string // forget-flows | set | drop-target | add-target
	Target Target // of drop-target and add-target
	Set    Change
}

// Change has what `set` changes; nil stays.
type Change struct {
	Idle           *time.Duration
	OnUnknown      *string
	PreserveClient *bool
	CrossZone      *bool
	Max            *int
}

// Counts are a box's own counters, in packets and flows.
type Counts struct {
	Forwarded int64 `json:"forwarded"`
	Unknown   int64 `json:"unknown"` // of no known flow
	Resets    int64 `json:"resets"`  // RSTs that it sent itself
	Refused   int64 `json:"refused"` // flows without a port, a target or room
	Opened    int64 `json:"opened"`
	Expired   int64 `json:"expired"`   // idle for too long, or over
	Forgotten int64 `json:"forgotten"` // by a fault
	Most      int64 `json:"most"`      // flows at once
}

// Kinds of policy.
const (
	L4LB      = "l4lb"
	NAT       = "nat"
	FlowTable = "flowtable"
)

// What happens to a packet of no known flow.
const (
	Drop      = "drop"
	SendReset = "rst"
)

// Target is a host behind a load balancer.
type Target struct {
	Name string
	Addr netip.Addr
	Port uint16 // 0: the one that the client asked for
}

// Config is one box.
type Config struct {
	Kind      string
	Addresses []netip.Addr // a load balancer's, or a NAT's outer ones
	Targets   []Target
	// Own are the addresses of the box's interfaces, by interface. A load
	// balancer that does not preserve the client's address, and a NAT without
	// Addresses, send from the one that faces the other side.
	Own            []netip.Addr
	PreserveClient bool
	CrossZone      bool
	Idle           time.Duration // 0: flows are never forgotten
	OnUnknown      string
	Ports          [2]uint16 // a NAT's outer ports, both included
	Max            int       // a flow table's most flows; 0: unlimited
	// Route is the interface that packets to an address leave by, -1 for none.
	Route func(netip.Addr) int
}

// New makes a box's policy.
func New(c Config) (Policy, error) {
	if c.OnUnknown == "" {
		c.OnUnknown = Drop
	}
	if err := checkUnknown(c.OnUnknown); err != nil {
		return nil, err
	}
	if c.Route == nil {
		return nil, errors.New("middlebox: it needs routes")
	}
	if c.Ports == [2]uint16{} {
		c.Ports = [2]uint16{1024, 65535}
	}
	if c.Ports[0] == 0 || c.Ports[0] > c.Ports[1] {
		return nil, fmt.Errorf("middlebox: ports %d to %d are no range", c.Ports[0], c.Ports[1])
	}
	base := box{cfg: c, t: newTable(c.Idle), own: map[netip.Addr]bool{}}
	for _, a := range append(append([]netip.Addr(nil), c.Own...), c.Addresses...) {
		base.own[a] = true
	}
	switch c.Kind {
	case L4LB:
		if len(c.Addresses) == 0 {
			return nil, errors.New("middlebox: a load balancer needs addresses")
		}
		return &balancer{box: base, out: map[netip.Addr]bool{}}, nil
	case NAT:
		return &nat{base}, nil
	case FlowTable:
		return &flowTable{base}, nil
	}
	return nil, fmt.Errorf("middlebox: no policy is called %q", c.Kind)
}

func checkUnknown(s string) error {
	if s != Drop && s != SendReset {
		return fmt.Errorf("middlebox: on_unknown %q: write drop or rst", s)
	}
	return nil
}

// box is what all policies have.
type box struct {
	cfg   Config
	t     *table
	own   map[netip.Addr]bool
	count Counts
	// search is where the search for a free port begins.
	search uint16
}

// Wake forgets flows that are idle for too long.
func (b *box) Wake(now int64) int64 {
	b.t.expire(now)
	return b.t.wake()
}

// Counts is what it has done so far.
func (b *box) Counts() Counts {
	c := b.count
	c.Opened, c.Expired, c.Forgotten, c.Most = b.t.Opened, b.t.Expired, b.t.Forgotten, b.t.Most
	return c
}

// Do applies a fault that every kind knows.
func (b *box) Do(f Fault) error {
	switch f.Do {
	case "forget-flows":
		b.t.forget()
		return nil
	case "set":
		s := f.Set
		if s.OnUnknown != nil {
			if err := checkUnknown(*s.OnUnknown); err != nil {
				return err
			}
			b.cfg.OnUnknown = *s.OnUnknown
		}
		if s.Idle != nil {
			b.t.idle = *s.Idle
		}
		if s.PreserveClient != nil {
			b.cfg.PreserveClient = *s.PreserveClient
		}
		if s.CrossZone != nil {
			b.cfg.CrossZone = *s.CrossZone
		}
		if s.Max != nil {
			b.cfg.Max = *s.Max
		}
		return nil
	}
	return fmt.Errorf("a middlebox of kind %s knows no fault %q", b.cfg.Kind, f.Do)
}

// pass forwards a packet of a known flow.
func (b *box) pass(now int64, h hit, p *Packet) []Out {
	if p.TTL <= 1 {
		return nil
	}
	b.count.Forwarded++
	return b.t.used(now, h, p)
}

// unknown is a packet of no known flow.
func (b *box) unknown(p *Packet) []Out {
	b.count.Unknown++
	return b.answer(p)
}

// refuse is a flow that cannot begin.
func (b *box) refuse(p *Packet) []Out {
	b.count.Refused++
	return b.answer(p)
}

func (b *box) answer(p *Packet) []Out {
	if b.cfg.OnUnknown != SendReset {
		return nil
	}
	out := reset(p)
	b.count.Resets += int64(len(out))
	return out
}

// port finds a port of the box's own at addr towards to: the client's, if it
// is free, else the next free one. A flow's answers come to it.
func (b *box) port(proto uint8, addr netip.Addr, to netip.AddrPort, wish uint16) (netip.AddrPort, bool) {
	free := func(n uint16) bool {
		_, taken := b.t.by[pair{proto, to, netip.AddrPortFrom(addr, n)}]
		return !taken
	}
	lo, hi := b.cfg.Ports[0], b.cfg.Ports[1]
	if wish >= lo && wish <= hi && free(wish) {
		return netip.AddrPortFrom(addr, wish), true
	}
	n := int(hi) - int(lo) + 1
	for range n {
		if b.search < lo || b.search >= hi {
			b.search = lo
		} else {
			b.search++
		}
		if free(b.search) {
			return netip.AddrPortFrom(addr, b.search), true
		}
	}
	return netip.AddrPort{}, false
}

// facing is the box's own address on the side of an address.
func (b *box) facing(a netip.Addr) (netip.Addr, bool) {
	if i := b.cfg.Route(a); i >= 0 && i < len(b.cfg.Own) {
		return b.cfg.Own[i], true
	}
	return netip.Addr{}, false
}

// balancer sends what comes to its addresses to its targets.
type balancer struct {
	box
	out map[netip.Addr]bool // targets that were taken out
}

// Packet forwards packets of known flows, and lets a SYN to one of the
// addresses begin another.
func (l *balancer) Packet(now int64, in int, p *Packet) []Out {
	if h, ok := l.t.find(now, p); ok {
		return l.pass(now, h, p)
	}
	zone := -1
	for i, a := range l.cfg.Addresses {
		if a == p.Dst.Addr() {
			zone = i
		}
	}
	if zone < 0 || !p.opens() {
		return l.unknown(p)
	}
	t, ok := l.target(zone, p)
	if !ok {
		return l.refuse(p)
	}
	to := netip.AddrPortFrom(t.Addr, p.Dst.Port())
	if t.Port != 0 {
		to = netip.AddrPortFrom(t.Addr, t.Port)
	}
	from := p.Src
	if !l.cfg.PreserveClient {
		own, ok := l.facing(t.Addr)
		if ok {
			from, ok = l.port(p.Proto, own, to, p.Src.Port())
		}
		if !ok {
			return l.refuse(p)
		}
	}
	came := pair{p.Proto, p.Src, p.Dst}
	goes := pair{p.Proto, from, to}
	f := l.t.add(now, &flow{in: [2]pair{came, goes.reversed()}, out: [2]pair{goes, came.reversed()}})
	return l.pass(now, hit{f, 0}, p)
}

// target chooses by a hash of the flow, as network load balancers do. Without
// cross_zone the targets are dealt out to the addresses in turn.
func (l *balancer) target(zone int, p *Packet) (Target, bool) {
	var can []Target
	for i, t := range l.cfg.Targets {
		if !l.out[t.Addr] && (l.cfg.CrossZone || i%len(l.cfg.Addresses) == zone) {
			can = append(can, t)
		}
	}
	if len(can) == 0 {
		return Target{}, false
	}
	return can[hash(p)%uint64(len(can))], true
}

// hash is FNV-1a over a flow's addresses, with a last mix since its low bits
// alone are poor.
func hash(p *Packet) uint64 {
	h := uint64(14695981039346656037)
	eat := func(b byte) { h = (h ^ uint64(b)) * 1099511628211 }
	for _, a := range []netip.AddrPort{p.Src, p.Dst} {
		b := a.Addr().As4()
		for _, x := range b {
			eat(x)
		}
		eat(byte(a.Port() >> 8))
		eat(byte(a.Port()))
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	return h ^ h>>33
}

// Do applies a fault. A target that is taken out gets no new flow; those that
// it has go on.
func (l *balancer) Do(f Fault) error {
	switch f.Do {
	case "drop-target":
		l.out[f.Target.Addr] = true
		return nil
	case "add-target":
		delete(l.out, f.Target.Addr)
		for _, t := range l.cfg.Targets {
			if t.Addr == f.Target.Addr {
				return nil
			}
		}
		l.cfg.Targets = append(l.cfg.Targets, f.Target)
		return nil
	}
	return l.box.Do(f)
}

// nat gives flows an outer address and port. Whatever is sent to something
// else than the box comes from inside.
type nat struct{ box }

// Packet forwards packets of known flows, and lets a SYN to the outside begin
// another.
func (n *nat) Packet(now int64, in int, p *Packet) []Out {
	if h, ok := n.t.find(now, p); ok {
		return n.pass(now, h, p)
	}
	if n.own[p.Dst.Addr()] || !p.opens() {
		return n.unknown(p)
	}
	outer, ok := n.facing(p.Dst.Addr())
	if len(n.cfg.Addresses) > 0 {
		outer = n.cfg.Addresses[0]
	}
	var from netip.AddrPort
	if ok {
		from, ok = n.port(p.Proto, outer, p.Dst, p.Src.Port())
	}
	if !ok {
		return n.refuse(p)
	}
	came, goes := pair{p.Proto, p.Src, p.Dst}, pair{p.Proto, from, p.Dst}
	f := n.t.add(now, &flow{in: [2]pair{came, goes.reversed()}, out: [2]pair{goes, came.reversed()}})
	return n.pass(now, hit{f, 0}, p)
}

// flowTable forwards as it is what belongs to a flow that it saw begin.
type flowTable struct{ box }

// Packet forwards packets of known flows, and lets a SYN begin another while
// there is room.
func (t *flowTable) Packet(now int64, in int, p *Packet) []Out {
	if h, ok := t.t.find(now, p); ok {
		return t.pass(now, h, p)
	}
	if t.own[p.Dst.Addr()] || !p.opens() {
		return t.unknown(p)
	}
	if t.cfg.Max > 0 && t.t.n >= t.cfg.Max {
		return t.refuse(p)
	}
	came := pair{p.Proto, p.Src, p.Dst}
	f := t.t.add(now, &flow{in: [2]pair{came, came.reversed()}, out: [2]pair{came, came.reversed()}})
	return t.pass(now, hit{f, 0}, p)
}
