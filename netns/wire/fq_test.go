package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// onFQ is a wire of 20 ms each way, 100 Mbit/s and 1% loss, as the lab has it
// on the virtual clock.
func onFQ(release Release) Config {
	c := Symmetric(Direction{Delay: 20 * time.Millisecond, Rate: 100e6, Loss: Loss{P: 0.01}})
	c.Seed, c.NoWatch, c.Release = 7, true, release
	return c
}

// carry runs this test in a guest and gives what its wire reported.
func carry(t *testing.T, args map[string]string) (c carried) {
	t.Helper()
	lines, _ := visit(t, errand{Run: "^" + t.Name() + "$", Args: args})
	if len(lines) != 1 {
		t.Fatalf("%d reports", len(lines))
	}
	if err := json.Unmarshal([]byte(lines[0]), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFQLetsFramesGoAtTheirMicrosecond(t *testing.T) {
	if inGuest() {
		r := newHosts(t)
		w := wireOf(t, r, Userspace, onFQ(AutoRelease))
		bulk(t, r, "bbr", 3*time.Second)
		report(t, w.strike())
		return
	}
	c := carry(t, nil)
	if c.Release != string(FQ) {
		t.Fatalf("release %q", c.Release)
	}
	checkConservation(t, c.Counters)
	noErrors(t, c.Counters)
	if c.ErrorP99 > 5000 || c.ErrorSeen < 200 {
		t.Errorf("delay error: p99 %d ns of %d", c.ErrorP99, c.ErrorSeen)
	}
	// A look every 10 ms takes in some 80 frames.
	if in := *c.Counters.TowardsB.In; c.Wakes > in/20 {
		t.Errorf("%d wake-ups for %d frames", c.Wakes, in)
	}
}

func TestAnIdleWireSleeps(t *testing.T) {
	if inGuest() {
		r := newHosts(t)
		w := wireOf(t, r, Userspace, onFQ(Release(args["release"])))
		r.serve(t, addrB+":7", echo)
		exchange(t, r.dial(t, addrB+":7"), 1, 100)
		time.Sleep(2 * time.Hour)
		report(t, w.strike())
		return
	}
	for _, release := range []Release{FQ, Timerfd} {
		c := carry(t, map[string]string{"release": string(release)})
		if c.Release != string(release) || c.Wakes > 100 {
			t.Errorf("%s: %d wake-ups in two hours", c.Release, c.Wakes)
		}
	}
}

func TestBothReleasesLoseTheSamePackets(t *testing.T) {
	if inGuest() {
		r := newHosts(t)
		w := wireOf(t, r, Userspace, onFQ(Release(args["release"])))
		r.serve(t, addrB+":7", echo)
		for range 4 {
			c := r.dial(t, addrB+":7")
			exchange(t, c, 40, 5000)
			c.Close()
		}
		report(t, w.strike())
		return
	}
	fq, timer := carry(t, map[string]string{"release": "fq"}), carry(t, map[string]string{"release": "timerfd"})
	if s := Share(fq.Fates.Entries(), timer.Fates.Entries()); s < 0.99 {
		t.Errorf("the share of the same packets is %.3f (%d and %d)", s, fq.Fates.Seen(), timer.Fates.Seen())
	}
	if a, b := *fq.Counters.TowardsB.Lost, *timer.Counters.TowardsB.Lost; a != b || a == 0 {
		t.Errorf("%d and %d lost", a, b)
	}
}

func TestAKernelWithoutFQSaysSo(t *testing.T) {
	r := newHosts(t)
	err := r.link.Middle.Do(func() error {
		w, err := Open(r.link.PortA, r.link.PortB, Config{Release: FQ})
		if err == nil {
			return w.Close() // this kernel has it
		}
		if w != nil || !errors.Is(err, ErrUnsupported) {
			t.Errorf("Open: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What the wire promises wherever it runs, on the release by fq.
func TestTheWiresTestsPassInAGuest(t *testing.T) {
	if inGuest() {
		return
	}
	visit(t, errand{Run: "^(" + strings.Join([]string{
		"TestDelayIsAddedEachWay", "TestATransferArrivesIntact", "TestCountersAgreeWithTheKernels", "TestCorruptionIsSeenAsChecksumErrors",
		"TestSameSeedLosesTheSamePackets", "TestABlackholeSwallowsWhatArrivesWhileItLasts", "TestADroppedSegmentIsSentAgain",
		"TestAHeldSegmentIsReleasedWhole", "TestAHoldWithAnEndReleasesByItself", "TestARateBoundsGoodputAndItsQueueFills",
		"TestASmallMTUSwallowsLargePackets", "TestFramesThatAreNotAsOnAWireAreReported", "TestAPortThatIsGoneEndsTheWire",
		"TestAWireGoesOnAfterAPortWasDown", "TestAWireRunsOnceAndStopsUnderLoad", "TestFramesBeyondItsMemoryAreCounted",
		"TestAKernelWithoutNetemSaysSoAndIsLeftClean",
	}, "|") + ")$"})
}

func TestOvertakersLeaveAtTheirTimeToo(t *testing.T) {
	if inGuest() {
		return
	}
	const n, delay = 3000, 10 * time.Millisecond
	for name, d := range map[string]Direction{
		"skipping": {Delay: delay, Reorder: Reorder{P: 0.1}},
		"jitter":   {Delay: delay, Jitter: 4 * time.Millisecond, Reorder: Reorder{ByJitter: true}},
		"kept":     {Delay: delay, Jitter: 4 * time.Millisecond},
	} {
		c := unpaired(d)
		c.Release = FQ
		p := through(t, passage{Kind: Userspace, Config: c, Datagrams: n, Size: 100, Gap: time.Millisecond})
		noErrors(t, p.Counters)
		checkConservation(t, p.Counters)
		if len(p.Number) != n || slices.IsSorted(p.Number) != (name == "kept") {
			t.Errorf("%s: %d of %d arrived, in order: %v", name, len(p.Number), n, slices.IsSorted(p.Number))
		}
		if p.ErrorP99 > 5000 {
			t.Errorf("%s: delay error: p99 %d ns", name, p.ErrorP99)
		}
		early, late := 0, 0
		for _, v := range p.Delay {
			switch {
			case v < int64(20*time.Microsecond):
				early++
			case v > int64(delay+d.Jitter+20*time.Microsecond):
				late++
			}
		}
		if name == "skipping" && (uint64(early) != *p.Counters.TowardsB.Reordered || early < n/20) || name != "kept" && late > 0 {
			t.Errorf("%s: %d early, %d late, %d counted", name, early, late, *p.Counters.TowardsB.Reordered)
		}
	}
}

func TestWhatFQDropsIsCounted(t *testing.T) {
	if !inGuest() {
		visit(t, errand{Run: "^" + t.Name() + "$"})
		return
	}
	r := newHosts(t)
	c := onFQ(FQ)
	c.TowardsA, c.TowardsB = Direction{}, Direction{Delay: 20 * time.Millisecond}
	r.open(t, c)
	r.start(t)
	// Somebody changes fq behind the wire's back.
	q := qdisc{kind: "fq", parent: rootParent, handle: rootHandle,
		options: nl.NewRtAttr(fqFlowPLimit, binary.LittleEndian.AppendUint32(nil, 10)).Serialize()}
	req := q.request(r.wire.pacer.lanes[1].index)
	req.Flags = unix.NLM_F_REQUEST | unix.NLM_F_ACK
	if _, err := r.wire.pacer.execute(req, 0); err != nil {
		t.Fatal(err)
	}
	var sender net.PacketConn
	err := r.a.Do(func() (err error) {
		sender, err = net.ListenPacket("udp4", addrA+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	for range 50 {
		if _, err := sender.WriteTo(make([]byte, 100), &net.UDPAddr{IP: net.ParseIP(addrB), Port: 7}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the datagrams leave", func() bool {
		k := r.wire.Counters().TowardsB
		return *k.In == 50 && *k.Queued == 0
	})
	k := r.wire.Counters()
	if *k.TowardsB.Out != 10 || *k.TowardsB.Overflowed != 40 {
		t.Errorf("%s", toJSON(t, k.TowardsB))
	}
	if !strings.Contains(strings.Join(k.Errors, "\n"), "40 frames were dropped by fq") {
		t.Errorf("errors %q", k.Errors)
	}
}

// A plain user's sockets hold few frames each.
func TestFramesBeyondTheSendBuffersWaitWithTheWire(t *testing.T) {
	if !inGuest() {
		visit(t, errand{Run: "^" + t.Name() + "$"})
		return
	}
	const n = 200
	r := newHosts(t)
	c := Symmetric(Direction{Delay: 20 * time.Millisecond})
	c.Release, c.NoWatch = FQ, true
	r.open(t, c)
	l := r.wire.pacer.lanes[1]
	more, err := openPacedIn(r, l.index)
	if err != nil {
		t.Fatal(err)
	}
	l.sockets = append(l.sockets, more)
	for i := range l.sockets {
		s := &l.sockets[i]
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 10_000); err != nil {
			t.Fatal(err)
		}
		if s.room, err = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil {
			t.Fatal(err)
		}
	}
	r.start(t)
	got := datagrams(t, r, n, 1000, 50, 10*time.Millisecond)
	if len(got) != n || !slices.IsSortedFunc(got, func(a, b arrival) int { return int(a.N - b.N) }) {
		t.Errorf("%d of %d arrived, or out of order", len(got), n)
	}
	for _, a := range got {
		if d := a.Received - a.Sent; d < int64(20*time.Millisecond) || d > int64(20*time.Millisecond+200*time.Microsecond) {
			t.Errorf("%d took %v", a.N, time.Duration(d))
		}
	}
	k := r.wire.Counters()
	noErrors(t, k)
	if handed := l.handed; handed == 0 || handed >= n || *k.TowardsB.Out < n {
		t.Errorf("%d handed to fq, %d out", handed, *k.TowardsB.Out)
	}
}

func openPacedIn(r *rig, index int) (s pacedSocket, err error) {
	err = r.link.Middle.Do(func() (err error) {
		s, err = openPaced(index)
		return err
	})
	return s, err
}

func TestTwoBootsCarryTheSameToTheBit(t *testing.T) {
	if inGuest() {
		return
	}
	for _, cc := range []string{"cubic", "bbr"} {
		boot := func() string {
			lines, _ := visit(t, errand{Run: "^TestTrafficThroughAWire$", Args: map[string]string{
				passageArg: toJSON(t, passage{Kind: Userspace, Config: onFQ(FQ), Congestion: cc, For: 2 * time.Second}),
			}})
			return strings.Join(lines, "\n")
		}
		if one, two := boot(), boot(); one != two || one == "" {
			t.Errorf("%s:\n%s\n%s", cc, one, two)
		}
	}
}
