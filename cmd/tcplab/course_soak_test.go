//go:build soak

package main

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"tcplab/lab/guest/kernel/kerneltest"
	"tcplab/plots"
	"tcplab/results"
)

// courseLab are the experiments of the course beside churn.
var courseLab = []string{"nagle", "congestion", "synflood", "ladder", "old-duplicates", "close-wait"}

// Both cores kept busy by others, on the real clock: one verdict, ten times of
// ten, but for at most two runs that say that they do not count, and why.
func TestTenBusyRunsOfTheCourseLabHaveOneVerdict(t *testing.T) {
	for _, name := range courseLab {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			keepBusy(t)
			verdicts := map[string]int{}
			var counted []*results.Run
			for i := range 10 {
				o := b.outcome(t, name, "--kernel=host", "--profile=quick", "--seed", fmt.Sprint(i+1))
				verdicts[o.Verdict]++
				t.Logf("run %2d %s: %s", i+1, o.Verdict, o.Because)
				if o.Verdict == "invalid" && o.Because == "" {
					t.Error("invalid, and no reason")
				}
				if o.Verdict == "pass" {
					r, err := results.Load(o.Record)
					if err != nil {
						t.Fatal(err)
					}
					counted = append(counted, r)
				}
			}
			// These runs had no part in the choice of triage's thresholds.
			t.Logf("what triage said in them:\n%s", plots.Confuse(counted).Text())
			if verdicts["invalid"] > 2 || verdicts["pass"]+verdicts["invalid"] != 10 {
				t.Errorf("verdicts: %v", verdicts)
			}
		})
	}
}

// On the virtual clock two runs are the ten: what is equal to the byte needs
// no repetition. Busy cores change nothing there.
func TestTwoGuestRunsOfTheCourseLabAreEqual(t *testing.T) {
	kerneltest.Need(t)
	for _, name := range courseLab {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			first := b.record(t, name, "--kernel=guest", "--profile=quick")
			keepBusy(t)
			second := b.record(t, name, "--kernel=guest", "--profile=quick", "--jobs=1")
			if first.Verdict != results.Pass || first.Digest != second.Digest {
				t.Errorf("%s and %s, %s and %s", first.Verdict, second.Verdict, first.Digest, second.Digest)
			}
		})
	}
}

// All quick profiles, one after the other: what a first look at the whole
// course costs. Each is under 45 s; together they are under five minutes on
// the host and under 90 s in guests.
func TestTheWholeCourseLabIsQuick(t *testing.T) {
	kerneltest.Need(t)
	b := newBench(t)
	for place, most := range map[string]time.Duration{"host": 5 * time.Minute, "guest": 90 * time.Second} {
		all := time.Duration(0)
		for _, name := range courseLab {
			started := time.Now()
			o := b.outcome(t, name, "--kernel="+place, "--profile=quick")
			took := time.Since(started)
			all += took
			t.Logf("%-5s %-14s %-6s %5.1f s %s", place, name, o.Verdict, took.Seconds(), o.Because)
			if o.Verdict != "pass" {
				t.Errorf("%s on %s: %s: %s", name, place, o.Verdict, o.Because)
			}
			if took > 45*time.Second {
				t.Errorf("%s on %s took %v", name, place, took)
			}
		}
		t.Logf("%-5s all            %5.1f s", place, all.Seconds())
		if all > most {
			t.Errorf("all of them on %s: %v", place, all)
		}
	}
}

func (b *bench) outcome(t *testing.T, name string, args ...string) outcome {
	t.Helper()
	cmd, out := b.runOf(name, args...)
	cmd.Run()
	var o outcome
	if err := json.Unmarshal(out.Bytes(), &o); err != nil {
		t.Fatalf("%s %v: %v, printed %q", name, args, err, out)
	}
	return o
}

func (b *bench) record(t *testing.T, name string, args ...string) *results.Run {
	t.Helper()
	r, err := results.Load(b.outcome(t, name, args...).Record)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
