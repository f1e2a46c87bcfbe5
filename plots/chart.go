package plots

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"strings"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	vgdraw "gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/recorder"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A chart is a figure before it is drawn: what it says, and the numbers.
type chart struct {
	file    string // base name in figures/
	title   string // states the finding
	alt     string // the finding again, with what is drawn, for who cannot see it
	caption string // how to read it, and where the numbers are from
	x, y    axis
	bands   []band
	bars    []bar
	lines   []line
	rules   []rule
	columns []string   // of a table beside the figure
	rows    [][]string // nil: there is none
}

// A band is the room that a prediction leaves: from lo to hi, at x.
type band struct {
	look      int
	x, lo, hi []float64
}

// A bar lies along the x axis, from 0 to the value, with a thin continuation to
// a second one, and its text above it.
type bar struct {
	look     int
	at       float64 // its middle on the y axis; rows are 1 apart
	to, more float64
	text     string
}

// An axis of a chart. Zero limits are taken from the data.
type axis struct {
	label string
	kind  axisKind
	zero  bool // starts at 0
	min   float64
	max   float64
	ticks []tickMark // nil: at round numbers
}

// A tickMark is a tick at a value that was chosen, with its own text.
type tickMark struct {
	at   float64
	text string
}

type axisKind int

const (
	linear     axisKind = iota // numbers as they are, the unit in the label
	durations                  // seconds, linear, ticks with their own units
	logTimes                   // seconds, log, ticks with their own units
	shares                     // 0…1 as per cent
	percentile                 // 1/(1−q), log: the HdrHistogram axis
	elapsed                    // seconds, linear, ticks in min, h or days
	logNumbers                 // numbers as they are, log
	barRows                    // of bars, which bear their names: no ticks
)

func (k axisKind) log() bool { return k == logTimes || k == percentile || k == logNumbers }

// A line is one series. Its look follows from the arm (colour, and dash or
// marker) and from what it shows of that arm (kind).
type line struct {
	label  string
	look   int // index into looks
	owner  int // lines of one arm that are of several clients: 0 for the first
	thin   bool
	points bool    // markers only
	gap    float64 // from which distance in x on the line is broken; 0: never
	x, y   []float64
}

// A rule is a straight line across the chart: a prediction, a limit.
type rule struct {
	label    string
	vertical bool
	at       float64
	look     int // −1: ink
	dash     []vg.Length
}

// Every colour of a figure is one of these, so that the page can put its own
// in their places. Data colours are Okabe and Ito's (2008), which colour-blind
// readers can tell apart; dashes and markers tell them apart without colour.
var (
	ink   = color.RGBA{0x1B, 0x1B, 0x1B, 0xFF}
	faint = color.RGBA{0x5E, 0x5E, 0x5E, 0xFF}
	grid  = color.RGBA{0xE2, 0xE2, 0xE2, 0xFF}
	paper = color.RGBA{0xFF, 0xFF, 0xFF, 0xFF}
	// haloColour is paper around text: not left out in the page, as paper is.
	haloColour = color.RGBA{0xFE, 0xFE, 0xFE, 0xFF}
)

type look struct {
	colour color.RGBA
	dash   []vg.Length
	marker vgdraw.GlyphDrawer
}

var looks = []look{
	{color.RGBA{0xD5, 0x5E, 0x00, 0xFF}, nil, vgdraw.CircleGlyph{}},
	{color.RGBA{0x00, 0x72, 0xB2, 0xFF}, []vg.Length{7, 3}, vgdraw.BoxGlyph{}},
	{color.RGBA{0x00, 0x9E, 0x73, 0xFF}, []vg.Length{2, 2}, vgdraw.PyramidGlyph{}},
	{color.RGBA{0xCC, 0x79, 0xA7, 0xFF}, []vg.Length{9, 3, 2, 3}, vgdraw.RingGlyph{}},
	{color.RGBA{0xE6, 0x9F, 0x00, 0xFF}, []vg.Length{12, 4}, vgdraw.SquareGlyph{}},
	{color.RGBA{0x56, 0xB4, 0xE9, 0xFF}, []vg.Length{5, 2, 1, 2, 1, 2}, vgdraw.TriangleGlyph{}},
	{color.RGBA{0x7A, 0x6A, 0x00, 0xFF}, []vg.Length{1, 3}, vgdraw.CrossGlyph{}},
}

// lookOf gives arms beyond the seventh a colour again, with another dash and
// marker.
func lookOf(i int) look {
	n := len(looks)
	k, again := looks[i%n], looks[(i+3*(i/n))%n]
	k.dash, k.marker = again.dash, again.marker
	return k
}

