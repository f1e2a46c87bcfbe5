package capture

import (
	"fmt"
	"math"
)

// event is one packet of one connection at one tap, relative to the
// connection.
type event struct {
	at       int64
	out      bool // sent by the host that the tap is at
	dir      int  // 0 client to server
	flags    uint8
	seq, ack uint32 // relative; a SYN has 0
	len      int
	win      int  // as in the header, not scaled
	wscale   int  // of a SYN; -1: none
	sack     bool // has SACK blocks
	dsack    bool // of which one tells of bytes that came twice
	skipped  bool // packets were left out before it
	again    bool // the tap has seen these bytes before
}

func (e *event) has(flags uint8) bool { return e.flags&flags == flags }

// end is the relative sequence number after the packet.
func (e *event) end() uint32 {
	n := e.seq + uint32(e.len)
	if e.has(flagSYN) {
		n++
	}
	if e.has(flagFIN) {
		n++
	}
	return n
}

// annotator says what each packet of a connection means, as seen at one tap.
// It is pure: packets in, words out. It speaks only where there is something
// to say.
type annotator struct {
	name    [2]string // client, server
	port    [2]uint16
	half    [2]half
	state   annState
	first   int // who sent the first FIN
	fins    int
	turn    turn
	request int  // requests so far
	whole   bool // the opening was seen
	gapped  bool // packets were left out
	asked   int64
	more    int64 // when more of the request came; 0: it was one segment
	last    int64
	any     bool
	timers  [2]Timers // of client and server; what is not known is 0
}

type annState uint8

const (
	annNew annState = iota
	annOpening
	annOpen
	annClosing
	annDone
)

// turn is whose turn it is to speak.
type turn uint8

const (
	turnClient turn = iota
	turnServer      // a request was sent, no answer yet
	turnAnswer      // the answer has begun
)

// half is one direction.
type half struct {
	started bool
	next    uint32 // highest relative sequence number sent, +1
	come    uint32 // up to here nothing is missing, at this tap
	gaps    bool
	last    int64 // when anything was sent
	opened  int64 // first SYN or SYN-ACK
	opens   int   // how many of them
	lastSYN int64
	fin     bool
	finSeq  uint32
	finAt   int64

	ack     uint32 // the last one sent
	win     int
	wscale  int // -1: not known
	dups    int
	zero    bool
	zeroAt  int64
	probes  int
	probeAt int64
	alive   bool  // a keepalive probe waits for its answer
	came    int64 // when anything last came from this side to the tap

	data    bool  // it sent data since the last gap in what was captured
	unacked int64 // when the oldest data came that this direction has not acknowledged; 0: none

	// the retransmission that is going on
	againSeq uint32
	again    int
	againAt  int64
	anyAgain int64 // when anything was last sent again
	unsure   bool  // when and how often it was sent is not known in full
	rto      int64 // the first gap that can be an RTO; the others are multiples of it
	backoff  int   // how often it had doubled at the last one
	sentAt   sends
}

// sends remembers when the last segments were first sent.
type sends struct {
	seq [32]uint32
	at  [32]int64
	n   int
}

func (s *sends) add(seq uint32, at int64) {
	s.seq[s.n%32], s.at[s.n%32] = seq, at
	s.n++
}

func (s *sends) find(seq uint32) (int64, bool) {
	for i := 0; i < min(s.n, 32); i++ {
		if s.seq[i] == seq {
			return s.at[i], true
		}
	}
	return 0, false
}

func newAnnotator(name [2]string, port [2]uint16) *annotator {
	a := &annotator{name: name, port: port, first: -1}
	a.half[0].wscale, a.half[1].wscale = -1, -1
	return a
}

const (
	// rtoMin is TCP_RTO_MIN: a shorter gap is no retransmission timeout but a
	// tail loss probe (RFC 8985 7) or a fast retransmission.
	rtoMin = int64(190e6)
	rtoMax = int64(120e9) // TCP_RTO_MAX

	silence = int64(1e9) // from here on a pause is worth a word

	keepsTimeWait = ", so it keeps TIME-WAIT for 60 s"
)

