package expr

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var (
	anyLiteral = rapid.SampledFrom([]string{"0", "5", "1_024", "0.5", "1e3", "2.5e-3s", "5ms", "250µs", "5%", "64KiB", "100Mbit/s", "600/s", "7/min", "1.5min"})
	anyName    = rapid.SampledFrom([]string{"rate", "ports", "s", "min", "inside", "nothing", "_x1"})
	anyPath    = rapid.SampledFrom([]string{"a.b", "pooled.latency.p50", "a.front>lb.lost", "a[loss=1%, b=2].goodput@cut", "h.c.sysctl[net.ipv4.x]", "in.s.d@e"})
)

// tree draws an expression of which every node kind and nesting is possible,
// sensible or not: Parse knows no types.
func tree(t *rapid.T, depth int) node {
	parsed := func(src string) node {
		e, err := Parse(src)
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		return e.root
	}
	kinds := 8
	if depth == 0 {
		kinds = 3
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return parsed(anyLiteral.Draw(t, "literal"))
	case 1:
		return parsed(anyName.Draw(t, "name"))
	case 2:
		return parsed(anyPath.Draw(t, "path"))
	case 3:
		return &unary{op: rapid.SampledFrom([]string{"-", "not"}).Draw(t, "sign"), x: operand(t, depth)}
	case 4:
		f := functions[rapid.SampledFrom(functionNames()).Draw(t, "function")]
		c := &call{fn: f}
		most := f.max
		if most < 0 {
			most = f.min + 2
		}
		for range rapid.IntRange(f.min, most).Draw(t, "arguments") {
			c.args = append(c.args, tree(t, depth-1))
		}
		return c
	case 5:
		return &within{x: operand(t, depth), low: operand(t, depth), high: operand(t, depth)}
	default:
		op := rapid.SampledFrom([]string{"or", "and", "<", "<=", ">", ">=", "==", "!=", "+", "-", "*", "/"}).Draw(t, "operator")
		return &binary{op: op, x: operand(t, depth), y: operand(t, depth)}
	}
}

func operand(t *rapid.T, depth int) node { return tree(t, depth-1) }

// shape is a tree without columns.
func shape(n node) string {
	switch n := n.(type) {
	case *number:
		return n.text
	case *name:
		return "name " + n.id
	case *metric:
		return fmt.Sprintf("path %q %v %q %q %q %q", n.path.Arm, n.path.Point, n.path.Owner, n.path.Towards, n.path.Metric, n.path.Fault)
	case *unary:
		return "[" + n.op + " " + shape(n.x) + "]"
	case *binary:
		return "[" + shape(n.x) + " " + n.op + " " + shape(n.y) + "]"
	case *within:
		return "[" + shape(n.x) + " in " + shape(n.low) + " to " + shape(n.high) + "]"
	case *call:
		var args []string
		for _, x := range n.args {
			args = append(args, shape(x))
		}
		return n.fn.Name + "[" + strings.Join(args, ", ") + "]"
	}
	panic("unknown node")
}

func TestPrintedExpressionParsesToTheSameTree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := &Expr{root: tree(t, 4)}
		again, err := Parse(e.String())
		if err != nil {
			t.Fatalf("%s: %v", e, err)
		}
		if shape(again.root) != shape(e.root) {
			t.Fatalf("%s\n was %s\n  is %s", e, shape(e.root), shape(again.root))
		}
		if again.String() != e.String() {
			t.Fatalf("%s prints as %s the second time", e, again)
		}
	})
}

func TestArithmeticEqualsGos(t *testing.T) {
	// build draws source with brackets around everything, and its value.
	var build func(t *rapid.T, depth int) (string, float64)
	build = func(t *rapid.T, depth int) (string, float64) {
		if depth == 0 || rapid.Bool().Draw(t, "leaf") {
			v := rapid.Float64Range(0, 1e6).Draw(t, "v")
			return fmt.Sprintf("%v", v), v
		}
		x, a := build(t, depth-1)
		y, b := build(t, depth-1)
		switch rapid.IntRange(0, 5).Draw(t, "op") {
		case 0:
			return "(" + x + "+" + y + ")", a + b
		case 1:
			return "(" + x + " - " + y + ")", a - b
		case 2:
			return "(" + x + "*" + y + ")", a * b
		case 3:
			return "(" + x + "/" + y + ")", a / b
		case 4:
			return "max(" + x + ", " + y + ")", max(a, b)
		}
		return "-" + x, -a
	}
	rapid.Check(t, func(t *rapid.T) {
		src, want := build(t, 4)
		e, err := Parse(src)
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		got, err := e.Eval(nowhere{})
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		// What is not finite on the way has no value here.
		if got.Missing {
			if strings.Contains(src, "/") || math.IsInf(want, 0) {
				return
			}
			t.Fatalf("%s has no value", src)
		}
		if got.V != want {
			t.Fatalf("%s = %v, Go says %v", src, got.V, want)
		}
	})
}

var anyUnit = rapid.Custom(func(t *rapid.T) Unit {
	u := Unit{time: rapid.Int16Range(-3, 3).Draw(t, "time"), data: rapid.Int16Range(-3, 3).Draw(t, "data")}
	u.share = u.Is(One) && rapid.Bool().Draw(t, "share")
	return u
})

var anyValue = rapid.Custom(func(t *rapid.T) Value {
	return Value{V: rapid.Float64Range(1e-6, 1e6).Draw(t, "v"), Unit: anyUnit.Draw(t, "unit")}
})

