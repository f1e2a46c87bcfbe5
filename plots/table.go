package plots

import (
	"regexp"
	"slices"
	"strings"

	"tcplab/results"
)

// The before/after table as data: the terminal, Markdown and HTML draw the
// same cells.
type table struct {
	arms   []column
	blocks []block
}

type column struct {
	name        string
	baseline    bool
	unsupported string
	trials      int
	invalid     int // trials that do not count
}

// A block is one client's rows; title is empty where there is but one.
type block struct {
	title string
	rows  []row
}

type row struct {
	metric string // OWNER.METRIC
	label  string
	about  string
	cells  []cell // one for each arm
}

type cell struct {
	value  string // none where absent
	spread string // "11.0 ms–11.5 ms" over several trials
	change string // against the baseline; empty in the baseline's own column
}

// A want is a row that a table may have.
type want struct {
	metric string // without owner; a trailing * stands for any rest
	label  string
	core   bool // shown though no arm has it
	zero   bool // shown though it is 0 in every arm
}

// The order of rows: what the user feels, what it costs the kernel, then why.
var wants = []want{
	{metric: "latency.p50", label: "latency p50", core: true, zero: true},
	{metric: "latency.p99", label: "latency p99", core: true, zero: true},
	{metric: "latency.p999", label: "latency p99.9", zero: true},
	{metric: "requests.ok", label: "requests completed", core: true, zero: true},
	{metric: "requests.failed", label: "requests failed"},
	{metric: "errors.EADDRNOTAVAIL", label: "EADDRNOTAVAIL", zero: true},
	{metric: "errors.*", label: ""},
	{metric: "failure.p50", label: "time to fail p50"},
	{metric: "first_error.time", label: "first error after", zero: true},
	{metric: "error_period.time", label: "error period"},
	{metric: "requests.period_rate", label: "completed, whole periods"},
	{metric: "detect.time*", label: "detected after", zero: true},
	{metric: "recover.time*", label: "recovered after", zero: true},
	{metric: "goodput", label: "goodput"},
	{metric: "connect.p50", label: "connect p50"},
	{metric: "search_knee.time", label: "connect() slows after"},
	{metric: "search_knee.height", label: "connect() slows by"},
	{metric: "cpu.request", label: "CPU per request", core: true, zero: true},
}

var hostWants = []want{
	{metric: "handshakes.rate", label: "handshakes", core: true, zero: true},
	{metric: "handshakes.count", label: "handshakes, whole trial", zero: true},
	{metric: "sockets.time_wait.max", label: "TIME-WAIT, most", core: true, zero: true},
	{metric: "ports.used.max", label: "ports used, most"},
	{metric: "sockets.close_wait.max", label: "CLOSE-WAIT, most"},
	{metric: "sockets.syn_recv.max", label: "SYN-RECV, most"},
	{metric: "tcp.retransmits", label: "retransmissions"},
	{metric: "tcp.timeouts", label: "retransmission timeouts"},
}

// flowWants are the rows of a client that sends as fast as it can, which makes
// no requests. What its host counts is its own count again.
var flowWants = []want{
	{metric: "goodput", label: "goodput", core: true, zero: true},
	{metric: "tcp.rtt.p50", label: "round trip p50"},
	{metric: "tcp.cwnd.p50", label: "congestion window p50"},
	{metric: "tcp.resent", label: "segments sent again", zero: true},
	{metric: "tcp.resent.share", label: "share sent again", zero: true},
	{metric: "tcp.bbr.bandwidth.p50", label: "BBR's bandwidth p50"},
	{metric: "tcp.bbr.minrtt.min", label: "BBR's round trip, least"},
	{metric: "errors.*", label: ""},
}

// otherWants are the rows of hosts without a client: only what is not zero
// somewhere.
var otherWants = []want{
	{metric: "sockets.time_wait.max", label: "TIME-WAIT, most"},
	{metric: "sockets.close_wait.max", label: "CLOSE-WAIT, most"},
	{metric: "sockets.syn_recv.max", label: "SYN-RECV, most"},
	{metric: "tcp.retransmits", label: "retransmissions"},
	{metric: "tcp.timeouts", label: "retransmission timeouts"},
}

