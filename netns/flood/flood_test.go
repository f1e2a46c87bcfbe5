package flood_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"tcplab/lab/clock"
	"tcplab/netns"
	"tcplab/netns/flood"
)

// lab is a flooder's host with two links: dark to the server, and other to a
// host that nobody floods.
type lab struct {
	flooder, server, bystander *netns.Host
	taps                       map[string]*sniffer
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{taps: map[string]*sniffer{}}
	for name, h := range map[string]**netns.Host{"flooder": &l.flooder, "server": &l.server, "bystander": &l.bystander} {
		host, err := netns.NewHost(name)
		if err != nil {
			t.Fatal(err)
		}
		*h = host
		t.Cleanup(func() { host.Close() })
		if _, _, err := host.Pin(netns.RoleHost, nil); err != nil {
			t.Fatal(err)
		}
	}
	l.connect(t, "dark", l.flooder, l.server, 1)
	l.connect(t, "other", l.flooder, l.bystander, 2)
	if err := l.server.AddRoute(netns.SpoofedSources, netip.MustParseAddr("10.77.1.1"), "dark", ""); err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]*netns.Host{"flooder": l.flooder, "server": l.server, "bystander": l.bystander} {
		l.taps[name] = newSniffer(t, h)
	}
	return l
}

func (l *lab) connect(t *testing.T, name string, a, b *netns.Host, i byte) {
	t.Helper()
	at := func(n byte) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, i, n}), 24) }
	link, err := netns.Connect(netns.LinkConfig{Name: name, DirectPair: true, A: netns.Endpoint{Host: a, Addr: at(1)}, B: netns.Endpoint{Host: b, Addr: at(2)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { link.Close() })
}

// sniffer hears every frame of a namespace, at all its interfaces.
type sniffer struct {
	fd    int
	names map[int]string
}

func newSniffer(t *testing.T, h *netns.Host) *sniffer {
	t.Helper()
	s := &sniffer{names: map[int]string{}}
	open := func() (err error) {
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(unix.ETH_P_ALL>>8|(unix.ETH_P_ALL&0xff)<<8)); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 200<<10); err != nil {
			return err
		}
		links, err := net.Interfaces()
		for _, l := range links {
			s.names[l.Index] = l.Name
		}
		return err
	}
	err := open
	if h != nil {
		err = func() error { return h.Do(open) }
	}
	if err := err(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

// fataler is a test, or one case of a property.
type fataler interface{ Fatal(...any) }

// heard counts the frames with a spoofed address since the last call, by
// interface, direction and target.
func (s *sniffer) heard(t fataler) map[string]int {
	n := map[string]int{}
	b := make([]byte, 2048)
	for {
		k, from, err := unix.Recvfrom(s.fd, b, 0)
		if errors.Is(err, unix.EAGAIN) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		if k < 34 || binary.BigEndian.Uint16(b[12:]) != 0x0800 {
			continue
		}
		src, _ := netip.AddrFromSlice(b[26:30])
		dst, _ := netip.AddrFromSlice(b[30:34])
		if !netns.SpoofedSources.Contains(src) && !netns.SpoofedSources.Contains(dst) {
			continue
		}
		at := from.(*unix.SockaddrLinklayer)
		way := "in"
		if at.Pkttype == unix.PACKET_OUTGOING {
			way = "out"
		}
		if netns.SpoofedSources.Contains(dst) {
			n[s.names[at.Ifindex]+" "+way+" answer"]++
		} else {
			n[s.names[at.Ifindex]+" "+way+" "+dst.String()]++
		}
	}
}

func counter(t testing.TB, h *netns.Host, file, group, name string) int64 {
	t.Helper()
	var v int64 = -1
	err := h.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			return err
		}
		lines := strings.Split(string(b), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			for k := range names {
				if names[0] == group+":" && names[k] == name {
					_, err = fmt.Sscan(values[k], &v)
				}
			}
		}
		return err
	})
	if err != nil || v < 0 {
		t.Fatalf("%s.%s of %s: %d, %v", group, name, h.Name, v, err)
	}
	return v
}

// listen has the server listen, with room for backlog and one.
func listen(t *testing.T, h *netns.Host, port, backlog int) {
	t.Helper()
	var fd int
	err := h.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err = unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
			return err
		}
		return unix.Listen(fd, backlog)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
}

// run floods from a host.
func run(h *netns.Host, cfg flood.Config) (flood.Result, error) {
	var f *flood.Flooder
	if err := h.Do(func() (err error) {
		f, err = flood.Open(cfg)
		return err
	}); err != nil {
		return flood.Result{}, err
	}
	defer f.Close()
	return f.Run(context.Background(), clock.Now()), nil
}

