package trial

import "tcplab/server"

// acceptMetrics are what a server of ours says of its descriptors and of
// accept(). A user's own program says nothing.
func (o *one) acceptMetrics(name string, r *server.Result, m *measured) {
	if r.Kind == "" {
		return
	}
	if r.Descriptors > 0 {
		o.put(name, "descriptors.max", float64(r.Descriptors))
	}
	failed := int64(0)
	for _, n := range r.AcceptErrors {
		failed += n
	}
	o.put(name, "accept.failed", float64(failed))
	if r.AcceptFailed > 0 {
		o.put(name, "accept.failed.time", clockSeconds(m.t0, r.AcceptFailed))
	}
}
