// Package plots draws what a run measured: tables, figures, ladder diagrams,
// and the report as Markdown and as one HTML file.
//
// It believes that a picture is a function of the record: the same record
// gives the same bytes, on any machine, at any time. A title states the
// finding, not the topic; what was not measured is a visible gap, never a
// zero; and what cannot be drawn is a note, never a lost report. It decides
// colours, units and order; which verdict a run has is decided before it.
package plots

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"tcplab/results"
)

// Names of what Report writes into a run's folder.
const (
	MarkdownFile = "report.md"
	HTMLFile     = "report.html"
	FiguresDir   = "figures"
)

// Report draws everything of run r into its folder dir: figures/*.svg and
// *.png, report.md and report.html. It reads the series and histograms of
// dir's trials; those that are not there are named in the report. notes is the
// user's own Markdown. An error means that a file could not be written.
func Report(dir string, r *results.Run, notes string) error {
	return draw(dir, r, notes, true)
}

// draw is Report; pixels says whether figures are drawn as PNG too, which is
// most of the time that a report takes.
func draw(dir string, r *results.Run, notes string, pixels bool) error {
	v := newView(r, notes)
	arms, gaps := load(dir, r)
	v.gaps = gaps
	if err := os.MkdirAll(filepath.Join(dir, FiguresDir), 0o777); err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	files := map[string][]byte{}
	b := builder{r: r, arms: arms, ps: programs(r), hs: hosts(r)}
	for _, c := range b.charts() {
		v.figures = append(v.figures, drawFigure(c, files, pixels))
	}
	v.evidence = drawEvidence(r, files)
	v.placeFigureWarnings()

	files[MarkdownFile] = v.markdown()
	page, err := v.html()
	if err != nil {
		return fmt.Errorf("%s: %w", HTMLFile, err)
	}
	files[HTMLFile] = page
	var errs []error
	for _, n := range sortedKeys(files) {
		if err := results.WriteFile(filepath.Join(dir, n), files[n]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", n, err))
		}
	}
	return errors.Join(errs...)
}

// drawFigure draws one chart in every size into files; a panic or an error of
// the drawing library is the figure's problem.
func drawFigure(c chart, files map[string][]byte, pixels bool) figure {
	f := figure{chart: c, svg: FiguresDir + "/" + c.file + ".svg", png: FiguresDir + "/" + c.file + ".png"}
	svg, err := c.svg(sizeFile)
	if err == nil {
		svg, err = standalone(svg, c.title, c.alt)
	}
	var png, wide, phone []byte
	if err == nil && pixels {
		png, err = c.png(sizeFile)
	}
	if err == nil {
		wide, err = c.svg(sizeWide)
	}
	if err == nil {
		phone, err = c.svg(sizePhone)
	}
	if err != nil {
		f.problem = "This figure could not be drawn: " + err.Error()
		f.svg, f.png = "", ""
		return f
	}
	files[f.svg] = svg
	if pixels {
		files[f.png] = png
	}
	f.wide, f.phone = inline(wide, "wide"), inline(phone, "phone")
	return f
}

// placeFigureWarnings shows the warnings about a figure with it, and with the
// table where that figure was not drawn.
func (v *view) placeFigureWarnings() {
	drawn := map[string]int{}
	for i, f := range v.figures {
		drawn[f.file] = i
	}
	for _, file := range sortedKeys(v.warnings.figure) {
		if i, ok := drawn[file]; ok {
			v.figures[i].warnings = v.warnings.figure[file]
		} else {
			v.warnings.table = append(v.warnings.table, v.warnings.figure[file]...)
		}
	}
}