// next says what a packet means.
func (a *annotator) next(e event) (c []string) {
	say := func(format string, args ...any) { c = append(c, fmt.Sprintf(format, args...)) }
	me, peer := &a.half[e.dir], &a.half[1-e.dir]
	idle := int64(0)
	if a.any && e.skipped {
		a.jump(&e, me, peer)
	} else if a.any {
		idle = e.at - a.last
	}
	switch {
	case e.has(flagRST):
		a.reset(&e, say)
	case e.has(flagSYN):
		a.syn(&e, me, peer, say)
	default:
		a.segment(&e, me, peer, idle, say)
	}
	if !me.started || before(me.next, e.end()) {
		me.next = e.end()
	}
	me.started = true
	me.last, a.last, a.any = e.at, e.at, true
	if !e.out {
		me.came = e.at
	}
	if e.has(flagACK) {
		me.ack = e.ack
	}
	if !e.has(flagRST) {
		me.win = e.win
	}
	return c
}

// jump follows the connection over packets that were left out, so that
// nothing is said that they might contradict.
func (a *annotator) jump(e *event, me, peer *half) {
	a.gapped = true
	a.turn = turnClient
	at := e.seq
	if e.again {
		at = e.end()
	}
	for _, h := range []struct {
		*half
		to uint32
	}{{me, at}, {peer, e.ack}} {
		if before(h.next, h.to) {
			h.next = h.to
		}
		if before(h.come, h.to) {
			h.come, h.gaps = h.to, false
		}
		h.unacked, h.dups, h.alive, h.data = 0, 0, false, false
	}
}

func (a *annotator) syn(e *event, me, peer *half, say func(string, ...any)) {
	me.opens++
	if e.wscale >= 0 {
		me.wscale = e.wscale
	}
	if me.opens > 1 {
		what, why := "SYN", "nothing came back"
		if e.dir == 1 {
			what, why = "SYN-ACK", "no ACK came for it"
		}
		gap := e.at - me.lastSYN
		me.lastSYN = e.at
		switch {
		case e.out:
			// When the next one follows depends on tcp_syn_linear_timeouts.
			say("the same %s again after %s (retransmission %d): %s", what, dur(gap), me.opens-1, why)
		case e.dir == 0 && peer.opens > 0:
			say("the same SYN again after %s: the SYN-ACK has not come to %s", dur(gap), a.name[0])
		default:
			say("the same %s again after %s", what, dur(gap))
		}
		return
	}
	me.opened, me.lastSYN, me.come = e.at, e.at, 1
	if e.dir == 0 {
		a.state, a.whole = annOpening, true
		if e.out {
			say("SYN: the connection opens; the round trip you pay starts here")
		}
		return
	}
	switch {
	case e.out:
		say("SYN-ACK: half-open (SYN-RECV) until the client's ACK comes")
	case peer.opens > 1:
		say("SYN-ACK, %s after the first SYN, %s after the last", dur(e.at-peer.opened), dur(e.at-peer.lastSYN))
	case peer.opens > 0:
		say("SYN-ACK, %s after the SYN: the handshake's round trip", dur(e.at-peer.opened))
	}
}

