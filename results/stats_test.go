package results

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestMedianAndRange(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, tt := range []struct {
		values            []float64
		median, low, high float64
	}{
		{nil, nan, nan, nan},
		{[]float64{3}, 3, 3, 3},
		{[]float64{3, 1, 2}, 2, 1, 3},
		{[]float64{4, 1, 3, 2}, 2.5, 1, 4},
		{[]float64{1, nan, 2}, nan, nan, nan},
		{[]float64{inf, inf}, inf, inf, inf},
		{[]float64{1e308, 1.5e308}, 1.25e308, 1e308, 1.5e308},
	} {
		median := Median(tt.values)
		low, high := Range(tt.values)
		if !same(median, tt.median) || !same(low, tt.low) || !same(high, tt.high) {
			t.Errorf("%v: median %v, range %v to %v", tt.values, median, low, high)
		}
	}
}

func same(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }

func close12(a, b float64) bool {
	return a == b || math.Abs(a-b) <= 1e-11*math.Max(1, math.Max(math.Abs(a), math.Abs(b)))
}

func TestDifferencesAreOfLogarithmsUnlessZerosOccur(t *testing.T) {
	d, relative, err := Differences([]float64{1, 2}, []float64{math.E, 2})
	if err != nil || !relative || !close12(d[0], 1) || d[1] != 0 {
		t.Errorf("%v %v %v", d, relative, err)
	}
	d, relative, err = Differences([]float64{0, 2}, []float64{5, 1})
	if err != nil || relative || !slices.Equal(d, []float64{5, -1}) {
		t.Errorf("%v %v %v", d, relative, err)
	}
	for _, tt := range []struct {
		a, b []float64
		want string
	}{
		{[]float64{1}, []float64{1, 2}, "1 baseline trials for 2 treatment trials: each pair needs both"},
		{nil, nil, "no pair was measured"},
		{[]float64{1, math.NaN()}, []float64{1, 2}, "pair 2 has no value"},
		{[]float64{-math.MaxFloat64}, []float64{math.MaxFloat64}, "pair 1 has values too far apart"},
	} {
		if _, _, err := Differences(tt.a, tt.b); err == nil || err.Error() != tt.want {
			t.Errorf("%v", err)
		}
	}
}

func TestSignFlipOfKnownData(t *testing.T) {
	for _, tt := range []struct {
		name string
		d    []float64
		p    float64
	}{
		{"all of one sign", []float64{1, 2, 3, 4, 5, 6, 7, 8}, 2.0 / 256},
		{"all equal", []float64{3, 3, 3, 3, 3, 3, 3, 3}, 2.0 / 256},
		{"one against", []float64{-1, 2, 3, 4, 5, 6, 7, 8}, 4.0 / 256},
		{"balanced", []float64{1, -1, 2, -2}, 1},
		{"zeros", []float64{0, 0, 0}, 1},
		{"one pair", []float64{5}, 1},
		// Fisher's own example: Darwin's fifteen pairs of maize, in eighths of
		// an inch. 1,726 of 32,768 flips are as far out: p = 0.0527.
		{"Darwin's maize", []float64{49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48}, 1726.0 / 32768},
	} {
		s, err := NewSignFlip(tt.d)
		if err != nil {
			t.Fatal(err)
		}
		if p := s.P(0); p != tt.p {
			t.Errorf("%s: p = %v, want %v", tt.name, p, tt.p)
		}
	}
	for _, d := range [][]float64{nil, make([]float64, MaxPairs+1), {1, math.NaN()}, {math.Inf(1)}} {
		if _, err := NewSignFlip(d); err == nil {
			t.Errorf("%v is accepted", d)
		}
	}
}

func TestIntervalOfKnownData(t *testing.T) {
	s, err := NewSignFlip([]float64{1, 2, 3, 4, 5, 6, 7, 8})
	if err != nil {
		t.Fatal(err)
	}
	// k = 1: the ends are the extreme means, of one difference alone.
	if low, high := s.Interval(2.0 / 256); !close12(low, 1) || !close12(high, 8) {
		t.Errorf("%v to %v", low, high)
	}
	if low, high := s.Interval(1.9 / 256); !math.IsInf(low, -1) || !math.IsInf(high, 1) {
		t.Errorf("%v to %v below the least p", low, high)
	}
	s, err = NewSignFlip([]float64{3, 3, 3, 3, 3, 3, 3, 3})
	if err != nil {
		t.Fatal(err)
	}
	if low, high := s.Interval(Alpha); !close12(low, 3) || !close12(high, 3) {
		t.Errorf("%v to %v of equal differences", low, high)
	}
}

