package capture

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// twoWrites plays a request of two small writes of which the second waits for
// the ACK of the first, that comes so long after it was received; it gives the
// time of the answer and the client's next byte.
func (t *talk) twoWrites(at int64, next, answered uint32, delayed int64) (int64, uint32) {
	d := t.s.delay
	t.send(at, 0, flagPSH|flagACK, next, answered, 100, false)
	t.send(at+d+delayed, 1, flagACK, answered, next+100, 0, false)
	at += 2*d + delayed
	t.send(at+ms/100, 0, flagPSH|flagACK, next+100, answered, 900, false)
	t.send(at+ms/100+d+ms/10, 1, flagPSH|flagACK, answered, next+1000, 100, false)
	return at + ms/100 + 2*d + ms/10, next + 1000
}

func init() {
	stories = append(stories, []struct {
		name string
		tell func(*talk)
	}{
		{"nagle-only-the-first-exchange-passes", func(t *talk) {
			at := t.open(0)
			at, next := t.twoWrites(at+50*ms, 1, 1, ms/100)
			at, next = t.twoWrites(at+100*ms, next, 101, 43*ms)
			t.twoWrites(at+100*ms, next, 201, 40*ms)
		}},
		{"nagle-with-quick-acks", func(t *talk) { // each exchange is held for a round trip
			at := t.open(0)
			at, next := t.twoWrites(at+50*ms, 1, 1, ms/100)
			t.twoWrites(at+100*ms, next, 101, ms/10)
		}},
		{"nagle-off", func(t *talk) {
			at := t.open(0)
			at = t.exchange(at, 1, 100)
			t.send(at, 0, flagPSH|flagACK, 101, 101, 100, false)
			t.send(at+ms/20, 0, flagPSH|flagACK, 201, 101, 900, false)
			t.send(at+6*ms, 1, flagPSH|flagACK, 101, 1101, 100, false)
		}},
		{"nagle-has-no-part-in-a-program-that-pauses", func(t *talk) {
			at := t.open(0)
			at = t.exchange(at, 1, 100)
			t.send(at, 0, flagPSH|flagACK, 101, 101, 100, false)
			t.send(at+46*ms, 1, flagACK, 101, 201, 0, false)
			t.send(at+60*ms, 0, flagPSH|flagACK, 201, 101, 900, false) // nine after the ACK came
			t.send(at+65*ms, 1, flagPSH|flagACK, 101, 1101, 100, false)
		}},
		{"nagle-the-server-holds", func(t *talk) { // an answer in two writes
			at := t.open(0)
			at = t.exchange(at, 1, 100)
			t.send(at, 0, flagPSH|flagACK, 101, 101, 100, false)
			t.send(at+6*ms, 1, flagPSH|flagACK, 101, 201, 80, false)
			t.send(at+11*ms+40*ms, 0, flagACK, 201, 181, 0, false)
			t.send(at+56*ms+ms/50, 1, flagPSH|flagACK, 181, 201, 500, false)
			t.send(at+62*ms, 0, flagACK, 201, 681, 0, false)
		}},
		{"nagle-seen-from-one-end", func(t *talk) {
			t.s.points = []point{{host: "client", iface: "c0"}}
			at := t.open(0)
			at, next := t.twoWrites(at+50*ms, 1, 1, ms/100)
			t.twoWrites(at+100*ms, next, 101, 60*ms)
			kept := t.s.packets[:0]
			for _, p := range t.s.packets {
				if p.tap == 0 {
					kept = append(kept, p)
				}
			}
			t.s.packets = kept
		}},
	}...)
}

// held gives what is said of held segments, by relative sequence number.
func held(v *view) map[uint32]string {
	out := map[uint32]string{}
	for i := range v.pkts {
		for _, c := range v.pkts[i].comments {
			if strings.Contains(c, "Nagle") {
				out[v.pkts[i].seq] = c
			}
		}
	}
	return out
}

