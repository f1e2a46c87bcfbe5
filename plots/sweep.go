package plots

import (
	"regexp"
	"slices"
	"sort"
	"strings"

	"tcplab/results"
)

// Figures and tables of a sweep: a metric against what was varied, with what
// was predicted at each point drawn through the measurements.

// A curve is one arm's values along an axis of a sweep.
type curve struct {
	arm string // without its point
	at  []spot
}

// A spot is one point of a curve.
type spot struct {
	x         float64 // in the record's units
	text      string  // as the sheet has it
	v         results.Metric
	has       bool
	predicted results.Prediction
	model     bool // there is a prediction
}

// A sweptAxis is what was varied, and every arm's curve along it.
type sweptAxis struct {
	key    string // "loss"
	name   string // of the axis
	metric string
	curves []curve
}

var pointed = regexp.MustCompile(`([A-Za-z_][A-Za-z0-9_]*)\[([^\]]*)\]\.([A-Za-z_][A-Za-z0-9_.>]*)`)

// sweptMetrics are what claims and predictions about points are of.
func sweptMetrics(r *results.Run) []string {
	var texts, out []string
	for _, n := range byPosition(r.Predictions, func(p results.Prediction) int { return p.Position }) {
		texts = append(texts, r.Predictions[n].Of)
	}
	for _, n := range byPosition(r.Expectations, func(e results.Expectation) int { return e.Position }) {
		texts = append(texts, r.Expectations[n].That)
	}
	for _, t := range texts {
		for _, m := range pointed.FindAllStringSubmatch(t, -1) {
			if metric := metricOf("arm." + m[3]); metric != "" && !slices.Contains(out, metric) {
				out = append(out, metric)
			}
		}
	}
	return out
}

// axisNames are what an axis is called, and which of the sheet's numbers says
// where a point is on it.
var axisNames = map[string]struct{ number, name string }{
	"delay": {"rtt", "round trip of the wire (twice its delay)"},
	"loss":  {"loss", "share of packets lost at random"},
	"rate":  {"bandwidth", "rate of the bottleneck"},
}

// sweeps gathers the curves of each axis that varies by itself.
func sweeps(r *results.Run) []sweptAxis {
	var out []sweptAxis
	ps, hs := programs(r), hosts(r)
	for _, metric := range sweptMetrics(r) {
		var axes []sweptAxis
		for _, name := range armNames(r) {
			a := r.Arms[name]
			if len(a.Point) != 1 {
				continue
			}
			at := a.Point[0]
			key := at.Axis[strings.LastIndexByte(at.Axis, '.')+1:]
			about, known := axisNames[key]
			if !known {
				about.number, about.name = key, key
			}
			x, ok := a.Numbers[about.number]
			if !ok {
				continue
			}
			i := slices.IndexFunc(axes, func(s sweptAxis) bool { return s.key == at.Axis })
			if i < 0 {
				axes = append(axes, sweptAxis{key: at.Axis, name: about.name, metric: metric})
				i = len(axes) - 1
			}
			base, _, _ := strings.Cut(name, "[")
			j := slices.IndexFunc(axes[i].curves, func(c curve) bool { return c.arm == base })
			if j < 0 {
				axes[i].curves = append(axes[i].curves, curve{arm: base})
				j = len(axes[i].curves) - 1
			}
			s := spot{x: x.Value, text: at.Value}
			if about.number == "rtt" {
				s.text = trimZeros(quantity(x.Value, "s", 3))
			}
			s.v, s.has = metricAnyOwner(r, ps, hs, name, metric)
			for _, n := range sortedKeys(r.Predictions) {
				p := r.Predictions[n]
				m := pointed.FindStringSubmatch(p.Of)
				if m != nil && m[1] == base && samePoint(m[2], at) && metricOf("arm."+m[3]) == metric && p.Holds != results.NotAsked {
					s.predicted, s.model = p, true
				}
			}
			axes[i].curves[j].at = append(axes[i].curves[j].at, s)
		}
		for i := range axes {
			for _, c := range axes[i].curves {
				sort.SliceStable(c.at, func(i, j int) bool { return c.at[i].x < c.at[j].x })
			}
		}
		out = append(out, axes...)
	}
	return out
}

func samePoint(text string, at results.Coordinate) bool {
	key, v, _ := strings.Cut(text, "=")
	return strings.TrimSpace(v) == at.Value && (key == at.Axis || strings.HasSuffix(key, "."+at.Axis))
}

