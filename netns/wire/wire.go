package wire

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
)

// maxDelayError is where the histogram of the delay error ends, 10 s in ns.
const maxDelayError = 10_000_000_000

// Wire joins two interfaces of one namespace in user space. Its methods may be
// called from any goroutine.
type Wire struct {
	ports    [2]*port // A and B: direction d enters at ports[d] and leaves at the other
	epoll    int
	lull     int // epoll without the ports
	wake     int // eventfd
	steps    int // timerfd that hears of steps of CLOCK_REALTIME
	stopped  atomic.Bool
	started  atomic.Bool
	policy   atomic.Pointer[string]
	normal   bool
	watch    watch // this and the next are the wire's thread's own
	stay     stay
	suspect  int64 // when to look whether a port is gone; 0 is no need
	patience int64

	// mu guards the rest. The wire's thread holds it while it works, never
	// while it waits; others hold it for as long as a copy takes.
	mu      sync.Mutex
	model   *model
	slab    *slab
	release timerRelease
	pacer   *pacer // nil: everything waits in release
	held    []entry
	changes []change
	late    *hdr.Histogram
	wall    int64 // CLOCK_REALTIME - CLOCK_MONOTONIC
	most    uint64
	future  uint64 // stamps after their own reading
	tagged  [2]uint64
	stepped uint64 // times that the wall clock was set
	closed  bool
	refused error // the last error of a send
}

// change is an instant at which held frames are let go.
type change struct {
	at   int64
	hold string
}

// Open takes two interfaces of the current thread's network namespace. Both
// must be up, without addresses of their own, and with the offloads of their
// peers off. What arrives from now on is kept for Run, as far as the rings
// hold it.
func Open(portA, portB string, cfg Config) (w *Wire, err error) {
	m, err := newModel(cfg)
	if err != nil {
		return nil, err
	}
	w = &Wire{model: m, epoll: -1, lull: -1, wake: -1, steps: -1, late: hdr.New(1, maxDelayError, 3)}
	w.release.fd = -1
	w.normal, w.watch.off = cfg.Normal, cfg.NoWatch || oneCPU()
	w.stay.virtual = cfg.NoWatch
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
			w = nil
		}
	}()
	size := 0
	for i, name := range []string{portA, portB} {
		if w.ports[i], err = openPort(name); err != nil {
			return w, err
		}
		size = max(size, w.ports[i].slotSize)
	}
	frames := cfg.MaxFrames
	if frames == 0 {
		frames = defaultFrames
	}
	if w.slab, err = newSlab(frames, size); err != nil {
		return w, err
	}
	if w.release, err = newTimerRelease(); err != nil {
		return w, fmt.Errorf("wire: timerfd: %w", err)
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return w, fmt.Errorf("wire: eventfd: %w", err)
	}
	if err = w.watchSteps(); err != nil {
		return w, fmt.Errorf("wire: timerfd for steps of the wall clock: %w", err)
	}
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return w, fmt.Errorf("wire: epoll: %w", err)
	}
	if w.lull, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return w, fmt.Errorf("wire: epoll: %w", err)
	}
	for i, fd := range []int{w.ports[0].fd, w.ports[1].fd, w.release.fd, w.wake, w.steps} {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
		if i == fromTimer {
			event.Events |= unix.EPOLLET // so that nobody needs to read it
		}
		if err = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &event); err == nil && i >= fromTimer {
			err = unix.EpollCtl(w.lull, unix.EPOLL_CTL_ADD, fd, &event)
		}
		if err != nil {
			return w, fmt.Errorf("wire: epoll: %w", err)
		}
	}
	if cfg.Release != Timerfd {
		// Last, so that it is the first to go.
		if w.pacer, err = newPacer(w.ports); err != nil && cfg.Release == FQ {
			return w, err
		}
		err = nil
	}
	w.wall = clock.WallOffset()
	for _, f := range cfg.Faults {
		w.plan(f)
	}
	w.pace()
	return w, nil
}

// Sources of events, as epoll's data.
const (
	fromPortA = iota
	fromPortB
	fromTimer
	fromWake
	fromSteps
)

// watchSteps makes a timer that never goes off but is cancelled when somebody
// sets the wall clock. Frames are stamped in CLOCK_REALTIME; its distance from
// CLOCK_MONOTONIC is constant but for such steps, since slewing moves both.
func (w *Wire) watchSteps() (err error) {
	if w.steps, err = unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return err
	}
	return unix.TimerfdSettime(w.steps, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &unix.ItimerSpec{}, nil)
}

// Release names what lets frames go at their time: fq or timerfd.
func (w *Wire) Release() string {
	if w.pacer != nil {
		return string(FQ)
	}
	return w.release.name()
}

// Policy is the scheduling policy of the wire's thread, fifo or other; empty
// before Run.
func (w *Wire) Policy() string {
	if p := w.policy.Load(); p != nil {
		return *p
	}
	return ""
}

// Start tells the wire the instant from which link time counts (by-time
// fates). Without it link time counts from Run.
func (w *Wire) Start(t0 int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.model.t0 = t0
}

