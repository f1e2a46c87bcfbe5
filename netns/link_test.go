package netns

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func connect(t *testing.T, cfg LinkConfig) *Link {
	t.Helper()
	l, err := Connect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// pair is two hosts and what a link between them is made of.
func pair(t *testing.T, name string) LinkConfig {
	t.Helper()
	return LinkConfig{
		Name: name,
		A:    Endpoint{Host: newHost(t, "client"), Addr: prefix("10.0.0.1/24")},
		B:    Endpoint{Host: newHost(t, "server"), Addr: prefix("10.0.0.2/24")},
	}
}

func TestHostsReachEachOtherOverADirectPair(t *testing.T) {
	cfg := pair(t, "cable")
	cfg.DirectPair = true
	cfg.B.Extra = []netip.Prefix{prefix("10.9.0.1/32"), prefix("10.0.0.77/24")}
	l := connect(t, cfg)
	if l.Middle != nil {
		t.Error("a direct pair has a middle")
	}
	for _, to := range []string{"10.0.0.2", "10.9.0.1", "10.0.0.77"} {
		transfer(t, cfg.A.Host, cfg.B.Host, netip.MustParseAddr(to), 64<<10)
	}
	transfer(t, cfg.B.Host, cfg.A.Host, cfg.A.Addr.Addr(), 64<<10)
	ping(t, cfg.A.Host, netip.MustParseAddr("10.9.0.1"))
}

// TestFramesInTheMiddleAreWhatAWireCarries: no frame above the MTU, all
// checksums filled in, and nothing but IPv4, so no ARP and no IPv6.
func TestFramesInTheMiddleAreWhatAWireCarries(t *testing.T) {
	cfg := pair(t, "wan")
	cfg.A.MTU, cfg.B.MTU = 1400, 1400
	cfg.B.Extra = []netip.Prefix{prefix("10.9.0.1/32")}
	l := connect(t, cfg)
	frames, full := 0, 0
	var odd []string
	stop := cable(t, l, func(f []byte) {
		frames++
		if len(f) == 1400+14 {
			full++
		}
		if what := oddFrame(f, 1400); what != "" {
			odd = append(odd, what)
		}
	})
	transfer(t, cfg.A.Host, cfg.B.Host, netip.MustParseAddr("10.9.0.1"), 1<<20)
	transfer(t, cfg.B.Host, cfg.A.Host, netip.MustParseAddr("10.0.0.1"), 1<<10)
	ping(t, cfg.B.Host, netip.MustParseAddr("10.0.0.1"))
	stop()
	if len(odd) > 0 {
		t.Errorf("%d of %d frames are not: %s", len(odd), frames, strings.Join(odd[:min(3, len(odd))], "; "))
	}
	// 2 MiB in segments of 1,348 bytes at most, both ways.
	if full < 2<<20/1400 {
		t.Errorf("%d frames, %d of them full", frames, full)
	}
}

func TestOffloadsAreOffAtEveryEnd(t *testing.T) {
	cfg := pair(t, "wire")
	l := connect(t, cfg)
	for _, e := range []struct {
		h   *Host
		dev string
	}{{cfg.A.Host, "wire"}, {cfg.B.Host, "wire"}, {l.Middle, l.PortA}, {l.Middle, l.PortB}} {
		if on, err := e.h.Offloads(e.dev); err != nil || len(on) > 0 {
			t.Errorf("%s of %s: %v %v", e.dev, e.h.Name, on, err)
		}
	}
	// The reading itself: a veth that nobody touched has them on.
	h := newHost(t, "untouched")
	if err := h.withNetlink(func(n *netlink.Handle) error {
		return n.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "plain"}, PeerName: "other"})
	}); err != nil {
		t.Fatal(err)
	}
	on, err := h.Offloads("plain")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"tx-tcp-segmentation", "tx-generic-segmentation", "tx-scatter-gather", "tx-checksum-ip-generic"} {
		if !slices.Contains(on, want) {
			t.Errorf("an untouched veth does not show %s: %v", want, on)
		}
	}
}

func TestOffloadThatStaysOnIsAnErrorThatNamesIt(t *testing.T) {
	h := newHost(t, "client")
	// lo's checksum and scatter-gather features cannot be changed.
	err := h.offloadsOff("lo")
	if err == nil || !strings.Contains(err.Error(), "lo") || !strings.Contains(err.Error(), "tx-checksum-ip-generic") {
		t.Errorf("lo: %v", err)
	}
	if err := h.offloadsOff("none"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("an interface that does not exist: %v", err)
	}
}

