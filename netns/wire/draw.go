package wire

import "math"

// mix is SplitMix64's finalizer (Steele, Lea, Flood 2014): a bijection in which
// each input bit flips each output bit with a chance of one half.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

const golden = 0x9e3779b97f4a7c15

// absorb folds v into the hash h.
func absorb(h, v uint64) uint64 { return mix(h + golden ^ v) }

// absorbString folds a name into h.
func absorbString(h uint64, s string) uint64 {
	h = absorb(h, uint64(len(s)))
	for i := range len(s) {
		h = absorb(h, uint64(s[i]))
	}
	return h
}

// The streams of one key. Each impairment draws from its own, so that turning
// one on does not change what another does.
const (
	streamLoss = iota + 1
	streamJitter
	streamReorder
	streamDuplicate
	streamCorrupt
	streamCorruptBit
	streamChannel
)

// draw is a uniform 64-bit number of the key's stream.
func draw(key uint64, stream uint64) uint64 { return mix(key + stream*golden) }

// chance is a probability as a threshold for draws.
type chance uint64

func chanceOf(p float64) chance {
	switch {
	case p <= 0:
		return 0
	case p >= 1:
		return math.MaxUint64
	}
	return chance(p * (1 << 64))
}

func (c chance) hit(u uint64) bool { return u < uint64(c) || c == math.MaxUint64 }

// shapeSize is the number of steps of a jitter shape: netem's table size
// (NETEM_DIST in iproute2), so that both wires draw from the same shape.
const shapeSize = 4096

// shape is the inverse distribution function of a jitter distribution in
// units of Jitter.
type shape [shapeSize]float64

func newShape(inverse func(u float64) float64) *shape {
	var s shape
	mean := 0.0
	for i := range s {
		s[i] = inverse((float64(i) + 0.5) / shapeSize)
		mean += s[i] / shapeSize
	}
	for i := range s {
		s[i] -= mean // jitter leaves the mean delay as it is
	}
	return &s
}

func shapeOf(d JitterDist) *shape {
	switch d {
	case Normal:
		return newShape(func(u float64) float64 {
			return max(-4, min(4, math.Sqrt2*math.Erfinv(2*u-1)))
		})
	case Pareto:
		// Mean 3/2 and variance 3/4 at shape 3.
		return newShape(func(u float64) float64 {
			return min(4, (math.Pow(1-u, -1.0/3)-1.5)*2/math.Sqrt(3))
		})
	}
	return newShape(func(u float64) float64 { return 2*u - 1 })
}

// at is the value at a uniform draw, interpolated.
func (s *shape) at(u uint64) float64 {
	x := float64(u>>11) / (1 << 53) * (shapeSize - 1)
	i := int(x)
	if i >= shapeSize-1 {
		return s[shapeSize-1]
	}
	f := x - float64(i)
	return s[i]*(1-f) + s[i+1]*f
}
