package probe

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/netns/internal/nstest"
)

func mustOpen(t testing.TB) *Probe {
	t.Helper()
	p, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProbeReadsTheNamespaceItWasOpenedInFromAnyThread(t *testing.T) {
	var p *Probe
	var ps *pairs
	inNetns(t, func() {
		p = mustOpen(t)
		ps = listen(t)
		ps.open(t, 7)
	})
	defer p.Close()
	defer ps.close()
	// Here the thread is in the test's own namespace.
	m, err := p.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{
		"TcpActiveOpens": 7, "TcpPassiveOpens": 7, "TcpCurrEstab": 14, "TcpExtTW": 0, "TcpRetransSegs": 0,
	} {
		if got, ok := m[name]; !ok || got != want {
			t.Errorf("%s = %d, %v; want %d", name, got, ok, want)
		}
	}
	var v [2]int64
	if err := p.Sample([]string{"snmp.ActiveOpens", "TcpExtSyncookiesSent"}, v[:]); err != nil {
		t.Fatal(err)
	}
	if v != [2]int64{7, 0} {
		t.Errorf("sampled %v", v)
	}
	s, err := p.Sockstat()
	if err != nil {
		t.Fatal(err)
	}
	if s.InUse != 15 || s.TimeWait != 0 {
		t.Errorf("sockstat %+v; want 15 in use", s)
	}
	socks, err := p.Dump(DumpOptions{States: Established.Mask()})
	if err != nil {
		t.Fatal(err)
	}
	if len(socks) != 14 {
		t.Errorf("%d established, want 14", len(socks))
	}
}

func TestAnAnswerLargerThanTheBufferIsReadWhole(t *testing.T) {
	p := mustOpen(t)
	defer p.Close()
	want, err := p.Counters()
	if err != nil {
		t.Fatal(err)
	}
	p.text = make([]byte, 100)
	got, err := p.Counters()
	if err != nil || len(got) != len(want) || len(p.text) < 1000 {
		t.Errorf("%d counters of %d with a buffer of %d, %v", len(got), len(want), len(p.text), err)
	}
}

func TestUnknownCounterIsAnErrorNotZero(t *testing.T) {
	p := mustOpen(t)
	defer p.Close()
	var v [1]int64
	err := p.Sample([]string{"TcpNoSuchThing"}, v[:])
	if err == nil || !strings.Contains(err.Error(), "TcpNoSuchThing") {
		t.Fatalf("got %v", err)
	}
}

func TestSamplingAllocatesNothing(t *testing.T) {
	p := mustOpen(t)
	defer p.Close()
	names := []string{"TcpActiveOpens", "TcpRetransSegs", "TcpExtTCPTimeouts"}
	v := make([]int64, len(names))
	n := testing.AllocsPerRun(100, func() {
		if err := p.Sample(names, v); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Sockstat(); err != nil {
			t.Fatal(err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations a sample", n)
	}
}

func TestClosedProbeAnswersWithAnError(t *testing.T) {
	p := mustOpen(t)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if _, err := p.Counters(); err == nil {
		t.Error("Counters gave no error")
	}
	if _, err := p.Sockstat(); err == nil {
		t.Error("Sockstat gave no error")
	}
	if _, err := p.Dump(DumpOptions{}); err == nil {
		t.Error("Dump gave no error")
	}
	if _, err := p.Census([2]int{1, 2}); err == nil {
		t.Error("Census gave no error")
	}
}

func TestDumpTellsStateQueuesAndTCPInfoOfEachSocket(t *testing.T) {
	inNetns(t, func() {
		p := mustOpen(t)
		defer p.Close()
		ps := listen(t)
		defer ps.close()
		ps.open(t, 1)
		c := ps.cli[0].(*net.TCPConn)
		if err := setCong(c, "reno"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		socks, err := p.Dump(DumpOptions{Info: true})
		if err != nil {
			t.Fatal(err)
		}
		byDst := map[netip.AddrPort]Socket{}
		for _, s := range socks {
			byDst[s.Dst] = s
		}
		at := netip.MustParseAddrPort(ps.at)
		local := netip.MustParseAddrPort(c.LocalAddr().String())
		mine, ok := byDst[at]
		if !ok || mine.Src != local || mine.State != Established {
			t.Fatalf("client's socket: %+v", mine)
		}
		if mine.Cong != "reno" || mine.Info == nil || mine.Info.Size < 232 || mine.Info.Snd_cwnd == 0 || mine.Info.Data_segs_out == 0 {
			t.Errorf("client's tcp_info: %q %+v", mine.Cong, mine.Info)
		}
		if _, ok := mine.Info.Ssthresh(); ok {
			t.Error("a slow start threshold before any loss")
		}
		if len(mine.Skmem) <= SkmemDrops || mine.Skmem[SkmemSndbuf] == 0 || mine.Inode == 0 || mine.Cookie == 0 {
			t.Errorf("client's socket: %+v", mine)
		}
		if s := byDst[local]; s.RQueue != 1000 || s.Src != at {
			t.Errorf("server's socket: %+v, want 1000 B to be read", s)
		}
		if s := byDst[netip.MustParseAddrPort("0.0.0.0:0")]; s.State != Listen || s.Src != at {
			t.Errorf("listener: %+v", s)
		}
	})
}

func TestCensusCountsPortsTowardsTheBusiestDestinationWithTimeWait(t *testing.T) {
	inNetns(t, func() {
		sysctl(t, "ipv4/ip_local_port_range", "40000 40999")
		p := mustOpen(t)
		defer p.Close()
		other, err := net.Listen("tcp4", "127.0.0.1:40500") // inside the range, but a server's
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		ps := listen(t)
		defer ps.close()
		ps.open(t, 300)
		ps.churn(t)
		ps.open(t, 20)
		for range 3 {
			c, err := net.Dial("tcp4", other.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		c, err := p.Census([2]int{40000, 40999})
		if err != nil {
			t.Fatal(err)
		}
		if c.PortsUsedMax != 320 || c.PortsUsedShare != 0.32 || c.BusiestDst.String() != ps.at {
			t.Errorf("%d ports, share %v, towards %v; want 320 towards %v", c.PortsUsedMax, c.PortsUsedShare, c.BusiestDst, ps.at)
		}
		want := map[string]int{"TIME-WAIT": 300, "ESTABLISHED": 46, "LISTEN": 2}
		for s, n := range want {
			if c.ByState[s] != n {
				t.Errorf("%s: %d, want %d", s, c.ByState[s], n)
			}
		}
		if len(c.ByState) != len(want) {
			t.Errorf("states %v", c.ByState)
		}
		s, err := p.Sockstat()
		if err != nil {
			t.Fatal(err)
		}
		if s.TimeWait != 300 {
			t.Errorf("sockstat says %d TIME-WAIT, want 300", s.TimeWait)
		}
		// A server's accepted connections take no port of the range.
		if c, err = p.Census([2]int{9000, 9000}); err != nil || c.PortsUsedMax != 0 {
			t.Errorf("the server's own port: %+v, %v", c, err)
		}
		// Nothing of an earlier census may stay.
		if c, err = p.Census([2]int{50000, 50001}); err != nil || c.PortsUsedMax != 0 || c.BusiestDst.IsValid() {
			t.Errorf("an unused range: %+v, %v", c, err)
		}
	})
}

func TestCensusTellsOfConnectionsThatWaitToBeAccepted(t *testing.T) {
	inNetns(t, func() {
		p := mustOpen(t)
		defer p.Close()
		if c, err := p.Census([2]int{40000, 40999}); err != nil || c.AcceptQueue != -1 {
			t.Errorf("without a listener: %d, %v", c.AcceptQueue, err)
		}
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		for n := range 4 {
			if c, err := p.Census([2]int{40000, 40999}); err != nil || c.AcceptQueue != n {
				t.Errorf("%d wait, and the census has %d, %v", n, c.AcceptQueue, err)
			}
			c, err := net.Dial("tcp4", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
	})
}

func TestCensusRefusesARangeThatIsNone(t *testing.T) {
	p := mustOpen(t)
	defer p.Close()
	for _, r := range [][2]int{{}, {5, 4}, {1, 65536}, {-1, 4}} {
		if _, err := p.Census(r); err == nil {
			t.Errorf("%v: no error", r)
		}
	}
}

func TestIPv6SocketsAreCounted(t *testing.T) {
	inNetns(t, func() {
		p := mustOpen(t)
		defer p.Close()
		ln, err := net.Listen("tcp6", "[::1]:9000")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		c, err := net.Dial("tcp6", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got, err := p.Census([2]int{1024, 65535})
		if err != nil {
			t.Fatal(err)
		}
		if got.ByState["ESTABLISHED"] != 2 || got.PortsUsedMax != 1 || got.BusiestDst.String() != "[::1]:9000" {
			t.Errorf("%+v", got)
		}
	})
}

func TestEndOfASocketIsToldWithItsFinalTCPInfo(t *testing.T) {
	inNetns(t, func() {
		d, err := OpenDestroys()
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		ps := listen(t)
		defer ps.close()
		ps.open(t, 1)
		local := ps.cli[0].LocalAddr().String()
		if _, err := ps.cli[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		ps.churn(t)
		deadline := time.Now().Add(10 * time.Second)
		for {
			s, err := d.Next(deadline)
			if err != nil {
				t.Fatal(err)
			}
			if s.Src.String() != local {
				continue
			}
			if s.Info == nil || s.Info.Bytes_acked < 5 {
				t.Errorf("the client's end: %+v, tcp_info %+v", s, s.Info)
			}
			break
		}
		for {
			if _, err = d.Next(time.Now().Add(-time.Second)); err != nil {
				break
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("with nothing to tell: %v", err)
		}
	})
}

// TestSystemToolsAgree asks the real ss and nstat, which CI installs.
func TestSystemToolsAgree(t *testing.T) {
	inNetns(t, func() {
		p := mustOpen(t)
		defer p.Close()
		ps := listen(t)
		defer ps.close()
		ps.open(t, 120)
		ps.churn(t)
		ps.open(t, 30)
		text, diffs, err := p.CompareTools(func(argv ...string) ([]byte, error) {
			return exec.Command(argv[0], argv[1:]...).Output()
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(diffs) != 0 {
			t.Errorf("differences: %v", diffs)
		}
		for _, want := range []string{"… and 70 more in TIME-WAIT", "127.0.0.1:9000", "TcpActiveOpens                                150              150              150"} {
			if !strings.Contains(text, want) {
				t.Errorf("the text lacks %q:\n%s", want, text)
			}
		}
	})
}

func TestPlainUserSeesItsOwnNamespace(t *testing.T) {
	nstest.AgainAsPlainUser(t, "TestProbeReads", "TestDump", "TestCensus", "TestEnd", "TestSystemTools")
}

func setCong(c *net.TCPConn, name string) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
	})
	if cerr != nil {
		return cerr
	}
	return err
}
