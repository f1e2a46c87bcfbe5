package triage

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"tcplab/netns/probe"
)

// Sample is what one look at a host saw. What the source of the sample could
// not tell is nil or said so in Known: never zero in place of unknown.
type Sample struct {
	At        time.Duration // on any clock that both samples share, from above 0 on
	Sockets   []Socket
	Known     Known
	Counters  map[string]int64  // by nstat's names: TcpExtListenDrops; nil: unknown
	Sysctls   map[string]string // by sysctl's names; nil: unknown
	Sockstat  *probe.Sockstat
	Conntrack *Conntrack
	// NoConntrack says why Conntrack is nil, where that is known.
	NoConntrack string
	// Unnamed counts the sockets whose process was asked for and could not be
	// named, and says why.
	Unnamed    int
	UnnamedWhy string
}

// Taken tells a sample from the zero Sample, which stands for none.
func (s *Sample) Taken() bool { return s.At > 0 }

// Known is what the source of a sample tells of each socket.
type Known struct {
	Timers  bool // timer, expiry and retries
	Info    bool // tcp_info
	Owners  bool // inodes
	Partial bool // not all states are in the list
	// NoBacklog: how many connections a listener may keep is not told.
	NoBacklog bool
}

// The states, by RFC 9293's names.
const (
	Established = probe.Established
	SynSent     = probe.SynSent
	SynRecv     = probe.SynRecv
	FinWait1    = probe.FinWait1
	FinWait2    = probe.FinWait2
	TimeWait    = probe.TimeWait
	CloseWait   = probe.CloseWait
	LastAck     = probe.LastAck
	Listen      = probe.Listen
	Closing     = probe.Closing
)

// Timer is the timer of a socket that runs, numbered as in inet_diag.
type Timer uint8

const (
	TimerNone Timer = iota
	TimerRetransmission
	TimerKeepalive
	TimerTimeWait
	TimerPersist // zero-window probes
)

// Socket is one TCP socket.
type Socket struct {
	Src, Dst       netip.AddrPort // IPv4 in IPv6 is unmapped
	State          probe.State
	Timer          Timer
	Retrans        uint8         // of the timer: retransmissions or probes without an answer
	Expires        time.Duration // of the timer
	RQueue, WQueue uint32        // B; while listening: connections to be accepted, and the backlog
	UID, Inode     uint32        // inode 0: no process has it
	Cookie         uint64        // 0: unknown
	Info           *Info
	Owner          *Process // nil: none, not known, or not looked for
}

// Info is what of tcp_info a diagnosis needs.
type Info struct {
	Backoff                         uint8 // doublings of the timer
	RTO, RTT                        time.Duration
	LastSent, LastReceived, LastAck time.Duration // ago; LastSent and LastReceived are of data
	Window                          uint32        // B that the peer lets us send; meaningful where WindowKnown
	WindowKnown                     bool
}

// Heard is how long ago anything came from the peer.
func (i *Info) Heard() time.Duration { return min(i.LastReceived, i.LastAck) }

// key tells a socket in both samples.
type key struct {
	cookie   uint64
	src, dst netip.AddrPort
}

func (s *Socket) key() key {
	if s.Cookie != 0 {
		return key{cookie: s.Cookie}
	}
	return key{src: s.Src, dst: s.Dst}
}

// Conntrack is what the connection tracker counts.
type Conntrack struct {
	Entries, Max                           int64 // Max 0: no bound, or unknown
	Invalid, Drop, EarlyDrop, InsertFailed int64 // since the namespace was made
}

// Process owns sockets.
type Process struct {
	PID       int    `json:"pid"`
	Name      string `json:"name"`
	Files     int    `json:"files,omitempty"`      // descriptors it has open; 0: unknown
	FileLimit int    `json:"file_limit,omitempty"` // how many it may; 0: unknown
}

// defaultPorts is ip_local_port_range as the kernel has it.
var defaultPorts = [2]int{32768, 60999}

// portRange is the range of ephemeral ports, both ends included, and how many
// of it connect() may take: less those that are reserved.
func (s *Sample) portRange() (low, high, ports int) {
	low, high = defaultPorts[0], defaultPorts[1]
	if f := strings.Fields(s.Sysctls["net.ipv4.ip_local_port_range"]); len(f) == 2 {
		l, err := strconv.Atoi(f[0])
		h, err2 := strconv.Atoi(f[1])
		if err == nil && err2 == nil && 1 <= l && l <= h && h <= 65535 {
			low, high = l, h
		}
	}
	ports = high - low + 1
	for _, part := range strings.Split(s.Sysctls["net.ipv4.ip_local_reserved_ports"], ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		f, err := strconv.Atoi(from)
		t, err2 := strconv.Atoi(to)
		if err == nil && err2 == nil {
			ports -= max(0, min(t, high)-max(f, low)+1)
		}
	}
	return low, high, max(ports, 0)
}

// sysctl is a numeric setting, or the kernel's default where it is unknown.
func (s *Sample) sysctl(name string, otherwise int) int {
	if v, err := strconv.Atoi(s.Sysctls[name]); err == nil {
		return v
	}
	return otherwise
}

// Sysctls are the settings that a diagnosis looks at.
func Sysctls() []string { return slices.Clone(sysctls) }

var sysctls = []string{
	"net.core.somaxconn",
	"net.ipv4.ip_local_port_range",
	"net.ipv4.ip_local_reserved_ports",
	"net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_max_syn_backlog",
	"net.ipv4.tcp_max_tw_buckets",
	"net.ipv4.tcp_orphan_retries",
	"net.ipv4.tcp_retries2",
	"net.ipv4.tcp_rto_max_ms",
	"net.ipv4.tcp_syn_linear_timeouts",
	"net.ipv4.tcp_syncookies",
	"net.ipv4.tcp_timestamps",
	"net.ipv4.tcp_tw_reuse",
}

// manyWaits TIME-WAITs towards a destination make it worth a look at who opens
// them.
const manyWaits = 100

// Questionable are the inodes of the sockets that a finding could be about:
// whose processes are worth looking for.
func (s *Sample) Questionable() []uint32 {
	waits := map[netip.AddrPort]int{} // TIME-WAITs by destination
	for i := range s.Sockets {
		if k := &s.Sockets[i]; k.State == TimeWait {
			waits[k.Dst]++
		}
	}
	var out []uint32
	for i := range s.Sockets {
		k := &s.Sockets[i]
		if k.Inode == 0 {
			continue
		}
		if waits[k.Dst] >= manyWaits && k.State == Established {
			// A TIME-WAIT has no process; whoever opened it has others.
			waits[k.Dst] = 0
			out = append(out, k.Inode)
			continue
		}
		idle := k.State == Established && k.Timer == TimerNone && k.Info != nil && k.Info.Heard() >= idleLong
		if k.State == CloseWait || k.full() || k.Retrans > 0 || k.Timer == TimerPersist || idle {
			out = append(out, k.Inode)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
