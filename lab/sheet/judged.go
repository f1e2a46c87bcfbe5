package sheet

import (
	"strings"

	"tcplab/lab/expr"
)

func (b *builder) catalogue() catalogue {
	c := catalogue{sweep: b.e.Sweep, apart: b.e.Apart, virtual: b.e.Clock == "virtual"}
	for i := range b.arms {
		c.arms = append(c.arms, &b.arms[i].arm)
	}
	return c
}

// armsOf are the arms that expressions speak of, in order.
func armsOf(xs ...*expr.Expr) []string {
	var out []string
	for _, x := range xs {
		if x == nil {
			continue
		}
		for _, p := range x.Paths() {
			if !contains(out, p.Arm) {
				out = append(out, p.Arm)
			}
		}
	}
	return out
}

func (b *builder) scope(xs ...*expr.Expr) scope {
	s := scope{c: b.catalogue()}
	for _, a := range armsOf(xs...) {
		if s.c.arm(a) != nil {
			s.arms = append(s.arms, a)
		}
	}
	if len(s.arms) == 0 && len(s.c.arms) > 0 {
		s.arms = []string{s.c.arms[0].Name} // the baseline
	}
	return s
}

// missing says why expressions are not asked here: an arm that this profile
// leaves out or that does not run, a sweep's point without --sweep.
func (b *builder) missing(xs ...*expr.Expr) string {
	for _, arm := range armsOf(xs...) {
		if why := b.notRun(arm); why != "" {
			return why
		}
	}
	for _, x := range xs {
		if x == nil {
			continue
		}
		for _, p := range x.Paths() {
			// A sheet of the real clock that is run on the virtual one: its
			// claims about CPU are not asked. One that asks for the virtual
			// clock itself may make none.
			if m, err := b.catalogue().metric(p, nil); err == nil && m.Number == nil && m.Info.RealClock && b.s.opts.Clock == "virtual" && b.e.Clock != "virtual" {
				return m.Name + " does not exist on the virtual clock, where CPU costs nothing"
			}
			if p.Point != nil && !b.s.opts.Sweep {
				return "a point of the sweep: asked with --sweep"
			}
		}
	}
	return ""
}

func (b *builder) notRun(arm string) string {
	for _, l := range b.out {
		if l.src.name == arm {
			return "arm " + arm + " is in profile " + l.src.only + " only"
		}
	}
	for _, a := range b.arms {
		if a.src.name == arm && !a.run {
			return "arm " + arm + " was not asked for"
		}
	}
	return ""
}

// leftOutOf tells whether an arm is not in this profile at all, so that nothing
// is known of what it measures.
func (b *builder) leftOutOf(xs ...*expr.Expr) bool {
	for _, arm := range armsOf(xs...) {
		for _, l := range b.out {
			if l.src.name == arm {
				return true
			}
		}
	}
	return false
}

// judged decodes and checks what is claimed and shown.
func (b *builder) judged(f fields) {
	p, where := b.s.p, b.where("")
	table := func(name string) []Key { return findKey(judgedKeys, name).Of.Keys }
	for _, e := range mapEntries(f.get("predict")) {
		k := fields{e.val, "predict", table("predict")}
		of, is, unless := parsed(k.get("of")), parsed(k.get("is")), parsed(k.get("unless"))
		pr := Prediction{
			Name: e.key, Of: k.text("of"), Is: is, Unless: unless, Within: k.text("within"), Because: k.text("because"),
			NotAsked: b.missing(of, is, unless),
		}
		b.e.Predict = append(b.e.Predict, pr)
		if b.leftOutOf(of, is, unless) {
			continue
		}
		s := b.scope(of, is, unless)
		uOf, err1 := of.Check(s)
		if err1 != nil {
			p.addExpr(where, k.get("of"), err1)
		}
		uIs, err2 := is.Check(s)
		if err2 != nil {
			p.addExpr(where, k.get("is"), err2)
		}
		b.condition(s, unless, k.get("unless"))
		for _, path := range is.Paths() {
			if m, err := s.c.metric(path, s.arms); err == nil && m.Number == nil {
				p.addExpr(where, k.get("is"), refuse(path.Col, "use the sheet's numbers, or write an expectation", "a prediction is made before the run, and %s is measured", path.Raw))
			}
		}
		if err1 != nil || err2 != nil {
			continue
		}
		if !uOf.Is(uIs) {
			p.addIn(where, k.get("is").at, "both need the same unit", "`%s` is in %s, and `%s` in %s", pr.Of, uOf, is, uIs)
		} else if w := k.get("within"); w != nil {
			v, _ := expr.ParseQuantity(w.text)
			if err := expr.CheckWithin(uOf, v); err != nil {
				p.addExpr(where, &node{at: w.at, text: w.text}, err)
			}
		}
	}
	for _, e := range mapEntries(f.get("expect")) {
		k := fields{e.val, "expect", table("expect")}
		x := Expectation{Name: e.key, Because: k.text("because"), That: parsed(k.get("that")), Unless: parsed(k.get("unless"))}
		x.NotAsked = b.missing(x.That, x.Unless)
		b.e.Expect = append(b.e.Expect, x)
		if b.leftOutOf(x.That, x.Unless) {
			continue
		}
		s := b.scope(x.That, x.Unless)
		b.condition(s, x.That, k.get("that"))
		b.condition(s, x.Unless, k.get("unless"))
	}
	b.evidence(f, table("evidence"))
	b.triage(f, table("triage"))
	b.writeup(f.get("writeup"))
}

