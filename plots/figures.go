package plots

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"gonum.org/v1/plot/vg"

	"tcplab/results"
)

// A builder makes the charts that a run's data allow: what an experiment did
// not measure has no figure, whatever the experiment is called.
type builder struct {
	r    *results.Run
	arms []measured
	ps   []program
	hs   []string
}

// charts lists the figures in the order of the report.
func (b builder) charts() []chart {
	var cs []chart
	for _, make := range []func() (chart, bool){
		b.ladderCompleted, b.ladderLatency, b.staleBytes,
		b.rtoChains, b.keepaliveChains, b.reconnects,
		b.percentiles, b.throughput, b.latencyOverTime, b.queueDepth, b.handshakes, b.timeWait, b.closeWait, b.connectTime, b.errors,
	} {
		if c, ok := make(); ok && !flatAtZero(c) {
			b.timeAxis(&c)
			b.unite(&c)
			cs = append(cs, c)
		}
	}
	if swept := b.sweepCharts(); len(swept) > 0 {
		return swept // its arms are points: over time they would be a thicket
	}
	return append(cs, b.flowSignals()...)
}

// flatAtZero tells that of what a chart shows nothing ever happened, in any arm:
// there is nothing to look at.
func flatAtZero(c chart) bool {
	for _, l := range c.lines {
		for _, y := range l.y {
			if y != 0 {
				return false
			}
		}
	}
	return len(c.lines) > 0
}

// label names a series by arm, and by owner where there are several.
func label(arm, owner string, several bool) string {
	if several {
		return arm + " (" + owner + ")"
	}
	return arm
}

// leastTail is how far, as 1/(1−q), a line by percentile must reach to be one:
// a little beyond the median.
const leastTail = 2.5

// percentiles: latency by percentile, on the HdrHistogram axis.
func (b builder) percentiles() (chart, bool) {
	c := chart{
		file: "latency",
		x:    axis{label: "percentile", kind: percentile},
		y:    axis{label: "latency of successful requests, from the intended start", kind: durations, zero: true},
	}
	lo, hi := math.Inf(1), 0.0
	merged := 1
	for _, m := range b.arms {
		for _, p := range b.requesters() {
			h := m.hist[p.name+".latency"]
			if h == nil || h.TotalCount() == 0 {
				continue
			}
			l := line{label: label(m.name, p.name, len(b.ps) > 1), look: m.index}
			merged = max(merged, m.merged)
			// 1/(1−q) from 1 on, forty points a decade, as far as ten samples
			// lie beyond.
			for i := 0; ; i++ {
				x := math.Pow(10, float64(i)/40)
				v, ok := results.Quantile(h, 1-1/x)
				if !ok || x > 1e6 {
					break
				}
				if v <= 0 {
					continue
				}
				l.x, l.y = append(l.x, x), append(l.y, v)
				lo, hi = min(lo, v), max(hi, v)
			}
			if len(l.x) > 1 {
				c.lines = append(c.lines, l)
			}
		}
	}
	if !slices.ContainsFunc(c.lines, func(l line) bool { return l.x[len(l.x)-1] > leastTail }) {
		return c, false
	}
	if hi/lo > 20 {
		c.y.kind, c.y.zero = logTimes, false
	}
	c.title = b.compare("latency.p50", "median latency", "")
	if c.title == "" || strings.HasPrefix(c.title, ": ") {
		c.title = b.each("latency.p50", "Median latency")
	}
	c.caption = "Each line is an arm. The axis stretches the tail: equal steps are 90%, 99%, 99.9%. A percentile with fewer than ten samples beyond it is not drawn."
	if merged > 1 {
		c.caption += " The trials of an arm are added up."
	}
	c.alt = c.title + ". " + b.values("latency.p50", "median") + " " + b.values("latency.p99", "99th percentile")
	return c, true
}

