package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"tcplab/lab"
	"tcplab/lab/triage"
	"tcplab/netns"
)

// withoutDiag makes this process one that the kernel lists no sockets to, as
// some sandboxes' seccomp profiles do.
const withoutDiag = "TCPLAB_TEST_WITHOUT_DIAG"

func init() {
	if os.Getenv(withoutDiag) == "" {
		return
	}
	const socketNr, domain, protocol = 0, 16, 32 // offsets in struct seccomp_data
	load := func(k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: k}
	}
	unless := func(k uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: skip}
	}
	filter := []unix.SockFilter{
		load(socketNr), unless(unix.SYS_SOCKET, 5),
		load(domain), unless(unix.AF_NETLINK, 3),
		load(protocol), unless(unix.NETLINK_SOCK_DIAG, 1),
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))); e != 0 {
		panic(e)
	}
	runtime.UnlockOSThread()
}

// tcplab runs this test binary as tcplab.
func tcplab(t *testing.T, env []string, attr *syscall.SysProcAttr, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	// testscript takes a program by the name it was called by.
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "tcplab"
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = attr
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var x *exec.ExitError
	if err != nil && !errors.As(err, &x) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// triaged COMMAND…: the command looked at the machine that the tests run on,
// and has found something (1) or nothing (0).
func triaged(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: triaged COMMAND [ARG …]")
	}
	if err := ts.Exec(args[0], args[1:]...); err != nil && exitCode(err) != "1" {
		ts.Fatalf("%v", err)
	}
}

func TestWhereSocketsAreNotListedTriageSaysSo(t *testing.T) {
	code, out, errs := tcplab(t, []string{withoutDiag + "=1"}, nil, "triage")
	if code != 5 || out != "" || !strings.Contains(errs, "the kernel does not list sockets here") || !strings.Contains(errs, "operation not permitted") || !strings.Contains(errs, "--script") {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
}

func asNobody(t *testing.T) *syscall.SysProcAttr {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// plainBinary is this test binary where a plain user may read it.
func plainTriage(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "triage-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin := filepath.Join(dir, "tcplab")
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = errors.Join(os.WriteFile(bin, b, 0o755), os.Chmod(dir, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, args...)
	cmd.Dir, cmd.SysProcAttr = "/", asNobody(t)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var x *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &x) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestAllNamespacesTakeRoot(t *testing.T) {
	code, _, errs := plainTriage(t, "triage", "--all-netns")
	if code != 5 || !strings.Contains(errs, "run it as root") {
		t.Errorf("exit code %d, %q", code, errs)
	}
}

func TestAPlainUserIsToldWhichProcessesCouldNotBeNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI runs as root")
		}
		t.Skip("takes another user's sockets: root's")
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for range 12 { // a leak
		c, err := net.Dial("tcp4", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		s, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		c.Close()
	}
	port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	code, out, errs := plainTriage(t, "triage")
	if code != 1 || !strings.Contains(out, "close-wait-leak") || !strings.Contains(out, "of a process of uid 0 stay in CLOSE-WAIT at its port "+port) || !strings.Contains(out, "not named: ") || !strings.Contains(out, "may be read by root only") {
		t.Errorf("as a plain user: exit code %d, %q, %q", code, out, errs)
	}
	code, out, errs = tcplab(t, nil, nil, "triage")
	if code != 1 || !strings.Contains(out, "(pid "+strconv.Itoa(os.Getpid())+")") {
		t.Errorf("as root: exit code %d, %q, %q", code, out, errs)
	}
}

// A container's namespace is found by its process, named, and judged by
// itself.
func TestEveryNamespaceIsLookedAt(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI runs as root")
		}
		t.Skip("takes root")
	}
	h, err := netns.NewHost("box")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	err = h.Do(func() error { // more connections than its listener takes
		to := &unix.SockaddrInet4{Port: 9000, Addr: [4]byte{127, 0, 0, 1}}
		for i := range 6 {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return err
			}
			fds = append(fds, fd)
			if i == 0 {
				err = errors.Join(unix.Bind(fd, to), unix.Listen(fd, 2))
			} else if err = unix.Connect(fd, to); err == unix.EINPROGRESS {
				err = nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWUTS}
	runtime.LockOSThread() // Pdeathsig is the thread's
	defer runtime.UnlockOSThread()
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	code, out, errs := tcplab(t, nil, nil, "triage", "--all-netns", "--json")
	var got struct {
		Hosts []lookResult
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 1 {
		t.Fatalf("exit code %d, %v: %s%s", code, err, out, errs)
	}
	found := false
	for i, l := range got.Hosts {
		if (i == 0) != l.Namespace.Own {
			t.Errorf("the %dth is %+v", i, l.Namespace)
		}
		if l.Namespace.PID != cmd.Process.Pid {
			continue
		}
		found = true
		if l.Namespace.Name != "sleep" || len(l.Findings) != 1 || l.Findings[0].Cause != "accept-queue-overflow" {
			t.Errorf("%+v, %+v", l.Namespace, l.Findings)
		}
	}
	if !found {
		t.Errorf("the namespace of pid %d is not in %s", cmd.Process.Pid, out)
	}
}

func TestWatchingEndsWithSIGINT(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "triage", "--watch", "--every", "2s", "--json")
	cmd.Args[0] = "tcplab"
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(out)
	for range 2 {
		var l lookResult
		if err := dec.Decode(&l); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Process.Signal(os.Interrupt)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		cmd.Process.Kill()
		t.Fatal("it goes on after SIGINT")
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 && code != 1 && code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
}

// Exit code 0 says healthy, and nobody knows that of what was not looked at.
func TestWhatCouldNotBeLookedAtIsNotHealthy(t *testing.T) {
	seen, unseen := lookResult{}, lookResult{Error: "refused"}
	sick := lookResult{Findings: []triage.Finding{{Cause: "x"}}}
	if err := found([]lookResult{seen, seen}); err != nil {
		t.Error(err)
	}
	var e *lab.Error
	if err := found([]lookResult{seen, unseen}); !errors.As(err, &e) || e.Code != lab.ExitLacks || !strings.Contains(err.Error(), "1 of 2") {
		t.Error(err)
	}
	if err := found([]lookResult{unseen, sick}); err != exit(exitFindings) {
		t.Error(err)
	}
}
