package socket

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/tcp.h, which x/sys/unix does not name.
const (
	repairOff = -1 // TCP_REPAIR_OFF_NO_WP: without a window probe
	recvQueue = 1  // TCP_RECV_QUEUE
	sendQueue = 2  // TCP_SEND_QUEUE
)

// Sequences reads where a connection stands: the sequence number of the next
// byte that write() will take, and of the next one that is to come. The kernel
// tells them to who may repair connections (TCP_REPAIR, CAP_NET_ADMIN in the
// namespace); nothing is repaired. Nobody else may write or read meanwhile.
func Sequences(fd int) (send, receive uint32, err error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, 1); err != nil {
		return 0, 0, fmt.Errorf("TCP_REPAIR, which reading sequence numbers needs: %w (CAP_NET_ADMIN in the network namespace)", err)
	}
	var errs []error
	for _, q := range []struct {
		queue int
		into  *uint32
	}{{sendQueue, &send}, {recvQueue, &receive}} {
		err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR_QUEUE, q.queue)
		if err == nil {
			var v int
			if v, err = unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUEUE_SEQ); err == nil {
				*q.into = uint32(v)
			}
		}
		errs = append(errs, err)
	}
	errs = append(errs, unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, repairOff))
	// tcp_setsockopt takes the permission to share the port away with it.
	errs = append(errs, Reusable(fd))
	if err := errors.Join(errs...); err != nil {
		return 0, 0, fmt.Errorf("sequence numbers: %w", err)
	}
	return send, receive, nil
}
