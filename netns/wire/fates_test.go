package wire

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func mustModel(t testing.TB, c Config) *model {
	t.Helper()
	m, err := newModel(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// everything is a direction with every impairment on.
func everything() Direction {
	return Direction{
		Delay: 10 * time.Millisecond, Jitter: 2 * time.Millisecond, JitterDist: Normal,
		Loss: Loss{P: 0.2}, Duplicate: 0.2, Corrupt: 0.2, Reorder: Reorder{P: 0.2, Extra: 3 * time.Millisecond},
	}
}

// story is one flow as a sequence of frames, each with its direction.
type story struct {
	frames [][]byte
	dirs   []int
}

// tell makes the frames of a connection from client port sport: handshake,
// data in segments of the given sizes, some sent twice, ACKs, FINs.
func tell(sport uint16, isn uint32, sizes []int, again map[int]bool) story {
	var s story
	add := func(dir int, f []byte) { s.frames, s.dirs = append(s.frames, f), append(s.dirs, dir) }
	peer := isn + 77
	add(dirB, tcpFrame(1, 2, sport, 80, isn, 0, flagSYN, 0))
	add(dirA, tcpFrame(2, 1, 80, sport, peer, isn+1, flagSYN|flagACK, 0))
	add(dirB, tcpFrame(1, 2, sport, 80, isn+1, peer+1, flagACK, 0))
	seq := isn + 1
	for i, n := range sizes {
		add(dirB, tcpFrame(1, 2, sport, 80, seq, peer+1, flagACK, n))
		if again[i] {
			add(dirB, tcpFrame(1, 2, sport, 80, seq, peer+1, flagACK, n))
		}
		seq += uint32(n)
		add(dirA, tcpFrame(2, 1, 80, sport, peer+1, seq, flagACK, 0))
	}
	add(dirB, tcpFrame(1, 2, sport, 80, seq, peer+1, flagACK|flagFIN, 0))
	add(dirA, tcpFrame(2, 1, 80, sport, peer+1, seq+1, flagACK|flagFIN, 0))
	return s
}

// outcome is a verdict without its departure, which the frames before it
// decide too where order is kept.
type outcome struct {
	fate fate
	copy bool
	bit  int
}

func drawStories(t *rapid.T) []story {
	var out []story
	for i := range rapid.IntRange(1, 6).Draw(t, "flows") {
		sizes := rapid.SliceOfN(rapid.IntRange(1, 1448), 0, 12).Draw(t, "sizes")
		again := map[int]bool{}
		for j := range sizes {
			again[j] = rapid.Bool().Draw(t, "again")
		}
		isn := rapid.Uint32().Draw(t, "isn")
		out = append(out, tell(uint16(40000+i), isn, sizes, again))
	}
	return out
}

// play runs the stories through a wire in a drawn interleaving. The first SYNs
// keep their order, which is what the flows' ordinals are. Frames wait for
// times that differ from play to play.
func play(t *rapid.T, m *model, stories []story, label string) [][]outcome {
	at := make([]int, len(stories))
	out := make([][]outcome, len(stories))
	now := rapid.Int64Range(0, 1e12).Draw(t, label+" start")
	begun := 0
	for left := true; left; {
		var can []int
		for i, s := range stories {
			if at[i] < len(s.frames) && (at[i] > 0 || i == begun) {
				can = append(can, i)
			}
		}
		if left = len(can) > 0; !left {
			break
		}
		i := rapid.SampledFrom(can).Draw(t, label)
		if at[i] == 0 {
			begun++
		}
		v := m.decide(stories[i].dirs[at[i]], now, stories[i].frames[at[i]])
		out[i] = append(out[i], outcome{v.fate, v.copy, v.bit})
		at[i]++
		now += rapid.Int64Range(0, 5e6).Draw(t, label+" gap")
	}
	return out
}

func TestSameSeedSameFatesThoughFlowsInterleaveDifferently(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := everything()
		if rapid.Bool().Draw(t, "bursts") {
			d.Loss = Loss{GilbertElliott: GilbertElliott{P: 0.2, R: 0.4, H: 0.1}}
		}
		c := Symmetric(d)
		c.Seed = rapid.Uint64().Draw(t, "seed")
		stories := drawStories(t)
		m1, err := newModel(c)
		if err != nil {
			t.Fatal(err)
		}
		m2, _ := newModel(c)
		one, two := play(t, m1, stories, "one"), play(t, m2, stories, "two")
		for i := range stories {
			for j := range one[i] {
				if one[i][j] != two[i][j] {
					t.Fatalf("flow %d frame %d: %+v, then %+v", i, j, one[i][j], two[i][j])
				}
			}
		}
		if s := Share(m1.log.Entries(), m2.log.Entries()); s != 1 {
			t.Fatalf("the share of the same packets is %v", s)
		}
	})
}

