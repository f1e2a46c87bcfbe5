package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn speaks to the tracker of one network namespace. Its methods may be
// called from any thread and take turns.
type Conn struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	buf []byte
}

// Open opens the tracker of the network namespace of the calling thread. That
// does not switch tracking on: a rule does, that asks for it.
func Open() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("conntrack: %w; the kernel needs CONFIG_NF_CT_NETLINK", err)
	}
	c := &Conn{fd: fd, buf: make([]byte, 64<<10)}
	// An answer that does not come is a fault of the kernel's, and nothing to
	// wait for.
	tv := unix.Timeval{Sec: 10}
	// CAP_ACK: errors do not repeat the request.
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1), unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("conntrack: %w", err)
	}
	return c, nil
}

// Close closes it. It may be called twice.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	err := unix.Close(c.fd)
	c.fd = -1
	return err
}

// Message types of ctnetlink (enum cntl_msg_types).
const (
	msgNew      = 0
	msgGet      = 1
	msgDelete   = 2
	msgStatsCPU = 4
	msgStats    = 5

	subsystem = 1 // NFNL_SUBSYS_CTNETLINK
)

// message is a request without its attributes.
func (c *Conn) message(b []byte, kind uint16, flags uint16, family uint8) []byte {
	c.seq++
	ne := binary.NativeEndian
	b = ne.AppendUint32(b, 0)
	b = ne.AppendUint16(b, subsystem<<8|kind)
	b = ne.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = ne.AppendUint32(b, c.seq)
	b = ne.AppendUint32(b, 0)
	return append(b, family, 0, 0, 0) // struct nfgenmsg
}

// seal writes the length of the message that begins at from.
func seal(b []byte, from int) []byte {
	binary.NativeEndian.PutUint32(b[from:], uint32(len(b)-from))
	return b
}

