package capture

import (
	"fmt"

	"tcplab/results"
)

// maxDuplicates is how many of the segments behind a lost one, and of the ACKs
// that they cause, a ladder shows.
const maxDuplicates = 4

// repair is a segment that was lost, and that its sender sent again without
// waiting for a timeout.
type repair struct {
	c            *conn
	dir          int
	lost, again  int // packets as they left
	told         int // ACKs that came in between, and acknowledge nothing new
	first        int // the first of them, as it came
	acknowledged int // the ACK that covers it, as it left; -1 where none came
}

// showFastRetransmit draws one loss and its repair: the first in the window of
// which the packets tell all.
func showFastRetransmit(v *view, a Around) (results.Ladder, error) {
	var best *repair
	for _, c := range v.conns {
		if c.ends[0] < 0 || c.ends[1] < 0 || !a.fits(v, c) {
			continue
		}
		for dir := range 2 {
			for _, r := range v.repairs(c, dir) {
				if best == nil || v.rank(r.lost, a) < v.rank(best.lost, a) {
					best = r
				}
			}
		}
	}
	if best == nil {
		return results.Ladder{}, fmt.Errorf("%w: no lost segment was sent again before a timeout", ErrNoSuchPackets)
	}
	return v.showRepair(best), nil
}

// rank orders packets: those from the asked instant on, or in the window,
// first, each by time.
func (v *view) rank(i int, a Around) int64 {
	at := v.pkts[i].at
	from := v.window[0]
	if a.At > 0 {
		from = a.At
	}
	if at < from {
		return 1<<62 + (from-at)/2
	}
	return at
}

// repairs finds the lost data segments of one direction that were sent again
// once, arrived then, and of which duplicate ACKs or SACK had told.
func (v *view) repairs(c *conn, dir int) []*repair {
	own, other := c.ends[dir], c.ends[1-dir]
	there := v.trip(c, own, other)
	lost := map[uint32]int{} // by first byte
	var out []*repair
	var open []*repair // repaired, and not acknowledged yet
	told, first := map[uint32]int{}, map[uint32]int{}
	for _, i := range c.pkts {
		s := &v.pkts[i]
		switch {
		case s.skipped:
			clear(lost)
			open = nil
		case s.tap == own && s.out && s.dir == dir && s.h.len > 0:
			_, arrived := there[i]
			was, known := lost[s.seq]
			switch {
			case !arrived && known:
				delete(lost, s.seq) // lost twice: another story
			case !arrived:
				lost[s.seq], told[s.seq], first[s.seq] = i, 0, -1
			case known:
				delete(lost, s.seq)
				if told[s.seq] > 0 && v.pkts[was].h.len == s.h.len {
					r := &repair{c: c, dir: dir, lost: was, again: i, told: told[s.seq], first: first[s.seq], acknowledged: -1}
					out, open = append(out, r), append(open, r)
				}
			}
		case s.tap == own && !s.out && s.dir != dir && s.h.flags&flagACK != 0:
			for seq := range lost {
				if s.ack == seq {
					if first[seq] < 0 {
						first[seq] = i
					}
					told[seq]++
				}
			}
		case s.tap == other && s.out && s.dir != dir:
			for n := 0; n < len(open); {
				r := open[n]
				if end := v.pkts[r.again].seq + uint32(v.pkts[r.again].h.len); before(s.ack, end) {
					n++
					continue
				}
				r.acknowledged = i
				open = append(open[:n], open[n+1:]...)
			}
		}
	}
	return out
}

// showRepair draws what tells of the loss, and leaves out the many segments
// and ACKs that only repeat it.
func (v *view) showRepair(r *repair) results.Ladder {
	from, to := v.pkts[r.lost].at, v.pkts[r.again].at
	ps := []int{r.lost, r.again}
	prior, behind, acks := -1, 0, 0
	back := v.trip(r.c, r.c.ends[1-r.dir], r.c.ends[r.dir])
	for _, i := range v.told(r.c) {
		s := &v.pkts[i]
		switch {
		case s.dir == r.dir && s.h.len > 0 && i != r.lost && s.at <= from && i < r.lost:
			prior = i
		case s.dir == r.dir && s.h.len > 0 && s.at >= from && i > r.lost && i < r.again && behind < maxDuplicates:
			ps, behind = append(ps, i), behind+1
		case s.dir != r.dir && s.ack == v.pkts[r.lost].seq && acks < maxDuplicates:
			// Those that had come before the segment was sent again.
			if j, ok := back[i]; ok && j < r.again && v.pkts[j].at >= v.pkts[r.first].at && v.pkts[j].at <= to {
				ps, acks = append(ps, i), acks+1
			}
		}
	}
	if prior >= 0 {
		ps = append(ps, prior)
	}
	if r.acknowledged >= 0 {
		ps = append(ps, r.acknowledged)
	}
	return v.story(fmt.Sprintf("A segment is lost; %d ACKs later, after %s, %s sends it again without waiting for a timeout",
		r.told, dur(to-from), v.name(r.c.addr[r.dir])), ps, nil)
}