func TestFateOfASegmentDoesNotDependOnHowTheStreamIsCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Symmetric(everything())
		c.Seed = rapid.Uint64().Draw(t, "seed")
		// By the offset of a segment's first byte.
		send := func(isn uint32, sizes []int) map[int]outcome {
			m, _ := newModel(c)
			out := map[int]outcome{}
			s := tell(40000, isn, sizes, nil)
			off := 0
			for i, f := range s.frames {
				v := m.decide(s.dirs[i], int64(i)*1e6, f)
				if n := len(f) - 54; n > 0 {
					// What is corrupted depends on the length, whether does not.
					out[off] = outcome{v.fate, v.copy, min(v.bit, 1)}
					off += n
				}
			}
			return out
		}
		cut := func(label string) []int {
			return rapid.SliceOfN(rapid.SampledFrom([]int{128, 256, 512, 1448}), 1, 30).Draw(t, label)
		}
		one := send(rapid.Uint32().Draw(t, "isn"), cut("one"))
		two := send(rapid.Uint32().Draw(t, "other isn"), cut("two"))
		for off, v := range one {
			if w, ok := two[off]; ok && v != w {
				t.Fatalf("offset %d: %+v, then %+v", off, v, w)
			}
		}
	})
}

func TestRetransmissionOfSameBytesHasItsOwnFate(t *testing.T) {
	c := Symmetric(Direction{Loss: Loss{P: 0.5}})
	c.Seed = 1
	fates := func() (out []fate) {
		m := mustModel(t, c)
		m.decide(dirB, 0, tcpFrame(1, 2, 40000, 80, 100, 0, flagSYN, 0))
		f := tcpFrame(1, 2, 40000, 80, 101, 0, flagACK, 500)
		for i := range 64 {
			out = append(out, m.decide(dirB, int64(i)*1e9, f).fate)
		}
		if n := m.dirs[dirB].count.tcpAgain; n != 63 {
			t.Errorf("%d retransmitted segments counted of 63", n)
		}
		return out
	}
	one := fates()
	n := 0
	for _, f := range one {
		if f == lost {
			n++
		}
	}
	if n < 20 || n > 44 { // 32 ± 3 standard deviations
		t.Errorf("%d of 64 transmissions of the same byte are lost at 50%%", n)
	}
	if two := fates(); fmt.Sprint(one) != fmt.Sprint(two) {
		t.Errorf("another trial with the same seed:\n%v\n%v", one, two)
	}
}

