package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	defaultMTU = 1500
	// carrierWait bounds the wait for an interface to settle; it takes some
	// 100 µs, and up to a second where the kernel batches link events
	// (net/core/link_watch.c).
	carrierWait = 5 * time.Second
)

// Endpoint is one end of a link: where it is, and its addresses there.
type Endpoint struct {
	Host *Host
	// Addr is the interface's address with the length of the link's prefix.
	Addr netip.Prefix
	// Extra addresses are on the same interface (a load balancer's, a
	// flooder's sources). Those outside the other end's prefix are routed to
	// it as on-link hosts.
	Extra []netip.Prefix
	// MTU in bytes, 0 for 1500.
	MTU int
	// CongControl pins the congestion control of this end's connections by the
	// routes to the other; empty leaves it to the namespace.
	CongControl string
}

// LinkConfig describes a link between two hosts. IPv4 only.
type LinkConfig struct {
	// Name is the interface's name inside both hosts, at most 15 bytes.
	Name string
	A, B Endpoint
	// DirectPair joins the hosts by one veth pair, a perfect cable, without a
	// middle in which a wire could be put.
	DirectPair bool
	// ARP leaves it to the hosts to find each other. Then a silence of the link
	// ends in EHOSTUNREACH, and takes TCP's backoff back on the way (RFC 6069).
	ARP bool
}

// Link is a link that is up. Its middle is a host of its own in which the two
// ports are not joined: a wire carries frames between them.
type Link struct {
	Name string
	// Middle is nil for a direct pair.
	Middle *Host
	// PortA and PortB are the interfaces in Middle that face A and B.
	PortA, PortB string
	// MACA and MACB are the hardware addresses of the hosts' interfaces, the
	// same in each run.
	MACA, MACB net.HardwareAddr

	ends [2]Endpoint
	made [2]bool // whether this link made its interface in that end's host
}

// Connect makes a link and returns when both ends can send: interfaces up and
// without a queueing discipline, neighbours permanent unless ARP is asked for
// (so that no ARP is ever sent: when ARP fails, the kernel resets TCP's backoff, RFC 6069), offloads
// off at all ends. On an error nothing of the link is left.
func Connect(cfg LinkConfig) (*Link, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	l := &Link{
		Name: cfg.Name,
		MACA: hardwareAddr(cfg.Name, "a"),
		MACB: hardwareAddr(cfg.Name, "b"),
		ends: [2]Endpoint{cfg.A, cfg.B},
	}
	if err := l.build(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("link %s: %w", cfg.Name, err), l.Close())
	}
	return l, nil
}

func (cfg *LinkConfig) check() error {
	if err := checkInterfaceName(cfg.Name); err != nil {
		return err
	}
	ends := []*Endpoint{&cfg.A, &cfg.B}
	seen := map[netip.Addr]bool{}
	for _, e := range ends {
		if e.Host == nil {
			return fmt.Errorf("link %s: it needs a host at both ends", cfg.Name)
		}
		if e.MTU == 0 {
			e.MTU = defaultMTU
		}
		// 68 is IPv4's least (RFC 791), 65535 the most of a veth.
		if e.MTU < 68 || e.MTU > 65535 {
			return fmt.Errorf("link %s: MTU %d of host %s is outside 68..65535", cfg.Name, e.MTU, e.Host.Name)
		}
		for _, p := range e.addresses() {
			if !p.IsValid() || !p.Addr().Is4() {
				return fmt.Errorf("link %s: address %v of host %s is not an IPv4 address with a prefix length", cfg.Name, p, e.Host.Name)
			}
			if seen[p.Addr()] {
				return fmt.Errorf("link %s: address %v is given twice", cfg.Name, p.Addr())
			}
			seen[p.Addr()] = true
		}
	}
	if cfg.A.Host == cfg.B.Host {
		return fmt.Errorf("link %s: both ends are in host %s", cfg.Name, cfg.A.Host.Name)
	}
	if !cfg.DirectPair && PortName(cfg.A.Host.Name) == PortName(cfg.B.Host.Name) {
		return fmt.Errorf("link %s: two hosts are named %s", cfg.Name, cfg.A.Host.Name)
	}
	return nil
}

// addresses are the end's own and its extra ones.
func (e Endpoint) addresses() []netip.Prefix {
	return slices.Concat([]netip.Prefix{e.Addr}, e.Extra)
}

