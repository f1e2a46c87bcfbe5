package capture

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tcplab/netns/internal/nstest"
	"tcplab/results"
)

var names = map[string]string{"10.9.0.1": "client", "10.9.0.2": "server"}

func mono() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// start makes a recorder with a tap at both ends, running.
func (s *site) start(cfg Config) *Recorder {
	s.t.Helper()
	cfg.Names = names
	r := New(cfg)
	r.Add("client", "c0", s.tap(s.client, "c0", ringBytes))
	r.Add("server", "s0", s.tap(s.server, "s0", ringBytes))
	if err := r.Start(); err != nil {
		s.t.Fatal(err)
	}
	return r
}

type filePacket struct {
	iface    string
	wall     int64
	data     []byte
	comments []string
	out      bool
	h        header
}

// readFile reads a capture back with the library's own reader.
func readFile(t testing.TB, data []byte) (packets []filePacket, r *pcapgo.NgReader) {
	t.Helper()
	r, err := pcapgo.NewNgReader(bytes.NewReader(data), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, ci, opts, err := r.ReadPacketDataWithOptions()
		if err == io.EOF {
			return packets, r
		}
		if err != nil {
			t.Fatal(err)
		}
		intf, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		p := filePacket{iface: intf.Name, wall: ci.Timestamp.UnixNano(), data: data, comments: opts.Comments}
		if opts.Flags != nil {
			p.out = opts.Flags.Direction == pcapgo.NgEpbFlagDirectionOutbound
		}
		if err := p.h.decode(data); err != nil {
			t.Fatal(err)
		}
		packets = append(packets, p)
	}
}

