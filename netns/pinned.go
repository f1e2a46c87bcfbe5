package netns

import (
	"errors"
	"fmt"
	"strings"
)

// Role is what a host does with packets that are not for it.
type Role int

const (
	// RoleHost is a client or a server: it drops them.
	RoleHost Role = iota
	// RoleMiddlebox forwards by a policy of ours, outside the kernel, which
	// must not forward the same packet a second time.
	RoleMiddlebox
	// RoleRouter forwards in the kernel, with conntrack and nftables.
	RoleRouter
)

func (r Role) String() string {
	switch r {
	case RoleHost:
		return "host"
	case RoleMiddlebox:
		return "middlebox"
	case RoleRouter:
		return "router"
	}
	return fmt.Sprintf("role %d", int(r))
}

// Sysctl is one pinned key.
type Sysctl struct {
	Key, Value string
	// Why it is pinned, in one line, for people who read a record.
	Why string
	// Required keys are an error where they cannot be set. The others are set
	// where the kernel has them and lets us.
	Required bool
}

// pinned is what every host gets, in the order in which it is written. Values
// are Linux's own defaults on a machine with memory enough, unless the reason
// says otherwise: a run is to be a run on a common Linux, the same on each
// machine, and not one on whatever this machine was tuned to.
//
// Congestion control is absent: a plain user cannot set it here, so routes pin
// it. net.core.rmem_max and wmem_max cannot be set in a namespace at all.
var pinned = []Sysctl{
	// Which packets a host takes, sends and forwards. IPv4's conf.* of a new
	// namespace are copies of the machine's (devconf_inherit_init_net).
	{"net.ipv4.ip_forward", "0", "may be inherited as 1; only a router forwards", true},
	{"net.ipv6.conf.all.disable_ipv6", "1", "a quiet veth pair sends some 14 IPv6 packets in its first seconds", false},
	{"net.ipv6.conf.default.disable_ipv6", "1", "the same, for interfaces that come later", false},
	{"net.ipv4.conf.all.rp_filter", "0", "asymmetric paths are experiments, not martians; distributions set 1 or 2", true},
	{"net.ipv4.conf.default.rp_filter", "0", "the effective value is the larger of all and the interface's", true},
	{"net.ipv4.conf.all.accept_redirects", "0", "a router must not move a path in the middle of a run", false},
	{"net.ipv4.conf.default.accept_redirects", "0", "the same, for interfaces that come later", false},
	{"net.ipv4.conf.all.send_redirects", "0", "no ICMP that the sheet does not ask for", false},
	{"net.ipv4.conf.default.send_redirects", "0", "the same, for interfaces that come later", false},
	{"net.ipv4.conf.all.arp_notify", "0", "links have permanent neighbours: no ARP at all", false},
	{"net.ipv4.conf.default.arp_notify", "0", "the same, for interfaces that come later", false},
	{"net.ipv4.ip_default_ttl", "64", "Linux's default", false},
	{"net.ipv4.ip_no_pmtu_disc", "0", "path MTU discovery on (RFC 1191), as by default", false},
	{"net.ipv4.icmp_ratelimit", "1000", "ms between ICMP errors to one peer: path MTU discovery hangs on it", false},
	{"net.ipv4.icmp_ratemask", "6168", "which ICMP errors that limits", false},

	// Ports and TIME-WAIT.
	{"net.ipv4.ip_local_port_range", "32768 60999", "28,232 ephemeral ports to a destination", true},
	{"net.ipv4.ip_autobind_reuse", "0", "bind() to port 0 does not share ports", false},
	{"net.ipv4.tcp_max_tw_buckets", "262144", "scales with memory (4,096 in 1 GiB) and would cap TIME-WAIT unseen: above any port range here", true},
	{"net.ipv4.tcp_tw_reuse", "0", "the default 2 means loopback only: 0 is the same on links and holds on lo too, so that 1 is a lever and nothing else is", true},
	{"net.ipv4.tcp_tw_reuse_delay", "1000", "ms until a TIME-WAIT may be reused where tcp_tw_reuse is on", false},
	{"net.ipv4.tcp_fin_timeout", "60", "FIN-WAIT-2 of orphans; not TIME-WAIT, which is a constant 60 s", true},
	{"net.ipv4.tcp_rfc1337", "0", "an RST ends TIME-WAIT, as by default (RFC 1337 describes the hazard)", false},

	// Listening.
	{"net.core.somaxconn", "4096", "caps every listen backlog; 128 before Linux 5.4", true},
	{"net.ipv4.tcp_max_syn_backlog", "4096", "scales with memory (128 in a small guest)", true},
	{"net.ipv4.tcp_syncookies", "1", "cookies once a listen queue overflows", true},
	{"net.ipv4.tcp_abort_on_overflow", "0", "a full accept queue drops the ACK instead of resetting", false},
	{"net.ipv4.tcp_fastopen", "1", "client side only, as by default", false},

	// Retransmission and giving up.
	{"net.ipv4.tcp_syn_retries", "6", "connect() gives up after some 2 minutes", false},
	{"net.ipv4.tcp_syn_linear_timeouts", "4", "the first four SYN retries come 1 s apart (Linux 6.5 and later)", false},
	{"net.ipv4.tcp_synack_retries", "5", "a half-open connection lives 63 s", false},
	{"net.ipv4.tcp_retries1", "3", "when path MTU probing begins", false},
	{"net.ipv4.tcp_retries2", "15", "924 s of nominal backoff until ETIMEDOUT", true},
	{"net.ipv4.tcp_orphan_retries", "0", "0 means 8", false},
	{"net.ipv4.tcp_rto_min_us", "200000", "the least RTO, 200 ms", false},
	{"net.ipv4.tcp_rto_max_ms", "120000", "the largest RTO, 120 s", false},
	{"net.ipv4.tcp_frto", "2", "F-RTO detects spurious timeouts (RFC 5682)", false},
	{"net.ipv4.tcp_early_retrans", "3", "tail loss probes on", false},
	{"net.ipv4.tcp_recovery", "1", "RACK loss detection (RFC 8985)", false},
	{"net.ipv4.tcp_reordering", "3", "initial reordering degree", false},
	{"net.ipv4.tcp_max_reordering", "300", "largest reordering degree", false},
	{"net.ipv4.tcp_invalid_ratelimit", "500", "ms between duplicate ACKs for invalid packets of one connection", false},
	{"net.ipv4.tcp_challenge_ack_limit", "2147483647", "no limit per namespace, as since Linux 5.19; 1000 before", false},

	// Keepalive.
	{"net.ipv4.tcp_keepalive_time", "7200", "RFC 1122 4.2.3.6: at least 2 h", true},
	{"net.ipv4.tcp_keepalive_intvl", "75", "s between probes", true},
	{"net.ipv4.tcp_keepalive_probes", "9", "unanswered probes until ETIMEDOUT", true},

	// Segments and windows.
	{"net.ipv4.tcp_timestamps", "1", "RFC 7323; 1 adds a random offset per connection", true},
	{"net.ipv4.tcp_sack", "1", "selective acknowledgment (RFC 2018)", true},
	{"net.ipv4.tcp_dsack", "1", "duplicate SACK (RFC 2883)", false},
	{"net.ipv4.tcp_window_scaling", "1", "windows above 64 KiB (RFC 7323)", true},
	{"net.ipv4.tcp_ecn", "2", "ECN where the peer asks for it", false},
	{"net.ipv4.tcp_rmem", "4096 131072 6291456", "scales with memory; the largest receive buffer bounds the window", true},
	{"net.ipv4.tcp_wmem", "4096 16384 4194304", "scales with memory; the largest send buffer bounds what write() takes", true},
	{"net.ipv4.tcp_moderate_rcvbuf", "1", "receive buffer autotuning on", false},
	{"net.ipv4.tcp_adv_win_scale", "1", "how a receive buffer becomes a window; 2 in old kernels", false},
	{"net.ipv4.tcp_shrink_window", "0", "never shrink a window offered", false},
	{"net.ipv4.tcp_notsent_lowat", "4294967295", "no limit on unsent bytes", false},
	{"net.ipv4.tcp_limit_output_bytes", "1048576", "bytes a socket may have below TCP; 4 MiB in newer kernels", false},
	{"net.ipv4.tcp_mtu_probing", "0", "no packetization-layer path MTU discovery (RFC 4821), as by default", false},
	{"net.ipv4.tcp_base_mss", "1024", "where MTU probing starts", false},
	{"net.ipv4.tcp_autocorking", "1", "small writes may join while a packet is queued below", false},
	{"net.ipv4.tcp_pingpong_thresh", "1", "when a connection counts as interactive: delayed ACKs", false},
	{"net.ipv4.tcp_comp_sack_delay_ns", "1000000", "SACK compression, at most 1 ms", false},
	{"net.ipv4.tcp_comp_sack_slack_ns", "100000", "its timer's slack", false},
	{"net.ipv4.tcp_comp_sack_nr", "44", "SACKs that may be compressed into one", false},

	// The window's course.
	{"net.ipv4.tcp_slow_start_after_idle", "1", "cwnd restarts after idle time (RFC 2861), as by default", true},
	{"net.ipv4.tcp_no_metrics_save", "1", "not the default: no connection learns cwnd or RTT from an earlier one of another trial phase", true},
	{"net.ipv4.tcp_pacing_ss_ratio", "200", "% of cwnd/RTT paced in slow start", false},
	{"net.ipv4.tcp_pacing_ca_ratio", "120", "% of cwnd/RTT paced in congestion avoidance", false},
	{"net.ipv4.tcp_min_rtt_wlen", "300", "s over which the least RTT is kept", false},
	{"net.ipv4.tcp_thin_linear_timeouts", "0", "no linear timeouts for thin streams", false},
	{"net.ipv4.tcp_plb_enabled", "0", "no protective load balancing", false},
}

