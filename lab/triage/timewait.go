package triage

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tcplab/results"
)

const (
	// timeWaitLength is the kernel's constant TCP_TIMEWAIT_LEN
	// (include/net/tcp.h): no setting changes it.
	timeWaitLength = 60 * time.Second
	// portsGone is the share of the ceiling from which on ports count as used
	// up: in a steady overload some are always just coming back.
	portsGone = 0.98
	// knee is the share of the ceiling at which connect() begins to search:
	// it tries the ports of one parity first (__inet_hash_connect).
	knee = 0.5
	// worthProjecting is the share of the ceiling below which the present
	// rate says nothing yet: every start of a service opens connections.
	worthProjecting = 0.05
	// rateWindow is how far back TIME-WAITs are counted for the rate of
	// closing: long enough to smooth bursts, short enough to be the present.
	rateWindow = 10 * time.Second
	// presentRate is how long ago the last one may have been closed for the
	// rate to be the present's.
	presentRate = 2 * time.Second
	// fewestForRate TIME-WAITs are needed for a rate to be one.
	fewestForRate = 50
	// nearlyAllPorts is a range that is hardly to be widened.
	nearlyAllPorts = 60_000
	// mostDestinations are told of; a client that exhausts the ports towards
	// more has the same fault towards all of them.
	mostDestinations = 3
)

// pathway is a local address and a destination: a local port can be used once
// for each.
type pathway struct {
	src netip.Addr
	dst netip.AddrPort
}

type portUse struct {
	pathway
	used, timeWait int           // ports of the range; those in TIME-WAIT
	before         int           // used, in the first sample
	young          int           // TIME-WAITs no older than rateWindow
	oldest         time.Duration // of the young ones
	last           time.Duration // age of the youngest
	procs          []Process
}

// timeWait judges each destination by the ports that are taken towards it. A
// TIME-WAIT on the side that was connected to takes no ephemeral port and does
// no harm, however many there are: it has the listener's port, or a port that
// is the same for many peers.
func (d *diagnosis) timeWait() {
	low, high, ceiling := d.b.portRange()
	if ceiling == 0 {
		return
	}
	uses := map[pathway]*portUse{}
	for i := range d.b.Sockets {
		s := &d.b.Sockets[i]
		if !d.takesPort(s, low, high) {
			continue
		}
		p := pathway{s.Src.Addr(), s.Dst}
		u := uses[p]
		if u == nil {
			u = &portUse{pathway: p, last: timeWaitLength}
			uses[p] = u
		}
		u.used++
		if s.State == TimeWait || s.State == FinWait2 && s.Timer == TimerTimeWait {
			u.timeWait++
			if s.Timer == TimerTimeWait {
				if age := max(timeWaitLength-s.Expires, 0); age <= rateWindow {
					u.young++
					u.oldest, u.last = max(u.oldest, age), min(u.last, age)
				}
			}
		} else if s.Owner != nil {
			u.procs = addProcess(u.procs, *s.Owner)
		}
	}
	if d.two {
		for i := range d.a.Sockets {
			if s := &d.a.Sockets[i]; d.takesPort(s, low, high) {
				if u := uses[pathway{s.Src.Addr(), s.Dst}]; u != nil {
					u.before++
				}
			}
		}
	}
	var list []*portUse
	for _, u := range uses {
		// Mostly live connections: more ports may be wanted, and TIME-WAIT is
		// not what takes them.
		if 2*u.timeWait >= u.used && !d.reuses(u, ceiling) {
			list = append(list, u)
		}
	}
	slices.SortFunc(list, func(x, y *portUse) int {
		if x.used != y.used {
			return y.used - x.used
		}
		if c := x.dst.Compare(y.dst); c != 0 {
			return c
		}
		return x.src.Compare(y.src)
	})
	told := 0
	for _, u := range list {
		if told == mostDestinations {
			break
		}
		if d.exhaustion(u, ceiling) {
			told++
		}
	}
}

// takesPort tells whether a socket has a port that connect() chose.
func (d *diagnosis) takesPort(s *Socket, low, high int) bool {
	port := int(s.Src.Port())
	return s.State != Listen && s.State != SynRecv && s.Dst.Port() != 0 &&
		low <= port && port <= high && d.listening[s.Src.Port()] == nil
}

// reuses tells whether connect() may take ports over from TIME-WAIT
// (tcp_twsk_unique): then it does not run out of them.
func (d *diagnosis) reuses(u *portUse, ceiling int) bool {
	if d.b.sysctl("net.ipv4.tcp_timestamps", 1) == 0 {
		return false
	}
	// The peer may have no timestamps. Where all ports are taken and the last
	// of them just now, nearly each connect() would have taken one over.
	if n, counted := d.grown("TcpExtTWRecycled"); counted && n == 0 && float64(u.used) >= portsGone*float64(ceiling) && u.last <= presentRate {
		return false
	}
	switch d.b.sysctl("net.ipv4.tcp_tw_reuse", 2) {
	case 1:
		return true
	case 2:
		return u.dst.Addr().IsLoopback() && u.src.IsLoopback()
	}
	return false
}

