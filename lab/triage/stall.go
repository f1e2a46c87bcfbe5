package triage

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tcplab/netns/probe"
	"tcplab/results"
)

const (
	// vanishedRetrans retransmissions without an answer make a suspect: with
	// the least RTO of 200 ms that is 1.4 s of silence. Loss alone comes to it
	// once in a million round trips at 1%.
	vanishedRetrans = 3
	// vanishedProbes keepalive probes without an answer: the last one's answer
	// may be under way.
	vanishedProbes = 2
	// stalledRetrans retransmissions, and no progress from one sample to the
	// other, are a stall. For a SYN that is two or three seconds.
	stalledRetrans = 2
	// shutBackoff doublings of the persist timer: the window has been shut for
	// 1.4 s. A reader that is a little slow opens it sooner.
	shutBackoff = 3
	// rtoMin and rtoMax are TCP_RTO_MIN and TCP_RTO_MAX (include/net/tcp.h).
	rtoMin = 200 * time.Millisecond
	rtoMax = 120 * time.Second
	// synTimeout is TCP_TIMEOUT_INIT, the first RTO of a SYN.
	synTimeout = time.Second
	// orphanRetries stands for tcp_orphan_retries = 0 (tcp_orphan_retries,
	// net/ipv4/tcp_timer.c).
	orphanRetries = 8
)

// chain is a run of retransmissions, or of probes, without an answer.
type chain struct {
	s    *Socket
	age  time.Duration // of the data: since it was first sent
	left time.Duration // until the kernel gives up; 0: not known
}

// stalls looks at the timers that run: what is sent and not answered.
func (d *diagnosis) stalls() {
	if !d.b.Known.Timers {
		return
	}
	var vanished, probed, stalled, attempts, shut []chain
	for i := range d.b.Sockets {
		s := &d.b.Sockets[i]
		switch s.State {
		case Listen, TimeWait, SynRecv, probe.Closed:
			continue // a handshake's answers are its listener's affair
		}
		switch s.Timer {
		case TimerRetransmission:
			c := d.chain(s)
			switch {
			case shrunk(s):
				shut = append(shut, chain{s: s})
			case s.State == SynSent:
				if s.Retrans >= stalledRetrans {
					attempts = append(attempts, c)
				}
			case s.Retrans >= vanishedRetrans && !heardSince(s, c.age):
				vanished = append(vanished, c)
			case s.Retrans >= vanishedRetrans, s.Retrans >= stalledRetrans && d.stuck(s):
				stalled = append(stalled, c)
			}
		case TimerKeepalive:
			if s.Retrans >= vanishedProbes {
				age := time.Duration(0)
				if s.Info != nil {
					age = s.Info.Heard()
				}
				probed = append(probed, chain{s: s, age: age})
			}
		case TimerPersist:
			switch {
			case s.Retrans >= vanishedRetrans:
				// Zero-window probes have answers, as long as there is a peer.
				vanished = append(vanished, d.chain(s))
			case d.isShut(s):
				shut = append(shut, chain{s: s})
			}
		}
	}
	d.vanished(vanished, probed)
	d.stalled(stalled, attempts)
	d.shut(shut)
}

// heardSince tells whether anything came from the peer well after the data was
// first sent. What came at its beginning (an acknowledgement of what was sent
// before, the answer to a request) is no sign of life.
func heardSince(s *Socket, age time.Duration) bool {
	return s.Info != nil && s.Info.Heard() < age/2
}

// stuck tells whether nothing was acknowledged from one sample to the other.
func (d *diagnosis) stuck(s *Socket) bool {
	old := d.earlier(s)
	return old != nil && old.Timer == TimerRetransmission && old.Retrans >= 1 && s.WQueue >= old.WQueue && s.Retrans >= old.Retrans
}

// isShut tells whether the peer's window has been shut for a while.
func (d *diagnosis) isShut(s *Socket) bool {
	if s.WQueue == 0 {
		return false
	}
	if s.Info != nil && s.Info.WindowKnown && s.Info.Window > 0 {
		return false
	}
	if s.Info != nil {
		return s.Info.Backoff >= shutBackoff
	}
	old := d.earlier(s)
	return old != nil && old.Timer == TimerPersist && s.WQueue >= old.WQueue || s.Expires >= 2*time.Second
}

