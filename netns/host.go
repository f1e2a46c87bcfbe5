package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// threadNetNS names the network namespace of the calling thread. It works with
// a masked or foreign /proc too, where /proc/<tid> may not exist.
const threadNetNS = "/proc/thread-self/ns/net"

// ErrClosed is returned by what is asked of a host after its Close.
var ErrClosed = errors.New("the host is closed")

// Host is a network namespace. It has no name in the file system: it lives as
// long as a descriptor, a process or a socket in it does.
type Host struct {
	// Name is the sheet's name for the host; the kernel does not know it.
	Name string

	file *os.File
}

// NewHost makes a host: a new network namespace with lo up and IPv6 disabled
// before the first link appears (a quiet veth pair would otherwise send
// neighbour discovery and router solicitations into the experiment).
func NewHost(name string) (*Host, error) {
	h := &Host{Name: name}
	err := onLockedThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return &NamespaceError{Host: name, Err: err}
		}
		f, err := os.Open(threadNetNS)
		if err != nil {
			return fmt.Errorf("host %s: hold its network namespace: %w", name, err)
		}
		h.file = f
		if err := disableIPv6(name); err != nil {
			return err
		}
		return loopbackUp(name)
	})
	if err != nil {
		if h.file != nil {
			h.file.Close()
		}
		return nil, err
	}
	return h, nil
}

// FromPID takes the network namespace of a running process as a host, such as
// that of a container. pid is seen from the caller's PID namespace. Nothing in
// it is changed until it is asked for.
func FromPID(name string, pid int) (*Host, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("host %s: network namespace of process %d: %w", name, pid, err)
	}
	return fromFile(name, f)
}

// FromFD takes the network namespace that fd refers to as a host: for one that
// was opened where its process could be seen, such as outside the lab's PID
// namespace. fd stays the caller's.
func FromFD(name string, fd int) (*Host, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("host %s: descriptor %d: %w", name, fd, err)
	}
	return fromFile(name, os.NewFile(uintptr(dup), "netns "+name))
}

func fromFile(name string, f *os.File) (*Host, error) {
	// NS_GET_NSTYPE tells a namespace of another kind from one we can enter.
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		f.Close()
		if err == nil {
			err = unix.EINVAL
		}
		return nil, fmt.Errorf("host %s: %s is not a network namespace: %w", name, f.Name(), err)
	}
	return &Host{Name: name, file: f}, nil
}

// FD is the descriptor that holds the namespace, -1 once closed. It stays the
// host's; it is closed on exec.
func (h *Host) FD() int {
	if h == nil || h.file == nil {
		return -1
	}
	return int(h.file.Fd())
}

// Close lets go of the namespace. The kernel ends it once no process and no
// socket is left in it. A second Close does nothing.
func (h *Host) Close() error {
	err := h.file.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// Do runs f in the namespace, on a thread of its own, and returns f's error.
// What f opens there (sockets, descriptors of /proc/thread-self/net) stays in
// the namespace and may be used from anywhere. Goroutines that f starts are
// not in the namespace.
func (h *Host) Do(f func() error) error {
	return onLockedThread(func() error {
		if err := h.enter(); err != nil {
			return err
		}
		return f()
	})
}

func (h *Host) enter() error {
	raw, err := h.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("host %s: %w", h.Name, ErrClosed)
	}
	var setErr error
	// Control keeps the descriptor open during the call, against a Close and
	// a reuse of its number meanwhile.
	if err := raw.Control(func(fd uintptr) { setErr = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, ErrClosed)
	}
	if setErr != nil {
		return fmt.Errorf("host %s: enter its network namespace: %w", h.Name, setErr)
	}
	return nil
}

// Start is cmd.Start in the namespace: the child inherits the network
// namespace of the thread that forks it (clone(2)).
func (h *Host) Start(cmd *exec.Cmd) error { return h.Do(cmd.Start) }

// withNetlink gives f a route-netlink handle whose socket was opened inside
// the namespace, and closes it afterwards.
func (h *Host) withNetlink(f func(*netlink.Handle) error) error {
	var nl *netlink.Handle
	// Not netlink.NewHandleAt: it hands its thread back to the pool even when
	// it could not leave the namespace again.
	err := h.Do(func() (err error) {
		nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("host %s: open netlink: %w", h.Name, err)
	}
	defer nl.Close()
	return f(nl)
}

// onLockedThread runs f on a thread whose network namespace f may change, and
// brings the thread back. A thread that cannot be brought back is thrown away:
// its goroutine ends while locked, and the runtime ends the thread with it.
func onLockedThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errors.New("the function called runtime.Goexit inside a namespace")
		defer func() { result <- err }()
		runtime.LockOSThread()
		origin, openErr := unix.Open(threadNetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if openErr != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("open %s (is /proc mounted?): %w", threadNetNS, openErr)
			return
		}
		// Deferred, so that a Goexit in f (t.FailNow) restores the thread too.
		defer func() {
			if unix.Setns(origin, unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			unix.Close(origin)
		}()
		err = f()
	}()
	return <-result
}

// disableIPv6 turns IPv6 off in the calling thread's namespace. A kernel
// without IPv6 needs nothing.
func disableIPv6(host string) error {
	for _, conf := range []string{"all", "default"} {
		key := "net.ipv6.conf." + conf + ".disable_ipv6"
		if _, err := writeSysctl(host, key, "1"); err != nil && !errors.Is(err, ErrNoSysctl) {
			return err
		}
	}
	return nil
}

func loopbackUp(host string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("host %s: bring lo up: %w", host, err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("host %s: bring lo up: %w", host, err)
	}
	return nil
}

// NamespaceError says that the kernel refused a new network namespace.
type NamespaceError struct {
	Host string
	Err  error
}

func (e *NamespaceError) Error() string {
	what := "run as root, or inside the lab's user namespace"
	if errors.Is(e.Err, unix.ENOSPC) {
		what = "the limit in /proc/sys/user/max_net_namespaces is reached; raise it"
	}
	return fmt.Sprintf("host %s: a new network namespace was refused (%v): %s", e.Host, e.Err, what)
}

func (e *NamespaceError) Unwrap() error { return e.Err }
