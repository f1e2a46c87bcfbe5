package wire

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// timerRelease lets frames go at their time by an ordered queue and an
// absolute timerfd of CLOCK_MONOTONIC. It serves all frames where the kernel
// has no fq, and those that fq cannot where it has.
type timerRelease struct {
	queue queue
	fd    int
	armed int64 // 0: not
}

func newTimerRelease() (timerRelease, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	return timerRelease{fd: fd}, err
}

func (t *timerRelease) name() string { return "timerfd" }

func (t *timerRelease) put(e entry) { t.queue.push(e) }

// due takes the next frame that leaves by now.
func (t *timerRelease) due(now int64) (entry, bool) {
	if at, ok := t.queue.next(); !ok || at > now {
		return entry{}, false
	}
	return t.queue.pop(), true
}

// next is the earliest departure, or false.
func (t *timerRelease) next() (int64, bool) { return t.queue.next() }

// arm makes the wire wake so long before the next departure, or at the instant
// at if that is earlier and not 0.
func (t *timerRelease) arm(at, ahead int64) error {
	if due, ok := t.queue.next(); ok && (at == 0 || due-ahead < at) {
		at = max(due-ahead, 1)
	}
	if at == t.armed {
		return nil
	}
	spec := unix.ItimerSpec{}
	if at > 0 {
		spec.Value = unix.NsecToTimespec(at)
	}
	t.armed = at
	_, _, e := syscall.RawSyscall6(unix.SYS_TIMERFD_SETTIME, uintptr(t.fd), unix.TFD_TIMER_ABSTIME, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// fired notes that the timer has gone off; it does so once for each arming. It
// is waited for by edge, and need not be read.
func (t *timerRelease) fired() { t.armed = 0 }