// modelOf is the function that a prediction is by; "" where it is none.
func modelOf(p results.Prediction) string {
	if strings.Contains(p.Is, "mathis(") {
		return "the Mathis model"
	}
	return ""
}

// misfit are the factors measured ÷ predicted of a curve's points that a model
// is about, and the model's name.
func (c curve) misfit() (factors []float64, model string) {
	for _, s := range c.at {
		if m := modelOf(s.predicted); s.model && m != "" && s.has && s.predicted.Value > 0 {
			factors, model = append(factors, s.v.Value/s.predicted.Value), m
		}
	}
	return factors, model
}

// sweepCharts draws each axis.
func (b builder) sweepCharts() []chart {
	var cs []chart
	for _, s := range sweeps(b.r) {
		if c, ok := s.chart(); ok {
			cs = append(cs, c)
		}
	}
	return cs
}

func (s sweptAxis) chart() (chart, bool) {
	info, _ := results.LookupMetric(s.metric)
	per, unit := 1.0, info.Unit
	switch unit {
	case "bit/s":
		per, unit = 1e6, "Mbit/s"
	case "s":
		per, unit = 1e-3, "ms"
	case "1":
		unit = ""
	}
	noun := nounOf(s.metric)
	if noun == "" {
		noun = s.metric
	}
	c := chart{
		file: "sweep-" + strings.ReplaceAll(s.key+"-"+s.metric, ".", "-"),
		x:    axis{label: s.name},
		y:    axis{label: strings.TrimSuffix(noun+", "+unit, ", "), zero: true},
	}
	var xs, ys []float64
	for _, cv := range s.curves {
		for _, p := range cv.at {
			if p.x > 0 {
				xs = append(xs, p.x)
			}
			if p.has && p.v.Value > 0 {
				ys = append(ys, p.v.Value/per)
			}
		}
	}
	if lo, hi := bounds(ys); len(ys) == 0 {
		return c, false
	} else if hi > 20*lo {
		c.y.kind, c.y.zero = logNumbers, false
	}
	// A log axis has no 0: it gets a place of its own left of all others, and no
	// line leads there.
	zero := 0.0
	if lo, hi := bounds(xs); len(xs) > 0 && hi >= 10*lo {
		c.x.kind, zero = logNumbers, lo/4
	}
	place := func(x float64) float64 {
		if x <= 0 && zero > 0 {
			return zero
		}
		return x
	}
	for i, cv := range s.curves {
		l := line{label: cv.arm, look: i}
		dots := line{look: i, points: true}
		model := line{label: "predicted for " + cv.arm, look: i, thin: true}
		for _, p := range cv.at {
			c.x.ticks = appendTick(c.x.ticks, place(p.x), p.text)
			if p.has && (p.v.Value > 0 || c.y.kind != logNumbers) {
				dots.x, dots.y = append(dots.x, place(p.x)), append(dots.y, p.v.Value/per)
				if p.x > 0 || zero == 0 {
					l.x, l.y = append(l.x, p.x), append(l.y, p.v.Value/per)
				}
			}
			if p.model && (p.x > 0 || zero == 0) {
				model.x, model.y = append(model.x, p.x), append(model.y, p.predicted.Value/per)
				if m := modelOf(p.predicted); m != "" {
					model.label = m + ", for " + cv.arm
				}
			}
		}
		c.lines = append(c.lines, l, dots)
		if len(model.x) > 1 {
			c.lines = append(c.lines, model)
		}
	}
	if lo, hi := bounds(xs); zero > 0 || c.x.kind == logNumbers {
		// Markers and labels at the frame's edge are cut.
		c.x.min, c.x.max = lo/1.3, hi*1.3
		if slices.ContainsFunc(c.x.ticks, func(t tickMark) bool { return t.at == zero }) {
			c.x.min = zero / 1.3
		}
	}
	c.title = s.title(noun)
	c.caption = "Each point is a trial of its own, the rest as the sheet has it."
	if zero > 0 && slices.ContainsFunc(c.x.ticks, func(t tickMark) bool { return t.at == zero }) {
		c.caption += " The axis is logarithmic; 0 has a place of its own on it."
	}
	c.columns, c.rows = s.rows()
	c.alt = c.title + ". The table has every point."
	return c, true
}

// appendTick adds a value's own mark, once.
func appendTick(ts []tickMark, at float64, text string) []tickMark {
	for _, t := range ts {
		if t.at == at {
			return ts
		}
	}
	return append(ts, tickMark{at, text})
}

