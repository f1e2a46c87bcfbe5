package capture

import (
	"cmp"
	"fmt"
	"slices"

	"tcplab/results"
)

const (
	// Nagle's algorithm (RFC 896) holds a small segment back until all before
	// it is acknowledged: seen as one that leaves right after such an ACK. A
	// program cannot see ACKs, so what leaves within heldGap of one was ready.
	heldFrom     = int64(1e6)
	heldGap      = int64(300e3)
	smallSegment = 1000

	// delayedFrom: Linux delays an ACK by 40 ms (TCP_DELACK_MIN) to 200 ms.
	delayedFrom = int64(30e6)
	// atOnce is the longest that an ACK takes which nothing delays.
	atOnce = int64(5e6)
)

// hold is a segment that Nagle's algorithm held back: indices into view.pkts.
type hold struct {
	c     *conn
	dir   int // who holds
	small int // the segment that was not acknowledged
	came  int // where it came; −1: not known
	left  int // its ACK, where that left; −1: not known
	ack   int // and where it came
	seg   int // the segment that was held
	first bool
}

// delay is how long the receiver took to acknowledge; false where one of its
// ends was not captured.
func (v *view) delay(h *hold) (int64, bool) {
	if h.came < 0 || h.left < 0 {
		return 0, false
	}
	return v.pkts[h.left].at - v.pkts[h.came].at, true
}

func (v *view) delayed(h *hold) bool {
	d, known := v.delay(h)
	return known && d >= delayedFrom
}

// findHeld finds what one end held back, in the packets of its own interface: a
// small segment alone on its way, nothing else sent until a bare ACK of it came,
// and the next one right after that. It is careful: what was sent before the
// ACK, or some time after it, or after an answer, nobody held.
func (v *view) findHeld(c *conn, dir int) {
	tap := c.ends[dir]
	if tap < 0 {
		return
	}
	var found []hold
	small, ack := -1, -1
	una, known := uint32(0), false // what the peer has acknowledged
	first := c.opened              // the peer has said nothing yet
	for _, i := range c.pkts {
		s := &v.pkts[i]
		if s.tap != tap {
			continue
		}
		if s.skipped {
			small, ack, known, first = -1, -1, false, false
		}
		end := s.seq + uint32(s.h.len)
		switch {
		case s.h.flags&(flagRST|flagFIN) != 0:
			small, ack = -1, -1
		case s.dir != dir:
			if s.h.has(flagACK) && (!known || before(una, s.ack)) {
				una, known = s.ack, true
			}
			switch {
			case s.h.len > 0:
				small, ack, first = -1, -1, false
			case small >= 0 && ack < 0 && s.ack == v.pkts[small].seq+uint32(v.pkts[small].h.len):
				ack = i
			}
		case s.h.len == 0 || !s.out:
		case s.again:
			small, ack = -1, -1
		default:
			if ack >= 0 && s.at-v.pkts[ack].at < heldGap && v.pkts[ack].at-v.pkts[small].at > heldFrom {
				found = append(found, hold{c: c, dir: dir, small: small, came: -1, left: -1, ack: ack, seg: i, first: first})
			}
			small, ack = -1, -1
			if known && s.seq == una && end-s.seq < smallSegment {
				small = i
			}
		}
	}
	if len(found) == 0 {
		return
	}
	if other := c.ends[1-dir]; other >= 0 {
		there, left := v.trip(c, tap, other), map[int]int{}
		for i, j := range v.trip(c, other, tap) {
			left[j] = i
		}
		for k := range found {
			h := &found[k]
			if j, ok := there[h.small]; ok {
				h.came = j
			}
			if j, ok := left[h.ack]; ok {
				h.left = j
			}
		}
	}
	for k := range found {
		v.sayHeld(&found[k])
	}
	v.holds = append(v.holds, found...)
}

// sayHeld says what was held, for what, and who kept it waiting.
func (v *view) sayHeld(h *hold) {
	small, seg := &v.pkts[h.small], &v.pkts[h.seg]
	bytes := fmt.Sprintf("bytes %d:%d", small.seq, small.seq+uint32(small.h.len))
	wait := seg.at - small.at
	d, known := v.delay(h)
	switch {
	case known && d >= delayedFrom, !known && wait >= 2*delayedFrom:
		say(small, fmt.Sprintf("unacknowledged for %s: Nagle holds what follows", dur(wait)))
		say(seg, fmt.Sprintf("held back by Nagle until the ACK of %s came, %s after them", bytes, dur(wait)))
	case !known || d >= atOnce:
		say(seg, fmt.Sprintf("held back by Nagle until the ACK of %s came, %s after them", bytes, dur(wait)))
	default:
		say(seg, fmt.Sprintf("held back by Nagle for no more than a round trip: the ACK of %s came after %s", bytes, dur(wait)))
		if h.first {
			say(&v.pkts[h.left], "ACK at once: quick-ACK mode, which a new connection is in until its first answer")
		}
	}
}

