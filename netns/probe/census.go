package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Census counts a namespace's TCP sockets.
type Census struct {
	ByState map[string]int // by RFC 9293's names: "TIME-WAIT", "CLOSE-WAIT", …; only those that occur
	// PortsUsedMax is how many local ports of the range are taken towards the
	// busiest destination from one address, TIME-WAIT included: connect() has
	// none left when that is the whole range.
	PortsUsedMax   int
	BusiestDst     netip.AddrPort // not valid when no port of the range is used
	PortsUsedShare float64        // PortsUsedMax ÷ size of the range
	AcceptQueue    int            // most connections that wait to be accepted, of all listeners; −1 without one
}

// pair is a local address and a destination, raw: a local port can be used
// once for each.
type pair struct {
	src, dst [16]byte // IPv4 as IPv4-mapped IPv6: both use the same ports
	port     uint16
}

type census struct {
	states  [boundInactive + 1]int
	listens [1 << 16 / 64]uint64
	queue   int // of the listener with the longest; −1 without one
	used    map[pair]int
}

// Census counts in one dump, without an allocation for each socket: 28,000 in
// TIME-WAIT take some 10 ms. portRange is ip_local_port_range, both ends
// included. Local ports that something listens on are a server's and do not
// count as used.
func (p *Probe) Census(portRange [2]int) (Census, error) {
	low, high := portRange[0], portRange[1]
	if low < 1 || high > 65535 || low > high {
		return Census{}, fmt.Errorf("probe: the port range %d–%d is none", low, high)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.diag == nil {
		return Census{}, errClosed
	}
	c := &p.census
	err := retry(func() error {
		c.reset()
		return p.diag.dump(AllStates, 0, func(msg []byte) error {
			return c.add(msg, uint16(low), uint16(high))
		})
	})
	if err != nil {
		return Census{}, fmt.Errorf("probe: census: %w", err)
	}
	return c.result(high - low + 1), nil
}

func (c *census) reset() {
	clear(c.states[:])
	clear(c.listens[:])
	c.queue = -1
	if c.used == nil || len(c.used) > 4096 {
		c.used = map[pair]int{} // do not keep a flood's worth of memory
	}
	clear(c.used)
}

func (c *census) add(msg []byte, low, high uint16) error {
	if len(msg) < diagLen {
		return fmt.Errorf("a socket of %d bytes, fewer than %d", len(msg), diagLen)
	}
	if msg[0] != unix.AF_INET && msg[0] != unix.AF_INET6 {
		return fmt.Errorf("a socket of the unknown family %d", msg[0])
	}
	state := State(msg[1])
	if state == 0 || int(state) >= len(c.states) {
		return fmt.Errorf("a socket in the unknown state %d", msg[1])
	}
	c.states[state]++
	port := binary.BigEndian.Uint16(msg[4:])
	if state == Listen {
		// The kernel lists listening sockets first within a family.
		c.listens[port/64] |= 1 << (port % 64)
		c.queue = max(c.queue, int(binary.NativeEndian.Uint32(msg[56:]))) // idiag_rqueue: sk_ack_backlog
		return nil
	}
	if port < low || port > high || c.listens[port/64]&(1<<(port%64)) != 0 {
		return nil
	}
	k := pair{port: binary.BigEndian.Uint16(msg[6:])}
	if k.port == 0 {
		return nil // bound, not connected
	}
	if msg[0] == unix.AF_INET {
		copy(k.src[:12], mapped[:])
		copy(k.dst[:12], mapped[:])
		copy(k.src[12:], msg[8:12])
		copy(k.dst[12:], msg[24:28])
	} else {
		copy(k.src[:], msg[8:24])
		copy(k.dst[:], msg[24:40])
	}
	c.used[k]++
	return nil
}

var mapped = [12]byte{10: 0xff, 11: 0xff}

func (c *census) result(size int) Census {
	out := Census{ByState: map[string]int{}, AcceptQueue: c.queue}
	for s, n := range c.states {
		if n > 0 {
			out.ByState[State(s).String()] += n
		}
	}
	var best pair
	for k, n := range c.used {
		if n > out.PortsUsedMax || n == out.PortsUsedMax && k.before(best) {
			best, out.PortsUsedMax = k, n
		}
	}
	if out.PortsUsedMax > 0 {
		out.BusiestDst = netip.AddrPortFrom(netip.AddrFrom16(best.dst).Unmap(), best.port)
		out.PortsUsedShare = float64(out.PortsUsedMax) / float64(size)
	}
	return out
}

// before orders pairs, so that of equals always the same one is named.
func (k pair) before(o pair) bool {
	if k.dst != o.dst {
		return string(k.dst[:]) < string(o.dst[:])
	}
	if k.port != o.port {
		return k.port < o.port
	}
	return string(k.src[:]) < string(o.src[:])
}
