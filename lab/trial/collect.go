package trial

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"tcplab/clients"
	"tcplab/lab/agent"
	"tcplab/lab/program"
	"tcplab/netns/wire"
	"tcplab/results"
)

// collect turns what was measured into the trial's metrics and validity.
func (o *one) collect(m *measured) {
	hists := results.Histograms{}
	window := clockSeconds(m.from, m.to)
	for _, c := range o.arm.Clients {
		r := m.clients[c.Name]
		if r == nil {
			continue
		}
		for name, h := range r.Histograms {
			hists[c.Name+"."+name] = h
		}
		if r.Silent {
			continue // its sockets and packets are measured without its help
		}
		if r.Flood != nil {
			o.floodMetrics(c.Name, r)
			continue
		}
		o.clientMetrics(c.Name, r, m, window)
	}
	o.serverMetrics(m)
	for _, f := range o.arm.Faults {
		o.out.Faults = append(o.out.Faults, results.Fault{Name: f.Name, At: f.At.Seconds(), For: f.For.Seconds(), On: f.On, Do: f.Do})
	}
	o.hostMetrics(m, window)
	o.wireMetrics(m, window)
	o.middleboxMetrics(m)
	o.routerMetrics(m)
	o.flowMetrics(m)
	o.agentRecords(m, window)
	o.validate(m)

	var b strings.Builder
	if err := results.WriteHistograms(&b, hists); err != nil {
		m.reason(err)
	} else if err := results.WriteFile(filepath.Join(o.dir, results.HistogramFile), []byte(b.String())); err != nil {
		m.reason(err)
	}
	o.cap.finish(o, m)
	sort.Strings(m.reasons)
	o.out.Validity.Reasons = m.reasons
	o.out.Validity.Valid = len(m.reasons) == 0
	o.out.Validity.Interrupted = m.interrupted
	if len(m.reasons) > 0 {
		os.Stderr.WriteString("invalid trial: " + strings.Join(m.reasons, "; ") + "\n")
	}
}

func clockSeconds(from, to int64) float64 { return float64(to-from) / 1e9 }

func (o *one) put(owner, metric string, v float64) {
	info, ok := results.LookupMetric(metric)
	if !ok {
		panic("no such metric: " + metric)
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return
	}
	o.out.Metrics[results.Key(owner, metric, "")] = results.Quantity{Value: v, Unit: info.Unit}
}

// quantiles of a record, by the metric's last word.
var quantiles = []struct {
	name string
	q    float64
}{{"p50", .5}, {"p90", .9}, {"p99", .99}, {"p999", .999}, {"max", 1}}

// minP999 is from how many samples on a 99.9th percentile is given.
const minP999 = 10000

func (o *one) clientMetrics(name string, r *program.ClientResult, m *measured, window float64) {
	for dist, h := range r.Histograms {
		if h.TotalCount() == 0 {
			continue
		}
		for _, q := range quantiles {
			metric := dist + "." + q.name
			if _, known := results.LookupMetric(metric); !known || q.name == "p999" && h.TotalCount() < minP999 {
				continue
			}
			if v, ok := results.Quantile(h, q.q); ok {
				o.put(name, metric, v)
			}
		}
	}
	o.put(name, "requests.offered", float64(r.Offered))
	o.put(name, "requests.sent", float64(r.Sent))
	o.put(name, "requests.ok", float64(r.OK))
	o.put(name, "requests.failed", float64(r.Failed))
	o.put(name, "requests.rate", float64(r.OK)/window)
	o.put(name, "goodput", float64(r.WindowBytesReceived)*8/window)
	o.put(name, "opens", float64(r.Opens))
	if r.Kind == clients.MQTT {
		o.put(name, "queue.depth.max", float64(r.QueueMax))
	}
	if r.Kind == clients.Bulk {
		o.bulkMetrics(name, r, window)
	}
	o.incarnationMetrics(name, r)
	for class, n := range r.Errors {
		o.put(name, "errors."+class, float64(n))
	}
	if r.FirstError > 0 {
		o.put(name, "first_error.time", clockSeconds(m.t0, r.FirstError))
	}
	for class, at := range r.First {
		o.put(name, "first."+class, clockSeconds(m.t0, at))
	}
	knee, height, ok := searchKnee(o.rec.get(name, "connect.call.p50"))
	if ok {
		o.put(name, "search_knee.time", knee)
		o.put(name, "search_knee.height", height)
	}
	if begin, end, ok := errorPeriod(o.rec.get(name, "failed")); ok {
		o.put(name, "error_period.time", end-begin)
		if done := sum(o.rec.get(name, "ok"), begin, end); done > 0 {
			o.put(name, "requests.period_rate", done/(end-begin))
		}
	}
	o.reconnects(name)
	for _, f := range o.arm.Faults {
		if f.OnKind == "client" && f.On != name {
			continue
		}
		at := f.At.Seconds()
		if detect, recover, ok := detection(o.events, name, at); ok {
			fault := "@" + f.Name
			info, _ := results.LookupMetric("detect.time")
			if detect >= 0 {
				o.out.Metrics[name+".detect.time"+fault] = results.Quantity{Value: detect, Unit: info.Unit}
			}
			if recover >= 0 {
				o.out.Metrics[name+".recover.time"+fault] = results.Quantity{Value: recover, Unit: info.Unit}
			}
			if r.Kind == clients.Bulk {
				if v, ok := believed(o.events, name, at); ok {
					o.out.Metrics[name+".believed.time"+fault] = results.Quantity{Value: v, Unit: "s"}
				}
			}
			if len(o.arm.Faults) == 1 {
				o.out.Metrics[name+".detect.time"] = o.out.Metrics[name+".detect.time"+fault]
			}
		}
	}
}

