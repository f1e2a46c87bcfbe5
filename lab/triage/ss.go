package triage

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"tcplab/netns/probe"
)

// A SyntaxError is input that is no output of ss or of the collector, or that
// is cut.
type SyntaxError struct {
	Line   int // 1…; 0: the input as a whole
	What   string
	Advice string // what to give instead
}

func (e *SyntaxError) Error() string {
	s := e.What
	if e.Line > 0 {
		s = fmt.Sprintf("line %d: %s", e.Line, e.What)
	}
	if e.Advice != "" {
		s += "; " + e.Advice
	}
	return s
}

const giveSS = "give the output of ss -tanoi (with -e and -p it says more), or of the collector: tcplab triage --script"

// ssStates are the states as ss writes them (misc/ss.c of iproute2).
var ssStates = map[string]probe.State{
	"ESTAB": Established, "SYN-SENT": SynSent, "SYN-RECV": SynRecv, "FIN-WAIT-1": FinWait1, "FIN-WAIT-2": FinWait2,
	"TIME-WAIT": TimeWait, "UNCONN": probe.Closed, "CLOSE-WAIT": CloseWait, "LAST-ACK": LastAck, "LISTEN": Listen, "CLOSING": Closing,
	"NEW-SYN-RECV": SynRecv,
}

var ssTimers = map[string]Timer{"off": TimerNone, "unknown": TimerNone, "on": TimerRetransmission, "keepalive": TimerKeepalive, "timewait": TimerTimeWait, "persist": TimerPersist}

// ssList is what a list of ss says.
type ssList struct {
	sockets []Socket
	known   Known
}

// parseSS reads the output of ss, whose first line is line number first.
func parseSS(text string, first int) (*ssList, error) {
	l := &ssList{}
	if strings.TrimSpace(text) == "" {
		return nil, &SyntaxError{first, "there is nothing", giveSS}
	}
	if strings.IndexByte(text, 0) >= 0 {
		return nil, &SyntaxError{first, "this is no output of ss: it is no text, or one in UTF-16", giveSS}
	}
	if !strings.HasSuffix(text, "\n") {
		n := first + strings.Count(text, "\n")
		return nil, &SyntaxError{n, "the last line has no end: the output was cut there", giveSS}
	}
	var cur *Socket // whose details may follow
	infos, bare, lastLine := 0, 0, 0
	no := first - 1
	head := false
	for line := range strings.Lines(text) {
		no++
		line = strings.TrimRight(line, " \r\n")
		if line == "" {
			continue
		}
		if line[0] == '\t' || line[0] == ' ' {
			if cur == nil {
				return nil, &SyntaxError{no, fmt.Sprintf("details (%.40q) of no socket", strings.TrimSpace(line)), giveSS}
			}
			rest := strings.TrimSpace(line)
			if rest == "" {
				continue
			}
			if err := l.details(cur, rest); err != nil {
				return nil, &SyntaxError{no, err.Error(), giveSS}
			}
			continue
		}
		f := strings.Fields(line)
		if f[0] == "Netid" || f[0] == "State" {
			head = true
			if f[0] == "State" && len(f) > 1 && !strings.HasPrefix(f[1], "Recv-Q") {
				return nil, &SyntaxError{no, fmt.Sprintf("%.60q is no heading of ss", line), giveSS}
			}
			continue
		}
		switch f[0] {
		case "tcp":
			f = f[1:]
		case "Recv-Q":
			return nil, &SyntaxError{no, "this list has no states: it was asked for one state only (ss state …)", giveSS}
		case "mptcp", // its subflows are in the list as tcp
			"udp", "raw", "u_str", "u_dgr", "u_seq", "nl", "p_raw", "p_dgr", "icmp6", "v_str", "v_dgr", "sctp", "dccp", "ti_st", "ti_dg", "ti_rd", "ti_sq", "xdp", "???":
			cur = nil
			continue
		}
		s, rest, err := parseSSLine(f)
		if err != nil {
			what := err.Error()
			if no == first && !head {
				what = "this is no output of ss: " + what
			}
			return nil, &SyntaxError{no, what, giveSS}
		}
		l.sockets = append(l.sockets, s)
		cur = &l.sockets[len(l.sockets)-1]
		lastLine = no
		if err := l.details(cur, rest); err != nil {
			return nil, &SyntaxError{no, err.Error(), giveSS}
		}
	}
	listens, waits := 0, 0
	for i := range l.sockets {
		s := &l.sockets[i]
		switch {
		case s.State == Listen:
			listens++
		case s.State == TimeWait:
			waits++
		case hasInfo(s) && s.Info != nil:
			infos++
		case hasInfo(s):
			bare = i + 1
		}
		if s.Timer != TimerNone {
			l.known.Timers = true
		}
	}
	if infos > 0 && bare == len(l.sockets) {
		return nil, &SyntaxError{lastLine, "the last socket has no line of details, and those before it have: the output was cut there", giveSS}
	}
	if len(l.sockets) == 0 && !head {
		return nil, &SyntaxError{first, "there is no TCP socket in it", giveSS}
	}
	l.known.Info = infos > 0
	if infos == 0 {
		l.withoutBacklogs()
	}
	l.known.Partial = listens == 0 && waits == 0 && len(l.sockets) > 0
	return l, nil
}

