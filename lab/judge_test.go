package lab

import (
	"strings"
	"testing"

	"tcplab/lab/sheet"
	"tcplab/results"
)

const judgedSheet = `
experiment: judged
question: Who is right?
server: {kind: echo}
workload: {kind: requests, rate: 100/s, connections: 8, size: 128B}
trial: {warmup: 1s, duration: 10s}
arms:
  before: {baseline: true, client: {reuse: none}}
  after: {client: {reuse: pool, pool: {size: 8}}, why: {client.reuse: "kept"}}
predict:
  first: {of: before.first_error.time, is: 1000 / rate, within: 5%}
  shown: {of: before.latency.p50, is: 10ms}
expect:
  faster: {that: after.latency.p50 < 0.7 * before.latency.p50}
  clean: {that: after.errors.EADDRNOTAVAIL == 0}
  exhausted: {that: before.errors.EADDRNOTAVAIL > 0, unless: before.connect.call.p50 > 0.5ms}
writeup: |
  From {{before.latency.p50}} to {{after.latency.p50}}, {{before.latency.p50 / after.latency.p50}} times; at {{rate}}; predicted {{predict.first}}.

  This is about {{before.latency.p99}}, which has too few samples.
`

func judged(t *testing.T) *sheet.Experiment {
	t.Helper()
	e, err := sheet.Parse("judged.yaml", []byte(judgedSheet), sheet.Options{Profile: "quick", Kernel: "host"})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// trialOf is a valid trial of one pair with these metrics of the client.
func trialOf(pair int, p50, errors, first, call float64) results.Trial {
	return results.Trial{Pair: pair, Validity: results.Validity{Valid: true}, Metrics: map[string]results.Quantity{
		"client.latency.p50":          {Value: p50, Unit: "s"},
		"client.requests.failed":      {Value: errors, Unit: "1"},
		"client.errors.EADDRNOTAVAIL": {Value: errors, Unit: "1"},
		"client.first_error.time":     {Value: first, Unit: "s"},
		"client.connect.call.p50":     {Value: call, Unit: "s"},
	}}
}

func runOf(t *testing.T, e *sheet.Experiment, pairs int, before, after func(pair int) results.Trial) *results.Run {
	t.Helper()
	p, err := NewPlan(e, 1, pairs, false)
	if err != nil {
		t.Fatal(err)
	}
	b, a := results.Arm{Baseline: true}, results.Arm{}
	for i := 1; i <= pairs; i++ {
		x, y := before(i), after(i)
		x.Arm, y.Arm = "before", "after"
		b.Trials, a.Trials = append(b.Trials, x), append(a.Trials, y)
	}
	b.Summarise()
	a.Summarise()
	r := &results.Run{Arms: map[string]results.Arm{"before": b, "after": a}, Seeds: results.Seeds{Pairs: p.Pairs}, Predictions: p.Predictions}
	if err := Judge(r, e); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVerdictFollowsTheRules(t *testing.T) {
	good := func(pair int) results.Trial { return trialOf(pair, .021, 50, 10, 2e-5) }
	fast := func(pair int) results.Trial { return trialOf(pair, .011, 0, 0, 2e-5) }
	for _, c := range []struct {
		name          string
		pairs         int
		before, after func(int) results.Trial
		want          results.Verdict
		because       string
		holds         map[string]results.Holds
	}{
		{"all hold", 1, good, fast, results.Pass, "all 4 claims hold", nil},
		{"one fails", 1, good, good, results.Fail, "does not hold: clean, faster", map[string]results.Holds{"faster": results.HoldsNo, "exhausted": results.HoldsYes}},
		{"one fails in one pair of two", 2, good, func(p int) results.Trial {
			if p == 2 {
				return trialOf(p, .02, 0, 0, 2e-5)
			}
			return fast(p)
		}, results.Inconclusive, "cannot be told: faster", map[string]results.Holds{"faster": results.HoldsMixed}},
		{"a prediction that is off fails like an expectation", 1, func(p int) results.Trial { return trialOf(p, .021, 50, 11, 2e-5) }, fast, results.Fail, "does not hold: first", nil},
		{"what comes first makes the rest not reached", 1, func(p int) results.Trial {
			x := trialOf(p, .021, 0, 0, 2e-3)
			return x
		}, fast, results.Fail, "does not hold: first; not reached, since something else came first: exhausted (before.connect.call.p50 = 2 ms)", map[string]results.Holds{"exhausted": results.NotReached}},
		{"a missing value is inconclusive", 1, good, func(p int) results.Trial {
			x := fast(p)
			delete(x.Metrics, "client.latency.p50")
			return x
		}, results.Inconclusive, "cannot be told: faster", map[string]results.Holds{"faster": results.HoldsAbsent}},
		{"a trial that does not count makes the only pair invalid", 1, good, func(p int) results.Trial {
			x := fast(p)
			x.Validity = results.Validity{Reasons: []string{"the generator was late"}}
			return x
		}, results.Invalid, "after: the generator was late", nil},
		{"one invalid pair of three is left out", 3, good, func(p int) results.Trial {
			x := fast(p)
			if p == 2 {
				x = trialOf(p, .03, 9, 1, 2e-5)
				x.Validity = results.Validity{Reasons: []string{"the generator was late"}}
			}
			return x
		}, results.Pass, "all 4 claims hold", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := runOf(t, judged(t), c.pairs, c.before, c.after)
			if r.Verdict != c.want || r.Because != c.because {
				t.Errorf("%s: %s, want %s: %s", r.Verdict, r.Because, c.want, c.because)
			}
			for name, want := range c.holds {
				if got := r.Expectations[name]; got.Holds != want {
					t.Errorf("%s: %q (%s), want %q", name, got.Holds, got.Observed, want)
				}
			}
		})
	}
}

func TestAnErrorClassThatNeverCameIsZeroAndNotMissing(t *testing.T) {
	after := func(p int) results.Trial {
		x := trialOf(p, .011, 0, 0, 2e-5)
		delete(x.Metrics, "client.errors.EADDRNOTAVAIL")
		return x
	}
	r := runOf(t, judged(t), 1, func(p int) results.Trial { return trialOf(p, .021, 50, 10, 2e-5) }, after)
	if got := r.Expectations["clean"].Holds; got != results.HoldsYes {
		t.Errorf("clean: %q", got)
	}
}

func TestWriteUpIsFilledWithTheRunsNumbers(t *testing.T) {
	e := judged(t)
	r := runOf(t, e, 1, func(p int) results.Trial { return trialOf(p, .022, 50, 10, 2e-5) }, func(p int) results.Trial { return trialOf(p, .011, 0, 0, 2e-5) })
	got := fillIn(e.Writeup, e, r)
	if want := "From 22 ms to 11 ms, 2 times; at 100/s; predicted 10 s."; strings.TrimSpace(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestPlanMirrorsTheArmsAndGivesEachPairItsOwnSeed(t *testing.T) {
	p, err := NewPlan(judged(t), 7, 3, false)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, tr := range p.Trials {
		order = append(order, tr.Arm)
		if tr.Seed != p.Pairs[tr.Pair-1] {
			t.Errorf("trial %d has seed %d, its pair %d", tr.Number, tr.Seed, p.Pairs[tr.Pair-1])
		}
	}
	if got := strings.Join(order, " "); got != "before after after before before after" {
		t.Errorf("order: %s", got)
	}
	if p.Pairs[0] == p.Pairs[1] || p.Pairs[1] == p.Pairs[2] {
		t.Errorf("seeds: %v", p.Pairs)
	}
	again, _ := NewPlan(judged(t), 7, 3, false)
	other, _ := NewPlan(judged(t), 8, 3, false)
	if again.Pairs[2] != p.Pairs[2] || other.Pairs[0] == p.Pairs[1] {
		t.Error("seeds do not hang off the run's seed alone")
	}
	if got := p.Predictions["first"]; got.Value != 10 || got.Unit != "s" {
		t.Errorf("prediction: %+v", got)
	}
}