// appearance is a line's look: the arm's colour, and for each further client
// of that arm another dash and marker.
func (l line) appearance() look {
	k := lookOf(l.look)
	if l.owner > 0 {
		n := len(looks)
		again := looks[(l.look+2*l.owner)%n]
		k.dash, k.marker = again.dash, again.marker
	}
	return k
}

// A size is one way to draw a chart; lengths are CSS pixels at full size. The
// height is that of the data with its axes: title and legend come on top, as
// long as they are.
type size struct {
	w, h   vg.Length
	text   vg.Length
	title  bool // draw the title into the picture, for files that stand alone
	narrow bool
	name   string
}

var (
	sizeFile  = size{w: 760, h: 350, text: 12.5, title: true, name: "file"}
	sizeWide  = size{w: 760, h: 320, text: 12.5, name: "wide"}
	sizePhone = size{w: 344, h: 236, text: 11.5, narrow: true, name: "phone"}
)

// svg draws the chart as an SVG document; fonts are embedded for files.
func (c chart) svg(s size) (doc []byte, err error) {
	defer rescue(&err)
	high := c.height(s)
	canvas := vgsvg.NewWith(vgsvg.UseWH(s.w, high))
	c.draw(vgdraw.NewCanvas(canvas, s.w, high), s)
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// png draws the chart at two pixels a CSS pixel.
func (c chart) png(s size) (data []byte, err error) {
	defer rescue(&err)
	high := c.height(s)
	canvas := vgimg.NewWith(vgimg.UseWH(s.w, high), vgimg.UseDPI(144), vgimg.UseBackgroundColor(paper))
	c.draw(vgdraw.NewCanvas(canvas, s.w, high), s)
	var b bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: canvas}).WriteTo(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// rescue turns a panic of the drawing library into an error: a figure that
// cannot be drawn is a note in the report.
func rescue(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%v", p)
	}
}

func style(s size, bold bool, c color.Color) text.Style {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: s.text}
	if bold {
		f.Weight = xfont.WeightBold
	}
	return text.Style{Color: c, Font: f, Handler: plot.DefaultTextHandler}
}

// head writes title, legend and the name of the y axis, and gives back what
// is left below.
func (c chart) head(dc vgdraw.Canvas, s size) vgdraw.Canvas {
	if s.title {
		sty := style(s, true, ink)
		sty.Font.Size = s.text + 2
		dc = paragraph(dc, sty, c.title)
		dc.Max.Y -= 6
	}
	if c.y.kind == barRows {
		return dc // bars bear their names
	}
	dc = c.legend(dc, s)
	dc = paragraph(dc, style(s, false, faint), c.y.label)
	dc.Max.Y -= 2
	return dc
}

// height is how high the picture must be for its legend not to take from the
// data.
func (c chart) height(s size) vg.Length {
	const enough = 10000
	dc := vgdraw.NewCanvas(new(recorder.Canvas), s.w, enough)
	rest := c.head(vgdraw.Crop(dc, 6, -10, 6, -6), s)
	return vg.Length(math.Ceil(float64(enough - rest.Max.Y + s.h)))
}

func (c chart) draw(dc vgdraw.Canvas, s size) {
	dc.SetColor(paper)
	dc.Fill(dc.Rectangle.Path())
	dc = c.head(vgdraw.Crop(dc, 6, -10, 6, -6), s)
	if c.y.kind == barRows {
		dc = vgdraw.Crop(dc, s.text, -s.text, 0, 0) // half of the first tick's label, and of the last one's
	}

	p := plot.New()
	p.BackgroundColor = nil
	p.X.Label.Text = c.x.label
	c.x.apply(&p.X, s, true)
	c.y.apply(&p.Y, s, false)
	p.X.Min, p.X.Max = c.limits(true)
	p.Y.Min, p.Y.Max = c.limits(false)
	g := plotter.NewGrid()
	g.Vertical = vgdraw.LineStyle{Color: grid, Width: 0.75}
	g.Horizontal = g.Vertical
	p.Add(g)
	for _, b := range c.bands {
		p.Add(b)
	}
	for _, b := range c.bars {
		p.Add(drawnBar{b, style(s, false, ink)})
	}
	for _, r := range c.rules {
		p.Add(r)
	}
	for i, l := range c.lines {
		p.Add(drawnLine{l, i, len(c.lines)})
	}
	p.Draw(dc)
}

