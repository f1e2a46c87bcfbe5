package capture

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/results"
)

// rest is how long the recorder lets packets gather while there is traffic.
// While there is none it sleeps until the first one.
const rest = 50 // ms

// A Recorder collects what several taps see into one file. A nil Recorder
// records nothing. Instants are CLOCK_MONOTONIC, ns. Mark, Watch and Window
// may be called from any goroutine.
type Recorder struct {
	cfg    Config
	points []point
	keep   *keeper
	wake   int // eventfd
	done   chan struct{}
	err    error // of the loop; read after done

	mu    sync.Mutex
	asked []request

	// the loop's own
	packets   []packet
	heads     []head
	header    header
	arena     arena
	past      history
	skew      int64 // CLOCK_REALTIME − CLOCK_MONOTONIC
	firstSkew int64
	notes     []note // marks with a text
	window    [2]int64
	bad       int64 // frames that could not be decoded
	wakes     int64 // turns of the loop
	stopping  bool
	started   bool
	stopped   bool
	view      *view // after Stop
}

// point is a tap and where it is.
type point struct {
	host, iface string
	tap         *Tap
}

type note struct {
	at   int64
	text string
}

type request struct {
	kind reqKind
	at   int64
	to   int64 // of a window its end, of a mark its span
	text string
}

type reqKind uint8

const (
	reqMark reqKind = iota
	reqWatch
	reqWindow
	reqStop
)

// New makes a recorder without taps.
func New(cfg Config) *Recorder { return &Recorder{cfg: cfg.withDefaults(), wake: -1} }

// Add hands a tap over, before Start: the recorder closes it.
func (r *Recorder) Add(host, iface string, tap *Tap) {
	if r != nil {
		r.points = append(r.points, point{host: host, iface: iface, tap: tap})
	}
}

// Start begins to record.
func (r *Recorder) Start() error {
	if r == nil {
		return nil
	}
	if r.started {
		return errors.New("capture: it was started already")
	}
	if len(r.points) == 0 || len(r.points) > 255 {
		return fmt.Errorf("capture: %d taps; from 1 to 255", len(r.points))
	}
	var err error
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("capture: eventfd: %w", err)
	}
	if r.firstSkew, err = skew(); err != nil {
		unix.Close(r.wake)
		return err
	}
	r.skew = r.firstSkew
	r.started = true
	r.keep = newKeeper(r.cfg, len(r.points))
	r.done = make(chan struct{})
	go func() {
		defer close(r.done)
		r.err = r.loop()
	}()
	return nil
}

// Mark keeps everything around an instant, which may lie up to two seconds
// back, or ahead; a text becomes a comment on the next packet.
func (r *Recorder) Mark(at int64, text string) { r.ask(request{reqMark, at, 0, text}) }

// MarkNear is Mark with a span of its own, half before the instant and half
// after it.
func (r *Recorder) MarkNear(at int64, around time.Duration, text string) {
	r.ask(request{reqMark, at, int64(around), text})
}

// Watch keeps further connections from an instant on.
func (r *Recorder) Watch(at int64) { r.ask(request{reqWatch, at, 0, ""}) }

// Window tells when the measuring window is: connections are watched from its
// start on, and ladders are taken from within it.
func (r *Recorder) Window(from, to int64) { r.ask(request{reqWindow, from, to, ""}) }

