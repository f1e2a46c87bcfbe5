package clients

import (
	"context"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// shard is one thread's part of the raw client. Nothing in its loop allocates.
type shard struct {
	thread
	starts  *starts // all shards'
	request *request

	slots  []conn
	vacant []*conn // those without a connection
	idle   list    // the pool: latest used first
	busy   list    // under way, the earliest deadline first
	ending list    // answered, waiting for the server's FIN
	beats  list    // with a heartbeat under way, the earliest first
	beatAt int64   // no heartbeat is due before it
	live   int     // in busy
	freeAt int64   // when a slot became free after none was

	next    int64 // the open loop's next intended start
	pauses  queue // the closed loop's
	seq     uint64
	buf     []byte
	quick   *socket.Setting
	lingers bool
}

// burst is how many requests are begun in a row, and for how long, before
// answers are looked at.
const (
	burst     = 64
	burstTime = int64(time.Millisecond)
)

func newShard(e *echo, index, shards, slots int, t0 int64, rep *reporter) (*shard, error) {
	p, err := socket.NewPoller()
	if err != nil {
		return nil, err
	}
	s := &shard{thread: thread{cfg: e.cfg, options: e.options, to: e.to, turn: index}, starts: e.starts,
		slots: make([]conn, slots), buf: make([]byte, 64<<10), seq: uint64(index) << 56, beatAt: socket.Never,
		request: newRequest(e.cfg.Size, e.cfg.answerSize(), e.cfg.Closes == ByServer)}
	s.equip(p, newMeter(e.cfg, t0, rep, index, threadCPU))
	for i := range s.slots {
		c := &s.slots[len(s.slots)-1-i]
		c.fd, c.index = -1, int32(len(s.slots)-1-i)
		s.vacant = append(s.vacant, c)
	}
	s.next = e.starts.next()
	if e.starts.closed {
		users := e.cfg.users()/shards + b2i(index < e.cfg.users()%shards)
		s.pauses.ring = make([]int64, users)
		for range users {
			s.pauses.push(t0)
		}
	}
	if q, ok := socket.Find(e.options, "TCP_QUICKACK"); ok {
		s.quick = &q
	}
	_, s.lingers = socket.Find(e.options, "SO_LINGER")
	return s, nil
}

// run sends and receives until the trial is over.
func (s *shard) run(ctx context.Context) error {
	defer socket.LockThread()()
	// The thread is known only now: its CPU counts from here.
	now := socket.Nanotime()
	s.meter.running(now)
	for !s.stopped {
		s.expire(now)
		full := s.startDue(now)
		now = socket.Nanotime()
		if s.err != nil || s.over(now) {
			break
		}
		until := int64(0)
		if !full {
			until = s.wakeUp(now)
		}
		for i := range s.wait(until) {
			ev := &s.poll.Events[i]
			if ev.Fd < 0 {
				s.heard(ctx, ev.Fd, s.obey)
			} else if c := &s.slots[ev.Fd]; c.is(ev) {
				s.handle(c, ev.Events)
			}
		}
		now = socket.Nanotime()
	}
	if s.stopped {
		s.cut(now)
	}
	s.finish(socket.Nanotime())
	return s.err
}

// finish counts what was offered and not begun, and closes everything.
func (s *shard) finish(now int64) {
	for ; s.next < s.end; s.next = s.starts.next() {
		s.meter.offered(s.next)
	}
	for ; s.pauses.count > 0 && s.pauses.first() < s.end; s.pauses.pop() {
		s.meter.offered(s.pauses.first())
	}
	s.meter.finish(now)
	for i := range s.slots {
		if s.slots[i].fd >= 0 {
			s.close(&s.slots[i])
		}
	}
	s.meter.result.Wakeups = s.poll.Waits
}

// due is the next intended start, of either loop.
func (s *shard) due() int64 {
	if s.starts.closed {
		if at := s.pauses.first(); at < s.end {
			return at
		}
		return socket.Never
	}
	return s.next
}

func (s *shard) take() {
	if s.starts.closed {
		s.pauses.pop()
		return
	}
	s.next = s.starts.next()
}

func (s *shard) slotFree() bool { return s.idle.head != nil || len(s.vacant) > 0 }

// startDue begins the requests whose time has come, as far as slots are free.
// A request that finds none stays in the schedule: its latency runs. It tells
// whether it stopped early.
func (s *shard) startDue(now int64) bool {
	began := now
	for range burst {
		at := s.due()
		if at > now || !s.slotFree() || s.err != nil {
			return false
		}
		s.take()
		s.meter.offered(at)
		s.begin(at)
		if now = socket.Nanotime(); now > began+burstTime {
			break
		}
	}
	return true
}

func (s *shard) begin(intended int64) {
	s.seq++
	entry := socket.Nanotime()
	s.meter.begin(intended, s.freeAt, entry)
	c := s.idle.head
	if c != nil {
		s.idle.remove(c)
	} else {
		c = s.vacant[len(s.vacant)-1]
		s.vacant = s.vacant[:len(s.vacant)-1]
	}
	c.seq, c.intended, c.entry, c.first, c.out, c.in = s.seq, intended, entry, 0, 0, 0
	s.busy.pushBack(c)
	s.live++
	if c.state == idle {
		c.state = sending
		s.send(c)
		return
	}
	s.connect(c)
}

// over tells whether there is nothing left to wait for.
func (s *shard) over(now int64) bool {
	if now < s.end {
		return false
	}
	return now >= s.giveUp || s.live == 0 && s.ending.head == nil && s.due() == socket.Never
}

// wakeUp is when something is due although nothing arrives.
func (s *shard) wakeUp(now int64) int64 {
	at := s.end
	if now >= s.end {
		at = s.giveUp
	}
	due := s.due()
	if s.slotFree() {
		at = min(at, due)
	}
	if d := int64(s.cfg.Deadline); d > 0 {
		if s.busy.head != nil {
			at = min(at, s.busy.head.intended+d)
		}
		if due != socket.Never {
			at = min(at, due+d)
		}
		if s.ending.head != nil {
			at = min(at, s.ending.head.since+d)
		}
	}
	if d := int64(s.cfg.Pool.Idle); d > 0 && s.idle.tail != nil {
		at = min(at, s.idle.tail.since+d)
	}
	if s.cfg.Heartbeat.Every > 0 && now < s.end {
		at = min(at, s.nextBeat())
	}
	return at
}

// expire ends what has waited too long.
func (s *shard) expire(now int64) {
	if d := int64(s.cfg.Deadline); d > 0 {
		taken := !s.slotFree()
		for c := s.busy.head; c != nil && c.intended+d <= now; c = s.busy.head {
			s.fail(c, c.late())
		}
		// Those that never got a slot. If there was one, then it is we who are
		// late: they are sent, and their lag is counted.
		for at := s.due(); taken && at != socket.Never && at+d <= now; at = s.due() {
			s.take()
			s.meter.offered(at)
			s.meter.fail(at, now, late, false)
			s.again(now, true)
		}
		for c := s.ending.head; c != nil && c.since+d <= now; c = s.ending.head {
			s.release(c)
		}
	}
	if d := int64(s.cfg.Pool.Idle); d > 0 {
		for c := s.idle.tail; c != nil && c.since+d <= now; c = s.idle.tail {
			s.release(c)
		}
	}
	if s.cfg.Heartbeat.Every > 0 && now < s.end {
		s.heartbeats(now)
	}
}

func (s *shard) handle(c *conn, events uint32) {
	switch c.state {
	case connecting:
		if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			// ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH …
			s.fail(c, socket.Class(pendingError(c.fd, unix.ECONNABORTED)))
			return
		}
		s.connected(c, socket.Nanotime())
	case sending:
		if events&(unix.EPOLLIN|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			s.receive(c)
			return
		}
		s.send(c)
	default:
		s.receive(c)
	}
}

