package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// route is one IPv4 unicast route of the main table.
type route struct {
	dst     netip.Prefix // masked
	via     netip.Addr   // invalid: on link
	src     netip.Addr   // invalid: the kernel chooses
	dev     string
	index   int
	congctl string // "": the namespace's default
}

// AddRoute adds a route to dst through the interface dev, by the gateway via
// (the zero Addr: dst is on the link). congctl, if not empty, pins the
// congestion control of connections that take the route: it is locked, so a
// socket's own choice is refused (EPERM from TCP_CONGESTION), and it works for
// a plain user, whom the sysctl would refuse. The route is read back.
func (h *Host) AddRoute(dst netip.Prefix, via netip.Addr, dev, congctl string) error {
	if !dst.IsValid() || !dst.Addr().Is4() || (via.IsValid() && !via.Is4()) {
		return fmt.Errorf("host %s: route to %v by %v: only IPv4 is routed here", h.Name, dst, via)
	}
	index := 0
	err := h.withNetlink(func(n *netlink.Handle) error {
		l, err := n.LinkByName(dev)
		if err != nil {
			return fmt.Errorf("host %s: route to %v: interface %s: %w", h.Name, dst, dev, err)
		}
		index = l.Attrs().Index
		return nil
	})
	if err != nil {
		return err
	}
	return h.addRoute(route{dst: dst.Masked(), via: via, dev: dev, index: index, congctl: congctl})
}

func (h *Host) addRoute(r route) error {
	err := h.Do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
		for _, d := range r.message() {
			req.AddData(d)
		}
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		switch {
		case errors.Is(err, unix.EEXIST):
			return fmt.Errorf("there is such a route already: %w", err)
		case errors.Is(err, unix.EINVAL) && r.congctl != "":
			return fmt.Errorf("%w: perhaps this kernel has no congestion control %q (it has: %s)", err, r.congctl, availableCongestionControls())
		case err != nil:
			return err
		}
		return r.readBack()
	})
	if err != nil {
		return fmt.Errorf("host %s: %v: %w", h.Name, r, err)
	}
	return nil
}

func (r route) String() string {
	s := "route to " + r.dst.String()
	if r.via.IsValid() {
		s += " by " + r.via.String()
	}
	return s + " on " + r.dev
}

// message is written by hand because the library's Route cannot lock the
// congestion control (RTAX_LOCK).
func (r route) message() []nl.NetlinkRequestData {
	msg := nl.NewRtMsg() // main table, scope universe, proto boot, unicast
	msg.Family = unix.AF_INET
	msg.Dst_len = uint8(r.dst.Bits())
	attrs := []nl.NetlinkRequestData{
		nl.NewRtAttr(unix.RTA_DST, r.dst.Addr().AsSlice()),
		nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(r.index))),
	}
	if r.via.IsValid() {
		attrs = append(attrs, nl.NewRtAttr(unix.RTA_GATEWAY, r.via.AsSlice()))
	} else {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	if r.src.IsValid() {
		attrs = append(attrs, nl.NewRtAttr(unix.RTA_PREFSRC, r.src.AsSlice()))
	}
	if r.congctl != "" {
		metrics := nl.NewRtAttr(unix.RTA_METRICS, nil)
		metrics.AddRtAttr(unix.RTAX_LOCK, nl.Uint32Attr(1<<unix.RTAX_CC_ALGO))
		metrics.AddRtAttr(unix.RTAX_CC_ALGO, nl.ZeroTerminated(r.congctl))
		attrs = append(attrs, metrics)
	}
	return append([]nl.NetlinkRequestData{msg}, attrs...)
}

// readBack finds the route in the calling thread's namespace and compares what
// the kernel keeps with what was asked for.
func (r route) readBack() error {
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	ask := nl.NewRtMsg()
	ask.Family = unix.AF_INET
	req.AddData(ask)
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if err != nil {
		return fmt.Errorf("read it back: %w", err)
	}
	for _, m := range msgs {
		got, table, locked, err := parseRoute(m)
		if err != nil {
			return fmt.Errorf("read it back: %w", err)
		}
		if table != unix.RT_TABLE_MAIN || got.dst != r.dst || got.index != r.index || got.via != r.via {
			continue
		}
		if got.congctl != r.congctl || (r.congctl != "" && !locked) {
			return fmt.Errorf("read back congestion control %q (locked: %v), wanted %q (locked)", got.congctl, locked, r.congctl)
		}
		return nil
	}
	return errors.New("the kernel took it, but it cannot be read back")
}

// parseRoute decodes a route message (struct rtmsg and its attributes).
func parseRoute(m []byte) (r route, table uint32, ccLocked bool, err error) {
	if len(m) < unix.SizeofRtMsg {
		return r, 0, false, errors.New("route message is too short")
	}
	head := nl.DeserializeRtMsg(m)
	table = uint32(head.Table)
	dst := netip.IPv4Unspecified()
	metric := func(kind uint16, value []byte) error {
		switch kind {
		case unix.RTAX_LOCK:
			ccLocked = nativeUint32(value)&(1<<unix.RTAX_CC_ALGO) != 0
		case unix.RTAX_CC_ALGO:
			r.congctl = unix.ByteSliceToString(value)
		}
		return nil
	}
	err = attributes(m[unix.SizeofRtMsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(value)
		case unix.RTA_GATEWAY:
			r.via, _ = netip.AddrFromSlice(value)
		case unix.RTA_PREFSRC:
			r.src, _ = netip.AddrFromSlice(value)
		case unix.RTA_OIF:
			r.index = int(nativeUint32(value))
		case unix.RTA_TABLE:
			table = nativeUint32(value)
		case unix.RTA_METRICS:
			return attributes(value, metric)
		}
		return nil
	})
	if err != nil {
		return route{}, 0, false, err
	}
	r.dst = netip.PrefixFrom(dst, int(head.Dst_len))
	return r, table, ccLocked, nil
}

// attributes gives each netlink attribute (struct rtattr: length, kind, then
// the value, padded to 4 bytes) to f. The library's own loop panics when the
// last one is not padded.
func attributes(b []byte, f func(kind uint16, value []byte) error) error {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if size < unix.SizeofRtAttr || size > len(b) {
			return fmt.Errorf("attribute %d has %d bytes of %d", kind, size, len(b))
		}
		if err := f(kind, b[unix.SizeofRtAttr:size]); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

func nativeUint32(value []byte) uint32 {
	if len(value) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(value)
}

func availableCongestionControls() string {
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b)), ", ")
}
