// Package flood sends SYNs that nobody will complete, inside a run and nowhere
// else. It does not trust who asks: the interface, the hardware addresses and
// the way to the target are the kernel's own answers, and every one of them has
// to be what the lab makes, in a network namespace that is not the machine's
// first one. There is no address to which it could be talked into sending, no
// rate above MaxRate, no time beyond MaxFor, and what a pause has held up is sent
// within those bounds or not at all.
package flood

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
	"tcplab/netns"
)

// ErrNotOfTheLab wraps each refusal to send from here, or to there.
var ErrNotOfTheLab = errors.New("flood: only from a host of the run to another one")

// A Flooder is ready to send, on one interface. Open comes first, then Run,
// once, then Close.
type Flooder struct {
	cfg  Config
	fd   int
	segs *segments
	// Link is the interface's name.
	Link string
}

// Result is what a flood came to.
type Result struct {
	Sent    int64 // frames that the interface took
	Skipped int64 // that were not sent: stale, or there was no more time
	Refused int64 // that the kernel did not take (ENOBUFS, ENETDOWN)
	Began   int64 // CLOCK_MONOTONIC, ns
	Ended   int64
}

// Open checks that the calling thread's network namespace is a host of the run
// and that the servers lie within the run, and opens the socket: on the one
// interface that leads there.
func Open(cfg Config) (*Flooder, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if err := netns.NotFirst(); err != nil {
		return nil, refusal(err)
	}
	to, err := targets(cfg.To)
	if err != nil {
		return nil, refusal(err)
	}
	way, err := findWay(to)
	if err != nil {
		return nil, refusal(err)
	}
	f := &Flooder{cfg: cfg, fd: -1, Link: way.name, segs: newSegments(way.own, way.peer, to, netns.SpoofedSources, cfg.Sources, cfg.Seed)}
	// Protocol 0: it sends, and receives nothing.
	if f.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("flood: packet socket: %w (it needs CAP_NET_RAW in the namespace's user namespace)", err)
	}
	if err := unix.Bind(f.fd, &unix.SockaddrLinklayer{Ifindex: way.index}); err != nil {
		f.Close()
		return nil, fmt.Errorf("flood: bind to %s: %w", way.name, err)
	}
	return f, nil
}

func refusal(err error) error { return fmt.Errorf("%w: %w", ErrNotOfTheLab, err) }

// targets reads address:port and lets nothing through but the lab's own.
func targets(list []string) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, s := range list {
		a, err := netip.ParseAddrPort(s)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is no address:port", s)
		case !a.Addr().Is4() || !netns.Range.Contains(a.Addr()):
			return nil, fmt.Errorf("%s lies outside of the lab's %s", a, netns.Range)
		case netns.SpoofedSources.Contains(a.Addr()):
			return nil, fmt.Errorf("%s is one of the flooder's own sources (%s)", a, netns.SpoofedSources)
		case a.Port() == 0:
			return nil, fmt.Errorf("%s has no port", a)
		}
		out = append(out, a)
	}
	return out, nil
}

// way is the interface that leads to the targets.
type way struct {
	name      string
	index     int
	own, peer net.HardwareAddr
}

// findWay asks the kernel for the interface that leads to all targets and for
// the next hop there, and holds everything against what the lab makes.
func findWay(to []netip.AddrPort) (way, error) {
	n, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return way{}, fmt.Errorf("netlink: %w", err)
	}
	defer n.Close()
	links, err := n.LinkList()
	if err != nil {
		return way{}, fmt.Errorf("list the interfaces: %w", err)
	}
	byIndex := map[int]netlink.Link{}
	for _, l := range links {
		// A host of the run has its links and lo, and no way out.
		if l.Type() != "veth" && l.Attrs().Flags&net.FlagLoopback == 0 {
			return way{}, fmt.Errorf("this namespace has an interface %s of type %s, and a host of the run has its links alone", l.Attrs().Name, l.Type())
		}
		byIndex[l.Attrs().Index] = l
	}
	var found way
	for i, t := range to {
		w, err := wayTo(n, byIndex, t.Addr())
		if err != nil {
			return way{}, fmt.Errorf("%s: %w", t.Addr(), err)
		}
		if i > 0 && (w.index != found.index || w.peer.String() != found.peer.String()) {
			return way{}, fmt.Errorf("%s and %s are not behind the same link: write a flooder for one of them", to[0].Addr(), t.Addr())
		}
		found = w
	}
	return found, nil
}

