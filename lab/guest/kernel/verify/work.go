package verify

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
	"tcplab/netns"
	"tcplab/netns/tree"
)

// tries is what is tried, in this order.
var tries = []struct {
	what string
	try  func() (string, error)
}{
	{"virtual clock", tryClock},
	{"HZ", tryHZ},
	{"links", have(netns.NetworkNamespaces, netns.Veth, netns.Bridge, netns.AFPacket, netns.Tun)},
	{"queues", have(netns.SchNetem, netns.SchFQ, netns.SchHTB, netns.SchTBF)},
	{"fq and SO_TXTIME", tryTXTime},
	{"nftables", have(netns.NFTables, netns.NFTablesNAT)},
	{"inet_diag", have(netns.InetDiag, netns.InetDiagDestroy, netns.SocketDeaths, netns.TCPInfo)},
	{"congestion control", have(netns.CongReno, netns.CongCubic, netns.CongBBR)},
	{"bbr over netem, tracked, destroyed", tryTransfer},
}

// Work tries all and says a line for each.
func Work(_ context.Context, w tree.Worker) error {
	out := json.NewEncoder(w.Out)
	for _, t := range tries {
		s := said{Check: Check{What: t.what}}
		detail, err := t.try()
		if s.Said = detail; err != nil {
			s.Failed = err.Error()
		}
		s.At = time.Duration(clock.Now())
		if err := out.Encode(s); err != nil {
			return err
		}
	}
	return nil
}

func have(features ...netns.Feature) func() (string, error) {
	return func() (string, error) {
		var missing []error
		said := ""
		for _, f := range features {
			missing = append(missing, netns.Have(f))
			said += ", " + string(f)
		}
		return said[2:], errors.Join(missing...)
	}
}

// tryClock sleeps an hour. That this took no hour is for the outer process to
// see: it waits for a minute at most.
func tryClock() (string, error) {
	t0 := clock.Now()
	time.Sleep(time.Hour)
	slept := time.Duration(clock.Now() - t0)
	if late := slept - time.Hour; late < 0 || late > time.Millisecond {
		return "", fmt.Errorf("an hour's sleep took %v", slept)
	}
	return fmt.Sprintf("an hour's sleep took %v", slept), nil
}

// tryHZ reads the tick from the coarse clock's resolution
// (kernel/time/posix-timers.c: posix_get_coarse_res).
func tryHZ() (string, error) {
	var ts unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		return "", err
	}
	if ts.Nano() != 4e6 {
		return "", fmt.Errorf("a tick is %v, not 4 ms: 2-hz.patch is not in it", time.Duration(ts.Nano()))
	}
	return "250", nil
}

// pair is two hosts and a link between them.
type pair struct {
	a, b *netns.Host
	link *netns.Link
}

const device = "eth0"

var (
	addrA = netip.MustParsePrefix("192.0.2.1/24")
	addrB = netip.MustParsePrefix("192.0.2.2/24")
)

func newPair(congestion string) (p pair, err error) {
	if p.a, err = netns.NewHost("a"); err != nil {
		return p, err
	}
	if p.b, err = netns.NewHost("b"); err != nil {
		return p, errors.Join(err, p.close())
	}
	p.link, err = netns.Connect(netns.LinkConfig{Name: device, DirectPair: true,
		A: netns.Endpoint{Host: p.a, Addr: addrA, CongControl: congestion}, B: netns.Endpoint{Host: p.b, Addr: addrB}})
	if err != nil {
		return p, errors.Join(err, p.close())
	}
	return p, nil
}

func (p pair) close() error {
	var errs []error
	if p.link != nil {
		errs = append(errs, p.link.Close())
	}
	for _, h := range []*netns.Host{p.a, p.b} {
		if h != nil {
			errs = append(errs, h.Close())
		}
	}
	return errors.Join(errs...)
}

// queue puts a discipline on a host's end of the link.
func queue(h *netns.Host, make func(at netlink.QdiscAttrs) netlink.Qdisc) error {
	return h.Do(func() error {
		dev, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		// TCP builds segments of up to 64 KB even for a device without offloads
		// (net/core/sock.c: sk_setup_caps), which netem would lose as one.
		if err := netlink.LinkSetGSOMaxSegs(dev, 1); err != nil {
			return fmt.Errorf("gso_max_segs: %w", err)
		}
		return netlink.QdiscReplace(make(netlink.QdiscAttrs{LinkIndex: dev.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}))
	})
}

// release is how late fq may be: it lets timers wait for each other by 10 µs
// unless told otherwise (net/sched/sch_fq.c: timer_slack), and a clock read
// takes 256 ns.
const release = 15 * time.Microsecond

func tryTXTime() (string, error) {
	p, err := newPair("")
	if err != nil {
		return "", err
	}
	said, err := p.releases()
	return said, errors.Join(err, p.close())
}

