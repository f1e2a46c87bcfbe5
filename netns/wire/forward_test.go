package wire

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
	"tcplab/netns"
)

// snmp is a host's counter, such as Tcp ActiveOpens.
func snmp(t testing.TB, h *netns.Host, table, name string) uint64 {
	t.Helper()
	var b []byte
	err := h.Do(func() (err error) {
		b, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if f[0] != table+":" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i := range names {
			if names[i] == name {
				v, err := strconv.ParseUint(f[i], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
	}
	t.Fatalf("no counter %s %s", table, name)
	return 0
}

// eventually waits for what other processes or timers bring about.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// transfer sends size random bytes from a to b, and checks that they arrive.
func transfer(t testing.TB, r *rig, port, size int) {
	t.Helper()
	got := make(chan [32]byte, 1)
	r.serve(t, fmt.Sprintf("%s:%d", addrB, port), func(c net.Conn) {
		h := sha256.New()
		// Without splice, which would take descriptors of its own.
		io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{c}, make([]byte, 1<<16))
		got <- [32]byte(h.Sum(nil))
	})
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	c := r.dial(t, fmt.Sprintf("%s:%d", addrB, port))
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite()
	if sum := <-got; sum != sha256.Sum256(data) {
		t.Error("what arrived is not what was sent")
	}
}

func noErrors(t testing.TB, k Counters) {
	t.Helper()
	for _, e := range k.Errors {
		t.Error(e)
	}
}

func TestDelayIsAddedEachWay(t *testing.T) {
	const delay = 3 * time.Millisecond
	r := newRig(t, Symmetric(Direction{Delay: delay}))
	r.serve(t, addrB+":7", echo)
	began := clock.Now()
	c := r.dial(t, addrB+":7")
	if took := time.Duration(clock.Now() - began); took < 2*delay {
		t.Errorf("a handshake took %v over %v each way", took, delay)
	}
	for range 20 {
		began := clock.Now()
		exchange(t, c, 1, 100)
		if took := time.Duration(clock.Now() - began); took < 2*delay {
			t.Errorf("an exchange took %v over %v each way", took, delay)
		}
	}
	h := r.wire.DelayError()
	k := r.wire.Counters()
	n := int64(*k.TowardsA.Out + *k.TowardsB.Out)
	if h.TotalCount() > n || h.TotalCount() < n/sampleEach || h.Min() < 0 {
		t.Errorf("the delay error was recorded %d times for %d frames, the least %d ns", h.TotalCount(), n, h.Min())
	}
	if r.wire.Release() == string(Timerfd) && h.TotalCount() != n {
		t.Errorf("the delay error was recorded %d times for %d frames that the wire sent itself", h.TotalCount(), n)
	}
	noErrors(t, k)
	if r.wire.Policy() != "fifo" {
		t.Errorf("policy %q as root", r.wire.Policy())
	}
}

func TestATransferArrivesIntact(t *testing.T) {
	const size = 4 << 20
	for name, d := range map[string]Direction{
		"cable":      {},
		"delayed":    {Delay: time.Millisecond},
		"lossy":      {Delay: 100 * time.Microsecond, Loss: Loss{P: 0.01}},
		"disordered": {Delay: 200 * time.Microsecond, Jitter: 100 * time.Microsecond, Reorder: Reorder{P: 0.02}},
		"repeated":   {Duplicate: 0.1},
		"corrupted":  {Delay: 100 * time.Microsecond, Corrupt: 0.01},
	} {
		t.Run(name, func(t *testing.T) {
			c := Symmetric(d)
			c.Seed = 1
			r := newRig(t, c)
			size := size
			if name == "cable" {
				size *= 5 // more than twice around the ring
			}
			transfer(t, r, 9, size)
			k := r.wire.Counters()
			noErrors(t, k)
			b := k.TowardsB
			if *b.BytesIn < uint64(size) {
				t.Errorf("%d bytes seen of %d", *b.BytesIn, size)
			}
			for impairment, n := range map[bool]uint64{d.Loss.P > 0: *b.Lost, d.Duplicate > 0: *b.Duplicated, d.Corrupt > 0: *b.Corrupted, d.Reorder.P > 0: *b.Reordered} {
				if impairment && n == 0 {
					t.Errorf("the impairment was not seen: %s", toJSON(t, b))
				}
			}
		})
	}
}

func TestCountersAgreeWithTheKernels(t *testing.T) {
	c := Symmetric(Direction{Delay: 200 * time.Microsecond})
	c.TowardsB.Loss.P = 0.02
	c.Seed = 3
	r := newRig(t, c)
	r.serve(t, addrB+":7", echo)
	transfer(t, r, 9, 2<<20)
	for range 20 {
		conn := r.dial(t, addrB+":7")
		exchange(t, conn, 2, 1000)
		conn.Close()
	}
	// The last FINs may still be sent again.
	same := func() bool {
		k := r.wire.Counters()
		return snmp(t, r.a, "Tcp", "OutSegs")+snmp(t, r.a, "Tcp", "RetransSegs") == *k.TowardsB.In &&
			snmp(t, r.b, "Tcp", "InSegs") == *k.TowardsB.Out && *k.TowardsB.Queued == 0
	}
	for deadline := time.Now().Add(10 * time.Second); !same() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	k := r.wire.Counters()
	for _, v := range []struct {
		what         string
		wire, kernel uint64
	}{
		// OutSegs leaves out what carries only what was sent before.
		{"segments sent by a", *k.TowardsB.In, snmp(t, r.a, "Tcp", "OutSegs") + snmp(t, r.a, "Tcp", "RetransSegs")},
		{"segments received by b", *k.TowardsB.Out, snmp(t, r.b, "Tcp", "InSegs")},
		{"packets received by b", *k.TowardsB.Out, snmp(t, r.b, "Ip", "InReceives")},
		{"active opens of a", *k.TowardsB.FirstSYNs, snmp(t, r.a, "Tcp", "ActiveOpens")},
		{"repeated by a", *k.TowardsB.RetransmittedSYNs + *k.TowardsB.RetransmittedSegments, snmp(t, r.a, "Tcp", "RetransSegs")},
	} {
		if v.wire != v.kernel {
			t.Errorf("%s: the wire counts %d, the kernel %d", v.what, v.wire, v.kernel)
		}
	}
	if *k.TowardsB.Lost == 0 {
		t.Error("nothing was lost")
	}
	noErrors(t, k)
}

func TestCorruptionIsSeenAsChecksumErrors(t *testing.T) {
	r := newRig(t, Config{Seed: 1, TowardsB: Direction{Corrupt: 0.05}})
	transfer(t, r, 9, 2<<20)
	k := r.wire.Counters()
	seen := snmp(t, r.b, "Tcp", "InCsumErrors") + snmp(t, r.b, "Ip", "InHdrErrors") + snmp(t, r.b, "Ip", "InAddrErrors")
	// A flip in an address may send the packet elsewhere without a word.
	if c := *k.TowardsB.Corrupted; c == 0 || seen == 0 || seen > c || snmp(t, r.b, "Tcp", "InCsumErrors") < c*8/10 {
		t.Errorf("%d frames corrupted, %d errors seen by the kernel", c, seen)
	}
	noErrors(t, k)
}

func TestSameSeedLosesTheSamePackets(t *testing.T) {
	trial := func(seed uint64) ([]uint64, uint64) {
		c := Symmetric(Direction{Delay: 300 * time.Microsecond, Loss: Loss{P: 0.02}})
		c.Seed = seed
		r := newHosts(t)
		r.open(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.wire.Run(ctx) }()
		r.serve(t, addrB+":7", echo)
		for range 4 {
			conn := r.dial(t, addrB+":7")
			exchange(t, conn, 12, 3000)
			conn.Close()
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		defer r.wire.Close()
		return r.wire.Fates().Entries(), *r.wire.Counters().TowardsB.Lost
	}
	one, lost1 := trial(5)
	two, lost2 := trial(5)
	if s := Share(one, two); s < 0.8 {
		t.Errorf("the share of the same packets is %.2f (%d and %d, %d and %d lost)", s, len(one), len(two), lost1, lost2)
	}
	other, _ := trial(6)
	if s := Share(one, other); s > 0.01 {
		t.Errorf("another seed has the same keys: %.2f", s)
	}
}

func TestABlackholeSwallowsWhatArrivesWhileItLasts(t *testing.T) {
	r := newRig(t, Config{})
	r.serve(t, addrB+":7", echo)
	c := r.dial(t, addrB+":7")
	exchange(t, c, 3, 10)
	if err := r.wire.Do(Fault{Name: "dark", At: clock.Now(), Do: DoBlackhole, Towards: TowardsB, For: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	began := clock.Now()
	exchange(t, c, 1, 10) // TCP gets through after it
	k := r.wire.Counters()
	if *k.TowardsB.Blackholed == 0 || *k.TowardsA.Blackholed != 0 {
		t.Errorf("%d swallowed towards b, %d towards a", *k.TowardsB.Blackholed, *k.TowardsA.Blackholed)
	}
	if took := clock.Now() - began; took < int64(45*time.Millisecond) {
		t.Errorf("the exchange took %v through a blackhole of 50 ms", time.Duration(took))
	}
	// One that is yet to come changes nothing.
	if err := r.wire.Do(Fault{Name: "far", At: clock.Now() + int64(time.Hour), Do: DoPartition}); err != nil {
		t.Fatal(err)
	}
	exchange(t, c, 3, 10)
	if err := r.wire.Do(Fault{Do: "explode"}); err == nil {
		t.Error("a fault that is none was taken")
	}
	if err := r.wire.Do(Fault{Do: DoSet, Towards: TowardsA, Set: &Change{Queue: &Queue{Bytes: 1}}}); err == nil {
		t.Error("a queue without a rate was taken")
	}
}

func TestADroppedSegmentIsSentAgain(t *testing.T) {
	r := newRig(t, Config{Faults: []Fault{{Do: DoDrop, Towards: TowardsB, Match: Match{Kind: "data", Port: 7, Flow: 2, Nth: 3}}}})
	r.serve(t, addrB+":7", echo)
	one, two := r.dial(t, addrB+":7"), r.dial(t, addrB+":7")
	exchange(t, one, 5, 10)
	if n := *r.wire.Counters().TowardsB.FaultDropped; n != 0 {
		t.Errorf("%d dropped of the wrong flow", n)
	}
	exchange(t, two, 5, 10)
	k := r.wire.Counters().TowardsB
	if *k.FaultDropped != 1 || *k.RetransmittedSegments != 1 {
		t.Errorf("%d dropped, %d repeated", *k.FaultDropped, *k.RetransmittedSegments)
	}
}

func TestAHeldSegmentIsReleasedWhole(t *testing.T) {
	r := newRig(t, Config{Faults: []Fault{{Name: "old", Do: DoHold, Towards: TowardsB, Match: Match{Kind: "data", Nth: 2}}}})
	r.serve(t, addrB+":7", echo)
	c := r.dial(t, addrB+":7")
	exchange(t, c, 3, 10) // the second one comes by retransmission
	if q := *r.wire.Counters().TowardsB.Queued; q != 1 {
		t.Errorf("%d frames held", q)
	}
	before := snmp(t, r.b, "Tcp", "InSegs")
	if err := r.wire.Do(Fault{Name: "old", At: clock.Now(), Do: DoRelease}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old segment arrives", func() bool { return snmp(t, r.b, "Tcp", "InSegs") > before })
	if n := snmp(t, r.b, "Tcp", "InCsumErrors"); n != 0 {
		t.Error("it was damaged")
	}
	eventually(t, "nothing is held", func() bool { return *r.wire.Counters().TowardsB.Queued == 0 })
	exchange(t, c, 3, 10)
}

func TestAHoldWithAnEndReleasesByItself(t *testing.T) {
	r := newRig(t, Config{})
	r.serve(t, addrB+":7", echo)
	c := r.dial(t, addrB+":7")
	exchange(t, c, 1, 10)
	if err := r.wire.Do(Fault{Name: "brief", At: clock.Now(), For: 30 * time.Millisecond, Do: DoHold, Towards: TowardsB, Match: Match{Kind: "data"}}); err != nil {
		t.Fatal(err)
	}
	began := clock.Now()
	exchange(t, c, 1, 10)
	if took := time.Duration(clock.Now() - began); took < 25*time.Millisecond {
		t.Errorf("the exchange took %v", took)
	}
}

func TestARateBoundsGoodputAndItsQueueFills(t *testing.T) {
	// The queue is a third of the receive window, so that slow start overruns it.
	const rate, size, limit = 40_000_000, 1 << 20, 20_000
	r := newRig(t, Config{TowardsB: Direction{Rate: rate, Queue: Queue{Bytes: limit}, Delay: time.Millisecond}})
	began := clock.Now()
	transfer(t, r, 9, size)
	if took, least := clock.Now()-began, int64(size*8*1e9/rate); took < least {
		t.Errorf("%d bytes took %v at %d bit/s, which need %v", size, time.Duration(took), rate, time.Duration(least))
	}
	k := r.wire.Counters().TowardsB
	if *k.QueueDropped == 0 || *k.MaxQueueBytes > limit || *k.MaxQueueBytes < limit/2 {
		t.Errorf("%d dropped, at most %d bytes queued of %d", *k.QueueDropped, *k.MaxQueueBytes, limit)
	}
}

func TestASmallMTUSwallowsLargePackets(t *testing.T) {
	r := newRig(t, Config{TowardsB: Direction{MTU: 600}})
	r.serve(t, addrB+":7", echo)
	c := r.dial(t, addrB+":7")
	exchange(t, c, 2, 500)
	if _, err := c.Write(make([]byte, 1400)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the packet is gone", func() bool { return *r.wire.Counters().TowardsB.MTUDropped > 0 })
	if n := snmp(t, r.a, "Icmp", "InMsgs"); n != 0 {
		t.Error("a wire sent ICMP")
	}
}

// setOffload switches a feature by its old ethtool command.
func setOffload(t *testing.T, h *netns.Host, dev string, command, value uint32) {
	t.Helper()
	err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		arg := [2]uint32{command, value}
		var req struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(req.name[:], dev)
		req.data = unsafe.Pointer(&arg)
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); e != 0 {
			return e
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFramesThatAreNotAsOnAWireAreReported(t *testing.T) {
	const setTxChecksum = 0x17 // ETHTOOL_STXCSUM
	r := newRig(t, Config{})
	var c net.PacketConn
	err := r.a.Do(func() (err error) {
		c, err = net.ListenPacket("udp4", addrA+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func(size int) {
		t.Helper()
		// Nobody listens there, and not being connected we do not hear of it.
		if _, err := c.WriteTo(make([]byte, size), &net.UDPAddr{IP: net.ParseIP(addrB), Port: 7}); err != nil {
			t.Fatal(err)
		}
	}
	send(100)
	eventually(t, "a datagram passes", func() bool { return *r.wire.Counters().TowardsB.Out == 1 })
	noErrors(t, r.wire.Counters())

	setOffload(t, r.a, "wan", setTxChecksum, 1)
	send(100)
	eventually(t, "a checksum is missing", func() bool { return *r.wire.Counters().TowardsB.ChecksumMissing == 1 })
	setOffload(t, r.a, "wan", setTxChecksum, 0)

	// As segmentation offload would, send more than the port takes.
	for _, v := range []struct {
		h   *netns.Host
		dev string
	}{{r.link.Middle, r.link.PortA}, {r.a, "wan"}} {
		err := v.h.Do(func() error {
			l, err := netlink.LinkByName(v.dev)
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(l, 9000)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	send(5000)
	eventually(t, "a frame is cut", func() bool { return *r.wire.Counters().TowardsB.Truncated == 1 })
	all := strings.Join(r.wire.Counters().Errors, "\n")
	if !strings.Contains(all, "segmentation offload") || !strings.Contains(all, "checksum offload") {
		t.Errorf("the errors do not say so: %q", all)
	}
}

func TestAPortThatIsGoneEndsTheWire(t *testing.T) {
	r := newHosts(t)
	r.open(t, Config{})
	defer r.wire.Close()
	done := make(chan error)
	go func() { done <- r.wire.Run(t.Context()) }()
	err := r.link.Middle.Do(func() error {
		l, err := netlink.LinkByName(r.link.PortB)
		if err != nil {
			return err
		}
		// Down and up again is a fault of the link, not its end.
		if err := errors.Join(netlink.LinkSetDown(l), netlink.LinkSetUp(l)); err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), r.link.PortB+" is gone") {
		t.Errorf("Run ended with %v", err)
	}
}

func TestAWireGoesOnAfterAPortWasDown(t *testing.T) {
	r := newRig(t, Config{})
	r.serve(t, addrB+":7", echo)
	c := r.dial(t, addrB+":7")
	exchange(t, c, 2, 10)
	err := r.link.Middle.Do(func() error {
		l, err := netlink.LinkByName(r.link.PortB)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetUp(l))
	})
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, c, 2, 10)
}

func TestAWallClockThatWasSetIsNoticed(t *testing.T) {
	r := newHosts(t)
	r.open(t, Symmetric(Direction{Delay: time.Millisecond}))
	// As if the wall clock had been put forward by an hour since.
	r.wire.wall -= int64(time.Hour)
	r.start(t)
	r.serve(t, addrB+":7", echo)
	began := clock.Now()
	c := r.dial(t, addrB+":7")
	exchange(t, c, 3, 10)
	if took := time.Duration(clock.Now() - began); took > time.Minute {
		t.Errorf("four round trips of 2 ms took %v", took)
	}
	if k := r.wire.Counters(); len(k.Warnings) != 1 {
		t.Errorf("warnings %q", k.Warnings)
	}
	r.wire.mu.Lock()
	defer r.wire.mu.Unlock()
	if off := time.Duration(r.wire.wall - clock.WallOffset()).Abs(); r.wire.future == 0 || off > time.Second {
		t.Errorf("%d stamps from the future were noticed, the wall clock is %v off", r.wire.future, off)
	}
}

func TestOpenRefusesWhatItCannotDo(t *testing.T) {
	r := newHosts(t)
	before := descriptors(t)
	for _, v := range []struct {
		a, b string
		c    Config
		want string
	}{
		{r.link.PortA, "nothere", Config{}, "port nothere: no such interface"},
		{"a-name-that-is-far-too-long", r.link.PortB, Config{}, "not an interface name"},
		{r.link.PortA, r.link.PortB, Config{Fates: "by-luck"}, "by-luck"},
	} {
		err := r.link.Middle.Do(func() error {
			w, err := Open(v.a, v.b, v.c)
			if w != nil {
				t.Errorf("%s, %s: a wire", v.a, v.b)
			}
			return err
		})
		if err == nil || !strings.Contains(err.Error(), v.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s, %s: %v", v.a, v.b, err)
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestAWireRunsOnceAndStopsUnderLoad(t *testing.T) {
	r := newHosts(t)
	r.open(t, Symmetric(Direction{Delay: 50 * time.Millisecond}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.wire.Run(ctx) }()
	r.serve(t, addrB+":9", func(c net.Conn) {
		io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 1<<16))
	})
	c := r.dial(t, addrB+":9")
	go c.Write(make([]byte, 8<<20))
	eventually(t, "frames are on the wire", func() bool { return *r.wire.Counters().TowardsB.Queued > 10 })
	if err := r.wire.Run(ctx); err == nil {
		t.Error("it runs twice")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	k := r.wire.Counters()
	checkConservation(t, k)
	if *k.TowardsB.Queued == 0 || *k.MaxFrames < *k.TowardsB.Queued {
		t.Errorf("%d queued at the stop, at most %d frames", *k.TowardsB.Queued, *k.MaxFrames)
	}
	if err := errors.Join(r.wire.Close(), r.wire.Close()); err != nil {
		t.Error(err)
	}
	checkConservation(t, r.wire.Counters())
	c.Close()
}

func TestFramesBeyondItsMemoryAreCounted(t *testing.T) {
	c := Symmetric(Direction{Delay: 20 * time.Millisecond})
	c.MaxFrames = 8
	r := newRig(t, c)
	transfer(t, r, 9, 1<<18)
	k := r.wire.Counters()
	if *k.TowardsB.Overflowed == 0 || *k.MaxFrames != 8 {
		t.Errorf("%d overflowed, at most %d frames", *k.TowardsB.Overflowed, *k.MaxFrames)
	}
	if len(k.Errors) == 0 || !strings.Contains(k.Errors[0], "max_frames") {
		t.Errorf("errors %q", k.Errors)
	}
}
