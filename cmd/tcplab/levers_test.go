package main

import (
	"path/filepath"
	"slices"
	"testing"

	"tcplab/lab"
	"tcplab/results"
)

// A claim that cannot fail is none: an experiment's hold as it is, and those
// that rest on a lever do not once it is taken away.

// inGuestRun runs an experiment in a guest, which has to end as wanted, and
// gives its record.
func (u *user) inGuestRun(t *testing.T, want int, sheet string, flags ...string) *results.Run {
	t.Helper()
	args := append([]string{"run", sheet, "--kernel=guest"}, flags...)
	if code, out, errs := u.inGuest(t, nil, args...); code != want {
		t.Fatalf("%v: exit code %d, not %d\n%s%s", args, code, want, out, errs)
	}
	r, err := results.Load(filepath.Join(u.dir, "runs", sheet, "latest"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// failing names the expectations and predictions that do not hold, in order.
func failing(r *results.Run) []string {
	var failed []string
	for name, x := range r.Expectations {
		if x.Holds == results.HoldsNo {
			failed = append(failed, name)
		}
	}
	for name, p := range r.Predictions {
		if p.Holds == results.HoldsNo {
			failed = append(failed, name)
		}
	}
	slices.Sort(failed)
	return failed
}

// holds runs an experiment as it is: nothing fails.
func (u *user) holds(t *testing.T, sheet string, flags ...string) {
	t.Helper()
	if failed := failing(u.inGuestRun(t, lab.ExitPass, sheet, flags...)); failed != nil {
		t.Errorf("%s as it is: these do not hold: %v", sheet, failed)
	}
}

// without runs it with levers taken away, and names the claims that fail then.
func (u *user) without(t *testing.T, levers []string, sheet string, flags ...string) []string {
	t.Helper()
	for _, l := range levers {
		flags = append(flags, "--set", l)
	}
	return failing(u.inGuestRun(t, lab.ExitFail, sheet, flags...))
}

// failsWithout is without, where at least the claims named have to fail.
func (u *user) failsWithout(t *testing.T, levers, fails []string, sheet string, flags ...string) {
	t.Helper()
	failed := u.without(t, levers, sheet, flags...)
	for _, f := range fails {
		if !slices.Contains(failed, f) {
			t.Errorf("without %v: %s holds all the same; what does not: %v", levers, f, failed)
		}
	}
}
