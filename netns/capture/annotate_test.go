package capture

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite testdata")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not as it was; if that is meant, run with -update\n%s", file, got)
	}
}

// open plays the handshake from at on; it gives when the client may send.
func (t *talk) open(at int64) int64 {
	rtt := 2 * t.s.delay
	t.send(at, 0, flagSYN, 0, 0, 0, false, 2, 4, 5, 0xb4, 1, 3, 3, 7)
	t.send(at+t.s.delay, 1, flagSYN|flagACK, 0, 1, 0, false, 2, 4, 5, 0xb4, 1, 3, 3, 7)
	t.send(at+rtt, 0, flagACK, 1, 1, 0, false)
	return at + rtt
}

// closes plays a close by dir; next are both sides' next bytes.
func (t *talk) closes(at int64, dir int, next [2]uint32) {
	d := t.s.delay
	t.send(at, dir, flagFIN|flagACK, next[dir], next[1-dir], 0, false)
	t.send(at+d+ms/10, 1-dir, flagFIN|flagACK, next[1-dir], next[dir]+1, 0, false)
	t.send(at+2*d+ms/10, dir, flagACK, next[dir]+1, next[1-dir]+1, 0, false)
}

// exchange plays a request of n bytes and an answer of as many, both from
// next on; it gives when the answer came.
func (t *talk) exchange(at int64, next uint32, n int) int64 {
	d, e := t.s.delay, next+uint32(n)
	t.send(at, 0, flagPSH|flagACK, next, next, n, false)
	t.send(at+d+ms/10, 1, flagPSH|flagACK, next, e, n, false)
	t.send(at+2*d+ms/10, 0, flagACK, e, e, 0, false)
	return at + 2*d + ms/10
}

