package sheet

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"tcplab/lab/expr"
	"tcplab/results"
)

// Metric is a path resolved: whose metric it is, in which arm.
type Metric struct {
	Arm     string
	Point   map[string]string // of a sweep, by the axis's path; nil without one
	Owner   string            // the client, server, host or link; "" is the trial
	Towards string            // of a link: one direction; "" is both added up
	Name    string            // "latency.p50"
	Fault   string            // the fault that it is taken at
	Info    results.MetricInfo
	// Number is set where the path names a number of the sheet instead
	// (ARM.rate, ARM.CLIENT.rate, CLIENT.rate).
	Number *expr.Value
}

// Env is where the expressions xs of this experiment get their values: bare
// names are the numbers of the arms that xs speak of (of the baseline, when
// they speak of none), and what is measured comes from metric. A metric that
// was not measured is a value with Missing set.
func (e *Experiment) Env(metric func(Metric) (expr.Value, error), xs ...*expr.Expr) expr.Env {
	v := env{c: e.catalogue(), metric: metric}
	for _, a := range armsOf(xs...) {
		if v.c.arm(a) != nil {
			v.arms = append(v.arms, a)
		}
	}
	if len(v.arms) == 0 && len(e.Arms) > 0 {
		v.arms = []string{e.Arms[0].Name}
	}
	return v
}

type env struct {
	c      catalogue
	arms   []string
	metric func(Metric) (expr.Value, error)
}

func (v env) NameValue(name string) (expr.Value, error) { return v.c.number(name, v.arms) }

func (v env) MetricValue(p expr.Path) (expr.Value, error) {
	m, err := v.c.metric(p, v.arms)
	switch {
	case err != nil:
		return expr.Value{}, err
	case m.Number != nil:
		return *m.Number, nil
	}
	return v.metric(m)
}

// Metric resolves one path over the arms that run. The error is an *expr.Error.
func (e *Experiment) Metric(p expr.Path) (Metric, error) {
	return e.catalogue().metric(p, nil)
}

func (e *Experiment) catalogue() catalogue {
	c := catalogue{sweep: e.Sweep, apart: e.Apart, virtual: e.Clock == "virtual"}
	for i := range e.Arms {
		c.arms = append(c.arms, &e.Arms[i])
	}
	return c
}

// catalogue is what can be measured: the arms, and what their programs are.
type catalogue struct {
	arms    []*Arm
	sweep   []SweepAxis
	apart   bool // a point is a value of one axis
	virtual bool
}

func refuse(col int, advice, format string, args ...any) error {
	return &expr.Error{Col: col, Msg: fmt.Sprintf(format, args...), Advice: advice}
}

// lookupMetric knows the metrics that any experiment may have, and those that
// one kind brings.
func lookupMetric(name string) (results.MetricInfo, bool) {
	for _, k := range kinds {
		for _, m := range k.Metrics {
			if m.Name == name {
				return m, true
			}
		}
	}
	return results.LookupMetric(name)
}

func metricNames() []string {
	var out []string
	for _, m := range results.Metrics() {
		out = append(out, m.Name)
	}
	for _, k := range kinds {
		for _, m := range k.Metrics {
			if !contains(out, m.Name) {
				out = append(out, m.Name)
			}
		}
	}
	return out
}

// metricHeads are the first words of metrics: an owner called so could not be
// told from them.
func metricHeads() map[string]bool {
	out := map[string]bool{"errors": true, "first": true, "snmp": true}
	for _, n := range metricNames() {
		head, _, _ := strings.Cut(n, ".")
		out[head] = true
	}
	return out
}

func (c catalogue) armNames() []string {
	out := make([]string, len(c.arms))
	for i, a := range c.arms {
		out[i] = a.Name
	}
	return out
}

