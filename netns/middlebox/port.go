package middlebox

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	ringBytes = 4 << 20 // of each interface: 2,048 full frames at an MTU of 1,500
	minSlot   = 2048
	minBlock  = 1 << 16
	// ringRoom is what the kernel may put beside the packet in a slot.
	ringRoom = 128

	packetIgnoreOutgoing = 23 // PACKET_IGNORE_OUTGOING, Linux 4.20
)

// port is a packet socket on one interface: a TPACKET_V2 ring in, whose room
// no sysctl bounds, and send out. What it sends passes the interface's own
// queueing, and not beside it: captures on the interface see it.
type port struct {
	name     string
	fd       int
	ring     []byte
	slotSize int
	slots    int
	next     int
}

func openPort(name string) (_ *port, err error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("middlebox: packet socket: %w (it needs CAP_NET_RAW in the namespace's user namespace)", err)
	}
	p := &port{name: name, fd: fd}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("middlebox: interface %s: %w", name, err), p.close())
		}
	}()
	r, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r); err != nil {
		return nil, fmt.Errorf("no such interface in this namespace: %w", err)
	}
	index := int(r.Uint32())
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFMTU, r); err != nil {
		return nil, fmt.Errorf("its MTU: %w", err)
	}
	for _, o := range []struct {
		name          string
		option, value int
	}{{"PACKET_VERSION", unix.PACKET_VERSION, unix.TPACKET_V2}, {"PACKET_IGNORE_OUTGOING", packetIgnoreOutgoing, 1}} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, o.option, o.value); err != nil {
			return nil, fmt.Errorf("%s: %w", o.name, err)
		}
	}
	if err := p.makeRing(int(r.Uint32())); err != nil {
		return nil, err
	}
	// Nothing is received before this: the socket was made for protocol 0.
	const all = unix.ETH_P_ALL
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: index}); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *port) makeRing(mtu int) error {
	p.slotSize = minSlot
	for p.slotSize < mtu+ringRoom {
		p.slotSize *= 2
	}
	block := max(minBlock, p.slotSize)
	p.slots = ringBytes / p.slotSize
	req := unix.TpacketReq{
		Block_size: uint32(block), Block_nr: uint32(ringBytes / block),
		Frame_size: uint32(p.slotSize), Frame_nr: uint32(p.slots),
	}
	if err := unix.SetsockoptTpacketReq(p.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fmt.Errorf("PACKET_RX_RING of %d MiB: %w", ringBytes>>20, err)
	}
	ring, err := unix.Mmap(p.fd, 0, ringBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	p.ring = ring
	return nil
}

func (p *port) header() *unix.Tpacket2Hdr {
	return (*unix.Tpacket2Hdr)(unsafe.Pointer(&p.ring[p.next*p.slotSize]))
}

// receive is the frame at the ring's front, valid until release; nil for none.
// One that is cut or has a VLAN tag is empty: a link of the lab has neither.
func (p *port) receive() []byte {
	h := p.header()
	status := atomic.LoadUint32(&h.Status)
	if status&unix.TP_STATUS_USER == 0 {
		return nil
	}
	at := p.next*p.slotSize + int(h.Mac)
	if h.Len != h.Snaplen || status&unix.TP_STATUS_VLAN_VALID != 0 {
		return p.ring[at:at]
	}
	return p.ring[at : at+int(h.Snaplen)]
}

// release gives the frame at the ring's front back to the kernel.
func (p *port) release() {
	atomic.StoreUint32(&p.header().Status, unix.TP_STATUS_KERNEL)
	if p.next++; p.next == p.slots {
		p.next = 0
	}
}

func (p *port) send(frame []byte) error {
	_, err := unix.Write(p.fd, frame)
	return err
}

// check clears the socket's error and says whether the port can go on: an
// interface that is down may come up again, one that is gone may not.
func (p *port) check() error {
	errno, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 && errno != int(unix.ENETDOWN) {
		err = syscall.Errno(errno)
	}
	if err == nil {
		r, _ := unix.NewIfreq(p.name)
		err = unix.IoctlIfreq(p.fd, unix.SIOCGIFINDEX, r)
	}
	if err != nil {
		return fmt.Errorf("middlebox: interface %s: %w: stop the middlebox before its links", p.name, err)
	}
	return nil
}

// drops are the frames that found the ring full since the last call.
func (p *port) drops() int64 {
	s, err := unix.GetsockoptTpacketStats(p.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0
	}
	return int64(s.Drops)
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
