package probe

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func counters(t testing.TB, text []byte) map[string]int64 {
	t.Helper()
	m := map[string]int64{}
	if err := EachCounter(text, func(g, n []byte, v int64) { m[string(g)+string(n)] = v }); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCountersAreNamedAsNstatNamesThem(t *testing.T) {
	m := counters(t, read(t, "snmp.txt"))
	for n, v := range counters(t, read(t, "netstat.txt")) {
		m[n] = v
	}
	for name, want := range map[string]int64{
		"IpInReceives": 13629, "TcpMaxConn": -1, "TcpActiveOpens": 1201, "TcpExtTW": 811, "TcpExtSyncookiesSent": 3, "IpExtInOctets": 18446744073709551 * 400,
	} {
		if got, ok := m[name]; !ok || got != want {
			t.Errorf("%s = %d, %v; want %d", name, got, ok, want)
		}
	}
	for short, want := range map[string]int64{"snmp.SyncookiesSent": 3, "ActiveOpens": 1201, "TcpExtTW": 811, "InReceives": 13629} {
		if got, ok := Counter(m, short); !ok || got != want {
			t.Errorf("Counter(%s) = %d, %v; want %d", short, got, ok, want)
		}
	}
	if v, ok := Counter(m, "NoSuchThing"); ok {
		t.Errorf("NoSuchThing is %d", v)
	}
	// InErrs is Tcp's, not Icmp's or Udp's.
	if v, _ := Counter(map[string]int64{"IcmpInErrs": 1, "TcpInErrs": 2}, "InErrs"); v != 2 {
		t.Errorf("InErrs is %d", v)
	}
	if match("InErrs", []byte("Tcp"), []byte("InErrs")) <= match("InErrs", []byte("Icmp"), []byte("InErrs")) {
		t.Error("a sample prefers another group than Counter")
	}
}

func TestGarbledCountersAreAnError(t *testing.T) {
	for _, text := range []string{
		"Tcp: A B\n", "Tcp: A B\nTcp: 1 2", "Tcp: A B\nTcp: 1\n", "Tcp: A\nTcp: 1 2\n", "Tcp: A\nUdp: 1\n",
		"Tcp A\nTcp 1\n", "Tcp: A\nTcp: x\n", "Tcp: A\nTcp: 1-\n", ": A\n: 1\n", "Tcp: A\nTcp: 123456789012345678901\n", "\n\n",
	} {
		if err := EachCounter([]byte(text), func(g, n []byte, v int64) {}); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

func TestSockstatIsRead(t *testing.T) {
	s, err := ParseSockstat([]byte("sockets: used 32\nTCP: inuse 5 orphan 1 tw 4096 alloc 7 mem 3\nUDP: inuse 9 mem 0\n"))
	if want := (Sockstat{InUse: 5, Orphan: 1, TimeWait: 4096, Alloc: 7, Mem: 3}); err != nil || s != want {
		t.Errorf("%+v, %v", s, err)
	}
	for _, text := range []string{"", "UDP: inuse 9 mem 0\n", "TCP: inuse 5\n", "TCP: inuse x tw 1\n", "TCP: inuse 5 tw\n"} {
		if _, err := ParseSockstat([]byte(text)); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// socketMsg builds an inet_diag_msg as the kernel does.
func socketMsg(family, state uint8, src, dst netip.AddrPort, attrs ...[]byte) []byte {
	b := make([]byte, diagLen)
	b[0], b[1], b[2], b[3] = family, state, 1, 4
	binary.BigEndian.PutUint16(b[4:], src.Port())
	binary.BigEndian.PutUint16(b[6:], dst.Port())
	copy(b[8:], src.Addr().AsSlice())
	copy(b[24:], dst.Addr().AsSlice())
	ne := binary.NativeEndian
	ne.PutUint32(b[44:], 0x89abcdef)
	ne.PutUint32(b[48:], 0x01234567)
	ne.PutUint32(b[52:], 1500)
	ne.PutUint32(b[56:], 10)
	ne.PutUint32(b[60:], 20)
	ne.PutUint32(b[64:], 1000)
	ne.PutUint32(b[68:], 777)
	for i, a := range attrs {
		if i%2 == 1 {
			continue
		}
		v := attrs[i+1]
		b = ne.AppendUint16(b, uint16(4+len(v)))
		b = ne.AppendUint16(b, uint16(a[0]))
		b = append(b, v...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

func nl3(typ, flags uint16, seq uint32, msg []byte) []byte {
	ne := binary.NativeEndian
	b := ne.AppendUint32(nil, uint32(nlmsgLen+len(msg)))
	b = ne.AppendUint16(b, typ)
	b = ne.AppendUint16(b, flags)
	b = ne.AppendUint32(b, seq)
	b = ne.AppendUint32(b, 0)
	b = append(b, msg...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

var (
	here  = netip.MustParseAddrPort("10.9.0.1:40001")
	there = netip.MustParseAddrPort("10.9.0.2:9000")
)

func TestSocketMessageIsDecodedInFull(t *testing.T) {
	info := make([]byte, 280)
	info[0], info[2], info[4], info[6], info[7] = 1, 3, 2, 0x97, 1
	binary.NativeEndian.PutUint32(info[8:], 204_000)
	s, err := ParseSocket(socketMsg(unix.AF_INET, uint8(Established), here, there,
		[]byte{diagInfo}, info, []byte{diagCong}, []byte("cubic\x00"), []byte{diagSkmem}, make([]byte, 36), []byte{99}, []byte{1, 2, 3}))
	if err != nil {
		t.Fatal(err)
	}
	if s.Src != here || s.Dst != there || s.State != Established || s.Timer != 1 || s.Retrans != 4 || s.Cookie != 0x0123456789abcdef ||
		s.Expires != 1500*time.Millisecond || s.RQueue != 10 || s.WQueue != 20 || s.UID != 1000 || s.Inode != 777 || s.Cong != "cubic" || len(s.Skmem) != 9 {
		t.Errorf("%+v", s)
	}
	if i := s.Info; i == nil || i.Retransmits != 3 || i.Backoff != 2 || i.Rto != 204_000 || i.SndWscale != 7 || i.RcvWscale != 9 || !i.DeliveryRateAppLimited || i.Size != 280 {
		t.Errorf("%+v", s.Info)
	}
	// A v6 socket that carries IPv4 shows IPv4, a request socket its RFC state.
	mapped := netip.MustParseAddrPort("[::ffff:10.9.0.1]:40001")
	if s, err = ParseSocket(socketMsg(unix.AF_INET6, uint8(newSynRecv), mapped, mapped)); err != nil || s.Src != here || s.State != SynRecv {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestTCPInfoOfAnyLengthIsTaken(t *testing.T) {
	known := int(unsafe.Sizeof(unix.TCPInfo{}))
	for _, n := range []int{1, 8, 104, 232, known, known + 1, known + 40} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i + 1)
		}
		info, err := ParseTCPInfo(b)
		if err != nil || info.Size != n || info.State != 1 {
			t.Fatalf("%d bytes: %+v, %v", n, info, err)
		}
		if n > known && string(info.Rest) != string(b[known:]) {
			t.Errorf("%d bytes: the rest is %v", n, info.Rest)
		}
		if n >= 104 && info.Total_retrans != binary.NativeEndian.Uint32(b[100:]) {
			t.Errorf("%d bytes: total_retrans %d", n, info.Total_retrans)
		}
		if n == 104 && info.Bytes_acked != 0 {
			t.Errorf("a field that an old kernel does not have is %d", info.Bytes_acked)
		}
	}
	if _, err := ParseTCPInfo(nil); err == nil {
		t.Error("an empty one: no error")
	}
}

func TestGarbledSocketIsAnErrorNotFewerSockets(t *testing.T) {
	good := socketMsg(unix.AF_INET, uint8(TimeWait), here, there)
	for name, msg := range map[string][]byte{
		"short":           good[:diagLen-1],
		"family":          socketMsg(99, 1, here, there),
		"state":           socketMsg(unix.AF_INET, 200, here, there),
		"attribute":       append(append([]byte(nil), good...), 200, 0, 2, 0),
		"attribute of 1":  append(append([]byte(nil), good...), 1, 0, 2, 0),
		"tail":            append(append([]byte(nil), good...), 1, 0),
		"empty tcp_info":  socketMsg(unix.AF_INET, 1, here, there, []byte{diagInfo}, nil),
		"crooked skmem":   socketMsg(unix.AF_INET, 1, here, there, []byte{diagSkmem}, make([]byte, 7)),
		"nothing":         nil,
		"states of zeros": make([]byte, diagLen),
	} {
		if _, err := ParseSocket(msg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAnswerOfTheKernelIsTakenWholeOrNotAtAll(t *testing.T) {
	sock := nl3(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_MULTI, 7, socketMsg(unix.AF_INET, 1, here, there))
	stale := nl3(unix.SOCK_DIAG_BY_FAMILY, 0, 6, nil)
	intr := nl3(unix.SOCK_DIAG_BY_FAMILY, nlmDumpIntr, 7, socketMsg(unix.AF_INET, 1, here, there))
	done := nl3(unix.NLMSG_DONE, 0, 7, make([]byte, 4))
	refused := nl3(unix.NLMSG_ERROR, 0, 7, []byte{0xff, 0xff, 0xff, 0xff}) // -EPERM
	failed := nl3(unix.NLMSG_DONE, 0, 7, []byte{0xf4, 0xff, 0xff, 0xff})   // -ENOMEM
	cat := func(bs ...[]byte) (all []byte) {
		for _, b := range bs {
			all = append(all, b...)
		}
		return all
	}
	for _, c := range []struct {
		name       string
		b          []byte
		n          int
		done, intr bool
		err        error
		bad        bool
	}{
		{name: "more to come", b: cat(sock, sock), n: 2},
		{name: "all", b: cat(sock, done), n: 1, done: true},
		{name: "of another request", b: cat(stale, sock, done), n: 1, done: true},
		{name: "interrupted", b: cat(intr, done), n: 1, done: true, intr: true},
		{name: "refused", b: refused, err: unix.EPERM},
		{name: "failed at the end", b: cat(sock, failed), n: 1, err: unix.ENOMEM},
		{name: "cut within a message", b: cat(sock, sock[:40]), n: 1, bad: true},
		{name: "cut within a header", b: cat(sock, sock[:9]), n: 1, bad: true},
		{name: "a length of nothing", b: make([]byte, 20), bad: true},
		{name: "overrun", b: nl3(unix.NLMSG_OVERRUN, 0, 7, nil), bad: true},
		{name: "unknown", b: nl3(77, 0, 7, nil), bad: true},
		{name: "an error without a number", b: nl3(unix.NLMSG_ERROR, 0, 7, nil), bad: true},
	} {
		n := 0
		done, intr, err := parseAnswer(c.b, 7, func(msg []byte) error {
			n++
			_, err := ParseSocket(msg)
			return err
		})
		if n != c.n || done != c.done || intr != c.intr || (err != nil) != (c.bad || c.err != nil) || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: %d sockets, done %v, interrupted %v, %v", c.name, n, done, intr, err)
		}
	}
}

func TestAnInterruptedDumpIsTriedThreeTimes(t *testing.T) {
	n := 0
	if err := retry(func() error { n++; return ErrInterrupted }); !errors.Is(err, ErrInterrupted) || n != 3 {
		t.Errorf("%d times, %v", n, err)
	}
	n = 0
	if err := retry(func() error {
		if n++; n < 2 {
			return ErrInterrupted
		}
		return nil
	}); err != nil || n != 2 {
		t.Errorf("%d times, %v", n, err)
	}
}

func TestADualStackSocketUsesThePortsOfIPv4(t *testing.T) {
	var c census
	c.reset()
	m4 := netip.MustParseAddrPort("[::ffff:10.9.0.1]:40002")
	m5 := netip.MustParseAddrPort("[::ffff:10.9.0.2]:9000")
	for _, msg := range [][]byte{
		socketMsg(unix.AF_INET, uint8(TimeWait), here, there),
		socketMsg(unix.AF_INET6, uint8(Established), m4, m5),
		socketMsg(unix.AF_INET, uint8(Established), netip.MustParseAddrPort("10.9.0.77:40003"), there), // another address: ports of its own
	} {
		if err := c.add(msg, 40000, 40009); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.result(10); got.PortsUsedMax != 2 || got.BusiestDst != there || got.PortsUsedShare != 0.2 {
		t.Errorf("%+v", got)
	}
}

func TestDifferencesAllowForWhatMovedMeanwhile(t *testing.T) {
	for _, c := range []struct {
		name           string
		before, after  int64
		theirs, moved  int64
		wantDifference bool
	}{
		{"equal", 4096, 4096, 4096, 0, false},
		{"within 1%", 4096, 4096, 4060, 0, false},
		{"beyond 1%", 4096, 4096, 4000, 0, true},
		{"between a rising count", 100, 200, 150, 0, false},
		{"above it", 100, 200, 203, 0, true},
		{"above it, but it moved", 100, 200, 203, 10, false},
		{"one where there is none", 0, 0, 1, 0, true},
		{"one where there is none, but it moved", 0, 0, 1, 1, false},
	} {
		d := compareStates(map[string]int{"TIME-WAIT": int(c.before)}, map[string]int{"TIME-WAIT": int(c.after)}, map[string]int{"TIME-WAIT": int(c.theirs)}, c.moved)
		if (len(d) > 0) != c.wantDifference {
			t.Errorf("%s: %v", c.name, d)
		}
	}
	a, b := map[string]int64{"TcpInSegs": 100}, map[string]int64{"TcpInSegs": 110}
	for theirs, want := range map[int64]int{99: 0, 98: 1, 105: 0, 112: 1} {
		if d := compareCounters(a, b, map[string]int64{"TcpInSegs": theirs, "Ip6InReceives": 5}); len(d) != want {
			t.Errorf("%d: %v", theirs, d)
		}
	}
}

func TestMissingToolsAreNamedAndDifferInNothing(t *testing.T) {
	p := mustOpen(t)
	defer p.Close()
	text, diffs, err := p.CompareTools(func(argv ...string) ([]byte, error) {
		return nil, &exec.Error{Name: argv[0], Err: exec.ErrNotFound}
	})
	if err != nil || diffs != nil || !strings.Contains(text, "ss is not installed") || !strings.Contains(text, "nstat is not installed") {
		t.Errorf("%q, %v, %v", text, diffs, err)
	}
	for _, garbage := range []string{"", "State\nNONSENSE 1 2\n", "\x00"} {
		if _, _, err := p.CompareTools(func(...string) ([]byte, error) { return []byte(garbage), nil }); err == nil {
			t.Errorf("%q: no error", garbage)
		}
	}
	// A lie is a difference.
	_, diffs, err = p.CompareTools(func(argv ...string) ([]byte, error) {
		if argv[0] == "ss" {
			return []byte("State Recv-Q\n" + strings.Repeat("CLOSE-WAIT 0 0 1.2.3.4:5 6.7.8.9:10\n", 500)), nil
		}
		return []byte("#kernel\nTcpExtTCPTimeouts 4000000000 0.0\n"), nil
	})
	if err != nil || len(diffs) < 2 || !strings.Contains(diffs[0].String(), "CLOSE-WAIT sockets: 500, ours 0") {
		t.Errorf("%v, %v", diffs, err)
	}
}

func TestNumbersWrapLikeTheKernels(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "-1": -1, "9223372036854775807": math.MaxInt64, "18446744073709551615": -1} {
		if v, err := number([]byte(s)); err != nil || v != want {
			t.Errorf("%s is %d, %v", s, v, err)
		}
	}
}

func FuzzCounters(f *testing.F) {
	f.Add(read(f, "snmp.txt"))
	f.Add(read(f, "netstat.txt"))
	f.Add([]byte("Tcp: A B\nTcp: 1 -2\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		err := EachCounter(b, func(group, name []byte, v int64) {
			n++
			if len(group) == 0 || len(name) == 0 {
				t.Errorf("a counter without a name")
			}
		})
		if err == nil && n*2 > len(b) {
			t.Errorf("%d counters in %d bytes", n, len(b))
		}
		_, _ = ParseSockstat(b)
	})
}

func FuzzAnswer(f *testing.F) {
	info := make([]byte, 280)
	msg := socketMsg(unix.AF_INET, 1, here, there, []byte{diagInfo}, info, []byte{diagCong}, []byte("bbr\x00"), []byte{diagSkmem}, make([]byte, 36))
	f.Add(nl3(unix.SOCK_DIAG_BY_FAMILY, 2, 7, msg))
	f.Add(append(nl3(unix.SOCK_DIAG_BY_FAMILY, 2, 7, msg[:80]), nl3(unix.NLMSG_DONE, 2, 7, make([]byte, 4))...))
	f.Add(nl3(unix.SOCK_DIAG_BY_FAMILY, 0, 7, socketMsg(unix.AF_INET, 1, here, there, []byte{diagBBR}, bbrInfo(1, 0, 40000, 739, 512))))
	f.Add(nl3(unix.NLMSG_ERROR, 0, 7, []byte{0xfe, 0xff, 0xff, 0xff}))
	f.Add([]byte{17, 0, 0, 0, 20, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c census
		c.reset()
		_, _, _ = parseAnswer(b, 7, func(msg []byte) error {
			s, err := ParseSocket(msg)
			if err == nil {
				// What the one takes, the other takes.
				if cerr := c.add(msg, 1, 65535); cerr != nil {
					t.Errorf("the census refuses %+v: %v", s, cerr)
				}
				if again, _ := ParseSocket(msg); !reflect.DeepEqual(again, s) {
					t.Error("not the same twice")
				}
			}
			return err
		})
		c.result(65535)
	})
}
