package results_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"tcplab/results"
)

// Boundaries are LVL_START(n) = 63·8^(n−1) ticks, granules LVL_GRAN(n) = 8ⁿ
// ticks: the table in the comment at the head of kernel/time/timer.c.
func TestTimerWheelGranulesAreTheKernels(t *testing.T) {
	const ms = 1e-3
	for _, c := range []struct {
		hz          int
		delay, want float64
	}{
		{1000, 0, 1 * ms}, {1000, 62 * ms, 1 * ms}, {1000, 63 * ms, 8 * ms}, {1000, 503 * ms, 8 * ms}, {1000, 504 * ms, 64 * ms},
		{1000, 4.031, 64 * ms}, {1000, 4.032, 512 * ms}, {1000, 32.255, 512 * ms}, {1000, 32.256, 4.096}, {1000, 258.047, 4.096}, {1000, 258.048, 32.768},
		{250, .2, 4 * ms}, {250, .251, 32 * ms}, {250, .252, 32 * ms}, {250, 2.012, 32 * ms}, {250, 2.016, 256 * ms}, {250, 16.124, 256 * ms}, {250, 16.128, 2.048},
		{250, 120, 2.048}, {250, 7200, 131.072}, {250, 75, 2.048},
		{100, .2, 10 * ms}, {100, .63, 80 * ms}, {100, 120, 5.12}, {100, 75, 5.12}, {100, 7200, 327.68},
		{0, 1, 0}, {250, -1, 0}, {250, math.NaN(), 0},
	} {
		if got := results.WheelGranule(c.delay, c.hz); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("a timer of %v s at HZ %d is up to %v s late, want %v", c.delay, c.hz, got, c.want)
		}
	}
}

// A wheel as the kernel has it: what is armed at a tick for a number of ticks
// fires at the bucket's tick (calc_wheel_index, calc_index).
func fires(now, ticks int64) int64 {
	expires := now + ticks
	shift := uint(0)
	for limit := int64(63); ticks >= limit && shift < 24; limit *= 8 {
		shift += 3
	}
	return (expires>>shift + 1) << shift
}

type spec struct {
	hz    int
	rto   int64 // ticks
	limit int64
	n     int
	tlp   bool
	start float64 // s
}

func drawSpec(t *rapid.T) spec {
	s := spec{hz: rapid.SampledFrom([]int{100, 250, 1000}).Draw(t, "hz"), n: rapid.IntRange(2, 20).Draw(t, "n"), tlp: rapid.Bool().Draw(t, "tlp")}
	s.rto = int64(float64(s.hz) * rapid.Float64Range(.2, 1.5).Draw(t, "rto"))
	s.limit = int64(120 * s.hz)
	s.start = rapid.Float64Range(0, 5000).Draw(t, "start")
	return s
}

// chain plays a chain on the wheel; extra is added to each gap's timer, ticks.
func (s spec) chain(extra func(i int) int64) results.Chain {
	c := results.Chain{Kind: results.ChainRTO, Host: "client", From: s.start}
	now, at := int64(s.start*float64(s.hz)), s.start
	rto := s.rto
	for i := range s.n {
		now = fires(now, rto) + extra(i)
		then := float64(now) / float64(s.hz)
		c.Steps = append(c.Steps, results.ChainStep{At: then, Gap: then - at})
		at = then
		if !(s.tlp && i == 0) {
			rto = min(2*rto, s.limit)
		}
	}
	return c
}

func TestChainOfTheTimerWheelIsAsPredicted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSpec(t)
		c := s.chain(func(int) int64 { return 0 })
		c.Predict(s.hz, 120)
		steps, beyond := c.Timeouts()
		want := s.n
		// Two equal gaps at the limit are no probe, and with two steps alone
		// a probe is told by them.
		if s.tlp {
			want--
		}
		if steps != want || beyond != 0 {
			t.Fatalf("%d timeouts, %d beyond, want %d and 0: %+v", steps, beyond, want, c)
		}
		if off := math.Abs(c.First*float64(s.hz) - float64(s.rto)); off > float64(s.rto)/7+2 {
			t.Fatalf("RTO of %v ticks, planted %d", c.First*float64(s.hz), s.rto)
		}
	})
}

