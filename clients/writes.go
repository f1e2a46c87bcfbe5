package clients

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// How the parts of a request are written.
const (
	InParts   = "parts"     // each by itself, at its time
	Coalesced = "coalesced" // all in one write, once the last is there
	Corked    = "corked"    // each by itself, between setting TCP_CORK and taking it away
)

// Writes is what an echo client has of its own that writes each request in
// several parts. The frame of the echo protocol is cut at their lengths, its
// header first. With a trace it replays that, again and again; without one all
// requests are alike, and the schedule says when they start.
type Writes struct {
	Send   string        `json:"send,omitempty"` // parts (the default) | coalesced | corked
	Trace  []Exchange    `json:"trace,omitempty"`
	Period time.Duration `json:"period,omitempty"` // of the trace: it begins anew after it
	Parts  []Part        `json:"parts,omitempty"`  // of every request, without a trace
}

// Exchange is one request of a trace, and its answer.
type Exchange struct {
	Start      time.Duration `json:"start"`      // intended, since the trace's beginning
	Connection int           `json:"connection"` // a number: exchanges of one connection follow each other
	Parts      []Part        `json:"parts"`
	Answer     int           `json:"answer"` // bytes, the answer's header included
}

// Part is one write.
type Part struct {
	Bytes int           `json:"bytes"`
	At    time.Duration `json:"at,omitempty"` // since the exchange's start
}

func (w *Writes) validate(c Config) error {
	if c.Kind != "" && c.Kind != Echo {
		return fmt.Errorf("writes: kind %s writes as it likes: write kind: %s", c.Kind, Echo)
	}
	if c.Reuse != Pooled {
		return errors.New("writes: a kept connection is what its exchanges follow each other on: write reuse: pool")
	}
	if c.Awaits > 0 || c.Heartbeat.Every > 0 || c.Pool.Idle > 0 {
		return errors.New("writes: its connections are open from the start to the end, and carry nothing else: leave awaits, heartbeat and pool.idle out")
	}
	switch w.Send {
	case "", InParts, Coalesced, Corked:
	default:
		return fmt.Errorf("writes: send %q is unknown: write %s, %s or %s", w.Send, InParts, Coalesced, Corked)
	}
	if len(w.Trace) == 0 {
		return validParts(w.Parts)
	}
	last := time.Duration(0)
	for _, x := range w.Trace {
		if err := validParts(x.Parts); err != nil {
			return err
		}
		if x.Start < last || x.Connection < 0 || x.Answer < answerHeader || x.Answer > answerHeader+MaxPayload {
			return fmt.Errorf("writes: the exchange at %v is out of order, or has no connection or no answer", x.Start)
		}
		last = x.Start
	}
	if w.Period <= last {
		return fmt.Errorf("writes: a trace whose last exchange starts at %v takes longer than %v", last, w.Period)
	}
	return nil
}

func validParts(ps []Part) error {
	total, last := 0, time.Duration(0)
	for _, p := range ps {
		if p.Bytes < 1 || p.At < last {
			return fmt.Errorf("writes: a part of %d bytes, %v after the start: write 1 byte or more, in order of time", p.Bytes, p.At)
		}
		total, last = total+p.Bytes, p.At
	}
	if total < requestHeader || total > requestHeader+MaxPayload {
		return fmt.Errorf("writes: parts of %d bytes together: write %d or more, it has the protocol's header in it", total, requestHeader)
	}
	return nil
}

// connections is how many a trace has.
func (w *Writes) connections() int {
	n := 0
	for _, x := range w.Trace {
		n = max(n, x.Connection+1)
	}
	return n
}

// replay deals out a trace's exchanges, round after round. It is arithmetic:
// the same for every arm.
type replay struct {
	trace  []Exchange
	period int64
	k      int
}

func (r *replay) next(t0 int64) (int64, *Exchange) {
	n := len(r.trace)
	x := &r.trace[r.k%n]
	at := t0 + int64(r.k/n)*r.period + int64(x.Start)
	r.k++
	return at, x
}

