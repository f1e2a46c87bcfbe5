package capture

import (
	"encoding/binary"
	"sort"
)

// tcpFrame makes an Ethernet frame with IPv4 and TCP headers, as a tap keeps
// it: without its payload.
func tcpFrame(src, dst uint32, sport, dport uint16, seq, ack uint32, flags uint8, length int, options ...byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	b := make([]byte, 14+20+20+len(options))
	binary.BigEndian.PutUint16(b[12:], 0x0800)
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(40+len(options)+length))
	binary.BigEndian.PutUint32(ip[12:], src)
	binary.BigEndian.PutUint32(ip[16:], dst)
	t := ip[20:]
	binary.BigEndian.PutUint16(t, sport)
	binary.BigEndian.PutUint16(t[2:], dport)
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13] = byte(5+len(options)/4)<<4, flags
	binary.BigEndian.PutUint16(t[14:], 502)
	copy(t[20:], options)
	return b
}

const (
	clientAddr = 0x0a090001
	serverAddr = 0x0a090002
	ms         = int64(1e6)
)

// script plays connections between two hosts, with a path between them.
type script struct {
	delay   int64
	packets []packet
	id      uint16
	// leaveOut says which packets were seen but not kept.
	leaveOut func(packet) bool
	points   []point // client's and server's interfaces where none are given
	notes    []note
	timers   map[string]Timers
}

// talk is one connection of a script.
type talk struct {
	s    *script
	port uint16
	isn  [2]uint32
}

func (s *script) talk(port uint16) *talk {
	return &talk{s: s, port: port, isn: [2]uint32{0xfffffff0 + uint32(port), uint32(port) * 100_000}}
}

// send puts a packet on both taps, or on the sender's only when it is lost.
// Sequence numbers are relative.
func (t *talk) send(at int64, dir int, flags uint8, seq, ack uint32, length int, lost bool, options ...byte) {
	t.sendWin(at, dir, flags, seq, ack, length, 502, lost, options...)
}

func (t *talk) sendWin(at int64, dir int, flags uint8, seq, ack uint32, length, win int, lost bool, options ...byte) {
	s := t.s
	a, b, ap, bp := uint32(clientAddr), uint32(serverAddr), t.port, uint16(9000)
	if dir == 1 {
		a, b, ap, bp = b, a, bp, ap
	}
	if flags&flagACK != 0 {
		ack += t.isn[1-dir]
	}
	f := tcpFrame(a, b, ap, bp, seq+t.isn[dir], ack, flags, length, options...)
	binary.BigEndian.PutUint16(f[14+20+14:], uint16(win))
	s.id++
	binary.BigEndian.PutUint16(f[14+4:], s.id)
	p := packet{at: at, wire: len(f) + length, tap: dir, out: true, data: f}
	s.packets = append(s.packets, p)
	if !lost {
		p.at, p.tap, p.out = at+s.delay, 1-dir, false
		s.packets = append(s.packets, p)
	}
}

// view decodes what both taps saw.
func (s *script) view(window [2]int64) *view {
	sort.SliceStable(s.packets, func(i, j int) bool { return s.packets[i].at < s.packets[j].at })
	v := &view{
		points: s.points, notes: s.notes, timers: s.timers,
		names:  map[uint32]string{clientAddr: "client", serverAddr: "server"},
		window: window,
	}
	if v.points == nil {
		v.points = []point{{host: "client", iface: "c0"}, {host: "server", iface: "s0"}}
	}
	v.drops = make([]int64, len(v.points))
	// As the recorder's keeper would have it, if it kept everything but what
	// the script leaves out.
	k := newKeeper(Config{MaxPackets: 1 << 30}, len(v.points))
	var kept []packet
	for _, p := range s.packets {
		var h header
		if h.decode(p.data) == nil {
			v := k.keep(p.tap, p.at, &h, len(p.data))
			p.ord, p.again = v.ord, v.again
		}
		if s.leaveOut == nil || !s.leaveOut(p) {
			kept = append(kept, p)
		}
	}
	s.packets = kept
	v.last = func(c *conn, tap int) int64 { return k.last(c.key, c.isn[0], c.opened, tap) }
	v.decode(s.packets)
	v.explain()
	return v
}
