package plots

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"strings"
	"testing"

	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"
	"gonum.org/v1/plot/font"
	"pgregory.net/rapid"

	"tcplab/results"
)

func TestLabelsOfALadderNeverOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyLadder(t, false)
		l := layLadder(in)
		for i, b := range l.packets {
			for j, a := range l.packets[:i] {
				lo, hi := max(a.x0, b.x0), min(a.x1, b.x1)
				if lo > hi || a.happening && b.y0 < a.y0 || b.happening && a.y1 > b.y0 {
					continue // a flight that something happens in the midst of
				}
				for _, x := range []float64{lo, hi} {
					if d := l.drawn(b, x) - b.above - (l.drawn(a, x) + a.below); d < 0 {
						t.Fatalf("packets %d and %d overlap by %.1f at %.0f", j, i, -d, x)
					}
				}
			}
		}
	})
}

// A lost packet's end is a guess from the others' time on the way. A guess that
// is off by a rounding error must not put it before the one sent with it.
func TestLostPacketSentWithAnotherIsMovedApart(t *testing.T) {
	const flight = 1e-4
	now := 0.0
	in := results.Ladder{Left: "client", Right: "server"}
	for _, p := range []struct {
		lost    bool
		wait    float64 // until the next one, in flights
		comment string
	}{{wait: 1.0001}, {}, {lost: true}, {lost: true, comment: "a comment that takes more than a single line of the diagram to say what it has to"},
		{lost: true, wait: 1.0001}, {lost: true, wait: 1.0001}, {}, {}} {
		e := results.LadderEvent{From: "client", Sent: now, Label: "SYN seq 0", Comment: p.comment}
		if !p.lost {
			e.Arrived = at2(now + flight)
		}
		in.Events = append(in.Events, e)
		now += flight * p.wait
	}
	l := layLadder(in)
	for i, b := range l.packets {
		for j, a := range l.packets[:i] {
			for _, x := range []float64{max(a.x0, b.x0), min(a.x1, b.x1)} {
				if d := l.drawn(b, x) - b.above - (l.drawn(a, x) + a.below); d < 0 {
					t.Errorf("packets %d and %d overlap by %.1f at %.0f", j, i, -d, x)
				}
			}
		}
	}
}

// drawn is the height of p's arrow at x, as laid out.
func (l ladder) drawn(p packet, x float64) float64 {
	f := (x - l.left) / (l.right - l.left)
	if !p.rightwards {
		f = 1 - f
	}
	return p.y0 + f*(p.y1-p.y0)
}

func TestEachHostOfALadderKeepsItsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyLadder(t, true)
		l := layLadder(in)
		type end struct{ t, y float64 }
		at := map[bool][]end{}
		for i, p := range l.packets {
			if p.y1 < p.y0-1e-6 {
				t.Fatalf("packet %d comes before it left", i)
			}
			if math.IsNaN(p.y0) || p.y1 > l.high || p.y0 < 0 {
				t.Fatalf("packet %d lies outside: %v to %v of %v", i, p.y0, p.y1, l.high)
			}
			if p.happening {
				continue // it waits for what was in flight
			}
			at[p.rightwards] = append(at[p.rightwards], end{p.Sent, p.y0})
			if p.Arrived != nil {
				at[!p.rightwards] = append(at[!p.rightwards], end{max(*p.Arrived, p.Sent), p.y1})
			}
		}
		for _, ends := range at {
			for _, a := range ends {
				for _, b := range ends {
					if a.t < b.t && a.y > b.y+1e-6 {
						t.Fatalf("what happened at %v is drawn below what happened at %v", a.t, b.t)
					}
				}
			}
		}
		if most := 400 + 250*float64(len(l.packets)+len(l.spans)); l.high > most {
			t.Fatalf("%d packets are drawn %v high", len(l.packets), l.high)
		}
		if doc := l.svg(); bytes.Contains(doc, []byte("NaN")) || bytes.Contains(doc, []byte("Inf")) {
			t.Fatal("not a number got into the drawing")
		}
	})
}

