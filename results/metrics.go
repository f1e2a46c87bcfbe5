package results

import "strings"

// OwnerKind is the kind of thing that has a metric: each metric belongs to
// one kind of owner, so a program may bear its host's name.
type OwnerKind string

const (
	OwnerClient OwnerKind = "client"
	OwnerServer OwnerKind = "server"
	OwnerHost   OwnerKind = "host"
	OwnerLink   OwnerKind = "link" // a direction: LINK>HOST; without it, both added up
	OwnerTrial  OwnerKind = "trial"
)

// MetricInfo describes a metric that any experiment may have.
type MetricInfo struct {
	Name  string // "latency.p50"
	Unit  string // s | 1/s | bit/s | B | 1
	Owner OwnerKind
	About string
	// NeedsEvents: only a client that writes agent events has it (a user's
	// own program started by exec may not).
	NeedsEvents bool
	// AtFault: the metric is taken at a fault, METRIC@FAULT.
	AtFault bool
	// RealClock: absent on the virtual clock, where CPU costs nothing.
	RealClock bool
}

var distributions = []struct{ name, about string }{
	{"latency", "latency of successful requests, from the intended start"},
	{"service", "latency of successful requests, from the actual send"},
	{"failure", "how long failed requests took to fail, from the intended start"},
	{"connect", "time to an established connection"},
	{"connect.call", "time inside a non-blocking connect(): the port search"},
	{"firstbyte", "time from the intended start to the first byte of the answer"},
	{"lag", "the generator's own lag: call entry − max(intended start, moment a slot became free)"},
}

// quantiles with the share of samples below; max is the largest.
var quantiles = []struct {
	name string
	q    float64
}{{"p50", 50}, {"p90", 90}, {"p99", 99}, {"p999", 99.9}, {"max", 100}}

