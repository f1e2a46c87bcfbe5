package plots

import (
	"math"
	"sort"
	"strconv"
	"strings"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"

	"tcplab/results"
)

// Measures of a ladder diagram, in CSS pixels at full size.
const (
	ladderWidth = 400.0
	ladderText  = 12.0
	lineHigh    = 13.5 // of a line of text
	gapColumn   = 58.0 // room for a gap's label beside a host's line
	spanColumn  = 18.0 // room for a bracket with its label along it
	inset       = 9.0  // a label begins this far from its sender's line
	flight      = 34.0 // how far a packet of typical delay descends
	longGap     = 110.0
	shortened   = 66.0 // a longer gap is drawn this high, with a break mark
	apart       = 3.0  // least distance between labels
)

// A ladder is laid out before it is written: where every packet leaves and
// comes, what had to be moved apart, and where time is cut.
type ladder struct {
	results.Ladder
	left, right float64 // x of the hosts' lines
	high        float64
	packets     []packet
	spans       []span
	ends        [][2]int // each span's nodes
	gaps        []gapMark
	breaks      []timeBreak
	moved       bool // some packets are farther apart than time says
	note        []string
}

type packet struct {
	results.LadderEvent
	rightwards     bool
	lost           bool
	happening      bool    // no packet: something that happened at that time
	y0, y1         float64 // where it leaves, where it comes
	label, comment []string
	x0, x1         float64 // of its text
	above, below   float64 // what its text takes above and below the arrow
	n0, n1         int     // its nodes
}

type span struct {
	results.LadderSpan
	x, y0, y1 float64
	leftSide  bool
	label     []string
}

// A gapMark says how long nothing happened at a host.
type gapMark struct {
	x, y0, y1 float64
	leftSide  bool
	cut       bool
	text      string
}

// A timeBreak is where a host's line leaves time out.
type timeBreak struct{ x, y float64 }

// A node is one moment at one host.
type node struct {
	t    float64
	left bool
	mark bool // a packet's end, as opposed to a bracket's
	sent int  // for an arrival: the node where the packet left; else −1
	cut  bool // the time before it is shortened
	both bool // a moment of both hosts: at one height
	y    float64
	// What is added to y beyond its time: what this node was pushed down by,
	// and what it takes over from before.
	push, shift float64
}

// nearest is the packet's end at a host that a bracket's end means; −1 where
// none is that near in time.
func nearest(nodes []node, t float64, left bool, within float64) int {
	best := -1
	for i, n := range nodes {
		d := math.Abs(n.t - t)
		if n.mark && n.left == left && d <= within && (best < 0 || d < math.Abs(nodes[best].t-t)) {
			best = i
		}
	}
	return best
}

func ladderFont(size float64, bold, italic bool) text.Style {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: font.Length(size)}
	if bold {
		f.Weight = xfont.WeightBold
	}
	if italic {
		f.Style = xfont.StyleItalic
	}
	return text.Style{Font: f, Handler: plot.DefaultTextHandler}
}

func textWidth(s string, size float64, bold, italic bool) float64 {
	return float64(ladderFont(size, bold, italic).Width(s))
}

// packetLabel is what the arrow says: flags, relative numbers, length.
func packetLabel(e results.LadderEvent) string {
	s := e.Label
	if s == "" {
		s = e.Flags + " seq " + strconv.FormatUint(uint64(e.Seq), 10)
		if e.Len > 0 {
			s += ":" + strconv.FormatUint(uint64(e.Seq)+uint64(e.Len), 10)
		}
		if strings.Contains(e.Flags, "ACK") {
			s += " ack " + strconv.FormatUint(uint64(e.Ack), 10)
		}
	}
	if e.Len > 0 && !strings.Contains(s, "len ") {
		s += " len " + strconv.Itoa(e.Len)
	}
	return s
}

