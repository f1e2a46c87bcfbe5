package plots

import (
	"regexp"
	"strconv"
	"strings"
)

// cellText makes s fit for a cell of a Markdown table, and for inline text.
func cellText(s string) string {
	return strings.NewReplacer("\\", "\\\\", "|", "\\|", "\n", " ", "\r", " ", "<", "&lt;", "*", "\\*", "_", "\\_", "`", "\\`", "[", "\\[", "~", "\\~").Replace(s)
}

// codeText is s as inline code.
func codeText(s string) string {
	if s == "" {
		return ""
	}
	s = strings.NewReplacer("\n", " ", "\r", " ", "|", "\\|").Replace(s)
	if strings.Contains(s, "`") {
		return "`` " + s + " ``"
	}
	return "`" + s + "`"
}

type markdown struct{ strings.Builder }

func (m *markdown) p(s string)            { m.WriteString(s + "\n\n") }
func (m *markdown) h(level int, s string) { m.p(strings.Repeat("#", level) + " " + cellText(s)) }

func (m *markdown) warn(ws []string) {
	for _, w := range ws {
		m.p("> **Warning.** " + cellText(w))
	}
}

// table writes rows whose cells are Markdown already.
func (m *markdown) table(head []string, rows [][]string) {
	m.WriteString("| " + strings.Join(head, " | ") + " |\n|" + strings.Repeat(" --- |", len(head)) + "\n")
	for _, r := range rows {
		m.WriteString("| " + strings.Join(r, " | ") + " |\n")
	}
	m.WriteString("\n")
}

var mdHeading = regexp.MustCompile(`^(#{1,5}) `)

// demoted moves the headings of someone's Markdown below the report's own;
// lines inside code fences stay as they are.
func demoted(s string, by int) string {
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(s, "\r\n", "\n")), "\n")
	fence := ""
	for i, l := range lines {
		t := strings.TrimSpace(l)
		switch {
		case fence == "" && (strings.HasPrefix(t, "```") || strings.HasPrefix(t, "~~~")):
			fence = t[:3]
		case fence != "" && strings.HasPrefix(t, fence):
			fence = ""
		case fence == "":
			if m := mdHeading.FindStringSubmatch(l); m != nil {
				lines[i] = strings.Repeat("#", min(6, len(m[1])+by)) + l[len(m[1]):]
			}
		}
	}
	return strings.Join(lines, "\n")
}