func (a *annotator) segment(e *event, me, peer *half, idle int64, say func(string, ...any)) {
	if a.state == annNew {
		// Captured from the middle on.
		a.state = annOpen
		me.come = e.seq
		if !peer.started {
			peer.started, peer.next, peer.come = true, e.ack, e.ack
		}
	}
	if a.state == annOpening && e.dir == 0 && peer.opens > 0 && e.has(flagACK) {
		a.state = annOpen
		if e.out {
			first := "the SYN"
			if me.opens > 1 {
				first = "the first SYN"
			}
			say("ACK: established, %s after %s; only now can a request leave", dur(e.at-me.opened), first)
		} else {
			say("established here, %s after the SYN-ACK; accept() can return it", dur(e.at-peer.lastSYN))
		}
	} else if e.len == 0 && !e.has(flagFIN) {
		a.pureACK(e, me, peer, idle, say)
	}
	switch {
	case e.len == 0 && !e.has(flagFIN):
	case me.started && !before(me.next, e.end()) && before(e.seq, me.next):
		a.repeat(e, me, say)
	default:
		me.sentAt.add(e.seq, e.at)
		if e.len > 0 {
			a.data(e, me, peer, idle, say)
		}
	}
	if e.has(flagFIN) && !me.fin {
		a.fin(e, me, peer, say)
	}
	a.arrive(e, me, peer, say)
	if e.has(flagACK) {
		// What the peer sent is acknowledged; the ACK of the second FIN ends it.
		if !before(e.ack, peer.come) {
			me.unacked = 0
		}
		if peer.fin && before(peer.finSeq, e.ack) && a.fins == 2 && a.state == annClosing && e.dir == a.first {
			a.state = annDone
			if e.out {
				say("the last ACK: port %d of %s is in TIME-WAIT for the next 60 s", a.port[e.dir], a.name[e.dir])
			} else {
				say("the last ACK: nothing of the connection remains here")
			}
		}
	}
	a.window(e, me, say)
}

// data is new payload.
func (a *annotator) data(e *event, me, peer *half, idle int64, say func(string, ...any)) {
	me.data = true
	pause := ""
	if idle >= silence {
		pause = ", after " + dur(idle) + " of silence"
	}
	if e.dir == 0 {
		if a.turn == turnServer {
			a.more = e.at // of the same request
			return
		}
		a.turn, a.asked, a.more = turnServer, e.at, 0
		a.request++
		switch {
		case !e.out:
		case !a.whole || a.gapped:
			say("request on an established connection: %s, no handshake before it%s", count(e.len), pause)
		case a.request == 1:
			say("request 1 on this connection: %s%s", count(e.len), pause)
		default:
			say("request %d on an established connection: %s, no handshake before it%s", a.request, count(e.len), pause)
		}
		return
	}
	switch a.turn {
	case turnServer:
		a.turn = turnAnswer
		switch {
		case e.out && a.more > 0:
			say("answer, %s after the last of the request came: the server's own time", dur(e.at-a.more))
			return
		case e.out:
			say("answer, %s after the request came: the server's own time", dur(e.at-a.asked))
			return
		}
		if a.whole && !a.gapped && a.request == 1 {
			say("answer: first byte %s after the request, %s after the SYN", dur(e.at-a.asked), dur(e.at-peer.opened))
			return
		}
		say("answer: first byte %s after the request", dur(e.at-a.asked))
	case turnClient:
		if a.request == 0 && e.out && a.whole && e.seq == 1 {
			say("the server speaks first: %s", count(e.len))
		}
	}
}