// newTable picks the rows: those of every report, and those of metrics that
// the experiment's expectations and predictions speak of.
func newTable(r *results.Run) table {
	if t, ok := sweepTable(r); ok {
		return t
	}
	names := armNames(r)
	var t table
	for _, n := range names {
		c := column{name: n, baseline: r.Arms[n].Baseline, unsupported: r.Arms[n].Unsupported, trials: len(r.Arms[n].Trials)}
		for _, tr := range r.Arms[n].Trials {
			if !tr.Validity.Valid {
				c.invalid++
			}
		}
		t.arms = append(t.arms, c)
	}
	ps, hs := programs(r), hosts(r)
	spoken := spokenOf(r)
	used := map[string]bool{}
	hostDone := map[string]bool{}
	flows, reborn := flowsOf(r), incarnationsOf(r)
	onlyFlows := len(flows) == len(ps)
	for _, p := range ps {
		b := block{}
		if len(ps) > 1 {
			b.title = "client " + p.name
			if p.host != "" && p.host != p.name {
				b.title += " on " + p.host
			}
		}
		// A user's own program that writes no events has no row of dashes.
		if flows[p.name] {
			b.rows = t.add(b.rows, r, p.name, flowWants, "", true, used)
			for _, w := range hostWants {
				used[p.host+"."+w.metric] = used[p.host+"."+w.metric] || onlyFlows
			}
		} else if reborn[p.name] {
			b.rows = t.addIncarnations(b.rows, r, p.name, used)
		} else {
			b.rows = t.add(b.rows, r, p.name, wants, "", !silent(r, p.name), used)
		}
		if p.host != "" && !hostDone[p.host] {
			hostDone[p.host] = true
			b.rows = t.add(b.rows, r, p.host, hostWants, "", true, used)
		}
		t.blocks = append(t.blocks, b)
	}
	if len(t.blocks) == 0 {
		t.blocks = []block{{}}
	}
	last := &t.blocks[0]
	if len(ps) > 1 {
		t.blocks = append(t.blocks, block{title: "other hosts"})
		last = &t.blocks[len(t.blocks)-1]
	}
	// Other hosts: only what is not zero. Who closes first keeps the
	// TIME-WAIT, and that may be the server.
	for _, h := range hs {
		if hostDone[h] {
			continue
		}
		last.rows = t.add(last.rows, r, h, otherWants, " ("+h+")", false, used)
	}
	// What the experiment speaks of and no row shows yet.
	for _, key := range spoken {
		if used[key] {
			continue
		}
		owner, metric := splitMetric(key)
		last.rows = t.add(last.rows, r, owner, []want{{metric: metric, label: labelOf(metric), zero: true}}, ofOwner(owner, ps), false, used)
	}
	if len(last.rows) == 0 && len(t.blocks) > 1 {
		t.blocks = t.blocks[:len(t.blocks)-1]
	}
	return t
}

// silent says that a client left no metric of its own though others did.
func silent(r *results.Run, client string) bool {
	any := false
	for _, n := range armNames(r) {
		for k := range r.Arms[n].Metrics {
			any = true
			owner, metric := splitMetric(k)
			if i, ok := results.LookupMetric(metric); ok && owner == client && i.NeedsEvents {
				return false
			}
		}
	}
	return any
}

// labelOf is what a row is called that only an expectation asks for.
func labelOf(metric string) string {
	if class, ok := strings.CutPrefix(metric, "first."); ok {
		return "first " + class + " after"
	}
	for _, ws := range [][]want{wants, hostWants, rare} {
		for _, w := range ws {
			if w.metric == metric {
				return w.label
			}
			if base, fault, at := strings.Cut(metric, "@"); at && w.metric == base {
				return w.label + " (" + fault + ")"
			}
		}
	}
	return metric
}