// withoutBacklogs marks a list that ss took from /proc/net/tcp, because the
// kernel did not let it ask otherwise: it shows a backlog of 0 for every
// listener then, and has no details. 0 would say that each queue is over.
func (l *ssList) withoutBacklogs() {
	var listening []*Socket
	for i := range l.sockets {
		if s := &l.sockets[i]; s.State == Listen {
			if s.WQueue > 0 {
				return
			}
			listening = append(listening, s)
		}
	}
	for _, s := range listening {
		s.WQueue, l.known.NoBacklog = noBacklog, true
	}
}

// hasInfo tells whether ss -i has details of a socket in this state.
func hasInfo(s *Socket) bool {
	return s.State != TimeWait && s.State != Listen && s.State != SynRecv && !(s.State == FinWait2 && s.Timer == TimerTimeWait) && s.State != probe.Closed
}

// parseSSLine reads state, queues and addresses; what follows is given back.
func parseSSLine(f []string) (Socket, string, error) {
	var s Socket
	if len(f) == 0 {
		return s, "", errors.New("nothing after the kind of socket")
	}
	state, ok := ssStates[f[0]]
	if !ok {
		return s, "", fmt.Errorf("%.40q is no state of TCP as ss writes it (ESTAB, TIME-WAIT, LISTEN …)", f[0])
	}
	if len(f) < 5 {
		return s, "", fmt.Errorf("a socket in %s with %d of the 5 fields (state, Recv-Q, Send-Q, local address, peer address): the line was cut", f[0], len(f))
	}
	// Some versions write no blank before what follows the peer's address.
	for _, word := range []string{"users:((", "timer:("} {
		if i := strings.Index(f[4], word); i > 0 {
			f = append(append(f[:4:4], f[4][:i], f[4][i:]), f[5:]...)
		}
	}
	s.State = state
	for i, q := range []*uint32{&s.RQueue, &s.WQueue} {
		n, err := strconv.ParseUint(f[1+i], 10, 32)
		if err != nil {
			return s, "", fmt.Errorf("%.40q is no queue's length (field %d)", f[1+i], 2+i)
		}
		*q = uint32(n)
	}
	var err error
	if s.Src, err = parseSSAddr(f[3]); err != nil {
		return s, "", err
	}
	if s.Dst, err = parseSSAddr(f[4]); err != nil {
		return s, "", err
	}
	return s, strings.Join(f[5:], " "), nil
}

// parseSSAddr reads 10.0.0.1:80, 10.0.0.1%eth0:80, [::1]:80, *:80, 0.0.0.0:*.
func parseSSAddr(text string) (netip.AddrPort, error) {
	bad := func(what string) (netip.AddrPort, error) {
		return netip.AddrPort{}, fmt.Errorf("%.60q is no address with a port%s", text, what)
	}
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return bad(": the line was cut, or it is no output of ss")
	}
	host, port := text[:i], text[i+1:]
	p := uint64(0)
	if port != "*" {
		var err error
		if p, err = strconv.ParseUint(port, 10, 16); err != nil {
			if port != "" && strings.Trim(port, "0123456789") != "" {
				return bad(": ports by name; ask ss with -n")
			}
			return bad("")
		}
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if h, _, ok := strings.Cut(host, "%"); ok {
		host = h // an interface: of no matter here
		host = strings.TrimSuffix(host, "]")
	}
	if host == "*" {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(p)), nil
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return bad("")
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), nil
}

// details reads what follows a socket's addresses, on its line and the next.
func (l *ssList) details(s *Socket, text string) error {
	for text != "" {
		var word string
		if strings.HasPrefix(text, "users:(") {
			var err error
			if text, err = users(s, text); err != nil {
				return err
			}
			continue
		}
		word, text, _ = strings.Cut(text, " ")
		text = strings.TrimLeft(text, " ")
		if err := l.detail(s, word); err != nil {
			return err
		}
	}
	return nil
}

