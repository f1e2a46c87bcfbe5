package trial

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tcplab/lab/sheet"
	"tcplab/results"
)

func series(dt float64, f func(t float64) float64, n int) results.Series {
	var s results.Series
	for i := range n {
		t := float64(i) * dt
		s.T, s.V = append(s.T, t), append(s.V, f(t))
	}
	return s
}

func TestKneeIsWhereTheCallRisesForGood(t *testing.T) {
	rises := func(at float64, factor float64) func(float64) float64 {
		return func(t float64) float64 {
			if t >= at {
				return 12e-6 * factor
			}
			return 12e-6
		}
	}
	at, height, ok := searchKnee(series(.1, rises(5.1, 16), 130))
	if !ok || math.Abs(at-5.1) > 1e-9 || math.Abs(height-16) > 1e-9 {
		t.Errorf("knee at %v s, %v times, %v", at, height, ok)
	}
	if at, _, ok := searchKnee(series(.1, rises(5.1, 4), 130)); ok {
		t.Errorf("a fourfold rise is a knee at %v", at)
	}
	// Single slow bins before, and single fast ones after, do not move it.
	noisy := series(.1, rises(5.1, 16), 130)
	noisy.V[7], noisy.V[40], noisy.V[100] = 1, 1, 12e-6
	if at, _, ok := searchKnee(noisy); !ok || math.Abs(at-5.1) > 1e-9 {
		t.Errorf("with noise: knee at %v s, %v", at, ok)
	}
	// Neither do slow bins shortly before it, which a busy machine makes.
	early := series(.1, rises(5.1, 25), 130)
	early.V[43], early.V[44], early.V[47] = 1, 1, 1
	if at, _, ok := searchKnee(early); !ok || math.Abs(at-5.1) > 1e-9 {
		t.Errorf("with slow bins before it: knee at %v s, %v", at, ok)
	}
	// Nor does a drift before it.
	drift := series(.1, func(t float64) float64 {
		if t >= 5.1 {
			return 300e-6
		}
		return 10e-6 * (1 + t/2)
	}, 130)
	if at, _, ok := searchKnee(drift); !ok || math.Abs(at-5.1) > 1e-9 {
		t.Errorf("with a drift: knee at %v s, %v", at, ok)
	}
	// Nor what comes after a minute, when ports return in bursts.
	bursts := series(.1, func(t float64) float64 {
		if t >= 23.5 && !(t > 60 && math.Mod(t, 2) < 1) {
			return 2e-3
		}
		return 12e-6
	}, 1320)
	if at, _, ok := searchKnee(bursts); !ok || math.Abs(at-23.5) > 1e-6 {
		t.Errorf("with returning ports: knee at %v s, %v", at, ok)
	}
	// What falls back is not for good.
	back := series(.1, func(t float64) float64 {
		if t > 3 && t < 6 {
			return 1e-3
		}
		return 12e-6
	}, 130)
	if at, _, ok := searchKnee(back); ok {
		t.Errorf("a hill is a knee at %v", at)
	}
	if _, _, ok := searchKnee(results.Series{}); ok {
		t.Error("nothing measured is a knee")
	}
}

func TestErrorPeriodIsFromFirstToFirst(t *testing.T) {
	// Errors from 27.3 s to 60 s, and again from 88.1 s: one period is 60.8 s.
	s := series(.1, func(t float64) float64 {
		if t >= 27.25 && t < 60 || t >= 88.05 {
			return 3
		}
		return 0
	}, 1900)
	first, second, ok := errorPeriod(s)
	if !ok || math.Abs(first-27.3) > .11 || math.Abs(second-88.1) > .11 {
		t.Errorf("from %v to %v, %v", first, second, ok)
	}
	if _, _, ok := errorPeriod(series(.1, func(float64) float64 { return 1 }, 100)); ok {
		t.Error("one burst has no period")
	}
}

func TestSamplesComeEach100msAndOnTheVirtualClockWhenSomethingChanges(t *testing.T) {
	wall := pace{}
	if got := wall.next(99_999_999, false); got != 100e6 {
		t.Errorf("the next sample is at %d", got)
	}
	idle, n := pace{virtual: true}, 0
	for at := int64(0); at < 24*3600*1e9; n++ {
		at = idle.next(at, false)
	}
	if n > 1000 {
		t.Errorf("%d samples of an idle day", n)
	}
	busy, n := pace{virtual: true}, 0
	for at := int64(0); at < 60*1e9; n++ {
		at = busy.next(at, true)
	}
	if n != 600 {
		t.Errorf("%d samples of a busy minute", n)
	}
	rapid.Check(t, func(t *rapid.T) {
		p := pace{virtual: rapid.Bool().Draw(t, "virtual")}
		at := rapid.Int64Range(0, 1e15).Draw(t, "elapsed")
		for range 50 {
			changed := rapid.Bool().Draw(t, "changed")
			next := p.next(at, changed)
			if next <= at || p.virtual && next > at+max(idleStep, at/100)+sampleEvery {
				t.Fatalf("after %d comes %d", at, next)
			}
			if changed && next > at+sampleEvery {
				t.Fatalf("after a change at %d it looks again at %d", at, next)
			}
			at = next
		}
	})
}

func TestFaultsAndTheirEndsHappenInOrderOfTimeAndThenOfTheSheet(t *testing.T) {
	got := timetable([]sheet.Fault{
		{Name: "c", At: 3 * time.Second, Do: "kill"}, {Name: "a", At: time.Second, For: 5 * time.Second, Do: "freeze"},
		{Name: "d", At: 3 * time.Second, Do: "blackhole", For: time.Second, OnKind: "link"}, {Name: "b", At: 2 * time.Second, For: time.Second, Do: "slow"},
	})
	said := ""
	for _, a := range got {
		said += a.fault.Name + ":" + a.fault.Do + " "
	}
	if want := "a:freeze b:slow c:kill d:blackhole b:resume a:continue "; said != want {
		t.Errorf("order %s, want %s", said, want)
	}
}

func TestDetectionIsTheFirstErrorAfterTheFault(t *testing.T) {
	events := []eventLine{
		{T: 5, Agent: "client", Event: "failing"}, {T: 6, Agent: "client", Event: "working"},
		{T: 21, Agent: "other", Event: "failing"}, {T: 44, Agent: "client", Event: "failing"}, {T: 50, Agent: "client", Event: "working"},
	}
	d, r, ok := detection(events, "client", 20)
	if !ok || d != 24 || r != 30 {
		t.Errorf("detected after %v, recovered after %v, %v", d, r, ok)
	}
	if d, r, ok := detection(events, "client", 60); ok || d != -1 || r != -1 {
		t.Errorf("after the last event: %v %v %v", d, r, ok)
	}
}
