package triage

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tcplab/netns/probe"
	"tcplab/results"
)

var (
	client = netip.MustParseAddr("10.9.0.1")
	server = netip.MustParseAddr("10.9.0.2")
)

func at(a netip.Addr, port int) netip.AddrPort { return netip.AddrPortFrom(a, uint16(port)) }

// host builds the two samples of a host, a second apart.
type host struct {
	a, b Sample
	n    uint64 // the last cookie
}

func newHost() *host {
	known := Known{Timers: true, Info: true, Owners: true}
	h := &host{
		a: Sample{At: time.Hour, Known: Known{Timers: true, Owners: true}, Counters: map[string]int64{}, Conntrack: &Conntrack{}},
		b: Sample{At: time.Hour + time.Second, Known: known, Counters: map[string]int64{}, Conntrack: &Conntrack{}},
	}
	sys := map[string]string{"net.ipv4.ip_local_port_range": "32768 36863", "net.ipv4.tcp_tw_reuse": "2", "net.ipv4.tcp_timestamps": "1", "net.ipv4.tcp_syncookies": "1", "net.core.somaxconn": "4096", "net.ipv4.tcp_retries2": "15"}
	h.a.Sysctls, h.b.Sysctls = sys, sys
	for _, c := range []string{"TcpExtListenOverflows", "TcpExtListenDrops", "TcpExtSyncookiesSent", "TcpExtTCPReqQFullDrop", "IpInReceives"} {
		h.a.Counters[c], h.b.Counters[c] = 1000, 1000
	}
	return h
}

// both puts a socket into both samples, later into the second only.
func (h *host) both(s Socket)  { h.put(s, true) }
func (h *host) later(s Socket) { h.put(s, false) }

func (h *host) put(s Socket, first bool) {
	h.n++
	s.Cookie = h.n
	if first {
		old := s
		old.Info = nil // the first look is taken without
		h.a.Sockets = append(h.a.Sockets, old)
	}
	h.b.Sockets = append(h.b.Sockets, s)
}

func (h *host) grow(counter string, n int64) { h.b.Counters[counter] = h.a.Counters[counter] + n }

func (h *host) sysctl(name, v string) {
	m := maps.Clone(h.b.Sysctls)
	m[name] = v
	h.a.Sysctls, h.b.Sysctls = m, m
}

// causes of a host, in triage's order.
func (h *host) causes() string {
	var out []string
	for _, f := range Diagnose(h.a, h.b) {
		out = append(out, f.Cause+" "+string(f.Severity))
	}
	return strings.Join(out, ", ")
}

func listener(port, queue, backlog int) Socket {
	return Socket{Src: at(netip.IPv4Unspecified(), port), Dst: at(netip.IPv4Unspecified(), 0), State: Listen, RQueue: uint32(queue), WQueue: uint32(backlog), Inode: uint32(port)}
}

func alive(ago time.Duration) *Info {
	return &Info{RTO: 210 * time.Millisecond, RTT: 10 * time.Millisecond, LastSent: ago, LastReceived: ago, LastAck: ago, Window: 65535, WindowKnown: true}
}

func conn(i int, state probe.State) Socket {
	return Socket{Src: at(client, 40000+i), Dst: at(server, 443), State: state, Inode: uint32(100 + i), Info: alive(time.Second)}
}

// waits are TIME-WAITs of a client, closed evenly over the time before.
func (h *host) waits(n int, over time.Duration, growing int) {
	for i := range n {
		age := over * time.Duration(i) / time.Duration(n)
		s := Socket{Src: at(client, 32768+i), Dst: at(server, 443), State: TimeWait, Timer: TimerTimeWait, Expires: 60*time.Second - age}
		h.put(s, i >= growing)
	}
}

