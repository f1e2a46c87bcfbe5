package capture

import (
	"fmt"
	"slices"
	"strings"

	"tcplab/results"
)

const (
	optPermitted = 4 // SACK permitted (RFC 2018)
)

// Of net/ipv4/syncookies.c: what a cookie's timestamp has in its last bits.
const (
	cookieBits   = 6 // TSBITS
	cookieWscale = 0xf
	cookieSACK   = 1 << 4
	cookieECN    = 1 << 5
)

// offered are the options of a SYN or a SYN-ACK.
type offered struct {
	wscale   int // -1: none
	sack, ts bool
}

func (h *header) offered() offered {
	o := offered{wscale: -1}
	if v, ok := h.option(optWscale); ok && len(v) == 1 {
		o.wscale = int(v[0])
	}
	_, o.sack = h.option(optPermitted)
	v, ok := h.option(optTimestamp)
	o.ts = ok && len(v) == 8
	return o
}

// lost names what was offered and not taken up.
func (o offered) lost(by offered) (names []string) {
	if o.ts && !by.ts {
		names = append(names, "timestamps")
	}
	if o.wscale >= 0 && by.wscale < 0 {
		names = append(names, "window scaling")
	}
	if o.sack && !by.sack {
		names = append(names, "SACK")
	}
	return names
}

// list joins words as a sentence does.
func list(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}

// cookie is what a SYN-ACK tells of having no state behind it.
type cookie struct {
	synack int      // index of the SYN-ACK where it left
	sure   bool     // its timestamp says so
	bare   bool     // it came without any of the options that the client offered
	lag    uint32   // ms that its timestamp is behind the clock
	says   []string // the options in its timestamp
}

// findCookie looks for a SYN cookie in a connection. A sequence number cannot be
// told from any other, but a timestamp can: to have room for the client's
// options a cookie's is put back to where its last six bits are those options
// (cookie_init_timestamp), up to 64 ms before the clock, while every later one
// is the clock itself. Both have the connection's own offset (ts_off), which the
// later ones tell.
func (v *view) findCookie(c *conn) (cookie, bool) {
	syn, synack := -1, -1
	for _, i := range c.pkts {
		s := &v.pkts[i]
		switch {
		case s.dir == 0 && s.h.has(flagSYN) && syn < 0:
			syn = i
		case s.dir == 1 && s.h.has(flagSYN|flagACK) && s.out && s.tap == c.ends[1] && synack < 0:
			synack = i
		}
	}
	if syn < 0 || synack < 0 {
		return cookie{}, false
	}
	asked, got := v.pkts[syn].h.offered(), v.pkts[synack].h.offered()
	ck := cookie{synack: synack}
	if !got.ts {
		// Without timestamps a cookie remembers the MSS and nothing else.
		ck.bare = asked.ts && len(asked.lost(got)) == 3
		return ck, ck.bare
	}
	offset, known := uint32(0), false
	for _, i := range c.pkts {
		s := &v.pkts[i]
		if s.dir != 1 || !s.out || s.tap != c.ends[1] || s.h.has(flagSYN) || !s.h.offered().ts {
			continue
		}
		// A stamp is made before the packet is seen: the largest is nearest.
		if d := s.h.tsval() - millis(s.at); !known || before(offset, d) {
			offset, known = d, true
		}
	}
	if !known {
		return ck, false
	}
	stamp := v.pkts[synack].h.tsval() - offset
	lag := millis(v.pkts[synack].at) - stamp
	options := uint32(cookieWscale)
	if asked.wscale >= 0 && got.wscale >= 0 {
		options = uint32(asked.wscale)
		ck.says = append(ck.says, fmt.Sprintf("window scale %d", asked.wscale))
	}
	if asked.sack && got.sack {
		options |= cookieSACK
		ck.says = append(ck.says, "SACK")
	}
	// Below two the clock may have moved on between the stamp and the capture.
	if lag < 2 || lag > 1<<cookieBits+1 || stamp&(1<<cookieBits-1)&^cookieECN != options {
		return ck, false
	}
	ck.lag, ck.sure = lag, true
	return ck, true
}

// millis is TCP's clock at an instant of CLOCK_MONOTONIC (tcp_clock_ms).
func millis(at int64) uint32 { return uint32(at / 1e6) }

// explainCookie comments the SYN-ACK where it left and where it came.
func (v *view) explainCookie(c *conn) {
	ck, ok := v.findCookie(c)
	if !ok {
		return
	}
	text := "without the timestamps, window scaling and SACK that the client offered, as a SYN cookie that has no room for them: 64 KiB a round trip at most"
	if ck.sure {
		text = fmt.Sprintf("SYN cookie: nothing is kept, not even SYN-RECV; the timestamp is %d ms behind, for its last %d bits are the client's options: %s",
			ck.lag, cookieBits, list(ck.says))
		if len(ck.says) == 0 {
			text = fmt.Sprintf("SYN cookie: nothing is kept, not even SYN-RECV; the timestamp is %d ms behind, for its last %d bits say that there are no options", ck.lag, cookieBits)
		}
	}
	v.say(ck.synack, text)
	if j, ok := v.trip(c, c.ends[1], c.ends[0])[ck.synack]; ok && c.ends[0] >= 0 {
		v.say(j, text)
	}
}

