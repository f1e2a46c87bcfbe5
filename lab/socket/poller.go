package socket

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Nanotime is CLOCK_MONOTONIC in nanoseconds, without a system call.
//
//go:linkname Nanotime runtime.nanotime
func Nanotime() int64

// Never is an instant that does not come.
const Never = math.MaxInt64

// What an event belongs to, where it is no connection.
const (
	OnTimer  = -1
	OnWake   = -2
	OnListen = -3
)

// Poller is one epoll set with one timerfd and one eventfd, for one locked
// thread. It waits in Syscall, since a RawSyscall that blocks holds up the
// garbage collector. Nobody may call it in a loop that does no work: in a
// guest with infinitely fast CPU that makes time stand still.
type Poller struct {
	mu              sync.Mutex // of wake, which others write to
	ep, timer, wake int
	armed           int64
	spec            unix.ItimerSpec
	// Waits counts returns of epoll_wait, Timers settings of the timer: what an
	// idle thread costs where every wake-up has its price.
	Waits, Timers int64
	Events        [256]unix.EpollEvent
}

func NewPoller() (*Poller, error) {
	p := &Poller{ep: -1, timer: -1, wake: -1, armed: Never}
	var err error
	if p.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if p.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		p.Close()
		return nil, fmt.Errorf("timerfd: %w", err)
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		p.Close()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	err = errors.Join(p.Watch(p.timer, unix.EPOLLIN, OnTimer, 0), p.Watch(p.wake, unix.EPOLLIN, OnWake, 0))
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Poller) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fd := range []*int{&p.ep, &p.timer, &p.wake} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}

// Watch registers fd; its events bear index and gen.
func (p *Poller) Watch(fd int, events uint32, index, gen int32) error {
	return p.ctl(unix.EPOLL_CTL_ADD, fd, events, index, gen)
}

func (p *Poller) Change(fd int, events uint32, index, gen int32) error {
	return p.ctl(unix.EPOLL_CTL_MOD, fd, events, index, gen)
}

// Forget takes fd out of the set, which closing it does too: it is for a
// descriptor that stays open and is nobody's any more.
func (p *Poller) Forget(fd int) error {
	return p.ctl(unix.EPOLL_CTL_DEL, fd, 0, 0, 0)
}

func (p *Poller) ctl(op, fd int, events uint32, index, gen int32) error {
	ev := unix.EpollEvent{Events: events, Fd: index, Pad: gen}
	_, _, e := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(p.ep), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	if e != 0 {
		return fmt.Errorf("epoll_ctl: %w", e)
	}
	return nil
}

// Kick makes wait return; it may be called from anywhere and at any time.
func (p *Poller) Kick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wake >= 0 {
		one := [8]byte{1} // any number but zero
		unix.Write(p.wake, one[:])
	}
}

// Hush takes the kicks so far.
func (p *Poller) Hush() {
	var b [8]byte
	unix.Read(p.wake, b[:])
}

// Wait sleeps until something happened or until the instant until, and gives
// the number of events. With until 0 it looks and does not sleep.
func (p *Poller) Wait(until int64) (int, error) {
	timeout := ^uintptr(0)
	if until == 0 {
		timeout = 0
	} else if until != p.armed {
		// Setting the timer also takes back that it has expired, so it need
		// never be read.
		p.spec.Value = unix.Timespec{}
		if until != Never {
			p.spec.Value = unix.NsecToTimespec(until)
		}
		_, _, e := unix.RawSyscall6(unix.SYS_TIMERFD_SETTIME, uintptr(p.timer), unix.TFD_TIMER_ABSTIME, uintptr(unsafe.Pointer(&p.spec)), 0, 0, 0)
		if e != 0 {
			return 0, fmt.Errorf("timerfd_settime: %w", e)
		}
		p.armed = until
		p.Timers++
	}
	p.Waits++
	n, _, e := unix.Syscall6(unix.SYS_EPOLL_WAIT, uintptr(p.ep), uintptr(unsafe.Pointer(&p.Events[0])), uintptr(len(p.Events)), timeout, 0, 0)
	switch e {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	}
	return 0, fmt.Errorf("epoll_wait: %w", e)
}

// LockThread ties the goroutine to its thread and takes the thread's timer
// slack away, which makes sleeps up to 50 µs late. The function it gives back
// undoes both.
func LockThread() (unlock func()) {
	runtime.LockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	return func() {
		unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // the default
		runtime.UnlockOSThread()
	}
}

func RawRead(fd int32, b []byte) (int, syscall.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), e
}

// RawWrite is send with MSG_NOSIGNAL: a peer that has gone is EPIPE, and no
// signal to a program that others may have embedded.
func RawWrite(fd int32, b []byte) (int, syscall.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return int(n), e
}

// Address is an IP address and port as the kernel takes it.
type Address struct {
	v4  unix.RawSockaddrInet4
	v6  unix.RawSockaddrInet6
	is6 bool
}

// NewAddress reads host:port, the host being an address: the lab's hosts have
// no resolver of their own.
func NewAddress(s string) (*Address, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, fmt.Errorf("address %q: write an IP address and a port, such as 10.0.0.2:8080", s)
	}
	a := &Address{is6: ap.Addr().Is6() && !ap.Addr().Is4In6()}
	port := ap.Port()>>8 | ap.Port()<<8 // in network order on every little-endian machine
	if bigEndian {
		port = ap.Port()
	}
	if !a.is6 {
		a.v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: ap.Addr().Unmap().As4()}
		return a, nil
	}
	a.v6 = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: ap.Addr().As16()}
	if zone := ap.Addr().Zone(); zone != "" {
		ifi, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w", s, err)
		}
		a.v6.Scope_id = uint32(ifi.Index)
	}
	return a, nil
}

var bigEndian = func() bool {
	one := uint16(1)
	return *(*byte)(unsafe.Pointer(&one)) == 0
}()

func (a *Address) Family() int {
	if a.is6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func (a *Address) Raw() (unsafe.Pointer, uintptr) {
	if a.is6 {
		return unsafe.Pointer(&a.v6), unix.SizeofSockaddrInet6
	}
	return unsafe.Pointer(&a.v4), unix.SizeofSockaddrInet4
}

// Socket makes a non-blocking TCP socket for a.
func (a *Address) Socket() (int32, syscall.Errno) {
	fd, _, e := unix.RawSyscall(unix.SYS_SOCKET, uintptr(a.Family()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if e != 0 {
		return -1, e
	}
	return int32(fd), 0
}

// Class names what went wrong: the errno's name, or one of eof, deadline,
// garbage and the like, which are not the kernel's.
func Class(e syscall.Errno) string {
	if name := unix.ErrnoName(e); name != "" {
		return name
	}
	return "errno " + strconv.Itoa(int(e))
}
