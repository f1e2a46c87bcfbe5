package plots

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"tcplab/results"
)

// backoff is a chain as Linux sends it at HZ 250: a tail loss probe when the
// RTO is due, then n timeouts, each late by the same share of its granule.
func backoff(n int, late float64) results.Chain {
	c := results.Chain{Kind: results.ChainRTO, Flow: "10.77.1.1:40000>10.77.1.2:7", Host: "client", Peer: "server", Fault: "fault vanish: blackhole", Since: 3, From: 4}
	at, rto := c.From, .22
	for i := range n + 1 {
		gap := min(rto, results.RTOMax)
		gap += .004 + late*(results.WheelGranule(gap, 250)-.004)
		at += gap
		c.Steps = append(c.Steps, results.ChainStep{At: at, Gap: gap, Frame: 10 + i})
		if i > 0 {
			rto *= 2
		}
	}
	c.Predict(250, results.RTOMax)
	return c
}

func probes(idle, interval float64, n int) results.Chain {
	c := results.Chain{Kind: results.ChainKeepalive, Flow: "10.77.1.1:40000>10.77.1.2:7", Host: "client", Peer: "server", Since: 3, From: 2}
	at := c.From
	for i := range n {
		gap := interval
		if i == 0 {
			gap = idle
		}
		gap += results.WheelGranule(gap, 250) / 2
		at += gap
		c.Steps = append(c.Steps, results.ChainStep{At: at, Gap: gap})
	}
	c.PredictKeepalive(250, idle, interval)
	return c
}

// makeSlow is a run on the virtual clock whose peer vanishes.
func makeSlow(t testing.TB, dir string) *results.Run {
	t.Helper()
	r := &results.Run{
		Schema: results.Schema, Experiment: "hang", Question: "How long does a hang last?", Verdict: results.Pass, Because: "all 2 claims hold",
		Asked: results.Mode{Profile: "full", Kernel: "guest", Clock: "virtual"}, Ran: results.Mode{Profile: "full", Kernel: "guest", Clock: "virtual"},
		Digest: "sha256:00", Seeds: results.Seeds{Run: 1, Pairs: []uint64{7}},
		Environment: results.Environment{Kernel: "6.12.117", KernelPlace: "guest", Clock: "virtual", CPUs: 1, CPU: "AMD EPYC", GuestKernel: "82c7bd57eb79", HZ: 250, Faster: 698.9},
		Arms:        map[string]results.Arm{}, Evidence: map[string]results.Evidence{"again": {Arm: "default", Show: "retransmissions"}},
	}
	for i, name := range []string{"default", "retries2", "keepalive", "expiry"} {
		tr := results.Trial{Number: i + 1, Arm: name, Pair: 1, Seed: 7, Dir: fmt.Sprintf("trials/%d-%s-7", i+1, name), Duration: 1100, Validity: results.Validity{Valid: true},
			Agents:  []results.Agent{{Name: "client", Role: "client", Kind: "echo", Host: "client"}},
			Metrics: map[string]results.Quantity{}, Faults: []results.Fault{{Name: "vanish", At: 3, On: "wire", Do: "blackhole"}}}
		var series []results.Series
		series = append(series, results.Series{Name: "client.ok", Unit: "1", T: []float64{0, 1, 2, 1000, 1001}, V: []float64{1, 1, 1, 2, 2}})
		series = append(series, results.Series{Name: "client.latency.p50", Unit: "s", T: []float64{0, 10, 20, 30, 1000, 1010}, V: []float64{.02, .02, .021, .02, 3, .02}})
		switch name {
		case "default":
			tr.Chains = []results.Chain{backoff(2, .5), backoff(15, .5)}
			l := ladderBlackhole()
			l.Marks = []results.LadderMark{{At: .2, Text: "fault vanish: blackhole"}}
			tr.Ladders = map[string]results.Ladder{"again": l}
			series = append(series, results.Series{Name: "client.queue.depth", Unit: "1", T: []float64{0, 10, 100, 950}, V: []float64{0, 5, 97, 947}})
		case "retries2":
			tr.Chains = []results.Chain{backoff(8, .9)}
		case "keepalive":
			tr.Chains = []results.Chain{probes(7200, 75, 9)}
		case "expiry":
			opened := results.Series{Name: "client.opened", Unit: "1"}
			for k := range 11 {
				opened.T, opened.V = append(opened.T, float64(k)*43201.2+.3*math.Sin(float64(k))), append(opened.V, 1)
			}
			series = append(series, opened)
		}
		keepSamples(t, dir, &tr, series)
		r.Arms[name] = results.Arm{Position: i, Baseline: i == 0, Trials: []results.Trial{tr}}
	}
	return r
}

