package lab

import (
	"fmt"
	"slices"
	"strings"

	"tcplab/lab/expr"
	"tcplab/lab/sheet"
	"tcplab/results"
)

// measuredIn is the environment of the expressions xs over the trials of one
// pair, by arm: what is measured comes from the trials, plain names and
// ARM.NAME from the sheet.
func measuredIn(e *sheet.Experiment, trials map[string]*results.Trial, xs ...*expr.Expr) expr.Env {
	return e.Env(func(m sheet.Metric) (expr.Value, error) {
		unit, err := expr.ParseUnit(m.Info.Unit)
		if err != nil {
			return expr.Value{}, err
		}
		v := expr.Value{Unit: unit, Missing: true}
		if t := trials[armAt(e, m)]; t != nil {
			owner := m.Owner
			if m.Towards != "" {
				owner += ">" + m.Towards
			}
			if q, ok := t.Metric(owner, m.Name, m.Fault); ok {
				v.V, v.Missing = q.Value, false
			}
		}
		return v, nil
	}, xs...)
}

// pair gathers the trials of one pair, and says whether all of them count.
func pairOf(arms map[string]results.Arm, n int) (map[string]*results.Trial, bool) {
	ts, valid := map[string]*results.Trial{}, true
	for name, a := range arms {
		for i := range a.Trials {
			if a.Trials[i].Pair == n {
				ts[name] = &a.Trials[i]
				valid = valid && a.Trials[i].Validity.Valid
			}
		}
	}
	return ts, valid && len(ts) > 0
}

// Judge fills in predictions, expectations and the verdict of a run whose
// arms hold their trials. A pair with a trial that does not count is left out.
func Judge(r *results.Run, e *sheet.Experiment) error {
	var pairs []map[string]*results.Trial
	reasons := map[string]bool{}
	for n := range r.Seeds.Pairs {
		ts, ok := pairOf(r.Arms, n+1)
		if ok {
			pairs = append(pairs, ts)
		}
		for _, t := range ts {
			for _, why := range t.Validity.Reasons {
				reasons[fmt.Sprintf("%s: %s", t.Arm, why)] = true
			}
		}
	}
	r.Expectations = map[string]results.Expectation{}
	for i, x := range e.Expect {
		out := results.Expectation{Position: i, That: x.That.String(), Because: x.Because}
		if x.Unless != nil {
			out.Unless = x.Unless.String()
		}
		switch {
		case x.NotAsked != "":
			out.Holds, out.Note = results.NotAsked, x.NotAsked
		case unsupported(r, x.That) != "":
			out.Holds, out.Note = results.NotAsked, unsupported(r, x.That)
		default:
			if err := expect(&out, x, e, pairs); err != nil {
				return fmt.Errorf("expectation %s: %w", x.Name, err)
			}
		}
		r.Expectations[x.Name] = out
	}
	for _, p := range e.Predict {
		out := r.Predictions[p.Name]
		if of, err := expr.Parse(p.Of); err == nil && out.Holds != results.NotAsked && unsupported(r, of) != "" {
			out.Holds, out.Note = results.NotAsked, unsupported(r, of)
			r.Predictions[p.Name] = out
			continue
		}
		if err := compare(&out, p, e, pairs); err != nil {
			return fmt.Errorf("prediction %s: %w", p.Name, err)
		}
		r.Predictions[p.Name] = out
	}
	verdict(r, len(pairs), reasons)
	return nil
}

func unsupported(r *results.Run, x *expr.Expr) string {
	for _, p := range x.Paths() {
		if a, ok := r.Arms[p.Arm]; ok && a.Unsupported != "" {
			return "arm " + p.Arm + " is unsupported: " + a.Unsupported
		}
	}
	return ""
}

func expect(out *results.Expectation, x sheet.Expectation, e *sheet.Experiment, pairs []map[string]*results.Trial) error {
	yes, no, skipped, missing := 0, 0, 0, []string{}
	for _, ts := range pairs {
		env := measuredIn(e, ts, x.That, x.Unless)
		o, err := x.That.Holds(env)
		if err != nil {
			return err
		}
		out.Observed = o.Observed
		if x.Unless != nil {
			u, err := x.Unless.Holds(env)
			if err != nil {
				return err
			}
			if len(u.Missing) == 0 && u.Holds {
				skipped++
				out.Note = "not reached: " + u.Observed
				continue
			}
		}
		switch {
		case len(o.Missing) > 0:
			missing = append(missing, o.Missing...)
		case o.Holds:
			yes++
		default:
			no++
		}
	}
	switch {
	case len(pairs) == 0:
		out.Holds, out.Note = results.HoldsAbsent, "no trial counts"
	case len(missing) > 0:
		slices.Sort(missing)
		out.Holds, out.Note = results.HoldsAbsent, "not measured: "+strings.Join(slices.Compact(missing), ", ")
	case yes > 0 && no == 0:
		out.Holds = results.HoldsYes
	case no > 0 && yes == 0:
		out.Holds = results.HoldsNo
	case yes == 0 && no == 0:
		out.Holds = results.NotReached
	default:
		out.Holds, out.Note = results.HoldsMixed, fmt.Sprintf("in %d of %d pairs", yes, yes+no)
	}
	return nil
}