func (r *Recorder) ask(q request) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.asked = append(r.asked, q)
	if r.started {
		// The counter of an eventfd cannot overflow here; it fails in no other way.
		unix.Write(r.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

func (r *Recorder) loop() error {
	fds := make([]unix.PollFd, 1, 1+len(r.points))
	for ; ; r.wakes++ {
		n, err := r.drain(false)
		if err != nil {
			return err
		}
		busy := n > 0
		if err := r.answer(); err != nil || r.stopping {
			return err
		}
		fds = append(fds[:0], unix.PollFd{Fd: int32(r.wake), Events: unix.POLLIN})
		timeout := rest
		if !busy {
			timeout = -1
			for _, p := range r.points {
				fds = append(fds, unix.PollFd{Fd: int32(p.tap.fd), Events: unix.POLLIN})
			}
		}
		if _, err := unix.Poll(fds, timeout); err != nil && err != unix.EINTR {
			return fmt.Errorf("capture: poll: %w", err)
		}
		if fds[0].Revents != 0 {
			var b [8]byte
			unix.Read(r.wake, b[:]) // EAGAIN: nothing to forget
		}
		if err := clearErrors(fds[1:]); err != nil {
			return err
		}
	}
}

// clearErrors takes what would keep poll from sleeping off the sockets: that
// an interface went down, and may come up again, or went away.
func clearErrors(fds []unix.PollFd) error {
	for _, f := range fds {
		if f.Revents&^unix.POLLIN == 0 {
			continue
		}
		if _, err := unix.GetsockoptInt(int(f.Fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
			return fmt.Errorf("capture: SO_ERROR: %w", err)
		}
	}
	return nil
}

// skew is CLOCK_REALTIME − CLOCK_MONOTONIC: the kernel stamps frames with the
// one, and everything else here uses the other.
func skew() (int64, error) {
	var a, b, m unix.Timespec
	if err := errors.Join(unix.ClockGettime(unix.CLOCK_REALTIME, &a), unix.ClockGettime(unix.CLOCK_MONOTONIC, &m),
		unix.ClockGettime(unix.CLOCK_REALTIME, &b)); err != nil {
		return 0, fmt.Errorf("capture: clock_gettime: %w", err)
	}
	return a.Nano() + (b.Nano()-a.Nano())/2 - m.Nano(), nil
}

// drain takes what all taps hold, in order of time: a connection is taken up
// at one instant at all of them, so that what leaves one is never missed at
// the other. Frames from after its begin wait for the next turn, unless it is
// the last.
func (r *Recorder) drain(last bool) (n int, err error) {
	s, err := skew()
	if err != nil {
		return 0, err
	}
	// The offset wobbles by its own measurement: only a step changes it.
	if d := s - r.skew; d > 1e6 || d < -1e6 {
		r.skew, last = s, true // after a step back stamps may lie ahead
	}
	limit := int64(1<<63 - 1)
	if !last {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
			return 0, fmt.Errorf("capture: clock_gettime: %w", err)
		}
		limit = now.Nano()
	}
	return r.merge(limit), nil
}

// merge takes what all taps hold up to a stamp.
func (r *Recorder) merge(limit int64) (n int) {
	if r.heads == nil {
		r.heads = make([]head, len(r.points))
	}
	for i := range r.heads {
		r.heads[i].there = r.points[i].tap.peek(&r.heads[i].frame)
	}
	for {
		tap := -1
		for i := range r.heads {
			if h := &r.heads[i]; h.there && h.wall <= limit && (tap < 0 || h.wall < r.heads[tap].wall) {
				tap = i
			}
		}
		if tap < 0 {
			return n
		}
		n++
		h, t := &r.heads[tap], r.points[tap].tap
		r.take(tap, &h.frame)
		t.release()
		h.there = t.peek(&h.frame)
	}
}

// head is the oldest frame of a tap.
type head struct {
	frame
	there bool
}

func (r *Recorder) take(tap int, f *frame) {
	p := packet{at: f.wall - r.skew, wire: f.wire, tap: tap, out: f.out, data: f.data}
	if err := r.header.decode(f.data); err != nil {
		r.bad++
		r.header.tcp = false
	}
	if r.cfg.Changed != nil && r.header.tcp && r.header.flags&(flagSYN|flagFIN|flagRST) != 0 {
		r.cfg.Changed()
	}
	v := r.keep.keep(tap, p.at, &r.header, len(f.data))
	p.ord, p.again = v.ord, v.again
	switch {
	case v.keep:
		r.store(&p)
	case !v.drop:
		r.past.add(&p)
	}
}

func (r *Recorder) store(p *packet) {
	q := *p
	q.data = r.arena.copy(p.data)
	r.packets = append(r.packets, q)
}

func (r *Recorder) answer() error {
	r.mu.Lock()
	asked := r.asked
	r.asked = nil
	r.mu.Unlock()
	for _, q := range asked {
		switch q.kind {
		case reqWatch:
			r.keep.watch(q.at)
		case reqWindow:
			r.keep.watch(q.at)
			r.window = [2]int64{q.at, q.to}
		case reqMark:
			around := time.Duration(q.to)
			if around == 0 {
				around = r.cfg.Around
			}
			m := r.keep.mark(q.at, around)
			r.past.take(m.from, m.to, func(p *packet) bool {
				if !m.take() || !r.keep.room(len(p.data)) {
					return false
				}
				if p.ord == 0 {
					p.ord = -int64(len(r.keep.marks))
				}
				r.store(p)
				return true
			})
			if q.text != "" {
				r.notes = append(r.notes, note{q.at, q.text})
			}
		case reqStop:
			if err := r.finish(); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish lets nothing more in and takes what is there: then everything that
// the kernel counted was either seen here or dropped.
func (r *Recorder) finish() error {
	r.stopping = true
	for _, p := range r.points {
		if err := p.tap.stop(); err != nil {
			return fmt.Errorf("capture on %s: %w", p.iface, err)
		}
	}
	for {
		n, err := r.drain(true)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	for _, p := range r.points {
		if err := p.tap.count(); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends the recording, explains what was kept and writes it to file, under
// a temporary name first. The taps are closed, whatever goes wrong.
func (r *Recorder) Stop(file string) (results.Capture, error) {
	if r == nil {
		return results.Capture{}, nil
	}
	if err := r.Close(); err != nil {
		return results.Capture{}, err
	}
	if !r.started {
		return results.Capture{}, errors.New("capture: it was not started")
	}
	c := results.Capture{File: filepath.Base(file)}
	for _, p := range r.points {
		c.Seen += p.tap.seen
		c.Dropped += p.tap.drops
	}
	r.view = newView(r)
	n, commented, err := r.write(file)
	if err != nil {
		return c, err
	}
	c.Packets, c.Commented = int64(n), int64(commented)
	c.Bound = r.keep.bound(c.Packets, c.Seen)
	if r.bad > 0 {
		c.Bound += fmt.Sprintf("; %d malformed", r.bad)
	}
	return c, nil
}

// Close ends the recording without writing anything. It may be called twice,
// and after Stop.
func (r *Recorder) Close() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	again := r.stopped
	r.mu.Unlock()
	if again {
		return nil
	}
	var errs []error
	if r.started {
		r.ask(request{kind: reqStop})
		<-r.done
		errs = append(errs, r.err)
	}
	r.mu.Lock()
	r.stopped = true // from here on nobody wakes the loop
	r.mu.Unlock()
	if r.started {
		errs = append(errs, unix.Close(r.wake))
	}
	for _, p := range r.points {
		errs = append(errs, p.tap.Close())
	}
	return errors.Join(errs...)
}

// wallTime is an instant as the file tells it: on the clock's setting of when
// the recording started, so that a step in between does not reorder packets.
func (r *Recorder) wallTime(at int64) time.Time { return time.Unix(0, at+r.firstSkew) }
