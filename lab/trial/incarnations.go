package trial

import (
	"fmt"

	"tcplab/clients"
	"tcplab/lab/agent"
	"tcplab/lab/program"
	"tcplab/netns/wire"
)

// isnClock is how fast initial sequence numbers advance, bytes/s: one every 64
// ns (seq_scale, net/core/secure_seq.c).
const isnClock = 1e9 / 64

// incarnationMetrics are what two connections with the same ports have instead
// of requests.
func (o *one) incarnationMetrics(name string, r *program.ClientResult) {
	s := r.Succession
	if s == nil {
		return
	}
	if s.Took > 0 {
		o.put(name, "incarnation.bytes", float64(s.Bytes))
		o.put(name, "incarnation.rate", float64(s.Bytes)*8e9/float64(s.Took))
	}
	if s.Connected || s.Class != "" {
		o.put(name, "incarnation.connect", float64(s.Connect)/1e9)
	}
	if s.Connected {
		o.put(name, "incarnation.behind", float64(s.Behind))
		o.put(name, "incarnation.written", float64(s.Written))
	}
}

// early ends the window where all clients have said what they had to say.
func (o *one) early(m *measured) {
	last := int64(0)
	for _, c := range o.arm.Clients {
		at, _ := o.when("over " + c.Name)
		if at == 0 {
			return
		}
		last = max(last, at)
	}
	if last < m.to {
		o.smp.edge(1, last)
		m.ended.Store(last)
	}
}

// wireEvent marks what a wire did by itself: the capture keeps little around
// it, since a connection that outruns a clock has many packets.
func (o *one) wireEvent(e *agent.Message) {
	switch e.Name {
	case wire.Held:
		o.cap.near(e.At, fmt.Sprintf("fault %v: the wire holds this segment", e.Fields["fault"]))
	case wire.Resent:
		o.cap.near(e.At, "")
	case wire.Released:
		after, _ := e.Fields["after"].(float64)
		o.cap.near(e.At, fmt.Sprintf("fault %v: the wire lets the old segment go, after %.3g ms", e.Fields["fault"], after*1e3))
	}
}

// validateIncarnations says why a trial has not met what it is about: a machine
// that is too slow shows an old segment that is refused for its number, and
// that is no finding about TIME-WAIT.
func (o *one) validateIncarnations(m *measured) {
	came, has := false, false
	for _, c := range o.arm.Clients {
		r := m.clients[c.Name]
		if c.Kind != clients.Incarnations || r == nil || r.Succession == nil {
			continue
		}
		has = true
		s := r.Succession
		came = came || s.Connected && (s.Place > 0 || s.Behind < int64(s.Segment))
		rate := fmt.Sprintf("%.3g MB each way in %.3g s, %.3g MB/s, and the clock of initial sequence numbers makes %.3g MB/s",
			float64(s.Bytes)/1e6, float64(s.Took)/1e9, float64(s.Bytes)*1e3/float64(max(s.Took, 1)), isnClock/1e6)
		switch {
		case s.Asked > 0 && s.Ahead < s.Asked:
			m.reason(fmt.Errorf("client %s: the first connection moved %s: it was %.3g MB ahead of it, and %.3g MB were asked for: the machine is too slow or too busy", c.Name, rate, float64(s.Ahead)/1e6, float64(s.Asked)/1e6))
		case s.Asked > 0 && s.Connected && s.Behind < int64(s.Segment):
			m.reason(fmt.Errorf("client %s: the clock of initial sequence numbers had caught up when the second connection was opened: %s; ask for more than `ahead: %.3gMB`", c.Name, rate, float64(s.Asked)/1e6))
		case s.Asked > 0 && s.Connected && s.PeerBehind < 0 && !s.Timestamps:
			m.reason(fmt.Errorf("client %s: the server's side of the second connection begins %d B beyond what the old segment acknowledges: %s; ask for more than `ahead: %.3gMB`", c.Name, -s.PeerBehind, rate, float64(s.Asked)/1e6))
		case !s.Connected && s.Class == "":
			m.reason(fmt.Errorf("client %s: the first connection did not come to its end: %s", c.Name, r.FirstErrorClass))
		case s.Class == "unfinished" || s.Connected && !s.Done && r.Errors["unfinished"] > 0:
			m.reason(fmt.Errorf("client %s: the second connection did not come to its end within the trial: give it more time", c.Name))
		}
	}
	for _, f := range o.arm.Faults {
		if f.Do != "hold" || !has {
			continue
		}
		switch held, released := o.out.Metrics[f.On+".held"].Value, o.out.Metrics[f.On+".released"].Value; {
		case held == 0:
			m.reason(fmt.Errorf("fault %s: the wire %s held no segment: none matched", f.Name, f.On))
		case came && released == 0:
			m.reason(fmt.Errorf("fault %s: the wire %s did not let the segment go, though a later connection came to its place", f.Name, f.On))
		}
	}
}
