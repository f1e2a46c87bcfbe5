package server

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// errNotRunning is what a fault meets before Run and after it.
var errNotRunning = errors.New("the server is not running")

// do hands a fault to the thread that serves, and waits until it happened.
func (e *echo) do(o order) error {
	reply := make(chan error, 1)
	e.mu.Lock()
	if !e.running {
		e.mu.Unlock()
		return errNotRunning
	}
	e.orders, e.replies = append(e.orders, o), append(e.replies, reply)
	e.mu.Unlock()
	e.poll.Kick()
	return <-reply
}

// obey carries out what was ordered.
func (e *echo) obey() {
	e.mu.Lock()
	orders, replies := e.orders, e.replies
	e.orders, e.replies = nil, nil
	e.mu.Unlock()
	for i, o := range orders {
		replies[i] <- e.carryOut(o)
	}
}

// refuse ends the time in which faults are possible.
func (e *echo) refuse() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running = false
	for _, r := range e.replies {
		r <- errNotRunning
	}
	e.orders, e.replies = nil, nil
}

func (e *echo) carryOut(o order) error {
	switch o.fault {
	case "slow":
		e.service = o.service
	case "close-connections":
		return e.dropAll(o.reset)
	case "stall":
		return e.setReading(false)
	case "stop-accepting":
		return e.setAccepting(false)
	case "stop-closing":
		e.closing = false
	case "resume":
		return e.resume(o)
	}
	return nil
}

func (e *echo) resume(o order) error {
	if o.ends("slow") {
		e.service = e.cfg.Service
	}
	if o.ends("stop-closing") {
		e.setClosing()
	}
	var errs []error
	if o.ends("stop-accepting") {
		errs = append(errs, e.setAccepting(true))
	}
	if o.ends("stall") {
		errs = append(errs, e.setReading(true))
	}
	return errors.Join(errs...)
}

func (e *echo) dropAll(reset bool) error {
	for _, p := range e.peers {
		if p.fd < 0 {
			continue
		}
		if reset {
			if err := unix.SetsockoptLinger(int(p.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
				return fmt.Errorf("SO_LINGER: %w", err)
			}
		}
		e.drop(p)
	}
	return nil
}

func (e *echo) setAccepting(on bool) error {
	e.accepting, e.parked = on, false
	events := uint32(0)
	if on {
		events = unix.EPOLLIN
	}
	return e.poll.Change(e.lfd, events, socket.OnListen, 0)
}

func (e *echo) setReading(on bool) error {
	e.reading = on
	for _, p := range e.peers {
		if p.fd >= 0 {
			if err := e.watch(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *echo) setClosing() {
	e.closing = true
	for _, p := range e.peers {
		if p.fd >= 0 && p.leaked {
			e.drop(p)
		}
	}
}

// binLength is how much time one sample stands for.
const binLength = int64(100 * time.Millisecond)

// said is what a server tells its sink: the first of each kind of trouble, and
// a sample for each bin of time in which something happened. It has no timer.
type said struct {
	sink  Sink
	first map[string]bool
	bin   int64
	files *openFiles
}

func newSaid(sink Sink) said {
	return said{sink: sink, first: map[string]bool{}, files: newOpenFiles()}
}

// refused tells of an accept() that failed, and counts it.
func (s *said) refused(r *Result, errno syscall.Errno, text string) {
	at := socket.Nanotime()
	if r.AcceptFailed == 0 {
		r.AcceptFailed = at
		s.files.count() // the moment that has most
	}
	r.AcceptErrors[socket.Class(errno)]++
	s.once(at, "accept-error", socket.Class(errno), text)
}

func (s *said) once(at int64, event, class, text string) {
	if s.sink == nil || s.first[event+class] {
		return
	}
	s.first[event+class] = true
	s.sink.Event(at, event, map[string]any{"class": class, "error": text})
}

func (s *said) options(at int64, got map[string]string) {
	if s.sink != nil {
		s.sink.Event(at, "options", map[string]any{"options": got})
	}
}

func (s *said) advance(now func() int64, gauges func() map[string]float64) {
	if s.sink == nil {
		return
	}
	at := now()
	if bin := at / binLength; bin != s.bin {
		s.bin = bin
		s.sample(at, gauges())
	}
}

func (s *said) sample(at int64, gauges map[string]float64) {
	if n := s.files.seen(int64(gauges["open"])); n > 0 {
		gauges["descriptors"] = float64(n)
	}
	s.sink.Sample(at, gauges)
}

// finish says the last, and gives the most descriptors that were open at once.
func (s *said) finish(at int64, gauges map[string]float64) (descriptors int64) {
	descriptors = s.files.seen(int64(gauges["open"]))
	if s.sink != nil {
		s.sample(at, gauges)
	}
	s.files.close()
	s.files = nil
	return descriptors
}
