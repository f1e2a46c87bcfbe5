package plots

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tcplab/results"
)

// sawtooth is a flow whose window grows by a segment a step and is halved at
// the top.
func sawtooth(low, high float64, n int) (t, v []float64) {
	w := low
	for i := range n {
		t, v = append(t, float64(i)/10), append(v, w)
		if w++; w > high {
			w = high / 2
		}
	}
	return t, v
}

func scaledBy(v []float64, f float64) []float64 {
	out := make([]float64, len(v))
	for i := range v {
		out[i] = v[i] * f
	}
	return out
}

// keepFlow writes a trial of flows into dir; flows are a window's low and high
// by client.
func keepFlow(t testing.TB, dir string, tr *results.Trial, flows map[string][2]float64) {
	t.Helper()
	var series []results.Series
	for _, name := range sortedKeys(flows) {
		at, w := sawtooth(flows[name][0], flows[name][1], 80)
		rate := scaledBy(w, 1448*8/.04)
		acked := make([]float64, len(w))
		for i := 1; i < len(w); i++ {
			acked[i] = acked[i-1] + rate[i]/80
		}
		for _, s := range []struct {
			name, unit string
			v          []float64
		}{
			{"tcp.cwnd", "1", w}, {"tcp.pacing", "bit/s", scaledBy(rate, 1.2)}, {"tcp.delivery", "bit/s", rate}, {"tcp.acked", "B", acked},
			{"tcp.rtt", "s", scaledBy(w, .0001)}, {"tcp.resent", "1", scaledBy(at, flows[name][1])},
		} {
			series = append(series, results.Series{Name: name + "." + s.name, Unit: s.unit, T: at, V: s.v})
		}
		if strings.Contains(tr.Arm, "bbr") {
			series = append(series, results.Series{Name: name + ".tcp.bbr.bandwidth", Unit: "bit/s", T: at, V: rate})
		}
		tr.Agents = append(tr.Agents, results.Agent{Name: name, Role: "client", Kind: "bulk", Host: "client"})
		tr.Metrics[name+".goodput"] = results.Quantity{Value: median(rate), Unit: "bit/s"}
		tr.Metrics[name+".tcp.cwnd.p50"] = results.Quantity{Value: median(w), Unit: "1"}
		tr.Metrics[name+".tcp.resent"] = results.Quantity{Value: flows[name][1] * 8, Unit: "1"}
		tr.Metrics[name+".latency.p50"] = results.Quantity{Value: .1, Unit: "s"} // of a write(): says nothing
		if strings.Contains(tr.Arm, "bbr") {
			tr.Metrics[name+".tcp.bbr.bandwidth.p50"] = results.Quantity{Value: median(rate), Unit: "bit/s"}
		}
	}
	keepSamples(t, dir, tr, series)
}

// keepSamples writes what a trial that only has series leaves behind.
func keepSamples(t testing.TB, dir string, tr *results.Trial, series []results.Series) {
	t.Helper()
	for _, s := range series {
		tr.Columns = append(tr.Columns, s.Column())
	}
	var samples, hlog bytes.Buffer
	err := errors.Join(results.WriteSamples(&samples, series), results.WriteHistograms(&hlog, results.Histograms{}),
		os.MkdirAll(filepath.Join(dir, tr.Dir), 0o777))
	for name, data := range map[string][]byte{results.SamplesFile: samples.Bytes(), results.HistogramFile: hlog.Bytes()} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, tr.Dir, name), data, 0o666))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func newFlowRun() *results.Run {
	return &results.Run{
		Schema: results.Schema, Experiment: "flows", Question: "What does a loss cost?", Verdict: results.Pass, Because: "all 1 claims hold",
		Ran: results.Mode{Profile: "full", Kernel: "guest", Clock: "virtual"}, Asked: results.Mode{Profile: "full", Kernel: "guest", Clock: "virtual"},
		Seeds: results.Seeds{Run: 1, Pairs: []uint64{7}}, Environment: results.Environment{Clock: "virtual", KernelPlace: "guest"},
		Arms: map[string]results.Arm{}, Predictions: map[string]results.Prediction{},
		Expectations: map[string]results.Expectation{"collapses": {That: "cubic.goodput < 25% * bandwidth", Holds: results.HoldsYes}},
	}
}

