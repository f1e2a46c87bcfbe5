package trial

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"tcplab/clients"
	"tcplab/lab/clock"
	"tcplab/lab/expr"
	"tcplab/lab/program"
	"tcplab/lab/sheet"
	"tcplab/netns/probe"
	"tcplab/results"
)

// watch is what TCP says of one client's connections (tcp_info), read from
// outside: inet_diag in the client's namespace, so that a user's own program
// is watched as well as ours. A client's connections are those to where it was
// sent; two clients of a host that were sent to the same place cannot be told
// apart, and then neither is watched.
type watch struct {
	client, host string
	to           map[netip.AddrPort]bool
	many         bool   // connections come and go
	asked        bool   // something in the sheet uses what is found
	refused      string // why it is not watched

	mu     sync.Mutex
	live   []ends
	last   map[uint64]ended // by cookie: of every connection that was seen
	window map[string][]float64
	looks  int        // in the window
	edges  [2]limited // at the first and the last of them
	err    error
}

type ends struct{ src, dst netip.AddrPort }

// ended is the last that was seen of a connection.
type ended struct {
	resent, segments uint32
	options          uint8
}

// limited is what held the connections of a client back so far.
type limited struct {
	at     int64
	idle   float64 // s with nothing to send
	peer   float64 // s in which the peer's window was the bound
	window float64 // B: the peer's window
}

// limits reads the kernel's account (tcp_chrono_start, net/ipv4/tcp.c).
func limits(at int64, socks []probe.Socket) limited {
	l := limited{at: at}
	for _, s := range socks {
		l.idle -= float64(s.Info.Busy_time) / 1e6
		l.peer += float64(s.Info.Rwnd_limited) / 1e6
		l.window += float64(s.Info.Snd_wnd)
	}
	l.idle += float64(at) / 1e9 * float64(len(socks))
	return l
}

// refind is after how many samples the client's namespace is searched for
// connections that were opened beside the known ones.
const refind = 10

// flowPace is when tcp_info is read again, after elapsed ns of a trial: each
// 100 ms, and on the virtual clock beyond the first 200 s ever more rarely, as
// everything that is read there (see pace).
func flowPace(elapsed int64, virtual bool) int64 {
	step := int64(sampleEvery)
	if virtual && elapsed >= dense {
		step = max(step, elapsed/100/sampleEvery*sampleEvery)
	}
	return (elapsed/step + 1) * step
}

// flows samples what TCP says of the clients' connections while the trial runs.
func (o *one) flows(ctx context.Context, m *measured) {
	o.watches = o.watched()
	var open []*watch
	var bg sync.WaitGroup
	defer bg.Wait()
	for _, host := range o.arm.Hosts {
		var here []*watch
		for _, w := range o.watches {
			if w.host == host.Name && w.refused == "" {
				here = append(here, w)
			}
		}
		if here == nil {
			continue
		}
		open = append(open, here...)
		var ds *probe.Destroys
		err := o.st.hosts[host.Name].Do(func() (err error) {
			ds, err = probe.OpenDestroys()
			return err
		})
		if err != nil {
			here[0].fail(err)
			continue
		}
		stop := context.AfterFunc(ctx, func() { ds.Close() })
		bg.Go(func() {
			defer stop()
			defer ds.Close()
			funeral(ds, here)
		})
	}
	if open == nil {
		return
	}
	for at, n := m.t0, 0; at <= m.to; n++ {
		if clock.SleepUntil(ctx, at) != nil {
			return
		}
		for _, w := range open {
			w.sample(o, n%refind == 0, m.span)
		}
		at = m.t0 + flowPace(clock.Now()-m.t0, o.w.virtual)
	}
}

// funeral takes the last words of connections that end between two samples, or
// live for less than one.
func funeral(ds *probe.Destroys, ws []*watch) {
	for {
		s, err := ds.Next(time.Time{})
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			for _, w := range ws {
				w.fail(err)
			}
			if !errors.Is(err, probe.ErrOverflow) {
				return
			}
			continue
		}
		for _, w := range ws {
			w.mu.Lock()
			// After an abortive close there is no remote port any more.
			if _, known := w.last[s.Cookie]; known || w.to[s.Dst] {
				w.note(&s)
			}
			w.mu.Unlock()
		}
	}
}

func (w *watch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = fmt.Errorf("tcp_info of client %s: %w", w.client, err)
	}
}