func (o *one) hostMetrics(m *measured, window float64) {
	for _, h := range o.arm.Hosts {
		facts := o.st.facts[h.Name]
		if c := m.counters[h.Name]; c != nil {
			facts.Counters = map[string]int64{}
			for k, v := range c {
				if v != 0 {
					facts.Counters[k] = v
				}
			}
			o.put(h.Name, "handshakes.count", float64(c["TcpActiveOpens"]))
			o.put(h.Name, "tcp.retransmits", float64(c["TcpRetransSegs"]))
			o.put(h.Name, "tcp.timeouts", float64(c["TcpExtTCPTimeouts"]))
		}
		if e, ok := o.smp.edges[h.Name]; ok && e[1].counters != nil && e[0].counters != nil {
			o.put(h.Name, "handshakes.rate", float64(e[1].counters["TcpActiveOpens"]-e[0].counters["TcpActiveOpens"])/window)
			o.put(h.Name, "time_wait.growth", float64(e[1].timeWait-e[0].timeWait))
		}
		from, to := clockSeconds(m.t0, m.from), clockSeconds(m.t0, m.to)
		for series, metric := range map[string]string{
			"sockets.time_wait": "sockets.time_wait.max", "sockets.established": "sockets.established.max",
			"sockets.close_wait": "sockets.close_wait.max", "sockets.syn_recv": "sockets.syn_recv.max", "sockets.fin_wait1": "sockets.fin_wait1.max", "ports.used": "ports.used.max",
			"accept.queue": "accept.queue.max",
		} {
			if v, ok := largest(o.rec.get(h.Name, series), from, to); ok {
				o.put(h.Name, metric, v)
			}
		}
		if first, last, ok := above(o.rec.get(h.Name, "sockets.fin_wait1"), from, to); ok {
			o.put(h.Name, "sockets.fin_wait1.time", last-first)
		}
		o.out.Hosts = append(o.out.Hosts, *facts)
	}
	if err := o.smp.err; err != nil {
		m.reason(fmt.Errorf("probe: %w", err))
	}
}

