package main

import (
	"path/filepath"
	"slices"
	"testing"

	"tcplab/lab"
	"tcplab/results"
)

// Each claim of the experiment rests on a lever, of an arm or of the baseline;
// without it, the claim does not hold.
func TestNagleFailsWithoutItsLevers(t *testing.T) {
	u := guestUser(t, true, "slow")
	for _, tt := range []struct {
		set   []string
		fails []string
	}{
		{nil, nil},
		{[]string{"arms.nodelay.client.options.TCP_NODELAY=false",
			"arms.coalesced.client.send=parts",
			"arms.corked.client.send=parts",
			"arms.quickack.server.options.TCP_QUICKACK=",
			"arms.pingpong.hosts.server.sysctl[net.ipv4.tcp_pingpong_thresh]=1"},
			[]string{"nodelay_cures", "coalesced_cures", "corked_cures", "quickack_delays_nothing", "quickack_is_no_cure", "rare_stall", "fewer_segments"}},
		{[]string{"arms.nagle.hosts.server.sysctl[net.ipv4.tcp_pingpong_thresh]=10",
			"arms.nodelay.trial.duration=3s",
			"arms.corked.client.deadline=50ms"},
			[]string{"half_of_all_stall", "and_the_slowest_no_more", "same_load", "all_answered"}},
	} {
		want, args := lab.ExitPass, []string{"run", "nagle", "--kernel=guest", "--profile", "quick"}
		if tt.fails != nil {
			want = lab.ExitFail
		}
		for _, s := range tt.set {
			args = append(args, "--set", s)
		}
		if code, out, errs := u.inGuest(t, nil, args...); code != want {
			t.Fatalf("%v: exit code %d, not %d\n%s%s", args, code, want, out, errs)
		}
		r, err := results.Load(filepath.Join(u.dir, "runs", "nagle", "latest"))
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
		for _, f := range tt.fails {
			if !slices.Contains(failed, f) {
				t.Errorf("%v: %s holds all the same; what does not: %v", tt.set, f, failed)
			}
		}
	}
	u.nothingLeft(t)
}
