package capture

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// DefaultSnaplen is enough for Ethernet, IPv4 and TCP with all their options.
const DefaultSnaplen = 134

const (
	// Of include/uapi/linux/if_packet.h. The kernel puts a frame's Ethernet
	// header at TPACKET_ALIGN(TPACKET2_HDRLEN + 16) − 14 = 66
	// (net/packet/af_packet.c: tpacket_rcv).
	ringHeader = 66
	sllOffset  = 32 // of struct sockaddr_ll behind struct tpacket2_hdr
	pkttype    = sllOffset + 10

	ringBytes = 4 << 20
	blockSize = 64 << 10
)

// A Tap is a TPACKET_V2 ring on one interface: frames that come and frames
// that go. Version 2, since version 3 keeps a kernel timer running for ever,
// which on a virtual clock is work without end, and holds frames back until
// it fires.
type Tap struct {
	iface string
	fd    int
	ring  []byte
	size  int // of a slot
	slots int
	next  int
	seen  int64 // by the filter, dropped ones included
	drops int64
}

// Open opens a tap on an interface of the calling thread's network namespace;
// it may be read from any thread. snaplen is how much of a frame is kept at
// most (0: DefaultSnaplen); of TCP only headers are kept in any case. It needs
// CAP_NET_RAW there, which the maker of a user namespace has.
func Open(iface string, snaplen int) (*Tap, error) {
	t, err := openRing(iface, snaplen, ringBytes)
	if err != nil {
		return nil, fmt.Errorf("capture on %s: %w", iface, err)
	}
	return t, nil
}

func openRing(iface string, snaplen, bytes int) (*Tap, error) {
	if snaplen == 0 {
		snaplen = DefaultSnaplen
	}
	if snaplen < 34 || snaplen > 65535 {
		return nil, fmt.Errorf("a snaplen of %d; from 34 to 65535", snaplen)
	}
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, err
	}
	// Protocol 0 receives nothing until bind: no frame of another interface
	// gets in.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("AF_PACKET: %w; CAP_NET_RAW is needed", err)
	}
	t := &Tap{iface: iface, fd: fd, size: 128}
	for t.size < ringHeader+snaplen {
		t.size *= 2
	}
	if err := t.setup(ifi.Index, snaplen, bytes); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func (t *Tap) setup(index, snaplen, bytes int) error {
	if err := unix.SetsockoptInt(t.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return fmt.Errorf("PACKET_VERSION: %w", err)
	}
	block := max(blockSize, t.size)
	for bytes = max(bytes, block); ; bytes /= 2 {
		req := unix.TpacketReq{
			Block_size: uint32(block), Block_nr: uint32(bytes / block),
			Frame_size: uint32(t.size), Frame_nr: uint32(bytes / block * (block / t.size)),
		}
		err := unix.SetsockoptTpacketReq(t.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req)
		if errors.Is(err, unix.ENOMEM) && bytes/2 >= block {
			continue
		}
		if err != nil {
			return fmt.Errorf("PACKET_RX_RING of %d bytes: %w", bytes, err)
		}
		bytes = int(req.Block_nr) * block
		t.slots = int(req.Frame_nr)
		break
	}
	if err := t.filter(headers(uint32(snaplen))); err != nil {
		return err
	}
	var err error
	if t.ring, err = unix.Mmap(t.fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("ring: %w", err)
	}
	sa := &unix.SockaddrLinklayer{Protocol: 3 << 8, Ifindex: index} // ETH_P_ALL: only it sees what goes out
	if hostIsBig {
		sa.Protocol = 3
	}
	if err := unix.Bind(t.fd, sa); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

var hostIsBig = func() bool { x := uint16(1); return *(*byte)(unsafe.Pointer(&x)) == 0 }()

func (t *Tap) filter(prog []bpf.Instruction) error {
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	fs := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		fs[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(fs)), Filter: &fs[0]}
	if err := unix.SetsockoptSockFprog(t.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	return nil
}

// headers lets IPv4 and ARP pass: of TCP exactly the headers, of later
// fragments the IP header, of the rest snaplen bytes (ICMP quotes the headers
// of what it is about).
func headers(snaplen uint32) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0806, SkipTrue: 13},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0800, SkipTrue: 13},
		bpf.LoadAbsolute{Off: 20, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 12},
		bpf.LoadAbsolute{Off: 23, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 6, SkipTrue: 8},
		bpf.LoadMemShift{Off: 14},               // X = IP header
		bpf.LoadIndirect{Off: 14 + 12, Size: 1}, // data offset
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 2},
		bpf.ALUOpX{Op: bpf.ALUOpAdd},
		bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 14},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: snaplen, SkipTrue: 1},
		bpf.RetA{},
		bpf.RetConstant{Val: snaplen},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 34},
	}
}

// frame is one captured frame; data lies in the ring and is valid until the
// slot is given back.
type frame struct {
	wall int64 // CLOCK_REALTIME, ns: the kernel's stamp
	wire int   // bytes on the wire
	out  bool  // sent by this host
	data []byte
}

// peek looks at the oldest frame in the ring, if there is one.
func (t *Tap) peek(f *frame) bool {
	slot := t.ring[t.next*t.size:][:t.size:t.size]
	if atomic.LoadUint32((*uint32)(unsafe.Pointer(&slot[0])))&unix.TP_STATUS_USER == 0 {
		return false
	}
	h := (*unix.Tpacket2Hdr)(unsafe.Pointer(&slot[0]))
	mac := int(h.Mac)
	end := min(mac+int(h.Snaplen), len(slot))
	f.wall = int64(h.Sec)*1e9 + int64(h.Nsec)
	f.wire = int(h.Len)
	f.out = slot[pkttype] == unix.PACKET_OUTGOING
	f.data = slot[min(mac, end):end]
	return true
}

// release gives the oldest frame's slot back to the kernel.
func (t *Tap) release() {
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&t.ring[t.next*t.size])), unix.TP_STATUS_KERNEL)
	if t.next++; t.next == t.slots {
		t.next = 0
	}
}

// stop lets nothing more in: what the ring holds then is the rest.
func (t *Tap) stop() error { return t.filter([]bpf.Instruction{bpf.RetConstant{Val: 0}}) }

// count adds up the kernel's counters, which reading resets.
func (t *Tap) count() error {
	st, err := unix.GetsockoptTpacketStats(t.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return fmt.Errorf("capture on %s: PACKET_STATISTICS: %w", t.iface, err)
	}
	t.seen += int64(st.Packets)
	t.drops += int64(st.Drops)
	return nil
}

// Close closes the tap. It may be called twice. A recorder closes its own.
func (t *Tap) Close() error {
	if t.fd < 0 {
		return nil
	}
	var errs []error
	if t.ring != nil {
		errs = append(errs, unix.Munmap(t.ring))
		t.ring = nil
	}
	errs = append(errs, unix.Close(t.fd))
	t.fd = -1
	return errors.Join(errs...)
}