// parsed is an expression whose syntax was checked with its layer.
func parsed(n *node) *expr.Expr {
	if n == nil {
		return nil
	}
	x, err := expr.Parse(n.text)
	if err != nil {
		panic("sheet: " + n.text + " passed the check: " + err.Error())
	}
	return x
}

func (b *builder) condition(s scope, x *expr.Expr, n *node) {
	if x == nil {
		return
	}
	if err := x.CheckBool(s); err != nil {
		b.s.p.addExpr(b.where(""), n, err)
	}
}

func (b *builder) findArm(n *node, at pos, name string) (*Arm, bool) {
	if a := b.catalogue().arm(name); a != nil {
		return a, true
	}
	if b.notRun(name) != "" {
		return nil, true
	}
	b.s.p.addIn(b.where(""), at, suggest(name, b.s.armNames(), "arms"), "no arm `%s`", short(name))
	return nil, false
}

func (b *builder) evidence(f fields, keys []Key) {
	for _, e := range mapEntries(f.get("evidence")) {
		k := fields{e.val, "evidence", keys}
		ev := Evidence{Name: e.key, Capture: k.text("capture"), Show: k.text("show"), Title: k.text("title"), Flow: k.text("flow"), At: k.text("at")}
		arm, ok := b.findArm(e.val, k.get("capture").at, ev.Capture)
		if !ok {
			continue
		}
		ev.NotAsked = b.notRun(ev.Capture)
		if arm != nil {
			b.flow(arm, k.get("flow"))
			b.moment(arm, k.get("at"))
		}
		b.e.Evidence = append(b.e.Evidence, ev)
	}
}

// flow checks CLIENT or CLIENT>SERVER.
func (b *builder) flow(a *Arm, n *node) {
	if n == nil {
		return
	}
	client, server, both := strings.Cut(n.text, ">")
	client, server = strings.TrimSpace(client), strings.TrimSpace(server)
	var clients, servers []string
	for _, c := range a.Clients {
		clients = append(clients, c.Name)
	}
	for _, s := range a.Servers {
		servers = append(servers, s.Name)
	}
	switch {
	case !contains(clients, client):
		b.s.p.addIn(b.where(""), n.at, suggest(client, clients, "clients"), "`flow: %s`: no client `%s`", n.text, client)
	case both && !contains(servers, server):
		b.s.p.addIn(b.where(""), n.at, suggest(server, servers, "servers"), "`flow: %s`: no server `%s`", n.text, server)
	}
}

// moment checks a time, or an event with a time added.
func (b *builder) moment(a *Arm, n *node) {
	if n == nil {
		return
	}
	if v, err := expr.ParseQuantity(n.text); err == nil {
		if v.Unit != expr.Second || v.V < 0 {
			b.s.p.addIn(b.where(""), n.at, "write a time such as 11s", "`at: %s` is no time", n.text)
		} else if v.V > a.Trial.Length().Seconds() {
			b.s.p.addIn(b.where(""), n.at, "the trial ends at "+a.Trial.Length().String(), "`at: %s` is after the end", n.text)
		}
		return
	}
	m := eventForm.FindStringSubmatch(n.text)
	if m == nil || !contains(a.events(), m[1]) {
		b.s.p.addIn(b.where(""), n.at, "write a time, or one of "+orNone(a.events()), "`at: %s` is neither a time nor an event", n.text)
	}
}

// events are what may end a trial.
func (a *Arm) events() []string {
	var out []string
	for _, f := range a.Faults {
		out = append(out, f.Name)
	}
	if len(out) > 0 {
		out = append(out, "detected", "recovered")
	}
	return out
}

func (b *builder) triage(f fields, keys []Key) {
	for _, e := range mapEntries(f.get("triage")) {
		k := fields{e.val, "triage", keys}
		t := Triage{Arm: e.key, On: k.text("on"), At: k.duration("at"), Finds: k.text("finds")}
		arm, ok := b.findArm(e.val, e.at, t.Arm)
		if !ok {
			continue
		}
		t.NotAsked = b.notRun(t.Arm)
		if arm != nil {
			where := b.where("")
			var hosts []string
			for _, h := range arm.Hosts {
				hosts = append(hosts, h.Name)
			}
			if !contains(hosts, t.On) {
				b.s.p.addIn(where, k.get("on").at, suggest(t.On, hosts, "hosts"), "no host `%s`", short(t.On))
			}
			switch {
			case t.At <= arm.Trial.Length():
			case len(b.s.opts.Set) > 0:
				// The command line made the trial shorter: no fault of the sheet.
				t.NotAsked = "the trial ends before it, at " + arm.Trial.Length().String()
			default:
				b.s.p.addIn(where, k.get("at").at, "the trial ends at "+arm.Trial.Length().String(), "`at: %s` is after the end of arm `%s`", k.text("at"), arm.Name)
			}
		}
		b.e.Triage = append(b.e.Triage, t)
	}
}
