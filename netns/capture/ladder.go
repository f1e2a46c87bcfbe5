package capture

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"tcplab/results"
)

// shows are the ladders that a sheet's evidence may ask for, by name.
var shows = map[string]func(v *view, a Around) (results.Ladder, error){
	"handshake":       showHandshake,
	"reused request":  showReused,
	"teardown":        showTeardown,
	"retransmissions": showRetransmissions,
	"keepalive":       showKeepalive,
	"silence":         showSilence,
	"reset":           showReset,
	"reconnect":       showReconnect,
	"fast retransmit": showFastRetransmit,
	"unanswered":      showUnanswered,
	"unanswered SYN":  showUnansweredSYN,

	"held segment":     showHeldSegment,
	"quick ack":        showQuickAck,
	"cookie handshake": showCookieHandshake,
	"lost ack":         showLostACK,
	"old segment":      showOldSegment,
}

// Shows lists what Ladder can show.
func Shows() []string {
	names := make([]string, 0, len(shows))
	for n := range shows {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// ErrNoSuchPackets says that the capture holds nothing of what was asked for.
var ErrNoSuchPackets = errors.New("the capture has no such packets")

// Ladder picks the packets that show something, after Stop: for "handshake" a
// typical connection with its request, for "reused request" a typical request
// on a connection that had served others before. Typical is the median
// duration among those within the measuring window; where there are none, of
// all. The others show a slow failure: "retransmissions" and "keepalive" the
// longest chain of them, "silence" what surrounds a fault, "reset" an RST,
// "reconnect" and "teardown" how a connection ends, "unanswered" a request that
// no program answers, and "unanswered SYN" a handshake that nobody does.
func (r *Recorder) Ladder(show string, about ...Around) (results.Ladder, error) {
	f, ok := shows[show]
	if !ok {
		return results.Ladder{}, fmt.Errorf("capture: show %q is not known; there are %s", show, strings.Join(Shows(), ", "))
	}
	if r == nil || r.view == nil {
		return results.Ladder{}, fmt.Errorf("capture: ladder %q: %w: there is no finished capture", show, ErrNoSuchPackets)
	}
	var a Around
	if len(about) > 0 {
		a = about[0]
	}
	l, err := f(r.view, a)
	if err != nil {
		return l, fmt.Errorf("capture: ladder %q: %w", show, err)
	}
	return l, nil
}

// maxEvents of a ladder: more cannot be read.
const maxEvents = 40

// exchange is one request on a connection with its answer, as the client's
// host saw it: indices into view.pkts.
type exchange struct {
	c        *conn
	ordinal  int // 1…
	ask      int // the request's first packet
	answer   int // the answer's first packet
	from, to int // first and last packet of the exchange, at either end
	syn      int // of the first exchange of an opened connection; else -1
	synack   int
	ack      int
	counted  bool // the ordinal is known: nothing was left out before
	clean    bool // nothing was lost or sent again, and each packet is known at both ends
	first    bool // of the first connection captured: it may be a cold one
}

func (v *view) took(e *exchange) int64 {
	if e.syn >= 0 {
		return v.pkts[e.answer].at - v.pkts[e.syn].at
	}
	return v.pkts[e.answer].at - v.pkts[e.ask].at
}

// exchanges finds the requests with their answers of a connection, in the
// packets of the client's end.
func (v *view) exchanges(c *conn, first bool) []exchange {
	if c.ends[0] < 0 || c.ends[1] < 0 {
		return nil
	}
	var out []exchange
	var cur *exchange
	syn, synack, ack := -1, -1, -1
	top := uint32(0) // the client's highest byte
	counted := c.opened
	for _, i := range c.pkts {
		s := &v.pkts[i]
		if s.tap != c.ends[0] {
			continue
		}
		if s.skipped {
			// What follows belongs to no request that is known.
			if n := len(out); n > 0 && out[n-1].answer < 0 {
				out = out[:n-1]
			}
			cur, counted = nil, false
		}
		switch {
		case s.h.flags&flagSYN != 0:
			if s.dir == 0 && syn < 0 {
				syn = i
			} else if s.dir == 1 && synack < 0 {
				synack = i
			}
		case s.dir == 0 && s.h.len > 0 && !before(s.seq+uint32(s.h.len), top+1):
			if cur == nil || cur.answer >= 0 {
				out = append(out, exchange{c: c, ordinal: len(out) + 1, counted: counted, ask: i, answer: -1, syn: -1, first: first})
				cur = &out[len(out)-1]
				if len(out) == 1 && counted && synack >= 0 {
					cur.syn, cur.synack, cur.ack = syn, synack, ack
					if ack < 0 {
						cur.ack = i // the ACK came with the request
					}
				}
			}
			top = max(top, s.seq+uint32(s.h.len))
		case s.dir == 1 && s.h.len > 0 && cur != nil && cur.answer < 0:
			cur.answer = i
		}
		if s.dir == 0 && ack < 0 && synack >= 0 && s.h.flags&(flagACK|flagSYN) == flagACK {
			ack = i
		}
	}
	if n := len(out); n > 0 && out[n-1].answer < 0 {
		out = out[:n-1]
	}
	v.delimit(c, out)
	return out
}

// delimit says from which packet to which an exchange goes: the first one
// begins with the SYN, the last one ends with the connection.
func (v *view) delimit(c *conn, es []exchange) {
	there, back := v.trip(c, c.ends[0], c.ends[1]), v.trip(c, c.ends[1], c.ends[0])
	came := map[int]bool{}
	for _, m := range []map[int]int{there, back} {
		for _, j := range m {
			came[j] = true
		}
	}
	for k := range es {
		e := &es[k]
		e.from = e.ask
		if e.syn >= 0 {
			e.from = e.syn
		}
		e.to = c.pkts[len(c.pkts)-1]
		if k+1 < len(es) {
			e.to = es[k+1].ask - 1
		}
		e.to = v.trim(c, e)
		e.clean = true
		sent := map[[2]uint32]bool{}
		for _, i := range c.pkts {
			s := &v.pkts[i]
			if i < e.from || i > e.to || s.tap != c.ends[0] && s.tap != c.ends[1] {
				continue
			}
			if !s.out {
				if !came[i] && i > e.from+1 {
					e.clean = false
				}
				continue
			}
			if _, ok := there[i]; !ok {
				if _, ok := back[i]; !ok {
					e.clean = false
				}
			}
			if s.h.end() != s.h.seq {
				id := [2]uint32{uint32(s.dir), s.seq}
				if sent[id] {
					e.clean = false // sent again
				}
				sent[id] = true
			}
		}
	}
}

// trim ends an exchange where packets were left out, and where nothing happens
// for long: a keepalive probe much later is not of it.
func (v *view) trim(c *conn, e *exchange) int {
	pause := int64(1e9) + 3*v.took(e)
	last := e.answer
	for _, i := range c.pkts {
		s := &v.pkts[i]
		if i <= e.answer || s.tap != c.ends[0] && s.tap != c.ends[1] {
			continue
		}
		if i > e.to || s.skipped || s.at-v.pkts[last].at > pause {
			break
		}
		last = i
	}
	return last
}

// typical picks the exchange of median duration among the best kind there is.
func (v *view) typical(es []exchange) (*exchange, bool) {
	for _, ok := range []func(*exchange) bool{
		func(e *exchange) bool { return e.clean && !e.first && v.inWindow(e) },
		func(e *exchange) bool { return e.clean && !e.first },
		func(e *exchange) bool { return e.clean },
		func(e *exchange) bool { return v.inWindow(e) },
		func(*exchange) bool { return true },
	} {
		var fit []*exchange
		for i := range es {
			if ok(&es[i]) {
				fit = append(fit, &es[i])
			}
		}
		if len(fit) > 0 {
			sort.SliceStable(fit, func(i, j int) bool { return v.took(fit[i]) < v.took(fit[j]) })
			return fit[(len(fit)-1)/2], true
		}
	}
	return nil, false
}

func (v *view) inWindow(e *exchange) bool {
	return v.window[1] > v.window[0] && v.pkts[e.from].at >= v.window[0] && v.pkts[e.to].at <= v.window[1]
}

func showHandshake(v *view, a Around) (results.Ladder, error) {
	var all []exchange
	for i, c := range v.conns {
		if !a.fits(v, c) {
			continue
		}
		for _, e := range v.exchanges(c, i == 0) {
			if e.syn >= 0 {
				all = append(all, e)
			}
		}
	}
	// One that shows the close too is the better picture.
	var closed []exchange
	for _, e := range all {
		if v.hasFIN(&e) {
			closed = append(closed, e)
		}
	}
	e, ok := v.typical(closed)
	if !ok {
		e, ok = v.typical(all)
	}
	if !ok {
		return results.Ladder{}, fmt.Errorf("%w: no connection was opened and answered while both its ends were captured", ErrNoSuchPackets)
	}
	l := v.draw(e, "A request on a fresh connection: a handshake first")
	at := v.since(e)
	l.Spans = []results.LadderSpan{
		{Host: l.Left, From: at(e.syn), To: at(e.synack), Label: "handshake: " + dur(v.pkts[e.synack].at-v.pkts[e.syn].at)},
		{Host: l.Left, From: at(e.ask), To: at(e.answer), Label: "request to answer: " + dur(v.pkts[e.answer].at-v.pkts[e.ask].at)},
		{Host: l.Left, From: at(e.syn), To: at(e.answer), Label: "total: " + dur(v.pkts[e.answer].at-v.pkts[e.syn].at)},
	}
	return l, nil
}

func (v *view) hasFIN(e *exchange) bool {
	for _, i := range e.c.pkts {
		if s := &v.pkts[i]; i >= e.from && i <= e.to && s.h.has(flagFIN) {
			return true
		}
	}
	return false
}

func showReused(v *view, a Around) (results.Ladder, error) {
	var all []exchange
	for i, c := range v.conns {
		if !a.fits(v, c) {
			continue
		}
		for _, e := range v.exchanges(c, i == 0) {
			// In a connection captured from the middle on, the first request
			// seen is a reuse as well: nothing opened it here.
			if e.ordinal > 1 || !e.counted {
				all = append(all, e)
			}
		}
	}
	e, ok := v.typical(all)
	if !ok {
		return results.Ladder{}, fmt.Errorf("%w: no second request on any connection of which both ends were captured", ErrNoSuchPackets)
	}
	title := fmt.Sprintf("Request %d on an established connection: no handshake", e.ordinal)
	if !e.counted {
		title = "A request on an established connection: no handshake"
	}
	l := v.draw(e, title)
	at := v.since(e)
	l.Spans = []results.LadderSpan{
		{Host: l.Left, From: at(e.ask), To: at(e.answer), Label: "request to answer: " + dur(v.pkts[e.answer].at-v.pkts[e.ask].at)},
	}
	return l, nil
}

// since gives a packet's time in the exchange's ladder, s.
func (v *view) since(e *exchange) func(i int) float64 {
	zero := v.pkts[e.from].at
	return func(i int) float64 { return float64(v.pkts[i].at-zero) / 1e9 }
}

// draw lists the packets of an exchange, from where they left to where they
// came.
func (v *view) draw(e *exchange, title string) results.Ladder {
	c := e.c
	l := results.Ladder{Title: title, Left: v.points[c.ends[0]].host, Right: v.points[c.ends[1]].host}
	at := v.since(e)
	trips := [2]map[int]int{v.trip(c, c.ends[0], c.ends[1]), v.trip(c, c.ends[1], c.ends[0])}
	for _, i := range c.pkts {
		s := &v.pkts[i]
		if i < e.from || i > e.to || !s.out || s.tap != c.ends[s.dir] {
			continue
		}
		if len(l.Events) == maxEvents {
			break
		}
		ev := results.LadderEvent{
			From: v.points[s.tap].host, Sent: at(i), Label: label(s), Flags: flagNames(s.h.flags),
			Seq: s.seq, Ack: s.ack, Len: s.h.len, Frame: i + 1,
		}
		said := s.comments
		if j, ok := trips[s.dir][i]; ok {
			t := at(j)
			ev.Arrived = &t
			// Rather the client's view of it than the server's.
			if theirs := v.pkts[j].comments; len(theirs) > 0 && (s.dir == 1 || len(said) == 0) {
				said = theirs
			}
		}
		ev.Comment = strings.Join(said, "; ")
		l.Events = append(l.Events, ev)
	}
	return l
}

// label is "SYN seq 0", "PSH,ACK seq 1:129 ack 1".
func label(s *seen) string {
	t := flagNames(s.h.flags)
	if s.h.len > 0 {
		t += fmt.Sprintf(" seq %d:%d", s.seq, s.seq+uint32(s.h.len))
	} else {
		t += fmt.Sprintf(" seq %d", s.seq)
	}
	if s.h.flags&flagACK != 0 {
		t += fmt.Sprintf(" ack %d", s.ack)
	}
	return t
}
