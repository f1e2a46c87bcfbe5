package netns

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func newHost(t *testing.T, name string) *Host {
	t.Helper()
	h, err := NewHost(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// namespace is the number of the calling thread's network namespace.
func namespace(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink(threadNetNS)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestDoRunsInsideAndComesBack(t *testing.T) {
	h := newHost(t, "client")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := namespace(t)
	var inside string
	want := errors.New("f's own error")
	if err := h.Do(func() error { inside = namespace(t); return want }); err != want {
		t.Errorf("Do returned %v, want f's own error", err)
	}
	if inside == before {
		t.Error("f ran outside the host")
	}
	if after := namespace(t); after != before {
		t.Errorf("the caller is in %s now, was in %s", after, before)
	}
}

func TestThreadThatCannotBeBroughtBackIsThrownAway(t *testing.T) {
	h := newHost(t, "client")
	inside := ""
	tid := os.Getpid()
	// The runtime parks the process's first thread instead of ending it.
	for tid == os.Getpid() {
		err := h.Do(func() error {
			inside, tid = namespace(t), unix.Gettid()
			if tid != os.Getpid() {
				closeOrigin(t) // what the way back needs is gone
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		done := make(chan string)
		go func() { done <- namespace(t) }()
		if got := <-done; got == inside {
			t.Fatalf("a goroutine runs on a thread that is still in the host (thread %d was)", tid)
		}
	}
}

// closeOrigin closes the descriptor by which onLockedThread means to return.
func closeOrigin(t *testing.T) {
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	here := namespace(t)
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "net:[") && to != here {
			n := 0
			for _, c := range filepath.Base(fd) {
				n = n*10 + int(c-'0')
			}
			unix.Close(n)
		}
	}
}

func TestGoexitInsideIsAnErrorAndRestoresTheThread(t *testing.T) {
	h := newHost(t, "client")
	if err := h.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("no error")
	}
}

func TestStartedProgramIsInside(t *testing.T) {
	h := newHost(t, "client")
	cmd := exec.Command("readlink", "/proc/self/ns/net")
	var out strings.Builder
	cmd.Stdout = &out
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	var inside string
	if err := h.Do(func() error { inside = namespace(t); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got != inside {
		t.Errorf("the program is in %s, the host is %s", got, inside)
	}
}

func TestNamespaceOfARunningProcessIsAHostToo(t *testing.T) {
	h := newHost(t, "container")
	cmd := exec.Command("sleep", "60")
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	same, err := FromPID("the same", cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer same.Close()
	byFD, err := FromFD("the same", h.FD())
	if err != nil {
		t.Fatal(err)
	}
	defer byFD.Close()
	var names []string
	for _, x := range []*Host{h, same, byFD} {
		if err := x.Do(func() error { names = append(names, namespace(t)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if names[0] != names[1] || names[0] != names[2] {
		t.Errorf("three views of one host: %v", names)
	}
	if _, err := FromFD("a file", int(os.Stderr.Fd())); err == nil {
		t.Error("standard error passes for a network namespace")
	}
	if _, err := FromPID("nobody", 1<<30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process that does not exist: %v", err)
	}
}

func TestClosedHostSaysSo(t *testing.T) {
	h := newHost(t, "client")
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if err := h.Do(func() error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("Do after Close: %v", err)
	}
	if h.FD() != -1 {
		t.Errorf("FD after Close is %d", h.FD())
	}
}

func TestNewHostIsQuiet(t *testing.T) {
	h := newHost(t, "client")
	for key, want := range map[string]string{
		"net.ipv6.conf.all.disable_ipv6":     "1",
		"net.ipv6.conf.default.disable_ipv6": "1",
		"net.ipv6.conf.lo.disable_ipv6":      "1",
	} {
		if got, err := h.Sysctl(key); err != nil || got != want {
			t.Errorf("%s = %q, %v; want %s", key, got, err, want)
		}
	}
	err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// lo is up if 127.0.0.1 can be reached.
		return unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}})
	})
	if err != nil {
		t.Errorf("lo is not up: %v", err)
	}
}
