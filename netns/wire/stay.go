package wire

import (
	"math"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// longestPoll is the longest pause between two looks at the rings while
	// frames keep coming: 4,096 frames of a ring are then 400,000 a second.
	longestPoll = int64(10 * time.Millisecond)
	// shortestPoll is where looking by the clock saves nothing.
	shortestPoll = int64(100 * time.Microsecond)
	// emptyTurns is how many looks find nothing before the wire waits for a
	// frame instead.
	emptyTurns = 3
)

// stay is how the wire's thread waits. With fq a frame must be handed over
// before it leaves, not when it arrives: while frames are dense the thread
// looks into the rings by the clock, a few times in the time that a frame
// stays on the wire at least, and takes in all that has come.
type stay struct {
	virtual bool // waiting costs no time, a wake-up does
	every   int64
	polling bool
	empty   int
	seen    int64 // when there were frames last
	dense   bool  // it has not been long
	wakes   uint64
}

// after notes how many frames a wake-up found, and says when to look again: 0
// is when there is something to see.
func (s *stay) after(took int, now int64) int64 {
	s.wakes++
	recent := now-s.seen < max(s.every, longestPoll/2)
	switch {
	case took > 0:
		if recent {
			s.polling = s.every > 0
			s.dense = true
		}
		s.empty, s.seen = 0, now
	case s.polling:
		if s.empty++; s.empty == emptyTurns {
			s.polling, s.dense = false, false
		}
	default:
		s.dense = s.dense && recent
	}
	if !s.polling || s.every == 0 {
		s.polling = false
		return 0
	}
	return now + s.every
}

// wait waits for events. On the virtual clock a call that the runtime hears of
// wakes its monitor, which costs more than the wire: as long as something is
// sure to come soon it is not told.
func (w *Wire) wait(events []unix.EpollEvent) (int, error) {
	fd := w.epoll
	if w.stay.polling {
		fd = w.lull
	}
	if !w.stay.virtual || !w.stay.dense {
		return unix.EpollWait(fd, events, -1)
	}
	timeout := -1
	if !w.stay.polling {
		timeout = int(longestPoll / int64(time.Millisecond))
	}
	n, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_WAIT, uintptr(fd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(timeout), 0, 0)
	if e != 0 {
		return 0, e
	}
	if n == 0 {
		w.stay.dense = false
	}
	return int(n), nil
}

// lead is how long a frame stays on the wire at the very least, whatever is
// drawn for it and whichever of the faults are in effect.
func (m *model) lead() int64 {
	lead := int64(math.MaxInt64)
	for dir := range m.dirs {
		d := m.dirs[dir].base
		delay, jitter, skips := d.Delay, d.reach(), d.skips()
		for _, f := range m.faults {
			if f.Set == nil || !f.concerns(dir) {
				continue
			}
			c := f.Set.apply(d)
			delay, jitter, skips = min(delay, c.Delay), max(jitter, c.reach()), skips || c.skips()
		}
		if skips {
			return 0
		}
		lead = min(lead, int64(delay-min(delay, jitter)))
	}
	return lead
}

// reach is how far jitter can shorten the delay.
func (d Direction) reach() time.Duration {
	if d.JitterDist == "" || d.JitterDist == Uniform {
		return d.Jitter
	}
	return 5 * d.Jitter // shapes are cut at four, before they are centred
}

// skips reports whether a frame may leave without the delay.
func (d Direction) skips() bool { return d.Reorder.P > 0 && d.Reorder.Extra == 0 }

// pace sets how often to look into the rings.
func (w *Wire) pace() {
	w.stay.every = 0
	if w.pacer == nil {
		return
	}
	if every := min(w.model.lead()/2, longestPoll); every >= shortestPoll {
		w.stay.every = every
	}
}
