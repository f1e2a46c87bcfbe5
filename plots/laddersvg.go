package plots

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"

	"tcplab/results"
)

// Colours of a ladder: one for each direction, from the figures' own.
var (
	rightwards = looks[1].colour
	leftwards  = looks[0].colour
	bracket    = looks[2].colour
)

// fix writes a length with at most one decimal.
func fix(v float64) string {
	s := strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
	if s == "-0" {
		return "0"
	}
	return s
}

type svgWriter struct{ strings.Builder }

func (w *svgWriter) path(d, stroke string, width float64, more string) {
	fmt.Fprintf(w, "<path d=\"%s\" style=\"fill:none;stroke:%s;stroke-width:%s%s\"/>\n", d, stroke, fix(width), more)
}

func (w *svgWriter) text(x, y float64, anchor, s string, size float64, fill, style, more string) {
	fmt.Fprintf(w, "<text x=\"%s\" y=\"%s\" text-anchor=\"%s\"%s style=\"font-family:Liberation Sans;font-size:%spx;fill:%s;%s\">%s</text>\n",
		fix(x), fix(y), anchor, more, fix(size), fill, style, html.EscapeString(s))
}

// A halo of the paper's colour keeps text readable where it must cross a line.
func halo() string {
	return "paint-order:stroke;stroke:" + hex(haloColour) + ";stroke-width:3px;stroke-linejoin:round;"
}

// svg writes the diagram as an SVG document of its own.
func (l ladder) svg() []byte {
	var w svgWriter
	fmt.Fprintf(&w, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %s %s\">\n", fix(ladderWidth), fix(l.high))
	fmt.Fprintf(&w, "<path d=\"M0 0H%sV%sH0Z\" style=\"fill:%s\"/>\n", fix(ladderWidth), fix(l.high), hex(paper))
	foot := l.high - 8 - lineHigh*float64(len(l.note))
	l.hosts(&w, foot)
	for _, g := range l.gaps {
		g.draw(&w)
	}
	for _, s := range l.spans {
		s.draw(&w)
	}
	// Arrows first: no arrow runs over a text.
	for _, p := range l.packets {
		if p.happening {
			w.path(fmt.Sprintf("M%s %sH%s", fix(l.left-10), fix(p.y0), fix(l.right+10)), hex(bracket), 2, ";stroke-dasharray:2 3")
			continue
		}
		l.arrow(&w, p)
	}
	for _, p := range l.packets {
		if p.happening {
			for i, s := range p.label {
				w.text(l.left+inset, p.y0-4-lineHigh*float64(len(p.label)-1-i), "start", s, ladderText, hex(bracket), "font-weight:bold;"+halo(), "")
			}
			continue
		}
		l.along(&w, p)
	}
	for i, s := range l.note {
		w.text(ladderWidth/2, foot+lineHigh*float64(i+1), "middle", s, ladderText-1.5, hex(faint), "", "")
	}
	w.WriteString("</svg>\n")
	return []byte(w.String())
}

// hosts draws the two lines, broken where time is cut.
func (l ladder) hosts(w *svgWriter, foot float64) {
	for i, x := range []float64{l.left, l.right} {
		name, anchor := l.Left, "middle"
		if i == 1 {
			name = l.Right
		}
		room := 2 * min(x, ladderWidth-x)
		at := x
		if textWidth(name, ladderText+1, true, false) > room {
			at, anchor = 4, "start"
			if i == 1 {
				at, anchor = ladderWidth-4, "end"
			}
		}
		w.text(at, 16, anchor, name, ladderText+1, hex(ink), "font-weight:bold", "")
		y := 24.0
		for _, b := range l.breaks {
			if b.x != x {
				continue
			}
			w.path(fmt.Sprintf("M%s %sV%s", fix(x), fix(y), fix(b.y-3)), hex(ink), 1.5, "")
			for _, d := range []float64{-3, 3} {
				w.path(fmt.Sprintf("M%s %sL%s %s", fix(x-7), fix(b.y+d+3), fix(x+7), fix(b.y+d-3)), hex(ink), 1.5, "")
			}
			y = b.y + 3
		}
		w.path(fmt.Sprintf("M%s %sV%s", fix(x), fix(y), fix(foot-4)), hex(ink), 1.5, "")
	}
}

func (g gapMark) draw(w *svgWriter) {
	dir, anchor := -1.0, "end"
	if !g.leftSide {
		dir, anchor = 1, "start"
	}
	x := g.x + dir*7
	if m := (g.y0 + g.y1) / 2; g.cut {
		w.path(fmt.Sprintf("M%s %sH%sV%sM%s %sV%sH%s", fix(x-dir*3), fix(g.y0+2), fix(x), fix(m-8), fix(x), fix(m+8), fix(g.y1-2), fix(x-dir*3)), hex(faint), 0.75, "")
	} else {
		w.path(fmt.Sprintf("M%s %sH%sV%sH%s", fix(x-dir*3), fix(g.y0+2), fix(x), fix(g.y1-2), fix(x-dir*3)), hex(faint), 0.75, "")
	}
	w.text(x+dir*3, (g.y0+g.y1)/2+4, anchor, g.text, ladderText-1, hex(faint), "", "")
}

func (s span) draw(w *svgWriter) {
	in := 5.0 // towards the host's line
	if !s.leftSide {
		in = -5
	}
	w.path(fmt.Sprintf("M%s %sH%sV%sH%s", fix(s.x+in), fix(s.y0), fix(s.x), fix(s.y1), fix(s.x+in)), hex(bracket), 2, "")
	x, turn := s.x-5, -90.0
	if !s.leftSide {
		x, turn = s.x+5, 90
	}
	for _, line := range s.label {
		y := (s.y0 + s.y1) / 2
		w.text(x, y, "middle", line, ladderText-1, hex(ink), "", fmt.Sprintf(" transform=\"rotate(%s %s %s)\"", fix(turn), fix(x), fix(y)))
	}
}