func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(nlaLen+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// nested is an attribute made of attributes.
func nested(b []byte, kind uint16, inner func([]byte) []byte) []byte {
	from := len(b)
	b = append(b, 0, 0, 0, 0)
	b = inner(b)
	binary.NativeEndian.PutUint16(b[from:], uint16(len(b)-from))
	binary.NativeEndian.PutUint16(b[from+2:], kind|nlaNested)
	return b
}

func (c *Conn) send(b []byte) error {
	if c.fd < 0 {
		return errors.New("it is closed")
	}
	return unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// receive reads one datagram.
func (c *Conn) receive(flags int) ([]byte, error) {
	for {
		n, _, got, _, err := unix.Recvmsg(c.fd, c.buf, nil, flags)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if got&unix.MSG_TRUNC != 0 {
			return nil, fmt.Errorf("an answer was cut to %d bytes", n)
		}
		return c.buf[:n], nil
	}
}

const dumpInterrupted = 0x10 // NLM_F_DUMP_INTR

// errInterrupted is a dump during which the table changed too much.
var errInterrupted = errors.New("the table changed during the dump")

// each walks the netlink messages of one datagram and hands those of request
// seq to f; done tells that the last has come.
func each(b []byte, seq uint32, f func(msg []byte) error) (done bool, err error) {
	ne := binary.NativeEndian
	for len(b) > 0 {
		if len(b) < nlmsgLen {
			return false, fmt.Errorf("%d bytes after the last message", len(b))
		}
		size := int(ne.Uint32(b))
		if size < nlmsgLen || size > len(b) {
			return false, fmt.Errorf("a message of %d bytes in %d", size, len(b))
		}
		kind, flags, msg := ne.Uint16(b[4:]), ne.Uint16(b[6:]), b[nlmsgLen:size]
		mine := ne.Uint32(b[8:]) == seq
		b = b[min((size+3)&^3, len(b)):]
		if !mine {
			continue
		}
		if flags&dumpInterrupted != 0 {
			return false, errInterrupted
		}
		switch kind {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			if len(msg) >= 4 {
				if e := int32(ne.Uint32(msg)); e < 0 {
					return false, syscall.Errno(-e)
				}
			}
			return true, nil
		default:
			if err := f(msg); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// ask sends one request and hands each message of the answer to f. It ends
// with the answer's end, or with the first message where it is single.
func (c *Conn) ask(kind, flags uint16, single bool, f func(msg []byte) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	family := uint8(unix.AF_INET)
	if kind == msgStats || kind == msgStatsCPU {
		family = unix.AF_UNSPEC
	}
	if err := c.send(seal(c.message(nil, kind, flags, family), 0)); err != nil {
		return fmt.Errorf("conntrack: request: %w", err)
	}
	got := false
	for {
		b, err := c.receive(0)
		if err != nil {
			return fmt.Errorf("conntrack: answer: %w", err)
		}
		done, err := each(b, c.seq, func(msg []byte) error { got = true; return f(msg) })
		if err != nil {
			return fmt.Errorf("conntrack: answer: %w", err)
		}
		if done || single && got {
			return nil
		}
	}
}

// Entries lists the IPv4 flows that keep wants, all of them where it is nil.
// Other goroutines' and the kernel's own changes may fall into the middle.
func (c *Conn) Entries(keep func(Entry) bool) ([]Entry, error) {
	var out []Entry
	var err error
	for range 3 {
		out = nil
		err = c.ask(msgGet, unix.NLM_F_DUMP, false, func(msg []byte) error {
			e, err := ParseEntry(msg)
			if err == nil && (keep == nil || keep(e)) {
				out = append(out, e)
			}
			return err
		})
		if !errors.Is(err, errInterrupted) {
			break
		}
	}
	return out, err
}

// Counters reads the tracker's counters.
func (c *Conn) Counters() (Counters, error) {
	var sum Counters
	err := c.ask(msgStatsCPU, unix.NLM_F_DUMP, false, func(msg []byte) error { return ParseCounters(msg, &sum) })
	return sum, err
}

// Size is how many entries there are and how many there may be. The bound is
// the machine's, the count the namespace's.
func (c *Conn) Size() (entries, most int64, err error) {
	err = c.ask(msgStats, 0, true, func(msg []byte) error {
		if len(msg) < nfgenLen {
			return errShort
		}
		return attributes(msg[nfgenLen:], func(kind uint16, v []byte) error {
			n, err := number(v)
			switch kind {
			case ctaGlobalEntries:
				entries = int64(n)
			case ctaGlobalMax:
				most = int64(n)
			}
			return err
		})
	})
	return entries, most, err
}

// Flush forgets every flow.
func (c *Conn) Flush() error {
	return c.ask(msgDelete, unix.NLM_F_ACK, false, func([]byte) error { return nil })
}

// Fill describes entries that stand for flows of others: TCP, established,
// from addresses in 11.0.0.0/8 to To.
type Fill struct {
	Entries int
	// Assured entries have had an answer: the kernel does not throw them out
	// when the table is full.
	Assured bool
	Timeout time.Duration
	To      netip.Addr
}

// fillNet is where Fill's entries come from.
var fillNet = netip.PrefixFrom(netip.AddrFrom4([4]byte{11}), 8)

// Filled tells whether an entry is one of Fill's.
func Filled(e Entry) bool { return fillNet.Contains(e.Orig.Src.Addr()) }

const fillBatch = 100 // messages a call: their errors, if all fail, fit the socket's buffer

// Fill inserts entries without sending a packet and says how many the kernel
// took. A full table (ENOMEM) is no error: the rest is not tried.
func (c *Conn) Fill(f Fill) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	status := uint32(Confirmed)
	if f.Assured {
		status |= SeenReply | Assured
	}
	var b []byte
	inserted := 0
	for from := 0; from < f.Entries; from += fillBatch {
		b = b[:0]
		n := min(fillBatch, f.Entries-from)
		for i := range n {
			at, flags := len(b), uint16(unix.NLM_F_CREATE|unix.NLM_F_EXCL)
			if i == n-1 { // errors come anyway: the last one's answer says that all came
				flags |= unix.NLM_F_ACK
			}
			b = c.message(b, msgNew, flags, unix.AF_INET)
			b = seal(fillEntry(b, f, from+i, status), at)
		}
		if err := c.send(b); err != nil {
			return inserted, fmt.Errorf("conntrack: fill: %w", err)
		}
		refused, full, err := c.acknowledged(uint32(n))
		if err != nil {
			return inserted, err
		}
		if inserted += n - refused; full {
			break
		}
	}
	return inserted, nil
}

// acknowledged reads the answers to the n requests up to the last one.
func (c *Conn) acknowledged(n uint32) (refused int, full bool, err error) {
	ne := binary.NativeEndian
	for {
		b, err := c.receive(0)
		if err != nil {
			return refused, full, fmt.Errorf("conntrack: fill: %w", err)
		}
		for len(b) >= nlmsgLen+4 {
			size := int(ne.Uint32(b))
			if size < nlmsgLen+4 || size > len(b) {
				return refused, full, fmt.Errorf("conntrack: fill: an answer of %d bytes in %d", size, len(b))
			}
			seq, errno := ne.Uint32(b[8:]), syscall.Errno(-int32(ne.Uint32(b[nlmsgLen:])))
			b = b[min((size+3)&^3, len(b)):]
			if c.seq-seq >= n {
				continue // of an earlier request
			}
			switch errno {
			case 0:
			case unix.ENOMEM: // nf_conntrack_alloc
				refused, full = refused+1, true
			default:
				return refused, full, fmt.Errorf("conntrack: fill: %w", errno)
			}
			if seq == c.seq {
				return refused, full, nil
			}
		}
	}
}

// fillEntry is the attributes of the i-th entry.
func fillEntry(b []byte, f Fill, i int, status uint32) []byte {
	const ports = 1 << 15
	src, dst := netip.AddrFrom4([4]byte{11, byte(i >> 23), byte(i >> 15 & 0xff), 1}), f.To
	sport, dport := uint16(1024+i%ports), uint16(9)
	tuple := func(kind uint16, src, dst netip.Addr, sport, dport uint16) {
		b = nested(b, kind, func(b []byte) []byte {
			b = nested(b, ctaTupleIP, func(b []byte) []byte {
				return attribute(attribute(b, ctaIPv4Src, src.AsSlice()), ctaIPv4Dst, dst.AsSlice())
			})
			return nested(b, ctaTupleProto, func(b []byte) []byte {
				b = attribute(b, ctaProtoNum, []byte{unix.IPPROTO_TCP})
				b = attribute(b, ctaSrcPort, binary.BigEndian.AppendUint16(nil, sport))
				return attribute(b, ctaDstPort, binary.BigEndian.AppendUint16(nil, dport))
			})
		})
	}
	tuple(ctaOrig, src, dst, sport, dport)
	tuple(ctaReply, dst, src, dport, sport)
	b = attribute(b, ctaStatus, binary.BigEndian.AppendUint32(nil, status))
	b = attribute(b, ctaTimeout, binary.BigEndian.AppendUint32(nil, uint32(f.Timeout/time.Second)))
	return nested(b, ctaProtoInfo, func(b []byte) []byte {
		return nested(b, ctaProtoInfoTCP, func(b []byte) []byte {
			return attribute(b, ctaTCPState, []byte{established})
		})
	})
}