func wayTo(n *netlink.Handle, links map[int]netlink.Link, to netip.Addr) (way, error) {
	routes, err := n.RouteGet(to.AsSlice())
	if err != nil || len(routes) != 1 {
		return way{}, fmt.Errorf("there is no way to it: %w", err)
	}
	r := routes[0]
	if r.Type != unix.RTN_UNICAST {
		return way{}, errors.New("it is no other host's address")
	}
	link := links[r.LinkIndex]
	if link == nil || link.Type() != "veth" {
		return way{}, errors.New("no link of the lab leads to it")
	}
	name, own := link.Attrs().Name, link.Attrs().HardwareAddr
	a, b := netns.LinkMACs(name)
	peer := b
	switch own.String() {
	case a.String():
	case b.String():
		peer = a
	default:
		return way{}, fmt.Errorf("interface %s was not made by the lab: its hardware address is %s", name, own)
	}
	addrs, err := n.AddrList(link, unix.AF_INET)
	if err != nil {
		return way{}, fmt.Errorf("addresses of %s: %w", name, err)
	}
	if !anyOfLab(addrs) {
		return way{}, fmt.Errorf("interface %s has no address of the lab's %s", name, netns.Range)
	}
	hop := to
	if r.Gw != nil {
		if hop, _ = netip.AddrFromSlice(r.Gw.To4()); !netns.Range.Contains(hop) {
			return way{}, fmt.Errorf("the way there goes by %s, outside of the lab's %s", hop, netns.Range)
		}
	}
	neighbours, err := n.NeighList(link.Attrs().Index, unix.AF_INET)
	if err != nil {
		return way{}, fmt.Errorf("neighbours on %s: %w", name, err)
	}
	for _, e := range neighbours {
		if at, ok := netip.AddrFromSlice(e.IP.To4()); ok && at == hop && e.State&netlink.NUD_PERMANENT != 0 && e.HardwareAddr.String() == peer.String() {
			return way{name: name, index: link.Attrs().Index, own: own, peer: peer}, nil
		}
	}
	return way{}, fmt.Errorf("the next hop %s on %s is not the permanent neighbour that the lab makes of the link's other end", hop, name)
}

// anyOfLab tells whether one of the addresses is the lab's.
func anyOfLab(addrs []netlink.Addr) bool {
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && netns.Range.Contains(ip) && !netns.SpoofedSources.Contains(ip) {
			return true
		}
	}
	return false
}

// Run sends from t0 on, an instant of CLOCK_MONOTONIC, until the flood is over
// or ctx ends.
func (f *Flooder) Run(ctx context.Context, t0 int64) Result {
	p := newPace(f.cfg)
	r := Result{Began: t0}
	next := int64(0)
	if clock.SleepUntil(ctx, t0) != nil {
		r.Ended = clock.Now()
		return r
	}
	for {
		elapsed := time.Duration(clock.Now() - t0)
		from, to, skipped, over := p.due(elapsed, next)
		r.Skipped += skipped
		if over {
			break
		}
		for n := from; n < to; n++ {
			if _, err := unix.Write(f.fd, f.segs.syn(n, elapsed)); err != nil {
				r.Refused++
				continue
			}
			r.Sent++
		}
		next = to
		if clock.SleepUntil(ctx, t0+int64(p.wake(elapsed, next))) != nil {
			break
		}
	}
	r.Ended = clock.Now()
	return r
}

// Close gives the socket back. It may be called twice.
func (f *Flooder) Close() error {
	if f.fd < 0 {
		return nil
	}
	err := unix.Close(f.fd)
	f.fd = -1
	return err
}