// writer is the client of small writes, on one locked thread. What it
// believes: what leaves the host when is for the kernel to say, so each write()
// is made at its own time and never for two parts at once, unless it is asked
// to.
type writer struct {
	thread
	w     *Writes
	sched *starts // nil: the trace's

	lines    []line
	trace    replay
	requests map[[2]int]*request // by length and answer
	alike    Exchange            // every one without a trace
	seq      uint64
	buf      []byte
	quick    *socket.Setting

	nextAt int64 // the open loop's next exchange
	next   *Exchange
	common []queued // those that any connection may take
}

// queued is an exchange that has no connection yet.
type queued struct {
	intended int64
	x        *Exchange
}

// line is one connection after the other, of one number.
type line struct {
	slot
	open   bool
	at     int64 // when it is opened again
	freeAt int64 // when it could take an exchange
	due    int64 // closed loop: its next exchange
	own    []queued

	busy                   bool
	x                      *Exchange
	request                *request
	seq                    uint64
	intended, entry, first int64
	part                   int // the next one to be written
	upto                   int // bytes of the parts that are due
	out, in                int
	corked                 bool
}

func newWriter(cfg Config, options []socket.Setting, sched Schedule) (*writer, error) {
	to, err := cfg.addresses()
	if err != nil {
		return nil, err
	}
	w := &writer{thread: thread{cfg: cfg, options: options, to: to}, w: cfg.Writes, buf: make([]byte, 64<<10), requests: map[[2]int]*request{}}
	if len(w.w.Trace) == 0 {
		w.sched = newStarts(sched)
		w.alike = Exchange{Parts: w.w.Parts}
		total := 0
		for _, p := range w.alike.Parts {
			total += p.Bytes
		}
		w.alike.Answer = answerHeader + total - requestHeader
		if cfg.ResponseSize > 0 {
			w.alike.Answer = answerHeader + cfg.ResponseSize
		}
	}
	if q, ok := socket.Find(options, "TCP_QUICKACK"); ok {
		w.quick = &q
	}
	return w, nil
}

func (w *writer) run(ctx context.Context, t0 int64, sink Sink) (*Result, error) {
	return w.drive(ctx, t0, sink, w.loop)
}

func (w *writer) loop(ctx context.Context) {
	defer socket.LockThread()()
	w.begin()
	now := socket.Nanotime()
	w.meter.running(now)
	for !w.stopped {
		w.due(now)
		now = socket.Nanotime()
		if w.err != nil || w.over(now) {
			break
		}
		for i := range w.wait(w.wakeUp(now)) {
			ev := &w.poll.Events[i]
			if ev.Fd < 0 {
				w.heard(ctx, ev.Fd, w.obey)
			} else if l := &w.lines[ev.Fd]; l.is(ev) {
				w.handle(l, ev.Events)
			}
		}
		now = socket.Nanotime()
	}
	if w.stopped {
		w.cut(now)
	}
	w.finish(socket.Nanotime())
}

// begin lays out the connections, none of them open, and takes the first
// exchanges from the trace or the schedule.
func (w *writer) begin() {
	w.lines = make([]line, w.cfg.slots())
	for i := range w.lines {
		w.lines[i] = line{slot: slot{fd: -1, index: int32(i)}, at: w.meter.t0, due: socket.Never}
	}
	switch {
	case w.sched == nil:
		w.trace = replay{trace: w.w.Trace, period: int64(w.w.Period)}
		w.take()
	case w.sched.closed:
		w.nextAt = socket.Never
		for i := range w.lines {
			w.lines[i].due = w.meter.t0
		}
	default:
		w.sched.begin(w.meter.t0, w.end)
		w.take()
	}
}

// take takes the open loop's next exchange.
func (w *writer) take() {
	if w.sched == nil {
		if w.nextAt, w.next = w.trace.next(w.meter.t0); w.nextAt >= w.end {
			w.nextAt = socket.Never
		}
		return
	}
	w.nextAt, w.next = w.sched.next(), &w.alike
}