func compare(out *results.Prediction, p sheet.Prediction, e *sheet.Experiment, pairs []map[string]*results.Trial) error {
	if out.Holds == results.NotAsked {
		return nil
	}
	of, err := expr.Parse(p.Of)
	if err != nil {
		return err
	}
	var seen []float64
	yes, no, skipped := 0, 0, 0
	for _, ts := range pairs {
		env := measuredIn(e, ts, of, p.Is, p.Unless)
		if p.Unless != nil {
			u, err := p.Unless.Holds(env)
			if err != nil {
				return err
			}
			if len(u.Missing) == 0 && u.Holds {
				skipped++
				out.Note = "not reached: " + u.Observed
			}
		}
		v, err := of.Eval(env)
		if err != nil {
			return err
		}
		if v.Missing {
			continue
		}
		seen = append(seen, v.V)
		if p.Within == "" || skipped > 0 {
			continue
		}
		tol, err := expr.ParseQuantity(p.Within)
		if err != nil {
			return err
		}
		near, err := expr.Within(expr.Value{V: out.Value, Unit: v.Unit}, v, tol)
		if err != nil {
			return err
		}
		if near {
			yes++
		} else {
			no++
		}
	}
	if len(seen) > 0 {
		slices.Sort(seen)
		m := (seen[(len(seen)-1)/2] + seen[len(seen)/2]) / 2
		out.Observed = &m
	}
	if p.Within == "" {
		return nil
	}
	switch {
	case skipped > 0:
		out.Holds = results.NotReached
	case len(seen) < len(pairs) || len(pairs) == 0:
		out.Holds, out.Note = results.HoldsAbsent, "not measured: "+p.Of
	case no == 0:
		out.Holds = results.HoldsYes
	case yes == 0:
		out.Holds = results.HoldsNo
	default:
		out.Holds, out.Note = results.HoldsMixed, fmt.Sprintf("in %d of %d pairs", yes, yes+no)
	}
	return nil
}

// verdict draws one conclusion. Doubt about the run comes before doubt about
// the subject: what was not measured as asked proves nothing.
func verdict(r *results.Run, pairs int, reasons map[string]bool) {
	var no, open, yes, unreached []string
	count := func(name string, h results.Holds, note string) {
		switch h {
		case results.NotReached:
			// Which of two ends came first is a finding of its own.
			unreached = append(unreached, name+" ("+strings.TrimPrefix(note, "not reached: ")+")")
		case results.HoldsNo:
			no = append(no, name)
		case results.HoldsMixed, results.HoldsAbsent:
			open = append(open, name)
		case results.HoldsYes:
			yes = append(yes, name)
		}
	}
	for name, x := range r.Expectations {
		count(name, x.Holds, x.Note)
	}
	for name, p := range r.Predictions {
		if p.Within != "" {
			count(name, p.Holds, p.Note)
		}
	}
	slices.Sort(no)
	slices.Sort(open)
	slices.Sort(unreached)
	switch {
	case pairs == 0 || pairs*2 < len(r.Seeds.Pairs):
		why := make([]string, 0, len(reasons))
		for w := range reasons {
			why = append(why, w)
		}
		slices.Sort(why)
		if len(why) == 0 {
			why = []string{"no trial was measured to its end"}
		}
		r.Verdict, r.Because = results.Invalid, strings.Join(why, "; ")
	case len(no) > 0:
		r.Verdict, r.Because = results.Fail, "does not hold: "+strings.Join(no, ", ")
	case len(open) > 0:
		r.Verdict, r.Because = results.Inconclusive, "cannot be told: "+strings.Join(open, ", ")
	case len(yes) == 0:
		r.Verdict, r.Because = results.Inconclusive, "nothing was left to judge"
	default:
		r.Verdict, r.Because = results.Pass, fmt.Sprintf("all %d claims hold", len(yes))
	}
	if len(unreached) > 0 && r.Verdict != results.Invalid {
		r.Because += "; not reached, since something else came first: " + strings.Join(unreached, ", ")
	}
}

// fillIn puts the run's numbers into a write-up: {{NAME}}, {{METRIC PATH}},
// any arithmetic on them, and {{predict.NAME}}. The sheet's decoder has checked
// all of them; what has no value now was not asked or not measured, and what it
// is said in is left out.
func fillIn(text string, e *sheet.Experiment, r *results.Run) string {
	medians := map[string]*results.Trial{}
	for name, a := range r.Arms {
		if len(a.Trials) == 0 {
			continue
		}
		t := a.Trials[0]
		t.Metrics = map[string]results.Quantity{}
		for k, m := range a.Metrics {
			t.Metrics[k] = results.Quantity{Value: m.Value, Unit: m.Unit}
		}
		medians[name] = &t
	}
	return sheet.FillWriteup(text, func(src string) (string, bool) {
		if name, ok := strings.CutPrefix(src, "predict."); ok {
			p, ok := r.Predictions[name]
			return expr.FormatAs(p.Value, p.Unit), ok && p.Holds != results.NotAsked
		}
		x, err := expr.Parse(src)
		if err != nil {
			return "", false
		}
		v, err := x.Eval(measuredIn(e, medians, x))
		return v.String(), err == nil && !v.Missing
	})
}
