package plots

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"tcplab/results"
)

// An armSpec is one arm of the made-up churn that the tests draw: a model of
// ports and TIME-WAIT, so that figures look as real ones do.
type armSpec struct {
	name     string
	baseline bool
	pooled   bool
	rate     float64 // 1/s
	ports    int
	warmup   float64
	duration float64
	levers   map[string]results.Lever
}

var quickArms = []armSpec{
	{name: "per_request", baseline: true, rate: 400, ports: 4096, warmup: 1, duration: 12},
	{name: "pooled", pooled: true, rate: 400, ports: 4096, warmup: 1, duration: 12, levers: map[string]results.Lever{
		"client.reuse":     {From: "none", To: "pool", Why: "the structural fix: the handshake is not paid again"},
		"client.pool.size": {From: "", To: "64", Why: "one for each request in flight"},
	}},
}

var fullArms = []armSpec{
	{name: "per_request", baseline: true, rate: 600, ports: 28232, warmup: 2, duration: 130},
	{name: "pooled", pooled: true, rate: 600, ports: 28232, warmup: 2, duration: 130, levers: quickArms[1].levers},
	{name: "ceiling", rate: 150, ports: 4096, warmup: 2, duration: 190, levers: map[string]results.Lever{
		"hosts.client.sysctl[net.ipv4.ip_local_port_range]": {From: "32768 60999", To: "32768 36863", Why: "few ports, so that several TIME-WAIT periods fit into a run"},
		"clients.client.workload.rate":                      {From: "600/s", To: "150/s"},
	}},
}

const rtt = 0.0103

type modelled struct {
	series  []results.Series
	hist    results.Histograms
	metrics map[string]results.Quantity
	counts  map[string]int64
}

// made is an arm's files, made once: tests only read them.
type made struct {
	modelled
	samples, hlog []byte
}

var (
	makes sync.Mutex
	kept  = map[string]made{}
)

func makeArm(t testing.TB, a armSpec, seed uint64) made {
	t.Helper()
	makes.Lock()
	defer makes.Unlock()
	key := fmt.Sprint(a.name, a.pooled, a.rate, a.ports, a.warmup, a.duration, seed)
	if m, ok := kept[key]; ok {
		return m
	}
	m := made{modelled: model(a, seed)}
	var b bytes.Buffer
	if err := results.WriteSamples(&b, m.series); err != nil {
		t.Fatal(err)
	}
	m.samples = bytes.Clone(b.Bytes())
	b.Reset()
	if err := results.WriteHistograms(&b, m.hist); err != nil {
		t.Fatal(err)
	}
	m.hlog = b.Bytes()
	kept[key] = m
	return m
}

