package capture

import (
	"encoding/binary"
	"sort"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// FuzzDecode: no frame may panic, and what is decoded is what gopacket finds.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add(tcpFrame(clientAddr, serverAddr, 40_000, 9000, 1, 0, flagSYN, 0, 2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7))
	f.Add(tcpFrame(serverAddr, clientAddr, 9000, 40_000, 7, 2, flagACK|flagPSH, 1448, 1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9))
	f.Add(tcpFrame(serverAddr, clientAddr, 9000, 40_000, 7, 2, flagRST, 0, 5, 1)) // an option shorter than itself
	frag := tcpFrame(clientAddr, serverAddr, 1, 2, 3, 4, flagACK, 0)
	frag[14+7] = 5
	f.Add(frag)
	f.Add(frag[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		var h header
		err := h.decode(b)
		if err != nil || !h.tcp {
			return
		}
		for k := range 256 {
			h.option(byte(k))
		}
		h.key()
		h.end()
		explainOther(b, &h, func(a uint32) string { return addr(a).String() })
		pkt := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
		ip, ok := pkt.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		if !ok {
			return // gopacket is stricter
		}
		tcp, ok := pkt.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok {
			return
		}
		if addr(h.src).String() != ip.SrcIP.String() || addr(h.dst).String() != ip.DstIP.String() || h.id != ip.Id {
			t.Errorf("IP: %+v, gopacket %+v", h, ip)
		}
		if h.sport != uint16(tcp.SrcPort) || h.dport != uint16(tcp.DstPort) || h.seq != tcp.Seq || h.ack != tcp.Ack || h.win != tcp.Window {
			t.Errorf("TCP: %+v, gopacket %+v", h, tcp)
		}
		for bit, set := range map[uint8]bool{flagFIN: tcp.FIN, flagSYN: tcp.SYN, flagRST: tcp.RST, flagPSH: tcp.PSH, flagACK: tcp.ACK} {
			if (h.flags&bit != 0) != set {
				t.Errorf("flags %s, gopacket %+v", flagNames(h.flags), tcp)
			}
		}
	})
}

// FuzzStory: no sequence of packets, however senseless, may panic the
// grouping, the comments or the ladders, and a ladder never goes backwards.
func FuzzStory(f *testing.F) {
	for _, st := range stories {
		s := &script{delay: 5 * ms}
		st.tell(s.talk(40_000))
		f.Add(encodeStory(s.packets))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		s := &script{packets: decodeStory(b), leaveOut: func(packet) bool {
			n++
			return b[(n*storyLen-1)%len(b)]&2 != 0
		}}
		if len(s.packets) == 0 {
			return
		}
		v := s.view([2]int64{0, 1e9})
		for _, show := range Shows() {
			l, err := shows[show](v, Around{})
			if err != nil {
				continue
			}
			for _, e := range l.Events {
				if e.Sent < 0 || e.Arrived != nil && *e.Arrived < e.Sent || e.Frame < 1 || e.Frame > len(v.pkts) {
					t.Errorf("%s: %+v", show, e)
				}
			}
		}
	})
}

const storyLen = 16

// encodeStory packs packets for the fuzzer: small fields, so that it finds
// sequence numbers that meet.
func encodeStory(ps []packet) (b []byte) {
	ps = append([]packet(nil), ps...)
	sort.SliceStable(ps, func(i, j int) bool { return ps[i].at < ps[j].at })
	last := int64(0)
	for _, p := range ps {
		var h header
		if h.decode(p.data) != nil {
			panic("a story's packet")
		}
		where := byte(p.tap)
		if p.out {
			where |= 2
		}
		dir, port := byte(0), h.sport
		if h.src == serverAddr {
			dir, port = 4, h.dport
		}
		b = append(b, where|dir, h.flags, byte(port))
		b = binary.BigEndian.AppendUint16(b, uint16(h.seq))
		b = binary.BigEndian.AppendUint16(b, uint16(h.ack))
		b = binary.BigEndian.AppendUint16(b, uint16(h.len))
		b = binary.BigEndian.AppendUint16(b, h.win)
		b = binary.BigEndian.AppendUint16(b, h.id)
		b = binary.BigEndian.AppendUint16(b, uint16(min((p.at-last)/1e5, 65535)))
		b = append(b, 0)
		last = p.at
	}
	return b
}

func decodeStory(b []byte) (ps []packet) {
	at := int64(0)
	for ; len(b) >= storyLen && len(ps) < 300; b = b[storyLen:] {
		be := binary.BigEndian
		at += int64(be.Uint16(b[13:])) * 1e5
		src, dst, sport, dport := uint32(clientAddr), uint32(serverAddr), 40_000+uint16(b[2]), uint16(9000)
		if b[0]&4 != 0 {
			src, dst, sport, dport = dst, src, dport, sport
		}
		var opts []byte
		if b[15]&1 != 0 {
			opts = []byte{5, 10, 0, 0, b[3], b[4], 0, 0, b[5], b[6], b[15], b[2]}
		}
		f := tcpFrame(src, dst, sport, dport, uint32(be.Uint16(b[3:])), uint32(be.Uint16(b[5:])), b[1], int(be.Uint16(b[7:])), opts...)
		be.PutUint16(f[14+20+14:], be.Uint16(b[9:]))
		be.PutUint16(f[14+4:], be.Uint16(b[11:]))
		ps = append(ps, packet{at: at, wire: len(f), tap: int(b[0] & 1), out: b[0]&2 != 0, data: f})
	}
	return ps
}
