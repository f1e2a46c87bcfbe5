package trial

import (
	"tcplab/lab/expr"
	"tcplab/lab/sheet"
	"tcplab/netns/wire"
	"tcplab/results"
)

// wireKind is the wire that a link asks for. Where it leaves that open, a link
// that is to have faults, or whose counters a claim uses that netem has none
// of, gets ours.
func (s *stage) wireKind(l sheet.Link) string {
	if l.Wire.Kind != "auto" {
		return l.Wire.Kind
	}
	if s.counted[l.Name] {
		return string(wire.Userspace)
	}
	for _, f := range s.arm.Faults {
		if f.OnKind == "link" && f.On == l.Name || f.OnKind == "host" && (f.On == l.A || f.On == l.B) {
			return string(wire.Userspace)
		}
	}
	return l.Wire.Kind
}

// netemCounts are the counters of a link that netem has too.
var netemCounts = map[string]bool{"in": true, "out": true, "lost": true, "queue_dropped": true, "cpu.wire": true}

// counted are the links of which a claim uses what only our wire counts.
func counted(e *sheet.Experiment) map[string]bool {
	links := map[string]bool{}
	note := func(x *expr.Expr) {
		if x == nil {
			return
		}
		for _, p := range x.Paths() {
			if m, err := e.Metric(p); err == nil && m.Number == nil && m.Info.Owner == results.OwnerLink && !netemCounts[m.Info.Name] {
				links[m.Owner] = true
			}
		}
	}
	for _, x := range e.Expect {
		note(x.That)
		note(x.Unless)
	}
	for _, x := range e.Predict {
		if of, err := expr.Parse(x.Of); err == nil {
			note(of)
		}
		note(x.Unless)
	}
	return links
}