// shrunk tells whether the peer took its window back while data was under way:
// retransmissions are then its probes, and do not count as retransmissions
// (tcp_retransmit_timer).
func shrunk(s *Socket) bool {
	return s.State != SynSent && s.Retrans == 0 && s.WQueue > 0 && s.Info != nil && s.Info.Backoff >= shutBackoff && s.Info.Window == 0
}

// chain reckons how long a socket's data has been under way, and when the
// kernel gives up.
func (d *diagnosis) chain(s *Socket) chain {
	c := chain{s: s}
	largest := time.Duration(d.b.sysctl("net.ipv4.tcp_rto_max_ms", int(rtoMax/time.Millisecond))) * time.Millisecond
	first := d.firstRTO(s, largest)
	wait := first
	linear := d.linear(s)
	for n := range int(s.Retrans) {
		c.age += wait
		if n >= linear {
			wait = min(2*wait, largest)
		}
	}
	if s.Info != nil && s.Info.RTO > 0 {
		wait = min(s.Info.RTO, largest)
	}
	c.age += max(wait-s.Expires, 0)
	if s.State == SynSent {
		return c // tcp_syn_retries, which the program may have set
	}
	retries := d.b.sysctl("net.ipv4.tcp_retries2", 15)
	if orphan(s, d.b.Known.Owners) {
		if retries = d.b.sysctl("net.ipv4.tcp_orphan_retries", 0); retries == 0 {
			retries = orphanRetries
		}
	}
	// retransmits_timed_out: at each expiry the time since the first timeout
	// is held against a nominal sum that starts from 200 ms.
	budget, step := time.Duration(0), rtoMin
	for range retries + 1 {
		budget += step
		step = min(2*step, largest)
	}
	c.left = s.Expires
	for since := c.age - first + s.Expires; since < budget; {
		wait = min(2*wait, largest)
		since += wait
		c.left += wait
	}
	return c
}

// linear is how many of a socket's retransmissions came without doubling the
// timer: a SYN's first ones, since Linux 6.5 (tcp_syn_linear_timeouts).
func (d *diagnosis) linear(s *Socket) int {
	switch {
	case s.State != SynSent:
		return 0
	case s.Info != nil:
		return max(int(s.Retrans)-int(s.Info.Backoff), 0)
	}
	return d.b.sysctl("net.ipv4.tcp_syn_linear_timeouts", 0)
}

// firstRTO is the connection's RTO before it was backed off.
func (d *diagnosis) firstRTO(s *Socket, largest time.Duration) time.Duration {
	switch i := s.Info; {
	case i != nil && i.RTO > 0 && i.RTO < largest:
		return max(i.RTO>>min(i.Backoff, 30), time.Millisecond)
	case s.State == SynSent:
		return synTimeout
	case i != nil:
		return i.RTT + rtoMin
	}
	return rtoMin
}

// orphan tells whether a socket's program has closed it.
func orphan(s *Socket, ownersKnown bool) bool {
	switch s.State {
	case FinWait1, Closing, LastAck:
		return !ownersKnown || s.Inode == 0
	}
	return false
}

// oldest puts the chain that has lasted longest first.
func oldest(cs []chain) {
	slices.SortFunc(cs, func(x, y chain) int {
		return cmp.Or(cmp.Compare(y.age, x.age), cmp.Compare(y.s.Retrans, x.s.Retrans), x.s.Dst.Compare(y.s.Dst), x.s.Src.Compare(y.s.Src))
	})
}

// peers counts the addresses at the other end.
func peers(cs []chain) int {
	m := map[netip.Addr]bool{}
	for _, c := range cs {
		m[c.s.Dst.Addr()] = true
	}
	return len(m)
}

// towards names where connections lead: one end, or how many.
func towards(cs []chain) string {
	same := true
	for _, c := range cs {
		same = same && c.s.Dst == cs[0].s.Dst
	}
	switch n := peers(cs); {
	case same:
		return cs[0].s.Dst.String()
	case n == 1:
		return cs[0].s.Dst.Addr().String()
	default:
		return fmt.Sprintf("%s addresses, %s among them", count(n), cs[0].s.Dst)
	}
}