// repeat is payload or a FIN that was sent before.
func (a *annotator) repeat(e *event, me *half, say func(string, ...any)) {
	if me.again == 0 || me.againSeq != e.seq {
		me.again, me.againSeq, me.rto, me.backoff = 0, e.seq, 0, 0
		me.unsure = false
		me.againAt = me.last
		if at, ok := me.sentAt.find(e.seq); ok {
			me.againAt = at
			// After a tail loss probe of another segment the timer starts anew.
			if me.anyAgain > at && me.anyAgain > a.half[1-e.dir].last {
				me.againAt = me.anyAgain
			}
		} else if a.gapped {
			me.unsure = true
		}
	} else if e.skipped {
		me.unsure = true
	}
	me.again++
	gap := e.at - me.againAt
	me.againAt, me.anyAgain = e.at, e.at
	what := fmt.Sprintf("bytes %d:%d", e.seq, e.seq+uint32(e.len))
	if e.len == 0 {
		what = "the FIN"
	}
	if !e.out {
		if me.unsure && me.again == 1 {
			say("%s again: they had come before, their ACK is late or lost", what)
		} else if !before(me.come, e.end()) {
			say("%s again after %s: they had come before, their ACK is late or lost", what, dur(gap))
		}
		return
	}
	switch {
	case me.unsure && (me.again == 1 || e.skipped):
		say("%s again: what was sent before this was not kept", what)
	case me.unsure && gap >= rtoMin:
		say("%s again after %s: the RTO, next in %s", what, dur(gap), dur(min(2*gap, a.rtoMax(e.dir))))
	case me.unsure:
		say("%s again after %s", what, dur(gap))
	case a.half[1-e.dir].dups >= 3 && gap < rtoMin:
		say("retransmission %d of %s, %s after the one before: fast retransmit, after %d duplicate ACKs", me.again, what, dur(gap), a.half[1-e.dir].dups)
	case gap < rtoMin:
		say("retransmission %d of %s, %s after the one before: too early for a timeout; a tail loss probe, or loss told by SACK", me.again, what, dur(gap))
	case me.again == 1:
		// Linux waits a whole RTO with the probe too while a single segment is
		// in flight (RFC 8985 7.2: it may meet a delayed ACK).
		me.rto = gap
		say("retransmission %d of %s, after %s without an ACK: the RTO, or a tail loss probe just before it", me.again, what, dur(gap))
	default:
		probe := ""
		if me.rto == 0 {
			me.rto = gap
		} else if me.again == 2 && gap < me.rto*3/2 {
			me.rto, probe = gap, "; the one before was a tail loss probe"
		}
		limit := a.rtoMax(e.dir)
		// Timers fire late, up to an eighth: the nearest power of two is meant,
		// and the least that any gap tells of the RTO is nearest to it. At the
		// limit gaps tell no power: there it is counted on.
		n := int(math.Round(math.Log2(float64(gap) / float64(me.rto))))
		limited := gap >= limit-limit/100
		if me.backoff > 0 && limited {
			n = me.backoff + 1
		} else if n >= 0 {
			me.rto = min(me.rto, gap>>n)
		}
		n = max(n, 0)
		me.backoff = n
		at := ""
		if limited {
			at = ", at its limit of " + dur(limit)
		}
		next := limit
		if n < 40 && me.rto<<(n+1) < limit {
			next = me.rto << (n + 1)
		}
		say("retransmission %d of %s, after %s: RTO backoff %d%s%s; next in %s", me.again, what, dur(gap), n, at, probe, dur(next))
		if me.fin && n == 1 {
			say("if the program has closed, nobody owns this socket: tcp_orphan_retries rules, not tcp_retries2")
		}
	}
}

// rtoMax is the longest timeout of who sends in a direction.
func (a *annotator) rtoMax(dir int) int64 {
	if m := int64(a.timers[dir].RTOMax); m > 0 {
		return m
	}
	return rtoMax
}

func (a *annotator) fin(e *event, me, peer *half, say func(string, ...any)) {
	me.fin, me.finSeq, me.finAt = true, e.seq+uint32(e.len), e.at
	a.fins++
	if a.fins == 1 {
		a.state = annClosing
		if (!a.whole || a.gapped) && !peer.data {
			say("FIN: %s closes", a.name[e.dir]) // the other's may have gone unseen
			return
		}
		a.first = e.dir
		if e.out {
			say("FIN: %s closes first"+keepsTimeWait, a.name[e.dir])
		} else {
			say("FIN: %s closes first; CLOSE-WAIT here until the program closes too", a.name[e.dir])
		}
		return
	}
	switch {
	case a.first < 0:
		say("FIN: %s closes too", a.name[e.dir])
	case !before(peer.finSeq, e.ack):
		say("FIN: both sides close at once, and both keep TIME-WAIT")
	case e.out:
		say("FIN: %s closes too, %s after the other's FIN came", a.name[e.dir], dur(e.at-peer.finAt))
	}
}

