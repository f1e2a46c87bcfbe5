package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// TCP flags, as in the header's fourteenth byte (RFC 9293 3.1).
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
	flagURG
	flagECE
	flagCWR
)

// header is what matters of a frame's headers. It is decoded without an
// allocation.
type header struct {
	src, dst uint32 // IPv4 addresses
	id       uint16 // IP identification: tells a retransmission from its original
	proto    uint8  // 0: not IPv4
	fragment bool   // not the first fragment: no transport header
	tcp      bool   // the fields below are there
	flags    uint8
	sport    uint16
	dport    uint16
	seq, ack uint32
	win      uint16
	len      int // payload, B
	options  [40]byte
	optLen   uint8
}

var errShort = errors.New("the frame is cut short")

const etherLen = 14

// decode reads Ethernet, IPv4 and TCP headers. What is not TCP leaves h.tcp
// false and is no error; what lies is.
func (h *header) decode(b []byte) error {
	h.proto, h.tcp, h.fragment, h.optLen = 0, false, false, 0
	if len(b) < etherLen {
		return errShort
	}
	if binary.BigEndian.Uint16(b[12:]) != 0x0800 {
		return nil
	}
	return h.decodeIP(b[etherLen:])
}

func (h *header) decodeIP(b []byte) error {
	if len(b) < 20 {
		return errShort
	}
	if b[0]>>4 != 4 {
		return fmt.Errorf("IP version %d in an IPv4 frame", b[0]>>4)
	}
	ihl, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if ihl < 20 || total != 0 && total < ihl {
		return fmt.Errorf("an IP header of %d bytes in a packet of %d", ihl, total)
	}
	h.id = binary.BigEndian.Uint16(b[4:])
	h.src, h.dst = binary.BigEndian.Uint32(b[12:]), binary.BigEndian.Uint32(b[16:])
	h.proto = b[9]
	frag := binary.BigEndian.Uint16(b[6:]) & 0x1fff
	h.fragment = frag != 0
	if h.proto != 6 || h.fragment {
		return nil
	}
	if len(b) < ihl+20 {
		return errShort
	}
	t := b[ihl:]
	doff := int(t[12]>>4) * 4
	if doff < 20 || total != 0 && ihl+doff > total {
		return fmt.Errorf("a TCP header of %d bytes in an IP packet of %d", doff, total)
	}
	h.sport, h.dport = binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
	h.seq, h.ack = binary.BigEndian.Uint32(t[4:]), binary.BigEndian.Uint32(t[8:])
	h.flags, h.win = t[13], binary.BigEndian.Uint16(t[14:])
	// A total of 0 is a segment larger than 64 KiB (BIG TCP): unknown here.
	h.len = max(0, total-ihl-doff)
	h.tcp = true
	if n := min(doff, len(t)) - 20; n > 0 {
		h.optLen = uint8(copy(h.options[:], t[20:20+n]))
	}
	return nil
}

// option finds a TCP option's value by kind.
func (h *header) option(kind byte) ([]byte, bool) {
	for b := h.options[:h.optLen]; len(b) > 0; {
		switch b[0] {
		case 0:
			return nil, false
		case 1:
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return nil, false
		}
		if b[0] == kind {
			return b[2:b[1]], true
		}
		b = b[b[1]:]
	}
	return nil, false
}

// Option kinds.
const (
	optWscale    = 3
	optSACK      = 5
	optTimestamp = 8
)

// tsval is the sender's timestamp; 0 without the option.
func (h *header) tsval() uint32 {
	if v, ok := h.option(optTimestamp); ok && len(v) == 8 {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

// end is the sequence number after the packet; SYN and FIN take one each.
func (h *header) end() uint32 {
	e := h.seq + uint32(h.len)
	if h.flags&flagSYN != 0 {
		e++
	}
	if h.flags&flagFIN != 0 {
		e++
	}
	return e
}

func (h *header) has(flags uint8) bool { return h.flags&flags == flags }

// flowKey is a connection's addresses and ports, the same for both
// directions.
type flowKey struct {
	addrs uint64
	ports uint32
}

func (h *header) key() flowKey {
	if h.src < h.dst || h.src == h.dst && h.sport <= h.dport {
		return flowKey{uint64(h.src)<<32 | uint64(h.dst), uint32(h.sport)<<16 | uint32(h.dport)}
	}
	return flowKey{uint64(h.dst)<<32 | uint64(h.src), uint32(h.dport)<<16 | uint32(h.sport)}
}

func addr(a uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
}

// flagNames as Wireshark writes them.
func flagNames(f uint8) string {
	names := [8]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"}
	s := ""
	for i, n := range names {
		if f&(1<<i) != 0 {
			if s != "" {
				s += ","
			}
			s += n
		}
	}
	if s == "" {
		return "none"
	}
	return s
}

// before compares sequence numbers on their circle (RFC 9293 3.4).
func before(a, b uint32) bool { return int32(a-b) < 0 }
