package wire

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tcplab/lab/guest"
	"tcplab/netns"
)

func TestMain(m *testing.M) {
	// The runtime's own poller takes descriptors at first use and keeps them.
	if l, err := net.Listen("tcp4", "127.0.0.1:0"); err == nil {
		l.Close()
	}
	playRole()
	registerGuestTests(m)
	guest.Main()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if staticFolder != "" {
			os.RemoveAll(staticFolder)
		}
		os.Exit(code)
	}))
}

const (
	addrA = "10.9.0.1"
	addrB = "10.9.0.2"
)

// rig is two hosts with a wire between them.
type rig struct {
	a, b *netns.Host
	link *netns.Link
	wire *Wire
}

// newRig runs cfg's wire until the test ends.
func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	r := newHosts(t)
	r.open(t, cfg)
	r.start(t)
	return r
}

// newHosts makes two hosts and a link without a wire. When the test ends it
// checks that every descriptor was given back.
func newHosts(t testing.TB) *rig {
	t.Helper()
	r := &rig{}
	before := descriptors(t)
	t.Cleanup(func() {
		// Goroutines of the test close theirs when their peers have gone.
		after := descriptors(t)
		for deadline := time.Now().Add(5 * time.Second); after > before && time.Now().Before(deadline); after = descriptors(t) {
			time.Sleep(time.Millisecond)
		}
		if after > before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
	host := func(name string) *netns.Host {
		h, err := netns.NewHost(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		return h
	}
	r.a, r.b = host("a"), host("b")
	var err error
	r.link, err = netns.Connect(netns.LinkConfig{
		Name: "wan",
		A:    netns.Endpoint{Host: r.a, Addr: netip.MustParsePrefix(addrA + "/24")},
		B:    netns.Endpoint{Host: r.b, Addr: netip.MustParsePrefix(addrB + "/24")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.link.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) open(t testing.TB, cfg Config) {
	t.Helper()
	err := r.link.Middle.Do(func() (err error) {
		r.wire, err = Open(r.link.PortA, r.link.PortB, cfg)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) start(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.wire.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := r.wire.Close(); err != nil {
			t.Error(err)
		}
		checkConservation(t, r.wire.Counters())
	})
}

func checkConservation(t testing.TB, c Counters) {
	t.Helper()
	for name, d := range map[string]DirectionCounters{"a": c.TowardsA, "b": c.TowardsB} {
		in := *d.In + *d.Duplicated
		out := *d.Out + *d.Lost + *d.QueueDropped + *d.MTUDropped + *d.Blackholed + *d.FaultDropped +
			*d.Truncated + *d.Overflowed + *d.SendErrors + *d.Queued
		if in != out {
			t.Errorf("towards %s: %d in and duplicated, %d accounted for", name, in, out)
		}
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// serve runs handle for each connection to addr on host b. When the test ends
// the connections are closed and waited for.
func (r *rig) serve(t testing.TB, addr string, handle func(net.Conn)) {
	t.Helper()
	var l net.Listener
	lc := net.ListenConfig{KeepAlive: -1}
	err := r.b.Do(func() (err error) {
		l, err = lc.Listen(context.Background(), "tcp4", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			running.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
}

// echo answers what it is sent.
func echo(c net.Conn) {
	buf := make([]byte, 1<<16)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// dial connects from host a.
func (r *rig) dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := r.tryDial(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (r *rig) tryDial(addr string) (c net.Conn, err error) {
	d := net.Dialer{KeepAlive: -1}
	err = r.a.Do(func() (err error) {
		c, err = d.Dial("tcp4", addr)
		return err
	})
	return c, err
}

// exchange sends n requests of size bytes and reads as much back for each.
func exchange(t testing.TB, c net.Conn, n, size int) {
	t.Helper()
	buf := make([]byte, size)
	for range n {
		if _, err := c.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
	}
}