// anyLadder makes ladders; those that do not cross are exchanges with one
// flight at a time, or bursts of one host.
func anyLadder(t *rapid.T, cross bool) results.Ladder {
	l := results.Ladder{Left: "client", Right: "server"}
	now, flight := 0.0, rapid.SampledFrom([]float64{1e-4, 5e-3, 0.1}).Draw(t, "flight")
	from := "client"
	for range rapid.IntRange(1, 14).Draw(t, "packets") {
		e := results.LadderEvent{From: from, Sent: now, Label: rapid.SampledFrom([]string{"SYN seq 0", "ACK seq 1 ack 1", "PSH,ACK seq 1:129 ack 129", "PSH,ACK seq 123456:124904 ack 7654321"}).Draw(t, "label"),
			Len: rapid.SampledFrom([]int{0, 128, 1448}).Draw(t, "len"), Comment: rapid.SampledFrom([]string{"", "the request", "a comment that takes more than a single line of the diagram to say what it has to"}).Draw(t, "comment")}
		if !rapid.Bool().Draw(t, "lost") {
			e.Arrived = at2(now + flight)
		}
		l.Events = append(l.Events, e)
		switch {
		case cross:
			now += flight * rapid.SampledFrom([]float64{0, 0.001, 0.3, 1, 5, 1e5}).Draw(t, "gap")
			from = rapid.SampledFrom([]string{"client", "server"}).Draw(t, "from")
		case rapid.Bool().Draw(t, "burst"):
			now += flight * rapid.SampledFrom([]float64{0, 0.001, 0.3}).Draw(t, "gap")
		default:
			now += flight * rapid.SampledFrom([]float64{1.0001, 1.3, 3, 1e5}).Draw(t, "wait")
			from = rapid.SampledFrom([]string{"client", "server"}).Draw(t, "from")
		}
	}
	for range rapid.IntRange(0, 2).Draw(t, "marks") {
		l.Marks = append(l.Marks, results.LadderMark{At: rapid.Float64Range(0, now).Draw(t, "mark"), Text: "fault vanish: blackhole"})
	}
	for range rapid.IntRange(0, 3).Draw(t, "spans") {
		a, b := rapid.Float64Range(0, now).Draw(t, "a"), rapid.Float64Range(0, now).Draw(t, "b")
		l.Spans = append(l.Spans, results.LadderSpan{Host: rapid.SampledFrom([]string{"client", "server"}).Draw(t, "host"), From: min(a, b), To: max(a, b), Label: "handshake: 10.3 ms"})
	}
	return l
}

func TestLongChainStaysDrawable(t *testing.T) {
	l := layLadder(ladderBlackhole())
	if l.high > 1500 {
		t.Errorf("102 s are drawn %v high", l.high)
	}
	if len(l.breaks) < 9 {
		t.Errorf("%d breaks", len(l.breaks))
	}
	svg := string(l.svg())
	for _, want := range []string{"25.6 s", "not to scale", "× is a packet lost", "ETIMEDOUT after 102 s"} {
		if !strings.Contains(svg, want) && !strings.Contains(strings.Join(l.note, " "), want) {
			t.Errorf("no %q in the drawing", want)
		}
	}
}

func TestLadderBracketsTheHandshakeAndNamesTheGap(t *testing.T) {
	svg := string(layLadder(ladderBefore()).svg())
	for _, want := range []string{"handshake: 10.3 ms", ">10.3 ms<", "SYN,ACK seq 0 ack 1", "PSH,ACK seq 1:129 ack 1 len 128", "the round trip you pay", ">client<", ">server<"} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %q in the drawing", want)
		}
	}
	if strings.Contains(string(layLadder(ladderAfter()).svg()), "handshake:") {
		t.Error("a request on a reused connection has a handshake")
	}
}

func TestEmptyLadderIsAGapNotACrash(t *testing.T) {
	r := &results.Run{Evidence: map[string]results.Evidence{"x": {Arm: "a", Show: "handshake"}}, Arms: map[string]results.Arm{"a": {Trials: []results.Trial{{Number: 1, Ladders: map[string]results.Ladder{"x": {}}}}}}}
	ev := drawEvidence(r, map[string][]byte{})
	if len(ev) != 1 || ev[0].problem == "" {
		t.Errorf("%+v", ev)
	}
}

func TestAnyNumbersCanBeDrawn(t *testing.T) {
	values := []float64{0, -1, 1, 1e-9, 1e12, 0.5, 3, 3, 3}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 20).Draw(t, "n")
		var x, y []float64
		for range n {
			x = append(x, rapid.SampledFrom(values).Draw(t, "x"))
			y = append(y, rapid.SampledFrom(values).Draw(t, "y"))
		}
		kinds := []axisKind{linear, durations, shares}
		c := chart{title: "t", x: axis{kind: rapid.SampledFrom(kinds).Draw(t, "kx")}, y: axis{kind: rapid.SampledFrom(kinds).Draw(t, "ky")}, lines: []line{{label: "l", x: x, y: y}}, rules: []rule{{label: "r", at: rapid.SampledFrom(values).Draw(t, "at"), vertical: rapid.Bool().Draw(t, "v"), look: -1}}}
		svg, err := c.svg(sizePhone)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(svg, []byte("NaN")) {
			t.Fatal("not a number got into the drawing")
		}
	})
}

