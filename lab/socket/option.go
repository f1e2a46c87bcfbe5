// Package socket is what a client and a server both need of their sockets:
// options that count only once the kernel has confirmed them, one epoll set
// with a timerfd for each locked thread, and system calls without the
// scheduler in the way. It is a leaf, like the clock, because clients and
// servers do not import each other. It knows no protocol and keeps no state.
package socket

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// optionForm is how an option's value is written and held.
type optionForm int

const (
	onOff   optionForm = iota
	count              // a number
	size               // bytes: 65536, 64KiB
	seconds            // a time, whole seconds in the kernel
	millis             // a time, whole milliseconds in the kernel
	linger             // off, or a time in whole seconds; 0s makes close() send RST
	text               // a name
)

// option is a socket option that a sheet may name.
type option struct {
	name       string
	level, opt int
	form       optionForm
	about      string
}

// sockOptions are in alphabetical order. TCP_QUICKACK is not permanent (tcp(7)): it is
// Set again after every receive.
var sockOptions = []option{
	{"IP_BIND_ADDRESS_NO_PORT", unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, onOff, "bind() to an address leaves the port to connect()"},
	{"IP_TOS", unix.SOL_IP, unix.IP_TOS, count, "the DS field of packets sent"},
	{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, onOff, "keepalive probes on an idle connection"},
	{"SO_LINGER", unix.SOL_SOCKET, unix.SO_LINGER, linger, "how long close() waits for data to be acknowledged; 0s: RST instead of FIN"},
	{"SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, size, "receive buffer; the kernel doubles it and no longer tunes it"},
	{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, onOff, "bind() to a port in TIME-WAIT"},
	{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, onOff, "several listeners on one port"},
	{"SO_SNDBUF", unix.SOL_SOCKET, unix.SO_SNDBUF, size, "send buffer; the kernel doubles it and no longer tunes it"},
	{"TCP_CONGESTION", unix.SOL_TCP, unix.TCP_CONGESTION, text, "congestion control"},
	{"TCP_CORK", unix.SOL_TCP, unix.TCP_CORK, onOff, "hold back segments that are not full"},
	{"TCP_DEFER_ACCEPT", unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, count, "accept() a connection only once it has data, or after so many seconds"},
	{"TCP_FASTOPEN", unix.SOL_TCP, unix.TCP_FASTOPEN, count, "a listener's queue of TCP Fast Open requests (RFC 7413)"},
	{"TCP_KEEPCNT", unix.SOL_TCP, unix.TCP_KEEPCNT, count, "keepalive probes without an answer until the connection is given up"},
	{"TCP_KEEPIDLE", unix.SOL_TCP, unix.TCP_KEEPIDLE, seconds, "idle time before the first keepalive probe"},
	{"TCP_KEEPINTVL", unix.SOL_TCP, unix.TCP_KEEPINTVL, seconds, "time between keepalive probes"},
	{"TCP_LINGER2", unix.SOL_TCP, unix.TCP_LINGER2, seconds, "time in FIN-WAIT-2"},
	{"TCP_MAXSEG", unix.SOL_TCP, unix.TCP_MAXSEG, size, "largest segment, announced in the SYN"},
	{"TCP_NODELAY", unix.SOL_TCP, unix.TCP_NODELAY, onOff, "send small segments at once (Nagle's algorithm off)"},
	{"TCP_NOTSENT_LOWAT", unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT, size, "unsent data above which the socket is not writable"},
	{"TCP_QUICKACK", unix.SOL_TCP, unix.TCP_QUICKACK, onOff, "acknowledge at once; set again after every receive"},
	{"TCP_SYNCNT", unix.SOL_TCP, unix.TCP_SYNCNT, count, "SYN retransmissions before connect() fails"},
	{"TCP_USER_TIMEOUT", unix.SOL_TCP, unix.TCP_USER_TIMEOUT, millis, "how long sent data may stay unacknowledged (RFC 5482)"},
	{"TCP_WINDOW_CLAMP", unix.SOL_TCP, unix.TCP_WINDOW_CLAMP, size, "largest window announced"},
}

// always are read back whether or not they were asked for: a reader of a
// record should not have to guess them.
var always = []string{"SO_KEEPALIVE", "TCP_CONGESTION", "TCP_NODELAY"}

func OptionNamed(name string) (option, bool) {
	i, ok := slices.BinarySearchFunc(sockOptions, name, func(o option, n string) int { return strings.Compare(o.name, n) })
	if !ok {
		return option{}, false
	}
	return sockOptions[i], true
}

// Setting is an option with the value asked for.
type Setting struct {
	option
	value int    // in the kernel's unit; of linger -1 is off
	text  string // of text
	asked string
}

// ParseOptions reads values as sheets write them, in the order of their names.
func ParseOptions(asked map[string]string) ([]Setting, error) {
	var all []Setting
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		o, ok := OptionNamed(name)
		if !ok {
			return nil, fmt.Errorf("option %s is unknown: known are %s", name, strings.Join(OptionNames(), ", "))
		}
		s := Setting{option: o, asked: asked[name]}
		if err := s.parse(asked[name]); err != nil {
			return nil, fmt.Errorf("option %s: %w", name, err)
		}
		all = append(all, s)
	}
	return all, nil
}