var stories = []struct {
	name string
	tell func(*talk)
}{
	{"pooled-answer-after-a-delayed-ack", func(t *talk) { // not Nagle's doing
		at := t.open(0)
		t.send(at, 0, flagPSH|flagACK, 1, 1, 100, false)
		t.send(at+6*ms, 1, flagPSH|flagACK, 1, 101, 100, false)
		t.send(at+52*ms, 0, flagACK, 101, 101, 0, false) // delayed
		t.send(at+52*ms+ms/100, 0, flagPSH|flagACK, 101, 101, 100, false)
		t.send(at+57*ms+ms/20, 1, flagPSH|flagACK, 101, 201, 100, false)
	}},
	{"the-first-fin-went-unseen", func(t *talk) {
		t.isn = [2]uint32{1000, 2000}
		t.send(0, 0, flagACK, 50, 60, 0, false) // after the client's FIN
		t.send(20*ms, 1, flagFIN|flagACK, 60, 50, 0, false)
		t.send(30*ms, 0, flagACK, 50, 61, 0, false)
	}},
	{"left-out-in-the-middle", func(t *talk) { // see leftOut
		at := t.open(0)
		next := uint32(1)
		for range 6 {
			at = t.exchange(at+100*ms, next, 64)
			next += 64
		}
	}},
	{"left-out-but-for-repairs", func(t *talk) {
		at := t.open(0)
		at = t.exchange(at, 1, 64)
		at = t.exchange(at, 65, 64)
		t.send(at+100*ms, 0, flagPSH|flagACK, 129, 129, 64, true) // left out, as are all before it
		gap := 204 * ms
		for range 4 {
			at += gap
			t.send(at, 0, flagPSH|flagACK, 129, 129, 64, true)
			gap *= 2
		}
	}},
	{"request-and-close", func(t *talk) {
		at := t.open(0)
		at = t.exchange(at+ms/5, 1, 132)
		t.closes(at+ms/5, 0, [2]uint32{133, 133})
	}},
	{"reused", func(t *talk) {
		at := t.open(0)
		next := uint32(1)
		for i := range 4 {
			at = t.exchange(at+int64(i)*500*ms+ms, next, 64)
			next += 64
		}
	}},
	{"server-closes-first", func(t *talk) {
		at := t.open(0)
		at = t.exchange(at, 1, 100)
		t.closes(at+ms, 1, [2]uint32{101, 101})
	}},
	{"both-close-at-once", func(t *talk) {
		at := t.open(0)
		t.send(at, 0, flagFIN|flagACK, 1, 1, 0, false)
		t.send(at, 1, flagFIN|flagACK, 1, 1, 0, false)
		t.send(at+5*ms, 0, flagACK, 2, 2, 0, false)
		t.send(at+5*ms, 1, flagACK, 2, 2, 0, false)
	}},
	{"syn-lost", func(t *talk) {
		for i, at := range []int64{0, 1030, 3080, 7200} {
			t.send(at*ms, 0, flagSYN, 0, 0, 0, i < 3)
		}
		t.send(7205*ms, 1, flagSYN|flagACK, 0, 1, 0, false)
		t.send(7210*ms, 0, flagACK, 1, 1, 0, false)
	}},
	{"syn-ack-lost", func(t *talk) {
		t.send(0, 0, flagSYN, 0, 0, 0, false)
		t.send(5*ms, 1, flagSYN|flagACK, 0, 1, 0, true)
		t.send(1030*ms, 0, flagSYN, 0, 0, 0, false)
		t.send(1035*ms, 1, flagSYN|flagACK, 0, 1, 0, false)
		t.send(1040*ms, 0, flagACK, 1, 1, 0, false)
	}},
	{"refused", func(t *talk) {
		t.isn[1] = 0 // the RST has no sequence number of its own
		t.send(0, 0, flagSYN, 0, 0, 0, false)
		t.send(5*ms, 1, flagRST|flagACK, 0, 1, 0, false)
	}},
	{"request-lost-for-good", func(t *talk) {
		at := t.open(0)
		at = t.exchange(at, 1, 128)
		at += 100 * ms
		t.send(at, 0, flagPSH|flagACK, 129, 129, 128, true)
		// A tail loss probe, then timeouts from 210 ms on, as Linux does it.
		for _, gap := range []int64{21, 212, 424, 848, 1696, 3392} {
			at += gap * ms
			t.send(at, 0, flagPSH|flagACK, 129, 129, 128, true)
		}
	}},
	{"probe-as-late-as-the-timeout", func(t *talk) {
		at := t.open(0)
		t.send(at, 0, flagPSH|flagACK, 1, 1, 128, true)
		for _, gap := range []int64{206, 208, 424, 832} { // as Linux 6.18 did
			at += gap * ms
			t.send(at, 0, flagPSH|flagACK, 1, 1, 128, true)
		}
	}},
	{"timeouts-up-to-their-limit", func(t *talk) {
		at := t.open(0)
		t.send(at, 0, flagPSH|flagACK, 1, 1, 128, true)
		gap := 204 * ms
		for range 13 {
			at += gap
			t.send(at, 0, flagPSH|flagACK, 1, 1, 128, true)
			gap = min(2*gap, rtoMax)
		}
	}},
	{"answer-lost-once", func(t *talk) {
		at := t.open(0)
		t.send(at, 0, flagPSH|flagACK, 1, 1, 128, false)
		t.send(at+6*ms, 1, flagPSH|flagACK, 1, 129, 128, true)
		t.send(at+210*ms, 1, flagPSH|flagACK, 1, 129, 128, false)
		t.send(at+215*ms, 0, flagACK, 129, 129, 0, false)
	}},
	{"ack-lost", func(t *talk) {
		at := t.open(0)
		t.send(at, 0, flagPSH|flagACK, 1, 1, 1000, false)
		t.send(at+5*ms, 1, flagACK, 1, 1001, 0, true)
		t.send(at+211*ms, 0, flagPSH|flagACK, 1, 1, 1000, false)
		sack := []byte{1, 1, optSACK, 10, 0, 0, 0, 0, 0, 0, 0, 0}
		be := func(b []byte, v uint32) { b[0], b[1], b[2], b[3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v) }
		be(sack[4:], 1+t.isn[0])
		be(sack[8:], 1001+t.isn[0])
		t.send(at+216*ms, 1, flagACK, 1, 1001, 0, false, sack...)
	}},
	{"fast-retransmit", func(t *talk) {
		at := t.open(0)
		seq := uint32(1)
		for i := range 5 {
			t.send(at+int64(i)*ms/10, 0, flagACK, seq, 1, 1448, i == 1)
			seq += 1448
		}
		t.send(at+5*ms, 1, flagACK, 1, 1449, 0, false)
		for i := range 3 {
			t.send(at+5*ms+int64(i+2)*ms/10, 1, flagACK, 1, 1449, 0, false)
		}
		t.send(at+11*ms, 0, flagACK, 1449, 1, 1448, false)
		t.send(at+16*ms, 1, flagACK, 1, seq, 0, false)
	}},
	{"nagle-and-delayed-ack", func(t *talk) {
		at := t.open(0)
		at = t.exchange(at, 1, 100)
		t.send(at, 0, flagPSH|flagACK, 101, 101, 100, false)
		t.send(at+5*ms+41*ms, 1, flagACK, 101, 201, 0, false)
		t.send(at+51*ms, 0, flagPSH|flagACK, 201, 101, 900, false)
		t.send(at+56*ms, 1, flagPSH|flagACK, 101, 1101, 100, false)
	}},
	{"zero-window", func(t *talk) {
		at := t.open(0)
		t.send(at, 0, flagPSH|flagACK, 1, 1, 1448, false)
		t.sendWin(at+5*ms, 1, flagACK, 1, 1449, 0, 0, false)
		for _, gap := range []int64{216, 440, 880} {
			at += gap * ms
			t.send(at, 0, flagACK, 1448, 1, 0, false)
			t.sendWin(at+5*ms, 1, flagACK, 1, 1449, 0, 0, false)
		}
		t.sendWin(at+300*ms, 1, flagACK, 1, 1449, 0, 500, false)
		t.send(at+305*ms, 0, flagPSH|flagACK, 1449, 1, 100, false)
	}},
	{"keepalive", func(t *talk) {
		at := t.open(0)
		at = t.exchange(at, 1, 100)
		t.send(at+15_000*ms, 0, flagACK, 100, 101, 0, false)
		t.send(at+15_005*ms, 1, flagACK, 101, 101, 0, false)
		for i := range 3 {
			t.send(at+int64(30+15*i)*1000*ms, 0, flagACK, 100, 101, 0, true)
		}
		t.send(at+90_000*ms, 0, flagRST|flagACK, 101, 101, 0, true)
	}},
	{"peer-rebooted", func(t *talk) {
		at := t.open(0)
		at = t.exchange(at, 1, 100)
		at = at + 5000*ms
		t.send(at, 0, flagPSH|flagACK, 101, 101, 100, false)
		t.send(at+5*ms, 1, flagRST, 101, 0, 0, false)
	}},
	{"aborted", func(t *talk) {
		at := t.open(0)
		t.send(at, 0, flagPSH|flagACK, 1, 1, 100, false)
		t.send(at+5*ms, 1, flagRST|flagACK, 1, 101, 0, false)
	}},
	{"captured-from-the-middle", func(t *talk) {
		next := uint32(5000)
		for i := range 2 {
			t.exchange(int64(i)*1500*ms, next, 64)
			next += 64
		}
	}},
	{"same-ports-again", func(t *talk) {
		at := t.open(0)
		at = t.exchange(at, 1, 100)
		t.closes(at, 0, [2]uint32{101, 101})
		t.isn = [2]uint32{t.isn[0] + 50_000_000, t.isn[1] + 70_000_000}
		at = t.open(at + 1000*ms)
		t.exchange(at, 1, 100)
	}},
	{"closed-with-data-unsent", func(t *talk) { // an orphan
		at := t.open(0)
		t.send(at, 0, flagPSH|flagACK, 1, 1, 128, true)
		t.send(at+50*ms, 0, flagFIN|flagACK, 129, 1, 0, true)
		t.send(at+70*ms, 0, flagFIN|flagACK, 129, 1, 0, true) // a tail loss probe
		at += 70 * ms
		for _, gap := range []int64{208, 424, 832, 1664} {
			at += gap * ms
			t.send(at, 0, flagPSH|flagACK, 1, 1, 128, true)
		}
	}},
	{"fin-into-the-void", func(t *talk) {
		at := t.open(0)
		t.send(at, 0, flagFIN|flagACK, 1, 1, 0, true)
		for _, gap := range []int64{208, 208, 424, 832, 1664} {
			at += gap * ms
			t.send(at, 0, flagFIN|flagACK, 1, 1, 0, true)
		}
	}},
	{"reset-in-the-window", func(t *talk) {
		at := t.open(0)
		at = t.exchange(at, 1, 100)
		t.send(at+ms, 1, flagRST|flagACK, 3000, 101, 0, false)
		t.send(at+12*ms, 0, flagACK, 101, 101, 0, false)
	}},
	{"answer-in-pieces", func(t *talk) {
		at := t.open(0)
		t.send(at, 0, flagACK, 1, 1, 1448, false)
		t.send(at+ms/100, 0, flagPSH|flagACK, 1449, 1, 552, false)
		for i := range uint32(3) {
			t.send(at+6*ms+int64(i)*ms/10, 1, flagACK, 1+i*1448, 2001, 1448, false)
		}
		t.send(at+12*ms, 0, flagACK, 2001, 4345, 0, false)
		t.send(at+20*ms, 0, flagPSH|flagACK, 2001, 4345, 10, false)
		t.send(at+26*ms, 1, flagPSH|flagACK, 4345, 2011, 10, false)
	}},
}