// markdown is the report for who reads it beside code: the same content as the
// page, with links to the figures.
func (v view) markdown() []byte {
	var m markdown
	r := v.run
	m.h(1, v.title)
	if r.Question != "" {
		m.p("*" + cellText(r.Question) + "*")
	}
	verdict := "**Verdict: " + v.verdict + "**"
	if r.Because != "" {
		verdict += ": " + cellText(r.Because)
	}
	m.p(verdict)
	if v.askedRan != "" {
		m.p("**Not what was asked for:** " + v.askedRan + ".")
	}
	for _, s := range v.reasons {
		m.WriteString("- " + cellText(s) + "\n")
	}
	if len(v.reasons) > 0 {
		m.WriteString("\n")
	}
	m.warn(v.warnings.top)
	for _, f := range v.facts {
		val := cellText(f.value)
		if f.name == "command" || f.name == "digest" {
			val = codeText(f.value)
		}
		m.WriteString("- " + f.name + ": " + val + "\n")
	}
	m.WriteString("\n")

	m.h(2, "Before and after")
	v.markdownTable(&m)
	m.warn(v.warnings.table)
	v.markdownLadder(&m)

	if len(v.expectations) > 0 {
		m.h(2, "Expectations")
		var rows [][]string
		for _, e := range v.expectations {
			that := codeText(e.That)
			if e.Unless != "" {
				that += " unless " + codeText(e.Unless)
			}
			obs := cellText(e.Observed)
			if e.Note != "" {
				obs += " " + cellText(e.Note)
			}
			rows = append(rows, []string{mark(e.Holds), cellText(e.name), that, cellText(e.Because), obs, outcome(e.Holds)})
		}
		m.table([]string{"", "expectation", "that", "because", "observed", "result"}, rows)
	}
	if len(v.predictions) > 0 {
		m.h(2, "Predictions")
		m.p("Computed from the sheet, RFCs and kernel constants before the run.")
		var rows [][]string
		for _, p := range v.predictions {
			meas := p.measured
			if p.diff != "" {
				meas += " (" + p.diff + ")"
			}
			res := outcome(p.result())
			if p.note != "" {
				res += ". " + cellText(p.note)
			}
			rows = append(rows, []string{cellText(p.name) + ": " + codeText(p.of) + " = " + codeText(p.is), cellText(p.because), p.predicted, meas, orNone(p.within), res})
		}
		m.table([]string{"prediction", "because", "predicted", "measured", "within", "result"}, rows)
	}

	m.h(2, "Figures")
	if len(v.figures) == 0 {
		m.p("There is no figure: " + v.noFigures() + ".")
	}
	for _, g := range v.gaps {
		m.p("> **Gap.** " + cellText(g))
	}
	for _, f := range v.figures {
		m.h(3, f.title)
		if f.problem != "" {
			m.p("> **Gap.** " + cellText(f.problem))
		} else {
			m.p("![" + cellText(f.alt) + "](" + f.svg + ")")
		}
		m.p(cellText(f.caption) + pngLink(f.png))
		m.warn(f.warnings)
		if len(f.rows) > 0 {
			var rows [][]string
			for _, r := range f.rows {
				cells := make([]string, len(r))
				for i, c := range r {
					cells[i] = cellText(c)
				}
				rows = append(rows, cells)
			}
			m.table(f.columns, rows)
		}
	}

	if len(v.evidence) > 0 {
		m.h(2, "Packets")
		for _, e := range v.evidence {
			m.h(3, e.title)
			if e.problem != "" {
				m.p("> **Gap.** " + cellText(e.problem))
			} else {
				m.p("![" + cellText(e.alt) + "](" + e.svg + ")")
			}
			if e.capture != "" {
				s := "From [" + cellText(e.capture) + "](" + e.capture + ")"
				if e.frames != "" {
					s += ", " + e.frames
				}
				m.p(s + ".")
			}
			var rows [][]string
			for _, q := range e.packets {
				r := q.row()
				rows = append(rows, []string{r.sent, cellText(r.from), cellText(r.label), cellText(r.comment), r.arrived, r.frame})
			}
			if len(rows) > 0 {
				m.table([]string{"sent", "from", "packet", "comment", "arrived", "frame"}, rows)
			}
		}
	}

	if strings.TrimSpace(r.Writeup) != "" {
		m.h(2, "What it means")
		m.p(demoted(r.Writeup, 2))
	}
	v.markdownLevers(&m)
	v.markdownValidity(&m)
	if strings.TrimSpace(v.notes) != "" {
		m.h(2, "Notes")
		m.p(demoted(v.notes, 2))
	}
	return []byte(strings.TrimRight(m.String(), "\n") + "\n")
}

func pngLink(png string) string {
	if png == "" {
		return ""
	}
	return " ([PNG](" + png + "))"
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return cellText(s)
}

func (v view) noFigures() string {
	if len(v.trials) == 0 {
		return "no trial was measured"
	}
	return "the trials left nothing to draw"
}

func (v view) markdownTable(m *markdown) {
	if len(v.table.arms) == 0 {
		m.p("No arm was measured.")
		return
	}
	dense, same := v.table.dense()
	for i, t := range dense.parts() {
		if i > 0 {
			m.p(againBaseline)
		}
		m.armTable(t)
	}
	if s := alikeSentence(same); s != "" {
		m.p(cellText(s))
	}
}

func (m *markdown) armTable(t table) {
	head := []string{""}
	for _, a := range t.arms {
		h := a.heading()
		s := cellText(h[0])
		if len(h) > 1 {
			s += " (" + cellText(strings.Join(h[1:], ", ")) + ")"
		}
		head = append(head, s)
	}
	for _, b := range t.blocks {
		if b.title != "" {
			m.p("**" + cellText(b.title) + "**")
		}
		var rows [][]string
		for _, r := range b.rows {
			row := []string{cellText(r.label)}
			for _, c := range r.cells {
				s := c.value
				if c.spread != "" {
					s += " (" + c.spread + ")"
				}
				if c.change != "" {
					s += "<br>" + c.change
				}
				row = append(row, s)
			}
			rows = append(rows, row)
		}
		m.table(head, rows)
	}
}

func (v view) markdownLevers(m *markdown) {
	m.h(2, "Levers")
	var rows [][]string
	for _, a := range v.arms {
		name := codeText(a.name)
		switch {
		case a.unsupported != "":
			rows = append(rows, []string{name, "", "", "", "not run: " + cellText(a.unsupported)})
		case len(a.levers) == 0 && a.baseline:
			rows = append(rows, []string{name, "", "", "", "the baseline"})
		case len(a.levers) == 0:
			rows = append(rows, []string{name, "", "", "", "changes nothing"})
		}
		for _, l := range a.levers {
			rows = append(rows, []string{name, codeText(l.name), codeText(l.from), codeText(l.to), l.reason()})
		}
	}
	if len(rows) > 0 {
		m.table([]string{"arm", "lever", "from", "to", "why"}, rows)
	}
	m.p(v.kernelSentence())
	for _, f := range v.sheetSysctls {
		m.WriteString("- the same in every arm, on " + cellText(f.name) + " = " + codeText(f.value) + "\n")
	}
	if len(v.sheetSysctls) > 0 {
		m.WriteString("\n")
	}
	for _, a := range v.arms {
		m.warn(a.warnings)
	}
}

