package plots

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"

	"gonum.org/v1/plot/vg"

	"tcplab/results"
)

// Figures of slow failures: chains of timeouts, reconnects over days, and what
// a client saw on a time axis of hours.

// sinceGo is the label of every axis of time; timeAxis puts another in its
// place where the trial has a fault or is long.
const sinceGo = "seconds since go"

// longTrial is from how many seconds on ticks are in minutes, hours and days.
const longTrial = 600.0

// timeAxis counts a figure's time from the fault where there is one, and gives
// it ticks of a long trial's own.
func (b builder) timeAxis(c *chart) {
	if c.x.label != sinceGo {
		return
	}
	lo, hi := c.limits(true)
	fault, ok := b.fault()
	if hi-lo >= longTrial {
		c.x.kind, c.x.label = elapsed, "time since go"
	}
	if !ok || fault.At < lo || fault.At > hi {
		return
	}
	if c.x.kind == elapsed {
		c.x.label, c.x.zero = "time since the fault "+fault.Name, false
		for i := range c.lines {
			xs := slices.Clone(c.lines[i].x)
			for j := range xs {
				xs[j] -= fault.At
			}
			c.lines[i].x = xs
		}
		for i := range c.rules {
			if c.rules[i].vertical {
				c.rules[i].at -= fault.At
			}
		}
		fault.At = 0
	}
	c.rules = append(c.rules, rule{label: "fault " + fault.Name, vertical: true, at: fault.At, look: -1, dash: []vg.Length{1, 2}})
}

// fault is the first fault, where all arms that have one have the same.
func (b builder) fault() (results.Fault, bool) {
	var first *results.Fault
	for _, m := range b.arms {
		if len(m.trial.Faults) == 0 {
			continue
		}
		fs := slices.Clone(m.trial.Faults)
		sort.SliceStable(fs, func(i, j int) bool { return fs[i].At < fs[j].At })
		if first == nil {
			first = &fs[0]
		} else if first.At != fs[0].At {
			return results.Fault{}, false
		}
	}
	if first == nil {
		return results.Fault{}, false
	}
	return *first, true
}

// whole adds the zeros that a client on the virtual clock does not report: it
// speaks when something happened, so what it did not say was nothing.
func (b builder) whole(s results.Series) results.Series {
	if b.r.Environment.Clock != "virtual" || len(s.T) < 2 {
		return s
	}
	const every = 0.1 // a client's bin, s
	w := max(bin(s), every)
	out := results.Series{Name: s.Name, Unit: s.Unit, About: s.About}
	for i, t := range s.T {
		if i > 0 {
			for u := s.T[i-1] + w; u < t-w/2; u += w {
				out.T, out.V = append(out.T, u), append(out.V, 0)
			}
		}
		out.T, out.V = append(out.T, t), append(out.V, s.V[i])
	}
	return out
}

// slowRun says that a run is about what happens over time: it has a fault, or
// takes long.
func (b builder) slowRun() bool {
	for _, m := range b.arms {
		if len(m.trial.Faults) > 0 || m.trial.Duration >= longTrial {
			return true
		}
	}
	return false
}

// leastPoints is from how many points on a line over time shows anything.
const leastPoints = 5