// wholeNumbers are differences whose sums have no rounding; many of them tie.
func wholeNumbers(min, max int) *rapid.Generator[[]float64] {
	return rapid.Custom(func(t *rapid.T) []float64 {
		var d []float64
		for _, v := range rapid.SliceOfN(rapid.IntRange(-20, 20), min, max).Draw(t, "d") {
			d = append(d, float64(v))
		}
		return d
	})
}

func anyDifferences(min, max int) *rapid.Generator[[]float64] {
	return rapid.OneOf(wholeNumbers(min, max), rapid.SliceOfN(rapid.Float64Range(-3, 3), min, max))
}

func TestPEqualsCountingEveryFlip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := wholeNumbers(1, 10).Draw(t, "d")
		shift := float64(rapid.IntRange(-20, 20).Draw(t, "shift"))
		observed := 0.0
		for _, v := range d {
			observed += v - shift
		}
		extreme := 0
		for flip := range 1 << len(d) {
			sum := 0.0
			for i, v := range d {
				if flip>>i&1 == 1 {
					sum -= v - shift
				} else {
					sum += v - shift
				}
			}
			if math.Abs(sum) >= math.Abs(observed) {
				extreme++
			}
		}
		s, err := NewSignFlip(d)
		if err != nil {
			t.Fatal(err)
		}
		if p, want := s.P(shift), float64(extreme)/float64(int(1)<<len(d)); p != want {
			t.Fatalf("p = %v, counted %v", p, want)
		}
	})
}

func TestPAndIntervalNeverDisagree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := anyDifferences(1, 12).Draw(t, "d")
		s, err := NewSignFlip(d)
		if err != nil {
			t.Fatal(err)
		}
		flips := math.Ldexp(1, len(d)-1)
		alpha := rapid.OneOf(
			rapid.Float64Range(1e-4, 0.9),
			rapid.SampledFrom([]float64{0.05, 0.05 / 2, 0.05 / 3, 0.05 / 6, 2.0 / 256}),
			rapid.Custom(func(t *rapid.T) float64 { // the p values themselves
				return float64(rapid.IntRange(1, max(1, int(flips)-1)).Draw(t, "k")) / flips
			}),
		).Draw(t, "alpha")
		low, high := s.Interval(alpha)
		shifts := []float64{0, s.Mean(), low, high, math.Nextafter(low, -9), math.Nextafter(high, 9), rapid.Float64Range(-21, 21).Draw(t, "shift")}
		for _, x := range append(shifts, d...) {
			if math.IsInf(x, 0) {
				continue
			}
			if inside := low <= x && x <= high; alpha < 1 && inside != (s.P(x) > alpha) {
				t.Fatalf("alpha %v: %v in [%v, %v] is %v, p = %v", alpha, x, low, high, inside, s.P(x))
			}
		}
	})
}

func TestPFallsAwayFromTheMeanAndIntervalsNest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := anyDifferences(2, 10).Draw(t, "d")
		s, err := NewSignFlip(d)
		if err != nil {
			t.Fatal(err)
		}
		if p := s.P(s.Mean()); p != 1 {
			t.Fatalf("p of the mean is %v", p)
		}
		a, b := rapid.Float64Range(0, 30).Draw(t, "near"), rapid.Float64Range(0, 30).Draw(t, "far")
		a, b = min(a, b), max(a, b)
		for _, side := range []float64{-1, 1} {
			if s.P(s.Mean()+side*a) < s.P(s.Mean()+side*b) {
				t.Fatalf("p rises from %v to %v on side %v", a, b, side)
			}
		}
		wide, narrow := rapid.Float64Range(0.001, 0.5).Draw(t, "alpha"), rapid.Float64Range(0.001, 0.5).Draw(t, "alpha")
		wide, narrow = min(wide, narrow), max(wide, narrow)
		wl, wh := s.Interval(wide)
		nl, nh := s.Interval(narrow)
		if wl > nl || wh < nh || nl > s.Mean() || nh < s.Mean() {
			t.Fatalf("[%v, %v] at %v, [%v, %v] at %v, mean %v", wl, wh, wide, nl, nh, narrow, s.Mean())
		}
	})
}