// reason is a lever's justification, or that it has none.
func (l leverRow) reason() string {
	if l.why == "" {
		return "**no reason given**"
	}
	return cellText(l.why)
}

// kernelSentence counts the kernel settings that arms change.
func (v view) kernelSentence() string {
	if len(v.kernel) == 0 {
		return "No arm changes a kernel setting."
	}
	missing := 0
	for _, k := range v.kernel {
		if k.why == "" {
			missing++
		}
	}
	s := "Arms change " + plural(len(v.kernel), "kernel setting") + ", each with its reason above."
	if missing > 0 {
		s = "Arms change " + plural(len(v.kernel), "kernel setting") + "; " + plural(missing, "of them has no reason")
		s = strings.ReplaceAll(s, "of them has no reasons", "of them have no reason") + "."
	}
	return s
}

func (v view) markdownValidity(m *markdown) {
	m.h(2, "Validity")
	if len(v.trials) == 0 {
		m.p("No trial was measured.")
	}
	var over [][]string
	for _, t := range v.trials {
		counts := "✓ counts"
		if !t.Validity.Valid {
			counts = "✗ does not count"
		}
		over = append(over, append([]string{strconv.Itoa(t.Number), codeText(t.Arm), strconv.Itoa(t.Pair), strconv.FormatUint(t.Seed, 10), counts}, t.lags()...))
	}
	if len(over) > 0 {
		m.table(append([]string{"trial", "arm", "pair", "seed", ""}, lagHead...), over)
	}
	for _, t := range v.trials {
		m.h(3, t.head)
		if !t.Validity.Valid {
			m.p("**Does not count:** " + cellText(t.whyInvalid()) + ".")
		}
		for _, f := range t.facts {
			m.WriteString("- " + cellText(f.name) + ": " + cellText(f.value) + "\n")
		}
		m.WriteString("\n")
		m.warn(t.warnings)
		for _, w := range t.wires {
			m.p("The wire of link " + codeText(w.Link) + ": " + cellText(w.about))
			var rows [][]string
			for _, r := range w.rows {
				rows = append(rows, append([]string{codeText(r.direction)}, r.values...))
			}
			head := []string{"direction"}
			for _, c := range w.counters {
				head = append(head, cellText(c))
			}
			if len(rows) > 0 {
				m.table(head, rows)
			}
		}
		var rows [][]string
		for _, a := range t.Agents {
			rows = append(rows, []string{codeText(a.Name), cellText(a.Role + " " + a.Kind), codeText(a.Host), cpu(a.CPU), rss(a.MaxRSS), cellText(pairs(a.Options)), cellText(a.Exit)})
		}
		if len(rows) > 0 {
			m.table([]string{"agent", "is", "on", "CPU", "memory", "options read back", "exit"}, rows)
		}
		for _, a := range t.Agents {
			if a.Stderr != "" {
				m.p("What " + codeText(a.Name) + " wrote to stderr:")
				m.p("    " + strings.ReplaceAll(strings.TrimRight(a.Stderr, "\n"), "\n", "\n    "))
			}
		}
	}
	m.triage(v.triage)
	if len(v.pinned) > 0 {
		m.h(2, "Kernel settings of every host")
		m.p("Pinned by the lab, as read back.")
		for _, f := range v.pinned {
			m.WriteString("- " + codeText(f.name+" = "+f.value) + "\n")
		}
		m.WriteString("\n")
	}
}

func (t trialView) whyInvalid() string {
	s := strings.Join(t.Validity.Reasons, "; ")
	if s == "" {
		s = "no reason was given"
	}
	if t.Validity.Interrupted && !strings.Contains(s, "interrupt") {
		s = "interrupted; " + s
	}
	return s
}

func cpu(s float64) string {
	if s == 0 {
		return none
	}
	return quantity(s, "s", 3)
}

func rss(b int64) string {
	if b == 0 {
		return none
	}
	return quantity(float64(b), "B", 3)
}

// pairs writes a map of settings on one line.
func pairs(m map[string]string) string {
	var ps []string
	for _, k := range sortedKeys(m) {
		ps = append(ps, k+" = "+oneLine(m[k]))
	}
	return strings.Join(ps, ", ")
}
