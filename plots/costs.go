package plots

import (
	"math"
	"strconv"
	"strings"

	"tcplab/results"
)

// A ladder is a run whose arms say what they cost: one table has what each
// lever bought, and its price, in the order to try them.
type fixLadder struct {
	columns []string
	rows    []rung
}

type rung struct {
	place string // 1 is the first to try; the baseline has none
	name  string
	cells []cell // one for each column
	costs string
}

// ladderWants are a ladder's columns: what the user feels, then what it takes.
var ladderWants = []struct {
	metric, label string
	always        bool
}{
	{"requests.rate", "completed", true},
	{"latency.p50", "p50", true},
	{"latency.p99", "p99", true},
	{"requests.failed", "errors", true},
	{"sockets.time_wait.max", "TIME-WAIT", false},
	{"cpu.request", "CPU/request", false},
}

// newFixLadder is false for a run in which no arm says what it costs.
func newFixLadder(r *results.Run) (l fixLadder, ok bool) {
	ps, hs := programs(r), hosts(r)
	names := armNames(r)
	for _, n := range names {
		ok = ok || r.Arms[n].Costs != ""
	}
	if !ok {
		return l, false
	}
	var metrics []string
	for _, w := range ladderWants {
		some := w.always
		for _, n := range names {
			_, has := metricAnyOwner(r, ps, hs, n, w.metric)
			some = some || has
		}
		if some {
			l.columns = append(l.columns, w.label)
			metrics = append(metrics, w.metric)
		}
	}
	base := baseline(r)
	place := 0
	for _, n := range names {
		a := r.Arms[n]
		g := rung{name: n, costs: a.Costs}
		if !a.Baseline {
			place++
			g.place = strconv.Itoa(place)
		}
		for _, metric := range metrics {
			c := cell{value: none}
			if m, has := metricAnyOwner(r, ps, hs, n, metric); has {
				c.value = value(metric, m.Value, m.Unit, 3)
				if was, has := metricAnyOwner(r, ps, hs, base, metric); has && n != base {
					c.change = change(metric, m.Value, was.Value, m.Unit)
				}
			}
			g.cells = append(g.cells, c)
		}
		l.rows = append(l.rows, g)
	}
	return l, true
}

const ladderTitle = "What each lever bought, and what it costs"

// terminal draws the ladder in 80 columns, each price below its row.
func (l fixLadder) terminal() string {
	lines := [][]string{append([]string{""}, l.columns...)}
	for _, g := range l.rows {
		row := []string{strings.TrimSpace(g.place + " " + g.name)}
		for _, c := range g.cells {
			row = append(row, c.value)
		}
		lines = append(lines, row)
	}
	widths := make([]int, len(lines[0]))
	for _, row := range lines {
		for i, s := range row {
			widths[i] = max(widths[i], columns(s))
		}
	}
	var b strings.Builder
	b.WriteString(ladderTitle + ", in the order to try them\n\n")
	for i, row := range lines {
		s := padRight(row[0], widths[0])
		for k, c := range row[1:] {
			s += "  " + padLeft(c, widths[k+1])
		}
		b.WriteString(strings.TrimRight(s, " ") + "\n")
		if i == 0 {
			b.WriteString(strings.Repeat("─", columns(s)) + "\n")
			continue
		}
		if costs := l.rows[i-1].costs; costs != "" {
			for _, t := range wrapBy(costs, func(t string) bool { return columns(t) <= terminal-4 }) {
				b.WriteString("    " + t + "\n")
			}
		}
	}
	return b.String()
}

func (v view) markdownLadder(m *markdown) {
	if v.fixes == nil {
		return
	}
	m.h(2, ladderTitle)
	m.p("In the order to try them; below each value, how it differs from the baseline's.")
	var rows [][]string
	for _, g := range v.fixes.rows {
		row := []string{g.place, codeText(g.name)}
		for _, c := range g.cells {
			s := c.value
			if c.change != "" {
				s += "<br>" + c.change
			}
			row = append(row, s)
		}
		rows = append(rows, append(row, orNone(g.costs)))
	}
	m.table(append(append([]string{"", "arm"}, cellTexts(v.fixes.columns)...), "costs"), rows)
}

// cellTexts makes column titles fit for Markdown.
func cellTexts(columns []string) []string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = cellText(c)
	}
	return out
}

// pageLadder is the ladder for the page.
type pageLadder struct {
	Title   string
	Columns []string
	Rows    []pageRung
}

type pageRung struct {
	Place, Name, Costs string
	Cells              []pageRungCell
}

type pageRungCell struct{ Label, Value, Change string }

func (l *fixLadder) page() *pageLadder {
	if l == nil {
		return nil
	}
	p := &pageLadder{Title: ladderTitle, Columns: l.columns}
	for _, g := range l.rows {
		row := pageRung{Place: g.place, Name: g.name, Costs: g.costs}
		for i, c := range g.cells {
			row.Cells = append(row.Cells, pageRungCell{l.columns[i], c.value, c.change})
		}
		p.Rows = append(p.Rows, row)
	}
	return p
}

