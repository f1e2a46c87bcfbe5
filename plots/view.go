package plots

import (
	"strconv"
	"strings"

	"tcplab/results"
)

// A view is the report as data: Markdown and HTML are two ways to write it.
type view struct {
	run      *results.Run
	title    string
	verdict  string
	reasons  []string
	askedRan string
	facts    []fact // digest, seeds, command, environment
	table    table
	fixes    *fixLadder // nil where no arm says what it costs

	expectations []expectationRow
	predictions  []predictionRow
	figures      []figure
	evidence     []evidence
	arms         []armView
	kernel       []leverRow // kernel settings that an arm changes
	sheetSysctls []fact     // the sheet's own, the same in every arm
	trials       []trialView
	pinned       []fact
	triage       []triageRow
	gaps         []string
	warnings     warnings
	notes        string
}

type fact struct{ name, value string }

type expectationRow struct {
	name string
	results.Expectation
}

// A figure is a chart with its files, or the reason why it could not be drawn.
type figure struct {
	chart
	svg, png    string // names in the run's folder
	wide, phone string // for the page
	problem     string
	warnings    []string
}

// evidence is a ladder diagram with the capture that it is from.
type evidence struct {
	name, arm, title string
	svg              string // name in the run's folder
	inline           string
	alt              string
	capture          string
	frames           string
	packets          []packet
	problem          string
}

type armView struct {
	name        string
	baseline    bool
	unsupported string
	levers      []leverRow
	warnings    []string
}

type leverRow struct {
	arm, name, from, to, why string
	kernel                   bool
}

type trialView struct {
	results.Trial
	head     string
	facts    []fact
	wires    []wireView
	warnings []string
}

type wireView struct {
	results.Wire
	about    string
	counters []string  // names
	rows     []wireRow // one a direction
}

type wireRow struct {
	direction string
	values    []string
}

func newView(r *results.Run, notes string) view {
	v := view{run: r, verdict: string(r.Verdict), askedRan: askedRan(r), table: newTable(r), notes: notes}
	v.warnings = placed(r)
	if l, ok := newFixLadder(r); ok {
		v.fixes = &l
	}
	v.title = headline(r)
	v.reasons = reasons(r)
	v.facts = facts(r)
	for _, n := range byPosition(r.Expectations, func(e results.Expectation) int { return e.Position }) {
		v.expectations = append(v.expectations, expectationRow{n, r.Expectations[n]})
	}
	v.predictions = predictionRows(r)
	for _, n := range armNames(r) {
		a := r.Arms[n]
		av := armView{name: n, baseline: a.Baseline, unsupported: a.Unsupported, warnings: v.warnings.arm[n]}
		for _, k := range sortedKeys(a.Levers) {
			l := a.Levers[k]
			row := leverRow{arm: n, name: k, from: l.From, to: l.To, why: l.Why, kernel: strings.Contains(k, "sysctl") || strings.Contains(k, "net.ipv4.") || strings.HasPrefix(k, "kernel.")}
			av.levers = append(av.levers, row)
			if row.kernel {
				v.kernel = append(v.kernel, row)
			}
		}
		v.arms = append(v.arms, av)
	}
	v.sheetSysctls = sheetSysctls(r, v.kernel)
	for _, t := range trials(r) {
		v.trials = append(v.trials, newTrialView(r, t))
	}
	for _, k := range sortedKeys(r.Environment.Sysctls) {
		v.pinned = append(v.pinned, fact{k, oneLine(r.Environment.Sysctls[k])})
	}
	for _, n := range byPosition(r.Triage, func(t results.TriageRow) int { return t.Position }) {
		v.triage = append(v.triage, newTriageRow(r, r.Triage[n]))
	}
	return v
}

// headline is the report's title: the finding where there is one to trust,
// else why there is none. The finding is about the first metric that the
// expectations compare and that an arm changes.
func headline(r *results.Run) string {
	if ss := sweeps(r); len(ss) > 0 && r.Verdict == results.Pass {
		if c, ok := ss[0].chart(); ok {
			return r.Experiment + ": " + c.title
		}
	}
	if r.Verdict == results.Pass {
		ps, hs := programs(r), hosts(r)
		metrics := []string{}
		for _, k := range spokenOf(r) {
			_, m := splitMetric(k)
			metrics = append(metrics, m)
		}
		for _, m := range append(metrics, "latency.p50") {
			if noun := nounOf(m); noun != "" && changes(r, ps, hs, m) {
				return r.Experiment + ": " + finding(r, ps, hs, m, noun, "")
			}
		}
	}
	if r.Because != "" {
		return r.Experiment + ": " + r.Because
	}
	return r.Experiment + ": " + string(r.Verdict)
}

