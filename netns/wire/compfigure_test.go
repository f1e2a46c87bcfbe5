//go:build soak

package wire

import (
	"bytes"
	"image/color"
	"os"
	"testing"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	vgdraw "gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Okabe and Ito's vermilion and blue; lines differ by dashes too, marks by form.
var compareLook = [2]struct {
	name   string
	colour color.RGBA
	dashes []vg.Length
	mark   vgdraw.GlyphDrawer
}{
	{"netem", color.RGBA{0xD5, 0x5E, 0x00, 0xFF}, nil, vgdraw.CircleGlyph{}},
	{"userspace, fq", color.RGBA{0x00, 0x72, 0xB2, 0xFF}, []vg.Length{6, 3}, vgdraw.TriangleGlyph{}},
}

// steps are a distribution function at enough points for the eye.
func steps(sorted []float64) plotter.XYs {
	const points = 400
	xy := make(plotter.XYs, 0, points+1)
	for i := 0; i <= points; i++ {
		q := float64(i) / points
		xy = append(xy, plotter.XY{X: sorted[min(len(sorted)-1, int(q*float64(len(sorted))))], Y: q})
	}
	return xy
}

// drawComparison draws four panels into name.svg and name.png.
func drawComparison(t *testing.T, name string, pairs []pair, goodput map[string]*[2][]float64) {
	byName := map[string]pair{}
	for i, s := range scenes {
		byName[s.name] = pairs[i]
	}
	panel := func(title, x, y string) *plot.Plot {
		p := plot.New()
		p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
		p.Title.TextStyle.Font.Size, p.X.Label.TextStyle.Font.Size, p.Y.Label.TextStyle.Font.Size = 12, 10, 10
		p.Legend.Top, p.Legend.Left = false, false
		p.Add(plotter.NewGrid())
		return p
	}
	line := func(p *plot.Plot, k int, xy plotter.XYs, legend bool) {
		l, err := plotter.NewLine(xy)
		if err != nil {
			t.Fatal(err)
		}
		l.Color, l.Dashes, l.Width = compareLook[k].colour, compareLook[k].dashes, vg.Points(1.6)
		p.Add(l)
		if legend {
			p.Legend.Add(compareLook[k].name, l)
		}
	}
	jitter := panel("Jitter: uniform ±5 ms, normal 2 ms, pareto 2 ms", "delay, ms", "share of 20,000 datagrams")
	for i, s := range []string{"jitter ±5 ms, uniform", "jitter 2 ms, normal", "jitter 2 ms, pareto"} {
		for k := range compareLook {
			line(jitter, k, steps(milliseconds(byName[s][k].Delay)), i == 0)
		}
	}
	runs := panel("Gilbert–Elliott, p = 1%, r = 20%", "length of a run of losses, datagrams", "share of runs as long or longer")
	runs.Y.Scale, runs.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	runs.Legend.Left = true
	for k := range compareLook {
		r, _ := byName["Gilbert–Elliott 1%/20%"][k].lossRuns(compareDatagrams)
		s := sorted(r)
		var xy plotter.XYs
		for i, v := range s {
			if i == 0 || v != s[i-1] {
				xy = append(xy, plotter.XY{X: v, Y: float64(len(s)-i) / float64(len(s))})
			}
		}
		line(runs, k, xy, true)
	}
	queue := panel("10 Mbit/s behind 20 kB, 40 datagrams at a time", "delay, ms", "share of the datagrams delivered")
	for k := range compareLook {
		line(queue, k, steps(milliseconds(byName["rate 10 Mbit/s, queue 20 kB"][k].Delay)), true)
	}
	good := panel("Goodput at 1% loss, 100 Mbit/s, 20 ms each way", "", "Mbit/s, one mark a seed (12 of 30 s)")
	good.Y.Scale, good.Y.Tick.Marker = plot.LogScale{}, plot.ConstantTicks{{Value: 2, Label: "2"}, {Value: 5, Label: "5"}, {Value: 10, Label: "10"}, {Value: 20, Label: "20"}, {Value: 50, Label: "50"}, {Value: 100, Label: "100"}}
	for i, cc := range []string{"cubic", "bbr"} {
		for k := range compareLook {
			var xy plotter.XYs
			for n, v := range goodput[cc][k] {
				xy = append(xy, plotter.XY{X: float64(2*i+k) + 0.5*(float64(n)/compareSeeds-0.5), Y: v})
			}
			s, err := plotter.NewScatter(xy)
			if err != nil {
				t.Fatal(err)
			}
			s.GlyphStyle = vgdraw.GlyphStyle{Color: compareLook[k].colour, Radius: 3, Shape: compareLook[k].mark}
			good.Add(s)
			if i == 0 {
				good.Legend.Add(compareLook[k].name, s)
			}
		}
	}
	good.X.Min, good.X.Max, good.Y.Min, good.Y.Max = -0.7, 3.7, 2, 150
	good.X.Tick.Marker = plot.ConstantTicks{{Value: 0.5, Label: "CUBIC"}, {Value: 2.5, Label: "BBR"}}

	const width, height = 24 * vg.Centimeter, 17 * vg.Centimeter
	paint := func(c vg.CanvasSizer) {
		dc := vgdraw.New(c)
		tiles := vgdraw.Tiles{Rows: 2, Cols: 2, PadX: vg.Points(16), PadY: vg.Points(16), PadTop: 6, PadBottom: 6, PadLeft: 6, PadRight: 10}
		at := plot.Align([][]*plot.Plot{{jitter, runs}, {queue, good}}, tiles, dc)
		for i, row := range [][]*plot.Plot{{jitter, runs}, {queue, good}} {
			for j, p := range row {
				p.Draw(at[i][j])
			}
		}
	}
	svg := vgsvg.New(width, height)
	paint(svg)
	png := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(110), vgimg.UseBackgroundColor(color.White))}
	paint(png)
	var b bytes.Buffer
	if _, err := svg.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name+".svg", b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	b.Reset()
	if _, err := png.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name+".png", b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
