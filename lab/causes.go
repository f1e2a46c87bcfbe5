package lab

import (
	"fmt"
	"strconv"
	"strings"

	"tcplab/results"
)

// Healthy is the truth about a host that nothing is wrong with.
const Healthy = results.Nothing

// A Cause is one answer to "what is wrong with this host?".
type Cause struct {
	results.Cause
	Shows string // where ss or nstat shows it, in words
	Ask   string // the command that does
}

// Causes are the answers, in the order in which a reader is asked.
func Causes() []Cause {
	var out []Cause
	for _, c := range append(results.Causes(), results.Cause{Name: Healthy, About: "nothing is wrong with this host"}) {
		s := shown[c.Name]
		out = append(out, Cause{c, s[0], s[1]})
	}
	return out
}

// shown says where each cause shows: in words, and the command.
var shown = map[string][2]string{
	results.TimeWaitExhaustion: {"TIME-WAIT towards one destination comes near the number of ports in ip_local_port_range",
		"ss -Htan state time-wait | awk '{print $4}' | sort | uniq -c | sort -rn | head -3; sysctl net.ipv4.ip_local_port_range"},
	results.CloseWaitLeak: {"CLOSE-WAIT sockets of one process, more at each look, with Recv-Q 0: it has read the end and kept the descriptor",
		"ss -tanp state close-wait"},
	results.SynBacklogOverflow: {"SYN-RECV at the listener's backlog, TCPReqQFullDrop and ListenDrops growing while ListenOverflows stays",
		"ss -Htan state syn-recv | head; nstat -asz TcpExtTCPReqQFullDrop TcpExtListenDrops TcpExtListenOverflows"},
	results.SynCookiesActive: {"SyncookiesSent growing, with SYN-RECV at the listener's backlog",
		"ss -Htan state syn-recv | head; nstat -asz TcpExtSyncookiesSent TcpExtSyncookiesRecv"},
	results.AcceptQueueOverflow: {"a listener whose Recv-Q is above its Send-Q, and ListenOverflows growing",
		"ss -Htln; nstat -asz TcpExtListenOverflows"},
	results.PeerVanished: {"Send-Q that does not empty, a retransmission timer (timer:(on,…)) with a count that rises, and a lastrcv that only grows",
		"ss -tno; ss -tin state established"},
	results.ZeroWindow: {"Send-Q that does not empty, with a persist timer (timer:(persist,…)) and no retransmission timer",
		"ss -tno"},
	results.ConntrackFull: {"nf_conntrack_count at nf_conntrack_max, and the tracker's drop counter growing",
		"sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max; cat /proc/net/stat/nf_conntrack"},
	results.ConntrackInvalid: {"the tracker's invalid counter growing while its table has room",
		"cat /proc/net/stat/nf_conntrack"},
	results.KeepaliveOff: {"ESTABLISHED sockets without any timer that have received nothing for long (lastrcv)",
		"ss -tno state established; ss -tin state established"},
	results.RetransmissionStall: {"retransmission timers with a count on connections that still receive, or SYN-SENT that stays; RetransSegs and TCPTimeouts growing",
		"ss -tin; nstat -asz TcpRetransSegs TcpExtTCPTimeouts"},
	Healthy: {"no queue, no timer and no state that grows; some TIME-WAIT and some SYN-RECV are ordinary",
		"ss -s; ss -tano"},
}

// CauseNamed finds a cause.
func CauseNamed(name string) (Cause, bool) {
	for _, c := range Causes() {
		if c.Name == name {
			return c, true
		}
	}
	return Cause{}, false
}

// ParseCause reads an answer: a number in the list, a cause's name, or as much
// of its beginning as tells it from the others.
func ParseCause(s string) (Cause, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	all := Causes()
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > len(all) {
			return Cause{}, fmt.Errorf("%d is not in the list: write 1 to %d", n, len(all))
		}
		return all[n-1], nil
	}
	var fit []string
	var found Cause
	for _, c := range all {
		if c.Name == s {
			return c, nil
		}
		if s != "" && strings.HasPrefix(c.Name, s) {
			fit, found = append(fit, c.Name), c
		}
	}
	switch len(fit) {
	case 1:
		return found, nil
	case 0:
		return Cause{}, fmt.Errorf("%q is not in the list: write a number of it, or a name", s)
	}
	return Cause{}, fmt.Errorf("%q may be %s: write more of it", s, strings.Join(fit, " or "))
}