// reasons lists what made the verdict, beside its one sentence.
func reasons(r *results.Run) []string {
	var rs []string
	for _, n := range byPosition(r.Expectations, func(e results.Expectation) int { return e.Position }) {
		e := r.Expectations[n]
		if e.Holds != results.HoldsYes && e.Holds != results.NotAsked {
			s := n + " (" + e.That + "): " + outcome(e.Holds)
			if e.Observed != "" {
				s += ", " + e.Observed
			}
			rs = append(rs, s)
		}
	}
	for _, p := range predictionRows(r) {
		if p.judged && p.holds != results.HoldsYes && p.holds != results.NotAsked {
			s := "prediction " + p.name + ": " + outcome(p.holds) + ", predicted " + p.predicted + " within " + p.within + ", measured " + p.measured
			rs = append(rs, s)
		}
	}
	for _, t := range trials(r) {
		if !t.Validity.Valid {
			s := trialName(t) + " does not count: " + strings.Join(t.Validity.Reasons, "; ")
			if len(t.Validity.Reasons) == 0 {
				s = trialName(t) + " does not count; no reason was given"
			}
			rs = append(rs, s)
		}
	}
	for _, n := range armNames(r) {
		switch a := r.Arms[n]; {
		case a.Unsupported != "":
			rs = append(rs, "arm "+n+" was not run: "+a.Unsupported)
		case len(a.Trials) == 0:
			rs = append(rs, "arm "+n+" was not measured")
		}
	}
	return rs
}

func trialName(t results.Trial) string {
	return "trial " + strconv.Itoa(t.Number) + " (" + t.Arm + ")"
}

func facts(r *results.Run) []fact {
	var fs []fact
	add := func(name, value string) {
		if value != "" {
			fs = append(fs, fact{name, value})
		}
	}
	add("digest", r.Digest)
	seeds := "run " + strconv.FormatUint(r.Seeds.Run, 10)
	if len(r.Seeds.Pairs) > 0 {
		var ps []string
		for _, p := range r.Seeds.Pairs {
			ps = append(ps, strconv.FormatUint(p, 10))
		}
		seeds += "; pairs " + strings.Join(ps, ", ")
	}
	add("seed", seeds)
	add("command", shell(r.Command))
	add("ran", mode(r.Ran))
	e := r.Environment
	add("kernel", kernelFact(e))
	add("clock", clockFact(e))
	add("repeats", repeatsFact(r))
	var env []string
	put := func(s string) {
		if s != "" {
			env = append(env, s)
		}
	}
	if e.Kernel != "" && e.KernelPlace != "guest" {
		put("Linux " + e.Kernel)
	}
	if e.CPUs > 0 {
		put(count(float64(e.CPUs)) + " × " + e.CPU)
	}
	if e.Memory > 0 {
		put(quantity(float64(e.Memory), "B", 3) + " of memory")
	}
	if e.Hosts != "" {
		put("hosts are " + e.Hosts)
	}
	if e.Privilege == "none needed" {
		put("no privilege needed")
	} else {
		put(e.Privilege)
	}
	for _, l := range sortedKeys(e.Wires) {
		put("link " + l + ": " + e.Wires[l])
	}
	put(e.Go)
	if e.Version != "" {
		put("tcplab " + e.Version)
	}
	if e.HZ > 0 && e.KernelPlace != "guest" {
		put("HZ " + count(float64(e.HZ)))
	}
	add("environment", strings.Join(env, " · "))
	if !r.Started.IsZero() {
		add("started", r.Started.UTC().Format("2006-01-02 15:04:05 UTC")+", took "+quantity(r.Took, "s", 3))
	}
	return fs
}

// kernelFact tells of a guest's kernel: the host's is part of the environment.
func kernelFact(e results.Environment) string {
	if e.KernelPlace != "guest" {
		return ""
	}
	s := "Linux " + e.Kernel + ", the trial's own"
	if e.GuestKernel != "" {
		s += " (build " + e.GuestKernel + ")"
	}
	if e.HZ > 0 {
		s += ", HZ " + count(float64(e.HZ))
	}
	return s
}

func clockFact(e results.Environment) string {
	s := ""
	if e.Clock == "virtual" {
		s = "virtual: time in which nothing happens is skipped, and CPU costs none"
	}
	if e.Faster > 0 {
		if s == "" {
			s = e.Clock
		}
		s += "; " + number(e.Faster, 3) + " guest seconds a wall second"
	}
	return s
}

