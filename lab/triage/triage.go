// Package triage says what is wrong with a host's TCP, from what the kernel
// tells anybody who asks.
//
// It believes that a diagnosis is worth its numbers: each finding says what
// was counted, the command that shows the same, what to do about it in the
// order to try it, and what to look at afterwards. A healthy host gives
// silence, and what could not be looked at is said to be unjudged, never
// healthy. It changes nothing, needs no privileges, and guesses no cause that
// two looks a second apart do not show.
package triage

import (
	"cmp"
	"slices"
	"time"

	"tcplab/results"
)

// Severity is how pressing a finding is.
type Severity string

const (
	Critical Severity = "critical" // something fails now
	Warning  Severity = "warning"  // it will, or works worse than it should
	Note     Severity = "note"     // nothing fails; it would go unnoticed if it did
)

func (s Severity) rank() int {
	return slices.Index([]Severity{Critical, Warning, Note}, s)
}

// Finding is one cause, with what speaks for it and what helps.
type Finding struct {
	Cause    string   `json:"cause"` // one of results.Causes
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`     // a sentence with its numbers
	Evidence []string `json:"evidence"` // commands that show the same
	Fix      []string `json:"fix"`      // what helps, in the order to try it
	Check    []string `json:"check"`    // what to look at afterwards
	// Numbers are those of the text, in SI base units: count, ceiling,
	// rate, seconds_left …
	Numbers map[string]float64 `json:"numbers,omitempty"`
	// Processes are those that own the sockets in question, as far as known.
	Processes []Process `json:"processes,omitempty"`
}

// Diagnose compares two samples of one host, taken some seconds apart, and
// names what is wrong, the most pressing first: of equally pressing ones the
// one that would explain the others. Where there is only one sample, a is the
// zero Sample: what only a change shows is then not found (see Unjudged).
func Diagnose(a, b Sample) []Finding {
	d := newDiagnosis(a, b)
	d.conntrack()
	d.closeWait()
	d.listeners()
	d.timeWait()
	d.stalls()
	d.idle()
	order := map[string]int{}
	for i, c := range results.Causes() {
		order[c.Name] = i
	}
	slices.SortStableFunc(d.found, func(x, y Finding) int {
		return cmp.Or(cmp.Compare(x.Severity.rank(), y.Severity.rank()), cmp.Compare(order[x.Cause], order[y.Cause]))
	})
	return d.found
}

// diagnosis is one run of Diagnose.
type diagnosis struct {
	a, b  Sample
	two   bool    // both samples are there
	span  float64 // s between them
	found []Finding

	listening map[uint16][]*Socket // LISTEN sockets of b by port
	before    map[key]*Socket      // sockets of a that have a timer or are in CLOSE-WAIT
	leaking   map[uint16]bool      // ports whose listener's process leaks CLOSE-WAITs
}

func newDiagnosis(a, b Sample) *diagnosis {
	d := &diagnosis{a: a, b: b, listening: map[uint16][]*Socket{}, before: map[key]*Socket{}, leaking: map[uint16]bool{}}
	d.two = a.Taken() && b.Taken() && b.At > a.At
	if d.two {
		d.span = (b.At - a.At).Seconds()
	}
	for i := range b.Sockets {
		if s := &b.Sockets[i]; s.State == Listen {
			d.listening[s.Src.Port()] = append(d.listening[s.Src.Port()], s)
		}
	}
	for i := range a.Sockets {
		if s := &a.Sockets[i]; s.State != TimeWait && (s.Timer != TimerNone && s.Timer != TimerTimeWait || s.State == CloseWait || s.State == Listen) {
			d.before[s.key()] = s
		}
	}
	return d
}

func (d *diagnosis) add(f Finding) {
	f.Evidence, f.Fix, f.Check = notNil(f.Evidence), notNil(f.Fix), notNil(f.Check)
	d.found = append(d.found, f)
}

// notNil makes JSON's null an empty list.
func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// grown is by how much a counter grew between the samples; false where that
// is not known.
func (d *diagnosis) grown(name string) (int64, bool) {
	if !d.two || d.a.Counters == nil || d.b.Counters == nil {
		return 0, false
	}
	// nstat leaves out what is 0. A counter that fell was reset, or is another
	// namespace's.
	return max(d.b.Counters[name]-d.a.Counters[name], 0), true
}

// perSecond is the growth's rate.
func (d *diagnosis) perSecond(n int64) float64 { return float64(n) / d.span }

// earlier is the same socket in the first sample, nil where it was not there.
func (d *diagnosis) earlier(s *Socket) *Socket { return d.before[s.key()] }

// Gap is a cause that a sample cannot judge, or not wholly.
type Gap struct {
	Cause  string `json:"cause"`
	Partly bool   `json:"partly,omitempty"` // it was looked for, with less than there could be
	Why    string `json:"why"`
}

// Unjudged says which causes Diagnose could not judge with these samples, and
// what would let it.
func Unjudged(a, b Sample) []Gap {
	var out []Gap
	gap := func(cause string, partly bool, why string) { out = append(out, Gap{cause, partly, why}) }
	two := a.Taken() && b.At > a.At
	const partial = "the list has neither a listening socket nor a TIME-WAIT: take it with ss -a (if it was, there is none)"
	const second = "there is one sample only: no growth and no rate"
	switch {
	case b.Conntrack == nil:
		why := b.NoConntrack
		if why == "" {
			why = "the tracker's counters are not in it"
		}
		gap(results.ConntrackFull, false, why)
		gap(results.ConntrackInvalid, false, why)
	case !two:
		gap(results.ConntrackFull, true, second)
		gap(results.ConntrackInvalid, false, second)
	}
	if !two {
		gap(results.CloseWaitLeak, true, second)
	}
	listen := func(cause string) {
		switch {
		case b.Known.Partial:
			gap(cause, false, partial)
		case b.Counters == nil && b.Known.NoBacklog && cause != results.SynCookiesActive:
			gap(cause, false, "neither the counters (nstat) nor the listeners' backlogs are in it")
		case b.Counters == nil:
			gap(cause, cause != results.SynCookiesActive, "the counters (nstat) are not in it: only queues that are full at this moment show")
		case !two:
			gap(cause, cause != results.SynCookiesActive, second)
		case b.Known.NoBacklog && cause != results.SynCookiesActive:
			gap(cause, true, "listeners' backlogs are not in it (there was no ss, or the kernel does not tell it): only what the counters say")
		}
	}
	listen(results.AcceptQueueOverflow)
	listen(results.SynBacklogOverflow)
	listen(results.SynCookiesActive)
	switch {
	case b.Known.Partial:
		gap(results.TimeWaitExhaustion, false, partial)
	case b.Sysctls["net.ipv4.ip_local_port_range"] == "":
		gap(results.TimeWaitExhaustion, true, "ip_local_port_range is not in it: the kernel's default of 32768–60999 was assumed")
	case !two:
		gap(results.TimeWaitExhaustion, true, second)
	}
	if !b.Known.Timers {
		for _, c := range []string{results.PeerVanished, results.RetransmissionStall, results.ZeroWindow} {
			gap(c, false, "no timer is in it: take the list with ss -o (if it was, none runs)")
		}
	} else if !b.Known.Info {
		gap(results.PeerVanished, true, "tcp_info is not in it (ss -i): whether the peer is still heard is not known")
	}
	if !b.Known.Timers || !b.Known.Info {
		gap(results.KeepaliveOff, false, "that takes timers and tcp_info: take the list with ss -oi")
	}
	return out
}

// Wait is how far apart the two samples are: long enough that what happens
// once in a second is seen, short enough to wait for.
const Wait = time.Second
