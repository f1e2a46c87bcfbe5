package main

import (
	"path/filepath"
	"slices"
	"testing"

	"tcplab/lab"
	"tcplab/results"
)

// Cookies let everybody in, timestamps carry what they would cost, and a lost
// ACK under a cookie is never mended. Each of it holds in a guest, and not
// without the lever that it rests on.
func TestSYNFloodFailsWithoutItsLevers(t *testing.T) {
	u := guestUser(t, true, "slow")
	run := []string{"run", "synflood", "--kernel=guest", "--profile", "quick"}
	if code, out, errs := u.inGuest(t, nil, run...); code != lab.ExitPass {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	for _, tt := range []struct {
		name  string
		only  string
		set   []string
		fails []string
	}{
		{"the flood's", "no_cookies,cookies,calm,cookies_no_timestamps", []string{
			"arms.no_cookies.hosts.server.sysctl[net.ipv4.tcp_syncookies]=1",
			"arms.cookies.hosts.server.sysctl[net.ipv4.tcp_syncookies]=0",
			"arms.cookies_no_timestamps.hosts.server.sysctl[net.ipv4.tcp_timestamps]=1",
		}, []string{"as_without_a_flood", "by_cookie", "dropped_silently", "everybody_in", "locked_out", "options_lost"}},
		{"the lost ACK's", "no_cookies,last_ack_lost,last_ack_lost_no_cookies", []string{
			"arms.last_ack_lost.hosts.server.sysctl[net.ipv4.tcp_syncookies]=1",
			"arms.last_ack_lost_no_cookies.hosts.server.sysctl[net.ipv4.tcp_syncookies]=2",
		}, []string{"hangs", "heals", "nothing_is_sent_again"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append(slices.Clone(run), "--only", tt.only)
			for _, s := range tt.set {
				args = append(args, "--set", s)
			}
			if code, out, errs := u.inGuest(t, nil, args...); code != lab.ExitFail {
				t.Fatalf("%v: exit code %d\n%s%s", args, code, out, errs)
			}
			r, err := results.Load(filepath.Join(u.dir, "runs", "synflood", "latest"))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range tt.fails {
				if holds := r.Expectations[f].Holds; holds == results.HoldsYes {
					t.Errorf("without its levers %s holds all the same", f)
				}
			}
		})
	}
	u.nothingLeft(t)
}