// repeatsFact says whether the digest is the one that another run gives.
func repeatsFact(r *results.Run) string {
	e := r.Environment
	switch {
	case e.Clock != "virtual":
		return ""
	case e.NotRepeatable != "":
		return "not to the bit: " + e.NotRepeatable
	case r.Digest == "":
		return ""
	}
	return "to the bit: the same seed, binary and guest kernel give this digest on any machine (tcplab replay)"
}

// shell quotes a command so that it can be pasted.
func shell(argv []string) string {
	var out []string
	for _, a := range argv {
		if a == "" || strings.ContainsFunc(a, func(c rune) bool {
			return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_./=:,@%+", c))
		}) {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

// sheetSysctls lists the settings that the sheet makes in every arm alike:
// no lever, but no default either.
func sheetSysctls(r *results.Run, levers []leverRow) []fact {
	type key struct{ host, name string }
	vals := map[key]map[string]bool{}
	for _, t := range trials(r) {
		for _, h := range t.Hosts {
			for k, v := range h.Sysctls {
				if vals[key{h.Name, k}] == nil {
					vals[key{h.Name, k}] = map[string]bool{}
				}
				vals[key{h.Name, k}][oneLine(v)] = true
			}
		}
	}
	flat := map[string]string{}
	for k, v := range vals {
		if len(v) == 1 {
			flat[k.host+": "+k.name] = sortedKeys(v)[0]
		}
	}
	var fs []fact
	for _, k := range sortedKeys(flat) {
		_, name, _ := strings.Cut(k, ": ")
		changed := false
		for _, l := range levers {
			changed = changed || strings.Contains(l.name, name)
		}
		if !changed {
			fs = append(fs, fact{k, flat[k]})
		}
	}
	return fs
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func newTrialView(r *results.Run, t results.Trial) trialView {
	v := trialView{Trial: t}
	v.head = "Trial " + strconv.Itoa(t.Number) + ": " + t.Arm
	if len(r.Seeds.Pairs) > 1 {
		v.head += ", pair " + strconv.Itoa(t.Pair)
	}
	add := func(name, value string) { v.facts = append(v.facts, fact{name, value}) }
	add("window", quantity(t.Duration, "s", 4)+" after a warm-up of "+quantity(t.Warmup, "s", 4)+", took "+quantity(t.Took, "s", 3))
	if c := t.Capture; c != nil {
		s := count(float64(c.Packets)) + " packets of " + count(float64(c.Seen)) + " seen, " + count(float64(c.Commented)) + " with a comment, " + count(float64(c.Dropped)) + " dropped by the kernel"
		if c.Bound != "" {
			s += "; kept: " + c.Bound
		}
		add("capture", s)
	}
	for _, h := range t.Hosts {
		var parts []string
		for _, k := range sortedKeys(h.Address) {
			parts = append(parts, k+" "+h.Address[k])
		}
		for _, k := range sortedKeys(h.Sysctls) {
			parts = append(parts, k+" = "+oneLine(h.Sysctls[k]))
		}
		add("host "+h.Name, strings.Join(parts, " · "))
	}
	for _, w := range t.Wires {
		v.wires = append(v.wires, newWireView(w))
	}
	for _, w := range t.Warnings {
		v.warnings = append(v.warnings, w.About+": "+w.Text)
	}
	return v
}

// lagHead names what lags gives.
var lagHead = []string{"lag p50", "lag p99", "lag max", "delay error p99", "capture drops"}

// lags are the numbers that a trial's validity hangs on.
func (t trialView) lags() []string {
	out := []string{quantity(t.Validity.LagP50, "s", 3), quantity(t.Validity.LagP99, "s", 3), quantity(t.Validity.LagMax, "s", 3), none, none}
	worst := -1.0
	for _, w := range t.Wires {
		if e, ok := w.DelayError["p99"]; ok {
			worst = max(worst, e)
		}
	}
	if worst >= 0 {
		out[3] = quantity(worst, "s", 3)
	}
	if t.Capture != nil {
		out[4] = count(float64(t.Capture.Dropped))
	}
	return out
}

// wireCounters is the order of a wire's counters; others follow by name. The
// first ones are shown though they are 0.
var (
	wireCounters = []string{"in", "out", "lost", "queue_dropped", "first_syns", "retransmitted_syns", "mtu_dropped", "blackholed", "reordered", "duplicated", "corrupted", "bytes"}
	wireCore     = 6
)

func newWireView(w results.Wire) wireView {
	v := wireView{Wire: w}
	parts := []string{w.Kind}
	if w.Release != "" {
		parts = append(parts, "released by "+w.Release)
	}
	if w.Fates != "" {
		parts = append(parts, "fates "+w.Fates)
	}
	if len(w.DelayError) > 0 {
		var es []string
		for _, k := range []string{"p50", "p99", "max"} {
			if e, ok := w.DelayError[k]; ok {
				es = append(es, k+" "+quantity(e, "s", 3))
			}
		}
		parts = append(parts, "delay error "+strings.Join(es, ", "))
	}
	random := false
	for _, d := range w.Directions {
		random = random || d["lost"]+d["duplicated"]+d["corrupted"]+d["reordered"] > 0
	}
	switch {
	case w.Fates == "unpaired" && random:
		parts = append(parts, "same loss rate, other packets: each arm's fates are drawn by themselves, in order of arrival")
	case w.SharedFates != nil:
		s := number(100**w.SharedFates, 3) + "% of its packets have a key that the baseline has too: "
		switch {
		case w.Fates == "by-time":
			s = "same channel"
		case *w.SharedFates >= 0.8:
			s += "same packets"
		default:
			s += "same loss rate, other packets"
		}
		parts = append(parts, s)
	}
	has := map[string]bool{} // counter → is not 0 somewhere
	for _, d := range w.Directions {
		for k, n := range d {
			has[k] = has[k] || n != 0
		}
	}
	var zero []string
	for i, k := range wireCounters {
		if some, ok := has[k]; ok && (some || i < wireCore) {
			v.counters = append(v.counters, k)
			delete(has, k)
		}
	}
	for _, k := range sortedKeys(has) {
		if has[k] {
			v.counters = append(v.counters, k)
		} else {
			zero = append(zero, strings.ReplaceAll(k, "_", " "))
		}
	}
	if len(zero) > 0 {
		parts = append(parts, "0 in both directions: "+strings.Join(zero, ", "))
	}
	v.about = strings.Join(parts, " · ")
	for _, d := range sortedKeys(w.Directions) {
		row := wireRow{direction: d}
		for _, k := range v.counters {
			s := none
			if n, ok := w.Directions[d][k]; ok {
				s = count(float64(n))
			}
			row.values = append(row.values, s)
		}
		v.rows = append(v.rows, row)
	}
	return v
}

// warnings of a run by the part of the report that they concern.
type warnings struct {
	top, table []string
	arm        map[string][]string
	figure     map[string][]string // by a chart's file name
	total      int
}

// placed puts each of the run's warnings beside what it is about; what has no
// place stands with the verdict. A trial's own are shown with the trial.
func placed(r *results.Run) warnings {
	ws := warnings{arm: map[string][]string{}, figure: map[string][]string{}}
	for _, w := range r.Warnings {
		text := w.Text
		if w.About != "" {
			text = w.About + ": " + w.Text
		}
		ws.total++
		if _, ok := r.Arms[w.About]; ok {
			ws.arm[w.About] = append(ws.arm[w.About], text)
			continue
		}
		metric := metricOf(w.About)
		if _, ok := results.LookupMetric(w.About); ok {
			metric = w.About
		}
		switch fig := figureOf(metric); {
		case fig != "":
			ws.figure[fig] = append(ws.figure[fig], text)
		case figureOf(strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(w.About, "figures/"), ".svg"), ".png")) != "":
			f := figureOf(strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(w.About, "figures/"), ".svg"), ".png"))
			ws.figure[f] = append(ws.figure[f], text)
		default:
			if _, ok := results.LookupMetric(metric); ok {
				ws.table = append(ws.table, text)
			} else {
				ws.top = append(ws.top, text)
			}
		}
	}
	for _, t := range trials(r) {
		ws.total += len(t.Warnings)
	}
	return ws
}

// figureOf is the figure that draws a metric, or that has this name.
func figureOf(name string) string {
	for _, f := range []struct{ prefix, file string }{
		{"latency", "latency"}, {"requests.rate", "completed"}, {"requests.ok", "completed"}, {"completed", "completed"},
		{"handshakes", "handshakes"}, {"sockets.time_wait", "time-wait"}, {"time_wait", "time-wait"}, {"time-wait", "time-wait"}, {"ports.", "time-wait"},
		{"connect.call", "connect"}, {"search_knee", "connect"}, {"errors", "errors"}, {"first_error", "errors"},
	} {
		if strings.HasPrefix(name, f.prefix) {
			return f.file
		}
	}
	return ""
}