// throughput: requests completed per second, so that the load can be seen to
// be the same, and a square wave to be one.
func (b builder) throughput() (chart, bool) {
	c := chart{
		file: "completed",
		x:    axis{label: sinceGo, zero: true},
		y:    axis{label: "requests completed per second", zero: true},
	}
	b.eachClient("ok", func(m measured, p program, s results.Series, l line) {
		l.x, l.y = perSecond(b.whole(s), 0.5)
		c.lines = append(c.lines, l)
	})
	if len(c.lines) == 0 {
		return c, false
	}
	c.title = b.completedTitle()
	c.caption = b.timeCaption("Requests that were answered, by the second in which they were.")
	c.alt = c.title + ". " + b.values("requests.rate", "completed per second")
	return c, true
}

// completedTitle compares shares, not counts: arms may be offered different
// loads.
func (b builder) completedTitle() string {
	var parts []string
	var shares []float64
	for _, m := range b.arms {
		ok, has := b.total(m.name, "requests.ok")
		of, offered := b.total(m.name, "requests.offered")
		if !offered {
			of, offered = b.total(m.name, "requests.sent")
		}
		if !has || !offered || of <= 0 {
			continue
		}
		share := "all"
		if ok < of {
			// Rounded down: 99.99% is not all.
			share = trimZeros(number(math.Floor(1000*ok/of)/10, 3)) + "% of"
		}
		parts = append(parts, m.name+" "+share+" "+count(of)+" requests")
		shares = append(shares, ok/of)
	}
	lo, _ := bounds(shares)
	switch n := len(parts); {
	case n == 0:
		return "Requests completed over time"
	case n > few && n == len(b.arms) && lo >= 1:
		return "Every arm completes all of its requests"
	case n > few:
		parts = append(parts[:1], "the other arms "+percents(shares[1:]))
	}
	parts[0] = strings.Replace(parts[0], " ", " completes ", 1)
	return strings.Join(parts, "; ")
}

// handshakes: active opens per second, from the kernel's counter.
func (b builder) handshakes() (chart, bool) {
	if len(incarnationsOf(b.r)) > 0 {
		return chart{}, false // two, whatever the arm
	}
	c := chart{
		file: "handshakes",
		x:    axis{label: sinceGo, zero: true},
		y:    axis{label: "handshakes per second, from the kernel's counter", zero: true},
	}
	if b.onlyFlows() {
		return c, false // one connection for the whole trial
	}
	// A host is drawn where it opens connections: of several, one that opens
	// next to none, as for a download, would be a line along the axis.
	most, by := 0.0, map[string]float64{}
	for _, h := range b.hs {
		for _, m := range b.arms {
			by[h] = max(by[h], last(m.series[h+".handshakes"]))
			most = max(most, by[h])
		}
	}
	several := 0
	for _, h := range b.hs {
		if by[h] > most/20 {
			several++
		}
	}
	for _, m := range b.arms {
		for _, h := range b.hs {
			s, ok := m.series[h+".handshakes"]
			if !ok || len(s.T) < 2 || several > 0 && last(s) == 0 && !b.isClientHost(h) || several > 1 && (last(s) == 0 || by[h] <= most/20) {
				continue
			}
			l := line{label: label(m.name, h, several > 1), look: m.index}
			l.x, l.y = slope(s)
			c.lines = append(c.lines, l)
		}
	}
	if len(c.lines) == 0 {
		return c, false
	}
	c.title = b.handshakesTitle()
	c.caption = b.timeCaption("Growth of the kernel's counter of active opens.")
	c.alt = c.title + ". " + b.values("handshakes.rate", "handshakes") + " " + b.values("handshakes.count", "handshakes in the whole trial")
	return c, true
}

// handshakesTitle sets whole counts beside each other: in the window a pool
// opens nothing.
func (b builder) handshakesTitle() string {
	base := baseline(b.r)
	was, ok := b.opens(base)
	if !ok {
		return b.compare("handshakes.rate", "handshakes per second", "Handshakes per second over time")
	}
	var parts []string
	var all []float64
	for _, m := range b.arms {
		if n, ok := b.opens(m.name); ok && m.name != base {
			parts = append(parts, m.name+" "+count(n))
			all = append(all, n)
		}
	}
	if lo, hi := bounds(append(all, was)); len(parts) >= few && lo == hi {
		return "Every arm makes " + plural(int(was), "handshake")
	}
	if len(parts) >= few {
		parts = []string{"the other arms " + counts(all)}
	}
	s := base + " makes " + plural(int(was), "handshake")
	if len(parts) > 0 {
		s += "; " + join(parts)
	}
	return s
}

