package wire

import (
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
)

const (
	// watchAhead is how long before a departure the wire wakes to watch the
	// clock. Waking an idle CPU takes a virtual machine some 100 µs, which
	// would be every frame's delay error.
	watchAhead = int64(100 * time.Microsecond)
	// watchShare is the part of one CPU, as its inverse, that watching may
	// use; departures beyond it wait for the timer alone. Dense departures
	// need it least, since their CPU does not go idle.
	watchShare = 4
	// watchSaved bounds what is left for later of the unused part.
	watchSaved = int64(5 * time.Millisecond)

	schedFIFO        = 1          // SCHED_FIFO
	schedResetOnFork = 0x40000000 // SCHED_RESET_ON_FORK
)

// watch is the budget for watching the clock.
type watch struct {
	off   bool
	saved int64 // ns that may be spent
	since int64 // up to which saved was filled
}

// fill adds what the time since the last call is worth.
func (b *watch) fill(now int64) {
	if b.since != 0 {
		b.saved = min(watchSaved, b.saved+(now-b.since)/watchShare)
	}
	b.since = now
}

// ahead is how long before a departure the timer should go off.
func (b *watch) ahead() int64 {
	if b.off || b.saved < watchAhead {
		return 0
	}
	return watchAhead
}

// until watches the clock up to the instant at, a frame's arrival, or the stop
// flag; false if at is too far away or the budget is spent. Without a yield: a
// thread that yields to a busy one gets the CPU back a whole slice later.
func (b *watch) until(at int64, arrived func() bool, stop *atomic.Bool) bool {
	began := clock.Now()
	b.fill(began)
	if b.off || at-began > watchAhead || b.saved <= 0 {
		return false
	}
	for now := began; ; now = clock.Now() {
		if now >= at || arrived() || stop.Load() {
			b.saved -= now - began
			return true
		}
	}
}

// prepareThread makes the current thread punctual and says under which
// scheduling policy it is. A wire stands for physics, which waits for no CPU:
// it runs in real time where that is allowed. The policy is not inherited by
// what the thread starts, and ends with the thread.
func prepareThread(normal bool) string {
	// Only waits without an absolute timer have slack; it fails for nobody.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	if normal {
		return "other"
	}
	priority := int32(1) // the lowest
	_, _, e := unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, schedFIFO|schedResetOnFork, uintptr(unsafe.Pointer(&priority)))
	if e != 0 {
		return "other" // a plain user may not, and need not
	}
	return "fifo"
}

// oneCPU is where watching the clock would keep everyone else from running.
func oneCPU() bool { return runtime.NumCPU() == 1 }
