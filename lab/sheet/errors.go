package sheet

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"tcplab/lab/expr"
)

// Error is one mistake in a sheet: where it is, what is wrong, and what to
// write instead. Line and Col are 1-based and count characters; they are 0 for
// what the command line says, whose text is then in File ("--set a.b=c").
type Error struct {
	File        string
	Line, Col   int
	Msg, Advice string
}

// Error is one line: "churn.yaml:12:9: unknown key `rat`: did you mean `rate`?"
func (e *Error) Error() string {
	s := e.File
	if e.Line > 0 {
		s = fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Col)
	}
	s += ": " + e.Msg
	if e.Advice != "" {
		s += ": " + e.Advice
	}
	return strings.ReplaceAll(s, "\n", " ")
}

// Errors are all mistakes of a sheet that were found at once, in its order.
type Errors []*Error

func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes errors.As find the first *Error.
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

// context is where a mistake showed: in one arm of one profile, in a profile
// as a whole, or (zero) in the sheet as it is written.
type context struct{ profile, arm string }

// problem is an Error on its way.
type problem struct {
	at          pos
	msg, advice string
}

// problems collects what is wrong with one sheet. A mistake that shows in every
// arm of every profile is told once.
type problems struct {
	file string
	list []problem
	seen map[problem][]context
	n    int       // how often anything was added
	all  []context // every arm of every profile that was looked at
}

func (p *problems) add(at pos, advice, format string, args ...any) {
	p.addIn(context{}, at, advice, format, args...)
}

func (p *problems) addIn(where context, at pos, advice, format string, args ...any) {
	pr := problem{at, fmt.Sprintf(format, args...), advice}
	if p.seen == nil {
		p.seen = map[problem][]context{}
	}
	if _, ok := p.seen[pr]; !ok {
		p.list = append(p.list, pr)
	}
	p.seen[pr] = append(p.seen[pr], where)
	p.n++
}

// addExpr adds an error of the expression language, whose text is n.
func (p *problems) addExpr(where context, n *node, err error) {
	var e *expr.Error
	if !errors.As(err, &e) {
		p.addIn(where, n.at, "", "%v", err)
		return
	}
	at := n.at
	if n.inline && e.Col > 0 {
		at.col += len([]rune(n.text[:min(e.Col-1, len(n.text))]))
		if !n.plain {
			at.col++ // the quote
		}
	}
	p.addIn(where, at, e.Advice, "%s", e.Msg)
}

func (p *problems) any() bool { return len(p.list) > 0 }

// err gives all problems in the sheet's order, or nil.
func (p *problems) err() error {
	if !p.any() {
		return nil
	}
	out := make(Errors, 0, len(p.list))
	list := append([]problem(nil), p.list...)
	sort.SliceStable(list, func(i, j int) bool {
		a, b := list[i].at, list[j].at
		if (a.src == "") != (b.src == "") {
			return a.src == ""
		}
		if a.line != b.line {
			return a.line < b.line
		}
		return a.col < b.col
	})
	for _, pr := range list {
		e := &Error{File: p.file, Line: pr.at.line, Col: pr.at.col, Msg: pr.msg, Advice: pr.advice}
		if pr.at.src != "" {
			if e.File = pr.at.src; e.Line == 0 { // of the command line; a trace has lines
				e.Col = 0
			}
		}
		if in := p.scope(p.seen[pr]); in != "" {
			e.Msg += " (" + in + ")"
		}
		out = append(out, e)
	}
	return out
}

// scope names the arms and profiles in which a mistake shows, where those are
// not all there are.
func (p *problems) scope(in []context) string {
	seen, arms, profiles := map[context]bool{}, map[string]bool{}, map[string]bool{}
	for _, c := range in {
		if c == (context{}) {
			return ""
		}
		seen[c], profiles[c.profile] = true, true
		if c.arm == "" { // of the profile as a whole
			for _, a := range p.all {
				if a.profile == c.profile {
					seen[a], arms[a.arm] = true, true
				}
			}
			continue
		}
		arms[c.arm] = true
	}
	missedArm, missedProfile := false, false
	for _, c := range p.all {
		if !seen[c] {
			missedArm = missedArm || profiles[c.profile]
			missedProfile = missedProfile || !profiles[c.profile] && (arms[c.arm] || len(arms) == 0)
		}
	}
	var parts []string
	if missedArm {
		parts = append(parts, "arm "+strings.Join(sorted(arms), ", "))
	}
	if missedProfile {
		parts = append(parts, "profile "+strings.Join(sorted(profiles), ", "))
	}
	return strings.Join(parts, ", ")
}

func sorted(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for s := range set {
		out = append(out, s)
	}
	sort.Strings(out)
	return out
}

// nearest suggests what word was probably meant to be; "" when nothing is near.
func nearest(word string, candidates []string) string {
	best, least := "", min(len(word)/3, 3)
	for _, c := range candidates {
		if strings.EqualFold(c, word) || strings.ReplaceAll(c, "_", "") == strings.NewReplacer("-", "", "_", "").Replace(word) {
			return c
		}
		if d := distance(word, c); d > 0 && d <= least && (d < least || best == "") {
			best, least = c, d
		}
	}
	if best == "" && len(word) >= 4 {
		for _, c := range candidates {
			if strings.HasPrefix(c, word) {
				return c
			}
		}
	}
	return best
}

// distance counts insertions, deletions, substitutions and swaps of neighbours
// (optimal string alignment).
func distance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

// suggest is advice for an unknown word: the nearest one, and all there are.
func suggest(word string, candidates []string, all string) string {
	if n := nearest(word, candidates); n != "" {
		return fmt.Sprintf("did you mean `%s`? %s: %s", n, all, join(candidates))
	}
	if len(candidates) == 0 {
		return all + ": none"
	}
	return all + ": " + join(candidates)
}

func join(words []string) string { return strings.Join(words, ", ") }