func TestCoverCountsWhatWasSentBefore(t *testing.T) {
	type segment struct {
		seq    uint32
		n      int
		offset int64
		count  uint32
		again  bool
	}
	for _, v := range []struct {
		name string
		isn  uint32
		segs []segment
	}{
		{"in order", 1000, []segment{{1001, 100, 1, 0, false}, {1101, 100, 101, 0, false}}},
		{"sent again, twice", 1000, []segment{{1001, 100, 1, 0, false}, {1001, 100, 1, 1, true}, {1001, 100, 1, 2, true}}},
		{"its tail is new", 1000, []segment{{1001, 100, 1, 0, false}, {1051, 100, 51, 1, true}, {1101, 50, 101, 1, true}, {1051, 50, 51, 2, true}}},
		{"overtaken, then late", 1000, []segment{{1001, 100, 1, 0, false}, {1201, 100, 201, 0, false}, {1101, 100, 101, 0, false}, {1101, 100, 101, 1, true}}},
		{"late in two pieces", 1000, []segment{{1201, 100, 201, 0, false}, {1101, 50, 101, 0, false}, {1001, 100, 1, 0, false}, {1151, 50, 151, 0, false}, {1001, 10, 1, 1, true}}},
		{"sequence numbers wrap", math.MaxUint32 - 100, []segment{{math.MaxUint32 - 99, 100, 1, 0, false}, {0, 100, 101, 0, false}, {math.MaxUint32 - 49, 10, 51, 1, true}, {100, 10, 201, 0, false}}},
	} {
		t.Run(v.name, func(t *testing.T) {
			fl := newFlows(16)
			var f frame
			var p place
			decode(tcpFrame(1, 2, 40000, 80, v.isn, 0, flagSYN, 0), &f)
			fl.observe(dirB, &f, &p)
			for i, s := range v.segs {
				decode(tcpFrame(1, 2, 40000, 80, s.seq, 0, flagACK, s.n), &f)
				fl.observe(dirB, &f, &p)
				if p.offset != s.offset || p.count != s.count || p.again != s.again {
					t.Errorf("segment %d: offset %d, count %d, again %v; want %d, %d, %v", i, p.offset, p.count, p.again, s.offset, s.count, s.again)
				}
			}
		})
	}
}

func TestOffsetsGrowBeyond32Bits(t *testing.T) {
	fl := newFlows(16)
	var f frame
	var p place
	decode(tcpFrame(1, 2, 40000, 80, 7, 0, flagSYN, 0), &f)
	fl.observe(dirB, &f, &p)
	b := tcpFrame(1, 2, 40000, 80, 0, 0, flagACK, 1<<15)
	want := int64(1)
	for seq := uint32(8); want < 5<<31; seq += 1 << 15 {
		setSeq(b, seq)
		decode(b, &f)
		fl.observe(dirB, &f, &p)
		if p.offset != want || p.again {
			t.Fatalf("offset %d, again %v; want %d", p.offset, p.again, want)
		}
		want += 1 << 15
	}
}

func TestForgottenRetransmissionsDoNotRepeatAFate(t *testing.T) {
	fl := newFlows(16)
	var f frame
	var p place
	decode(tcpFrame(1, 2, 40000, 80, 0, 0, flagSYN, 0), &f)
	fl.observe(dirB, &f, &p)
	b := tcpFrame(1, 2, 40000, 80, 1, 0, flagACK, 1000)
	seen := map[uint32]bool{}
	decode(b, &f)
	for range 5 * maxSpans {
		fl.observe(dirB, &f, &p)
		if seen[p.count] {
			t.Fatalf("count %d twice for the same byte", p.count)
		}
		seen[p.count] = true
	}
	if n := len(fl.spans[0]); n != maxSpans {
		t.Errorf("%d spans remembered, not %d", n, maxSpans)
	}
}

func TestSYNsAreCountedByFlowAndISN(t *testing.T) {
	m := mustModel(t, Config{})
	c := &m.dirs[dirB].count
	syn := func(sport uint16, isn uint32) { m.decide(dirB, 0, tcpFrame(1, 2, sport, 80, isn, 0, flagSYN, 0)) }
	check := func(what string, first, again uint64) {
		t.Helper()
		if c.firstSYNs != first || c.againSYNs != again {
			t.Errorf("%s: %d first, %d repeated SYNs; want %d and %d", what, c.firstSYNs, c.againSYNs, first, again)
		}
	}
	syn(40000, 5)
	check("a SYN", 1, 0)
	syn(40000, 5)
	syn(40000, 5)
	check("the same twice more", 1, 2)
	syn(40001, 5)
	check("another port", 2, 2)
	m.decide(dirA, 0, tcpFrame(2, 1, 80, 40000, 9, 6, flagSYN|flagACK, 0))
	syn(40000, 6)
	check("the same port with a new ISN", 3, 2)
	if n := m.flows.at(0).ordinal; n != 3 {
		t.Errorf("the port used again has ordinal %d, not 3", n)
	}
	m.decide(dirA, 0, tcpFrame(2, 1, 80, 40000, 10, 7, flagSYN|flagACK, 0))
	m.decide(dirA, 0, tcpFrame(2, 1, 80, 40000, 10, 7, flagSYN|flagACK, 0))
	check("SYN-ACKs", 3, 2)
	if a := m.dirs[dirA].count; a.firstSYNs != 0 || a.againSYNs != 0 {
		t.Errorf("towards a: %d and %d SYNs", a.firstSYNs, a.againSYNs)
	}
}

