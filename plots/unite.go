package plots

import (
	"math"
	"slices"
	"strings"
)

// Arms that behave alike give lines that lie upon each other: all but the last
// drawn would be hidden, and the legend would promise them.

// nearby is how far lines may lie apart, in CSS pixels of a figure at full
// size, and still be one to the eye.
const nearby = 2.0

// unite draws lines that cannot be told apart as one, under the names of all
// their arms, and gives the further lines of one arm another dash and marker
// where they are of another client.
func (b builder) unite(c *chart) {
	var kept []line
	var names [][]string // arms of each
	for _, l := range c.lines {
		arm, rest := b.armOf(l)
		i := -1
		if arm != "" {
			i = slices.IndexFunc(kept, func(k line) bool {
				_, other := b.armOf(k)
				return other == rest && k.thin == l.thin && c.upon(k, l)
			})
		}
		if i < 0 {
			kept, names = append(kept, l), append(names, []string{arm})
			continue
		}
		names[i] = append(names[i], arm)
	}
	// Owners before labels change.
	for i := range kept {
		if kept[i].thin {
			continue
		}
		for j := range i {
			if kept[j].look == kept[i].look && !kept[j].thin {
				kept[i].owner++
			}
		}
	}
	if len(kept) == len(c.lines) {
		c.lines = kept
		return
	}
	for i := range kept {
		if arm, rest := b.armOf(kept[i]); arm != "" {
			kept[i].label = b.armList(names[i]) + inBrackets(rest)
		}
	}
	c.caption += " Lines that lie upon each other are drawn as one."
	c.lines = kept
}

// inBrackets makes ", near: TIME-WAIT" fit to stand behind a list of arms.
func inBrackets(rest string) string {
	owner, ok := strings.CutPrefix(rest, ", ")
	if !ok {
		return rest
	}
	owner, more, colon := strings.Cut(owner, ":")
	if colon {
		more = ":" + more
	}
	return " (" + owner + ")" + more
}

// armOf takes the label of an arm's line apart; arm is "" where it is none, or
// where the line is of points, which cannot be compared.
func (b builder) armOf(l line) (arm, rest string) {
	if l.points {
		return "", ""
	}
	for _, m := range b.arms {
		rest, ok := strings.CutPrefix(l.label, m.name)
		if ok && m.index == l.look && (rest == "" || rest[0] == ',' || rest[0] == ':') {
			return m.name, rest
		}
	}
	return "", ""
}

// armList names arms; where they are all, or all but a few, it says so.
func (b builder) armList(names []string) string {
	if len(names) == len(b.arms) && len(names) > 2 {
		return "every arm"
	}
	if missing := len(b.arms) - len(names); len(names) > few && missing < few {
		var but []string
		for _, m := range b.arms {
			if !slices.Contains(names, m.name) {
				but = append(but, m.name)
			}
		}
		return "every arm but " + join(but)
	}
	return join(names)
}

// upon says whether two lines lie upon each other all along.
func (c *chart) upon(a, b line) bool {
	if len(a.x) == 0 || len(b.x) == 0 || a.gap != b.gap {
		return false
	}
	xlo, xhi := c.limits(true)
	ylo, yhi := c.limits(false)
	project := func(l line) (x, y []float64) {
		for i := range l.x {
			x = append(x, share(c.x.kind, l.x[i], xlo, xhi)*float64(sizeWide.w))
			y = append(y, share(c.y.kind, l.y[i], ylo, yhi)*float64(sizeWide.h))
		}
		return x, y
	}
	ax, ay := project(a)
	bx, by := project(b)
	return along(ax, ay, bx, by, b.breaks()) && along(bx, by, ax, ay, a.breaks())
}

// share is where v lies between the limits of an axis, 0 to 1.
func share(k axisKind, v, lo, hi float64) float64 {
	if k.log() {
		v, lo, hi = math.Log(max(v, lo/10)), math.Log(lo), math.Log(hi)
	}
	if hi <= lo {
		return 0
	}
	return (v - lo) / (hi - lo)
}

// breaks says after which points a line is broken.
func (l line) breaks() []bool {
	out := make([]bool, len(l.x))
	for i := range l.x {
		out[i] = i+1 == len(l.x) || l.gap > 0 && l.x[i+1]-l.x[i] > l.gap
	}
	return out
}

// along says whether each corner of the line x, y is near the line bx, by,
// which is broken after some of its points.
func along(x, y, bx, by []float64, broken []bool) bool {
	for i := range x {
		near := false
		for j := 0; j < len(bx) && !near; j++ {
			k := j + 1
			if broken[j] {
				k = j
			}
			if min(bx[j], bx[k])-x[i] > nearby || x[i]-max(bx[j], bx[k]) > nearby {
				continue
			}
			near = distance(x[i], y[i], bx[j], by[j], bx[k], by[k]) <= nearby
		}
		if !near {
			return false
		}
	}
	return true
}

// distance is that of a point from a stretch of line.
func distance(x, y, x0, y0, x1, y1 float64) float64 {
	dx, dy := x1-x0, y1-y0
	f := 0.0
	if n := dx*dx + dy*dy; n > 0 {
		f = min(1, max(0, ((x-x0)*dx+(y-y0)*dy)/n))
	}
	return math.Hypot(x-x0-f*dx, y-y0-f*dy)
}
