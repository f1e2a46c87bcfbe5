package main

import (
	"path/filepath"
	"strings"
	"testing"

	"tcplab/lab"
	"tcplab/results"
)

// What BBR is said to win hangs on its congestion control and on the wire's
// loss: with either taken away, the claims that rest on it do not hold.
func TestCongestionFailsWithoutItsLevers(t *testing.T) {
	u := guestUser(t, true, "slow")
	u.holds(t, "congestion", "--profile=quick")
	for _, tt := range []struct {
		set, only string
		fails     []string
	}{
		{"arms.bbr.clients.flow.options.TCP_CONGESTION=cubic", "cubic,bbr", []string{"bbr_line_rate", "bbr_resends_more", "bbr_window", "sustains"}},
		{"links.wan.wire.towards.server.loss=0.001%", "cubic,cubic_clean", []string{"collapses", "loss_did_it"}},
		{"arms.bbr_clean.clients.flow.options.TCP_CONGESTION=cubic", "cubic_clean,bbr_clean,cubic", []string{"bbr_keeps_the_queue_short", "bbr_loses_at_the_queue"}},
	} {
		u.failsWithout(t, []string{tt.set}, tt.fails, "congestion", "--profile=quick", "--only", tt.only)
	}
	u.nothingLeft(t)
}

// The axes of the sweep vary apart, and its claims are about their points.
func TestCongestionSweepIsHeldAgainstItsModel(t *testing.T) {
	u := guestUser(t, true, "slow")
	code, out, errs := u.inGuest(t, nil, "run", "congestion", "--kernel=guest", "--profile", "quick", "--sweep", "--only", "cubic")
	if code != lab.ExitPass {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	if !strings.Contains(out, "of wall time") {
		t.Errorf("how long it takes is not said:\n%s", out)
	}
	r, err := results.Load(filepath.Join(u.dir, "runs", "congestion", "latest"))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Arms) != 10 {
		t.Errorf("%d points", len(r.Arms))
	}
	far := r.Arms["cubic[delay=100ms]"]
	if rtt := far.Numbers["rtt"].Value; rtt != .2 || len(far.Point) != 1 || far.Point[0].Axis != "delay" {
		t.Errorf("the farthest point: rtt %v, %+v", rtt, far.Point)
	}
	// Both are the sheet's own values, and one seed.
	same := [2]float64{r.Arms["cubic[loss=1%]"].Metrics["flow.goodput"].Value, r.Arms["cubic[delay=20ms]"].Metrics["flow.goodput"].Value}
	if same[0] != same[1] || same[0] == 0 {
		t.Errorf("one point twice: %v", same)
	}
}

func TestUnknownCongestionControlIsToldBeforeTheRun(t *testing.T) {
	u := guestUser(t, true, "slow")
	code, out, errs := u.inGuest(t, nil, "run", "congestion", "--kernel=guest", "--profile", "quick", "--only", "cubic,bbr",
		"--set", "arms.bbr.clients.flow.options.TCP_CONGESTION=nonesuch")
	if code != lab.ExitLacks || !strings.Contains(errs, "nonesuch") || !strings.Contains(errs, "cubic") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	if left, _ := filepath.Glob(filepath.Join(u.dir, "runs", "congestion", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	u.nothingLeft(t)
}