// retransmitting is a socket that has sent its data n times more, and nothing
// came back since it first did.
func retransmitting(n int, state probe.State) Socket {
	s := Socket{Src: at(client, 40000), Dst: at(server, 443), State: state, Inode: 7, WQueue: 128, Timer: TimerRetransmission, Retrans: uint8(n)}
	rto := 210 * time.Millisecond << n
	heard := time.Duration(0)
	for i := range n {
		heard += 210 * time.Millisecond << i
	}
	s.Expires = rto / 2
	heard += rto - s.Expires + 20*time.Millisecond
	s.Info = &Info{Backoff: uint8(n), RTO: min(rto, 120*time.Second), RTT: 10 * time.Millisecond, LastSent: rto / 2, LastReceived: heard + time.Second, LastAck: heard, Window: 65535, WindowKnown: true}
	return s
}

func TestEachCauseIsFoundAndItsNearMissesAreNot(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(h *host)
		want string
	}{
		{"an empty host", func(h *host) {}, ""},
		{"a busy healthy host", func(h *host) {
			h.both(listener(443, 3, 128))
			for i := range 500 {
				h.both(conn(i, Established))
			}
			h.waits(300, 60*time.Second, 5)
			h.grow("IpInReceives", 20000)
		}, ""},

		{"ports used up", func(h *host) { h.waits(4096, 11*time.Second, 0) }, "time-wait-exhaustion critical"},
		{"ports used up, as told by one look", func(h *host) { h.waits(4096, 11*time.Second, 0); h.a = Sample{} }, "time-wait-exhaustion critical"},
		{"past the search knee", func(h *host) { h.waits(2200, 60*time.Second, 0) }, "time-wait-exhaustion warning"},
		{"just before the knee, steady", func(h *host) { h.waits(2000, 60*time.Second, 33) }, ""},
		{"a tenth of the ports, at a rate that uses them up", func(h *host) { h.waits(410, 2*time.Second, 200) }, "time-wait-exhaustion warning"},
		{"a tenth of the ports, at a rate that does not", func(h *host) { h.waits(410, 10*time.Second, 41) }, ""},
		{"a tenth of the ports, and TIME-WAITs beyond are destroyed", func(h *host) {
			h.waits(410, 2*time.Second, 200)
			h.sysctl("net.ipv4.tcp_max_tw_buckets", "410")
		}, ""},
		{"a burst that used half of the ports and has ended", func(h *host) {
			for i := range 1500 {
				h.both(Socket{Src: at(client, 32768+i), Dst: at(server, 443), State: TimeWait, Timer: TimerTimeWait, Expires: 56 * time.Second})
			}
		}, ""},
		{"the first moments of a burst", func(h *host) { h.waits(150, time.Second, 100) }, ""},
		{"a tenth of the ports at a rate that would use them up, and it has ended", func(h *host) { h.waits(410, 2*time.Second, 0) }, ""},
		{"tcp_tw_reuse=1", func(h *host) {
			h.waits(4096, 11*time.Second, 0)
			h.sysctl("net.ipv4.tcp_tw_reuse", "1")
			h.grow("TcpExtTWRecycled", 370)
		}, ""},
		{"tcp_tw_reuse=1 and some ports free", func(h *host) { h.waits(3000, 11*time.Second, 200); h.sysctl("net.ipv4.tcp_tw_reuse", "1") }, ""},
		{"tcp_tw_reuse=1 towards a peer without timestamps", func(h *host) {
			h.waits(4096, 11*time.Second, 30)
			h.sysctl("net.ipv4.tcp_tw_reuse", "1")
		}, "time-wait-exhaustion critical"},
		{"towards this machine, tcp_tw_reuse unknown and so the kernel's own", func(h *host) {
			h.a, h.b.Sysctls, h.b.Counters = Sample{}, nil, nil
			lo := netip.MustParseAddr("127.0.0.1")
			for i := range 28000 {
				h.later(Socket{Src: at(lo, 32768+i), Dst: at(lo, 5432), State: TimeWait, Timer: TimerTimeWait, Expires: 30 * time.Second})
			}
		}, ""},
		{"tcp_tw_reuse=1 without timestamps", func(h *host) {
			h.waits(4096, 11*time.Second, 0)
			h.sysctl("net.ipv4.tcp_tw_reuse", "1")
			h.sysctl("net.ipv4.tcp_timestamps", "0")
		}, "time-wait-exhaustion critical"},
		{"TIME-WAITs of a server", func(h *host) {
			h.both(listener(443, 0, 128))
			for i := range 20000 {
				h.both(Socket{Src: at(server, 443), Dst: at(client, 1024+i), State: TimeWait, Timer: TimerTimeWait, Expires: 30 * time.Second})
			}
		}, ""},
		{"TIME-WAITs of a server at an ephemeral port that has stopped listening", func(h *host) {
			for i := range 20000 {
				h.both(Socket{Src: at(server, 33000), Dst: at(client, 1024+i), State: TimeWait, Timer: TimerTimeWait, Expires: 30 * time.Second})
			}
		}, ""},
		{"TIME-WAITs over many destinations", func(h *host) {
			for i := range 4096 {
				h.both(Socket{Src: at(client, 32768+i), Dst: at(server, 1000+i%8), State: TimeWait, Timer: TimerTimeWait, Expires: 30 * time.Second})
			}
		}, ""},
		{"ports taken by live connections", func(h *host) {
			for i := range 4000 {
				s := conn(i, Established)
				s.Src = at(client, 32768+i)
				h.both(s)
			}
		}, ""},
		{"half of the range is reserved", func(h *host) {
			h.waits(2048, 30*time.Second, 0)
			h.sysctl("net.ipv4.ip_local_reserved_ports", "80,34816-36863")
		}, "time-wait-exhaustion critical"},

		{"a leak", func(h *host) { h.leak(12, 5*time.Second) }, "close-wait-leak warning"},
		{"half-closed by their peers, and still sent to", func(h *host) {
			h.leak(50, 5*time.Second)
			for i := range h.b.Sockets {
				if s := &h.b.Sockets[i]; s.State == CloseWait {
					s.Info = alive(50 * time.Millisecond)
				}
			}
		}, ""},
		{"half-closed by their peers, which read slowly", func(h *host) {
			h.leak(50, 5*time.Second)
			for i := range h.b.Sockets {
				if s := &h.b.Sockets[i]; s.State == CloseWait {
					s.WQueue = 5000
				}
			}
		}, ""},
		{"a leak in each of many processes", func(h *host) {
			h.leak(20, 5*time.Second)
			for i := range h.b.Sockets {
				h.b.Sockets[i].Owner = &Process{PID: 100 + i, Name: "worker", Files: 9, FileLimit: 1024}
			}
		}, "close-wait-leak warning"},
		{"nine that stay", func(h *host) { h.leak(9, 5*time.Second) }, ""},
		{"many that have just come", func(h *host) {
			for i := range 50 {
				s := conn(i, CloseWait)
				s.Info = alive(100 * time.Millisecond)
				h.later(s)
			}
		}, ""},
		{"a leak near the descriptor limit", func(h *host) { h.leak(195, 5*time.Second); h.own(200, 200) }, "close-wait-leak critical"},
		{"a leak that blocks accept()", func(h *host) {
			h.leak(195, 5*time.Second)
			h.both(listener(443, 17, 16))
			h.grow("TcpExtListenOverflows", 5)
			h.grow("TcpExtListenDrops", 5)
		}, "close-wait-leak critical, accept-queue-overflow critical"},
		{"closed by their peers before anybody accepted them", func(h *host) {
			h.both(listener(443, 129, 128))
			for i := range 129 {
				h.both(Socket{Src: at(server, 443), Dst: at(client, 40000+i), State: CloseWait, Info: alive(time.Minute)})
			}
		}, "accept-queue-overflow critical"},

		{"a full accept queue", func(h *host) { h.both(listener(443, 129, 128)) }, "accept-queue-overflow critical"},
		{"an accept queue at its backlog", func(h *host) { h.both(listener(443, 128, 128)) }, ""},
		{"an accept queue that was full for a moment", func(h *host) {
			s := listener(443, 129, 128)
			h.both(s)
			h.a.Sockets[0].RQueue = 2
		}, ""},
		{"overflows between two looks", func(h *host) { h.both(listener(443, 0, 128)); h.grow("TcpExtListenOverflows", 3) }, "accept-queue-overflow critical"},
		{"overflows long ago", func(h *host) { h.both(listener(443, 0, 128)) }, ""},

		{"a flood without cookies", func(h *host) {
			h.sysctl("net.ipv4.tcp_syncookies", "0")
			h.flood(8, 8)
			h.grow("TcpExtTCPReqQFullDrop", 2000)
			h.grow("TcpExtListenDrops", 2000)
		}, "syn-backlog-overflow critical"},
		{"the last quarter, kept for known peers", func(h *host) {
			h.sysctl("net.ipv4.tcp_syncookies", "0")
			h.flood(12, 128)
			h.grow("TcpExtListenDrops", 5)
		}, "syn-backlog-overflow critical"},
		{"a full backlog, one look", func(h *host) { h.flood(8, 8); h.a = Sample{}; h.b.Counters, h.b.Sysctls = nil, nil }, "syn-backlog-overflow warning"},
		{"a flood with cookies", func(h *host) { h.flood(9, 8); h.grow("TcpExtSyncookiesSent", 2000) }, "syn-cookies-active warning"},
		{"cookies always", func(h *host) { h.sysctl("net.ipv4.tcp_syncookies", "2"); h.grow("TcpExtSyncookiesSent", 3) }, "syn-cookies-active warning"},
		{"handshakes under way", func(h *host) { h.flood(100, 4096) }, ""},
		{"drops that are the accept queue's", func(h *host) {
			h.both(listener(443, 129, 128))
			h.grow("TcpExtListenOverflows", 300)
			h.grow("TcpExtListenDrops", 300)
		}, "accept-queue-overflow critical"},

		{"a peer that vanished", func(h *host) { h.both(retransmitting(5, Established)) }, "peer-vanished critical"},
		{"three retransmissions", func(h *host) { h.both(retransmitting(3, Established)) }, "peer-vanished critical"},
		{"two retransmissions, since a second", func(h *host) { h.both(retransmitting(2, Established)) }, "retransmission-stall warning"},
		{"two retransmissions, since less", func(h *host) { h.later(retransmitting(2, Established)) }, ""},
		{"one retransmission", func(h *host) { h.both(retransmitting(1, Established)) }, ""},
		{"an orphan", func(h *host) { s := retransmitting(4, FinWait1); s.Inode = 0; h.both(s) }, "peer-vanished critical"},
		{"a peer that is heard and does not acknowledge", func(h *host) {
			s := retransmitting(5, Established)
			s.Info.LastReceived = 100 * time.Millisecond
			h.both(s)
		}, "retransmission-stall warning"},
		{"a connection attempt without an answer", func(h *host) { s := retransmitting(3, SynSent); h.both(s) }, "retransmission-stall warning"},
		{"a lost SYN", func(h *host) { s := retransmitting(1, SynSent); h.both(s) }, ""},
		{"keepalive probes without an answer", func(h *host) { h.both(probing(3)) }, "peer-vanished critical"},
		{"the first keepalive probe under way", func(h *host) { h.both(probing(1)) }, ""},
		{"zero-window probes without an answer", func(h *host) { s := persisting(5); s.Retrans = 4; h.both(s) }, "peer-vanished critical"},

		{"a peer that does not read", func(h *host) { h.both(persisting(4)) }, "zero-window warning"},
		{"a peer that reads slowly", func(h *host) { h.both(persisting(1)) }, ""},
		{"a peer that took its window back", func(h *host) { h.both(shrunkWindow(4)) }, "zero-window warning"},
		{"a peer that took its window back for a moment", func(h *host) { h.both(shrunkWindow(2)) }, ""},
		{"a timer whose backoff was taken back, with an open window", func(h *host) { s := shrunkWindow(4); s.Info.Window = 5000; h.both(s) }, ""},
		{"a persist timer with an open window", func(h *host) { s := persisting(4); s.Info.Window = 1000; h.both(s) }, ""},

		{"a full table", func(h *host) { h.track(262144, 262144, Conntrack{Drop: 40}) }, "conntrack-full critical"},
		{"a full table of flows without answers", func(h *host) { h.track(262144, 262144, Conntrack{EarlyDrop: 40}) }, "conntrack-full warning"},
		{"nearly full", func(h *host) { h.track(240000, 262144, Conntrack{}) }, "conntrack-full warning"},
		{"half full", func(h *host) { h.track(131072, 262144, Conntrack{}) }, ""},
		{"no bound", func(h *host) { h.track(131072, 0, Conntrack{}) }, ""},
		{"INVALID packets", func(h *host) { h.track(10, 262144, Conntrack{Invalid: 4}); h.grow("IpInReceives", 8) }, "conntrack-invalid warning"},
		{"one INVALID packet on a quiet host", func(h *host) { h.track(10, 262144, Conntrack{Invalid: 1}); h.grow("IpInReceives", 5) }, ""},
		{"a few INVALID packets of many", func(h *host) { h.track(10, 262144, Conntrack{Invalid: 4}); h.grow("IpInReceives", 8000) }, ""},
		{"INVALID packets long ago", func(h *host) { h.track(10, 262144, Conntrack{}); h.a.Conntrack.Invalid, h.b.Conntrack.Invalid = 5, 5 }, ""},

		{"idle for long without keepalive", func(h *host) { s := conn(0, Established); s.Info = alive(time.Hour); h.both(s) }, "keepalive-off note"},
		{"idle for long with keepalive", func(h *host) {
			s := conn(0, Established)
			s.Info, s.Timer, s.Expires = alive(time.Hour), TimerKeepalive, time.Hour
			h.both(s)
		}, ""},
		{"idle for nine minutes", func(h *host) { s := conn(0, Established); s.Info = alive(9 * time.Minute); h.both(s) }, ""},
		{"idle for long, on this machine", func(h *host) {
			s := conn(0, Established)
			s.Src, s.Dst, s.Info = at(netip.MustParseAddr("127.0.0.1"), 40000), at(netip.MustParseAddr("127.0.0.1"), 5432), alive(time.Hour)
			h.both(s)
		}, ""},
		{"a real cause beside an idle connection", func(h *host) {
			s := conn(9, Established)
			s.Info = alive(time.Hour)
			h.both(s)
			h.both(persisting(4))
		}, "zero-window warning, keepalive-off note"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost()
			c.make(h)
			if got := h.causes(); got != c.want {
				t.Errorf("got %q, want %q\n%s", got, c.want, texts(Diagnose(h.a, h.b)))
			}
		})
	}
}

