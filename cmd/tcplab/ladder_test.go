package main

import (
	"path/filepath"
	"slices"
	"testing"

	"tcplab/lab"
	"tcplab/results"
)

// without runs an experiment's quick profile in a guest, as it is and with
// levers taken away, and holds the claims that fail then against those named.
func (u *user) without(t *testing.T, sheet string, set []string, fails []string) {
	t.Helper()
	run := []string{"run", sheet, "--kernel=guest", "--profile=quick"}
	if code, out, errs := u.inGuest(t, nil, run...); code != lab.ExitPass {
		t.Fatalf("as it is: exit code %d\n%s%s", code, out, errs)
	}
	for _, s := range set {
		run = append(run, "--set", s)
	}
	if code, out, errs := u.inGuest(t, nil, run...); code != lab.ExitFail {
		t.Fatalf("%v: exit code %d\n%s%s", set, code, out, errs)
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
	for name, p := range r.Predictions {
		if p.Holds == results.HoldsNo {
			failed = append(failed, name)
		}
	}
	slices.Sort(failed)
	slices.Sort(fails)
	if !slices.Equal(failed, fails) {
		t.Errorf("%v: these do not hold: %v\nwant %v", set, failed, fails)
	}
}

// Each rung of the ladder is held by its own lever, and the setting that
// changes nothing by changing something.
func TestLadderFailsWithoutItsLevers(t *testing.T) {
	u := guestUser(t, true, "ladder")
	u.without(t, "ladder", []string{
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
	run := []string{"run", "ladder", "--kernel=guest", "--only", "per_request,fin_timeout"}
	if code, out, errs := u.inGuest(t, nil, run...); code != lab.ExitPass {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	r, err := results.Load(filepath.Join(u.dir, "runs", "ladder", "latest"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"period", "rfc_ceiling", "fin_timeout_changes_nothing"} {
		if r.Expectations[name].Holds != results.HoldsYes {
			t.Errorf("%s: %+v", name, r.Expectations[name])
		}
	}
}