// TestNothingIsCalledHeldThatWasNot: whatever a program sends, of whatever
// length and when, only what leaves right after the bare ACK of a lone small
// segment is.
func TestNothingIsCalledHeldThatWasNot(t *testing.T) {
	some := 0
	rapid.Check(t, func(t *rapid.T) {
		s := &script{delay: 5 * ms}
		tk := s.talk(40_000)
		at, next := tk.open(0), uint32(1)
		want := map[uint32]bool{}
		for range rapid.IntRange(1, 10).Draw(t, "writes") {
			size := rapid.SampledFrom([]int{1, 100, 999, 1000, 1448}).Draw(t, "size")
			at += int64(rapid.IntRange(1, 50).Draw(t, "pause")) * ms
			tk.send(at, 0, flagPSH|flagACK, next, 1, size, false)
			small := size < 1000
			if rapid.Bool().Draw(t, "more before the ACK") {
				tk.send(at+ms/10, 0, flagPSH|flagACK, next+uint32(size), 1, 50, false)
				size, small = size+50, false
			}
			next += uint32(size)
			ackAt := at + 10*ms + int64(rapid.SampledFrom([]int{0, 40, 44}).Draw(t, "delay"))*ms
			tk.send(ackAt-5*ms, 1, flagACK, 1, next, 0, false)
			gap := rapid.SampledFrom([]int64{ms / 100, ms / 5, ms / 2, 20 * ms}).Draw(t, "gap")
			tk.send(ackAt+gap, 0, flagPSH|flagACK, next, 1, 200, false)
			want[next] = small && gap < heldGap
			next += 200
			at = ackAt + gap + 10*ms
			tk.send(at-5*ms, 1, flagACK, 1, next, 0, false)
		}
		v := s.view([2]int64{})
		found := map[uint32]bool{}
		for _, h := range v.holds {
			found[v.pkts[h.seg].seq] = true
		}
		for seq, held := range want {
			if found[seq] != held {
				t.Fatalf("byte %d: held %v, found %v", seq, held, found[seq])
			}
			if held {
				some++
			}
		}
		if n := len(v.holds); n > len(want) {
			t.Fatalf("%d holds of %d that there may be", n, len(want))
		}
	})
	if some == 0 {
		t.Error("nothing was ever held")
	}
}

func TestNothingIsCalledHeldAcrossWhatWasLeftOut(t *testing.T) {
	s := &script{delay: 5 * ms}
	tk := s.talk(40_000)
	at := tk.open(0)
	at, next := tk.twoWrites(at+50*ms, 1, 1, ms/100)
	tk.twoWrites(at+100*ms, next, 101, 43*ms)
	s.leaveOut = func(p packet) bool { return p.ord == 9 } // the first write of the second exchange
	if got := held(s.view([2]int64{})); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

func TestLadderOfAHeldSegment(t *testing.T) {
	s := &script{delay: 5 * ms}
	for i, delay := range []int64{43, 40, 41, 42, 44} {
		tk := s.talk(uint16(40_000 + i))
		at := tk.open(int64(i) * 300 * ms)
		at, next := tk.twoWrites(at+50*ms, 1, 1, ms/100)
		tk.twoWrites(at+100*ms, next, 101, delay*ms)
	}
	r := &Recorder{view: s.view([2]int64{0, 2000 * ms})}
	l, err := r.Ladder("held segment")
	if err != nil {
		t.Fatal(err)
	}
	if l.Spans[1].Label != "ACK delayed: 42.0 ms" {
		t.Errorf("%+v: not the median", l.Spans)
	}
	goldenJSON(t, "ladder-held.json", l)
	if l, err = r.Ladder("quick ack"); err != nil {
		t.Fatal(err)
	}
	goldenJSON(t, "ladder-quick-ack.json", l)
}

func TestLaddersOfWhatWasNotHeldAreNotThere(t *testing.T) {
	s := &script{delay: 5 * ms}
	tk := s.talk(40_000)
	tk.exchange(tk.open(0), 1, 100)
	r := &Recorder{view: s.view([2]int64{})}
	for _, show := range []string{"held segment", "quick ack"} {
		if _, err := r.Ladder(show); !errors.Is(err, ErrNoSuchPackets) {
			t.Errorf("%s: %v", show, err)
		}
	}
}