func mustRead(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConnectionsAreWrittenWithNamesDirectionsAndComments(t *testing.T) {
	s := newSite(t)
	ln := s.listen()
	served := echo(ln)
	r := s.start(Config{})
	for range 3 {
		c := s.dial()
		ask(t, c, 132)
		ask(t, c, 10)
		hangUp(t, c)
	}
	ln.Close()
	<-served
	file := filepath.Join(t.TempDir(), "capture.pcapng")
	sum, err := r.Stop(file)
	if err != nil {
		t.Fatal(err)
	}
	packets, ng := readFile(t, mustRead(t, file))
	if int64(len(packets)) != sum.Packets || sum.Packets != sum.Seen || sum.Dropped != 0 || sum.Commented == 0 {
		t.Errorf("%d packets in the file; %+v", len(packets), sum)
	}
	got := map[string]string{}
	for i := range ng.NNames() {
		n, err := ng.Name(i)
		if err != nil {
			t.Fatal(err)
		}
		got[n.Addr.(*pcapgo.NgIPAddress).Addr.String()] = strings.Join(n.Names, ",")
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		t.Errorf("names %v, want %v", got, names)
	}
	var last int64
	said := map[string]int{}
	for _, p := range packets {
		if p.wall < last {
			t.Error("packets are not in order of time")
		}
		last = p.wall
		if p.h.tcp && p.out != (addr(p.h.src) == netip.MustParseAddr("10.9.0.1")) != (p.iface == "server/s0") {
			t.Errorf("%s: a packet from %v, out %v", p.iface, addr(p.h.src), p.out)
		}
		if p.h.tcp && len(p.data) > 14+60+60 {
			t.Errorf("%d bytes kept: payload", len(p.data))
		}
		for _, c := range p.comments {
			said[p.iface+" "+strings.Split(c, ",")[0]]++
		}
	}
	for _, want := range []string{
		"client/c0 SYN: the connection opens; the round trip you pay starts here",
		"client/c0 SYN-ACK",
		"server/s0 SYN-ACK: half-open (SYN-RECV) until the client's ACK comes",
		"client/c0 ACK: established",
		"client/c0 request 1 on this connection: 132 bytes",
		"client/c0 request 2 on an established connection: 10 bytes",
		"client/c0 FIN: client closes first",
	} {
		if said[want] != 3 {
			t.Errorf("%q was said %d times, want 3", want, said[want])
		}
	}
	if t.Failed() {
		for k, n := range said {
			t.Log(n, k)
		}
	}
}

func TestLaddersShowWhatAFreshAndAReusedConnectionPay(t *testing.T) {
	s := newSite(t)
	ln := s.listen()
	served := echo(ln)
	r := s.start(Config{})
	for range 5 {
		c := s.dial()
		ask(t, c, 100)
		ask(t, c, 100)
		hangUp(t, c)
	}
	ln.Close()
	<-served
	file := filepath.Join(t.TempDir(), "capture.pcapng")
	if _, err := r.Stop(file); err != nil {
		t.Fatal(err)
	}
	packets, _ := readFile(t, mustRead(t, file))
	for _, show := range []string{"handshake", "reused request", "teardown"} {
		l, err := r.Ladder(show)
		if err != nil {
			t.Fatal(err)
		}
		if l.Left != "client" || l.Right != "server" {
			t.Errorf("%s: between %q and %q", show, l.Left, l.Right)
		}
		for _, e := range l.Events {
			if e.Arrived == nil || *e.Arrived < e.Sent {
				t.Errorf("%s: %+v", show, e)
			}
			p := packets[e.Frame-1]
			if !strings.HasPrefix(p.iface, e.From+"/") || flagNames(p.h.flags) != e.Flags || p.h.len != e.Len {
				t.Errorf("%s: frame %d is %+v, not %+v", show, e.Frame, p, e)
			}
		}
		fresh := slices.ContainsFunc(l.Events, func(e ladderEvent) bool { return e.Flags == "SYN" })
		if fresh != (show == "handshake") {
			t.Errorf("%s: a SYN: %v", show, fresh)
		}
	}
	if _, err := r.Ladder("nonsense"); err == nil || !strings.Contains(err.Error(), `handshake, held segment, keepalive`) {
		t.Errorf("an unknown show: %v", err)
	}
}

// empty takes all that a tap holds.
func empty(tap *Tap, f func(*frame)) (n int) {
	var fr frame
	for tap.peek(&fr) && n < 2*tap.slots {
		if f != nil {
			f(&fr)
		}
		tap.release()
		n++
	}
	return n
}

func TestKernelDropsAreCounted(t *testing.T) {
	s := newSite(t)
	tap := s.tap(s.client, "c0", 0) // one block, and nobody reads it
	defer tap.Close()
	ln := s.listen()
	served := echo(ln)
	c := s.dial()
	for range 2 * tap.slots {
		ask(t, c, 1)
	}
	hangUp(t, c)
	ln.Close()
	<-served
	if err := tap.stop(); err != nil {
		t.Fatal(err)
	}
	n := empty(tap, nil)
	if err := tap.count(); err != nil {
		t.Fatal(err)
	}
	if n != tap.slots || tap.drops == 0 || tap.seen != int64(n)+tap.drops {
		t.Errorf("%d slots, %d read, %d dropped of %d", tap.slots, n, tap.drops, tap.seen)
	}
}

func TestAMarkBringsBackWhatWasSeenBeforeIt(t *testing.T) {
	s := newSite(t)
	ln := s.listen()
	served := echo(ln)
	r := s.start(Config{MaxConnections: 1, MaxPackets: 4})
	c := s.dial()
	ask(t, c, 10)
	for range 50 { // more than is kept
		ask(t, c, 10)
	}
	at := mono()
	r.Mark(at, "fault forget: the broker forgets")
	ask(t, c, 10)
	hangUp(t, c)
	ln.Close()
	<-served
	file := filepath.Join(t.TempDir(), "capture.pcapng")
	sum, err := r.Stop(file)
	if err != nil {
		t.Fatal(err)
	}
	// All of it lies within half a second.
	if sum.Packets != sum.Seen || !strings.Contains(sum.Bound, "1s around 1 events") {
		t.Errorf("%+v", sum)
	}
	packets, _ := readFile(t, mustRead(t, file))
	found := false
	for _, p := range packets {
		for _, c := range p.comments {
			if strings.HasPrefix(c, "fault forget: the broker forgets, ") {
				found = true
				if p.wall < r.wallTime(at).UnixNano() {
					t.Error("the mark's comment is on a packet before it")
				}
			}
		}
	}
	if !found {
		t.Error("the mark's text is nowhere")
	}
}

func TestTheFileStopsAtItsSizeAndSaysSo(t *testing.T) {
	s := newSite(t)
	ln := s.listen()
	served := echo(ln)
	r := s.start(Config{MaxBytes: 10_000})
	c := s.dial()
	for range 60 {
		ask(t, c, 10)
	}
	hangUp(t, c)
	ln.Close()
	<-served
	file := filepath.Join(t.TempDir(), "capture.pcapng")
	sum, err := r.Stop(file)
	if err != nil {
		t.Fatal(err)
	}
	data := mustRead(t, file)
	packets, _ := readFile(t, data)
	if len(data) > 11_000 || len(packets) == 0 || sum.Packets >= sum.Seen || !strings.Contains(sum.Bound, "the file reached its") {
		t.Errorf("%d bytes, %+v", len(data), sum)
	}
}

// TestAnIdleRecorderSleeps: on a virtual clock each wake-up costs wall time.
func TestAnIdleRecorderSleeps(t *testing.T) {
	s := newSite(t)
	r := s.start(Config{})
	ln := s.listen()
	served := echo(ln)
	c := s.dial()
	ask(t, c, 1)
	hangUp(t, c)
	ln.Close()
	<-served
	// Three full rests pass without a packet; a loop that polls would turn on.
	time.Sleep(5 * rest * time.Millisecond)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if r.wakes > 8 {
		t.Errorf("%d turns for one short conversation", r.wakes)
	}
}

func TestAnInterfaceThatGoesAwayEndsNothingElse(t *testing.T) {
	s := newSite(t)
	r := s.start(Config{})
	ln := s.listen()
	served := echo(ln)
	c := s.dial()
	ask(t, c, 1)
	hangUp(t, c)
	ln.Close()
	<-served
	s.must(s.client, func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName("c0")
		if err != nil {
			return err
		}
		return h.LinkDel(l) // its peer goes with it
	})
	time.Sleep(5 * rest * time.Millisecond) // a socket's error would let poll spin
	file := filepath.Join(t.TempDir(), "capture.pcapng")
	sum, err := r.Stop(file)
	if err != nil || sum.Packets == 0 || sum.Packets != sum.Seen || r.wakes > 15 {
		t.Fatalf("%+v, %v; %d turns", sum, err, r.wakes)
	}
}

