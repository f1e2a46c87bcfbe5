package expr

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Env has the values behind names and paths. A measurement that was not made
// is a Value with Missing set (its Unit is not looked at), not an error.
type Env interface {
	NameValue(name string) (Value, error)
	MetricValue(p Path) (Value, error)
}

// Outcome is what a condition came to.
type Outcome struct {
	// Holds is true if the condition does. It means nothing while Missing is
	// not empty.
	Holds bool
	// Missing is why the condition is undecided: the paths and names without a
	// value, and divisions by zero, as written. It is empty where the rest
	// decides: `a or b` holds if a does, whatever b is.
	Missing []string
	// Observed lists each path's value: "pooled.latency.p50 = 11.2 ms, …", or
	// each name's where there is no path.
	Observed string
	// Left and Right are the two sides of the comparison that decided; for a
	// range Right is the bound that Left broke or is nearer to.
	Left, Right Value
}

// Eval computes a number. Missing values propagate; so does what has no value,
// such as a division by zero. The error is an *Error.
func (e *Expr) Eval(env Env) (Value, error) {
	ev := evaluator{env: env}
	v, err := ev.number(e.root)
	if err != nil {
		return Value{}, err
	}
	return v, nil
}

// Holds evaluates a condition. Missing values make it undecided (see
// Outcome.Missing). The error is an *Error.
func (e *Expr) Holds(env Env) (Outcome, error) {
	ev := evaluator{env: env}
	d, err := ev.condition(e.root)
	if err != nil {
		return Outcome{}, err
	}
	out := Outcome{Holds: d.truth == yes, Observed: ev.observed(), Left: d.left, Right: d.right}
	if d.truth == unknown {
		out.Missing = ev.missing
	}
	return out, nil
}

// truth has three values (Kleene's strong logic), ordered so that and is min,
// or is max and not is the negation.
type truth int8

const (
	no      truth = -1
	unknown truth = 0
	yes     truth = 1
)

// decision is a condition's truth and the comparison that decided it.
type decision struct {
	truth       truth
	left, right Value
}

type observation struct {
	what   string
	value  Value
	metric bool
}

type evaluator struct {
	env     Env
	seen    []observation
	missing []string
}

func (ev *evaluator) number(n node) (Value, *Error) {
	switch n := n.(type) {
	case *number:
		return n.val, nil
	case *name:
		v, err := ev.lookUp(n.id, n.at)
		return v, err
	case *metric:
		v, err := ev.env.MetricValue(n.path.clone())
		if err != nil {
			return Value{}, placed(n.path.Col, err)
		}
		return ev.note(n.path.Raw, v, true), nil
	case *call:
		return ev.call(n)
	case *unary:
		if n.op == "not" {
			return Value{}, notANumber(n)
		}
		v, err := ev.number(n.x)
		v.V = -v.V
		return v, err
	case *binary:
		if precedence[n.op] <= precCompare {
			return Value{}, notANumber(n)
		}
		x, err := ev.number(n.x)
		if err != nil {
			return Value{}, err
		}
		y, err := ev.number(n.y)
		if err != nil {
			return Value{}, err
		}
		return ev.arithmetic(n, x, y)
	}
	return Value{}, notANumber(n)
}

func (ev *evaluator) arithmetic(n *binary, x, y Value) (Value, *Error) {
	if x.Missing || y.Missing {
		return Value{Missing: true}, nil
	}
	u, err := arithmetic(n, x.Unit, y.Unit)
	if err != nil {
		return Value{}, err
	}
	var v Value
	switch n.op {
	case "+":
		v = Value{V: x.V + y.V, Unit: u}
	case "-":
		v = Value{V: x.V - y.V, Unit: u}
	case "*":
		v = product(x, y)
	case "/":
		v = quotient(x, y)
	}
	return ev.finite(n, v), nil
}