// Nobody is told to switch on what is on.
func TestReuseWithoutTimestampsIsToldWhatItLacks(t *testing.T) {
	h := newHost()
	h.waits(4096, 11*time.Second, 30)
	if f := Diagnose(h.a, h.b)[0]; !strings.Contains(f.Fix[1], "-w net.ipv4.tcp_tw_reuse=1") {
		t.Errorf("%q", f.Fix)
	}
	h.sysctl("net.ipv4.tcp_tw_reuse", "1")
	if f := Diagnose(h.a, h.b)[0]; strings.Contains(strings.Join(f.Fix, " "), "tcp_tw_reuse=1") || !strings.Contains(f.Fix[1], "tcp_timestamps=1 at both ends") {
		t.Errorf("%q", f.Fix)
	}
}

// A counter that fell was reset between the looks, or it has wrapped.
func TestCountersThatFallAreNoFindings(t *testing.T) {
	h := newHost()
	h.track(10, 262144, Conntrack{Invalid: -5, Drop: -5, EarlyDrop: -5})
	for c := range h.b.Counters {
		h.grow(c, -500)
	}
	h.grow("TcpExtListenOverflows", -900)
	h.grow("TcpExtListenDrops", -500) // the difference of the two must not look like drops
	if got := h.causes(); got != "" {
		t.Errorf("got %q", got)
	}
}

