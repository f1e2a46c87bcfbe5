package trial

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"tcplab/clients"
	"tcplab/lab/expr"
	"tcplab/lab/program"
	"tcplab/lab/sheet"
	"tcplab/results"
	"tcplab/workloads"
)

const (
	minOffered = 0.99 // share of the load that has to be sent
	maxSkew    = 0.05 // of a percentile: the generator's or the wire's own share of it
)

// validate adds the reasons why the trial does not count.
func (o *one) validate(m *measured) {
	for _, p := range o.st.procs {
		if err := p.Err(); err != nil {
			m.reason(err)
		}
	}
	if m.interrupted {
		return
	}
	used := percentiles(o.exp, o.arm.Name)
	for _, c := range o.arm.Clients {
		r := m.clients[c.Name]
		if r == nil {
			continue
		}
		o.validateLoad(c, r, m)
		o.validateSkew(c.Name, r, used, m)
		o.validateWaits(c.Name, r, used, m)
	}
	for _, w := range o.out.Wires {
		o.validateWire(w, m)
	}
	o.validateIncarnations(m)
	o.validateFlood(m)
	o.validateFlows(m)
}

// validateLoad: what was not sent for want of a free connection belongs to the
// subject; the rest is the generator's own failure.
func (o *one) validateLoad(c sheet.Client, r *program.ClientResult, m *measured) {
	if r.Offered == 0 {
		return
	}
	if r.Sent == 0 {
		m.reason(fmt.Errorf("client %s began none of the %d requests that were due in the window: what came before was never worked off; lower the rate, or give it more connections", c.Name, r.Offered))
		return
	}
	if float64(r.Sent) >= minOffered*float64(r.Offered) || o.subjectsFault(c, m) {
		return
	}
	m.reason(fmt.Errorf("client %s sent %d of the %d requests offered (%.1f%%, at least 99%% is needed): the machine was too busy, or the rate is too high for it",
		c.Name, r.Sent, r.Offered, 100*float64(r.Sent)/float64(r.Offered)))
}

// subjectsFault says whether requests were left unsent because every
// connection was taken, or because the kernel's port search had the client's
// CPU, at the window's end.
func (o *one) subjectsFault(c sheet.Client, m *measured) bool {
	slots := c.Workload.Connections
	if c.Reuse == "pool" && c.Pool.Size > 0 && (slots == 0 || c.Pool.Size < slots) {
		slots = c.Pool.Size
	}
	if c.Workload.Kind == workloads.Writes {
		return true // what was not begun waited for its connection, which carries one exchange at a time
	}
	if c.Kind == clients.Bulk {
		return true // what was not written waited for room in a socket's buffer, or for a connection
	}
	end := clockSeconds(m.t0, m.to)
	if depth, ok := last(o.rec.get(c.Name, "queue.depth"), end); ok && depth > 0 {
		return true // a relay whose connection does not take what is in its queue
	}
	inflight, _ := largest(o.rec.get(c.Name, "inflight"), end-1, end)
	if v, ok := last(o.rec.get(c.Name, "inflight"), end); ok {
		inflight = max(inflight, v) // a client that waits says nothing new
	}
	busy, _ := largest(o.rec.get(c.Name, "connect.busy"), end-1, end)
	return slots > 0 && inflight >= float64(slots) || busy > 0.5
}

// last is the value that a series had at an instant, s after go.
func last(s results.Series, at float64) (float64, bool) {
	v, ok := 0.0, false
	for i, t := range s.T {
		if t <= at {
			v, ok = s.V[i], true
		}
	}
	return v, ok
}

