package plots

import "tcplab/results"

// Two connections with the same ports have no requests: what is shown of them
// is what each moved, and what came out of the second one.

var incarnationWants = []want{
	{metric: "incarnation.bytes", label: "first connection, each way"},
	{metric: "incarnation.rate", label: "its rate, each way"},
	{metric: "incarnation.connect", label: "second connect()", zero: true},
	{metric: "errors.*", label: ""},
	{metric: "first_error.time", label: "first error after", zero: true},
	{metric: "incarnation.behind", label: "it begins behind the old segment", zero: true},
	{metric: "incarnation.written", label: "written to it", zero: true},
}

// readWants are the server's account of the same.
var readWants = []want{
	{metric: "incarnation.read", label: "read from it", zero: true},
	{metric: "stale.bytes", label: "of these, bytes of the first one", zero: true},
}

// incarnationsOf are the clients that have two connections one after the other.
func incarnationsOf(r *results.Run) map[string]bool {
	out := map[string]bool{}
	for _, t := range trials(r) {
		for _, a := range t.Agents {
			if a.Role == "client" && a.Kind == "incarnations" {
				out[a.Name] = true
			}
		}
	}
	return out
}

// addIncarnations adds the rows of such a client, and of the servers that read
// what it wrote.
func (t *table) addIncarnations(rows []row, r *results.Run, client string, used map[string]bool) []row {
	rows = t.add(rows, r, client, incarnationWants, "", false, used)
	servers := map[string]bool{}
	for _, tr := range trials(r) {
		for _, a := range tr.Agents {
			if a.Role == "server" && !servers[a.Name] {
				servers[a.Name] = true
				rows = t.add(rows, r, a.Name, readWants, "", false, used)
			}
		}
	}
	// How long a run takes that is over when it is over tells nothing.
	for _, m := range []string{"handshakes.rate", "handshakes.count", "ports.used.max", "sockets.time_wait.max"} {
		used[client+"."+m] = true
	}
	return rows
}

// staleBytes: what each arm let the application read of the first connection.
func (b builder) staleBytes() (chart, bool) {
	c := chart{
		file: "stale",
		x:    axis{label: "bytes of the first connection that the application read in the second", zero: true},
		y:    axis{kind: barRows},
	}
	var in, out []string
	for i, m := range b.arms {
		s, ok := b.stale(m.name)
		if !ok {
			continue
		}
		text := m.name + ": none"
		if s.Value > 0 {
			text = m.name + ": " + count(s.Value)
			in = append(in, m.name)
		} else {
			out = append(out, m.name)
		}
		if t, ok := b.metric(m.name, "errors.ETIMEDOUT"); ok && t.Value > 0 && s.Value == 0 {
			text += ", nobody got in"
		}
		c.bars = append(c.bars, bar{look: m.index, at: float64(len(b.arms) - 1 - i), to: s.Value, text: text})
	}
	if len(c.bars) < 2 {
		return c, false
	}
	c.y.min, c.y.max = -0.5, float64(len(b.arms))-0.5
	switch {
	case len(in) == 0:
		c.title = "No arm lets old bytes in"
	case len(out) == 0:
		c.title = "Every arm lets old bytes in"
	default:
		c.title = "Old bytes are read in " + join(in) + ", and in no other arm"
	}
	c.caption = "One segment of the first connection, held by the wire, came in the second one, which had the same ports. Each byte says which connection it is of."
	c.alt = c.title + "."
	return c, true
}

// stale is what an arm's servers read of an earlier connection.
func (b builder) stale(arm string) (results.Metric, bool) {
	for _, tr := range b.r.Arms[arm].Trials {
		for _, a := range tr.Agents {
			if m, ok := b.r.Arms[arm].Metrics[a.Name+".stale.bytes"]; ok && a.Role == "server" && m.N > 0 {
				return m, true
			}
		}
	}
	return results.Metric{}, false
}