// Past the knee, what was not seen to grow is not said to end.
func TestWhatDoesNotGrowIsNotForetoldToEnd(t *testing.T) {
	h := newHost()
	h.waits(2200, 2*time.Second, 0)
	if f := Diagnose(h.a, h.b); len(f) != 1 || !strings.HasSuffix(f[0].Text, "; not growing just now") {
		t.Errorf("%s", texts(f))
	}
}

// Of many processes the one with the most sockets comes to its limit first.
func TestALeakOfManyProcessesNamesThem(t *testing.T) {
	h := newHost()
	h.leak(20, 5*time.Second)
	for i := range h.b.Sockets {
		p := &Process{PID: 100 + i%4, Name: "worker", Files: 9, FileLimit: 1024}
		if i%4 == 0 {
			p.Files = 1000
		}
		h.b.Sockets[i].Owner = p
	}
	f := Diagnose(h.a, h.b)
	if len(f) != 1 || len(f[0].Processes) != 4 || f[0].Severity != Critical || !strings.Contains(f[0].Text, "20 sockets of worker (pid 100), worker (pid 101), worker (pid 102), 1 more stay") || !strings.Contains(f[0].Text, "1,000 of pid 100's 1,024 descriptors") {
		t.Errorf("%s", texts(f))
	}
}

