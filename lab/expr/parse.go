package expr

import (
	"slices"
	"strings"
)

// The bounds of an expression. A sheet's are tens of bytes and a few levels;
// these keep hostile input from exhausting the stack.
const (
	maxSource = 8 << 10 // bytes
	maxDepth  = 100     // nested brackets, signs and nots
)

// Expr is a parsed expression. It is immutable and safe for concurrent use.
type Expr struct {
	src  string
	root node
}

// A node's columns are kept for errors and play no part in what it means.
type node interface{ col() int }

type (
	number struct {
		val  Value
		text string
		at   int
	}
	name struct {
		id string
		at int
	}
	metric struct{ path Path }
	call   struct {
		fn   *function
		args []node
		at   int
	}
	unary struct { // "-" or "not"
		op string
		x  node
		at int
	}
	binary struct { // arithmetic, comparison, "and", "or"
		op   string
		x, y node
		at   int
	}
	within struct { // x in low..high, both ends included
		x, low, high node
		at           int
	}
)

func (n *number) col() int { return n.at }
func (n *name) col() int   { return n.at }
func (n *metric) col() int { return n.path.Col }
func (n *call) col() int   { return n.at }
func (n *unary) col() int  { return n.at }
func (n *binary) col() int { return n.at }
func (n *within) col() int { return n.at }

// Precedences, loosest first. Comparisons do not chain.
const (
	precOr = iota + 1
	precAnd
	precNot
	precCompare
	precAdd
	precMul
	precNeg
	precAtom
)

var precedence = map[string]int{
	"or": precOr, "and": precAnd,
	"<": precCompare, "<=": precCompare, ">": precCompare, ">=": precCompare, "==": precCompare, "!=": precCompare,
	"+": precAdd, "-": precAdd, "*": precMul, "/": precMul,
}

// Parse reads an expression. The error is an *Error.
//
//	expression = or; or = and {"or" and}; and = not {"and" not}; not = "not" not | comparison
//	comparison = sum [("<"|"<="|">"|">="|"=="|"!=") sum | "in" sum ".." sum]
//	sum = product {("+"|"-") product}; product = sign {("*"|"/") sign}; sign = "-" sign | atom
//	atom = NUMBER[UNIT] | PATH | NAME | FUNCTION "(" [expression {"," expression}] ")" | "(" expression ")"
func Parse(src string) (*Expr, error) {
	if len(src) > maxSource {
		return nil, errAt(maxSource+1, "split it into several", "the expression is longer than %d bytes", maxSource)
	}
	tokens, err := lex(src)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens}
	root, err := p.level(precOr)
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != kindEnd {
		return nil, p.unexpected(t)
	}
	return &Expr{src: src, root: root}, nil
}

type parser struct {
	tokens []token
	next   int
	depth  int
}

func (p *parser) peek() token { return p.tokens[p.next] }

func (p *parser) take() token {
	t := p.tokens[p.next]
	if t.kind != kindEnd {
		p.next++
	}
	return t
}

// op takes the next token if it is one of these operators.
func (p *parser) op(texts ...string) (token, bool) {
	if t := p.peek(); t.kind == kindOp && slices.Contains(texts, t.text) {
		return p.take(), true
	}
	return token{}, false
}

func (p *parser) deeper(t token) *Error {
	if p.depth++; p.depth > maxDepth {
		return errAt(t.col, "split it into several", "more than %d levels deep", maxDepth)
	}
	return nil
}

// level parses what binds at least as tightly as prec.
func (p *parser) level(prec int) (node, *Error) {
	switch prec {
	case precOr:
		return p.chain(prec, "or")
	case precAnd:
		return p.chain(prec, "and")
	case precNot:
		return p.prefix(prec, "not")
	case precCompare:
		return p.comparison()
	case precAdd:
		return p.chain(prec, "+", "-")
	case precMul:
		return p.chain(prec, "*", "/")
	case precNeg:
		return p.prefix(prec, "-")
	}
	return p.atom()
}

