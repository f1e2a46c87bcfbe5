package capture

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"tcplab/results"
)

// A chain is what one end of a connection sent into a silence: packets that a
// timer sent, nothing coming back in between.
type chain struct {
	c       *conn
	dir     int // who sends it
	kind    results.ChainKind
	steps   []int // indices into view.pkts
	gaps    []int64
	probe   bool // the first step sent another segment than the others: a tail loss probe
	base    int  // what the first gap counts from; −1: not kept
	lastIn  int  // the last packet that came before; −1: none
	ended   int  // the packet that ended the silence; −1: none
	open    bool // nothing was left out up to the end of the connection's packets
	newData int  // the last new data sent before the first step; −1: none
}

const (
	maxChains   = 16 // told of a trial
	leastRepeat = 2  // a retransmission alone is no chain

	// leastSilence parts timers from repairs: several segments that SACK told
	// of are sent again in one burst, and two timeouts are an RTO apart, which
	// is 200 ms at least (TCP_RTO_MIN).
	leastSilence = 100e6 // ns
)

// findChains finds the chains of one end, in the packets of its own interface.
func (v *view) findChains(c *conn, dir int) {
	tap := c.ends[dir]
	if tap < 0 {
		return
	}
	var run *chain
	top, topSet := uint32(0), false
	sent := map[uint32]int{}
	lastIn, newData, firstSYN := -1, -1, -1
	closed := false // the peer's window
	end := func(by int, open bool) {
		if run != nil {
			run.ended, run.open = by, open
			v.keepChain(run)
			run = nil
		}
	}
	step := func(kind results.ChainKind, base, i int) {
		if run != nil && run.kind != kind {
			end(-1, false)
		}
		if run == nil {
			run = &chain{c: c, dir: dir, kind: kind, base: base, lastIn: lastIn, ended: -1, newData: newData}
		}
		run.steps = append(run.steps, i)
	}
	for _, i := range c.pkts {
		s := &v.pkts[i]
		if s.tap != tap || s.foreign {
			continue
		}
		if s.skipped {
			// What was left out may have been an answer.
			end(-1, false)
			clear(sent)
			newData = -1
		}
		switch past := s.seq + uint32(s.h.len); {
		case s.dir != dir:
			end(i, true)
			lastIn, closed = i, s.h.win == 0 && !s.h.has(flagRST)
		case !s.out:
		case s.h.has(flagRST):
			end(i, true)
		case s.h.has(flagSYN):
			if firstSYN < 0 {
				firstSYN = i
			} else {
				step(results.ChainSYN, firstSYN, i)
			}
		case s.h.len == 0 && !s.h.has(flagFIN):
			if topSet && s.seq == top-1 {
				kind := results.ChainKeepalive
				if closed {
					kind = results.ChainWindow
				}
				step(kind, lastIn, i)
			}
		default:
			if s.h.has(flagFIN) {
				past++
			}
			if s.again || topSet && !before(top, past) {
				base, ok := sent[s.seq]
				if !ok {
					base = -1
				}
				step(results.ChainRTO, base, i)
				sent[s.seq] = i
				break
			}
			sent[s.seq] = i
			if run == nil {
				newData = i
			}
		}
		if s.out && s.dir == dir && (!topSet || before(top, s.seq+uint32(s.h.len))) {
			top, topSet = s.seq+uint32(s.h.len), true
		}
	}
	end(-1, true)
}

// keepChain keeps a run of packets if it is a chain, and settles its gaps.
func (v *view) keepChain(run *chain) {
	if len(run.steps) < leastRepeat {
		// A probe that was answered tells of no silence.
		probe := run.kind == results.ChainKeepalive || run.kind == results.ChainWindow
		if !probe || run.ended >= 0 && v.pkts[run.ended].dir != run.dir {
			return
		}
	}
	if n := len(run.steps); run.kind == results.ChainRTO && n > 1 && v.pkts[run.steps[n-1]].at-v.pkts[run.steps[0]].at < leastSilence {
		return
	}
	for k, i := range run.steps {
		gap := int64(0)
		switch {
		case k > 0:
			gap = v.pkts[i].at - v.pkts[run.steps[k-1]].at
		case run.base >= 0:
			gap = v.pkts[i].at - v.pkts[run.base].at
		}
		run.gaps = append(run.gaps, gap)
	}
	if run.kind == results.ChainRTO {
		v.settleFirst(run)
	}
	v.chains = append(v.chains, *run)
}

