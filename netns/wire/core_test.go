package wire

import (
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tcplab/lab/clock"
)

func TestQueueHandsOutByTimeThenByArrival(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		var model []entry
		n := int32(0)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				e := entry{due: rapid.Int64Range(0, 5).Draw(t, "due"), slot: n}
				n++
				q.push(e)
				e.seq = q.seq
				model = append(model, e)
				slices.SortStableFunc(model, func(a, b entry) int { return int(a.due - b.due) })
			},
			"pop": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip("empty")
				}
				if e := q.pop(); e != model[0] {
					t.Fatalf("%+v, want %+v", e, model[0])
				}
				model = model[1:]
			},
			"": func(t *rapid.T) {
				at, ok := q.next()
				if ok != (len(model) > 0) || ok && at != model[0].due {
					t.Fatalf("next %d %v, of %d", at, ok, len(model))
				}
			},
		})
	})
}

func drawDirection(t *rapid.T, label string, random bool) Direction {
	ms := func(what string) time.Duration {
		return time.Duration(rapid.Int64Range(0, 20_000_000).Draw(t, label+what))
	}
	d := Direction{Delay: ms("delay")}
	if rapid.Bool().Draw(t, label+"rated") {
		d.Rate = rapid.Int64Range(100_000, 1e9).Draw(t, label+"rate")
		switch rapid.IntRange(0, 2).Draw(t, label+"queue") {
		case 1:
			d.Queue.Bytes = rapid.Int64Range(1, 20_000).Draw(t, label+"bytes")
		case 2:
			d.Queue.Time = 1 + ms("time")
		}
	}
	if rapid.Bool().Draw(t, label+"small") {
		d.MTU = rapid.IntRange(68, 1500).Draw(t, label+"mtu")
	}
	if !random {
		return d
	}
	p := func(what string) float64 { return rapid.Float64Range(0, 1).Draw(t, label+what) }
	d.Jitter, d.Duplicate, d.Corrupt = ms("jitter"), p("duplicate"), p("corrupt")
	d.JitterDist = rapid.SampledFrom([]JitterDist{"", Uniform, Normal, Pareto}).Draw(t, label+"dist")
	d.Reorder = Reorder{P: p("reorder"), Extra: 1 + ms("extra"), ByJitter: rapid.Bool().Draw(t, label+"by jitter")}
	if rapid.Bool().Draw(t, label+"bursty") {
		d.Loss.GilbertElliott = GilbertElliott{P: 0.01 + 0.9*p("p"), R: 0.01 + 0.9*p("r"), H: p("h"), K: p("k")}
	} else {
		d.Loss.P = p("loss")
	}
	return d
}

// drawFrame is any kind of frame.
func drawFrame(t *rapid.T) []byte {
	switch rapid.IntRange(0, 3).Draw(t, "frame") {
	case 0:
		b := rapid.SliceOfN(rapid.Byte(), etherHeader, 200).Draw(t, "bytes")
		return b
	case 1:
		b := make([]byte, 42)
		b[12], b[13] = 8, 6
		return b
	}
	return tcpFrame(rapid.Byte().Draw(t, "src"), rapid.Byte().Draw(t, "dst"), rapid.Uint16Range(1, 4).Draw(t, "sport"),
		rapid.Uint16Range(1, 4).Draw(t, "dport"), rapid.Uint32Range(0, 5000).Draw(t, "seq"), 0,
		rapid.SampledFrom([]byte{flagSYN, flagSYN | flagACK, flagACK, flagFIN | flagACK, flagRST}).Draw(t, "flags"),
		rapid.SampledFrom([]int{0, 1, 100, 1448}).Draw(t, "payload"))
}

// simulate puts frames through a model and a queue, as the runner does, and
// calls each with what has left so far.
func simulate(t *rapid.T, c Config, each func(m *model, frame int, now int64, out []entry, queued [2]uint64)) {
	m, err := newModel(c)
	if err != nil {
		t.Fatal(err)
	}
	var q queue
	var queued [2]uint64
	now := int64(1e9)
	var out []entry
	n := rapid.IntRange(1, 150).Draw(t, "frames")
	for i := range n {
		now += rapid.Int64Range(0, 3_000_000).Draw(t, "gap")
		dir := rapid.IntRange(0, 1).Draw(t, "dir")
		v := m.decide(dir, now, drawFrame(t))
		if v.fate == delivered {
			copies := 1
			if v.copy {
				copies = 2
			}
			for range copies {
				q.push(entry{due: v.due, dir: uint8(dir), slot: int32(i)})
				queued[dir]++
			}
			if v.due < now {
				t.Fatalf("frame %d leaves %d ns before it came", i, now-v.due)
			}
		}
		for at, ok := q.next(); ok && at <= now; at, ok = q.next() {
			e := q.pop()
			queued[e.dir]--
			m.dirs[e.dir].count.out++
			out = append(out, e)
		}
		each(m, i, now, out, queued)
	}
}

