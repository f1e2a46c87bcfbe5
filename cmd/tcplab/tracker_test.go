package main

import "testing"

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
			u.holds(t, sheet, "--profile", tt.profile)
			u.failsWithout(t, tt.set, tt.fails, sheet, "--profile", tt.profile)
		})
	}
	u.nothingLeft(t)
}
