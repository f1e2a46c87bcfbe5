package capture

import (
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tcplab/netns/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Unshared(m)) }

// A room ends by throwing its thread away, which the runtime does not do with
// the main one (runtime/proc.go, mexit): that is kept from the tests.
func init() { runtime.LockOSThread() }

// site is two hosts joined by a veth pair: client 10.9.0.1 on c0, server
// 10.9.0.2 on s0. Each has a thread of its own in its namespace.
type site struct {
	t      testing.TB
	client *room
	server *room
}

// room is a locked thread in a namespace of its own; it ends with the test.
type room struct {
	work chan func()
	ns   int
}

func newRoom() (*room, error) {
	r := &room{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			r.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		if err == nil {
			err = os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
		}
		ready <- err
		for f := range r.work {
			f()
		}
	}()
	return r, <-ready
}

// do runs f in the namespace.
func (r *room) do(f func() error) error {
	done := make(chan error)
	r.work <- func() { done <- f() }
	return <-done
}

func (r *room) close() {
	close(r.work)
	unix.Close(r.ns)
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t}
	var err error
	for _, r := range []**room{&s.client, &s.server} {
		if *r, err = newRoom(); err != nil {
			t.Fatalf("a network namespace is needed: %v", err)
		}
		t.Cleanup((*r).close)
	}
	s.must(s.client, func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "c0"
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "s0", PeerNamespace: netlink.NsFd(s.server.ns)}); err != nil {
			return err
		}
		return address(h, "c0", "10.9.0.1/24")
	})
	s.must(s.server, func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		return address(h, "s0", "10.9.0.2/24")
	})
	return s
}

func address(h *netlink.Handle, name, cidr string) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if err := h.AddrAdd(l, a); err != nil {
		return err
	}
	return h.LinkSetUp(l)
}

func (s *site) must(r *room, f func() error) {
	s.t.Helper()
	if err := r.do(f); err != nil {
		s.t.Fatal(err)
	}
}

// listen and dial work in their hosts' namespaces.
func (s *site) listen() net.Listener {
	var ln net.Listener
	s.must(s.server, func() (err error) {
		ln, err = net.Listen("tcp4", "10.9.0.2:9000")
		return err
	})
	s.t.Cleanup(func() { ln.Close() })
	return ln
}

func (s *site) dial() net.Conn {
	var c net.Conn
	s.must(s.client, func() (err error) {
		d := net.Dialer{KeepAlive: -1}
		c, err = d.Dial("tcp4", "10.9.0.2:9000")
		return err
	})
	return c
}

func (s *site) tap(r *room, iface string, bytes int) *Tap {
	var tap *Tap
	s.must(r, func() (err error) {
		tap, err = openRing(iface, 0, bytes)
		return err
	})
	return tap
}

// echo serves a listener until it is closed.
func echo(ln net.Listener) <-chan struct{} {
	done := make(chan struct{})
	var wg sync.WaitGroup
	go func() {
		defer close(done)
		defer wg.Wait()
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer c.Close()
				b := make([]byte, 4096)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return done
}

// ask sends n bytes and waits for as many.
func ask(t testing.TB, c net.Conn, n int) {
	t.Helper()
	b := make([]byte, n)
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
}

// hangUp closes c and waits for the other side's close.
func hangUp(t testing.TB, c net.Conn) {
	t.Helper()
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	c.Close()
}