func TestOrderIsKeptWithoutJitterAndReordering(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		jittery := rapid.Bool().Draw(t, "jitter in order")
		c := Config{Seed: 1}
		for i, d := range []*Direction{&c.TowardsA, &c.TowardsB} {
			*d = drawDirection(t, "ab"[i:i+1]+" ", jittery)
			d.Reorder, d.Duplicate = Reorder{}, 0
		}
		// Changes of delay and rate on the way keep it too.
		if rapid.Bool().Draw(t, "changed") {
			delay, rate := time.Duration(0), int64(0)
			c.Faults = []Fault{{At: 1e9 + rapid.Int64Range(0, 1e8).Draw(t, "change"), Do: DoSet, Set: &Change{Delay: &delay, Rate: &rate, Queue: &Queue{}}}}
		}
		seen := 0
		last := [2]int32{-1, -1}
		simulate(t, c, func(m *model, _ int, _ int64, out []entry, _ [2]uint64) {
			for _, e := range out[seen:] {
				if e.slot < last[e.dir] {
					t.Fatalf("frame %d leaves after frame %d", e.slot, last[e.dir])
				}
				last[e.dir] = e.slot
			}
			seen = len(out)
		})
	})
}

func TestWhatComesInIsAccountedFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Config{
			Seed: rapid.Uint64().Draw(t, "seed"), Fates: rapid.SampledFrom([]Fates{ByByte, ByTime, Unpaired}).Draw(t, "fates"),
			TowardsA: drawDirection(t, "a ", true), TowardsB: drawDirection(t, "b ", true),
			Faults: []Fault{
				{At: 1e9 + 5e7, For: 20 * time.Millisecond, Do: DoBlackhole, Towards: TowardsB},
				{At: 1e9, Do: DoDrop, Match: Match{Kind: "data", Count: 3}},
			},
		}
		simulate(t, c, func(m *model, _ int, _ int64, _ []entry, queued [2]uint64) {
			for dir := range m.dirs {
				k := &m.dirs[dir].count
				in := k.in + k.duplicated
				out := k.out + k.lost + k.queueDropped + k.mtuDropped + k.blackholed + k.faultDropped + queued[dir]
				if in != out {
					t.Fatalf("direction %d: %d in and duplicated, %d accounted for: %+v", dir, in, out, *k)
				}
			}
		})
	})
}

func TestAPerfectCableChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		simulate(t, Config{}, func(m *model, frame int, now int64, out []entry, queued [2]uint64) {
			if len(out) != frame+1 || queued != [2]uint64{} {
				t.Fatalf("%d of %d frames have left at once", len(out), frame+1)
			}
			if m.log.seen != 0 {
				t.Fatal("something was drawn")
			}
		})
	})
}

func TestRateAndQueueAreArithmetic(t *testing.T) {
	type arrival struct {
		at    int64 // µs
		bytes int
		left  int64 // µs; -1 is dropped
	}
	const rate = 8_000_000 // a byte a microsecond
	for _, v := range []struct {
		name  string
		queue Queue
		in    []arrival
	}{
		{"an idle line", Queue{}, []arrival{{0, 1000, 1000}, {2000, 500, 2500}}},
		{"back to back", Queue{}, []arrival{{0, 1000, 1000}, {0, 1000, 2000}, {500, 1000, 3000}, {3000, 10, 3010}}},
		{"the queue is full", Queue{Bytes: 2500}, []arrival{{0, 1000, 1000}, {0, 1000, 2000}, {0, 501, -1}, {0, 500, 2500}, {0, 1, -1}, {1, 1, 2501}}},
		{"a drop takes no room", Queue{Bytes: 1500}, []arrival{{0, 1000, 1000}, {0, 1000, -1}, {500, 1000, 2000}}},
		{"in time", Queue{Time: 1500 * time.Microsecond}, []arrival{{0, 1000, 1000}, {0, 501, -1}, {0, 500, 1500}}},
		{"an idle line takes what the queue could not hold", Queue{Bytes: 100}, []arrival{{0, 1000, 1000}, {999, 100, -1}, {999, 99, 1099}, {2000, 1000, 3000}}},
	} {
		t.Run(v.name, func(t *testing.T) {
			var l line
			for i, a := range v.in {
				left, _, ok := l.admit(a.at*1000, a.bytes, rate, v.queue)
				if !ok {
					left = -1000
				}
				if left != a.left*1000 {
					t.Errorf("frame %d left at %d ns, want %d", i, left, a.left*1000)
				}
			}
		})
	}
}

