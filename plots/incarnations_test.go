package plots

import (
	"strings"
	"testing"

	"tcplab/results"
)

func succession(arms map[string]float64, refused string) *results.Run {
	r := &results.Run{Experiment: "again", Arms: map[string]results.Arm{}}
	n := 0
	for _, name := range []string{"a", "b", "c"} {
		stale, ok := arms[name]
		if !ok {
			continue
		}
		n++
		m := map[string]results.Metric{}
		for k, q := range map[string]results.Quantity{
			"client.incarnation.bytes": {Value: 12e6, Unit: "B"}, "client.incarnation.connect": {Value: .002, Unit: "s"},
			"client.incarnation.written": {Value: 6e6, Unit: "B"}, "server.incarnation.read": {Value: 6e6, Unit: "B"},
			"server.stale.bytes": {Value: stale, Unit: "B"}, "client.handshakes.count": {Value: 2, Unit: "1"}, "client.requests.ok": {Unit: "1"},
		} {
			m[k] = results.Metric{Value: q.Value, Unit: q.Unit, N: 1}
		}
		if name == refused {
			m["client.errors.ETIMEDOUT"] = results.Metric{Value: 1, Unit: "1", N: 1}
		}
		r.Arms[name] = results.Arm{Position: n, Baseline: n == 1, Metrics: m, Trials: []results.Trial{{Number: n, Arm: name, Validity: results.Validity{Valid: true},
			Agents: []results.Agent{{Name: "client", Role: "client", Kind: "incarnations", Host: "client"}, {Name: "server", Role: "server", Kind: "sink", Host: "server"}}}}}
	}
	return r
}

func TestTwoIncarnationsHaveRowsOfTheirOwn(t *testing.T) {
	tab := newTable(succession(map[string]float64{"a": 1460, "b": 0}, "b"))
	var labels []string
	for _, b := range tab.blocks {
		for _, r := range b.rows {
			labels = append(labels, r.label)
		}
	}
	text := strings.Join(labels, "\n")
	for _, want := range []string{"first connection, each way", "second connect()", "ETIMEDOUT", "read from it", "of these, bytes of the first one"} {
		if !strings.Contains(text, want) {
			t.Errorf("no row %q among\n%s", want, text)
		}
	}
	for _, not := range []string{"latency p50", "requests completed", "handshakes"} {
		if strings.Contains(text, not) {
			t.Errorf("a row %q among\n%s", not, text)
		}
	}
}

func TestOldBytesAreDrawnByArm(t *testing.T) {
	for _, tt := range []struct {
		arms  map[string]float64
		title string
	}{
		{map[string]float64{"a": 1460, "b": 0, "c": 700}, "Old bytes are read in a and c, and in no other arm"},
		{map[string]float64{"a": 0, "b": 0}, "No arm lets old bytes in"},
		{map[string]float64{"a": 1, "b": 2}, "Every arm lets old bytes in"},
	} {
		r := succession(tt.arms, "b")
		b := builder{r: r, ps: programs(r), hs: hosts(r)}
		for i, n := range armNames(r) {
			b.arms = append(b.arms, measured{name: n, index: i})
		}
		c, ok := b.staleBytes()
		if !ok || c.title != tt.title || len(c.bars) != len(tt.arms) {
			t.Errorf("%v: %v %q, %d bars", tt.arms, ok, c.title, len(c.bars))
		}
		if tt.arms["a"] == 1460 && (c.bars[0].text != "a: 1,460" || c.bars[1].text != "b: none, nobody got in") {
			t.Errorf("%q, %q", c.bars[0].text, c.bars[1].text)
		}
		if _, ok := b.handshakes(); ok {
			t.Error("a figure of handshakes: there are two in any arm")
		}
	}
	if _, ok := (builder{r: &results.Run{}}).staleBytes(); ok {
		t.Error("a figure of nothing")
	}
}
