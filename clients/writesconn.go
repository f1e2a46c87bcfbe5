package clients

import (
	"fmt"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

func (w *writer) connect(l *line) {
	to := w.to[w.turn%len(w.to)]
	w.turn++
	fd, errno := to.Socket()
	if errno != 0 {
		w.fail(l, socket.Class(errno))
		return
	}
	l.fd, l.gen, l.open, l.events = fd, l.gen+1, false, unix.EPOLLOUT
	if err := socket.SetAll(int(fd), w.options); err != nil {
		w.broken(err)
		w.fail(l, "option")
		return
	}
	sa, size := to.Raw()
	cpu := threadCPU()
	l.called = socket.Nanotime()
	_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(sa), size)
	now := socket.Nanotime()
	syn := errno == 0 || errno == unix.EINPROGRESS
	w.meter.called(l.called, now, now-l.called, threadCPU()-cpu, syn)
	if !syn {
		w.fail(l, socket.Class(errno))
		return
	}
	if err := w.poll.Watch(int(fd), l.events, l.index, l.gen); err != nil {
		w.broken(err)
	}
}

func (w *writer) connected(l *line) {
	now := socket.Nanotime()
	l.open, l.freeAt = true, now
	w.meter.established(l.called, now-l.called)
	w.meter.opened(now)
	if !w.checked {
		w.checked = true
		got, err := socket.ReadBack(int(l.fd), w.options, true)
		w.meter.result.Options = got
		w.meter.report.event(now, "options", map[string]any{"options": got})
		if err != nil {
			w.broken(err)
		}
	}
	w.watch(l, unix.EPOLLIN)
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

func (w *writer) watch(l *line, events uint32) {
	if l.events == events {
		return
	}
	l.events = events
	if err := w.poll.Change(int(l.fd), events, l.index, l.gen); err != nil {
		w.broken(err)
	}
}

// broken is trouble of the client's own: the run ends with it.
func (w *writer) broken(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *writer) obey(o order) error {
	for i := range w.lines {
		l := &w.lines[i]
		if l.fd < 0 {
			continue
		}
		if o.reset {
			if err := unix.SetsockoptLinger(int(l.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
				return fmt.Errorf("SO_LINGER: %w", err)
			}
		}
		w.fail(l, "closed")
	}
	return nil
}

// do hands a fault to the thread, and waits until it happened.
func (w *writer) do(o order) error {
	w.mu.Lock()
	p, running := w.poll, w.running
	w.mu.Unlock()
	if !running {
		return errNotRunning
	}
	return w.mailbox.ask(p, o)
}
