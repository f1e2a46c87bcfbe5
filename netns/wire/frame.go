package wire

import (
	"encoding/binary"
	"slices"
)

// kind sorts frames into the classes that fates are counted in.
type kind uint8

const (
	kindOther kind = iota
	kindData
	kindSYN
	kindSYNACK
	kindFIN
	kindRST
	kindACK
	kinds
)

var kindNames = [kinds]string{"other", "data", "SYN", "SYN-ACK", "FIN", "RST", "ACK"}

func kindOf(name string) int { return slices.Index(kindNames[:], name) }

const (
	etherHeader = 14
	etherIPv4   = 0x0800
	etherARP    = 0x0806
	etherVLAN   = 0x8100
	etherQinQ   = 0x88a8
	etherIPv6   = 0x86dd
	protoTCP    = 6
	protoUDP    = 17

	flagFIN = 1 << 0
	flagSYN = 1 << 1
	flagRST = 1 << 2
	flagACK = 1 << 4
)

type addr [16]byte

// frame is what fates need to know of a frame. For IPv4 the address is in the
// first four bytes.
type frame struct {
	kind     kind
	arp      bool
	proto    uint8 // IP protocol, when there is one
	ether    uint16
	src, dst addr
	tos      uint8  // TOS byte, traffic class
	sport    uint16 // TCP and UDP; for ICMP type and code are in dport
	dport    uint16
	seq, ack uint32
	flags    uint8
	payload  uint32 // bytes of TCP payload, by the IP header's length
}

func (f *frame) tcp() bool { return f.kind != kindOther }

// decode reads the headers of an Ethernet frame. Whatever it cannot follow
// (fragments, tunnels, cut frames) is kindOther: it is forwarded all the same.
func decode(b []byte, f *frame) {
	*f = frame{}
	if len(b) < etherHeader {
		return
	}
	et := binary.BigEndian.Uint16(b[12:])
	b = b[etherHeader:]
	for range 2 {
		if et != etherVLAN && et != etherQinQ || len(b) < 4 {
			break
		}
		et, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	f.ether = et
	var l4 []byte
	switch et {
	case etherARP:
		f.arp = true
		if len(b) >= 28 {
			f.dport = binary.BigEndian.Uint16(b[6:]) // operation
			copy(f.src[:], b[14:18])
			copy(f.dst[:], b[24:28])
		}
		return
	case etherIPv4:
		if len(b) < 20 || b[0]>>4 != 4 {
			return
		}
		ihl, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if ihl < 20 || total < ihl || total > len(b) {
			return
		}
		copy(f.src[:], b[12:16])
		copy(f.dst[:], b[16:20])
		f.proto, f.tos = b[9], b[1]
		if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 { // more fragments, or an offset
			return
		}
		l4 = b[ihl:total]
	case etherIPv6:
		if len(b) < 40 || b[0]>>4 != 6 {
			return
		}
		total := 40 + int(binary.BigEndian.Uint16(b[4:]))
		if total > len(b) {
			return
		}
		copy(f.src[:], b[8:24])
		copy(f.dst[:], b[24:40])
		f.tos = b[0]<<4 | b[1]>>4
		var ok bool
		f.proto, l4, ok = skipExtensions(b[6], b[40:total])
		if !ok {
			return
		}
	default:
		return
	}
	decodeTransport(l4, f)
}

// skipExtensions walks the IPv6 extension headers that may precede a transport
// header (RFC 8200 4.1). It gives up at a fragment.
func skipExtensions(next uint8, b []byte) (proto uint8, rest []byte, ok bool) {
	for range 8 {
		switch next {
		case 0, 43, 60: // hop-by-hop, routing, destination options
			if len(b) < 8 {
				return next, nil, false
			}
			n := 8 + int(b[1])*8
			if n > len(b) {
				return next, nil, false
			}
			next, b = b[0], b[n:]
		case 44:
			return next, nil, false
		default:
			return next, b, true
		}
	}
	return next, nil, false
}

func decodeTransport(b []byte, f *frame) {
	switch f.proto {
	case protoTCP:
		if len(b) < 20 {
			return
		}
		off := int(b[12]>>4) * 4
		if off < 20 || off > len(b) {
			return
		}
		f.sport, f.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		f.seq, f.ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
		f.flags = b[13]
		f.payload = uint32(len(b) - off)
		f.kind = tcpKind(f.flags, f.payload)
	case protoUDP:
		if len(b) >= 8 {
			f.sport, f.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		}
	case 1, 58: // ICMP, ICMPv6
		if len(b) >= 2 {
			f.dport = binary.BigEndian.Uint16(b) // type and code
		}
	}
}

func tcpKind(flags uint8, payload uint32) kind {
	switch {
	case flags&flagRST != 0:
		return kindRST
	case flags&(flagSYN|flagACK) == flagSYN|flagACK:
		return kindSYNACK
	case flags&flagSYN != 0:
		return kindSYN
	case payload > 0:
		return kindData // a FIN that carries data is data: its bytes name it
	case flags&flagFIN != 0:
		return kindFIN
	}
	return kindACK
}
