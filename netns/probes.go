package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const getModule = "a kernel built with it; most distributions' kernels are"

// probes is all that can be asked for, in the order in which it is shown.
func probes() []probe {
	noPlain := "a plain user cannot run labs on the host's kernel"
	return []probe{
		{UserNamespaces, "user namespaces", noPlain, "run as root, or see the error for the sysctl or rule that forbids them", askUserNamespaces},
		{NetworkNamespaces, "network namespaces", "no lab on the host's kernel", "run as root, or use --clock=virtual", askNetworkNamespaces},
		{Sysctls, "the sysctls that a lab pins", "runs are not comparable with those of other machines", "a /proc/sys that can be written (in containers: --privileged)", askSysctls},
		{Priority, "priority over others (CAP_SYS_NICE)", "where others use the CPUs too, wires and programs wait for them, and more runs are invalid", "run as root (in containers: --cap-add SYS_NICE)", askPriority},
		{Veth, "veth pairs", "no links, so no lab on the host's kernel", getModule + " (CONFIG_VETH)", askLink(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "probe0"}, PeerName: "probe1"})},
		{Bridge, "bridges", "no netem wire; the userspace wire needs none", getModule + " (CONFIG_BRIDGE)", askLink(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "probe0"}})},
		{AFPacket, "AF_PACKET sockets", "no userspace wire, no middleboxes, no captures", getModule + " (CONFIG_PACKET)", askPacket},
		{TPacketV3, "AF_PACKET rings (TPACKET_V3)", "bursts are lost in sockets' buffers", "Linux 3.2 or newer", askRing},
		{TXTime, "SO_TXTIME", "the wire releases frames by a timer: some 10 to 100 µs late", "Linux 4.19 or newer", askTXTime},
		{Tun, "/dev/net/tun", "nothing: wires use AF_PACKET", "run as root", askTun},
		{NFTables, "nftables", "no routers with filters, no middleboxes", getModule + " (CONFIG_NF_TABLES_INET)", askNFT(false)},
		{NFTablesNAT, "nftables NAT", "no NAT routers of Linux's own; middleboxes of ours do without", getModule + " (CONFIG_NFT_NAT)", askNFT(true)},
		{Conntrack, "connection tracking, with its netlink interface", "no routers with state of Linux's own", getModule + " (CONFIG_NF_CONNTRACK, CONFIG_NF_CT_NETLINK)", askConntrack},
		{InetDiag, "inet_diag", "sockets are not counted by state: no TIME-WAIT or port use over time, no triage", getModule + " (CONFIG_INET_TCP_DIAG)", askDiag(unix.SOCK_DIAG_BY_FAMILY)},
		{InetDiagDestroy, "inet_diag's destroy", "faults that destroy a socket are refused", getModule + " (CONFIG_INET_DIAG_DESTROY)", askDiag(unix.SOCK_DESTROY)},
		{SocketDeaths, "messages about dying sockets", "final tcp_info comes from samples only", getModule + " (CONFIG_INET_DIAG)", askSocketDeaths},
		{TCPInfo, "TCP_INFO", "no tcp.* metrics", "any kernel since 2.6", askTCPInfo},
		{SchNetem, "the netem queueing discipline", "wires of kind netem are refused; auto takes the userspace wire", getModule + " (CONFIG_NET_SCH_NETEM), or the guest kernel", askQdisc("netem")},
		{SchFQ, "the fq queueing discipline", "the wire releases frames by a timer: some 10 to 100 µs late", getModule + " (CONFIG_NET_SCH_FQ), or the guest kernel", askQdisc("fq")},
		{SchHTB, "the htb queueing discipline", "no netem wire with a rate and a queue in bytes", getModule + " (CONFIG_NET_SCH_HTB)", askQdisc("htb")},
		{SchTBF, "the tbf queueing discipline", "no netem wire with a rate and a queue in bytes", getModule + " (CONFIG_NET_SCH_TBF)", askQdisc("tbf")},
		{CongReno, "congestion control reno, by route", "arms that ask for it are not asked", "every Linux has it", askCongestion("reno")},
		{CongCubic, "congestion control cubic, by route", "arms that ask for it are not asked, and it is the default of most sheets", getModule + " (CONFIG_TCP_CONG_CUBIC); modprobe tcp_cubic", askCongestion("cubic")},
		{CongBBR, "congestion control bbr, by route", "arms that ask for it are not asked", getModule + " (CONFIG_TCP_CONG_BBR); modprobe tcp_bbr", askCongestion("bbr")},
	}
}

