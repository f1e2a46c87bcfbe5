package clients

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// The bulk protocol. A flow begins with a preface of eight bytes: a mode, three
// bytes of zero, and a message's length, big-endian. With SendOnly and
// SendAcked messages follow without end; to SendAcked the server answers, once
// its application has read a message whole, with the number of bytes of
// messages that it has read so far, eight bytes. With Receive the server sends.
const (
	SendOnly  = 's'
	SendAcked = 'a'
	Receive   = 'r'

	prefaceLength = 8
	ackLength     = 8
	// endlessMessage is a message's length where none is given.
	endlessMessage = 64 << 10
	// reopenPause is how long a flow that could not be opened waits.
	reopenPause = int64(time.Second)
)

// Flows is what a client of kind bulk has of its own. Config.Size is a message's
// length. With a schedule it sends messages at a rate; without one, as fast as
// the connections take them.
type Flows struct {
	Count   int  `json:"count,omitempty"`   // connections side by side; 0: 1
	Receive bool `json:"receive,omitempty"` // the server sends
	Acks    bool `json:"acks,omitempty"`    // the server acknowledges each message that it has read
}

// bulk is flows on one locked thread. What it believes: a write() that returned
// says nothing of the peer, so what was written and what was acknowledged, by
// the peer's TCP and by its application, are three numbers.
type bulk struct {
	thread
	sched *starts // nil: as fast as the connection takes it

	flows []flow
	next  int64 // the first intended start that no write() has been made for
	buf   []byte
	size  int
	w     [2]int64 // window's ends whose counts are still to be taken
}

// chunk is a message that was written whole, or is being written.
type chunk struct {
	intended, entry int64
	upto            int64 // bytes of the flow at its end
}

// flow is one connection after the other.
type flow struct {
	slot
	open      bool
	since     int64 // when write() last took something, or an answer came
	at        int64 // when it is opened again
	preface   int   // bytes of it written
	written   int64 // bytes of messages that write() took, of this connection
	current   chunk
	busy      bool // current is begun and not whole
	blocked   bool
	unacked   []chunk
	ack       [ackLength]byte
	acked     int // bytes of ack read
	ackedUpto int64
	counted   uint64 // tcpi_bytes_acked that are counted, or came before the window
}

func newBulk(cfg Config, options []socket.Setting, sched Schedule) (*bulk, error) {
	to, err := cfg.addresses()
	if err != nil {
		return nil, err
	}
	b := &bulk{thread: thread{cfg: cfg, options: options, to: to}, buf: make([]byte, endlessMessage), size: cfg.Size}
	for i := range b.buf {
		b.buf[i] = byte('!' + i%94) // printable, for whoever reads a capture
	}
	if sched != nil {
		b.sched = newStarts(sched)
		if b.sched.closed {
			return nil, errors.New("bulk: a closed loop of messages is what no rate means: leave arrivals out")
		}
	}
	if b.size == 0 {
		b.size = endlessMessage
	}
	return b, nil
}

func (b *bulk) run(ctx context.Context, t0 int64, sink Sink) (*Result, error) {
	return b.drive(ctx, t0, sink, b.loop)
}

func (b *bulk) loop(ctx context.Context) {
	defer socket.LockThread()()
	b.lay()
	now := socket.Nanotime()
	b.meter.running(now)
	for !b.stopped {
		b.due(now)
		now = socket.Nanotime()
		if b.err != nil || b.over(now) {
			break
		}
		for i := range b.wait(b.wakeUp(now)) {
			ev := &b.poll.Events[i]
			if ev.Fd < 0 {
				b.heard(ctx, ev.Fd, b.obey)
			} else if f := &b.flows[ev.Fd]; f.is(ev) {
				b.handle(f, ev.Events)
			}
		}
		now = socket.Nanotime()
	}
	if b.stopped && b.cut(now) {
		b.w[1] = min(b.w[1], b.meter.w1)
	}
	b.finish(socket.Nanotime())
}

// lay lays out the flows, none of them open.
func (b *bulk) lay() {
	t0 := b.meter.t0
	if !b.cfg.Flows.Acks {
		b.giveUp = b.end
	}
	b.next = socket.Never
	if b.sched != nil {
		b.sched.begin(t0, b.end)
		b.next = b.sched.next()
	}
	b.flows = make([]flow, b.cfg.slots())
	for i := range b.flows {
		b.flows[i] = flow{slot: slot{fd: -1, index: int32(i)}, at: t0}
	}
	b.w = [2]int64{b.meter.w0, b.meter.w1}
}

func (b *bulk) finish(now int64) {
	for ; b.next < b.end; b.next = b.sched.next() {
		b.meter.offered(b.next)
	}
	b.edges(now)
	for i := range b.flows {
		if f := &b.flows[i]; f.fd >= 0 {
			b.delivered(f)
			unix.Close(int(f.fd))
			f.fd = -1
		}
	}
	b.meter.result.Wakeups = b.poll.Waits
	b.meter.finish(now)
}

