package trial

import (
	"slices"
	"sort"
	"strings"
	"sync"

	"tcplab/results"
)

// recorder gathers the time series of one trial from agents and probes.
type recorder struct {
	mu     sync.Mutex
	t0     int64
	series map[string]*results.Series
}

func newRecorder() *recorder {
	return &recorder{series: map[string]*results.Series{}}
}

// start sets the instant that times count from.
func (r *recorder) start(t0 int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.t0 = t0
}

// zero is the instant that times count from.
func (r *recorder) zero() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.t0
}

// add appends a value seen at the instant at.
func (r *recorder) add(owner, name string, at int64, v float64) {
	key := owner + "." + name
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.series[key]
	if s == nil {
		info := describe(name)
		s = &results.Series{Name: key, Unit: info.unit, About: info.about}
		r.series[key] = s
	}
	s.T = append(s.T, float64(at-r.t0)/1e9)
	s.V = append(s.V, v)
}

// get is the series, empty when nothing was seen.
func (r *recorder) get(owner, name string) results.Series {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.series[owner+"."+name]; s != nil {
		return *s
	}
	return results.Series{}
}

// all is every series by name, each in order of time.
func (r *recorder) all() []results.Series {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []results.Series
	for _, s := range r.series {
		out = append(out, inOrder(*s))
	}
	slices.SortFunc(out, func(a, b results.Series) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

func inOrder(s results.Series) results.Series {
	if sort.Float64sAreSorted(s.T) {
		return s
	}
	ix := make([]int, len(s.T))
	for i := range ix {
		ix[i] = i
	}
	sort.SliceStable(ix, func(i, j int) bool { return s.T[ix[i]] < s.T[ix[j]] })
	o := results.Series{Name: s.Name, Unit: s.Unit, About: s.About}
	for _, i := range ix {
		o.T, o.V = append(o.T, s.T[i]), append(o.V, s.V[i])
	}
	return o
}

type seriesInfo struct{ unit, about string }

var seriesInfos = map[string]seriesInfo{
	"sent":                 {"1", "requests begun in the 100 ms from t"},
	"ok":                   {"1", "requests answered in the 100 ms from t"},
	"failed":               {"1", "requests failed in the 100 ms from t"},
	"inflight":             {"1", "requests under way"},
	"queue.depth":          {"1", "messages that wait to be sent"},
	"opened":               {"1", "a kept connection was opened"},
	"written":              {"B", "bytes that write() has accepted so far"},
	"acknowledged":         {"B", "bytes that the server's application has acknowledged so far"},
	"received":             {"B", "bytes of messages that the application has read so far"},
	"latency.p50":          {"s", "median latency of the 100 ms from t, from the intended start"},
	"latency.p99":          {"s", "99th percentile of the latency of the 100 ms from t"},
	"connect.call.p50":     {"s", "median time inside a non-blocking connect() in the 100 ms from t"},
	"connect.call.max":     {"s", "longest connect() call of the 100 ms from t"},
	"connect.busy":         {"1", "share of the 100 ms from t that was spent inside connect()"},
	"handshakes":           {"1", "active opens since the host was made, from the kernel's counter"},
	"retransmits":          {"1", "segments sent again since the host was made, from the kernel's counter"},
	"sockets.time_wait":    {"1", "TIME-WAIT sockets, from sockstat"},
	"sockets.established":  {"1", "ESTABLISHED sockets, from inet_diag"},
	"sockets.close_wait":   {"1", "CLOSE-WAIT sockets, from inet_diag"},
	"sockets.fin_wait1":    {"1", "FIN-WAIT-1 sockets, from inet_diag"},
	"sockets.syn_recv":     {"1", "SYN-RECV sockets, from inet_diag"},
	"accept.queue":         {"1", "connections that wait to be accepted, of the listener with most, from inet_diag"},
	"descriptors":          {"1", "most descriptors that the server's process has had open, from /proc/self/fd"},
	"accepted":             {"1", "connections accepted so far"},
	"open":                 {"1", "connections that the server has open"},
	"conntrack.entries":    {"1", "flows that the router tracks, from ctnetlink"},
	"conntrack.invalid":    {"1", "packets that conntrack called INVALID since the host was made"},
	"conntrack.drop":       {"1", "packets that conntrack dropped since the host was made"},
	"conntrack.early_drop": {"1", "flows thrown out of a full table since the host was made"},
	"tcp.cwnd":             {"1", "congestion window, segments, from tcp_info"},
	"tcp.ssthresh":         {"1", "slow start threshold, segments, from tcp_info; none before the first loss"},
	"tcp.rtt":              {"s", "smoothed round-trip time, from tcp_info"},
	"tcp.minrtt":           {"s", "smallest round-trip time of late, from tcp_info"},
	"tcp.pacing":           {"bit/s", "pacing rate, from tcp_info"},
	"tcp.delivery":         {"bit/s", "delivery rate, from tcp_info"},
	"tcp.app_limited":      {"1", "1 where the application, not the path, limited that delivery rate"},
	"tcp.acked":            {"B", "bytes that the peer's TCP has acknowledged so far, from tcp_info"},
	"tcp.resent":           {"1", "segments sent again so far, from tcp_info"},
	"tcp.segments":         {"1", "data segments sent so far, those sent again among them, from tcp_info"},
	"tcp.bbr.bandwidth":    {"bit/s", "bandwidth that BBR believes in, from its tcp_bbr_info"},
	"tcp.bbr.minrtt":       {"s", "round trip that BBR believes in, from its tcp_bbr_info"},
	"tcp.bbr.pacing_gain":  {"1", "what BBR paces at, in that bandwidth"},
	"tcp.bbr.cwnd_gain":    {"1", "BBR's window, in that bandwidth times that round trip"},
	"ports.used":           {"1", "share of the ephemeral range used towards the busiest destination, from inet_diag"},
	"ports.count":          {"1", "ephemeral ports used towards the busiest destination, from inet_diag"},
}

func describe(name string) seriesInfo {
	if i, ok := seriesInfos[name]; ok {
		return i
	}
	if len(name) > 7 && name[:7] == "errors." {
		return seriesInfo{"1", "requests failed with " + name[7:] + " in the 100 ms from t"}
	}
	if strings.HasPrefix(name, "latency.") {
		return seriesInfo{"s", "latency of the 100 ms from t, from the intended start, " + name[8:]}
	}
	return seriesInfo{"1", ""}
}