// addFlows puts one trial of an arm into r.
func addFlows(t testing.TB, dir string, r *results.Run, arm string, flows map[string][2]float64) {
	t.Helper()
	n := len(r.Arms)
	tr := results.Trial{Number: n + 1, Arm: arm, Pair: 1, Seed: 7, Dir: fmt.Sprintf("trials/%d", n+1), Warmup: 1, Duration: 7,
		Validity: results.Validity{Valid: true}, Metrics: map[string]results.Quantity{}}
	keepFlow(t, dir, &tr, flows)
	a := results.Arm{Position: n, Baseline: n == 0, Trials: []results.Trial{tr}}
	if base, point, ok := strings.Cut(arm, "["); ok {
		key, v, _ := strings.Cut(strings.TrimSuffix(point, "]"), "=")
		a.Baseline = base == "cubic"
		a.Point = []results.Coordinate{{Axis: key, Value: v}}
	}
	a.Summarise()
	r.Arms[arm] = a
}

func makeFlows(t testing.TB, dir string) *results.Run {
	r := newFlowRun()
	addFlows(t, dir, r, "cubic", map[string][2]float64{"flow": {8, 16}})
	addFlows(t, dir, r, "bbr", map[string][2]float64{"flow": {600, 700}})
	addFlows(t, dir, r, "share_bbr", map[string][2]float64{"flow": {500, 600}, "rival": {40, 80}})
	return r
}

func TestEachSignalOfAFlowHasItsFigure(t *testing.T) {
	dir := t.TempDir()
	files := report(t, dir, makeFlows(t, dir), "")
	for _, name := range []string{"cwnd", "pacing", "delivery", "resent", "rtt", "goodput", "bbr-bandwidth"} {
		if len(files["figures/"+name+".svg"]) == 0 {
			t.Errorf("no figure %s", name)
		}
	}
	for _, name := range []string{"ssthresh", "bbr-minrtt", "latency", "completed", "handshakes"} {
		if len(files["figures/"+name+".svg"]) > 0 {
			t.Errorf("a figure %s of what was not measured", name)
		}
	}
	md := string(files["report.md"])
	for _, want := range []string{"bbr raises the median congestion window by a factor of 5", "Bandwidth that BBR believes in: bbr 1", "| segments sent again |"} {
		if !strings.Contains(strings.ReplaceAll(md, "\u00a0", " "), want) {
			t.Errorf("the report does not say %q", want)
		}
	}
	if strings.Contains(md, "latency p50") || strings.Contains(md, "requests completed") {
		t.Error("a flow is given requests that it never made")
	}
	cwnd := string(files["figures/cwnd.svg"])
	for _, want := range []string{"share_bbr (rival)", "measuring begins", "congestion window, segments"} {
		if !strings.Contains(cwnd, want) {
			t.Errorf("the window's figure does not say %q", want)
		}
	}
	golden(t, "flows.cwnd.svg", withoutFonts(files["figures/cwnd.svg"]))
}

// mathisRate is the model in units of the fixture.
func mathisRate(loss float64) float64 { return 1448 * 8 / .04 * math.Sqrt(1.5/loss) }