func (s *Setting) parse(v string) error {
	switch s.form {
	case onOff:
		switch v {
		case "on", "true", "1":
			s.value = 1
		case "off", "false", "0":
			s.value = 0
		default:
			return fmt.Errorf("%q is neither on nor off", v)
		}
	case count:
		n, err := strconv.ParseInt(v, 0, 32)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a number: write one such as 5", v)
		}
		s.value = int(n)
	case size:
		n, err := parseBytes(v)
		if err != nil {
			return err
		}
		s.value = n
	case seconds, millis, linger:
		if s.form == linger && (v == "off" || v == "false") {
			s.value = -1
			return nil
		}
		unit := time.Second
		if s.form == millis {
			unit = time.Millisecond
		}
		d, err := ParseTime(v)
		if err != nil {
			return err
		}
		if d%unit != 0 {
			return fmt.Errorf("%s has more digits than the kernel, which takes whole %s: write a multiple of %s", v, map[time.Duration]string{time.Second: "seconds", time.Millisecond: "milliseconds"}[unit], unit)
		}
		if d/unit > math.MaxInt32 {
			return fmt.Errorf("%s is longer than the kernel can hold", v)
		}
		s.value = int(d / unit)
	case text:
		if v == "" || len(v) > 15 { // TCP_CA_NAME_MAX - 1
			return fmt.Errorf("%q is not a name: write one such as cubic", v)
		}
		s.text = v
	}
	return nil
}