// layLadder places everything. Order in time is always kept, distance in time
// where labels leave room.
func layLadder(in results.Ladder) ladder {
	l := ladder{Ladder: in}
	columns := map[bool]int{}
	levels := spanLevels(in)
	for i, s := range in.Spans {
		columns[s.Host != in.Right] = max(columns[s.Host != in.Right], levels[i]+1)
	}
	l.left = gapColumn + spanColumn*float64(columns[true])
	l.right = ladderWidth - gapColumn - spanColumn*float64(columns[false])

	nodes := l.addPackets()
	for _, s := range in.Spans {
		var ends [2]int
		for k, t := range []float64{s.From, s.To} {
			n := nearest(nodes, t, s.Host != in.Right, typicalFlight(in)/20)
			if n < 0 {
				n = len(nodes)
				nodes = append(nodes, node{t: t, left: s.Host != in.Right, sent: -1})
			}
			ends[k] = n
		}
		l.ends = append(l.ends, ends)
	}
	if len(l.packets) == 0 {
		return l
	}
	order := make([]int, len(nodes))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return nodes[order[a]].t < nodes[order[b]].t })
	c := timeline{nodes: nodes, order: order}
	l.narrow(&c)
	c.scale(typicalFlight(in))
	c.place()
	l.moveApart(&c)
	l.stretchSpans(&c)
	l.moveApart(&c)
	l.finish(&c, levels)
	return l
}

// addPackets makes the packets and their nodes: sent, then arrived.
func (l *ladder) addPackets() []node {
	events := append([]results.LadderEvent(nil), l.Events...)
	happenings := map[int]bool{} // by frame, which packets have from 1 on
	for i, m := range l.Marks {
		at := m.At
		events = append(events, results.LadderEvent{From: l.Left, Sent: at, Arrived: &at, Label: m.Text, Frame: -1 - i})
		happenings[-1-i] = true
	}
	sort.SliceStable(events, func(i, j int) bool { return events[i].Sent < events[j].Sent })
	typical := typicalFlight(l.Ladder)
	room := l.right - l.left - 2*inset
	lost := wouldCome(events, happenings, typical)
	var nodes []node
	for i, e := range events {
		p := packet{LadderEvent: e, rightwards: e.From != l.Right, lost: e.Arrived == nil, happening: happenings[e.Frame]}
		came := lost[i]
		if e.Arrived != nil {
			came = max(*e.Arrived, e.Sent)
		}
		left := e.Sent
		if p.happening {
			left = landed(events, happenings, e.Sent, typical)
			came = left
		}
		p.n0, p.n1 = len(nodes), len(nodes)+1
		nodes = append(nodes, node{t: left, left: p.rightwards, mark: true, sent: -1, both: p.happening}, node{t: came, left: !p.rightwards, mark: !p.lost, sent: p.n0})
		l.words(&p, room)
		l.packets = append(l.packets, p)
	}
	return nodes
}

// wouldCome is when each packet would have come that was lost, by its index: a
// typical flight after it was sent, but never before what its sender sent
// earlier, nor after what it sent later. Even a rounding error between the two
// would make the arrows cross, and crossed arrows of one sender can never be
// moved apart.
func wouldCome(events []results.LadderEvent, happenings map[int]bool, typical float64) map[int]float64 {
	out := map[int]float64{}
	latest, bound := map[string]float64{}, map[int]float64{}
	soonest := map[string]float64{}
	for i := len(events) - 1; i >= 0; i-- {
		e := events[i]
		b, ok := soonest[e.From]
		if !ok {
			b = math.Inf(1)
		}
		bound[i] = b
		if e.Arrived != nil && !happenings[e.Frame] {
			soonest[e.From] = min(b, *e.Arrived)
		}
	}
	for i, e := range events {
		switch {
		case happenings[e.Frame]:
			continue
		case e.Arrived != nil:
			latest[e.From] = max(latest[e.From], *e.Arrived)
			continue
		}
		out[i] = max(min(e.Sent+typical, bound[i]), latest[e.From], e.Sent)
		latest[e.From] = out[i]
	}
	return out
}

