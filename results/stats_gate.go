package results

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Decision is what a comparison of one metric came to.
type Decision string

const (
	// Better: the interval excludes zero and reaches beyond the threshold on
	// the good side.
	Better Decision = "better"
	// Equal: not worse by more than the threshold. The interval is inside the
	// threshold, or outside of it only on the good side and over zero.
	Equal Decision = "equal"
	// Regression: worse by more than the threshold, with the whole interval.
	Regression Decision = "regression"
	// Undecided: the interval straddles the threshold, there are too few
	// pairs, or a value is missing. More pairs may help.
	Undecided Decision = "inconclusive"
)

// Gate is one metric that is compared over pairs of trials. The zero
// Threshold takes any change that the pairs can tell from none.
type Gate struct {
	Metric              string
	Baseline, Treatment []float64 // by pair; NaN is a missing value
	HigherIsBetter      bool      // goodput; latency is the default
	// Threshold is the change that matters, as a share: 0.05 is a twentieth
	// more, or its inverse, 1/1.05, less.
	Threshold float64
	// Absolute takes its place, in the metric's unit, where values of zero (or
	// below) occur and shares have no meaning.
	Absolute float64
	// NoiseA and NoiseB are pairs of trials of one and the same arm (A/A). What
	// they seem to differ by is the least threshold.
	NoiseA, NoiseB []float64
	// Exact is set on the virtual clock: if the metric is equal over all seeds
	// in each arm, the two values are compared as they are, with any number of
	// pairs.
	Exact bool
}

// Comparison is the outcome for one gate. Estimate, Low, High and Threshold
// are changes from the baseline: as a share if Relative (0.05 is 5% more), else
// in the metric's unit. They are NaN where nothing could be computed.
type Comparison struct {
	Metric    string
	Pairs     int
	Relative  bool
	Estimate  float64 // mean difference; of logarithms, so a geometric mean
	Low, High float64 // all changes that the test at Level does not reject
	Level     float64 // the alpha that Holm's method gave this metric
	P         float64 // exact two-sided sign-flip p of no change
	Adjusted  float64 // after Holm
	Threshold float64 // the larger of what was asked for and the A/A noise
	Decision  Decision
	Reason    string // why inconclusive, and what to do; else empty
}

// gate is a Gate on its way, in the scale of its differences.
type gate struct {
	Gate
	out       Comparison
	test      *SignFlip
	threshold float64
}

// Compare decides all gate metrics of a comparison as one family: alpha (Alpha
// is the usual one) bounds the chance of one false difference among them.
// Errors are the caller's mistakes (too many gates or pairs, a negative
// threshold); what the measurements lack is a Decision with its Reason.
func Compare(gates []Gate, alpha float64) ([]Comparison, error) {
	if len(gates) > MaxGates {
		return nil, fmt.Errorf("%d gate metrics: name %d at most, or %d pairs can show nothing", len(gates), MaxGates, MinPairs)
	}
	if !(alpha > 0 && alpha < 1) {
		return nil, fmt.Errorf("alpha %v is not between 0 and 1", alpha)
	}
	all := make([]*gate, len(gates))
	var family []*gate
	var ps []float64
	for i, in := range gates {
		g, err := prepare(in)
		if err != nil {
			return nil, fmt.Errorf("gate %s: %w", in.Metric, err)
		}
		all[i] = g
		if g.test != nil {
			family, ps = append(family, g), append(ps, g.out.P)
		}
	}
	adjusted, levels := Holm(ps, alpha)
	for i, g := range family {
		g.out.Adjusted, g.out.Level = adjusted[i], levels[i]
		low, high := g.test.Interval(g.out.Level)
		g.decide(g.test.Mean(), low, high)
	}
	out := make([]Comparison, len(all))
	for i, g := range all {
		out[i] = g.out
	}
	return out, nil
}

// prepare tests one gate as far as it goes without the others. A gate that is
// left without a test is decided already.
func prepare(in Gate) (*gate, error) {
	if !(in.Threshold >= 0 && in.Absolute >= 0) || math.IsInf(in.Threshold, 0) || math.IsInf(in.Absolute, 0) {
		return nil, fmt.Errorf("a threshold of %v and %v: write a share and a quantity, not below 0", in.Threshold, in.Absolute)
	}
	nan := math.NaN()
	g := &gate{Gate: in, out: Comparison{
		Metric: in.Metric, Pairs: len(in.Baseline), Estimate: nan, Low: nan, High: nan,
		P: nan, Adjusted: nan, Level: nan, Threshold: nan, Decision: Undecided,
	}}
	d, relative, err := Differences(in.Baseline, in.Treatment)
	if err != nil {
		g.out.Reason = err.Error()
		return g, nil
	}
	if len(d) > MaxPairs {
		return nil, fmt.Errorf("%d pairs: the exact test takes %d at most", len(d), MaxPairs)
	}
	g.out.Relative = relative
	g.threshold = in.Absolute
	if relative {
		g.threshold = math.Log1p(in.Threshold)
	}
	if len(in.NoiseA)+len(in.NoiseB) > 0 {
		noise, err := noise(in.NoiseA, in.NoiseB, relative)
		if err != nil {
			g.out.Reason = "A/A: " + err.Error()
			return g, nil
		}
		g.threshold = max(g.threshold, noise)
	}
	g.out.Threshold = g.change(g.threshold)
	if in.Exact && constant(in.Baseline) && constant(in.Treatment) {
		g.decide(d[0], d[0], d[0])
		return g, nil
	}
	test, err := NewSignFlip(d)
	if err != nil {
		return nil, err
	}
	g.out.Estimate = g.change(test.Mean())
	if len(d) < MinPairs {
		g.out.Reason = fmt.Sprintf("%d pairs: no significance is claimed with fewer than %d", len(d), MinPairs)
		return g, nil
	}
	g.test, g.out.P = test, test.P(0)
	return g, nil
}

// decide places the interval of differences against the threshold.
func (g *gate) decide(mean, low, high float64) {
	g.out.Estimate, g.out.Low, g.out.High = g.change(mean), g.change(low), g.change(high)
	if g.HigherIsBetter {
		low, high = -high, -low // from here on, up is worse
	}
	g.out.Reason = ""
	switch {
	case low > 0 && low > g.threshold:
		g.out.Decision = Regression
	case high < 0 && low < -g.threshold:
		g.out.Decision = Better
	case high <= g.threshold:
		g.out.Decision = Equal
	default:
		g.out.Decision = Undecided
		g.out.Reason = "the interval straddles the threshold: measure more pairs"
	}
}

// change turns a difference into what is reported.
func (g *gate) change(difference float64) float64 {
	if g.out.Relative {
		return math.Expm1(difference)
	}
	return difference
}

// noise is how far two runs of one arm seem to differ, in the scale of the
// comparison: the far end of the interval, or with few pairs the largest
// difference.
func noise(a, b []float64, relative bool) (float64, error) {
	d, logs, err := Differences(a, b)
	if err != nil {
		return 0, err
	}
	if logs != relative {
		if relative {
			return 0, errors.New("values of zero occur there and not in the comparison: measure it again")
		}
		for i := range d {
			d[i] = b[i] - a[i]
		}
	}
	if len(d) < MinPairs {
		low, high := Range(d)
		return max(-low, high), nil
	}
	test, err := NewSignFlip(d)
	if err != nil {
		return 0, err
	}
	low, high := test.Interval(Alpha)
	return max(-low, high), nil
}

func constant(values []float64) bool {
	return !slices.ContainsFunc(values, func(v float64) bool { return v != values[0] })
}
