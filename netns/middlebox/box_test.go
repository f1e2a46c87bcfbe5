package middlebox

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/netns"
	"tcplab/netns/internal/nstest"
	"tcplab/netns/tree/treetest"
)

func TestMain(m *testing.M) { treetest.Main(m) }

func TestAllOfThisAsAPlainUser(t *testing.T) { nstest.AgainAsPlainUser(t) }

// rig is a client, a box and a server in a row.
type rig struct {
	client, server *netns.Host
	box            *Box
}

func newRig(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := &rig{}
	host := func(name string, role netns.Role) *netns.Host {
		h, err := netns.NewHost(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		if _, _, err := h.Pin(role, nil); err != nil {
			t.Fatal(err)
		}
		return h
	}
	r.client, r.server = host("client", netns.RoleHost), host("server", netns.RoleHost)
	mid := host("mid", netns.RoleMiddlebox)
	link := func(name, a, b string, left, right *netns.Host, extra ...netip.Prefix) *netns.Link {
		end := func(h *netns.Host, addr string) netns.Endpoint {
			return netns.Endpoint{Host: h, Addr: netip.MustParsePrefix(addr + "/24")}
		}
		cfg := netns.LinkConfig{Name: name, A: end(left, a), B: end(right, b), DirectPair: true}
		cfg.B.Extra = extra
		l, err := netns.Connect(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		return l
	}
	var extra []netip.Prefix
	for _, a := range cfg.Addresses {
		extra = append(extra, netip.PrefixFrom(a, 32))
	}
	front := link("front", "10.1.0.2", "10.1.0.1", r.client, mid, extra...)
	back := link("back", "10.2.0.2", "10.2.0.1", r.server, mid)
	for _, x := range []struct {
		h        *netns.Host
		to, link string
		via      string
	}{{r.server, "10.1.0.0/24", "back", "10.2.0.1"}, {r.client, "10.2.0.0/24", "front", "10.1.0.1"}} {
		if err := x.h.AddRoute(netip.MustParsePrefix(x.to), ip(x.via), x.link, ""); err != nil {
			t.Fatal(err)
		}
	}
	err := mid.Do(func() (err error) {
		r.box, err = Open(cfg, []Interface{
			{Name: "front", Addr: ip("10.1.0.1"), MAC: front.MACB, Peer: front.MACA},
			{Name: "back", Addr: ip("10.2.0.1"), MAC: back.MACB, Peer: back.MACA},
		}, []Route{{netip.MustParsePrefix("10.1.0.0/24"), 0}, {netip.MustParsePrefix("10.2.0.0/24"), 1}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.box.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := r.box.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// serve answers with what it is sent, on 10.2.0.2:80, and tells from where
// each connection came.
func (r *rig) serve(t *testing.T) (from chan netip.AddrPort) {
	t.Helper()
	var l net.Listener
	lc := net.ListenConfig{KeepAlive: -1}
	if err := r.server.Do(func() (err error) { l, err = lc.Listen(t.Context(), "tcp4", "10.2.0.2:80"); return err }); err != nil {
		t.Fatal(err)
	}
	from = make(chan netip.AddrPort, 100)
	done := make(chan struct{})
	var open []net.Conn
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open = append(open, c)
			from <- c.RemoteAddr().(*net.TCPAddr).AddrPort()
			go io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for _, c := range open {
			c.Close()
		}
	})
	return from
}

func (r *rig) dial(t *testing.T, to string) *net.TCPConn {
	t.Helper()
	var c net.Conn
	d := net.Dialer{KeepAlive: -1}
	if err := r.client.Do(func() (err error) { c, err = d.Dial("tcp4", to); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func echoes(t *testing.T, c net.Conn, n int) {
	t.Helper()
	buf := make([]byte, n)
	for i := range buf {
		buf[i] = byte(i)
	}
	go c.Write(buf)
	got := make([]byte, n)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != string(buf) {
		t.Fatal("what came back is not what was sent")
	}
}

func TestAConnectionThroughABalancerCarriesDataBothWays(t *testing.T) {
	for _, preserve := range []bool{false, true} {
		r := newRig(t, Config{Kind: L4LB, Addresses: []netip.Addr{ip(vip)}, Targets: []Target{{Addr: ip("10.2.0.2")}}, PreserveClient: preserve})
		from := r.serve(t)
		c := r.dial(t, vip+":80")
		echoes(t, c, 300_000)
		want := "10.2.0.1"
		if preserve {
			want = "10.1.0.2"
		}
		if got := <-from; got.Addr() != ip(want) {
			t.Errorf("preserve_client %v: the target sees %v", preserve, got)
		}
	}
}

// rtos is how often a socket's oldest segment went unanswered.
func rtos(t *testing.T, c *net.TCPConn) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if cerr := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = int(info.Retransmits)
		}
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return n
}

func TestAForgottenConnectionIsSilentOnBothSides(t *testing.T) {
	r := newRig(t, Config{Kind: L4LB, Addresses: []netip.Addr{ip(vip)}, Targets: []Target{{Addr: ip("10.2.0.2")}}})
	r.serve(t)
	c := r.dial(t, vip+":80")
	echoes(t, c, 100)
	if err := r.box.Do(Fault{Do: "forget-flows"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("anyone?")); err != nil {
		t.Fatal(err)
	}
	// The kernel sends it again and again: nothing comes back, no RST either.
	for rtos(t, c) < 3 {
		time.Sleep(10 * time.Millisecond)
	}
	n, lost := r.box.Counts()
	if n.Forgotten != 1 || n.Unknown < 3 || n.Resets != 0 || lost != (Lost{}) {
		t.Errorf("%+v %+v", n, lost)
	}
	echoes(t, r.dial(t, vip+":80"), 100) // a new one works
}

func TestAForgottenConnectionIsResetWhereTheBoxSaysSo(t *testing.T) {
	r := newRig(t, Config{Kind: L4LB, Addresses: []netip.Addr{ip(vip)}, Targets: []Target{{Addr: ip("10.2.0.2")}}, OnUnknown: SendReset})
	r.serve(t)
	c := r.dial(t, vip+":80")
	echoes(t, c, 100)
	if err := r.box.Do(Fault{Do: "forget-flows"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("anyone?")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client hears %v, not of a RST that its kernel takes", err)
	}
	// On a busy machine the client's TCP may have sent it again meanwhile.
	if n, _ := r.box.Counts(); n.Resets == 0 || n.Resets != n.Unknown {
		t.Errorf("%+v", n)
	}
}

func TestAnIdleConnectionIsForgottenByTheBoxItself(t *testing.T) {
	r := newRig(t, Config{Kind: L4LB, Addresses: []netip.Addr{ip(vip)}, Targets: []Target{{Addr: ip("10.2.0.2")}}, Idle: 100 * time.Millisecond, OnUnknown: SendReset})
	r.serve(t)
	c := r.dial(t, vip+":80")
	echoes(t, c, 100)
	for n, _ := r.box.Counts(); n.Expired == 0; n, _ = r.box.Counts() {
		time.Sleep(5 * time.Millisecond)
	}
	c.Write([]byte("anyone?"))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client hears %v", err)
	}
}

func TestANATHidesItsClients(t *testing.T) {
	r := newRig(t, Config{Kind: NAT})
	from := r.serve(t)
	echoes(t, r.dial(t, "10.2.0.2:80"), 50_000)
	if got := <-from; got.Addr() != ip("10.2.0.1") {
		t.Errorf("the server sees %v", got)
	}
}