func TestUnitAlgebraIsAssociativeAndUndoesItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := anyUnit.Draw(t, "a"), anyUnit.Draw(t, "b"), anyUnit.Draw(t, "c")
		if a.Mul(b).Mul(c) != a.Mul(b.Mul(c)) || a.Mul(b) != b.Mul(a) {
			t.Fatalf("%s * %s * %s depends on the order", a, b, c)
		}
		if !a.Mul(b).Div(b).Is(a) || !a.Div(b).Mul(b).Is(a) || a.Div(b).Div(c) != a.Div(b.Mul(c)) {
			t.Fatalf("%s / %s does not undo the product", a, b)
		}
		if back, err := ParseUnit(a.String()); err != nil || back != a {
			t.Fatalf("%s reads back as %s, %v", a, back, err)
		}
	})
}

// TestProductsDoNotDependOnTheirOrder holds the factor between bytes and bits
// to account: it is applied once, wherever the brackets are.
func TestProductsDoNotDependOnTheirOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := anyValue.Draw(t, "a"), anyValue.Draw(t, "b"), anyValue.Draw(t, "c")
		if x, y := product(product(a, b), c), product(a, product(b, c)); !near(x.V, y.V) {
			t.Fatalf("(a*b)*c = %v, a*(b*c) = %v", x, y)
		}
		if x, y := quotient(quotient(a, b), c), quotient(a, product(b, c)); !near(x.V, y.V) {
			t.Fatalf("a/b/c = %v, a/(b*c) = %v", x, y)
		}
		if x := quotient(product(a, b), b); !near(x.V, a.V) {
			t.Fatalf("a*b/b = %v", x)
		}
	})
}

// TestShownValuesReadBack: what String shows is within rounding of the value.
func TestShownValuesReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := Value{
			V:    rapid.Float64Range(-1, 1).Draw(t, "v") * math.Pow10(rapid.IntRange(-8, 11).Draw(t, "e")),
			Unit: rapid.SampledFrom([]Unit{One, Share, Second, PerSecond, Byte, BitPerSecond}).Draw(t, "unit"),
		}
		shown := strings.NewReplacer(" ", "", ",", "").Replace(v.String())
		back, err := ParseQuantity(shown)
		if err != nil || back.Unit != v.Unit || math.Abs(back.V-v.V) > 0.0051*math.Abs(v.V) {
			t.Fatalf("%v %s is shown as %s, which is %v (%v)", v.V, v.Unit, v, back.V, err)
		}
	})
}

// TestRetransmissionsEndOnlyAtAnExpiry: whatever the RTO, the end is a sum of
// back-offs, and no later than one longest wait after the nominal sum.
func TestRetransmissionsEndOnlyAtAnExpiry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 40).Draw(t, "retries")
		largest := rapid.Float64Range(1, 120).Draw(t, "largest")
		first := rapid.Float64Range(0.2, largest).Draw(t, "first")
		end := retransmissionTimeout(n, first, largest)
		expiry := false
		for k := range 400 {
			expiry = expiry || near(end, first+backoffs(first, k+1, largest)) // the probe comes first
		}
		if !expiry {
			t.Fatalf("%v s is no expiry", end)
		}
		if nominal := modelTimeout(n, largest); (end-2*first)*(1+1.0/64) < nominal || end > 2*first+2*nominal+largest {
			t.Fatalf("ends at %v s, nominal %v s", end, nominal)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, line := range broken {
		f.Add(strings.TrimPrefix(line, "="))
	}
	for _, tt := range numbers {
		f.Add(tt.src)
	}
	for _, tt := range conditions {
		f.Add(tt.src)
	}
	b := newBench()
	f.Fuzz(func(t *testing.T, src string) {
		e, err := Parse(src)
		if err != nil {
			at, ok := err.(*Error)
			if !ok || at.Col < 1 || at.Col > len(src)+1 || at.Msg == "" || at.Advice == "" {
				t.Fatalf("%q: %#v", src, err)
			}
			return
		}
		again, err := Parse(e.String())
		if err != nil {
			if len(e.String()) > maxSource {
				return // spaces that printing adds
			}
			t.Fatalf("%q prints as %q: %v", src, e, err)
		}
		if shape(again.root) != shape(e.root) {
			t.Fatalf("%q prints as %q, another tree", src, e)
		}
		// What checks also evaluates: one type system, not two.
		if u, err := e.Check(b); err == nil {
			if v, err := e.Eval(b); err == nil && !v.Missing && !v.Unit.Is(u) {
				t.Fatalf("%q is checked as %s and evaluates to %s", src, u, v.Unit)
			}
		}
		if e.CheckBool(b) == nil {
			if _, err := e.Holds(b); err != nil {
				var ok bool
				if at, is := err.(*Error); is {
					ok = strings.Contains(at.Msg, "retries") || strings.Contains(at.Msg, "RTO")
				}
				if !ok {
					t.Fatalf("%q passes the check and then: %v", src, err)
				}
			}
		}
	})
}

func FuzzParseQuantity(f *testing.F) {
	for _, s := range []string{"5ms", "600/s", "1%", "128B", "100Mbit/s", "64KiB", "-3s", "1.5min", "5 ms", "1e400", "9/min"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseQuantity(s)
		if err != nil {
			if at, ok := err.(*Error); !ok || at.Col < 1 || at.Col > len(s)+1 || at.Advice == "" {
				t.Fatalf("%q: %#v", s, err)
			}
			return
		}
		if math.IsNaN(v.V) || math.IsInf(v.V, 0) || v.Missing {
			t.Fatalf("%q is %v", s, v.V)
		}
		_ = v.String()
	})
}
