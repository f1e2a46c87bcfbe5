package results

import (
	"math"
	"slices"
	"strconv"
)

// DriftVerdict is what the times of a thing that recurs tell of its clock.
type DriftVerdict string

const (
	// DriftTimer: each event is a fixed time after the one before, with what
	// the reconnect itself takes on top, so that it comes later every day.
	DriftTimer DriftVerdict = "drifts: a timer that starts with the connection"
	// DriftSchedule: events keep their places on the clock, however late each.
	DriftSchedule DriftVerdict = "does not drift: a schedule"
	DriftFew      DriftVerdict = "too few"
	DriftNoPeriod DriftVerdict = "no period"
)

// Drift is the line through the times of recurring events: how far each is
// from its place on a clock of the given period, by how many periods passed.
type Drift struct {
	Verdict DriftVerdict
	N       int
	Period  float64 // nominal, s; 0: the events have none
	Mean    float64 // interval between two events that follow each other, s
	// PerPeriod and PerDay are the slope, s, with its 95% interval.
	PerPeriod, PerPeriodLow, PerPeriodHigh float64
	PerDay, PerDayLow, PerDayHigh          float64
	P                                      float64 // of no drift, two-sided
	Scatter                                float64 // standard deviation about the line, s
	Restarts                               int     // intervals that are no multiple of the period: the count starts anew
	Points                                 []DriftPoint
	// The line: phase = Intercept[segment] + PerPeriod · Count.
	Intercept []float64
}

// DriftPoint is one event.
type DriftPoint struct {
	At      float64 // s, as given
	Count   float64 // periods since the first event
	Phase   float64 // s from its place on the clock
	Segment int     // which restart it comes after; 0 is none
}

// driftPeriods are the periods of schedules and of the timeouts that people
// set, s.
var driftPeriods = []float64{60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 14400, 21600, 28800, 43200, 86400, 604800}

const (
	driftNear    = 0.02  // an interval this near to a period is of it
	driftRegular = 0.05  // and this near to a multiple of it when the period is known
	driftLevel   = 0.001 // of the verdict that something drifts: a false one costs a search for a timer that is not there
	driftBound   = 0.5   // s an event: a reconnect that takes as long is far from rare, and nothing below it is called a schedule's jitter
)

// FindDrift decides by event times, in seconds on any one clock, whether a
// thing recurs by a timer that starts with each connection, or by a schedule:
// least squares of the phase on the count of periods, a common slope and an
// intercept for each restart, Student's t (n − restarts − 2 degrees of
// freedom). times need not be in order.
func FindDrift(times []float64) Drift {
	ts := slices.Clone(times)
	slices.Sort(ts)
	d := Drift{Verdict: DriftFew, N: len(ts)}
	if len(ts) < 2 {
		return d
	}
	var gaps []float64
	for i := 1; i < len(ts); i++ {
		gaps = append(gaps, ts[i]-ts[i-1])
	}
	d.Period = nominalPeriod(gaps)
	if d.Period == 0 {
		d.Mean = middle(gaps)
		if len(ts) >= 4 {
			d.Verdict = DriftNoPeriod
		}
		return d
	}
	d.place(ts)
	d.fit()
	return d
}

// nominalPeriod is the period that most intervals are near to; 0 where fewer
// than half of them are near any.
func nominalPeriod(gaps []float64) float64 {
	best, most := 0.0, 0
	for _, p := range driftPeriods {
		n := 0
		for _, g := range gaps {
			if math.Abs(g/p-1) <= driftNear {
				n++
			}
		}
		if n > most {
			best, most = p, n
		}
	}
	if 2*most < len(gaps) {
		return 0
	}
	return best
}