// paragraph writes text at the top of dc, wrapped, and returns what is left
// below it.
func paragraph(dc vgdraw.Canvas, sty text.Style, s string) vgdraw.Canvas {
	width := dc.Max.X - dc.Min.X
	high := sty.Font.Size * 1.3
	for _, l := range wrapBy(s, func(l string) bool { return sty.Width(l) <= width }) {
		dc.FillText(sty, vg.Point{X: dc.Min.X, Y: dc.Max.Y - sty.Font.Size}, l)
		dc.Max.Y -= high
	}
	return dc
}

// legend writes the legend above the data, never over it.
func (c chart) legend(dc vgdraw.Canvas, s size) vgdraw.Canvas {
	sty := style(s, false, ink)
	sty.YAlign = vgdraw.YCenter
	row := s.text * 1.5
	x, y := dc.Min.X, dc.Max.Y-row/2
	put := func(label string, thumb vg.Length, sample func(a, b vg.Point)) {
		// A label too long for a line of its own is cut by wrapping.
		lines := wrapBy(label, func(l string) bool { return sty.Width(l) <= dc.Max.X-dc.Min.X-thumb-6 })
		if x > dc.Min.X && x+thumb+6+sty.Width(label) > dc.Max.X {
			x, y = dc.Min.X, y-row
		}
		sample(vg.Point{X: x, Y: y}, vg.Point{X: x + thumb, Y: y})
		w := vg.Length(0)
		for i, l := range lines {
			if i > 0 {
				y -= row
			}
			dc.FillText(sty, vg.Point{X: x + thumb + 6, Y: y}, l)
			w = max(w, sty.Width(l))
		}
		x += thumb + 6 + w + 16
	}
	for _, l := range c.lines {
		if l.label == "" {
			continue // another stands for it
		}
		put(l.label, 30, func(a, b vg.Point) {
			k := l.appearance()
			if !l.points {
				dc.StrokeLine2(l.stroke(), a.X, a.Y, b.X, b.Y)
			}
			if !l.thin {
				dc.DrawGlyph(vgdraw.GlyphStyle{Color: k.colour, Radius: 3, Shape: k.marker}, vg.Point{X: (a.X + b.X) / 2, Y: a.Y})
			}
		})
	}
	for _, r := range c.rules {
		thumb := vg.Length(30)
		if r.vertical {
			thumb = 8
		}
		put(r.label, thumb, func(a, b vg.Point) {
			if r.vertical {
				m := (a.X + b.X) / 2
				dc.StrokeLine2(r.stroke(), m, a.Y-row/2.4, m, a.Y+row/2.4)
				return
			}
			dc.StrokeLine2(r.stroke(), a.X, a.Y, b.X, b.Y)
		})
	}
	dc.Max.Y = y - row/2 - 6
	return dc
}

func (l line) stroke() vgdraw.LineStyle {
	k := l.appearance()
	if l.thin {
		return vgdraw.LineStyle{Color: k.colour, Width: 1.25, Dashes: []vg.Length{1.5, 2.5}}
	}
	return vgdraw.LineStyle{Color: k.colour, Width: 2, Dashes: k.dash}
}

func (r rule) stroke() vgdraw.LineStyle {
	c := ink
	if r.look >= 0 {
		c = lookOf(r.look).colour
	}
	return vgdraw.LineStyle{Color: c, Width: 1.25, Dashes: r.dash}
}

// drawnLine draws a line with a few markers, shifted against those of the
// others so that lines upon each other stay apart.
type drawnLine struct {
	line
	nth, of int
}

func (l drawnLine) Plot(dc vgdraw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&dc)
	k := l.appearance()
	at := make([]vg.Point, len(l.x))
	for i := range l.x {
		at[i] = vg.Point{X: tx(l.x[i]), Y: ty(l.y[i])}
	}
	for from := 0; !l.points && from < len(at); {
		to := from + 1
		for to < len(at) && (l.gap == 0 || l.x[to]-l.x[to-1] <= l.gap) {
			to++
		}
		if to-from > 1 {
			dc.StrokeLines(l.stroke(), dc.ClipLinesXY(at[from:to])...)
		} else if len(at) > 1 && dc.Contains(at[from]) {
			dc.DrawGlyph(vgdraw.GlyphStyle{Color: k.colour, Radius: 2, Shape: k.marker}, at[from])
		}
		from = to
	}
	if l.thin {
		return
	}
	g := vgdraw.GlyphStyle{Color: k.colour, Radius: 3, Shape: k.marker}
	if l.points || len(at) == 1 {
		for _, a := range at {
			if dc.Contains(a) {
				dc.DrawGlyph(g, a)
			}
		}
		return
	}
	// Markers by distance on the page, not by index: log axes crowd points.
	const every = 90
	next := dc.Min.X + every*(0.3+0.6*vg.Length(l.nth)/vg.Length(l.of))
	for _, a := range at {
		if a.X >= next && dc.Contains(a) {
			dc.DrawGlyph(g, a)
			next = a.X + every
		}
	}
}

