package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

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
	return fmt.Sprintf("127.82.%d.%d", n/250, n%250+1)
}

type running struct {
	*Server
	addr    string
	options map[string]string
	stop    func() *Result
}

func serve(t *testing.T, cfg Config, sink Sink) running {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = freshAddress() + ":0"
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	addr, options, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan *Result, 1)
	go func() {
		r, err := s.Run(ctx, sink)
		if err != nil {
			t.Errorf("server: %v", err)
		}
		done <- r
	}()
	stop := sync.OnceValue(func() *Result { cancel(); return <-done })
	t.Cleanup(func() { stop() })
	return running{s, addr, options, stop}
}

// order makes a fault happen once the server runs.
func (r running) order(t *testing.T, fault string, args map[string]any) {
	t.Helper()
	eventually(t, fault, func() bool {
		err := r.Do(fault, args)
		if err != nil && !errors.Is(err, errNotRunning) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// eventually waits until ok, for as long as a test may take.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// ask is a request of one of the two kinds, as bytes.
func ask(kind string, payload string) []byte {
	if kind == HTTP {
		return fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(payload), payload)
	}
	n := byte(len(payload))
	return append([]byte{0, 0, 0, n, 0, 0, 0, n}, payload...)
}

// hear reads until the payload has come back.
func hear(t *testing.T, c net.Conn, payload string) {
	t.Helper()
	var got []byte
	b := make([]byte, 4096)
	for !strings.HasSuffix(string(got), payload) {
		n, err := c.Read(b)
		got = append(got, b[:n]...)
		if err != nil {
			t.Fatalf("%v after %q", err, got)
		}
	}
}

// silent tells that nothing comes for a while.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	n, err := c.Read(make([]byte, 1))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes, %v: it is not silent", n, err)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
}

// ending is how the server's side ends: io.EOF or an errno.
func end(c net.Conn) error {
	_, err := io.Copy(io.Discard, struct{ io.Reader }{c})
	if err == nil {
		return io.EOF
	}
	return err
}

const inside = "TCPLAB_TEST_PROCESS"

// inProcess runs the test once more as a process in a network namespace of
// its own, with lo up. It tells whether this is that process; if it is not,
// the test is over.
func inProcess(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
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
		return true
	}
	t.Parallel() // this process only waits
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a process of its own: %v\n%s", err, out)
	}
	return false
}

// inState counts this namespace's sockets in a state of net/tcp_states.h.
func inState(t *testing.T, state string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && f[3] == state {
			n++
		}
	}
	return n
}

const (
	establishedState = "01"
	timeWaitState    = "06"
	closeWaitState   = "08"
)

type kept struct {
	mu      sync.Mutex
	events  []string
	samples []map[string]float64
}

func (k *kept) Event(_ int64, name string, fields map[string]any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c, ok := fields["class"]; ok {
		name += " " + c.(string)
	}
	k.events = append(k.events, name)
}

func (k *kept) Sample(_ int64, v map[string]float64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.samples = append(k.samples, v)
}
