package flood

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"
)

const (
	etherHeader = 14
	ipHeader    = 20
	tcpHeader   = 40 // 20 of options
	frameLength = etherHeader + ipHeader + tcpHeader
)

// synOptions are a usual client's, in Linux's order, so that a cookie has
// something to encode: MSS 1460, SACK permitted, a timestamp, window scale 7.
var synOptions = [20]byte{
	2, 4, 1460 >> 8, 1460 & 0xff,
	4, 2,
	8, 10, 0, 0, 0, 0, 0, 0, 0, 0, // TSval, TSecr
	1,
	3, 3, 7,
}

const tsvalOffset = etherHeader + ipHeader + 20 + 8

// segments makes SYN after SYN. Addresses go round, and each round has the
// next port, so that no two SYNs of a flood have the same four.
type segments struct {
	frame   [frameLength]byte
	to      []netip.AddrPort
	base    uint32 // first source address
	sources uint32
	ports   uint32 // where the ports begin
	random  uint64
}

func newSegments(src, dst net.HardwareAddr, to []netip.AddrPort, sources netip.Prefix, count int, seed uint64) *segments {
	s := &segments{to: to, sources: uint32(max(count, 1)), random: seed}
	first := sources.Masked().Addr().As4()
	s.base = binary.BigEndian.Uint32(first[:]) + 1
	s.ports = uint32(s.next())
	f := s.frame[:]
	copy(f, dst)
	copy(f[6:], src)
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	ip := f[etherHeader:]
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], ipHeader+tcpHeader)
	binary.BigEndian.PutUint16(ip[6:], 0x4000) // don't fragment
	tcp := ip[ipHeader:]
	tcp[12], tcp[13] = tcpHeader/4<<4, 0x02 // SYN
	binary.BigEndian.PutUint16(tcp[14:], 64240)
	copy(tcp[20:], synOptions[:])
	return s
}

// next is SplitMix64 (Steele, Lea, Flood 2014): a generator whose state is a
// number, the same on each machine.
func (s *segments) next() uint64 {
	s.random += 0x9e3779b97f4a7c15
	z := s.random
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// lowPort is the first port that SYNs come from.
const lowPort = 1024

// syn is SYN n, elapsed after the flood's begin. It is valid until the next
// one.
func (s *segments) syn(n int64, elapsed time.Duration) []byte {
	to := s.to[int(n%int64(len(s.to)))]
	round := uint32(n / int64(s.sources))
	ip := s.frame[etherHeader:]
	tcp := ip[ipHeader:]
	binary.BigEndian.PutUint32(ip[12:], s.base+uint32(n%int64(s.sources)))
	dst := to.Addr().As4()
	copy(ip[16:], dst[:])
	r := s.next()
	binary.BigEndian.PutUint16(ip[4:], uint16(r)) // identification
	binary.BigEndian.PutUint16(tcp, uint16(lowPort+(s.ports+round)%(65536-lowPort)))
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	binary.BigEndian.PutUint32(tcp[4:], uint32(r>>32))
	binary.BigEndian.PutUint32(s.frame[tsvalOffset:], uint32(r>>16)+uint32(elapsed.Milliseconds()))
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], fold(sum(ip[:ipHeader])))
	binary.BigEndian.PutUint16(tcp[16:], 0)
	pseudo := sum(ip[12:20]) + 6 + tcpHeader
	binary.BigEndian.PutUint16(tcp[16:], fold(pseudo+sum(tcp[:tcpHeader])))
	return s.frame[:]
}

// sum adds 16-bit words (RFC 1071).
func sum(b []byte) uint32 {
	var s uint32
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}
