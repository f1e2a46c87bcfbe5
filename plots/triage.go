package plots

import (
	"fmt"
	"slices"
	"strings"

	"tcplab/results"
)

// triageRow is a truth of the sheet beside what triage found.
type triageRow struct {
	Arm, On, At, Truth string
	Found              string // "✓ zero-window"; "" where it did not run
	Said               string // the first finding's sentence
}

func newTriageRow(r *results.Run, t results.TriageRow) triageRow {
	row := triageRow{Arm: t.Arm, On: t.On, At: t.At, Truth: t.Truth}
	n := map[string]int{}
	var order []string
	for _, f := range t.Found {
		if n[f]++; n[f] == 1 {
			order = append(order, f)
		}
	}
	// The wrong ones first: they are what the reader has to see.
	slices.SortStableFunc(order, func(a, b string) int { return agree(a, t.Truth) - agree(b, t.Truth) })
	var words []string
	for _, f := range order {
		w := []string{"✗ ", "✓ "}[agree(f, t.Truth)] + f
		if len(order) > 1 {
			w += fmt.Sprintf(" in %d of %d", n[f], len(t.Found))
		}
		words = append(words, w)
	}
	row.Found = strings.Join(words, ", ")
	for _, tr := range r.Arms[t.Arm].Trials {
		for _, d := range tr.Triage {
			if d.On == t.On && len(d.Findings) > 0 && row.Said == "" {
				row.Said = oneLine(d.Findings[0].Text)
				if more := len(d.Findings) - 1; more > 0 {
					row.Said += fmt.Sprintf(" (and after it: %s)", causes(d.Findings[1:]))
				}
			}
		}
	}
	return row
}

func agree(found, truth string) int {
	if found == truth {
		return 1
	}
	return 0
}

func causes(fs []results.Finding) string {
	var out []string
	for _, f := range fs {
		out = append(out, f.Cause)
	}
	return strings.Join(out, ", ")
}

// triageFound tells whether triage ran at all: older records only say what it
// should find.
func triageFound(rows []triageRow) bool {
	return slices.ContainsFunc(rows, func(t triageRow) bool { return t.Found != "" })
}

func (m *markdown) triage(list []triageRow) {
	if len(list) == 0 {
		return
	}
	head := []string{"arm", "on", "at", "truth"}
	title := "What triage should find"
	found := triageFound(list)
	if found {
		title = "What triage found"
		head = append(head, "found", "what it said")
	}
	m.h(2, title)
	var rows [][]string
	for _, t := range list {
		row := []string{codeText(t.Arm), codeText(t.On), cellText(t.At), cellText(t.Truth)}
		if found {
			row = append(row, cellText(t.Found), cellText(t.Said))
		}
		rows = append(rows, row)
	}
	m.table(head, rows)
}
