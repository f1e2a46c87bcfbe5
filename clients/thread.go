package clients

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// thread is what every client on raw sockets has on its one locked thread: an
// epoll set, an account, the addresses in turn, and a mailbox for faults. What
// it believes: a loop belongs to its client. What is due in a turn, and whose
// an event is, stands there in plain sight and costs no call through an
// interface; here is what does not differ.
type thread struct {
	cfg     Config
	options []socket.Setting
	to      []*socket.Address
	mailbox mailbox // all else belongs to the thread

	poll    *socket.Poller
	meter   *meter
	end     int64 // nothing starts from here on
	giveUp  int64 // and nothing is awaited from here on
	turn    int   // of the addresses
	checked bool  // the options were read back
	stopped bool  // the trial ended before its time
	err     error
}

// slot is where one connection comes after the other: its descriptor, and what
// the epoll set knows of it.
type slot struct {
	fd     int32  // −1: none
	index  int32  // of the slot: its events bear it, and gen
	gen    int32  // which connection it is of those that the slot had
	events uint32 // that the poller watches for
	called int64  // when connect() was called
}

// is tells whether an event is of the connection that c has now.
func (c *slot) is(ev *unix.EpollEvent) bool { return c.fd >= 0 && c.gen == ev.Pad }

// equip gives the thread its epoll set and its account. Faults may come from
// now on.
func (t *thread) equip(p *socket.Poller, m *meter) {
	t.poll, t.meter = p, m
	t.end = m.w1
	t.giveUp = t.end + int64(t.cfg.drain())
	t.mailbox.open(p)
}

// drive runs a client that has one thread: loop is all it does.
func (t *thread) drive(ctx context.Context, t0 int64, sink Sink, loop func(context.Context)) (*Result, error) {
	p, err := socket.NewPoller()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	rep := newReporter(sink, t0, 1)
	t.equip(p, newMeter(t.cfg, t0, rep, 0, threadCPU))
	stop := context.AfterFunc(ctx, p.Kick)
	loop(ctx)
	stop()
	t.mailbox.shut()
	rep.stop()
	return merge(t.cfg, []*meter{t.meter}, rep), t.err
}

// wait sleeps until something happened or until an instant, and gives the
// number of events.
func (t *thread) wait(until int64) int {
	n, err := t.poll.Wait(until)
	if err != nil {
		t.broken(err)
	}
	return n
}

// heard takes an event of no connection. The timer's needs nothing: what is due
// is looked for in every turn.
func (t *thread) heard(ctx context.Context, what int32, obey func(order) error) {
	if what != socket.OnWake {
		return
	}
	t.poll.Hush()
	t.stopped = t.stopped || ctx.Err() != nil
	t.mailbox.answer(obey)
}

// cut ends the window where the trial was stopped; it tells whether that was
// before its end.
func (t *thread) cut(now int64) bool {
	early := t.meter.cut(now)
	if early {
		t.end = now
	}
	return early
}

// dialled is what became of connect().
type dialled struct {
	class       string // of what kept a SYN from being sent; "": it was
	returned    int64  // when connect() did; 0: it was not called
	cpu         int64  // ns of CPU inside it
	established bool   // already
}

// dial makes a socket for c and calls connect() without waiting for it.
func (t *thread) dial(c *slot) (d dialled) {
	to := t.to[t.turn%len(t.to)]
	t.turn++
	fd, errno := to.Socket()
	if errno != 0 {
		d.class = socket.Class(errno)
		return d
	}
	c.fd, c.gen, c.events = fd, c.gen+1, unix.EPOLLOUT
	if err := socket.SetAll(int(fd), t.options); err != nil {
		t.broken(err)
		d.class = "option"
		return d
	}
	sa, size := to.Raw()
	cpu := threadCPU()
	c.called = socket.Nanotime()
	// Not interrupted, not blocking; in the port search it may take milliseconds.
	_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(sa), size)
	d.returned = socket.Nanotime()
	d.cpu = threadCPU() - cpu
	// Any other error comes before the SYN (net/ipv4/tcp_ipv4.c, tcp_v4_connect).
	if errno != 0 && errno != unix.EINPROGRESS {
		d.class = socket.Class(errno)
		return d
	}
	if err := t.poll.Watch(int(fd), c.events, c.index, c.gen); err != nil {
		t.broken(err)
		return d
	}
	d.established = errno == 0
	return d
}

// confirm reads the options back from the thread's first connection.
func (t *thread) confirm(c *slot, now int64) {
	if t.checked {
		return
	}
	t.checked = true
	got, err := socket.ReadBack(int(c.fd), t.options, true)
	t.meter.result.Options = got
	if t.meter.shard == 0 {
		t.meter.report.event(now, "options", map[string]any{"options": got})
	}
	if err != nil {
		t.broken(err)
	}
}

func (t *thread) watch(c *slot, events uint32) {
	if c.events == events {
		return
	}
	c.events = events
	if err := t.poll.Change(int(c.fd), events, c.index, c.gen); err != nil {
		t.broken(err)
	}
}

// broken is trouble of the client's own: the run ends with it.
func (t *thread) broken(err error) {
	if t.err == nil {
		t.err = err
	}
}

// do hands a fault to the thread, and waits until it happened.
func (t *thread) do(o order) error { return t.mailbox.ask(o) }

// linger has close() send RST, where the fault asks for it.
func (o order) linger(fd int32) error {
	if !o.reset {
		return nil
	}
	if err := unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return fmt.Errorf("SO_LINGER: %w", err)
	}
	return nil
}

// mailbox takes faults to a thread, from when it is opened until it is shut.
type mailbox struct {
	mu    sync.Mutex
	kicks *socket.Poller // nil: nobody looks into it
	asked []order
	done  []chan error
}

func (m *mailbox) open(p *socket.Poller) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kicks = p
}

func (m *mailbox) ask(o order) error {
	done := make(chan error, 1)
	m.mu.Lock()
	p := m.kicks
	if p == nil {
		m.mu.Unlock()
		return errNotRunning
	}
	m.asked, m.done = append(m.asked, o), append(m.done, done)
	m.mu.Unlock()
	p.Kick()
	return <-done
}

func (m *mailbox) answer(do func(order) error) {
	m.mu.Lock()
	asked, done := m.asked, m.done
	m.asked, m.done = nil, nil
	m.mu.Unlock()
	for i, o := range asked {
		done[i] <- do(o)
	}
}

func (m *mailbox) shut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kicks = nil
	for _, d := range m.done {
		d <- errNotRunning
	}
	m.asked, m.done = nil, nil
}