func (b builder) isClientHost(h string) bool {
	for _, p := range b.ps {
		if p.host == h {
			return true
		}
	}
	return false
}

// fewSockets are so few that they say nothing about ports.
const fewSockets = 10

// timeWait: TIME-WAIT sockets and ports in use, with the ceiling and the
// first error that were predicted.
func (b builder) timeWait() (chart, bool) {
	c := chart{
		file: "time-wait",
		x:    axis{label: sinceGo, zero: true},
		y:    axis{label: "sockets in TIME-WAIT, and ports in use", zero: true},
	}
	most := 0.0
	for _, m := range b.arms {
		for _, h := range b.hs {
			most = max(most, largest(m.series[h+".sockets.time_wait"]), largest(m.series[h+".ports.count"]))
		}
	}
	if most < fewSockets {
		return c, false
	}
	// Who closes first keeps the TIME-WAIT: a host is drawn where it has them.
	// Of several hosts with clients, one that has none in any arm is left out.
	several, has := map[string]bool{}, map[string]bool{}
	for _, m := range b.arms {
		for _, h := range b.hs {
			has[h] = has[h] || largest(m.series[h+".sockets.time_wait"]) > most/20 || largest(m.series[h+".ports.count"]) > most/20
		}
	}
	draws := func(m measured, h string) bool {
		s, ok := m.series[h+".sockets.time_wait"]
		if len(b.ps) > 1 && largest(s) == 0 && largest(m.series[h+".ports.count"]) == 0 {
			return false // its client is not in this arm
		}
		return ok && (b.isClientHost(h) && (has[h] || len(b.ps) == 1) || largest(s) > most/50)
	}
	for _, m := range b.arms {
		for _, h := range b.hs {
			if draws(m, h) {
				several[h] = true
			}
		}
	}
	// Ports follow TIME-WAIT closely; with many arms they would only crowd.
	ports := len(b.arms) <= 3
	if !ports {
		c.y.label = "sockets in TIME-WAIT"
	}
	ceilings := map[float64][]string{}
	var order []float64
	for _, m := range b.arms {
		for _, h := range b.hs {
			if !draws(m, h) {
				continue
			}
			name := label(m.name, h, len(several) > 1)
			l := line{label: name + ": TIME-WAIT", look: m.index}
			l.x, l.y = peaks(m.series[h+".sockets.time_wait"])
			c.lines = append(c.lines, l)
			if s := m.series[h+".ports.count"]; largest(s) > 0 && ports {
				l := line{label: name + ": ports", look: m.index, thin: true}
				l.x, l.y = peaks(s)
				c.lines = append(c.lines, l)
			}
			if n, ok := portRange(b.r, m.trial, h); ok && b.isClientHost(h) {
				if ceilings[n] == nil {
					order = append(order, n)
				}
				ceilings[n] = append(ceilings[n], m.name)
			}
		}
	}
	sort.Float64s(order)
	for _, n := range order {
		// A ceiling far above all data would flatten it.
		if n > 20*most {
			continue
		}
		text, look := "ceiling: "+count(n)+" ports", -1
		if len(order) > 1 {
			text += " (" + strings.Join(ceilings[n], ", ") + ")"
			if len(ceilings[n]) == 1 {
				look = b.look(ceilings[n][0])
			}
		}
		c.rules = append(c.rules, rule{label: text, at: n, look: look, dash: []vg.Length{6, 4}})
	}
	c.rules = append(c.rules, b.predicted("first_error.time", "first error")...)
	c.title = b.timeWaitTitle(order)
	from := "TIME-WAIT from sockstat, ports towards the busiest destination from inet_diag."
	if !ports {
		from = "TIME-WAIT from sockstat."
	}
	c.caption = b.timeCaption(from + " TIME-WAIT lasts a minute; no sysctl shortens it.")
	c.alt = c.title + ". " + b.values("sockets.time_wait.max", "most in TIME-WAIT")
	return c, true
}

