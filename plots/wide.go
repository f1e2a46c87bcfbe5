package plots

import (
	"slices"
	"strings"
)

// Tables of many arms. A page and a sheet of paper have room for some eight
// columns, and a reader for the rows that differ.

const (
	widest   = 8 // columns of one table; beyond it there are several
	together = 6 // arms beside the baseline, in one of several
)

// dense leaves out the rows that tell arms apart in nothing, where there are
// more arms than a glance takes in: what no arm has is dropped, and what all
// have alike is told in words, "goodput 205 kbit/s", in same.
func (t table) dense() (out table, same []string) {
	if len(t.arms) <= few {
		return t, nil
	}
	out.arms = t.arms
	for _, b := range t.blocks {
		kept := block{title: b.title}
		for _, r := range b.rows {
			if r.hasNone() {
				continue
			}
			if v, ok := r.alike(); ok {
				label := r.label
				if owner, ok := strings.CutPrefix(b.title, "client "); ok {
					owner, _, _ = strings.Cut(owner, " ")
					label += " (" + owner + ")"
				}
				same = append(same, label+" "+v)
				continue
			}
			kept.rows = append(kept.rows, r)
		}
		if len(kept.rows) > 0 {
			out.blocks = append(out.blocks, kept)
		}
	}
	if len(out.blocks) == 0 && len(same) == 0 {
		return t, nil // nothing was measured: that, too, is to be seen
	}
	return out, same
}

func (r row) hasNone() bool {
	return !slices.ContainsFunc(r.cells, func(c cell) bool { return c.value != none })
}

// alike gives the value that all arms have.
func (r row) alike() (string, bool) {
	for _, c := range r.cells {
		if c.value != r.cells[0].value || c.spread != "" || c.change != "" && c.change != unchanged {
			return "", false
		}
	}
	return r.cells[0].value, true
}

// parts takes a table that is too wide apart into several of about the same
// width, each with the baseline. A row that no other arm of a part has is left
// out there; one that the baseline alone has stays in the first part.
func (t table) parts() []table {
	if len(t.arms) <= widest {
		return []table{t}
	}
	others := len(t.arms) - 1
	n := (others + together - 1) / together
	var out []table
	for i := range n {
		from, to := 1+others*i/n, 1+others*(i+1)/n
		p := table{arms: append(slices.Clone(t.arms[:1]), t.arms[from:to]...)}
		for _, b := range t.blocks {
			kept := block{title: b.title}
			for _, r := range b.rows {
				mine := r
				mine.cells = r.cells[from:to]
				rest := r
				rest.cells = r.cells[1:]
				if mine.hasNone() && !(i == 0 && rest.hasNone()) {
					continue
				}
				mine.cells = append(slices.Clone(r.cells[:1]), mine.cells...)
				kept.rows = append(kept.rows, mine)
			}
			if len(kept.rows) > 0 {
				p.blocks = append(p.blocks, kept)
			}
		}
		out = append(out, p)
	}
	return out
}

// alikeSentence is what dense told in words.
func alikeSentence(same []string) string {
	if len(same) == 0 {
		return ""
	}
	return "The same in every arm: " + strings.Join(same, ", ") + "."
}

const againBaseline = "The baseline again, and further arms."
