package plots

import (
	"fmt"
	"math"
	"strings"

	"gonum.org/v1/plot/vg"

	"tcplab/results"
)

// Figures of flows: what TCP said of a client's connections while they ran, one
// figure a signal, the arms over each other.

// flowsOf are the clients that send as fast as they can: bulk, and watched for
// what TCP says of them. They make no requests, so what a report says of
// requests is left out for them.
func flowsOf(r *results.Run) map[string]bool {
	out := map[string]bool{}
	for _, t := range trials(r) {
		for _, a := range t.Agents {
			if _, watched := t.Metrics[a.Name+".tcp.cwnd.p50"]; a.Role == "client" && a.Kind == "bulk" && watched {
				out[a.Name] = true
			}
		}
	}
	return out
}

// onlyFlows says that no client makes requests.
func (b builder) onlyFlows() bool {
	fs := flowsOf(b.r)
	for _, p := range b.ps {
		if !fs[p.name] {
			return false
		}
	}
	return len(b.ps) > 0
}

// requesters are the clients that do.
func (b builder) requesters() []program {
	fs := flowsOf(b.r)
	var ps []program
	for _, p := range b.ps {
		if !fs[p.name] {
			ps = append(ps, p)
		}
	}
	return ps
}

// senders are the flows that send what they are measured by. Of a client that
// only reads, TCP says how it sends a request of a few bytes.
func (b builder) senders() []program {
	var ps []program
	for _, p := range b.ps {
		for _, m := range b.arms {
			if largest(m.series[p.name+".tcp.acked"]) >= leastSent {
				ps = append(ps, p)
				break
			}
		}
	}
	return ps
}

// leastSent is how much a flow sends at least, in bytes: more than a window
// of ten segments, or its window says nothing of the path.
const leastSent = 16 << 10

// A signal is one series of tcp_info and how it is drawn.
type signal struct {
	series, metric string
	file           string
	label          string  // of the axis, with its unit
	noun           string  // in the title
	per            float64 // what one on the axis is, in the record's unit
	caption        string
	growth         bool // what is drawn is the series' growth per second
}

var signals = []signal{
	{series: "tcp.acked", metric: "goodput", file: "goodput", label: "goodput, Mbit/s", noun: "goodput", per: 1e6 / 8, growth: true,
		caption: "Bytes that the server's TCP has acknowledged, per second."},
	{series: "tcp.cwnd", metric: "tcp.cwnd.p50", file: "cwnd", label: "congestion window, segments", noun: "median congestion window", per: 1,
		caption: "How many segments TCP lets be under way (snd_cwnd)."},
	{series: "tcp.ssthresh", metric: "tcp.ssthresh.p50", file: "ssthresh", label: "slow start threshold, segments", noun: "median slow start threshold", per: 1,
		caption: "Below it the window doubles each round trip. It has no value before the first loss; what BBR leaves in it decides nothing there."},
	{series: "tcp.pacing", metric: "tcp.pacing.p50", file: "pacing", label: "pacing rate, Mbit/s", noun: "median pacing rate", per: 1e6,
		caption: "BBR sends at this rate. CUBIC and Reno are not paced unless fq does it: theirs is what the kernel would pace at."},
	{series: "tcp.delivery", metric: "tcp.delivery.p50", file: "delivery", label: "delivery rate, Mbit/s", noun: "median delivery rate", per: 1e6,
		caption: "What TCP last saw arrive, over about a round trip."},
	{series: "tcp.resent", metric: "tcp.resent", file: "resent", label: "segments sent again so far", noun: "segments sent again", per: 1,
		caption: "Retransmissions so far, from the connection's start."},
	{series: "tcp.rtt", metric: "tcp.rtt.p50", file: "rtt", label: "smoothed round-trip time, ms", noun: "median round-trip time", per: 1e-3,
		caption: "What is above the wire's own round trip was spent in the queue."},
	{series: "tcp.bbr.bandwidth", metric: "tcp.bbr.bandwidth.p50", file: "bbr-bandwidth", label: "bandwidth that BBR believes in, Mbit/s", noun: "bandwidth that BBR believes in", per: 1e6,
		caption: "The largest delivery rate of the last ten round trips (tcp_bbr_info)."},
	{series: "tcp.bbr.minrtt", metric: "tcp.bbr.minrtt.min", file: "bbr-minrtt", label: "round trip that BBR believes in, ms", noun: "round trip that BBR believes in", per: 1e-3,
		caption: "The smallest round trip of the last ten seconds (tcp_bbr_info); to take it anew BBR sends next to nothing for 200 ms."},
}

