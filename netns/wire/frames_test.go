package wire

import "encoding/binary"

// tcpFrame is an IPv4 TCP frame of host 10.0.0.src to 10.0.0.dst; checksums
// are zero.
func tcpFrame(src, dst byte, sport, dport uint16, seq, ack uint32, flags byte, payload int) []byte {
	b := make([]byte, 14+20+20+payload)
	binary.BigEndian.PutUint16(b[12:], etherIPv4)
	ip := b[14:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(40+payload))
	ip[8], ip[9] = 64, protoTCP
	copy(ip[12:], []byte{10, 0, 0, src})
	copy(ip[16:], []byte{10, 0, 0, dst})
	t := ip[20:]
	binary.BigEndian.PutUint16(t, sport)
	binary.BigEndian.PutUint16(t[2:], dport)
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13] = 5<<4, flags
	return b
}

func setSeq(f []byte, seq uint32) { binary.BigEndian.PutUint32(f[14+20+4:], seq) }