// showHeldSegment is an exchange in which Nagle's algorithm held a segment back
// until a delayed ACK came; of several, the one with the median wait.
func showHeldSegment(v *view, a Around) (results.Ladder, error) {
	var all, within []*hold
	for i := range v.holds {
		h := &v.holds[i]
		if !v.delayed(h) || !a.fits(v, h.c) || v.pkts[h.small].at < a.At {
			continue
		}
		all = append(all, h)
		if v.pkts[h.small].at >= v.window[0] && v.pkts[h.seg].at <= v.window[1] {
			within = append(within, h)
		}
	}
	if len(within) > 0 {
		all = within
	}
	if len(all) == 0 {
		return results.Ladder{}, fmt.Errorf("%w: no small segment was held back until a delayed ACK came", ErrNoSuchPackets)
	}
	slices.SortStableFunc(all, func(x, y *hold) int {
		return cmp.Compare(v.pkts[x.seg].at-v.pkts[x.small].at, v.pkts[y.seg].at-v.pkts[y.small].at)
	})
	h := all[(len(all)-1)/2]
	d, _ := v.delay(h)
	l := v.story(fmt.Sprintf("%s waits %s for the ACK of %s, which is delayed by %s", count(v.pkts[h.seg].h.len),
		dur(v.pkts[h.seg].at-v.pkts[h.small].at), count(v.pkts[h.small].h.len), dur(d)), v.ofHold(h), nil)
	l.Spans = v.heldSpans(h, v.pkts[h.small].at)
	return l, nil
}

// ofHold are the packets from the segment that is not acknowledged to the
// answer, and what acknowledges that.
func (v *view) ofHold(h *hold) []int {
	_, ps := v.split(v.told(h.c), v.pkts[h.small].at)
	for k, i := range ps {
		s := &v.pkts[i]
		if s.at > v.pkts[h.seg].at && s.dir != h.dir && s.h.len > 0 {
			ps = front(ps, k+1)
			break
		}
	}
	return front(ps, maxAfter)
}

// heldSpans are the times of a hold, from zero on.
func (v *view) heldSpans(h *hold, zero int64) []results.LadderSpan {
	at := func(i int) float64 { return float64(v.pkts[i].at-zero) / 1e9 }
	held := count(v.pkts[h.small].h.len) + " unacknowledged: " + dur(v.pkts[h.seg].at-v.pkts[h.small].at)
	out := []results.LadderSpan{{Host: v.name(h.c.addr[h.dir]), From: at(h.small), To: at(h.seg), Label: held}}
	if d, known := v.delay(h); known && d >= atOnce {
		out = append(out, results.LadderSpan{Host: v.name(h.c.addr[1-h.dir]), From: at(h.came), To: at(h.left), Label: "ACK delayed: " + dur(d)})
	}
	return out
}

// showQuickAck is the first exchange of a connection, which quick-ACK mode lets
// through, and the next one, which waits.
func showQuickAck(v *view, a Around) (results.Ladder, error) {
	for i := range v.holds {
		first := &v.holds[i]
		if d, known := v.delay(first); !first.first || !known || d >= atOnce || !a.fits(v, first.c) {
			continue
		}
		for j := i + 1; j < len(v.holds) && v.holds[j].c == first.c && v.holds[j].dir == first.dir; j++ {
			next := &v.holds[j]
			if !v.delayed(next) {
				continue
			}
			ps := slices.Concat(v.ofHold(first), v.ofHold(next))
			l := v.story("The first exchange of a connection is acknowledged at once, and then none", ps, nil)
			zero := v.pkts[first.small].at
			l.Spans = slices.Concat(v.heldSpans(first, zero), v.heldSpans(next, zero))
			return l, nil
		}
	}
	return results.Ladder{}, fmt.Errorf("%w: no connection of which the first exchange was acknowledged at once, and a later one late", ErrNoSuchPackets)
}