// chain parses operators of one precedence, from the left.
func (p *parser) chain(prec int, ops ...string) (node, *Error) {
	x, err := p.level(prec + 1)
	if err != nil {
		return nil, err
	}
	for {
		t, ok := p.op(ops...)
		if !ok {
			return x, nil
		}
		y, err := p.level(prec + 1)
		if err != nil {
			return nil, err
		}
		x = &binary{op: t.text, x: x, y: y, at: t.col}
	}
}

func (p *parser) prefix(prec int, op string) (node, *Error) {
	t, ok := p.op(op)
	if !ok {
		return p.level(prec + 1)
	}
	if err := p.deeper(t); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	x, err := p.prefix(prec, op)
	if err != nil {
		return nil, err
	}
	return &unary{op: op, x: x, at: t.col}, nil
}

func (p *parser) comparison() (node, *Error) {
	x, err := p.level(precAdd)
	if err != nil {
		return nil, err
	}
	var out node
	if t, ok := p.op("<", "<=", ">", ">=", "==", "!="); ok {
		y, err := p.level(precAdd)
		if err != nil {
			return nil, err
		}
		out = &binary{op: t.text, x: x, y: y, at: t.col}
	} else if t, ok := p.op("in"); ok {
		low, err := p.level(precAdd)
		if err != nil {
			return nil, err
		}
		if next := p.peek(); next.kind != kindOp || next.text != ".." {
			return nil, errAt(next.col, "write X in LOW..HIGH, such as 800s..1100s", "a range is missing its ..")
		}
		p.take()
		high, err := p.level(precAdd)
		if err != nil {
			return nil, err
		}
		out = &within{x: x, low: low, high: high, at: t.col}
	} else {
		return x, nil
	}
	if t := p.peek(); t.kind == kindOp && (precedence[t.text] == precCompare || t.text == "in") {
		return nil, errAt(t.col, "write X in LOW..HIGH, or join two comparisons with and", "comparisons do not chain")
	}
	return out, nil
}

func (p *parser) atom() (node, *Error) {
	t := p.peek()
	switch {
	case t.kind == kindNumber:
		p.take()
		return &number{val: t.val, text: t.text, at: t.col}, nil
	case t.kind == kindPath:
		p.take()
		if next := p.peek(); next.kind == kindOp && next.text == "(" {
			return nil, errAt(next.col, "functions have plain names, such as rtt()", "%s is a path, not a function", t.text)
		}
		return &metric{path: t.path}, nil
	case t.kind == kindName:
		p.take()
		if _, ok := p.op("("); ok {
			return p.arguments(t)
		}
		return &name{id: t.text, at: t.col}, nil
	case t.kind == kindOp && t.text == "(":
		p.take()
		if err := p.deeper(t); err != nil {
			return nil, err
		}
		defer func() { p.depth-- }()
		x, err := p.level(precOr)
		if err != nil {
			return nil, err
		}
		if _, ok := p.op(")"); !ok {
			return nil, p.unclosed(t)
		}
		return x, nil
	}
	return nil, p.unexpected(t)
}

// arguments parses a call from behind its opening bracket.
func (p *parser) arguments(fn token) (node, *Error) {
	f := functions[fn.text]
	if f == nil {
		return nil, errAt(fn.col, nearestAdvice(fn.text, functionNames()), "there is no function %s", fn.text)
	}
	if err := p.deeper(fn); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	c := &call{fn: f, at: fn.col}
	if _, ok := p.op(")"); !ok {
		for {
			x, err := p.level(precOr)
			if err != nil {
				return nil, err
			}
			c.args = append(c.args, x)
			if _, ok := p.op(","); ok {
				continue
			}
			if _, ok := p.op(")"); !ok {
				return nil, p.unclosed(fn)
			}
			break
		}
	}
	if n := len(c.args); n < f.min || f.max >= 0 && n > f.max {
		return nil, errAt(fn.col, "write "+f.Usage, "%s takes %s, not %d", f.Name, f.arity(), n)
	}
	return c, nil
}

// unclosed explains what stands where the bracket opened by t should close.
func (p *parser) unclosed(t token) *Error {
	if next := p.peek(); next.kind != kindEnd {
		return p.unexpected(next)
	}
	return errAt(t.col, "close it with )", "an open bracket")
}

