package clients

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// How an incarnation writes, reads and waits.

// write writes all of b.
func (c *incarnations) write(b []byte) error {
	for len(b) > 0 {
		n, errno := socket.RawWrite(c.fd, b)
		switch errno {
		case 0:
			c.moved(n, 0)
			b = b[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			if err := c.wait(unix.EPOLLOUT | unix.EPOLLIN); err != nil {
				return err
			}
		default:
			return c.broken(errno)
		}
	}
	return nil
}

func (c *incarnations) moved(out, in int) {
	now := socket.Nanotime()
	c.since = now
	c.meter.at(now)
	c.meter.wrote(now, out)
	c.meter.read(now, in)
}

// exchange sends n bytes of the stream and takes what is owed for all that was
// sent so far.
func (c *incarnations) exchange(n int64) error { return c.converse(c.sent+n, max(0, c.sent+n+c.lead)) }

// send sends n bytes of the stream.
func (c *incarnations) send(n int64) error { return c.converse(c.sent+n, 0) }

// converse sends up to one place of the stream and reads up to another.
func (c *incarnations) converse(end, owed int64) error {
	for c.sent < end || c.got < owed {
		progress, full := false, false
		if c.sent < end {
			b := c.pattern(min(end-c.sent, int64(c.cfg.Outrun.Chunk)))
			switch n, errno := socket.RawWrite(c.fd, b); errno {
			case 0:
				c.sent += int64(n)
				c.moved(n, 0)
				progress, full = true, n < len(b)
			case unix.EINTR:
				progress = true
			case unix.EAGAIN:
				full = true
			default:
				return c.broken(errno)
			}
		}
		switch n, errno := socket.RawRead(c.fd, c.into); {
		case errno == unix.EINTR:
			progress = true
		case errno == unix.EAGAIN:
		case errno != 0:
			return c.broken(errno)
		case n == 0:
			return connError("eof")
		default:
			c.got += int64(n)
			c.moved(0, n)
			progress = true
		}
		if progress {
			continue
		}
		want := uint32(unix.EPOLLIN)
		if full {
			want |= unix.EPOLLOUT
		}
		if err := c.wait(want); err != nil {
			return err
		}
	}
	return nil
}

// pattern is the next n bytes of the stream.
func (c *incarnations) pattern(n int64) []byte {
	if c.buf[0]>>6 != c.number {
		for i := range c.buf {
			c.buf[i] = c.number<<6 | byte(i%places)
		}
	}
	from := c.sent % places
	return c.buf[from : from+n]
}

func (c *incarnations) broken(errno syscall.Errno) error {
	return connError(socket.Class(pendingError(c.fd, errno)))
}

// wait waits for the connection, as long as the deadline and the trial allow.
func (c *incarnations) wait(events uint32) error {
	if events != c.events {
		c.events = events
		if err := c.poll.Change(int(c.fd), events, 0, int32(c.number)); err != nil {
			return err
		}
	}
	for {
		until := min(c.since+int64(c.cfg.Deadline), c.end)
		now := socket.Nanotime()
		if now >= c.end {
			return connError("unfinished")
		}
		if now >= until {
			return connError(late)
		}
		ready, err := c.pollOnce(until)
		if err != nil || ready {
			return err
		}
	}
}

// rest waits for an instant.
func (c *incarnations) rest(until int64) error {
	watched := c.fd >= 0 && c.events != 0
	if watched {
		// What comes meanwhile can wait.
		if err := c.poll.Change(int(c.fd), 0, 0, int32(c.number)); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		defer func() { c.events = 0 }()
	}
	for socket.Nanotime() < until {
		// A connection that breaks says so whether it is asked or not: the next
		// call will hear why.
		if broke, err := c.pollOnce(until); err != nil || broke {
			return err
		}
	}
	return nil
}

// pollOnce tells whether something happened on the connection.
func (c *incarnations) pollOnce(until int64) (ready bool, err error) {
	n, err := c.poll.Wait(until)
	if err != nil {
		return false, err
	}
	for i := range n {
		switch ev := &c.poll.Events[i]; ev.Fd {
		case socket.OnTimer:
		case socket.OnWake:
			c.poll.Hush()
			if c.ctx.Err() != nil {
				return false, errStopped
			}
		default:
			ready = ready || ev.Pad == int32(c.number)
		}
	}
	return ready, nil
}

func (c *incarnations) close() {
	if c.fd >= 0 {
		unix.Close(int(c.fd))
		c.fd = -1
	}
}
