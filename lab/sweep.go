package lab

import (
	"maps"
	"slices"
	"strings"

	"tcplab/lab/expr"
	"tcplab/lab/sheet"
)

// point is one combination of a sweep's values.
type point struct {
	name string   // rate=5/s,loss=1%
	set  []string // PATH=VALUE
}

// points are all combinations of a sweep's values, the last axis fastest. A
// sheet that sweeps nothing has one point without a name.
func points(axes []sheet.SweepAxis) []point {
	all := []point{{}}
	for _, x := range axes {
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
	for _, p := range points(e.Sweep) {
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
