package expr

import (
	"fmt"
	"strings"
)

// Scope says what a name or a path measures, without its value. An error from
// it becomes an *Error at the column of that name or path; an *Error keeps its
// message and advice.
type Scope interface {
	Name(name string) (Unit, error)
	Metric(p Path) (Unit, error)
}

// Check type-checks the expression as a number and gives its unit. The error
// is an *Error.
func (e *Expr) Check(s Scope) (Unit, error) {
	t, err := checker{s}.visit(e.root)
	if err != nil {
		return One, err
	}
	if t.condition {
		return One, errAt(e.root.col(), "remove the comparison", "a condition where a number is asked for")
	}
	return t.unit, nil
}

// CheckBool type-checks the expression as a condition. The error is an *Error.
func (e *Expr) CheckBool(s Scope) error {
	t, err := checker{s}.visit(e.root)
	if err != nil {
		return err
	}
	if !t.condition {
		return notACondition(e.root, t.unit)
	}
	return nil
}

// kindOf is the type of a sub-expression: a number of some unit, or a condition.
type kindOf struct {
	unit      Unit
	condition bool
}

type checker struct{ scope Scope }

func (c checker) visit(n node) (kindOf, *Error) {
	switch n := n.(type) {
	case *number:
		return kindOf{unit: n.val.Unit}, nil
	case *name:
		u, err := c.scope.Name(n.id)
		if err != nil {
			return kindOf{}, placed(n.at, err)
		}
		return kindOf{unit: u}, nil
	case *metric:
		u, err := c.scope.Metric(n.path.clone())
		if err != nil {
			return kindOf{}, placed(n.path.Col, err)
		}
		return kindOf{unit: u}, nil
	case *call:
		return c.call(n)
	case *unary:
		if n.op == "not" {
			return kindOf{condition: true}, c.condition(n.x)
		}
		u, err := c.number(n.x)
		return kindOf{unit: u}, err
	case *within:
		return kindOf{condition: true}, c.within(n)
	case *binary:
		if n.op == "and" || n.op == "or" {
			if err := c.condition(n.x); err != nil {
				return kindOf{}, err
			}
			return kindOf{condition: true}, c.condition(n.y)
		}
		x, err := c.number(n.x)
		if err != nil {
			return kindOf{}, err
		}
		y, err := c.number(n.y)
		if err != nil {
			return kindOf{}, err
		}
		if precedence[n.op] == precCompare {
			return kindOf{condition: true}, sameUnit(n.op, n.at, n.x, n.y, x, y)
		}
		u, err := arithmetic(n, x, y)
		return kindOf{unit: u}, err
	}
	panic(fmt.Sprintf("expr: unknown node %T", n))
}

// number checks a sub-expression that must not be a condition.
func (c checker) number(n node) (Unit, *Error) {
	t, err := c.visit(n)
	if err != nil {
		return One, err
	}
	if t.condition {
		return One, notANumber(n)
	}
	return t.unit, nil
}

func (c checker) condition(n node) *Error {
	t, err := c.visit(n)
	if err != nil {
		return err
	}
	if !t.condition {
		return notACondition(n, t.unit)
	}
	return nil
}

func (c checker) within(n *within) *Error {
	var units [3]Unit
	for i, x := range []node{n.x, n.low, n.high} {
		u, err := c.number(x)
		if err != nil {
			return err
		}
		units[i] = u
	}
	if err := sameUnit("in", n.at, n.x, n.low, units[0], units[1]); err != nil {
		return err
	}
	if err := sameUnit("in", n.at, n.x, n.high, units[0], units[2]); err != nil {
		return err
	}
	low, lowErr := constant(n.low)
	high, highErr := constant(n.high)
	if lowErr == nil && highErr == nil && low.V > high.V {
		return errAt(n.low.col(), "write "+text(n.x)+" in "+text(n.high)+".."+text(n.low), "the range is empty: its low end is above its high end")
	}
	return nil
}

