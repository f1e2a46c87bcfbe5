package clients

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// validateAwaits checks what is awaited before a connection's first request.
func (c Config) validateAwaits() error {
	switch {
	case c.Awaits == 0:
		return nil
	case c.Awaits < 0 || c.Awaits > MaxPayload:
		return fmt.Errorf("client: awaits is a size from 0 to %d bytes", MaxPayload)
	case c.Kind != "" && c.Kind != Echo:
		return fmt.Errorf("client: kind %s awaits no greeting: leave awaits out", c.Kind)
	case c.Writes != nil:
		return errors.New("client: requests of several writes await no greeting: leave awaits out")
	}
	return nil
}

// await waits for a server that speaks first. The request's deadline goes on:
// it is the application's only means against a greeting that never comes.
func (s *shard) await(c *conn) {
	c.state = awaiting
	s.watch(&c.slot, unix.EPOLLIN)
}

// greeted takes n bytes of the greeting. The server says nothing more before
// it is asked, so that what comes beside it is garbage.
func (s *shard) greeted(c *conn, n int) {
	c.in += n
	switch want := s.cfg.Awaits; {
	case c.in > want:
		s.fail(c, "garbage")
	case c.in == want:
		c.in, c.state = 0, sending
		s.send(c)
	}
}