func TestARateIsExactOverManyFrames(t *testing.T) {
	var l line
	const rate, n, size = 3_000_000_007, 1_000_000, 1514
	var left int64
	for range n {
		left, _, _ = l.admit(0, size, rate, Queue{})
	}
	want := math.Ceil(float64(n*size*8) / rate * 1e9)
	if float64(left) != want {
		t.Errorf("%d frames took %d ns, want %.0f", n, left, want)
	}
}

func TestADirectionCountsItsMTU(t *testing.T) {
	m := mustModel(t, Config{TowardsB: Direction{MTU: 100}})
	for _, v := range []struct {
		payload int
		want    fate
	}{{60, delivered}, {61, mtuDropped}, {0, delivered}} {
		if got := m.decide(dirB, 0, tcpFrame(1, 2, 3, 4, 5, 6, flagACK, v.payload)).fate; got != v.want {
			t.Errorf("a packet of %d bytes: fate %d, want %d", 40+v.payload, got, v.want)
		}
	}
	if f := m.decide(dirA, 0, tcpFrame(2, 1, 4, 3, 5, 6, flagACK, 1000)).fate; f != delivered {
		t.Error("the other direction has no MTU of its own")
	}
}

func TestFaultsAreDecidedByArrival(t *testing.T) {
	arp := make([]byte, 42)
	arp[12], arp[13] = 8, 6
	data := tcpFrame(1, 2, 3, 80, 5, 6, flagACK, 10)
	type step struct {
		at    int64
		dir   int
		frame []byte
		want  fate
	}
	five := 5 * time.Millisecond
	for _, v := range []struct {
		name   string
		faults []Fault
		steps  []step
	}{
		{"a blackhole one way passes ARP", []Fault{{At: 100, For: 50, Do: DoBlackhole, Towards: TowardsB}}, []step{
			{99, dirB, data, delivered}, {100, dirB, data, blackholed}, {100, dirB, arp, delivered},
			{149, dirB, data, blackholed}, {120, dirA, data, delivered}, {150, dirB, data, delivered}}},
		{"a partition with ARP is both ways", []Fault{{At: 100, Do: DoPartition, ARP: true}}, []step{
			{99, dirA, data, delivered}, {100, dirA, data, blackholed}, {1 << 60, dirB, arp, blackholed}}},
		{"two that overlap", []Fault{{At: 100, For: 50, Do: DoBlackhole}, {At: 120, For: 100, Do: DoBlackhole, ARP: true}}, []step{
			{110, dirB, arp, delivered}, {130, dirB, arp, blackholed}, {160, dirB, data, blackholed}, {220, dirB, data, delivered}}},
		{"stamps that go back", []Fault{{At: 100, For: 50, Do: DoBlackhole}}, []step{
			{160, dirB, data, delivered}, {149, dirB, data, blackholed}, {99, dirB, data, delivered}}},
		{"drop once", []Fault{{At: 100, Do: DoDrop}}, []step{
			{99, dirB, data, delivered}, {100, dirB, data, faultDropped}, {101, dirB, data, delivered}}},
		{"drop from the second on, two", []Fault{{At: 0, Do: DoDrop, Towards: TowardsB, Match: Match{Kind: "data", Nth: 2, Count: 2}}}, []step{
			{1, dirB, data, delivered}, {2, dirB, arp, delivered}, {2, dirA, data, delivered}, {3, dirB, data, faultDropped},
			{4, dirB, data, faultDropped}, {5, dirB, data, delivered}}},
		{"the second flow's SYN", []Fault{{At: 0, Do: DoDrop, Match: Match{Flow: 2, Port: 80, Kind: "SYN"}}}, []step{
			{1, dirB, tcpFrame(1, 2, 3, 80, 1, 0, flagSYN, 0), delivered}, {1, dirB, tcpFrame(1, 2, 4, 443, 1, 0, flagSYN, 0), delivered},
			{2, dirB, tcpFrame(1, 2, 5, 80, 1, 0, flagSYN, 0), faultDropped}, {3, dirB, tcpFrame(1, 2, 6, 80, 1, 0, flagSYN, 0), delivered}}},
		{"a set and its end", []Fault{{At: 100, For: 50, Do: DoSet, Set: &Change{Loss: &Loss{P: 1}, Delay: &five}}}, []step{
			{99, dirB, data, delivered}, {100, dirB, data, lost}, {150, dirB, data, delivered}}},
	} {
		t.Run(v.name, func(t *testing.T) {
			// Known before the start, or said when time is almost up.
			known := mustModel(t, Config{Faults: v.faults})
			told := mustModel(t, Config{})
			told.decide(dirB, -1, arp)
			for _, f := range v.faults {
				if err := told.check(f); err != nil {
					t.Fatal(err)
				}
				told.add(f)
			}
			for _, m := range []*model{known, told} {
				for i, s := range v.steps {
					if got := m.decide(s.dir, s.at, s.frame).fate; got != s.want {
						t.Errorf("frame %d at %d: fate %d, want %d", i, s.at, got, s.want)
					}
				}
			}
		})
	}
}