var scalars = []MetricInfo{
	{Name: "requests.offered", Unit: "1", Owner: OwnerClient, About: "requests that the schedule asked for in the window", NeedsEvents: true},
	{Name: "requests.sent", Unit: "1", Owner: OwnerClient, About: "requests begun in the window", NeedsEvents: true},
	{Name: "requests.ok", Unit: "1", Owner: OwnerClient, About: "requests answered", NeedsEvents: true},
	{Name: "requests.failed", Unit: "1", Owner: OwnerClient, About: "requests that failed", NeedsEvents: true},
	{Name: "requests.rate", Unit: "1/s", Owner: OwnerClient, About: "requests completed per second", NeedsEvents: true},
	{Name: "opens", Unit: "1", Owner: OwnerClient, About: "connections that the client counted as opened, over the whole trial", NeedsEvents: true},
	{Name: "first_error.time", Unit: "s", Owner: OwnerClient, About: "from go to the first failed request", NeedsEvents: true},
	{Name: "search_knee.time", Unit: "s", Owner: OwnerClient, About: "from go to where connect.call rises fivefold or more for good", NeedsEvents: true, RealClock: true},
	{Name: "search_knee.height", Unit: "1", Owner: OwnerClient, About: "median connect.call after the knee over before it", NeedsEvents: true, RealClock: true},
	{Name: "error_period.time", Unit: "s", Owner: OwnerClient, About: "from the first error of one burst to the first of the next", NeedsEvents: true},
	{Name: "requests.period_rate", Unit: "1/s", Owner: OwnerClient, About: "requests completed per second over whole error periods", NeedsEvents: true},
	{Name: "detect.time", Unit: "s", Owner: OwnerClient, About: "from a fault to the first error that the application sees", NeedsEvents: true, AtFault: true},
	{Name: "recover.time", Unit: "s", Owner: OwnerClient, About: "from a fault to the first success after it", NeedsEvents: true, AtFault: true},
	{Name: "queue.depth.max", Unit: "1", Owner: OwnerClient, About: "most messages that waited to be sent, over the whole trial; of a relay (client kind mqtt)", NeedsEvents: true},
	{Name: "written", Unit: "B", Owner: OwnerClient, About: "bytes of messages that write() accepted, over the whole trial; of bulk", NeedsEvents: true},
	{Name: "acknowledged", Unit: "B", Owner: OwnerClient, About: "bytes of messages that the server's application said it has read, over the whole trial; of bulk with `acks`", NeedsEvents: true},
	{Name: "believed", Unit: "B", Owner: OwnerClient, About: "bytes of messages that write() accepted and no server's application read, over the whole trial; of bulk", NeedsEvents: true},
	{Name: "believed.time", Unit: "s", Owner: OwnerClient, About: "from a fault until write() first takes nothing more, or fails: how long messages are believed to be delivered; of bulk at a rate", NeedsEvents: true, AtFault: true},
	{Name: "syns.sent", Unit: "1", Owner: OwnerClient, About: "SYNs that a flooder sent", NeedsEvents: true},
	{Name: "incarnation.bytes", Unit: "B", Owner: OwnerClient, About: "bytes that the first of two connections with the same ports moved each way; of incarnations", NeedsEvents: true},
	{Name: "incarnation.rate", Unit: "bit/s", Owner: OwnerClient, About: "how fast it moved them, each way", NeedsEvents: true},
	{Name: "incarnation.connect", Unit: "s", Owner: OwnerClient, About: "how long connect() of the second one took, until it was established or failed", NeedsEvents: true},
	{Name: "incarnation.behind", Unit: "B", Owner: OwnerClient, About: "how far the second one begins behind the first one's last segment, read from the kernel; below 0 it begins beyond it", NeedsEvents: true},
	{Name: "incarnation.written", Unit: "B", Owner: OwnerClient, About: "bytes that the second one wrote", NeedsEvents: true},
	{Name: "incarnation.read", Unit: "B", Owner: OwnerServer, About: "bytes that the server's application read in it"},
	{Name: "stale.bytes", Unit: "B", Owner: OwnerServer, About: "bytes of an earlier connection that the application read in a later one, over the whole trial"},
	{Name: "descriptors.max", Unit: "1", Owner: OwnerServer, About: "most descriptors that the server's process had open at once"},
	{Name: "accept.failed", Unit: "1", Owner: OwnerServer, About: "calls of accept() that failed, over the whole trial"},
	{Name: "accept.failed.time", Unit: "s", Owner: OwnerServer, About: "from go to the first call of accept() that failed"},
	{Name: "received", Unit: "B", Owner: OwnerServer, About: "bytes of messages that the application read, over the whole trial; of a sink"},
	{Name: "reconnects.count", Unit: "1", Owner: OwnerClient, About: "kept connections that were opened after the first one", NeedsEvents: true},
	{Name: "reconnects.interval", Unit: "s", Owner: OwnerClient, About: "mean time between two reconnects", NeedsEvents: true},
	{Name: "reconnects.drift", Unit: "s", Owner: OwnerClient, About: "how much later each day a reconnect comes than on the clock of its period: the slope of a line through them", NeedsEvents: true},
	{Name: "reconnects.drift.low", Unit: "s", Owner: OwnerClient, About: "low end of that slope's 95% interval", NeedsEvents: true},
	{Name: "reconnects.drift.high", Unit: "s", Owner: OwnerClient, About: "high end of that slope's 95% interval", NeedsEvents: true},
	{Name: "reconnects.timer", Unit: "1", Owner: OwnerClient, About: "1 where the reconnects drift, as by a timer that starts with the connection; 0 where they keep their places on the clock, as by a schedule", NeedsEvents: true},
	{Name: "cpu.request", Unit: "s", Owner: OwnerClient, About: "client CPU seconds per completed request", NeedsEvents: true, RealClock: true},

	{Name: "handshakes.count", Unit: "1", Owner: OwnerHost, About: "active opens over the whole trial, from the kernel's counter"},
	{Name: "handshakes.rate", Unit: "1/s", Owner: OwnerHost, About: "active opens per second in the window, from the kernel's counter"},
	{Name: "sockets.time_wait.max", Unit: "1", Owner: OwnerHost, About: "most TIME-WAIT sockets at once, from sockstat"},
	{Name: "sockets.close_wait.max", Unit: "1", Owner: OwnerHost, About: "most CLOSE-WAIT sockets at once, from inet_diag"},
	{Name: "sockets.established.max", Unit: "1", Owner: OwnerHost, About: "most ESTABLISHED sockets at once, from inet_diag"},
	{Name: "sockets.fin_wait1.max", Unit: "1", Owner: OwnerHost, About: "most FIN-WAIT-1 sockets at once, from inet_diag: closed by their program, with something that the peer has not acknowledged"},
	{Name: "sockets.fin_wait1.time", Unit: "s", Owner: OwnerHost, About: "from the first FIN-WAIT-1 socket that was seen to the last, from inet_diag"},
	{Name: "sockets.syn_recv.max", Unit: "1", Owner: OwnerHost, About: "most SYN-RECV sockets at once, from inet_diag"},
	{Name: "accept.queue.max", Unit: "1", Owner: OwnerHost, About: "most connections that waited to be accepted, over the host's listeners, from inet_diag"},
	{Name: "ports.used.max", Unit: "share", Owner: OwnerHost, About: "largest share of the ephemeral range used towards one destination, from inet_diag"},
	{Name: "time_wait.growth", Unit: "1", Owner: OwnerHost, About: "TIME-WAIT sockets at the end of the window less those at its start, from sockstat"},
	{Name: "conntrack.entries.max", Unit: "1", Owner: OwnerHost, About: "most flows that a router tracked at once"},
	{Name: "conntrack.invalid", Unit: "1", Owner: OwnerHost, About: "packets that a router's conntrack called INVALID"},
	{Name: "conntrack.invalid.time", Unit: "s", Owner: OwnerHost, About: "from go until that counter was first seen above 0: when an alert on it rings"},
	{Name: "conntrack.drop", Unit: "1", Owner: OwnerHost, About: "packets that a router's conntrack dropped, most often because its table was full"},
	{Name: "conntrack.early_drop", Unit: "1", Owner: OwnerHost, About: "flows that were thrown out of a full table for a new one"},
	{Name: "conntrack.filled", Unit: "1", Owner: OwnerHost, About: "entries that a fault put into the table"},
	{Name: "conntrack.left", Unit: "s", Owner: OwnerHost, About: "time that the entry of the client's connection had left when a fault `look` looked; absent where there was none", AtFault: true},
	{Name: "conntrack.log_lines", Unit: "1", Owner: OwnerHost, About: "lines `table full, dropping packet` in the kernel's log; readable in a guest only"},
	{Name: "middlebox.forwarded", Unit: "1", Owner: OwnerHost, About: "packets that a middlebox forwarded"},
	{Name: "middlebox.unknown", Unit: "1", Owner: OwnerHost, About: "packets of no flow that a middlebox knew"},
	{Name: "middlebox.resets", Unit: "1", Owner: OwnerHost, About: "RSTs that a middlebox sent itself"},
	{Name: "middlebox.refused", Unit: "1", Owner: OwnerHost, About: "flows for which a middlebox had no port, target or room"},
	{Name: "middlebox.flows", Unit: "1", Owner: OwnerHost, About: "flows that a middlebox saw begin"},
	{Name: "middlebox.flows.max", Unit: "1", Owner: OwnerHost, About: "most flows at once that a middlebox knew"},
	{Name: "middlebox.expired", Unit: "1", Owner: OwnerHost, About: "flows that a middlebox forgot because they were idle or over"},
	{Name: "middlebox.forgotten", Unit: "1", Owner: OwnerHost, About: "flows that a fault made a middlebox forget"},
	{Name: "goodput", Unit: "bit/s", Owner: OwnerClient, About: "application bits per second", NeedsEvents: true},
	{Name: "tcp.retransmits", Unit: "1", Owner: OwnerHost, About: "segments sent again, from the kernel's counter"},
	{Name: "tcp.timeouts", Unit: "1", Owner: OwnerHost, About: "retransmission timeouts, from the kernel's counter"},
	{Name: "rto.steps", Unit: "1", Owner: OwnerHost, About: "retransmissions by timeout in the longest chain without an answer, tail loss probes apart, from the capture"},
	{Name: "rto.first", Unit: "s", Owner: OwnerHost, About: "gap before the first retransmission by timeout of that chain"},
	{Name: "rto.last.gap", Unit: "s", Owner: OwnerHost, About: "gap before the last retransmission of that chain"},
	{Name: "rto.time", Unit: "s", Owner: OwnerHost, About: "from the first transmission to the last retransmission of that chain"},
	{Name: "rto.beyond", Unit: "1", Owner: OwnerHost, About: "retransmissions of that chain that came outside of the predicted backoff plus one granule of the timer wheel; 0 is as predicted"},
	{Name: "keepalive.steps", Unit: "1", Owner: OwnerHost, About: "keepalive probes in the longest chain without an answer, from the capture"},
	{Name: "keepalive.first", Unit: "s", Owner: OwnerHost, About: "silence before the first probe of that chain"},
	{Name: "keepalive.beyond", Unit: "1", Owner: OwnerHost, About: "probes of that chain that came outside of idle time or interval plus one granule of the timer wheel; 0 is as predicted"},
	{Name: "tcp.cwnd.p50", Unit: "1", Owner: OwnerClient, About: "median congestion window of a client's connections over the window's samples, segments, from tcp_info"},
	{Name: "tcp.ssthresh.p50", Unit: "1", Owner: OwnerClient, About: "median slow start threshold, segments, from tcp_info; samples before the first loss have none"},
	{Name: "tcp.rtt.p50", Unit: "s", Owner: OwnerClient, About: "median smoothed round-trip time, from tcp_info"},
	{Name: "tcp.minrtt.min", Unit: "s", Owner: OwnerClient, About: "smallest round-trip time that TCP took, from tcp_info"},
	{Name: "tcp.pacing.p50", Unit: "bit/s", Owner: OwnerClient, About: "median pacing rate, from tcp_info"},
	{Name: "tcp.delivery.p50", Unit: "bit/s", Owner: OwnerClient, About: "median delivery rate, from tcp_info; samples that the application limited are left out"},
	{Name: "tcp.bbr.bandwidth.p50", Unit: "bit/s", Owner: OwnerClient, About: "median bandwidth that BBR believes in, from its tcp_bbr_info"},
	{Name: "tcp.bbr.minrtt.min", Unit: "s", Owner: OwnerClient, About: "smallest round trip that BBR believed in, from its tcp_bbr_info"},
	{Name: "tcp.resent", Unit: "1", Owner: OwnerClient, About: "segments that a client's connections sent again, over the whole trial, from tcp_info"},
	{Name: "tcp.resent.share", Unit: "share", Owner: OwnerClient, About: "share of the data segments that a client's connections sent which were sent again, from tcp_info"},
	{Name: "tcp.wscale", Unit: "1", Owner: OwnerClient, About: "1 where a client's connections agreed on window scaling, 0 where not, the mean where they differ, from tcp_info"},
	{Name: "tcp.sack", Unit: "1", Owner: OwnerClient, About: "1 where they agreed on selective acknowledgements, from tcp_info"},
	{Name: "tcp.timestamps", Unit: "1", Owner: OwnerClient, About: "1 where they agreed on timestamps, from tcp_info"},

	{Name: "cpu.client", Unit: "1", Owner: OwnerClient, About: "CPU seconds per wall second of a client process", RealClock: true},
	{Name: "cpu.server", Unit: "1", Owner: OwnerServer, About: "CPU seconds per wall second of a server process", RealClock: true},
	{Name: "cpu.wire", Unit: "1", Owner: OwnerLink, About: "CPU seconds per wall second of the wire's process", RealClock: true},

	{Name: "in", Unit: "1", Owner: OwnerLink, About: "frames that came"},
	{Name: "out", Unit: "1", Owner: OwnerLink, About: "frames delivered"},
	{Name: "lost", Unit: "1", Owner: OwnerLink, About: "frames lost by the wire's loss"},
	{Name: "queue_dropped", Unit: "1", Owner: OwnerLink, About: "frames dropped at a full queue"},
	{Name: "mtu_dropped", Unit: "1", Owner: OwnerLink, About: "frames larger than the wire's MTU"},
	{Name: "blackholed", Unit: "1", Owner: OwnerLink, About: "frames swallowed by a fault"},
	{Name: "reordered", Unit: "1", Owner: OwnerLink, About: "frames delivered out of order on purpose"},
	{Name: "duplicated", Unit: "1", Owner: OwnerLink, About: "frames delivered twice on purpose"},
	{Name: "corrupted", Unit: "1", Owner: OwnerLink, About: "frames with a bit flipped"},
	{Name: "held", Unit: "1", Owner: OwnerLink, About: "frames that a fault held"},
	{Name: "released", Unit: "1", Owner: OwnerLink, About: "held frames that went on"},
	{Name: "first_syns", Unit: "1", Owner: OwnerLink, About: "SYNs that open a flow"},
	{Name: "retransmitted_syns", Unit: "1", Owner: OwnerLink, About: "SYNs sent again for the same flow"},
}

