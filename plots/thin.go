package plots

import (
	"math"
	"sort"

	"tcplab/results"
)

// points is about how many points a line over time has: more than a printed
// figure can show would only make the file large.
const points = 240

// bin is the width in seconds that leaves about points bins of s.
func bin(s results.Series) float64 {
	if len(s.T) == 0 {
		return 1
	}
	span := s.T[len(s.T)-1] - s.T[0]
	for w := 0.1; ; w *= 10 {
		for _, m := range []float64{1, 2, 5} {
			if span/(w*m) <= points {
				return w * m
			}
		}
	}
}

// perSecond turns counts into a rate per second, over bins of at least the
// given width in seconds: over too short ones single requests draw a comb.
func perSecond(s results.Series, least float64) (x, y []float64) {
	w := max(bin(s), least)
	groups(s, w, func(at float64, vs []float64) {
		sum := 0.0
		for _, v := range vs {
			sum += v
		}
		x, y = append(x, at), append(y, sum/w)
	})
	// The last bin is whole only by chance.
	if n := len(x); n > 1 && s.T[len(s.T)-1] < (math.Floor(s.T[len(s.T)-1]/w)+0.9)*w {
		x, y = x[:n-1], y[:n-1]
	}
	return x, y
}

// filled adds a zero to counts wherever the client counted something else at
// that time: a class of errors is only written down once it was seen.
func filled(counts, others results.Series) results.Series {
	out := results.Series{Name: counts.Name, Unit: counts.Unit, About: counts.About}
	i := 0
	for _, t := range others.T {
		for i < len(counts.T) && counts.T[i] < t {
			out.T, out.V = append(out.T, counts.T[i]), append(out.V, counts.V[i])
			i++
		}
		if i == len(counts.T) || counts.T[i] != t {
			out.T, out.V = append(out.T, t), append(out.V, 0)
		}
	}
	out.T, out.V = append(out.T, counts.T[i:]...), append(out.V, counts.V[i:]...)
	return out
}

// slope turns a cumulative counter into its growth per second.
func slope(s results.Series) (x, y []float64) {
	w := max(bin(s), 0.5)
	from := 0
	for i := 1; i < len(s.T); i++ {
		if s.T[i]-s.T[from] < w-1e-6 {
			continue
		}
		x = append(x, (s.T[i]+s.T[from])/2)
		y = append(y, max(0, s.V[i]-s.V[from])/(s.T[i]-s.T[from]))
		from = i
	}
	return x, y
}

// peaks keeps the largest value of each bin, where it was: a peak is never
// thinned away.
func peaks(s results.Series) (x, y []float64) {
	w := bin(s)
	for i := 0; i < len(s.T); {
		best, end := i, (math.Floor(s.T[i]/w+1e-9)+1)*w-1e-9
		j := i
		for ; j < len(s.T) && s.T[j] < end; j++ {
			if s.V[j] > s.V[best] {
				best = j
			}
		}
		x, y = append(x, s.T[best]), append(y, s.V[best])
		i = max(j, i+1)
	}
	return x, y
}

// groups calls f for each bin that has samples, with its middle.
func groups(s results.Series, w float64, f func(at float64, vs []float64)) {
	for i := 0; i < len(s.T); {
		n := math.Floor(s.T[i]/w + 1e-9)
		j := i + 1
		for j < len(s.T) && math.Floor(s.T[j]/w+1e-9) == n {
			j++
		}
		f((n+0.5)*w, s.V[i:j])
		i = j
	}
}

// against pairs y's samples with x at the same moments (x is interpolated) and
// gives the median y in each of n bins of x between 0 and 1. Zeros are left
// out: they cannot be drawn on a log axis, and mean that nothing was measured.
func against(y, x results.Series, n int) (xs, ys []float64) {
	bins := make([][]float64, n+1)
	for i, t := range y.T {
		if y.V[i] <= 0 {
			continue
		}
		u, ok := at(x, t)
		if !ok || u < 0 || u > 1.0001 {
			continue
		}
		k := min(n, int(u*float64(n)))
		bins[k] = append(bins[k], y.V[i])
	}
	for k, b := range bins {
		if len(b) > 0 {
			xs = append(xs, min(1, (float64(k)+0.5)/float64(n)))
			ys = append(ys, median(b))
		}
	}
	return xs, ys
}

// at interpolates s at time t, not beyond its ends by more than 1.5 s.
func at(s results.Series, t float64) (float64, bool) {
	n := len(s.T)
	i := sort.SearchFloat64s(s.T, t)
	switch {
	case n == 0:
		return 0, false
	case i == n:
		return s.V[n-1], t-s.T[n-1] <= 1.5
	case i == 0:
		return s.V[0], s.T[0]-t <= 1.5
	}
	f := (t - s.T[i-1]) / (s.T[i] - s.T[i-1])
	return s.V[i-1] + f*(s.V[i]-s.V[i-1]), true
}

func median(vs []float64) float64 {
	s := append([]float64(nil), vs...)
	sort.Float64s(s)
	if n := len(s); n%2 == 1 {
		return s[n/2]
	} else if n > 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return math.NaN()
}

func largest(s results.Series) float64 {
	m := 0.0
	for _, v := range s.V {
		m = max(m, v)
	}
	return m
}

func last(s results.Series) float64 {
	if len(s.V) == 0 {
		return 0
	}
	return s.V[len(s.V)-1]
}
