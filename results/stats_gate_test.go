package results

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// around gives eight values, base times these factors.
func around(base float64, factors ...float64) []float64 {
	out := make([]float64, len(factors))
	for i, f := range factors {
		out[i] = base * f
	}
	return out
}

func TestDecisions(t *testing.T) {
	base := []float64{10, 11, 9, 10.5, 9.5, 10.2, 9.8, 10}
	times := func(factors ...float64) []float64 {
		out := make([]float64, len(base))
		for i := range base {
			out[i] = base[i] * factors[i%len(factors)]
		}
		return out
	}
	zeros := make([]float64, 8)
	for _, tt := range []struct {
		name   string
		gate   Gate
		want   Decision
		reason string
	}{
		{"the same", Gate{Baseline: base, Treatment: base}, Equal, ""},
		{"a fifth more, a twentieth allowed", Gate{Baseline: base, Treatment: times(1.2, 1.21), Threshold: 0.05}, Regression, ""},
		{"a fifth more, any change counts", Gate{Baseline: base, Treatment: times(1.2, 1.21)}, Regression, ""},
		{"a fifth more is good", Gate{Baseline: base, Treatment: times(1.2, 1.21), Threshold: 0.05, HigherIsBetter: true}, Better, ""},
		{"a fifth less", Gate{Baseline: base, Treatment: times(0.8, 0.79), Threshold: 0.05}, Better, ""},
		{"a fifth less is bad", Gate{Baseline: base, Treatment: times(0.8, 0.79), Threshold: 0.05, HigherIsBetter: true}, Regression, ""},
		{"surely 1% more, a twentieth allowed", Gate{Baseline: base, Treatment: times(1.01), Threshold: 0.05}, Equal, ""},
		{"surely 1% more, any change counts", Gate{Baseline: base, Treatment: times(1.01)}, Regression, ""},
		{"scattered around the threshold", Gate{Baseline: base, Treatment: times(1.02, 1.09), Threshold: 0.05}, Undecided, "straddles"},
		{"scattered around none", Gate{Baseline: base, Treatment: times(0.8, 1.25), Threshold: 0.05}, Undecided, "straddles"},
		{"scattered on the good side", Gate{Baseline: base, Treatment: times(0.8, 1.01), Threshold: 0.05}, Equal, ""},
		{"scattered, and all of it good", Gate{Baseline: base, Treatment: times(0.8, 0.98), Threshold: 0.05}, Better, ""},
		{"a fifth more, but A/A differs by a third", Gate{Baseline: base, Treatment: times(1.2, 1.21), Threshold: 0.05, NoiseA: base, NoiseB: times(1.33, 1.34)}, Equal, ""},
		{"a fifth more, and A/A agrees", Gate{Baseline: base, Treatment: times(1.2, 1.21), Threshold: 0.05, NoiseA: base, NoiseB: times(1.001, 0.999)}, Regression, ""},
		{"a fifth more, but two A/A pairs differ by a half", Gate{Baseline: base, Treatment: times(1.2, 1.21), NoiseA: []float64{10, 10}, NoiseB: []float64{15, 10}}, Equal, ""},
		{"errors from none to some", Gate{Baseline: zeros, Treatment: around(100, 5, 6, 7, 8, 5, 6, 7, 8), Absolute: 10}, Regression, ""},
		{"errors from none to a few that are allowed", Gate{Baseline: zeros, Treatment: around(1, 5, 6, 7, 8, 5, 6, 7, 8), Absolute: 10}, Equal, ""},
		{"errors from some to none", Gate{Baseline: around(100, 5, 6, 7, 8, 5, 6, 7, 8), Treatment: zeros, Absolute: 10}, Better, ""},
		{"no errors at all", Gate{Baseline: zeros, Treatment: zeros}, Equal, ""},
		{"seven pairs", Gate{Baseline: base[:7], Treatment: base[:7]}, Undecided, "7 pairs: no significance is claimed with fewer than 8"},
		{"a missing value", Gate{Baseline: base, Treatment: times(1, 1, math.NaN(), 1)}, Undecided, "pair 3 has no value"},
		{"a missing trial", Gate{Baseline: base, Treatment: base[:7]}, Undecided, "each pair needs both"},
		{"a missing value in A/A", Gate{Baseline: base, Treatment: base, NoiseA: []float64{1}, NoiseB: []float64{math.NaN()}}, Undecided, "A/A: pair 1 has no value"},
		{"equal over seeds, virtual clock", Gate{Baseline: around(924.6, 1, 1), Treatment: around(924.6, 1, 1), Exact: true}, Equal, ""},
		{"equal over seeds and other, virtual clock", Gate{Baseline: around(924.6, 1, 1), Treatment: around(924.7, 1, 1), Exact: true}, Regression, ""},
		{"one seed, virtual clock, allowed", Gate{Baseline: []float64{20}, Treatment: []float64{20.2}, Threshold: 0.05, Exact: true}, Equal, ""},
		{"not equal over seeds, virtual clock", Gate{Baseline: around(924.6, 1, 2), Treatment: around(924.6, 1, 1), Exact: true}, Undecided, "2 pairs"},
	} {
		out, err := Compare([]Gate{tt.gate}, Alpha)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if c := out[0]; c.Decision != tt.want || !strings.Contains(c.Reason, tt.reason) || (c.Reason == "") != (tt.reason == "") {
			t.Errorf("%s: %+v", tt.name, c)
		}
	}
}