// leftOut is which packets of a story were seen, but not kept.
var leftOut = map[string]func(packet) bool{
	"left-out-in-the-middle":   func(p packet) bool { return p.ord > 8 && p.ord < 14 },
	"left-out-but-for-repairs": func(p packet) bool { return p.ord > 5 && !p.again },
}

// TestEachPacketSaysWhatItMeans holds whole stories against what was said of
// them, at both hosts' interfaces.
func TestEachPacketSaysWhatItMeans(t *testing.T) {
	for _, st := range stories {
		t.Run(st.name, func(t *testing.T) {
			s := &script{delay: 5 * ms, leaveOut: leftOut[st.name]}
			st.tell(s.talk(40_000))
			// The recording goes on for a while.
			s.packets = append(s.packets, packet{at: s.packets[len(s.packets)-1].at + 300_000*ms, data: make([]byte, 60)})
			v := s.view([2]int64{})
			var b bytes.Buffer
			for i := range v.pkts[:len(v.pkts)-1] {
				p := &v.pkts[i]
				way := "<"
				if p.out {
					way = ">"
				}
				fmt.Fprintf(&b, "%10.1f ms %-6s %s %-32s %s\n", float64(p.at)/1e6, v.points[p.tap].host, way, label(p), strings.Join(p.comments, " | "))
			}
			golden(t, "story-"+st.name+".txt", trimLines(b.Bytes()))
		})
	}
}