func (c checker) call(n *call) (kindOf, *Error) {
	if n.fn.asks != "" {
		u, err := c.scope.Name(n.fn.asks)
		if err != nil {
			return kindOf{}, placed(n.at, fmt.Errorf("%s: %w", n.fn.Usage, err))
		}
		if !u.Is(n.fn.result) {
			return kindOf{}, errAt(n.at, "", "%s asks for %s, which is %s, not %s", n.fn.Usage, n.fn.asks, u.describe(), n.fn.result.describe())
		}
		return kindOf{unit: n.fn.result}, nil
	}
	units := make([]Unit, len(n.args))
	fixed := true
	values := make([]Value, len(n.args))
	for i, x := range n.args {
		u, err := c.number(x)
		if err != nil {
			return kindOf{}, err
		}
		units[i] = u
		v, err := constant(x)
		values[i], fixed = v, fixed && err == nil
	}
	u, err := n.fn.unit(n, units)
	if err != nil {
		return kindOf{}, err
	}
	if fixed { // its arguments are known now, so that a bad one is an error now
		if _, err := n.fn.value(values); err != nil {
			return kindOf{}, errAt(n.at, "write "+n.fn.Usage, "%s: %v", n.fn.Name, err)
		}
	}
	return kindOf{unit: u}, nil
}

// arithmetic is the unit of x op y.
func arithmetic(n *binary, x, y Unit) (Unit, *Error) {
	switch n.op {
	case "*":
		return x.Mul(y), nil
	case "/":
		return x.Div(y), nil
	}
	if err := sameUnit(n.op, n.at, n.x, n.y, x, y); err != nil {
		return One, err
	}
	return x.sum(y), nil
}

// sameUnit is an error unless x and y, the operands of op at column at, are of
// one dimension. It points at a literal where one is the odd one out.
func sameUnit(op string, at int, x, y node, ux, uy Unit) *Error {
	if ux.Is(uy) {
		return nil
	}
	advice := "both sides need the same unit"
	if lit, other := literal(y), ux; lit != nil {
		at, advice = y.col(), retype(op, lit, text(x), other)
	} else if lit := literal(x); lit != nil {
		at, advice = x.col(), retype(op, lit, text(y), uy)
	}
	return errAt(at, advice, "%s is %s and %s is %s", text(x), ux.describe(), text(y), uy.describe())
}

// retype advises how to write a literal that has the wrong unit.
func retype(op string, lit *number, other string, want Unit) string {
	if lit.val.Unit.share && (op == "+" || op == "-") {
		return "write " + other + " * (1 " + op + " " + lit.text + ")"
	}
	_, end, err := scanNumber(lit.text)
	if err != nil {
		return "both sides need the same unit"
	}
	return "write " + want.example(lit.text[:end]) + ", not " + lit.text
}

// literal is the number that n is, behind any sign.
func literal(n node) *number {
	for {
		switch x := n.(type) {
		case *number:
			return x
		case *unary:
			n = x.x
			continue
		}
		return nil
	}
}

func notANumber(n node) *Error {
	return errAt(n.col(), "join conditions with and, or, not", "%s is a condition where a number belongs", shortened(n, precOr))
}

func notACondition(n node, u Unit) *Error {
	if m, ok := n.(*metric); ok && m.path.Towards != "" {
		return errAt(n.col(), "put spaces around > to compare", "%s is a path towards %s, not a condition", m.path.Raw, m.path.Towards)
	}
	return errAt(n.col(), "compare it, such as "+text(n)+" > 0"+zeroSuffix(u), "%s is %s, not a condition", text(n), u.describe())
}

// zeroSuffix is the unit that a 0 to compare with needs.
func zeroSuffix(u Unit) string {
	switch {
	case u.Is(Second):
		return "s"
	case u.Is(PerSecond):
		return "/s"
	case u.Is(Byte):
		return "B"
	case u.Is(BitPerSecond):
		return "bit/s"
	case u.share:
		return "%"
	}
	return ""
}

// text prints an operand for a message, shortened where it is long.
func text(n node) string { return shortened(n, precAdd) }

func shortened(n node, outer int) string {
	var b strings.Builder
	write(&b, n, outer)
	if s := []rune(b.String()); len(s) > 60 {
		return string(s[:57]) + "…"
	}
	return b.String()
}