func (l *Link) build(cfg LinkConfig) error {
	a, b := cfg.A, cfg.B
	ends := []end{
		{host: a.Host, dev: cfg.Name, mac: l.MACA, mtu: a.MTU},
		{host: b.Host, dev: cfg.Name, mac: l.MACB, mtu: b.MTU},
	}
	if cfg.DirectPair {
		if err := vethPair(ends[0], ends[1]); err != nil {
			return err
		}
		l.made = [2]bool{true, true}
	} else {
		middle, err := NewHost("wire " + cfg.Name)
		if err != nil {
			return err
		}
		l.Middle, l.PortA, l.PortB = middle, PortName(a.Host.Name), PortName(b.Host.Name)
		mtu := max(a.MTU, b.MTU)
		ends = append(ends,
			end{host: middle, dev: l.PortA, mac: hardwareAddr(cfg.Name, "port a"), mtu: mtu},
			end{host: middle, dev: l.PortB, mac: hardwareAddr(cfg.Name, "port b"), mtu: mtu})
		for i := range 2 {
			if err := vethPair(ends[2+i], ends[i]); err != nil {
				return err
			}
			l.made[i] = true
		}
	}
	for i := range ends {
		if err := ends[i].prepare(); err != nil {
			return err
		}
	}
	if err := ends[0].address(a); err != nil {
		return err
	}
	if err := ends[1].address(b); err != nil {
		return err
	}
	for _, e := range ends {
		if err := e.up(); err != nil {
			return err
		}
	}
	for _, e := range ends {
		if err := e.waitUp(); err != nil {
			return err
		}
	}
	toA, toB := l.MACA, l.MACB
	if cfg.ARP {
		toA, toB = nil, nil
	}
	if err := ends[0].reach(a, b, toB, a.CongControl); err != nil {
		return err
	}
	return ends[1].reach(b, a, toA, b.CongControl)
}

// Close removes the link's interfaces from its hosts and ends its middle. A
// host that is closed already is no error.
func (l *Link) Close() error {
	var errs []error
	for i, e := range l.ends {
		// Another link of this name may be there, from before or since.
		if !l.made[i] {
			continue
		}
		l.made[i] = false
		err := e.Host.withNetlink(func(n *netlink.Handle) error {
			dev, err := n.LinkByName(l.Name)
			var gone netlink.LinkNotFoundError
			if errors.As(err, &gone) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := n.LinkDel(dev); err != nil && !errors.Is(err, unix.ENODEV) {
				return err
			}
			return nil
		})
		if err != nil && !errors.Is(err, ErrClosed) {
			errs = append(errs, fmt.Errorf("link %s: remove it from host %s: %w", l.Name, e.Host.Name, err))
		}
	}
	if l.Middle != nil {
		errs = append(errs, l.Middle.Close())
	}
	return errors.Join(errs...)
}

// end is one of the interfaces of a link while it is being made.
type end struct {
	host  *Host
	dev   string
	mac   net.HardwareAddr
	mtu   int
	index int // set by prepare
}

// vethPair makes x in its host and its peer in the other host, both down.
func vethPair(x, peer end) error {
	return x.host.withNetlink(func(n *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.MTU = x.dev, x.mac, x.mtu
		attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerHardwareAddr, veth.PeerMTU = peer.dev, peer.mac, uint32(peer.mtu)
		veth.PeerNumTxQueues, veth.PeerNumRxQueues = 1, 1
		veth.PeerNamespace = netlink.NsFd(peer.host.FD())
		err := n.LinkAdd(veth)
		switch {
		case errors.Is(err, unix.EEXIST):
			return fmt.Errorf("host %s or %s has an interface %s already: %w", x.host.Name, peer.host.Name, x.dev, err)
		case errors.Is(err, unix.EOPNOTSUPP):
			return fmt.Errorf("this kernel has no veth interfaces (CONFIG_VETH): %w", err)
		case err != nil:
			return fmt.Errorf("veth pair between %s and %s: %w", x.host.Name, peer.host.Name, err)
		}
		return nil
	})
}

// prepare makes the interface a plain one: no offloads, no IPv6.
func (e *end) prepare() error {
	if err := e.host.offloadsOff(e.dev); err != nil {
		return err
	}
	// Redundant for hosts of ours, whose default is 1; a container's is not.
	key := "net/ipv6/conf/" + e.dev + "/disable_ipv6"
	if _, err := e.host.SetSysctls(map[string]string{key: "1"}); err != nil && !errors.Is(err, ErrNoSysctl) {
		return err
	}
	return e.host.withNetlink(func(n *netlink.Handle) error {
		dev, err := n.LinkByName(e.dev)
		if err != nil {
			return fmt.Errorf("host %s: interface %s: %w", e.host.Name, e.dev, err)
		}
		e.index = dev.Attrs().Index
		if got := dev.Attrs(); got.MTU != e.mtu || got.HardwareAddr.String() != e.mac.String() {
			return fmt.Errorf("host %s: interface %s has MTU %d and address %v, wanted %d and %v", e.host.Name, e.dev, got.MTU, got.HardwareAddr, e.mtu, e.mac)
		}
		return nil
	})
}

