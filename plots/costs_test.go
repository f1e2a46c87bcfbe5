package plots

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tcplab/results"
)

// price makes a run a ladder.
func price(r *results.Run, arm, costs string) {
	a := r.Arms[arm]
	a.Costs = costs
	r.Arms[arm] = a
}

func TestArmsThatSayWhatTheyCostHaveATableOfTheirOwn(t *testing.T) {
	dir := t.TempDir()
	r := makeRun(t, dir, quickArms)
	const costs = "A release of the client | and a retry, of which this sentence is long enough to be wrapped on a terminal."
	price(r, "pooled", costs)
	if err := draw(dir, r, "", false); err != nil {
		t.Fatal(err)
	}
	md := read(t, dir, MarkdownFile)
	page := read(t, dir, HTMLFile)
	for _, want := range []string{"## " + ladderTitle, "| 1 | `pooled` | ", "client \\| and a retry", "CPU/request"} {
		if !strings.Contains(md, want) {
			t.Errorf("report.md does not have %q", want)
		}
	}
	for _, want := range []string{`id="h-ladder"`, "client | and a retry", `data-label="TIME-WAIT"`, `id="fig-ladder-completed"`, `id="fig-ladder-latency"`} {
		if !strings.Contains(page, want) {
			t.Errorf("report.html does not have %q", want)
		}
	}
	for _, l := range strings.Split(Table(r), "\n") {
		if columns(l) > terminal {
			t.Errorf("%d columns: %s", columns(l), l)
		}
	}
	if out := Table(r); !strings.Contains(out, "1 pooled") || !strings.Contains(out, "    A release") || strings.Contains(out, "1 per_request") {
		t.Errorf("the terminal says\n%s", out)
	}
}

func TestRunsWithoutAPriceAreDrawnWithoutIt(t *testing.T) {
	dir := t.TempDir()
	r := makeRun(t, dir, quickArms)
	if err := draw(dir, r, "", false); err != nil {
		t.Fatal(err)
	}
	if s := read(t, dir, MarkdownFile) + read(t, dir, HTMLFile); strings.Contains(s, ladderTitle) || strings.Contains(s, "ladder-completed") {
		t.Error("a ladder where no arm says what it costs")
	}
}

// What a ladder cannot know it shows as a gap, and it never fails for it.
func TestLadderOfArmsWithoutMetrics(t *testing.T) {
	r := &results.Run{Arms: map[string]results.Arm{
		"a": {Baseline: true}, "b": {Position: 1, Costs: "much"}, "c": {Position: 2, Unsupported: "no such kernel"},
	}}
	l, ok := newFixLadder(r)
	if !ok || len(l.rows) != 3 || l.rows[1].place != "1" || l.rows[2].place != "2" || l.rows[1].cells[0].value != none {
		t.Errorf("%+v", l)
	}
	if _, ok := (builder{r: r}).ladderCompleted(); ok {
		t.Error("bars of nothing")
	}
}

func TestBarsStateWhoCompletesWhat(t *testing.T) {
	dir := t.TempDir()
	r := makeRun(t, dir, quickArms)
	price(r, "pooled", "something")
	arms, _ := load(dir, r)
	b := builder{r: r, arms: arms, ps: programs(r), hs: hosts(r)}
	c, ok := b.ladderCompleted()
	if !ok || len(c.bars) != 2 || !strings.HasPrefix(c.title, "per_request completes ") || !strings.HasSuffix(c.title, "% of the load; pooled all") {
		t.Errorf("%v %q", ok, c.title)
	}
	if c, ok = b.ladderLatency(); !ok || !strings.HasPrefix(c.title, "Median latency: pooled ") {
		t.Errorf("%v %q", ok, c.title)
	}
	for _, s := range []size{sizeFile, sizeWide, sizePhone} {
		if _, err := c.svg(s); err != nil {
			t.Error(err)
		}
	}
}

func TestLeakIsDrawnWhereTheExperimentSpeaksOfIt(t *testing.T) {
	r := &results.Run{Arms: map[string]results.Arm{
		"leaking": {Baseline: true, Metrics: map[string]results.Metric{
			"server.sockets.close_wait.max": {Value: 154, Unit: "1", N: 1}, "server.accept.failed.time": {Value: 3.2, Unit: "s", N: 1}, "client.first.deadline": {Value: 5.7, Unit: "s", N: 1},
		}},
	}, Expectations: map[string]results.Expectation{}}
	b := builder{r: r, ps: []program{{name: "client", host: "client"}}, hs: []string{"server"}, arms: []measured{{name: "leaking", series: map[string]results.Series{
		"server.sockets.close_wait": {T: []float64{0, 1, 2}, V: []float64{0, 50, 154}},
		"server.descriptors":        {T: []float64{0, 1, 2}, V: []float64{12, 62, 150}},
	}}}}
	if _, ok := b.closeWait(); ok {
		t.Error("drawn though nobody asked")
	}
	r.Expectations["x"] = results.Expectation{That: "leaking.server.sockets.close_wait.max > 0"}
	c, ok := b.closeWait()
	if !ok || len(c.lines) != 2 || len(c.rules) != 2 || c.title != "Most sockets in CLOSE-WAIT on server: leaking 154" {
		t.Errorf("%v %q, %d lines, %d rules", ok, c.title, len(c.lines), len(c.rules))
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
