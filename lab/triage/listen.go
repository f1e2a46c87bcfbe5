package triage

import (
	"fmt"
	"net/netip"
	"slices"

	"tcplab/results"
)

// full tells whether a listener takes no more connections: sk_acceptq_is_full
// (include/net/sock.h) asks for more than the backlog.
func (s *Socket) full() bool { return s.State == Listen && s.RQueue > s.WQueue }

const (
	// fewestDropped SYNs in a second are worth a finding: one may be a chance.
	fewestDropped = 2
	// synsQueued is the share of a listener's backlog of handshakes that are
	// under way from which on it counts as full.
	synsQueued = 1.0
	// slowHandshakes under way are enough to be worth looking at a backlog.
	slowHandshakes = 4
)

// listeners looks at what happens before accept(): handshakes under way, and
// connections that wait to be accepted.
func (d *diagnosis) listeners() {
	d.acceptQueue()
	d.synBacklog()
}

func (d *diagnosis) acceptQueue() {
	overflows, counted := d.grown("TcpExtListenOverflows")
	var full []*Socket
	for i := range d.b.Sockets {
		if s := &d.b.Sockets[i]; s.full() {
			full = append(full, s)
		}
	}
	slices.SortFunc(full, func(x, y *Socket) int { return x.Src.Compare(y.Src) })
	switch {
	case overflows > 0:
	case len(full) > 0 && (!d.two || d.wasFull(full)):
	default:
		return
	}
	f := Finding{Cause: results.AcceptQueueOverflow, Severity: Critical, Numbers: map[string]float64{}}
	filter := ""
	if len(full) > 0 {
		s := full[0]
		var procs []Process
		if s.Owner != nil {
			procs = []Process{*s.Owner}
		}
		f.Processes = procs
		f.Numbers["queue"], f.Numbers["backlog"] = float64(s.RQueue), float64(s.WQueue)
		f.Text = fmt.Sprintf("%s to be accepted at %s by %s, more than its backlog of %s", waiting(s.RQueue), s.Src, owner(procs, s.UID, d.b.Known.Owners), count(s.WQueue))
		if len(full) > 1 {
			f.Text += fmt.Sprintf(" (and %s)", some(len(full)-1, "more listener"))
		}
		filter = " " + ssSport(s.Src.Port())
		if d.leaking[s.Src.Port()] {
			f.Text += "; it follows from the CLOSE-WAIT leak there"
		}
	} else {
		f.Text = "connections find a listener's accept queue full"
	}
	if counted && overflows > 0 {
		f.Numbers["overflows"] = d.perSecond(overflows)
		f.Text += fmt.Sprintf("; ListenOverflows grows by %s", rate(d.perSecond(overflows)))
	}
	f.Text += ": further SYNs and last ACKs are dropped without a word, and clients retry or time out"
	f.Evidence = []string{
		"ss -tlnp" + filter + "   # Recv-Q above Send-Q",
		"nstat -z TcpExtListenOverflows TcpExtListenDrops; sleep 1; nstat -z TcpExtListenOverflows TcpExtListenDrops",
	}
	f.Fix = []string{
		"find out why the program does not accept: stuck, out of descriptors (EMFILE), all threads busy, one thread that accepts and works",
		"more workers or less work for each connection, so that accept() keeps up with the arrival rate",
		fmt.Sprintf("a larger backlog for bursts only: listen(fd, N) and net.core.somaxconn (now %s), both; a queue that is always full is not cured by a longer one", d.setting("net.core.somaxconn")),
	}
	f.Check = []string{
		"Recv-Q of the listener stays near 0: ss -tln" + filter,
		"ListenOverflows stands still: nstat -z TcpExtListenOverflows",
	}
	d.add(f)
}

// waiting says how many wait: "1 connection waits".
func waiting(n uint32) string {
	if n == 1 {
		return "1 connection waits"
	}
	return count(n) + " connections wait"
}

// wasFull tells whether one of them was full in the first sample as well.
func (d *diagnosis) wasFull(full []*Socket) bool {
	return slices.ContainsFunc(full, func(s *Socket) bool {
		old := d.earlier(s)
		return old != nil && old.full()
	})
}

func (d *diagnosis) setting(name string) string {
	if v := d.b.Sysctls[name]; v != "" {
		return v
	}
	return "unknown"
}

// queue is a listener's handshakes under way.
type queue struct {
	port    uint16
	n       int
	backlog int // how many it holds; 0: unknown
	addr    netip.AddrPort
}

// busiest is the listener with the most handshakes under way.
func (d *diagnosis) busiest() (q queue, total int) {
	n := map[uint16]int{}
	for i := range d.b.Sockets {
		if s := &d.b.Sockets[i]; s.State == SynRecv {
			n[s.Src.Port()]++
			total++
		}
	}
	for port, k := range n {
		if k > q.n || k == q.n && port < q.port {
			q = queue{port: port, n: k}
		}
	}
	for _, s := range d.listening[q.port] {
		q.addr = s.Src
		// inet_csk_reqsk_queue_is_full compares with the listener's own
		// backlog, which somaxconn has bounded already.
		if s.WQueue != noBacklog {
			q.backlog = max(q.backlog, int(s.WQueue))
		}
	}
	return q, total
}

