package capture

import (
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// tcpHeader is of a packet of the connection from a client's port.
func tcpHeader(port uint16, dir int, flags uint8, seq, ack uint32, n int) *header {
	f := tcpFrame(clientAddr, serverAddr, port, 9000, seq, ack, flags, n)
	if dir == 1 {
		f = tcpFrame(serverAddr, clientAddr, 9000, port, seq, ack, flags, n)
	}
	var h header
	if err := h.decode(f); err != nil {
		panic(err)
	}
	return &h
}

func kept(k *keeper, tap int, at int64, h *header) bool {
	return k.keep(tap, at, h, 66).keep
}

func TestOnlyTheFirstConnectionsAreKept(t *testing.T) {
	k := newKeeper(Config{MaxConnections: 3}, 2)
	for i := range uint16(5) {
		want := i < 3
		for tap := range 2 {
			if got := kept(k, tap, 0, tcpHeader(40_000+i, 0, flagSYN, 1, 0, 0)); got != want {
				t.Errorf("SYN of connection %d at tap %d: kept %v", i, tap, got)
			}
			if got := kept(k, tap, 0, tcpHeader(40_000+i, 1, flagSYN|flagACK, 7, 2, 0)); got != want {
				t.Errorf("SYN-ACK of connection %d at tap %d: kept %v", i, tap, got)
			}
		}
	}
}

func TestPortsUsedAgainAreAnotherConnection(t *testing.T) {
	k := newKeeper(Config{MaxConnections: 1}, 1)
	for i, c := range []struct {
		seq  uint32
		want bool
	}{{100, true}, {100, true}, {5000, false}, {100, false}} { // the second is a retransmission
		if got := kept(k, 0, 0, tcpHeader(40_000, 0, flagSYN, c.seq, 0, 0)); got != c.want {
			t.Errorf("SYN %d: kept %v", i, got)
		}
	}
}

func TestOfALongConnectionRepairsAndTheCloseAreKept(t *testing.T) {
	k := newKeeper(Config{MaxPackets: 4}, 1)
	seq := uint32(0xffffff00) // wraps on the way
	send := func(flags uint8, n int) bool {
		ok := kept(k, 0, 0, tcpHeader(40_000, 0, flags, seq, 1, n))
		seq += uint32(n)
		return ok
	}
	for i := range 10 {
		if got := send(flagACK, 100); got != (i < 4) {
			t.Errorf("segment %d: kept %v", i, got)
		}
	}
	for _, c := range []struct {
		what string
		h    *header
		want bool
	}{
		{"new data", tcpHeader(40_000, 0, flagACK, seq, 1, 100), false},
		{"the same again", tcpHeader(40_000, 0, flagACK, seq, 1, 100), true},
		{"older data again", tcpHeader(40_000, 0, flagACK, seq-300, 1, 100), true},
		{"a keepalive probe", tcpHeader(40_000, 0, flagACK, seq+99, 1, 0), true},
		{"an ACK", tcpHeader(40_000, 0, flagACK, seq+100, 1, 0), false},
		{"the FIN", tcpHeader(40_000, 0, flagACK|flagFIN, seq+100, 1, 0), true},
		{"its ACK", tcpHeader(40_000, 1, flagACK, 1, seq+101, 0), true},
		{"an RST", tcpHeader(40_000, 1, flagRST, 1, 0, 0), true},
	} {
		if got := kept(k, 0, 0, c.h); got != c.want {
			t.Errorf("%s: kept %v", c.what, got)
		}
	}
}

func TestAWatchTakesUpConnectionsFromItsInstantOn(t *testing.T) {
	k := newKeeper(Config{MaxConnections: 1, MaxPackets: 2, WatchMore: 2}, 1)
	k.watch(1000)
	ack := func(at int64, port uint16) bool {
		return kept(k, 0, at, tcpHeader(port, 0, flagACK, uint32(at), 1, 10))
	}
	var got []bool
	for _, c := range []struct {
		at   int64
		port uint16
	}{
		{1, 1}, {2, 1}, {3, 1}, {4, 2}, // one connection, two packets
		{1000, 1}, {1001, 1}, {1002, 1}, // it is taken up again
		{999, 3},                                   // of another tap, read late
		{1003, 2}, {1004, 2}, {1005, 2}, {1006, 3}, // and one more
	} {
		got = append(got, ack(c.at, c.port))
	}
	want := []bool{true, true, false, false, true, true, false, false, true, true, false, false}
	if !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
}

func TestAMarkKeepsAllAroundItAndIsBounded(t *testing.T) {
	k := newKeeper(Config{MaxConnections: 1, MaxPackets: 1, Around: 100}, 1)
	kept(k, 0, 0, tcpHeader(1, 0, flagACK, 1, 1, 1))
	k.mark(1000, k.cfg.Around)
	for at, want := range map[int64]bool{949: false, 950: true, 1000: true, 1050: true, 1051: false} {
		if got := kept(k, 0, at, tcpHeader(2, 0, flagACK, 1, 1, 1)); got != want {
			t.Errorf("at %d: kept %v", at, got)
		}
	}
	n := 0
	for range maxMarked + 10 {
		if kept(k, 0, 1000, tcpHeader(2, 0, flagACK, 1, 1, 1)) {
			n++
		}
	}
	if n != maxMarked-3 || k.marks[0].cut != 13 {
		t.Errorf("%d kept, %d left out", n, k.marks[0].cut)
	}
}

// TestTheFileIsBounded: whatever comes, in whatever order.
func TestTheFileIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := newKeeper(Config{MaxConnections: 5, MaxBytes: int64(rapid.IntRange(1, 5000).Draw(t, "bytes"))}, 2)
		k.mark(50, k.cfg.Around)
		k.watch(20)
		var bytes int64
		full := false
		for at := range int64(200) {
			tap := rapid.IntRange(0, 1).Draw(t, "tap")
			h := tcpHeader(uint16(rapid.IntRange(1, 20).Draw(t, "port")), rapid.IntRange(0, 1).Draw(t, "dir"),
				rapid.Uint8().Draw(t, "flags"), rapid.Uint32().Draw(t, "seq"), 1, rapid.IntRange(0, 1400).Draw(t, "len"))
			n := rapid.IntRange(34, 134).Draw(t, "caplen")
			if k.keep(tap, at, h, n).keep {
				bytes += int64(n + overhead)
				if full {
					t.Fatal("a packet was kept after one was left out for want of room")
				}
			}
			if bytes > k.cfg.MaxBytes {
				t.Fatalf("%d bytes of %d", bytes, k.cfg.MaxBytes)
			}
			full = k.full > 0
		}
	})
}

