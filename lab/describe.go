package lab

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"tcplab/lab/expr"
	"tcplab/lab/sheet"
)

// Describe says what the plan will do: who is where, what each arm changes, in
// which order, for how long, and what is predicted.
func (p *Plan) Describe() string {
	e := p.Experiment
	var b strings.Builder
	fmt.Fprintf(&b, "%s, profile %s, seed %d\n%s\n\n", e.Name, e.Profile, p.Seed, e.Question)
	base := e.Arms[0]
	b.WriteString("Who is where\n")
	for _, h := range base.Hosts {
		fmt.Fprintf(&b, "  host %s: %s\n", h.Name, strings.Join(onHost(base, h), "; "))
	}
	for _, l := range base.Links {
		fmt.Fprintf(&b, "  link %s: %s – %s; %s\n", l.Name, l.A, l.B, wireWords(l))
	}
	b.WriteString("\nWhat each arm changes\n")
	for _, a := range e.Arms {
		if a.Baseline {
			fmt.Fprintf(&b, "  %s: the baseline\n", a.Name)
			continue
		}
		fmt.Fprintf(&b, "  %s:\n", a.Name)
		for _, l := range a.Levers {
			fmt.Fprintf(&b, "    %s: %s → %s%s\n", l.Path, orNone(l.From), orNone(l.To), because(l.Why))
		}
	}
	for _, f := range base.Faults {
		fmt.Fprintf(&b, "\nFault %s: at %v on %s: %s", f.Name, f.At, f.On, f.Do)
	}
	if len(base.Faults) > 0 {
		b.WriteString("\n")
	}
	b.WriteString("\nIn which order\n")
	at := time.Duration(0)
	for _, t := range p.Trials {
		a, _ := armOf(e, t.Arm)
		length := a.Trial.Length()
		until := ""
		if a.Trial.Until != "" {
			until = fmt.Sprintf(" at most (until %s + %v)", a.Trial.Until, a.Trial.Plus)
		}
		fmt.Fprintf(&b, "  %d. %s, pair %d: from %v, for %v%s (warm-up %v)\n", t.Number, t.Arm, t.Pair, at.Round(time.Second), length, until, a.Trial.Warmup)
		at += length + overhead
	}
	fmt.Fprintf(&b, "  %s\n", p.Takes())
	if len(e.Sweep) > 0 {
		b.WriteString("\nSweep (with --sweep)\n")
		for _, s := range e.Sweep {
			fmt.Fprintf(&b, "  %s: %s\n", s.Path, strings.Join(s.Values, ", "))
		}
	}
	if len(e.Predict) > 0 {
		b.WriteString("\nPredicted\n")
		for _, pr := range e.Predict {
			out := p.Predictions[pr.Name]
			if pr.NotAsked != "" {
				fmt.Fprintf(&b, "  %s: not asked: %s\n", pr.Name, pr.NotAsked)
				continue
			}
			within := ""
			if pr.Within != "" {
				within = " ± " + pr.Within
			}
			fmt.Fprintf(&b, "  %s: %s = %s%s%s\n", pr.Name, pr.Of, expr.FormatAs(out.Value, out.Unit), within, because(pr.Because))
		}
	}
	if len(e.Expect) > 0 {
		b.WriteString("\nExpected\n")
		for _, x := range e.Expect {
			if x.NotAsked != "" {
				fmt.Fprintf(&b, "  %s: not asked: %s\n", x.Name, x.NotAsked)
				continue
			}
			unless := ""
			if x.Unless != nil {
				unless = ", unless " + x.Unless.String()
			}
			fmt.Fprintf(&b, "  %s: %s%s%s\n", x.Name, x.That, unless, because(x.Because))
		}
	}
	if missing := e.NotBuilt(); len(missing) > 0 {
		fmt.Fprintf(&b, "\nIt cannot run yet: %s\n", strings.Join(missing, "; "))
	}
	return b.String()
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func onHost(a sheet.Arm, h sheet.Host) []string {
	var ws []string
	switch {
	case h.Middlebox != nil:
		ws = append(ws, "middlebox "+h.Middlebox.Kind)
	case h.Router != nil:
		ws = append(ws, "Linux router")
	}
	for _, v := range a.Servers {
		if v.On == h.Name {
			ws = append(ws, "server "+v.Name+" ("+programKind(v.Kind, v.Exec)+")")
		}
	}
	for _, c := range a.Clients {
		if c.On == h.Name {
			var to []string
			for _, t := range c.To {
				to = append(to, targetWord(t))
			}
			ws = append(ws, fmt.Sprintf("client %s (%s) to %s%s", c.Name, programKind(c.Kind, c.Exec), strings.Join(to, ", "), loadWords(c.Workload)))
		}
	}
	keys := make([]string, 0, len(h.Sysctl))
	for k := range h.Sysctl {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		ws = append(ws, k+" = "+h.Sysctl[k])
	}
	if ws == nil {
		return []string{"nothing runs there"}
	}
	return ws
}

func programKind(kind string, x *sheet.Exec) string {
	if x != nil {
		return "exec " + strings.Join(x.Argv, " ")
	}
	return kind
}

func targetWord(t sheet.Target) string {
	if t.Address != "" {
		return t.Host + "." + t.Address
	}
	return t.Server
}

func loadWords(w sheet.Workload) string {
	var ws []string
	if t := w.Recorded(); t != nil {
		ws = append(ws, fmt.Sprintf("a trace of %d exchanges in %v, again and again (%.4g/s)", len(t.Exchanges), t.Length, t.Rate()))
	}
	if w.Rate > 0 {
		ws = append(ws, fmt.Sprintf("%g/s", w.Rate))
	}
	if w.Arrivals != "" && w.Arrivals != "constant" {
		ws = append(ws, w.Arrivals)
	}
	if w.Connections > 0 {
		ws = append(ws, fmt.Sprintf("%d connections", w.Connections))
	}
	if w.Size > 0 {
		ws = append(ws, fmt.Sprintf("%d B", w.Size))
	}
	if ws == nil {
		return ""
	}
	return ": " + strings.Join(ws, ", ")
}

// wireWords says what a link does, each way when they differ.
func wireWords(l sheet.Link) string {
	a, b := directionWords(l.Wire.To[l.A]), directionWords(l.Wire.To[l.B])
	if a == b {
		return a + " each way"
	}
	return fmt.Sprintf("towards %s %s, towards %s %s", l.A, a, l.B, b)
}

func directionWords(d sheet.Direction) string {
	var ws []string
	add := func(name string, on bool, v any) {
		if on {
			ws = append(ws, fmt.Sprintf("%s %v", name, v))
		}
	}
	add("delay", d.Delay > 0, d.Delay)
	add("jitter", d.Jitter > 0, d.Jitter)
	add("rate", d.Rate > 0, fmt.Sprintf("%g Mbit/s", d.Rate/1e6))
	add("queue", d.QueueBytes > 0, fmt.Sprintf("%d B", d.QueueBytes))
	add("queue", d.QueueTime > 0, d.QueueTime)
	add("loss", d.Loss > 0, percent(d.Loss))
	if d.GE != nil {
		ws = append(ws, fmt.Sprintf("Gilbert–Elliott p %s r %s", percent(d.GE.P), percent(d.GE.R)))
	}
	add("reorder", d.Reorder > 0, percent(d.Reorder))
	add("duplicate", d.Duplicate > 0, percent(d.Duplicate))
	add("corrupt", d.Corrupt > 0, percent(d.Corrupt))
	add("MTU", d.MTU > 0, d.MTU)
	if ws == nil {
		return "a perfect cable"
	}
	return strings.Join(ws, ", ")
}

func percent(p float64) string { return fmt.Sprintf("%g%%", p*100) }
