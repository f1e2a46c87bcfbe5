package capture

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"tcplab/results"
)

// Ladders of slow failures: few packets, hours apart. What they have in
// common is a silence, so the fault stands among the packets as a mark.

// maxBefore and maxAfter are how much is shown around the moment that a ladder
// is about.
const (
	maxBefore = 4
	maxAfter  = 12
)

// Around says which packets a ladder is to be about, where it is not any.
type Around struct {
	Client, Server string // names of the hosts at its ends; "" is any
	At             int64  // near this instant; 0 is any
}

func (a Around) fits(v *view, c *conn) bool {
	return (a.Client == "" || v.name(c.addr[0]) == a.Client) && (a.Server == "" || v.name(c.addr[1]) == a.Server)
}

// story is a ladder of the given packets, each from where it left to where it
// came, with the marks that lie within.
func (v *view) story(title string, pkts []int, marks []note) results.Ladder {
	slices.Sort(pkts)
	pkts = slices.Compact(pkts)
	c := v.pkts[pkts[0]].conn
	l := results.Ladder{Title: title, Left: v.name(c.addr[0]), Right: v.name(c.addr[1])}
	zero := v.pkts[pkts[0]].at
	for _, n := range marks {
		zero = min(zero, n.at)
	}
	at := func(ns int64) float64 { return float64(ns-zero) / 1e9 }
	for _, n := range marks {
		l.Marks = append(l.Marks, results.LadderMark{At: at(n.at), Text: n.text})
	}
	trips := map[*conn][2]map[int]int{}
	for _, i := range pkts {
		s := &v.pkts[i]
		t, ok := trips[s.conn]
		if !ok {
			e := s.conn.ends
			t = [2]map[int]int{v.trip(s.conn, e[0], e[1]), v.trip(s.conn, e[1], e[0])}
			trips[s.conn] = t
		}
		from := l.Left
		if v.name(s.h.src) == l.Right {
			from = l.Right
		}
		ev := results.LadderEvent{From: from, Sent: at(s.at), Label: label(s), Flags: flagNames(s.h.flags), Seq: s.seq, Ack: s.ack, Len: s.h.len, Frame: i + 1}
		said := slices.Clone(s.comments)
		if !s.out {
			// Its sender was not watched: where it came is all that is known.
			t := at(s.at)
			ev.Arrived = &t
		} else if j, ok := t[s.dir][i]; ok {
			t := at(v.pkts[j].at)
			ev.Arrived = &t
			// Rather the client's view of it than the server's; but what a
			// silence begins or ends with is told from either.
			theirs := v.pkts[j].comments
			if len(theirs) > 0 && (s.dir == 1 || len(said) == 0) {
				said, theirs = slices.Clone(theirs), said
			}
			for _, more := range theirs {
				if strings.HasPrefix(more, lastThat) && !slices.Contains(said, more) {
					said = append(said, more)
				}
			}
		}
		ev.Comment = joined(said)
		l.Events = append(l.Events, ev)
	}
	return l
}

// joined keeps a packet's text to what stands beside an arrow: that a packet
// was lost shows there by itself.
func joined(said []string) string {
	s := ""
	for _, t := range said {
		if len(t) > 5 && t[:5] == "lost:" {
			continue
		}
		if s != "" {
			s += "; "
		}
		s += t
	}
	return s
}

// told lists a connection's packets as a ladder tells them: those that leave an
// end, and those that come from an end that was not watched.
func (v *view) told(c *conn) []int {
	var out []int
	for _, i := range c.pkts {
		s := &v.pkts[i]
		own, other := c.ends[s.dir], c.ends[1-s.dir]
		if s.out && s.tap == own || !s.out && own < 0 && s.tap == other {
			out = append(out, i)
		}
	}
	return out
}

// split gives those of ps before an instant and from it on.
func (v *view) split(ps []int, at int64) (before, from []int) {
	n, _ := slices.BinarySearchFunc(ps, at, func(i int, at int64) int { return cmp.Compare(v.pkts[i].at, at) })
	return ps[:n], ps[n:]
}

func back(ps []int, n int) []int  { return ps[max(0, len(ps)-n):] }
func front(ps []int, n int) []int { return ps[:min(len(ps), n)] }

// within gives the marks in [from, to].
func (v *view) within(from, to int64) (out []note) {
	for _, n := range v.notes {
		if n.at >= from && n.at <= to {
			out = append(out, n)
		}
	}
	return out
}