// TestNothingIsCalledLostThatCame: whatever is lost on the way, and whatever
// was not kept at either end.
func TestNothingIsCalledLostThatCame(t *testing.T) {
	told := 0
	rapid.Check(t, func(t *rapid.T) {
		s := &script{delay: 5 * ms}
		skip := rapid.SliceOfN(rapid.IntRange(0, 3), 40, 40).Draw(t, "left out")
		n := 0
		s.leaveOut = func(packet) bool {
			n++
			return skip[n/3%len(skip)] == 0
		}
		tk := s.talk(40_000)
		at, seq := tk.open(0), [2]uint32{1, 1}
		for range rapid.IntRange(1, 60).Draw(t, "packets") {
			at += int64(rapid.IntRange(0, 30).Draw(t, "gap")) * ms
			dir := rapid.IntRange(0, 1).Draw(t, "dir")
			size := rapid.SampledFrom([]int{0, 0, 100, 1448}).Draw(t, "size")
			if rapid.IntRange(0, 9).Draw(t, "again") == 0 && seq[dir] > 100 {
				tk.send(at, dir, flagACK, seq[dir]-100, seq[1-dir], 100, rapid.Bool().Draw(t, "lost"))
				continue
			}
			tk.send(at, dir, flagACK, seq[dir], seq[1-dir], size, rapid.IntRange(0, 4).Draw(t, "lost") == 0)
			seq[dir] += uint32(size)
		}
		came := map[uint16]bool{}
		for _, p := range s.packets {
			if !p.out {
				came[binary.BigEndian.Uint16(p.data[18:])] = true
			}
		}
		if rapid.Bool().Draw(t, "goes on") {
			s.packets = append(s.packets, packet{at: at + 5000*ms, data: make([]byte, 60)})
		}
		v := s.view([2]int64{})
		for i := range v.pkts {
			for _, c := range v.pkts[i].comments {
				if strings.HasPrefix(c, "lost:") {
					told++
					if came[v.pkts[i].h.id] {
						t.Fatalf("packet %d came: %s", i, label(&v.pkts[i]))
					}
				}
			}
		}
	})
	if told == 0 {
		t.Error("nothing was ever called lost")
	}
}

