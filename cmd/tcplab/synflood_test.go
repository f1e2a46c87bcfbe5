package main

import "testing"

// Cookies let everybody in, timestamps carry what they would cost, and a lost
// ACK under a cookie is never mended. Each of it holds in a guest, and not
// without the lever that it rests on.
func TestSYNFloodFailsWithoutItsLevers(t *testing.T) {
	u := guestUser(t, true, "slow")
	u.holds(t, "synflood", "--profile=quick")
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
			u.failsWithout(t, tt.set, tt.fails, "synflood", "--profile=quick", "--only", tt.only)
		})
	}
	u.nothingLeft(t)
}
