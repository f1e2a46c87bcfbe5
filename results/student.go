package results

import "math"

// Student's t distribution with any degrees of freedom.

// studentSurvival is the chance of a value above t, t ≥ 0.
func studentSurvival(t, free float64) float64 {
	return betaShare(free/(free+t*t), free/2, 0.5) / 2
}

// studentQuantile is the value above which the share p (0 < p ≤ ½) lies.
func studentQuantile(p, free float64) float64 {
	hi := 1.0
	for studentSurvival(hi, free) > p && hi < 1e12 {
		hi *= 2
	}
	lo := 0.0
	for range 200 {
		mid := (lo + hi) / 2
		if studentSurvival(mid, free) > p {
			lo = mid
		} else {
			hi = mid
		}
	}
	return (lo + hi) / 2
}

// betaShare is the regularised incomplete beta function I_x(a, b), by its
// continued fraction (Lentz's method; Abramowitz and Stegun 26.5.8).
func betaShare(x, a, b float64) float64 {
	if x <= 0 {
		return 0
	}
	if x >= 1 {
		return 1
	}
	if x > (a+1)/(a+b+2) {
		return 1 - betaShare(1-x, b, a)
	}
	la, _ := math.Lgamma(a)
	lb, _ := math.Lgamma(b)
	lab, _ := math.Lgamma(a + b)
	front := math.Exp(lab-la-lb+a*math.Log(x)+b*math.Log1p(-x)) / a
	const tiny = 1e-300
	c, d := 1.0, 1/nonZero(1-(a+b)*x/(a+1), tiny)
	f := d
	for m := 1.0; m < 500; m++ {
		for _, e := range []float64{
			m * (b - m) * x / ((a + 2*m - 1) * (a + 2*m)),
			-(a + m) * (a + b + m) * x / ((a + 2*m) * (a + 2*m + 1)),
		} {
			d = 1 / nonZero(1+e*d, tiny)
			c = nonZero(1+e/c, tiny)
			f *= c * d
		}
		if math.Abs(c*d-1) < 1e-14 {
			break
		}
	}
	return front * f
}

func nonZero(v, tiny float64) float64 {
	if math.Abs(v) < tiny {
		return tiny
	}
	return v
}