// over tells whether nothing is left to wait for: after the window only the
// acknowledgements of what was sent in it.
func (b *bulk) over(now int64) bool {
	if now < b.end {
		return false
	}
	if now >= b.giveUp {
		return true
	}
	for i := range b.flows {
		if f := &b.flows[i]; len(f.unacked) > 0 || f.busy && f.open {
			return false
		}
	}
	return true
}

// wakeUp is when something is due although nothing arrives.
func (b *bulk) wakeUp(now int64) int64 {
	at := b.end
	if now >= b.end {
		at = b.giveUp
	}
	for _, w := range b.w {
		at = min(at, w)
	}
	d := int64(b.cfg.Deadline)
	for i := range b.flows {
		f := &b.flows[i]
		if f.open && !f.blocked {
			at = min(at, b.next) // while none takes anything the schedule wakes nobody
		}
		if f.fd < 0 && now < b.end {
			at = min(at, f.at)
		}
		if d > 0 && len(f.unacked) > 0 {
			at = min(at, f.unacked[0].intended+d)
		}
		if d > 0 && f.fd >= 0 && !f.open {
			at = min(at, f.called+d)
		}
	}
	return at
}

// due does what the clock asks for.
func (b *bulk) due(now int64) {
	b.edges(now)
	d := int64(b.cfg.Deadline)
	for i := range b.flows {
		f := &b.flows[i]
		if d > 0 && f.fd >= 0 && (len(f.unacked) > 0 && f.unacked[0].intended+d <= now || !f.open && f.called+d <= now) {
			b.fail(f, late)
		}
		if f.fd < 0 && f.at <= now && now < b.end {
			b.connect(f)
		}
		if f.open && !f.blocked && now < b.end && b.sched != nil {
			b.send(f)
		}
	}
}

// edges takes the peers' acknowledgements at the window's ends.
func (b *bulk) edges(now int64) {
	for i, w := range b.w {
		if now < w {
			continue
		}
		b.w[i] = socket.Never
		for j := range b.flows {
			if f := &b.flows[j]; f.open {
				if i == 0 {
					f.counted = bytesAcked(f.fd)
				} else {
					b.delivered(f)
				}
			}
		}
	}
}

// delivered adds what the peer's TCP has acknowledged since it was last asked,
// while the window lasts.
func (b *bulk) delivered(f *flow) {
	if b.w[0] == socket.Never && f.open && f.counted != socket.Never {
		n := bytesAcked(f.fd)
		b.meter.result.Delivered += int64(n - f.counted)
		if f.counted = n; b.w[1] == socket.Never {
			f.counted = socket.Never // after the window
		}
	}
}

func bytesAcked(fd int32) uint64 {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		return 0 // dead already: it has no more to tell
	}
	return info.Bytes_acked
}

func (b *bulk) connect(f *flow) {
	*f = flow{slot: slot{fd: -1, index: f.index, gen: f.gen}}
	if b.w[1] == socket.Never {
		f.counted = socket.Never
	}
	d := b.dial(&f.slot)
	f.since = f.called
	if d.class != "" {
		b.fail(f, d.class)
		return
	}
	b.meter.result.Opens++
}

func (b *bulk) connected(f *flow) {
	now := socket.Nanotime()
	f.open, f.since = true, now
	b.meter.established(f.called, now-f.called)
	b.meter.opened(now)
	b.confirm(&f.slot, now)
	b.send(f)
}

func (b *bulk) handle(f *flow, events uint32) {
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		v, err := unix.GetsockoptInt(int(f.fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err == nil && v != 0:
			b.fail(f, socket.Class(unix.Errno(v)))
			return
		case !f.open:
			b.fail(f, socket.Class(unix.ECONNABORTED))
			return
		}
	}
	if !f.open {
		b.connected(f)
		return
	}
	if events&unix.EPOLLIN != 0 {
		b.receive(f)
	}
	if f.fd >= 0 && events&unix.EPOLLOUT != 0 {
		b.flowing(f)
		b.send(f)
	}
}

// flowing ends a time in which write() took nothing.
func (b *bulk) flowing(f *flow) {
	if f.blocked {
		f.blocked = false
		b.meter.report.event(socket.Nanotime(), "flowing", map[string]any{"flow": f.index})
	}
}

// rounds is how many writes are made in a row before others are looked at.
const rounds = 16

// send writes what there is to write, as far as the socket takes it.
func (b *bulk) send(f *flow) {
	for f.preface < prefaceLength {
		n, again := b.write(f, b.prefaceBytes()[f.preface:])
		if f.fd < 0 {
			return
		}
		f.preface += n
		if again {
			b.watch(&f.slot, unix.EPOLLIN|unix.EPOLLOUT)
			return
		}
	}
	if b.cfg.Flows.Receive {
		b.watch(&f.slot, unix.EPOLLIN)
		return
	}
	for range rounds {
		if !f.busy && !b.begin(f) {
			b.watch(&f.slot, unix.EPOLLIN)
			return
		}
		left := f.current.upto - f.written
		n, again := b.write(f, b.buf[:min(left, int64(len(b.buf)))])
		if f.fd < 0 {
			return
		}
		now := socket.Nanotime()
		if n > 0 {
			f.written += int64(n)
			f.since = now
			b.meter.at(now)
			b.meter.wrote(now, n)
			if f.written == f.current.upto {
				b.wrote(f, now)
			}
		}
		if again {
			if b.sched != nil && !f.blocked {
				f.blocked = true
				b.meter.report.event(now, "blocked", map[string]any{"flow": f.index, "written": f.written})
			}
			b.watch(&f.slot, unix.EPOLLIN|unix.EPOLLOUT)
			return
		}
	}
	b.watch(&f.slot, unix.EPOLLIN|unix.EPOLLOUT)
}