// A flood arrives, is answered by SYN-ACKs, and nothing answers those: no RST
// and no ICMP, from anybody. The bystander hears none of it.
func TestAFloodStaysOnItsLinkAndNothingAnswersTheSYNACKs(t *testing.T) {
	l := newLab(t)
	listen(t, l.server, 80, 8)
	if _, err := l.server.SetSysctls(map[string]string{"net.ipv4.tcp_syncookies": "1"}); err != nil {
		t.Fatal(err)
	}
	r, err := run(l.flooder, flood.Config{To: []string{"10.77.1.2:80"}, Rate: 5000, Packets: 200, Sources: 100, For: time.Second, Seed: 1})
	if err != nil || r.Sent+r.Skipped != 200 || r.Refused > 0 || r.Sent < 9 {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := counter(t, l.server, "netstat", "TcpExt", "SyncookiesSent"); got != r.Sent-9 {
		t.Errorf("%d cookies sent for %d SYNs and a queue of nine", got, r.Sent)
	}
	if got := counter(t, l.flooder, "snmp", "Ip", "InAddrErrors"); got < r.Sent {
		t.Errorf("%d SYN-ACKs were dropped by the flooder's host, of %d", got, r.Sent)
	}
	for _, c := range []struct {
		host              *netns.Host
		group, name, says string
	}{
		{l.flooder, "Tcp", "OutRsts", "an RST frees the slot"}, {l.flooder, "Icmp", "OutMsgs", "so does an unreachable"}, {l.server, "Icmp", "InMsgs", "heard of it"},
		{l.bystander, "Ip", "InReceives", "a bystander"},
	} {
		if got := counter(t, c.host, "snmp", c.group, c.name); got != 0 {
			t.Errorf("%s: %s%s is %d: %s", c.host.Name, c.group, c.name, got, c.says)
		}
	}
	for way, n := range l.taps["flooder"].heard(t) {
		if !strings.HasPrefix(way, "dark ") || n == 0 {
			t.Errorf("%s: %d frames", way, n)
		}
	}
	if got := l.taps["bystander"].heard(t); len(got) > 0 {
		t.Errorf("the bystander heard %v", got)
	}
}

// strange are places that are no host of the run, though each has much of one.
func strange(t *testing.T, l *lab) map[string]*netns.Host {
	t.Helper()
	places := map[string]*netns.Host{"flooder": l.flooder, "bystander": l.bystander, "server": l.server}
	add := func(name string, build func(h *netns.Host, n *netlink.Handle) error) {
		h, err := netns.NewHost(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		err = h.Do(func() error {
			n, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer n.Close()
			return build(h, n)
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		places[name] = h
	}
	// pair is a veth pair within one namespace, one end of which looks like a
	// lab's.
	pair := func(n *netlink.Handle, mac, peer net.HardwareAddr, addr string, state int) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = "dark", mac
		v := netlink.NewVeth(attrs)
		v.PeerName = "far"
		if err := n.LinkAdd(v); err != nil {
			return err
		}
		p, err := netip.ParsePrefix(addr)
		if err != nil {
			return err
		}
		ip := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
		if err := n.AddrAdd(v, &netlink.Addr{IPNet: ip}); err != nil {
			return err
		}
		for _, name := range []string{"dark", "far"} {
			dev, err := n.LinkByName(name)
			if err != nil {
				return err
			}
			if err := n.LinkSetUp(dev); err != nil {
				return err
			}
		}
		dev, err := n.LinkByName("dark")
		if err != nil {
			return err
		}
		for _, to := range []string{"10.77.1.2", "172.17.0.2"} {
			if p.Contains(netip.MustParseAddr(to)) {
				return n.NeighSet(&netlink.Neigh{LinkIndex: dev.Attrs().Index, Family: unix.AF_INET, State: state, IP: net.ParseIP(to), HardwareAddr: peer})
			}
		}
		return nil
	}
	a, b := netns.LinkMACs("dark")
	foreign := net.HardwareAddr{2, 0x42, 0xac, 17, 0, 2} // as a container's
	add("empty", func(*netns.Host, *netlink.Handle) error { return nil })
	add("container", func(_ *netns.Host, n *netlink.Handle) error {
		return pair(n, foreign, foreign, "172.17.0.3/16", netlink.NUD_PERMANENT)
	})
	add("wrong-mac", func(_ *netns.Host, n *netlink.Handle) error {
		return pair(n, foreign, b, "10.77.1.1/24", netlink.NUD_PERMANENT)
	})
	add("wrong-peer", func(_ *netns.Host, n *netlink.Handle) error {
		return pair(n, a, foreign, "10.77.1.1/24", netlink.NUD_PERMANENT)
	})
	add("learned-neighbour", func(_ *netns.Host, n *netlink.Handle) error {
		return pair(n, a, b, "10.77.1.1/24", netlink.NUD_REACHABLE)
	})
	add("wrong-address", func(_ *netns.Host, n *netlink.Handle) error {
		return pair(n, a, b, "192.168.0.1/8", netlink.NUD_PERMANENT)
	})
	add("has-a-way-out", func(h *netns.Host, n *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		if err := n.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
		return pair(n, a, b, "10.77.1.1/24", netlink.NUD_PERMANENT)
	})
	return places
}

// Whatever is asked for, wherever it is asked: no frame leaves by any interface
// but the flooder's link to its server, and none goes to anybody else. This
// machine's own interfaces hear nothing at all.
func TestNoInputMakesAFrameLeaveTheRun(t *testing.T) {
	l := newLab(t)
	listen(t, l.server, 80, 8)
	places := strange(t, l)
	taps := map[string]*sniffer{"this machine": newSniffer(t, nil)}
	var names []string
	for name, h := range places {
		names = append(names, name)
		taps[name] = newSniffer(t, h)
	}
	names = append(names, "this machine")
	addresses := []string{"10.77.1.2:80", "10.77.1.2:443", "10.77.2.2:80", "10.77.1.1:80", "10.77.2.1:80", "10.77.3.1:80", "10.77.252.7:80", "10.77.255.255:80", "127.0.0.1:80", "127.0.0.53:53",
		"0.0.0.0:80", "255.255.255.255:80", "224.0.0.1:80", "8.8.8.8:53", "192.0.2.1:80", "172.17.0.2:80", "192.168.0.2:80", "[::1]:80", "[::ffff:10.77.1.2]:80", "[fe80::1%dark]:80", "10.77.1.2:0", "server", ""}
	sends := func(place string, to []string) bool {
		// The one host of the run that has these behind one link: either end of
		// dark, and either end of other.
		all := func(addr string) bool {
			for _, a := range to {
				if !strings.HasPrefix(a, addr) {
					return false
				}
			}
			return len(to) > 0
		}
		switch place {
		case "flooder":
			return all("10.77.1.2:") || all("10.77.2.2:")
		case "server":
			return all("10.77.1.1:")
		case "bystander":
			return all("10.77.2.1:")
		}
		return false
	}
	rapid.Check(t, func(t *rapid.T) {
		place := rapid.SampledFrom(append([]string{"flooder", "flooder", "flooder"}, names...)).Draw(t, "place")
		cfg := flood.Config{
			To:      rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom(addresses), rapid.SampledFrom(addresses[:2])), 0, 3).Draw(t, "to"),
			Rate:    rapid.OneOf(rapid.Float64Range(100, 20_000), rapid.Float64()).Draw(t, "rate"),
			Sources: rapid.OneOf(rapid.IntRange(0, 1000), rapid.Int()).Draw(t, "sources"),
			Packets: rapid.OneOf(rapid.IntRange(1, 30), rapid.IntRange(-5, 30)).Draw(t, "packets"),
			For:     rapid.SampledFrom([]time.Duration{time.Millisecond, 5 * time.Millisecond, 30 * time.Second, -1, 0}).Draw(t, "for"),
			Seed:    rapid.Uint64().Draw(t, "seed"),
		}
		var r flood.Result
		var err error
		if h := places[place]; h != nil {
			r, err = run(h, cfg)
		} else {
			var f *flood.Flooder
			if f, err = flood.Open(cfg); err == nil {
				r = f.Run(context.Background(), clock.Now())
				f.Close()
			}
		}
		if err == nil && !sends(place, cfg.To) {
			t.Fatalf("%s let it send to %v", place, cfg.To)
		}
		if err == nil && (cfg.Check() != nil || r.Sent > int64(cfg.Packets)) {
			t.Fatalf("%+v came to %+v", cfg, r)
		}
		for name, tap := range taps {
			for way, n := range tap.heard(t) {
				iface, rest, _ := strings.Cut(way, " ")
				_, dst, _ := strings.Cut(rest, " ")
				of := name == "flooder" || name == "server" || name == "bystander"
				asked := dst == "answer"
				for _, a := range cfg.To {
					asked = asked || strings.HasPrefix(a, dst+":")
				}
				if err != nil || !of || iface != "dark" && iface != "other" || !asked {
					t.Fatalf("%d frames at %s: %s (asked at %s for %v: %v)", n, name, way, place, cfg.To, err)
				}
			}
		}
	})
}

func TestAFirstNamespaceAndAnEmptyOneAreToldApart(t *testing.T) {
	h, err := netns.NewHost("empty")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Do(netns.NotFirst); err != nil {
		t.Errorf("a namespace of the run's: %v", err)
	}
	if os.Getenv("NSTEST_PLAIN_USER") == "" && os.Geteuid() == 0 {
		if err := netns.NotFirst(); !errors.Is(err, netns.ErrFirstNamespace) {
			t.Errorf("where the suite runs: %v", err)
		}
	}
	if _, err := flood.Open(flood.Config{To: []string{"10.77.1.2:80"}, Rate: 1, Packets: 1, For: time.Second}); !errors.Is(err, flood.ErrNotOfTheLab) {
		t.Errorf("where the suite runs: %v", err)
	}
}