// inThrowAway runs ask in a namespace made for it.
func inThrowAway(ask func(h *Host) (string, error)) (string, error) {
	h, err := NewHost("probe")
	if err != nil {
		return "", err
	}
	detail, err := ask(h)
	return detail, errors.Join(err, h.Close())
}

// askUserNamespaces clones as the process tree does, into a program that does
// not exist: ENOENT means that all before it went well.
func askUserNamespaces() (string, error) {
	pid, err := syscall.ForkExec("/proc/self/exe/none", []string{"none"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}})
	switch {
	case err == nil:
		return "", fmt.Errorf("a program that cannot exist was started as process %d", pid)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
	default:
		return "", refusedIf(ExplainForbidden(os.DirFS("/"), false, "", err), ErrNamespacesForbidden)
	}
	if os.Geteuid() == 0 {
		if rule := plainUserRule(os.DirFS("/")); rule != "" {
			return "for root; a plain user is refused by " + rule, nil
		}
	}
	return "", nil
}

func askNetworkNamespaces() (string, error) {
	_, err := inThrowAway(func(*Host) (string, error) { return "", nil })
	return "", refusedIf(err, unix.EPERM, unix.EINVAL, unix.ENOSPC, unix.ENOSYS)
}

func askSysctls() (string, error) {
	return inThrowAway(func(h *Host) (string, error) {
		_, missed, err := h.Pin(RoleHost, nil)
		if err != nil {
			return "", refused(err)
		}
		if len(missed) == 0 {
			return fmt.Sprintf("all %d", len(pinned)), nil
		}
		var keys []string
		for _, m := range missed {
			keys = append(keys, m.Key)
		}
		return fmt.Sprintf("%d of %d; this kernel lacks or keeps %s", len(pinned)-len(missed), len(pinned), strings.Join(keys, ", ")), nil
	})
}

// askPriority makes a thread go first, and puts it back.
func askPriority() (string, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return "", refusedIf(err, unix.ENOSYS, unix.EPERM)
	}
	first := *own
	first.Nice = -20
	if err := unix.SchedSetAttr(0, &first, 0); err != nil {
		return "", refusedIf(err, unix.ENOSYS, unix.EPERM)
	}
	return "", unix.SchedSetAttr(0, own, 0)
}

func askLink(link netlink.Link) func() (string, error) {
	return func() (string, error) {
		return inThrowAway(func(h *Host) (string, error) {
			return "", h.withNetlink(func(n *netlink.Handle) error {
				return refusedIf(n.LinkAdd(link), unix.EOPNOTSUPP, unix.EPERM)
			})
		})
	}
}

// withSocket opens a socket in the throw-away namespace for f.
func withSocket(family, kind, proto int, f func(fd int) (string, error)) (string, error) {
	return inThrowAway(func(h *Host) (detail string, err error) {
		err = h.Do(func() error {
			fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
			if err != nil {
				return refusedIf(err, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.EPERM, unix.EACCES)
			}
			defer unix.Close(fd)
			detail, err = f(fd)
			return err
		})
		return detail, err
	})
}

func askPacket() (string, error) {
	return withSocket(unix.AF_PACKET, unix.SOCK_RAW, int(bigEndian16(unix.ETH_P_ALL)), func(fd int) (string, error) {
		// PACKET_IGNORE_OUTGOING (Linux 4.20) keeps a port from hearing itself.
		err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		return "", refusedIf(err, unix.ENOPROTOOPT)
	})
}

