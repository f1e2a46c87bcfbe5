//go:build soak

package crosscheck

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

const docs = "../../../docs"

// table is Markdown: a row a timer, all in ms.
func table(runs [3]Run) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| timer | predicted | granule | %s | %s | %s |\n|---|---|---|---|---|---|\n", kernels[0], kernels[1], kernels[2])
	for i, t := range runs[0].Timers {
		predicted := number(t.Best().Nominal)
		if v := runs[2].Timers[i].Best().Nominal; v != t.Best().Nominal {
			predicted += ", virtual " + number(v)
		}
		fmt.Fprintf(&b, "| %s: %s | %s | %s |", t.Experiment, t.Name, predicted, number(t.Best().Granule))
		for _, r := range runs {
			best := r.Timers[i].Best()
			fmt.Fprintf(&b, " %.1f (%+.1f) |", best.Took*1e3, best.Off()*1e3)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func number(s float64) string { return fmt.Sprintf("%g", math.Round(s*1e4)/10) }

// late is the most that the machine was late for what the table shows, in ms.
func late(r Run) string {
	worst := 0.0
	for _, t := range r.Timers {
		if t.Experiment != "conntrack" { // there it is how often one looks
			worst = max(worst, t.Best().Late)
		}
	}
	return fmt.Sprintf("%.1f", worst*1e3)
}

// document writes docs/cross-check.md and its figure.
func document(runs [3]Run) error {
	text, err := os.ReadFile("testdata/cross-check.md")
	if err != nil {
		return err
	}
	fill := strings.NewReplacer("{table}", strings.TrimSpace(table(runs)),
		"{host}", runs[0].Release, "{host hz}", fmt.Sprint(runs[0].HZ), "{guest}", runs[2].Release, "{guest hz}", fmt.Sprint(runs[2].HZ),
		"{host late}", late(runs[0]), "{guest late}", late(runs[1]))
	if err := write("cross-check.md", []byte(fill.Replace(string(text)))); err != nil {
		return err
	}
	p, err := figure(runs)
	if err != nil {
		return err
	}
	const w, h = 760, 470
	img := vgimg.NewWith(vgimg.UseWH(w*vg.Inch/96, h*vg.Inch/96), vgimg.UseDPI(144))
	p.Draw(margin(draw.New(img)))
	var out bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(&out); err != nil {
		return err
	}
	if err := write("figures/cross-check.png", out.Bytes()); err != nil {
		return err
	}
	doc := vgsvg.New(w*vg.Inch/96, h*vg.Inch/96)
	p.Draw(margin(draw.New(doc)))
	out.Reset()
	if _, err := doc.WriteTo(&out); err != nil {
		return err
	}
	svg := strings.ReplaceAll(out.String(), "font-family:Liberation Sans;", "font-family:Liberation Sans,Arial,Helvetica,sans-serif;")
	return write("figures/cross-check.svg", []byte(svg))
}

// margin keeps a picture's text from its edges, on white.
func margin(c draw.Canvas) draw.Canvas {
	c.FillPolygon(color.White, []vg.Point{c.Min, {X: c.Max.X, Y: c.Min.Y}, c.Max, {X: c.Min.X, Y: c.Max.Y}})
	return draw.Crop(c, 6, -6, 6, -6)
}

func write(name string, b []byte) error {
	path := filepath.Join(docs, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

// The colours are Okabe and Ito's (2008), and each kernel has its own marker.
var looks = [3]draw.GlyphStyle{
	{Color: color.RGBA{0xD5, 0x5E, 0x00, 0xFF}, Shape: draw.CircleGlyph{}, Radius: 3.5},
	{Color: color.RGBA{0x00, 0x72, 0xB2, 0xFF}, Shape: draw.PyramidGlyph{}, Radius: 4},
	{Color: color.RGBA{0x00, 0x9E, 0x73, 0xFF}, Shape: draw.BoxGlyph{}, Radius: 3},
}

// figure shows how far each timer was from its prediction on each kernel, over
// the granule that it may be.
func figure(runs [3]Run) (*plot.Plot, error) {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text = "Host and guest, real and virtual clock: every timer within its granule"
	p.Title.TextStyle.Font.Size, p.Title.Padding = 12, 8
	p.X.Label.Text = "later than predicted, ms (even spacing up to some 4 ms, logarithmic beyond)"
	p.X.Min, p.X.Max = spread(-6), spread(320)
	p.X.Tick.Marker = marks(-4, 0, 4, 8, 16, 32, 64, 128, 256)
	rows := runs[0].Timers
	var names plot.ConstantTicks
	for i, t := range rows {
		y, best := float64(len(rows)-1-i), t.Best()
		from, to := spread(best.Early*1e3), spread((best.Early+best.Granule)*1e3)
		band, err := plotter.NewPolygon(plotter.XYs{{X: from, Y: y - 0.38}, {X: to, Y: y - 0.38}, {X: to, Y: y + 0.38}, {X: from, Y: y + 0.38}})
		if err != nil {
			return nil, err
		}
		band.Color, band.LineStyle.Width = color.RGBA{0xE2, 0xE2, 0xE2, 0xFF}, 0
		p.Add(band)
		if i == 0 {
			p.Legend.Add("granule", band)
		}
		names = append(names, plot.Tick{Value: y, Label: fmt.Sprintf("%s: %s, %s ms", t.Experiment, t.Name, number(best.Nominal))})
	}
	for k, r := range runs {
		var at plotter.XYs
		for i, t := range r.Timers {
			at = append(at, plotter.XY{X: spread(t.Best().Off() * 1e3), Y: float64(len(rows)-1-i) + 0.24 - 0.24*float64(k)})
		}
		points, err := plotter.NewScatter(at)
		if err != nil {
			return nil, err
		}
		points.GlyphStyle = looks[k]
		p.Add(points)
		p.Legend.Add(kernels[k]+", Linux "+r.Release, points)
	}
	p.Y.Tick.Marker, p.Y.Tick.Length, p.Y.LineStyle.Width = names, 0, 0
	p.Y.Min, p.Y.Max = -0.6, float64(len(rows))-0.4
	p.X.Label.TextStyle.Font.Size, p.X.Tick.Label.Font.Size, p.Y.Tick.Label.Font.Size = 10, 9, 9
	p.Legend.TextStyle.Font.Size, p.Legend.Padding, p.Legend.XOffs, p.Legend.YOffs = 9, 3, -6, 10
	return p, nil
}

// spread places ms on an axis that is linear near 0 and logarithmic far from it.
func spread(ms float64) float64 { return math.Asinh(ms / 4) }

func marks(ms ...float64) (all plot.ConstantTicks) {
	for _, v := range ms {
		all = append(all, plot.Tick{Value: spread(v), Label: strings.Replace(fmt.Sprint(v), "-", "−", 1)})
	}
	return all
}