// settleFirst finds what the first gap counts from. The retransmission timer
// runs from the oldest segment, or from the last answer that made it start anew
// (tcp_rearm_rto); and a tail loss probe may have been new data, which is no
// retransmission, and from which the timer then runs. Of these the one is taken
// that the second gap is twice of.
func (v *view) settleFirst(run *chain) {
	if len(run.steps) < 2 {
		return
	}
	a, b := &v.pkts[run.steps[0]], &v.pkts[run.steps[1]]
	run.probe = a.seq != b.seq && before(b.seq, a.seq)
	if run.probe || run.base < 0 {
		return
	}
	off := func(gap int64) float64 { return math.Abs(math.Log2(float64(run.gaps[1])/float64(gap)) - 1) }
	for _, i := range []int{run.newData, run.lastIn} {
		if i < 0 || v.pkts[i].at <= v.pkts[run.base].at {
			continue
		}
		if gap := a.at - v.pkts[i].at; gap > 0 && off(gap) < 0.3 && off(gap) < off(run.gaps[0]) {
			run.base, run.gaps[0] = i, gap
		}
	}
}

// lastThat begins what is said of the last packet before a silence.
const lastThat = "the last that"

// sayChains adds to the comments what only the whole chain tells: where the
// silence begins, and where the last of it is sent.
func (v *view) sayChains() {
	for i := range v.chains {
		ch := &v.chains[i]
		if len(ch.steps) < 3 {
			continue
		}
		who := v.name(ch.c.addr[1-ch.dir])
		if ch.lastIn >= 0 {
			say(&v.pkts[ch.lastIn], lastThat+" comes from "+who+": silence from here on")
		}
		last := &v.pkts[ch.steps[len(ch.steps)-1]]
		next := 2 * ch.gaps[len(ch.gaps)-1]
		if ch.kind == results.ChainKeepalive {
			next = ch.gaps[len(ch.gaps)-1] * 5 / 4
		}
		if ch.ended < 0 && ch.open && v.pkts[len(v.pkts)-1].at > last.at+next {
			say(last, "the last one: nothing tells "+who+" that it is over")
		}
	}
}

// say adds a comment once: several chains may begin at one packet.
func say(s *seen, what string) {
	if !slices.Contains(s.comments, what) {
		s.comments = append(s.comments, what)
	}
}

// Chains are the longest chains of the recording, in order of time, with
// seconds since the instant zero. What is predicted of them is for the caller,
// who knows the hosts' settings.
func (r *Recorder) Chains(zero int64) []results.Chain {
	if r == nil || r.view == nil {
		return nil
	}
	v := r.view
	all := slices.Clone(v.chains)
	slices.SortStableFunc(all, func(a, b chain) int { return cmp.Compare(len(b.steps), len(a.steps)) })
	all = all[:min(len(all), maxChains)]
	slices.SortStableFunc(all, func(a, b chain) int { return cmp.Compare(a.steps[0], b.steps[0]) })
	var out []results.Chain
	for i := range all {
		out = append(out, v.chain(&all[i], zero))
	}
	return out
}

func (v *view) chain(ch *chain, zero int64) results.Chain {
	c, d := ch.c, ch.dir
	at := func(i int) float64 { return float64(v.pkts[i].at-zero) / 1e9 }
	end := func(d int) string { return fmt.Sprintf("%v:%d", addr(c.addr[d]), c.port[d]) }
	out := results.Chain{Kind: ch.kind, Flow: end(d) + ">" + end(1-d), Host: v.points[c.ends[d]].host, Peer: v.name(c.addr[1-d])}
	first := ch.steps[0]
	out.From, out.Since = at(first), at(first)
	if ch.base >= 0 {
		out.From, out.Since = at(ch.base), at(ch.base)
	}
	if ch.lastIn >= 0 {
		out.Since = at(ch.lastIn)
	}
	for _, n := range v.notes {
		if n.at <= v.pkts[first].at {
			out.Fault, out.Since = n.text, float64(n.at-zero)/1e9
		}
	}
	for k, i := range ch.steps {
		out.Steps = append(out.Steps, results.ChainStep{At: at(i), Gap: float64(ch.gaps[k]) / 1e9, Frame: i + 1, Probe: k == 0 && ch.probe})
	}
	if ch.ended >= 0 {
		s := &v.pkts[ch.ended]
		out.End = flagNames(s.h.flags) + " from " + v.name(c.addr[s.dir]) + " after " + dur(s.at-v.pkts[ch.steps[len(ch.steps)-1]].at)
	}
	return out
}
