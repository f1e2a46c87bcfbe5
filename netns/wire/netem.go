package wire

import (
	"context"
	"errors"
	"fmt"
	"sync"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrUnsupported is the sentinel of what this kernel cannot do.
var ErrUnsupported = errors.New("not supported by this kernel")

// UnsupportedError names what the kernel lacks. It is ErrUnsupported.
type UnsupportedError struct {
	What string // "sch_netem", "sch_fq", "SO_TXTIME"
	Err  error
}

func (e *UnsupportedError) Error() string {
	instead := "wire.kind userspace"
	if e.What != "sch_netem" {
		instead = "release " + string(Timerfd)
	}
	return fmt.Sprintf("wire: the kernel has no %s (%v): use %s", e.What, e.Err, instead)
}

// Unwrap gives ErrUnsupported and the kernel's own error.
func (e *UnsupportedError) Unwrap() []error { return []error{ErrUnsupported, e.Err} }

// Kind is an implementation of the wire.
type Kind string

const (
	Userspace Kind = "userspace"
	InKernel  Kind = "netem"
)

// Choose is the kind that wire.kind auto stands for: netem for pure delay and
// rate where the kernel has it. Everything random stays with the userspace
// wire, which can pair it; so do faults and counted drops.
func Choose(c Config, haveNetem bool) Kind {
	if !haveNetem || c.ValidateNetem() != nil {
		return Userspace
	}
	for _, d := range []Direction{c.TowardsA, c.TowardsB} {
		if d.random() {
			return Userspace
		}
	}
	return InKernel
}

// ValidateNetem says in one line what of c netem cannot do.
func (c Config) ValidateNetem() error {
	if err := c.Validate(); err != nil {
		return err
	}
	if len(c.Faults) > 0 {
		return errors.New("wire: netem cannot decide a fault by a frame's arrival: use wire.kind userspace")
	}
	for i, d := range []Direction{c.TowardsA, c.TowardsB} {
		var why string
		switch {
		case d.random() && c.Fates != Unpaired:
			why = "netem draws by itself, in order of arrival: write fates: unpaired, or use wire.kind userspace"
		case d.Jitter > 0 && !d.Reorder.ByJitter:
			why = "netem's jitter reorders frames: let it, or use wire.kind userspace"
		case d.Jitter > netemMaxJitter:
			why = fmt.Sprintf("netem's jitter ends at %v", netemMaxJitter)
		case d.Reorder.Extra > 0:
			why = "netem cannot hold a frame back: reorder without extra, or use wire.kind userspace"
		case d.MTU > 0:
			why = "netem has no MTU: use wire.kind userspace"
		case d.Blackhole != NoBlackhole:
			why = "netem cannot tell ARP from what a blackhole swallows: use wire.kind userspace"
		default:
			continue
		}
		return fmt.Errorf("wire: towards %c: %s", "ab"[i], why)
	}
	return nil
}

// bridgeName is the bridge's, in a namespace that has nothing else in it.
const bridgeName = "wire"

// Netem joins two interfaces of one namespace by a bridge whose ports have
// netem on their egress. Its methods may be called from any goroutine.
type Netem struct {
	rtnl
	qdiscs [2][]qdisc // towards B, on port B; towards A, on port A
	ports  [2]int     // interface indices of A and B
	bridge netlink.Link

	mu sync.Mutex
	// What the ports had received before.
	before [2]linkStats
	warn   []string
}

// OpenNetem joins the two interfaces in the current thread's network
// namespace, and compares what was asked for with what the kernel set. The
// error is an ErrUnsupported where the kernel has no netem; nothing is left
// behind then.
func OpenNetem(portA, portB string, cfg Config) (n *Netem, err error) {
	if err := cfg.ValidateNetem(); err != nil {
		return nil, err
	}
	n = &Netem{}
	if n.rtnl, err = openRtnl(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
			n = nil
		}
	}()
	links := [2]netlink.Link{}
	for i, name := range []string{portA, portB} {
		if links[i], err = netlink.LinkByName(name); err != nil {
			return n, fmt.Errorf("wire: port %s: %w", name, err)
		}
		n.ports[i] = links[i].Attrs().Index
	}
	for dir, d := range []Direction{dirB: cfg.TowardsB, dirA: cfg.TowardsA} {
		seed := absorb(absorbString(absorb(0, cfg.Seed), cfg.Link), uint64(dir))
		n.qdiscs[dir] = netemQdiscs(d, seed)
		if err = n.set(dir); err != nil {
			return n, fmt.Errorf("wire: port %s: %w", links[1-dir].Attrs().Name, err)
		}
	}
	if err = n.join(links); err != nil {
		return n, fmt.Errorf("wire: bridge: %w", err)
	}
	for i, p := range n.ports {
		if n.before[i], err = n.linkStats(p); err != nil {
			return n, err
		}
	}
	return n, nil
}

