package triage

import (
	"cmp"
	"fmt"
	"maps"
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
	uid     uint32
	port    uint16 // of the listener, or 0 and the destination's
	dstPort uint16
	n, more int // sockets; those not there in the first sample
	oldest  time.Duration
	known   bool // owners are known
	by      map[int]*share
}

// share is what one process has of a leak: a server of many processes leaks in
// each of them.
type share struct {
	proc    Process
	n, more int
}

// shares are a leak's processes, the one with the most sockets first.
func (l *leak) shares() []*share {
	return slices.SortedFunc(maps.Values(l.by), func(x, y *share) int {
		return cmp.Or(cmp.Compare(y.n+y.more, x.n+x.more), cmp.Compare(x.proc.PID, y.proc.PID))
	})
}

// inUse tells whether a program still sends on a connection whose peer has
// closed its own direction only (a half-close, as "send, shut down, read to
// the end" does): then it is at work and has forgotten nothing.
func inUse(s *Socket) bool {
	return s.WQueue > 0 || s.Info != nil && s.Info.LastSent < leakAge
}

// closeWait finds programs that keep what their peers have closed. A socket
// in CLOSE-WAIT that no process has accepted yet is its listener's trouble.
func (d *diagnosis) closeWait() {
	type group struct {
		name string // of the program
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
		if s.Owner != nil {
			g.name = s.Owner.Name
		}
		l := by[g]
		if l == nil {
			l = &leak{uid: g.uid, port: g.port, dstPort: g.dst, known: d.b.Known.Owners, by: map[int]*share{}}
			by[g] = l
		}
		own := &share{}
		if s.Owner != nil {
			if l.by[s.Owner.PID] == nil {
				l.by[s.Owner.PID] = &share{proc: *s.Owner}
			}
			own = l.by[s.Owner.PID]
		}
		if (stays || age >= leakAge || !d.two && s.Info == nil) && !inUse(s) {
			l.n++
			own.n++
			l.oldest = max(l.oldest, age)
		}
		if d.two && !stays {
			l.more++
			own.more++
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
		return cmp.Or(y.n-x.n, cmp.Compare(x.uid, y.uid), cmp.Compare(x.port, y.port), cmp.Compare(x.dstPort, y.dstPort), cmp.Compare(x.firstPID(), y.firstPID()))
	})
	for _, l := range list {
		d.leak(l)
	}
}

// firstPID is the process with the most sockets, 0 where none is known.
func (l *leak) firstPID() int {
	if s := l.shares(); len(s) > 0 {
		return s[0].proc.PID
	}
	return 0
}

func (d *diagnosis) leak(l *leak) {
	f := Finding{Cause: results.CloseWaitLeak, Severity: Warning, Numbers: map[string]float64{"count": float64(l.n)}}
	who := owner(nil, l.uid, l.known)
	procs := l.shares()
	for _, p := range procs {
		f.Processes = append(f.Processes, p.proc)
	}
	if len(procs) > 0 {
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
	// The one with the most sockets comes to its end first.
	if len(procs) > 0 && procs[0].proc.FileLimit > 0 {
		p, more, its := procs[0].proc, procs[0].more, "its"
		used := max(p.Files, procs[0].n+more)
		if len(procs) > 1 {
			its = fmt.Sprintf("pid %d's", p.PID)
		}
		f.Numbers["files"], f.Numbers["file_limit"] = float64(used), float64(p.FileLimit)
		switch {
		case float64(used) >= nearLimit*float64(p.FileLimit):
			f.Severity = Critical
			f.Text += fmt.Sprintf("; %s of %s %s descriptors are open: accept() fails with EMFILE at the end of them", count(used), its, count(p.FileLimit))
		case more > 0:
			f.Text += fmt.Sprintf("; at that rate %s %s descriptors are used up in %s", its, count(p.FileLimit), lasting(seconds(float64(p.FileLimit-used)/(float64(more)/d.span))))
		default:
			f.Text += fmt.Sprintf("; %s of %s %s descriptors are open", count(used), its, count(p.FileLimit))
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
	if first := l.firstPID(); first != 0 {
		pid = fmt.Sprint(first)
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
