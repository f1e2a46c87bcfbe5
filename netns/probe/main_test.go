package probe

import (
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tcplab/netns/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Unshared(m)) }

// inNetns throws its thread away, which the runtime does not do with
// the main one (runtime/proc.go, mexit): that is kept from the tests.
func init() { runtime.LockOSThread() }

// inNetns runs f in a new network namespace with a loopback, on a thread that
// is thrown away.
func inNetns(t testing.TB, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = up("lo")
		}
		if err == nil {
			// On loopback TIME-WAITs would be reused after a second.
			err = os.WriteFile("/proc/sys/net/ipv4/tcp_tw_reuse", []byte("0"), 0)
		}
		if err != nil {
			done <- err
			return
		}
		defer close(done) // also when f calls t.FailNow
		f()
	}()
	if err := <-done; err != nil {
		t.Fatalf("a network namespace is needed: %v", err)
	}
}

func up(name string) error {
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	return h.LinkSetUp(l)
}

func sysctl(t testing.TB, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// pairs holds both ends of connections through the loopback.
type pairs struct {
	ln       net.Listener
	at       netaddr
	cli, srv []net.Conn
}

type netaddr = string

func listen(t testing.TB) *pairs {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:9000")
	if err != nil {
		t.Fatal(err)
	}
	return &pairs{ln: ln, at: ln.Addr().String()}
}

// open makes n more connections. It must be called on the namespace's thread.
func (p *pairs) open(t testing.TB, n int) {
	t.Helper()
	for range n {
		c, err := net.Dial("tcp4", p.at)
		if err != nil {
			t.Fatal(err)
		}
		s, err := p.ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		p.cli, p.srv = append(p.cli, c), append(p.srv, s)
	}
}

// churn closes all connections, the client first: it keeps TIME-WAIT.
func (p *pairs) churn(t testing.TB) {
	t.Helper()
	var b [1]byte
	for i := range p.cli {
		p.cli[i].(*net.TCPConn).CloseWrite()
		p.srv[i].Read(b[:]) // EOF: the FIN is here
		p.srv[i].Close()
		p.cli[i].Read(b[:])
		p.cli[i].Close()
	}
	p.cli, p.srv = nil, nil
}

func (p *pairs) close() {
	for i := range p.cli {
		p.cli[i].Close()
		p.srv[i].Close()
	}
	p.ln.Close()
}