func askRing() (string, error) {
	return withSocket(unix.AF_PACKET, unix.SOCK_RAW, 0, func(fd int) (string, error) {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
			return "", refusedIf(err, unix.EINVAL, unix.ENOPROTOOPT)
		}
		page := uint32(os.Getpagesize())
		req := unix.TpacketReq3{Block_size: 4 * page, Block_nr: 2, Frame_size: 2048, Frame_nr: 2 * 4 * page / 2048, Retire_blk_tov: 10}
		if err := unix.SetsockoptTpacketReq3(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
			return "", refusedIf(err, unix.EINVAL, unix.ENOPROTOOPT, unix.ENOMEM, unix.EPERM)
		}
		ring, err := unix.Mmap(fd, 0, int(req.Block_size*req.Block_nr), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return "", refusedIf(err, unix.EAGAIN, unix.ENOMEM, unix.EPERM)
		}
		return "", unix.Munmap(ring)
	})
}

func askTXTime() (string, error) {
	return withSocket(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) (string, error) {
		// struct sock_txtime: clock, flags. CLOCK_MONOTONIC needs no privilege.
		arg := make([]byte, 8)
		binary.NativeEndian.PutUint32(arg, unix.CLOCK_MONOTONIC)
		return "", refusedIf(unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_TXTIME, string(arg)), unix.ENOPROTOOPT, unix.EPERM)
	})
}

func askTun() (string, error) {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return "", refusedIf(err, unix.ENOENT, unix.EACCES, unix.EPERM, unix.ENODEV, unix.ENXIO)
	}
	return "", f.Close()
}

func askNFT(nat bool) func() (string, error) {
	return func() (string, error) {
		return inThrowAway(func(h *Host) (string, error) {
			return "", h.Do(func() error {
				c, err := nftables.New()
				if err != nil {
					return refusedIf(err, unix.EPROTONOSUPPORT, unix.EPERM)
				}
				table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "probe"})
				chain := &nftables.Chain{Name: "probe", Table: table, Type: nftables.ChainTypeFilter,
					Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter}
				rule := []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
				if nat {
					chain.Type, chain.Hooknum, chain.Priority = nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource
					rule = []expr.Any{&expr.Masq{}}
				}
				c.AddRule(&nftables.Rule{Table: table, Chain: c.AddChain(chain), Exprs: rule})
				return refusedIf(c.Flush(), unix.EOPNOTSUPP, unix.ENOENT, unix.EINVAL, unix.EPERM, unix.EPROTONOSUPPORT)
			})
		})
	}
}

func askConntrack() (string, error) {
	return inThrowAway(func(h *Host) (detail string, err error) {
		if _, err := h.Sysctl("net.netfilter.nf_conntrack_max"); err != nil {
			return "", refusedIf(err, ErrNoSysctl)
		}
		err = h.Do(func() error {
			n, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
			if err != nil {
				return refusedIf(err, unix.EPROTONOSUPPORT, unix.EPERM)
			}
			defer n.Close()
			_, err = n.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
			return refusedIf(err, unix.EINVAL, unix.EOPNOTSUPP, unix.ENOENT, unix.EPERM)
		})
		return "", err
	})
}

// inetDiagReq is struct inet_diag_req_v2 (include/uapi/linux/inet_diag.h).
type inetDiagReq struct {
	family, protocol, ext, pad uint8
	states                     uint32
	id                         struct {
		sport, dport [2]byte
		src, dst     [16]byte
		iface        uint32
		cookie       [2]uint32
	}
}

func (r *inetDiagReq) Len() int { return int(unsafe.Sizeof(*r)) }

func (r *inetDiagReq) Serialize() []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r))...)
}

