package capture

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"
)

// view is a finished recording, decoded: packets in order of time, grouped
// into connections, each with its comments.
type view struct {
	points []point
	names  map[uint32]string
	window [2]int64
	pkts   []seen
	conns  []*conn
	last   func(c *conn, tap int) int64 // ordinal of the last packet there was; 0 when not known
	drops  []int64                      // by tap: then nothing can be said to be lost
	timers map[string]Timers
	notes  []note // marks with a text, by time
	chains []chain
	holds  []hold
	olds   []oldSegment
	killed []int // RSTs that met TIME-WAIT
}

// seen is one packet at one tap. Its number in the file is its index + 1.
type seen struct {
	packet
	h        header
	conn     *conn // nil if it is not TCP
	dir      int   // 0 client to server, 1 server to client
	seq, ack uint32
	skipped  bool // packets of the connection were left out before it at its tap
	comments []string
	// Of a connection before, though it has this one's ports: foreign to it.
	foreign bool
	stray   bool     // it leaves in this connection and comes in a later one
	instead []string // what is said of it, where more is known than its connection's packets tell
}

// conn is one connection: an opening of it, not its addresses and ports,
// which may be used again.
type conn struct {
	key    flowKey
	addr   [2]uint32 // client, server
	port   [2]uint16
	opened bool      // its SYN is in the file
	isn    [2]uint32 // the sequence number that is 0 relatively
	pkts   []int     // indices into view.pkts
	// taps of the hosts at its two ends; -1 when they were not captured
	ends [2]int
}

func (r *Recorder) names() map[uint32]string {
	names := map[uint32]string{}
	for a, n := range r.cfg.Names {
		if ip, err := netip.ParseAddr(a); err == nil && ip.Is4() {
			b := ip.As4()
			names[uint32(b[0])<<24|uint32(b[1])<<16|uint32(b[2])<<8|uint32(b[3])] = n
		}
	}
	return names
}

func newView(r *Recorder) *view {
	// What marks brought back came late. A tie goes to the tap added first.
	sort.SliceStable(r.packets, func(i, j int) bool { return r.packets[i].at < r.packets[j].at })
	v := &view{points: r.points, names: r.names(), window: r.window}
	v.last = func(c *conn, tap int) int64 { return r.keep.last(c.key, c.isn[0], c.opened, tap) }
	for _, p := range r.points {
		v.drops = append(v.drops, p.tap.drops)
	}
	v.timers = r.cfg.Timers
	v.notes = slices.Clone(r.notes)
	slices.SortStableFunc(v.notes, func(a, b note) int { return cmp.Compare(a.at, b.at) })
	v.decode(r.packets)
	v.explain()
	return v
}

// name is the host's that has the address, else the address.
func (v *view) name(a uint32) string {
	if n, ok := v.names[a]; ok {
		return n
	}
	return addr(a).String()
}

type endpoint struct {
	addr uint32
	port uint16
}

// decode groups packets (in order of time) into connections.
func (v *view) decode(packets []packet) {
	v.pkts = make([]seen, len(packets))
	servers := map[endpoint]bool{}
	peers := map[endpoint]int{}
	known := map[flowKey]bool{}
	for i, p := range packets {
		s := &v.pkts[i]
		s.packet = p
		if s.h.decode(p.data) != nil || !s.h.tcp {
			s.h.tcp = false
			continue
		}
		src, dst := endpoint{s.h.src, s.h.sport}, endpoint{s.h.dst, s.h.dport}
		switch s.h.flags & (flagSYN | flagACK) {
		case flagSYN:
			servers[dst] = true
		case flagSYN | flagACK:
			servers[src] = true
		}
		if k := s.h.key(); !known[k] {
			known[k] = true
			peers[src]++
			peers[dst]++
		}
	}
	// A connection whose opening was not captured: the server is who serves
	// others, who has more peers, who has the lower port.
	serves := func(a, b endpoint) bool {
		if servers[a] != servers[b] {
			return servers[a]
		}
		if peers[a] != peers[b] {
			return peers[a] > peers[b]
		}
		return a.port < b.port
	}
	current := map[flowKey]*conn{}
	for i := range v.pkts {
		s := &v.pkts[i]
		if !s.h.tcp {
			continue
		}
		h := &s.h
		key := h.key()
		c := current[key]
		opens := h.flags&(flagSYN|flagACK) == flagSYN
		if c == nil || opens && c.isn[0] != h.seq {
			c = &conn{key: key, ends: [2]int{-1, -1}}
			src, dst := endpoint{h.src, h.sport}, endpoint{h.dst, h.dport}
			switch {
			case opens:
				c.opened = true
				c.isn[0] = h.seq
			case h.has(flagSYN):
				src, dst = dst, src
				c.isn = [2]uint32{h.ack - 1, h.seq}
			case serves(src, dst):
				src, dst = dst, src
				c.isn = [2]uint32{h.ack - 1, h.seq - 1}
			default:
				c.isn = [2]uint32{h.seq - 1, h.ack - 1}
			}
			c.addr = [2]uint32{src.addr, dst.addr}
			c.port = [2]uint16{src.port, dst.port}
			current[key] = c
			v.conns = append(v.conns, c)
		}
		s.conn = c
		if h.src != c.addr[0] || h.sport != c.port[0] {
			s.dir = 1
		}
		if c.opened && s.dir == 1 && h.has(flagSYN|flagACK) {
			c.isn[1] = h.seq
		}
		s.seq = h.seq - c.isn[s.dir]
		if h.flags&flagACK != 0 {
			s.ack = h.ack - c.isn[1-s.dir]
		}
		c.pkts = append(c.pkts, i)
	}
	for _, c := range v.conns {
		v.findEnds(c)
	}
}

