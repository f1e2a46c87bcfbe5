package server

import "fmt"

func (c Config) validateGreeting() error {
	switch {
	case c.Greeting == 0:
		return nil
	case c.Greeting < 0 || c.Greeting > MaxPayload:
		return fmt.Errorf("server: greeting is a size from 0 to %d bytes", MaxPayload)
	case c.Kind != "" && c.Kind != Echo:
		return fmt.Errorf("server: kind %s has no greeting: leave it out", c.Kind)
	}
	return nil
}

// newGreeting is what a server that speaks first says: printable, for whoever
// reads a capture.
func newGreeting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('!' + i%94)
	}
	return b
}

// greet speaks first, on a connection that was just accepted.
func (e *echo) greet(p *peer) error {
	n, ok := e.send(p, e.greeting)
	if !ok {
		return nil // it is gone already, and dropped
	}
	if n < len(e.greeting) {
		p.out = append(p.spare[:0], e.greeting[n:]...)
		p.spare = p.out
	}
	return e.watch(p)
}
