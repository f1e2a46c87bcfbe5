package crosscheck

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
	"tcplab/netns"
)

const (
	device     = "eth0"
	clientPort = 40000
	serverPort = 7
)

var addresses = [2]netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("192.0.2.2/24")}

// A conversation is a connection between two hosts at a cable, past its first
// exchange, and with no packet on its way.
type conversation struct {
	hosts          [2]*netns.Host // the client's and the server's
	link           *netns.Link
	client, server int   // the connection's ends
	ear            int   // hears the client's interface
	last           int64 // when the first exchange's last packet was heard
	open           []int
}

// settle is longer than an ACK is delayed.
const settle = 300 * time.Millisecond

// converse makes a conversation. The keys of client and server are sysctls
// besides the pinned ones; the server tracks connections if it is told to.
func converse(client, server map[string]string, track bool) (_ *conversation, err error) {
	c := &conversation{}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	for i, own := range []map[string]string{client, server} {
		if c.hosts[i], err = netns.NewHost([]string{"client", "server"}[i]); err != nil {
			return nil, err
		}
		if _, _, err = c.hosts[i].Pin(netns.RoleHost, own); err != nil {
			return nil, err
		}
	}
	if track {
		if err := c.hosts[1].Route(netns.RouterConfig{Track: true}); err != nil {
			return nil, err
		}
	}
	c.link, err = netns.Connect(netns.LinkConfig{Name: device, DirectPair: true,
		A: netns.Endpoint{Host: c.hosts[0], Addr: addresses[0]}, B: netns.Endpoint{Host: c.hosts[1], Addr: addresses[1]}})
	if err != nil {
		return nil, err
	}
	if err := c.connect(); err != nil {
		return nil, err
	}
	if err := c.exchange([]int{1}, 1); err != nil {
		return nil, err
	}
	time.Sleep(settle)
	frames, err := c.heard()
	if err != nil {
		return nil, err
	}
	c.last = frames[len(frames)-1].at
	return c, nil
}

func (c *conversation) connect() error {
	at := &unix.SockaddrInet4{Port: serverPort, Addr: addresses[1].Addr().As4()}
	var listener int
	err := c.hosts[1].Do(func() (err error) {
		if listener, err = c.socket(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil {
			return err
		}
		return errors.Join(unix.Bind(listener, at), unix.Listen(listener, 1))
	})
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	err = c.hosts[0].Do(func() (err error) {
		if c.ear, err = c.listenIn(); err != nil {
			return err
		}
		if c.client, err = c.socket(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil {
			return err
		}
		from := &unix.SockaddrInet4{Port: clientPort, Addr: addresses[0].Addr().As4()}
		if err := unix.Bind(c.client, from); err != nil {
			return err
		}
		return unix.Connect(c.client, at)
	})
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if c.server, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC); err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	c.open = append(c.open, c.server)
	return nil
}

func (c *conversation) socket(family, kind, proto int) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err == nil {
		c.open = append(c.open, fd)
	}
	return fd, err
}

// listenIn opens a socket that hears all frames of the interface, with the
// kernel's stamps. There are few: its buffer keeps them until heard is called.
func (c *conversation) listenIn() (int, error) {
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // only it hears what goes out
	fd, err := c.socket(unix.AF_PACKET, unix.SOCK_RAW, int(all))
	if err != nil {
		return fd, err
	}
	return fd, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
}

// A frame of TCP that the client sent or got.
type frame struct {
	at      int64
	out     bool
	payload int
}

// heard are the frames since it was called last.
func (c *conversation) heard() (all []frame, err error) {
	wall := clock.WallOffset()
	buf, oob := make([]byte, 2048), make([]byte, 128)
	for {
		n, on, _, from, err := unix.Recvmsg(c.ear, buf, oob, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		cms, err := unix.ParseSocketControlMessage(oob[:on])
		if err != nil || len(cms) != 1 || len(cms[0].Data) < 16 {
			return nil, fmt.Errorf("a frame without a stamp (%d control messages, %v)", len(cms), err)
		}
		stamp := cms[0].Data
		f := frame{at: int64(binary.NativeEndian.Uint64(stamp))*1e9 + int64(binary.NativeEndian.Uint64(stamp[8:])) - wall}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			f.out = ll.Pkttype == unix.PACKET_OUTGOING
		}
		const ether, tcp = 14, 6
		ip := buf[ether:max(n, ether)]
		if n < ether+40 || binary.BigEndian.Uint16(buf[12:]) != unix.ETH_P_IP || ip[9] != tcp {
			continue
		}
		header := int(ip[0]&0xf) * 4
		segment := ip[header:]
		f.payload = int(binary.BigEndian.Uint16(ip[2:])) - header - int(segment[12]>>4)*4
		all = append(all, f)
	}
}

// deafen has the server's kernel hear nothing more of the connection, without a
// sign to the client: a filter that accepts no byte discards segments before
// TCP sees them (net/ipv4/tcp_ipv4.c: tcp_filter).
func (c *conversation) deafen() error {
	none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	return unix.SetsockoptSockFprog(c.server, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none})
}

// silence waits until the client's kernel gives the connection up, and says
// when it sent something until then, and when the program heard of the end.
func (c *conversation) silence() (at []int64, end int64, err error) {
	err = read(c.client, 1)
	end = clock.Now()
	if !errors.Is(err, unix.ETIMEDOUT) {
		return nil, 0, fmt.Errorf("the silence ended in %v, not in ETIMEDOUT", err)
	}
	frames, err := c.heard()
	for _, f := range frames {
		if f.out {
			at = append(at, f.at)
		}
	}
	return at, end, err
}

// lookUp is ENOENT if the tracker of the calling thread's network namespace
// does not know the connection. It asks for the one entry: a listing goes
// through the whole machine's table, which takes 10 ms of some.
func (c *conversation) lookUp() error {
	req := nl.NewNetlinkRequest(nl.IPCTNL_MSG_CT_GET|unix.NFNL_SUBSYS_CTNETLINK<<8, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	tuple := nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, nil)
	ip := tuple.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil)
	ip.AddRtAttr(nl.CTA_IP_V4_SRC, addresses[0].Addr().AsSlice())
	ip.AddRtAttr(nl.CTA_IP_V4_DST, addresses[1].Addr().AsSlice())
	proto := tuple.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_TCP})
	proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, binary.BigEndian.AppendUint16(nil, clientPort))
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, serverPort))
	req.AddData(tuple)
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}

func (c *conversation) close() {
	for _, fd := range c.open {
		unix.Close(fd)
	}
	if c.link != nil {
		c.link.Close()
	}
	for _, h := range c.hosts {
		if h != nil {
			h.Close()
		}
	}
}

// exchange is a request, in so many writes, and an answer to all of it.
func (c *conversation) exchange(request []int, answer int) error {
	whole := 0
	for _, n := range request {
		if _, err := unix.Write(c.client, make([]byte, n)); err != nil {
			return err
		}
		whole += n
	}
	if err := read(c.server, whole); err != nil {
		return err
	}
	if _, err := unix.Write(c.server, make([]byte, answer)); err != nil {
		return err
	}
	return read(c.client, answer)
}

// read reads exactly n bytes.
func read(fd, n int) error {
	buf := make([]byte, n)
	for n > 0 {
		got, err := unix.Read(fd, buf[:n])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case got == 0:
			return errors.New("the peer has closed")
		default:
			n -= got
		}
	}
	return nil
}
