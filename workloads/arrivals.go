package workloads

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// open is what the open loops have in common.
type open struct{}

func (open) Closed() (time.Duration, bool) { return 0, false }

// closed is the pause of a closed loop.
type closed time.Duration

func (closed) Next() (time.Duration, bool)     { return 0, false }
func (c closed) Closed() (time.Duration, bool) { return time.Duration(c), true }

// constant starts request k at k/rate, rounded down to a nanosecond. Each start
// comes from k alone, so that no error adds up. A rate of at most nine decimals
// is taken as the fraction num/den that it was written as, and exactly; of
// another, such as a third, double precision is within a nanosecond for weeks.
type constant struct {
	open
	k        uint64
	rate     float64
	num, den uint64 // requests per second, num ≤ 1e18, den ≤ 1e9; num 0: use rate
}

func newConstant(rate float64) *constant {
	num, den := fraction(rate)
	return &constant{rate: rate, num: num, den: den}
}

func (c *constant) Next() (time.Duration, bool) {
	k := c.k
	c.k++
	if c.num == 0 {
		return nanoseconds(float64(k) / c.rate)
	}
	// k * den * 1e9 / num, the product in 128 bits.
	hi, lo := bits.Mul64(k, c.den*uint64(time.Second))
	if hi >= c.num {
		return 0, false
	}
	ns, _ := bits.Div64(hi, lo, c.num)
	if ns > math.MaxInt64 {
		return 0, false // in 292 years
	}
	return time.Duration(ns), true
}

// fraction is the decimal fraction that rate was written as, if it has nine
// places at most.
func fraction(rate float64) (num, den uint64) {
	whole, frac, _ := strings.Cut(strconv.FormatFloat(rate, 'f', -1, 64), ".")
	if len(frac) > 9 {
		return 0, 0
	}
	den = 1
	for range frac {
		den *= 10
	}
	num, err := strconv.ParseUint(whole+frac, 10, 64)
	if err != nil {
		return 0, 0
	}
	return num, den
}

// poisson adds up exponential gaps.
type poisson struct {
	open
	rate float64
	sum  float64 // in mean gaps
	rng  *rand.Rand
}

func newPoisson(rate float64, seed uint64) *poisson {
	return &poisson{rate: rate, rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))}
}

func (p *poisson) Next() (time.Duration, bool) {
	p.sum += p.rng.ExpFloat64()
	return nanoseconds(p.sum / p.rate)
}

// ramp has the rate r(t) = from + (to−from)·t/over until over, and to from
// then on. Request k starts where the integral of r reaches k.
type ramp struct {
	open
	from, to, over float64 // 1/s, 1/s, s
	k              float64
}

func (r *ramp) Next() (time.Duration, bool) {
	area := (r.from + r.to) / 2 * r.over
	var t float64
	switch slope := (r.to - r.from) / r.over; {
	case r.k == 0:
	case r.k <= area:
		// The root of slope/2·t² + from·t = k, in the form that does not
		// cancel; rounding may take the root's argument below zero at the end.
		t = min(2*r.k/(r.from+math.Sqrt(max(0, r.from*r.from+2*slope*r.k))), r.over)
	case r.to == 0:
		return 0, false
	default:
		t = r.over + (r.k-area)/r.to
	}
	r.k++
	return nanoseconds(t)
}

func nanoseconds(s float64) (time.Duration, bool) {
	ns := s * float64(time.Second)
	if !(ns < math.MaxInt64) {
		return 0, false
	}
	return time.Duration(ns), true
}
