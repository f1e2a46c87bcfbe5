package middlebox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
)

// Interface is one of the host's own, with the neighbour at its other end.
type Interface struct {
	Name string
	Addr netip.Addr
	// MAC is its own hardware address, Peer its neighbour's.
	MAC, Peer net.HardwareAddr
}

// Route says by which interface an address is reached.
type Route struct {
	To netip.Prefix
	By int // an index of the interfaces
}

// Box runs a policy inside a host. Its methods may be called from any
// goroutine.
type Box struct {
	ports []*port
	epoll int
	timer int
	wake  int
	armed int64 // what the timer is set to

	// mu guards the policy. The box's thread holds it while it works, never
	// while it waits.
	mu      sync.Mutex
	policy  Policy
	routes  []Route
	faces   []Interface
	stopped bool
	closed  bool
	frame   []byte
	lost    Lost
}

// Lost are the packets that no policy was asked about, and those that could
// not leave.
type Lost struct {
	Ignored  int64 `json:"ignored"`   // ICMP, fragments and what is cut
	Unrouted int64 `json:"unrouted"`  // no interface leads to their address
	SendErr  int64 `json:"send_err"`  // refused by the kernel
	RingFull int64 `json:"ring_full"` // the box did not get enough CPU
}

// Open makes a box of the interfaces of the current thread's network
// namespace. From then on the kernel there answers ARP only: TCP and UDP that
// come are the policy's (an nftables rule keeps them from the kernel's own
// TCP, which would answer them with RSTs).
func Open(cfg Config, faces []Interface, routes []Route) (b *Box, err error) {
	b = &Box{epoll: -1, timer: -1, wake: -1, faces: faces, routes: routes, armed: Never}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
			b = nil
		}
	}()
	cfg.Route = b.route
	cfg.Own = nil
	for _, f := range faces {
		cfg.Own = append(cfg.Own, f.Addr)
	}
	if b.policy, err = New(cfg); err != nil {
		return b, err
	}
	if err = keepFromKernel(); err != nil {
		return b, fmt.Errorf("middlebox: nftables, which keep packets from the kernel's own TCP: %w", err)
	}
	if b.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return b, fmt.Errorf("middlebox: epoll: %w", err)
	}
	if b.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return b, fmt.Errorf("middlebox: timerfd: %w", err)
	}
	if b.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return b, fmt.Errorf("middlebox: eventfd: %w", err)
	}
	fds := []int{b.timer, b.wake}
	for _, f := range faces {
		p, err := openPort(f.Name)
		if err != nil {
			return b, err
		}
		b.ports = append(b.ports, p)
		fds = append(fds, p.fd)
		b.frame = make([]byte, 0, max(cap(b.frame), p.slotSize))
	}
	for i, fd := range fds {
		if err = unix.EpollCtl(b.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i) - firstPort}); err != nil {
			return b, fmt.Errorf("middlebox: epoll: %w", err)
		}
	}
	return b, nil
}

// Sources of events, as epoll's data; ports are 0 and up.
const (
	firstPort = 2
	fromTimer = 0 - firstPort
	fromWake  = 1 - firstPort
)

// keepFromKernel drops TCP and UDP before the kernel looks at them. Packet
// sockets have had them by then (net/core/dev.c, __netif_receive_skb_core).
func keepFromKernel() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "middlebox"})
	chain := c.AddChain(&nftables.Chain{Name: "taken", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
	for _, proto := range []byte{TCP, UDP} {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 9, Len: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
			&expr.Counter{},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	return c.Flush()
}

// route is the interface towards an address: the longest prefix.
func (b *Box) route(a netip.Addr) int {
	best, by := -1, -1
	for _, r := range b.routes {
		if r.To.Contains(a) && r.To.Bits() > best {
			best, by = r.To.Bits(), r.By
		}
	}
	return by
}

// Do applies a fault at once.
func (b *Box) Do(f Fault) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.policy.Do(f); err != nil {
		return err
	}
	b.kick() // flows may have to be forgotten earlier
	return nil
}

func (b *Box) kick() {
	if b.wake >= 0 {
		one := [8]byte{1}
		_, _ = unix.Write(b.wake, one[:]) // full: the thread wakes too
	}
}

// Counts is what the policy did, and what it never saw.
func (b *Box) Counts() (Counts, Lost) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.ports {
		b.lost.RingFull += p.drops()
	}
	return b.policy.Counts(), b.lost
}