// arrow draws from the sender's line to the receiver's, or to a cross on the
// way.
func (l ladder) arrow(w *svgWriter, p packet) {
	x0, x1, c := l.left, l.right, hex(rightwards)
	if !p.rightwards {
		x0, x1, c = l.right, l.left, hex(leftwards)
	}
	y0, y1 := p.y0, p.y1
	if p.lost {
		// Beyond the label, but well short of the other host.
		f := 0.7
		if p.rightwards {
			f = max(f, (p.x1+14-l.left)/(l.right-l.left))
		} else {
			f = max(f, (l.right-p.x0+14)/(l.right-l.left))
		}
		f = min(f, 0.9)
		x1, y1 = x0+f*(x1-x0), y0+f*(y1-y0)
		w.path(fmt.Sprintf("M%s %sL%s %s", fix(x0), fix(y0), fix(x1), fix(y1)), c, 1.75, ";stroke-dasharray:6 3")
		w.path(fmt.Sprintf("M%s %sL%s %sM%s %sL%s %s", fix(x1-5), fix(y1-5), fix(x1+5), fix(y1+5), fix(x1-5), fix(y1+5), fix(x1+5), fix(y1-5)), hex(ink), 2.5, "")
		return
	}
	w.path(fmt.Sprintf("M%s %sL%s %s", fix(x0), fix(y0), fix(x1), fix(y1)), c, 1.75, "")
	a := math.Atan2(y1-y0, x1-x0)
	const long, half = 8, 0.38
	fmt.Fprintf(w, "<path d=\"M%s %sL%s %sL%s %sZ\" style=\"fill:%s\"/>\n", fix(x1), fix(y1),
		fix(x1-long*math.Cos(a-half)), fix(y1-long*math.Sin(a-half)), fix(x1-long*math.Cos(a+half)), fix(y1-long*math.Sin(a+half)), c)
}

// along writes a packet's label above its arrow and the comment below, along
// it.
func (l ladder) along(w *svgWriter, p packet) {
	turn := math.Atan2(p.y1-p.y0, l.right-l.left) * 180 / math.Pi
	x, anchor := l.left+inset, "start"
	if !p.rightwards {
		turn, x, anchor = -turn, l.right-inset, "end"
	}
	f := inset / (l.right - l.left)
	y := p.y0 + f*(p.y1-p.y0)
	spin := fmt.Sprintf(" transform=\"rotate(%s %s %s)\"", fix(turn), fix(x), fix(y))
	for i, s := range p.label {
		w.text(x, y-4-lineHigh*float64(len(p.label)-1-i), anchor, s, ladderText, hex(ink), halo(), spin)
	}
	for i, s := range p.comment {
		w.text(x, y+12+lineHigh*float64(i), anchor, s, ladderText-1, hex(faint), "font-style:italic;"+halo(), spin)
	}
}

// drawEvidence draws the ladder of each piece of evidence into files.
func drawEvidence(r *results.Run, files map[string][]byte) []evidence {
	var all []evidence
	for _, n := range byPosition(r.Evidence, func(e results.Evidence) int { return e.Position }) {
		e := r.Evidence[n]
		ev := evidence{name: n, arm: e.Arm, title: e.Title, capture: e.File}
		if ev.title == "" {
			ev.title = n + ": " + e.Show + " (" + e.Arm + ")"
		}
		in, found := ladderOf(r, n, e)
		if !found || len(in.Events) == 0 {
			ev.problem = "no packets were found that show " + e.Show + " in arm " + e.Arm
			if a, ok := r.Arms[e.Arm]; !ok || len(a.Trials) == 0 {
				ev.problem = "arm " + e.Arm + " was not measured, so there are no packets that show " + e.Show
			}
			all = append(all, ev)
			continue
		}
		drawLadder(&ev, in, files)
		all = append(all, ev)
	}
	return all
}

func ladderOf(r *results.Run, name string, e results.Evidence) (results.Ladder, bool) {
	for _, t := range r.Arms[e.Arm].Trials {
		if l, ok := t.Ladders[name]; ok && (e.Trial == 0 || t.Number == e.Trial) {
			return l, true
		}
	}
	return results.Ladder{}, false
}

func drawLadder(ev *evidence, in results.Ladder, files map[string][]byte) {
	var err error
	func() {
		defer rescue(&err)
		l := layLadder(in)
		doc := l.svg()
		ev.alt = ev.title + ". " + l.alt()
		var file []byte
		if file, err = standalone(doc, ev.title, ev.alt); err != nil {
			return
		}
		ev.svg = FiguresDir + "/ladder-" + fileName(ev.name) + ".svg"
		files[ev.svg] = file
		ev.inline = inline(doc, "")
		ev.packets = l.packets
	}()
	if err != nil {
		ev.problem = "This ladder could not be drawn: " + err.Error()
		return
	}
	lo, hi := 0, 0
	for _, e := range in.Events {
		if e.Frame > 0 {
			if lo == 0 || e.Frame < lo {
				lo = e.Frame
			}
			hi = max(hi, e.Frame)
		}
	}
	switch {
	case lo > 0 && hi > lo:
		ev.frames = "frames " + strconv.Itoa(lo) + " to " + strconv.Itoa(hi)
	case lo > 0:
		ev.frames = "frame " + strconv.Itoa(lo)
	}
}

// fileName keeps a name from the sheet within figures/.
func fileName(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			return c
		}
		return '_'
	}, s)
}
