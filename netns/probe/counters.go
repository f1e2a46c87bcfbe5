package probe

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// groups in which a counter's short name is looked for, in this order: most
// questions of this lab are about TCP.
var groups = []string{"TcpExt", "Tcp", "IpExt", "Ip", "MPTcpExt", "Icmp", "IcmpMsg", "Udp", "UdpLite"}

// Counter finds a counter by nstat's name (TcpExtSyncookiesSent) or without
// its group (SyncookiesSent), with or without a leading "snmp.". A short name
// that several groups have is TcpExt's, Tcp's, IpExt's or Ip's, in this order.
func Counter(m map[string]int64, name string) (int64, bool) {
	name = strings.TrimPrefix(name, "snmp.")
	if v, ok := m[name]; ok {
		return v, true
	}
	for _, g := range groups {
		if v, ok := m[g+name]; ok {
			return v, true
		}
	}
	return 0, false
}

// match says how well a wanted name fits a counter: 0 not at all, the higher
// the better, in the order of Counter.
func match(want string, group, name []byte) uint8 {
	want = strings.TrimPrefix(want, "snmp.")
	switch {
	case len(want) == len(group)+len(name):
		if want[:len(group)] == string(group) && want[len(group):] == string(name) {
			return 255
		}
	case want == string(name):
		for i, g := range groups {
			if g == string(group) {
				return uint8(100 - i)
			}
		}
	}
	return 0
}

// EachCounter calls f for each counter in the text of /proc/net/snmp or
// /proc/net/netstat: pairs of lines "Group: name …" and "Group: value …"
// (net/ipv4/proc.c). The slices are valid during the call only.
func EachCounter(text []byte, f func(group, name []byte, value int64)) error {
	for len(text) > 0 {
		var head, vals []byte
		var ok bool
		if head, text, ok = bytes.Cut(text, nl); !ok {
			return errors.New("the last line has no end")
		}
		if vals, text, ok = bytes.Cut(text, nl); !ok {
			return fmt.Errorf("no line of values after %.40q", head)
		}
		group, names, ok := bytes.Cut(head, colon)
		if !ok || len(group) == 0 {
			return fmt.Errorf("%.40q is no line of names", head)
		}
		group2, nums, ok := bytes.Cut(vals, colon)
		if !ok || !bytes.Equal(group, group2) {
			return fmt.Errorf("after the names of %.40q come the values of %.40q", group, group2)
		}
		for {
			var name, num []byte
			name, names = field(names)
			num, nums = field(nums)
			if (name == nil) != (num == nil) {
				return fmt.Errorf("%.40q has not as many values as names", group)
			}
			if name == nil {
				break
			}
			v, err := number(num)
			if err != nil {
				return fmt.Errorf("%.40s%.40s: %w", group, name, err)
			}
			f(group, name, v)
		}
	}
	return nil
}

var nl, colon = []byte("\n"), []byte(":")

// field cuts the first blank-separated field off s; nil when there is none.
func field(s []byte) (first, rest []byte) {
	for len(s) > 0 && s[0] == ' ' {
		s = s[1:]
	}
	if len(s) == 0 {
		return nil, nil
	}
	if i := bytes.IndexByte(s, ' '); i >= 0 {
		return s[:i], s[i:]
	}
	return s, nil
}

// number parses a decimal without allocating. Counters are unsigned 64-bit in
// the kernel; one past the range of int64 wraps, as a difference of two still
// comes out right.
func number(s []byte) (int64, error) {
	digits := s
	neg := len(s) > 0 && s[0] == '-'
	if neg {
		digits = s[1:]
	}
	if len(digits) == 0 || len(digits) > 20 {
		return 0, fmt.Errorf("%.40q is no number", s)
	}
	var v uint64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%.40q is no number", s)
		}
		v = v*10 + uint64(c-'0')
	}
	if neg {
		return -int64(v), nil
	}
	return int64(v), nil
}

// Sockstat is the TCP line of /proc/net/sockstat. InUse and TimeWait are the
// namespace's own; Orphan, Alloc and Mem are the machine's
// (net/ipv4/proc.c: sockstat_seq_show).
type Sockstat struct {
	InUse    int64 // IPv4 sockets, TIME-WAIT and request sockets apart
	TimeWait int64 // IPv4 and IPv6; FIN-WAIT-2 without a process counts too
	Orphan   int64 // closed by their process, not yet by TCP
	Alloc    int64
	Mem      int64 // pages
}

// ParseSockstat reads the text of /proc/net/sockstat.
func ParseSockstat(text []byte) (Sockstat, error) {
	var s Sockstat
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, nl)
		rest, ok := bytes.CutPrefix(line, []byte("TCP:"))
		if !ok {
			continue
		}
		seen := 0
		for {
			var key, val []byte
			if key, rest = field(rest); key == nil {
				break
			}
			if val, rest = field(rest); val == nil {
				return s, fmt.Errorf("no value after %.40q", key)
			}
			v, err := number(val)
			if err != nil {
				return s, err
			}
			switch string(key) {
			case "inuse":
				s.InUse, seen = v, seen|1
			case "tw":
				s.TimeWait, seen = v, seen|2
			case "orphan":
				s.Orphan = v
			case "alloc":
				s.Alloc = v
			case "mem":
				s.Mem = v
			}
		}
		if seen != 3 {
			return s, fmt.Errorf("the TCP line lacks inuse or tw: %.80q", line)
		}
		return s, nil
	}
	return s, errors.New("there is no TCP line")
}