// model runs an arm in steps of 100 ms.
func model(a armSpec, seed uint64) modelled {
	rng := rand.New(rand.NewPCG(seed, 7))
	m := modelled{hist: results.Histograms{}, metrics: map[string]results.Quantity{}, counts: map[string]int64{}}
	for _, n := range []string{"client.latency", "client.service", "client.connect", "client.connect.call", "client.failure", "client.lag"} {
		m.hist[n] = results.NewHistogram()
	}
	var names []string
	by := map[string]*results.Series{}
	put := func(name, unit string, t, v float64) {
		s := by[name]
		if s == nil {
			s = &results.Series{Name: name, Unit: unit}
			by[name], names = s, append(names, name)
		}
		s.T, s.V = append(s.T, t), append(s.V, v)
	}
	record := func(name string, s float64) { _ = m.hist[name].RecordValue(int64(s * 1e9)) }
	tw, maxTW, opens, firstErr := 0, 0, 0, math.NaN()
	var ok, failed, sent float64
	release := map[int]int{} // step → ports that come back
	steps := int((a.warmup + a.duration) * 10)
	handBefore := 0
	for i := range steps {
		t := float64(i) / 10
		tw -= release[i]
		binOK, binFailed := 0, 0
		var call []float64
		for range int(math.Round(a.rate / 10)) {
			if a.pooled {
				if opens < 64 {
					opens++
				}
				binOK++
				l := rtt + 0.0004 + math.Abs(rng.NormFloat64())*0.0003
				if rng.IntN(200) == 0 {
					l += rng.Float64() * 0.004
				}
				if t >= a.warmup {
					record("client.latency", l)
					record("client.service", l-0.0001)
				}
				continue
			}
			if tw >= a.ports {
				binFailed++
				if math.IsNaN(firstErr) {
					firstErr = t + 0.0013
				}
				if t >= a.warmup {
					record("client.failure", 0.0002+rng.Float64()*0.0002)
				}
				continue
			}
			c := 12e-6 + rng.Float64()*4e-6
			if tw > a.ports/2 {
				c = 2e-4 + rng.Float64()*5e-5
				if a.ports > 10000 {
					c = 1.2e-3 + 2e-3*float64(tw-a.ports/2)/float64(a.ports/2)
				}
			}
			call = append(call, c)
			opens++
			tw++
			// TIME-WAIT ends after 60 s, in bursts of 2 s.
			release[int(math.Ceil((t+60)/2)*20)]++
			binOK++
			l := 2*rtt + 0.0007 + c + math.Abs(rng.NormFloat64())*0.0004
			if rng.IntN(150) == 0 {
				l += rng.Float64() * 0.006
			}
			if t >= a.warmup {
				record("client.latency", l)
				record("client.service", l-0.0001)
				record("client.connect", rtt+c+rng.Float64()*2e-4)
				record("client.connect.call", c)
			}
		}
		if t >= a.warmup {
			ok, failed, sent = ok+float64(binOK), failed+float64(binFailed), sent+float64(binOK+binFailed)
		} else {
			handBefore = opens
		}
		maxTW = max(maxTW, tw)
		put("client.sent", "1", t, float64(binOK+binFailed))
		put("client.ok", "1", t, float64(binOK))
		put("client.failed", "1", t, float64(binFailed))
		put("client.errors.EADDRNOTAVAIL", "1", t, float64(binFailed))
		if len(call) > 0 {
			put("client.connect.call.p50", "s", t, median(call))
		}
		put("client.sockets.time_wait", "1", t, float64(tw))
		put("server.sockets.time_wait", "1", t, 0)
		put("client.handshakes", "1", t, float64(opens))
		if i%10 == 0 {
			used := min(tw+4, a.ports)
			if a.pooled {
				used = min(opens, 64)
			}
			put("client.ports.used", "1", t, float64(used)/float64(a.ports))
			put("client.ports.count", "1", t, float64(used))
			put("client.sockets.established", "1", t, float64(used-tw))
		}
	}
	for _, n := range names {
		m.series = append(m.series, *by[n])
	}
	set := func(name string, v float64, unit string) { m.metrics[name] = results.Quantity{Value: v, Unit: unit} }
	for _, d := range []struct{ name, metric string }{{"client.latency", "latency"}, {"client.connect", "connect"}, {"client.connect.call", "connect.call"}, {"client.failure", "failure"}} {
		for _, q := range []struct {
			n string
			q float64
		}{{"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}} {
			if v, ok := results.Quantile(m.hist[d.name], q.q); ok && m.hist[d.name].TotalCount() > 0 {
				set("client."+d.metric+"."+q.n, v, "s")
			}
		}
	}
	set("client.requests.ok", ok, "1")
	set("client.requests.sent", sent, "1")
	set("client.requests.failed", failed, "1")
	set("client.requests.rate", ok/a.duration, "1/s")
	set("client.errors.EADDRNOTAVAIL", failed, "1")
	if !math.IsNaN(firstErr) {
		set("client.first_error.time", firstErr, "s")
	}
	set("client.handshakes.count", float64(opens), "1")
	set("client.handshakes.rate", float64(opens-handBefore)/a.duration, "1/s")
	set("client.sockets.time_wait.max", float64(maxTW), "1")
	set("server.sockets.time_wait.max", 0, "1")
	used := float64(maxTW) / float64(a.ports)
	if a.pooled {
		used = 64 / float64(a.ports)
	}
	set("client.ports.used.max", used, "1")
	cpu := 21e-6
	if !a.pooled {
		cpu = 96e-6
	}
	set("client.cpu.request", cpu, "s")
	set("client.cpu.client", cpu*a.rate, "1")
	m.counts["opens"] = int64(opens)
	return m
}

// makeRun writes the files of a made-up churn into dir and gives its record.
func makeRun(t testing.TB, dir string, specs []armSpec) *results.Run {
	t.Helper()
	r := makeRunArms(t, dir, specs)
	claim(r, specs)
	return r
}

func makeRunArms(t testing.TB, dir string, specs []armSpec) *results.Run {
	t.Helper()
	full := len(specs) > 2
	profile := "quick"
	if full {
		profile = "full"
	}
	r := &results.Run{
		Schema: results.Schema, Experiment: "churn",
		Question: "What does a fresh connection per request cost, and what removes the cost?",
		Started:  time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC), Took: 31.4,
		Asked: results.Mode{Profile: profile, Kernel: "host", Clock: "real"}, Ran: results.Mode{Profile: profile, Kernel: "host", Clock: "real"},
		Verdict: results.Pass, Because: "every expectation holds in every trial",
		Command: []string{"tcplab", "run", "churn", "--set", "client.pool.size=64"},
		Seeds:   results.Seeds{Run: 1, Pairs: []uint64{8123776512934412}},
		Environment: results.Environment{Kernel: "6.18.0", KernelPlace: "host", Clock: "real", CPU: "AMD EPYC 7B13", CPUs: 2, Memory: 8 << 30, Hosts: "namespaces", Privilege: "root",
			Wires: map[string]string{"wire": "userspace, timerfd"}, Go: "go1.26.8", Version: "0.1.0",
			Sysctls: map[string]string{"net.ipv4.tcp_tw_reuse": "2", "net.ipv4.tcp_max_tw_buckets": "262144", "net.core.somaxconn": "4096", "net.ipv4.tcp_rmem": "4096\t131072\t6291456"}},
		Numbers:     map[string]results.Quantity{"ports": {Value: float64(specs[0].ports), Unit: "1"}, "rate": {Value: specs[0].rate, Unit: "1/s"}},
		Predictions: map[string]results.Prediction{}, Arms: map[string]results.Arm{}, Expectations: map[string]results.Expectation{}, Warnings: []results.Warning{},
		Evidence: map[string]results.Evidence{
			"before": {Position: 0, Arm: "per_request", Show: "handshake", Title: "Before: a request on a fresh connection"},
			"after":  {Position: 1, Arm: "pooled", Show: "reused request", Title: "After: a request on a reused connection"},
		},
		Triage: map[string]results.TriageRow{
			"per_request": {Position: 0, Arm: "per_request", On: "client", At: "11 s", Truth: "time-wait-exhaustion"},
			"pooled":      {Position: 1, Arm: "pooled", On: "client", At: "11 s", Truth: "nothing"},
		},
		Writeup: "## The one structural lever\n\nReuse of connections. A pooled client pays the handshake once for each connection in its pool, not once for each request.\n\n### Why sysctls alone would not have been the fix\n\n- `tcp_fin_timeout` does not shorten TIME-WAIT: it governs FIN-WAIT-2.\n- A shorter MSL is not offered: Linux's TIME-WAIT is a constant 60 s.\n- More ports move the ceiling and leave the round trip.\n",
	}
	for i, a := range specs {
		seed := r.Seeds.Pairs[0]
		m := makeArm(t, a, seed)
		tr := results.Trial{Number: i + 1, Arm: a.name, Pair: 1, Seed: seed, Dir: fmt.Sprintf("trials/%d-%s-%d", i+1, a.name, seed), Warmup: a.warmup, Duration: a.duration, Took: a.warmup + a.duration + 1.7,
			Metrics: maps.Clone(m.metrics), Validity: results.Validity{Valid: true, LagP50: 18e-6, LagP99: 110e-6, LagMax: 4.1e-3},
			Agents: []results.Agent{
				{Name: "client", Role: "client", Kind: "echo", Host: "client", CPU: 0.51, MaxRSS: 21 << 20, Options: map[string]string{"TCP_CONGESTION": "cubic", "TCP_NODELAY": "1"}, Exit: "0"},
				{Name: "server", Role: "server", Kind: "echo", Host: "server", CPU: 0.44, MaxRSS: 19 << 20, Options: map[string]string{"TCP_CONGESTION": "cubic"}, Exit: "0"},
				{Name: "wire", Role: "wire", Kind: "userspace", Host: "wire", CPU: 0.8, MaxRSS: 24 << 20, Exit: "0"},
			},
			Hosts: []results.Host{
				{Name: "client", Address: map[string]string{"wire": "10.9.0.1/24"}, Sysctls: map[string]string{"net.ipv4.ip_local_port_range": fmt.Sprintf("32768\t%d", 32767+a.ports)}, Counters: map[string]int64{"ActiveOpens": m.counts["opens"]}},
				{Name: "server", Address: map[string]string{"wire": "10.9.0.2/24"}, Sysctls: map[string]string{}, Counters: map[string]int64{"PassiveOpens": m.counts["opens"]}},
			},
			Wires: []results.Wire{{Link: "wire", Kind: "userspace", Release: "timerfd", Fates: "by-byte",
				Directions: map[string]map[string]int64{"client>server": {"in": 24000, "out": 24000, "lost": 0, "first_syns": m.counts["opens"], "retransmitted_syns": 0, "bytes": 1900000}, "server>client": {"in": 20000, "out": 20000, "lost": 0, "bytes": 1700000}},
				DelayError: map[string]float64{"p50": 41e-6, "p99": 180e-6, "max": 2.2e-3}}},
			Capture: &results.Capture{File: results.CaptureFile, Packets: 2104, Seen: 44000, Dropped: 0, Commented: 812, Bound: "the first 200 connections, a second around each fault and expectation, and the evidence's flows"},
		}
		if a.pooled {
			tr.Ladders = map[string]results.Ladder{"after": ladderAfter()}
		} else if a.baseline {
			tr.Ladders = map[string]results.Ladder{"before": ladderBefore()}
		}
		for n, e := range r.Evidence {
			if e.Arm == a.name {
				e.Trial, e.File = tr.Number, tr.Dir+"/"+results.CaptureFile
				r.Evidence[n] = e
			}
		}
		for _, s := range m.series {
			tr.Columns = append(tr.Columns, s.Column())
		}
		d := filepath.Join(dir, tr.Dir)
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
		for n, data := range map[string][]byte{results.SamplesFile: m.samples, results.HistogramFile: m.hlog} {
			if err := os.WriteFile(filepath.Join(d, n), data, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		arm := results.Arm{Position: i, Baseline: a.baseline, Levers: maps.Clone(a.levers), Metrics: map[string]results.Metric{}, Trials: []results.Trial{tr}}
		for k, q := range m.metrics {
			arm.Metrics[k] = results.Metric{Value: q.Value, Unit: q.Unit, N: 1, Low: q.Value, High: q.Value}
		}
		r.Arms[a.name] = arm
	}
	r.Digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	return r
}

// claim adds predictions and expectations to a run.
func claim(r *results.Run, specs []armSpec) {
	observe := func(arm, metric string) *float64 {
		if q, ok := r.Arms[arm].Metrics["client."+metric]; ok {
			return &q.Value
		}
		return nil
	}
	knee := float64(specs[0].ports) / specs[0].rate
	half := knee / 2
	r.Predictions["knee"] = results.Prediction{Position: 0, Of: "per_request.first_error.time", Is: "ports / rate", Within: "5%", Because: "each request takes a port for a minute", Value: knee, Unit: "s", Observed: observe("per_request", "first_error.time"), Holds: results.HoldsYes}
	r.Predictions["search_knee"] = results.Prediction{Position: 1, Of: "per_request.search_knee.time", Is: "ports / 2 / rate", Within: "10%", Because: "connect() tries the ports of one parity first", Value: half, Unit: "s", Observed: &half, Holds: results.HoldsYes}
	p50 := func(arm string) float64 { return r.Arms[arm].Metrics["client.latency.p50"].Value }
	r.Expectations["round_trip"] = results.Expectation{Position: 0, That: "pooled.latency.p50 < 0.7 * per_request.latency.p50", Because: "one round trip instead of two", Holds: results.HoldsYes,
		Observed: fmt.Sprintf("pooled.latency.p50 = %s, per_request.latency.p50 = %s", quantity(p50("pooled"), "s", 3), quantity(p50("per_request"), "s", 3))}
	r.Expectations["exhausted"] = results.Expectation{Position: 1, That: "per_request.errors.EADDRNOTAVAIL > 0", Because: "ports ÷ TIME-WAIT is the ceiling", Unless: "per_request.connect.call.p50 > 0.5ms", Holds: results.HoldsYes,
		Observed: "per_request.errors.EADDRNOTAVAIL = " + count(r.Arms["per_request"].Metrics["client.errors.EADDRNOTAVAIL"].Value)}
	r.Expectations["cured"] = results.Expectation{Position: 2, That: "pooled.errors.EADDRNOTAVAIL == 0", Holds: results.HoldsYes, Observed: "pooled.errors.EADDRNOTAVAIL = 0"}
}

func at2(v float64) *float64 { return &v }

func ladderBefore() results.Ladder {
	const d = 0.00515
	e := func(from string, sent float64, label, flags, comment string, n, frame int) results.LadderEvent {
		return results.LadderEvent{From: from, Sent: sent, Arrived: at2(sent + d), Label: label, Flags: flags, Len: n, Comment: comment, Frame: frame}
	}
	return results.Ladder{Title: "A request on a fresh connection", Left: "client", Right: "server", Events: []results.LadderEvent{
		e("client", 0, "SYN seq 0", "SYN", "SYN: the round trip you pay", 0, 1),
		e("server", 0.00519, "SYN,ACK seq 0 ack 1", "SYN,ACK", "", 0, 3),
		e("client", 0.01038, "ACK seq 1 ack 1", "ACK", "connected", 0, 5),
		e("client", 0.01045, "PSH,ACK seq 1:129 ack 1", "PSH,ACK", "the request", 128, 6),
		e("server", 0.01566, "ACK seq 1 ack 129", "ACK", "", 0, 9),
		e("server", 0.01570, "PSH,ACK seq 1:129 ack 129", "PSH,ACK", "the answer", 128, 10),
		e("client", 0.02090, "FIN,ACK seq 129 ack 129", "FIN,ACK", "who closes first keeps the TIME-WAIT", 0, 13),
		e("server", 0.02612, "FIN,ACK seq 129 ack 130", "FIN,ACK", "", 0, 15),
		e("client", 0.03130, "ACK seq 130 ack 130", "ACK", "client enters TIME-WAIT for 60 s", 0, 17),
	}, Spans: []results.LadderSpan{
		{Host: "client", From: 0, To: 0.01034, Label: "handshake: 10.3 ms"},
		{Host: "client", From: 0.01045, To: 0.02085, Label: "request: 10.4 ms"},
	}}
}

func ladderAfter() results.Ladder {
	const d = 0.00515
	e := func(from string, sent float64, label, flags, comment string, n, frame int) results.LadderEvent {
		return results.LadderEvent{From: from, Sent: sent, Arrived: at2(sent + d), Label: label, Flags: flags, Len: n, Comment: comment, Frame: frame}
	}
	return results.Ladder{Title: "A request on a reused connection", Left: "client", Right: "server", Events: []results.LadderEvent{
		e("client", 0, "PSH,ACK seq 129:257 ack 129", "PSH,ACK", "the request: no handshake before it", 128, 801),
		e("server", 0.0052, "PSH,ACK seq 129:257 ack 257", "PSH,ACK", "the answer", 128, 804),
		e("client", 0.01041, "ACK seq 257 ack 257", "ACK", "", 0, 807),
	}, Spans: []results.LadderSpan{{Host: "client", From: 0, To: 0.01035, Label: "request: 10.4 ms"}}}
}

// ladderBlackhole is the long chain: a request into a blackhole, sent again
// with a doubling RTO until the kernel gives up.
func ladderBlackhole() results.Ladder {
	l := results.Ladder{Title: "A request into a blackhole", Left: "client", Right: "server"}
	t, rto := 0.0, 0.2
	l.Events = append(l.Events, results.LadderEvent{From: "client", Sent: 0, Arrived: at2(0.00515), Label: "PSH,ACK seq 1:129 ack 1", Flags: "PSH,ACK", Len: 128, Comment: "the last that arrives", Frame: 1},
		results.LadderEvent{From: "server", Sent: 0.0052, Arrived: at2(0.01035), Label: "PSH,ACK seq 1:129 ack 129", Flags: "PSH,ACK", Len: 128, Frame: 2})
	t = 0.5
	for i := range 9 {
		c := "the link is a blackhole now"
		if i > 0 {
			c = fmt.Sprintf("RTO backoff %d, next in %s", i, quantity(math.Min(rto*2, 120), "s", 3))
		}
		l.Events = append(l.Events, results.LadderEvent{From: "client", Sent: t, Label: "PSH,ACK seq 129:257 ack 129", Flags: "PSH,ACK", Len: 128, Comment: c, Frame: 3 + i})
		t += rto
		rto = math.Min(rto*2, 120)
	}
	l.Spans = []results.LadderSpan{{Host: "client", From: 0.5, To: t, Label: "ETIMEDOUT after " + quantity(t-0.5, "s", 3)}}
	return l
}

// ladderCrossing has packets that meet on the way, long words, a burst, and
// brackets at both hosts.
func ladderCrossing() results.Ladder {
	const d = 0.04
	e := func(from string, sent float64, label, comment string, n int) results.LadderEvent {
		return results.LadderEvent{From: from, Sent: sent, Arrived: at2(sent + d), Label: label, Len: n, Comment: comment}
	}
	l := results.Ladder{Title: "Both at once", Left: "publisher-eu-west", Right: "load-balancer-1", Events: []results.LadderEvent{
		e("publisher-eu-west", 0, "PSH,ACK seq 4294961:4296409 ack 3000000001 win 65535", "a full segment whose comment is so long that it has to be broken into lines", 1448),
		e("publisher-eu-west", 0.00001, "ACK seq 4296409:4297857 ack 3000000001", "", 1448),
		e("publisher-eu-west", 0.00002, "ACK seq 4297857:4299305 ack 3000000001", "", 1448),
		e("load-balancer-1", 0.02, "PSH,ACK seq 3000000001:3000000021 ack 4294961", "crosses the burst", 20),
		e("publisher-eu-west", 0.03, "ACK seq 4299305 ack 3000000001", "", 0),
		e("load-balancer-1", 0.0401, "ACK seq 3000000021 ack 4297857", "", 0),
		{From: "publisher-eu-west", Sent: 0.0605, Label: "ACK seq 4299305:4300753", Len: 1448, Comment: "lost"},
		e("load-balancer-1", 0.0610, "RST seq 3000000021", "<b>unknown flow</b> & reset", 0),
	}, Spans: []results.LadderSpan{
		{Host: "publisher-eu-west", From: 0, To: 0.0801, Label: "round trip: 80.1 ms"},
		{Host: "publisher-eu-west", From: 0, To: 0.03, Label: "burst"},
		{Host: "load-balancer-1", From: 0.04, To: 0.061, Label: "21 ms at the balancer"},
	}}
	return l
}

// makeAwful is a run in which much went wrong: seven arms, one unsupported,
// one never measured, invalid trials, warnings of every sort, mixed outcomes.
func makeAwful(t testing.TB, dir string) *results.Run {
	t.Helper()
	names := []string{"as_found", "pooled", "tw_reuse", "wide_range", "linger_zero", "server_closes"}
	var specs []armSpec
	for i, n := range names {
		specs = append(specs, armSpec{name: n, baseline: i == 0, pooled: i == 1, rate: 400 - 30*float64(i), ports: 1024 + 512*i, warmup: 1, duration: 12, levers: map[string]results.Lever{
			"client.reuse": {From: "none", To: "pool"},
			"hosts.client.sysctl[net.ipv4.tcp_tw_reuse]": {From: "2", To: "1", Why: "lets a port be taken again a second after its TIME-WAIT began, where both sides have timestamps"},
		}})
	}
	specs[0].levers = nil
	r := makeRunArms(t, dir, specs)
	r.Experiment, r.Question = "awful", "What does a report look like in which nothing went well, and whose question takes more than a line on any screen?"
	r.Asked = results.Mode{Profile: "full", Kernel: "guest", Clock: "virtual"}
	r.Verdict, r.Because = results.Inconclusive, "two expectations are mixed and one lacks a value"
	r.Arms["fastopen"] = results.Arm{Position: 6, Unsupported: "the kernel lacks net.ipv4.tcp_fastopen", Levers: map[string]results.Lever{"client.fastopen": {From: "no", To: "yes", Why: "data in the SYN"}}}
	r.Arms["forgotten"] = results.Arm{Position: 7}
	r.Evidence = map[string]results.Evidence{
		"hole":  {Position: 0, Arm: "as_found", Show: "retransmissions", Trial: 1, File: "trials/1-as_found-8123776512934412/capture.pcapng"},
		"cross": {Position: 1, Arm: "pooled", Show: "simultaneous packets", Title: "Both at once", Trial: 2, File: "trials/2-pooled-8123776512934412/capture.pcapng"},
		"none":  {Position: 2, Arm: "tw_reuse", Show: "a RST"},
		"never": {Position: 3, Arm: "forgotten", Show: "handshake"},
	}
	edit := func(name string, f func(*results.Trial)) {
		a := r.Arms[name]
		f(&a.Trials[0])
		r.Arms[name] = a
	}
	edit("as_found", func(t *results.Trial) { t.Ladders = map[string]results.Ladder{"hole": ladderBlackhole()} })
	edit("pooled", func(t *results.Trial) { t.Ladders = map[string]results.Ladder{"cross": ladderCrossing()} })
	edit("tw_reuse", func(t *results.Trial) {
		t.Validity.Valid = false
		t.Validity.Reasons = []string{"97.2% of the offered requests were sent, less than 99%", "the generator's lag p99 of 8.10 ms is above 5% of latency p99"}
		t.Agents[0].Exit, t.Agents[0].Stderr = "signal: killed", "panic: runtime error: <script>alert(1)</script>\ngoroutine 1 [running]:\n"
		t.Capture.Dropped = 1207
		t.Warnings = []results.Warning{{About: "sockets.txt", Text: "ss counts 4,011 TIME-WAIT, sockstat 4,096: 2.1% apart"}}
	})
	edit("linger_zero", func(t *results.Trial) {
		t.Validity = results.Validity{Interrupted: true}
		shared := 0.42
		t.Wires[0].SharedFates = &shared
	})
	// The server closes first, and keeps the TIME-WAITs.
	a := r.Arms["server_closes"]
	a.Metrics["server.sockets.time_wait.max"] = a.Metrics["client.sockets.time_wait.max"]
	delete(a.Metrics, "client.sockets.time_wait.max")
	delete(a.Metrics, "client.cpu.request")
	r.Arms["server_closes"] = a
	r.Expectations = map[string]results.Expectation{}
	for i, h := range []results.Holds{results.HoldsYes, results.HoldsNo, results.HoldsMixed, results.HoldsAbsent, results.NotReached, results.NotAsked, results.HoldsYes, results.HoldsYes, results.HoldsNo} {
		e := results.Expectation{Position: i, That: fmt.Sprintf("%s.errors.EADDRNOTAVAIL <= 0.05 * as_found.errors.EADDRNOTAVAIL", names[i%6]), Because: "ports ÷ TIME-WAIT is the ceiling, whatever the client does | and a pipe", Holds: h}
		if h == results.HoldsYes || h == results.HoldsNo || h == results.HoldsMixed {
			e.Observed = fmt.Sprintf("%s.errors.EADDRNOTAVAIL = %d, as_found.errors.EADDRNOTAVAIL = 1,104", names[i%6], i*17)
		}
		if h == results.HoldsMixed {
			e.Note = "holds in 2 of 3 trials"
		}
		r.Expectations[fmt.Sprintf("claim_%d", i)] = e
	}
	half := 2.9
	r.Predictions = map[string]results.Prediction{
		"knee":  {Position: 0, Of: "as_found.first_error.time", Is: "ports / rate", Within: "5%", Because: "each request takes a port for a minute", Value: 2.56, Unit: "s", Observed: &half, Holds: results.HoldsNo},
		"chain": {Position: 1, Of: "as_found.detect.time@forget", Is: "rto_chain()", Value: 924.6, Unit: "s"},
		"other": {Position: 2, Of: "fastopen.latency.p50", Is: "rtt()", Within: "10%", Value: 0.01, Unit: "s", Holds: results.NotAsked},
	}
	r.Warnings = []results.Warning{
		{About: "pooled", Text: "its pool is larger than its port range"},
		{About: "as_found.latency.p99", Text: "only 40 samples lie beyond it"},
		{About: "client.goodput", Text: "was not measured on this clock"},
		{About: "figures/errors.svg", Text: "the first second is the warm-up"},
		{About: "environment", Text: "both cores were busy when the run began"},
		{About: "<img src=x onerror=alert(1)>", Text: "**not** bold <script>alert(2)</script>"},
	}
	r.Writeup = "# Top\n\nText with | a pipe and `code`.\n\n```\n# not a heading\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
	r.Command = []string{"tcplab", "run", "awful", "--set", "arms.pooled.why=don't know"}
	return r
}
