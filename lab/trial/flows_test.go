package trial

import (
	"math"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcplab/lab/sheet"
	"tcplab/netns/probe"
)

func TestTCPInfoIsReadDenselyAndOnTheVirtualClockNotForEver(t *testing.T) {
	for _, c := range []struct {
		elapsed int64
		virtual bool
		want    int64
	}{
		{0, true, 100e6}, {1, true, 100e6}, {99e6, true, 100e6}, {100e6, true, 200e6}, {199.9e9, true, 200e9},
		{200e9, true, 202e9}, {3600e9, true, 3636e9}, {3600e9, false, 3600.1e9}, {33.05e9, false, 33.1e9},
	} {
		if got := flowPace(c.elapsed, c.virtual); got != c.want {
			t.Errorf("after %d ns, virtual %v: at %d, want %d", c.elapsed, c.virtual, got, c.want)
		}
	}
	// Five days are some hundreds of samples more than 200 s.
	n := 0
	for at := int64(0); at < 5*86400e9; at = flowPace(at, true) {
		n++
	}
	if n > 3000 {
		t.Errorf("%d samples in five days", n)
	}
}

func sock(cookie uint64, cwnd, rtt uint32, delivery uint64, limited bool) probe.Socket {
	return probe.Socket{Cookie: cookie, State: probe.Established, Info: &probe.TCPInfo{
		TCPInfo: unix.TCPInfo{Snd_cwnd: cwnd, Rtt: rtt, Min_rtt: rtt - 1000, Delivery_rate: delivery, Pacing_rate: 2 * delivery,
			Snd_ssthresh: 0x7fffffff, Total_retrans: 2, Data_segs_out: 100, Bytes_acked: 9, Options: 7},
		DeliveryRateAppLimited: limited,
	}}
}

func TestWindowsAreMeansOverConnectionsAndRatesAreSums(t *testing.T) {
	a, b := sock(1, 10, 40_000, 1000, false), sock(2, 30, 60_000, 3000, true)
	b.Info.Snd_ssthresh = 20
	b.BBR = &probe.BBRInfo{Bandwidth: 5000, MinRTT: 39_000, PacingGain: 1.25, CwndGain: 2}
	got := map[string]float64{}
	for _, v := range said([]probe.Socket{a, b}) {
		got[v.name] = v.v
	}
	for name, want := range map[string]float64{
		"tcp.cwnd": 20, "tcp.rtt": .05, "tcp.minrtt": .039, "tcp.delivery": 32_000, "tcp.pacing": 64_000, "tcp.app_limited": 1,
		"tcp.ssthresh": 20, "tcp.bbr.bandwidth": 40_000, "tcp.bbr.minrtt": .039, "tcp.bbr.pacing_gain": 1.25, "tcp.bbr.cwnd_gain": 2,
	} {
		if math.Abs(got[name]-want) > 1e-9*want {
			t.Errorf("%s = %v, want %v", name, got[name], want)
		}
	}
	// What nothing says is absent and not 0.
	for _, v := range said([]probe.Socket{a}) {
		if v.name == "tcp.ssthresh" || v.name == "tcp.bbr.bandwidth" {
			t.Errorf("%s = %v of a connection that has none", v.name, v.v)
		}
	}
	unpaced := sock(3, 10, 40_000, 1000, false)
	unpaced.Info.Pacing_rate, unpaced.Info.Min_rtt = math.MaxUint64, math.MaxUint32
	for _, v := range said([]probe.Socket{unpaced}) {
		if v.name == "tcp.pacing" && v.v != 0 || v.name == "tcp.minrtt" {
			t.Errorf("%s = %v of a connection without", v.name, v.v)
		}
	}
	if vs := said(nil); vs != nil {
		t.Errorf("no connection says %v", vs)
	}
}

func TestTotalsOutliveTheirConnections(t *testing.T) {
	w := &watch{client: "c", last: map[uint64]ended{}, to: map[netip.AddrPort]bool{}}
	a, b := sock(1, 10, 40_000, 1, false), sock(2, 10, 40_000, 1, false)
	w.note(&a)
	w.note(&b)
	a.Info.Total_retrans = 5 // its last word
	w.note(&a)
	if resent, segments := w.totals(); resent != 7 || segments != 200 {
		t.Errorf("%d of %d", resent, segments)
	}
	// A SYN that nobody answered has agreed on nothing.
	c := sock(3, 10, 40_000, 1, false)
	c.Info.Bytes_acked, c.Info.Options = 0, 0
	w.note(&c)
	if len(w.last) != 2 {
		t.Errorf("%d connections", len(w.last))
	}
}