// address puts the end's addresses on the interface, without the routes that
// would come with them: those are made by reach, which pins congestion control.
func (e *end) address(at Endpoint) error {
	return e.host.withNetlink(func(n *netlink.Handle) error {
		dev := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: e.dev, Index: e.index}}
		for _, p := range at.addresses() {
			addr := &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NOPREFIXROUTE}
			if err := n.AddrAdd(dev, addr); err != nil {
				return fmt.Errorf("host %s: address %v on %s: %w", e.host.Name, p, e.dev, err)
			}
		}
		return nil
	})
}

func (e *end) up() error {
	return e.host.withNetlink(func(n *netlink.Handle) error {
		dev := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: e.dev, Index: e.index}}
		if err := n.LinkSetUp(dev); err != nil {
			return fmt.Errorf("host %s: bring %s up: %w", e.host.Name, e.dev, err)
		}
		return nil
	})
}

// waitUp waits for the kernel's own word that the interface can send
// (operstate up, RFC 2863), woken by its link updates, and then checks that
// no queueing discipline is in the way.
func (e *end) waitUp() error {
	var updates *nl.NetlinkSocket
	err := e.host.Do(func() (err error) {
		updates, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
		return err
	})
	if err != nil {
		return fmt.Errorf("host %s: watch links: %w", e.host.Name, err)
	}
	defer updates.Close()
	deadline := time.Now().Add(carrierWait)
	return e.host.withNetlink(func(n *netlink.Handle) error {
		for {
			dev, err := n.LinkByIndex(e.index)
			if err != nil {
				return fmt.Errorf("host %s: interface %s: %w", e.host.Name, e.dev, err)
			}
			if dev.Attrs().OperState == netlink.OperUp {
				return e.checkQdisc(n, dev)
			}
			left := time.Until(deadline)
			if left <= 0 {
				return fmt.Errorf("host %s: interface %s has no carrier after %v (its state is %v)", e.host.Name, e.dev, carrierWait, dev.Attrs().OperState)
			}
			timeout := unix.NsecToTimeval(int64(max(left, time.Microsecond)))
			if err := updates.SetReceiveTimeout(&timeout); err != nil {
				return err
			}
			// A full buffer loses updates; the state is asked for again anyway.
			if _, _, err := updates.Receive(); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) {
				return fmt.Errorf("host %s: watch links: %w", e.host.Name, err)
			}
		}
	})
}

func (e *end) checkQdisc(n *netlink.Handle, dev netlink.Link) error {
	qdiscs, err := n.QdiscList(dev)
	if err != nil {
		return fmt.Errorf("host %s: queueing discipline of %s: %w", e.host.Name, e.dev, err)
	}
	for _, q := range qdiscs {
		if q.Type() != "noqueue" {
			return fmt.Errorf("host %s: interface %s has a queueing discipline, %s: a host's interface must not queue", e.host.Name, e.dev, q.Type())
		}
	}
	return nil
}

// reach makes the other end's addresses reachable from this one: routes for
// the prefixes of this end and for what lies outside of them, and a permanent
// neighbour for each address, unless there is no mac.
func (e *end) reach(own, other Endpoint, mac net.HardwareAddr, congctl string) error {
	routed := map[netip.Prefix]bool{}
	for _, p := range own.addresses() {
		net := p.Masked()
		if p.Bits() == 32 || routed[net] {
			continue
		}
		routed[net] = true
		if err := e.host.addRoute(route{dst: net, src: p.Addr(), dev: e.dev, index: e.index, congctl: congctl}); err != nil {
			return err
		}
	}
	for _, p := range other.addresses() {
		covered := false
		for net := range routed {
			covered = covered || net.Contains(p.Addr())
		}
		if covered {
			continue
		}
		r := route{dst: netip.PrefixFrom(p.Addr(), 32), src: own.Addr.Addr(), dev: e.dev, index: e.index, congctl: congctl}
		if err := e.host.addRoute(r); err != nil {
			return err
		}
	}
	if mac == nil {
		return nil
	}
	return e.host.withNetlink(func(n *netlink.Handle) error {
		for _, p := range other.addresses() {
			err := n.NeighSet(&netlink.Neigh{
				LinkIndex: e.index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT,
				IP: p.Addr().AsSlice(), HardwareAddr: mac,
			})
			if err != nil {
				return fmt.Errorf("host %s: permanent neighbour %v on %s: %w", e.host.Name, p.Addr(), e.dev, err)
			}
		}
		return nil
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
