package capture

import "strings"

// reset says who resets, why, and what becomes of it.
func (a *annotator) reset(e *event, say func(string, ...any)) {
	me, peer := &a.half[e.dir], &a.half[1-e.dir]
	who := a.name[e.dir]
	fit := a.accepted(e, peer)
	switch {
	case a.state == annOpening && e.dir == 1 && a.half[1].opens == 0:
		say("RST: nothing listens on port %d: connect() fails with ECONNREFUSED", a.port[1])
	case !e.has(flagACK):
		say("RST: %s knows no such connection (any more)%s", who, fit)
	case me.alive:
		say("RST: %s gives up, %d keepalive probes were not answered: ETIMEDOUT", who, me.probes)
	case peer.fin:
		say("RST: %s resets after the FIN%s", who, fit)
	case fit != "" && !strings.HasSuffix(fit, "accepted"):
		say("RST from %s%s", who, fit)
		return
	default:
		say("RST: %s aborts (killed, closed with data unread, or SO_LINGER 0); the other side gets ECONNRESET%s", who, fit)
	}
	a.state = annDone
}

// accepted says what becomes of an RST where it goes, by RFC 5961 3.2 and
// tcp_validate_incoming: only one whose sequence number is exactly the next
// expected resets.
func (a *annotator) accepted(e *event, peer *half) string {
	if !peer.started || a.state == annNew || a.state == annOpening || e.skipped {
		return ""
	}
	win := uint32(peer.win)
	if peer.wscale > 0 && a.half[e.dir].wscale >= 0 {
		win <<= min(peer.wscale, 14)
	}
	switch next := peer.ack; {
	case e.seq == next:
		return "; its number is exactly what is expected: accepted"
	case before(next, e.seq) && before(e.seq, next+win):
		return "; its number is in the window, but not exactly what is expected: a challenge ACK answers it (RFC 5961)"
	case before(e.seq, next):
		return "; its number is old: ignored"
	}
	return ""
}