// note keeps the totals of a connection.
func (w *watch) note(s *probe.Socket) {
	if s.Info == nil || s.Info.Bytes_acked == 0 {
		return // its SYN was never answered (tcp_snd_una_update counts the SYN too): nothing is agreed on
	}
	w.last[s.Cookie] = ended{s.Info.Total_retrans, s.Info.Data_segs_out, s.Info.Options}
}

// sample reads the client's connections once.
func (w *watch) sample(o *one, search bool, win span) {
	at := clock.Now()
	socks, err := w.read(o.smp.by[w.host], search)
	if err != nil {
		w.fail(err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range socks {
		w.note(&socks[i])
	}
	values := said(socks)
	resent, segments := w.totals()
	if len(w.last) > 0 {
		values = append(values, named{"tcp.resent", float64(resent)}, named{"tcp.segments", float64(segments)})
	}
	limited := slices.ContainsFunc(values, func(v named) bool { return v.name == "tcp.app_limited" && v.v > 0 })
	if at >= win.from && at <= win.to && len(socks) > 0 {
		w.edges[1] = limits(at, socks)
		if w.looks == 0 {
			w.edges[0] = w.edges[1]
		}
		w.looks++
		w.window["window"] = append(w.window["window"], w.edges[1].window)
	}
	for _, v := range values {
		o.rec.add(w.client, v.name, at, v.v)
		if at >= win.from && at <= win.to && !(v.name == "tcp.delivery" && limited) {
			w.window[v.name] = append(w.window[v.name], v.v)
		}
	}
}

// read finds the client's connections: each known one by its addresses, and all
// by a walk through the namespace's sockets where one is missing or new ones
// may be there.
func (w *watch) read(p *probe.Probe, search bool) ([]probe.Socket, error) {
	var out []probe.Socket
	if !w.many && !search && len(w.live) > 0 {
		for _, e := range w.live {
			s, err := p.Exact(e.src, e.dst)
			if errors.Is(err, probe.ErrNoSocket) {
				out = nil
				break
			}
			if err != nil {
				return nil, err
			}
			if s.Info != nil && s.State == probe.Established {
				out = append(out, s)
			}
		}
		if out != nil {
			return out, nil
		}
	}
	all, err := p.Dump(probe.DumpOptions{States: probe.Established.Mask(), Info: true})
	if err != nil {
		return nil, err
	}
	w.live = w.live[:0]
	for _, s := range all {
		if w.to[s.Dst] && s.Info != nil {
			out = append(out, s)
			w.live = append(w.live, ends{s.Src, s.Dst})
		}
	}
	return out, nil
}

// totals are sums over all connections, living and dead.
func (w *watch) totals() (resent, segments uint64) {
	for _, e := range w.last {
		resent, segments = resent+uint64(e.resent), segments+uint64(e.segments)
	}
	return resent, segments
}

type named struct {
	name string
	v    float64
}

// said is what the connections of a client say at one time: windows and round
// trips are the mean over them, rates their sum.
func said(socks []probe.Socket) []named {
	if len(socks) == 0 {
		return nil
	}
	var cwnd, rtt, pacing, delivery, acked, limited float64
	var thresholds, bandwidth, gain, window []float64
	least, model := 0.0, 0.0
	for _, s := range socks {
		i := s.Info
		cwnd += float64(i.Snd_cwnd)
		rtt += float64(i.Rtt) / 1e6
		if i.Pacing_rate != ^uint64(0) { // not paced
			pacing += float64(i.Pacing_rate) * 8
		}
		delivery += float64(i.Delivery_rate) * 8
		acked += float64(i.Bytes_acked)
		if i.DeliveryRateAppLimited {
			limited = 1
		}
		if v, ok := i.Ssthresh(); ok {
			thresholds = append(thresholds, float64(v))
		}
		if i.Min_rtt != ^uint32(0) { // none was taken
			least = lower(least, float64(i.Min_rtt)/1e6)
		}
		if b := s.BBR; b != nil {
			bandwidth = append(bandwidth, float64(b.Bandwidth)*8)
			gain = append(gain, b.PacingGain)
			window = append(window, b.CwndGain)
			if b.MinRTT != ^uint32(0) {
				model = lower(model, float64(b.MinRTT)/1e6)
			}
		}
	}
	n := float64(len(socks))
	out := []named{{"tcp.cwnd", cwnd / n}, {"tcp.rtt", rtt / n}, {"tcp.pacing", pacing}, {"tcp.delivery", delivery}, {"tcp.app_limited", limited}, {"tcp.acked", acked}}
	add := func(name string, v float64, have bool) {
		if have {
			out = append(out, named{name, v})
		}
	}
	add("tcp.minrtt", least, least > 0)
	add("tcp.ssthresh", mean(thresholds), len(thresholds) > 0)
	add("tcp.bbr.bandwidth", mean(bandwidth)*float64(len(bandwidth)), len(bandwidth) > 0)
	add("tcp.bbr.minrtt", model, model > 0)
	add("tcp.bbr.pacing_gain", mean(gain), len(gain) > 0)
	add("tcp.bbr.cwnd_gain", mean(window), len(window) > 0)
	return out
}

func lower(have, v float64) float64 {
	if have == 0 || v < have {
		return v
	}
	return have
}

func mean(vs []float64) float64 {
	sum := 0.0
	for _, v := range vs {
		sum += v
	}
	return sum / float64(max(len(vs), 1))
}

// watched are the clients whose connections are looked at: those that send
// without end, since what they do is what their TCP does, and those of which
// the sheet uses what TCP says. All others cost nothing.
func (o *one) watched() []*watch {
	asked := usesTCPInfo(o.exp)
	var ws []*watch
	for i := range o.arm.Clients {
		c := &o.arm.Clients[i]
		to := o.sentTo(c)
		if !asked[c.Name] && !endless(c) || len(to) == 0 {
			continue
		}
		w := &watch{client: c.Name, host: c.On, to: to, many: c.Kind != clients.Bulk && c.Reuse != "pool", asked: asked[c.Name],
			last: map[uint64]ended{}, window: map[string][]float64{}}
		for j := range o.arm.Clients {
			other := &o.arm.Clients[j]
			if j == i || other.On != c.On {
				continue
			}
			for a := range o.sentTo(other) {
				if to[a] {
					w.refused = fmt.Sprintf("client %s: its connections cannot be told from those of %s, which is on the same host and connects to the same place: what TCP says of them is not read; give each a server of its own", c.Name, other.Name)
				}
			}
		}
		ws = append(ws, w)
	}
	return ws
}

// sentTo is where a client of ours connects to.
func (o *one) sentTo(c *sheet.Client) map[netip.AddrPort]bool {
	to := map[netip.AddrPort]bool{}
	p := o.st.process(program.RoleClient, c.Name)
	if p == nil {
		return to
	}
	targets := []string(nil)
	if spec, ok := p.Job.Spec.(program.ClientSpec); ok {
		targets = spec.To
	} else {
		listening := map[string][]string{}
		for _, s := range o.st.role(program.RoleServer) {
			listening[s.Job.Name] = s.Ready.Addresses
		}
		targets, _ = o.st.targets(*c, listening)
	}
	for _, s := range targets {
		if a, err := netip.ParseAddrPort(s); err == nil {
			to[a] = true
		}
	}
	return to
}

// fromTCPInfo tells whether a metric is what this file measures.
func fromTCPInfo(info results.MetricInfo) bool {
	return info.Owner == results.OwnerClient && strings.HasPrefix(info.Name, "tcp.")
}

// usesTCPInfo are the clients of which a claim, a prediction or the write-up
// uses what TCP says.
func usesTCPInfo(e *sheet.Experiment) map[string]bool {
	owners := map[string]bool{}
	note := func(x *expr.Expr) {
		if x == nil {
			return
		}
		for _, p := range x.Paths() {
			if m, err := e.Metric(p); err == nil && m.Number == nil && fromTCPInfo(m.Info) {
				owners[m.Owner] = true
			}
		}
	}
	for _, x := range e.Expect {
		if x.NotAsked == "" {
			note(x.That)
			note(x.Unless)
		}
	}
	for _, x := range e.Predict {
		if of, err := expr.Parse(x.Of); err == nil && x.NotAsked == "" {
			note(of)
			note(x.Unless)
		}
	}
	sheet.FillWriteup(e.Writeup, func(src string) (string, bool) {
		if x, err := expr.Parse(src); err == nil {
			note(x)
		}
		return "", false
	})
	return owners
}

// flowMetrics are what the samples come to.
func (o *one) flowMetrics(m *measured) {
	for _, w := range o.watches {
		switch {
		case w.refused != "" && w.asked:
			m.reason(errors.New(w.refused))
			continue
		case w.refused != "":
			o.warn(w.client, w.refused)
			continue
		case w.err != nil:
			m.reason(w.err)
			continue
		}
		for _, p := range []struct{ series, metric string }{
			{"tcp.cwnd", "tcp.cwnd.p50"}, {"tcp.ssthresh", "tcp.ssthresh.p50"}, {"tcp.rtt", "tcp.rtt.p50"}, {"tcp.pacing", "tcp.pacing.p50"},
			{"tcp.delivery", "tcp.delivery.p50"}, {"tcp.bbr.bandwidth", "tcp.bbr.bandwidth.p50"},
		} {
			if vs := w.window[p.series]; len(vs) > 0 {
				o.put(w.client, p.metric, median(vs))
			}
		}
		for _, p := range []struct{ series, metric string }{{"tcp.minrtt", "tcp.minrtt.min"}, {"tcp.bbr.minrtt", "tcp.bbr.minrtt.min"}} {
			if vs := w.window[p.series]; len(vs) > 0 {
				o.put(w.client, p.metric, slices.Min(vs))
			}
		}
		if len(w.last) == 0 {
			continue
		}
		resent, segments := w.totals()
		o.put(w.client, "tcp.resent", float64(resent))
		if segments > 0 {
			o.put(w.client, "tcp.resent.share", float64(resent)/float64(segments))
		}
		// include/uapi/linux/tcp.h: TCPI_OPT_…
		for _, b := range []struct {
			bit    uint8
			metric string
		}{{1, "tcp.timestamps"}, {2, "tcp.sack"}, {4, "tcp.wscale"}} {
			has := 0
			for _, e := range w.last {
				if e.options&b.bit != 0 {
					has++
				}
			}
			o.put(w.client, b.metric, float64(has)/float64(len(w.last)))
		}
	}
}

const (
	// lateShare is how late a wire may release one frame in ten, in round trips
	// of a flow: what TCP sends follows from what its ACKs take. A pause of the
	// machine's now and then moves a flow's rate by less than the claims allow.
	lateShare = 0.25
	// stillShare is how much of the window a machine may miss: samples that were
	// not taken, a sender with nothing to send, a server that does not read.
	stillShare = 0.1
)

// validateFlows: a flow is what its path makes of it, unless the machine was
// too busy to be that path, or for the programs at its ends.
func (o *one) validateFlows(m *measured) {
	for _, w := range o.watches {
		var c *sheet.Client
		for i := range o.arm.Clients {
			if o.arm.Clients[i].Name == w.client {
				c = &o.arm.Clients[i]
			}
		}
		if c == nil || !endless(c) || w.refused != "" {
			continue
		}
		rtt, ok := o.arm.Numbers[w.client+".rtt"]
		if !ok {
			rtt = o.arm.Numbers["rtt"]
		}
		for _, l := range o.out.Wires {
			if late := l.DelayError["p90"]; rtt.V > 0 && late > lateShare*rtt.V {
				m.reason(fmt.Errorf("wire %s released one frame in ten %.3g ms late or more, more than a quarter of the %.3g ms that client %s has for a round trip: the machine was too busy", l.Link, late*1e3, rtt.V*1e3, w.client))
			}
		}
		if len(o.arm.Faults) > 0 {
			continue // silence is what some of them are for
		}
		if o.w.virtual {
			continue // nothing is late there
		}
		if r := m.clients[w.client]; r != nil && r.Established == 0 {
			continue // nobody let it in: there was nothing to read
		}
		if due := int(clockSeconds(m.from, m.to) * 1e9 / sampleEvery); float64(w.looks) < (1-stillShare)*float64(due) {
			m.reason(fmt.Errorf("tcp_info of client %s was read %d times in the window instead of %d: the machine stood still, or was too busy", w.client, w.looks, due))
		}
		if why := w.held(c.Extra["receive"] == true); why != "" {
			m.reason(errors.New(why + ": the machine was too busy"))
		}
	}
}

// held says what held a client's connections back that is none of TCP's doing:
// a program that had nothing to send though it sends without end, or a peer's
// window that was smaller than it can be because nobody read.
func (w *watch) held(receives bool) string {
	a, b := w.edges[0], w.edges[1]
	span := float64(b.at-a.at) / 1e9
	if span <= 0 || receives {
		return ""
	}
	if idle := (b.idle - a.idle) / span; idle > stillShare {
		return fmt.Sprintf("client %s had nothing to send for %.0f%% of the window, though it sends without end", w.client, 100*idle)
	}
	// A window that is small all the time is the subject's.
	shrunk := slices.Min(w.window["window"]) < slices.Max(w.window["window"])/2
	if peer := (b.peer - a.peer) / span; peer > stillShare && shrunk {
		return fmt.Sprintf("the server of client %s let its window shrink and was the bound for %.0f%% of the time", w.client, 100*peer)
	}
	return ""
}

// endless says that a client sends as fast as its connections take it.
func endless(c *sheet.Client) bool { return c.Kind == clients.Bulk && c.Workload.Rate == 0 }
