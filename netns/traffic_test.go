package netns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// transfer sends size bytes from a to b over TCP and back, and returns the
// congestion control of a's socket.
func transfer(t *testing.T, a, b *Host, to netip.Addr, size int) string {
	t.Helper()
	var l net.Listener
	if err := b.Do(func() (err error) {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(to, 7).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			buf := make([]byte, size)
			if _, err = io.ReadFull(c, buf); err == nil {
				_, err = c.Write(buf)
			}
		}
		served <- err
	}()
	fd := -1
	if err := a.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			// Bounds the connect, which would try for two minutes.
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 10})
		}
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet4{Port: 7, Addr: to.As4()})
		}
		return err
	}); err != nil {
		t.Fatalf("connect to %v: %v", to, err)
	}
	cc, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "tcp")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := bytes.Repeat([]byte("wire"), size/4)
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("echo: %v, equal %v", err, bytes.Equal(got, sent))
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(cc, "\x00")
}

// ping sends one ICMP echo request and waits for its reply.
func ping(t *testing.T, h *Host, to netip.Addr) {
	t.Helper()
	var c net.PacketConn
	if err := h.Do(func() (err error) {
		c, err = net.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	msg := []byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}
	binary.BigEndian.PutUint16(msg[2:], onesComplement(msg))
	if _, err := c.WriteTo(msg, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatalf("no reply from %v: %v", to, err)
		}
		if n >= 8 && buf[0] == 0 && from.String() == to.String() {
			return
		}
	}
}

// onesComplement is the Internet checksum (RFC 1071) of b with sums before.
func onesComplement(b []byte, before ...uint32) uint16 {
	var sum uint32
	for _, s := range before {
		sum += s
	}
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// cable carries frames between the two ports of a link's middle and gives each
// to see, until the returned function is called.
func cable(t *testing.T, l *Link, see func(frame []byte)) (stop func()) {
	t.Helper()
	var ports [2]int
	err := l.Middle.Do(func() error {
		for i, dev := range []string{l.PortA, l.PortB} {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(bigEndian16(unix.ETH_P_ALL)))
			if err != nil {
				return err
			}
			ports[i] = fd
			in, err := net.InterfaceByName(dev)
			if err != nil {
				return err
			}
			if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
				return err
			}
			if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian16(unix.ETH_P_ALL), Ifindex: in.Index}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var quit [2]int
	if err := unix.Pipe2(quit[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, 1<<16)
		for {
			fds := []unix.PollFd{{Fd: int32(ports[0]), Events: unix.POLLIN}, {Fd: int32(ports[1]), Events: unix.POLLIN}, {Fd: int32(quit[0])}}
			if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
				done <- err
				return
			}
			if fds[2].Revents != 0 {
				done <- nil
				return
			}
			for i := range 2 {
				if fds[i].Revents == 0 {
					continue
				}
				n, err := unix.Read(ports[i], buf)
				if err == nil {
					see(buf[:n])
					_, err = unix.Write(ports[1-i], buf[:n])
				}
				// What does not fit is lost, as on any wire.
				if err != nil && !errors.Is(err, unix.ENOBUFS) {
					done <- err
					return
				}
			}
		}
	}()
	return func() {
		unix.Close(quit[1])
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, fd := range []int{quit[0], ports[0], ports[1]} {
			unix.Close(fd)
		}
	}
}

// oddFrame says what is wrong with an Ethernet frame, "" if nothing is.
func oddFrame(f []byte, mtu int) string {
	if len(f) < 14+20 || len(f) > 14+mtu {
		return fmt.Sprintf("%d bytes", len(f))
	}
	if kind := binary.BigEndian.Uint16(f[12:]); kind != unix.ETH_P_IP {
		return fmt.Sprintf("ethertype %#x", kind)
	}
	ip := f[14:]
	head, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if onesComplement(ip[:head]) != 0 {
		return "IP checksum"
	}
	if ip[9] == unix.IPPROTO_TCP {
		pseudo := []uint32{uint32(unix.IPPROTO_TCP), uint32(total - head)}
		for i := 12; i < 20; i += 2 {
			pseudo = append(pseudo, uint32(binary.BigEndian.Uint16(ip[i:])))
		}
		if onesComplement(ip[head:total], pseudo...) != 0 {
			return "TCP checksum"
		}
	}
	return ""
}