func (p pair) releases() (string, error) {
	if err := queue(p.a, func(at netlink.QdiscAttrs) netlink.Qdisc {
		return &netlink.GenericQdisc{QdiscAttrs: at, QdiscType: "fq"}
	}); err != nil {
		return "", fmt.Errorf("fq: %w", err)
	}
	var in, out int
	if err := p.b.Do(func() (err error) { in, err = udp(addrB); return err }); err != nil {
		return "", err
	}
	defer unix.Close(in)
	if err := p.a.Do(func() (err error) { out, err = udp(addrA); return err }); err != nil {
		return "", err
	}
	defer unix.Close(out)
	conf := make([]byte, 8) // struct sock_txtime: clock, flags
	binary.NativeEndian.PutUint32(conf, unix.CLOCK_MONOTONIC)
	if err := unix.SetsockoptString(out, unix.SOL_SOCKET, unix.SO_TXTIME, string(conf)); err != nil {
		return "", fmt.Errorf("SO_TXTIME: %w", err)
	}
	worst := time.Duration(0)
	for _, delay := range []time.Duration{100 * time.Microsecond, 20 * time.Millisecond, time.Second, 5 * time.Second} {
		due := clock.Now() + int64(delay)
		if err := unix.Sendmsg(out, []byte("frame"), txtime(due), &unix.SockaddrInet4{Port: port, Addr: addrB.Addr().As4()}, 0); err != nil {
			return "", fmt.Errorf("send: %w", err)
		}
		if _, _, err := unix.Recvfrom(in, make([]byte, 16), 0); err != nil {
			return "", fmt.Errorf("receive: %w", err)
		}
		late := time.Duration(clock.Now() - due)
		if late < 0 || late > release {
			return "", fmt.Errorf("a frame due after %v left %v late", delay, late)
		}
		worst = max(worst, late)
	}
	return fmt.Sprintf("frames leave within %v of their time", worst), nil
}

const port = 7

func udp(at netip.Prefix) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: at.Addr().As4()}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// txtime is the control message with a frame's time.
func txtime(at int64) []byte {
	b := make([]byte, unix.CmsgSpace(8))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.SOL_SOCKET, unix.SCM_TXTIME
	h.SetLen(unix.CmsgLen(8))
	binary.NativeEndian.PutUint64(b[unix.CmsgLen(0):], uint64(at))
	return b
}

// A transfer that loss would keep below a megabit for anything but BBR.
const (
	oneWay   = 20 * time.Millisecond
	lossPct  = 1
	transfer = 2 << 20
)

func tryTransfer() (string, error) {
	p, err := newPair("bbr")
	if err != nil {
		return "", err
	}
	said, err := p.transfer()
	return said, errors.Join(err, p.close())
}

func (p pair) transfer() (string, error) {
	if err := queue(p.a, func(at netlink.QdiscAttrs) netlink.Qdisc {
		return netlink.NewNetem(at, netlink.NetemQdiscAttrs{Latency: uint32(oneWay.Microseconds()), Loss: lossPct, Limit: 10000})
	}); err != nil {
		return "", fmt.Errorf("netem: %w", err)
	}
	if err := p.b.Do(track); err != nil {
		return "", fmt.Errorf("nftables: %w", err)
	}
	client, server, err := p.connection()
	if err != nil {
		return "", err
	}
	defer client.Close()
	defer server.Close()
	sent := make(chan error, 1)
	go func() { _, err := client.Write(make([]byte, transfer)); sent <- err }()

	// The moments of all reads, with their sizes, are the run's fingerprint.
	h := sha256.New()
	t0, got, buf := clock.Now(), 0, make([]byte, 64<<10)
	for got < transfer {
		n, err := server.Read(buf)
		if err != nil {
			return "", fmt.Errorf("after %d bytes: %w", got, err)
		}
		got += n
		fmt.Fprintln(h, clock.Now(), n)
	}
	took := time.Duration(clock.Now() - t0)
	if err := <-sent; err != nil {
		return "", err
	}
	info, name, err := sender(client)
	if err != nil {
		return "", err
	}
	rtt := time.Duration(info.Min_rtt) * time.Microsecond
	switch {
	case name != "bbr":
		return "", fmt.Errorf("the sender uses %s", name)
	case info.Total_retrans == 0:
		return "", errors.New("nothing was lost")
	case rtt < oneWay || rtt > oneWay+time.Millisecond:
		return "", fmt.Errorf("RTT is %v, and netem's delay %v", rtt, oneWay)
	}
	entry := ""
	err = p.b.Do(func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		if err == nil && len(flows) == 1 {
			entry = fmt.Sprint(flows[0].Forward.SrcPort, flows[0].TimeOut)
		} else if err == nil {
			err = fmt.Errorf("%d entries for one connection", len(flows))
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("conntrack: %w", err)
	}
	if err := p.a.Do(func() error { return netlink.SocketDestroy(client.LocalAddr(), client.RemoteAddr()) }); err != nil {
		return "", fmt.Errorf("destroy a socket: %w", err)
	}
	if _, err := client.Write([]byte("x")); !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.EPIPE) {
		return "", fmt.Errorf("a destroyed socket says %v", err)
	}
	if _, err := server.Read(buf); !errors.Is(err, unix.ECONNRESET) {
		return "", fmt.Errorf("its peer says %v", err)
	}
	fmt.Fprintln(h, entry, info.Total_retrans, info.Snd_cwnd)
	mbit := math.Round(transfer*8/took.Seconds()/1e5) / 10
	return fmt.Sprintf("%g Mbit/s at %d%% loss, %d retransmissions, RTT %v; run %x", mbit, lossPct, info.Total_retrans, rtt, h.Sum(nil)[:6]), nil
}

// track has the host look at connections: one rule that asks for the state is
// what switches the tracker on.
func track() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "t"})
	chain := c.AddChain(&nftables.Chain{Name: "in", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE}, &expr.Counter{},
	}})
	return c.Flush()
}

func (p pair) connection() (client, server *net.TCPConn, err error) {
	var l *net.TCPListener
	if err := p.b.Do(func() (err error) {
		l, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: addrB.Addr().AsSlice(), Port: port})
		return err
	}); err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if err := p.a.Do(func() (err error) {
		client, err = net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
		return err
	}); err != nil {
		return nil, nil, err
	}
	server, err = l.AcceptTCP()
	if err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return client, server, nil
}

// sender is the connection's tcp_info and congestion control.
func sender(c *net.TCPConn) (info *unix.TCPInfo, congestion string, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, "", err
	}
	cerr := raw.Control(func(fd uintptr) {
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			congestion, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		}
	})
	return info, congestion, errors.Join(err, cerr)
}