func TestSlowFailuresAreDrawnAlikeEachTime(t *testing.T) {
	draws := func(dir string) map[string][]byte {
		if err := draw(dir, makeSlow(t, dir), "", true); err != nil {
			t.Fatal(err)
		}
		return written(t, dir)
	}
	files, twice := draws(t.TempDir()), draws(t.TempDir())
	for name, data := range files {
		if !bytes.Equal(data, twice[name]) {
			t.Errorf("%s differs from draw to draw", name)
		}
	}
	for _, name := range []string{"chain", "keepalive", "reconnects", "queue", "latency-over-time", "completed"} {
		for _, kind := range []string{".svg", ".png"} {
			if len(files["figures/"+name+kind]) == 0 {
				t.Errorf("no figures/%s%s", name, kind)
			}
		}
	}
	golden(t, "slow.chain.svg", withoutFonts(files["figures/chain.svg"]))
	golden(t, "slow.reconnects.svg", withoutFonts(files["figures/reconnects.svg"]))
	golden(t, "slow.ladder.svg", withoutFonts(files["figures/ladder-again.svg"]))
	golden(t, "slow.report.md", files["report.md"])
}

func TestReportOfASlowFailureSaysWhatWasFound(t *testing.T) {
	dir := t.TempDir()
	files := report(t, dir, makeSlow(t, dir), "")
	for _, name := range []string{"report.md", "report.html"} {
		text := strings.ReplaceAll(string(files[name]), "\u00a0", " ")
		for _, want := range []string{
			"default sends 15 retransmissions in", "every one within a granule of the timer wheel",
			"9 keepalive probes in", "drifts, ", "a timer that starts with the connection",
			"time since the fault vanish", "tail loss probe", "HZ 250", "699 guest seconds a wall second", "to the bit: the same seed",
			"Longest queue: default 947",
		} {
			if name == "report.md" && want == "time since the fault vanish" {
				text += string(files["figures/queue.svg"])
			}
			if !strings.Contains(text, want) {
				t.Errorf("%s does not say %q", name, want)
			}
		}
	}
}

func TestChainBeyondItsPredictionIsTold(t *testing.T) {
	dir := t.TempDir()
	r := makeSlow(t, dir)
	c := &r.Arms["default"].Trials[0].Chains[1]
	c.Steps[9].Gap *= 1.5
	files := report(t, dir, r, "")
	md := string(files["report.md"])
	if !strings.Contains(md, "1 beyond what the timer wheel allows") || !strings.Contains(md, "✗ |") {
		t.Error("a step far off is not told")
	}
}

// Everyday loss makes no figure of its own, and a short trial without a fault
// keeps its axes.
func TestShortChainsMakeNoFigure(t *testing.T) {
	b := builder{r: &results.Run{}, arms: []measured{{name: "a", trial: results.Trial{Chains: []results.Chain{backoff(1, .5)}}}}}
	if c, ok := b.rtoChains(); ok {
		t.Errorf("%+v", c)
	}
}

func TestHappeningIsAtOneHeightForBothHosts(t *testing.T) {
	l := ladderBlackhole()
	l.Marks = []results.LadderMark{{At: .2, Text: "fault vanish: blackhole"}, {At: 20, Text: "end of fault vanish: blackhole"}}
	n := 0
	for _, p := range layLadder(l).packets {
		if p.happening {
			n++
			if p.y0 != p.y1 {
				t.Errorf("%q from %v to %v", p.Label, p.y0, p.y1)
			}
		}
	}
	if n != 2 {
		t.Errorf("%d happenings", n)
	}
	if alt := layLadder(l).alt(); !strings.Contains(alt, ": 11 packets in") {
		t.Error(alt)
	}
}

func TestLongTimesHaveTicksOfAClock(t *testing.T) {
	for _, c := range []struct {
		lo, hi float64
		want   string
	}{
		{0, 1100, "0 5 min 10 min 15 min"}, {-3, 8000, "0 30 min 60 min 90 min 120 min"}, {0, 43250, "0 3 h 6 h 9 h 12 h"},
		{0, 5 * 86400, "0 1 d 2 d 3 d 4 d 5 d"}, {0, 100 * 86400, "0 28 d 56 d 84 d"},
	} {
		var got []string
		for _, tick := range (ticker{elapsed, 6}).Ticks(c.lo, c.hi) {
			got = append(got, tick.Label)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%v to %v: %q, want %q", c.lo, c.hi, s, c.want)
		}
	}
}

func TestWhatAVirtualClientDidNotSayWasNothing(t *testing.T) {
	b := builder{r: &results.Run{Environment: results.Environment{Clock: "virtual"}}}
	_, y := perSecond(b.whole(results.Series{T: []float64{0, 1, 900, 901}, V: []float64{5, 5, 5, 5}}), .5)
	zeros := 0
	for _, v := range y {
		if v == 0 {
			zeros++
		}
	}
	if zeros < len(y)-4 {
		t.Errorf("%d of %d bins are zero", zeros, len(y))
	}
	b.r.Environment.Clock = "real"
	if s := b.whole(results.Series{T: []float64{0, 900}, V: []float64{5, 5}}); len(s.T) != 2 {
		t.Errorf("%+v", s)
	}
}
