package triage

import (
	"fmt"

	"tcplab/results"
)

const (
	// tableNear is the share of nf_conntrack_max from which on the table
	// counts as nearly full: a burst of a few seconds fills the rest.
	tableNear = 0.9
	// tableFull is the share from which on it is full: entries come and go
	// while they are counted.
	tableFull = 0.999
	// invalidShare is the share of packets from which on INVALID ones are a
	// fault. A few are normal: late RSTs, port scans.
	invalidShare = 0.02
	// fewestInvalid of them in a second are worth a finding: on a quiet host
	// one late RST is a large share.
	fewestInvalid = 2
)

// conntrack judges the connection tracker, of a router or of a host's own
// firewall.
func (d *diagnosis) conntrack() {
	c := d.b.Conntrack
	if c == nil {
		return
	}
	var drop, early, invalid int64
	if d.two && d.a.Conntrack != nil {
		drop, early = max(c.Drop-d.a.Conntrack.Drop, 0), max(c.EarlyDrop-d.a.Conntrack.EarlyDrop, 0)
		invalid = max(c.Invalid-d.a.Conntrack.Invalid, 0)
	}
	share := 0.0
	if c.Max > 0 {
		share = float64(c.Entries) / float64(c.Max)
	}
	if drop > 0 || share >= tableNear {
		d.tableFull(c, share, drop, early)
	}
	if invalid >= fewestInvalid {
		d.invalid(c, invalid)
	}
}

func (d *diagnosis) tableFull(c *Conntrack, share float64, drop, early int64) {
	f := Finding{Cause: results.ConntrackFull, Severity: Warning, Numbers: map[string]float64{
		"entries": float64(c.Entries), "ceiling": float64(c.Max)}}
	f.Text = fmt.Sprintf("the connection tracker has %s of the %s entries that it may have", count(c.Entries), count(c.Max))
	if d.two {
		f.Numbers["drop"], f.Numbers["early_drop"] = d.perSecond(drop), d.perSecond(early)
	}
	switch {
	case drop > 0:
		f.Severity = Critical
		f.Text += fmt.Sprintf("; new flows are dropped, %s, and nobody is told", rate(d.perSecond(drop)))
	case early > 0:
		f.Text += fmt.Sprintf("; new flows still get in by throwing out others that had no answer yet (early_drop, %s)", rate(d.perSecond(early)))
	case share >= tableFull:
		f.Text += "; the next new flow is dropped, unless one without an answer can be thrown out"
	default:
		if grown := c.Entries; d.two && d.a.Conntrack != nil {
			if grown -= d.a.Conntrack.Entries; grown > 0 {
				left := float64(c.Max-c.Entries) / d.perSecond(grown)
				f.Numbers["seconds_left"] = left
				f.Text += fmt.Sprintf("; growing by %s, it is full in %s", rate(d.perSecond(grown)), lasting(seconds(left)))
			}
		}
	}
	f.Evidence = []string{
		"sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
		"conntrack -S   # or /proc/net/stat/nf_conntrack (hexadecimal): drop, early_drop",
		"dmesg | grep 'nf_conntrack: table full'",
	}
	f.Fix = []string{
		"see what fills it: conntrack -L | awk '{print $4}' | sort | uniq -c; and end it at its source, or keep connections instead of opening one a request",
		"sysctl -w net.netfilter.nf_conntrack_max=N (some 300 B each; and nf_conntrack_buckets with it): the whole machine's, from its first namespace",
		"shorter timeouts for what is dead: net.netfilter.nf_conntrack_tcp_timeout_established (five days by default), _time_wait",
		"do not track what needs no state: notrack rules for a load balancer's or a DNS server's own traffic",
	}
	f.Check = []string{
		"the drop counter stands still and the count falls: conntrack -S; sysctl net.netfilter.nf_conntrack_count",
		"a new connection through this host succeeds at once",
	}
	d.add(f)
}

func (d *diagnosis) invalid(c *Conntrack, invalid int64) {
	packets, known := d.grown("IpInReceives")
	if known && float64(invalid) < invalidShare*float64(packets) {
		return
	}
	f := Finding{Cause: results.ConntrackInvalid, Severity: Warning, Numbers: map[string]float64{"invalid": d.perSecond(invalid)}}
	f.Text = fmt.Sprintf("the connection tracker calls packets INVALID, %s", rate(d.perSecond(invalid)))
	if known && packets > 0 {
		f.Numbers["packets"] = d.perSecond(packets)
		f.Text += fmt.Sprintf(" of %s that came in", rate(d.perSecond(packets)))
	}
	f.Text += ": they do not fit what it knows of their connections; a NAT does not translate them, and a firewall that drops INVALID cuts these connections off in silence"
	f.Evidence = []string{
		"conntrack -S; sleep 1; conntrack -S   # invalid, or /proc/net/stat/nf_conntrack (hexadecimal)",
		"sysctl -w net.netfilter.nf_conntrack_log_invalid=6   # writes which packets into the kernel's log, for a while",
		"conntrack -L -p tcp   # an entry whose time only falls while packets pass is not refreshed any more",
	}
	f.Fix = []string{
		"find out what the tracker has missed: a failover, traffic that takes another path in one direction, a restart with connections under way",
		"make both directions pass this host again, or synchronise trackers (conntrackd) where hosts stand in for each other",
		"sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1: packets outside of the window are then let be (RSTs apart)",
		"do not drop INVALID without logging it; answer it with a RST, so that the ends hear of it",
	}
	f.Check = []string{
		"the invalid counter stands still: conntrack -S",
		"connections through this host go on: no retransmissions at their ends (nstat TcpRetransSegs there)",
	}
	d.add(f)
}
