package wire

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// timerRelease lets frames go at their time by an ordered queue and an
// absolute timerfd of CLOCK_MONOTONIC.
//
// It is one of two releases that a wire can have: where the kernel has fq, a
// frame can be handed over at once with its departure as SO_TXTIME, exact to
// microseconds. That one belongs in a file of its own with the same methods:
// put takes a decided frame, due hands out what has to leave by now, next is
// the earliest departure still to come, arm and fired are the wake-ups, name
// says which it is.
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

// fired notes that the timer has gone off; it does so once for each arming.
func (t *timerRelease) fired() {
	var b [8]byte
	syscall.RawSyscall(unix.SYS_READ, uintptr(t.fd), uintptr(unsafe.Pointer(&b)), 8) // EAGAIN if it was armed anew
	t.armed = 0
}
