package results

import (
	"sort"
	"strings"
)

// Key is how a metric of a thing is written in a record: OWNER.METRIC, with
// @FAULT where it was taken at one. The owner of a link's direction is
// LINK>HOST.
func Key(owner, metric, fault string) string {
	k := owner + "." + metric
	if fault != "" {
		k += "@" + fault
	}
	return k
}

// Metric looks a measured value up. The owner may be "" where one thing has
// the metric. Error classes that never occurred are 0 for a client that was
// measured, and so are kernel counters that did not move.
func (t *Trial) Metric(owner, metric, fault string) (Quantity, bool) {
	if owner != "" {
		if q, ok := t.Metrics[Key(owner, metric, fault)]; ok {
			return q, true
		}
		return t.zero(owner, metric)
	}
	var found Quantity
	n := 0
	for k, q := range t.Metrics {
		if o, ok := strings.CutSuffix(k, Key("", metric, fault)); ok && o != "" && !strings.Contains(o, ".") && !strings.Contains(o, ">") {
			found = q
			n++
		}
	}
	if n == 1 {
		return found, true
	}
	if n > 1 {
		return Quantity{}, false
	}
	if strings.HasPrefix(metric, "errors.") {
		if cs := t.clients(); len(cs) == 1 {
			return t.zero(cs[0], metric)
		}
	}
	return Quantity{}, false
}

func (t *Trial) zero(owner, metric string) (Quantity, bool) {
	if strings.HasPrefix(metric, "errors.") {
		_, measured := t.Metrics[Key(owner, "requests.failed", "")]
		return Quantity{Unit: "1"}, measured
	}
	if name, ok := strings.CutPrefix(metric, "snmp."); ok {
		for _, h := range t.Hosts {
			if h.Name == owner && h.Counters != nil {
				return Quantity{Value: float64(counter(h.Counters, name)), Unit: "1"}, true
			}
		}
	}
	return Quantity{}, false
}

// counter finds ActiveOpens as well as TcpActiveOpens.
func counter(cs map[string]int64, name string) int64 {
	if v, ok := cs[name]; ok {
		return v
	}
	for _, prefix := range []string{"Tcp", "TcpExt", "Ip", "IpExt", "Icmp", "Udp"} {
		if v, ok := cs[prefix+name]; ok {
			return v
		}
	}
	return 0
}

func (t *Trial) clients() []string {
	var cs []string
	for k := range t.Metrics {
		if o, ok := strings.CutSuffix(k, ".requests.failed"); ok {
			cs = append(cs, o)
		}
	}
	sort.Strings(cs)
	return cs
}

// Summarise gives an arm's metrics over its valid trials: the median, with
// the lowest and the highest.
func (a *Arm) Summarise() {
	a.Metrics = map[string]Metric{}
	seen := map[string][]float64{}
	for _, t := range a.Trials {
		if !t.Validity.Valid && len(a.Trials) > 1 {
			continue
		}
		for k, q := range t.Metrics {
			seen[k] = append(seen[k], q.Value)
			a.Metrics[k] = Metric{Unit: q.Unit}
		}
	}
	for k, vs := range seen {
		sort.Float64s(vs)
		m := a.Metrics[k]
		n := len(vs)
		m.Value, m.N, m.Low, m.High = (vs[(n-1)/2]+vs[n/2])/2, n, vs[0], vs[n-1]
		a.Metrics[k] = m
	}
}
