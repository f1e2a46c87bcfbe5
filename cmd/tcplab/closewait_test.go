package main

import "testing"

// A fixed server that leaks after all, a keepalive that is not on, and a limit
// that the trial does not reach: each is noticed by the claims that rest on it.
func TestCloseWaitFailsWithoutItsLevers(t *testing.T) {
	u := guestUser(t, true, "close-wait")
	u.failsExactly(t, "close-wait", []string{
		"arms.fixed.faults.leak.at=500ms", "arms.fixed.faults.leak.on=server", "arms.fixed.faults.leak.do=stop-closing",
		"arms.keepalive.server.options.SO_KEEPALIVE=false",
		"arms.more_descriptors.hosts.server.limits.nofile=4000",
	}, []string{"fixed", "nothing_left_open", "keepalive_hides_it", "only_later"})
	u.nothingLeft(t)
}
