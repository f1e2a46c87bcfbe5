package capture

import (
	"fmt"

	"tcplab/results"
)

// showUnanswered draws a connection whose handshake succeeded and whose
// request the peer's kernel acknowledged, and which no program answered: what
// waits in an accept queue, or was forgotten.
func showUnanswered(v *view, a Around) (results.Ladder, error) {
	for _, c := range v.conns {
		if !a.fits(v, c) || !c.opened {
			continue
		}
		ps := v.untilEnd(v.told(c))
		asked, answered := -1, false
		for _, i := range ps {
			s := &v.pkts[i]
			switch {
			case s.h.len == 0:
			case s.dir == 1:
				answered = true
			case asked < 0 && s.at >= a.At:
				asked = i
			}
		}
		if asked < 0 || answered {
			continue
		}
		l := v.story("Connected, sent, and never answered", front(ps, maxBefore+maxAfter), nil)
		stillOpen(&l)
		return l, nil
	}
	return results.Ladder{}, fmt.Errorf("%w: every request on a connection that was captured from its beginning was answered", ErrNoSuchPackets)
}

// showUnansweredSYN draws a handshake that gets no further than its SYN.
func showUnansweredSYN(v *view, a Around) (results.Ladder, error) {
	for _, c := range v.conns {
		if !a.fits(v, c) || !c.opened {
			continue
		}
		ps := v.untilEnd(v.told(c))
		answered := false
		for _, i := range ps {
			answered = answered || v.pkts[i].dir == 1
		}
		if len(ps) == 0 || answered || v.pkts[ps[0]].at < a.At {
			continue
		}
		return v.story("A SYN, and no answer", front(ps, maxBefore+maxAfter), nil), nil
	}
	return results.Ladder{}, fmt.Errorf("%w: every SYN had an answer", ErrNoSuchPackets)
}

// untilEnd leaves out what was sent after the measuring window: a program that
// is stopped closes its sockets, and that is no part of the story.
func (v *view) untilEnd(ps []int) []int {
	if v.window[1] <= v.window[0] {
		return ps
	}
	during, _ := v.split(ps, v.window[1])
	return during
}
