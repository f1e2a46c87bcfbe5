package wire

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcplab/netns"
)

// roleEnv makes this binary one of the processes that load a wire. Each has
// one of its own, as in the lab: with one thread for all of them a guest would
// measure Go's scheduler.
const roleEnv = "WIRE_TEST_ROLE"

// role is what such a process does, as JSON in roleEnv.
type role struct {
	Name string // wire, sink, bulk, receiver, sender

	PortA, PortB string // wire
	Kind         Kind
	Config       Config

	Addr       string        // of who is sent to
	Congestion string        // of sink and bulk
	For        time.Duration // bulk

	Datagrams int // receiver and sender
	Size      int
	Gap       time.Duration
	Burst     int // datagrams at a time
}

// carried is what a wire's process reports.
type carried struct {
	Release   string
	Counters  Counters
	ErrorP50  int64
	ErrorP99  int64
	ErrorMax  int64
	ErrorSeen int64
	Wakes     uint64
	Fates     *FateLog
}

// playRole is called first in TestMain.
func playRole() {
	text := os.Getenv(roleEnv)
	if text == "" {
		return
	}
	var r role
	err := json.Unmarshal([]byte(text), &r)
	if err == nil {
		err = map[string]func(role) error{"wire": playWire, "sink": playSink, "bulk": playBulk, "receiver": playReceiver, "sender": playSender}[r.Name](r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, r.Name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func say(v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = os.Stdout.Write(append(b, '\n'))
	}
	return err
}

func playWire(r role) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var w interface {
		Run(context.Context) error
		Counters() Counters
		Release() string
		Close() error
	}
	var user *Wire
	var err error
	if r.Kind == InKernel {
		w, err = OpenNetem(r.PortA, r.PortB, r.Config)
	} else {
		user, err = Open(r.PortA, r.PortB, r.Config)
		w = user
	}
	if err != nil {
		return err
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := say("ready"); err != nil {
		return err
	}
	if err := w.Run(ctx); err != nil {
		return err
	}
	c := carried{Release: w.Release(), Counters: w.Counters()}
	if user != nil {
		h := user.DelayError()
		c.ErrorP50, c.ErrorP99, c.ErrorMax, c.ErrorSeen = h.ValueAtQuantile(50), h.ValueAtQuantile(99), h.Max(), h.TotalCount()
		c.Wakes, c.Fates = user.stay.wakes, user.Fates()
	}
	if err := w.Close(); err != nil {
		return err
	}
	return say(c)
}

func congestion(name string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		if name == "" {
			return nil
		}
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name) })
		if cerr != nil {
			return cerr
		}
		return err
	}
}

// playSink says how many bytes it got of one connection, and within how long.
func playSink(r role) error {
	lc := net.ListenConfig{KeepAlive: -1, Control: congestion(r.Congestion)}
	l, err := lc.Listen(context.Background(), "tcp4", r.Addr)
	if err != nil {
		return err
	}
	if err := say("ready"); err != nil {
		return err
	}
	c, err := l.Accept()
	if err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	got := int64(0)
	for {
		n, err := c.Read(buf)
		got += int64(n)
		if err != nil {
			break
		}
	}
	return say(got)
}

// playBulk sends for a while, and then breaks the connection off, so that what
// is left in its buffers does not count.
func playBulk(r role) error {
	d := net.Dialer{KeepAlive: -1, Control: congestion(r.Congestion)}
	c, err := d.Dial("tcp4", r.Addr)
	if err != nil {
		return err
	}
	c.SetWriteDeadline(time.Now().Add(r.For))
	buf := make([]byte, 64<<10)
	for err == nil {
		_, err = c.Write(buf)
	}
	if !os.IsTimeout(err) {
		return err
	}
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		return err
	}
	return c.Close()
}

// arrival is one datagram at the receiver: its number, when it was sent and
// when the kernel received it, both CLOCK_REALTIME ns.
type arrival struct {
	N, Sent, Received int64
}