func (b band) Plot(dc vgdraw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&dc)
	var edge []vg.Point
	for i := range b.x {
		edge = append(edge, vg.Point{X: tx(b.x[i]), Y: ty(b.hi[i])})
	}
	for i := len(b.x) - 1; i >= 0; i-- {
		edge = append(edge, vg.Point{X: tx(b.x[i]), Y: ty(b.lo[i])})
	}
	c := lookOf(b.look).colour
	c.A = 0x38
	dc.FillPolygon(color.NRGBA(c), dc.ClipPolygonXY(edge))
}

// drawnBar is a bar with the look of its text.
type drawnBar struct {
	bar
	sty text.Style
}

func (b drawnBar) Plot(dc vgdraw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&dc)
	row := ty(1) - ty(0)
	thick := min(row-b.sty.Font.Size*1.5, row/2)
	bottom := ty(b.at) - row/2 + row/12
	box := func(from, to float64, low, high vg.Length) []vg.Point {
		return []vg.Point{{X: tx(from), Y: low}, {X: tx(to), Y: low}, {X: tx(to), Y: high}, {X: tx(from), Y: high}}
	}
	c := lookOf(b.look).colour
	dc.FillPolygon(c, dc.ClipPolygonXY(box(0, b.to, bottom, bottom+thick)))
	if b.more > b.to {
		dc.FillPolygon(c, dc.ClipPolygonXY(box(b.to, b.more, bottom+thick*0.4, bottom+thick*0.6)))
	}
	dc.FillText(b.sty, vg.Point{X: tx(0) + 2, Y: bottom + thick + b.sty.Font.Size*0.3}, b.text)
}

func (r rule) Plot(dc vgdraw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&dc)
	if r.vertical {
		x := tx(r.at)
		dc.StrokeLines(r.stroke(), dc.ClipLinesX([]vg.Point{{X: x, Y: dc.Min.Y}, {X: x, Y: dc.Max.Y}})...)
		return
	}
	y := ty(r.at)
	dc.StrokeLines(r.stroke(), dc.ClipLinesY([]vg.Point{{X: dc.Min.X, Y: y}, {X: dc.Max.X, Y: y}})...)
}

// limits spans the data and the rules, with air above.
func (c chart) limits(x bool) (lo, hi float64) {
	a := c.y
	if x {
		a = c.x
	}
	lo, hi = math.Inf(1), math.Inf(-1)
	take := func(v float64) {
		if a.kind.log() && v <= 0 {
			return
		}
		lo, hi = min(lo, v), max(hi, v)
	}
	for _, l := range c.lines {
		vs := l.y
		if x {
			vs = l.x
		}
		for _, v := range vs {
			take(v)
		}
	}
	for _, r := range c.rules {
		if r.vertical == x {
			take(r.at)
		}
	}
	for _, b := range c.bars {
		if x {
			take(max(b.to, b.more))
		}
	}
	for _, b := range c.bands {
		for i := range b.x {
			if x {
				take(b.x[i])
			} else {
				take(b.lo[i])
				take(b.hi[i])
			}
		}
	}
	if a.zero && !a.kind.log() {
		lo = min(lo, 0)
	}
	if a.min != a.max {
		lo, hi = a.min, a.max
	}
	if math.IsInf(lo, 0) {
		lo, hi = 0, 1
		if a.kind.log() {
			lo = 0.1
		}
	}
	switch {
	case a.min != a.max:
	case a.kind.log():
		if hi/lo < 1.5 {
			lo, hi = lo/1.3, hi*1.3
		}
		if !x {
			lo, hi = lo/1.15, hi*1.15
		}
	case hi == lo:
		lo, hi = min(0, lo), lo+max(1, math.Abs(lo)*0.1)
	case !x:
		hi += (hi - lo) * 0.05
	}
	return lo, hi
}

