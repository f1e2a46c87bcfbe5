package main

import (
	"slices"
	"testing"

	"tcplab/lab"
	"tcplab/results"
)

// failsExactly holds an experiment's quick profile, as it is and with levers
// taken away: what fails then is what is named, and nothing else.
func (u *user) failsExactly(t *testing.T, sheet string, levers, fails []string) {
	t.Helper()
	u.holds(t, sheet, "--profile=quick")
	failed := u.without(t, levers, sheet, "--profile=quick")
	slices.Sort(fails)
	if !slices.Equal(failed, fails) {
		t.Errorf("%v: these do not hold: %v\nwant %v", levers, failed, fails)
	}
}

// Each rung of the ladder is held by its own lever, and the setting that
// changes nothing by changing something.
func TestLadderFailsWithoutItsLevers(t *testing.T) {
	u := guestUser(t, true, "ladder")
	u.failsExactly(t, "ladder", []string{
		"arms.pool.client.reuse=none", "arms.pool.client.pool=",
		"arms.tw_reuse.hosts.client.sysctl[net.ipv4.tcp_tw_reuse]=0",
		"arms.port_range.hosts.client.sysctl[net.ipv4.ip_local_port_range]=32768 33791",
		"arms.fin_timeout.hosts.client.sysctl[net.ipv4.tcp_tw_reuse]=1",
		"arms.tw_buckets.hosts.client.sysctl[net.ipv4.tcp_max_tw_buckets]=262144",
		"arms.linger0.client.options.SO_LINGER=",
	}, []string{
		"pool_cures", "pool_leaves_nothing", "pool_saves_the_round_trip", "reuse_cures", "reuse_takes_over", "reused", "wider_is_later",
		"fin_timeout_changes_nothing", "buckets_work_by_destroying", "capped", "linger_is_an_error_there", "linger_leaves_nothing", "linger_resets", "opened",
	})
	u.nothingLeft(t)
}

// TIME-WAIT comes back after a minute whatever tcp_fin_timeout says, which only
// the real magnitudes can show.
func TestTimeWaitIsAMinuteWhateverFinTimeoutSays(t *testing.T) {
	u := guestUser(t, true, "ladder")
	r := u.inGuestRun(t, lab.ExitPass, "ladder", "--only", "per_request,fin_timeout")
	for _, name := range []string{"period", "rfc_ceiling", "fin_timeout_changes_nothing"} {
		if r.Expectations[name].Holds != results.HoldsYes {
			t.Errorf("%s: %+v", name, r.Expectations[name])
		}
	}
}