// Do applies a fault to the frames that arrive from f.At on. Frames that were
// decided already stay as they are.
func (w *Wire) Do(f Fault) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.model.check(f); err != nil {
		return fmt.Errorf("wire: fault %q: %w", f.Name, err)
	}
	w.model.add(f)
	w.plan(f)
	w.pace()
	w.kick() // the timer may have to go off earlier
	return nil
}

func (w *Wire) plan(f Fault) {
	switch {
	case f.Do == DoRelease:
		w.changes = append(w.changes, change{f.At, f.Name})
	case f.Do == DoHold && f.For > 0:
		w.changes = append(w.changes, change{f.end(), f.Name})
	}
}

// kick wakes the wire's thread.
func (w *Wire) kick() {
	if w.wake >= 0 {
		one := [8]byte{1}
		// It fails only when the counter is full, and then the thread wakes too.
		_, _ = unix.Write(w.wake, one[:])
	}
}

// Run carries frames until ctx ends. It drains nothing then: what is on the
// wire stays counted as queued. It can be called once.
func (w *Wire) Run(ctx context.Context) error {
	if w.started.Swap(true) {
		return errors.New("wire: it runs already, or did: open another one")
	}
	w.mu.Lock()
	if w.model.t0 == 0 {
		w.model.t0 = clock.Now()
	}
	w.mu.Unlock()
	unhook := context.AfterFunc(ctx, func() {
		w.stopped.Store(true)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.kick()
	})
	defer unhook()
	done := make(chan error)
	go func() {
		// Never unlocked: the thread, with its timer slack, ends with the
		// goroutine.
		runtime.LockOSThread()
		policy := prepareThread(w.normal)
		w.policy.Store(&policy)
		done <- w.loop()
	}()
	return <-done
}

// Counters is a snapshot, cheap enough to take while frames pass.
func (w *Wire) Counters() Counters {
	w.mu.Lock()
	defer w.mu.Unlock()
	for dir, p := range w.ports {
		if p != nil {
			w.model.dirs[dir].count.ringLost += p.drops()
		}
	}
	most, evicted := w.most, w.model.flows.evicted
	c := Counters{MaxFrames: &most, EvictedFlows: &evicted}
	c.Errors = w.errors()
	for dir, out := range []*DirectionCounters{dirB: &c.TowardsB, dirA: &c.TowardsA} {
		t, dropped, err := w.counted(dir)
		if err != nil {
			c.Errors = append(c.Errors, err.Error())
		}
		if dropped > 0 {
			c.Errors = append(c.Errors, fmt.Sprintf("port %s: %d frames were dropped by fq and are lost", w.ports[1-dir].name, dropped))
		}
		*out = t.export()
	}
	if w.stepped > 0 || w.future > 0 {
		c.Warnings = append(c.Warnings, "the wall clock was set during the run: frames stamped around that moment may have left early or late")
	}
	return c
}

// errors are the reasons not to trust the counters.
func (w *Wire) errors() []string {
	var out []string
	for dir, p := range w.ports {
		c := &w.model.dirs[dir].count
		say := func(n uint64, format string, args ...any) {
			if n > 0 {
				out = append(out, fmt.Sprintf("port %s: %d ", p.name, n)+fmt.Sprintf(format, args...))
			}
		}
		if p == nil {
			continue
		}
		say(c.truncated-w.tagged[dir], "frames were larger than the interface's MTU and are lost: turn segmentation offload off at the sender")
		say(w.tagged[dir], "frames had a VLAN tag and are lost: a link of the lab has none")
		say(c.unsummed, "frames were forwarded without a checksum: turn transmit checksum offload off at the sender")
		say(c.ringLost, "frames found the ring full and are lost: the wire did not get enough CPU")
		say(c.overflowed, "frames found no memory and are lost: raise max_frames (%d)", w.slab.cap)
		say(c.sendErrors, "frames were refused on the way out: %v", w.refused)
	}
	return out
}

// DelayError is a copy of the histogram, in ns, of a frame's actual departure
// less the one decided. With timerfd it has every frame, by the wire's own
// clock around the call that sent it. With fq it has every 32nd frame, and each
// that left alone, by the kernel's stamp as it entered the interface
// (SOF_TIMESTAMPING_TX_SOFTWARE), and every frame that left past fq. A frame
// that nobody stamped is not in it.
func (w *Wire) DelayError() *hdr.Histogram {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.readAllStamps()
	return hdr.Import(w.late.Export())
}

// Fates is what was drawn, nil unless fates are by-byte and something random
// was in effect. It may be called after Run only.
func (w *Wire) Fates() *FateLog {
	if l := w.model.log; l != nil && l.seen > 0 {
		return l
	}
	return nil
}

// Close gives back what Open took. Run must have returned.
func (w *Wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	var errs []error
	if w.pacer != nil {
		w.readAllStamps()
		errs = append(errs, w.pacer.close())
	}
	for dir, p := range w.ports {
		if p != nil {
			w.model.dirs[dir].count.ringLost += p.drops()
			errs = append(errs, p.close())
		}
	}
	if w.slab != nil {
		errs = append(errs, w.slab.close())
	}
	for _, fd := range []*int{&w.epoll, &w.lull, &w.wake, &w.steps, &w.release.fd} {
		if *fd >= 0 {
			errs = append(errs, unix.Close(*fd))
			*fd = -1
		}
	}
	return errors.Join(errs...)
}