// latencyOverTime: the median latency as time goes on.
func (b builder) latencyOverTime() (chart, bool) {
	c := chart{
		file: "latency-over-time",
		x:    axis{label: sinceGo, zero: true},
		y:    axis{label: "median latency of successful requests, from the intended start", kind: durations, zero: true},
	}
	if !b.slowRun() {
		return c, false
	}
	lo, hi, most := math.Inf(1), 0.0, 0
	var parts []string
	highest := map[string][]float64{} // by client
	b.eachClient("latency.p50", func(m measured, p program, s results.Series, l line) {
		l.x, l.y = peaks(s)
		l.gap = 5 * bin(s)
		for i := range l.y {
			if l.y[i] > 0 {
				lo, hi = min(lo, l.y[i]), max(hi, l.y[i])
			}
		}
		parts = append(parts, l.label+" "+quantity(largest(s), "s", 3))
		highest[p.name] = append(highest[p.name], largest(s))
		c.lines = append(c.lines, l)
		most = max(most, len(l.x))
	})
	if most < leastPoints {
		return c, false
	}
	if hi/lo > 20 {
		c.y.kind, c.y.zero = logTimes, false
	}
	c.title = "Highest median latency: " + join(front(parts))
	if len(highest) == 1 && len(parts) > few && len(parts) == len(b.arms) {
		for _, vs := range highest {
			if lo, hi := bounds(vs); quantity(lo, "s", 3) == quantity(hi, "s", 3) {
				c.title = "Highest median latency: " + quantity(hi, "s", 3) + " in every arm"
			}
		}
	}
	if len(highest) > 1 {
		parts = nil
		for _, p := range b.requesters() {
			if lo, hi := bounds(highest[p.name]); len(highest[p.name]) > 0 {
				parts = append(parts, p.name+" "+upTo(quantity(lo, "s", 3), quantity(hi, "s", 3)))
			}
		}
		c.title = "Highest median latency, by client: " + strings.Join(parts, "; ")
	}
	c.caption = b.timeCaption("Of each stretch of time the worst median, by when the answer came. Where there is no line, no request was answered.")
	c.alt = c.title + ". " + b.values("latency.p50", "median over all")
	return c, true
}

// front names the first arms, and counts the others.
func front(parts []string) []string {
	if n := few + 1; len(parts) > n {
		return append(slices.Clone(parts[:n-1]), plural(len(parts)-n+1, "further arm"))
	}
	return parts
}

// queueDepth: what waits to be sent.
func (b builder) queueDepth() (chart, bool) {
	c := chart{
		file: "queue",
		x:    axis{label: sinceGo, zero: true},
		y:    axis{label: "messages that wait to be sent", zero: true},
	}
	var parts []string
	most := 0.0
	b.eachClient("queue.depth", func(m measured, p program, s results.Series, l line) {
		l.x, l.y = peaks(s)
		most = max(most, largest(s))
		parts = append(parts, l.label+" "+count(largest(s)))
		c.lines = append(c.lines, l)
	})
	if most == 0 {
		return c, false
	}
	c.title = "Longest queue: " + join(front(parts))
	c.caption = b.timeCaption("Of each stretch of time the longest.")
	c.alt = c.title + "."
	return c, true
}

// leastSteps is from how many retransmissions on a chain is worth a figure:
// fewer are everyday loss.
const leastSteps = 4

// chainsOf picks the chain of each arm that a figure draws: the longest one.
func (b builder) chainsOf(kind results.ChainKind, least int) (ms []measured, cs []results.Chain) {
	for _, m := range b.arms {
		best := -1
		for i, c := range m.trial.Chains {
			if c.Kind == kind && (best < 0 || len(c.Steps) > len(m.trial.Chains[best].Steps)) {
				best = i
			}
		}
		if best >= 0 {
			ms, cs = append(ms, m), append(cs, m.trial.Chains[best])
		}
	}
	worth := slices.ContainsFunc(cs, func(c results.Chain) bool { return len(c.Steps) >= least })
	if !worth {
		return nil, nil
	}
	return ms, cs
}

// rtoChains: the backoff predicted and measured, all arms over each other.
func (b builder) rtoChains() (chart, bool) {
	c := chart{
		file: "chain",
		x:    axis{label: "time since the data were first sent", kind: logTimes},
		y:    axis{label: "gap before each retransmission", kind: logTimes},
	}
	ms, cs := b.chainsOf(results.ChainRTO, leastSteps)
	if cs == nil {
		return c, false
	}
	b.drawChains(&c, ms, cs, func(ch results.Chain, i int) (measured, predicted float64) {
		at := 0.0
		for _, s := range ch.Steps[:i+1] {
			if s.Nominal > 0 {
				at += s.Nominal
			} else {
				at += s.Gap
			}
		}
		return ch.Steps[i].At - ch.From, at
	})
	// Markers at the frame's edge are cut.
	c.x.min, c.x.max = c.limits(true)
	c.x.min, c.x.max = c.x.min/1.2, c.x.max*1.15
	c.title = chainTitle(ms, cs, "retransmission")
	c.caption = chainCaption(cs, "The line is the backoff computed from the first timeout: each gap twice the one before, up to "+quantity(cs[0].Limit, "s", 3)+".")
	c.alt = c.title + ". Gaps double along the predicted line on two log axes."
	return c, true
}

