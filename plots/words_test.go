package plots

import (
	"math"
	"strings"
	"testing"

	"tcplab/results"
)

func TestNumbersAreWrittenWithTheirUnits(t *testing.T) {
	for _, c := range []struct {
		v      float64
		unit   string
		digits int
		want   string
	}{
		{0.0112, "s", 3, "11.2 ms"}, {924.6, "s", 4, "924.6 s"}, {8199, "s", 3, "8,199 s"}, {0, "s", 3, "0 s"}, {12.3e-6, "s", 3, "12.3 µs"}, {4e-9, "s", 3, "4.00 ns"},
		{0.9996, "s", 3, "1.00 s"}, {0.00099996, "s", 3, "1.00 ms"}, {-0.0103, "s", 3, "−10.3 ms"}, {10.24, "s", 4, "10.24 s"},
		{4096, "1", 3, "4,096"}, {0, "1", 3, "0"}, {1234567, "1", 3, "1,234,567"}, {2.5, "1", 3, "2.50"}, {4095.5, "1", 3, "4,096"},
		{400, "1/s", 3, "400/s"}, {0.5, "1/s", 3, "0.500/s"}, {99999, "1/s", 3, "99,999/s"},
		{1.2e6, "bit/s", 3, "1.20 Mbit/s"}, {3e9, "bit/s", 3, "3.00 Gbit/s"}, {65536, "B", 3, "64.0 KiB"}, {8 << 30, "B", 3, "8.00 GiB"},
		{math.NaN(), "s", 3, none}, {math.Inf(1), "1/s", 3, none}, {7, "widgets", 3, "7.00 widgets"},
	} {
		if got := quantity(c.v, c.unit, c.digits); got != c.want {
			t.Errorf("%v %s with %d digits: %q, want %q", c.v, c.unit, c.digits, got, c.want)
		}
	}
	for metric, want := range map[string]string{"ports.used.max": "100%", "cpu.client": "1.0 CPU", "requests.ok": "1"} {
		if got := value(metric, 1, "1", 3); got != want {
			t.Errorf("%s: %q, want %q", metric, got, want)
		}
	}
}

func TestChangeIsADifferenceForTimesAndARatioWhereOneMeansSomething(t *testing.T) {
	for _, c := range []struct {
		metric, unit, want string
		v, base            float64
	}{
		{"latency.p50", "s", "−10.3 ms, −48%", 0.0112, 0.0215},
		{"latency.p50", "s", "−0.46%", 0.0217, 0.0218},
		{"latency.p50", "s", "same", 0.0112, 0.01120001},
		{"latency.p50", "s", "×100", 1, 0.01},
		{"handshakes.count", "1", "÷64", 64, 4096},
		{"handshakes.count", "1", "−100%", 0, 4096},
		{"errors.EPIPE", "1", "+7", 7, 0},
		{"requests.ok", "1", "+30%", 4800, 3696},
		{"ports.used.max", "1", "÷64", 1.0 / 64, 1},
	} {
		if got := change(c.metric, c.v, c.base, c.unit); got != c.want {
			t.Errorf("%s from %v to %v: %q, want %q", c.metric, c.base, c.v, got, c.want)
		}
	}
}

