package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Status bits of an entry (enum ip_conntrack_status).
const (
	SeenReply = 1 << 1
	Assured   = 1 << 2 // it is not thrown out when the table is full
	Confirmed = 1 << 3
	SourceNAT = 1 << 4
)

// States of TCP as conntrack has them (enum tcp_conntrack).
var states = [...]string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}

const established = 3

// Tuple is one direction of a flow.
type Tuple struct{ Src, Dst netip.AddrPort }

// Entry is a flow that the kernel tracks.
type Entry struct {
	Proto       uint8
	Orig, Reply Tuple // as packets come from who opened it, and from the other side
	Status      uint32
	State       string // of TCP
	// Left is the time until the entry is dropped unless a valid packet comes.
	Left time.Duration
}

// String is the entry as `conntrack -L` prints it.
func (e Entry) String() string {
	var b strings.Builder
	name := fmt.Sprint(e.Proto)
	switch e.Proto {
	case unix.IPPROTO_TCP:
		name = "tcp"
	case unix.IPPROTO_UDP:
		name = "udp"
	}
	fmt.Fprintf(&b, "%s %d %d ", name, e.Proto, int64(e.Left/time.Second))
	if e.State != "" {
		b.WriteString(e.State + " ")
	}
	tuple := func(t Tuple) {
		fmt.Fprintf(&b, "src=%s dst=%s sport=%d dport=%d ", t.Src.Addr(), t.Dst.Addr(), t.Src.Port(), t.Dst.Port())
	}
	tuple(e.Orig)
	if e.Status&SeenReply == 0 {
		b.WriteString("[UNREPLIED] ")
	}
	tuple(e.Reply)
	if e.Status&Assured != 0 {
		b.WriteString("[ASSURED] ")
	}
	return strings.TrimSuffix(b.String(), " ")
}

// Attributes (include/uapi/linux/netfilter/nfnetlink_conntrack.h). Their
// values are in network byte order.
const (
	ctaOrig      = 1
	ctaReply     = 2
	ctaStatus    = 3
	ctaProtoInfo = 4
	ctaTimeout   = 7

	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaIPv4Src    = 1
	ctaIPv4Dst    = 2
	ctaIPv6Src    = 3
	ctaIPv6Dst    = 4
	ctaProtoNum   = 1
	ctaSrcPort    = 2
	ctaDstPort    = 3

	ctaProtoInfoTCP  = 1
	ctaTCPState      = 1
	ctaGlobalEntries = 1
	ctaGlobalMax     = 2
)

const (
	nlmsgLen  = 16 // struct nlmsghdr
	nfgenLen  = 4  // struct nfgenmsg
	nlaLen    = 4  // struct nlattr
	nlaNested = 0x8000
	nlaTypes  = 0x3fff
)

// attributes gives each attribute of b to f.
func attributes(b []byte, f func(kind uint16, value []byte) error) error {
	for len(b) >= nlaLen {
		size := int(binary.NativeEndian.Uint16(b))
		kind := binary.NativeEndian.Uint16(b[2:]) & nlaTypes
		if size < nlaLen || size > len(b) {
			return fmt.Errorf("attribute %d has %d bytes of %d", kind, size, len(b))
		}
		if err := f(kind, b[nlaLen:size]); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	if len(b) > 0 {
		return fmt.Errorf("%d bytes after the last attribute", len(b))
	}
	return nil
}

var errShort = errors.New("an attribute is too short")

func number(b []byte) (uint32, error) {
	if len(b) < 4 {
		return 0, errShort
	}
	return binary.BigEndian.Uint32(b), nil
}

// ParseEntry reads one message of a dump, from its nfgenmsg on.
func ParseEntry(msg []byte) (Entry, error) {
	var e Entry
	if len(msg) < nfgenLen {
		return e, errShort
	}
	err := attributes(msg[nfgenLen:], func(kind uint16, v []byte) (err error) {
		switch kind {
		case ctaOrig:
			e.Orig, e.Proto, err = parseTuple(v)
		case ctaReply:
			e.Reply, _, err = parseTuple(v)
		case ctaStatus:
			e.Status, err = number(v)
		case ctaTimeout:
			var s uint32
			s, err = number(v)
			e.Left = time.Duration(s) * time.Second
		case ctaProtoInfo:
			err = attributes(v, func(kind uint16, v []byte) error {
				if kind != ctaProtoInfoTCP {
					return nil
				}
				return attributes(v, func(kind uint16, v []byte) error {
					if kind != ctaTCPState {
						return nil
					}
					if len(v) < 1 {
						return errShort
					}
					if int(v[0]) >= len(states) {
						return fmt.Errorf("TCP state %d", v[0])
					}
					e.State = states[v[0]]
					return nil
				})
			})
		}
		return err
	})
	if err == nil && !e.Orig.Src.IsValid() {
		err = errors.New("an entry without addresses")
	}
	return e, err
}

func parseTuple(b []byte) (t Tuple, proto uint8, err error) {
	var src, dst netip.Addr
	var sport, dport uint16
	err = attributes(b, func(kind uint16, v []byte) error {
		switch kind {
		case ctaTupleIP:
			return attributes(v, func(kind uint16, v []byte) error {
				a, ok := netip.AddrFromSlice(v)
				switch kind {
				case ctaIPv4Src, ctaIPv6Src:
					src = a
				case ctaIPv4Dst, ctaIPv6Dst:
					dst = a
				default:
					return nil
				}
				if !ok {
					return fmt.Errorf("an address of %d bytes", len(v))
				}
				return nil
			})
		case ctaTupleProto:
			return attributes(v, func(kind uint16, v []byte) error {
				switch {
				case kind == ctaProtoNum && len(v) >= 1:
					proto = v[0]
				case kind == ctaSrcPort && len(v) >= 2:
					sport = binary.BigEndian.Uint16(v)
				case kind == ctaDstPort && len(v) >= 2:
					dport = binary.BigEndian.Uint16(v)
				case kind <= ctaDstPort:
					return errShort
				}
				return nil
			})
		}
		return nil
	})
	return Tuple{netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)}, proto, err
}

// Counters of the tracker, summed over CPUs, since the namespace was made.
type Counters struct {
	Found, Invalid, Insert, InsertFailed, Drop, EarlyDrop, Error int64
}

// counters by their attribute (enum ctattr_stats_cpu).
func (c *Counters) by(kind uint16) *int64 {
	switch kind {
	case 2:
		return &c.Found
	case 4:
		return &c.Invalid
	case 8:
		return &c.Insert
	case 9:
		return &c.InsertFailed
	case 10:
		return &c.Drop
	case 11:
		return &c.EarlyDrop
	case 12:
		return &c.Error
	}
	return nil
}

// ParseCounters adds one CPU's message up.
func ParseCounters(msg []byte, c *Counters) error {
	if len(msg) < nfgenLen {
		return errShort
	}
	return attributes(msg[nfgenLen:], func(kind uint16, v []byte) error {
		at := c.by(kind)
		if at == nil {
			return nil
		}
		n, err := number(v)
		*at += int64(n)
		return err
	})
}
