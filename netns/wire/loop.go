package wire

import (
	"fmt"
	"math"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
)

// loop carries frames on the wire's own thread until it is stopped.
func (w *Wire) loop() error {
	events := make([]unix.EpollEvent, 8)
	for {
		n, err := w.wait(events)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("wire: epoll_wait: %w", err)
		}
		w.mu.Lock()
		for _, e := range events[:n] {
			switch e.Fd {
			case fromPortA, fromPortB:
				if e.Events&unix.EPOLLERR != 0 {
					w.suspect, w.patience = clock.Now(), firstPatience
				}
			case fromTimer:
				w.release.fired()
			case fromWake:
				var b [8]byte
				syscall.RawSyscall(unix.SYS_READ, uintptr(w.wake), uintptr(unsafe.Pointer(&b)), 8)
			case fromSteps:
				var b [8]byte // ECANCELED
				syscall.RawSyscall(unix.SYS_READ, uintptr(w.steps), uintptr(unsafe.Pointer(&b)), 8)
				w.wall = clock.WallOffset()
				w.stepped++
			}
			if err != nil {
				w.mu.Unlock()
				return err
			}
		}
		if w.suspect != 0 {
			if err := w.inspect(); err != nil {
				w.mu.Unlock()
				return err
			}
		}
		took, now := 0, int64(0)
		for !w.stopped.Load() {
			var n int
			var busy bool
			n, now, busy = w.turn()
			took += n
			next, some := w.release.next()
			// Under load this loop does not end: let others have a look.
			w.mu.Unlock()
			if !busy {
				busy = some && w.watch.until(next, w.pending, &w.stopped)
			}
			w.mu.Lock()
			if !busy {
				break
			}
		}
		at := earlier(earlier(w.nextChange(), w.suspect), w.stay.after(took, now))
		err = w.release.arm(at, w.watch.ahead())
		w.mu.Unlock()
		if err != nil {
			return fmt.Errorf("wire: timerfd_settime: %w", err)
		}
		if w.stopped.Load() {
			return nil
		}
	}
}

// firstPatience is how long after a port went down the wire looks again.
const firstPatience = int64(time.Millisecond)

// inspect looks at the ports after one of them went down, less and less often
// until both are up.
func (w *Wire) inspect() error {
	if now := clock.Now(); now < w.suspect {
		return nil
	} else {
		w.suspect = now + w.patience
		w.patience *= 2
	}
	anyDown := false
	for _, p := range w.ports {
		down, err := p.check()
		if err != nil {
			return err
		}
		anyDown = anyDown || down
	}
	if !anyDown {
		w.suspect = 0
	}
	return nil
}