func texts(fs []Finding) string {
	var b strings.Builder
	for _, f := range fs {
		fmt.Fprintf(&b, "%s: %s\n", f.Cause, f.Text)
	}
	return b.String()
}

func (h *host) leak(n int, age time.Duration) {
	for i := range n {
		h.both(Socket{Src: at(server, 443), Dst: at(client, 40000+i), State: CloseWait, Inode: uint32(1000 + i), Info: alive(age)})
	}
	h.both(listener(443, 0, 128))
}

// own gives all sockets one process.
func (h *host) own(files, limit int) {
	p := &Process{PID: 42, Name: "leaky", Files: files, FileLimit: limit}
	for i := range h.b.Sockets {
		h.b.Sockets[i].Owner = p
	}
}

func (h *host) flood(n, backlog int) {
	h.both(listener(443, 0, backlog))
	for i := range n {
		h.later(Socket{Src: at(server, 443), Dst: at(client, 1024+i), State: SynRecv, Timer: TimerRetransmission, Retrans: 3, Expires: time.Second})
	}
}

func (h *host) track(entries, most int64, grown Conntrack) {
	h.a.Conntrack = &Conntrack{Entries: entries, Max: most, Invalid: 10, Drop: 10, EarlyDrop: 10}
	h.b.Conntrack = &Conntrack{Entries: entries, Max: most, Invalid: 10 + grown.Invalid, Drop: 10 + grown.Drop, EarlyDrop: 10 + grown.EarlyDrop}
}

