package plots

import (
	"strings"
	"testing"

	"tcplab/results"
)

// threeArms is a chart of arms a, b and c, of which a and b do the same.
func threeArms(suffix string) (builder, chart) {
	b := builder{arms: []measured{{name: "a", index: 0}, {name: "b", index: 1}, {name: "c", index: 2}}}
	c := chart{lines: []line{
		{label: "a" + suffix, look: 0, x: []float64{0, 10}, y: []float64{100, 200}},
		{label: "b" + suffix, look: 1, x: []float64{0, 4, 10}, y: []float64{100, 140.1, 200}}, // other points of the same line
		{label: "c" + suffix, look: 2, x: []float64{0, 10}, y: []float64{100, 230}},
	}}
	return b, c
}

func labels(c chart) string {
	var out []string
	for _, l := range c.lines {
		out = append(out, l.label)
	}
	return strings.Join(out, " | ")
}

func TestLinesUponEachOtherAreOneWithAllNames(t *testing.T) {
	for suffix, want := range map[string]string{
		"":                  "a and b | c",
		", near: TIME-WAIT": "a and b (near): TIME-WAIT | c (near): TIME-WAIT",
		": CLOSE-WAIT":      "a and b: CLOSE-WAIT | c: CLOSE-WAIT",
	} {
		b, c := threeArms(suffix)
		b.unite(&c)
		if got := labels(c); got != want {
			t.Errorf("%q, not %q", got, want)
		}
		if !strings.Contains(c.caption, "drawn as one") {
			t.Error("the caption does not say so")
		}
	}
}

func TestLinesThatDifferStayApart(t *testing.T) {
	for name, change := range map[string]func(*chart){
		"one ends sooner":    func(c *chart) { c.lines[1].x, c.lines[1].y = []float64{0, 5}, []float64{100, 150} },
		"one has a peak":     func(c *chart) { c.lines[1].y[1] = 160 },
		"one is of a client": func(c *chart) { c.lines[1].label = "b, far" },
		"one is thin":        func(c *chart) { c.lines[1].thin = true },
		"one has a gap": func(c *chart) {
			c.lines[0].x, c.lines[0].y = []float64{0, 4, 10}, []float64{100, 140, 200}
			c.lines[1].x, c.lines[1].y = []float64{0, 10}, []float64{100, 200}
			c.lines[0].gap, c.lines[1].gap = 7, 7
		},
	} {
		b, c := threeArms("")
		change(&c)
		before := labels(c)
		b.unite(&c)
		if got := labels(c); got != before {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestClientsOfAnArmHaveItsColourAndAnotherDash(t *testing.T) {
	b, c := threeArms("")
	c.lines[1] = line{label: "a, far", look: 0, x: []float64{0, 10}, y: []float64{0, 0}}
	c.lines[0].label = "a, near"
	b.unite(&c)
	near, far := c.lines[0].appearance(), c.lines[1].appearance()
	if near.colour != far.colour {
		t.Error("an arm has two colours")
	}
	if len(near.dash) == len(far.dash) || near.marker == far.marker {
		t.Error("two clients of an arm look the same")
	}
}

func TestListOfArmsIsShortWhereItIsNearlyAll(t *testing.T) {
	b := builder{arms: []measured{{name: "a"}, {name: "b"}, {name: "c"}, {name: "d"}, {name: "e"}}}
	for want, names := range map[string][]string{
		"a and b":         {"a", "b"},
		"every arm":       {"a", "b", "c", "d", "e"},
		"every arm but e": {"a", "b", "c", "d"},
	} {
		if got := b.armList(names); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

func TestTitlesDoNotListWhatIsTheSame(t *testing.T) {
	r := manyArms(5)
	for _, a := range r.Arms {
		a.Metrics["c.latency.p50"] = results.Metric{Value: 0.02, Unit: "s", N: 1}
	}
	ps := []program{{"c", "c"}}
	if got := finding(r, ps, nil, "latency.p50", "median latency", ""); got != "No arm changes the median latency: 20.0 ms" {
		t.Error(got)
	}
	b := builder{r: r, ps: ps, hs: []string{"c"}}
	for _, n := range armNames(r) {
		r.Arms[n].Metrics["c.requests.offered"] = results.Metric{Value: 1234, Unit: "1", N: 1}
		r.Arms[n].Metrics["c.handshakes.count"] = results.Metric{Value: 7, Unit: "1", N: 1}
		b.arms = append(b.arms, measured{name: n})
	}
	if got := b.completedTitle(); got != "Every arm completes all of its requests" {
		t.Error(got)
	}
	if got := b.handshakesTitle(); got != "Every arm makes 7 handshakes" {
		t.Error(got)
	}
	r.Arms["arm03"].Metrics["c.requests.ok"] = results.Metric{Value: 617, Unit: "1", N: 1}
	r.Arms["arm03"].Metrics["c.handshakes.count"] = results.Metric{Value: 9, Unit: "1", N: 1}
	if got := b.completedTitle(); got != "arm00 completes all 1,234 requests; the other arms 50% to 100%" {
		t.Error(got)
	}
	if got := b.handshakesTitle(); got != "arm00 makes 7 handshakes; the other arms 7 to 9" {
		t.Error(got)
	}
}

func TestClientsAreAddedUpInTitles(t *testing.T) {
	ms := map[string]results.Metric{}
	for _, c := range []string{"near", "far"} {
		ms[c+".requests.ok"] = results.Metric{Value: 5, Unit: "1", N: 1}
		ms[c+".requests.offered"] = results.Metric{Value: 10, Unit: "1", N: 1}
		ms[c+".handshakes.count"] = results.Metric{Value: 10, Unit: "1", N: 1}
	}
	r := &results.Run{Arms: map[string]results.Arm{"a": {Baseline: true, Metrics: ms}}}
	b := builder{r: r, ps: []program{{"near", "near"}, {"far", "far"}}, hs: []string{"near", "far"}, arms: []measured{{name: "a"}}}
	if got := b.completedTitle(); got != "a completes 50% of 20 requests" {
		t.Error(got)
	}
	if got := b.handshakesTitle(); got != "a makes 20 handshakes" {
		t.Error(got)
	}
}