func TestASetReplacesOnlyWhatItNames(t *testing.T) {
	rate := int64(1e6)
	m := mustModel(t, Config{TowardsB: Direction{Delay: time.Second, MTU: 500},
		Faults: []Fault{{At: 10, Do: DoSet, Towards: TowardsB, Set: &Change{Rate: &rate}}}})
	f := tcpFrame(1, 2, 3, 4, 5, 6, flagACK, 71) // 125 bytes: a millisecond
	if v := m.decide(dirB, 0, f); v.due != 1e9 {
		t.Errorf("before it leaves at %d", v.due)
	}
	if v := m.decide(dirB, 10, f); v.due != 10+1e9+1e6 {
		t.Errorf("after it leaves at %d", v.due)
	}
	if v := m.decide(dirB, 20, tcpFrame(1, 2, 3, 4, 5, 6, flagACK, 1000)); v.fate != mtuDropped {
		t.Errorf("the MTU is forgotten: fate %d", v.fate)
	}
}

func TestAHeldFrameComesBackWhenTheHoldEnds(t *testing.T) {
	m := mustModel(t, Config{Faults: []Fault{
		{Name: "old", At: 100, Do: DoHold, Match: Match{Kind: "data"}},
		{Name: "brief", At: 0, For: 50, Do: DoHold, Match: Match{Kind: "SYN"}},
	}})
	if v := m.decide(dirB, 10, tcpFrame(1, 2, 3, 4, 5, 0, flagSYN, 0)); v.fate != held || v.due != 50 || v.hold != 2 {
		t.Errorf("the SYN: %+v", v)
	}
	data := tcpFrame(1, 2, 3, 4, 6, 0, flagACK, 10)
	if v := m.decide(dirB, 100, data); v.fate != held || v.due != math.MaxInt64 || v.hold != 1 {
		t.Errorf("the segment: %+v", v)
	}
	m.add(Fault{Name: "old", At: 200, Do: DoRelease})
	if end := m.faults[0].end(); end != 200 {
		t.Errorf("the hold ends at %d after its release at 200", end)
	}
}

func TestAConfigurationTravelsAsJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Config{Link: "wan", Seed: rapid.Uint64().Draw(t, "seed"), Fates: ByTime,
			TowardsA: drawDirection(t, "a ", true), TowardsB: drawDirection(t, "b ", true), MaxFrames: 10}
		bh := PassARP
		c.Faults = []Fault{{Name: "f", At: 5, For: 6, Do: DoSet, Set: &Change{Loss: &c.TowardsA.Loss, Blackhole: &bh}}}
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var d Config
		if err := json.Unmarshal(b, &d); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(c, d) {
			t.Fatalf("%+v\n%s\n%+v", c, b, d)
		}
	})
	if b, _ := json.Marshal(Config{}); string(b) != "{}" {
		t.Errorf("a perfect cable is %s", b)
	}
}