func TestANilRecorderRecordsNothing(t *testing.T) {
	var r *Recorder
	r.Add("client", "c0", nil)
	if err := r.Start(); err != nil {
		t.Error(err)
	}
	r.Mark(1, "x")
	r.Watch(1)
	r.Window(1, 2)
	if c, err := r.Stop("/nonexistent/capture.pcapng"); err != nil || c.Packets != 0 {
		t.Error(c, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.Ladder("handshake"); !errors.Is(err, ErrNoSuchPackets) {
		t.Error(err)
	}
}

func TestAFileThatCannotBeWrittenIsAnErrorAndLeavesNothing(t *testing.T) {
	s := newSite(t)
	r := s.start(Config{})
	dir := t.TempDir()
	if _, err := r.Stop(filepath.Join(dir, "no", "capture.pcapng")); err == nil {
		t.Error("no error")
	}
	if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
		t.Errorf("left behind: %v, %v", es, err)
	}
}

func TestOpenSaysWhichInterfaceIsMissing(t *testing.T) {
	if _, err := Open("nosuch0", 0); err == nil || !strings.Contains(err.Error(), "nosuch0") {
		t.Error(err)
	}
	if _, err := Open("lo", 10); err == nil || !strings.Contains(err.Error(), "snaplen") {
		t.Error(err)
	}
}

func TestTheRingTurnsWithoutLosing(t *testing.T) {
	s := newSite(t)
	tap := s.tap(s.client, "c0", 0) // one block
	defer tap.Close()
	ln := s.listen()
	served := echo(ln)
	c := s.dial()
	n := 0
	for n < 3*tap.slots {
		ask(t, c, 1)
		n += empty(tap, func(f *frame) {
			if f.wall == 0 || len(f.data) < 42 || f.wire < len(f.data) {
				t.Errorf("%+v", f)
			}
		})
	}
	hangUp(t, c)
	ln.Close()
	<-served
	if err := tap.stop(); err != nil {
		t.Fatal(err)
	}
	n += empty(tap, nil)
	if err := tap.count(); err != nil || tap.drops != 0 || tap.seen != int64(n) {
		t.Errorf("%d read of %d, %d dropped, %v", n, tap.seen, tap.drops, err)
	}
}

func TestPlainUserCaptures(t *testing.T) {
	nstest.AgainAsPlainUser(t, "TestConnections", "TestLadders", "TestKernelDrops", "TestAMarkBrings", "TestAnInterface")
}

type ladderEvent = results.LadderEvent