// keepaliveChains: probes by their number.
func (b builder) keepaliveChains() (chart, bool) {
	c := chart{
		file: "keepalive",
		x:    axis{label: "keepalive probe", min: 0.5, max: 1.5},
		y:    axis{label: "time before each probe", kind: logTimes},
	}
	ms, cs := b.chainsOf(results.ChainKeepalive, 1)
	if cs == nil {
		return c, false
	}
	for _, ch := range cs {
		c.x.max = max(c.x.max, float64(len(ch.Steps))+0.5)
	}
	b.drawChains(&c, ms, cs, func(_ results.Chain, i int) (measured, predicted float64) { return float64(i + 1), float64(i + 1) })
	c.title = chainTitle(ms, cs, "keepalive probe")
	c.caption = chainCaption(cs, "The line is the idle time before the first probe, then the interval, as the kernel has them set.")
	c.alt = c.title + "."
	return c, true
}

func chainCaption(cs []results.Chain, line string) string {
	for _, ch := range cs {
		if ch.HZ > 0 && ch.First > 0 {
			return line + " The band adds one granule of the kernel's timer wheel (HZ " + strconv.Itoa(ch.HZ) + "), by which timers fire late. Markers are the packets of the capture; of several chains in an arm the longest is drawn."
		}
	}
	return "The kernel's HZ is not known, so nothing is predicted. Markers are the packets of the capture; of several chains in an arm the longest is drawn."
}

// chainTitle says how many were sent, for how long, and whether as predicted.
func chainTitle(ms []measured, cs []results.Chain, what string) string {
	var parts []string
	beyond, judged := 0, false
	for i, ch := range cs {
		n, off := ch.Timeouts()
		beyond += off
		judged = judged || ch.First > 0 && ch.HZ > 0
		last := ch.Steps[len(ch.Steps)-1]
		sends := ""
		if i == 0 {
			sends = "sends "
		}
		parts = append(parts, ms[i].name+" "+sends+plural(n, what)+" in "+quantity(last.At-ch.From, "s", 3))
	}
	s := join(front(parts))
	switch {
	case !judged:
	case beyond == 0:
		s += ": every one within a granule of the timer wheel of its prediction"
	default:
		s += ": " + count(float64(beyond)) + " beyond what the timer wheel allows"
	}
	return s
}

// drawChains adds the lines and bands of chains, and the table of their steps.
func (b builder) drawChains(c *chart, ms []measured, cs []results.Chain, at func(ch results.Chain, i int) (measured, predicted float64)) {
	c.columns = []string{"arm", "step", "after", "gap", "predicted", "latest", "within"}
	for k, ch := range cs {
		seen := line{label: ms[k].name + ", measured", look: ms[k].index, points: true}
		said := line{label: ms[k].name + ", predicted", look: ms[k].index, thin: true}
		if len(cs) > 2 {
			// One entry of the legend stands for all.
			if said.label = ""; k == 0 {
				said.label = "dotted: predicted"
			}
			seen.label = ms[k].name
		}
		room := band{look: ms[k].index}
		n := 0
		for i, s := range ch.Steps {
			x, px := at(ch, i)
			if s.Gap > 0 {
				seen.x, seen.y = append(seen.x, x), append(seen.y, s.Gap)
			}
			if s.Nominal > 0 && !s.Probe {
				said.x, said.y = append(said.x, px), append(said.y, s.Nominal)
				room.x, room.lo, room.hi = append(room.x, px), append(room.lo, s.Nominal), append(room.hi, s.Latest)
			}
			name := "tail loss probe"
			if !s.Probe {
				n++
				name = strconv.Itoa(n)
			}
			row := []string{ms[k].name, name, quantity(s.At-ch.From, "s", 4), none, none, none, none}
			if s.Gap > 0 {
				row[3] = quantity(s.Gap, "s", 4)
			}
			if s.Nominal > 0 {
				row[4], row[5], row[6] = quantity(s.Nominal, "s", 4), quantity(s.Latest, "s", 4), "✓"
				if ch.Beyond(i) {
					row[6] = "✗"
				}
			}
			c.rows = append(c.rows, row)
		}
		if len(said.x) > 1 {
			c.bands = append(c.bands, room)
			c.lines = append(c.lines, said)
		}
		c.lines = append(c.lines, seen)
	}
}