// findEnds says which tap is the client's host's and which the server's: where
// their packets go out. Of several (middleboxes send too) it is the first
// whose host bears the address's name, else the first. Who never answers has
// none, and is where what is sent to it comes in, on the host of that name.
func (v *view) findEnds(c *conn) {
	for dir := range c.ends {
		named := false
		for _, i := range c.pkts {
			s := &v.pkts[i]
			if s.dir != dir || !s.out {
				continue
			}
			byName := v.points[s.tap].host == v.names[c.addr[dir]]
			if c.ends[dir] < 0 || byName && !named {
				c.ends[dir], named = s.tap, byName
			}
		}
	}
	for dir := range c.ends {
		for _, i := range c.pkts {
			s := &v.pkts[i]
			if c.ends[dir] < 0 && s.dir != dir && !s.out && v.points[s.tap].host == v.names[c.addr[dir]] {
				c.ends[dir] = s.tap
			}
		}
	}
	if c.ends[0] == c.ends[1] && c.ends[0] >= 0 {
		c.ends[1] = -1 // one interface that forwards, or both programs on one host
	}
}

// identity is what a packet keeps on its way.
type identity struct {
	seq, ack uint32
	ts       uint32
	len      int
	id       uint16
	flags    uint8
}

func (s *seen) identity() identity {
	return identity{s.h.seq, s.h.ack, s.h.tsval(), s.h.len, s.h.id, s.h.flags}
}

// trip pairs a connection's packets that leave at one tap with their arrival
// at another: index → index. The same packet twice is paired in order of time,
// an arrival never with what left after it.
func (v *view) trip(c *conn, from, to int) map[int]int {
	arrivals := map[identity][]int{}
	for _, i := range c.pkts {
		if s := &v.pkts[i]; s.tap == to && !s.out {
			k := s.identity()
			arrivals[k] = append(arrivals[k], i)
		}
	}
	pairs := map[int]int{}
	for _, i := range c.pkts {
		s := &v.pkts[i]
		if s.tap != from || !s.out {
			continue
		}
		k := s.identity()
		as := arrivals[k]
		for len(as) > 0 && v.pkts[as[0]].at < s.at {
			as = as[1:]
		}
		if len(as) > 0 {
			pairs[i], as = as[0], as[1:]
		}
		arrivals[k] = as
	}
	return pairs
}

// explain comments every packet: what it means at its own tap, and whether it
// was lost on its way.
func (v *view) explain() {
	for i := range v.pkts {
		if s := &v.pkts[i]; s.conn == nil {
			if t := explainOther(s.data, &s.h, v.name); t != "" {
				s.comments = append(s.comments, t)
			}
		}
	}
	v.findOld()
	for _, c := range v.conns {
		byTap := map[int]*annotator{}
		last := map[int]int64{}
		for _, i := range c.pkts {
			s := &v.pkts[i]
			s.skipped = s.ord > 0 && s.ord != last[s.tap]+1 || s.ord <= 0 && s.ord != last[s.tap]
			last[s.tap] = s.ord
			a := byTap[s.tap]
			if a == nil {
				a = newAnnotator([2]string{v.name(c.addr[0]), v.name(c.addr[1])}, c.port)
				a.timers = [2]Timers{v.timers[a.name[0]], v.timers[a.name[1]]}
				byTap[s.tap] = a
			}
			if s.foreign {
				continue
			}
			said := a.next(s.event())
			if s.instead != nil {
				said = s.instead
			}
			s.comments = append(s.comments, said...)
			if s.stray {
				s.comments = append(s.comments, "the wire keeps it: it comes in a later connection")
			}
		}
		v.findLost(c, 0)
		v.findLost(c, 1)
		v.findForger(c)
		v.findHeld(c, 0)
		v.findHeld(c, 1)
		v.explainCookie(c)
		v.findChains(c, 0)
		v.findChains(c, 1)
	}
	v.sayChains()
}

