package capture

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"tcplab/results"
)

// Two connections with the same four ports, one after the other: a segment of
// the first may come in the second, and what is left of the first may answer
// for it. None of these packets is of the connection in whose time it comes,
// so its annotator must not see them.

// oldSegment is a data segment that left in one connection and came in another.
type oldSegment struct {
	old, next  *conn
	left, came int // indices into view.pkts; left −1: where it left was not kept
	answer     int // the first packet back from where it came; −1: none
	fate       oldFate
	bytes      int // of it that are new to its receiver, where it is accepted
	own        int // the first packet after it that has the bytes which belong there; −1: none
}

type oldFate uint8

const (
	oldUnknown  oldFate = iota
	oldAccepted         // acknowledged as if the sender had just sent it
	oldPAWS             // its timestamp is older than the newest that came (RFC 7323, 5.3)
	oldBehind           // its bytes lie before what is expected
)

// invalidRate is tcp_invalid_ratelimit: how often a connection, or what is left
// of one, answers what is none of its packets.
const invalidRate = int64(500e6)

// predecessors maps each connection to the one before it with the same ports.
func (v *view) predecessors() map[*conn]*conn {
	last, out := map[flowKey]*conn{}, map[*conn]*conn{}
	for _, c := range v.conns {
		if p := last[c.key]; p != nil && c.opened {
			out[c] = p
		}
		last[c.key] = c
	}
	return out
}

// findOld finds old segments, and what is left of an old connection that
// answers a SYN, before the connections are explained.
func (v *view) findOld() {
	before := v.predecessors()
	for _, c := range v.conns {
		if old := before[c]; old != nil {
			v.findAssassination(old, c)
			v.findOldData(old, c)
		}
	}
}

func (v *view) findOldData(old, next *conn) {
	for dir := range old.ends {
		from, to := old.ends[dir], old.ends[1-dir]
		if from < 0 || to < 0 {
			continue
		}
		left, bytes := map[identity]int{}, map[uint32]int{}
		trip := v.trip(old, from, to)
		for _, i := range old.pkts {
			s := &v.pkts[i]
			if s.tap != from || !s.out || s.h.len == 0 {
				continue
			}
			bytes[s.h.seq] = s.h.len
			if _, came := trip[i]; !came {
				left[s.identity()] = i
			}
		}
		came := map[int]bool{}
		for _, j := range v.trip(next, from, to) {
			came[j] = true
		}
		for _, j := range next.pkts {
			s := &v.pkts[j]
			if came[j] || s.tap != to || s.out || s.h.len == 0 {
				continue
			}
			i, ok := left[s.identity()]
			if ok {
				delete(left, s.identity())
				v.pkts[i].stray = true
			} else if i = -1; bytes[s.h.seq] != s.h.len {
				continue
			}
			s.foreign = true
			o := oldSegment{old: old, next: next, left: i, came: j, answer: -1, own: -1}
			v.judgeOld(&o)
			v.olds = append(v.olds, o)
		}
	}
}

// judgeOld finds what became of an old segment, by what its receiver had and
// what it answered.
func (v *view) judgeOld(o *oldSegment) {
	came := &v.pkts[o.came]
	dir, to := came.dir, came.tap
	told := 0
	end := came.h.seq + uint32(came.h.len)
	expected, newest, stamped := uint32(0), uint32(0), false
	previous := -1 // the last of its sender's own segments before it
	for _, i := range o.next.pkts {
		s := &v.pkts[i]
		if s.out && s.dir == dir && i < o.came && s.h.len > 0 && !s.foreign {
			previous = i
		}
		if s.tap != to || s.foreign {
			continue
		}
		if i < o.came && s.dir == dir {
			if end := s.h.end(); expected == 0 || before(expected, end) {
				expected = end
			}
			if ts, ok := s.h.timestamp(); ok && (!stamped || before(newest, ts)) {
				newest, stamped = ts, true
			}
		}
		// Of what it says next, what tells of bytes that came twice is about
		// these; else the first that has no data is.
		if i > o.came && s.out && told < 2 {
			switch {
			case !before(expected, end) && s.doubles(came.h.seq):
				o.answer, told = i, 2
			case told == 0 && s.h.len == 0:
				o.answer, told = i, 1
			}
		}
	}
	if previous >= 0 && v.pkts[previous].h.end() == came.h.seq {
		v.pkts[previous].instead = []string{fmt.Sprintf("with this the connection is at the old segment's place: byte %d is next", came.seq)}
	}
	ts, own := came.h.timestamp()
	say := func(format string, args ...any) {
		came.comments = append(came.comments, fmt.Sprintf(format, args...))
	}
	sent := ""
	if o.left >= 0 {
		sent = ", sent " + dur(came.at-v.pkts[o.left].at) + " ago"
	}
	say("an old segment: %s of the connection before%s", count(came.h.len), sent)
	answer := func(format string, args ...any) {
		if o.answer >= 0 {
			v.pkts[o.answer].instead = append(v.pkts[o.answer].instead, fmt.Sprintf(format, args...))
		}
	}
	acked := uint32(0)
	if o.answer >= 0 {
		acked = v.pkts[o.answer].h.ack
	}
	switch {
	case stamped && own && before(ts, newest):
		o.fate = oldPAWS
		say("its timestamp %d is %d ms older than the newest one that came: PAWS (RFC 7323, 5.3) refuses it", ts, newest-ts)
		answer("duplicate ACK: refuses the old segment, and still waits for byte %d", acked-o.next.isn[dir])
	case !before(expected, end):
		o.fate = oldBehind
		came.old(o.old)
		say("it begins %s before what is expected: refused as old", count(int(expected-came.h.seq)))
		answer("ACK with DSACK: these bytes are taken for ones that came twice")
	case o.answer >= 0 && !before(acked, end):
		o.fate, o.bytes = oldAccepted, int(end-expected)
		o.own = v.genuine(o)
		if !before(expected, came.h.seq) {
			o.bytes = min(o.bytes, came.h.len)
		}
		say("byte %d is just what is expected: %s go to the application", came.seq, count(o.bytes))
		answer("ACK for %s that %s has not sent in this connection: it drops this packet, and all that say the same, until it has (RFC 9293, 3.10.7.4)", count(o.bytes), v.name(came.h.src))
	}
}