func (o *one) wireMetrics(m *measured, window float64) {
	for _, la := range o.st.top.links {
		spec := o.st.wires[la.link.Name]
		rec := results.Wire{Link: la.link.Name, Kind: string(spec.Kind), Fates: string(spec.Config.Fates), Directions: map[string]map[string]int64{}}
		r := m.wires[la.link.Name]
		if r == nil {
			o.out.Wires = append(o.out.Wires, rec)
			continue
		}
		rec.Release = r.Release
		total := map[string]int64{}
		for _, d := range []struct {
			from, to string
			c        wire.DirectionCounters
		}{{la.link.B, la.link.A, r.Counters.TowardsA}, {la.link.A, la.link.B, r.Counters.TowardsB}} {
			cs := program.Counts(d.c)
			rec.Directions[d.from+">"+d.to] = cs
			for k, v := range cs {
				if _, ok := results.LookupMetric(k); ok {
					o.put(la.link.Name+">"+d.to, k, float64(v))
					total[k] += v
				}
			}
		}
		for k, v := range total {
			o.put(la.link.Name, k, float64(v))
		}
		if l := r.Fates; l != nil {
			rec.Draws = int64(l.Seen())
			if err := o.writeFates(la.link.Name, l); err != nil {
				m.reason(err)
			}
			if l.Truncated() {
				o.warn("wire "+la.link.Name, "more random fates were drawn than are remembered: the share of packets with the same fate is that of the first ones")
			}
		}
		for _, e := range r.Counters.Errors {
			m.reason(fmt.Errorf("wire %s: %s", la.link.Name, e))
		}
		if h := r.DelayError; h != nil && h.Histogram != nil && h.TotalCount() > 0 {
			rec.DelayError = map[string]float64{}
			for _, q := range quantiles {
				if v, ok := results.Quantile(h.Histogram, q.q); ok {
					rec.DelayError[q.name] = v
				}
			}
		}
		o.out.Wires = append(o.out.Wires, rec)
	}
}

func (o *one) writeFates(link string, l *wire.FateLog) error {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	if err := json.NewEncoder(zw).Encode(l); err != nil {
		return err
	}
	if err := zw.Close(); err != nil {
		return err
	}
	return results.WriteFile(filepath.Join(o.dir, results.FatesFile(link)), b.Bytes())
}

func (o *one) agentRecords(m *measured, window float64) {
	for _, p := range o.st.procs {
		u := p.Usage()
		a := results.Agent{Name: p.Job.Name, Role: p.Job.Role, Kind: p.Job.Kind, Host: p.Job.Host,
			CPU: u.CPU, MaxRSS: u.MaxRSS, Nice: u.Nice, Waited: m.waits[p.Job.Name], Addresses: p.Ready.Addresses, Options: p.Ready.Options, Exit: p.Exit(), Stderr: p.Stderr()}
		if r := m.clients[p.Job.Name]; r != nil && p.Job.Role == program.RoleClient {
			a.Options, a.Argv = r.Options, r.Argv
		}
		if r := m.servers[p.Job.Name]; r != nil && p.Job.Role == program.RoleServer {
			// Of the first connection: what a listening socket says of
			// congestion control is not what its connections use.
			a.Argv = r.Argv
			if r.Options != nil {
				a.Options = r.Options
			}
		}
		if cc := a.Options["TCP_CONGESTION"]; cc != "" && p.Job.Role != program.RoleWire && (p.Job.Role == program.RoleClient || m.servers[p.Job.Name] != nil && m.servers[p.Job.Name].Accepted > 0) {
			if want := o.congestion(p.Job); want != "" && cc != want {
				m.reason(fmt.Errorf("%s %s uses congestion control %s, not %s as asked", p.Job.Role, p.Job.Name, cc, want))
			}
		}
		o.out.Agents = append(o.out.Agents, a)
		if o.w.virtual || u.CPU == 0 {
			continue
		}
		if u.CPUWindow == 0 {
			continue // a user's own program: what it cost is known at its end only
		}
		switch p.Job.Role {
		case program.RoleClient:
			o.put(p.Job.Name, "cpu.client", u.CPUWindow/window)
			if r := m.clients[p.Job.Name]; r != nil && r.OK > 0 {
				o.put(p.Job.Name, "cpu.request", u.CPUWindow/float64(r.OK))
			}
		case program.RoleServer:
			o.put(p.Job.Name, "cpu.server", u.CPUWindow/window)
		case program.RoleWire:
			o.put(p.Job.Name, "cpu.wire", u.CPUWindow/window)
		}
	}
}

// congestion is the congestion control that a program's connections are to
// use.
func (o *one) congestion(j agent.Job) string {
	for _, c := range o.arm.Clients {
		if j.Role == program.RoleClient && c.Name == j.Name && c.Options["TCP_CONGESTION"] != "" {
			return c.Options["TCP_CONGESTION"]
		}
	}
	for _, v := range o.arm.Servers {
		if j.Role == program.RoleServer && v.Name == j.Name && v.Options["TCP_CONGESTION"] != "" {
			return v.Options["TCP_CONGESTION"]
		}
	}
	return o.st.congestion(j.Host)
}

// largest is the highest value of a series in [from, to], s after go.
func largest(s results.Series, from, to float64) (float64, bool) {
	best, ok := 0.0, false
	for i, t := range s.T {
		if t >= from && t <= to+0.15 && (!ok || s.V[i] > best) {
			best, ok = s.V[i], true
		}
	}
	return best, ok
}

