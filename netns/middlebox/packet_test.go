package middlebox

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"
)

func build(t testing.TB, proto uint8, src, dst netip.AddrPort, payload []byte) []byte {
	t.Helper()
	head := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocol(proto), SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
	var l4 gopacket.SerializableLayer
	tcp := &layers.TCP{SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), Seq: 7, Ack: 9, ACK: true, PSH: true}
	udp := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
	tcp.SetNetworkLayerForChecksum(head)
	udp.SetNetworkLayerForChecksum(head)
	if l4 = tcp; proto == UDP {
		l4 = udp
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, head, l4, gopacket.Payload(payload))
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func anyAddr(t *rapid.T, label string) netip.AddrPort {
	n := rapid.Uint32().Draw(t, label)
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrPortFrom(netip.AddrFrom4(b), rapid.Uint16().Draw(t, label+" port"))
}

// sums checks both checksums: over what they cover, they add up to all ones.
func sums(ip []byte) bool {
	return fold(add(0, ip[:ipHeader])) == 0xffff && fold(transportSum(ip)) == 0xffff
}

func TestRewrittenPacketsHaveTheAddressesAskedForAndRightChecksums(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		proto := rapid.SampledFrom([]uint8{TCP, UDP}).Draw(rt, "proto")
		payload := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(rt, "payload")
		b := build(t, proto, anyAddr(rt, "src"), anyAddr(rt, "dst"), payload)
		src, dst := anyAddr(rt, "new src"), anyAddr(rt, "new dst")
		rewrite(b, src, dst)
		var p Packet
		if !Parse(b, &p) || p.Src != src || p.Dst != dst || p.TTL != 63 || p.Payload != len(payload) {
			rt.Fatalf("%+v", p)
		}
		if !sums(b) {
			rt.Fatalf("a checksum is wrong: % x", b)
		}
	})
}

func TestADatagramWithoutAChecksumStaysWithoutOne(t *testing.T) {
	b := build(t, UDP, addr("10.0.0.1:5"), addr("10.0.0.2:6"), []byte("x"))
	b[ipHeader+6], b[ipHeader+7] = 0, 0
	rewrite(b, addr("10.0.0.3:7"), addr("10.0.0.4:8"))
	if b[ipHeader+6]|b[ipHeader+7] != 0 || fold(add(0, b[:ipHeader])) != 0xffff {
		t.Errorf("% x", b)
	}
}

func TestAResetIsAWholePacket(t *testing.T) {
	b := resetPacket(nil, Out{Src: addr("10.0.0.1:5"), Dst: addr("10.0.0.2:6"), Reset: &Reset{Flags: RST | ACK, Seq: 1, Ack: 2}})
	var p Packet
	if !Parse(b, &p) || !sums(b) || p.Flags != RST|ACK || p.Seq != 1 || p.Ack != 2 || p.Src != addr("10.0.0.1:5") || p.Payload != 0 {
		t.Errorf("%+v % x", p, b)
	}
}

func FuzzParseAndRewrite(f *testing.F) {
	f.Add(build(f, TCP, addr("10.0.0.1:5"), addr("10.0.0.2:6"), []byte("hello")))
	f.Add(build(f, UDP, addr("10.0.0.1:5"), addr("10.0.0.2:6"), nil))
	f.Add([]byte{0x45})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Packet
		if !Parse(b, &p) {
			return
		}
		rewrite(b, p.Dst, p.Src)
		var q Packet
		if !Parse(b, &q) || q.Src != p.Dst || q.Dst != p.Src || q.Seq != p.Seq {
			t.Errorf("%+v became %+v", p, q)
		}
	})
}