func TestTitleStatesTheFinding(t *testing.T) {
	run := func(base float64, others ...float64) *results.Run {
		r := &results.Run{Arms: map[string]results.Arm{}}
		put := func(name string, i int, v float64) {
			r.Arms[name] = results.Arm{Position: i, Baseline: i == 0, Metrics: map[string]results.Metric{"c.latency.p50": {Value: v, Unit: "s", N: 1}}}
		}
		put("base", 0, base)
		for i, v := range others {
			put([]string{"a", "b", "c"}[i], i+1, v)
		}
		return r
	}
	for want, r := range map[string]*results.Run{
		"a halves the median: 11.2 ms instead of 21.5 ms":                    run(0.0215, 0.0112),
		"a cuts the median by a factor of 4.0: 5.00 ms instead of 20.0 ms":   run(0.02, 0.005),
		"a lowers the median by 20%: 8.00 ms instead of 10.0 ms":             run(0.01, 0.008),
		"a leaves the median as it was: 10.0 ms":                             run(0.01, 0.01000001),
		"a doubles the median: 20.0 ms instead of 10.0 ms":                   run(0.01, 0.02),
		"a raises the median by a factor of 3.0: 30.0 ms instead of 10.0 ms": run(0.01, 0.03),
		"a raises the median by 50%: 15.0 ms instead of 10.0 ms":             run(0.01, 0.015),
		"b halves the median: 5.00 ms instead of 10.0 ms in base":            run(0.01, 0.012, 0.005),
		"Latency: 10.0 ms in base":                                           run(0.01),
		"Latency":                                                            {Arms: map[string]results.Arm{}},
		"a brings the median to nothing: 0 s instead of 10.0 ms":             run(0.01, 0),
	} {
		if got := finding(r, programs(r), hosts(r), "latency.p50", "median", "Latency"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestAbsentValuesAreDashesNeverZero(t *testing.T) {
	r := &results.Run{Arms: map[string]results.Arm{
		"base": {Baseline: true, Metrics: map[string]results.Metric{"client.latency.p50": {Value: 0.01, Unit: "s", N: 1}, "client.requests.ok": {Value: 10, Unit: "1", N: 1}}},
		"a":    {Position: 1, Metrics: map[string]results.Metric{"client.requests.ok": {Value: 0, Unit: "1", N: 1}, "client.latency.p50": {Unit: "s", N: 0}}},
		"gone": {Position: 2, Unsupported: "no such kernel"},
	}}
	for _, l := range strings.Split(Table(r), "\n") {
		switch {
		case strings.HasPrefix(l, "latency p50"):
			if f := strings.Fields(l)[2:]; strings.Join(f, " ") != "10.0 ms — —" {
				t.Errorf("%q", l)
			}
		case strings.HasPrefix(l, "requests completed"):
			if f := strings.Fields(l)[2:]; strings.Join(f, " ") != "10 0 (−100%) —" {
				t.Errorf("%q", l)
			}
		case strings.HasPrefix(l, "latency p99"), strings.HasPrefix(l, "CPU per request"):
			if !strings.HasSuffix(l, "—") || strings.Contains(l, "0 ") {
				t.Errorf("%q", l)
			}
		}
	}
}

func TestTableFitsATerminalAndItsColumnsAlign(t *testing.T) {
	r := makeAwful(t, t.TempDir())
	a := r.Arms["pooled"]
	delete(r.Arms, "pooled")
	r.Arms["プール"] = a
	for _, l := range strings.Split(Table(r), "\n") {
		if n := columns(l); n > terminal {
			t.Errorf("%d columns: %s", n, l)
		}
	}
	parts := strings.Split(Table(r), "\n\n")
	if len(parts) < 3 {
		t.Fatalf("%d parts", len(parts))
	}
	for _, p := range parts {
		lines := strings.Split(strings.TrimSpace(p), "\n")
		if !strings.Contains(p, "(baseline)") {
			t.Error("a part of the table lacks the baseline")
		}
		// The second column begins at the same place in every line.
		at := -1
		for _, l := range lines {
			if strings.HasPrefix(l, "─") {
				continue
			}
			for i, prefix := range []string{"requests completed", "handshakes, whole trial"} {
				if strings.HasPrefix(l, prefix) {
					rest := strings.TrimLeft(l[len(prefix):], " ")
					c := columns(l) - columns(rest)
					if i > 0 && c != at {
						t.Errorf("columns begin at %d and %d", at, c)
					}
					at = c
				}
			}
		}
	}
	if columns("プール") != 6 || columns("µ—é") != 3 || columns("e\u0301") != 1 {
		t.Error("widths are not those of a terminal")
	}
}

func TestSeveralClientsHaveABlockEach(t *testing.T) {
	ms := map[string]results.Metric{}
	for _, c := range []string{"near", "far"} {
		ms[c+".latency.p50"] = results.Metric{Value: 0.01, Unit: "s", N: 1}
		ms[c+"_host.handshakes.rate"] = results.Metric{Value: 3, Unit: "1/s", N: 1}
	}
	ms["server.sockets.syn_recv.max"] = results.Metric{Value: 9, Unit: "1", N: 1}
	r := &results.Run{Arms: map[string]results.Arm{"base": {Baseline: true, Metrics: ms, Trials: []results.Trial{{Number: 1, Arm: "base", Agents: []results.Agent{
		{Name: "near", Role: "client", Host: "near_host"}, {Name: "far", Role: "client", Host: "far_host"}, {Name: "server", Role: "server", Host: "server"}}}}}}}
	tb := newTable(r)
	var titles []string
	for _, b := range tb.blocks {
		titles = append(titles, b.title)
		if len(b.rows) == 0 {
			t.Errorf("block %s is empty", b.title)
		}
	}
	if got := strings.Join(titles, "; "); got != "client near on near_host; client far on far_host; other hosts" {
		t.Error(got)
	}
	if !strings.Contains(Table(r), "SYN-RECV, most (server)") {
		t.Error("the server's own row is missing")
	}
}

func TestMetricThatAnExpectationNamesHasARow(t *testing.T) {
	r := &results.Run{
		Arms:         map[string]results.Arm{"base": {Baseline: true, Metrics: map[string]results.Metric{"client.service.p90": {Value: 0.01, Unit: "s", N: 1}, "link>server.lost": {Value: 0, Unit: "1", N: 1}, "client.detect.time@forget": {Value: 924.6, Unit: "s", N: 1}}}},
		Expectations: map[string]results.Expectation{"a": {That: "base.service.p90 < 3ms and base.lost == 0 and base.detect.time@forget in 800s..1100s"}},
	}
	s := Table(r)
	for _, want := range []string{"service.p90", "lost on the wire (link>server)", "detected after (forget)", "924.6 s"} {
		if !strings.Contains(s, want) {
			t.Errorf("no %q in\n%s", want, s)
		}
	}
}

func TestServerThatClosesFirstShowsItsTimeWaits(t *testing.T) {
	s := Table(makeAwful(t, t.TempDir()))
	if !strings.Contains(s, "TIME-WAIT, most (server)") {
		t.Errorf("the server's TIME-WAITs are missing:\n%s", s)
	}
}

func TestSeveralTrialsShowTheirRange(t *testing.T) {
	r := &results.Run{Arms: map[string]results.Arm{"base": {Baseline: true, Metrics: map[string]results.Metric{"client.latency.p50": {Value: 0.0112, Low: 0.011, High: 0.0115, Unit: "s", N: 10}}}}}
	if c := newTable(r).blocks[0].rows[0].cells[0]; c.spread != "11.0 ms … 11.5 ms" {
		t.Errorf("%+v", c)
	}
}

func TestSummaryMarksEveryOutcome(t *testing.T) {
	s := Summary(makeAwful(t, t.TempDir()), "here/report.html")
	for _, want := range []string{
		"awful: inconclusive: two expectations", "asked for profile full on the virtual clock", "✓ claim_0", "✗ claim_1", "? claim_2", "? claim_3", "– claim_4", "– claim_5",
		"(a value is missing)", "(not reached)", "(not asked)", "holds in 2 of 3 trials", "✗ knee   predicted  2.560 s, measured 2.900 s (+13%; within 5%)", "measured —",
		"arm fastopen was not run: the kernel lacks", "trial 3 (tw_reuse): 97.2%", "! pooled: its pool", "Report: here/report.html",
	} {
		if !strings.Contains(s, want) {
			t.Errorf("no %q in\n%s", want, s)
		}
	}
	if strings.Contains(Summary(&results.Run{Experiment: "x", Verdict: results.Pass}, ""), "Report:") {
		t.Error("a report that is nowhere is named")
	}
}

func TestSomeonesHeadingsGoBelowTheReports(t *testing.T) {
	got := demoted("# A\r\n\n```\n# code\n```\n###### F\n", 2)
	if got != "### A\n\n```\n# code\n```\n###### F" {
		t.Errorf("%q", got)
	}
}

func TestCommandCanBePasted(t *testing.T) {
	if got := shell([]string{"tcplab", "run", "churn", "--set", "a=don't", ""}); got != `tcplab run churn --set 'a=don'\''t' ''` {
		t.Error(got)
	}
}

func TestOwnerOfAMetricMayHoldDots(t *testing.T) {
	for key, want := range map[string][2]string{
		"client.latency.p50": {"client", "latency.p50"}, "a.b.errors.EPIPE": {"a.b", "errors.EPIPE"}, "link>server.lost": {"link>server", "lost"},
		"c.detect.time@f": {"c", "detect.time@f"}, "h.snmp.TCPTimeouts": {"h", "snmp.TCPTimeouts"}, "x.unknown": {"x", "unknown"},
	} {
		if o, m := splitMetric(key); o != want[0] || m != want[1] {
			t.Errorf("%s: %q, %q", key, o, m)
		}
	}
	for path, want := range map[string]string{"arm.latency.p50": "latency.p50", "arm.client.latency.p50": "latency.p50", "arm.errors.EPIPE": "errors.EPIPE", "arm.detect.time@f": "detect.time@f"} {
		if m := metricOf(path); m != want {
			t.Errorf("%s: %q", path, m)
		}
	}
}

func TestClassOfErrorsThatAClientNeverSawIsZero(t *testing.T) {
	r := &results.Run{Arms: map[string]results.Arm{
		"base": {Baseline: true, Metrics: map[string]results.Metric{"c.requests.failed": {Value: 7, Unit: "1", N: 1}, "c.errors.EPIPE": {Value: 7, Unit: "1", N: 1}}},
		"a":    {Position: 1, Metrics: map[string]results.Metric{"c.requests.failed": {Value: 0, Unit: "1", N: 1}}},
		"b":    {Position: 2, Metrics: map[string]results.Metric{"c.requests.ok": {Value: 3, Unit: "1", N: 1}}},
	}}
	for _, row := range newTable(r).blocks[0].rows {
		if row.metric == "c.errors.EPIPE" && row.cells[0].value == "7" && row.cells[1].value == "0" && row.cells[2].value == none {
			return
		}
	}
	t.Errorf("who counted failures saw none of the class; who counted nothing has a dash:\n%s", Table(r))
}

func TestProgramWithoutEventsHasNoRowsOfDashes(t *testing.T) {
	r := &results.Run{Arms: map[string]results.Arm{"base": {Baseline: true, Metrics: map[string]results.Metric{"client.handshakes.rate": {Value: 20, Unit: "1/s", N: 1}, "server.sockets.time_wait.max": {Value: 20, Unit: "1", N: 1}},
		Trials: []results.Trial{{Number: 1, Arm: "base", Agents: []results.Agent{{Name: "curl", Role: "client", Kind: "exec", Host: "client"}, {Name: "python", Role: "server", Kind: "exec", Host: "server"}}}}}}}
	s := Table(r)
	if strings.Contains(s, "latency") || !strings.Contains(s, "20.0/s") || !strings.Contains(s, "TIME-WAIT, most (server)  20") {
		t.Error(s)
	}
}

func TestCountersOfAWireThatStayedZeroAreOneLine(t *testing.T) {
	v := newWireView(results.Wire{Kind: "userspace", Directions: map[string]map[string]int64{"a>b": {"in": 3, "lost": 0, "overflowed": 0, "ring_dropped": 0, "corrupted": 2}, "b>a": {"in": 1, "overflowed": 0}}})
	if got := strings.Join(v.counters, " "); got != "in lost corrupted" {
		t.Error(got)
	}
	if !strings.Contains(v.about, "0 in both directions: overflowed, ring dropped") {
		t.Error(v.about)
	}
	if got := strings.Join(v.rows[1].values, " "); got != "1 — —" {
		t.Errorf("what a direction did not count is %q", got)
	}
}

func TestTitleNamesTheHostThatKeepsTheTimeWaits(t *testing.T) {
	r := &results.Run{Arms: map[string]results.Arm{"base": {Baseline: true, Metrics: map[string]results.Metric{"client.sockets.time_wait.max": {Value: 0, Unit: "1", N: 1}, "server.sockets.time_wait.max": {Value: 20, Unit: "1", N: 1}}}}}
	b := builder{r: r, ps: []program{{"curl", "client"}}, hs: []string{"client", "server"}, arms: []measured{{name: "base"}}}
	if got := b.timeWaitTitle([]float64{20}); got != "base holds up to 20 sockets in TIME-WAIT on server" {
		t.Error(got)
	}
}
