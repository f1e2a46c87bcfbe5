package lab

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"tcplab/lab/expr"
	"tcplab/lab/guest"
	"tcplab/lab/sheet"
	"tcplab/lab/trial"
	"tcplab/results"
)

// overhead is what a trial costs beside its own length: hosts, links and
// agents up, the drain, the files, everything down.
const overhead = 1500 * time.Millisecond

// A Plan is what a run will do, before it does anything.
type Plan struct {
	Experiment  *sheet.Experiment
	Seed        uint64
	Pairs       []uint64 // the seed of each pair
	Trials      []trial.Planned
	Predictions map[string]results.Prediction
	Warnings    []results.Warning

	points []point // of the sweep; one without a name if it is not run
	how    how
}

// Ran is the profile, kernel and clock that the plan is for.
func (p *Plan) Ran() results.Mode { return p.how.ran }

// NewPlan puts the arms of e in order: forwards in odd pairs, backwards in
// even ones, so that a machine that drifts favours no arm. A sweep runs the
// arms that its claims speak of, at every point.
func NewPlan(e *sheet.Experiment, seed uint64, pairs int, sweep bool) (*Plan, error) {
	p := &Plan{Experiment: e, Seed: seed, points: []point{{}}}
	var arms []string
	for _, a := range e.Arms {
		arms = append(arms, a.Name)
	}
	if sweep {
		arms, p.points = swept(e), points(e)
	}
	for pair := 1; pair <= pairs; pair++ {
		ps := pairSeed(seed, pair)
		p.Pairs = append(p.Pairs, ps)
		var some []trial.Planned
		for _, pt := range p.points {
			for _, arm := range arms {
				some = append(some, trial.Planned{Arm: pt.at(arm), Pair: pair, Seed: ps, Set: pt.set})
			}
		}
		if pair%2 == 0 {
			slices.Reverse(some)
		}
		p.Trials = append(p.Trials, some...)
	}
	for i := range p.Trials {
		p.Trials[i].Number = i + 1
	}
	var err error
	p.Predictions, err = predict(e)
	return p, err
}

// pairSeed is hash(run seed, pair): 64 bits of SHA-256, so that neighbouring
// run seeds share no pair.
func pairSeed(run uint64, pair int) uint64 {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], run)
	binary.BigEndian.PutUint64(b[8:], uint64(pair))
	s := sha256.Sum256(b[:])
	return binary.BigEndian.Uint64(s[:8])
}

// arms are the names of the arms in the record, in the sheet's order: all that
// run, and without a sweep all there are.
func (p *Plan) arms() []string {
	var names []string
	for _, t := range p.Trials {
		if t.Pair == 1 {
			names = append(names, t.Arm)
		}
	}
	return names
}

// Estimate is how long the plan takes.
func (p *Plan) Estimate() time.Duration {
	var d time.Duration
	for _, t := range p.Trials {
		if a, ok := armOf(p.Experiment, t.Arm); ok {
			d += a.Trial.Length() + overhead
		}
	}
	return d
}

// Takes says how long the plan takes, in words: on the virtual clock that is
// guest time, of which what nobody waits for is skipped.
func (p *Plan) Takes() string {
	var d time.Duration
	for _, t := range p.Trials {
		if a, ok := armOf(p.Experiment, t.Arm); ok {
			d += a.Trial.Length()
		}
	}
	if p.how.ran.Clock == guest.Virtual {
		s := fmt.Sprintf("each in a guest of its own, at most %v of virtual time in all", d.Round(time.Second))
		if least, most := p.wall(guest.CPUs()); most >= 10*time.Second {
			s += fmt.Sprintf(", %v to %v of wall time: flows that fill their path, and packets are what costs there", least.Round(5*time.Second), most.Round(5*time.Second))
		}
		return s
	}
	return fmt.Sprintf("about %v", p.Estimate().Round(time.Second))
}

// What a virtual second of a flow that fills 100 Mbit/s costs in wall time:
// 0.11 s on a quiet CPU over netem, and up to three times that beside a busy
// neighbour or over our own wire. A guest's boot comes to less than half a
// second with its agents and files.
const (
	flowCost   = 0.1
	flowCostly = 0.3
	bootCost   = 500 * time.Millisecond
)

// wall is what the plan's flows cost in wall time, with so many guests side by
// side, where no flow can send faster than its path. What else a trial does is
// not in it: most of an idle path's time is skipped.
func (p *Plan) wall(guests int) (least, most time.Duration) {
	var filled float64 // virtual seconds of 100 Mbit/s
	for _, t := range p.Trials {
		a, ok := armOf(p.Experiment, t.Arm)
		if !ok {
			continue
		}
		rate := 0.0
		for _, c := range a.Clients {
			v, ok := a.Numbers[c.Name+".bandwidth"]
			if !ok {
				v = a.Numbers["bandwidth"]
			}
			if c.Kind == "bulk" && c.Workload.Rate == 0 {
				rate = max(rate, v.V) // several share it
			}
		}
		filled += a.Trial.Length().Seconds() * rate / 100e6
	}
	n := time.Duration(min(max(guests, 1), max(len(p.Trials), 1)))
	boots := bootCost * time.Duration(len(p.Trials)) / n
	of := func(cost float64) time.Duration { return time.Duration(filled*cost*1e9) / n }
	if filled == 0 {
		return 0, 0
	}
	return of(flowCost) + boots, of(flowCostly) + 2*boots
}

// predict computes every prediction from the sheet alone.
func predict(e *sheet.Experiment) (map[string]results.Prediction, error) {
	out := map[string]results.Prediction{}
	for i, pr := range e.Predict {
		r := results.Prediction{Position: i, Of: pr.Of, Is: pr.Is.String(), Because: pr.Because, Within: pr.Within}
		if pr.NotAsked != "" {
			r.Holds, r.Note = results.NotAsked, pr.NotAsked
			out[pr.Name] = r
			continue
		}
		of, err := expr.Parse(pr.Of)
		if err != nil {
			return nil, fmt.Errorf("prediction %s: %w", pr.Name, err)
		}
		v, err := pr.Is.Eval(e.Env(notMeasured, of, pr.Is))
		if err != nil {
			return nil, fmt.Errorf("prediction %s: %w", pr.Name, err)
		}
		if v.Missing {
			return nil, fmt.Errorf("prediction %s: %s has no value", pr.Name, pr.Is)
		}
		r.Value, r.Unit = v.V, v.Unit.String()
		out[pr.Name] = r
	}
	return out, nil
}

// armOf is the arm that a metric path begins with.
func armOf(e *sheet.Experiment, path string) (*sheet.Arm, bool) {
	name := path
	if i := strings.IndexAny(path, ".["); i >= 0 {
		name = path[:i]
	}
	for i := range e.Arms {
		if e.Arms[i].Name == name {
			return &e.Arms[i], true
		}
	}
	return nil, false
}

// notMeasured is what a prediction has of measurements: it is made before the
// run.
func notMeasured(m sheet.Metric) (expr.Value, error) {
	return expr.Value{}, fmt.Errorf("a prediction is made before the run: it cannot use the measured %s.%s", m.Arm, m.Name)
}
