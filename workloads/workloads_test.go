package workloads

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// take gives the next n starts.
func take(t interface{ Fatalf(string, ...any) }, c Config, n int) []time.Duration {
	s, err := New(c)
	if err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	var all []time.Duration
	for range n {
		d, ok := s.Next()
		if !ok {
			return all
		}
		all = append(all, d)
	}
	return all
}

func TestConstantArrivals(t *testing.T) {
	for _, c := range []struct {
		rate float64
		k    int
		want time.Duration
	}{
		{400, 0, 0},
		{400, 1, 2500 * time.Microsecond},
		{400, 4096, 10240 * time.Millisecond},
		{600, 1, 1666666},
		{600, 600, time.Second},
		{600, 78000, 130 * time.Second},
		{3, 1, 333333333},
		{3, 3, time.Second},
		{0.5, 3, 6 * time.Second},
		{33.3, 333, 10 * time.Second},
		{33.3, 1, 30030030},
		{1e9, 77, 77},
		{1.0 / 3, 1000, 3000 * time.Second},
		{1.0 / 3600, 2, 7200 * time.Second},
	} {
		if got := take(t, Config{Rate: c.rate}, c.k+1)[c.k]; got != c.want {
			t.Errorf("%g/s: request %d at %v, want %v", c.rate, c.k, got, c.want)
		}
	}
}

func TestConstantArrivalsDoNotDriftInDays(t *testing.T) {
	s := newConstant(600)
	s.k = 600 * 86400 * 365
	if got, _ := s.Next(); got != 365*24*time.Hour {
		t.Errorf("after a year at 600/s: %v", got)
	}
	s = newConstant(0.1)
	s.k = math.MaxInt64
	if d, ok := s.Next(); ok {
		t.Errorf("a start in the year 3 trillion: %v", d)
	}
}

func TestCountInAWindowIsRateTimesItsLength(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := float64(rapid.IntRange(1, 2_000_000).Draw(t, "millirate")) / 1000
		s := newConstant(rate)
		from := rapid.IntRange(0, 1e6).Draw(t, "k")
		s.k = uint64(from)
		begin, _ := s.Next()
		window := time.Duration(rapid.Int64Range(1, int64(10*time.Second)).Draw(t, "window"))
		n, last := 1, begin
		for {
			d, ok := s.Next()
			if !ok || d < last {
				t.Fatalf("start %v after %v", d, last)
			}
			if d >= begin+window {
				break
			}
			n, last = n+1, d
		}
		if want := rate * window.Seconds(); math.Abs(float64(n)-want) > 1 {
			t.Fatalf("%g/s for %v: %d requests, want %g", rate, window, n, want)
		}
	})
}

func TestPoissonArrivalsHaveTheMeanAndVarianceOfTheirRate(t *testing.T) {
	const rate, seconds = 500.0, 400
	counts := make([]float64, seconds*10) // per 100 ms: mean and variance 50
	for _, d := range take(t, Config{Arrivals: Poisson, Rate: rate, Seed: 11}, rate*seconds*2) {
		if i := int(d / (100 * time.Millisecond)); i < len(counts) {
			counts[i]++
		}
	}
	var mean, variance float64
	for _, n := range counts {
		mean += n / float64(len(counts))
	}
	for _, n := range counts {
		variance += (n - mean) * (n - mean) / float64(len(counts)-1)
	}
	// Four standard errors: of the mean √(50/4000), of the variance 50·√(2/4000).
	if math.Abs(mean-50) > 4*math.Sqrt(50.0/4000) || math.Abs(variance-50) > 4*50*math.Sqrt(2.0/4000) {
		t.Errorf("mean %g, variance %g of a Poisson process with 50", mean, variance)
	}
}

func TestSameSeedIsTheSameSchedule(t *testing.T) {
	a, b, c := Config{Arrivals: Poisson, Rate: 100, Seed: 1}, Config{Arrivals: Poisson, Rate: 100, Seed: 1}, Config{Arrivals: Poisson, Rate: 100, Seed: 2}
	if !slices.Equal(take(t, a, 1000), take(t, b, 1000)) {
		t.Error("two schedules of seed 1")
	}
	if slices.Equal(take(t, a, 10), take(t, c, 10)) {
		t.Error("seeds 1 and 2 have one schedule")
	}
	// Another rate stretches the same arrivals.
	fast := take(t, Config{Arrivals: Poisson, Rate: 200, Seed: 1}, 100)
	for i, d := range take(t, a, 100) {
		if diff := d - 2*fast[i]; diff < -2 || diff > 2 {
			t.Fatalf("request %d: %v at 100/s, %v at 200/s", i, d, fast[i])
		}
	}
}

// The first arrivals of seed 1 are part of every record with that seed.
func TestPoissonScheduleIsTheOneOfEarlierVersions(t *testing.T) {
	want := []time.Duration{25163276, 29362050, 39103769}
	if got := take(t, Config{Arrivals: Poisson, Rate: 100, Seed: 1}, 3); !slices.Equal(got, want) {
		t.Errorf("%d, want %d", got, want)
	}
}