// receive reads once: the set is level-triggered, and says if there is more.
func (s *shard) receive(c *conn) {
	n, errno := socket.RawRead(c.fd, s.buf)
	if errno == unix.EAGAIN || errno == unix.EINTR {
		return
	}
	now := socket.Nanotime()
	if errno != 0 || n == 0 {
		s.ended(c, errno == 0, classOf(errno))
		return
	}
	s.meter.read(now, n)
	if s.quick != nil {
		s.quick.Set(int(c.fd)) // tcp(7): not permanent
	}
	switch c.state {
	case idle:
		s.meter.result.Stale++ // it speaks without being asked
		s.release(c)
		return
	case ending:
		s.release(c)
		return
	case beating:
		s.beaten(c, s.buf[:n], now)
		return
	case awaiting:
		s.greeted(c, n)
		return
	}
	if c.first == 0 {
		c.first = now
	}
	v := garbage
	if c.state == waiting {
		v = s.request.check(c.seq, c.in, s.buf[:n])
	}
	c.in += n
	switch v {
	case garbage:
		s.fail(c, "garbage")
	case whole:
		s.answered(c, now)
	}
}

func classOf(e syscall.Errno) string {
	if e == 0 {
		return "eof"
	}
	return socket.Class(e)
}

// ended is the end of a connection by the other side.
func (s *shard) ended(c *conn, eof bool, why string) {
	switch c.state {
	case idle, beating:
		s.meter.result.Stale++
		if !eof {
			now := socket.Nanotime()
			s.meter.lost(now, c.since, why)
		}
		s.release(c)
	case ending:
		s.release(c)
	default:
		s.fail(c, why)
	}
}