// landed is when what was in flight at a moment has come: what happened then is
// drawn below it, so that the line crosses no arrow. Where flights never end
// within a few of them, it is the moment itself.
func landed(events []results.LadderEvent, happenings map[int]bool, at, typical float64) float64 {
	t := at
	for range events {
		again := t
		for _, e := range events {
			came := e.Sent + typical
			if e.Arrived != nil {
				came = *e.Arrived
			}
			if !happenings[e.Frame] && e.Sent < t && came > t {
				t = came
			}
		}
		if t == again {
			break
		}
	}
	if t-at > 3*typical {
		return at
	}
	return t
}

// words breaks a packet's text into lines of at most room.
func (l *ladder) words(p *packet, room float64) {
	w := 0.0
	p.label, p.comment = nil, nil
	if s := packetLabel(p.LadderEvent); s != "" {
		p.label = wrapBy(s, func(s string) bool { return textWidth(s, ladderText, false, false) <= room })
		for _, s := range p.label {
			w = max(w, textWidth(s, ladderText, false, false))
		}
	}
	if p.Comment != "" {
		p.comment = wrapBy(p.Comment, func(s string) bool { return textWidth(s, ladderText-1, false, true) <= room })
		for _, s := range p.comment {
			w = max(w, textWidth(s, ladderText-1, false, true))
		}
	}
	p.above = lineHigh*float64(len(p.label)) + 3
	p.below = 2
	if n := len(p.comment); n > 0 {
		p.below = lineHigh*float64(n) + 4
	}
	p.x0, p.x1 = l.left+inset, l.left+inset+w
	if !p.rightwards {
		p.x0, p.x1 = l.right-inset-w, l.right-inset
	}
}

// narrow keeps the texts of packets that meet on their own sender's side.
func (l *ladder) narrow(c *timeline) {
	meets := make([]bool, len(l.packets))
	for i := range l.packets {
		for j := range i {
			if l.crossing(c, j, i) {
				meets[i], meets[j] = true, true
			}
		}
	}
	for i := range l.packets {
		if meets[i] {
			l.words(&l.packets[i], (l.right-l.left)/2-inset-4)
		}
	}
}

// typicalFlight is the median time on the way, in seconds.
func typicalFlight(l results.Ladder) float64 {
	var ds []float64
	for _, e := range l.Events {
		if e.Arrived != nil && *e.Arrived > e.Sent {
			ds = append(ds, *e.Arrived-e.Sent)
		}
	}
	if len(ds) > 0 {
		return median(ds)
	}
	// Nothing arrived: a tenth of the shortest gap, so that order is kept.
	least := math.Inf(1)
	for i := 1; i < len(l.Events); i++ {
		if d := math.Abs(l.Events[i].Sent - l.Events[i-1].Sent); d > 0 {
			least = min(least, d)
		}
	}
	if math.IsInf(least, 0) {
		return 1e-3
	}
	return least / 10
}

// timeline is the one dimension that a ladder is laid out in: time downwards.
// Each host keeps its own order, and no packet comes before it left; between
// the hosts, order gives way where labels need the room.
type timeline struct {
	nodes []node
	order []int // by time
}

// scale gives every moment its height by time alone, and cuts what is long.
func (c *timeline) scale(typical float64) {
	k := flight / typical
	y := 0.0
	for i, n := range c.order {
		if i > 0 {
			g := k * (c.nodes[n].t - c.nodes[c.order[i-1]].t)
			if g > longGap {
				g, c.nodes[n].cut = shortened, true
			}
			y += g
		}
		c.nodes[n].y = y
	}
}

// place hands every push on: to what comes later at the same host, and to the
// packet's arrival.
func (c *timeline) place() {
	before := map[bool]float64{}
	for _, i := range c.order {
		n := &c.nodes[i]
		n.shift = before[n.left]
		if n.both {
			n.shift = max(before[true], before[false])
		}
		if n.sent >= 0 {
			n.shift = max(n.shift, c.nodes[n.sent].shift)
		}
		n.shift += n.push
		before[n.left] = n.shift
	}
}

func (c *timeline) at(n int) float64 { return c.nodes[n].y + c.nodes[n].shift }

func (c *timeline) rank(n int) int {
	for i, m := range c.order {
		if m == n {
			return i
		}
	}
	return 0
}