func probing(n int) Socket {
	s := conn(0, Established)
	s.Timer, s.Retrans, s.Expires, s.Info = TimerKeepalive, uint8(n), 10*time.Second, alive(90*time.Second)
	return s
}

func persisting(backoff int) Socket {
	s := conn(0, Established)
	s.Timer, s.WQueue, s.Expires = TimerPersist, 100_000, 200*time.Millisecond<<backoff
	s.Info = &Info{Backoff: uint8(backoff), RTO: 210 * time.Millisecond, LastAck: time.Second, LastReceived: time.Minute, WindowKnown: true}
	return s
}

func TestNumbersOfAFindingAreThoseOfTheHost(t *testing.T) {
	h := newHost()
	h.waits(1000, 5*time.Second, 200)
	f := Diagnose(h.a, h.b)[0]
	for k, want := range map[string]float64{"used": 1000, "time_wait": 1000, "ceiling": 4096, "knee": 2048, "growth": 200, "seconds_left": 15.48} {
		if got := f.Numbers[k]; got < 0.99*want || got > 1.01*want {
			t.Errorf("%s is %g, want %g", k, got, want)
		}
	}
	if want := "1,000 of the 4,096 ports towards 10.9.0.2:443 are taken, 1,000 of them by TIME-WAIT; at the present 200/s connect() gets slow in 5.2 s (search knee at 2,048) and fails in 15 s"; f.Text != want {
		t.Errorf("it says %q", f.Text)
	}
	if !strings.Contains(f.Evidence[0], "ss -Htan state time-wait dst 10.9.0.2:443") || !strings.HasPrefix(f.Fix[0], "keep connections") {
		t.Errorf("%q, %q", f.Evidence, f.Fix)
	}
}