// Metric looks a metric's name up. It knows errors.CLASS, first.CLASS and
// snmp.COUNTER for any CLASS and COUNTER.
func LookupMetric(name string) (MetricInfo, bool) {
	for _, m := range scalars {
		if m.Name == name {
			return m, true
		}
	}
	if class, ok := strings.CutPrefix(name, "errors."); ok && class != "" {
		return MetricInfo{Name: name, Unit: "1", Owner: OwnerClient, About: "failed requests of class " + class, NeedsEvents: true}, true
	}
	if class, ok := strings.CutPrefix(name, "first."); ok && class != "" {
		return MetricInfo{Name: name, Unit: "s", Owner: OwnerClient, About: "from go to the first failed request of class " + class, NeedsEvents: true}, true
	}
	if c, ok := strings.CutPrefix(name, "snmp."); ok && c != "" {
		return MetricInfo{Name: name, Unit: "1", Owner: OwnerHost, About: "growth of the kernel's counter " + c}, true
	}
	for _, d := range distributions {
		rest, ok := strings.CutPrefix(name, d.name+".")
		if !ok {
			continue
		}
		for _, q := range quantiles {
			if q.name == rest {
				return MetricInfo{Name: name, Unit: "s", Owner: OwnerClient, About: d.about + ", " + q.name, NeedsEvents: true}, true
			}
		}
	}
	return MetricInfo{}, false
}

// Metrics lists every metric with a fixed name, for documents and advice.
func Metrics() []MetricInfo {
	var all []MetricInfo
	for _, d := range distributions {
		for _, q := range quantiles {
			m, _ := LookupMetric(d.name + "." + q.name)
			all = append(all, m)
		}
	}
	return append(all, scalars...)
}
