package triage

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"tcplab/results"
)

const (
	// leakAge is how long a socket may be in CLOSE-WAIT before it counts: a
	// program that reads hears of the peer's close at once, and a busy one
	// within this.
	leakAge = time.Second
	// leakCount sockets that stay in CLOSE-WAIT are a leak; a few may be
	// connections in a pool that nobody has looked at since the peer closed.
	leakCount = 10
	// nearLimit is the share of a process's descriptors from which on its end
	// is near.
	nearLimit = 0.9
)

type leak struct {
	pid     int // 0: not known
	uid     uint32
	port    uint16 // of the listener, or 0 and the destination's
	dstPort uint16
	n, more int // sockets; those not there in the first sample
	oldest  time.Duration
	proc    Process
	known   bool // owners are known
}

// closeWait finds programs that keep what their peers have closed. A socket
// in CLOSE-WAIT that no process has accepted yet is its listener's trouble.
func (d *diagnosis) closeWait() {
	type group struct {
		pid  int
		uid  uint32
		port uint16
		dst  uint16
	}
	by := map[group]*leak{}
	for i := range d.b.Sockets {
		s := &d.b.Sockets[i]
		if s.State != CloseWait || d.b.Known.Owners && s.Inode == 0 {
			continue
		}
		old := d.earlier(s)
		stays := old != nil && old.State == CloseWait
		age := time.Duration(0)
		if s.Info != nil {
			age = s.Info.LastAck // the peer's FIN acknowledged something, too
		}
		g := group{uid: s.UID, port: s.Src.Port()}
		if d.listening[s.Src.Port()] == nil {
			g.port, g.dst = 0, s.Dst.Port()
		}
		var p Process
		if s.Owner != nil {
			p = *s.Owner
			g.pid = p.PID
		}
		l := by[g]
		if l == nil {
			l = &leak{pid: g.pid, uid: g.uid, port: g.port, dstPort: g.dst, proc: p, known: d.b.Known.Owners}
			by[g] = l
		}
		switch {
		case stays, age >= leakAge, !d.two && s.Info == nil:
			l.n++
			l.oldest = max(l.oldest, age)
		}
		if d.two && !stays {
			l.more++
		}
	}
	var list []*leak
	for _, l := range by {
		n := l.n
		if !l.known {
			for _, ls := range d.listening[l.port] {
				n -= int(ls.RQueue) // as many may not have been accepted yet
			}
		}
		if n >= leakCount {
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(x, y *leak) int {
		return cmp.Or(y.n-x.n, cmp.Compare(x.pid, y.pid), cmp.Compare(x.uid, y.uid), cmp.Compare(x.port, y.port), cmp.Compare(x.dstPort, y.dstPort))
	})
	for _, l := range list {
		d.leak(l)
	}
}

func (d *diagnosis) leak(l *leak) {
	f := Finding{Cause: results.CloseWaitLeak, Severity: Warning, Numbers: map[string]float64{"count": float64(l.n)}}
	total := l.n + l.more
	who := owner(nil, l.uid, l.known)
	if l.pid != 0 {
		f.Processes = []Process{l.proc}
		who = names(f.Processes)
	}
	f.Text = fmt.Sprintf("%s of %s stay in CLOSE-WAIT", some(l.n, "socket"), who)
	filter := fmt.Sprintf("'dport = :%d'", l.dstPort)
	if l.port != 0 {
		f.Text += fmt.Sprintf(" at its port %d", l.port)
		filter = ssSport(l.port)
		d.leaking[l.port] = true
	} else {
		f.Text += fmt.Sprintf(" towards port %d", l.dstPort)
	}
	if l.oldest >= leakAge {
		f.Text += fmt.Sprintf(", the oldest for %s", lasting(l.oldest))
		f.Numbers["oldest"] = l.oldest.Seconds()
	}
	f.Text += ": their peers have closed, the program has not"
	if d.two {
		f.Numbers["growth"] = float64(l.more) / d.span
		if l.more > 0 {
			f.Text += fmt.Sprintf("; growing by %s", rate(float64(l.more)/d.span))
		} else {
			f.Text += "; not growing just now"
		}
	}
	if p := l.proc; l.pid != 0 && p.FileLimit > 0 {
		used := max(p.Files, total)
		f.Numbers["files"], f.Numbers["file_limit"] = float64(used), float64(p.FileLimit)
		switch {
		case float64(used) >= nearLimit*float64(p.FileLimit):
			f.Severity = Critical
			f.Text += fmt.Sprintf("; %s of its %s descriptors are open: accept() fails with EMFILE at the end of them", count(used), count(p.FileLimit))
		case l.more > 0:
			f.Text += fmt.Sprintf("; at that rate its %s descriptors are used up in %s", count(p.FileLimit), lasting(seconds(float64(p.FileLimit-used)/(float64(l.more)/d.span))))
		default:
			f.Text += fmt.Sprintf("; %s of its %s descriptors are open", count(used), count(p.FileLimit))
		}
	}
	for _, ls := range d.listening[l.port] {
		if l.port != 0 && ls.full() {
			// What it leads to: the finding that follows from this one.
			f.Severity = Critical
			f.Text += fmt.Sprintf("; its accept queue is full (%s of %s)", count(ls.RQueue), count(ls.WQueue))
			break
		}
	}
	pid := "PID"
	if l.pid != 0 {
		pid = fmt.Sprint(l.pid)
	}
	f.Evidence = []string{
		"ss -Htanp state close-wait " + filter + " | wc -l",
		"ss -tanoip state close-wait " + filter + "   # lastack: how long ago the peer's FIN came",
		fmt.Sprintf("ls /proc/%s/fd | wc -l; grep 'open files' /proc/%s/limits", pid, pid),
	}
	f.Fix = []string{
		"the program has to close() when read() returns 0: look for the path that returns without closing (an error path, a lost response body, a handler that waits for something else)",
		"until that is released: restart it; no kernel setting ends CLOSE-WAIT, since the kernel waits for the program and not for the network",
		"a deadline for idle connections in the program bounds such leaks; more descriptors (ulimit -n) only buy time",
	}
	f.Check = []string{
		"the count stays near zero under load: watch -n 5 \"ss -Htan state close-wait " + filter + " | wc -l\"",
		fmt.Sprintf("the process's descriptors no longer grow: ls /proc/%s/fd | wc -l", pid),
		"clients no longer time out, and the accept queue is empty: ss -tln (Recv-Q)",
	}
	d.add(f)
}
