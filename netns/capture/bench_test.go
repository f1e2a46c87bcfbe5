package capture

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// put writes a frame into a slot of a fake ring.
func (t *Tap) put(i int, wall int64, out bool, frame []byte) {
	slot := t.ring[i*t.size:][:t.size]
	copy(slot[ringHeader:], frame)
	*(*unix.Tpacket2Hdr)(unsafe.Pointer(&slot[0])) = unix.Tpacket2Hdr{Status: unix.TP_STATUS_USER, Len: uint32(len(frame) + 128),
		Snaplen: uint32(len(frame)), Mac: ringHeader, Sec: uint32(wall / 1e9), Nsec: uint32(wall % 1e9)}
	slot[pkttype] = unix.PACKET_HOST
	if out {
		slot[pkttype] = unix.PACKET_OUTGOING
	}
}

// fakeTap is a tap without a socket. Its ring is full of packets of 1,000
// established connections; the function fills it anew.
func fakeTap(n int) (*Tap, func()) {
	t := &Tap{fd: -1, size: 256, slots: n, ring: make([]byte, n*256)}
	fill := func() {
		for i := range n {
			t.put(i, 5e9+int64(i), true, tcpFrame(clientAddr, serverAddr, uint16(30000+i%1000), 9000, uint32(1000+i), 2000, flagACK|flagPSH, 128))
		}
	}
	fill()
	return t, fill
}

// BenchmarkPacketThatIsNotKept is what nearly every packet costs.
func BenchmarkPacketThatIsNotKept(b *testing.B) {
	const n = 8192
	tap, fill := fakeTap(n)
	r := New(Config{MaxConnections: 200})
	r.points = []point{{host: "client", iface: "c0", tap: tap}}
	r.keep = newKeeper(r.cfg, 1)
	// The first 200 connections are taken, and their packets used up.
	for range 40 {
		if _, err := r.drain(true); err != nil {
			b.Fatal(err)
		}
		fill()
	}
	kept := len(r.packets)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += n {
		b.StopTimer()
		for j := range n {
			(*unix.Tpacket2Hdr)(unsafe.Pointer(&tap.ring[j*256])).Status = unix.TP_STATUS_USER
		}
		b.StartTimer()
		if _, err := r.drain(true); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if r.keep.full == 0 && len(r.packets)-kept > b.N/10 {
		b.Fatalf("%d of %d were kept", len(r.packets)-kept, b.N)
	}
}