func TestRampArrivals(t *testing.T) {
	c := Config{Arrivals: Ramp, Rate: 100, RateTo: 300, RampOver: 10 * time.Second}
	all := take(t, c, 2301)
	// 2,000 in the ramp: half of its way are 750, a quarter of them …
	for k, want := range map[int]float64{0: 0, 750: 5, 2000: 10, 2300: 11} {
		if got := all[k].Seconds(); math.Abs(got-want) > 1e-6 {
			t.Errorf("request %d at %g s, want %g", k, got, want)
		}
	}
	down := take(t, Config{Arrivals: Ramp, Rate: 100, RateTo: 0, RampOver: 2 * time.Second}, 1000)
	if len(down) != 101 || down[100] > 2*time.Second {
		t.Errorf("a ramp from 100/s to nothing in 2 s has %d requests, the last at %v", len(down), down[len(down)-1])
	}
	up := take(t, Config{Arrivals: Ramp, Rate: 0, RateTo: 100, RampOver: 2 * time.Second}, 101)
	if up[0] != 0 || math.Abs(up[25].Seconds()-1) > 1e-6 || math.Abs(up[100].Seconds()-2) > 1e-6 {
		t.Errorf("a ramp from nothing to 100/s: %v, %v, %v", up[0], up[25], up[100])
	}
}

func TestStartsNeverDecrease(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Config{
			Arrivals: rapid.SampledFrom([]string{Constant, Poisson, Ramp}).Draw(t, "arrivals"),
			Rate:     rapid.Float64Range(0.001, 1e6).Draw(t, "rate"),
			Seed:     rapid.Uint64().Draw(t, "seed"),
		}
		if c.Arrivals == Ramp {
			c.RateTo = rapid.OneOf(rapid.Just(0.0), rapid.Float64Range(0.001, 1e6)).Draw(t, "to")
			c.RampOver = time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "over"))
		}
		last := time.Duration(-1)
		for i, d := range take(t, c, 500) {
			if d < last || d < 0 {
				t.Fatalf("request %d at %v, the one before at %v", i, d, last)
			}
			last = d
		}
	})
}

// At any time t, a ramp has begun the integral of its rate.
func TestRampFollowsTheIntegralOfItsRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Config{Arrivals: Ramp, Rate: rapid.Float64Range(1, 1000).Draw(t, "from"), RateTo: rapid.Float64Range(1, 1000).Draw(t, "to"),
			RampOver: time.Duration(rapid.Int64Range(int64(time.Second), int64(time.Minute)).Draw(t, "over"))}
		over := c.RampOver.Seconds()
		for k, d := range take(t, c, 2000) {
			s := d.Seconds()
			n := c.Rate*s + (c.RateTo-c.Rate)*s*s/(2*over)
			if s > over {
				n = (c.Rate+c.RateTo)/2*over + c.RateTo*(s-over)
			}
			if math.Abs(n-float64(k)) > 0.001 {
				t.Fatalf("request %d at %g s, where the integral is %g", k, s, n)
			}
		}
	})
}

func TestClosedLoopHasNoStarts(t *testing.T) {
	s, err := New(Config{Arrivals: Closed, Think: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := s.Next(); ok {
		t.Errorf("start at %v", d)
	}
	if think, closed := s.Closed(); !closed || think != 5*time.Millisecond {
		t.Errorf("think %v, closed %v", think, closed)
	}
	s, _ = New(Config{Rate: 1})
	if _, closed := s.Closed(); closed {
		t.Error("an open loop is closed")
	}
}

func TestConfigsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, c := range []struct {
		Config
		says string
	}{
		{Config{}, "400/s"},
		{Config{Rate: -1}, "400/s"},
		{Config{Rate: math.NaN()}, "400/s"},
		{Config{Rate: math.Inf(1)}, "400/s"},
		{Config{Rate: 2e9}, "a nanosecond"},
		{Config{Rate: 1e-12}, "30 years"},
		{Config{Rate: 1, Arrivals: "bursty"}, "poisson"},
		{Config{Rate: 1, Kind: "bulk"}, "requests"},
		{Config{Rate: 1, RateTo: 2}, "ramp"},
		{Config{Arrivals: Ramp, RampOver: time.Second}, "never sends"},
		{Config{Arrivals: Ramp, Rate: 1, RateTo: 2}, "ramp_over"},
		{Config{Arrivals: Ramp, Rate: 1, RateTo: -2, RampOver: 1}, "rate_to"},
		{Config{Arrivals: Closed, Rate: 1}, "no rate"},
		{Config{Rate: 1, Think: 1}, "closed"},
		{Config{Rate: 1, Size: -1}, "size is negative"},
		{Config{Rate: 1, Deadline: -1}, "deadline is negative"},
	} {
		_, err := New(c.Config)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v", c.Config, err)
		}
	}
}

func TestSizeOfAnAnswerIsThatOfItsRequestByDefault(t *testing.T) {
	if got := (Config{Size: 128}).Sizes(); got != (Sizes{128, 128}) {
		t.Error(got)
	}
	if got := (Config{Size: 128, ResponseSize: 5}).Sizes(); got != (Sizes{128, 5}) {
		t.Error(got)
	}
}

func TestConfigSurvivesJSON(t *testing.T) {
	c := Config{Kind: Requests, Arrivals: Ramp, Rate: 0.1, RateTo: 2, RampOver: time.Second, Connections: 3, Size: 4, ResponseSize: 5, Deadline: 7, Seed: math.MaxUint64}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var back Config
	if err := json.Unmarshal(b, &back); err != nil || back != c {
		t.Errorf("%s: %+v, %v", b, back, err)
	}
}

func BenchmarkNext(b *testing.B) {
	for _, c := range []Config{{Rate: 600}, {Arrivals: Poisson, Rate: 600}, {Arrivals: Ramp, Rate: 1, RateTo: 600, RampOver: time.Minute}} {
		b.Run(c.Arrivals, func(b *testing.B) {
			s, err := New(c)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				s.Next()
			}
		})
	}
}