// finite turns what has no value (0/0, 1/0, an overflow) into a missing one.
func (ev *evaluator) finite(n node, v Value) Value {
	if v.Missing || !math.IsNaN(v.V) && !math.IsInf(v.V, 0) {
		return v
	}
	ev.lack(text(n) + " (no finite value)")
	return Value{Unit: v.Unit, Missing: true}
}

func (ev *evaluator) call(n *call) (Value, *Error) {
	if n.fn.asks != "" {
		v, err := ev.lookUp(n.fn.asks, n.at)
		if err == nil && !v.Missing && !v.Unit.Is(n.fn.result) {
			err = errAt(n.at, "", "%s asks for %s, which is %s, not %s", n.fn.Usage, n.fn.asks, v.Unit.describe(), n.fn.result.describe())
		}
		return v, err
	}
	values, units := make([]Value, len(n.args)), make([]Unit, len(n.args))
	missing := false
	for i, x := range n.args {
		v, err := ev.number(x)
		if err != nil {
			return Value{}, err
		}
		values[i], units[i] = v, v.Unit
		missing = missing || v.Missing
	}
	if missing {
		return Value{Missing: true}, nil
	}
	u, err := n.fn.unit(n, units)
	if err != nil {
		return Value{}, err
	}
	f, bad := n.fn.value(values)
	if bad != nil {
		return Value{}, errAt(n.at, "write "+n.fn.Usage, "%s: %v", n.fn.Name, bad)
	}
	return ev.finite(n, Value{V: f, Unit: u}), nil
}

func (ev *evaluator) lookUp(id string, at int) (Value, *Error) {
	v, err := ev.env.NameValue(id)
	if err != nil {
		return Value{}, placed(at, err)
	}
	return ev.note(id, v, false), nil
}

// note records what was looked up, once.
func (ev *evaluator) note(what string, v Value, metric bool) Value {
	if math.IsNaN(v.V) || math.IsInf(v.V, 0) {
		v.Missing = true
	}
	if v.Missing {
		ev.lack(what)
	}
	if !slices.ContainsFunc(ev.seen, func(o observation) bool { return o.what == what }) {
		ev.seen = append(ev.seen, observation{what, v, metric})
	}
	return v
}

func (ev *evaluator) lack(what string) {
	if !slices.Contains(ev.missing, what) {
		ev.missing = append(ev.missing, what)
	}
}

func (ev *evaluator) observed() string {
	metrics := slices.ContainsFunc(ev.seen, func(o observation) bool { return o.metric })
	var parts []string
	for _, o := range ev.seen {
		if o.metric == metrics {
			parts = append(parts, o.what+" = "+o.value.String())
		}
	}
	return strings.Join(parts, ", ")
}

func (ev *evaluator) condition(n node) (decision, *Error) {
	switch n := n.(type) {
	case *unary:
		if n.op == "not" {
			d, err := ev.condition(n.x)
			d.truth = -d.truth
			return d, err
		}
	case *within:
		return ev.within(n)
	case *binary:
		switch {
		case n.op == "and" || n.op == "or":
			// Both sides are evaluated, so that Observed shows both.
			x, err := ev.condition(n.x)
			if err != nil {
				return x, err
			}
			y, err := ev.condition(n.y)
			if err != nil {
				return y, err
			}
			if (n.op == "and") == (y.truth < x.truth) && x.truth != y.truth {
				return y, nil
			}
			return x, nil
		case precedence[n.op] == precCompare:
			return ev.compare(n)
		}
	}
	v, err := ev.number(n)
	if err != nil {
		return decision{}, err
	}
	return decision{}, notACondition(n, v.Unit)
}

