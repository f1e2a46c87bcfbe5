package wire

import (
	"math"
	"math/bits"
	"time"
)

// line serializes frames at a rate behind a queue, as arithmetic: it knows
// only when its last bit will have left.
type line struct {
	free int64 // ns
	// part of a nanosecond, in 1/rate: frames one after the other take
	// exactly their bits over the rate, however many there are.
	part int64
	rate int64 // what part counts in
}

// admit is when a frame of n bytes that arrives at now has left; ok is false
// if the queue has no room. waiting is the bytes before it in the queue.
func (l *line) admit(now int64, n int, rate int64, q Queue) (left int64, waiting int64, ok bool) {
	if rate == 0 {
		return max(now, l.free), 0, true // behind what an earlier rate still sends
	}
	if rate != l.rate {
		l.rate, l.part = rate, 0
	}
	if l.free < now || l.free == now && l.part == 0 {
		l.free, l.part = now, 0
	} else {
		waiting = bytesIn(l.free-now, rate)
		if limit := q.limit(rate); limit > 0 && waiting+int64(n) > limit {
			return 0, waiting, false
		}
	}
	num := int64(n)*8*int64(time.Second) + l.part
	l.free += num / rate
	l.part = num % rate
	if l.part > 0 {
		return l.free + 1, waiting, true // its last bit leaves within this nanosecond
	}
	return l.free, waiting, true
}

// limit in bytes; zero is none.
func (q Queue) limit(rate int64) int64 {
	if q.Time > 0 {
		return max(1, bytesIn(int64(q.Time), rate))
	}
	return q.Bytes
}

// bytesIn is how many whole bytes a rate in bit/s carries in d ns.
func bytesIn(d, rate int64) int64 {
	hi, lo := bits.Mul64(uint64(d), uint64(rate))
	const div = 8 * uint64(time.Second)
	if hi >= div {
		return math.MaxInt64
	}
	n, _ := bits.Div64(hi, lo, div)
	return int64(min(n, math.MaxInt64))
}