// swept says that a run is a sweep, whose arms are points.
func swept(r *results.Run) bool {
	for _, a := range r.Arms {
		if len(a.Point) > 0 {
			return true
		}
	}
	return false
}

// flowSignals draws each signal that the record has.
func (b builder) flowSignals() []chart {
	if swept(b.r) {
		return nil
	}
	var cs []chart
	for _, s := range signals {
		if c, ok := b.signal(s); ok {
			b.timeAxis(&c)
			b.unite(&c)
			cs = append(cs, c)
		}
	}
	return cs
}

func (b builder) signal(s signal) (chart, bool) {
	c := chart{file: s.file, x: axis{label: sinceGo, zero: true}, y: axis{label: s.label, zero: true}}
	var middles []float64
	b.ps, b.hs = b.senders(), nil
	for _, m := range b.arms {
		nth, several := 0, 0
		for _, p := range b.ps {
			if len(m.series[p.name+"."+s.series].T) > 1 {
				several++
			}
		}
		for _, p := range b.ps {
			in, ok := m.series[p.name+"."+s.series]
			if !ok || len(in.T) < 2 {
				continue
			}
			l := line{label: label(m.name, p.name, several > 1), look: m.index, thin: nth > 0}
			nth++
			l.x, l.y = thinned(in)
			if s.growth {
				l.x, l.y = slope(in)
			}
			for i := range l.y {
				l.y[i] /= s.per
			}
			if v := median(l.y); v > 0 {
				middles = append(middles, v)
			}
			c.lines = append(c.lines, l)
		}
	}
	most := 0
	for _, l := range c.lines {
		most = max(most, len(l.x))
	}
	if most < leastPoints {
		return c, false
	}
	if lo, hi := bounds(middles); hi > 20*lo && lo > 0 {
		c.y.kind, c.y.zero = logNumbers, false
		for i := range c.lines {
			c.lines[i] = positive(c.lines[i], lo/10)
		}
	}
	if w := b.warmup(); w > 0 {
		c.rules = append(c.rules, rule{label: "measuring begins", vertical: true, at: w, look: -1, dash: []vg.Length{1, 2}})
	}
	c.title = b.signalTitle(s)
	c.caption = b.timeCaption(s.caption + " Read from outside the client by inet_diag, each 100 ms.")
	c.alt = c.title + ". " + b.values(s.metric, s.noun)
	return c, true
}

// signalTitle compares with the baseline, or says what each has where the
// baseline has none.
func (b builder) signalTitle(s signal) string {
	if t := b.compare(s.metric, s.noun, ""); t != "" && !strings.HasPrefix(t, ": ") {
		return t
	}
	return b.each(s.metric, strings.ToUpper(s.noun[:1])+s.noun[1:])
}

// warmup is when measuring begins, where it does so alike in all arms.
func (b builder) warmup() float64 {
	w := -1.0
	for _, m := range b.arms {
		if w >= 0 && m.trial.Warmup != w {
			return 0
		}
		w = m.trial.Warmup
	}
	return w
}

// thinned keeps a series as it is while a figure can show it, and the medians
// of bins beyond that.
func thinned(s results.Series) (x, y []float64) {
	if len(s.T) <= 2*points {
		return append(x, s.T...), append(y, s.V...)
	}
	groups(s, bin(s), func(at float64, vs []float64) { x, y = append(x, at), append(y, median(vs)) })
	return x, y
}

// positive leaves out what a log axis cannot show, and what would only
// stretch it.
func positive(l line, least float64) line {
	n := 0
	for i := range l.x {
		if l.y[i] >= least {
			l.x[n], l.y[n] = l.x[i], l.y[i]
			n++
		}
	}
	l.x, l.y = l.x[:n], l.y[:n]
	return l
}

func bounds(vs []float64) (lo, hi float64) {
	lo, hi = math.Inf(1), math.Inf(-1)
	for _, v := range vs {
		lo, hi = min(lo, v), max(hi, v)
	}
	return lo, hi
}

// times writes the range of some factors.
func times(vs []float64) string {
	lo, hi := bounds(vs)
	a, b := number(lo, 2), number(hi, 2)
	if a == b {
		return fmt.Sprintf("%s times", a)
	}
	return fmt.Sprintf("%s to %s times", a, b)
}