// rare rows are shown only where the experiment speaks of them.
var rare = []want{
	{metric: "opens", label: "opens, the client's count"},
	{metric: "requests.offered", label: "requests offered"},
	{metric: "failure.max", label: "time to fail, longest"},
	{metric: "latency.max", label: "latency, longest"},
	{metric: "accept.queue.max", label: "accept queue, longest"},
	{metric: "accept.failed", label: "accept() failed"},
	{metric: "accept.failed.time", label: "accept() fails after"},
	{metric: "descriptors.max", label: "descriptors, most"},
	{metric: "syns.sent", label: "SYNs of the flood"},
	{metric: "tcp.wscale", label: "window scaling"},
	{metric: "tcp.sack", label: "SACK"},
	{metric: "tcp.timestamps", label: "timestamps"},
	{metric: "first_syns", label: "first SYNs"},
	{metric: "retransmitted_syns", label: "SYNs sent again"},
	{metric: "time_wait.growth", label: "TIME-WAIT, growth"},
	{metric: "lost", label: "lost on the wire"},
	{metric: "queue_dropped", label: "dropped at the queue"},
	{metric: "queue.depth.max", label: "queue, longest"},
	{metric: "written", label: "bytes that write() took"},
	{metric: "believed", label: "bytes believed delivered"},
	{metric: "believed.time", label: "believed delivered for"},
	{metric: "received", label: "bytes that arrived"},
	{metric: "acknowledged", label: "bytes acknowledged by the server"},
	{metric: "sockets.fin_wait1.max", label: "FIN-WAIT-1, most"},
	{metric: "sockets.fin_wait1.time", label: "FIN-WAIT-1 lived"},
	{metric: "rto.steps", label: "retransmissions in the chain"},
	{metric: "rto.beyond", label: "retransmissions off their time"},
	{metric: "keepalive.steps", label: "keepalive probes"},
	{metric: "keepalive.beyond", label: "keepalive probes off their time"},
	{metric: "conntrack.entries.max", label: "tracked connections, most"},
	{metric: "conntrack.invalid", label: "INVALID packets"},
	{metric: "conntrack.invalid.time", label: "first INVALID packet after"},
	{metric: "conntrack.drop", label: "dropped by a full table"},
	{metric: "conntrack.early_drop", label: "dropped early to make room"},
	{metric: "conntrack.log_lines", label: "lines in the kernel's log"},
	{metric: "conntrack.left", label: "entry's time left"},
	{metric: "reconnects.drift", label: "reconnects drift a day"},
	{metric: "reconnects.timer", label: "reconnects follow a timer"},
}

func ofOwner(owner string, ps []program) string {
	if len(ps) == 1 && (owner == ps[0].name || owner == ps[0].host) {
		return ""
	}
	return " (" + owner + ")"
}

func (t *table) add(rows []row, r *results.Run, owner string, ws []want, suffix string, core bool, used map[string]bool) []row {
	for _, w := range ws {
		metrics := []string{w.metric}
		if prefix, any := strings.CutSuffix(w.metric, "*"); any {
			metrics = measuredWith(r, owner, prefix)
			if strings.HasSuffix(prefix, ".time") {
				metrics = worthARow(metrics, owner, spokenOf(r))
			}
		}
		if i, ok := results.LookupMetric(w.metric); ok && i.RealClock && r.Environment.Clock == "virtual" {
			continue // CPU costs nothing there: a dash would say that it was forgotten
		}
		for _, m := range metrics {
			key := owner + "." + m
			if used[key] {
				continue
			}
			label := w.label
			if class, ok := strings.CutPrefix(m, "errors."); ok {
				label = class
			}
			if _, fault, ok := strings.Cut(m, "@"); ok {
				label += " (" + fault + ")"
			}
			row, present, zero := t.row(r, key, label+suffix)
			if !present && !(core && w.core) || present && zero && !w.zero {
				continue
			}
			used[key] = true
			rows = append(rows, row)
		}
	}
	return once(rows)
}

// worthARow picks among a metric and its kin at each fault: what the
// experiment speaks of, and otherwise the one without a fault. A sheet may have
// a dozen faults, and most of them only look.
func worthARow(metrics []string, owner string, spoken []string) []string {
	var out []string
	for _, m := range metrics {
		if slices.Contains(spoken, owner+"."+m) {
			out = append(out, m)
		}
	}
	switch {
	case len(out) > 0:
		return out
	case len(metrics) > 0 && !strings.Contains(metrics[0], "@"):
		return metrics[:1]
	case len(metrics) == 1:
		return metrics
	}
	return nil
}