// The end of a chain is reckoned as the kernel does it; figures measured in the
// guest (hang: 945 s after the data, with an RTO of 220 ms).
func TestTheKernelsEndOfAWaitIsForeseen(t *testing.T) {
	h := newHost()
	s := retransmitting(10, Established)
	s.Info.RTO, s.Expires = 120*time.Second, 60*time.Second
	h.both(s)
	f := Diagnose(h.a, h.b)[0]
	if sum := f.Numbers["age"] + f.Numbers["seconds_left"]; sum < 900 || sum > 1050 {
		t.Errorf("age %g s, %g s left: %g s in all", f.Numbers["age"], f.Numbers["seconds_left"], sum)
	}
	h = newHost()
	h.sysctl("net.ipv4.tcp_retries2", "8")
	h.both(retransmitting(6, Established))
	f = Diagnose(h.a, h.b)[0]
	if sum := f.Numbers["age"] + f.Numbers["seconds_left"]; sum < 100 || sum > 120 {
		t.Errorf("with tcp_retries2 = 8: %g s in all", sum)
	}
	h = newHost()
	s = retransmitting(4, FinWait1)
	s.Inode = 0
	h.both(s)
	f = Diagnose(h.a, h.b)[0]
	if sum := f.Numbers["age"] + f.Numbers["seconds_left"]; sum < 100 || sum > 120 || f.Numbers["orphans"] != 1 {
		t.Errorf("an orphan: %g s in all; %v", sum, f.Numbers)
	}
}

// Since Linux 6.5 a SYN is repeated each second, four times, before its timer
// doubles.
func TestTheAgeOfAConnectionAttemptKnowsItsLinearTimeouts(t *testing.T) {
	for _, c := range []struct {
		name    string
		retrans uint8
		info    *Info
		linear  string
		want    float64
	}{
		{"doubling", 3, &Info{Backoff: 3, RTO: 8 * time.Second}, "", 7},
		{"linear", 4, &Info{RTO: time.Second}, "4", 4},
		{"linear, then doubling", 6, &Info{Backoff: 2, RTO: 4 * time.Second}, "4", 7},
		{"without tcp_info", 6, nil, "4", 7},
		{"without either", 3, nil, "", 7},
	} {
		h := newHost()
		h.sysctl("net.ipv4.tcp_syn_linear_timeouts", c.linear)
		s := Socket{Src: at(client, 40000), Dst: at(server, 443), State: SynSent, Inode: 7, Timer: TimerRetransmission, Retrans: c.retrans, Info: c.info}
		s.Expires = 8 * time.Second // the timer was just set
		if c.info != nil {
			s.Expires = c.info.RTO
		}
		h.both(s)
		fs := Diagnose(h.a, h.b)
		if len(fs) != 1 || fs[0].Numbers["age"] != c.want {
			t.Errorf("%s: %v, want %g s: %s", c.name, fs[0].Numbers, c.want, texts(fs))
		}
	}
}

