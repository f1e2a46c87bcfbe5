package main

import "testing"

// Each of the slow experiments holds in its
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
			u.holds(t, tt.sheet)
			u.failsWithout(t, tt.set, tt.fails, tt.sheet)
		})
	}
	u.nothingLeft(t)
}