func TestWrongConfigurationsAreRefused(t *testing.T) {
	both := func(d Direction) Config { return Symmetric(d) }
	one := func(f Fault) Config { return Config{Faults: []Fault{f}} }
	bad := 2.0
	for _, v := range []struct {
		c    Config
		want string
	}{
		{Config{Fates: "by-luck"}, `fates "by-luck"`},
		{Config{MaxFrames: -1}, "max_frames"},
		{both(Direction{Delay: -1}), "delay -1ns"},
		{both(Direction{Delay: 25 * time.Hour}), "delay 25h"},
		{both(Direction{Jitter: -1}), "jitter -1ns"},
		{both(Direction{JitterDist: "flat"}), `jitter distribution "flat"`},
		{Config{TowardsB: Direction{Loss: Loss{P: 1.5}}}, "towards b: loss 1.5"},
		{Config{TowardsA: Direction{Loss: Loss{P: math.NaN()}}}, "towards a: loss NaN"},
		{both(Direction{Duplicate: -0.1}), "duplicate -0.1"},
		{both(Direction{Corrupt: 2}), "corrupt 2"},
		{both(Direction{Rate: 10}), "rate 10 bit/s"},
		{both(Direction{Queue: Queue{Bytes: 10}}), "a queue needs a rate"},
		{both(Direction{Rate: 1e6, Queue: Queue{Bytes: 10, Time: 10}}), "give one of the two"},
		{both(Direction{Rate: 1e6, Queue: Queue{Bytes: -1}}), "queue of -1 bytes"},
		{both(Direction{Loss: Loss{P: 0.1, GilbertElliott: GilbertElliott{P: 0.1, R: 0.1}}}), "give one of the two"},
		{both(Direction{Loss: Loss{GilbertElliott: GilbertElliott{P: 0.1}}}), "p and r above 0"},
		{both(Direction{Loss: Loss{GilbertElliott: GilbertElliott{P: 1e-6, R: 1e-6}}}), "1/4096"},
		{both(Direction{Loss: Loss{GilbertElliott: GilbertElliott{P: 0.1, R: 0.1, H: 3}}}), "Gilbert–Elliott h 3"},
		{both(Direction{Reorder: Reorder{P: 0.1}}), "give a delay or extra"},
		{both(Direction{MTU: 67}), "mtu 67"},
		{both(Direction{Blackhole: "white"}), `blackhole "white"`},
		{one(Fault{Do: "explode"}), `do "explode"`},
		{one(Fault{}), `do ""`},
		{one(Fault{Do: DoBlackhole, Towards: "c"}), `towards "c"`},
		{one(Fault{Do: DoBlackhole, For: -1}), "for -1ns"},
		{one(Fault{Do: DoPartition, Towards: TowardsA}), "both ways"},
		{one(Fault{Do: DoSet}), "needs set"},
		{one(Fault{Do: DoSet, Set: &Change{Duplicate: &bad}}), "duplicate 2"},
		{one(Fault{Do: DoDrop, Set: &Change{}}), "takes no set"},
		{one(Fault{Do: DoDrop, Match: Match{Nth: -1}}), "nth"},
		{one(Fault{Do: DoDrop, Match: Match{Kind: "PSH"}}), `match kind "PSH"`},
		{one(Fault{Do: DoBlackhole, Match: Match{Nth: 1}}), "takes no match"},
		{one(Fault{Do: DoRelease, For: 1}), "takes no for"},
	} {
		err := v.c.Validate()
		if err == nil {
			t.Errorf("%+v is accepted", v.c)
		} else if !strings.Contains(err.Error(), v.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q does not say %q", err, v.want)
		}
		if _, err := newModel(v.c); err == nil {
			t.Errorf("a wire was made of %+v", v.c)
		}
	}
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("a perfect cable: %v", err)
	}
}

func TestShareComparesKeysNotFates(t *testing.T) {
	var a, b FateLog
	for i := range uint64(1000) {
		a.add(mix(i), delivered)
		b.add(mix(i+250), lost)
	}
	if s := Share(a.Entries(), b.Entries()); s != 0.75 {
		t.Errorf("share %v, want 0.75", s)
	}
	if s := Share(a.Entries(), a.Entries()); s != 1 {
		t.Errorf("share with itself %v", s)
	}
	if s := Share(nil, nil); s != 0 {
		t.Errorf("share of nothing %v", s)
	}
	if s := Share(a.Entries(), nil); s != 0 {
		t.Errorf("share with nothing %v", s)
	}
}