// leastReconnects and leastPeriods are what a line through reconnects needs.
const (
	leastReconnects = 4
	leastPeriods    = 2
)

// reconnects: how far each reconnect is from its place on the clock, by day,
// with the line through them.
func (b builder) reconnects() (chart, bool) {
	c := chart{
		file: "reconnects",
		x:    axis{label: "time since go", kind: elapsed, zero: true},
		y:    axis{label: "how far each reconnect is off its place on the clock", kind: durations},
	}
	var parts, captions []string
	for _, m := range b.arms {
		for _, p := range b.ps {
			s, ok := m.series[p.name+".opened"]
			if !ok {
				continue
			}
			var at []float64
			for i, t := range s.T {
				if s.V[i] > 0 {
					at = append(at, t)
				}
			}
			if len(at) < leastReconnects+1 {
				continue
			}
			d := results.FindDrift(at[1:]) // the first one opens, and is no reconnect
			if d.Period == 0 || d.Points[len(d.Points)-1].Count < leastPeriods {
				continue
			}
			name := label(m.name, p.name, len(b.ps) > 1)
			seen := line{label: name + ": " + strconv.Itoa(d.N) + " reconnects", look: m.index, points: true}
			fit := line{label: name + ": " + driftWords(d), look: m.index, thin: true}
			room := band{look: m.index}
			for _, q := range d.Points {
				seen.x, seen.y = append(seen.x, q.At), append(seen.y, q.Phase)
				if d.Intercept == nil || math.IsInf(d.PerPeriodHigh, 0) || q.Segment > 0 {
					continue
				}
				v := d.Intercept[0] + d.PerPeriod*q.Count
				spread := (d.PerPeriodHigh - d.PerPeriod) * math.Abs(q.Count-middleCount(d))
				fit.x, fit.y = append(fit.x, q.At), append(fit.y, v)
				room.x, room.lo, room.hi = append(room.x, q.At), append(room.lo, v-spread), append(room.hi, v+spread)
			}
			if len(fit.x) > 1 {
				c.bands, c.lines = append(c.bands, room), append(c.lines, fit)
			}
			c.lines = append(c.lines, seen)
			verdict, _, _ := strings.Cut(string(d.Verdict), ":")
			parts = append(parts, name+" "+verdict+", "+driftWords(d))
			captions = append(captions, name+": "+string(d.Verdict)+", period "+results.PeriodName(d.Period))
			c.rows = append(c.rows, []string{name, strconv.Itoa(d.N), results.PeriodName(d.Period), secondsOf(d.PerDay), secondsOf(d.PerDayLow), secondsOf(d.PerDayHigh), quantity(d.Scatter, "s", 3), string(d.Verdict)})
		}
	}
	if len(c.lines) == 0 {
		return c, false
	}
	c.columns = []string{"arm", "reconnects", "period", "drift a day", "from", "to", "scatter", "verdict"}
	c.title = "Reconnects: " + strings.Join(front(parts), "; ")
	c.caption = "A timer that starts with each connection comes later every time, and its points climb; a schedule stays level. The band is the 95% interval of the slope. " + strings.Join(captions, "; ") + "."
	c.alt = c.title + "."
	return c, true
}

func middleCount(d results.Drift) float64 {
	sum := 0.0
	for _, p := range d.Points {
		sum += p.Count
	}
	return sum / float64(len(d.Points))
}

// driftWords is "+1.9 s a day (+1.5 s to +2.3 s)".
func driftWords(d results.Drift) string {
	if math.IsInf(d.PerDayHigh, 0) {
		return secondsOf(d.PerDay) + " a day"
	}
	return fmt.Sprintf("%s a day (%s to %s)", secondsOf(d.PerDay), secondsOf(d.PerDayLow), secondsOf(d.PerDayHigh))
}

func secondsOf(v float64) string {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return none
	}
	if math.Abs(v) < 0.005 {
		return "0 s"
	}
	return signed(v, number(math.Abs(v), 3)+" s")
}