func (d *diagnosis) owners(cs []chain) []Process {
	var out []Process
	for _, c := range cs {
		if c.s.Owner != nil {
			out = addProcess(out, *c.s.Owner)
		}
	}
	slices.SortFunc(out, func(x, y Process) int { return cmp.Compare(x.PID, y.PID) })
	return out
}

func (d *diagnosis) vanished(data, probed []chain) {
	if len(data)+len(probed) == 0 {
		return
	}
	oldest(data)
	oldest(probed)
	all := append(slices.Clone(data), probed...)
	f := Finding{Cause: results.PeerVanished, Severity: Critical, Processes: d.owners(all), Numbers: map[string]float64{"count": float64(len(all))}}
	orphans := 0
	for _, c := range data {
		if orphan(c.s, d.b.Known.Owners) {
			orphans++
		}
	}
	if len(data) > 0 {
		c := data[0]
		f.Numbers["age"] = c.age.Seconds()
		f.Text = fmt.Sprintf("%s towards %s: data is sent again and again and nothing comes back, the oldest for %s (%s, timer backed off to %s)",
			some(len(data), "connection"), towards(data), lasting(c.age), some(int(c.s.Retrans), "retransmission"), lasting(d.interval(c.s)))
		if c.left > 0 {
			f.Numbers["seconds_left"] = c.left.Seconds()
			if orphan(c.s, d.b.Known.Owners) {
				f.Text += fmt.Sprintf("; the kernel gives it up in %s (tcp_orphan_retries)", lasting(c.left))
			} else {
				f.Text += fmt.Sprintf("; the kernel gives up in %s (tcp_retries2 = %d), unless TCP_USER_TIMEOUT says sooner", lasting(c.left), d.b.sysctl("net.ipv4.tcp_retries2", 15))
			}
		}
		if orphans > 0 {
			f.Numbers["orphans"] = float64(orphans)
			whose := count(orphans) + " of them"
			if orphans == len(data) {
				whose = "all"
			}
			f.Text += fmt.Sprintf("; %s closed by their program already (FIN-WAIT-1 and the like)", whose)
		}
	}
	if len(probed) > 0 {
		c := probed[0]
		if f.Text != "" {
			f.Text += "; "
		}
		f.Text += fmt.Sprintf("%s towards %s: keepalive probes have no answer (%d so far, the next in %s)", some(len(probed), "idle connection"), towards(probed), c.s.Retrans, lasting(c.s.Expires))
		if c.age > 0 {
			f.Text += fmt.Sprintf(", nothing heard for %s", lasting(c.age))
		}
	}
	f.Evidence = []string{"ss -tanoi | grep -A1 -E 'timer:\\((on|keepalive|persist),[^,]*,[1-9]'   # backoff:, unacked:, lastack:", "ss -tano state fin-wait-1   # closed by their program, kept by the kernel", "nstat -z TcpExtTCPTimeouts; sleep 1; nstat -z TcpExtTCPTimeouts"}
	f.Fix = []string{
		"see whether the peer is there: ping it, connect to it anew. If a new connection works, only these are dead: a load balancer, NAT or firewall has forgotten them, or the peer was replaced; closing them (ss -K dst ADDRESS, as root) ends the wait at once",
		"TCP_USER_TIMEOUT on the sockets, about the request's own deadline: bounds how long data may stay unacknowledged (RFC 5482)",
		"a deadline and a heartbeat in the application; SO_KEEPALIVE with a short TCP_KEEPIDLE for idle connections (it is silent while data is unacknowledged)",
		"where the program cannot be changed: a smaller net.ipv4.tcp_retries2 (8 is the least that RFC 1122 allows), for every connection of this host",
		"at the cause: let who forgets a connection say so (RST instead of drop)",
	}
	f.Check = []string{
		"no socket with a backed-off timer is left: ss -tano | grep -cE 'timer:\\(on,[^,]*,([3-9]|[1-9][0-9])\\)'",
		"TCPTimeouts stands still: nstat -z TcpExtTCPTimeouts",
		"the application has reconnected: ss -tn state established",
	}
	d.add(f)
}

// interval is how long the timer that runs was set for.
func (d *diagnosis) interval(s *Socket) time.Duration {
	if s.Info != nil && s.Info.RTO > 0 && s.Timer == TimerRetransmission {
		return s.Info.RTO
	}
	return s.Expires
}

