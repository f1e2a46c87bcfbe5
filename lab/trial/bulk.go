package trial

import (
	"fmt"

	"tcplab/clients"
	"tcplab/lab/program"
	"tcplab/server"
)

// bulkMetrics are what flows have instead of requests. Their goodput towards
// the server is what its TCP acknowledged: what write() took says nothing of
// the peer.
func (o *one) bulkMetrics(name string, r *program.ClientResult, window float64) {
	o.put(name, "written", float64(r.BytesSent))
	o.put(name, "acknowledged", float64(r.Acknowledged))
	if r.Delivered > 0 {
		o.put(name, "goodput", float64(r.Delivered)*8/window)
	}
}

// serverMetrics are what sinks have read.
func (o *one) serverMetrics(m *measured) {
	for _, v := range o.arm.Servers {
		r := m.servers[v.Name]
		if r == nil {
			continue
		}
		if r.Kind == server.Discard {
			o.put(v.Name, "received", float64(r.Received))
			if r.Incarnations > 0 {
				o.put(v.Name, "incarnation.read", float64(r.LaterRead))
				o.put(v.Name, "stale.bytes", float64(r.Stale))
				if r.Misplaced > 0 {
					m.reason(fmt.Errorf("server %s read %d bytes that nobody had written to where they came out", v.Name, r.Misplaced))
				}
			}
		}
		o.acceptMetrics(v.Name, &r.Result, m)
	}
	// Who of several clients wrote what a sink read, it does not know.
	read, senders := int64(0), 0
	for _, v := range o.arm.Servers {
		if r := m.servers[v.Name]; r != nil {
			read += r.Received
		}
	}
	for _, c := range o.arm.Clients {
		if c.Kind == clients.Bulk {
			senders++
		}
	}
	for _, c := range o.arm.Clients {
		if r := m.clients[c.Name]; senders == 1 && c.Kind == clients.Bulk && r != nil {
			o.put(c.Name, "believed", float64(r.BytesSent-read))
		}
	}
}

// believed is how long after the instant at a client's write() took nothing
// more, or told an error.
func believed(events []eventLine, client string, at float64) (float64, bool) {
	for _, e := range events {
		if e.Agent == client && e.T >= at && (e.Event == "blocked" || e.Event == "failing") {
			return e.T - at, true
		}
	}
	return 0, false
}