func TestWhatTheInputLacksIsSaidToBeUnjudged(t *testing.T) {
	h := newHost()
	if g := Unjudged(h.a, h.b); len(g) != 0 {
		t.Errorf("with everything there: %v", g)
	}
	gaps := func(s Sample) string {
		var out []string
		for _, g := range Unjudged(Sample{}, s) {
			w := g.Cause
			if g.Partly {
				w = "(" + w + ")"
			}
			out = append(out, w)
		}
		return strings.Join(out, " ")
	}
	bare := Sample{At: 1, Known: Known{Timers: true, Info: true}}
	if got, want := gaps(bare), "conntrack-full conntrack-invalid (close-wait-leak) (accept-queue-overflow) (syn-backlog-overflow) syn-cookies-active (time-wait-exhaustion)"; got != want {
		t.Errorf("of ss -tanoi: %s", got)
	}
	bare.Known = Known{Partial: true}
	if got, want := gaps(bare), "conntrack-full conntrack-invalid (close-wait-leak) accept-queue-overflow syn-backlog-overflow syn-cookies-active time-wait-exhaustion peer-vanished retransmission-stall zero-window keepalive-off"; got != want {
		t.Errorf("of ss -tn: %s", got)
	}
}

// Whatever a host's sockets are, triage neither fails nor contradicts itself:
// findings are sorted, each says everything, and the same twice.
func TestAnyHostIsJudgedAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHost()
		n := rapid.IntRange(0, 60).Draw(t, "sockets")
		for range n {
			s := Socket{
				Src:     at(client, rapid.IntRange(32768, 32768+40).Draw(t, "port")),
				Dst:     at(server, rapid.IntRange(440, 443).Draw(t, "dport")),
				State:   probe.State(rapid.IntRange(1, 11).Draw(t, "state")),
				Timer:   Timer(rapid.IntRange(0, 4).Draw(t, "timer")),
				Retrans: uint8(rapid.IntRange(0, 255).Draw(t, "retrans")),
				Expires: time.Duration(rapid.Int64Range(0, 1<<42).Draw(t, "expires")),
				RQueue:  uint32(rapid.IntRange(0, 300).Draw(t, "rq")), WQueue: uint32(rapid.IntRange(0, 300).Draw(t, "wq")),
				Inode: uint32(rapid.IntRange(0, 3).Draw(t, "inode")),
			}
			if rapid.Bool().Draw(t, "info") {
				s.Info = &Info{Backoff: uint8(rapid.IntRange(0, 255).Draw(t, "backoff")), RTO: time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "rto")), LastAck: time.Duration(rapid.Int64Range(0, 1<<50).Draw(t, "ack"))}
			}
			h.put(s, rapid.Bool().Draw(t, "before"))
		}
		h.grow("TcpExtListenDrops", rapid.Int64Range(-5, 5).Draw(t, "drops"))
		fs := Diagnose(h.a, h.b)
		for i, f := range fs {
			if f.Text == "" || len(f.Evidence) == 0 || len(f.Fix) == 0 || len(f.Check) == 0 {
				t.Fatalf("%+v", f)
			}
			if i > 0 && f.Severity.rank() < fs[i-1].Severity.rank() {
				t.Fatalf("%s before %s", fs[i-1].Severity, f.Severity)
			}
			for k, v := range f.Numbers {
				if v < 0 || v != v {
					t.Fatalf("%s: %s = %g: %s", f.Cause, k, v, f.Text)
				}
			}
		}
		if again := Diagnose(h.a, h.b); texts(again) != texts(fs) {
			t.Fatalf("not the same twice:\n%s\n%s", texts(fs), texts(again))
		}
		for _, f := range fs {
			if _, known := knownCauses[f.Cause]; !known {
				t.Fatalf("%q is no cause", f.Cause)
			}
		}
	})
}

var knownCauses = func() map[string]bool {
	m := map[string]bool{}
	for _, c := range results.Causes() {
		m[c.Name] = true
	}
	return m
}()

// The page about triage names every cause, in its rules.
func TestEveryCauseIsInThePageAboutTriage(t *testing.T) {
	page, err := os.ReadFile("../../docs/triage.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range results.Causes() {
		if !strings.Contains(string(page), "\n| `"+c.Name+"` | ") {
			t.Errorf("%s is not in docs/triage.md", c.Name)
		}
	}
}

// shrunkWindow is a sender whose data found no room, though the peer had
// offered it: the kernel retransmits as a probe and does not count it.
func shrunkWindow(backoff int) Socket {
	s := persisting(backoff)
	s.Timer = TimerRetransmission
	return s
}
