package netns

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"tcplab/netns/internal/nstest"
)

func TestSysctlsAreReadBack(t *testing.T) {
	h, other := newHost(t, "server"), newHost(t, "client")
	want := map[string]string{
		"net.ipv4.tcp_fin_timeout":     "7",
		"net/ipv4/ip_local_port_range": "32768\t36863",
		"net.ipv4.tcp_rmem":            "4096  87380 1000000",
	}
	got, err := h.SetSysctls(want)
	if err != nil {
		t.Fatal(err)
	}
	expect := map[string]string{
		"net.ipv4.tcp_fin_timeout":     "7",
		"net/ipv4/ip_local_port_range": "32768 36863",
		"net.ipv4.tcp_rmem":            "4096 87380 1000000",
	}
	if !maps.Equal(got, expect) {
		t.Errorf("read back %v, want %v", got, expect)
	}
	if v, err := other.Sysctl("net.ipv4.tcp_fin_timeout"); err != nil || v == "7" {
		t.Errorf("another host's tcp_fin_timeout is %q, %v: it changed with this one's", v, err)
	}
}

func TestSysctlThatDoesNotTakeIsAnErrorThatNamesIt(t *testing.T) {
	h := newHost(t, "server")
	for _, c := range []struct {
		key, value string
		reason     error
		says       []string
	}{
		// The kernel writes a list of ports as ranges.
		{"net.ipv4.ip_local_reserved_ports", "5,4,3", ErrSysctlMismatch, []string{"server", "ip_local_reserved_ports", `"5,4,3"`, `"3-5"`}},
		{"net.ipv4.ip_local_port_range", "5 1", ErrSysctlRefused, []string{"ip_local_port_range", `"5 1"`, "32768 60999"}},
		{"net.ipv4.tcp_sack", "perhaps", ErrSysctlRefused, []string{"tcp_sack"}},
		{"net.core.rmem_max", "5000000", ErrSysctlReadOnly, []string{"rmem_max", "5000000"}},
		{"net.ipv4.no_such_key", "1", ErrNoSysctl, []string{"no_such_key"}},
		{"kernel.hostname", "x", ErrSysctlScope, []string{"kernel.hostname"}},
		{"net.ipv4/../../kernel/hostname", "x", ErrSysctlScope, nil},
		{"net/../kernel/hostname", "x", ErrSysctlScope, nil},
		{"net", "x", ErrSysctlScope, nil},
	} {
		// A good one beside it is set all the same.
		got, err := h.SetSysctls(map[string]string{c.key: c.value, "net.ipv4.tcp_fin_timeout": "9"})
		var e *SysctlError
		if !errors.Is(err, c.reason) || !errors.As(err, &e) || e.Key != c.key {
			t.Errorf("%s=%s: got %v, want %v", c.key, c.value, err, c.reason)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%q does not say %q", err, s)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %q", err)
		}
		if got["net.ipv4.tcp_fin_timeout"] != "9" {
			t.Errorf("beside %s, tcp_fin_timeout is %q", c.key, got["net.ipv4.tcp_fin_timeout"])
		}
	}
}

func TestKeyOfAnInterfaceWithADotIsWrittenAsInSysctl8(t *testing.T) {
	for key, want := range map[string]string{
		"net.ipv4.conf.eth0/1.forwarding": "/proc/sys/net/ipv4/conf/eth0.1/forwarding",
		"net/ipv4/conf/eth0.1/forwarding": "/proc/sys/net/ipv4/conf/eth0.1/forwarding",
		"net.ipv4.tcp_sack":               "/proc/sys/net/ipv4/tcp_sack",
	} {
		if got, err := sysctlPath(key); err != nil || got != want {
			t.Errorf("%s is %s (%v), want %s", key, got, err, want)
		}
	}
}

func TestIPForwardIsWrittenFirst(t *testing.T) {
	got := sysctlOrder(map[string]string{"net.ipv4.conf.all.accept_redirects": "", "net.core.somaxconn": "", "net.ipv4.ip_forward": ""})
	if got[0] != "net.ipv4.ip_forward" || got[1] != "net.core.somaxconn" {
		t.Errorf("order: %v", got)
	}
}

func TestPinnedSysctlsHoldOnEveryHost(t *testing.T) {
	for _, role := range []Role{RoleHost, RoleMiddlebox, RoleRouter} {
		h := newHost(t, role.String())
		got, notPinned, err := h.Pin(role, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range notPinned {
			// A key this kernel has can be pinned, by a plain user too.
			if !errors.Is(n.Err, ErrNoSysctl) {
				t.Errorf("%v: %v", role, n.Err)
			}
		}
		// Read once more at the end: one key must not change another.
		for _, s := range Pinned(role) {
			if now, err := h.Sysctl(s.Key); !errors.Is(err, ErrNoSysctl) && (err != nil || now != s.Value || got[s.Key] != s.Value) {
				t.Errorf("%v: %s is %q (%v), was read back as %q, want %q", role, s.Key, now, err, got[s.Key], s.Value)
			}
		}
		want := "0"
		if role == RoleRouter {
			want = "1"
		}
		if got["net.ipv4.ip_forward"] != want {
			t.Errorf("%v: ip_forward is %s", role, got["net.ipv4.ip_forward"])
		}
	}
}

func TestSheetsOwnSysctlTakesThePlaceOfThePinnedOne(t *testing.T) {
	h := newHost(t, "client")
	got, _, err := h.Pin(RoleHost, map[string]string{
		"net.ipv4.ip_local_port_range": "32768 36863",
		"net/ipv4/tcp_retries2":        "8",
		"net.ipv4.tcp_tso_win_divisor": "2", // not among the pinned
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"net.ipv4.ip_local_port_range": "32768 36863", "net.ipv4.tcp_retries2": "8", "net.ipv4.tcp_tso_win_divisor": "2"} {
		if got[key] != want {
			t.Errorf("%s = %q, want %q", key, got[key], want)
		}
	}
	_, _, err = h.Pin(RoleHost, map[string]string{"net.core.rmem_max": "5000000"})
	if !errors.Is(err, ErrSysctlReadOnly) {
		t.Errorf("a sheet's key that cannot be set: %v", err)
	}
}

func TestEveryPinnedSysctlHasItsReason(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Pinned(RoleHost) {
		if s.Why == "" || strings.Contains(s.Why, "\n") || seen[s.Key] || sysctlFields(s.Value) != s.Value {
			t.Errorf("%+v", s)
		}
		seen[s.Key] = true
	}
	if len(PinnedSysctls(RoleHost)) != len(seen) {
		t.Error("map and table differ")
	}
}

func TestPlainUserIsToldApart(t *testing.T) {
	for _, c := range Doctor() {
		if c.Name == "privileges" && (c.Answer == Supported) == nstest.PlainUser() {
			t.Errorf("privileges: %v (%s)", c.Answer, c.Detail)
		}
	}
}