func (d *diagnosis) stalled(data, attempts []chain) {
	if len(data)+len(attempts) == 0 {
		return
	}
	oldest(data)
	oldest(attempts)
	all := append(slices.Clone(data), attempts...)
	f := Finding{Cause: results.RetransmissionStall, Severity: Warning, Processes: d.owners(all), Numbers: map[string]float64{"count": float64(len(all))}}
	if len(data) > 0 {
		c := data[0]
		f.Numbers["age"] = c.age.Seconds()
		f.Text = fmt.Sprintf("%s towards %s: the same data is sent again and again, the oldest for %s (%s)", some(len(data), "connection"), towards(data), lasting(c.age), some(int(c.s.Retrans), "retransmission"))
		if i := c.s.Info; i != nil && heardSince(c.s, c.age) {
			f.Text += fmt.Sprintf(", though the peer was heard %s ago: what we send is lost and what it sends is not (a path with a smaller MTU, or loss in one direction)", lasting(i.Heard()))
		}
	}
	if len(attempts) > 0 {
		if f.Text != "" {
			f.Text += "; "
		}
		c := attempts[0]
		f.Numbers["attempts"] = float64(len(attempts))
		f.Numbers["age"] = max(f.Numbers["age"], c.age.Seconds())
		f.Text += fmt.Sprintf("%s to connect to %s without an answer, the oldest for %s (its SYN was sent %d times)", some(len(attempts), "attempt"), towards(attempts), lasting(c.age), c.s.Retrans+1)
	}
	f.Evidence = []string{"ss -tanoi | grep -A1 -E 'timer:\\(on,[^,]*,[1-9]'", "nstat -z TcpRetransSegs TcpOutSegs TcpExtTCPTimeouts", "ss -tano state syn-sent"}
	f.Fix = []string{
		"where large segments are lost and small ones pass: a smaller MTU on the path with ICMP filtered; let ICMP \"fragmentation needed\" through, or net.ipv4.tcp_mtu_probing=1",
		"where SYNs have no answer: look at the other end for a full backlog or accept queue (run triage there) and at firewalls between",
		"where everything is lost in one direction: the route or the link of that direction",
	}
	f.Check = []string{
		"retransmissions stand still: nstat -z TcpRetransSegs",
		"no socket has a backed-off timer: ss -tano | grep -cE 'timer:\\(on,[^,]*,[2-9]'",
	}
	d.add(f)
}

func (d *diagnosis) shut(cs []chain) {
	if len(cs) == 0 {
		return
	}
	slices.SortFunc(cs, func(x, y chain) int {
		return cmp.Or(cmp.Compare(y.s.WQueue, x.s.WQueue), x.s.Dst.Compare(y.s.Dst), x.s.Src.Compare(y.s.Src))
	})
	c := cs[0]
	f := Finding{Cause: results.ZeroWindow, Severity: Warning, Processes: d.owners(cs), Numbers: map[string]float64{"count": float64(len(cs)), "waiting": float64(c.s.WQueue)}}
	f.Text = fmt.Sprintf("%s towards %s: the peer does not read, its window is 0, and %s B wait here", some(len(cs), "connection"), towards(cs), count(c.s.WQueue))
	f.Text += fmt.Sprintf("; the next probe of it in %s", lasting(c.s.Expires))
	if i := c.s.Info; i != nil && i.Heard() >= 50*time.Millisecond {
		f.Text += fmt.Sprintf(", the last answer %s ago", lasting(i.Heard()))
	}
	f.Text += ": it is alive, and TCP waits for as long as it answers"
	f.Evidence = []string{"ss -tanoi | grep -A1 'timer:(persist'   # backoff:, rwnd_limited:, no snd_wnd", "nstat -z TcpExtTCPWantZeroWindowAdv TcpExtTCPToZeroWindowAdv   # at the peer"}
	f.Fix = []string{
		"look at the peer's program: it is stuck, or slower than this sender (its Recv-Q in ss is full)",
		"a deadline for writes in this program, or TCP_USER_TIMEOUT, which also ends a window that stays shut",
		"back-pressure: do not queue without bound behind a reader that is slow; a larger receive buffer only delays it",
	}
	f.Check = []string{
		"no persist timer is left: ss -tano | grep -c 'timer:(persist'",
		"Send-Q of these connections falls: ss -tn " + ssDst(c.s.Dst),
	}
	d.add(f)
}