func TestALogOfFatesTravelsAndIsBounded(t *testing.T) {
	const limit = chunkFates + 1000
	l := FateLog{limit: limit}
	for i := range uint64(limit + 10) {
		l.add(mix(i), fate(i%7))
	}
	if !l.Truncated() || l.Seen() != limit+10 || len(l.Entries()) != limit {
		t.Fatalf("%d seen, %d kept, truncated %v", l.Seen(), len(l.Entries()), l.Truncated())
	}
	b, err := json.Marshal(&l)
	if err != nil {
		t.Fatal(err)
	}
	if full := len(b) / limit * maxFates; full > 14<<20 {
		t.Errorf("a full log is a message of %d bytes", full)
	}
	var m FateLog
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(l.Entries(), m.Entries()) || m.Seen() != l.Seen() {
		t.Error("the log arrived as another one")
	}
	for _, bad := range []string{`{"seen":1,"entries":"AAAA"}`, `{"seen":0,"entries":"AAAAAAA="}`, `[]`} {
		if err := json.Unmarshal([]byte(bad), &m); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

func TestWatchingTheClockIsBounded(t *testing.T) {
	var b watch
	if b.ahead() != 0 {
		t.Error("it watches before it has saved anything")
	}
	b.fill(1)
	b.fill(1 + watchShare*watchAhead)
	if b.saved != watchAhead || b.ahead() != watchAhead {
		t.Errorf("%d ns saved, %d ahead", b.saved, b.ahead())
	}
	b.fill(1 << 60)
	if b.saved != watchSaved {
		t.Errorf("%d ns saved after a long rest, more than %d", b.saved, watchSaved)
	}
	b.saved = watchAhead - 1
	if b.ahead() != 0 {
		t.Error("it would spend more than it has")
	}
	var stop atomic.Bool
	arrived := func() bool { return true }
	now := clock.Now()
	if b := (watch{off: true, saved: watchSaved}); b.until(now, arrived, &stop) || b.ahead() != 0 {
		t.Error("it watches though it must not")
	}
	if b := (watch{saved: watchSaved}); b.until(now+int64(time.Hour), arrived, &stop) {
		t.Error("it watches for an hour")
	}
	if b := (watch{saved: watchSaved}); !b.until(now, arrived, &stop) {
		t.Error("what is due is not seen")
	}
	if b := (watch{saved: 0}); b.until(now, arrived, &stop) {
		t.Error("it watches without a budget")
	}
}

// The names of the record.
func TestCountersHaveTheirNames(t *testing.T) {
	n := uint64(1)
	var c Counters
	for _, v := range []reflect.Value{reflect.ValueOf(&c.TowardsA).Elem(), reflect.ValueOf(&c).Elem()} {
		for i := range v.NumField() {
			if v.Field(i).Type() == reflect.TypeOf(&n) {
				v.Field(i).Set(reflect.ValueOf(&n))
			}
		}
	}
	c.Errors, c.Warnings = []string{"e"}, []string{"w"}
	const want = `{"towards_a":{"in":1,"bytes_in":1,"out":1,"bytes_out":1,"lost":1,"queue_dropped":1,"mtu_dropped":1,` +
		`"blackholed":1,"fault_dropped":1,"reordered":1,"duplicated":1,"corrupted":1,"held":1,"released":1,"queued":1,"max_queue_bytes":1,` +
		`"first_syns":1,"retransmitted_syns":1,"retransmitted_segments":1,"truncated":1,"overflowed":1,"send_errors":1,` +
		`"ring_dropped":1,"checksum_missing":1},"towards_b":{},"max_frames":1,"evicted_flows":1,"errors":["e"],"warnings":["w"]}`
	if got := toJSON(t, c); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	full := tally{}.export()
	for i := range reflect.ValueOf(full).NumField() {
		if reflect.ValueOf(full).Field(i).IsNil() {
			t.Errorf("the userspace wire does not count %s", reflect.TypeOf(full).Field(i).Name)
		}
	}
}
