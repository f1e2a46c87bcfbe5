// Package clock is the one place where time is read.
//
// An instant is CLOCK_MONOTONIC in nanoseconds: the same in every network
// namespace and every process of a kernel, so agents can be told "go at t0"
// and their stamps compared without any translation. Decisions elsewhere take
// the time as an argument. The real and the virtual clock are the same calls:
// on the virtual one the kernel skips what nobody waits for.
package clock

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// Now is CLOCK_MONOTONIC, ns.
func Now() int64 { return read(unix.CLOCK_MONOTONIC) }

// WallOffset is CLOCK_REALTIME − CLOCK_MONOTONIC, ns: what turns a kernel's
// wall-clock stamp into an instant. The two reads are bracketed, and the
// tightest of eight brackets is taken, so the error is well under 1 µs.
func WallOffset() int64 {
	var best, off int64 = 1 << 62, 0
	for range 8 {
		a := Now()
		w := read(unix.CLOCK_REALTIME)
		b := Now()
		if b-a < best {
			best, off = b-a, w-(a+(b-a)/2)
		}
	}
	return off
}

func read(id int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		// Both clocks exist on every Linux; EFAULT and EINVAL cannot happen.
		panic("clock_gettime: " + err.Error())
	}
	return ts.Nano()
}

// SleepUntil returns at the instant at, or when ctx ends, with its error.
func SleepUntil(ctx context.Context, at int64) error {
	d := at - Now()
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(time.Duration(d))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Seconds is the time from one instant to another, s.
func Seconds(from, to int64) float64 { return float64(to-from) / 1e9 }

// HZ is the kernel's ticks a second; 0 where it does not tell. The coarse
// clocks move once a tick, and their resolution says how long one is
// (kernel/time/posix-timers.c: posix_get_coarse_res).
func HZ() int {
	var ts unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil || ts.Nano() < 1e5 {
		return 0
	}
	return int((1e9 + ts.Nano()/2) / ts.Nano())
}
