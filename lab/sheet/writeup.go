package sheet

import (
	"strings"

	"tcplab/lab/expr"
)

// writeup checks every {{placeholder}} of the account.
func (b *builder) writeup(n *node) {
	if n == nil {
		return
	}
	texts := []*node{n}
	if n.kind == mapNode {
		texts = nil
		for _, e := range n.keys {
			texts = append(texts, e.val)
		}
	}
	for _, t := range texts {
		for _, ph := range placeholders(t.text) {
			at := t.at
			if !t.inline && !t.plain {
				at = pos{line: t.at.line + 1 + ph.line, col: 1}
				if t.at.src != "" {
					at = t.at
				}
			}
			if err := b.placeholder(ph.src); err != nil {
				b.s.p.addExpr(b.where(""), &node{at: at}, err)
			}
		}
	}
}

func (b *builder) placeholder(src string) error {
	if name, ok := strings.CutPrefix(src, "predict."); ok {
		var names []string
		for _, pr := range b.e.Predict {
			if pr.Name == name {
				return nil
			}
			names = append(names, pr.Name)
		}
		return refuse(1, suggest(name, names, "predictions"), "{{%s}}: no prediction `%s`", src, name)
	}
	x, err := expr.Parse(src)
	if err == nil {
		known := b.s.armNames()
		for _, a := range armsOf(x) {
			if !contains(known, a) && b.leftOutOf(x) {
				return refuse(1, suggest(a, known, "arms"), "{{%s}}: no arm `%s`", src, a)
			}
		}
		if b.leftOutOf(x) {
			return nil
		}
		_, err = x.Check(b.scope(x))
	}
	if e, ok := err.(*expr.Error); ok {
		return &expr.Error{Col: 1, Msg: "{{" + src + "}}: " + e.Msg, Advice: e.Advice}
	}
	return err
}

type placeholder struct {
	src        string
	line       int // lines before it
	start, end int // of the braces
}

// placeholders finds every {{…}} of a text.
func placeholders(text string) []placeholder {
	var out []placeholder
	for i := 0; ; {
		start := strings.Index(text[i:], "{{")
		if start < 0 {
			return out
		}
		start += i
		end := strings.Index(text[start:], "}}")
		if end < 0 {
			return out
		}
		end += start + 2
		out = append(out, placeholder{
			src: strings.TrimSpace(text[start+2 : end-2]), line: strings.Count(text[:start], "\n"), start: start, end: end,
		})
		i = end
	}
}

// FillWriteup puts values into an account: fill gives the text of an expression
// or of predict.NAME, and false for what was not asked or not measured. A
// paragraph (or list item, or table row) with such a hole is left out, since a
// sentence without its number says nothing, and so is a heading under which
// nothing is left.
func FillWriteup(text string, fill func(src string) (string, bool)) string {
	var out []string
	heading, kept, lost := -1, 0, 0 // of the section that is being filled
	closeSection := func() {
		if heading >= 0 && kept == 0 && lost > 0 {
			out = out[:heading]
		}
	}
	for _, para := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if strings.HasPrefix(para, "#") {
			closeSection()
			heading, kept, lost = len(out), 0, 0
			out = append(out, para)
			continue
		}
		var lines []string
		for _, block := range blocks(para) {
			if filled, ok := fillBlock(block, fill); ok {
				lines = append(lines, filled)
			}
		}
		if len(lines) == 0 {
			lost++
			continue
		}
		kept++
		out = append(out, strings.Join(lines, "\n"))
	}
	closeSection()
	return strings.Join(out, "\n\n") + "\n"
}

// blocks splits a paragraph into its list items and table rows; any other
// paragraph is one block.
func blocks(para string) []string {
	var out []string
	for line := range strings.SplitSeq(para, "\n") {
		t := strings.TrimLeft(line, " ")
		starts := strings.HasPrefix(t, "- ") || strings.HasPrefix(t, "* ") || strings.HasPrefix(t, "|") || ordered(t)
		if len(out) == 0 || starts {
			out = append(out, line)
		} else {
			out[len(out)-1] += "\n" + line
		}
	}
	return out
}

func ordered(s string) bool {
	n := strings.IndexByte(s, '.')
	return n > 0 && n < 4 && strings.Trim(s[:n], "0123456789") == "" && strings.HasPrefix(s[n:], ". ")
}

func fillBlock(block string, fill func(string) (string, bool)) (string, bool) {
	var b strings.Builder
	at := 0
	for _, ph := range placeholders(block) {
		s, ok := fill(ph.src)
		if !ok {
			return "", false
		}
		b.WriteString(block[at:ph.start] + s)
		at = ph.end
	}
	b.WriteString(block[at:])
	return b.String(), true
}
