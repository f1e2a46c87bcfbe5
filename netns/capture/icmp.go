package capture

import (
	"encoding/binary"
	"fmt"
)

// explainOther says what a packet that is not TCP means: the ICMP errors that
// end or slow a connection (RFC 792, RFC 1191), and nothing else.
func explainOther(frame []byte, h *header, name func(uint32) string) string {
	if h.proto == 0 {
		return explainARP(frame, name)
	}
	if h.proto != 1 || h.fragment || len(frame) < etherLen+20 {
		return ""
	}
	ip := frame[etherLen:]
	ihl := int(ip[0]&0xf) * 4
	if len(ip) < ihl+8 {
		return ""
	}
	icmp := ip[ihl:]
	about := ""
	if inner := icmp[8:]; len(inner) >= 28 && inner[0] == 0x45 && inner[9] == 6 {
		about = fmt.Sprintf(", about a packet from %s port %d to %s port %d",
			name(binary.BigEndian.Uint32(inner[12:])), binary.BigEndian.Uint16(inner[20:]),
			name(binary.BigEndian.Uint32(inner[16:])), binary.BigEndian.Uint16(inner[22:]))
	}
	who := name(h.src)
	switch icmp[0] {
	case 3:
		if icmp[1] == 4 {
			return fmt.Sprintf("ICMP: too large, the next link takes %d bytes%s", binary.BigEndian.Uint16(icmp[6:]), about)
		}
		what := map[byte]string{0: "network", 1: "host", 2: "protocol", 3: "port", 9: "network (forbidden)", 10: "host (forbidden)", 13: "destination (filtered)"}[icmp[1]]
		if what == "" {
			what = "destination"
		}
		return fmt.Sprintf("ICMP: %s unreachable, says %s%s", what, who, about)
	case 11:
		return "ICMP: time to live exceeded" + about
	}
	return ""
}

// explainARP tells of questions and answers (RFC 826): neighbours here are
// permanent but where a sheet loses ARP too, and then a question without an
// answer is what ends in EHOSTUNREACH.
func explainARP(frame []byte, name func(uint32) string) string {
	if len(frame) < etherLen+28 || binary.BigEndian.Uint16(frame[12:]) != 0x0806 {
		return ""
	}
	arp := frame[etherLen:]
	from, to := name(binary.BigEndian.Uint32(arp[14:])), name(binary.BigEndian.Uint32(arp[24:]))
	switch binary.BigEndian.Uint16(arp[6:]) {
	case 1:
		return "ARP: " + from + " asks for the address of " + to
	case 2:
		return "ARP: " + from + " answers " + to
	}
	return ""
}
