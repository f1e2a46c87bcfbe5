package main

import (
	"path/filepath"
	"slices"
	"testing"

	"tcplab/lab"
	"tcplab/results"
)

// What lets old bytes in and what refuses them rests on each arm's lever: with
// the lever taken away the arm's claims do not hold.
func TestOldDuplicatesFailWithoutTheirLevers(t *testing.T) {
	u := guestUser(t, true, "slow")
	if failed := u.oldDuplicates(t, lab.ExitPass, ""); failed != nil {
		t.Errorf("as it is, these do not hold: %v", failed)
	}
	const ts = ".hosts.client.sysctl[net.ipv4.tcp_timestamps]="
	for _, tt := range []struct {
		what, only string
		set        []string
		fails      []string
	}{
		{"timestamps where old data comes in", "kept,rfc1337,destroyed,linger0,waits",
			[]string{"arms.kept" + ts + "1", "arms.rfc1337" + ts + "1", "arms.destroyed" + ts + "1", "arms.linger0" + ts + "1", "arms.waits" + ts + "1"},
			[]string{"both_ends_disagree", "hazard", "nothing_in_the_way", "nothing_left_behind", "survives"}},
		{"none where it is refused", "kept,kept_ts,rfc1337_ts,destroyed_ts,linger0_ts",
			[]string{"arms.kept_ts" + ts + "0", "arms.destroyed_ts" + ts + "0"},
			[]string{"let_in_at_once", "none_read", "paws"}},
		{"TIME-WAIT as it is", "kept,rfc1337,destroyed,linger0,small,waits", []string{
			"arms.rfc1337.hosts.server.sysctl[net.ipv4.tcp_rfc1337]=0",
			"arms.destroyed.hosts.server.sysctl[net.ipv4.tcp_max_tw_buckets]=1000",
			"arms.linger0.client.options=",
			"arms.small.client.ahead=8MB",
			"arms.waits.client.waits=false",
		}, []string{"both_ends_disagree", "clock_is_ahead", "nothing_in_the_way", "nothing_left_behind", "survives"}},
		{"an application that does not go on", "kept,destroyed",
			[]string{"arms.destroyed.client.waits=true", "arms.destroyed.client.deadline=1s"}, []string{"nobody_notices"}},
	} {
		set := []string{"--only", tt.only}
		for _, s := range tt.set {
			set = append(set, "--set", s)
		}
		failed := u.oldDuplicates(t, lab.ExitFail, tt.what, set...)
		for _, f := range tt.fails {
			if !slices.Contains(failed, f) {
				t.Errorf("%s: %s holds all the same; what does not: %v", tt.what, f, failed)
			}
		}
	}
	u.nothingLeft(t)
}

// oldDuplicates runs the quick profile on the virtual clock, and names the
// expectations that do not hold.
func (u *user) oldDuplicates(t *testing.T, want int, what string, more ...string) []string {
	t.Helper()
	args := append([]string{"run", "old-duplicates", "--kernel=guest", "--profile", "quick"}, more...)
	if code, out, errs := u.inGuest(t, nil, args...); code != want {
		t.Fatalf("%s: %v: exit code %d, not %d\n%s%s", what, args, code, want, out, errs)
	}
	r, err := results.Load(filepath.Join(u.dir, "runs", "old-duplicates", "latest"))
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
