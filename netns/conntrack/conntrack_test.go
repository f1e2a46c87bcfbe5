package conntrack

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/netns"
	"tcplab/netns/internal/nstest"
	"tcplab/netns/tree/treetest"
)

func TestMain(m *testing.M) { treetest.Main(m) }

func TestAllOfThisAsAPlainUser(t *testing.T) { nstest.AgainAsPlainUser(t) }

func open(t *testing.T, h *netns.Host) *Conn {
	t.Helper()
	var c *Conn
	if err := h.Do(func() (err error) { c, err = Open(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), c.Close()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func newHost(t *testing.T, name string) *netns.Host {
	t.Helper()
	h, err := netns.NewHost(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func TestWhatIsFilledInIsListedAndFlushed(t *testing.T) {
	c := open(t, newHost(t, "router"))
	n, err := c.Fill(Fill{Entries: 1234, Assured: true, Timeout: 600 * time.Second, To: netip.MustParseAddr("10.8.0.2")})
	if err != nil || n != 1234 {
		t.Fatal(n, err)
	}
	es, err := c.Entries(nil)
	if err != nil || len(es) != 1234 {
		t.Fatal(len(es), err)
	}
	seen := map[Tuple]bool{}
	for _, e := range es {
		if !Filled(e) || e.State != "ESTABLISHED" || e.Status&Assured == 0 || e.Left < 590*time.Second || e.Left > 600*time.Second || e.Reply.Src != e.Orig.Dst {
			t.Fatalf("%v", e)
		}
		seen[e.Orig] = true
	}
	if len(seen) != 1234 {
		t.Errorf("%d different flows", len(seen))
	}
	if n, most, err := c.Size(); err != nil || n != 1234 || most < n {
		t.Error(n, most, err)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := c.Size(); err != nil || n != 0 {
		t.Error(n, err)
	}
	if _, err := c.Counters(); err != nil {
		t.Error(err)
	}
}

func TestAnEntryReadsAsTheUsualToolPrintsIt(t *testing.T) {
	e := Entry{Proto: unix.IPPROTO_TCP, State: "ESTABLISHED", Left: 43199*time.Second + 5e8, Status: SeenReply | Assured | Confirmed,
		Orig:  Tuple{netip.MustParseAddrPort("10.0.0.12:49314"), netip.MustParseAddrPort("10.42.11.8:443")},
		Reply: Tuple{netip.MustParseAddrPort("10.42.11.8:443"), netip.MustParseAddrPort("192.0.2.1:49314")}}
	if got, want := e.String(), "tcp 6 43199 ESTABLISHED src=10.0.0.12 dst=10.42.11.8 sport=49314 dport=443 src=10.42.11.8 dst=192.0.2.1 sport=443 dport=49314 [ASSURED]"; got != want {
		t.Errorf("%s\n%s", got, want)
	}
	e.Status, e.State = Confirmed, "SYN_SENT"
	if got := e.String(); !strings.Contains(got, "SYN_SENT") || !strings.Contains(got, "dport=443 [UNREPLIED] src=") || strings.Contains(got, "ASSURED") {
		t.Error(got)
	}
}

// path is client, router and server in a row, with tracking on.
func path(t *testing.T, cfg netns.RouterConfig, sysctls map[string]string) (client, router, server *netns.Host) {
	t.Helper()
	client, router, server = newHost(t, "client"), newHost(t, "router"), newHost(t, "server")
	for h, role := range map[*netns.Host]netns.Role{client: netns.RoleHost, server: netns.RoleHost, router: netns.RoleRouter} {
		if _, _, err := h.Pin(role, nil); err != nil {
			t.Fatal(err)
		}
	}
	join := func(name string, a, b *netns.Host, left, right string) {
		l, err := netns.Connect(netns.LinkConfig{Name: name, DirectPair: true,
			A: netns.Endpoint{Host: a, Addr: netip.MustParsePrefix(left + "/24")}, B: netns.Endpoint{Host: b, Addr: netip.MustParsePrefix(right + "/24")}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	join("inside", client, router, "10.1.0.2", "10.1.0.1")
	join("outside", router, server, "10.2.0.1", "10.2.0.2")
	for h, r := range map[*netns.Host][3]string{client: {"10.2.0.0/24", "10.1.0.1", "inside"}, server: {"10.1.0.0/24", "10.2.0.1", "outside"}} {
		if err := h.AddRoute(netip.MustParsePrefix(r[0]), netip.MustParseAddr(r[1]), r[2], ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := router.Route(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := router.SetSysctls(sysctls); err != nil {
		t.Fatal(err)
	}
	return client, router, server
}

// connect makes one connection and gives both its ends.
func connect(t *testing.T, client, server *netns.Host) (c, s net.Conn) {
	t.Helper()
	var l net.Listener
	lc, d := net.ListenConfig{KeepAlive: -1}, net.Dialer{KeepAlive: -1}
	err := server.Do(func() (err error) { l, err = lc.Listen(t.Context(), "tcp4", "10.2.0.2:0"); return err })
	if err == nil {
		err = client.Do(func() (err error) { c, err = d.Dial("tcp4", l.Addr().String()); return err })
	}
	if err == nil {
		s, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	t.Cleanup(func() { c.Close(); s.Close() })
	return c, s
}

func say(t *testing.T, from, to net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(to, make([]byte, len(text))); err != nil {
		t.Fatal(err)
	}
}

func entry(t *testing.T, c *Conn) (Entry, bool) {
	t.Helper()
	es, err := c.Entries(nil)
	if err != nil || len(es) > 1 {
		t.Fatal(es, err)
	}
	if len(es) == 0 {
		return Entry{}, false
	}
	return es[0], true
}

// The idle connection of seeds of half a day, in two seconds: the kernel
// forgets it, the next segment goes out untranslated, and the server, which
// knows no such connection, answers with a RST.
func TestAQuietConnectionBehindANATIsForgottenAndThenReset(t *testing.T) {
	client, router, server := path(t, netns.RouterConfig{NAT: "outside"}, map[string]string{
		"net.netfilter.nf_conntrack_tcp_timeout_established": "1", "net.netfilter.nf_conntrack_tcp_loose": "0"})
	c, s := connect(t, client, server)
	say(t, c, s, "hello")
	say(t, s, c, "world")
	if got := s.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got.String() != "10.2.0.1" {
		t.Fatalf("the server sees %v: no translation", got)
	}
	ct := open(t, router)
	e, ok := entry(t, ct)
	if !ok || e.State != "ESTABLISHED" || e.Status&(Assured|SourceNAT) != Assured|SourceNAT || e.Reply.Dst.Addr().String() != "10.2.0.1" || e.Left > time.Second {
		t.Fatalf("%v %+v", ok, e)
	}
	for ok { // until it is gone
		time.Sleep(20 * time.Millisecond)
		_, ok = entry(t, ct)
	}
	io.WriteString(c, "anyone?")
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client hears %v", err)
	}
	if n, err := ct.Counters(); err != nil || n.Invalid == 0 {
		t.Errorf("%+v %v", n, err)
	}
}

// A routing firewall that missed an exchange calls everything after it
// invalid, lets it pass, and its entry's time runs down; as the NAT that it
// also could be it breaks the connection at once.
func TestAHiddenExchangeStopsTheTimerOfAFlow(t *testing.T) {
	for _, nat := range []bool{false, true} {
		t.Run(fmt.Sprintf("nat=%v", nat), func(t *testing.T) {
			cfg := netns.RouterConfig{Track: true}
			if nat {
				cfg.NAT = "outside"
			}
			client, router, server := path(t, cfg, map[string]string{
				"net.netfilter.nf_conntrack_tcp_timeout_established": "600", "net.netfilter.nf_conntrack_tcp_loose": "0", "net.netfilter.nf_conntrack_tcp_be_liberal": "0"})
			c, s := connect(t, client, server)
			say(t, c, s, "hello")
			say(t, s, c, "world")
			ct := open(t, router)
			es, err := ct.Entries(nil)
			if err != nil {
				t.Fatal(err)
			}
			b := netns.Bypass{NAT: "outside"}
			for _, e := range es {
				b.Flows = append(b.Flows, netns.BypassFlow{Client: e.Orig.Src, Server: e.Orig.Dst, Outer: e.Reply.Dst})
			}
			if err := router.StartBypass(b); err != nil {
				t.Fatal(err)
			}
			// More than the window that the tracker knows of, both ways.
			for range 64 {
				say(t, c, s, strings.Repeat("x", 64<<10))
				say(t, s, c, strings.Repeat("y", 64<<10))
			}
			if err := router.EndBypass(); err != nil {
				t.Fatal(err)
			}
			before, err := ct.Counters()
			if err != nil {
				t.Fatal(err)
			}
			if nat {
				io.WriteString(c, "still there?")
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("the client hears %v", err)
				}
				return
			}
			say(t, c, s, "still there?")
			say(t, s, c, "still here")
			after, err := ct.Counters()
			if err != nil || after.Invalid <= before.Invalid {
				t.Errorf("%+v then %+v, %v", before, after, err)
			}
			e, ok := entry(t, ct)
			for deadline := time.Now().Add(20 * time.Second); ok && e.Left > 597*time.Second; { // a valid packet sets it back to 600
				if time.Now().After(deadline) {
					t.Fatalf("%v is refreshed", e)
				}
				say(t, c, s, "x")
				say(t, s, c, "y")
				time.Sleep(50 * time.Millisecond)
				e, ok = entry(t, ct)
			}
			if !ok {
				t.Error("the entry is gone")
			}
		})
	}
}

func TestInvalidPacketsAreDroppedWhereTheRulesSaySo(t *testing.T) {
	client, router, server := path(t, netns.RouterConfig{Invalid: "drop"}, map[string]string{"net.netfilter.nf_conntrack_tcp_loose": "0"})
	c, s := connect(t, client, server)
	say(t, c, s, "hello")
	ct := open(t, router)
	if err := ct.Flush(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "anyone?")
	s.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the server hears %v", err)
	}
	if n, err := ct.Counters(); err != nil || n.Invalid == 0 {
		t.Errorf("%+v %v", n, err)
	}
}

func TestWithNotrackThereIsNothingToForget(t *testing.T) {
	client, router, server := path(t, netns.RouterConfig{Invalid: "drop", NoTrack: true}, nil)
	c, s := connect(t, client, server)
	say(t, c, s, "hello")
	ct := open(t, router)
	if es, err := ct.Entries(nil); err != nil || len(es) > 0 {
		t.Error(es, err)
	}
}

// An answer of the kernel's, taken from a router with NAT.
const sample = "02000000" + "34000180" + "14000180" + "080001000a010002" + "080002000a020002" +
	"1c000280" + "0500010006000000" + "06000200a0360000" + "0600030000500000" +
	"0800030000000188" + "080007000000a8bf" + "10000480" + "0c000180" + "0500010003000000"

func FuzzParseEntry(f *testing.F) {
	b, err := hex.DecodeString(sample)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntry(b)
		if err == nil && !e.Orig.Src.IsValid() {
			t.Error("an entry of nothing")
		}
		_ = e.String()
		var c Counters
		_ = ParseCounters(b, &c)
		_, _ = each(b, 1, func([]byte) error { return nil })
	})
}

func TestAMessageIsDecodedWholeOrRefused(t *testing.T) {
	b, _ := hex.DecodeString(sample)
	e, err := ParseEntry(b)
	if err != nil || e.State != "ESTABLISHED" || e.Left != 43199*time.Second || e.Orig.Src.String() != "10.1.0.2:41014" || e.Status != 0x188 {
		t.Fatalf("%+v %v", e, err)
	}
	for n := range len(b) {
		if got, err := ParseEntry(b[:n]); err == nil && n%4 != 0 {
			t.Errorf("%d of %d bytes were taken: %+v", n, len(b), got)
		}
	}
}
