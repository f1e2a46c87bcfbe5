package plots

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"tcplab/results"
)

// manyArms is a run of n arms, each with a goodput of its own, all with the
// same count of requests, and a round trip that only the last has.
func manyArms(n int) *results.Run {
	r := &results.Run{Experiment: "many", Verdict: results.Pass, Arms: map[string]results.Arm{}}
	for i := range n {
		m := map[string]results.Metric{
			"c.latency.p50": {Value: 0.01 * float64(i+1), Unit: "s", N: 1},
			"c.requests.ok": {Value: 1234, Unit: "1", N: 1},
		}
		if i == n-1 {
			m["c.connect.p50"] = results.Metric{Value: 0.077, Unit: "s", N: 1}
		}
		r.Arms[fmt.Sprintf("arm%02d", i)] = results.Arm{Position: i, Baseline: i == 0, Metrics: m, Trials: []results.Trial{{Number: i + 1, Arm: fmt.Sprintf("arm%02d", i), Validity: results.Validity{Valid: true}}}}
	}
	return r
}

func TestTableOfManyArmsIsSeveralThatFit(t *testing.T) {
	for n, want := range map[int]int{2: 1, 8: 1, 9: 2, 12: 2, 14: 3} {
		dense, same := newTable(manyArms(n)).dense()
		parts := dense.parts()
		if len(parts) != want {
			t.Errorf("%d arms are in %d tables", n, len(parts))
		}
		seen := map[string]int{}
		for _, p := range parts {
			if len(p.arms) > widest || !p.arms[0].baseline {
				t.Errorf("%d arms: a table of %d columns, the first is %s", n, len(p.arms), p.arms[0].name)
			}
			for i, a := range p.arms {
				seen[a.name]++
				for _, b := range p.blocks {
					for _, r := range b.rows {
						if len(r.cells) != len(p.arms) {
							t.Fatalf("%d arms: a row of %d cells under %d heads", n, len(r.cells), len(p.arms))
						}
						var nth int
						_, _ = fmt.Sscanf(a.name, "arm%d", &nth)
						if want := quantity(0.01*float64(nth+1), "s", 3); r.label == "latency p50" && r.cells[i].value != want {
							t.Errorf("%s has %s under it, not %s", a.name, r.cells[i].value, want)
						}
					}
				}
			}
		}
		if len(seen) != n {
			t.Errorf("of %d arms %d are in a table", n, len(seen))
		}
		if told := strings.Join(same, ", ") == "requests completed 1,234"; told != (n > few) {
			t.Errorf("%d arms: in words: %q", n, same)
		}
	}
}

func TestRowThatOneArmHasIsInItsTableAlone(t *testing.T) {
	dense, _ := newTable(manyArms(12)).dense()
	for i, p := range dense.parts() {
		found := false
		for _, r := range p.blocks[0].rows {
			found = found || r.label == "connect p50"
		}
		if found != (i == 1) {
			t.Errorf("table %d: the row is there: %v", i, found)
		}
	}
	v := newView(manyArms(12), "")
	page, err := v.html()
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(page, []byte(`<table class="compare`)); n != 2 {
		t.Errorf("the page has %d tables of before and after", n)
	}
	for name, doc := range map[string][]byte{"page": page, "markdown": v.markdown()} {
		if !bytes.Contains(doc, []byte("The same in every arm: requests completed 1,234.")) {
			t.Errorf("the %s does not say what is the same", name)
		}
	}
}

func TestNumbersAndOperatorsAreNotBroken(t *testing.T) {
	for in, want := range map[string]string{
		"a.b = 1,216":             "a.<wbr>b = 1,216",
		"x < 0.4 * y.z":           "x &lt; 0.4 * y.<wbr>z",
		"p.q == 0":                "p.<wbr>q == 0",
		"t in 0.9..1.1":           "t in 0.9..<wbr>1.1",
		"no_cookies, net.ipv4.tw": "no_<wbr>cookies, net.<wbr>ipv4.<wbr>tw",
	} {
		if got := string(wb(in)); got != want {
			t.Errorf("%q becomes %q, not %q", in, got, want)
		}
	}
}

func TestRowsHaveNamesAndNotKeys(t *testing.T) {
	for metric, want := range map[string]string{
		"accept.queue.max": "accept queue, longest", "descriptors.max": "descriptors, most", "accept.failed.time": "accept() fails after",
		"first.connect_deadline": "first connect_deadline after", "first_error.time": "first error after", "first_syns": "first SYNs",
	} {
		if got := labelOf(metric); got != want {
			t.Errorf("%s is called %q", metric, got)
		}
	}
}

func TestNumberStaysWithItsUnitWhereALineEnds(t *testing.T) {
	got := strings.Join(wrapBy("it keeps TIME-WAIT for 60 s and no more", func(l string) bool { return len(l) <= len("it keeps TIME-WAIT for 60") }), "|")
	if want := "it keeps TIME-WAIT for|60 s and no more"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestHostThatOpensNothingHasNoLine(t *testing.T) {
	rise := func(n float64) results.Series {
		var s results.Series
		for i := range 20 {
			s.T, s.V = append(s.T, float64(i)), append(s.V, n*float64(i)/19)
		}
		return s
	}
	series := map[string]results.Series{}
	for h, n := range map[string]float64{"near": 100, "far": 40, "reader": 1} {
		series[h+".handshakes"], series[h+".sockets.time_wait"], series[h+".ports.count"] = rise(n), rise(n), rise(n)
	}
	locked := map[string]results.Series{"near.handshakes": rise(100), "near.sockets.time_wait": rise(0), "near.ports.count": rise(9)}
	absent := map[string]results.Series{"near.handshakes": rise(0), "near.sockets.time_wait": rise(0), "near.ports.count": rise(0)}
	b := builder{r: &results.Run{Arms: map[string]results.Arm{"a": {Baseline: true}, "b": {Position: 1}, "c": {Position: 2}, "d": {Position: 3}}},
		ps: []program{{"near", "near"}, {"far", "far"}, {"get", "reader"}}, hs: []string{"near", "far", "reader"},
		arms: []measured{{name: "a", series: series}, {name: "b", index: 1, series: locked}, {name: "c", index: 2, series: absent}, {name: "d", index: 3, series: series}}}
	for want, make := range map[string]func() (chart, bool){
		"a (near) | a (far) | b (near) | d (near) | d (far)":                                                        b.handshakes,
		"a (near): TIME-WAIT | a (far): TIME-WAIT | b (near): TIME-WAIT | d (near): TIME-WAIT | d (far): TIME-WAIT": b.timeWait,
	} {
		c, ok := make()
		if got := labels(c); !ok || got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

func TestPageBearsTheFontThatItsDrawingsWereMeasuredIn(t *testing.T) {
	dir := t.TempDir()
	r := makeRun(t, dir, quickArms)
	v := newView(r, "")
	v.evidence = drawEvidence(r, map[string][]byte{})
	page, err := v.html()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"font-src data:", "@font-face", "font-style:italic;src:url(data:font/ttf;base64,", "font-weight:bold;font-style:normal;src:url(data:"} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("no %q in the page", want)
		}
	}
}