// of names what a point's value is a value of, where its unit does not say.
func (s sweptAxis) of() string {
	switch s.key[strings.LastIndexByte(s.key, '.')+1:] {
	case "loss":
		return " loss"
	case "delay":
		return " round trip"
	}
	return ""
}

// title says how far the arms that a model is about are from it, and what the
// others come to at the far end.
func (s sweptAxis) title(noun string) string {
	var parts []string
	for _, cv := range s.curves {
		if f, model := cv.misfit(); len(f) > 0 {
			parts = append(parts, cv.arm+" gets "+times(f)+" what "+model+" allows")
			continue
		}
		if n := len(cv.at); n > 1 && cv.at[0].has && cv.at[n-1].has {
			a, z := cv.at[0], cv.at[n-1]
			was, is := value(s.metric, a.v.Value, a.v.Unit, 3), value(s.metric, z.v.Value, z.v.Unit, 3)
			if was == is {
				parts = append(parts, cv.arm+" keeps "+is+" from "+a.text+" to "+z.text+s.of())
				continue
			}
			parts = append(parts, cv.arm+" goes from "+was+" at "+a.text+" to "+is+" at "+z.text+s.of())
		}
	}
	if len(parts) == 0 {
		return strings.ToUpper(noun[:1]) + noun[1:] + " against " + s.name
	}
	return strings.Join(parts, "; ")
}

// rows are every point, with what was predicted there and the factor between.
func (s sweptAxis) rows() (head []string, rows [][]string) {
	head = []string{s.name}
	var texts []string
	for _, cv := range s.curves {
		head = append(head, cv.arm)
		if slices.ContainsFunc(cv.at, func(p spot) bool { return p.model }) {
			head = append(head, "predicted", cv.arm+" ÷ predicted")
		}
		for _, p := range cv.at {
			if !slices.Contains(texts, p.text) {
				texts = append(texts, p.text)
			}
		}
	}
	for _, t := range texts {
		row := []string{t}
		for _, cv := range s.curves {
			model := slices.ContainsFunc(cv.at, func(p spot) bool { return p.model })
			i := slices.IndexFunc(cv.at, func(p spot) bool { return p.text == t })
			v, pr, q := none, none, none
			if i >= 0 && cv.at[i].has {
				v = value(s.metric, cv.at[i].v.Value, cv.at[i].v.Unit, 3)
			}
			if i >= 0 && cv.at[i].model {
				p := cv.at[i].predicted
				pr = value(s.metric, p.Value, p.Unit, 3)
				if cv.at[i].has && p.Value > 0 {
					q = number(cv.at[i].v.Value/p.Value, 2)
				}
			}
			row = append(row, v)
			if model {
				row = append(row, pr, q)
			}
		}
		rows = append(rows, row)
	}
	return head, rows
}

// sweepTable is the before/after table of a sweep: a block for each axis, a row
// for each point, a column for each arm.
func sweepTable(r *results.Run) (table, bool) {
	ss := sweeps(r)
	if len(ss) == 0 {
		return table{}, false
	}
	var t table
	for _, cv := range ss[0].curves {
		c := column{name: cv.arm}
		for _, n := range armNames(r) {
			if base, _, _ := strings.Cut(n, "["); base == cv.arm {
				c.baseline = r.Arms[n].Baseline
				c.unsupported = r.Arms[n].Unsupported
				c.trials += len(r.Arms[n].Trials)
			}
		}
		t.arms = append(t.arms, c)
	}
	for _, s := range ss {
		b := block{title: s.metric + " against " + s.name}
		for i, p := range s.curves[0].at {
			row := row{metric: s.metric, label: p.text}
			var base results.Metric
			for j, c := range t.arms {
				k := slices.IndexFunc(s.curves, func(cv curve) bool { return cv.arm == c.name })
				if k < 0 || i >= len(s.curves[k].at) || !s.curves[k].at[i].has {
					row.cells = append(row.cells, cell{value: none})
					continue
				}
				m := s.curves[k].at[i].v
				d := cell{value: value(s.metric, m.Value, m.Unit, 3)}
				if m.N > 1 && m.Low != m.High {
					d.spread = value(s.metric, m.Low, m.Unit, 3) + " … " + value(s.metric, m.High, m.Unit, 3)
				}
				if j == 0 {
					base = m
				} else if base.N > 0 {
					d.change = change(s.metric, m.Value, base.Value, m.Unit)
				}
				row.cells = append(row.cells, d)
			}
			b.rows = append(b.rows, row)
		}
		t.blocks = append(t.blocks, b)
	}
	return t, true
}