// timeWaitTitle says who holds how many: the host that closes first, which
// need not be the client's.
func (b builder) timeWaitTitle(ceilings []float64) string {
	base := baseline(b.r)
	n, where, ok := b.mostTimeWait(base)
	if !ok {
		return "TIME-WAIT and ports over time"
	}
	s := base + " holds up to " + plural(int(n), "socket") + " in TIME-WAIT" + where
	for _, c := range ceilings {
		if where == "" && math.Abs(n/c-1) < 0.02 {
			s = base + " uses up all " + count(c) + " ports (" + count(n) + " in TIME-WAIT)"
		}
	}
	var others []string
	var all []float64
	for _, m := range b.arms {
		if n, where, ok := b.mostTimeWait(m.name); ok && m.name != base {
			others = append(others, m.name+" holds "+count(n)+where)
			all = append(all, n)
		}
	}
	if len(others) >= few {
		others = []string{"the other arms hold " + counts(all)}
	}
	if len(others) > 0 {
		s += "; " + join(others)
	}
	return s
}

// mostTimeWait is the largest number of TIME-WAIT sockets at one host; where
// names the host unless it is a client's.
func (b builder) mostTimeWait(arm string) (n float64, where string, ok bool) {
	for _, h := range b.hs {
		m, has := b.r.Arms[arm].Metrics[h+".sockets.time_wait.max"]
		if !has || m.N == 0 || ok && m.Value <= n {
			continue
		}
		n, where, ok = m.Value, "", true
		if !b.isClientHost(h) {
			where = " on " + h
		}
	}
	return n, where, ok
}

// predicted gives a vertical rule for each prediction of a moment.
func (b builder) predicted(metric, what string) []rule {
	var rs []rule
	for _, n := range byPosition(b.r.Predictions, func(p results.Prediction) int { return p.Position }) {
		p := b.r.Predictions[n]
		if p.Unit != "s" || metricOf(p.Of) != metric || p.Holds == results.NotAsked {
			continue
		}
		arm, _, _ := strings.Cut(p.Of, ".")
		rs = append(rs, rule{label: "predicted " + what + " of " + arm + ": " + quantity(p.Value, "s", 4), vertical: true, at: p.Value, look: b.look(arm), dash: []vg.Length{3, 3}})
	}
	return rs
}

// look is an arm's colour; −1, ink, where the arm is not drawn.
func (b builder) look(arm string) int {
	for _, m := range b.arms {
		if m.name == arm {
			return m.index
		}
	}
	return -1
}

// connectTime: time inside connect() against the share of ports in use.
func (b builder) connectTime() (chart, bool) {
	c := chart{
		file: "connect",
		x:    axis{label: "ports in use, share of the ephemeral range", kind: shares, min: 0, max: 1.02},
		y:    axis{label: "time inside a non-blocking connect(), median", kind: logTimes},
	}
	var found []string
	for _, m := range b.arms {
		for _, p := range b.ps {
			call, used := m.series[p.name+".connect.call.p50"], m.series[p.host+".ports.used"]
			if len(call.T) == 0 || len(used.T) == 0 {
				continue
			}
			l := line{label: label(m.name, p.name, len(b.ps) > 1), look: m.index}
			l.x, l.y = against(call, used, 100)
			if len(l.x) == 0 {
				continue
			}
			if f := knee(l, m.name); f != "" {
				found = append(found, f)
			}
			c.lines = append(c.lines, l)
		}
	}
	if b.r.Environment.Clock == "virtual" {
		return c, false // it is CPU, which costs nothing there
	}
	if len(c.lines) == 0 || !slices.ContainsFunc(c.lines, func(l line) bool { return len(l.x) >= leastPoints }) {
		return c, false
	}
	c.rules = []rule{{label: "half the range", vertical: true, at: 0.5, look: -1, dash: []vg.Length{3, 3}}}
	c.title = "connect() costs the same however many ports are in use"
	switch n := len(found); {
	case n >= few:
		c.title = "Past half of the ports connect() costs " + found[0] + ", and more in " + plural(n-1, "other arm") + " too"
	case n > 0:
		c.title = "Past half of the ports connect() costs " + join(found)
	}
	c.caption = "connect() tries the ports of one parity first: past half of the range it searches through used ones, and that is CPU."
	c.alt = c.title + ". " + b.values("connect.call.p50", "median of all calls")
	return c, true
}

