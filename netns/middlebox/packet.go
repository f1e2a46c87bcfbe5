package middlebox

import (
	"encoding/binary"
	"net/netip"
)

// IP protocols that pass.
const (
	TCP = 6
	UDP = 17
)

// TCP flags.
const (
	FIN = 1 << 0
	SYN = 1 << 1
	RST = 1 << 2
	ACK = 1 << 4
)

// Packet is what policies see of an IPv4 packet.
type Packet struct {
	Proto    uint8
	Src, Dst netip.AddrPort
	TTL      uint8

	// Of TCP.
	Flags    uint8
	Seq, Ack uint32
	Payload  int // bytes
}

// opens tells whether a flow may begin with p: a first SYN, or any datagram.
func (p *Packet) opens() bool {
	return p.Proto == UDP || p.Flags&(SYN|ACK|RST|FIN) == SYN
}

// length is how far p moves the sequence number (SEG.LEN of RFC 9293).
func (p *Packet) length() uint32 {
	n := uint32(p.Payload)
	if p.Flags&SYN != 0 {
		n++
	}
	if p.Flags&FIN != 0 {
		n++
	}
	return n
}

// Out is a packet that leaves: the one that came, with these addresses, or a
// RST of the box's own.
type Out struct {
	Src, Dst netip.AddrPort
	Reset    *Reset
}

// Reset is a RST segment.
type Reset struct {
	Flags    uint8
	Seq, Ack uint32
}

// reset answers p as a host without such a connection would (RFC 9293,
// 3.10.7.1). Its sequence number is what p acknowledges, which is just what
// the sender of p expects next: Linux takes a RST at no other (RFC 5961, 3.2).
func reset(p *Packet) []Out {
	if p.Proto != TCP || p.Flags&RST != 0 {
		return nil
	}
	r := &Reset{Flags: RST, Seq: p.Ack}
	if p.Flags&ACK == 0 {
		r = &Reset{Flags: RST | ACK, Ack: p.Seq + p.length()}
	}
	return []Out{{Src: p.Dst, Dst: p.Src, Reset: r}}
}

const (
	ipHeader  = 20
	tcpHeader = 20
	udpHeader = 8
)

// Parse reads an IPv4 packet. What it cannot follow (fragments, other
// protocols, cut packets) is false: no policy is asked about it.
func Parse(ip []byte, p *Packet) bool {
	if len(ip) < ipHeader || ip[0]>>4 != 4 {
		return false
	}
	ihl, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if ihl < ipHeader || total < ihl || total > len(ip) || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
		return false
	}
	src, dst := netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	l4 := ip[ihl:total]
	*p = Packet{Proto: ip[9], TTL: ip[8]}
	switch p.Proto {
	case TCP:
		if len(l4) < tcpHeader {
			return false
		}
		off := int(l4[12]>>4) * 4
		if off < tcpHeader || off > len(l4) {
			return false
		}
		p.Flags = l4[13]
		p.Seq, p.Ack = binary.BigEndian.Uint32(l4[4:]), binary.BigEndian.Uint32(l4[8:])
		p.Payload = len(l4) - off
	case UDP:
		if len(l4) < udpHeader {
			return false
		}
		p.Payload = len(l4) - udpHeader
	default:
		return false
	}
	p.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4))
	p.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:]))
	return true
}

// rewrite gives the packet ip, which Parse has taken, other addresses and one
// hop less to live. Checksums are changed by what changed (RFC 1624), so that
// one that came wrong leaves wrong.
func rewrite(ip []byte, src, dst netip.AddrPort) {
	l4 := ip[int(ip[0]&15)*4:]
	at := 16
	if ip[9] == UDP {
		at = 6
	}
	sum := l4[at : at+2]
	given := ip[9] == TCP || sum[0]|sum[1] != 0 // 0 is UDP's "none" (RFC 768)
	put := func(at []byte, word uint16, sums ...[]byte) {
		old := binary.BigEndian.Uint16(at)
		if old == word {
			return
		}
		binary.BigEndian.PutUint16(at, word)
		for _, s := range sums {
			adjust(s, old, word)
		}
	}
	address := func(at []byte, a netip.Addr) {
		b := a.As4()
		for i := 0; i < 4; i += 2 {
			word := binary.BigEndian.Uint16(b[i:])
			if given {
				put(at[i:], word, ip[10:12], sum)
			} else {
				put(at[i:], word, ip[10:12])
			}
		}
	}
	port := func(at []byte, n uint16) {
		if given {
			put(at, n, sum)
		} else {
			put(at, n)
		}
	}
	address(ip[12:], src.Addr())
	address(ip[16:], dst.Addr())
	port(l4, src.Port())
	port(l4[2:], dst.Port())
	put(ip[8:], uint16(ip[8]-1)<<8|uint16(ip[9]), ip[10:12])
	if given && ip[9] == UDP && sum[0]|sum[1] == 0 {
		sum[0], sum[1] = 0xff, 0xff
	}
}

// adjust is equation 3 of RFC 1624: HC' = ~(~HC + ~m + m').
func adjust(sum []byte, old, word uint16) {
	s := uint32(^binary.BigEndian.Uint16(sum)) + uint32(^old) + uint32(word)
	s = s&0xffff + s>>16
	s = s&0xffff + s>>16
	binary.BigEndian.PutUint16(sum, ^uint16(s))
}

// resetPacket is the IPv4 packet of a RST, into b.
func resetPacket(b []byte, o Out) []byte {
	b = append(b[:0], make([]byte, ipHeader+tcpHeader)...)
	src, dst := o.Src.Addr().As4(), o.Dst.Addr().As4()
	b[0], b[8], b[9] = 0x45, 64, TCP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[6] = 0x40 // do not fragment
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], ^fold(add(0, b[:ipHeader])))
	t := b[ipHeader:]
	binary.BigEndian.PutUint16(t, o.Src.Port())
	binary.BigEndian.PutUint16(t[2:], o.Dst.Port())
	binary.BigEndian.PutUint32(t[4:], o.Reset.Seq)
	binary.BigEndian.PutUint32(t[8:], o.Reset.Ack)
	t[12], t[13] = tcpHeader/4<<4, o.Reset.Flags
	binary.BigEndian.PutUint16(t[16:], ^fold(transportSum(b)))
	return b
}

// transportSum adds up a packet's pseudo header and segment (RFC 9293, 3.1).
func transportSum(ip []byte) uint32 {
	ihl := int(ip[0]&15) * 4
	l4 := ip[ihl:binary.BigEndian.Uint16(ip[2:])]
	return add(add(uint32(ip[9])+uint32(len(l4)), ip[12:20]), l4)
}

func add(s uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