// genuine is the packet that has the bytes whose place an old segment has taken.
func (v *view) genuine(o *oldSegment) int {
	came := &v.pkts[o.came]
	for _, i := range o.next.pkts {
		s := &v.pkts[i]
		if i > o.came && !s.foreign && s.out && s.dir == came.dir && s.h.len > 0 && !before(came.h.seq, s.h.seq) && before(came.h.seq, s.h.end()) {
			s.instead = []string{fmt.Sprintf("the bytes that belong there, %s after the old ones: they are taken for a repetition and thrown away", dur(s.at-came.at))}
			return i
		}
	}
	return -1
}

// doubles says that a packet tells of bytes from seq on which came twice (RFC
// 2883).
func (s *seen) doubles(seq uint32) bool {
	b, ok := s.h.option(optSACK)
	return ok && len(b) >= 8 && beUint32(b) == seq
}

// findAssassination finds what TIME-WAIT says to a SYN, and what that comes to:
// packets of the side that accepts which come before its SYN-ACK and are none,
// and the RSTs that answer them.
func (v *view) findAssassination(old, c *conn) {
	opened := false // for the whole: a SYN-ACK is on its way somewhere
	for _, i := range c.pkts {
		opened = opened || v.pkts[i].h.has(flagSYN|flagACK)
	}
	done := map[int]bool{}
	for _, i := range c.pkts {
		s := &v.pkts[i]
		switch h := &s.h; {
		case done[s.tap]:
		case h.has(flagSYN | flagACK):
			done[s.tap] = true
		case s.dir == 1 && h.has(flagACK) && h.len == 0:
			s.old(old)
			if s.out {
				s.comments = append(s.comments, "ACK out of TIME-WAIT: the SYN's number is behind the old connection's, for which this answers")
			}
		case s.dir == 0 && h.has(flagRST):
			s.old(old)
			if s.out {
				v.killed = append(v.killed, i)
			}
			switch {
			case !s.out:
			case opened:
				s.comments = append(s.comments, "RST: that is no answer to the SYN. It ends TIME-WAIT early (RFC 1337, assassination)")
			default:
				s.comments = append(s.comments, "RST: that is no answer to the SYN. TIME-WAIT ignores it (tcp_rfc1337)")
			}
		case s.dir == 0 && h.has(flagSYN) && s.out && len(v.killed) > 0 && v.pkts[v.killed[len(v.killed)-1]].conn == c:
			rst := v.killed[len(v.killed)-1]
			said := fmt.Sprintf("the same SYN again, %s after the RST", dur(s.at-v.pkts[rst].at))
			if !opened && s.at-v.pkts[rst].at < invalidRate {
				said += ": too soon for TIME-WAIT to answer another (tcp_invalid_ratelimit)"
			}
			s.instead = append(s.instead, said)
		}
	}
}

// old says that a packet is one of a connection before, and numbers it so.
func (s *seen) old(c *conn) {
	s.foreign = true
	s.seq = s.h.seq - c.isn[s.dir]
	if s.h.flags&flagACK != 0 {
		s.ack = s.h.ack - c.isn[1-s.dir]
	}
}

// timestamp is the sender's timestamp.
func (h *header) timestamp() (uint32, bool) {
	if o, ok := h.option(optTimestamp); ok && len(o) == 8 {
		return binary.BigEndian.Uint32(o), true
	}
	return 0, false
}