// exhaustion adds a finding about one destination, if there is something to
// find.
func (d *diagnosis) exhaustion(u *portUse, ceiling int) bool {
	kneeAt := int(float64(ceiling) * knee)
	// Rates, by the ages of the TIME-WAITs that there are: one look is enough,
	// and a window of seconds says more than one second's growth.
	var opens float64
	if u.young >= fewestForRate && u.oldest >= time.Second && u.last <= presentRate {
		opens = float64(u.young) / u.oldest.Seconds()
	}
	growth := 0.0
	if d.two {
		growth = float64(u.used-u.before) / d.span
	}
	// What it comes to if it goes on like this: Little's law. Live
	// connections stay.
	waits := opens * timeWaitLength.Seconds()
	if most := d.b.sysctl("net.ipv4.tcp_max_tw_buckets", -1); most >= 0 {
		waits = min(waits, float64(most)) // those beyond are destroyed
	}
	comesTo := waits + float64(u.used-u.timeWait)
	share := float64(u.used) / float64(ceiling)
	free := ceiling - u.used

	f := Finding{Cause: results.TimeWaitExhaustion, Processes: u.procs, Numbers: map[string]float64{
		"used": float64(u.used), "time_wait": float64(u.timeWait), "ceiling": float64(ceiling), "knee": float64(kneeAt)}}
	if d.two {
		f.Numbers["growth"] = growth
	}
	if opens > 0 {
		f.Numbers["rate"] = opens
	}
	taken := fmt.Sprintf("%s of the %s ports towards %s are taken, %s of them by TIME-WAIT", count(u.used), count(ceiling), u.dst, count(u.timeWait))
	left := 0.0
	if growth > 0 {
		left = max(float64(free), 0) / growth
		f.Numbers["seconds_left"] = left
	}
	switch {
	case share >= portsGone:
		f.Severity = Critical
		f.Numbers["seconds_left"] = 0
		f.Text = taken + fmt.Sprintf(": connect() fails with EADDRNOTAVAIL until ports come back, 60 s after their connections closed; no more than %s of new connections can be kept up", rate(float64(ceiling)/timeWaitLength.Seconds()))
	case share >= knee:
		f.Severity = Warning
		f.Text = taken + fmt.Sprintf(", past the search knee at %s: connect() searches among them and takes CPU", count(kneeAt))
		f.Text += d.outlook(growth, left, comesTo, ceiling)
	case share >= worthProjecting && comesTo >= float64(ceiling) && (growth > 0 || !d.two): // else it has ended
		f.Severity = Warning
		f.Text = taken + fmt.Sprintf("; at the present %s", rate(opens))
		if growth > 0 {
			f.Text += fmt.Sprintf(" connect() gets slow in %s (search knee at %s)", lasting(seconds(float64(kneeAt-u.used)/growth)), count(kneeAt))
			f.Text += fmt.Sprintf(" and fails in %s", lasting(seconds(left)))
		} else {
			f.Text += fmt.Sprintf(" it comes to %s within a minute: connect() gets slow at %s and fails at %s", count(int(comesTo)), count(kneeAt), count(ceiling))
		}
	default:
		return false
	}
	f.Evidence = []string{
		fmt.Sprintf("ss -Htan state time-wait %s | wc -l", ssDst(u.dst)),
		"sysctl net.ipv4.ip_local_port_range net.ipv4.tcp_tw_reuse net.ipv4.tcp_timestamps",
	}
	wider := "then a wider range: sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\" (more of the same, 64,512 ports at most; reserve what listens there with ip_local_reserved_ports)"
	if ceiling > nearlyAllPorts {
		wider = "the range of ports is as wide as it can be: only a further source address, or a further port of the destination, gives as many again"
	}
	reuse := "until that is released: sysctl -w net.ipv4.tcp_tw_reuse=1 (connect() takes a port over from a TIME-WAIT older than a second; safe with timestamps, RFC 6191)"
	if d.b.sysctl("net.ipv4.tcp_tw_reuse", 2) == 1 {
		reuse = "tcp_tw_reuse is on and takes nothing over, for want of timestamps: net.ipv4.tcp_timestamps=1 at both ends (RFC 6191); connections made from then on can be taken over"
	}
	f.Fix = []string{
		"keep connections: a pool or keep-alive in the client towards " + u.dst.String() + " (reuse takes the cause away; the handshake is saved as well)",
		reuse,
		wider,
		"last, and better never: destroying TIME-WAIT early (tcp_max_tw_buckets, SO_LINGER 0) or a kernel with a shorter TCP_TIMEWAIT_LEN lets old segments into new connections; tcp_fin_timeout does not shorten TIME-WAIT at all",
	}
	f.Check = []string{
		fmt.Sprintf("the count of TIME-WAIT falls within 60 to 62 s: watch -n 5 \"ss -Htan state time-wait %s | wc -l\"", ssDst(u.dst)),
		"handshakes per second fall towards zero where connections are kept: nstat TcpActiveOpens",
		"no EADDRNOTAVAIL (cannot assign requested address) in the client's log",
	}
	d.add(f)
	return true
}

// outlook says where it goes from past the knee.
func (d *diagnosis) outlook(growth, left, comesTo float64, ceiling int) string {
	switch {
	case growth > 0 && comesTo >= portsGone*float64(ceiling):
		return fmt.Sprintf("; growing by %s, they are used up in %s", rate(growth), lasting(seconds(left)))
	case d.two && growth <= 0:
		return "; not growing just now"
	case comesTo >= portsGone*float64(ceiling):
		return "; at the present rate of closing they are used up within a minute"
	}
	return "; at the present rate of closing it stays below the end"
}

func addProcess(list []Process, p Process) []Process {
	if !slices.Contains(list, p) {
		list = append(list, p)
	}
	return list
}