func TestLogAxesLeaveOutWhatHasNoLogarithm(t *testing.T) {
	call := results.Series{T: []float64{0, 1, 2, 3}, V: []float64{0, 1e-5, 2e-5, 0}}
	used := results.Series{T: []float64{0, 1, 2, 3}, V: []float64{0, 0.1, 0.2, 0.3}}
	x, y := against(call, used, 100)
	if len(x) != 2 || y[0] != 1e-5 || y[1] != 2e-5 {
		t.Errorf("%v, %v", x, y)
	}
}

func TestPercentilesStopWhereTenSamplesLieBeyond(t *testing.T) {
	h := results.NewHistogram()
	for i := range 1000 {
		_ = h.RecordValue(int64(1e7 + i*1000))
	}
	b := builder{r: &results.Run{Arms: map[string]results.Arm{"a": {Baseline: true}}}, ps: []program{{"c", "c"}}, arms: []measured{{name: "a", hist: results.Histograms{"c.latency": h}, merged: 1}}}
	c, ok := b.percentiles()
	if !ok {
		t.Fatal("not drawn")
	}
	xs := c.lines[0].x
	if last := xs[len(xs)-1]; last > 100.001 || last < 94 {
		t.Errorf("1,000 samples are drawn up to 1/(1−q) = %v", last)
	}
}

func TestThinningKeepsCountsAndPeaks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 5000).Draw(t, "n")
		s := results.Series{}
		sum, peak := 0.0, 0.0
		for i := range n {
			v := float64(rapid.IntRange(0, 50).Draw(t, "v"))
			if n > 200 { // many draws are slow: a few values suffice
				v = float64((i * 7919) % 51)
			}
			s.T, s.V = append(s.T, float64(i)/10), append(s.V, v)
			sum, peak = sum+v, max(peak, v)
		}
		_, y := peaks(s)
		got := 0.0
		for _, v := range y {
			got = max(got, v)
		}
		if got != peak {
			t.Fatalf("the peak of %v became %v", peak, got)
		}
		if len(y) > 2*points {
			t.Fatalf("%d points", len(y))
		}
		x, rate := perSecond(s, 0.1)
		total := 0.0
		w := max(bin(s), 0.1)
		for _, v := range rate {
			total += v * w
		}
		if total > sum*(1+1e-9) {
			t.Fatalf("%v requests became %v", sum, total)
		}
		// Only the last bin may be left out.
		if least := sum - 51*math.Ceil(w*10); total < least-1e-6 {
			t.Fatalf("%v requests became %v in %d bins of %v", sum, total, len(x), w)
		}
	})
}

func TestSlopeOfACounterIsItsRate(t *testing.T) {
	s := results.Series{}
	for i := range 100 {
		s.T, s.V = append(s.T, float64(i)/10), append(s.V, float64(40*i))
	}
	_, y := slope(s)
	for _, v := range y {
		if math.Abs(v-400) > 1e-6 {
			t.Fatalf("400/s became %v", v)
		}
	}
}

func TestTicksAreRoundAndTellNeighboursApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hi := math.Pow(10, rapid.Float64Range(-6, 9).Draw(t, "magnitude"))
		k := rapid.SampledFrom([]axisKind{linear, durations, shares}).Draw(t, "kind")
		seen := map[string]bool{}
		ts := ticker{k, 5}.Ticks(0, hi)
		if len(ts) < 3 || len(ts) > 9 {
			t.Fatalf("%d ticks up to %v", len(ts), hi)
		}
		for _, tick := range ts {
			if seen[tick.Label] {
				t.Fatalf("two ticks up to %v are labelled %s", hi, tick.Label)
			}
			seen[tick.Label] = true
		}
	})
	for _, c := range []struct {
		kind axisKind
		hi   float64
		want string
	}{{linear, 12.5, "0 2.5 5 7.5 10 12.5"}, {shares, 1, "0% 20% 40% 60% 80% 100%"}, {durations, 0.025, "0 5 ms 10 ms 15 ms 20 ms 25 ms"}, {linear, 28000, "0 5,000 10,000 15,000 20,000 25,000"}} {
		var got []string
		for _, tick := range (ticker{c.kind, 6}).Ticks(0, c.hi) {
			got = append(got, tick.Label)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%q, want %q", s, c.want)
		}
	}
}