func (c catalogue) arm(name string) *Arm {
	for _, a := range c.arms {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// program tells whether a server or client bears a name in any arm.
func (c catalogue) program(name string) bool {
	for _, a := range c.arms {
		if a.server(name) != nil || a.client(name) != nil {
			return true
		}
	}
	return false
}

func (c catalogue) metric(p expr.Path, arms []string) (Metric, error) {
	a := c.arm(p.Arm)
	if a == nil {
		// A program's number: publisher.rate.
		if p.Fault == "" && p.Point == nil && p.Owner == "" && c.program(p.Arm) {
			v, err := c.number(p.Arm+"."+p.Metric, arms)
			if err == nil {
				return Metric{Name: p.Metric, Owner: p.Arm, Number: &v}, nil
			}
			var e *expr.Error
			if errors.As(err, &e) {
				e.Col = p.Col
				return Metric{}, e
			}
		}
		return Metric{}, refuse(p.Col, suggest(p.Arm, c.armNames(), "arms"), "no arm `%s` in %s", p.Arm, p.Raw)
	}
	m := Metric{Arm: a.Name, Fault: p.Fault, Towards: p.Towards}
	if p.Point != nil {
		point, err := c.point(p)
		if err != nil {
			return m, err
		}
		m.Point = point
	}
	split, err := p.Split(func(name string) bool { _, ok := lookupMetric(name); return ok })
	if err != nil {
		if v, ok := a.Numbers[p.Metric]; ok && p.Owner == "" && p.Fault == "" {
			m.Name, m.Number = p.Metric, &v
			return m, nil
		}
		return m, refuse(p.Col, c.nearestMetric(a, p), "no metric `%s` in %s", p.Metric, p.Raw)
	}
	m.Name, m.Owner = split.Metric, split.Owner
	m.Info, _ = lookupMetric(m.Name)
	if c.virtual && m.Info.RealClock {
		return m, refuse(p.Col, "measure it on the real clock: `clock: real`", "%s: `%s` is absent on the virtual clock, where CPU costs nothing", p.Raw, m.Name)
	}
	if err := owner(a, p, &m); err != nil {
		return m, err
	}
	return m, fault(a, p, &m)
}

// nearestMetric advises on a metric's name that does not exist.
func (c catalogue) nearestMetric(a *Arm, p expr.Path) string {
	name := p.Metric
	all := metricNames()
	if n := nearest(name, all); n != "" {
		return "did you mean `" + n + "`?"
	}
	head, rest, _ := strings.Cut(name, ".")
	if own := ownersNamed(a, head); len(own) > 0 && rest != "" {
		name = rest
		if n := nearest(rest, all); n != "" {
			return "did you mean `" + p.Arm + "." + head + "." + n + "`?"
		}
		head, _, _ = strings.Cut(rest, ".")
	}
	var family []string
	for _, n := range all {
		if strings.HasPrefix(n, head+".") {
			family = append(family, n)
		}
	}
	if len(family) > 0 {
		return "there are " + join(family)
	}
	var numbers []string
	for n := range a.Numbers {
		if !strings.Contains(n, ".") {
			numbers = append(numbers, n)
		}
	}
	if n := nearest(name, numbers); n != "" {
		return "did you mean `" + n + "`?"
	}
	heads := make([]string, 0)
	for h := range metricHeads() {
		heads = append(heads, h)
	}
	sort.Strings(heads)
	return "metrics begin with " + join(heads)
}

// ownersNamed are the kinds of owner that bear a name in an arm.
func ownersNamed(a *Arm, name string) []results.OwnerKind {
	var out []results.OwnerKind
	if a.client(name) != nil {
		out = append(out, results.OwnerClient)
	}
	if a.server(name) != nil {
		out = append(out, results.OwnerServer)
	}
	if a.host(name) != nil {
		out = append(out, results.OwnerHost)
	}
	if a.link(name) != nil {
		out = append(out, results.OwnerLink)
	}
	return out
}

// hasMetric tells whether a client's metrics include this one.
func hasMetric(c *Client, m results.MetricInfo) bool {
	k := kindOf(RoleClient, c.Kind)
	own := false
	for _, x := range k.Metrics {
		own = own || x.Name == m.Name
	}
	switch {
	case own:
		return true
	case !inCatalogue(m.Name): // another kind's own
		return false
	case !m.NeedsEvents:
		return true
	case k.Silent:
		return false
	}
	return c.Exec == nil || c.Exec.Events
}

func inCatalogue(name string) bool {
	_, ok := results.LookupMetric(name)
	return ok
}

// withMetric lists what in an arm has a metric.
func withMetric(a *Arm, m results.MetricInfo) []string {
	var out []string
	switch m.Owner {
	case results.OwnerClient:
		for i := range a.Clients {
			if hasMetric(&a.Clients[i], m) {
				out = append(out, a.Clients[i].Name)
			}
		}
	case results.OwnerServer:
		for _, s := range a.Servers {
			out = append(out, s.Name)
		}
	case results.OwnerHost:
		for i := range a.Hosts {
			if hostHas(&a.Hosts[i], m) {
				out = append(out, a.Hosts[i].Name)
			}
		}
	case results.OwnerLink:
		for _, l := range a.Links {
			out = append(out, l.Name)
		}
	}
	return out
}

// hostHas tells whether a host has a metric: some are a router's or a
// middlebox's only.
func hostHas(h *Host, m results.MetricInfo) bool {
	switch head, _, _ := strings.Cut(m.Name, "."); head {
	case "conntrack":
		return h.Router != nil
	case "middlebox":
		return h.Middlebox != nil
	}
	return true
}

// owner finds, or checks, whose metric it is.
func owner(a *Arm, p expr.Path, m *Metric) error {
	have := withMetric(a, m.Info)
	kind := string(m.Info.Owner)
	if m.Info.Owner == results.OwnerTrial {
		if m.Owner != "" {
			return refuse(p.Col, "write "+p.Arm+"."+m.Name, "%s: `%s` is the whole trial's", p.Raw, m.Name)
		}
		return nil
	}
	if m.Owner == "" {
		switch len(have) {
		case 1:
			m.Owner = have[0]
			return nil
		case 0:
			return unmeasured(a, p, m)
		}
		paths := make([]string, len(have))
		for i, h := range have {
			paths[i] = p.Arm + "." + h + "." + m.Name
		}
		return refuse(p.Col, "write "+strings.Join(paths, " or "), "%s: several %ss have `%s`", p.Raw, kind, m.Name)
	}
	if contains(have, m.Owner) {
		if m.Towards != "" {
			if m.Info.Owner != results.OwnerLink {
				return refuse(p.Col, "put spaces around > to compare", "%s: `%s` has no direction", p.Raw, m.Name)
			}
			if l := a.link(m.Owner); m.Towards != l.A && m.Towards != l.B {
				return refuse(p.Col, "it joins "+l.A+" and "+l.B, "%s: link `%s` does not reach `%s`", p.Raw, m.Owner, m.Towards)
			}
		}
		return nil
	}
	other := ownersNamed(a, m.Owner)
	switch {
	case len(other) == 0:
		return refuse(p.Col, suggest(m.Owner, have, kind+"s with `"+m.Name+"`"), "%s: arm `%s` has no %s `%s`", p.Raw, a.Name, kind, m.Owner)
	case m.Info.Owner == results.OwnerClient && a.client(m.Owner) != nil:
		return unmeasured(a, p, m)
	}
	advice := kind + "s: " + orNone(have)
	if m.Info.Owner == results.OwnerHost {
		on := ""
		if c := a.client(m.Owner); c != nil {
			on = c.On
		} else if s := a.server(m.Owner); s != nil {
			on = s.On
		}
		if on != "" {
			advice = "`" + m.Owner + "` runs on " + on + ": write " + p.Arm + "." + on + "." + m.Name
		}
	}
	return refuse(p.Col, advice, "%s: `%s` belongs to a %s, and `%s` is a %s", p.Raw, m.Name, kind, m.Owner, other[0])
}

// unmeasured is the error for a metric that nothing in the arm has.
func unmeasured(a *Arm, p expr.Path, m *Metric) error {
	var foreign, silent []string
	for i := range a.Clients {
		c := &a.Clients[i]
		if m.Owner != "" && c.Name != m.Owner {
			continue
		}
		if c.Exec != nil && !c.Exec.Events {
			foreign = append(foreign, c.Name)
		} else {
			silent = append(silent, c.Name+" is "+c.Kind)
		}
	}
	if len(foreign) > 0 && m.Info.NeedsEvents {
		return refuse(p.Col, "without its help there are "+join(withoutHelp()), "%s: only `%s` itself could tell `%s`, and a program of your own writes no agent events unless `events: true`", p.Raw, strings.Join(foreign, "`, `"), m.Name)
	}
	return refuse(p.Col, "", "%s: nothing in arm `%s` measures `%s` (%s)", p.Raw, a.Name, m.Name, join(silent))
}

// withoutHelp are the metrics that probes give of any program.
func withoutHelp() []string {
	var out []string
	for _, m := range results.Metrics() {
		if !m.NeedsEvents && m.Owner != results.OwnerServer {
			out = append(out, m.Name)
		}
	}
	return append(out, "snmp.COUNTER")
}

// fault finds, or checks, the fault that a metric is taken at.
func fault(a *Arm, p expr.Path, m *Metric) error {
	names := make([]string, len(a.Faults))
	for i, f := range a.Faults {
		names[i] = f.Name
	}
	switch {
	case !m.Info.AtFault && m.Fault == "":
		return nil
	case !m.Info.AtFault:
		return refuse(p.Col, "write it without @"+m.Fault, "%s: `%s` is not taken at a fault", p.Raw, m.Name)
	case len(names) == 0:
		return refuse(p.Col, "add `faults`", "%s: arm `%s` has no fault", p.Raw, a.Name)
	case m.Fault == "" && len(names) > 1:
		return refuse(p.Col, "write "+p.Raw+"@"+strings.Join(names, " or "+p.Raw+"@"), "%s: arm `%s` has several faults", p.Raw, a.Name)
	case m.Fault == "":
		m.Fault = names[0]
	case !contains(names, m.Fault):
		return refuse(p.Col, suggest(m.Fault, names, "faults"), "%s: arm `%s` has no fault `%s`", p.Raw, a.Name, m.Fault)
	}
	return nil
}

// point resolves a sweep's point: its keys to paths, its values to the sheet's.
func (c catalogue) point(p expr.Path) (map[string]string, error) {
	var axes []string
	for _, x := range c.sweep {
		axes = append(axes, x.Key)
	}
	if len(axes) == 0 {
		return nil, refuse(p.Col, "add `sweep`, or leave the bracket out", "%s: this sheet sweeps nothing", p.Raw)
	}
	out := map[string]string{}
	for key, value := range p.Point {
		var axis *SweepAxis
		for i := range c.sweep {
			if x := &c.sweep[i]; x.Key == key || x.Path == key {
				axis = x
			}
		}
		if axis == nil {
			return nil, refuse(p.Col, suggest(key, axes, "axes"), "%s: no axis `%s`", p.Raw, key)
		}
		found := false
		for _, v := range axis.Values {
			if same(newText(pos{}, v), newText(pos{}, value)) {
				out[axis.Path], found = v, true
			}
		}
		if !found {
			return nil, refuse(p.Col, "its values are "+join(axis.Values), "%s: `%s` is not swept to %s", p.Raw, key, value)
		}
	}
	if c.apart {
		if len(out) > 1 {
			return nil, refuse(p.Col, "write one of them", "%s: this sheet's axes vary each by itself (`vary: apart`), so a point is a value of one", p.Raw)
		}
		return out, nil
	}
	for _, x := range c.sweep {
		if _, ok := out[x.Path]; !ok {
			return nil, refuse(p.Col, "write "+p.Arm+"["+wholePoint(c.sweep)+"]", "%s: a point says a value for each axis, and `%s` is missing", p.Raw, x.Key)
		}
	}
	return out, nil
}

func wholePoint(axes []SweepAxis) string {
	parts := make([]string, len(axes))
	for i, x := range axes {
		parts[i] = x.Key + "=" + x.Values[0]
	}
	return strings.Join(parts, ",")
}

// number is the value of a name over some arms.
func (c catalogue) number(name string, arms []string) (expr.Value, error) {
	var value expr.Value
	var has, differ []string
	for _, a := range c.arms {
		if len(arms) > 0 && !contains(arms, a.Name) {
			continue
		}
		v, ok := a.Numbers[name]
		if !ok {
			if owners := ownersOf(a, name); len(owners) > 1 {
				return value, refuse(0, "write "+strings.Join(owners, " or "), "`%s` is not the same for all in arm `%s`", name, a.Name)
			}
			continue
		}
		if len(has) > 0 && v != value {
			differ = append(differ, a.Name)
		}
		if len(has) == 0 {
			value = v
		}
		has = append(has, a.Name)
	}
	switch {
	case len(differ) > 0:
		return value, refuse(0, "write "+has[0]+"."+name+" or "+differ[0]+"."+name, "`%s` differs between arms", name)
	case len(has) > 0:
		return value, nil
	}
	var all []string
	owner, _, dotted := strings.Cut(name, ".")
	for _, a := range c.arms {
		for n := range a.Numbers {
			if dotted == strings.Contains(n, ".") && (!dotted || strings.HasPrefix(n, owner+".")) && !contains(all, n) {
				all = append(all, n)
			}
		}
	}
	sort.Strings(all)
	return value, refuse(0, suggest(name, all, "names"), "no number is called `%s` here", name)
}

// ownersOf are the OWNER.NAME of an arm for a name that has no one value.
func ownersOf(a *Arm, name string) []string {
	var out []string
	for n := range a.Numbers {
		if strings.HasSuffix(n, "."+name) {
			out = append(out, n)
		}
	}
	sort.Strings(out)
	return out
}

// scope checks one expression: its names are those of the arms it speaks of.
type scope struct {
	c    catalogue
	arms []string
}

func (s scope) Name(name string) (expr.Unit, error) {
	v, err := s.c.number(name, s.arms)
	return v.Unit, err
}

func (s scope) Metric(p expr.Path) (expr.Unit, error) {
	m, err := s.c.metric(p, s.arms)
	if err != nil {
		return expr.One, err
	}
	if m.Number != nil {
		return m.Number.Unit, nil
	}
	return expr.ParseUnit(m.Info.Unit)
}
