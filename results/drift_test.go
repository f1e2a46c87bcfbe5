package results_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tcplab/results"
)

func at(t *testing.T, stamps ...string) (out []float64) {
	t.Helper()
	for _, s := range stamps {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, float64(v.UnixNano())/1e9)
	}
	return out
}

// The three lines that a report once drew its conclusion from: 12 h and a
// second or none. No line through three points tells a drift.
func TestThreeReconnectsAreTooFew(t *testing.T) {
	d := results.FindDrift(at(t, "2024-05-10T03:14:22Z", "2024-05-10T15:14:23Z", "2024-05-11T03:14:23Z"))
	if d.Verdict != results.DriftFew || d.Period != 43200 || math.Abs(d.PerDay-1) > 1e-9 {
		t.Errorf("%+v", d)
	}
	if d.PerDayLow > 0 || d.PerDayHigh < 2 {
		t.Errorf("with one degree of freedom the interval is [%v, %v]", d.PerDayLow, d.PerDayHigh)
	}
}

func TestDriftsAreTold(t *testing.T) {
	every := func(n int, f func(i int) float64) (out []float64) {
		for i := range n {
			out = append(out, 1.7e9+math.Round(f(i)))
		}
		return out
	}
	jitter := []float64{0, .6, .1, .9, .4, .2, .8, .5, .3, .7, .05, .95}
	for _, c := range []struct {
		name   string
		times  []float64
		want   results.DriftVerdict
		period float64
	}{
		{"a 12 h timer that takes a second to reconnect", every(10, func(i int) float64 { return float64(i)*43201 + jitter[i%12] }), results.DriftTimer, 43200},
		{"a 12 h cron with a second of jitter", every(10, func(i int) float64 { return float64(i)*43200 + jitter[i%12] }), results.DriftSchedule, 43200},
		{"an hourly cron without jitter", every(24, func(i int) float64 { return float64(i) * 3600 }), results.DriftSchedule, 3600},
		{"a 12 h timer with a reconnect for another reason in the middle", every(14, func(i int) float64 {
			at := float64(i)*43202 + jitter[i%12]
			if i > 6 {
				at -= 20_000
			}
			return at
		}), results.DriftTimer, 43200},
		{"one night missing", every(10, func(i int) float64 {
			if i > 4 {
				i++
			}
			return float64(i)*86400 + jitter[i%12]
		}), results.DriftSchedule, 86400},
		{"no period at all", every(8, func(i int) float64 { return float64(i*i)*1000 + 137 }), results.DriftNoPeriod, 0},
		{"one event", every(1, func(int) float64 { return 0 }), results.DriftFew, 0},
		{"none", nil, results.DriftFew, 0},
		{"all at once", []float64{5, 5, 5, 5}, results.DriftNoPeriod, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := results.FindDrift(c.times); d.Verdict != c.want || d.Period != c.period {
				t.Errorf("%+v, want %s and %v", d, c.want, c.period)
			}
		})
	}
}

// A schedule is never called a timer but by the level that the verdict asks
// for, one in a thousand: over the checks here that is at most a few.
func TestPlantedScheduleIsNotCalledATimer(t *testing.T) {
	called, n, told := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		period := rapid.SampledFrom([]float64{3600, 43200, 86400}).Draw(t, "period")
		jitter := rapid.Float64Range(.01, 2).Draw(t, "jitter")
		start := rapid.Float64Range(0, 1e6).Draw(t, "start")
		digits := rapid.SampledFrom([]float64{1, 1e-3}).Draw(t, "digits")
		var times []float64
		for i := range rapid.IntRange(4, 40).Draw(t, "events") {
			late := rapid.Float64Range(0, 1).Draw(t, "late") * jitter
			times = append(times, math.Floor((start+float64(i)*period+late)/digits)*digits)
		}
		n++
		switch d := results.FindDrift(times); d.Verdict {
		case results.DriftTimer:
			called++
		case results.DriftSchedule:
			told++
			if d.PerPeriodLow > d.PerPeriodHigh {
				t.Fatalf("%+v", d)
			}
		}
	})
	if called > 2+n/50 {
		t.Errorf("%d of %d schedules were called timers", called, n)
	}
	if told < n/2 {
		t.Errorf("%d of %d schedules were told", told, n)
	}
}

func TestPlantedTimerIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		period := rapid.SampledFrom([]float64{3600, 43200, 86400}).Draw(t, "period")
		over := rapid.Float64Range(1, 20).Draw(t, "over") // of each event: detection and reconnect
		now := rapid.Float64Range(0, 1e6).Draw(t, "start")
		var times []float64
		for range rapid.IntRange(12, 40).Draw(t, "events") {
			times = append(times, math.Floor(now))
			now += period + over + rapid.Float64Range(0, 1).Draw(t, "late")*min(1, over/4)
		}
		d := results.FindDrift(times)
		if d.Verdict != results.DriftTimer || d.Period != period || d.PerPeriod < over*.8 || d.PerPeriod > over*1.3+.5 {
			t.Fatalf("%+v, planted %v s an event", d, over)
		}
	})
}

// Quantiles of Student's t that every table has.
func TestIntervalsAreStudents(t *testing.T) {
	for _, c := range []struct {
		n    int // events: n − 2 degrees of freedom
		want float64
	}{{3, 12.706}, {4, 4.3027}, {12, 2.2281}, {32, 2.0423}} {
		var times []float64
		sxx := 0.0
		mean := float64(c.n-1) / 2
		for i := range c.n {
			times = append(times, float64(i)*3600+.1234567*float64(i%2))
			sxx += (float64(i) - mean) * (float64(i) - mean)
		}
		d := results.FindDrift(times)
		se := d.Scatter / math.Sqrt(sxx)
		if got := (d.PerPeriodHigh - d.PerPeriod) / se; math.Abs(got-c.want) > 1e-3 {
			t.Errorf("%d events: the interval is ±%v standard errors, want %v", c.n, got, c.want)
		}
	}
}

func TestPeriodsHaveNames(t *testing.T) {
	for p, want := range map[float64]string{43200: "12 h", 86400: "1 day", 604800: "1 week", 900: "15 min", 90: "90 s"} {
		if got := results.PeriodName(p); got != want {
			t.Errorf("%v s is %q, want %q", p, got, want)
		}
	}
}
