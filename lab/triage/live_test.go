package triage

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
	"tcplab/netns"
)

var capture = flag.String("capture", "", "write what ss and the collector say in each sick host into this folder")

// two are two hosts on a perfect cable.
type two struct {
	t              *testing.T
	client, server *netns.Host
	close          []func()
	fds            map[int]bool // sockets that are open: the tests run side by side, so none may be closed twice
}

// keep closes a socket at the test's end, unless shut has before.
func (w *two) keep(fds ...int) {
	for _, fd := range fds {
		w.fds[fd] = true
	}
}

func (w *two) shut(fds ...int) {
	w.t.Helper()
	for _, fd := range fds {
		if !w.fds[fd] {
			w.t.Fatalf("socket %d is not open", fd)
		}
		delete(w.fds, fd)
		unix.Close(fd)
	}
}

func hosts(t *testing.T) *two {
	t.Helper()
	t.Parallel() // each in its own namespaces, and mostly waiting
	w := &two{t: t, fds: map[int]bool{}}
	t.Cleanup(func() {
		for fd := range w.fds {
			unix.Close(fd)
		}
		for _, f := range slices.Backward(w.close) {
			f()
		}
	})
	for _, h := range []struct {
		name string
		to   **netns.Host
	}{{"client", &w.client}, {"server", &w.server}} {
		var err error
		if *h.to, err = netns.NewHost(h.name); err != nil {
			t.Fatal(err)
		}
		w.close = append(w.close, func() { (*h.to).Close() })
	}
	l, err := netns.Connect(netns.LinkConfig{Name: "wire", DirectPair: true,
		A: netns.Endpoint{Host: w.client, Addr: netip.MustParsePrefix("10.9.0.1/24")},
		B: netns.Endpoint{Host: w.server, Addr: netip.MustParsePrefix("10.9.0.2/24")}})
	if err != nil {
		t.Fatal(err)
	}
	w.close = append(w.close, func() { l.Close() })
	return w
}

func (w *two) do(h *netns.Host, f func() error) {
	w.t.Helper()
	if err := h.Do(f); err != nil {
		w.t.Fatal(err)
	}
}

// listen opens a listener at the server that nobody accepts from.
func (w *two) listen(port, backlog int) (fd int) {
	w.t.Helper()
	w.do(w.server, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{10, 9, 0, 2}}), unix.Listen(fd, backlog))
	})
	w.keep(fd)
	return fd
}

// connect begins a connection; it is done when the kernels have done it.
func (w *two) connect(port int) (fd int, err error) {
	w.t.Helper()
	w.do(w.client, func() error {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{10, 9, 0, 2}})
	if err == unix.EINPROGRESS {
		err = nil
	}
	w.keep(fd)
	return fd, err
}

// accepted are n connections, both ends.
func (w *two) accepted(ln, port, n int) (cs, ss []int) {
	w.t.Helper()
	for range n {
		c, err := w.connect(port)
		if err != nil {
			w.t.Fatal(err)
		}
		s, _, err := unix.Accept4(ln, unix.SOCK_CLOEXEC)
		if err != nil {
			w.t.Fatal(err)
		}
		cs, ss = append(cs, c), append(ss, s)
		w.keep(s)
	}
	return cs, ss
}

// vanish takes the server's address away: what comes to it is dropped, and
// nobody is told.
func (w *two) vanish() {
	w.t.Helper()
	w.do(w.server, func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName("wire")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr("10.9.0.2/24")
		if err != nil {
			return err
		}
		return h.AddrDel(l, a)
	})
}

// triage looks at a host twice, one moment after the other.
func (w *two) triage(h *netns.Host) (a, b Sample) {
	w.t.Helper()
	var src *Source
	w.do(h, func() (err error) { src, err = Open(); return err })
	defer src.Close()
	for i, s := range []*Sample{&a, &b} {
		var err error
		if *s, err = src.Sample(time.Duration(clock.Now()), i == 1); err != nil {
			w.t.Fatal(err)
		}
	}
	b.Named("/proc")
	return a, b
}

