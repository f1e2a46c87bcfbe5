package wire

import (
	"math"
	"slices"
	"testing"
	"time"
)

// count is how often each datagram arrived.
func (p passed) count(n int) []int {
	c := make([]int, n)
	for _, i := range p.Number {
		c[i]++
	}
	return c
}

// lossRuns are the lengths of the runs of consecutive datagrams that never
// arrived.
func (p passed) lossRuns(n int) (runs []float64, lost int) {
	run := 0
	for _, c := range append(p.count(n), 1) {
		if c == 0 {
			run++
			continue
		}
		if run > 0 {
			runs = append(runs, float64(run))
			lost += run
		}
		run = 0
	}
	return runs, lost
}

func mean(x []int64) float64 {
	s := 0.0
	for _, v := range x {
		s += float64(v)
	}
	return s / float64(len(x))
}

func deviation(x []int64) float64 {
	m, s := mean(x), 0.0
	for _, v := range x {
		s += (float64(v) - m) * (float64(v) - m)
	}
	return math.Sqrt(s / float64(len(x)))
}

func unpaired(d Direction) Config {
	c := Symmetric(d)
	c.Fates, c.Seed, c.Link = Unpaired, 5, "wan"
	return c
}

func TestNetemDoesWhatItIsAskedFor(t *testing.T) {
	const n = 4000
	ms := float64(time.Millisecond)
	send := func(t *testing.T, d Direction) passed {
		p := through(t, passage{Kind: InKernel, Config: unpaired(d), Datagrams: n, Size: 200, Gap: time.Millisecond})
		if c := p.Counters; len(c.Errors) > 0 || len(c.Warnings) > 0 {
			t.Errorf("%q %q", c.Errors, c.Warnings)
		}
		return p
	}
	t.Run("loss", func(t *testing.T) {
		d := Direction{Delay: 5 * time.Millisecond, Loss: Loss{P: 0.05}}
		one, two := send(t, d), send(t, d)
		_, lost := one.lossRuns(n)
		if lost < n*3/100 || lost > n*7/100 || uint64(lost) != *one.Counters.TowardsB.Lost {
			t.Errorf("%d lost, %d counted", lost, *one.Counters.TowardsB.Lost)
		}
		if !slices.Equal(one.Number, two.Number) || !slices.Equal(one.Delay, two.Delay) {
			t.Error("the same seed gave another run")
		}
	})
	t.Run("bursts", func(t *testing.T) {
		p := send(t, Direction{Delay: 5 * time.Millisecond, Loss: Loss{GilbertElliott: GilbertElliott{P: 0.01, R: 0.25}}})
		runs, lost := p.lossRuns(n)
		if long := float64(lost) / float64(len(runs)); long < 2.4 || long > 5.6 { // 40 runs: three standard errors
			t.Errorf("runs of %.2f, want 4", long)
		}
		if lost < n*2/100 || lost > n*6/100 {
			t.Errorf("%d lost, want 3.8%%", lost)
		}
		part := send(t, Direction{Delay: 5 * time.Millisecond, Loss: Loss{GilbertElliott: GilbertElliott{P: 0.01, R: 0.25, H: 0.5}}})
		if _, less := part.lossRuns(n); less < lost/4 || less > lost*3/4 {
			t.Errorf("%d lost where half of the bad state is delivered, %d where nothing is", less, lost)
		}
	})
	for _, dist := range []JitterDist{Uniform, Normal, Pareto} {
		t.Run("jitter "+string(dist), func(t *testing.T) {
			p := send(t, Direction{Delay: 20 * time.Millisecond, Jitter: 2 * time.Millisecond, JitterDist: dist, Reorder: Reorder{ByJitter: true}})
			want := map[JitterDist]float64{Uniform: 2 / math.Sqrt(3), Normal: 2, Pareto: 1.5}[dist]
			if m, s := mean(p.Delay)/ms, deviation(p.Delay)/ms; math.Abs(m-20) > 0.2 || math.Abs(s-want) > 0.15*want {
				t.Errorf("mean %.3f ms, deviation %.3f, want 20 and %.3f", m, s, want)
			}
			if slices.IsSorted(p.Number) {
				t.Error("nothing was reordered")
			}
		})
	}
	t.Run("impaired", func(t *testing.T) {
		p := send(t, Direction{Delay: 10 * time.Millisecond, Reorder: Reorder{P: 0.05}, Duplicate: 0.05})
		early, twice := 0, 0
		for _, d := range p.Delay {
			if d < int64(time.Millisecond) {
				early++
			}
		}
		for _, c := range p.count(n) {
			if c == 2 {
				twice++
			}
		}
		if early < n*3/100 || early > n*7/100 || twice < n*3/100 || twice > n*7/100 {
			t.Errorf("%d early, %d twice of %d", early, twice, n)
		}
	})
	t.Run("queue", func(t *testing.T) {
		// 40 frames of 1,042 bytes at once, into 20,000 bytes.
		d := Direction{Delay: 5 * time.Millisecond, Rate: 10_000_000, Queue: Queue{Bytes: 20_000}}
		p := through(t, passage{Kind: InKernel, Config: unpaired(d), Datagrams: 400, Size: 1000, Burst: 40, Gap: 100 * time.Millisecond})
		k := p.Counters.TowardsB
		if dropped := 400 - len(p.Number); uint64(dropped) != *k.QueueDropped || *k.Lost != 0 || dropped < 150 || dropped > 230 {
			t.Errorf("%d missing, %d counted as dropped by the queue, %d as lost", dropped, *k.QueueDropped, *k.Lost)
		}
		// The last one of a burst waits behind the whole queue.
		if longest := slices.Max(p.Delay); longest < int64(20*time.Millisecond) || longest > int64(23*time.Millisecond) {
			t.Errorf("the longest took %v", time.Duration(longest))
		}
	})
	t.Run("rate", func(t *testing.T) {
		d := Direction{Delay: 5 * time.Millisecond, Rate: 10_000_000}
		p := through(t, passage{Kind: InKernel, Config: unpaired(d), Datagrams: 400, Size: 1000, Burst: 40, Gap: 100 * time.Millisecond})
		if longest, want := slices.Max(p.Delay), int64(5*time.Millisecond+40*1042*800); len(p.Number) != 400 || longest < want-int64(time.Millisecond) || longest > want+int64(time.Millisecond) {
			t.Errorf("%d arrived, the longest took %v, want %v", len(p.Number), time.Duration(longest), time.Duration(want))
		}
	})
}