func (s *shard) answered(c *conn, now int64) {
	s.meter.ok(c.intended, c.entry, c.first, now)
	s.busy.remove(c)
	s.live--
	c.since = now
	switch {
	case s.cfg.Reuse == Pooled:
		s.freed(now)
		c.state = idle
		// The latest used first, as net/http does: its congestion window is
		// warm, and connections beyond what the load needs fall idle and
		// expire.
		s.idle.pushFront(c)
		s.beatAt = min(s.beatAt, now+int64(s.cfg.Heartbeat.Every))
	case s.cfg.Closes == ByServer:
		c.state = ending
		s.ending.pushBack(c)
	default:
		s.close(c)
		s.leave(c, now)
	}
	s.again(now, false)
}

// fail ends the request of c, and its connection.
func (s *shard) fail(c *conn, why string) {
	now := socket.Nanotime()
	if c.fd >= 0 {
		s.close(c)
	}
	s.busy.remove(c)
	s.live--
	s.meter.fail(c.intended, now, why, true)
	s.leave(c, now)
	s.again(now, true)
}

// release closes a connection that has no request.
func (s *shard) release(c *conn) {
	switch c.state {
	case idle:
		s.idle.remove(c)
	case beating:
		s.beats.remove(c)
	default:
		s.ending.remove(c)
	}
	s.close(c)
	s.leave(c, socket.Nanotime())
}

// leave makes the slot of c free.
func (s *shard) leave(c *conn, now int64) {
	s.freed(now)
	s.vacant = append(s.vacant, c)
}

func (s *shard) freed(now int64) {
	if !s.slotFree() {
		s.freeAt = now
	}
}

// again is the closed loop's next request.
func (s *shard) again(now int64, failed bool) {
	if !s.starts.closed {
		return
	}
	s.pauses.push(now + s.starts.pause(failed, s.cfg.Again))
}

// close closes the descriptor. The receive queue is empty after an answer, so
// it sends FIN, and TIME-WAIT stays here.
func (s *shard) close(c *conn) {
	if s.lingers {
		unix.Close(int(c.fd)) // may block, even a non-blocking socket (net/ipv4/af_inet.c, inet_release)
	} else {
		unix.RawSyscall(unix.SYS_CLOSE, uintptr(c.fd), 0, 0)
	}
	c.fd, c.state = -1, vacant
}

// obey makes a fault happen.
func (s *shard) obey(o order) error {
	for i := range s.slots {
		c := &s.slots[i]
		if c.fd < 0 {
			continue
		}
		if err := o.linger(c.fd); err != nil {
			return err
		}
		if c.state == idle || c.state == ending || c.state == beating {
			s.release(c)
		} else {
			s.fail(c, "closed")
		}
	}
	return nil
}