// playSender sends datagrams with their number and time.
func playSender(r role) error {
	to, err := net.ResolveUDPAddr("udp4", r.Addr)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20)
	buf := make([]byte, max(16, r.Size))
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	next := ts.Nano()
	for i := range r.Datagrams {
		if i%max(1, r.Burst) == 0 {
			next += int64(r.Gap)
			at := unix.NsecToTimespec(next)
			for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &at, nil) == unix.EINTR {
			}
		}
		unix.ClockGettime(unix.CLOCK_REALTIME, &ts)
		binary.LittleEndian.PutUint64(buf, uint64(i))
		binary.LittleEndian.PutUint64(buf[8:], uint64(ts.Nano()))
		if _, err := unix.Write(fd, buf); err != nil {
			return err
		}
	}
	return nil
}

// playReceiver writes the arrivals to the file in Addr's place once nothing
// has come for a second.
func playReceiver(r role) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	to, err := net.ResolveUDPAddr("udp4", r.Addr)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return err
	}
	tv := unix.NsecToTimeval(int64(10 * time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return err
	}
	if err := say("ready"); err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	buf, oob := make([]byte, 2048), make([]byte, 64)
	for {
		_, n, _, _, err := unix.Recvmsg(fd, buf, oob, 0)
		if err == unix.EAGAIN {
			break
		}
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		ts := (*unix.Timespec)(unsafe.Pointer(&oob[unix.SizeofCmsghdr]))
		if n < unix.SizeofCmsghdr+16 {
			return fmt.Errorf("no stamp")
		}
		binary.Write(out, binary.LittleEndian, arrival{int64(binary.LittleEndian.Uint64(buf)), int64(binary.LittleEndian.Uint64(buf[8:])), ts.Nano()})
	}
	return out.Flush()
}

// actor is a process with a role.
type actor struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	name string
}

// cast starts a process with a role on a host.
func cast(t testing.TB, h *netns.Host, r role) *actor {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	a := &actor{t: t, name: r.Name}
	a.cmd = exec.Command("/proc/self/exe")
	a.cmd.Env = append(os.Environ(), roleEnv+"="+string(text))
	a.cmd.Stderr = os.Stderr
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.out = bufio.NewReader(out)
	if err := h.Do(a.cmd.Start); err != nil {
		t.Fatal(err)
	}
	return a
}

// hear reads a line of JSON.
func (a *actor) hear(v any) {
	a.t.Helper()
	line, err := a.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, v)
	}
	if err != nil {
		a.t.Fatalf("%s: %v: %q", a.name, err, line)
	}
}

func (a *actor) ready() *actor {
	var s string
	a.hear(&s)
	return a
}

func (a *actor) exit() {
	a.t.Helper()
	a.in.Close()
	if err := a.cmd.Wait(); err != nil {
		a.t.Fatalf("%s: %v", a.name, err)
	}
}

// wireOf starts a wire's process in the middle of r.
func wireOf(t testing.TB, r *rig, kind Kind, cfg Config) *actor {
	t.Helper()
	return cast(t, r.link.Middle, role{Name: "wire", PortA: r.link.PortA, PortB: r.link.PortB, Kind: kind, Config: cfg}).ready()
}

// strike ends a wire's process and gives its report.
func (a *actor) strike() (c carried) {
	a.t.Helper()
	a.in.Close()
	a.hear(&c)
	if err := a.cmd.Wait(); err != nil {
		a.t.Fatalf("%s: %v", a.name, err)
	}
	return c
}

// bulk sends from a to b for a while; it gives the bytes that arrived.
func bulk(t testing.TB, r *rig, cc string, d time.Duration) int64 {
	t.Helper()
	addr := addrB + ":9"
	sink := cast(t, r.b, role{Name: "sink", Addr: addr, Congestion: cc}).ready()
	cast(t, r.a, role{Name: "bulk", Addr: addr, Congestion: cc, For: d}).exit()
	var got int64
	sink.hear(&got)
	sink.exit()
	return got
}

// datagrams sends datagrams from a to b; it gives those that arrived, in the
// order of their arrival.
func datagrams(t testing.TB, r *rig, n, size, burst int, gap time.Duration) []arrival {
	t.Helper()
	addr := addrB + ":9"
	to := cast(t, r.b, role{Name: "receiver", Addr: addr}).ready()
	cast(t, r.a, role{Name: "sender", Addr: addr, Datagrams: n, Size: size, Burst: burst, Gap: gap}).exit()
	var got []arrival
	for {
		var a arrival
		if err := binary.Read(to.out, binary.LittleEndian, &a); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		got = append(got, a)
	}
	to.exit()
	return got
}