func TestSimultaneousOpenIsOneFlow(t *testing.T) {
	m := mustModel(t, Config{})
	m.decide(dirB, 0, tcpFrame(1, 2, 40000, 41000, 5, 0, flagSYN, 0))
	m.decide(dirA, 0, tcpFrame(2, 1, 41000, 40000, 9, 0, flagSYN, 0))
	if b, a := m.dirs[dirB].count.firstSYNs, m.dirs[dirA].count.firstSYNs; b != 1 || a != 0 {
		t.Errorf("first SYNs: %d towards b, %d towards a", b, a)
	}
}

// fateString is what a wire does with 64 equal frames of one flow.
func fateString(m *model, dir int) string {
	var s []byte
	for range 64 {
		v := m.decide(dir, 0, tcpFrame(1, 2, 40000, 80, 101, 0, flagACK, 500))
		s = append(s, '0'+byte(v.fate))
	}
	return string(s)
}

func TestSeedsLinksAndDirectionsHaveFatesOfTheirOwn(t *testing.T) {
	d := Direction{Loss: Loss{P: 0.5}}
	base := Config{Seed: 1, Link: "wan", TowardsA: d, TowardsB: d}
	for _, fates := range []Fates{ByByte, ByTime, Unpaired} {
		base := base
		base.Fates = fates
		seed, link := base, base
		seed.Seed, link.Link = 2, "lan"
		seen := map[string]string{}
		for name, s := range map[string]string{
			"base":       fateString(mustModel(t, base), dirB),
			"other seed": fateString(mustModel(t, seed), dirB),
			"other link": fateString(mustModel(t, link), dirB),
			"towards a":  fateString(mustModel(t, base), dirA),
		} {
			if o, ok := seen[s]; ok {
				t.Errorf("%s: %s and %s have the same fates", fates, o, name)
			}
			seen[s] = name
		}
		if again := fateString(mustModel(t, base), dirB); seen[again] != "base" {
			t.Errorf("%s: the same configuration has other fates", fates)
		}
	}
}

func TestImpairmentsDrawFromTheirOwnStreams(t *testing.T) {
	base := Direction{Loss: Loss{P: 0.3}, Delay: time.Millisecond}
	more := base
	more.Jitter, more.Duplicate, more.Corrupt, more.Reorder = time.Millisecond, 0.5, 0.5, Reorder{P: 0.5}
	for _, fates := range []Fates{ByByte, ByTime, Unpaired} {
		one, two := Symmetric(base), Symmetric(more)
		one.Fates, two.Fates = fates, fates
		if a, b := fateString(mustModel(t, one), dirB), fateString(mustModel(t, two), dirB); a != b {
			t.Errorf("%s: other impairments change what is lost:\n%s\n%s", fates, a, b)
		}
	}
}

func TestByTimeMeetsTheSameChannelWithOtherFlows(t *testing.T) {
	for _, l := range []Loss{{P: 0.3}, {GilbertElliott: GilbertElliott{P: 0.1, R: 0.3, H: 0.2}}} {
		c := Symmetric(Direction{Loss: l})
		c.Fates, c.Seed = ByTime, 5
		// The n-th frame of a slot fares alike whosever it is.
		send := func(t0 int64, frame func(i int) []byte) string {
			m := mustModel(t, c)
			m.t0 = t0
			var s []byte
			for slot := range int64(200) {
				for i := range 3 {
					v := m.decide(dirB, t0+slot*slotTime+int64(i)*1000, frame(i))
					s = append(s, '0'+byte(v.fate))
				}
			}
			return string(s)
		}
		one := send(12345, func(i int) []byte { return tcpFrame(1, 2, 40000, 80, 1, 0, flagACK, 1000) })
		two := send(9e15, func(i int) []byte {
			return tcpFrame(3, 4, uint16(50000+i), 443, 1, 0, flagSYN, 0)
		})
		if one != two {
			t.Errorf("other flows met another channel:\n%s\n%s", one, two)
		}
	}
}