// Pinned lists what the lab pins for a host of this role, in the order in
// which Pin writes it. The caller may change the slice.
func Pinned(role Role) []Sysctl {
	list := append([]Sysctl(nil), pinned...)
	if role == RoleRouter {
		for i := range list {
			if list[i].Key == "net.ipv4.ip_forward" {
				list[i].Value, list[i].Why = "1", "a router forwards"
			}
		}
	}
	return list
}

// PinnedSysctls is Pinned as a map from key to value.
func PinnedSysctls(role Role) map[string]string {
	m := make(map[string]string, len(pinned))
	for _, s := range Pinned(role) {
		m[s.Key] = s.Value
	}
	return m
}

// NotPinned is a key that is not what the lab pins it to, which a record must
// show beside what depends on it.
type NotPinned struct {
	Key, Wanted string
	// Has is the host's own value, "" where the kernel has no such key.
	Has string
	Err error // a *SysctlError
}

// Pin sets what the lab pins for the role and, in place of or besides those,
// the sheet's own sysctls, and reads all of them back. own keys and required
// pinned ones that are not set are in err (*SysctlError, joined); other pinned
// ones in notPinned.
func (h *Host) Pin(role Role, own map[string]string) (readBack map[string]string, notPinned []NotPinned, err error) {
	own = dotted(own)
	list := Pinned(role)
	for i := range list {
		if v, replaced := own[list[i].Key]; replaced {
			list[i].Value, list[i].Required = v, true
			delete(own, list[i].Key)
		}
	}
	for _, key := range sysctlOrder(own) {
		list = append(list, Sysctl{Key: key, Value: own[key], Required: true})
	}
	readBack = make(map[string]string, len(list))
	var errs []error
	err = h.Do(func() error {
		for _, s := range list {
			got, err := writeSysctl(h.Name, s.Key, s.Value)
			if err != nil && s.Required {
				errs = append(errs, err)
			} else if err != nil {
				notPinned = append(notPinned, NotPinned{Key: s.Key, Wanted: s.Value, Has: got, Err: err})
			}
			if err == nil || got != "" {
				readBack[s.Key] = got
			}
		}
		return nil
	})
	return readBack, notPinned, errors.Join(append(errs, err)...)
}

// dotted spells keys as the table does, so that a sheet's net/ipv4/tcp_sack
// takes the place of the pinned one. A key with dots in a name stays as it is.
func dotted(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		if !strings.Contains(k, ".") {
			k = strings.ReplaceAll(k, "/", ".")
		}
		out[k] = v
	}
	return out
}