func trimLines(b []byte) []byte {
	lines := strings.Split(string(b), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return []byte(strings.Join(lines, "\n"))
}

func TestLadderIsATypicalOneOfTheMeasuringWindow(t *testing.T) {
	s := &script{delay: 5 * ms}
	// 20 connections, one each 100 ms; the server takes ever longer, and the
	// one of median duration within the window is number 12.
	for i := range 20 {
		tk := s.talk(uint16(40_000 + i))
		at := tk.open(int64(i) * 100 * ms)
		tk.send(at, 0, flagPSH|flagACK, 1, 1, 128, false)
		came := at + 5*ms + int64(i)*ms
		tk.send(came, 1, flagPSH|flagACK, 1, 129, 128, i == 12) // lost: not typical
		if i == 12 || i == 13 {                                 // 13: it had come, but its ACK was late
			tk.send(came+200*ms, 1, flagPSH|flagACK, 1, 129, 128, false)
		}
		tk.closes(came+6*ms, 0, [2]uint32{129, 129})
	}
	v := s.view([2]int64{1000 * ms, 1600 * ms})
	r := &Recorder{view: v}
	l, err := r.Ladder("handshake")
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Spans[2].Label; got != "total: 31.0 ms" {
		t.Errorf("%s: not the median of the window's", got)
	}
	goldenJSON(t, "ladder-handshake.json", l)
}

func TestLadderOfAReusedConnectionHasNoHandshake(t *testing.T) {
	s := &script{delay: 5 * ms}
	tk := s.talk(40_000)
	at := tk.open(0)
	next := uint32(1)
	for range 9 {
		at = tk.exchange(at+10*ms, next, 128)
		next += 128
	}
	r := &Recorder{view: s.view([2]int64{100 * ms, 1000 * ms})}
	l, err := r.Ladder("reused request")
	if err != nil {
		t.Fatal(err)
	}
	goldenJSON(t, "ladder-reused.json", l)
}

func TestLadderEndsWithItsExchange(t *testing.T) {
	for name, tell := range map[string]func(*script, *talk, int64){
		"a keepalive probe much later": func(_ *script, tk *talk, at int64) {
			tk.send(at+15_000*ms, 0, flagACK, 256, 257, 0, false)
			tk.send(at+15_005*ms, 1, flagACK, 257, 257, 0, false)
		},
		"packets left out after it": func(s *script, tk *talk, at int64) {
			s.leaveOut = func(p packet) bool { return p.at > at+10*ms && p.at < at+100*ms }
			tk.send(at+50*ms, 0, flagACK|flagPSH, 257, 257, 10, false)
			tk.send(at+120*ms, 1, flagACK|flagPSH, 257, 267, 10, false)
		},
	} {
		s := &script{delay: 5 * ms}
		tk := s.talk(40_000)
		at := tk.exchange(tk.open(0), 1, 128)
		at = tk.exchange(at+10*ms, 129, 128)
		tell(s, tk, at)
		l, err := (&Recorder{view: s.view([2]int64{})}).Ladder("reused request")
		if err != nil {
			t.Fatal(err)
		}
		if len(l.Events) != 3 {
			t.Errorf("%s: %d packets, want the request, the answer and its ACK", name, len(l.Events))
		}
	}
}

func TestAPacketIsNotPairedWithWhatCameBeforeItLeft(t *testing.T) {
	s := &script{delay: 5 * ms}
	tk := s.talk(40_000)
	tk.send(0, 0, flagSYN, 0, 0, 0, false)
	for i, lost := range []bool{false, true} {
		s.id = 99 // the very same packet twice, as SYN-ACKs are
		tk.send(int64(10+1000*i)*ms, 1, flagSYN|flagACK, 0, 1, 0, lost)
	}
	s.leaveOut = func(p packet) bool { return p.at == 10*ms && p.out } // of the first, only the arrival was kept
	v := s.view([2]int64{})
	if n := len(v.trip(v.conns[0], 1, 0)); n != 0 {
		t.Errorf("%d pairs", n)
	}
}

// A kernel whose accept queue is full drops the SYN after it was captured there.
func TestWhatArrivedAtAHostThatNeverAnswersIsNotLost(t *testing.T) {
	s := &script{delay: 5 * ms}
	tk := s.talk(40_000)
	for i, lost := range []bool{false, true, false} {
		tk.send(int64(1000*i)*ms, 0, flagSYN, 0, 0, 0, lost)
	}
	l, err := (&Recorder{view: s.view([2]int64{})}).Ladder("unanswered SYN")
	if err != nil {
		t.Fatal(err)
	}
	var arrived []bool
	for _, e := range l.Events {
		arrived = append(arrived, e.Arrived != nil)
	}
	if !slices.Equal(arrived, []bool{true, false, true}) {
		t.Errorf("arrived: %v, want the first and the last", arrived)
	}
}

func TestLadderShowsWhatWasLost(t *testing.T) {
	s := &script{delay: 5 * ms}
	tk := s.talk(40_000)
	at := tk.open(0)
	tk.send(at, 0, flagPSH|flagACK, 1, 1, 128, true)
	tk.send(at+204*ms, 0, flagPSH|flagACK, 1, 1, 128, false)
	tk.send(at+209*ms, 1, flagPSH|flagACK, 1, 129, 128, false)
	l, err := (&Recorder{view: s.view([2]int64{})}).Ladder("handshake")
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for _, e := range l.Events {
		if e.Arrived == nil {
			lost++
			if e.Len != 128 || !strings.Contains(e.Comment, "lost") {
				t.Errorf("%+v", e)
			}
		}
	}
	if lost != 1 {
		t.Errorf("%d packets without an arrival, want 1", lost)
	}
}

func goldenJSON(t *testing.T, name string, v any) {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, name, append(b, '\n'))
}

func TestDurationsHaveThreeDigits(t *testing.T) {
	for ns, want := range map[int64]string{
		0: "0.00 µs", 18_400: "18.4 µs", 999_700: "1.00 ms", 10_304_000: "10.3 ms", 999_960_000: "1.00 s",
		1_030_000_000: "1.03 s", 120_000_000_000: "120 s", 924_600_000_000: "925 s", 43_250_000_000_000: "43,250 s", 99_960: "100 µs", 204_100_000: "204 ms",
	} {
		if got := dur(ns); got != want {
			t.Errorf("%d ns is %q, want %q", ns, got, want)
		}
	}
}
