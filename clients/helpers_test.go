package clients_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	_ "unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"tcplab/clients"
	"tcplab/server"
	"tcplab/workloads"

	"tcplab/lab/socket"
)

//go:linkname nanotime runtime.nanotime
func nanotime() int64

// gate fails the test if it leaves goroutines or descriptors behind.
func gate(t *testing.T) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	before := descriptors(t)
	t.Cleanup(func() {
		goleak.VerifyNone(t, ignore)
		if after := descriptors(t); len(after) > len(before) {
			t.Errorf("descriptors before: %v; after: %v", before, after)
		}
	})
}

// descriptors lists open descriptors but those of the runtime's own poller,
// which it opens at its first need and keeps.
func descriptors(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.Contains(to, "anon_inode:[event") {
			continue
		}
		open = append(open, e.Name()+"→"+to)
	}
	return open
}

var lastAddress atomic.Int32

// freshAddress is a loopback address that no other test uses.
func freshAddress() string {
	n := lastAddress.Add(1)
	return fmt.Sprintf("127.81.%d.%d", n/250, n%250+1)
}

type running struct {
	*server.Server
	addr string
	stop func() *server.Result
}

// serve runs a server until the test ends or stop is called.
func serve(t *testing.T, cfg server.Config) running {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = freshAddress() + ":0"
	}
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	addr, _, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan *server.Result, 1)
	go func() {
		r, err := s.Run(ctx, nil)
		if err != nil {
			t.Errorf("server: %v", err)
		}
		done <- r
	}()
	stop := sync.OnceValue(func() *server.Result { cancel(); return <-done })
	t.Cleanup(func() { stop() })
	return running{s, addr, stop}
}

// handle runs a server of the test's own, and gives its address.
func handle(t *testing.T, do func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp4", freshAddress()+":0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); do(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// echoOne reads a request of the echo protocol and answers it, as plainly as
// possible.
func echoOne(r *bufio.Reader, w io.Writer) error {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := int(head[0])<<24 | int(head[1])<<16 | int(head[2])<<8 | int(head[3])
	frame := make([]byte, 4+n)
	copy(frame, head[:4])
	if _, err := io.ReadFull(r, frame[4:]); err != nil {
		return err
	}
	_, err := w.Write(frame)
	return err
}

// kept is a Sink that keeps what it is told.
type kept struct {
	mu      sync.Mutex
	events  []event
	samples []sample
}

type event struct {
	at     int64
	name   string
	fields map[string]any
}

type sample struct {
	at     int64
	values map[string]float64
}

func (k *kept) Event(at int64, name string, fields map[string]any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.events = append(k.events, event{at, name, fields})
}

func (k *kept) Sample(at int64, values map[string]float64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.samples = append(k.samples, sample{at, values})
}

func (k *kept) named(name string) []event {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []event
	for _, e := range k.events {
		if e.name == name {
			all = append(all, e)
		}
	}
	return all
}

func (k *kept) sum(name string) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	var sum float64
	for _, s := range k.samples {
		sum += s.values[name]
	}
	return int64(sum)
}

// prepare makes a client that is ready to run.
func prepare(t *testing.T, cfg clients.Config, sched clients.Schedule) *clients.Client {
	t.Helper()
	c, err := clients.New(cfg, sched)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Prepare(); err != nil {
		t.Fatal(err)
	}
	return c
}

// start makes a client under a load.
func start(t *testing.T, cfg clients.Config, load workloads.Config) *clients.Client {
	t.Helper()
	sched, err := workloads.New(load)
	if err != nil {
		t.Fatal(err)
	}
	return prepare(t, cfg, sched)
}

// finish runs a client to its end, from now on.
func finish(t *testing.T, ctx context.Context, c *clients.Client) (*clients.Result, *kept) {
	t.Helper()
	var k kept
	r, err := c.Run(ctx, socket.Nanotime(), &k)
	if err != nil {
		t.Fatal(err)
	}
	return r, &k
}