// laddered says whether the run is a ladder with something to draw.
func (b builder) laddered() bool {
	_, ok := newFixLadder(b.r)
	return ok && len(b.arms) > 1
}

// ladderCompleted: what share of the load each arm completed.
func (b builder) ladderCompleted() (chart, bool) {
	c := chart{
		file: "ladder-completed",
		x:    axis{label: "share of the offered requests that were completed", kind: shares, min: 0, max: 1},
		y:    axis{kind: barRows},
	}
	if !b.laddered() {
		return c, false
	}
	by := map[string][]string{}
	var order []string
	for i, m := range b.arms {
		ok, has := b.metric(m.name, "requests.ok")
		of, offered := b.metric(m.name, "requests.offered")
		if !offered {
			of, offered = b.metric(m.name, "requests.sent")
		}
		rate, _ := b.metric(m.name, "requests.rate")
		if !has || !offered || of.Value <= 0 {
			continue
		}
		share := ok.Value / of.Value
		words := "all"
		if share < 1 {
			words = trimZeros(number(math.Floor(1000*share)/10, 3)) + "%"
		}
		if by[words] == nil {
			order = append(order, words)
		}
		by[words] = append(by[words], m.name)
		text := m.name + ": " + value("requests.rate", rate.Value, "1/s", 3)
		if share < 1 {
			text += ", " + words
		}
		c.bars = append(c.bars, bar{look: m.index, at: float64(len(b.arms) - 1 - i), to: share, text: text})
	}
	if len(c.bars) < 2 {
		return c, false
	}
	c.y.min, c.y.max = -0.5, float64(len(b.arms))-0.5
	var parts []string
	for i, words := range order {
		s := join(by[words])
		switch {
		case i == 0 && len(by[words]) > 1:
			s += " complete " + words
		case i == 0:
			s += " completes " + words
		default:
			s += " " + words
		}
		if i == 0 {
			s += " of the load"
		}
		parts = append(parts, s)
	}
	c.title = strings.Join(parts, "; ")
	c.caption = "The arms in the order to try them, the baseline first. An arm that completes all of the load is not cured by that alone: the table says what it costs."
	c.alt = c.title + "."
	return c, true
}

// ladderLatency: what a request takes in each arm.
func (b builder) ladderLatency() (chart, bool) {
	c := chart{
		file: "ladder-latency",
		x:    axis{label: "latency of successful requests: median, and thin to the 99th percentile", kind: durations, zero: true},
		y:    axis{kind: barRows},
	}
	if !b.laddered() {
		return c, false
	}
	for i, m := range b.arms {
		p50, ok := b.metric(m.name, "latency.p50")
		if !ok {
			continue
		}
		d := bar{look: m.index, at: float64(len(b.arms) - 1 - i), to: p50.Value, text: m.name + ": " + quantity(p50.Value, "s", 3)}
		if p99, ok := b.metric(m.name, "latency.p99"); ok {
			d.more = p99.Value
			d.text += ", p99 " + quantity(p99.Value, "s", 3)
		}
		c.bars = append(c.bars, d)
	}
	if len(c.bars) < 2 {
		return c, false
	}
	c.y.min, c.y.max = -0.5, float64(len(b.arms))-0.5
	c.title = b.latencyTitle()
	c.caption = "The arms in the order to try them, the baseline first. A percentile with fewer than ten samples beyond it is not shown."
	c.alt = c.title + ". " + b.values("latency.p50", "median") + " " + b.values("latency.p99", "99th percentile")
	return c, true
}

// noticeable is from which change of the median on an arm made requests faster
// or slower.
const noticeable = 0.1

// latencyTitle names the arms that change the median, and says of the others
// that they do not.
func (b builder) latencyTitle() string {
	base := baseline(b.r)
	was, ok := b.metric(base, "latency.p50")
	if !ok {
		return "Latency of each arm"
	}
	var changed []string
	same := 0
	for _, m := range b.arms {
		p50, ok := b.metric(m.name, "latency.p50")
		switch {
		case m.name == base || !ok:
		case math.Abs(p50.Value-was.Value) > noticeable*was.Value:
			changed = append(changed, m.name+" "+quantity(p50.Value, "s", 3))
		default:
			same++
		}
	}
	if len(changed) == 0 {
		return "No lever changes the median latency: " + quantity(was.Value, "s", 3) + " in " + base
	}
	s := "Median latency: " + join(changed) + " instead of " + quantity(was.Value, "s", 3) + " in " + base
	if same > 0 {
		s += "; " + plural(same, "other lever") + map[bool]string{true: " leaves", false: " leave"}[same == 1] + " it as it was"
	}
	return s
}
