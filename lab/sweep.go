package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"tcplab/lab/expr"
	"tcplab/lab/sheet"
	"tcplab/results"
)

// point is one combination of a sweep's values.
type point struct {
	name string   // rate=5/s,loss=1%
	set  []string // PATH=VALUE
}

// points are a sweep's points: all combinations of its axes' values, the last
// axis fastest, or each axis by itself around the sheet's own values. A sheet
// that sweeps nothing has one point without a name.
func points(e *sheet.Experiment) []point {
	all := []point{{}}
	if e.Apart && len(e.Sweep) > 0 {
		all = nil
		for _, x := range e.Sweep {
			for _, v := range x.Values {
				all = append(all, point{name: x.Key + "=" + v, set: []string{x.Path + "=" + v}})
			}
		}
		return all
	}
	for _, x := range e.Sweep {
		var next []point
		for _, p := range all {
			for _, v := range x.Values {
				q := point{set: append(slices.Clone(p.set), x.Path+"="+v)}
				q.name = strings.TrimPrefix(p.name+","+x.Key+"="+v, ",")
				next = append(next, q)
			}
		}
		all = next
	}
	return all
}

// place is where on a sweep's axes an arm is, and the sheet's numbers there.
type place struct {
	point   []results.Coordinate
	numbers map[string]results.Quantity
}

// places are those of all arms of a sweep, by their names in the record.
func (p *Plan) places(opt RunOptions) (map[string]place, error) {
	out := map[string]place{}
	for _, pt := range p.points {
		if pt.name == "" {
			continue
		}
		e, err := sheet.Parse(opt.File, opt.Text, sheet.Options{Profile: p.Experiment.Profile, Kernel: p.how.ran.Kernel, Clock: p.how.ran.Clock,
			Set: slices.Concat(opt.Set, pt.set), Only: opt.Only, Sweep: true})
		if err != nil {
			return nil, fmt.Errorf("the sweep's point %s: %w", pt.name, err)
		}
		var at []results.Coordinate
		for _, s := range pt.set {
			path, v, _ := strings.Cut(s, "=")
			for _, x := range e.Sweep {
				if x.Path == path {
					at = append(at, results.Coordinate{Axis: x.Key, Value: v})
				}
			}
		}
		for _, a := range e.Arms {
			numbers := map[string]results.Quantity{}
			for name, v := range a.Numbers {
				// Those with an owner are in the sheet.
				if !v.Missing && !strings.Contains(name, ".") {
					numbers[name] = results.Quantity{Value: v.V, Unit: v.Unit.String()}
				}
			}
			out[pt.at(a.Name)] = place{at, numbers}
		}
	}
	return out, nil
}

// at is the name that an arm has in the record at a point.
func (p point) at(arm string) string {
	if p.name == "" {
		return arm
	}
	return arm + "[" + p.name + "]"
}

// armAt is the name in the record of the arm that a metric is of.
func armAt(e *sheet.Experiment, m sheet.Metric) string {
	if len(m.Point) == 0 {
		return m.Arm
	}
	for _, p := range points(e) {
		values := map[string]string{}
		for _, s := range p.set {
			path, v, _ := strings.Cut(s, "=")
			values[path] = v
		}
		if maps.Equal(values, m.Point) {
			return p.at(m.Arm)
		}
	}
	return m.Arm
}

// swept keeps what a run of the sweep asks: claims about its points, and the
// arms that those speak of. It returns these arms; without any claim all are
// swept.
func swept(e *sheet.Experiment) []string {
	const elsewhere = "asked without --sweep"
	named := map[string]bool{}
	pointed := func(xs ...*expr.Expr) bool {
		found := false
		for _, x := range xs {
			if x == nil {
				continue
			}
			for _, p := range x.Paths() {
				if p.Point != nil {
					named[p.Arm], found = true, true
				}
			}
		}
		return found
	}
	for i := range e.Expect {
		if x := &e.Expect[i]; !pointed(x.That, x.Unless) && x.NotAsked == "" {
			x.NotAsked = elsewhere
		}
	}
	for i := range e.Predict {
		x := &e.Predict[i]
		of, err := expr.Parse(x.Of)
		if err != nil || !pointed(of, x.Is, x.Unless) && x.NotAsked == "" {
			x.NotAsked = elsewhere
		}
	}
	for i := range e.Evidence {
		e.Evidence[i].NotAsked = elsewhere
	}
	for i := range e.Triage {
		e.Triage[i].NotAsked = elsewhere
	}
	var arms []string
	for _, a := range e.Arms {
		if len(named) == 0 || named[a.Name] {
			arms = append(arms, a.Name)
		}
	}
	return arms
}
