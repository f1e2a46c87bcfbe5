package wire

import (
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// seedFrames are a few real shapes: options, VLAN tags, IPv6 with extension
// headers, fragments, ARP, and lengths that lie.
func seedFrames() map[string][]byte {
	out := map[string][]byte{
		"empty":   {},
		"runt":    make([]byte, 13),
		"syn":     tcpFrame(1, 2, 40000, 80, 1, 0, flagSYN, 0),
		"data":    tcpFrame(1, 2, 40000, 80, 1, 0, flagACK, 100),
		"fin":     tcpFrame(1, 2, 40000, 80, 1, 0, flagACK|flagFIN, 0),
		"findata": tcpFrame(1, 2, 40000, 80, 1, 0, flagACK|flagFIN, 3),
		"rst":     tcpFrame(1, 2, 40000, 80, 1, 0, flagRST, 0),
	}
	edit := func(name, from string, f func(b []byte) []byte) { out[name] = f(append([]byte(nil), out[from]...)) }
	edit("cut", "data", func(b []byte) []byte { return b[:60] })
	edit("fragment", "data", func(b []byte) []byte { b[20] = 0x20; return b })
	edit("offset15", "data", func(b []byte) []byte { b[14+20+12] = 0xf0; return b })
	edit("offset0", "data", func(b []byte) []byte { b[14+20+12] = 0; return b })
	edit("ihl15", "data", func(b []byte) []byte { b[14] = 0x4f; return b })
	edit("ihl0", "data", func(b []byte) []byte { b[14] = 0x40; return b })
	edit("short", "data", func(b []byte) []byte { binary.BigEndian.PutUint16(b[16:], 10); return b })
	edit("udp", "data", func(b []byte) []byte { b[23] = protoUDP; return b })
	edit("icmp", "data", func(b []byte) []byte { b[23] = 1; return b })
	edit("vlan", "data", func(b []byte) []byte {
		return append(append(append([]byte(nil), b[:12]...), 0x81, 0, 0, 5), b[12:]...)
	})
	arp := make([]byte, 42)
	binary.BigEndian.PutUint16(arp[12:], etherARP)
	out["arp"] = arp
	six := make([]byte, 14+40+8+20)
	binary.BigEndian.PutUint16(six[12:], etherIPv6)
	six[14], six[20] = 0x60, 60
	binary.BigEndian.PutUint16(six[18:], 28)
	six[54] = protoTCP
	six[62+12], six[62+13] = 0x50, flagSYN
	out["ipv6"] = six
	edit("ipv6fragment", "ipv6", func(b []byte) []byte { b[20] = 44; return b })
	edit("ipv6loop", "ipv6", func(b []byte) []byte { b[54] = 60; return b })
	return out
}

// FuzzDecode checks that no frame makes the wire panic, that what it reads
// lies within the frame, and that a frame's fate repeats.
func FuzzDecode(f *testing.F) {
	for _, b := range seedFrames() {
		f.Add(b)
	}
	c := Symmetric(Direction{
		Delay: time.Millisecond, Jitter: time.Millisecond, JitterDist: Pareto, Rate: 1e9, Queue: Queue{Bytes: 1e6}, MTU: 9000,
		Loss: Loss{GilbertElliott: GilbertElliott{P: 0.1, R: 0.5}}, Duplicate: 0.5, Corrupt: 0.5, Reorder: Reorder{P: 0.5},
	})
	c.Faults = []Fault{{Do: DoDrop, Match: Match{Kind: "SYN", Nth: 3}}}
	one, err := newModel(c)
	if err != nil {
		f.Fatal(err)
	}
	two, err := newModel(c)
	if err != nil {
		f.Fatal(err)
	}
	now := int64(0)
	f.Fuzz(func(t *testing.T, b []byte) {
		var d frame
		decode(b, &d)
		if int(d.payload) > len(b) {
			t.Fatalf("%d bytes of payload in %d", d.payload, len(b))
		}
		now += 1000
		for dir := range 2 {
			v := one.decide(dir, now, b)
			if v.bit < 0 || v.bit >= max(1, len(b)*8) || v.fate == delivered && v.due < now {
				t.Fatalf("%+v for %d bytes at %d", v, len(b), now)
			}
			if w := two.decide(dir, now, b); v != w {
				t.Fatalf("%+v, then %+v", v, w)
			}
		}
	})
}

// The corpus is kept as files too, so that fuzzing starts from it everywhere.
func TestTheFuzzCorpusIsCommitted(t *testing.T) {
	for name, b := range seedFrames() {
		file := filepath.Join("testdata", "fuzz", "FuzzDecode", name)
		want := "go test fuzz v1\n[]byte(\"" + escape(b) + "\")\n"
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is another frame (-update writes it anew)", file)
		}
	}
}

func escape(b []byte) string {
	var s []byte
	for i := range b {
		s = append(append(s, `\x`...), hex.EncodeToString(b[i:i+1])...)
	}
	return string(s)
}

func TestFramesAreReadAsTheyAre(t *testing.T) {
	frames := seedFrames()
	for name, want := range map[string]struct {
		kind    kind
		payload uint32
		sport   uint16
	}{
		"syn": {kindSYN, 0, 40000}, "data": {kindData, 100, 40000}, "fin": {kindFIN, 0, 40000}, "rst": {kindRST, 0, 40000},
		"findata": {kindData, 3, 40000}, "vlan": {kindData, 100, 40000}, "ipv6": {kindSYN, 0, 0},
		"cut": {kindOther, 0, 0}, "fragment": {kindOther, 0, 0}, "offset0": {kindOther, 0, 0}, "ihl0": {kindOther, 0, 0},
		"short": {kindOther, 0, 0}, "udp": {kindOther, 0, 40000}, "arp": {kindOther, 0, 0}, "empty": {kindOther, 0, 0},
		"ipv6fragment": {kindOther, 0, 0}, "ipv6loop": {kindOther, 0, 0},
	} {
		var f frame
		decode(frames[name], &f)
		if f.kind != want.kind || f.payload != want.payload || f.sport != want.sport || f.arp != (name == "arp") {
			t.Errorf("%s: kind %s, %d bytes of payload, port %d", name, kindNames[f.kind], f.payload, f.sport)
		}
	}
}
