package main

import (
	"path/filepath"
	"slices"
	"testing"

	"tcplab/lab"
	"tcplab/results"
)

// The experiments about connection tracking hold, and do not without their
// levers.
func TestTrackerExperimentsFailWithoutTheirLevers(t *testing.T) {
	u := guestUser(t, true, "slow")
	for sheet, tt := range map[string]struct {
		profile    string
		set, fails []string
	}{
		"conntrack-expiry": {"quick", []string{ // five days take longer, and nothing more
			"arms.loose.hosts.gateway.router.sysctl[net.netfilter.nf_conntrack_tcp_loose]=0",
			"arms.heartbeat.clients.quiet.heartbeat.every=1d",
			"arms.routed_drop.hosts.gateway.router.invalid=accept",
			"arms.routed.hosts.gateway.router.nat=outside",
		}, []string{"heartbeat_holds", "loose_resumes", "routed_drop_breaks", "routed_never_breaks"}},
		"conntrack-full": {"full", []string{
			"arms.unassured.faults.fill.assured=true",
			"arms.larger.kernel.sysctl[net.netfilter.nf_conntrack_max]=32768",
			"arms.pooled.clients.new.reuse=none",
			"arms.pooled.clients.new.pool=",
			"arms.notrack.hosts.gateway.router.notrack=false",
			"arms.notrack.hosts.gateway.router.track=true",
		}, []string{"early_drop_saves", "larger_holds", "notrack_holds", "pooled_holds"}},
	} {
		t.Run(sheet, func(t *testing.T) {
			run := func(want int, set ...string) (failed []string) {
				t.Helper()
				args := []string{"run", sheet, "--kernel=guest", "--profile", tt.profile}
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
				for name, x := range r.Expectations {
					if x.Holds == results.HoldsNo {
						failed = append(failed, name)
					}
				}
				return failed
			}
			run(lab.ExitPass)
			failed := run(lab.ExitFail, tt.set...)
			for _, f := range tt.fails {
				if !slices.Contains(failed, f) {
					t.Errorf("without its levers %s holds all the same; what does not: %v", f, failed)
				}
			}
		})
	}
	u.nothingLeft(t)
}
