package plots

import (
	"strings"

	"gonum.org/v1/plot/vg"
)

// closeWait: sockets that their program has not closed though the peer has,
// and the descriptors that they hold, with the moments at which it shows.
func (b builder) closeWait() (chart, bool) {
	c := chart{
		file: "close-wait",
		x:    axis{label: sinceGo, zero: true},
		y:    axis{label: "sockets in CLOSE-WAIT; thin: most descriptors that the server has had open", zero: true},
	}
	if !b.speaksOf("sockets.close_wait.max") {
		return c, false
	}
	most := 0.0
	host := ""
	for _, m := range b.arms {
		for _, h := range b.hs {
			if v := largest(m.series[h+".sockets.close_wait"]); v > most {
				most, host = v, h
			}
		}
	}
	if most < fewSockets {
		return c, false
	}
	var parts []string
	for _, m := range b.arms {
		s, ok := m.series[host+".sockets.close_wait"]
		if !ok || len(s.T) < 2 {
			continue
		}
		l := line{label: m.name + ": CLOSE-WAIT", look: m.index}
		l.x, l.y = peaks(s)
		c.lines = append(c.lines, l)
		parts = append(parts, m.name+" "+count(largest(s)))
		// One program's descriptors, where there is but one that says.
		for _, k := range sortedKeys(m.series) {
			if d := m.series[k]; strings.HasSuffix(k, ".descriptors") && len(d.T) > 1 {
				t := line{label: m.name + ": descriptors", look: m.index, thin: true}
				t.x, t.y = peaks(d)
				c.lines = append(c.lines, t)
				break
			}
		}
	}
	if len(c.lines) == 0 {
		return c, false
	}
	base := baseline(b.r)
	for _, r := range []struct{ metric, text string }{
		{"accept.failed.time", "accept() fails"},
		{"first.deadline", "first request without an answer"},
		{"first.connect_deadline", "first connect() that times out"},
	} {
		if m, ok := b.metric(base, r.metric); ok {
			dash := []vg.Length{vg.Length(len(c.rules)*3 + 2), 3}
			c.rules = append(c.rules, rule{label: base + ": " + r.text, vertical: true, at: m.Value, look: b.look(base), dash: dash})
		}
	}
	c.title = "Most sockets in CLOSE-WAIT on " + host + ": " + join(front(parts))
	c.caption = b.timeCaption("CLOSE-WAIT from inet_diag; descriptors as the kernel lists those of the process. Nothing but the program's own close() ends a descriptor.")
	c.alt = c.title + ". " + b.values("accept.failed.time", "accept() fails after")
	return c, true
}

// speaksOf says whether an expectation or a prediction names a metric.
func (b builder) speaksOf(metric string) bool {
	for _, k := range spokenOf(b.r) {
		if _, m := splitMetric(k); m == metric {
			return true
		}
	}
	return false
}