// above is when a series was first and last seen above 0 in [from, to], s after
// go.
func above(s results.Series, from, to float64) (first, last float64, ok bool) {
	for i, t := range s.T {
		if t < from || t > to || s.V[i] <= 0 {
			continue
		}
		if !ok {
			first, ok = t, true
		}
		last = t
	}
	return first, last, ok
}

// sum adds the bins of a series that begin in [from, to).
func sum(s results.Series, from, to float64) float64 {
	n := 0.0
	for i, t := range s.T {
		if t >= from-1e-9 && t < to-1e-9 {
			n += s.V[i]
		}
	}
	return n
}

const (
	kneeFactor = 5.0 // how far connect.call has to rise; 14 to 120 were seen
	kneeShare  = 0.9 // of the bins after it that stay risen: "for good"
	kneeRun    = 10  // bins that there have to be on either side
	burstGap   = 5.0 // s without an error that part two bursts

	// timeWait is TCP_TIMEWAIT_LEN (include/net/tcp.h), s: ports come back in
	// bursts from then on, and right after a burst the search is short again.
	timeWait = 60.0
)

// searchKnee finds where the median time inside connect() rises for good: the
// split of the series that parts its logarithms best (the largest variance
// between the two sides, Otsu 1979), so that neither slow bins on a busy
// machine nor a slow drift move it. It is a knee if the median after it is
// five times that before, and nine in ten bins after it are above the
// geometric middle of the two. Its height is that ratio. Only what happens
// before the first port comes back out of TIME-WAIT is looked at.
func searchKnee(s results.Series) (at, height float64, ok bool) {
	n := sort.SearchFloat64s(s.T, timeWait)
	s.T, s.V = s.T[:n], s.V[:n]
	if n < 2*kneeRun || slices.Min(s.V) <= 0 {
		return 0, 0, false
	}
	// Bins beyond the 5th and 95th percentiles count as those: a bin of a
	// second would weigh more than all others.
	sorted := slices.Sorted(slices.Values(s.V))
	low, high := sorted[n/20], sorted[n-1-n/20]
	logs := make([]float64, n+1) // logs[i] is the sum over s.V[:i]
	for i, v := range s.V {
		logs[i+1] = logs[i] + math.Log(min(max(v, low), high))
	}
	knee, best := 0, 0.0
	for i := kneeRun; i+kneeRun <= n; i++ {
		before, after := logs[i]/float64(i), (logs[n]-logs[i])/float64(n-i)
		if between := float64(i) * float64(n-i) * (after - before) * (after - before); after > before && between > best {
			knee, best = i, between
		}
	}
	if knee == 0 {
		return 0, 0, false
	}
	before, after := median(s.V[:knee]), median(s.V[knee:])
	risen := 0
	for _, v := range s.V[knee:] {
		if v > math.Sqrt(before*after) {
			risen++
		}
	}
	height = after / before
	return s.T[knee], height, height >= kneeFactor && float64(risen) >= kneeShare*float64(n-knee)
}

func median(vs []float64) float64 {
	c := append([]float64(nil), vs...)
	sort.Float64s(c)
	if len(c) == 0 {
		return 0
	}
	return (c[(len(c)-1)/2] + c[len(c)/2]) / 2
}

// errorPeriod finds the first two bursts of errors: from the first error of
// one to the first error of the next.
func errorPeriod(s results.Series) (first, second float64, ok bool) {
	last, begun := 0.0, false
	for i, t := range s.T {
		if s.V[i] == 0 {
			continue
		}
		switch {
		case !begun:
			first, begun = t, true
		case t-last > burstGap:
			return first, t, true
		}
		last = t
	}
	return 0, 0, false
}

// detection reads a client's own events: how long after the instant at its
// first error came, and its first success after that; -1 where none did.
func detection(events []eventLine, client string, at float64) (detect, recover float64, ok bool) {
	detect, recover = -1, -1
	for _, e := range events {
		if e.Agent != client || e.T < at {
			continue
		}
		switch e.Event {
		case "failing":
			if detect < 0 {
				detect, ok = e.T-at, true
			}
		case "working":
			if recover < 0 {
				recover, ok = e.T-at, true
			}
		}
	}
	return detect, recover, ok
}
