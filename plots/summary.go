package plots

import (
	"strings"

	"tcplab/results"
)

// mark is how an outcome is shown in one character.
func mark(h results.Holds) string {
	switch h {
	case results.HoldsYes:
		return "✓"
	case results.HoldsNo:
		return "✗"
	case results.NotAsked, results.NotReached:
		return "–"
	}
	return "?"
}

// outcome words an expectation's result.
func outcome(h results.Holds) string {
	switch h {
	case results.HoldsYes:
		return "holds"
	case results.HoldsNo:
		return "does not hold"
	case results.HoldsMixed:
		return "mixed: in some trials only"
	case results.HoldsAbsent:
		return "a value is missing"
	case "":
		return "not judged"
	}
	return string(h)
}

// predictionRow is a prediction beside what was measured, in words.
type predictionRow struct {
	name, of, is, because     string
	predicted, measured, diff string
	within                    string
	holds                     results.Holds
	judged                    bool
	note                      string
}

func predictionRows(r *results.Run) []predictionRow {
	var rows []predictionRow
	for _, n := range byPosition(r.Predictions, func(p results.Prediction) int { return p.Position }) {
		p := r.Predictions[n]
		metric := metricOf(p.Of)
		row := predictionRow{name: n, of: p.Of, is: p.Is, because: p.Because, within: p.Within, note: p.Note,
			predicted: value(metric, p.Value, p.Unit, 4), measured: none, holds: p.Holds, judged: p.Within != ""}
		if p.Holds == results.NotAsked {
			row.judged = true
		}
		if p.Holds == results.NotAsked && p.Value == 0 {
			row.predicted = none // its arm was left out: nothing was computed
		}
		if p.Observed != nil {
			row.measured = value(metric, *p.Observed, p.Unit, 4)
			if p.Value != 0 {
				q := *p.Observed/p.Value - 1
				row.diff = signed(q, number(100*abs(q), 2)+"%")
				if abs(q) < 0.0005 {
					row.diff = "±0%"
				}
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// metricOf is the metric's own name in a path ARM[.OWNER].METRIC[@FAULT].
func metricOf(path string) string {
	_, rest, _ := strings.Cut(path, ".")
	if name, _, _ := strings.Cut(rest, "@"); name != "" {
		if _, ok := results.LookupMetric(name); ok {
			return rest
		}
	}
	_, metric := splitMetric(rest)
	return metric
}

func abs(v float64) float64 {
	if v < 0 {
		return -v
	}
	return v
}

func (p predictionRow) result() results.Holds {
	if !p.judged && p.holds == "" {
		return ""
	}
	return p.holds
}

// Summary is what a terminal shows when a run has ended: the verdict, each
// expectation with what was observed, predictions beside measurements,
// warnings, and where the report is (left out when report is "").
func Summary(r *results.Run, report string) string {
	var b strings.Builder
	b.WriteString(r.Experiment + ": " + string(r.Verdict))
	if r.Because != "" {
		b.WriteString(": " + r.Because)
	}
	b.WriteString("\n")
	if s := askedRan(r); s != "" {
		b.WriteString(s + "\n")
	}
	for _, a := range armNames(r) {
		if u := r.Arms[a].Unsupported; u != "" {
			b.WriteString("arm " + a + " was not run: " + u + "\n")
		}
	}

	if names := byPosition(r.Expectations, func(e results.Expectation) int { return e.Position }); len(names) > 0 {
		b.WriteString("\nExpectations\n")
		for _, n := range names {
			e := r.Expectations[n]
			b.WriteString("  " + mark(e.Holds) + " " + n + ": " + e.That)
			if e.Holds != results.HoldsYes && e.Holds != results.HoldsNo {
				b.WriteString(" (" + outcome(e.Holds) + ")")
			}
			b.WriteString("\n")
			for _, s := range []string{e.Observed, e.Note} {
				if s != "" {
					b.WriteString("      " + s + "\n")
				}
			}
		}
	}
	if rows := predictionRows(r); len(rows) > 0 {
		b.WriteString("\nPredictions\n")
		wide, num := 0, 0
		for _, p := range rows {
			wide, num = max(wide, columns(p.name)), max(num, columns(p.predicted))
		}
		for _, p := range rows {
			m := " "
			if p.result() != "" {
				m = mark(p.result())
			}
			s := "  " + m + " " + padRight(p.name, wide) + "  predicted " + padLeft(p.predicted, num) + ", measured " + p.measured
			if p.diff != "" {
				s += " (" + p.diff
				if p.within != "" {
					s += "; within " + p.within
				}
				s += ")"
			}
			b.WriteString(s + "\n")
			if p.note != "" {
				b.WriteString("      " + p.note + "\n")
			}
		}
	}

	var invalid []string
	for _, t := range trials(r) {
		if t.Validity.Valid {
			continue
		}
		why := strings.Join(t.Validity.Reasons, "; ")
		if why == "" {
			why = "no reason given"
		}
		invalid = append(invalid, "  trial "+count(float64(t.Number))+" ("+t.Arm+"): "+why)
	}
	if len(invalid) > 0 {
		b.WriteString("\nInvalid trials\n" + strings.Join(invalid, "\n") + "\n")
	}
	if ws := allWarnings(r); len(ws) > 0 {
		b.WriteString("\nWarnings\n")
		for _, w := range ws {
			b.WriteString("  ! " + w.About + ": " + w.Text + "\n")
		}
	}
	if report != "" {
		b.WriteString("\nReport: " + report + "\n")
	}
	return b.String()
}

// askedRan says visibly where a run is not what was asked for.
func askedRan(r *results.Run) string {
	if r.Asked == r.Ran || r.Asked == (results.Mode{}) {
		return ""
	}
	s := "asked for " + mode(r.Asked) + "; ran " + mode(r.Ran)
	needs := "virtual time needs"
	if r.Asked.Profile == "full" && r.Ran.Profile == "quick" {
		s += ": times and sizes are scaled down"
		needs = "the real magnitudes need"
	}
	if r.Asked.Clock == "virtual" && r.Ran.Clock != "virtual" {
		s += "; " + needs + " the guest kernel: tcplab kernel build, then tcplab run " + r.Experiment + " --profile=full"
	}
	return s
}

func mode(m results.Mode) string {
	return "profile " + m.Profile + " on the " + m.Clock + " clock, " + m.Kernel + " kernel"
}

// allWarnings gives the run's warnings and its trials', each once.
func allWarnings(r *results.Run) []results.Warning {
	var all []results.Warning
	seen := map[results.Warning]bool{}
	add := func(w results.Warning) {
		if !seen[w] {
			seen[w] = true
			all = append(all, w)
		}
	}
	for _, w := range r.Warnings {
		add(w)
	}
	for _, t := range trials(r) {
		for _, w := range t.Warnings {
			w.About = "trial " + count(float64(t.Number)) + ", " + w.About
			add(w)
		}
	}
	return all
}
