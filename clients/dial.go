package clients

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"tcplab/lab/socket"
)

var errOption = errors.New("a socket option is not as asked")

// dialer opens connections through net, for clients that are libraries' users.
// It counts each, and believes an option once it has been read back.
type dialer struct {
	options []socket.Setting
	account func(func(*meter))
	broken  func(error) // called inside account
}

// dial opens a connection and counts it. Of a connection that is not a
// request's, intended is when it was wanted.
func (d *dialer) dial(ctx context.Context, network, address string, intended int64) (*net.TCPConn, error) {
	called := false
	nd := net.Dialer{
		KeepAlive: -1, // net's default is 15 s
		Control: func(_, _ string, c syscall.RawConn) error {
			called = true
			var err error
			return errors.Join(c.Control(func(fd uintptr) { err = socket.SetAll(int(fd), d.options) }), err)
		},
	}
	from := socket.Nanotime()
	c, err := nd.DialContext(ctx, network, address)
	now := socket.Nanotime()
	d.account(func(m *meter) {
		if called && sentSYN(err) {
			m.result.Opens++
		}
		if err == nil {
			m.established(intended, now-from)
		}
	})
	if err != nil {
		return nil, err
	}
	tc := c.(*net.TCPConn)
	if err := d.confirm(tc); err != nil {
		tc.Close()
		return nil, err
	}
	return tc, nil
}

// sentSYN tells whether a dial that ended with err sent a SYN: the kernel
// finds a route and a port first. net tries up to twice more when there is no
// port, which sends nothing either.
func sentSYN(err error) bool {
	for _, e := range []error{syscall.EADDRNOTAVAIL, syscall.ENETUNREACH, syscall.EACCES, syscall.EPERM, syscall.EINVAL, syscall.EAFNOSUPPORT} {
		if errors.Is(err, e) {
			return false
		}
	}
	return true
}

// confirm sets the options again, since net turns TCP_NODELAY on once a
// connection is established, and reads them back from the first one.
func (d *dialer) confirm(c *net.TCPConn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	err = rc.Control(func(fd uintptr) {
		if optErr = socket.SetAll(int(fd), d.options); optErr != nil {
			return
		}
		d.account(func(m *meter) {
			if m.result.Options != nil {
				return
			}
			m.result.Options, optErr = socket.ReadBack(int(fd), d.options, true)
			m.report.event(socket.Nanotime(), "options", map[string]any{"options": m.result.Options})
			d.broken(optErr)
		})
	})
	if optErr != nil {
		return fmt.Errorf("%w: %w", errOption, optErr)
	}
	return err
}