// showOldSegment draws a segment of an earlier connection that comes in a later
// one of the same four ports: where it left, how the one ended and the other
// began, and what became of it. Where TIME-WAIT keeps the later one from
// beginning, that is drawn.
func showOldSegment(v *view, a Around) (results.Ladder, error) {
	for _, o := range v.olds {
		if !a.fits(v, o.next) || v.pkts[o.came].at < a.At {
			continue
		}
		title := map[oldFate]string{
			oldUnknown:  "An old segment comes in the next connection",
			oldAccepted: fmt.Sprintf("An old segment comes in the next connection: %s of it are read", count(o.bytes)),
			oldPAWS:     "An old segment comes in the next connection, and its timestamp gives it away",
			oldBehind:   "An old segment comes in the next connection, and its number gives it away",
		}[o.fate]
		before, _ := v.split(v.told(o.next), v.pkts[o.came].at)
		ps := v.end(o.old, nil)
		if o.left >= 0 {
			ps = append(v.end(o.old, &v.pkts[o.left]), o.left)
		}
		opening := front(before, v.opening(before))
		ps = append(append(ps, opening...), back(before[len(opening):], 1)...)
		l := v.story(title, append(ps, v.afterOld(o)...), nil)
		v.drawStray(&l, o)
		return l, nil
	}
	for _, i := range v.killed {
		c := v.pkts[i].conn
		if !a.fits(v, c) || v.pkts[i].at < a.At {
			continue
		}
		old := v.predecessors()[c]
		ps := append(v.end(old, nil), front(v.told(c), maxAfter-3)...)
		return v.story("TIME-WAIT keeps the next connection out", ps, nil), nil
	}
	return results.Ladder{}, fmt.Errorf("%w: no segment came in another connection than the one that it left in", ErrNoSuchPackets)
}

// end is how a connection ends: what a segment was replaced by, and the close.
func (v *view) end(c *conn, of *seen) []int {
	var out []int
	for _, i := range v.told(c) {
		s := &v.pkts[i]
		again := of != nil && s.at > of.at && s.dir == of.dir && s.h.len > 0 && s.h.seq == of.h.seq
		if again || s.h.flags&(flagFIN|flagRST) != 0 {
			out = append(out, i)
		}
	}
	return back(out, maxBefore)
}

// opening is how many of a connection's packets are its handshake.
func (v *view) opening(ps []int) int {
	for n, i := range ps {
		if s := &v.pkts[i]; s.h.len > 0 && !s.foreign {
			return n
		}
	}
	return len(ps)
}

// afterOld is what follows an old segment: its receiver's first answers, and
// what its supposed sender sends next.
func (v *view) afterOld(o oldSegment) []int {
	_, after := v.split(v.told(o.next), v.pkts[o.came].at)
	out := slices.Clone(front(after, maxBefore))
	if o.own < 0 {
		return out
	}
	out = append(out, o.own)
	for _, i := range after {
		if s := &v.pkts[i]; i > o.own && s.doubles(v.pkts[o.came].h.seq) {
			return append(out, i)
		}
	}
	return out
}

// drawStray parts the old segment's way in two: an arrow as long as its delay
// would cross everything. It leaves, and the wire keeps it; it comes when the
// wire has let it go, as fast as what came before it.
func (v *view) drawStray(l *results.Ladder, o oldSegment) {
	came, flight := &v.pkts[o.came], int64(0)
	for i, j := range v.trip(o.next, o.old.ends[came.dir], came.tap) {
		if d := v.pkts[j].at - v.pkts[i].at; j < o.came && (flight == 0 || d < flight) {
			flight = d
		}
	}
	first := &l.Events[0]
	zero := v.pkts[first.Frame-1].at - int64(math.Round(first.Sent*1e9)) // of the ladder's time
	for k := range l.Events {
		if e := &l.Events[k]; o.left >= 0 && e.Frame == o.left+1 {
			e.Arrived, e.Comment = nil, "the wire keeps it"
		}
	}
	at := float64(came.at-zero) / 1e9
	text := label(came)
	if int32(came.ack) < 0 {
		text, _, _ = strings.Cut(text, " ack ") // what it acknowledges is behind this connection's numbers
	}
	e := results.LadderEvent{From: l.Left, Sent: at - float64(flight)/1e9, Arrived: &at, Label: text, Flags: flagNames(came.h.flags),
		Seq: came.seq, Ack: came.ack, Len: came.h.len, Comment: joined(came.comments), Frame: o.came + 1}
	if came.dir == 1 {
		e.From = l.Right
	}
	l.Events = append(l.Events, e)
	slices.SortStableFunc(l.Events, func(a, b results.LadderEvent) int { return cmp.Compare(a.Sent, b.Sent) })
}