// longest is the chain of one of the kinds that has the most steps; near an
// instant, of those that begin after it the first with the most.
func (v *view) longest(a Around, kinds ...results.ChainKind) (*chain, bool) {
	var best *chain
	for i := range v.chains {
		ch := &v.chains[i]
		if !slices.Contains(kinds, ch.kind) || !a.fits(v, ch.c) {
			continue
		}
		late := a.At > 0 && v.pkts[ch.steps[len(ch.steps)-1]].at < a.At
		if !late && (best == nil || len(ch.steps) > len(best.steps)) {
			best = ch
		}
	}
	return best, best != nil
}

// showChain draws a chain with what came last before it, the fault, and what
// ended it.
func (v *view) showChain(ch *chain, title string) results.Ladder {
	first := v.pkts[ch.steps[0]].at
	before, _ := v.split(v.told(ch.c), first)
	ps := append([]int(nil), back(before, maxBefore)...)
	if ch.base >= 0 && v.pkts[ch.base].out {
		ps = append(ps, ch.base)
	}
	steps := ch.steps
	if n := maxEvents - len(ps) - 1; len(steps) > n {
		steps = append(slices.Clone(front(steps, n/2)), back(steps, n-n/2)...)
	}
	ps = append(ps, steps...)
	if ch.ended >= 0 && (v.pkts[ch.ended].out || ch.c.ends[1-ch.dir] < 0) {
		ps = append(ps, ch.ended)
	} else if ch.ended >= 0 {
		// What came to this end left the other one.
		for i, j := range v.trip(ch.c, ch.c.ends[1-ch.dir], ch.c.ends[ch.dir]) {
			if j == ch.ended {
				ps = append(ps, i)
			}
		}
	}
	from, to := v.pkts[slices.Min(ps)].at, v.pkts[slices.Max(ps)].at
	return v.story(title, ps, v.within(from, to))
}

func showRetransmissions(v *view, a Around) (results.Ladder, error) {
	ch, ok := v.longest(a, results.ChainRTO, results.ChainSYN)
	if !ok {
		return results.Ladder{}, fmt.Errorf("%w: nothing was sent twice or more without an answer", ErrNoSuchPackets)
	}
	n := len(ch.steps)
	span := v.pkts[ch.steps[n-1]].at - v.pkts[ch.steps[0]].at + ch.gaps[0]
	return v.showChain(ch, fmt.Sprintf("%s sends the same again %d times, for %s", v.name(ch.c.addr[ch.dir]), n, dur(span))), nil
}

func showKeepalive(v *view, a Around) (results.Ladder, error) {
	ch, ok := v.longest(a, results.ChainKeepalive)
	if !ok {
		return results.Ladder{}, fmt.Errorf("%w: no keepalive probe was sent", ErrNoSuchPackets)
	}
	title := fmt.Sprintf("%d keepalive probes after %s of silence", len(ch.steps), dur(ch.gaps[0]))
	if len(ch.steps) == 1 {
		title = "A keepalive probe after " + dur(ch.gaps[0]) + " of silence"
	}
	return v.showChain(ch, title), nil
}

// fault is the mark that a ladder is about: the one at an instant, else the
// first.
func (v *view) fault(at int64) (note, bool) {
	for _, n := range v.notes {
		if at == 0 || n.at >= at {
			return n, true
		}
	}
	return note{}, false
}

// showSilence draws the last exchange before a fault, the fault, and what is
// sent into the void, of the connection that sends the most there.
func showSilence(v *view, a Around) (results.Ladder, error) {
	f, ok := v.fault(a.At)
	if !ok {
		return results.Ladder{}, fmt.Errorf("%w: there was no fault", ErrNoSuchPackets)
	}
	var best, bestBefore []int
	for _, c := range v.conns {
		if !a.fits(v, c) {
			continue
		}
		before, after := v.split(v.told(c), f.at)
		if len(before) > 0 && (best == nil || len(after) > len(best)) {
			best, bestBefore = after, before
		}
	}
	if bestBefore == nil {
		return results.Ladder{}, fmt.Errorf("%w: no connection was known before the fault", ErrNoSuchPackets)
	}
	ps := append(slices.Clone(back(bestBefore, maxBefore+2)), front(best, maxAfter)...)
	marks := v.within(v.pkts[ps[0]].at, max(f.at, v.pkts[ps[len(ps)-1]].at))
	return v.story("Before and after "+f.text, ps, marks), nil
}

