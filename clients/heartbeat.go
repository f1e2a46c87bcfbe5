package clients

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// Heartbeat is a small request on a connection of the pool that has been silent
// for Every; without its answer after Timeout the connection is closed, and the
// error's class is heartbeat.
type Heartbeat struct {
	Every   time.Duration `json:"every,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"` // 0: DefaultHeartbeatTimeout
}

// DefaultHeartbeatTimeout is how long a heartbeat's answer may take, unless the
// configuration says.
const DefaultHeartbeatTimeout = 10 * time.Second

// validateKind checks what belongs to one kind only.
func (c Config) validateKind() error {
	echo := c.Kind == "" || c.Kind == Echo
	switch {
	case c.Heartbeat == Heartbeat{}:
	case !echo || c.Reuse != Pooled:
		return errors.New("client: heartbeat belongs to kind echo with reuse: pool: it keeps an eye on connections that are not in use")
	case c.Heartbeat.Every == 0:
		return errors.New("client: heartbeat.every is missing: write a time such as 30s")
	case c.Pool.Idle > 0:
		return errors.New("client: heartbeat and pool.idle: the one keeps idle connections and the other closes them: leave one out")
	}
	switch {
	case c.Kind != Bulk && c.Flows != Flows{}:
		return errors.New("client: flows, receive and acks belong to kind bulk")
	case c.Flows.Receive && c.Flows.Acks:
		return errors.New("client: acks are of what the client sends: leave acks out, or receive")
	case c.Kind == Bulk && c.Reuse == Pooled:
		return errors.New("client: kind bulk has no pool: write flows")
	}
	return nil
}

// A heartbeat is a request without payload that asks for an answer without any:
// eight bytes there, four back. It is the client's own affair: no request of
// the schedule, and in no latency.
var heartbeat [requestHeader]byte

func (h Heartbeat) timeout() int64 {
	if h.Timeout == 0 {
		return int64(DefaultHeartbeatTimeout)
	}
	return int64(h.Timeout)
}

// heartbeats sends those that are due, and closes connections whose last one
// has not been answered in time.
func (s *shard) heartbeats(now int64) {
	every, timeout := int64(s.cfg.Heartbeat.Every), s.cfg.Heartbeat.timeout()
	for c := s.beats.head; c != nil && c.beat+timeout <= now; c = s.beats.head {
		s.meter.result.Stale++
		s.meter.lost(now, c.since, "heartbeat")
		s.release(c)
	}
	if now < s.beatAt {
		return
	}
	// Idle ones are in the order of their use and not of their silence.
	s.beatAt = socket.Never
	for c := s.idle.head; c != nil; {
		next := c.next
		if at := c.since + every; at > now {
			s.beatAt = min(s.beatAt, at)
		} else {
			s.sendBeat(c, now)
		}
		c = next
	}
}

func (s *shard) sendBeat(c *conn, now int64) {
	s.idle.remove(c)
	c.state, c.beat, c.in = beating, now, 0
	s.beats.pushBack(c)
	// So few bytes go in one piece or not at all; if not, nobody answers them.
	_, errno := socket.RawWrite(c.fd, heartbeat[:])
	if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
		s.ended(c, false, socket.Class(pendingError(c.fd, errno)))
	}
}

// beaten takes the answer to a heartbeat, b of it.
func (s *shard) beaten(c *conn, b []byte, now int64) {
	for _, x := range b {
		c.in++
		if x != 0 || c.in > answerHeader {
			s.meter.result.Stale++
			s.meter.lost(now, c.since, "garbage")
			s.release(c)
			return
		}
	}
	if c.in < answerHeader {
		return
	}
	s.beats.remove(c)
	s.freed(now)
	c.state, c.since = idle, now
	s.idle.pushBack(c) // it has not been used
	s.beatAt = min(s.beatAt, now+int64(s.cfg.Heartbeat.Every))
}

// nextBeat is when a heartbeat is to be sent or given up.
func (s *shard) nextBeat() int64 {
	at := int64(socket.Never)
	if s.idle.head != nil {
		at = s.beatAt
	}
	if c := s.beats.head; c != nil {
		at = min(at, c.beat+s.cfg.Heartbeat.timeout())
	}
	return at
}