// findForger names who made an RST in another host's name: a router or load
// balancer does so with the address that it stands for. Of the packets of this
// identity the first one seen tells where it was made.
func (v *view) findForger(c *conn) {
	first := map[identity]int{}
	for _, i := range c.pkts {
		s := &v.pkts[i]
		if !s.h.has(flagRST) {
			continue
		}
		id := s.identity()
		if j, ok := first[id]; ok && s.at-v.pkts[j].at < settle {
			continue
		}
		first[id] = i
		// Only where the named host's own interface was watched can it be said
		// that it sent nothing.
		if by := v.points[s.tap].host; s.out && by != v.name(s.h.src) && v.watches(v.name(s.h.src)) {
			s.comments = append(s.comments, "made by "+by+" in the name of "+v.name(s.h.src))
		}
	}
}

func (v *view) watches(host string) bool {
	return slices.ContainsFunc(v.points, func(p point) bool { return p.host == host })
}

// settle is how long after a packet left it may still arrive when nothing is
// known about the path.
const settle = int64(1e9)

// findLost marks packets in one direction that left one end and never came to
// the other. It says so only where everything is known that came to the other
// end in the time in which they could have come.
func (v *view) findLost(c *conn, dir int) {
	from, to := c.ends[dir], c.ends[1-dir]
	if from < 0 || to < 0 || v.drops[to] > 0 {
		return
	}
	trip := v.trip(c, from, to)
	wait := int64(0)
	for i, j := range trip {
		wait = max(wait, 2*(v.pkts[j].at-v.pkts[i].at))
	}
	if len(trip) == 0 {
		wait = settle
	}
	// Times at which packets came to the other end that were not kept.
	var blind [][2]int64
	// A connection is counted from one instant on at all taps.
	for _, i := range c.pkts {
		if v.pkts[i].ord > 0 {
			blind = append(blind, [2]int64{-1 << 62, v.pkts[i].at - 1})
			break
		}
	}
	prev, since := int64(0), int64(-1<<62)
	for _, i := range c.pkts {
		s := &v.pkts[i]
		if s.tap != to {
			continue
		}
		if s.skipped {
			blind = append(blind, [2]int64{since, s.at})
		}
		prev, since = s.ord, s.at
	}
	end := v.pkts[len(v.pkts)-1].at
	if last := v.last(c, to); last == 0 || last != prev {
		end = since
	}
	for _, i := range c.pkts {
		s := &v.pkts[i]
		if s.tap != from || !s.out || s.stray || s.at+wait >= end {
			continue
		}
		if _, ok := trip[i]; ok {
			continue
		}
		known := true
		for _, b := range blind {
			known = known && (s.at > b[1] || s.at+wait < b[0])
		}
		if known {
			s.comments = append(s.comments, "lost: it never came to "+v.points[to].host)
		}
	}
}

// event is what the annotator needs of a packet.
func (s *seen) event() event {
	e := event{skipped: s.skipped, again: s.again, at: s.at, out: s.out, dir: s.dir, flags: s.h.flags, seq: s.seq, ack: s.ack, len: s.h.len, win: int(s.h.win), wscale: -1}
	if v, ok := s.h.option(optWscale); ok && len(v) == 1 && s.h.has(flagSYN) {
		e.wscale = int(v[0])
	}
	if v, ok := s.h.option(optSACK); ok && len(v) >= 8 {
		// RFC 2883 4: a first block below the ACK, or within the second one,
		// tells of bytes that came twice.
		first := beUint32(v)
		e.sack = true
		e.dsack = before(first, s.h.ack)
		if !e.dsack && len(v) >= 16 {
			e.dsack = !before(first, beUint32(v[8:])) && !before(beUint32(v[12:]), beUint32(v[4:]))
		}
	}
	return e
}

func beUint32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// sortedNames gives the names' addresses in order, so that files repeat.
func (v *view) sortedNames() []uint32 {
	as := make([]uint32, 0, len(v.names))
	for a := range v.names {
		as = append(as, a)
	}
	sort.Slice(as, func(i, j int) bool { return as[i] < as[j] })
	return as
}
