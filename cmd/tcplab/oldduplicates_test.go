package main

import "testing"

// What lets old bytes in and what refuses them rests on each arm's lever: with
// the lever taken away the arm's claims do not hold.
func TestOldDuplicatesFailWithoutTheirLevers(t *testing.T) {
	u := guestUser(t, true, "slow")
	u.holds(t, "old-duplicates", "--profile=quick")
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
		t.Run(tt.what, func(t *testing.T) {
			u.failsWithout(t, tt.set, tt.fails, "old-duplicates", "--profile=quick", "--only", tt.only)
		})
	}
	u.nothingLeft(t)
}