func TestByTimeSkippedSlotsDoNotMoveTheChannel(t *testing.T) {
	c := Symmetric(Direction{Loss: Loss{GilbertElliott: GilbertElliott{P: 0.1, R: 0.2}}})
	c.Fates = ByTime
	all, some := mustModel(t, c), mustModel(t, c)
	f := tcpFrame(1, 2, 40000, 80, 1, 0, flagACK, 10)
	for slot := range int64(10_000) {
		v := all.decide(dirB, slot*slotTime, f)
		if slot%97 == 0 {
			if w := some.decide(dirB, slot*slotTime+500, f); w.fate != v.fate {
				t.Fatalf("slot %d: %d with all slots used, %d with some", slot, v.fate, w.fate)
			}
		}
	}
}

func TestLossRateIsTheOneAskedFor(t *testing.T) {
	const n = 50_000
	for _, fates := range []Fates{ByByte, ByTime, Unpaired} {
		for _, p := range []float64{0.001, 0.01, 0.3} {
			c := Symmetric(Direction{Loss: Loss{P: p}, Duplicate: p, Corrupt: p})
			c.Fates, c.Seed = fates, 42
			m := mustModel(t, c)
			f := tcpFrame(1, 2, 40000, 80, 1, 0, flagACK, 1000)
			for i := range n {
				setSeq(f, uint32(1+i*1000))
				m.decide(dirB, int64(i)*100_000, f)
			}
			k := &m.dirs[dirB].count
			// Copies and flipped bits are of what was not lost.
			for name, v := range map[string][2]float64{
				"lost":       {float64(k.lost), n},
				"duplicated": {float64(k.duplicated), n - float64(k.lost)},
				"corrupted":  {float64(k.corrupted), n - float64(k.lost)},
			} {
				want := v[1] * p
				if dev := math.Abs(v[0]-want) / math.Sqrt(want*(1-p)); dev > 4 {
					t.Errorf("%s at %v: %.0f %s, want %.0f (%.1f standard deviations off)", fates, p, v[0], name, want, dev)
				}
			}
		}
	}
}

func TestGilbertElliottFollowsItsTheory(t *testing.T) {
	const n = 80_000
	for _, g := range []GilbertElliott{{P: 0.01, R: 0.2}, {P: 0.02, R: 0.1, H: 0.3}, {P: 0.05, R: 0.5, K: 0.99}, {P: 0.7, R: 0.8}} {
		for _, fates := range []Fates{ByByte, ByTime, Unpaired} {
			c := Symmetric(Direction{Loss: Loss{GilbertElliott: g}})
			c.Fates, c.Seed = fates, 7
			m := mustModel(t, c)
			f := tcpFrame(1, 2, 40000, 80, 1, 0, flagACK, chainBytes)
			lostNow, losses, bursts := false, 0, 0
			m.decide(dirB, -slotTime, tcpFrame(1, 2, 40000, 80, 0, 0, flagSYN, 0))
			for i := range n {
				setSeq(f, uint32(1+i*chainBytes))
				was := lostNow
				lostNow = m.decide(dirB, int64(i)*slotTime, f).fate == lost
				if lostNow {
					losses++
					if !was {
						bursts++
					}
				}
			}
			// Four standard deviations, of a mean of correlated draws and of
			// geometric lengths.
			bad, memory := g.P/(g.P+g.R), 1-g.P-g.R
			off := 4 * math.Sqrt(bad*(1-bad)/n*(1+memory)/(1-memory))
			if got, want := float64(losses)/n, c.TowardsB.Loss.MeanLoss(); math.Abs(got-want) > off {
				t.Errorf("%s %+v: %.4f lost, want %.4f ± %.4f", fates, g, got, want, off)
			}
			if g.H > 0 || g.K > 0 {
				continue
			}
			// Everything is lost in the bad state: a burst lasts 1/R steps.
			off = 4 * math.Sqrt(1-g.R) / g.R / math.Sqrt(float64(bursts))
			if got, want := float64(losses)/float64(bursts), 1/g.R; math.Abs(got-want) > off {
				t.Errorf("%s %+v: bursts of %.2f, want %.2f ± %.2f", fates, g, got, want, off)
			}
		}
	}
}

