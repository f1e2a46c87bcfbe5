package triage

import (
	"fmt"
	"slices"
	"time"

	"tcplab/results"
)

// idleLong is from when on a silence is long: ten minutes is the longest of
// the fixed idle limits that the large clouds' balancers and gateways have
// (4, 5.8 and 10 minutes), so a connection that is idle for longer outlives
// what stands in its way by luck only.
const idleLong = 10 * time.Minute

// idle notes connections that nobody would notice the end of.
func (d *diagnosis) idle() {
	if !d.b.Known.Timers || !d.b.Known.Info {
		return
	}
	var cs []chain
	for i := range d.b.Sockets {
		s := &d.b.Sockets[i]
		if s.State != Established || s.Timer != TimerNone || s.Info == nil || s.WQueue > 0 || s.Inode == 0 && d.b.Known.Owners {
			continue
		}
		silent := min(s.Info.LastSent, s.Info.Heard())
		// A peer on this machine cannot go away unseen.
		if silent < idleLong || s.Dst.Addr().IsLoopback() || s.Dst.Addr() == s.Src.Addr() {
			continue
		}
		cs = append(cs, chain{s: s, age: silent})
	}
	if len(cs) == 0 {
		return
	}
	oldest(cs)
	ports := map[uint16]int{}
	for _, c := range cs {
		ports[c.s.Dst.Port()]++
	}
	f := Finding{Cause: results.KeepaliveOff, Severity: Note, Processes: d.owners(cs), Numbers: map[string]float64{"count": float64(len(cs)), "idle": cs[0].age.Seconds()}}
	f.Text = fmt.Sprintf("%s towards %s idle for up to %s without keepalive: if the peer or a box in between has forgotten them, nobody finds out before the next write, which then hangs", some(len(cs), "connection"), towards(cs), lasting(cs[0].age))
	if slices.ContainsFunc(cs, func(c chain) bool { return d.listening[c.s.Src.Port()] != nil }) {
		f.Text += "; on the side that was connected to, a peer that has gone holds its socket for ever"
	}
	f.Evidence = []string{"ss -tnoi state established | grep -v timer:   # and lastsnd:, lastrcv:, lastack: in ms", "sysctl net.ipv4.tcp_keepalive_time net.ipv4.tcp_keepalive_intvl net.ipv4.tcp_keepalive_probes"}
	f.Fix = []string{
		"a heartbeat in the application, more often than the shortest idle limit on the path (often 350 s, or 4 minutes)",
		fmt.Sprintf("SO_KEEPALIVE on the socket with TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT of its own: the system's default of net.ipv4.tcp_keepalive_time (now %s s) is for hosts that wait two hours", d.setting("net.ipv4.tcp_keepalive_time")),
		"close connections that have not been used for minutes instead of keeping them (a pool's idle timeout)",
	}
	f.Check = []string{"each idle connection shows a timer: ss -tno state established (timer:(keepalive,…))"}
	d.add(f)
}
