package wire

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	ringBytes = 8 << 20 // of each port: 4,096 full frames at an MTU of 1,500
	minSlot   = 2048
	minBlock  = 1 << 16
	// ringRoom is what the kernel may put before and after the packet in a
	// slot: its header, the Ethernet header and a VLAN tag, aligned.
	ringRoom = 128
	batch    = 64 // frames handed to the kernel by one call

	packetIgnoreOutgoing = 23 // PACKET_IGNORE_OUTGOING, Linux 4.20
)

// port is an AF_PACKET socket on one interface. Frames come in by a
// TPACKET_V2 ring, since a ring's size is not bounded by rmem_max, which a
// plain user cannot raise, and go out by sendmmsg past the queueing discipline.
type port struct {
	name     string
	fd       int
	ring     []byte
	slotSize int
	perBlock int
	block    int
	slots    int
	next     int

	out   []mmsghdr
	iov   []unix.Iovec
	sent  []entry // what out holds, for the frames' slots
	ready int
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   uint32
}

// received is a frame in the ring, valid until release.
type received struct {
	data []byte
	// stamp is when the kernel put the frame into the ring, CLOCK_REALTIME ns
	// (tpacket_rcv; PACKET_TIMESTAMP offers no other clock).
	stamp    int64
	length   int  // on the wire; more than len(data) if it was cut
	unsummed bool // its checksum is still to be filled in
	tagged   bool // its VLAN tag is beside it
}

func openPort(name string) (_ *port, err error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("wire: packet socket: %w (it needs CAP_NET_RAW in the namespace's user namespace)", err)
	}
	p := &port{name: name, fd: fd}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	index, mtu, err := p.identify()
	if err != nil {
		return nil, fmt.Errorf("wire: port %s: %w", name, err)
	}
	for _, o := range []struct {
		name   string
		option int
		value  int
	}{
		{"PACKET_VERSION", unix.PACKET_VERSION, unix.TPACKET_V2},
		{"PACKET_IGNORE_OUTGOING", packetIgnoreOutgoing, 1},
		{"PACKET_QDISC_BYPASS", unix.PACKET_QDISC_BYPASS, 1},
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, o.option, o.value); err != nil {
			return nil, fmt.Errorf("wire: port %s: %s: %w", name, o.name, err)
		}
	}
	if err := p.makeRing(mtu); err != nil {
		return nil, fmt.Errorf("wire: port %s: %w", name, err)
	}
	// Nothing is received before this: the socket was made for protocol 0.
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}); err != nil {
		return nil, fmt.Errorf("wire: bind to %s: %w", name, err)
	}
	p.out, p.iov, p.sent = make([]mmsghdr, batch), make([]unix.Iovec, batch), make([]entry, batch)
	for i := range p.out {
		p.out[i].hdr.Iov = &p.iov[i]
		p.out[i].hdr.SetIovlen(1)
	}
	return p, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 } // every Linux that Go runs tcplab on is little-endian

func (p *port) identify() (index, mtu int, err error) {
	r, err := unix.NewIfreq(p.name)
	if err != nil {
		return 0, 0, fmt.Errorf("not an interface name: %w", err)
	}
	if err := unix.IoctlIfreq(p.fd, unix.SIOCGIFINDEX, r); err != nil {
		return 0, 0, fmt.Errorf("no such interface in this namespace: %w", err)
	}
	index = int(r.Uint32())
	if err := unix.IoctlIfreq(p.fd, unix.SIOCGIFMTU, r); err != nil {
		return 0, 0, fmt.Errorf("its MTU: %w", err)
	}
	return index, int(r.Uint32()), nil
}