func (v *view) say(i int, text string) {
	v.pkts[i].comments = append(v.pkts[i].comments, text)
}

// showCookieHandshake is a handshake with a SYN cookie, and the request after it.
func showCookieHandshake(v *view, a Around) (results.Ladder, error) {
	var all []exchange
	found := map[*conn]cookie{}
	for i, c := range v.conns {
		if !a.fits(v, c) {
			continue
		}
		ck, ok := v.findCookie(c)
		if !ok {
			continue
		}
		found[c] = ck
		for _, e := range v.exchanges(c, i == 0) {
			if e.syn >= 0 && e.synack >= 0 {
				all = append(all, e)
			}
		}
	}
	e, ok := v.typical(all)
	if !ok {
		return results.Ladder{}, fmt.Errorf("%w: no handshake in which the SYN-ACK is a cookie, with a request after it, of which both ends were captured", ErrNoSuchPackets)
	}
	title := "A handshake with a SYN cookie: nothing is kept, and its options are in the timestamp"
	if found[e.c].bare {
		title = "A handshake with a SYN cookie and no timestamps: the options are gone"
	}
	l := v.draw(e, title)
	for i := range l.Events {
		ev := &l.Events[i]
		if ev.Frame == e.ack+1 {
			ev.Comment = also(ev.Comment, "it brings the cookie back: only now does the server know of the connection")
		}
	}
	at := v.since(e)
	l.Spans = []results.LadderSpan{{Host: l.Right, From: at(e.synack), To: at(v.arrival(e.c, e.ack)), Label: "no state: " + dur(v.pkts[v.arrival(e.c, e.ack)].at-v.pkts[e.synack].at)}}
	return l, nil
}

// arrival is where a packet of the client's came to the server; itself, where
// that is not known.
func (v *view) arrival(c *conn, i int) int {
	if j, ok := v.trip(c, c.ends[0], c.ends[1])[i]; ok {
		return j
	}
	return i
}

func also(have, more string) string {
	if have == "" {
		return more
	}
	return have + "; " + more
}

// lostACK is a handshake whose last ACK left the client and came nowhere.
type lostACK struct {
	c      *conn
	ack    int
	repeat bool // the SYN-ACK was sent again
	next   int  // what the client sent next, its ACKs apart; -1: nothing
}

func (v *view) findLostACK(c *conn) (lostACK, bool) {
	o := lostACK{c: c, ack: -1, next: -1}
	if !c.opened || c.ends[0] < 0 || c.ends[1] < 0 {
		return o, false
	}
	there := v.trip(c, c.ends[0], c.ends[1])
	synacks := 0
	for _, i := range c.pkts {
		s := &v.pkts[i]
		switch {
		case s.dir == 1 && s.h.has(flagSYN|flagACK) && s.out && s.tap == c.ends[1]:
			synacks++
		case s.dir != 0 || !s.out || s.tap != c.ends[0] || s.h.has(flagSYN):
		case o.ack < 0:
			if _, came := there[i]; came || s.h.len > 0 || s.h.flags&(flagFIN|flagRST) != 0 {
				return o, false // the ACK came, or something that carries it
			}
			o.ack = i
		case o.next < 0 && (s.h.len > 0 || s.h.has(flagFIN)):
			o.next = i
		}
	}
	o.repeat = synacks > 1
	return o, o.ack >= 0 && synacks > 0
}

// showLostACK draws what becomes of it: with a half-open connection the server
// sends its SYN-ACK again; with a cookie it has nothing to send again, and the
// client, for which the connection is established, waits.
func showLostACK(v *view, a Around) (results.Ladder, error) {
	var o lostACK
	found := false
	for _, c := range v.conns {
		if !a.fits(v, c) {
			continue
		}
		if l, ok := v.findLostACK(c); ok {
			o, found = l, true
			break
		}
	}
	if !found {
		return results.Ladder{}, fmt.Errorf("%w: no handshake whose last ACK was lost", ErrNoSuchPackets)
	}
	title := "The last ACK is lost under a SYN cookie: nobody has anything to send again"
	ack := "lost: ESTABLISHED for the client, nothing for the server; an ACK is never sent again by itself"
	if o.repeat {
		title = "The last ACK is lost: the server, which is in SYN-RECV, sends its SYN-ACK again"
		ack = "lost: the server stays in SYN-RECV, with a timer"
	}
	ps := v.told(o.c)
	if len(ps) > maxEvents {
		ps = append(slices.Clone(front(ps, maxEvents/2)), back(ps, maxEvents/2)...)
	}
	l := v.story(title, ps, v.within(v.pkts[ps[0]].at, v.pkts[ps[len(ps)-1]].at))
	for i := range l.Events {
		switch ev := &l.Events[i]; {
		case ev.Frame == o.ack+1:
			ev.Comment = also(ev.Comment, ack)
		case ev.Frame == o.next+1 && !o.repeat:
			ev.Comment = also(ev.Comment, fmt.Sprintf("the client's first word since then, %s later, with the same ACK", dur(v.pkts[o.next].at-v.pkts[o.ack].at)))
		}
	}
	return l, nil
}
