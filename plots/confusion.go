package plots

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"tcplab/results"
)

// Confusion is triage's accuracy over records: what is true of a host at a
// moment, by the sheet, against what triage put first.
type Confusion struct {
	Runs, Trials int
	counts       map[[2]string]int // truth, found
	cases        []confusionCase
	silent       []string // arms that have a truth and were not looked at
}

type confusionCase struct {
	experiment, mode, arm, on, at, truth, found string
	trials                                      int
	said                                        string
}

// Confuse counts the rows of triage in all records.
func Confuse(runs []*results.Run) *Confusion {
	c := &Confusion{counts: map[[2]string]int{}}
	type group struct{ experiment, mode, arm, on, at, truth, found string }
	by := map[group]int{} // index into cases
	for _, r := range runs {
		seen := false
		mode := r.Ran.Profile + ", " + r.Ran.Kernel
		for _, name := range byPosition(r.Triage, func(t results.TriageRow) int { return t.Position }) {
			row := r.Triage[name]
			if len(row.Found) == 0 {
				if len(r.Arms[row.Arm].Trials) > 0 {
					c.silent = append(c.silent, fmt.Sprintf("%s (%s), %s on %s at %s", r.Experiment, mode, row.Arm, row.On, row.At))
				}
				continue
			}
			seen = true
			for i, found := range row.Found {
				c.Trials++
				c.counts[[2]string{row.Truth, found}]++
				g := group{r.Experiment, mode, row.Arm, row.On, row.At, row.Truth, found}
				n, ok := by[g]
				if !ok {
					n = len(c.cases)
					by[g] = n
					c.cases = append(c.cases, confusionCase{r.Experiment, mode, row.Arm, row.On, row.At, row.Truth, found, 0, said(r, row, i)})
				}
				c.cases[n].trials++
			}
		}
		if seen {
			c.Runs++
		}
	}
	slices.SortStableFunc(c.cases, func(x, y confusionCase) int {
		return cmp.Or(cmp.Compare(agree(x.found, x.truth), agree(y.found, y.truth)), cmp.Compare(x.experiment, y.experiment), cmp.Compare(x.mode, y.mode))
	})
	slices.Sort(c.silent)
	c.silent = slices.Compact(c.silent)
	return c
}

// said is the sentence of the nth diagnosis of a row.
func said(r *results.Run, row results.TriageRow, n int) string {
	for _, t := range r.Arms[row.Arm].Trials {
		if t.Validity.Interrupted {
			continue
		}
		for _, d := range t.Triage {
			if d.On != row.On {
				continue
			}
			if n == 0 {
				if len(d.Findings) == 0 {
					return ""
				}
				return oneLine(d.Findings[0].Text)
			}
			n--
		}
	}
	return ""
}

// Wrong counts trials where the first cause was not the truth.
func (c *Confusion) Wrong() int {
	n := 0
	for k, v := range c.counts {
		if k[0] != k[1] {
			n += v
		}
	}
	return n
}

// words lists the causes that occur, in triage's order, "nothing" last.
func (c *Confusion) words() (truths, founds []string) {
	for _, w := range results.CauseNames() {
		t, f := false, false
		for k := range c.counts {
			t, f = t || k[0] == w, f || k[1] == w
		}
		if t {
			truths = append(truths, w)
		}
		if t || f {
			founds = append(founds, w)
		}
	}
	return truths, founds
}

// summary says it in a sentence.
func (c *Confusion) summary() string {
	faulty, right, healthy, silent := 0, 0, 0, 0
	for k, v := range c.counts {
		switch {
		case k[0] == results.Nothing:
			healthy += v
			if k[1] == k[0] {
				silent += v
			}
		default:
			faulty += v
			if k[1] == k[0] {
				right += v
			}
		}
	}
	return fmt.Sprintf("%d looks in %d runs. The right cause came first in %d of %d at sick hosts; there was silence in %d of %d at healthy ones.", c.Trials, c.Runs, right, faulty, silent, healthy)
}

func (c *Confusion) table() (head []string, rows [][]string) {
	truths, founds := c.words()
	head = append([]string{"truth ↓ found →"}, founds...)
	for _, t := range truths {
		row := []string{t}
		for _, f := range founds {
			n := c.counts[[2]string{t, f}]
			switch {
			case n == 0:
				row = append(row, "·")
			case t == f:
				row = append(row, fmt.Sprint(n))
			default:
				row = append(row, fmt.Sprintf("✗ %d", n))
			}
		}
		rows = append(rows, row)
	}
	return head, rows
}

// Text draws it for a terminal: found causes are numbered, so that the table
// is narrow.
func (c *Confusion) Text() string {
	var b strings.Builder
	b.WriteString(c.summary() + "\n\n")
	head, rows := c.table()
	width := len("truth ↓ found →")
	for _, r := range rows {
		width = max(width, len(r[0])+5)
	}
	letters := map[string]string{}
	for i, f := range head[1:] {
		letters[f] = string(rune('a' + i))
	}
	fmt.Fprintf(&b, "%-*s", width, head[0])
	for _, f := range head[1:] {
		fmt.Fprintf(&b, "%6s", letters[f])
	}
	b.WriteString("\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "%s  %-*s", letters[r[0]], width-3, r[0])
		for _, cell := range r[1:] {
			fmt.Fprintf(&b, "%*s", 6, cell)
		}
		b.WriteString("\n")
	}
	truths, _ := c.words()
	for _, f := range head[1:] {
		if !slices.Contains(truths, f) {
			fmt.Fprintf(&b, "%s  %s (nowhere the truth)\n", letters[f], f)
		}
	}
	for _, k := range c.cases {
		if k.truth != k.found {
			fmt.Fprintf(&b, "\n✗ %s (%s), %s on %s at %s: %s is true, %s was found\n", k.experiment, k.mode, k.arm, k.on, k.at, k.truth, k.found)
			if k.said != "" {
				b.WriteString("  " + k.said + "\n")
			}
		}
	}
	for _, s := range c.silent {
		fmt.Fprintf(&b, "\nnot looked at: %s (the trial had ended, or was none)\n", s)
	}
	return b.String()
}

// Markdown draws it for a document, with every case.
func (c *Confusion) Markdown() string {
	var m markdown
	m.p(c.summary())
	head, rows := c.table()
	m.table(head, rows)
	m.p("Each look, with what triage said:")
	rows = nil
	for _, k := range c.cases {
		mark := []string{"✗ ", "✓ "}[agree(k.found, k.truth)]
		n := ""
		if k.trials > 1 {
			n = fmt.Sprintf(" × %d", k.trials)
		}
		rows = append(rows, []string{cellText(k.experiment), cellText(k.mode), codeText(k.arm), cellText(k.on + ", " + k.at), cellText(k.truth), mark + cellText(k.found) + n, cellText(k.said)})
	}
	m.table([]string{"experiment", "ran", "arm", "looked at", "truth", "found", "it said"}, rows)
	for _, s := range c.silent {
		m.p("Not looked at: " + cellText(s) + ".")
	}
	return m.String()
}