func makeSweep(t testing.TB, dir string) *results.Run {
	r := newFlowRun()
	r.Expectations = map[string]results.Expectation{"falls": {That: "cubic[loss=5%].goodput < cubic[loss=0].goodput", Holds: results.HoldsYes}}
	point := func(axis, value string, x, rtt, cubic, bbr float64) {
		for _, a := range []struct {
			arm string
			w   float64
		}{{"cubic", cubic}, {"bbr", bbr}} {
			name := fmt.Sprintf("%s[%s=%s]", a.arm, axis, value)
			addFlows(t, dir, r, name, map[string][2]float64{"flow": {a.w, a.w}})
			arm := r.Arms[name]
			arm.Numbers = map[string]results.Quantity{"loss": {Value: x, Unit: "share"}, "rtt": {Value: rtt, Unit: "s"}}
			r.Arms[name] = arm
		}
		if x > 0 && axis == "loss" {
			of := fmt.Sprintf("cubic[loss=%s].goodput", value)
			r.Predictions["loss_"+value] = results.Prediction{Position: len(r.Predictions), Of: of, Is: "mathis(" + value + ", rtt)", Value: mathisRate(x), Unit: "bit/s"}
		}
	}
	for _, p := range []struct {
		text string
		x    float64
	}{{"0", 0}, {"0.1%", .001}, {"1%", .01}, {"5%", .05}} {
		w := 330.0
		if p.x > 0 {
			w = 1.1 * math.Sqrt(1.5/p.x)
		}
		point("loss", p.text, p.x, .04, math.Round(w), 330)
	}
	for _, d := range []float64{5, 20, 100} {
		point("delay", fmt.Sprintf("%gms", d), .01, 2*d/1e3, math.Round(600/d), 330)
	}
	return r
}

func TestSweepIsDrawnAgainstItsModel(t *testing.T) {
	dir := t.TempDir()
	r := makeSweep(t, dir)
	files := report(t, dir, r, "")
	loss, delay := string(files["figures/sweep-loss-goodput.svg"]), string(files["figures/sweep-delay-goodput.svg"])
	if loss == "" || delay == "" {
		t.Fatalf("figures: %v", sortedKeys(files))
	}
	if len(files["figures/cwnd.svg"]) > 0 {
		t.Error("every point of a sweep over time")
	}
	for _, want := range []string{"what the Mathis model allows", ">0.1%<", ">0<", ">5%<", "share of packets lost at random", "goodput, Mbit/s"} {
		if !strings.Contains(loss, want) {
			t.Errorf("goodput over loss does not say %q", want)
		}
	}
	for _, want := range []string{">10 ms<", ">200 ms<", "round trip of the wire"} {
		if !strings.Contains(strings.ReplaceAll(delay, "\u00a0", " "), want) {
			t.Errorf("goodput over delay does not say %q", want)
		}
	}
	golden(t, "sweep.loss.svg", withoutFonts(files["figures/sweep-loss-goodput.svg"]))
	md := strings.ReplaceAll(string(files["report.md"]), "\u00a0", " ")
	for _, want := range []string{
		"# flows: cubic gets 0.78 to 0.82 times what the Mathis model allows",
		"| share of packets lost at random | cubic | predicted | cubic ÷ predicted | bbr |",
		"bbr keeps 59.2 Mbit/s from 0 to 5%", "**goodput against round trip of the wire (twice its delay)**", "0 has a place of its own",
	} {
		if !strings.Contains(md, want) {
			t.Errorf("the report does not say %q:\n%.300s", want, md)
		}
	}
}

func TestPointWithoutAValueIsAGap(t *testing.T) {
	dir := t.TempDir()
	r := makeSweep(t, dir)
	a := r.Arms["cubic[loss=1%]"]
	a.Trials, a.Metrics = nil, nil
	r.Arms["cubic[loss=1%]"] = a
	for _, s := range sweeps(r) {
		c, ok := s.chart()
		if !ok {
			t.Fatal("no chart")
		}
		for _, l := range c.lines {
			for i := range l.y {
				if l.y[i] <= 0 || math.IsNaN(l.y[i]) {
					t.Errorf("%s: a point at %v", l.label, l.y[i])
				}
			}
		}
		if s.key != "loss" {
			continue
		}
		_, rows := s.rows()
		if len(rows) != 4 || rows[2][1] != none || rows[2][2] == none || rows[2][3] != none {
			t.Errorf("rows %q", rows)
		}
	}
}
