package clients

import (
	"sync"
	"time"

	"tcplab/lab/socket"
)

// starts deals out the schedule's intended starts to shards, as instants.
type starts struct {
	mu     sync.Mutex
	sched  Schedule
	think  time.Duration
	closed bool
	t0     int64
	end    int64
	until  int64 // end, as it was given
}

func newStarts(s Schedule) *starts {
	think, closed := s.Closed()
	return &starts{sched: s, think: think, closed: closed}
}

func (s *starts) begin(t0, end int64) { s.t0, s.end, s.until = t0, end, end }

// over is when the last one may come.
func (s *starts) over() int64 { return s.until }

// next is the next intended start; never when none comes before the end.
func (s *starts) next() int64 {
	if s.closed {
		return socket.Never
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.sched.Next()
	if at := s.t0 + int64(d); ok && at < s.end {
		return at
	}
	s.end = 0 // the one taken is beyond the end: all later ones are
	return socket.Never
}

// failedPause is the least pause of a closed loop after a failed request: a
// refused connect() takes no time, and a loop without any would spin.
const failedPause = int64(time.Millisecond)

// pause is how long a closed loop rests after a request. After one that failed
// it is again, unless that is 0.
func (s *starts) pause(failed bool, again time.Duration) int64 {
	switch {
	case !failed:
		return int64(s.think)
	case again > 0:
		return max(int64(again), failedPause)
	}
	return max(int64(s.think), failedPause)
}

// queue is the closed loop's: the instants at which connections that pause
// are to send again, in order. Its memory is fixed: one for each slot.
type queue struct {
	ring        []int64
	head, count int
}

func (q *queue) first() int64 {
	if q.count == 0 {
		return socket.Never
	}
	return q.ring[q.head]
}

func (q *queue) pop() {
	q.head = (q.head + 1) % len(q.ring)
	q.count--
}

// push keeps the order; a shorter pause than those before it is rare.
func (q *queue) push(at int64) {
	i := q.count
	for ; i > 0; i-- {
		prev := q.ring[(q.head+i-1)%len(q.ring)]
		if prev <= at {
			break
		}
		q.ring[(q.head+i)%len(q.ring)] = prev
	}
	q.ring[(q.head+i)%len(q.ring)] = at
	q.count++
}