// parseBytes reads a size as sheets write it: 65536, 4_096, 64KiB, 1.5MB.
func parseBytes(v string) (int, error) {
	n, unit := splitUnit(v)
	scale, ok := map[string]float64{"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit]
	if !ok || !(n >= 0 && n*scale <= math.MaxInt32) || n*scale != math.Trunc(n*scale) {
		return 0, fmt.Errorf("%q is not a size below 2 GiB: write one such as 64KiB", v)
	}
	return int(n * scale), nil
}

// ParseTime reads a time as sheets write it, 1.5s, 5min, 2d, or as Go does,
// 1m30s.
func ParseTime(v string) (time.Duration, error) {
	n, unit := splitUnit(v)
	scale, ok := map[string]time.Duration{"ns": 1, "us": time.Microsecond, "µs": time.Microsecond, "μs": time.Microsecond, "ms": time.Millisecond,
		"s": time.Second, "min": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[unit]
	if ok && n >= 0 && n*float64(scale) < math.MaxInt64 {
		return time.Duration(math.Round(n * float64(scale))), nil
	}
	if d, err := time.ParseDuration(v); err == nil && d >= 0 {
		return d, nil
	}
	return 0, fmt.Errorf("%q is not a time: write one such as 20s", v)
}

// splitUnit parts a number from what follows it. The number is NaN if there is
// none.
func splitUnit(v string) (float64, string) {
	digits := strings.TrimLeft(v, "0123456789._")
	n, err := strconv.ParseFloat(strings.ReplaceAll(v[:len(v)-len(digits)], "_", ""), 64)
	if err != nil {
		return math.NaN(), digits
	}
	return n, digits
}

// Set sets the option on a socket.
func (s Setting) Set(fd int) error {
	var err error
	switch s.form {
	case linger:
		l := unix.Linger{}
		if s.value >= 0 {
			l = unix.Linger{Onoff: 1, Linger: int32(s.value)}
		}
		err = unix.SetsockoptLinger(fd, s.level, s.opt, &l)
	case text:
		err = unix.SetsockoptString(fd, s.level, s.opt, s.text)
	default:
		err = unix.SetsockoptInt(fd, s.level, s.opt, s.value)
	}
	if err != nil {
		return fmt.Errorf("option %s: the kernel refuses %s: %w%s", s.name, s.asked, err, advice(s))
	}
	return nil
}

func advice(s Setting) string {
	if s.name == "TCP_CONGESTION" {
		return " (see net.ipv4.tcp_available_congestion_control; a plain user may set those in tcp_allowed_congestion_control, or use the route's congctl)"
	}
	return ""
}

func SetAll(fd int, all []Setting) error {
	for _, s := range all {
		if err := s.Set(fd); err != nil {
			return err
		}
	}
	return nil
}

// read gives the option's value as getsockopt tells it: on or off, a time, a
// number, bytes.
func (o option) read(fd int) (string, int, error) {
	wrap := func(err error) error { return fmt.Errorf("option %s: getsockopt: %w", o.name, err) }
	if o.form == text {
		v, err := unix.GetsockoptString(fd, o.level, o.opt)
		if err != nil {
			return "", 0, wrap(err)
		}
		return strings.TrimRight(v, "\x00"), 0, nil
	}
	if o.form == linger {
		l, err := unix.GetsockoptLinger(fd, o.level, o.opt)
		if err != nil {
			return "", 0, wrap(err)
		}
		if l.Onoff == 0 {
			return "off", -1, nil
		}
		return (time.Duration(l.Linger) * time.Second).String(), int(l.Linger), nil
	}
	v, err := unix.GetsockoptInt(fd, o.level, o.opt)
	if err != nil {
		return "", 0, wrap(err)
	}
	switch o.form {
	case onOff:
		if v == 0 {
			return "off", 0, nil
		}
		return "on", 1, nil
	case seconds:
		return (time.Duration(v) * time.Second).String(), v, nil
	case millis:
		return (time.Duration(v) * time.Millisecond).String(), v, nil
	}
	return strconv.Itoa(v), v, nil
}

// agrees tells whether the value read is the one asked for, given what the
// kernel does to it.
func (s Setting) agrees(read string, v int, connected bool) bool {
	switch s.name {
	case "SO_RCVBUF", "SO_SNDBUF":
		// Doubled (socket(7)), and raised to a least value.
		return v >= 2*s.value
	case "TCP_MAXSEG":
		// Once connected, what fits the peer and the path.
		return v == s.value || connected && v < s.value
	case "TCP_QUICKACK":
		return v == s.value || connected || s.value == 0 // listen() forgets it (inet_csk_delack_init)
	case "TCP_FASTOPEN":
		return v == s.value || connected
	case "TCP_DEFER_ACCEPT":
		// Held as a number of retransmissions (net/ipv4/tcp.c, secs_to_retrans).
		return v >= s.value || connected
	case "TCP_WINDOW_CLAMP":
		return v >= s.value
	case "IP_TOS":
		return v&^3 == s.value&^3 // the kernel owns the ECN bits
	}
	if s.form == text {
		return read == s.text
	}
	return v == s.value
}

// ReadBack reads every option asked for, and those always of interest, and
// says which is not as asked.
func ReadBack(fd int, asked []Setting, connected bool) (map[string]string, error) {
	got := make(map[string]string, len(asked)+len(always))
	for _, name := range always {
		o, _ := OptionNamed(name)
		v, _, err := o.read(fd)
		if err != nil {
			return got, err
		}
		got[name] = v
	}
	for _, s := range asked {
		read, v, err := s.read(fd)
		if err != nil {
			return got, err
		}
		got[s.name] = read
		if !s.agrees(read, v, connected) {
			why := ""
			switch s.name {
			case "SO_RCVBUF":
				why = ": raise net.core.rmem_max"
			case "SO_SNDBUF":
				why = ": raise net.core.wmem_max"
			}
			return got, fmt.Errorf("option %s: asked for %s, the socket has %s%s", s.name, s.asked, read, why)
		}
	}
	return got, nil
}

// Find finds a Setting by its option's name.
func Find(all []Setting, name string) (Setting, bool) {
	for _, s := range all {
		if s.name == name {
			return s, true
		}
	}
	return Setting{}, false
}

// OptionNames are the socket options that Config.Options may name.
func OptionNames() []string {
	names := make([]string, len(sockOptions))
	for i, o := range sockOptions {
		names[i] = o.name
	}
	return names
}

// Reusable lets a socket be bound while connections of a predecessor are in
// TIME-WAIT.
func Reusable(fd int) error {
	o, ok := OptionNamed("SO_REUSEADDR")
	if !ok {
		panic("socket: no option SO_REUSEADDR")
	}
	return Setting{option: o, value: 1, asked: "on"}.Set(fd)
}
