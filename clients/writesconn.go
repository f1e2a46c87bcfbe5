package clients

import (
	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

func (w *writer) connect(l *line) {
	l.open = false
	d := w.dial(&l.slot)
	if d.returned > 0 {
		w.meter.called(l.called, d.returned, d.returned-l.called, d.cpu, d.class == "")
	}
	if d.class != "" {
		w.fail(l, d.class)
	}
}

func (w *writer) connected(l *line) {
	now := socket.Nanotime()
	l.open, l.freeAt = true, now
	w.meter.established(l.called, now-l.called)
	w.meter.opened(now)
	w.confirm(&l.slot, now)
	w.watch(&l.slot, unix.EPOLLIN)
}

// expire fails the exchanges whose deadline has passed. One that never got its
// connection has not begun.
func (w *writer) expire(now int64) {
	d := int64(w.cfg.Deadline)
	if d == 0 {
		return
	}
	drop := func(q *[]queued) {
		for len(*q) > 0 && (*q)[0].intended+d <= now {
			w.meter.fail((*q)[0].intended, now, late, false)
			*q = (*q)[:copy(*q, (*q)[1:])]
		}
	}
	for i := range w.lines {
		l := &w.lines[i]
		if l.busy && l.intended+d <= now {
			w.fail(l, late)
		}
		if n := len(l.own); n > 0 && (l.busy || !l.open) {
			if drop(&l.own); len(l.own) < n {
				w.again(l, now, true)
			}
		}
	}
	if !w.anyFree() {
		drop(&w.common)
	}
}

// anyFree tells whether a connection could take an exchange: if there was one,
// then it is we who are late.
func (w *writer) anyFree() bool {
	for i := range w.lines {
		if l := &w.lines[i]; l.open && !l.busy {
			return true
		}
	}
	return false
}

// fail ends a connection, and the exchange under way on it.
func (w *writer) fail(l *line, why string) {
	now := socket.Nanotime()
	wasOpen := l.open
	if l.fd >= 0 {
		unix.Close(int(l.fd))
	}
	l.fd, l.open, l.corked, l.at, l.freeAt = -1, false, false, now, now
	if !wasOpen {
		l.at = now + reopenPause
	}
	switch {
	case l.busy:
		l.busy = false
		w.meter.fail(l.intended, now, why, true)
		w.again(l, now, true)
	case wasOpen:
		w.meter.result.Stale++
	default:
		w.meter.lost(now, l.called, why)
	}
}

func (w *writer) obey(o order) error {
	for i := range w.lines {
		l := &w.lines[i]
		if l.fd < 0 {
			continue
		}
		if err := o.linger(l.fd); err != nil {
			return err
		}
		w.fail(l, "closed")
	}
	return nil
}