func (b *bulk) prefaceBytes() []byte {
	var p [prefaceLength]byte
	switch {
	case b.cfg.Flows.Receive:
		p[0] = Receive
	case b.cfg.Flows.Acks:
		p[0] = SendAcked
	default:
		p[0] = SendOnly
	}
	binary.BigEndian.PutUint32(p[4:], uint32(b.size))
	return p[:]
}

// begin takes the flow's next message. There is none when the schedule has
// nothing due, or the window is over.
func (b *bulk) begin(f *flow) bool {
	now := socket.Nanotime()
	if now >= b.end {
		return false
	}
	intended := now
	if b.sched != nil {
		if b.next > now {
			return false
		}
		intended = b.next
		b.next = b.sched.next()
	}
	b.meter.offered(intended)
	// What waits behind a blocked flow is the subject's time.
	b.meter.begin(intended, f.since, now)
	f.current, f.busy = chunk{intended: intended, entry: now, upto: f.written + int64(b.size)}, true
	return true
}

// wrote is a message of which write() has taken everything.
func (b *bulk) wrote(f *flow, now int64) {
	f.busy = false
	if b.cfg.Flows.Acks {
		f.unacked = append(f.unacked, f.current)
		return
	}
	// As much as the application knows, it is delivered.
	b.meter.ok(f.current.intended, f.current.entry, now, now)
}

func (b *bulk) write(f *flow, p []byte) (n int, again bool) {
	for {
		n, errno := socket.RawWrite(f.fd, p)
		switch errno {
		case 0:
			return n, n < len(p)
		case unix.EAGAIN:
			return 0, true
		case unix.EINTR:
		default:
			b.fail(f, socket.Class(pendingError(f.fd, errno)))
			return 0, false
		}
	}
}

// receive reads once: the set is level-triggered.
func (b *bulk) receive(f *flow) {
	into := b.buf
	if !b.cfg.Flows.Receive {
		into = make([]byte, 512)
	}
	n, errno := socket.RawRead(f.fd, into)
	if errno == unix.EAGAIN || errno == unix.EINTR {
		return
	}
	if errno != 0 || n == 0 {
		b.fail(f, classOf(errno))
		return
	}
	now := socket.Nanotime()
	f.since = now
	b.meter.at(now)
	b.meter.read(now, n)
	if b.cfg.Flows.Receive {
		b.meter.works(now)
		return
	}
	if !b.cfg.Flows.Acks {
		b.fail(f, "garbage")
		return
	}
	for _, c := range into[:n] {
		f.ack[f.acked] = c
		if f.acked++; f.acked == ackLength {
			f.acked = 0
			if !b.acknowledged(f, int64(binary.BigEndian.Uint64(f.ack[:])), now) {
				b.fail(f, "garbage")
				return
			}
		}
	}
}

// acknowledged is the server's word on how much it has read.
func (b *bulk) acknowledged(f *flow, upto, now int64) bool {
	if upto <= f.ackedUpto || upto > f.written {
		return false
	}
	b.meter.result.Acknowledged += upto - f.ackedUpto
	f.ackedUpto = upto
	for len(f.unacked) > 0 && f.unacked[0].upto <= upto {
		m := f.unacked[0]
		f.unacked = f.unacked[:copy(f.unacked, f.unacked[1:])]
		b.meter.ok(m.intended, m.entry, now, now)
	}
	return true
}

// fail ends a connection. Messages without their acknowledgement have failed;
// where none is asked for, nobody knows which.
func (b *bulk) fail(f *flow, why string) {
	now := socket.Nanotime()
	wasOpen := f.open
	if f.fd >= 0 {
		b.delivered(f)
		unix.Close(int(f.fd))
	}
	lost := f.unacked
	if f.busy {
		lost = append(lost, f.current)
	}
	for _, m := range lost {
		b.meter.fail(m.intended, now, why, true)
	}
	if len(lost) == 0 {
		b.meter.lost(now, f.since, why)
	}
	*f = flow{slot: slot{fd: -1, index: f.index, gen: f.gen}, at: now}
	if !wasOpen {
		f.at = now + reopenPause
	}
}

func (b *bulk) obey(o order) error {
	for i := range b.flows {
		f := &b.flows[i]
		if f.fd < 0 {
			continue
		}
		if err := o.linger(f.fd); err != nil {
			return err
		}
		b.fail(f, "closed")
	}
	return nil
}