// earlier is the earlier one of two instants, of which 0 is none.
func earlier(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// turn takes some frames in and lets all that are due go. It says how many it
// took, when it began, and whether there may be more to do at once.
func (w *Wire) turn() (took int, now int64, more bool) {
	began := clock.Now()
	now = began
	took = w.take(dirB, now) + w.take(dirA, now)
	w.letGo(now)
	sent := 0
	for {
		e, ok := w.release.due(now)
		if !ok {
			break
		}
		p := w.ports[1-e.dir]
		p.put(e, w.slab.at(e.slot, e.n))
		sent++
		if p.ready == batch {
			w.flush(int(e.dir), &now)
		}
	}
	w.flush(dirB, &now)
	w.flush(dirA, &now)
	if w.pacer == nil {
		return took, began, took > 0 || sent > 0 || w.pending()
	}
	w.handOver(dirB)
	w.handOver(dirA)
	return took, began, sent > 0 || w.pending()
}

// pending reports whether a frame has arrived that was not taken yet.
func (w *Wire) pending() bool { return w.ports[0].pending() || w.ports[1].pending() }

// take decides what waits in a ring, a batch at most.
func (w *Wire) take(dir int, now int64) int {
	p := w.ports[dir]
	c := &w.model.dirs[dir].count
	var r received
	n := 0
	for ; n < batch && p.receive(&r); n++ {
		stamp := r.stamp - w.wall
		if stamp > now {
			// It came after now was read, or the wall clock was set.
			if now = clock.Now(); stamp > now {
				w.future++
				w.wall = clock.WallOffset()
				stamp = min(r.stamp-w.wall, now)
			}
		}
		if r.length > len(r.data) || r.tagged || len(r.data) < etherHeader {
			if r.tagged {
				w.tagged[dir]++
			}
			c.in++
			c.bytesIn += uint64(r.length)
			c.truncated++
			p.release()
			continue
		}
		if r.unsummed {
			c.unsummed++
		}
		v := w.model.decide(dir, stamp, r.data)
		w.keep(dir, r.data, v, now)
		for _, id := range w.model.freed {
			w.letStrayGo(id, v.due, now)
		}
		p.release()
	}
	return n
}

// keep puts a frame that is not dropped onto the wire.
func (w *Wire) keep(dir int, data []byte, v verdict, now int64) {
	c := &w.model.dirs[dir].count
	if v.fate != delivered && v.fate != held {
		return
	}
	copies := 1
	if v.copy {
		copies = 2
	}
	for range copies {
		var slot int32
		ok := w.slab.used()+w.pacer.flying(now) < w.slab.cap
		if ok {
			slot, ok = w.slab.take(data)
		}
		if !ok {
			c.overflowed++
			continue
		}
		e := entry{due: v.due, slot: slot, n: int32(len(data)), dir: uint8(dir), hold: v.hold, stray: v.stray}
		if v.bit > 0 {
			w.slab.at(slot, e.n)[v.bit/8] ^= 0x80 >> (v.bit % 8)
		}
		c.queued++
		if v.fate == held {
			w.held = append(w.held, e)
		} else {
			w.put(e, now)
		}
	}
	w.most = max(w.most, uint64(w.slab.used()+w.pacer.flying(now)))
}

// flush sends a direction's batch. now is its beginning, and becomes its end.
func (w *Wire) flush(dir int, now *int64) {
	p := w.ports[1-dir]
	if p.ready == 0 {
		return
	}
	c := &w.model.dirs[dir].count
	began := *now
	for at := 0; at < p.ready; {
		n, errno := p.transmit(at)
		if errno != 0 {
			c.sendErrors++
			w.refused = fmt.Errorf("%s: %w", p.name, errno)
			p.sent[at].n = 0
			n = 1
		}
		at += n
	}
	ended := clock.Now()
	for i := range p.ready {
		e := p.sent[i]
		w.slab.give(e.slot)
		c.queued--
		if e.n == 0 {
			continue
		}
		c.out++
		c.bytesOut += uint64(e.n)
		// A batch takes its time; its frames are taken to share it evenly.
		left := began + (ended-began)*int64(i)/int64(p.ready)
		_ = w.late.RecordValue(min(max(0, left-e.due), maxDelayError))
	}
	p.ready = 0
	*now = ended
}

// nextChange is the earliest release to come, or 0.
func (w *Wire) nextChange() int64 {
	at := int64(math.MaxInt64)
	for _, c := range w.changes {
		at = min(at, c.at)
	}
	if at == math.MaxInt64 {
		return 0
	}
	return max(at, 1)
}

// letGo moves what was held until now into the queue.
func (w *Wire) letGo(now int64) {
	for i := 0; i < len(w.changes); {
		c := w.changes[i]
		if c.at > now {
			i++
			continue
		}
		w.changes = append(w.changes[:i], w.changes[i+1:]...)
		keep := w.held[:0]
		for _, e := range w.held {
			if w.model.faults[e.hold-1].Name == c.hold {
				e.due = c.at
				w.model.dirs[e.dir].count.released++
				w.put(e, now)
			} else {
				keep = append(keep, e)
			}
		}
		w.held = keep
	}
}