// until waits until triage names a cause first, or "nothing".
func (w *two) until(h *netns.Host, want string) Finding {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		a, b := w.triage(h)
		fs := Diagnose(a, b)
		switch {
		case len(fs) > 0 && fs[0].Cause == want:
			w.agree(h, want)
			return fs[0]
		case len(fs) == 0 && want == "":
			w.agree(h, want)
			return Finding{}
		case time.Now().After(deadline):
			w.t.Fatalf("triage says %q, want %s", texts(fs), want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// agree holds what --from makes of ss and of the collector against what was
// found by asking the kernel. One look of ss alone has to wait until a socket's
// age shows what else a second look does.
func (w *two) agree(h *netns.Host, want string) {
	w.t.Helper()
	if _, err := exec.LookPath("ss"); err != nil {
		return
	}
	for name, argv := range map[string][]string{"ss": {"ss", "-tanoi"}, "collector": {"sh", "-c", strings.Replace(Script(), "sleep 1", "sleep 0.1", 1)}} {
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			out := w.run(h, argv)
			if *capture != "" {
				file := fmt.Sprintf("%s-%s-%s.txt", strings.ReplaceAll(strings.TrimPrefix(w.t.Name(), "Test"), "/", "_"), h.Name, name)
				if err := os.WriteFile(filepath.Join(*capture, file), []byte(out), 0o644); err != nil {
					w.t.Fatal(err)
				}
			}
			r, err := From(out)
			if err != nil {
				w.t.Errorf("%s: %v", name, err)
				break
			}
			got := ""
			fs := Diagnose(r.A, r.B)
			if len(fs) > 0 {
				got = fs[0].Cause
			}
			if got == want {
				break
			}
			if time.Now().After(deadline) {
				w.t.Errorf("from %s triage says %q, want %q\n%.4000s", name, texts(fs), want, out)
				break
			}
		}
	}
}

func (w *two) run(h *netns.Host, argv []string) string {
	w.t.Helper()
	var out, stderr strings.Builder
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := h.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		w.t.Fatalf("%s: %v: %s", argv[0], err, stderr.String())
	}
	return out.String()
}

func TestHealthyHostsAreMetWithSilence(t *testing.T) {
	w := hosts(t)
	ln := w.listen(9000, 64)
	cs, ss := w.accepted(ln, 9000, 30)
	for i := range 10 { // closed by both, the client first
		w.shut(cs[i], ss[i])
	}
	for i := 10; i < 30; i++ {
		if _, err := unix.Write(cs[i], []byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	w.until(w.client, "")
	w.until(w.server, "")
}

func TestCloseWaitLeakIsFoundWithItsProcess(t *testing.T) {
	w := hosts(t)
	ln := w.listen(9000, 64)
	cs, _ := w.accepted(ln, 9000, 25)
	w.shut(cs...)
	f := w.until(w.server, "close-wait-leak")
	if f.Numbers["count"] != 25 || !strings.Contains(f.Text, "at its port 9000") {
		t.Errorf("%s %v", f.Text, f.Numbers)
	}
	if len(f.Processes) != 1 || f.Processes[0].PID != os.Getpid() || f.Processes[0].FileLimit == 0 {
		t.Errorf("it names %+v", f.Processes)
	}
	// At the other end these are FIN-WAIT-2 and none of its fault.
	w.until(w.client, "")
}

func TestTimeWaitOnTheClientIsFoundAndOnTheServerIsNot(t *testing.T) {
	w := hosts(t)
	w.do(w.client, func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40255"), 0), os.WriteFile("/proc/sys/net/ipv4/tcp_tw_reuse", []byte("0"), 0))
	})
	ln := w.listen(9000, 64)
	n := 0
	for {
		c, err := w.connect(9000)
		if err != nil {
			if err != unix.EADDRNOTAVAIL {
				t.Fatal(err)
			}
			break
		}
		s, _, err := unix.Accept4(ln, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		unix.Shutdown(c, unix.SHUT_WR)
		var b [1]byte
		unix.Read(s, b[:])
		unix.Close(s)
		w.shut(c)
		n++
	}
	a, b := w.triage(w.client)
	fs := Diagnose(a, b)
	if len(fs) != 1 || fs[0].Cause != "time-wait-exhaustion" || fs[0].Severity != Critical || fs[0].Numbers["used"] != float64(n) || n != 256 {
		t.Errorf("after %d connections: %s", n, texts(fs))
	}
	w.until(w.server, "")
}

func TestTimeWaitsOfAServerThatClosesFirstAreNoFault(t *testing.T) {
	w := hosts(t)
	ln := w.listen(40000, 64) // within the range of ephemeral ports
	for range 300 {
		cs, ss := w.accepted(ln, 40000, 1)
		unix.Shutdown(ss[0], unix.SHUT_WR)
		unix.Shutdown(cs[0], unix.SHUT_WR)
	}
	w.until(w.server, "")
	w.until(w.client, "")
}

func TestAPeerThatDoesNotReadIsFound(t *testing.T) {
	w := hosts(t)
	ln := w.listen(9000, 64)
	cs, _ := w.accepted(ln, 9000, 1)
	buf := make([]byte, 1<<16)
	for {
		if _, err := unix.Write(cs[0], buf); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	w.until(w.client, "zero-window")
	w.until(w.server, "")
}

func TestAFullAcceptQueueIsFound(t *testing.T) {
	w := hosts(t)
	w.listen(9000, 2)
	for range 5 {
		if _, err := w.connect(9000); err != nil {
			t.Fatal(err)
		}
	}
	f := w.until(w.server, "accept-queue-overflow")
	if f.Numbers["backlog"] != 2 || f.Numbers["queue"] != 3 {
		t.Errorf("%v", f.Numbers)
	}
}

func TestAPeerThatVanishedIsFound(t *testing.T) {
	t.Run("with data under way", func(t *testing.T) {
		w := hosts(t)
		cs, _ := w.accepted(w.listen(9000, 64), 9000, 3)
		w.vanish()
		for _, c := range cs {
			unix.Write(c, []byte("hello"))
		}
		f := w.until(w.client, "peer-vanished")
		if f.Numbers["count"] != 3 || f.Numbers["seconds_left"] < 800 {
			t.Errorf("%s", f.Text)
		}
	})
	t.Run("closed by its program", func(t *testing.T) {
		w := hosts(t)
		cs, _ := w.accepted(w.listen(9000, 64), 9000, 1)
		w.vanish()
		unix.Write(cs[0], []byte("hello"))
		w.shut(cs[0])
		if f := w.until(w.client, "peer-vanished"); f.Numbers["orphans"] != 1 {
			t.Errorf("%s", f.Text)
		}
	})
	t.Run("idle, with keepalive", func(t *testing.T) {
		w := hosts(t)
		cs, _ := w.accepted(w.listen(9000, 64), 9000, 1)
		for o, v := range map[int]int{unix.TCP_KEEPIDLE: 1, unix.TCP_KEEPINTVL: 1, unix.TCP_KEEPCNT: 100} {
			if err := unix.SetsockoptInt(cs[0], unix.IPPROTO_TCP, o, v); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.SetsockoptInt(cs[0], unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1); err != nil {
			t.Fatal(err)
		}
		w.vanish()
		w.until(w.client, "peer-vanished")
	})
	t.Run("before it answered", func(t *testing.T) {
		w := hosts(t)
		w.vanish()
		if _, err := w.connect(9000); err != nil {
			t.Fatal(err)
		}
		w.until(w.client, "retransmission-stall")
	})
}

func writeSysctl(name, value string) error {
	return os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0)
}