// moveApart pushes a packet down until its text is clear of the packets before
// it.
func (l *ladder) moveApart(c *timeline) {
	for i := range l.packets {
		for range 60 {
			worst := 0.0
			for j := range i {
				worst = max(worst, l.overlap(c, j, i))
			}
			if worst <= 0.05 {
				break
			}
			c.nodes[l.packets[i].n0].push += worst
			l.moved = true
			c.place()
		}
	}
}

// line is the height of p's arrow at x.
func (l *ladder) line(c *timeline, p packet, x float64) float64 {
	y0, y1 := c.at(p.n0), c.at(p.n1)
	f := (x - l.left) / (l.right - l.left)
	if !p.rightwards {
		f = 1 - f
	}
	return y0 + f*(y1-y0)
}

// crossing says that two packets, a sent first, meet on the way.
func (l *ladder) crossing(c *timeline, a, b int) bool {
	p, q := l.packets[a], l.packets[b]
	return (p.rightwards != q.rightwards || p.happening || q.happening) && c.rank(q.n0) < c.rank(p.n1)
}

// overlap is by how much packet i must go down to be clear of packet j.
func (l *ladder) overlap(c *timeline, j, i int) float64 {
	a, b := l.packets[j], l.packets[i]
	worst := 0.0
	if (a.happening || b.happening) && l.crossing(c, j, i) {
		return 0 // pushing one would push the other's arrival, and never end
	}
	// Between two slanted lines the distance is smallest at an end of the
	// stretch where both have text.
	need := func(x0, x1, below, above float64) {
		if x0 > x1 {
			return
		}
		for _, x := range []float64{x0, x1} {
			worst = max(worst, apart+below+above-(l.line(c, b, x)-l.line(c, a, x)))
		}
	}
	need(max(a.x0, b.x0), min(a.x1, b.x1), a.below, b.above)
	if !l.crossing(c, j, i) {
		need(b.x0, b.x1, 0, b.above) // b's text against a's arrow
		need(a.x0, a.x1, a.below, 0) // a's text against b's arrow
	}
	// Arrows that cross may run behind each other's text, which has a halo.
	return worst
}

// spanLevels puts brackets that overlap in time into columns of their own.
func spanLevels(l results.Ladder) []int {
	levels := make([]int, len(l.Spans))
	for i, s := range l.Spans {
		used := map[int]bool{}
		for j, o := range l.Spans[:i] {
			if (o.Host == l.Right) == (s.Host == l.Right) && s.From < o.To && o.From < s.To {
				used[levels[j]] = true
			}
		}
		for used[levels[i]] {
			levels[i]++
		}
	}
	return levels
}

const spanLines = 150.0 // a bracket's label breaks beyond this length

// stretchSpans makes each bracket as long as the label along it.
func (l *ladder) stretchSpans(c *timeline) {
	for i, s := range l.Spans {
		a, b := c.rank(l.ends[i][0]), c.rank(l.ends[i][1])
		need := 0.0
		for _, line := range spanLabel(s) {
			need = max(need, textWidth(line, ladderText-1, false, false)+12)
		}
		for range 10 {
			lack := need - (c.at(l.ends[i][1]) - c.at(l.ends[i][0]))
			if lack <= 0.05 || b <= a {
				break
			}
			for _, n := range c.order[a+1 : b+1] {
				c.nodes[n].push += lack / float64(b-a)
			}
			l.moved = true
			c.place()
		}
	}
}

func spanLabel(s results.LadderSpan) []string {
	lines := wrapBy(s.Label, func(l string) bool { return textWidth(l, ladderText-1, false, false) <= spanLines })
	if len(lines) > 1 { // a bracket's column has room for one line
		return []string{s.Label}
	}
	return lines
}

