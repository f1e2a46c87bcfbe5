// Package nstest runs the tests of packages that make namespaces. It holds
// that a test suite must pass as root and as a plain user alike, and that it
// has failed if it leaves a descriptor, a thread in a foreign namespace, a
// child process, a link, or anything in /run/netns or the temporary folder.
package nstest

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// nobody is the plain user that a root's suite runs again as.
const nobody = 65534

const plainEnv = "NSTEST_PLAIN_USER"

// Plain is what the environment has of a suite that runs for a plain user.
const Plain = plainEnv + "=1"

// PlainUser tells whether the suite runs for a plain user: as one, or as root
// of its user namespace.
func PlainUser() bool { return os.Getenv(plainEnv) != "" || os.Geteuid() != 0 }

// AgainAsPlainUser runs this test binary once more as a plain user: all tests
// but its caller, which must be a test of its own, or those only whose names
// begin as given. A suite that already runs as one has nothing to do.
func AgainAsPlainUser(t *testing.T, only ...string) {
	t.Helper()
	if PlainUser() {
		return
	}
	args := []string{"-test.skip=^" + t.Name() + "$"}
	if len(only) > 0 {
		args = append(args, "-test.run=^("+strings.Join(only, "|")+")")
	}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	temp, err := os.MkdirTemp("", "plain-user-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	if err := os.Chown(temp, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	// The binary is where only its builder may look.
	binary := filepath.Join(temp, filepath.Base(os.Args[0]))
	code, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(binary, code, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, args...)
	// Not the caller's folder: a plain user may not be able to enter it.
	cmd.Dir = temp
	cmd.Env = append(os.Environ(), Plain, "TMPDIR="+temp, "HOME="+temp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as uid %d: %v\n%s", nobody, err, out)
	}
	if testing.Verbose() {
		t.Logf("as uid %d:\n%s", nobody, out)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 1 {
		t.Errorf("left in the plain user's temporary folder: %v %v", left, err)
	}
}

// Unshared is Run for packages whose tests need no more than to own their
// network: a plain user's run in user and network namespaces of their own.
func Unshared(m *testing.M) int {
	if os.Geteuid() == 0 {
		return Run(m)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), Plain)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "nstest: in namespaces of its own:", err)
		return 1
	}
	return 0
}

// Run runs the suite between two looks at what may leak and returns the exit
// status for os.Exit.
// It sets TMPDIR to a folder of the suite's own.
func Run(m *testing.M) int {
	temp, err := os.MkdirTemp("", "suite-")
	if err == nil {
		// The race detector would let every process sleep for a second at its end.
		err = errors.Join(os.Chmod(temp, 0o755), os.Setenv("TMPDIR", temp), os.Setenv("GORACE", "atexit_sleep_ms=0"))
	}
	var before traces
	if err == nil {
		before, err = look()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nstest:", err)
		return 2
	}
	defer os.RemoveAll(temp)
	started := goleak.IgnoreCurrent()
	code := m.Run()
	if code != 0 {
		return code
	}
	if err := goleak.Find(started); err != nil {
		fmt.Fprintln(os.Stderr, "nstest:", err)
		return 1
	}
	// What ends in the background (a thread, a reaped child) gets a moment.
	var leaks []string
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		after, err := look()
		if err != nil {
			fmt.Fprintln(os.Stderr, "nstest:", err)
			return 2
		}
		if leaks = before.missing(after); len(leaks) == 0 {
			return 0
		}
	}
	fmt.Fprintf(os.Stderr, "nstest: left behind:\n\t%s\n", strings.Join(leaks, "\n\t"))
	return 1
}

// traces is what can be seen of leaks, each with a count.
type traces map[string]int

func (before traces) missing(after traces) []string {
	var leaks []string
	for _, k := range slices.Sorted(maps.Keys(after)) {
		if n := after[k] - before[k]; n > 0 {
			leaks = append(leaks, fmt.Sprintf("%d × %s", n, k))
		}
	}
	return leaks
}

func look() (traces, error) {
	seen := traces{}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		to, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if errors.Is(err, os.ErrNotExist) || strings.HasPrefix(to, "/proc/") {
			continue // the one that lists them
		}
		if err != nil {
			return nil, err
		}
		if to == "anon_inode:[eventpoll]" || to == "anon_inode:[eventfd]" {
			continue // the runtime's own, made when first needed
		}
		if kind, _, ok := strings.Cut(to, ":["); ok && kind != "anon_inode" {
			to = kind // a socket's or pipe's number says nothing
		}
		seen["descriptor of "+to]++
	}
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		return nil, err
	}
	for _, th := range threads {
		if ns, err := os.Readlink(th); err == nil {
			seen["thread in "+ns] = 1
		}
	}
	children, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return nil, err
	}
	for _, c := range children {
		if b, err := os.ReadFile(c); err == nil && len(b) > 0 {
			seen["child process"] += len(strings.Fields(string(b)))
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		seen["link "+l.Name]++
	}
	for _, pattern := range []string{"/run/netns/*", "/var/run/netns/*", filepath.Join(os.TempDir(), "*")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			seen["file "+f]++
		}
	}
	return seen, nil
}

// Gone waits until the process behind the pidfd has ended.
func Gone(t *testing.T, pidfd int) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 20_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			t.Fatal("the process is still there after 20 s")
		}
		return
	}
}