func TestStepThatIsLaterThanItsGranuleIsBeyond(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSpec(t)
		s.n = max(s.n, 6)
		bad := rapid.IntRange(4, s.n-1).Draw(t, "bad")
		delay := float64(min(s.rto<<bad, s.limit)) / float64(s.hz)
		late := 2*int64(results.WheelGranule(1.3*delay, s.hz)*float64(s.hz)) + 4
		c := s.chain(func(i int) int64 {
			if i == bad {
				return late
			}
			return 0
		})
		c.Predict(s.hz, 120)
		if _, beyond := c.Timeouts(); beyond == 0 {
			t.Fatalf("step %d is %d ticks late and nothing is beyond: %+v", bad, late, c)
		}
	})
}

// The figures of a hang whose first retransmission is a tail loss probe, as
// Linux sends it at HZ 250.
func TestTailLossProbeIsNoTimeout(t *testing.T) {
	for _, c := range []struct {
		name  string
		gaps  []float64
		probe bool
		steps int
	}{
		{"at the time of the RTO", []float64{.208, .208, .416, .832, 1.664}, true, 4},
		{"two round trips after the last of several segments", []float64{.044, .208, .416, .832}, true, 3},
		{"none", []float64{.204, .416, .832, 1.664}, false, 4},
		{"at the backoff's limit", []float64{121, 121.9, 120.8}, false, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			ch := results.Chain{Kind: results.ChainRTO}
			at := 0.0
			for _, g := range c.gaps {
				at += g
				ch.Steps = append(ch.Steps, results.ChainStep{At: at, Gap: g})
			}
			ch.Predict(250, 120)
			if steps, _ := ch.Timeouts(); steps != c.steps || ch.Steps[0].Probe != c.probe {
				t.Errorf("%d timeouts, probe %v: %+v", steps, ch.Steps[0].Probe, ch.Steps)
			}
		})
	}
}

func TestKeepaliveChainIsIdleTimeThenIntervals(t *testing.T) {
	c := results.Chain{Kind: results.ChainKeepalive, Host: "client", Steps: []results.ChainStep{{At: 7300, Gap: 7299}, {At: 7376.5, Gap: 76.5}, {At: 7453, Gap: 76.5}}}
	c.PredictKeepalive(250, 7200, 75)
	if steps, beyond := c.Timeouts(); steps != 3 || beyond != 0 {
		t.Errorf("%d, %d beyond: %+v", steps, beyond, c)
	}
	c.Steps[2].Gap = 79
	if _, beyond := c.Timeouts(); beyond != 1 {
		t.Errorf("79 s after an interval of 75 s is not beyond: %+v", c)
	}
	m := results.ChainMetrics([]results.Chain{c}, "client")
	if m["keepalive.steps"] != 3 || m["keepalive.beyond"] != 1 || m["keepalive.first"] != 7299 {
		t.Error(m)
	}
	if _, there := m["rto.steps"]; there {
		t.Error("a keepalive probe is no retransmission")
	}
}

func TestUnknownTickLeavesTheChainUnjudged(t *testing.T) {
	c := results.Chain{Kind: results.ChainRTO, Host: "client", Steps: []results.ChainStep{{At: .2, Gap: .2}, {At: 9, Gap: 8.8}}}
	c.Predict(0, 120)
	m := results.ChainMetrics([]results.Chain{c}, "client")
	if _, there := m["rto.beyond"]; there || m["rto.steps"] != 2 {
		t.Error(m)
	}
}

func TestEveryChainMetricIsDescribed(t *testing.T) {
	rto := results.Chain{Kind: results.ChainRTO, Host: "h", Steps: []results.ChainStep{{At: .2, Gap: .2}, {At: .6, Gap: .4}}}
	rto.Predict(250, 120)
	ka := results.Chain{Kind: results.ChainKeepalive, Host: "h", Steps: []results.ChainStep{{At: 10, Gap: 10}}}
	ka.PredictKeepalive(250, 10, 1)
	ms := results.ChainMetrics([]results.Chain{rto, ka}, "h")
	if len(ms) != 8 {
		t.Errorf("%d metrics: %v", len(ms), ms)
	}
	for name := range ms {
		if i, ok := results.LookupMetric(name); !ok || i.Owner != results.OwnerHost {
			t.Errorf("%s: %+v", name, i)
		}
	}
}
