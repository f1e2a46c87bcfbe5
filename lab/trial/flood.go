package trial

import (
	"fmt"
	"math"

	"tcplab/lab/program"
	"tcplab/lab/sheet"
)

// floodMetrics are those of a client of kind flood, which has no requests.
func (o *one) floodMetrics(name string, r *program.ClientResult) {
	o.put(name, "syns.sent", float64(r.Flood.Sent))
}

// validateFlood: a flood that is one. Nothing may have answered the SYN-ACKs to
// spoofed addresses, since an RST or an ICMP unreachable would free the
// half-open connection at once (tcp_v4_err, tcp_check_req), and the SYNs that
// the sheet asks for have to have been sent.
func (o *one) validateFlood(m *measured) {
	for _, c := range o.arm.Clients {
		r := m.clients[c.Name]
		if c.Kind != program.KindFlood || r == nil || r.Flood == nil {
			continue
		}
		asked := floodAsks(c, o.arm.Trial)
		if sent := float64(r.Flood.Sent); sent < minOffered*asked {
			m.reason(fmt.Errorf("flooder %s sent %.0f of %.0f SYNs (%d were due while it could not run, %d the kernel refused): the machine was too busy, or the rate is too high for it",
				c.Name, sent, asked, r.Flood.Skipped, r.Flood.Refused))
		}
		for _, h := range o.arm.Hosts {
			for _, counter := range answersToSpoofed(h.Name == c.On) {
				if n := m.counters[h.Name][counter]; n > 0 {
					m.reason(fmt.Errorf("%s of host %s is %d: something answered the SYN-ACKs to spoofed addresses, and an answer frees what the flood is to fill", counter, h.Name, n))
				}
			}
		}
	}
}

// answersToSpoofed are the counters that stay at 0 where spoofed addresses are
// silent: what the flooder's host said, and what any other was told.
func answersToSpoofed(flooder bool) []string {
	if flooder {
		return []string{"TcpOutRsts", "IcmpOutMsgs"}
	}
	return []string{"IcmpInDestUnreachs"}
}

// floodAsks is how many SYNs a flooder is to send: by its rate and its time, its
// bound, and what the trial leaves of it.
func floodAsks(c sheet.Client, t sheet.Trial) float64 {
	rate, packets, length := program.Flood(c)
	return math.Floor(min(rate*min(length, t.Length()).Seconds(), float64(packets)))
}