// finish counts what was offered and not begun, and closes everything.
func (w *writer) finish(now int64) {
	for ; w.nextAt < w.end; w.take() {
		w.meter.offered(w.nextAt)
	}
	for i := range w.lines {
		l := &w.lines[i]
		if l.due < w.end {
			w.meter.offered(l.due)
		}
		if l.fd >= 0 {
			unix.Close(int(l.fd))
			l.fd = -1
		}
	}
	w.meter.result.Wakeups = w.poll.Waits
	w.meter.finish(now)
}

// over tells whether nothing is left to wait for.
func (w *writer) over(now int64) bool {
	if now < w.end {
		return false
	}
	if now >= w.giveUp {
		return true
	}
	for i := range w.lines {
		if l := &w.lines[i]; l.busy || len(l.own) > 0 {
			return false
		}
	}
	return len(w.common) == 0
}

// wakeUp is when something is due although nothing arrives.
func (w *writer) wakeUp(now int64) int64 {
	at := w.end
	if now >= w.end {
		at = w.giveUp
	}
	at = min(at, w.nextAt)
	d := int64(w.cfg.Deadline)
	deadline := func(intended int64) {
		if d > 0 {
			at = min(at, intended+d)
		}
	}
	if len(w.common) > 0 {
		deadline(w.common[0].intended)
	}
	for i := range w.lines {
		l := &w.lines[i]
		if w.reopens(l, now) {
			at = min(at, l.at)
		}
		if l.due < w.end {
			at = min(at, l.due)
		}
		if len(l.own) > 0 {
			deadline(l.own[0].intended)
		}
		if l.busy {
			at = min(at, w.partAt(l))
			deadline(l.intended)
		}
	}
	return at
}

// due does what the clock asks for.
func (w *writer) due(now int64) {
	for ; w.nextAt <= now; w.take() {
		w.offer(w.nextAt, w.next)
	}
	w.expire(now)
	for i := range w.lines {
		l := &w.lines[i]
		if l.due <= now && l.due < w.end {
			at := l.due
			l.due = socket.Never
			w.meter.offered(at)
			l.own = append(l.own, queued{at, &w.alike})
		}
		if w.reopens(l, now) && l.at <= now {
			w.connect(l)
		}
		if l.open && !l.busy && w.start(l) {
			now = l.entry
		}
		if l.open && l.busy {
			w.send(l, now)
		}
	}
}

// reopens tells whether l has no connection and is to get one: once nothing more
// begins, only for what waits.
func (w *writer) reopens(l *line, now int64) bool {
	return l.fd < 0 && (now < w.end || len(l.own) > 0 || len(w.common) > 0)
}

// offer is an exchange whose time has come: it waits for its connection, or for
// any.
func (w *writer) offer(at int64, x *Exchange) {
	w.meter.offered(at)
	if w.sched != nil {
		w.common = append(w.common, queued{at, x})
		return
	}
	l := &w.lines[x.Connection]
	l.own = append(l.own, queued{at, x})
}

// start begins the next exchange that waits for l, if there is one.
func (w *writer) start(l *line) bool {
	from := &l.own
	if len(l.own) == 0 {
		from = &w.common
	}
	if len(*from) == 0 {
		return false
	}
	x := (*from)[0]
	*from = (*from)[:copy(*from, (*from)[1:])]
	total := 0
	for _, p := range x.x.Parts {
		total += p.Bytes
	}
	shape := [2]int{total, x.x.Answer}
	r := w.requests[shape]
	if r == nil {
		r = newRequest(total-requestHeader, x.x.Answer-answerHeader, false)
		w.requests[shape] = r
	}
	w.seq++
	now := socket.Nanotime()
	w.meter.begin(x.intended, l.freeAt, now)
	l.busy, l.x, l.request, l.seq = true, x.x, r, w.seq
	l.intended, l.entry, l.first = x.intended, now, 0
	l.part, l.upto, l.out, l.in = 0, 0, 0, 0
	if w.w.Send == Corked {
		w.cork(l, 1)
	}
	return true
}

