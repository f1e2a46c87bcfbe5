package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// sampleEach is how many frames share one stamp of their departure: a
	// stamp costs the kernel a second packet and the wire part of a call.
	sampleEach = 32
	// sampleRead is how many stamps are read at a time.
	sampleRead = 16
)

// pacedSocket sends frames that carry their departure. It receives nothing but
// the stamps of the frames that asked for one.
type pacedSocket struct {
	fd    int
	room  int // its send buffer
	next  uint32
	due   []int64 // of the stamps asked for that were not read, from next-len on
	blind bool    // stamps can no longer be told apart
}

func openPaced(index int) (s pacedSocket, err error) {
	s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return s, fmt.Errorf("packet socket: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Close(s.fd))
		}
	}()
	// struct sock_txtime: the clock, and no flags.
	clock := binary.LittleEndian.AppendUint32(nil, unix.CLOCK_MONOTONIC)
	clock = binary.LittleEndian.AppendUint32(clock, 0)
	if err = unix.SetsockoptString(s.fd, unix.SOL_SOCKET, unix.SO_TXTIME, string(clock)); err != nil {
		return s, &UnsupportedError{What: "SO_TXTIME", Err: err}
	}
	const stamps = unix.SOF_TIMESTAMPING_SOFTWARE | unix.SOF_TIMESTAMPING_OPT_ID | unix.SOF_TIMESTAMPING_OPT_TSONLY
	if err = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING, stamps); err != nil {
		return s, fmt.Errorf("SO_TIMESTAMPING: %w", err)
	}
	// Beyond net.core.wmem_max for root only; either is as good as it gets.
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, pacedBuffer) != nil {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, pacedBuffer)
	}
	if s.room, err = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil {
		return s, fmt.Errorf("SO_SNDBUF: %w", err)
	}
	if err = unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
		return s, fmt.Errorf("bind: %w", err)
	}
	return s, nil
}

// hasRoom reports whether a frame fits into the send buffer.
func (s *pacedSocket) hasRoom() bool {
	var queued int32
	_, _, e := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(s.fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&queued)))
	return e == 0 && int(queued) < s.room
}

// asked notes that a frame with this departure asked for a stamp.
func (s *pacedSocket) asked(due int64) {
	if s.blind {
		return
	}
	s.next++
	s.due = append(s.due, due)
}

// stamps reads the stamps that are there, and gives each with the departure
// that was decided. The kernel numbers those who asked from 0
// (SOF_TIMESTAMPING_OPT_ID).
func (s *pacedSocket) stamps(now int64, report func(due, left int64)) {
	for !s.blind && len(s.due) > 0 && s.due[0] < now {
		var data [1]byte
		var control [256]byte
		iov := unix.Iovec{Base: &data[0], Len: 1}
		h := unix.Msghdr{Iov: &iov, Iovlen: 1, Control: &control[0], Controllen: uint64(len(control))}
		_, _, e := syscall.RawSyscall(unix.SYS_RECVMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&h)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if e != 0 {
			return
		}
		id, left, ok := parseStamp(control[:h.Controllen])
		first := s.next - uint32(len(s.due))
		if k := id - first; ok && k < uint32(len(s.due)) {
			report(s.due[k], left)
			// Those before it got none: they were dropped.
			s.due = append(s.due[:0], s.due[k+1:]...)
		}
	}
}

// parseStamp reads a frame's number and its stamp, CLOCK_REALTIME ns, from the
// control messages of an error queue.
func parseStamp(b []byte) (id uint32, at int64, ok bool) {
	var stamped, named bool
	for len(b) >= unix.SizeofCmsghdr {
		n := binary.LittleEndian.Uint64(b)
		if n < unix.SizeofCmsghdr || n > uint64(len(b)) {
			break
		}
		level, typ := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
		data := b[unix.SizeofCmsghdr:n]
		switch {
		case level == unix.SOL_SOCKET && typ == unix.SCM_TIMESTAMPING && len(data) >= 16:
			at, stamped = int64(binary.LittleEndian.Uint64(data))*1e9+int64(binary.LittleEndian.Uint64(data[8:])), true
		case level == unix.SOL_PACKET && typ == unix.PACKET_TX_TIMESTAMP && len(data) >= 16:
			// struct sock_extended_err: ee_info says which stamp, ee_data whose.
			const sent = 0 // SCM_TSTAMP_SND
			id, named = binary.LittleEndian.Uint32(data[12:]), binary.LittleEndian.Uint32(data[8:]) == sent
		}
		b = b[min((n+7)&^7, uint64(len(b))):]
	}
	return id, at, stamped && named
}
