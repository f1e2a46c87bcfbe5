// Package crosscheck asks whether a guest's time is to be believed: it times
// the same kernel timers on this machine's kernel, on a guest's real clock and
// on its virtual one.
//
// It believes that a timer has a prediction, and that a kernel may miss it by
// exactly what its timer wheel rounds. Two kernels agree about a timer when
// their distances from the prediction are no further apart than one granule of
// the wheel. A real clock may be later than that by what the machine makes its
// threads wait: this is not guessed, but measured beside the timers, on the
// same kernel and at the same time.
package crosscheck

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// A Run is what one kernel's timers took.
type Run struct {
	Release string  `json:"release"`
	HZ      int     `json:"hz"`
	Timers  []Timer `json:"timers"`
}

// A Timer is what was timed, in several rounds.
type Timer struct {
	Experiment string  `json:"experiment"`
	Name       string  `json:"name"`
	Rounds     []Round `json:"rounds"`
}

// A Round is one time that a timer ran: it fires from Early to Early+Granule
// after its nominal delay. All in seconds.
type Round struct {
	Nominal float64 `json:"nominal"` // an RTO follows from the round's own RTT
	Early   float64 `json:"early"`   // ≤ 0
	Granule float64 `json:"granule"`
	Took    float64 `json:"took"`
	// Late is how late the machine may have made it, or the look at it.
	Late float64 `json:"late"`
	// Skew is a tick on the wheel of a machine with several CPUs, else 0. One
	// of them moves jiffies (tick_do_timer_cpu); where another's tick comes
	// before that, a timer there runs with the next.
	Skew float64 `json:"skew"`
}

// Off is how far it was from its nominal delay, s.
func (r Round) Off() float64 { return r.Took - r.Nominal }

// slack is how much of that need not be the kernel's. Reading a clock, sending
// a frame and stamping it takes less than reading.
func (r Round) slack() float64 { return r.Late + r.Skew + reading }

const reading = 0.0005

// Best is the round in which the machine was least late, the first of several.
func (t Timer) Best() Round {
	return slices.MinFunc(t.Rounds, func(a, b Round) int { return cmp.Compare(a.Late, b.Late) })
}

// Unpredicted names the timers that fired outside of their prediction, by more
// than the machine was late.
func (r Run) Unpredicted() (all []string) {
	for _, t := range r.Timers {
		b := t.Best()
		if off := b.Off(); off < b.Early-b.slack() || off > b.Early+b.Granule+b.slack() {
			all = append(all, fmt.Sprintf("%s, %s: it took %s, which is not within %s to %s of %s (the machine may have been late by %s)",
				t.Experiment, t.Name, ms(b.Took), ms(b.Early), ms(b.Early+b.Granule), ms(b.Nominal), ms(b.slack())))
		}
	}
	return all
}

// Disagreements names the timers about which two kernels differ by more than
// the coarser one's granule, and the machine was late.
func Disagreements(x, y Run) (all []string) {
	if len(x.Timers) != len(y.Timers) {
		return []string{fmt.Sprintf("%d timers against %d", len(x.Timers), len(y.Timers))}
	}
	for i, t := range x.Timers {
		u := y.Timers[i]
		if t.Name != u.Name || t.Experiment != u.Experiment {
			return append(all, fmt.Sprintf("%s, %s against %s, %s", t.Experiment, t.Name, u.Experiment, u.Name))
		}
		a, b := t.Best(), u.Best()
		granule := max(a.Granule, b.Granule)
		if apart := math.Abs(a.Off() - b.Off()); apart > granule+a.slack()+b.slack() {
			all = append(all, fmt.Sprintf("%s, %s: it took %s of %s, and %s of %s, further apart than %s (the machine may have been late by %s, and %s)",
				t.Experiment, t.Name, ms(a.Took), ms(a.Nominal), ms(b.Took), ms(b.Nominal), ms(granule), ms(a.slack()), ms(b.slack())))
		}
	}
	return all
}

func ms(s float64) string { return fmt.Sprintf("%.1f ms", s*1e3) }