func (ev *evaluator) compare(n *binary) (decision, *Error) {
	x, err := ev.number(n.x)
	if err != nil {
		return decision{}, err
	}
	y, err := ev.number(n.y)
	if err != nil {
		return decision{}, err
	}
	d := decision{left: x, right: y}
	if x.Missing || y.Missing {
		return d, nil
	}
	if err := sameUnit(n.op, n.at, n.x, n.y, x.Unit, y.Unit); err != nil {
		return d, err
	}
	var holds bool
	switch n.op {
	case "<":
		holds = x.V < y.V
	case "<=":
		holds = x.V <= y.V
	case ">":
		holds = x.V > y.V
	case ">=":
		holds = x.V >= y.V
	case "==":
		holds = x.V == y.V
	case "!=":
		holds = x.V != y.V
	}
	d.truth = truthOf(holds)
	return d, nil
}

func (ev *evaluator) within(n *within) (decision, *Error) {
	var v [3]Value
	for i, x := range []node{n.x, n.low, n.high} {
		var err *Error
		if v[i], err = ev.number(x); err != nil {
			return decision{}, err
		}
	}
	x, low, high := v[0], v[1], v[2]
	for i, bound := range []node{n.low, n.high} {
		if !x.Missing && !v[i+1].Missing {
			if err := sameUnit("in", n.at, n.x, bound, x.Unit, v[i+1].Unit); err != nil {
				return decision{}, err
			}
		}
	}
	switch {
	case x.Missing:
		return decision{left: x, right: low}, nil
	case !low.Missing && x.V < low.V:
		return decision{no, x, low}, nil
	case !high.Missing && x.V > high.V:
		return decision{no, x, high}, nil
	case low.Missing:
		return decision{left: x, right: low}, nil
	case high.Missing:
		return decision{left: x, right: high}, nil
	case x.V-low.V <= high.V-x.V:
		return decision{yes, x, low}, nil
	}
	return decision{yes, x, high}, nil
}

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// errNotConstant is what a constant expression's environment answers.
var errNotConstant = errors.New("not a constant")

type nowhere struct{}

func (nowhere) NameValue(string) (Value, error) { return Value{}, errNotConstant }
func (nowhere) MetricValue(Path) (Value, error) { return Value{}, errNotConstant }

// constant is the value of an expression without names and paths.
func constant(n node) (Value, *Error) {
	ev := evaluator{env: nowhere{}}
	v, err := ev.number(n)
	if err == nil && v.Missing {
		err = errAt(n.col(), "", "%s has no value", text(n))
	}
	return v, err
}

// ErrMissing is what Within answers where there is nothing to compare.
var ErrMissing = errors.New("a value is missing")

// Within tells whether an observation agrees with a prediction. A tolerance in
// percent is relative to the prediction, any other is absolute and has the
// prediction's unit. Both ends are included. It is ErrMissing if a value is.
func Within(predicted, observed, tolerance Value) (bool, error) {
	if err := CheckWithin(predicted.Unit, tolerance); err != nil {
		return false, err
	}
	if predicted.Missing || observed.Missing {
		return false, ErrMissing
	}
	if !predicted.Unit.Is(observed.Unit) {
		return false, fmt.Errorf("the prediction is %s and the observation is %s: both need the same unit", predicted.Unit.describe(), observed.Unit.describe())
	}
	allowed := tolerance.V
	if tolerance.Unit == Share {
		allowed *= math.Abs(predicted.V)
	}
	const rounding = 1 + 1e-12 // so that the end itself is included
	return math.Abs(observed.V-predicted.V) <= allowed*rounding, nil
}

// CheckWithin is an error unless the tolerance fits a prediction of that unit.
func CheckWithin(predicted Unit, tolerance Value) error {
	switch {
	case tolerance.Missing || tolerance.V < 0 || math.IsNaN(tolerance.V):
		return errors.New("the tolerance is not a positive quantity: write 5%")
	case tolerance.Unit == Share || tolerance.Unit.Is(predicted):
		return nil
	}
	return fmt.Errorf("the tolerance is %s and the prediction is %s: write 5%% or %s",
		tolerance.Unit.describe(), predicted.describe(), predicted.example("5"))
}
