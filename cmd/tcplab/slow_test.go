package main

import (
	"path/filepath"
	"slices"
	"testing"

	"tcplab/lab"
	"tcplab/results"
)

// A claim that cannot fail is none. Each of the slow experiments holds in its
// real magnitudes; with levers taken away, the claims that rest on them do not.
func TestSlowExperimentsFailWithoutTheirLevers(t *testing.T) {
	u := guestUser(t, true, "slow")
	for _, tt := range []struct {
		sheet string
		set   []string
		fails []string
	}{
		{"hang", []string{
			"arms.user_timeout.client.options.TCP_USER_TIMEOUT=900s",
			"arms.client_timeout.client.deadline=200s", // longer than the trial
			"arms.pile_up.faults.vanish.do=blackhole",
			"arms.pile_up.faults.vanish.match=",
			"arms.same_segment.faults.vanish.arp=passes",
		}, []string{"backoff_taken_back", "leaves_sockets_behind", "unreachable", "user_timeout_bounds_it"}},
		{"zombie", []string{
			"arms.tuned.client.options.SO_KEEPALIVE=false",
			"arms.heartbeat.client.heartbeat.every=1d",
		}, []string{"keepalive_does_not_save", "no_request_was_lost", "seconds", "told_as"}},
		{"half-open", []string{
			"arms.larger_buffer.client.options.SO_SNDBUF=64KiB",
			"arms.user_timeout.client.options.TCP_USER_TIMEOUT=20min",
			"arms.acknowledged.client.acks=false",
			"arms.stuck_reader.faults.vanish.on=wire",
			"arms.stuck_reader.faults.vanish.do=blackhole",
		}, []string{"acknowledgements_tell_the_truth", "and_bound_it", "more_buffer_more_loss", "never_by_the_kernel"}},
	} {
		t.Run(tt.sheet, func(t *testing.T) {
			if failed := u.slow(t, tt.sheet, nil, lab.ExitPass); failed != nil {
				t.Errorf("as it is, these do not hold: %v", failed)
			}
			failed := u.slow(t, tt.sheet, tt.set, lab.ExitFail)
			for _, f := range tt.fails {
				if !slices.Contains(failed, f) {
					t.Errorf("without its levers %s holds all the same; what does not: %v", f, failed)
				}
			}
		})
	}
	u.nothingLeft(t)
}

// slow runs an experiment on the virtual clock, and names the expectations that
// do not hold.
func (u *user) slow(t *testing.T, sheet string, set []string, want int) []string {
	t.Helper()
	args := []string{"run", sheet, "--kernel=guest"}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	if code, out, errs := u.inGuest(t, nil, args...); code != want {
		t.Fatalf("%v: exit code %d, not %d\n%s%s", args, code, want, out, errs)
	}
	r, err := results.Load(filepath.Join(u.dir, "runs", sheet, "latest"))
	if err != nil {
		t.Fatal(err)
	}
	var failed []string
	for name, x := range r.Expectations {
		if x.Holds == results.HoldsNo {
			failed = append(failed, name)
		}
	}
	slices.Sort(failed)
	return failed
}
