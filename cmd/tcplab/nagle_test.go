package main

import "testing"

// Each claim of the experiment rests on a lever, of an arm or of the baseline;
// without it, the claim does not hold.
func TestNagleFailsWithoutItsLevers(t *testing.T) {
	u := guestUser(t, true, "slow")
	u.holds(t, "nagle", "--profile=quick")
	for _, tt := range []struct {
		set   []string
		fails []string
	}{
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
		u.failsWithout(t, tt.set, tt.fails, "nagle", "--profile=quick")
	}
	u.nothingLeft(t)
}
