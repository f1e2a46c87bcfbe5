package results

import "math"

// The kernel's timer wheel (kernel/time/timer.c): levels of 64 buckets, each
// level eight times coarser than the one below. A timer is put into the level
// that its delay fits in, at that level's next bucket after its expiry
// (calc_index), and is never moved to a finer one: so it fires late, by up to
// one bucket.
const (
	wheelLevelShift = 3  // LVL_CLK_SHIFT
	wheelLevelSize  = 64 // LVL_SIZE
)

// WheelGranule is how late at most, in seconds, the kernel's timer wheel fires
// a timer of the given delay in seconds on a kernel with hz ticks a second:
// 8ⁿ ticks, where level n is the first with delay < 63·8ⁿ ticks (LVL_START).
// It is 0 where hz is not known.
func WheelGranule(delay float64, hz int) float64 {
	if hz <= 0 || !(delay >= 0) {
		return 0
	}
	ticks := math.Ceil(delay*float64(hz) - 1e-6)
	depth := 9 // LVL_DEPTH
	if hz <= 100 {
		depth = 8
	}
	granule := 1.0
	for n := 0; n < depth-1 && ticks >= (wheelLevelSize-1)*granule; n++ {
		granule *= 1 << wheelLevelShift
	}
	return granule / float64(hz)
}