// showReset draws what comes before an RST, the RST, and what follows from it.
func showReset(v *view, a Around) (results.Ladder, error) {
	rst, from := -1, a.At
	if f, ok := v.fault(0); ok && from == 0 {
		from = f.at
	}
	for _, since := range []int64{from, 0} {
		for i := range v.pkts {
			s := &v.pkts[i]
			if rst < 0 && s.conn != nil && s.h.has(flagRST) && s.at >= since && a.fits(v, s.conn) && slices.Contains(v.told(s.conn), i) {
				rst = i
			}
		}
	}
	if rst < 0 {
		return results.Ladder{}, fmt.Errorf("%w: no RST was sent", ErrNoSuchPackets)
	}
	s := &v.pkts[rst]
	before, after := v.split(v.told(s.conn), s.at)
	ps := append(slices.Clone(back(before, maxBefore+2)), front(after, maxBefore)...)
	return v.story(v.name(s.h.src)+" resets", ps, v.within(v.pkts[ps[0]].at, v.pkts[slices.Max(ps)].at)), nil
}

// showReconnect draws how a connection ends and the next one between the same
// hosts begins.
func showReconnect(v *view, a Around) (results.Ladder, error) {
	for i, next := range v.conns {
		if !next.opened || !a.fits(v, next) {
			continue
		}
		opened := v.pkts[next.pkts[0]].at
		if opened < a.At {
			continue
		}
		for j := i - 1; j >= 0; j-- {
			old := v.conns[j]
			if old.addr != next.addr {
				continue
			}
			before, _ := v.split(v.told(old), opened)
			if len(before) == 0 || !v.over(old, opened) {
				continue
			}
			ps := append(slices.Clone(back(before, maxBefore+2)), front(v.told(next), maxBefore+2)...)
			l := v.story("A connection ends, and "+dur(opened-v.pkts[before[len(before)-1]].at)+" later another takes its place", ps,
				v.within(v.pkts[ps[0]].at, v.pkts[slices.Max(ps)].at))
			return l, nil
		}
	}
	return results.Ladder{}, fmt.Errorf("%w: no connection took the place of another", ErrNoSuchPackets)
}

// over says that a connection had ended, or fallen silent, by an instant: it
// saw a FIN or RST, was sent into the void, or has no packet after it.
func (v *view) over(c *conn, at int64) bool {
	last := int64(0)
	for _, i := range c.pkts {
		s := &v.pkts[i]
		if s.at < at && s.h.flags&(flagFIN|flagRST) != 0 {
			return true
		}
		last = max(last, s.at)
	}
	return last < at
}

// showTeardown draws how a connection closes: from the last data before the
// first FIN on.
func showTeardown(v *view, a Around) (results.Ladder, error) {
	for _, c := range v.conns {
		if !a.fits(v, c) {
			continue
		}
		ps := v.told(c)
		if within := v.untilEnd(ps); slices.ContainsFunc(within, func(i int) bool { return v.pkts[i].h.has(flagFIN) }) {
			ps = within
		}
		for k, i := range ps {
			if v.pkts[i].h.has(flagFIN) && v.pkts[i].at >= a.At {
				shown := append(slices.Clone(back(ps[:k], 2)), front(ps[k:], maxAfter)...)
				open := v.leftOpen(c, i)
				l := v.story(v.name(v.pkts[i].h.src)+" closes first", shown, open)
				if open != nil {
					stillOpen(&l)
				}
				return l, nil
			}
		}
	}
	return results.Ladder{}, fmt.Errorf("%w: no connection was closed by a FIN", ErrNoSuchPackets)
}

// leftOpen is the mark of a FIN that the peer's kernel acknowledged and its
// program never answered: the peer is in CLOSE-WAIT (RFC 9293, 3.6).
func (v *view) leftOpen(c *conn, fin int) []note {
	f := &v.pkts[fin]
	acked := int64(0)
	for _, i := range v.untilEnd(v.told(c)) {
		s := &v.pkts[i]
		if s.h.has(flagRST) || s.dir != f.dir && s.h.has(flagFIN) {
			return nil
		}
		if s.dir != f.dir && s.h.has(flagACK) && !before(s.ack, f.seq+uint32(f.h.len)+1) {
			acked = s.at
		}
	}
	if acked == 0 {
		return nil
	}
	peer := v.name(c.addr[1-f.dir])
	return []note{{at: acked, text: peer + " never closes: CLOSE-WAIT to the end of the trial"}}
}

// stillOpen takes back what a FIN's comment promises: whose peer never closes
// stays in FIN-WAIT-2 and does not get as far as TIME-WAIT.
func stillOpen(l *results.Ladder) {
	for i := range l.Events {
		e := &l.Events[i]
		e.Comment = strings.Replace(e.Comment, keepsTimeWait, "", 1)
	}
}