// once leaves out the number of all failed requests where a single class of
// errors says the same.
func once(rows []row) []row {
	same := func(a, b row) bool { return slices.Equal(a.cells, b.cells) }
	for i, r := range rows {
		if !strings.HasSuffix(r.metric, ".requests.failed") {
			continue
		}
		for _, e := range rows {
			if strings.Contains(e.metric, ".errors.") && same(r, e) {
				return slices.Delete(rows, i, i+1)
			}
		}
	}
	return rows
}

// measuredWith lists the metrics of owner that start with prefix, in any arm.
func measuredWith(r *results.Run, owner, prefix string) []string {
	set := map[string]bool{}
	for _, n := range armNames(r) {
		for k := range r.Arms[n].Metrics {
			if o, m := splitMetric(k); o == owner && strings.HasPrefix(m, prefix) {
				set[m] = true
			}
		}
	}
	return sortedKeys(set)
}

func (t *table) row(r *results.Run, key, label string) (out row, present, zero bool) {
	_, metric := splitMetric(key)
	out = row{metric: key, label: label}
	if i, ok := results.LookupMetric(strings.SplitN(metric, "@", 2)[0]); ok {
		out.about = i.About
	}
	base, hasBase := armMetric(r, baseline(r), key)
	zero = true
	for _, c := range t.arms {
		m, ok := armMetric(r, c.name, key)
		if !ok || m.N == 0 {
			out.cells = append(out.cells, cell{value: none})
			continue
		}
		present = true
		zero = zero && m.Value == 0
		digits := 3
		if strings.HasSuffix(metric, ".time") || strings.Contains(metric, ".time@") {
			digits = 4 // moments, which predictions are about
		}
		d := cell{value: value(metric, m.Value, m.Unit, digits)}
		if m.N > 1 {
			lo, hi := value(metric, m.Low, m.Unit, digits), value(metric, m.High, m.Unit, digits)
			if lo != hi {
				d.spread = lo + " … " + hi
			}
		}
		if hasBase && base.N > 0 && !c.baseline {
			d.change = change(metric, m.Value, base.Value, m.Unit)
		}
		out.cells = append(out.cells, d)
	}
	return out, present, zero
}

// armMetric is an arm's metric. A class of errors that a client never saw is
// 0, as its definition says: it counted its failures, and this was not among
// them.
func armMetric(r *results.Run, arm, key string) (results.Metric, bool) {
	ms := r.Arms[arm].Metrics
	if m, ok := ms[key]; ok {
		return m, true
	}
	owner, metric := splitMetric(key)
	if failed, ok := ms[owner+".requests.failed"]; ok && strings.HasPrefix(metric, "errors.") {
		return results.Metric{Unit: "1", N: failed.N}, true
	}
	return results.Metric{}, false
}