// finish turns the order of nodes into places on the page.
func (l *ladder) finish(c *timeline, levels []int) {
	const head = 26.0
	top := head + 8
	// The first label stands above the first arrow.
	first := 0.0
	for _, p := range l.packets {
		for _, x := range []float64{p.x0, p.x1} {
			first = min(first, l.line(c, p, x)-p.above)
		}
	}
	top -= first
	bottom := top
	for i := range l.packets {
		p := &l.packets[i]
		p.y0, p.y1 = top+c.at(p.n0), top+c.at(p.n1)
		bottom = max(bottom, p.y1)
		for _, x := range []float64{p.x0, p.x1} {
			bottom = max(bottom, top+l.line(c, *p, x)+p.below)
		}
	}
	for i, s := range l.Spans {
		sp := span{LadderSpan: s, leftSide: s.Host != l.Right, label: spanLabel(s),
			y0: top + c.at(l.ends[i][0]), y1: top + c.at(l.ends[i][1])}
		off := gapColumn - 10 + spanColumn*float64(levels[i]) + spanColumn/2
		sp.x = l.left - off
		if !sp.leftSide {
			sp.x = l.right + off
		}
		l.spans = append(l.spans, sp)
		bottom = max(bottom, sp.y1)
	}
	typical := typicalFlight(l.Ladder)
	for _, left := range []bool{true, false} {
		x := l.left
		if !left {
			x = l.right
		}
		before := -1
		cut := false
		for _, i := range c.order {
			n := c.nodes[i]
			cut = cut || n.cut
			if n.left != left || !n.mark {
				continue
			}
			if before >= 0 {
				y0, y1 := top+c.at(before), top+c.at(i)
				if cut {
					l.breaks = append(l.breaks, timeBreak{x, (y0 + y1) / 2})
				}
				if d := n.t - c.nodes[before].t; d >= typical/2 && y1-y0 >= lineHigh {
					l.gaps = append(l.gaps, gapMark{x: x, y0: y0, y1: y1, leftSide: left, cut: cut, text: quantity(d, "s", 3)})
				}
			}
			before, cut = i, false
		}
	}
	l.high = bottom + 14
	s := ""
	switch {
	case l.moved && len(l.breaks) > 0:
		s = "Time runs downwards; not to scale where packets are moved apart for their labels, nor at the breaks."
	case l.moved:
		s = "Time runs downwards; not to scale where packets are moved apart for their labels."
	case len(l.breaks) > 0:
		s = "Time runs downwards, to scale but for the breaks."
	default:
		s = "Time runs downwards, to scale."
	}
	for _, p := range l.packets {
		if p.lost {
			s += " × is a packet lost on the way."
			break
		}
	}
	l.note = wrapBy(s, func(s string) bool { return textWidth(s, ladderText-1.5, false, false) <= ladderWidth-16 })
	l.high += 8 + lineHigh*float64(len(l.note))
}

// A packetRow is a packet in words.
type packetRow struct{ sent, from, label, comment, arrived, frame string }

func (p packet) row() packetRow {
	if p.happening {
		return packetRow{sent: quantity(p.Sent, "s", 4), label: p.Label}
	}
	r := packetRow{sent: quantity(p.Sent, "s", 4), from: p.From, label: packetLabel(p.LadderEvent), comment: p.Comment, arrived: "lost"}
	if p.Arrived != nil {
		r.arrived = quantity(*p.Arrived, "s", 4)
	}
	if p.Frame > 0 {
		r.frame = strconv.Itoa(p.Frame)
	}
	return r
}

// alt says what the diagram shows.
func (l ladder) alt() string {
	s := "Ladder diagram, time downwards, " + l.Left + " left and " + l.Right + " right: " + plural(len(l.Events), "packet")
	if n := len(l.packets); n > 1 {
		lastT := 0.0
		for _, p := range l.packets {
			lastT = max(lastT, p.Sent)
			if p.Arrived != nil {
				lastT = max(lastT, *p.Arrived)
			}
		}
		s += " in " + quantity(lastT, "s", 3)
	}
	lost := 0
	for _, p := range l.packets {
		if p.lost {
			lost++
		}
	}
	if lost > 0 {
		s += ", " + count(float64(lost)) + " of them lost"
	}
	var parts []string
	for _, sp := range l.Spans {
		parts = append(parts, sp.Label)
	}
	if len(parts) > 0 {
		s += ". " + strings.Join(parts, "; ")
	}
	return s + "."
}
