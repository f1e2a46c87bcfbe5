package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Destroys tells of each TCP socket's end with its final tcp_info, by the
// sock_diag multicast groups (net/core/sock_diag.c:
// sock_diag_broadcast_destroy). It costs nothing while nothing ends, and needs
// no polling. Entering TIME-WAIT is the socket's end too. After an abortive
// close the remote port is 0: match by cookie.
type Destroys struct {
	file *os.File
	raw  interface {
		Read(func(fd uintptr) bool) error
	}
	buf    []byte
	rest   []byte
	closed atomic.Bool
}

// ErrOverflow is given once when the kernel had more to tell than the socket
// could hold: an unknown number of ends was lost. Reading may go on.
var ErrOverflow = errors.New("probe: ends of sockets were lost, the socket's buffer was full")

// OpenDestroys opens the groups in the network namespace of the calling
// thread.
func OpenDestroys() (*Destroys, error) {
	d, err := openDiag(1<<(unix.SKNLGRP_INET_TCP_DESTROY-1) | 1<<(unix.SKNLGRP_INET6_TCP_DESTROY-1))
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	if err := unix.SetNonblock(d.fd, true); err != nil {
		d.close()
		return nil, fmt.Errorf("probe: sock_diag: %w", err)
	}
	// Thousands may end at once. Beyond rmem_max needs privilege: take what
	// can be had, an overflow is told.
	if unix.SetsockoptInt(d.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) != nil {
		if err := unix.SetsockoptInt(d.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20); err != nil {
			d.close()
			return nil, fmt.Errorf("probe: sock_diag: %w", err)
		}
	}
	f := os.NewFile(uintptr(d.fd), "sock_diag destroy group")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("probe: sock_diag: %w", err)
	}
	return &Destroys{file: f, raw: raw, buf: d.buf}, nil
}

// Next waits for the next end, until the deadline (zero: for ever). It gives
// os.ErrDeadlineExceeded then, and os.ErrClosed after Close.
func (d *Destroys) Next(deadline time.Time) (Socket, error) {
	if err := d.file.SetReadDeadline(deadline); err != nil {
		return Socket{}, fmt.Errorf("probe: %w", d.why(err))
	}
	for {
		for len(d.rest) > 0 {
			if len(d.rest) < nlmsgLen {
				n := len(d.rest)
				d.rest = nil
				return Socket{}, fmt.Errorf("probe: %d bytes after the last message", n)
			}
			size := int(binary.NativeEndian.Uint32(d.rest))
			if size < nlmsgLen || size > len(d.rest) {
				n := len(d.rest)
				d.rest = nil
				return Socket{}, fmt.Errorf("probe: a message of %d bytes in %d", size, n)
			}
			typ, msg := binary.NativeEndian.Uint16(d.rest[4:]), d.rest[nlmsgLen:size]
			d.rest = d.rest[min((size+3)&^3, len(d.rest)):]
			if typ != unix.SOCK_DIAG_BY_FAMILY {
				continue
			}
			s, err := ParseSocket(msg)
			if err != nil {
				return s, fmt.Errorf("probe: %w", err)
			}
			return s, nil
		}
		var n, flags int
		var err error
		rerr := d.raw.Read(func(fd uintptr) bool {
			for {
				n, _, flags, _, err = unix.Recvmsg(int(fd), d.buf, nil, 0)
				if err != unix.EINTR {
					return err != unix.EAGAIN
				}
			}
		})
		switch {
		case rerr != nil:
			return Socket{}, fmt.Errorf("probe: %w", d.why(rerr))
		case err == unix.ENOBUFS:
			return Socket{}, ErrOverflow
		case err != nil:
			return Socket{}, fmt.Errorf("probe: sock_diag: %w", err)
		case flags&unix.MSG_TRUNC != 0:
			return Socket{}, fmt.Errorf("probe: a message cut to %d bytes", n)
		}
		d.rest = d.buf[:n]
	}
}

// why is err, or os.ErrClosed, which neither a deadline nor a raw connection
// says by that name.
func (d *Destroys) why(err error) error {
	if d.closed.Load() {
		return os.ErrClosed
	}
	return err
}

// Close ends Next.
func (d *Destroys) Close() error {
	d.closed.Store(true)
	return d.file.Close()
}