func (l *ssList) detail(s *Socket, word string) error {
	name, v, ok := strings.Cut(word, ":")
	if !ok {
		return nil
	}
	num := func(bits int) (uint64, error) {
		n, err := strconv.ParseUint(v, 10, bits)
		if err != nil {
			return 0, fmt.Errorf("%.60q: no number", word)
		}
		return n, nil
	}
	info := func() *Info {
		if s.Info == nil {
			s.Info = &Info{}
		}
		return s.Info
	}
	millis := func(to *time.Duration) error {
		n, err := strconv.ParseFloat(v, 64)
		if err != nil || !(n >= 0) || n > 1e12 {
			return fmt.Errorf("%.60q: no time in ms", word)
		}
		*to = time.Duration(n * 1e6)
		return nil
	}
	var n uint64
	var err error
	switch name {
	case "timer":
		return parseSSTimer(s, word, v)
	case "uid":
		n, err = num(32)
		s.UID = uint32(n)
	case "ino":
		n, err = num(32)
		s.Inode, l.known.Owners = uint32(n), true
	case "sk":
		if n, err = strconv.ParseUint(v, 16, 64); err != nil {
			return fmt.Errorf("%.60q: no number in hexadecimal", word)
		}
		s.Cookie = n
	case "rto":
		if hasInfo(s) {
			return millis(&info().RTO)
		}
	case "rtt":
		if hasInfo(s) {
			v, _, _ = strings.Cut(v, "/")
			return millis(&info().RTT)
		}
	case "backoff":
		if n, err = num(8); err == nil && hasInfo(s) {
			info().Backoff = uint8(n)
		}
	case "lastsnd":
		return millis(&info().LastSent)
	case "lastrcv":
		return millis(&info().LastReceived)
	case "lastack":
		return millis(&info().LastAck)
	case "snd_wnd":
		if n, err = num(32); err == nil {
			info().Window, info().WindowKnown = uint32(n), true
		}
	}
	return err
}

// parseSSTimer reads timer:(on,204ms,0).
func parseSSTimer(s *Socket, word, v string) error {
	bad := func(what string) error { return fmt.Errorf("%.60q is no timer of ss: %s", word, what) }
	inner, ok := strings.CutPrefix(v, "(")
	inner, ok2 := strings.CutSuffix(inner, ")")
	if !ok || !ok2 {
		return bad("it has no end, the line was cut")
	}
	f := strings.Split(inner, ",")
	if len(f) != 3 {
		return bad("it has not three parts")
	}
	t, ok := ssTimers[f[0]]
	if !ok {
		return bad("a timer of an unknown kind")
	}
	d, err := parseSSTime(f[1])
	if err != nil {
		return bad(err.Error())
	}
	n, err := strconv.ParseUint(f[2], 10, 8)
	if err != nil {
		return bad("its retries are no number")
	}
	s.Timer, s.Expires, s.Retrans = t, d, uint8(n)
	return nil
}

// parseSSTime reads what print_ms_timer of ss writes: 440ms, 57sec, 1min15sec,
// 119min, and nothing at all for 0. 8.1 s are 8.100sec; before iproute2 6.11
// they were 8.100ms: seconds all the same, since a dot parts them from
// milliseconds.
func parseSSTime(text string) (time.Duration, error) {
	bad := fmt.Errorf("%.20q is no time", text)
	number := func(s string) (time.Duration, bool) {
		n, err := strconv.ParseUint(s, 10, 31)
		return time.Duration(n), err == nil
	}
	var d time.Duration
	rest := text
	if head, tail, ok := strings.Cut(rest, "min"); ok {
		n, ok := number(head)
		if !ok {
			return 0, bad
		}
		d, rest = n*time.Minute, tail
	}
	if rest == "" {
		return d, nil
	}
	digits, inSec := strings.CutSuffix(rest, "sec")
	if !inSec {
		var inMs bool
		if digits, inMs = strings.CutSuffix(rest, "ms"); !inMs {
			return 0, bad
		}
	}
	secs, millis, dot := strings.Cut(digits, ".")
	if !dot && !inSec {
		secs, millis = "0", secs
	}
	n, ok := number(secs)
	m, ok2 := time.Duration(0), true
	if dot || !inSec {
		m, ok2 = number(millis)
	}
	if !ok || !ok2 || m > 999 || dot && len(millis) != 3 {
		return 0, bad
	}
	return d + n*time.Second + m*time.Millisecond, nil
}

// user is one entry of users:(…): ("nginx",pid=123,fd=4), before iproute2 3.17
// ("nginx",123,4), with -Z and -T more in between. A program chooses its name,
// with quotes and parentheses if it likes.
var user = regexp.MustCompile(`^\("(.*?)",(?:pid=)?([0-9]+),(?:[a-z_]+=[^")]*?,)*(?:fd=)?[0-9]+\)`)

// users reads users:(("nginx",pid=123,fd=4),…), of which the first process
// counts, and gives back what follows.
func users(s *Socket, text string) (string, error) {
	rest := strings.TrimPrefix(text, "users:(")
	for n := 0; ; n++ {
		m := user.FindStringSubmatch(rest)
		if m == nil {
			return "", fmt.Errorf("%.60q are no users of a socket: it is no output of ss, or the line was cut", text)
		}
		if n == 0 {
			pid, err := strconv.ParseUint(m[2], 10, 31)
			if err != nil {
				return "", fmt.Errorf("%.60q: no number of a process", text)
			}
			s.Owner = &Process{PID: int(pid), Name: printable(m[1])}
		}
		rest = rest[len(m[0]):]
		if after, ok := strings.CutPrefix(rest, ")"); ok {
			return strings.TrimLeft(after, " "), nil
		}
		rest = strings.TrimPrefix(rest, ",")
	}
}