func (a axis) apply(p *plot.Axis, s size, x bool) {
	sty := style(s, false, faint)
	p.Label.TextStyle.Font, p.Label.TextStyle.Color = sty.Font, faint
	p.Label.Padding = 4
	p.Tick.Label.Font, p.Tick.Label.Color = sty.Font, faint
	p.Tick.LineStyle = vgdraw.LineStyle{Color: faint, Width: 0.75}
	p.LineStyle = p.Tick.LineStyle
	p.Tick.Length = 4
	p.Padding = 0
	want := 6
	if s.narrow && x {
		want = 4
	}
	if a.kind.log() {
		p.Scale = plot.LogScale{}
	}
	p.Tick.Marker = ticker{a.kind, want}
	if a.ticks != nil {
		var ts plot.ConstantTicks
		for _, t := range a.ticks {
			ts = append(ts, plot.Tick{Value: t.at, Label: t.text})
		}
		p.Tick.Marker = ts
	}
}

// ticker places ticks at round numbers and writes them with their units.
type ticker struct {
	kind axisKind
	want int
}

func (t ticker) Ticks(lo, hi float64) []plot.Tick {
	var ts []plot.Tick
	switch t.kind {
	case barRows:
	case percentile:
		for _, q := range []string{"0", "50", "90", "99", "99.9", "99.99", "99.999"} {
			var v float64
			fmt.Sscan(q, &v)
			if x := 1 / (1 - v/100); x <= hi*1.001 {
				ts = append(ts, plot.Tick{Value: x, Label: q + "%"})
			}
		}
	case logTimes, logNumbers:
		steps := []float64{1}
		if hi/lo < 300 {
			steps = []float64{1, 2, 5}
		}
		for e := math.Floor(math.Log10(lo)); e <= math.Ceil(math.Log10(hi)); e++ {
			for m := 1.0; m < 10; m++ {
				v := m * math.Pow(10, e)
				if v < lo*0.999 || v > hi*1.001 {
					continue
				}
				label := ""
				for _, s := range steps {
					if s == m {
						label = quantity(v, "s", 1)
						if t.kind == logNumbers {
							label = number(v, 1)
						}
					}
				}
				ts = append(ts, plot.Tick{Value: v, Label: label})
			}
		}
	case elapsed:
		step := clockStep((hi - lo) / float64(t.want))
		for i := math.Ceil(lo/step - 1e-9); i*step <= hi+step*1e-9; i++ {
			ts = append(ts, plot.Tick{Value: i * step, Label: clockLabel(i*step, step)})
		}
	default:
		step := niceStep((hi - lo) / float64(t.want))
		for i := math.Ceil(lo/step - 1e-9); i*step <= hi+step*1e-9; i++ {
			ts = append(ts, plot.Tick{Value: i * step, Label: t.label(i*step, step)})
		}
	}
	return ts
}

func (t ticker) label(v, step float64) string {
	if math.Abs(v) < step/1e6 {
		v = 0
	}
	switch t.kind {
	case shares:
		return trimZeros(number(100*v, 3)) + "%"
	case durations:
		if v == 0 {
			return "0"
		}
		return trimZeros(quantity(v, "s", 4))
	}
	// As many digits as tell neighbours apart: steps are 1, 2, 2.5 or 5.
	digits := int(math.Floor(math.Log10(math.Max(math.Abs(v), step)))) - int(math.Floor(math.Log10(step))) + 2
	return trimZeros(number(v, digits))
}

// trimZeros takes "10.00 ms" to "10 ms".
func trimZeros(s string) string {
	num, unit, _ := strings.Cut(s, " ")
	if strings.Contains(num, ".") {
		num = strings.TrimRight(strings.TrimRight(num, "0"), ".")
	}
	if unit != "" {
		return num + " " + unit
	}
	return num
}

// clockSteps are the steps of an axis of long times, s.
var clockSteps = []float64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 2 * 86400, 5 * 86400, 7 * 86400}

func clockStep(raw float64) float64 {
	for _, s := range clockSteps {
		if s >= raw*0.999 {
			return s
		}
	}
	weeks := 2.0
	for weeks*7*86400 < raw*0.999 {
		weeks *= 2
	}
	return weeks * 7 * 86400
}

// clockLabel writes a time in the largest unit that the step is whole in.
func clockLabel(v, step float64) string {
	if math.Abs(v) < step/1e6 {
		return "0"
	}
	for _, u := range []struct {
		s    float64
		name string
	}{{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}} {
		if math.Mod(step, u.s) == 0 {
			return number(math.Round(v/u.s), 1) + " " + u.name
		}
	}
	return quantity(v, "s", 3)
}

func niceStep(raw float64) float64 {
	if raw <= 0 || math.IsNaN(raw) || math.IsInf(raw, 0) {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 2.5, 5, 10} {
		if m*p >= raw*0.999 {
			return m * p
		}
	}
	return 10 * p
}