// beside runs a client to its end while the test goes on.
func beside(t *testing.T, ctx context.Context, c *clients.Client, k *kept) <-chan *clients.Result {
	done := make(chan *clients.Result, 1)
	go func() {
		r, err := c.Run(ctx, socket.Nanotime(), k)
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	return done
}

// run runs a client to its end and checks what holds of every result.
func run(t *testing.T, cfg clients.Config, load workloads.Config) (*clients.Result, *kept) {
	t.Helper()
	if cfg.Drain == 0 {
		cfg.Drain = 30 * time.Second // it ends when all is answered; a busy machine may take its time
	}
	r, k := finish(t, context.Background(), start(t, cfg, load))
	consistent(t, r, k)
	return r, k
}

func consistent(t *testing.T, r *clients.Result, k *kept) {
	t.Helper()
	for name, c := range map[string]clients.Counts{"window": r.Counts, "total": r.Total} {
		if c.Offered != c.OK+c.Failed+c.Unfinished || c.Sent > c.Offered || c.OK > c.Sent || c.Unfinished < 0 {
			t.Errorf("%s: %+v does not add up", name, c)
		}
		var errors int64
		for _, n := range c.Errors {
			errors += n
		}
		if errors != c.Failed+c.Lost {
			t.Errorf("%s: %d failed, errors %v", name, c.Failed, c.Errors)
		}
	}
	h := r.Histograms
	for name, want := range map[string]int64{"latency": r.OK, "service": r.OK, "firstbyte": r.OK, "failure": r.Failed} {
		if got := h[name].TotalCount(); got != want {
			t.Errorf("histogram %s has %d values, counted were %d", name, got, want)
		}
	}
	if got := h["lag"].TotalCount() + h["lag_excused"].TotalCount(); got != r.Sent {
		t.Errorf("%d lags for %d requests sent", got, r.Sent)
	}
	if r.SamplesLost != 0 {
		return
	}
	for name, want := range map[string]int64{"sent": r.Total.Sent, "ok": r.Total.OK, "failed": r.Total.Failed} {
		if got := k.sum(name); got != want {
			t.Errorf("samples of %s add up to %d, the total is %d", name, got, want)
		}
	}
	for class, want := range r.Total.Errors {
		if got := k.sum("errors." + class); got != want {
			t.Errorf("samples of errors.%s add up to %d, the total is %d", class, got, want)
		}
	}
	last := int64(0)
	for i, s := range k.samples {
		if _, own := s.values["opened"]; own {
			continue // told at its own instant
		}
		if s.at <= last {
			t.Errorf("sample %d is at %d, the one before at %d", i, s.at, last)
		}
		last = s.at
	}
}

const inside = "TCPLAB_TEST_NAMESPACE"

// inNamespace runs the test once more as a process in a network namespace of
// its own, with lo up. It tells whether this is that process; if it is not,
// the test is over.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		loopbackUp(t)
		return true
	}
	t.Parallel() // this process only waits
	parts := strings.Split(t.Name(), "/")
	for i, p := range parts {
		parts[i] = "^" + p + "$"
	}
	cmd := exec.Command("/proc/self/exe", "-test.run="+strings.Join(parts, "/"), "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in a namespace of its own: %v\n%s", err, out)
	}
	return false
}

func loopbackUp(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		t.Fatal(err)
	}
}

func sysctl(t *testing.T, name, value string) {
	t.Helper()
	path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(strings.Fields(string(got)), " ") != value {
		t.Fatalf("sysctl %s is %s, not %s", name, got, value)
	}
}

// snmp reads a counter of Tcp in /proc/net/snmp.
func snmp(t *testing.T, counter string) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if f[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i, n := range names {
			if n == counter {
				v, err := strconv.ParseInt(f[i], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
	}
	t.Fatalf("no counter %s", counter)
	return 0
}

// timeWait counts TIME-WAIT sockets by whether their own address is the
// server's.
func timeWait(t *testing.T, serverAddr string) (atServer, atClient int64) {
	t.Helper()
	ap, err := netip.ParseAddrPort(serverAddr)
	if err != nil {
		t.Fatal(err)
	}
	ip := ap.Addr().As4()
	want := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], ap.Port()) // as the kernel prints on little-endian machines
	b, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "06" {
			continue
		}
		switch want {
		case f[1]:
			atServer++
		case f[2]:
			atClient++
		}
	}
	return atServer, atClient
}