func TestJitterHasItsShape(t *testing.T) {
	const n, jitter = 40_000, 1e6
	for dist, spread := range map[JitterDist]float64{Uniform: 1 / math.Sqrt(3), Normal: 1, Pareto: 0.75} {
		d := Direction{Delay: 100 * time.Millisecond, Jitter: time.Duration(jitter), JitterDist: dist, Reorder: Reorder{ByJitter: true}}
		m := mustModel(t, Symmetric(d))
		f := tcpFrame(1, 2, 40000, 80, 1, 0, flagACK, 1)
		var sum, square float64
		for i := range n {
			setSeq(f, uint32(1+i))
			x := float64(m.decide(dirB, int64(i), f).due - int64(i) - int64(d.Delay))
			sum, square = sum+x, square+x*x
		}
		mean, sd := sum/n/jitter, math.Sqrt(square/n)/jitter
		if math.Abs(mean) > 0.02 {
			t.Errorf("%s: mean %.3f of the jitter", dist, mean)
		}
		if math.Abs(sd-spread) > 0.05 {
			t.Errorf("%s: standard deviation %.3f of the jitter, want %.3f", dist, sd, spread)
		}
	}
}

func TestCorruptionFlipsOneBitBeyondTheEthernetHeader(t *testing.T) {
	m := mustModel(t, Symmetric(Direction{Corrupt: 1}))
	f := tcpFrame(1, 2, 40000, 80, 1, 0, flagACK, 10)
	seen := map[int]bool{}
	for i := range 20_000 {
		setSeq(f, uint32(1+i*10))
		v := m.decide(dirB, 0, f)
		if v.bit < etherHeader*8 || v.bit >= len(f)*8 {
			t.Fatalf("bit %d of a frame of %d bytes", v.bit, len(f))
		}
		seen[v.bit] = true
	}
	if want := (len(f) - etherHeader) * 8; len(seen) != want {
		t.Errorf("%d different bits were flipped of %d", len(seen), want)
	}
	short := make([]byte, etherHeader)
	if v := m.decide(dirB, 0, short); v.bit != 0 {
		t.Errorf("bit %d of a frame that is all header", v.bit)
	}
}

func TestFlowMemoryIsBoundedAndForgetsClosedFlowsFirst(t *testing.T) {
	const limit = 64
	fl := newFlows(limit)
	var f frame
	var p place
	see := func(dir int, b []byte) {
		decode(b, &f)
		fl.observe(dir, &f, &p)
	}
	// One flow stays open and speaks now and then.
	see(dirB, tcpFrame(9, 2, 1, 80, 0, 0, flagSYN, 0))
	id, seq := p.id, uint32(1)
	for i := range 100 * limit {
		s := tell(uint16(1000+i), uint32(i), []int{100}, map[int]bool{0: true})
		for j, b := range s.frames {
			see(s.dirs[j], b)
		}
		if i%8 == 0 {
			see(dirB, tcpFrame(9, 2, 1, 80, seq, 0, flagACK, 10))
			if p.id != id {
				t.Fatalf("the open flow was forgotten after %d short ones", i+1)
			}
			seq += 10
		}
	}
	if fl.known != limit || len(fl.byTuple) != limit {
		t.Errorf("%d flows and %d tuples remembered, not %d", fl.known, len(fl.byTuple), limit)
	}
	if fl.evicted != 99*limit+1 {
		t.Errorf("%d evicted", fl.evicted)
	}
	if n := fl.towards[endpoint{addr{10, 0, 0, 2}, 80}]; n != 100*limit+1 {
		t.Errorf("ordinals reached %d", n)
	}
	if len(fl.spans) > 2*limit {
		t.Errorf("%d lists of retransmissions for %d flows", len(fl.spans), limit)
	}
}