// arrive follows what has come without a gap, at the tap.
func (a *annotator) arrive(e *event, me, peer *half, say func(string, ...any)) {
	if e.end() == e.seq {
		return
	}
	switch {
	case before(me.come, e.seq):
		if !e.out && !me.gaps {
			say("bytes %d:%d are missing before this: lost, or late", me.come, e.seq)
		}
		me.gaps = true
	case before(me.come, e.end()):
		me.come = e.end()
		if me.gaps && before(me.come, me.next) {
			// What came out of order is not remembered piece by piece: one
			// segment is taken to fill the gap.
			me.come = me.next
		}
		me.gaps = false
	}
	if e.len > 0 && peer.unacked == 0 && !e.out {
		peer.unacked = e.at
	}
}

// pureACK is a packet without payload, SYN, FIN or RST.
func (a *annotator) pureACK(e *event, me, peer *half, idle int64, say func(string, ...any)) {
	if me.started && e.seq == me.next-1 && me.next > 1 && !me.fin {
		a.probe(e, me, peer, idle, say)
		return
	}
	if peer.alive {
		peer.alive = false
		peer.probes = 0
		if !e.out {
			say("answer to the keepalive probe: the other side lives")
		}
		return
	}
	switch {
	case me.started && e.ack == me.ack && e.win == me.win && before(e.ack, peer.next):
		me.dups++
		switch {
		case e.dsack:
			if e.out {
				say("ACK with DSACK: these bytes came twice")
			}
		case e.out && peer.gaps:
			say("duplicate ACK %d: still waits for byte %d", me.dups, e.ack)
		case !e.out && me.dups == 3:
			say("duplicate ACK 3: byte %d will be sent again at once (fast retransmit)", e.ack)
		case e.out:
			say("duplicate ACK %d", me.dups)
		}
	case e.dsack && e.out:
		say("ACK with DSACK: some bytes came twice")
	default:
		if e.ack != me.ack {
			me.dups = 0
		}
		if e.out && me.unacked > 0 && e.ack != me.ack && e.at-me.unacked >= delayedFrom && !peer.fin {
			say("ACK delayed %s: there was nothing to send along with it", dur(e.at-me.unacked))
		}
	}
}

// probe is a packet with the sequence number before the next one: a keepalive
// or, while the window is closed, a window probe (tcp_xmit_probe_skb).
func (a *annotator) probe(e *event, me, peer *half, idle int64, say func(string, ...any)) {
	me.probes++
	gap := e.at - me.probeAt
	me.probeAt = e.at
	name := "keepalive probe"
	if peer.zero {
		name = "zero-window probe"
	} else {
		me.alive = true
	}
	if !e.out {
		return
	}
	of := ""
	if n := a.timers[e.dir].KeepaliveProbes; n > 0 && !peer.zero {
		of = fmt.Sprintf(" of %d", n)
	}
	if me.probes == 1 {
		say("%s 1%s, after %s of silence", name, of, dur(idle))
		return
	}
	if peer.zero {
		say("%s %d, %s after the one before, next in %s", name, me.probes, dur(gap), dur(min(2*gap, a.rtoMax(e.dir))))
		return
	}
	since := ""
	if peer.came > 0 {
		since = "; nothing has come for " + dur(e.at-peer.came)
	}
	say("%s %d%s, %s after the one before%s", name, me.probes, of, dur(gap), since)
}

func (a *annotator) window(e *event, me *half, say func(string, ...any)) {
	switch {
	case e.win == 0 && !me.zero:
		me.zero, me.zeroAt = true, e.at
		if e.out {
			say("window 0: the program here does not read, the other side has to stop")
		} else {
			say("window 0: the other side does not read, nothing may be sent")
		}
	case e.win > 0 && me.zero:
		me.zero = false
		a.half[1].probes, a.half[0].probes = 0, 0
		say("the window is open again after %s: %s", dur(e.at-me.zeroAt), a.bytes(e, me))
	}
}

// bytes is the window in bytes where the scale is known.
func (a *annotator) bytes(e *event, me *half) string {
	switch {
	case !a.whole:
		return fmt.Sprintf("%d, not scaled", e.win)
	case a.half[0].wscale < 0 || a.half[1].wscale < 0: // RFC 7323 2.2: both or none
		return count(e.win)
	}
	return count(e.win << min(me.wscale, 14))
}