func TestNeighboursArePermanentAtBothEnds(t *testing.T) {
	cfg := pair(t, "wire")
	cfg.A.Extra = []netip.Prefix{prefix("10.0.0.11/24"), prefix("10.0.0.12/24")}
	l := connect(t, cfg)
	for _, c := range []struct {
		h     *Host
		mac   net.HardwareAddr
		other []netip.Prefix
	}{{cfg.B.Host, l.MACA, cfg.A.addresses()}, {cfg.A.Host, l.MACB, cfg.B.addresses()}} {
		var list []netlink.Neigh
		if err := c.h.withNetlink(func(n *netlink.Handle) (err error) {
			list, err = n.NeighList(0, unix.AF_INET)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for _, p := range c.other {
			if !slices.ContainsFunc(list, func(n netlink.Neigh) bool {
				return n.IP.String() == p.Addr().String() && n.State == netlink.NUD_PERMANENT && bytes.Equal(n.HardwareAddr, c.mac)
			}) {
				t.Errorf("%s has no permanent neighbour %v at %v: %v", c.h.Name, p.Addr(), c.mac, list)
			}
		}
	}
}

func TestNeighboursOfALinkWithARPAreLeftToTheHosts(t *testing.T) {
	cfg := pair(t, "wire")
	cfg.ARP = true
	connect(t, cfg)
	for _, h := range []*Host{cfg.A.Host, cfg.B.Host} {
		if err := h.withNetlink(func(n *netlink.Handle) error {
			list, err := n.NeighList(0, unix.AF_INET)
			for _, x := range list {
				if x.State == netlink.NUD_PERMANENT {
					t.Errorf("%s has a permanent neighbour %v", h.Name, x.IP)
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHardwareAddressesRepeatAndDiffer(t *testing.T) {
	first := connect(t, pair(t, "wire"))
	second := connect(t, pair(t, "wire"))
	if first.MACA.String() != second.MACA.String() || first.MACB.String() != second.MACB.String() {
		t.Error("two runs have other addresses")
	}
	other := hardwareAddr("back", "a")
	if first.MACA.String() == first.MACB.String() || first.MACA.String() == other.String() {
		t.Error("two ends have the same address")
	}
	if other[0]&3 != 2 {
		t.Errorf("%v is not a locally administered unicast address", other)
	}
}

func TestRoutePinsCongestionControl(t *testing.T) {
	for _, cc := range []string{"reno", "cubic", "bbr"} {
		cfg := pair(t, "wire")
		cfg.DirectPair, cfg.A.CongControl, cfg.B.CongControl = true, cc, cc
		cfg.B.Extra = []netip.Prefix{prefix("10.9.0.1/32")}
		connect(t, cfg)
		for _, to := range []string{"10.0.0.2", "10.9.0.1"} {
			if got := transfer(t, cfg.A.Host, cfg.B.Host, netip.MustParseAddr(to), 4<<10); got != cc {
				t.Errorf("towards %s a socket has %q, want %q", to, got, cc)
			}
		}
	}
	cfg := pair(t, "wire")
	cfg.A.CongControl = "none-such"
	if _, err := Connect(cfg); err == nil || !strings.Contains(err.Error(), "none-such") || !strings.Contains(err.Error(), "cubic") {
		t.Errorf("an unknown congestion control: %v", err)
	}
}

func TestPinnedCongestionControlCannotBeReplacedByASocket(t *testing.T) {
	cfg := pair(t, "wire")
	cfg.DirectPair, cfg.A.CongControl, cfg.B.CongControl = true, "reno", "reno"
	connect(t, cfg)
	err := cfg.A.Host.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// No answer is needed: the route is looked up when the SYN goes.
		unix.SetNonblock(fd, true)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{10, 0, 0, 2}}); !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
	})
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("TCP_CONGESTION on a socket of a pinned route: %v, want EPERM", err)
	}
}

func TestRoutesThroughARouter(t *testing.T) {
	client, router, server := newHost(t, "client"), newHost(t, "router"), newHost(t, "server")
	if _, _, err := router.Pin(RoleRouter, nil); err != nil {
		t.Fatal(err)
	}
	connect(t, LinkConfig{Name: "front", DirectPair: true,
		A: Endpoint{CongControl: "cubic", Host: client, Addr: prefix("10.0.1.1/24")}, B: Endpoint{CongControl: "cubic", Host: router, Addr: prefix("10.0.1.2/24")}})
	connect(t, LinkConfig{Name: "back", DirectPair: true,
		A: Endpoint{CongControl: "cubic", Host: router, Addr: prefix("10.0.2.1/24")}, B: Endpoint{CongControl: "cubic", Host: server, Addr: prefix("10.0.2.2/24")}})
	if err := client.AddRoute(prefix("10.0.2.0/24"), netip.MustParseAddr("10.0.1.2"), "front", "cubic"); err != nil {
		t.Fatal(err)
	}
	if err := server.AddRoute(prefix("0.0.0.0/0"), netip.MustParseAddr("10.0.2.1"), "back", "cubic"); err != nil {
		t.Fatal(err)
	}
	if cc := transfer(t, client, server, netip.MustParseAddr("10.0.2.2"), 64<<10); cc != "cubic" {
		t.Errorf("by way of a router a socket has %s", cc)
	}
	for _, c := range []struct {
		why  string
		err  error
		want error
	}{
		{"a second route of the same kind", client.AddRoute(prefix("10.0.2.0/24"), netip.MustParseAddr("10.0.1.2"), "front", ""), unix.EEXIST},
		{"a gateway that is not on a link", client.AddRoute(prefix("10.0.3.0/24"), netip.MustParseAddr("10.7.0.1"), "front", ""), unix.ENETUNREACH},
		{"an interface that does not exist", client.AddRoute(prefix("10.0.3.0/24"), netip.Addr{}, "none", ""), syscall.Errno(0)},
		{"IPv6", client.AddRoute(prefix("fd00::/8"), netip.Addr{}, "front", ""), syscall.Errno(0)},
	} {
		if c.err == nil || (c.want != syscall.Errno(0) && !errors.Is(c.err, c.want)) || strings.Contains(c.err.Error(), "\n") {
			t.Errorf("%s: %v", c.why, c.err)
		}
	}
}

// links are the names of a host's interfaces but lo.
func links(t *testing.T, h *Host) (names []string) {
	t.Helper()
	if err := h.withNetlink(func(n *netlink.Handle) error {
		list, err := n.LinkList()
		for _, l := range list {
			if l.Attrs().Name != "lo" {
				names = append(names, l.Attrs().Name)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return names
}

func TestBadLinksAreRefusedAndNothingIsLeft(t *testing.T) {
	for _, c := range []struct {
		says  string
		spoil func(*LinkConfig)
	}{
		{"at most 15 bytes", func(c *LinkConfig) { c.Name = "a-name-that-is-too-long" }},
		{"needs a name", func(c *LinkConfig) { c.Name = "" }},
		{"percent", func(c *LinkConfig) { c.Name = "wan%d" }},
		{"meaning", func(c *LinkConfig) { c.Name = "lo" }},
		{"both ends", func(c *LinkConfig) { c.B.Host = c.A.Host }},
		{"host at both ends", func(c *LinkConfig) { c.B.Host = nil }},
		{"MTU", func(c *LinkConfig) { c.A.MTU = 60 }},
		{"IPv4", func(c *LinkConfig) { c.A.Addr = prefix("fd00::1/64") }},
		{"IPv4", func(c *LinkConfig) { c.A.Addr = netip.Prefix{} }},
		{"twice", func(c *LinkConfig) { c.B.Extra = []netip.Prefix{prefix("10.0.0.1/32")} }},
		{"no congestion control", func(c *LinkConfig) { c.A.CongControl = "none-such" }},
	} {
		cfg := pair(t, "wire")
		a, b := cfg.A.Host, cfg.B.Host
		c.spoil(&cfg)
		l, err := Connect(cfg)
		if err == nil {
			l.Close()
			t.Errorf("%s: no error", c.says)
			continue
		}
		if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q does not say %q in one line", err, c.says)
		}
		if left := slices.Concat(links(t, a), links(t, b)); len(left) > 0 {
			t.Errorf("%s: left %v", c.says, left)
		}
	}
}

func TestSecondLinkOfANameLeavesTheFirstAlone(t *testing.T) {
	cfg := pair(t, "wire")
	connect(t, cfg)
	again := cfg
	again.A.Addr, again.B.Addr = prefix("10.1.0.1/24"), prefix("10.1.0.2/24")
	if _, err := Connect(again); !errors.Is(err, unix.EEXIST) {
		t.Errorf("the second: %v", err)
	}
	if got := links(t, cfg.A.Host); !slices.Equal(got, []string{"wire"}) {
		t.Errorf("the first is gone: %v", got)
	}
}

func TestClosedLinkIsGoneAndCanBeMadeAgain(t *testing.T) {
	for _, direct := range []bool{false, true} {
		cfg := pair(t, "wire")
		cfg.DirectPair = direct
		for range 3 {
			l, err := Connect(cfg)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // a second Close does nothing
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if left := slices.Concat(links(t, cfg.A.Host), links(t, cfg.B.Host)); len(left) > 0 {
				t.Fatalf("left %v", left)
			}
		}
	}
}

func TestLinkOutlivingItsHostsClosesQuietly(t *testing.T) {
	cfg := pair(t, "wire")
	l, err := Connect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.A.Host.Close()
	cfg.B.Host.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestPortsOfTheMiddleAreNamedAfterHosts(t *testing.T) {
	for name, want := range map[string]string{
		"client":                       "client",
		"exactly-15-byte":              "exactly-15-byte",
		"a-host-with-a-very-long-name": "",
		"a-host-with-a-very-long-nam3": "",
		"with blank":                   "",
		"lo":                           "",
		"häuser":                       "häuser",
	} {
		got := PortName(name)
		if checkInterfaceName(got) != nil || got != PortName(name) || (want != "" && got != want) || (want == "" && got == name) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if PortName("a-host-with-a-very-long-name") == PortName("a-host-with-a-very-long-nam3") {
		t.Error("two hosts have one port name")
	}
	cfg := pair(t, "wire")
	cfg.A.Host.Name, cfg.B.Host.Name = "a-host-with-a-very-long-name", "b"
	l := connect(t, cfg)
	if got := links(t, l.Middle); !slices.Equal(got, []string{l.PortA, "b"}) {
		t.Errorf("the middle has %v, the link says %s and %s", got, l.PortA, l.PortB)
	}
}

// TestContainersNamespaceIsWiredLikeAnyOther: one that was not made by us, with
// IPv6 on and lo down.
func TestContainersNamespaceIsWiredLikeAnyOther(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	container, err := FromPID("container", cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer container.Close()
	if v, err := container.Sysctl("net.ipv6.conf.default.disable_ipv6"); err != nil || v != "0" {
		t.Fatalf("IPv6 is off already: %q, %v", v, err)
	}
	h := newHost(t, "client")
	l := connect(t, LinkConfig{Name: "wire.0",
		A: Endpoint{Host: h, Addr: prefix("10.0.0.1/24"), CongControl: "reno"}, B: Endpoint{Host: container, Addr: prefix("10.0.0.2/24")}})
	var odd []string
	stop := cable(t, l, func(f []byte) {
		if what := oddFrame(f, 1500); what != "" {
			odd = append(odd, what)
		}
	})
	if cc := transfer(t, h, container, netip.MustParseAddr("10.0.0.2"), 64<<10); cc != "reno" {
		t.Errorf("congestion control %s", cc)
	}
	stop()
	if len(odd) > 0 {
		t.Errorf("odd frames: %v", odd)
	}
	if v, err := container.Sysctl("net/ipv6/conf/wire.0/disable_ipv6"); err != nil || v != "1" {
		t.Errorf("IPv6 is on for the interface: %q, %v", v, err)
	}
}

func TestOneHostMayHaveManyLinks(t *testing.T) {
	hub := newHost(t, "hub")
	for i := range 8 {
		leaf := newHost(t, fmt.Sprintf("leaf%d", i))
		connect(t, LinkConfig{Name: fmt.Sprintf("spoke%d", i), DirectPair: true,
			A: Endpoint{Host: hub, Addr: prefix(fmt.Sprintf("10.0.%d.1/24", i))},
			B: Endpoint{Host: leaf, Addr: prefix(fmt.Sprintf("10.0.%d.2/24", i))}})
		transfer(t, leaf, hub, netip.MustParseAddr(fmt.Sprintf("10.0.%d.1", i)), 1<<10)
	}
}