// join makes the bridge. It forwards at once and forgets nothing.
func (n *Netem) join(links [2]netlink.Link) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	off := false
	b := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}
	if err := netlink.LinkAdd(b); err != nil {
		return err
	}
	n.bridge = b
	for _, l := range links {
		if err := netlink.LinkSetMaster(l, b); err != nil {
			return fmt.Errorf("%s: %w", l.Attrs().Name, err)
		}
	}
	return netlink.LinkSetUp(b)
}

// set puts a direction's qdiscs onto the port that its frames leave by.
func (n *Netem) set(dir int) error {
	set, err := n.install(n.ports[1-dir], n.qdiscs[dir])
	if err != nil {
		return err
	}
	for _, q := range n.qdiscs[dir] {
		if q.kind == "netem" {
			n.checkSeed(q, set[q.handle].options)
		}
	}
	return nil
}

// checkSeed notes that a kernel before 6.6 ignored the seed.
func (n *Netem) checkSeed(q qdisc, set []byte) {
	asked, err := parseNetem(q.options)
	if err != nil {
		return
	}
	got, err := parseNetem(set)
	if seed, ok := asked["seed"]; ok && err == nil && got["seed"] != seed {
		n.warn = append(n.warn, "netem took no seed (it needs Linux 6.6): its draws do not repeat")
	}
}

// Release names what lets frames go at their time.
func (n *Netem) Release() string { return string(InKernel) }

// Run waits for the end of ctx: the kernel does the rest.
func (n *Netem) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Do refuses: netem cannot decide a fault by a frame's arrival.
func (n *Netem) Do(f Fault) error {
	return fmt.Errorf("wire: fault %q: netem takes none: use wire.kind userspace", f.Name)
}

// DelayError is nil: the kernel does not say how late it is.
func (n *Netem) DelayError() *hdr.Histogram { return nil }

// Counters are what the kernel counts: arrivals at the ports, departures,
// what is queued, and drops, which are the queue's or the loss's. What it does
// not count is nil.
func (n *Netem) Counters() Counters {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := Counters{Warnings: n.warn}
	for dir, out := range []*DirectionCounters{dirB: &c.TowardsB, dirA: &c.TowardsA} {
		if err := n.count(dir, out); err != nil {
			c.Errors = append(c.Errors, err.Error())
		}
	}
	return c
}

func (n *Netem) count(dir int, out *DirectionCounters) error {
	in, err := n.linkStats(n.ports[dir])
	if err != nil {
		return err
	}
	set, err := n.read(n.ports[1-dir])
	if err != nil {
		return err
	}
	root, ok := set[rootHandle]
	if !ok {
		return fmt.Errorf("wire: netem is gone from the port it was on")
	}
	in.packets -= n.before[dir].packets
	in.bytes -= n.before[dir].bytes
	countDirection(n.qdiscs[dir], in, root, set[childHandle], out)
	return nil
}

// countDirection reads the drops: netem's own count includes its child's.
func countDirection(qs []qdisc, in linkStats, root, child installed, out *DirectionCounters) {
	out.In, out.BytesIn = &in.packets, &in.bytes
	out.Out, out.BytesOut, out.Queued = &root.packets, &root.bytes, &root.queued
	lost := root.drops
	if len(qs) > 1 {
		out.QueueDropped = &child.drops
		lost -= min(lost, child.drops)
	}
	out.Lost = &lost
}

// Close takes the bridge and the qdiscs away.
func (n *Netem) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.socket == nil {
		return nil
	}
	var errs []error
	if n.bridge != nil {
		r := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(n.bridge.Attrs().Index)
		r.AddData(msg)
		if _, err := n.execute(r, 0); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("wire: remove the bridge: %w", err))
		}
	}
	for dir, qs := range n.qdiscs {
		if len(qs) == 0 {
			continue
		}
		if err := n.remove(n.ports[1-dir]); err != nil {
			errs = append(errs, fmt.Errorf("wire: remove netem: %w", err))
		}
	}
	n.rtnl.close()
	return errors.Join(errs...)
}

// ProbeNetem asks the kernel for netem on the current thread's loopback
// interface, which should be a throw-away namespace's: nil if it has it,
// ErrUnsupported if not, and any other error leaves it undetermined.
func ProbeNetem() error {
	conn, err := openRtnl()
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		conn.close()
		return fmt.Errorf("wire: probe netem: %w", err)
	}
	n := &Netem{rtnl: conn}
	n.ports = [2]int{lo.Attrs().Index, lo.Attrs().Index}
	n.qdiscs[dirB] = netemQdiscs(Direction{}, 0)
	err = n.set(dirB)
	return errors.Join(err, n.Close())
}
