package plots

import (
	"math"
	"strings"

	"tcplab/results"
)

// few is how many arms a title names one by one.
const few = 3

// percents writes the range of some shares, rounded down.
func percents(vs []float64) string {
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, v := range vs {
		v = math.Floor(1000*v) / 10
		lo, hi = min(lo, v), max(hi, v)
	}
	if lo == hi {
		return trimZeros(number(lo, 3)) + "%"
	}
	return trimZeros(number(lo, 3)) + "% to " + trimZeros(number(hi, 3)) + "%"
}

// counts writes the range of some counts.
func counts(vs []float64) string {
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, v := range vs {
		lo, hi = min(lo, v), max(hi, v)
	}
	if lo == hi {
		return count(lo)
	}
	return count(lo) + " to " + count(hi)
}

// metric finds an arm's metric whoever owns it, the first client first.
func (b builder) metric(arm, metric string) (results.Metric, bool) {
	return metricAnyOwner(b.r, b.ps, b.hs, arm, metric)
}

func metricAnyOwner(r *results.Run, ps []program, hs []string, arm, metric string) (results.Metric, bool) {
	var owners []string
	for _, p := range ps {
		owners = append(owners, p.name, p.host)
	}
	for _, o := range append(owners, hs...) {
		if m, ok := r.Arms[arm].Metrics[o+"."+metric]; ok && m.N > 0 {
			return m, true
		}
	}
	return results.Metric{}, false
}

// upTo writes a range, and a single value as one.
func upTo(lo, hi string) string {
	if lo == hi {
		return lo
	}
	return lo + " to " + hi
}

// total adds a metric up over the clients that make requests.
func (b builder) total(arm, metric string) (sum float64, ok bool) {
	for _, p := range b.requesters() {
		if m, has := b.r.Arms[arm].Metrics[p.name+"."+metric]; has && m.N > 0 {
			sum, ok = sum+m.Value, true
		}
	}
	return sum, ok
}

// opens adds up the handshakes of the clients' hosts.
func (b builder) opens(arm string) (sum float64, ok bool) {
	for _, h := range b.hs {
		if m, has := b.r.Arms[arm].Metrics[h+".handshakes.count"]; has && m.N > 0 && b.isClientHost(h) {
			sum, ok = sum+m.Value, true
		}
	}
	return sum, ok
}

// each states a metric of every arm that has it, or between which values they
// lie: "Median latency: a 21 ms and b 11 ms".
func (b builder) each(metric, noun string) string {
	var parts []string
	var all []float64
	unit := ""
	for _, m := range b.arms {
		if v, ok := b.metric(m.name, metric); ok {
			parts = append(parts, m.name+" "+value(metric, v.Value, v.Unit, 3))
			all, unit = append(all, v.Value), v.Unit
		}
	}
	if len(parts) > few {
		lo, hi := bounds(all)
		parts = []string{upTo(value(metric, lo, unit, 3), value(metric, hi, unit, 3))}
	}
	if len(parts) == 0 {
		return noun + " over time"
	}
	return noun + ": " + join(parts)
}

// values lists a metric for every arm that has it: "p50: a 21 ms, b 11 ms."
func (b builder) values(metric, name string) string {
	var parts []string
	for _, n := range armNames(b.r) {
		if m, ok := b.metric(n, metric); ok {
			parts = append(parts, n+" "+value(metric, m.Value, m.Unit, 3))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.ToUpper(name[:1]) + name[1:] + ": " + strings.Join(parts, ", ") + "."
}

// compare states a finding: what the best arm does to the baseline's metric.
func (b builder) compare(metric, noun, otherwise string) string {
	return finding(b.r, b.ps, b.hs, metric, noun, otherwise)
}

func finding(r *results.Run, ps []program, hs []string, metric, noun, otherwise string) string {
	base := baseline(r)
	was, ok := metricAnyOwner(r, ps, hs, base, metric)
	if !ok {
		return otherwise
	}
	best, found, arms := "", results.Metric{}, 0
	for _, n := range armNames(r) {
		m, ok := metricAnyOwner(r, ps, hs, n, metric)
		if n == base || !ok {
			continue
		}
		arms++
		if best == "" || math.Abs(math.Log((m.Value+1e-12)/(was.Value+1e-12))) > math.Abs(math.Log((found.Value+1e-12)/(was.Value+1e-12))) {
			best, found = n, m
		}
	}
	a, b := value(metric, found.Value, found.Unit, 3), value(metric, was.Value, was.Unit, 3)
	if best == "" {
		return otherwise + ": " + b + " in " + base
	}
	if a == b && arms > 1 {
		return "No arm changes the " + noun + ": " + a
	}
	s := best + " " + verb(found.Value, was.Value, noun, a == b)
	if a == b {
		return s + ": " + a
	}
	s += ": " + a + " instead of " + b
	if arms > 1 {
		s += " in " + base
	}
	return s
}

// nounOf is what a title calls a metric; "" for those that make no finding.
func nounOf(metric string) string {
	name, fault, _ := strings.Cut(metric, "@")
	if class, ok := strings.CutPrefix(name, "errors."); ok {
		return class + " errors"
	}
	noun := map[string]string{
		"latency.p50": "median latency", "latency.p99": "99th percentile of latency", "service.p50": "median service time",
		"detect.time": "time to detect", "recover.time": "time to recover", "goodput": "goodput", "requests.failed": "failed requests",
		"handshakes.count": "handshakes", "handshakes.rate": "handshakes per second", "cpu.request": "CPU per request",
		"stale.bytes": "old bytes that were read", "sockets.time_wait.max": "sockets in TIME-WAIT", "sockets.close_wait.max": "sockets in CLOSE-WAIT", "tcp.retransmits": "retransmissions",
	}[name]
	if noun != "" && fault != "" {
		noun += " " + fault
	}
	return noun
}

// changes says that an arm has another value of a metric than the baseline.
func changes(r *results.Run, ps []program, hs []string, metric string) bool {
	was, ok := metricAnyOwner(r, ps, hs, baseline(r), metric)
	if !ok {
		return false
	}
	for _, n := range armNames(r) {
		if m, ok := metricAnyOwner(r, ps, hs, n, metric); ok && math.Abs(m.Value-was.Value) > 0.03*math.Abs(was.Value) {
			return true
		}
	}
	return false
}

// verb words the step from b to a.
func verb(a, b float64, noun string, same bool) string {
	q := a / b
	switch {
	case same || q > 0.97 && q < 1.03:
		return "leaves the " + noun + " as it was"
	case b == 0:
		return "raises the " + noun
	case a == 0:
		return "brings the " + noun + " to nothing"
	case q >= 0.45 && q <= 0.55:
		return "halves the " + noun
	case q < 0.45:
		return "cuts the " + noun + " by a factor of " + number(1/q, 2)
	case q < 1:
		return "lowers the " + noun + " by " + number(100*(1-q), 2) + "%"
	case q >= 1.9 && q <= 2.1:
		return "doubles the " + noun
	case q > 2.1:
		return "raises the " + noun + " by a factor of " + number(q, 2)
	}
	return "raises the " + noun + " by " + number(100*(q-1), 2) + "%"
}

// join writes "a, b and c".
func join(parts []string) string {
	switch n := len(parts); n {
	case 0:
		return ""
	case 1:
		return parts[0]
	default:
		return strings.Join(parts[:n-1], ", ") + " and " + parts[n-1]
	}
}