// validateSkew holds the generator's lag and the wires' delay error, at each
// percentile that an expectation uses, against the latency there.
func (o *one) validateSkew(name string, r *program.ClientResult, used []use, m *measured) {
	v := &o.out.Validity
	lag := r.Histograms["lag"]
	if lag != nil && lag.TotalCount() > 0 {
		v.LagP50 = max(v.LagP50, float64(lag.ValueAtQuantile(50))/1e9)
		v.LagP99 = max(v.LagP99, float64(lag.ValueAtQuantile(99))/1e9)
		v.LagMax = max(v.LagMax, float64(lag.Max())/1e9)
	}
	ex, typical := r.Histograms["lag_excused"], o.out.Metrics[name+".latency.p50"].Value
	if ex != nil && ex.TotalCount() > 0 && float64(ex.ValueAtQuantile(99))/1e9 > maxSkew*typical {
		o.warn(name, fmt.Sprintf("connect() took more than half of the client's CPU while %d requests were due, which began up to %.3g ms late (99th percentile): that lag belongs to the subject, not to the generator",
			ex.TotalCount(), float64(ex.ValueAtQuantile(99))/1e6))
	}
	for _, u := range used {
		q, ok := o.out.Metrics[name+"."+u.metric]
		if !ok || u.owner != "" && u.owner != name {
			continue
		}
		if lag != nil && lag.TotalCount() > 0 {
			if l := float64(lag.ValueAtQuantile(u.q*100)) / 1e9; l > maxSkew*q.Value {
				m.reason(fmt.Errorf("the generator's own lag is %.3g ms at the %s that an expectation uses, more than 5%% of its %.3g ms", l*1e3, u.metric, q.Value*1e3))
			}
		}
		for _, w := range o.out.Wires {
			if e, ok := w.DelayError[u.name]; ok && e > maxSkew*q.Value {
				m.reason(fmt.Errorf("wire %s released frames %.3g ms late at the %s that an expectation uses, more than 5%% of its %.3g ms", w.Link, e*1e3, u.metric, q.Value*1e3))
			}
		}
	}
}

// validateWire: counters that contradict the sheet, and frames that the wire
// lost without being asked.
func (o *one) validateWire(w results.Wire, m *measured) {
	var link sheet.Link
	for _, l := range o.arm.Links {
		if l.Name == w.Link {
			link = l
		}
	}
	faulted := false
	for _, f := range o.arm.Faults {
		faulted = faulted || f.On == w.Link
	}
	for dir, c := range w.Directions {
		if n := c["ring_dropped"] + c["overflowed"] + c["truncated"] + c["send_errors"]; n > 0 {
			m.reason(fmt.Errorf("wire %s lost %d frames of %s by its own fault", w.Link, n, dir))
		}
		_, to, _ := strings.Cut(dir, ">")
		p := link.Wire.To[to].Loss
		n, lost := float64(c["in"]), float64(c["lost"])
		if p == 0 || faulted || n < 1000 {
			continue
		}
		// Six standard deviations: once in a billion honest trials.
		if math.Abs(lost-p*n) > 6*math.Sqrt(n*p*(1-p))+1 {
			m.reason(fmt.Errorf("wire %s lost %.3g%% of %s, and the sheet asks for %.3g%%", w.Link, 100*lost/n, dir, 100*p))
		}
	}
}

// use is a percentile of a distribution that something in the sheet judges.
type use struct {
	owner, metric, name string
	q                   float64
}

// percentiles lists the latency percentiles of an arm that expectations and
// judged predictions use.
func percentiles(e *sheet.Experiment, arm string) []use {
	var out []use
	add := func(x *expr.Expr) {
		if x == nil {
			return
		}
		for _, p := range x.Paths() {
			p, err := p.Split(func(metric string) bool { _, ok := results.LookupMetric(metric); return ok })
			if err != nil || p.Arm != arm {
				continue
			}
			dist, name, ok := cutLast(p.Metric)
			if !ok || !slices.Contains([]string{"latency", "service", "firstbyte", "connect"}, dist) {
				continue
			}
			for _, q := range quantiles {
				u := use{p.Owner, p.Metric, name, q.q}
				if q.name == name && !slices.Contains(out, u) {
					out = append(out, u)
				}
			}
		}
	}
	for _, x := range e.Expect {
		if x.NotAsked == "" {
			add(x.That)
		}
	}
	for _, p := range e.Predict {
		if p.NotAsked == "" && p.Within != "" {
			if x, err := expr.Parse(p.Of); err == nil {
				add(x)
			}
		}
	}
	return out
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