func TestChangesAreSharesOrQuantities(t *testing.T) {
	base := around(0.01, 1, 1.1, 0.9, 1, 1.05, 0.95, 1, 1)
	out, err := Compare([]Gate{
		{Metric: "latency.p50", Baseline: base, Treatment: around(0.02, 1, 1.1, 0.9, 1, 1.05, 0.95, 1, 1), Threshold: 0.05},
		{Metric: "errors", Baseline: around(0, 1, 1, 1, 1, 1, 1, 1, 1), Treatment: around(7, 1, 1, 1, 1, 1, 1, 1, 1), Absolute: 3},
	}, Alpha)
	if err != nil {
		t.Fatal(err)
	}
	if c := out[0]; !c.Relative || !close12(c.Estimate, 1) || !close12(c.Low, 1) || !close12(c.High, 1) || !close12(c.Threshold, 0.05) || c.P != 2.0/256 || c.Adjusted != 4.0/256 || c.Level != 0.025 {
		t.Errorf("%+v", c)
	}
	if c := out[1]; c.Relative || !close12(c.Estimate, 7) || !close12(c.Low, 7) || c.Threshold != 3 || c.Level != 0.05 {
		t.Errorf("%+v", c)
	}
}

func TestSixGatesAreStillDecidableWithEightPairs(t *testing.T) {
	base := around(10, 1, 1.1, 0.9, 1, 1.05, 0.95, 1, 1)
	worse := around(13, 1, 1.1, 0.9, 1, 1.05, 0.95, 1, 1)
	var gates []Gate
	for range MaxGates {
		gates = append(gates, Gate{Baseline: base, Treatment: worse, Threshold: 0.1})
	}
	out, err := Compare(gates, Alpha)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range out {
		if c.Decision != Regression || c.Adjusted > Alpha {
			t.Errorf("%+v", c)
		}
	}
	if _, err := Compare(append(gates, gates[0]), Alpha); err == nil {
		t.Error("seven gates are accepted")
	}
}

func TestMistakesOfTheCallerAreErrors(t *testing.T) {
	many := make([]float64, MaxPairs+1)
	for _, tt := range []struct {
		gate  Gate
		alpha float64
	}{
		{Gate{Baseline: many, Treatment: many}, Alpha},
		{Gate{Baseline: many[:8], Treatment: many[:8], Threshold: -1}, Alpha},
		{Gate{Baseline: many[:8], Treatment: many[:8], Absolute: math.NaN()}, Alpha},
		{Gate{Baseline: many[:8], Treatment: many[:8]}, 0},
		{Gate{Baseline: many[:8], Treatment: many[:8]}, math.NaN()},
	} {
		if out, err := Compare([]Gate{tt.gate}, tt.alpha); err == nil {
			t.Errorf("%+v", out)
		}
	}
}