// partAt is when the next part of l is due; never, when all are, or when one is
// still on its way.
func (w *writer) partAt(l *line) int64 {
	if !l.open || l.part == len(l.x.Parts) || l.out < l.upto {
		return socket.Never
	}
	if w.w.Send == Coalesced {
		return l.entry + int64(l.x.Parts[len(l.x.Parts)-1].At)
	}
	return l.entry + int64(l.x.Parts[l.part].At)
}

// send writes what is due, each part by itself.
func (w *writer) send(l *line, now int64) {
	for l.busy {
		if l.out == l.upto {
			if w.partAt(l) > now {
				break
			}
			l.upto += l.x.Parts[l.part].Bytes
			for l.part++; w.w.Send == Coalesced && l.part < len(l.x.Parts); l.part++ {
				l.upto += l.x.Parts[l.part].Bytes
			}
		}
		n, errno := socket.RawWrite(l.fd, l.request.numbered(l.seq)[l.out:l.upto])
		switch errno {
		case 0:
			l.out += n
			w.meter.wrote(socket.Nanotime(), n)
		case unix.EINTR:
		case unix.EAGAIN:
			w.watch(&l.slot, unix.EPOLLIN|unix.EPOLLOUT)
			return
		default:
			w.fail(l, socket.Class(pendingError(l.fd, errno)))
			return
		}
		if l.out == len(l.request.frame) {
			if l.corked {
				w.cork(l, 0)
			}
			break
		}
	}
	if l.fd >= 0 {
		w.watch(&l.slot, unix.EPOLLIN)
	}
}

// cork sets TCP_CORK or takes it away, which sends what it held back
// (net/ipv4/tcp.c, __tcp_sock_set_cork).
func (w *writer) cork(l *line, on int) {
	l.corked = on == 1
	if err := unix.SetsockoptInt(int(l.fd), unix.SOL_TCP, unix.TCP_CORK, on); err != nil {
		w.broken(fmt.Errorf("TCP_CORK: %w", err))
	}
}

func (w *writer) handle(l *line, events uint32) {
	if !l.open {
		if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			w.fail(l, socket.Class(pendingError(l.fd, unix.ECONNABORTED)))
			return
		}
		w.connected(l)
		return
	}
	if events&(unix.EPOLLIN|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		w.receive(l)
	}
	if l.busy && l.open && events&unix.EPOLLOUT != 0 {
		w.send(l, socket.Nanotime())
	}
}

// receive reads once: the set is level-triggered.
func (w *writer) receive(l *line) {
	n, errno := socket.RawRead(l.fd, w.buf)
	if errno == unix.EAGAIN || errno == unix.EINTR {
		return
	}
	now := socket.Nanotime()
	if errno != 0 || n == 0 {
		w.fail(l, classOf(errno))
		return
	}
	w.meter.read(now, n)
	if w.quick != nil {
		w.quick.Set(int(l.fd)) // tcp(7): not permanent
	}
	if !l.busy || l.out < len(l.request.frame) {
		w.fail(l, "garbage") // it speaks without being asked
		return
	}
	if l.first == 0 {
		l.first = now
	}
	v := l.request.check(l.seq, l.in, w.buf[:n])
	l.in += n
	switch v {
	case garbage:
		w.fail(l, "garbage")
	case whole:
		l.busy, l.freeAt = false, now
		w.meter.ok(l.intended, l.entry, l.first, now)
		w.again(l, now, false)
		// What waits for this connection is begun by the loop, at once.
	}
}

// again is the closed loop's next exchange.
func (w *writer) again(l *line, now int64, failed bool) {
	if w.sched == nil || !w.sched.closed {
		return
	}
	l.due = now + w.sched.pause(failed, w.cfg.Again)
}