var words = regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_\->]*(?:\.[A-Za-z0-9_\->]+)+(?:@[A-Za-z0-9_\-]+)?`)

// spokenOf lists the OWNER.METRIC keys that expectations and predictions
// name, in their order.
func spokenOf(r *results.Run) []string {
	var texts []string
	for _, n := range byPosition(r.Expectations, func(e results.Expectation) int { return e.Position }) {
		texts = append(texts, r.Expectations[n].That)
	}
	for _, n := range byPosition(r.Predictions, func(p results.Prediction) int { return p.Position }) {
		texts = append(texts, r.Predictions[n].Of)
	}
	seen := map[string]bool{}
	var keys []string
	for _, text := range texts {
		for _, w := range words.FindAllString(text, -1) {
			arm, rest, _ := strings.Cut(w, ".")
			a, ok := r.Arms[arm]
			if !ok {
				continue
			}
			for _, k := range sortedKeys(a.Metrics) {
				_, metric := splitMetric(k)
				if (k == rest || metric == rest) && !seen[k] {
					seen[k] = true
					keys = append(keys, k)
				}
			}
		}
	}
	return keys
}

func byPosition[V any](m map[string]V, position func(V) int) []string {
	names := sortedKeys(m)
	// Insertion by position keeps names apart that share one.
	for i := 1; i < len(names); i++ {
		for j := i; j > 0 && position(m[names[j]]) < position(m[names[j-1]]); j-- {
			names[j], names[j-1] = names[j-1], names[j]
		}
	}
	return names
}

// heading is an arm's name with what a reader must know about the column.
func (c column) heading() []string {
	h := []string{c.name}
	switch {
	case c.unsupported != "":
		h = append(h, "unsupported")
	case c.baseline:
		h = append(h, "baseline")
	}
	switch {
	case c.trials == 0 && c.unsupported == "":
		h = append(h, "not measured")
	case c.invalid > 0 && c.trials == c.invalid:
		h = append(h, "invalid")
	case c.invalid > 0:
		h = append(h, plural(c.invalid, "trial")+" of "+count(float64(c.trials))+" invalid")
	}
	return h
}

// terminal is the width beyond which Table breaks into several, the baseline
// repeated in each.
const terminal = 80

// Table is the before/after table for a terminal: the baseline first, then
// every arm with its change against it. Of a run whose arms say what they cost
// it is what each bought at which price; the report has both.
func Table(r *results.Run) string {
	if l, ok := newFixLadder(r); ok {
		return l.terminal()
	}
	t := newTable(r)
	if len(t.arms) == 0 {
		return "no arm was measured\n"
	}
	// text[i] are the lines of column i; column 0 are the labels.
	type line struct {
		cells []string
		title bool
		rule  bool
	}
	var lines []line
	depth := 1
	for _, a := range t.arms {
		depth = max(depth, len(a.heading()))
	}
	for d := range depth {
		l := line{cells: []string{""}}
		for _, a := range t.arms {
			h := ""
			if hs := a.heading(); d < len(hs) {
				h = hs[d]
				if d > 0 {
					h = "(" + h + ")"
				}
			}
			l.cells = append(l.cells, h)
		}
		lines = append(lines, l)
	}
	lines = append(lines, line{rule: true})
	for _, b := range t.blocks {
		if b.title != "" {
			lines = append(lines, line{cells: []string{b.title}, title: true})
		}
		for _, r := range b.rows {
			l := line{cells: []string{r.label}}
			for _, c := range r.cells {
				s := c.value
				if c.change != "" {
					s += "  (" + c.change + ")"
				}
				l.cells = append(l.cells, s)
			}
			lines = append(lines, l)
		}
	}
	widths := make([]int, len(t.arms)+1)
	for _, l := range lines {
		for i, c := range l.cells {
			if !l.title {
				widths[i] = max(widths[i], columns(c))
			}
		}
	}
	// Columns of each part: the baseline, and as many arms as fit.
	var parts [][]int
	part, used := []int{1}, widths[0]+2+widths[1]
	for i := 2; i < len(widths); i++ {
		if used+2+widths[i] > terminal && len(part) > 1 {
			parts = append(parts, part)
			part, used = []int{1}, widths[0]+2+widths[1]
		}
		part = append(part, i)
		used += 2 + widths[i]
	}
	parts = append(parts, part)

	// A client that only other arms have has no rows in a part.
	silent := func(l line, part []int) bool {
		return len(parts) > 1 && len(t.blocks) > 1 && !l.title && !l.rule && !slices.ContainsFunc(part, func(c int) bool { return l.cells[c] != none })
	}
	var out strings.Builder
	for i, part := range parts {
		if i > 0 {
			out.WriteString("\n")
		}
		for j, l := range lines {
			var s string
			switch {
			case silent(l, part):
				continue
			case l.title:
				rest := lines[j+1:]
				if n := slices.IndexFunc(rest, func(l line) bool { return l.title }); n >= 0 {
					rest = rest[:n]
				}
				if !slices.ContainsFunc(rest, func(l line) bool { return !silent(l, part) }) {
					continue
				}
				s = l.cells[0]
			case l.rule:
				n := widths[0]
				for _, c := range part {
					n += 2 + widths[c]
				}
				s = strings.Repeat("─", n)
			default:
				s = padRight(l.cells[0], widths[0])
				for _, c := range part {
					s += "  " + padRight(l.cells[c], widths[c])
				}
			}
			out.WriteString(strings.TrimRight(s, " ") + "\n")
		}
	}
	return out.String()
}
