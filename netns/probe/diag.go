package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// State is a TCP state, numbered as in include/net/tcp_states.h.
type State uint8

// The states, by RFC 9293's names.
const (
	Established State = iota + 1
	SynSent
	SynRecv
	FinWait1
	FinWait2 // also a TIME-WAIT socket that still waits for the peer's FIN
	TimeWait
	Closed
	CloseWait
	LastAck
	Listen
	Closing
	newSynRecv
	boundInactive // bound, not connected; listed only if asked for
)

var stateNames = [...]string{"?", "ESTABLISHED", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2",
	"TIME-WAIT", "CLOSED", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "SYN-RECV", "BOUND"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Mask is the state's bit in DumpOptions.States.
func (s State) Mask() uint32 { return 1 << s }

// AllStates is the mask of every state.
const AllStates uint32 = 1<<(newSynRecv+1) - 2

// DumpOptions says which sockets to list. The zero value lists all of them.
type DumpOptions struct {
	States uint32 // State.Mask()s or'ed; 0 is all
	Info   bool   // with tcp_info, congestion control, what BBR believes, and socket memory
}

// Socket is one TCP socket, as inet_diag tells it.
type Socket struct {
	Src, Dst netip.AddrPort // IPv4 in IPv6 is unmapped; no Dst port while listening
	State    State
	Timer    uint8 // 0 none, 1 retransmission, 2 keepalive, 3 TIME-WAIT, 4 zero-window probe
	Retrans  uint8
	Expires  time.Duration // of the timer
	RQueue   uint32        // B to be read; connections to be accepted while listening
	WQueue   uint32        // B not yet acknowledged; the backlog while listening
	UID      uint32
	Inode    uint32 // 0 without a process
	Cookie   uint64 // the same for the socket's whole life
	Info     *TCPInfo
	Cong     string   // congestion control
	BBR      *BBRInfo // nil: it is not BBR
	Skmem    []uint32
}

// Indices into Socket.Skmem (include/uapi/linux/sock_diag.h), in bytes but for
// the drops.
const (
	SkmemRmemAlloc = iota
	SkmemRcvbuf
	SkmemWmemAlloc
	SkmemSndbuf
	SkmemFwdAlloc
	SkmemWmemQueued
	SkmemOptmem
	SkmemBacklog
	SkmemDrops
)

// extensions are the attributes to ask for. The field has eight bits and
// INET_DIAG_BBRINFO is the sixteenth: bbr_get_info (net/ipv4/tcp_bbr.c) answers
// to Vegas' bit too.
func (o DumpOptions) extensions() uint8 {
	if !o.Info {
		return 0
	}
	return 1<<(diagInfo-1) | 1<<(diagVegas-1) | 1<<(diagCong-1) | 1<<(diagSkmem-1)
}

// Dump lists the namespace's TCP sockets, IPv4 and IPv6. It is not a snapshot:
// the kernel walks its table while sockets come and go. The walk alone costs
// some 3 ms, since the table is the machine's.
func (p *Probe) Dump(opts DumpOptions) ([]Socket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.diag == nil {
		return nil, errClosed
	}
	var out []Socket
	err := retry(func() error {
		out = out[:0]
		return p.diag.dump(opts.States, opts.extensions(), func(msg []byte) error {
			s, err := ParseSocket(msg)
			if err != nil {
				return err
			}
			out = append(out, s)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("probe: socket dump: %w", err)
	}
	return out, nil
}

// ErrInterrupted is a dump that the kernel says is inconsistent
// (NLM_F_DUMP_INTR), three times in a row.
var ErrInterrupted = errors.New("the table changed during the dump; try again")

func retry(f func() error) error {
	var err error
	for range 3 {
		if err = f(); !errors.Is(err, ErrInterrupted) {
			break
		}
	}
	return err
}

// diag is a NETLINK_SOCK_DIAG socket.
type diag struct {
	fd  int
	seq uint32
	buf []byte
	req [nlmsgLen + 56]byte
}

const (
	nlmsgLen = 16 // struct nlmsghdr
	diagLen  = 72 // struct inet_diag_msg

	// attributes, include/uapi/linux/inet_diag.h
	diagInfo  = 2
	diagVegas = 3
	diagCong  = 4
	diagSkmem = 7
	diagBBR   = 16

	nlmDumpIntr = 0x10
)

func openDiag(groups uint32) (*diag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("sock_diag: %w; the kernel needs CONFIG_INET_DIAG", err)
	}
	d := &diag{fd: fd, buf: make([]byte, 64<<10)}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		d.close()
		return nil, fmt.Errorf("sock_diag: bind: %w", err)
	}
	if groups == 0 {
		// A dump is written by the reader's own recvmsg: an answer that does
		// not come is a fault of the kernel's, not something to wait for.
		tv := unix.Timeval{Sec: 10}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			d.close()
			return nil, fmt.Errorf("sock_diag: %w", err)
		}
	}
	return d, nil
}

func (d *diag) close() error { return unix.Close(d.fd) }

// dump asks for the TCP sockets of both families and hands each message
// (inet_diag_msg and its attributes) to f, valid during the call.
func (d *diag) dump(states uint32, ext uint8, f func(msg []byte) error) error {
	if states == 0 {
		states = AllStates
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := d.dumpFamily(family, states, ext, f)
		if family == unix.AF_INET6 && errors.Is(err, unix.ENOENT) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// request is a struct inet_diag_req_v2 in its netlink message, with a sequence
// number of its own; valid until the next one.
func (d *diag) request(family uint8, states uint32, ext uint8, flags uint16) []byte {
	d.seq++
	b := d.req[:]
	clear(b)
	ne := binary.NativeEndian
	ne.PutUint32(b[0:], uint32(len(b)))
	ne.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	ne.PutUint16(b[6:], flags)
	ne.PutUint32(b[8:], d.seq)
	b[16], b[17], b[18] = family, unix.IPPROTO_TCP, ext
	ne.PutUint32(b[20:], states)
	return b
}

func (d *diag) send(b []byte) error {
	if err := unix.Sendto(d.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	return nil
}

// receive takes one datagram into d.buf.
func (d *diag) receive() (int, error) {
	for {
		n, _, flags, _, err := unix.Recvmsg(d.fd, d.buf, nil, 0)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("answer: %w", err)
		case flags&unix.MSG_TRUNC != 0:
			return 0, fmt.Errorf("answer: cut to %d bytes", n)
		default:
			return n, nil
		}
	}
}

func (d *diag) dumpFamily(family uint8, states uint32, ext uint8, f func(msg []byte) error) error {
	if err := d.send(d.request(family, states, ext, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)); err != nil {
		return err
	}
	interrupted := false
	for {
		n, err := d.receive()
		if err != nil {
			return err
		}
		done, intr, err := parseAnswer(d.buf[:n], d.seq, f)
		if err != nil {
			return err
		}
		interrupted = interrupted || intr
		if done {
			break
		}
	}
	if interrupted {
		return ErrInterrupted
	}
	return nil
}

// parseAnswer walks the netlink messages of one datagram. Messages of another
// request (one that was given up) are passed over.
func parseAnswer(b []byte, seq uint32, f func(msg []byte) error) (done, interrupted bool, err error) {
	ne := binary.NativeEndian
	for len(b) > 0 {
		if len(b) < nlmsgLen {
			return false, false, fmt.Errorf("answer: %d bytes after the last message", len(b))
		}
		size := int(ne.Uint32(b))
		if size < nlmsgLen || size > len(b) {
			return false, false, fmt.Errorf("answer: a message of %d bytes in %d", size, len(b))
		}
		typ, flags, msg := ne.Uint16(b[4:]), ne.Uint16(b[6:]), b[nlmsgLen:size]
		mine := ne.Uint32(b[8:]) == seq
		b = b[min((size+3)&^3, len(b)):]
		if !mine {
			continue
		}
		if flags&nlmDumpIntr != 0 {
			interrupted = true
		}
		switch typ {
		case unix.NLMSG_DONE:
			// Its payload is the dump's return value.
			if len(msg) >= 4 {
				if e := int32(ne.Uint32(msg)); e < 0 {
					return false, false, fmt.Errorf("answer: %w", unix.Errno(-e))
				}
			}
			return true, interrupted, nil
		case unix.NLMSG_ERROR:
			if len(msg) < 4 {
				return false, false, errors.New("answer: an error message without an error")
			}
			if e := int32(ne.Uint32(msg)); e < 0 {
				return false, false, fmt.Errorf("answer: %w", unix.Errno(-e))
			}
		case unix.NLMSG_OVERRUN:
			return false, false, errors.New("answer: overrun, data was lost")
		case unix.NLMSG_NOOP:
		case unix.SOCK_DIAG_BY_FAMILY:
			if err := f(msg); err != nil {
				return false, false, err
			}
		default:
			return false, false, fmt.Errorf("answer: a message of unknown type %d", typ)
		}
	}
	return false, interrupted, nil
}

// ParseSocket decodes an inet_diag_msg with its attributes
// (include/uapi/linux/inet_diag.h). Attributes it does not know are passed
// over; one that is cut short is an error.
func ParseSocket(msg []byte) (Socket, error) {
	var s Socket
	if len(msg) < diagLen {
		return s, fmt.Errorf("a socket of %d bytes, fewer than %d", len(msg), diagLen)
	}
	ne, be := binary.NativeEndian, binary.BigEndian
	src, err := diagAddr(msg[0], msg[8:24])
	if err != nil {
		return s, err
	}
	dst, err := diagAddr(msg[0], msg[24:40])
	if err != nil {
		return s, err
	}
	s.Src = netip.AddrPortFrom(src, be.Uint16(msg[4:]))
	s.Dst = netip.AddrPortFrom(dst, be.Uint16(msg[6:]))
	s.State, s.Timer, s.Retrans = State(msg[1]), msg[2], msg[3]
	if s.State == 0 || s.State > boundInactive {
		return s, fmt.Errorf("a socket in the unknown state %d", msg[1])
	}
	if s.State == newSynRecv {
		s.State = SynRecv
	}
	s.Cookie = uint64(ne.Uint32(msg[44:])) | uint64(ne.Uint32(msg[48:]))<<32
	s.Expires = time.Duration(ne.Uint32(msg[52:])) * time.Millisecond
	s.RQueue, s.WQueue = ne.Uint32(msg[56:]), ne.Uint32(msg[60:])
	s.UID, s.Inode = ne.Uint32(msg[64:]), ne.Uint32(msg[68:])
	for b := msg[diagLen:]; len(b) > 0; {
		if len(b) < 4 {
			return s, fmt.Errorf("%d bytes after the last attribute", len(b))
		}
		size, typ := int(ne.Uint16(b)), ne.Uint16(b[2:])
		if size < 4 || size > len(b) {
			return s, fmt.Errorf("attribute %d of %d bytes in %d", typ, size, len(b))
		}
		val := b[4:size]
		b = b[min((size+3)&^3, len(b)):]
		switch typ {
		case diagInfo:
			info, err := ParseTCPInfo(val)
			if err != nil {
				return s, err
			}
			s.Info = &info
		case diagCong:
			s.Cong = cString(val)
		case diagBBR:
			bbr, err := ParseBBRInfo(val)
			if err != nil {
				return s, err
			}
			s.BBR = &bbr
		case diagSkmem:
			if len(val)%4 != 0 {
				return s, fmt.Errorf("skmem of %d bytes", len(val))
			}
			s.Skmem = make([]uint32, len(val)/4)
			for i := range s.Skmem {
				s.Skmem[i] = ne.Uint32(val[4*i:])
			}
		}
	}
	return s, nil
}

func diagAddr(family uint8, b []byte) (netip.Addr, error) {
	switch family {
	case unix.AF_INET:
		return netip.AddrFrom4([4]byte(b)), nil
	case unix.AF_INET6:
		return netip.AddrFrom16([16]byte(b)).Unmap(), nil
	}
	return netip.Addr{}, fmt.Errorf("a socket of the unknown family %d", family)
}

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