var anyGate = rapid.Custom(func(t *rapid.T) Gate {
	n := rapid.IntRange(MinPairs, 10).Draw(t, "pairs")
	value := rapid.Float64Range(0.5, 2)
	if rapid.Bool().Draw(t, "zeros") {
		value = rapid.Map(rapid.IntRange(0, 3), func(i int) float64 { return float64(i) })
	}
	return Gate{
		Baseline:       rapid.SliceOfN(value, n, n).Draw(t, "baseline"),
		Treatment:      rapid.SliceOfN(value, n, n).Draw(t, "treatment"),
		Threshold:      rapid.SampledFrom([]float64{0, 0.05, 0.3}).Draw(t, "threshold"),
		Absolute:       rapid.SampledFrom([]float64{0, 0.5}).Draw(t, "absolute"),
		HigherIsBetter: rapid.Bool().Draw(t, "higher"),
	}
})

// TestIntervalAndAdjustedPNeverDisagree is the promise of the report: no table
// shows a significant p beside an interval that has zero in it.
func TestIntervalAndAdjustedPNeverDisagree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gates := rapid.SliceOfN(anyGate, 1, MaxGates).Draw(t, "gates")
		out, err := Compare(gates, Alpha)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range out {
			if zero := c.Low <= 0 && 0 <= c.High; zero == (c.Adjusted <= Alpha) {
				t.Fatalf("%+v", c)
			}
			if c.Estimate < c.Low || c.Estimate > c.High {
				t.Fatalf("%+v", c)
			}
			if c.Adjusted > Alpha && (c.Decision == Regression || c.Decision == Better) {
				t.Fatalf("a difference is claimed without significance: %+v", c)
			}
			// Every comparison of enough pairs can be written as JSON.
			if _, err := json.Marshal(c); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestSwappingTheArmsMirrorsTheDecision(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := anyGate.Draw(t, "gate")
		swapped := g
		swapped.Baseline, swapped.Treatment = g.Treatment, g.Baseline
		swapped.HigherIsBetter = !g.HigherIsBetter
		a, err := Compare([]Gate{g}, Alpha)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Compare([]Gate{swapped}, Alpha)
		if err != nil {
			t.Fatal(err)
		}
		if a[0].P != b[0].P || a[0].Decision != b[0].Decision {
			t.Fatalf("%+v\n%+v", a[0], b[0])
		}
	})
}

// TestMoreHarmIsNeverJudgedBetter: raising every treatment value by one factor
// moves the decision towards regression only.
func TestMoreHarmIsNeverJudgedBetter(t *testing.T) {
	rank := func(d Decision) int {
		return slices.Index([]Decision{Better, Equal, Undecided, Regression}, d)
	}
	rapid.Check(t, func(t *rapid.T) {
		g := anyGate.Draw(t, "gate")
		g.HigherIsBetter = false
		for i := range g.Baseline { // stay with logarithms
			g.Baseline[i], g.Treatment[i] = g.Baseline[i]+1, g.Treatment[i]+1
		}
		worse := g
		worse.Treatment = around(rapid.Float64Range(1, 3).Draw(t, "factor"), g.Treatment...)
		a, err := Compare([]Gate{g}, Alpha)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Compare([]Gate{worse}, Alpha)
		if err != nil {
			t.Fatal(err)
		}
		if rank(b[0].Decision) < rank(a[0].Decision) {
			t.Fatalf("%+v\n%+v", a[0], b[0])
		}
	})
}

func TestTheCallersSlicesStayAsTheyAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := anyGate.Draw(t, "gate")
		g.NoiseA, g.NoiseB = slices.Clone(g.Treatment), slices.Clone(g.Baseline)
		d := anyDifferences(1, 8).Draw(t, "d")
		baseline, treatment, dBefore := slices.Clone(g.Baseline), slices.Clone(g.Treatment), slices.Clone(d)
		if _, err := Compare([]Gate{g}, Alpha); err != nil {
			t.Fatal(err)
		}
		if _, err := NewSignFlip(d); err != nil {
			t.Fatal(err)
		}
		Median(d)
		Range(d)
		if !slices.Equal(g.Baseline, baseline) || !slices.Equal(g.Treatment, treatment) ||
			!slices.Equal(g.NoiseA, treatment) || !slices.Equal(g.NoiseB, baseline) || !slices.Equal(d, dBefore) {
			t.Fatal("changed")
		}
	})
}

func BenchmarkSignFlipOfMaxPairs(b *testing.B) {
	d := make([]float64, MaxPairs)
	for i := range d {
		d[i] = math.Sin(float64(i)) + 0.3
	}
	for b.Loop() {
		if _, err := NewSignFlip(d); err != nil {
			b.Fatal(err)
		}
	}
}