const bulkSheet = `experiment: x
question: q
hosts: {a: {}, b: {}}
links: {l: {between: [a, b]}}
servers: {s: {on: b, kind: sink}, e: {on: b, kind: echo}}
clients:
  flow: {on: a, to: s, kind: bulk}
  asks: {on: a, to: e, kind: echo, workload: {kind: requests, rate: 1/s}}
trial: {duration: 1s}
arms: {one: {baseline: true}}
`

func TestOnlyClaimsOverTCPInfoMakeAClientWatched(t *testing.T) {
	for _, c := range []struct{ more, want string }{
		{"expect: {x: {that: one.flow.goodput > 0bit/s}}\n", ""},
		{"expect: {x: {that: one.asks.tcp.wscale == 1}}\n", "asks"},
		{"expect: {x: {that: one.asks.requests.ok > 0, unless: one.asks.tcp.sack == 0}}\n", "asks"},
		{"expect: {x: {that: one.a.tcp.retransmits == 0}}\n", ""}, // the host's counter
		{"predict: {x: {of: one.flow.tcp.cwnd.p50, is: \"10\"}}\nexpect: {x: {that: one.flow.goodput > 0bit/s}}\n", "flow"},
		{"expect: {x: {that: one.flow.goodput > 0bit/s}}\nwriteup: \"It was {{one.asks.tcp.rtt.p50}}.\"\n", "asks"},
	} {
		e, err := sheet.Parse("x.yaml", []byte(bulkSheet+c.more), sheet.Options{})
		if err != nil {
			t.Fatalf("%s: %v", c.more, err)
		}
		got := ""
		for name := range usesTCPInfo(e) {
			got += name
		}
		if got != c.want {
			t.Errorf("%s watches %q, want %q", c.more, got, c.want)
		}
	}
}

func TestWhatHeldAFlowBackIsToldUnlessItIsTheSubject(t *testing.T) {
	at := func(s float64, idle, peer, window float64) limited {
		return limited{at: int64(s * 1e9), idle: idle, peer: peer, window: window}
	}
	for _, c := range []struct {
		name     string
		a, b     limited
		windows  []float64
		receives bool
		want     string
	}{
		{"a flow that its path bounds", at(1, .1, 0, 1e6), at(7, .1, .05, 1e6), []float64{1e6, 1e6}, false, ""},
		{"a sender that was not scheduled", at(1, .1, 0, 1e6), at(7, 1.6, 0, 1e6), []float64{1e6}, false, "nothing to send for 25%"},
		{"a receiver that did not read", at(1, 0, 0, 1e6), at(7, 0, 1.2, 1e4), []float64{1e6, 1e4}, false, "shrink and was the bound for 20%"},
		{"a window that is small all along", at(1, 0, 0, 58e3), at(7, 0, 6, 58e3), []float64{58e3, 58e3}, false, ""},
		{"a client that receives has nothing to send", at(1, 0, 0, 1e6), at(7, 6, 0, 1e6), []float64{1e6}, true, ""},
		{"a single sample", at(1, 0, 0, 1e6), at(1, 0, 0, 1e6), []float64{1e6}, false, ""},
	} {
		w := &watch{client: "flow", edges: [2]limited{c.a, c.b}, window: map[string][]float64{"window": c.windows}}
		if got := w.held(c.receives); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestWhatLimitedConnectionsIsTheKernelsAccount(t *testing.T) {
	a, b := sock(1, 10, 40_000, 1000, false), sock(2, 10, 40_000, 1000, false)
	a.Info.Busy_time, a.Info.Rwnd_limited, a.Info.Snd_wnd = 3e6, 1e6, 1000
	b.Info.Busy_time, b.Info.Snd_wnd = 5e6, 500
	if got, want := limits(10e9, []probe.Socket{a, b}), (limited{10e9, 12, 1, 1500}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