func TestHistoryGivesBackOnceWhatWasNotKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s history
		var all []packet
		at := int64(0)
		for range rapid.IntRange(1, 3000).Draw(t, "packets") {
			at += int64(rapid.IntRange(0, 2_000_000).Draw(t, "gap"))
			p := packet{at: at, wire: int(at % 1500), tap: int(at % 3), out: at%2 == 0, ord: at % 777, again: at%5 == 0, data: make([]byte, 34+at%100)}
			p.data[33] = byte(at)
			all = append(all, p)
			s.add(&p)
		}
		from := at - int64(rapid.IntRange(0, int(historyTime)).Draw(t, "back"))
		var want, got []packet
		for _, p := range all {
			if p.at >= from && p.at <= at {
				want = append(want, p)
			}
		}
		for range 2 { // the second time nothing is left
			s.take(from, at, func(p *packet) bool {
				q := *p
				q.data = slices.Clone(p.data)
				got = append(got, q)
				return true
			})
		}
		if len(got) != len(want) {
			t.Fatalf("%d packets, want %d", len(got), len(want))
		}
		for i := range got {
			if a, b := got[i], want[i]; a.at != b.at || a.wire != b.wire || a.tap != b.tap || a.ord != b.ord || a.again != b.again || a.out != b.out || !slices.Equal(a.data, b.data) {
				t.Fatalf("packet %d is %+v, want %+v", i, a, b)
			}
		}
		n := 0
		for _, c := range s.chunks {
			n += cap(c.b)
		}
		if n > historyBytes {
			t.Fatalf("%d bytes held", n)
		}
	})
}

// TestAConnectionIsTakenUpAtAllTapsAtOnce: connections that are under way when
// a watch begins are recorded from one instant on at both ends, although both
// rings have held their packets for a while.
func TestAConnectionIsTakenUpAtAllTapsAtOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &script{delay: 5 * ms}
		for i := range 12 {
			tk := s.talk(uint16(40_000 + i))
			at := tk.open(int64(i) * int64(rapid.IntRange(1, 8).Draw(t, "gap")) * ms)
			at = tk.exchange(at, 1, 128)
			tk.closes(at+ms, 0, [2]uint32{129, 129})
		}
		sort.SliceStable(s.packets, func(i, j int) bool { return s.packets[i].at < s.packets[j].at })
		r := New(Config{MaxConnections: rapid.IntRange(1, 5).Draw(t, "connections"), WatchMore: rapid.IntRange(1, 20).Draw(t, "more"),
			MaxPackets: rapid.IntRange(4, 20).Draw(t, "packets"), Names: map[string]string{"10.9.0.1": "client", "10.9.0.2": "server"}})
		r.keep = newKeeper(r.cfg, 2)
		r.keep.watch(rapid.Int64Range(0, 120).Draw(t, "watch") * ms)
		if rapid.Bool().Draw(t, "mark") {
			r.keep.cfg.Around = 20 * time.Millisecond
			r.keep.mark(rapid.Int64Range(0, 120).Draw(t, "at")*ms, r.keep.cfg.Around)
		}
		for tap := range 2 {
			n := 0
			ring := &Tap{fd: -1, size: 256, slots: len(s.packets) + 1, ring: make([]byte, 256*(len(s.packets)+1))}
			for _, p := range s.packets {
				if p.tap == tap {
					ring.put(n, p.at+1e9, p.out, p.data)
					n++
				}
			}
			r.points = append(r.points, point{host: []string{"client", "server"}[tap], iface: "x", tap: ring})
		}
		r.skew = 1e9
		r.merge(1 << 62)
		v := newView(r)
		for i := range v.pkts {
			for _, c := range v.pkts[i].comments {
				if strings.HasPrefix(c, "lost") || strings.Contains(c, "missing") || strings.Contains(c, "server closes first") {
					t.Fatalf("packet %d, %s: %s", i, label(&v.pkts[i]), c)
				}
			}
		}
	})
}