func TestShiftingAllDifferencesShiftsTheInterval(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := wholeNumbers(8, 10).Draw(t, "d")
		by := float64(rapid.IntRange(-50, 50).Draw(t, "by"))
		moved := make([]float64, len(d))
		mirrored := make([]float64, len(d))
		for i := range d {
			moved[i], mirrored[i] = d[i]+by, -d[i]
		}
		var ends [3][2]float64
		for i, x := range [][]float64{d, moved, mirrored} {
			s, err := NewSignFlip(x)
			if err != nil {
				t.Fatal(err)
			}
			ends[i][0], ends[i][1] = s.Interval(Alpha)
		}
		for i := range 2 {
			if math.Abs(ends[1][i]-by-ends[0][i]) > 1e-9 || math.Abs(ends[2][i]+ends[0][1-i]) > 1e-9 {
				t.Fatalf("intervals %v", ends)
			}
		}
	})
}

// TestTestHoldsItsLevel: were the signs drawn by coins, p ≤ alpha would come
// up with a chance of alpha at most. All draws are tried.
func TestTestHoldsItsLevel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := wholeNumbers(4, 7).Draw(t, "d")
		alpha := rapid.Float64Range(0.01, 0.5).Draw(t, "alpha")
		rejected := 0
		for flip := range 1 << len(d) {
			flipped := slices.Clone(d)
			for i := range flipped {
				if flip>>i&1 == 1 {
					flipped[i] = -flipped[i]
				}
			}
			s, err := NewSignFlip(flipped)
			if err != nil {
				t.Fatal(err)
			}
			if s.P(0) <= alpha {
				rejected++
			}
		}
		if share := float64(rejected) / float64(int(1)<<len(d)); share > alpha {
			t.Fatalf("rejects %v of all draws at alpha %v", share, alpha)
		}
	})
}

func TestHolmStepsDown(t *testing.T) {
	p := []float64{0.04, 0.01, 0.03, 0.005}
	adjusted, levels := Holm(p, 0.05)
	want := []float64{0.06, 0.03, 0.06, 0.02}
	for i := range want {
		if !close12(adjusted[i], want[i]) {
			t.Errorf("adjusted %v, want %v", adjusted, want)
			break
		}
	}
	// 0.005 at 0.05/4 and 0.01 at 0.05/3 are rejected; 0.03 stops at 0.05/2.
	if !slices.Equal(levels, []float64{0.025, 0.05 / 3, 0.025, 0.0125}) {
		t.Errorf("levels %v", levels)
	}
	if !slices.Equal(p, []float64{0.04, 0.01, 0.03, 0.005}) {
		t.Errorf("the caller's p values are now %v", p)
	}
}

func TestHolmsAdjustedPAgreesWithItsLevels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Multiples of 1/128 and alphas that hit them: the roundings matter.
		var p []float64
		for _, k := range rapid.SliceOfN(rapid.IntRange(1, 16), 1, 6).Draw(t, "p") {
			p = append(p, float64(k)/128)
		}
		alpha := rapid.SampledFrom([]float64{0.05, 0.01, 6.0 / 128, 3.0 / 128, 0.1}).Draw(t, "alpha")
		adjusted, levels := Holm(p, alpha)
		for i := range p {
			if (adjusted[i] <= alpha) != (p[i] <= levels[i]) {
				t.Fatalf("p %v, adjusted %v, level %v, alpha %v", p[i], adjusted[i], levels[i], alpha)
			}
			if adjusted[i] < p[i] || adjusted[i] > 1 {
				t.Fatalf("p %v becomes %v", p[i], adjusted[i])
			}
			for j := range p {
				if p[i] < p[j] && adjusted[i] > adjusted[j] {
					t.Fatalf("the order of %v changes in %v", p, adjusted)
				}
			}
		}
	})
}