// knee words how much dearer connect() is above half of the range than below.
func knee(l line, arm string) string {
	var below, above []float64
	for i, x := range l.x {
		switch {
		case x < 0.45:
			below = append(below, l.y[i])
		case x > 0.55:
			above = append(above, l.y[i])
		}
	}
	if len(below) < 3 || len(above) < 3 {
		return ""
	}
	q := median(above) / median(below)
	if q < 2 {
		return ""
	}
	return fmt.Sprintf("%s times as much in %s (%s instead of %s)", number(q, 2), arm, quantity(median(above), "s", 2), quantity(median(below), "s", 2))
}

// errors: failed requests per second by class.
func (b builder) errors() (chart, bool) {
	c := chart{
		file: "errors",
		x:    axis{label: sinceGo, zero: true},
		y:    axis{label: "failed requests per second", zero: true},
	}
	var found, clean []string
	alike := map[string][]string{} // arms, by what they fail with
	for _, m := range b.arms {
		total := 0.0
		of := map[string]float64{}
		for _, p := range b.ps {
			nth := 0
			for _, k := range sortedKeys(m.series) {
				class, ok := strings.CutPrefix(k, p.name+".errors.")
				if !ok {
					continue
				}
				n := 0.0
				for _, v := range m.series[k].V {
					n += v
				}
				if n == 0 {
					continue
				}
				total += n
				of[class] += n
				l := line{label: label(m.name, p.name, len(b.ps) > 1) + ": " + class, look: m.index}
				l.thin = nth > 0
				nth++
				l.x, l.y = perSecond(b.whole(filled(m.series[k], m.series[p.name+".sent"])), 0.2)
				c.lines = append(c.lines, l)
			}
		}
		if total == 0 {
			// Only what was measured can be called clean.
			if f, ok := b.metric(m.name, "requests.failed"); ok && f.Value == 0 {
				clean = append(clean, m.name)
			}
			continue
		}
		var parts []string
		for _, class := range sortedKeys(of) {
			parts = append(parts, count(of[class])+" "+class)
		}
		with := join(parts)
		if alike[with] == nil {
			found = append(found, with)
		}
		alike[with] = append(alike[with], m.name)
	}
	if len(c.lines) == 0 {
		return c, false
	}
	c.rules = b.predicted("first_error.time", "first error")
	for i, with := range found {
		fails := " fails with "
		if len(alike[with]) > 1 {
			fails = " fail with "
		}
		found[i] = join(alike[with]) + fails + with
	}
	c.title = strings.Join(found, "; ")
	if len(clean) > 0 {
		c.title += "; " + join(clean) + " has no error"
		if len(clean) > 1 {
			c.title = strings.TrimSuffix(c.title, "has no error") + "have none"
		}
	}
	c.caption = b.timeCaption("Failed requests by class, warm-up included.")
	c.alt = c.title + ". " + b.values("first_error.time", "first error after")
	return c, true
}

// eachClient calls f for every arm and client that has the series.
func (b builder) eachClient(series string, f func(measured, program, results.Series, line)) {
	for _, m := range b.arms {
		for _, p := range b.requesters() {
			if s, ok := m.series[p.name+"."+series]; ok && len(s.T) > 1 {
				f(m, p, s, line{label: label(m.name, p.name, len(b.ps) > 1), look: m.index})
			}
		}
	}
}

// timeCaption adds which trial a figure over time shows.
func (b builder) timeCaption(s string) string {
	for _, m := range b.arms {
		if n := len(b.r.Arms[m.name].Trials); n > 1 {
			return s + " Of several trials the first that counts is drawn."
		}
	}
	return s
}