// place gives each event its count and phase.
func (d *Drift) place(ts []float64) {
	count, segment, sum, n := 0.0, 0, 0.0, 0
	for i, t := range ts {
		if i > 0 {
			g := (t - ts[i-1]) / d.Period
			if k := math.Round(g); k >= 1 && math.Abs(g-k) <= driftRegular {
				count += k
				if k == 1 {
					sum, n = sum+t-ts[i-1], n+1
				}
			} else {
				segment++
				d.Restarts++
				count += max(1, math.Ceil(g))
			}
		}
		d.Points = append(d.Points, DriftPoint{At: t, Count: count, Phase: t - ts[0] - count*d.Period, Segment: segment})
	}
	if n > 0 {
		d.Mean = sum / float64(n)
	}
}

func (d *Drift) fit() {
	segments := d.Points[len(d.Points)-1].Segment + 1
	size, mx, my := make([]float64, segments), make([]float64, segments), make([]float64, segments)
	for _, p := range d.Points {
		size[p.Segment]++
		mx[p.Segment] += p.Count
		my[p.Segment] += p.Phase
	}
	for s := range segments {
		mx[s] /= size[s]
		my[s] /= size[s]
	}
	sxx, sxy := 0.0, 0.0
	for _, p := range d.Points {
		x, y := p.Count-mx[p.Segment], p.Phase-my[p.Segment]
		sxx, sxy = sxx+x*x, sxy+x*y
	}
	free := float64(len(d.Points) - segments - 1)
	if sxx == 0 {
		return
	}
	d.PerPeriod = sxy / sxx
	rest := 0.0
	d.Intercept = make([]float64, segments)
	for s := range segments {
		d.Intercept[s] = my[s] - d.PerPeriod*mx[s]
	}
	for _, p := range d.Points {
		r := p.Phase - d.Intercept[p.Segment] - d.PerPeriod*p.Count
		rest += r * r
	}
	perDay := 86400 / d.Period
	d.PerDay = d.PerPeriod * perDay
	d.PerPeriodLow, d.PerPeriodHigh = math.Inf(-1), math.Inf(1)
	d.PerDayLow, d.PerDayHigh = math.Inf(-1), math.Inf(1)
	d.P = 1
	if free < 1 { // two points are always on a line
		return
	}
	// Stamps have a last digit: no fit is better than what it rounds away.
	d.Scatter = math.Sqrt(rest / free)
	noise := max(d.Scatter, resolution(d.Points)/math.Sqrt(12))
	se := noise / math.Sqrt(sxx)
	half := studentQuantile(0.025, free) * se
	d.PerPeriodLow, d.PerPeriodHigh = d.PerPeriod-half, d.PerPeriod+half
	d.PerDayLow, d.PerDayHigh = d.PerPeriodLow*perDay, d.PerPeriodHigh*perDay
	if d.P = 1; d.PerPeriod != 0 {
		d.P = 2 * studentSurvival(math.Abs(d.PerPeriod)/se, free)
	}
	switch {
	case len(d.Points) < 4:
	case d.P < driftLevel:
		d.Verdict = DriftTimer
	case max(-d.PerPeriodLow, d.PerPeriodHigh) < max(driftBound, 1e-5*d.Period):
		d.Verdict = DriftSchedule
	}
}

// resolution is the step that all phases are multiples of: a second, a
// millisecond, or 0 for finer stamps.
func resolution(ps []DriftPoint) float64 {
	for _, step := range []float64{1, 1e-3} {
		whole := true
		for _, p := range ps {
			v := (p.At - ps[0].At) / step
			whole = whole && math.Abs(v-math.Round(v)) < 1e-4
		}
		if whole {
			return step
		}
	}
	return 0
}

func middle(vs []float64) float64 {
	s := slices.Clone(vs)
	slices.Sort(s)
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// PeriodName writes a nominal period: "12 h".
func PeriodName(p float64) string {
	for _, u := range []struct {
		s    float64
		name string
	}{{604800, "week"}, {86400, "day"}, {3600, "h"}, {60, "min"}} {
		if n := p / u.s; n >= 1 && n == math.Trunc(n) {
			return strconv.Itoa(int(n)) + " " + u.name
		}
	}
	return strconv.FormatFloat(p, 'f', -1, 64) + " s"
}