// askDiag asks for, or tells to destroy, a TCP socket that does not exist:
// ENOENT is the answer of a kernel that can. (One without the TCP part of
// inet_diag answers ENOENT too, so a dump comes first.)
func askDiag(kind int) func() (string, error) {
	return func() (string, error) {
		return inThrowAway(func(h *Host) (string, error) {
			return "", h.Do(func() error {
				dump := nl.NewNetlinkRequest(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
				dump.AddData(&inetDiagReq{family: unix.AF_INET, protocol: unix.IPPROTO_TCP, states: ^uint32(0)})
				if _, err := dump.Execute(unix.NETLINK_SOCK_DIAG, 0); err != nil {
					return refusedIf(err, unix.ENOENT, unix.EPROTONOSUPPORT, unix.EINVAL)
				}
				if kind == unix.SOCK_DIAG_BY_FAMILY {
					return nil
				}
				req := nl.NewNetlinkRequest(kind, unix.NLM_F_ACK)
				none := &inetDiagReq{family: unix.AF_INET, protocol: unix.IPPROTO_TCP, states: ^uint32(0)}
				none.id.sport, none.id.dport = [2]byte{0, 1}, [2]byte{0, 1}
				none.id.cookie = [2]uint32{^uint32(0), ^uint32(0)} // INET_DIAG_NOCOOKIE
				req.AddData(none)
				_, err := req.Execute(unix.NETLINK_SOCK_DIAG, 0)
				if errors.Is(err, unix.ENOENT) {
					return nil
				}
				return refusedIf(err, unix.EOPNOTSUPP, unix.EPERM, unix.EINVAL)
			})
		})
	}
}

func askSocketDeaths() (string, error) {
	const tcpDestroy = 1 // SKNLGRP_INET_TCP_DESTROY
	return withSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG, func(fd int) (string, error) {
		err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, tcpDestroy)
		return "", refusedIf(err, unix.EINVAL, unix.ENOENT, unix.EPERM)
	})
}

func askTCPInfo() (string, error) {
	return withSocket(unix.AF_INET, unix.SOCK_STREAM, 0, func(fd int) (string, error) {
		var buf [1024]byte
		size := uint32(len(buf))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
			uintptr(unsafe.Pointer(&buf)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			return "", refusedIf(errno, unix.ENOPROTOOPT)
		}
		known := uint32(unsafe.Sizeof(unix.TCPInfo{}))
		detail := fmt.Sprintf("%d bytes", size)
		if size < known {
			detail += fmt.Sprintf(" of the %d that are read; later fields are absent", known)
		}
		return detail, nil
	})
}

// askQdisc adds the discipline to lo without its options: a kernel that lacks
// the kind says ENOENT, one that only misses the options EINVAL.
func askQdisc(kind string) func() (string, error) {
	return func() (string, error) {
		return inThrowAway(func(h *Host) (string, error) {
			return "", h.withNetlink(func(n *netlink.Handle) error {
				lo, err := n.LinkByName("lo")
				if err != nil {
					return err
				}
				err = n.QdiscAdd(&netlink.GenericQdisc{QdiscType: kind, QdiscAttrs: netlink.QdiscAttrs{
					LinkIndex: lo.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}})
				if errors.Is(err, unix.EINVAL) {
					return nil
				}
				if errors.Is(err, unix.ENOENT) {
					err = fmt.Errorf("this kernel does not know it: %w", err)
				}
				return refusedIf(err, unix.ENOENT, unix.EOPNOTSUPP, unix.EPERM)
			})
		})
	}
}

// askCongestion pins the algorithm by a route, as links do.
func askCongestion(name string) func() (string, error) {
	return func() (string, error) {
		return inThrowAway(func(h *Host) (string, error) {
			err := h.AddRoute(netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, 0}), 24), netip.Addr{}, "lo", name)
			return "", refusedIf(err, unix.EINVAL, unix.ENOENT)
		})
	}
}

func bigEndian16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