func (p *parser) unexpected(t token) *Error {
	before := token{kind: kindEnd}
	if p.next > 0 {
		before = p.tokens[p.next-1]
	}
	operand := before.kind == kindNumber || before.kind == kindName || before.kind == kindPath || before.text == ")"
	switch {
	case t.kind == kindEnd && p.next == 0:
		return errAt(t.col, "write one, such as pooled.latency.p50 < 5ms", "the expression is empty")
	case t.kind == kindEnd:
		return errAt(t.col, "write a number, a name or a path", "an operand is missing after %s", before)
	case t.text == "..":
		return errAt(t.col, "write X in LOW..HIGH", "a range without in")
	case t.text == "," && before.kind == kindNumber:
		return errAt(t.col, "group digits with _: 4_096", "a comma in a number, or outside a function")
	case t.text == ")" && operand:
		return errAt(t.col, "remove it, or open it with (", "a bracket closes that was not opened")
	case operand && t.kind != kindOp, operand && t.text == "(":
		return errAt(t.col, "write an operator between them", "%s follows %s", t, before)
	case operand && t.text == "not":
		return errAt(t.col, "write not X in LOW..HIGH", "not stands before a condition")
	}
	return errAt(t.col, "write a number, a name or a path", "%s where an operand belongs", t)
}

// String prints the expression with as few brackets as it needs. Parsing the
// result gives the same expression.
func (e *Expr) String() string {
	var b strings.Builder
	write(&b, e.root, precOr)
	return b.String()
}

// write prints n, in brackets where it binds looser than outer asks for.
func write(b *strings.Builder, n node, outer int) {
	prec := precAtom
	switch n := n.(type) {
	case *binary:
		prec = precedence[n.op]
	case *within:
		prec = precCompare
	case *unary:
		prec = precNeg
		if n.op == "not" {
			prec = precNot
		}
	}
	if prec < outer {
		b.WriteByte('(')
		defer b.WriteByte(')')
	}
	switch n := n.(type) {
	case *number:
		b.WriteString(n.text)
	case *name:
		b.WriteString(n.id)
	case *metric:
		b.WriteString(n.path.Raw)
	case *call:
		b.WriteString(n.fn.Name)
		b.WriteByte('(')
		for i, x := range n.args {
			if i > 0 {
				b.WriteString(", ")
			}
			write(b, x, precOr)
		}
		b.WriteByte(')')
	case *unary:
		b.WriteString(n.op)
		if n.op == "not" {
			b.WriteByte(' ')
		}
		write(b, n.x, prec)
	case *binary:
		left := prec
		if prec == precCompare {
			left++
		}
		write(b, n.x, left)
		b.WriteString(" " + n.op + " ")
		write(b, n.y, prec+1)
	case *within:
		write(b, n.x, prec+1)
		b.WriteString(" in ")
		write(b, n.low, prec+1)
		b.WriteString("..")
		write(b, n.high, prec+1)
	}
}

// Paths are the metric paths in the expression, each once, as written (Split
// has not been applied).
func (e *Expr) Paths() []Path {
	var out []Path
	walk(e.root, func(n node) {
		if m, ok := n.(*metric); ok {
			out = append(out, m.path.clone())
		}
	})
	return unique(out, Path.equal)
}

// Names are the sheet's names that the expression uses, each once, those that
// its functions ask for (rtt() asks for rtt) included.
func (e *Expr) Names() []string {
	var out []string
	walk(e.root, func(n node) {
		switch n := n.(type) {
		case *name:
			out = append(out, n.id)
		case *call:
			if n.fn.asks != "" {
				out = append(out, n.fn.asks)
			}
		}
	})
	return unique(out, func(a, b string) bool { return a == b })
}

// walk visits the tree from the left, parents first.
func walk(n node, visit func(node)) {
	visit(n)
	switch n := n.(type) {
	case *call:
		for _, x := range n.args {
			walk(x, visit)
		}
	case *unary:
		walk(n.x, visit)
	case *binary:
		walk(n.x, visit)
		walk(n.y, visit)
	case *within:
		walk(n.x, visit)
		walk(n.low, visit)
		walk(n.high, visit)
	}
}
