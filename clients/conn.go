package clients

import (
	"syscall"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// connState of a slot's connection.
type connState uint8

const (
	vacant     connState = iota // no connection
	connecting                  // SYN sent
	awaiting                    // the server speaks first, and has not yet
	sending                     // the request is not all written
	waiting                     // for the answer
	ending                      // answered; the server is to close first
	idle                        // in the pool
	beating                     // in the pool, waiting for a heartbeat's answer
)

// conn is a slot with at most one request. It is in one list at a time, or in
// none: busy ones in order of their deadline, idle ones with the latest used
// first.
type conn struct {
	slot
	state      connState
	seq        uint64
	intended   int64
	entry      int64 // when connect() or the first write was called
	first      int64 // when the answer's first byte was read
	out, in    int   // bytes of the request written, of the answer read
	since      int64 // idle since
	beat       int64 // when its heartbeat was sent
	prev, next *conn
}

// Classes of a deadline that has passed: an answer that does not come, and a
// handshake that does not end. They are symptoms of different things: a server
// that is stuck, and one that the kernel no longer lets anybody in to.
const (
	late        = "deadline"
	lateConnect = "connect_deadline"
)

// late is the class of c's deadline.
func (c *conn) late() string {
	if c.state == connecting {
		return lateConnect
	}
	return late
}

// list is doubly linked through conn.prev and conn.next.
type list struct{ head, tail *conn }

func (l *list) pushBack(c *conn) {
	c.prev, c.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = c
	} else {
		l.head = c
	}
	l.tail = c
}

func (l *list) pushFront(c *conn) {
	c.prev, c.next = nil, l.head
	if l.head != nil {
		l.head.prev = c
	} else {
		l.tail = c
	}
	l.head = c
}

func (l *list) remove(c *conn) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.head = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.tail = c.prev
	}
	c.prev, c.next = nil, nil
}

// connect opens c's connection without waiting for it.
func (s *shard) connect(c *conn) {
	d := s.dial(&c.slot)
	if d.returned > 0 {
		s.meter.called(c.intended, d.returned, d.returned-c.called, d.cpu, d.class == "")
	}
	if d.class != "" {
		s.fail(c, d.class)
		return
	}
	c.state = connecting
	if d.established {
		s.connected(c, d.returned)
	}
}

// connected goes on once the handshake is over.
func (s *shard) connected(c *conn, now int64) {
	s.meter.established(c.intended, now-c.called)
	if s.cfg.Reuse == Pooled {
		s.meter.opened(now)
	}
	s.confirm(&c.slot, now)
	if s.cfg.Awaits > 0 {
		s.await(c)
		return
	}
	c.state = sending
	s.send(c)
}

// send writes what is left of the request.
func (s *shard) send(c *conn) {
	frame := s.request.numbered(c.seq)
	now := c.entry
	for c.out < len(frame) {
		if c.out > 0 {
			now = socket.Nanotime()
		}
		n, errno := socket.RawWrite(c.fd, frame[c.out:])
		if errno == unix.EINTR {
			continue
		}
		if errno == unix.EAGAIN {
			s.watch(&c.slot, unix.EPOLLIN|unix.EPOLLOUT) // an answer now would be garbage, a reset would be news
			return
		}
		if errno != 0 {
			s.fail(c, socket.Class(pendingError(c.fd, errno)))
			return
		}
		c.out += n
		s.meter.wrote(now, n)
	}
	if c.state == sending {
		c.state = waiting
		s.watch(&c.slot, unix.EPOLLIN)
	}
}

// pendingError is why a connection broke: after a reset the kernel tells EPIPE
// to a writer and keeps the cause in SO_ERROR.
func pendingError(fd int32, e syscall.Errno) syscall.Errno {
	if v, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && v != 0 {
		return syscall.Errno(v)
	}
	return e
}
