package wire

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
)

// put lets a frame wait for its departure: in the kernel's fq if it can be
// handed over, with the wire if not.
func (w *Wire) put(e entry, now int64) {
	if w.pacer == nil || !w.pacer.takes(e, now) {
		w.release.put(e)
		return
	}
	l := w.pacer.lanes[1-e.dir]
	l.put(e, w.slab.at(e.slot, e.n), now)
	if l.ready == batch {
		w.handOver(int(e.dir))
	}
}

// handOver gives a direction's batch to fq. The calls do not block.
func (w *Wire) handOver(dir int) {
	l := w.pacer.lanes[1-dir]
	c := &w.model.dirs[dir].count
	for at := 0; at < l.ready; {
		s := &l.sockets[l.use]
		r, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(s.fd),
			uintptr(unsafe.Pointer(&l.out[at])), uintptr(l.ready-at), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			for range int(r) {
				e := l.batch[at]
				if l.out[at].hdr.Controllen == controlSize {
					s.asked(e.due)
				}
				l.handed++
				l.flying.push(e.due)
				w.slab.give(e.slot)
				c.queued--
				at++
			}
		case unix.EINTR:
		case unix.EAGAIN: // its buffer is full
			if l.roomier() {
				continue
			}
			for ; at < l.ready; at++ {
				l.kept = max(l.kept, l.batch[at].due)
				w.release.put(l.batch[at])
			}
		default:
			e := l.batch[at]
			w.slab.give(e.slot)
			c.queued--
			if l.out[at].hdr.Controllen == controlSize {
				s.blind = true // it is not known whether the stamp was numbered
			}
			if errno == unix.ENOBUFS { // fq dropped it (net_xmit_errno), and counts it
				l.handed++
			} else {
				c.sendErrors++
				w.refused = fmt.Errorf("%s: %w", l.name, errno)
			}
			at++
		}
	}
	l.ready = 0
	for i := range l.sockets {
		if len(l.sockets[i].due) >= sampleRead {
			w.readStamps(&l.sockets[i], clock.Now())
		}
	}
}

// readStamps records how late the frames left that the kernel stamped.
func (w *Wire) readStamps(s *pacedSocket, now int64) {
	s.stamps(now, func(due, left int64) {
		_ = w.late.RecordValue(min(max(0, left-w.wall-due), maxDelayError))
	})
}

// readAllStamps does so for every socket.
func (w *Wire) readAllStamps() {
	if w.pacer == nil {
		return
	}
	now := clock.Now()
	for _, l := range w.pacer.lanes {
		for i := range l.sockets {
			w.readStamps(&l.sockets[i], now)
		}
	}
}

// flying is how many frames are in fq, by their departures.
func (p *pacer) flying(now int64) int {
	if p == nil {
		return 0
	}
	return p.lanes[0].flying.count(now) + p.lanes[1].flying.count(now)
}

// counted adds what fq did to a direction's tally: frames that were handed
// over have left, wait in it, or were dropped by it.
func (w *Wire) counted(dir int) (t tally, dropped uint64, err error) {
	t = w.model.dirs[dir].count
	if w.pacer == nil {
		return t, 0, nil
	}
	l := w.pacer.lanes[1-dir]
	if l.handed == 0 {
		return t, 0, nil
	}
	q, err := w.pacer.count(1 - dir)
	if err != nil {
		return t, 0, fmt.Errorf("port %s: fq's counters: %w: frames handed to it are not counted as out", l.name, err)
	}
	// Read at one instant, under the lock of the discipline.
	t.out += q.packets
	t.bytesOut += q.bytes
	t.queued += q.queued
	dropped = l.handed - min(l.handed, q.packets+q.queued)
	t.overflowed += dropped
	return t, dropped, nil
}