func (p *port) makeRing(mtu int) error {
	p.slotSize = minSlot
	for p.slotSize < mtu+ringRoom {
		p.slotSize *= 2
	}
	p.block = max(minBlock, p.slotSize)
	p.perBlock = p.block / p.slotSize
	blocks := ringBytes / p.block
	p.slots = blocks * p.perBlock
	req := unix.TpacketReq{
		Block_size: uint32(p.block), Block_nr: uint32(blocks),
		Frame_size: uint32(p.slotSize), Frame_nr: uint32(p.slots),
	}
	if err := unix.SetsockoptTpacketReq(p.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fmt.Errorf("PACKET_RX_RING of %d MiB: %w", ringBytes>>20, err)
	}
	ring, err := unix.Mmap(p.fd, 0, blocks*p.block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	p.ring = ring
	return nil
}

func (p *port) header() *unix.Tpacket2Hdr {
	return (*unix.Tpacket2Hdr)(unsafe.Pointer(&p.ring[p.next*p.slotSize]))
}

// pending reports whether a frame waits in the ring, without a system call.
func (p *port) pending() bool {
	return atomic.LoadUint32(&p.header().Status)&unix.TP_STATUS_USER != 0
}

// receive is the frame at the ring's front.
func (p *port) receive(r *received) bool {
	h := p.header()
	status := atomic.LoadUint32(&h.Status)
	if status&unix.TP_STATUS_USER == 0 {
		return false
	}
	at := p.next*p.slotSize + int(h.Mac)
	r.data = p.ring[at : at+int(h.Snaplen)]
	r.length = int(h.Len)
	r.stamp = int64(h.Sec)*1e9 + int64(h.Nsec)
	r.unsummed = status&unix.TP_STATUS_CSUMNOTREADY != 0
	r.tagged = status&unix.TP_STATUS_VLAN_VALID != 0
	return true
}

// release gives the frame at the ring's front back to the kernel.
func (p *port) release() {
	atomic.StoreUint32(&p.header().Status, unix.TP_STATUS_KERNEL)
	if p.next++; p.next == p.slots {
		p.next = 0
	}
}

// check clears the socket's error and says whether the port can go on: an
// interface that is down may come up again, one that is gone may not. One that
// is about to go is down first, and says nothing more then: down means that
// somebody should look again.
func (p *port) check() (down bool, err error) {
	errno, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return false, fmt.Errorf("wire: port %s: %w", p.name, err)
	}
	if e := syscall.Errno(errno); errno != 0 && e != unix.ENETDOWN {
		if _, _, err := p.identify(); err == nil {
			return false, fmt.Errorf("wire: port %s: %w", p.name, e)
		}
	}
	r, err := unix.NewIfreq(p.name)
	if err == nil {
		err = unix.IoctlIfreq(p.fd, unix.SIOCGIFFLAGS, r)
	}
	if err != nil {
		return false, fmt.Errorf("wire: port %s is gone: stop the wire before its hosts", p.name)
	}
	return r.Uint16()&unix.IFF_UP == 0, nil
}

// put adds a frame to the batch; the caller flushes a full one.
func (p *port) put(e entry, data []byte) {
	p.iov[p.ready].Base = &data[0]
	p.iov[p.ready].SetLen(len(data))
	p.sent[p.ready] = e
	p.ready++
}

// transmit hands p.out[from:p.ready] to the kernel, and says how many it took.
// The calls never block, so the runtime need not hear of them.
func (p *port) transmit(from int) (int, syscall.Errno) {
	if p.ready-from == 1 { // sendmmsg costs more than the call it saves
		_, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(p.fd),
			uintptr(unsafe.Pointer(p.iov[from].Base)), uintptr(p.iov[from].Len), unix.MSG_DONTWAIT, 0, 0)
		if e != 0 {
			return 0, e
		}
		return 1, 0
	}
	n, _, e := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(p.fd),
		uintptr(unsafe.Pointer(&p.out[from])), uintptr(p.ready-from), unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// drops are the frames that found the ring full since the last call.
func (p *port) drops() uint64 {
	s, err := unix.GetsockoptTpacketStats(p.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0 // the socket is closed
	}
	return uint64(s.Drops)
}

func (p *port) close() error {
	var errs []error
	if p.ring != nil {
		errs = append(errs, unix.Munmap(p.ring))
		p.ring = nil
	}
	if p.fd >= 0 {
		errs = append(errs, unix.Close(p.fd))
		p.fd = -1
	}
	return errors.Join(errs...)
}
