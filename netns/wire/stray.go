package wire

// A stray is a data segment that outlives its connection. It stays on the wire
// until a later connection of the same addresses and ports has come to its
// place: until the next byte that the receiver of that one expects is the
// stray's first, or lies beyond it. Then it goes on right behind the frame that
// brought the connection there. This is what TIME-WAIT is there to prevent (RFC
// 9293, 3.6.1), and it is decided by sequence numbers because waiting would not
// find the place: a connection passes it once, and a moment later it is gone.
type stray struct {
	fault    int // index
	tuple    tuple
	dir      int
	isn      uint32 // of its own connection, in its direction
	seq, len uint32
	since    int64 // when it came
	resent   bool  // its connection has sent its bytes again
	gone     bool
}

// A Happening is something that a wire did by itself, by the frames that
// passed: it held a stray, or let one go.
type Happening struct {
	At    int64  // CLOCK_MONOTONIC ns; of a stray that goes on, when it leaves
	Fault string // its name
	What  string // Held or Released
	Seq   uint32 // the segment's first byte, absolute
	Len   uint32 // its payload
	// After is how long the segment has been held, ns, and Next the byte that
	// the later connection expects; of Released.
	After int64
	Next  uint32
}

// What a Happening may be.
const (
	Held     = "held"
	Resent   = "resent" // its own connection sends its bytes again
	Released = "released"
)

// keepStray remembers the current frame, which a hold takes. Strays count from 1.
func (m *model) keepStray(fault, dir int, now int64) int32 {
	f := &m.f
	m.strays = append(m.strays, stray{
		fault: fault, tuple: tupleOf(f), dir: dir, isn: m.p.flow.half[dir].isn,
		seq: f.seq, len: f.payload, since: now,
	})
	m.note(Happening{At: now, Fault: m.faults[fault].Name, What: Held, Seq: f.seq, Len: f.payload})
	return int32(len(m.strays))
}

// release lets those strays go whose place the current frame's connection has
// come to. The frame leaves at due, and they behind it.
func (m *model) release(dir int, due int64) {
	f, fl := &m.f, m.p.flow
	if f.kind != kindData || fl.ordinal == 0 {
		return // of a connection whose SYN was not seen nobody knows that it is another
	}
	h := &fl.half[dir]
	next := h.isn + uint32(h.end)
	for i := range m.strays {
		s := &m.strays[i]
		if s.gone || s.dir != dir || s.tuple != fl.tuple {
			continue
		}
		if s.isn == h.isn {
			if f.seq == s.seq && !s.resent {
				s.resent = true
				m.note(Happening{At: due, Fault: m.faults[s.fault].Name, What: Resent, Seq: s.seq, Len: f.payload, After: due - s.since})
			}
			continue
		}
		if int32(next-s.seq) < 0 {
			continue
		}
		s.gone = true
		m.freed = append(m.freed, int32(i+1))
		m.dirs[dir].count.released++
		m.note(Happening{At: due, Fault: m.faults[s.fault].Name, What: Released, Seq: s.seq, Len: s.len, Next: next, After: due - s.since})
	}
}

func (m *model) note(h Happening) {
	if m.tell != nil {
		m.tell(h)
	}
}

// letStrayGo puts a stray behind the frame that was just put onto the wire.
func (w *Wire) letStrayGo(id int32, due, now int64) {
	keep := w.held[:0]
	for _, e := range w.held {
		if e.stray == id {
			e.due, e.hold, e.stray = due, 0, 0
			w.put(e, now)
		} else {
			keep = append(keep, e)
		}
	}
	w.held = keep
}

// Tell has the wire say what it does by itself. f is called on the wire's
// thread and must not block.
func (w *Wire) Tell(f func(Happening)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.model.tell = f
}