func (d *diagnosis) synBacklog() {
	dropped, _ := d.grown("TcpExtTCPReqQFullDrop")
	cookies, _ := d.grown("TcpExtSyncookiesSent")
	drops, _ := d.grown("TcpExtListenDrops")
	overflows, _ := d.grown("TcpExtListenOverflows")
	drops -= overflows // those are the accept queue's
	q, total := d.busiest()
	queueFull := q.backlog > 0 && q.n >= slowHandshakes && float64(q.n) >= synsQueued*float64(q.backlog)
	atWhat := func() string {
		if q.n == 0 {
			return ""
		}
		s := fmt.Sprintf("%s under way at port %d", some(q.n, "handshake"), q.port)
		if q.backlog > 0 {
			s += fmt.Sprintf(" with a backlog of %s", count(q.backlog))
		}
		return s + "; "
	}
	numbers := map[string]float64{"syn_recv": float64(total)}
	if q.backlog > 0 {
		numbers["backlog"] = float64(q.backlog)
	}
	mode := d.b.sysctl("net.ipv4.tcp_syncookies", -1)
	evidence := []string{
		"ss -Htan state syn-recv | wc -l",
		"nstat -z TcpExtTCPReqQFullDrop TcpExtTCPReqQFullDoCookies TcpExtListenDrops TcpExtSyncookiesSent; sleep 1; nstat -z TcpExtTCPReqQFullDrop TcpExtTCPReqQFullDoCookies TcpExtListenDrops TcpExtSyncookiesSent",
		"sysctl net.ipv4.tcp_syncookies net.ipv4.tcp_max_syn_backlog net.core.somaxconn",
	}
	switch {
	case cookies >= 1:
		numbers["cookies"] = d.perSecond(cookies)
		f := Finding{Cause: results.SynCookiesActive, Severity: Warning, Numbers: numbers, Evidence: evidence}
		f.Text = fmt.Sprintf("%sSYN cookies are sent, %s", atWhat(), rate(d.perSecond(cookies)))
		if mode == 2 {
			f.Text += ", since tcp_syncookies is 2 (always)"
		} else {
			f.Text += ": more handshakes are begun than are ended, a flood of SYNs or a backlog that is too small"
		}
		f.Text += "; connections get in, and clients without timestamps lose window scaling and SACK"
		f.Fix = []string{
			"see whose SYNs they are: ss -Htan state syn-recv | awk '{print $4}' | sort | uniq -c; sources that never answer are a flood, to be dropped before this host",
			"where they are real clients: a larger backlog, listen(fd, N) with net.core.somaxconn and net.ipv4.tcp_max_syn_backlog",
			"keep net.ipv4.tcp_timestamps=1: with them cookies carry window scale and SACK (one less loss)",
			"net.ipv4.tcp_syncookies=1 and not 2 outside of tests: cookies then start only when the backlog is full",
		}
		f.Check = []string{
			"SyncookiesSent stands still: nstat -z TcpExtSyncookiesSent",
			"handshakes end: ss -Htan state syn-recv | wc -l stays well below the backlog",
		}
		d.add(f)
	case dropped >= 1, drops >= fewestDropped, queueFull:
		f := Finding{Cause: results.SynBacklogOverflow, Severity: Critical, Numbers: numbers, Evidence: evidence}
		f.Text = atWhat()
		switch {
		case dropped >= 1:
			numbers["dropped"] = d.perSecond(dropped)
			f.Text += fmt.Sprintf("SYNs are dropped, %s (TCPReqQFullDrop), and nobody is told", rate(d.perSecond(dropped)))
		case drops >= fewestDropped:
			numbers["dropped"] = d.perSecond(drops)
			f.Text += fmt.Sprintf("SYNs are dropped, %s (ListenDrops), and nobody is told", rate(d.perSecond(drops)))
		default:
			f.Severity = Warning
			f.Text += "the backlog is full"
			if mode < 0 {
				f.Text += "; whether SYN cookies take over is not in the input"
			}
		}
		if mode == 0 {
			f.Text += "; tcp_syncookies is 0, so a full backlog locks everybody out"
		}
		f.Fix = []string{
			"sysctl -w net.ipv4.tcp_syncookies=1: a full backlog then keeps nobody out",
			"see whose SYNs they are: ss -Htan state syn-recv | awk '{print $4}' | sort | uniq -c; sources that never answer are a flood, to be dropped before this host",
			"a larger backlog: listen(fd, N) with net.core.somaxconn and net.ipv4.tcp_max_syn_backlog (a flood of 1,000/s fills any that is practical)",
		}
		f.Check = []string{
			"TCPReqQFullDrop and ListenDrops stand still: nstat -z TcpExtTCPReqQFullDrop TcpExtListenDrops",
			"a connection attempt from elsewhere succeeds at once",
		}
		d.add(f)
	}
}
