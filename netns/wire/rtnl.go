package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// statsPackets64 (TCA_STATS_PKT64) follows TCA_STATS_BASIC once its 32 bits do
// not suffice.
const statsPackets64 = 8

// rtnl is a connection to the kernel's routing netlink in one namespace, for
// what the library lacks of queueing disciplines.
type rtnl struct {
	socket map[int]*nl.SocketHandle
}

// openRtnl connects in the current thread's network namespace.
func openRtnl() (rtnl, error) {
	sock, err := nl.GetNetlinkSocketAt(vns.None(), vns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return rtnl{}, fmt.Errorf("wire: netlink: %w", err)
	}
	return rtnl{map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: sock}}}, nil
}

func (n *rtnl) close() {
	for _, s := range n.socket {
		s.Close()
	}
	n.socket = nil
}

type linkStats struct{ packets, bytes uint64 }

func (n *rtnl) execute(r *nl.NetlinkRequest, reply uint16) ([][]byte, error) {
	r.Sockets = n.socket
	return r.Execute(unix.NETLINK_ROUTE, reply)
}

// install puts qdiscs onto an interface and reads them back.
func (n *rtnl) install(ifindex int, qs []qdisc) (map[uint32]installed, error) {
	for _, q := range qs {
		if _, err := n.execute(q.request(ifindex), 0); err != nil {
			// ENOENT: sch_api.c knows no such kind.
			if errors.Is(err, unix.ENOENT) {
				return nil, &UnsupportedError{What: "sch_" + q.kind, Err: err}
			}
			return nil, fmt.Errorf("%s: %w", q.kind, err)
		}
	}
	set, err := n.read(ifindex)
	if err != nil {
		return nil, err
	}
	for _, q := range qs {
		s, ok := set[q.handle]
		if !ok || s.kind != q.kind {
			return nil, fmt.Errorf("%s was accepted, but is not there", q.kind)
		}
		if err := q.differs(s.options); err != nil {
			return nil, err
		}
	}
	return set, nil
}

// remove takes the qdisc that install put at an interface's root.
func (n *rtnl) remove(ifindex int) error {
	r := nl.NewNetlinkRequest(unix.RTM_DELQDISC, unix.NLM_F_ACK)
	r.AddData(&nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(ifindex), Parent: rootParent, Handle: rootHandle})
	// ENOENT, EINVAL: it was never installed. ENODEV: the port has gone.
	_, err := n.execute(r, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// installed is a qdisc as the kernel has it.
type installed struct {
	kind    string
	options []byte
	packets uint64 // dequeued
	bytes   uint64
	queued  uint64
	drops   uint64
}

// read gives an interface's qdiscs by handle.
func (n *rtnl) read(ifindex int) (map[uint32]installed, error) {
	r := nl.NewNetlinkRequest(unix.RTM_GETQDISC, unix.NLM_F_DUMP)
	r.AddData(&nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(ifindex)})
	msgs, err := n.execute(r, unix.RTM_NEWQDISC)
	if err != nil {
		return nil, fmt.Errorf("read the qdiscs back: %w", err)
	}
	out := map[uint32]installed{}
	for _, m := range msgs {
		if err := parseQdisc(m, ifindex, out); err != nil {
			return nil, fmt.Errorf("read the qdiscs back: %w", err)
		}
	}
	return out, nil
}

// parseQdisc adds the qdisc of an RTM_NEWQDISC message if it is on ifindex.
func parseQdisc(m []byte, ifindex int, out map[uint32]installed) error {
	if len(m) < nl.SizeofTcMsg {
		return fmt.Errorf("a message of %d bytes", len(m))
	}
	if int(int32(binary.LittleEndian.Uint32(m[4:]))) != ifindex {
		return nil
	}
	var q installed
	err := attributes(m[nl.SizeofTcMsg:], func(typ int, data []byte) error {
		switch typ {
		case nl.TCA_KIND:
			q.kind = string(bytes.TrimRight(data, "\x00"))
		case nl.TCA_OPTIONS:
			q.options = data
		case nl.TCA_STATS2:
			return attributes(data, func(typ int, data []byte) error {
				switch {
				case typ == nl.TCA_STATS_BASIC && len(data) >= 12:
					q.bytes, q.packets = binary.LittleEndian.Uint64(data), uint64(binary.LittleEndian.Uint32(data[8:]))
				case typ == statsPackets64 && len(data) >= 8:
					q.packets = binary.LittleEndian.Uint64(data)
				case typ == nl.TCA_STATS_QUEUE && len(data) >= 12: // qlen, backlog, drops
					q.queued, q.drops = uint64(binary.LittleEndian.Uint32(data)), uint64(binary.LittleEndian.Uint32(data[8:]))
				}
				return nil
			})
		}
		return nil
	})
	out[binary.LittleEndian.Uint32(m[8:])] = q
	return err
}

// linkStats are what an interface has received.
func (n *rtnl) linkStats(ifindex int) (s linkStats, err error) {
	r := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(ifindex)
	r.AddData(msg)
	msgs, err := n.execute(r, 0)
	if err != nil || len(msgs) == 0 || len(msgs[0]) < unix.SizeofIfInfomsg {
		return s, fmt.Errorf("wire: read the port's statistics: %w", errors.Join(err, unix.ENODATA))
	}
	err = attributes(msgs[0][unix.SizeofIfInfomsg:], func(typ int, data []byte) error {
		if typ == unix.IFLA_STATS64 && len(data) >= 32 { // rx and tx packets, rx and tx bytes
			s = linkStats{binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint64(data[16:])}
		}
		return nil
	})
	return s, err
}
