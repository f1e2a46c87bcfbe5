package results

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// The unit of these statistics is a trial, never a request; their question is
// always about pairs, a baseline's and a treatment's trial with one seed.
const (
	MinPairs = 8  // with fewer no significance is claimed
	MaxPairs = 20 // 2^20 sign flips are still counted exactly in well under a second
	MaxGates = 6  // with 8 pairs p cannot go below 2/2^8, just under 0.05/6
	Alpha    = 0.05
)

// Median of the values, NaN if there are none or one of them is NaN.
func Median(values []float64) float64 {
	if len(values) == 0 || slices.ContainsFunc(values, math.IsNaN) {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	low, high := s[(len(s)-1)/2], s[len(s)/2]
	if low == high {
		return low // two infinities have no difference
	}
	return low + (high-low)/2
}

// Range is the least and the greatest value, NaN if there are none or one of
// them is NaN.
func Range(values []float64) (low, high float64) {
	if len(values) == 0 || slices.ContainsFunc(values, math.IsNaN) {
		return math.NaN(), math.NaN()
	}
	return slices.Min(values), slices.Max(values)
}

// Differences are treatment less baseline, pair by pair: of logarithms
// (relative true) where all values are above zero, else of the values. The
// error says which pair has no value.
func Differences(baseline, treatment []float64) (d []float64, relative bool, err error) {
	if len(baseline) != len(treatment) {
		return nil, false, fmt.Errorf("%d baseline trials for %d treatment trials: each pair needs both", len(baseline), len(treatment))
	}
	if len(baseline) == 0 {
		return nil, false, errors.New("no pair was measured")
	}
	relative = true
	for i := range baseline {
		for _, v := range []float64{baseline[i], treatment[i]} {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return nil, false, fmt.Errorf("pair %d has no value", i+1)
			}
			relative = relative && v > 0
		}
	}
	d = make([]float64, len(baseline))
	for i := range d {
		if relative {
			// Not Log(t/b): swapping the arms must give exactly the negative.
			d[i] = math.Log(treatment[i]) - math.Log(baseline[i])
		} else if d[i] = treatment[i] - baseline[i]; math.IsInf(d[i], 0) {
			return nil, false, fmt.Errorf("pair %d has values too far apart", i+1)
		}
	}
	return d, relative, nil
}

// SignFlip is the exact two-sided sign-flip test of paired differences (the
// one-sample permutation test: Fisher, The Design of Experiments, 1935, §21)
// together with the interval that inverts it.
//
// Flipping the signs of a subset A of the differences from some shift gives a
// sum at least as far from zero as the observed one exactly if the shift lies
// between the mean of A and the mean of the rest. So p of any shift is the
// share of subsets whose two means enclose it, the mean of all differences is
// enclosed by every one, p falls to both sides of it, and the ends of the
// interval are order statistics of those means. Test and interval count in the
// same lists: they cannot disagree.
type SignFlip struct {
	mean      float64
	low, high []float64 // the ends of the enclosures, one for each split in two, sorted
	n         int
}

// NewSignFlip prepares the test of 1 to MaxPairs finite differences.
func NewSignFlip(differences []float64) (*SignFlip, error) {
	n := len(differences)
	if n == 0 || n > MaxPairs {
		return nil, fmt.Errorf("%d pairs: the exact test takes 1 to %d", n, MaxPairs)
	}
	largest := 0.0
	for i, d := range differences {
		if math.IsNaN(d) || math.IsInf(d, 0) {
			return nil, fmt.Errorf("pair %d has no value", i+1)
		}
		largest = max(largest, math.Abs(d))
	}
	// Scaled by a power of two, so that no sum overflows; exact.
	_, exponent := math.Frexp(largest)
	sums := make([]float64, 1<<n)
	for set := 1; set < len(sums); set++ {
		top := bits.Len(uint(set)) - 1
		sums[set] = sums[set&^(1<<top)] + math.Ldexp(differences[top], -exponent)
	}
	all := len(sums) - 1
	mean := sums[all] / float64(n)
	// Sums that would be equal on paper count as equal: the enclosures are
	// wider by more than rounding (a mean of k terms is off by k*2^-53 at most)
	// and by far less than anyone measures.
	const rounding = 1e-14
	t := &SignFlip{mean: math.Ldexp(mean, exponent), n: n}
	// Each split once: the set with the last difference is the other half.
	for set := 1; set < len(sums)/2; set++ {
		k := bits.OnesCount(uint(set))
		a, b := sums[set]/float64(k), sums[all^set]/float64(n-k)
		t.low = append(t.low, math.Ldexp(min(a, b, mean)-rounding, exponent))
		t.high = append(t.high, math.Ldexp(max(a, b, mean)+rounding, exponent))
	}
	if largest == 0 {
		clear(t.low) // no rounding: zeros are zeros
		clear(t.high)
	}
	slices.Sort(t.low)
	slices.Sort(t.high)
	return t, nil
}

// Mean is the mean difference, the shift with p = 1.
func (t *SignFlip) Mean() float64 { return t.mean }

// P is the two-sided p of the hypothesis that the differences are symmetric
// around shift; at least 2/2^n.
func (t *SignFlip) P(shift float64) float64 {
	// Splits whose low end is above the shift, or whose high end is below it,
	// do not enclose it; no split does both.
	below, _ := slices.BinarySearchFunc(t.low, shift, func(end, s float64) int {
		if end <= s {
			return -1
		}
		return 1
	})
	under, _ := slices.BinarySearch(t.high, shift)
	enclosing := below - under
	return float64(1+enclosing) / t.flips()
}

// Interval has the shifts with p above alpha, ends included; it is unbounded
// where alpha is under 2/2^n, the least p there is.
func (t *SignFlip) Interval(alpha float64) (low, high float64) {
	k := int(alpha * t.flips()) // exact: a power of two
	switch {
	case k < 1:
		return math.Inf(-1), math.Inf(1)
	case k > len(t.low): // nothing but the mean itself has p = 1
		return t.mean, t.mean
	}
	return t.low[k-1], t.high[len(t.high)-k]
}

// flips is the number of distinct sign flips, a flip and its mirror image
// being one.
func (t *SignFlip) flips() float64 { return math.Ldexp(1, t.n-1) }

// Holm adjusts the p values of one family by Holm's step-down method (1979):
// adjusted[i] ≤ alpha exactly if hypothesis i is rejected. levels[i] is the
// alpha that i was tested at in its step, or the step that stopped the
// procedure: p[i] ≤ levels[i] exactly if i is rejected, so that an interval at
// that level agrees with the adjusted p.
func Holm(p []float64, alpha float64) (adjusted, levels []float64) {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		switch {
		case p[i] < p[j]:
			return -1
		case p[i] > p[j]:
			return 1
		}
		return 0
	})
	adjusted, levels = make([]float64, len(p)), make([]float64, len(p))
	running, level, stopped := 0.0, 0.0, false
	for rank, i := range order {
		left := float64(len(p) - rank)
		if !stopped {
			level = alpha / left
			stopped = !(p[i] <= level)
		}
		running = max(running, min(1, p[i]*left))
		switch {
		// p*left ≤ alpha and p ≤ alpha/left may round apart: the step decides.
		case !stopped:
			running = min(running, alpha)
		case running <= alpha:
			running = math.Nextafter(alpha, 2)
		}
		adjusted[i], levels[i] = running, level
	}
	return adjusted, levels
}