// Run forwards until ctx ends. It can be called once.
func (b *Box) Run(ctx context.Context) error {
	unhook := context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.stopped = true
		b.kick()
	})
	defer unhook()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- b.loop()
	}()
	return <-done
}

func (b *Box) loop() error {
	events := make([]unix.EpollEvent, 16)
	for {
		n, err := unix.EpollWait(b.epoll, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("middlebox: epoll_wait: %w", err)
		}
		b.mu.Lock()
		for _, e := range events[:n] {
			switch e.Fd {
			case fromTimer:
				drain(b.timer)
				b.armed = Never
			case fromWake:
				drain(b.wake)
			default:
				if e.Events&unix.EPOLLERR != 0 {
					err = b.ports[e.Fd].check()
				}
			}
		}
		if err == nil {
			b.forward()
			err = b.arm(b.policy.Wake(clock.Now()))
		}
		stopped := b.stopped
		b.mu.Unlock()
		if err != nil {
			return err
		}
		if stopped {
			return nil
		}
	}
}

func drain(fd int) {
	var b [8]byte
	syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b)), 8)
}

// arm sets the timer. One that is set for earlier stays: it costs a wake-up
// once an idle time, where setting it anew would cost a call a packet.
func (b *Box) arm(at int64) error {
	if at == Never || at >= b.armed {
		return nil
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(at, 1))}
	if err := unix.TimerfdSettime(b.timer, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		return fmt.Errorf("middlebox: timerfd_settime: %w", err)
	}
	b.armed = at
	return nil
}

const (
	etherHeader = 14
	etherIPv4   = 0x0800
	// atOnce is how many frames of one interface are taken before the next
	// one's, so that none is starved.
	atOnce = 64
)

// forward takes what waits at the interfaces, in their order.
func (b *Box) forward() {
	for busy := true; busy && !b.stopped; {
		busy = false
		for i, p := range b.ports {
			for range atOnce {
				data := p.receive()
				if data == nil {
					break
				}
				b.one(i, data)
				p.release()
				busy = true
			}
		}
		if busy { // let others in
			b.mu.Unlock()
			b.mu.Lock()
		}
	}
}

// one forwards a frame.
func (b *Box) one(in int, data []byte) {
	if len(data) < etherHeader || data[12] != etherIPv4>>8 || data[13] != etherIPv4&0xff {
		return
	}
	var p Packet
	if !Parse(data[etherHeader:], &p) {
		b.lost.Ignored++
		return
	}
	for _, o := range b.policy.Packet(clock.Now(), in, &p) {
		by := b.route(o.Dst.Addr())
		if by < 0 {
			b.lost.Unrouted++
			continue
		}
		f := b.frame[:etherHeader]
		copy(f, b.faces[by].Peer)
		copy(f[6:], b.faces[by].MAC)
		f[12], f[13] = etherIPv4>>8, etherIPv4&0xff
		if o.Reset != nil {
			f = append(f, resetPacket(nil, o)...)
		} else {
			f = append(f, data[etherHeader:]...)
			rewrite(f[etherHeader:], o.Src, o.Dst)
		}
		if b.ports[by].send(f) != nil {
			b.lost.SendErr++
		}
		b.frame = f[:0]
	}
}

// Close gives back what Open took. Run must have returned.
func (b *Box) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	var errs []error
	for _, p := range b.ports {
		b.lost.RingFull += p.drops()
		errs = append(errs, p.close())
	}
	for _, fd := range []*int{&b.epoll, &b.timer, &b.wake} {
		if *fd >= 0 {
			errs = append(errs, unix.Close(*fd))
			*fd = -1
		}
	}
	return errors.Join(errs...)
}