func TestSubsetFontDrawsTheSameGlyphs(t *testing.T) {
	face := font.DefaultCache.Lookup(font.Font{Typeface: "Liberation", Variant: "Sans"}, 12)
	runes := map[rune]bool{}
	text := "per_request: 11.2 ms − ×÷µ é Å 0123456789"
	for _, r := range text {
		runes[r] = true
	}
	data, err := subset(face, runes)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > 60_000 {
		t.Errorf("%d bytes for %d characters", len(data), len(runes))
	}
	f, err := sfnt.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	var a, b sfnt.Buffer
	for _, r := range text {
		g, err := f.GlyphIndex(&a, r)
		if err != nil || g == 0 {
			t.Fatalf("%q is not in the subset: %v", r, err)
		}
		whole, _ := face.Face.GlyphIndex(&b, r)
		ppem := fixed.I(1000)
		got, err := f.LoadGlyph(&a, g, ppem, nil)
		if err != nil {
			t.Fatalf("%q: %v", r, err)
		}
		s1 := fmt.Sprint(got)
		want, _ := face.Face.LoadGlyph(&b, whole, ppem, nil)
		if s1 != fmt.Sprint(want) {
			t.Errorf("%q has another outline", r)
		}
	}
	if g, _ := f.GlyphIndex(&a, 'Z'); g != 0 {
		t.Error("a character that is not needed is there")
	}
	for cut := 0; cut < len(data); cut += 997 { // what is cut off is an error, never a panic
		_, _ = tables(data[:cut])
	}
	again, _ := subset(face, runes)
	if !bytes.Equal(data, again) {
		t.Error("the same characters gave other bytes")
	}
}

func TestEmbeddedFontsCoverEveryText(t *testing.T) {
	doc, err := standalone(layLadder(ladderBefore()).svg(), "t", "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"font-weight:normal;font-style:normal", "font-weight:bold;font-style:normal", "font-weight:normal;font-style:italic"} {
		i := bytes.Index(doc, []byte(want+";src:url(data:font/ttf;base64,"))
		if i < 0 {
			t.Fatalf("no font for %s", want)
		}
		s := doc[i:]
		s = s[bytes.Index(s, []byte("base64,"))+7:]
		if _, err := base64.StdEncoding.DecodeString(string(s[:bytes.IndexByte(s, ')')])); err != nil {
			t.Error(err)
		}
	}
}

func TestCountsThatBeginWithTheFirstErrorAreFilledWithZeros(t *testing.T) {
	sent := results.Series{T: []float64{0, 0.1, 0.2, 0.3}, V: []float64{40, 40, 40, 40}}
	got := filled(results.Series{T: []float64{0.2, 0.25}, V: []float64{7, 8}}, sent)
	if fmt.Sprint(got.T, got.V) != "[0 0.1 0.2 0.25 0.3] [0 0 7 8 0]" {
		t.Error(got.T, got.V)
	}
	alone := filled(results.Series{T: []float64{1}, V: []float64{2}}, results.Series{})
	if fmt.Sprint(alone.T, alone.V) != "[1] [2]" {
		t.Error(alone)
	}
}

func TestTrialsOfAnArmAreAddedUpAndTheFirstThatCountsIsDrawn(t *testing.T) {
	dir := t.TempDir()
	r := makeRunArms(t, dir, quickArms)
	a := r.Arms["per_request"]
	one := a.Trials[0]
	invalid, again := one, one
	invalid.Number, invalid.Validity.Valid, invalid.Dir = 3, false, "trials/gone"
	again.Number = 4
	a.Trials = []results.Trial{invalid, again, one}
	r.Arms["per_request"] = a
	arms, gaps := load(dir, r)
	if len(gaps) != 0 {
		t.Errorf("a trial that does not count was read: %v", gaps)
	}
	if arms[0].merged != 2 || arms[0].trial.Number != 1 {
		t.Errorf("%d merged, trial %d drawn", arms[0].merged, arms[0].trial.Number)
	}
	alone, _ := load(dir, makeRunArms(t, dir, quickArms))
	if n, m := arms[0].hist["client.latency"].TotalCount(), alone[0].hist["client.latency"].TotalCount(); n != 2*m {
		t.Errorf("%d samples of two trials with %d each", n, m)
	}
}
