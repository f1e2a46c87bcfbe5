package triage

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"tcplab/netns/probe"
)

// noBacklog is the backlog of a listener of which it is not told: it counts as
// without bound.
const noBacklog = 1<<32 - 1

// parseProcTCP reads /proc/net/tcp and tcp6, one after the other
// (net/ipv4/tcp_ipv4.c: get_tcp4_sock): what there is where ss is not. It has
// timers and no tcp_info, and for a listener no backlog.
func parseProcTCP(text string, first int) ([]Socket, error) {
	const advice = "run the collector again: tcplab triage --script"
	var out []Socket
	no := first - 1
	head := false
	for line := range strings.Lines(text) {
		no++
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if f[0] == "sl" {
			head = true
			continue
		}
		s, err := parseProcSocket(f)
		if err != nil || !head {
			if err == nil {
				err = fmt.Errorf("a socket before the heading")
			}
			return nil, &SyntaxError{no, err.Error(), advice}
		}
		out = append(out, s)
	}
	if !head {
		return nil, &SyntaxError{first, "neither ss nor /proc/net/tcp gave anything", advice}
	}
	return out, nil
}

func parseProcSocket(f []string) (Socket, error) {
	var s Socket
	if len(f) < 10 {
		return s, fmt.Errorf("a line of /proc/net/tcp with %d fields: it was cut", len(f))
	}
	var err error
	if s.Src, err = procAddr(f[1]); err != nil {
		return s, err
	}
	if s.Dst, err = procAddr(f[2]); err != nil {
		return s, err
	}
	state, err := strconv.ParseUint(f[3], 16, 8)
	if err != nil || state == 0 || state > 12 {
		return s, fmt.Errorf("%.20q is no state of TCP", f[3])
	}
	if s.State = probe.State(state); state == 12 {
		s.State = SynRecv // TCP_NEW_SYN_RECV
	}
	pair := func(text string) (a, b uint64, err error) {
		x, y, ok := strings.Cut(text, ":")
		a, err = strconv.ParseUint(x, 16, 64)
		if b, err2 := strconv.ParseUint(y, 16, 64); ok && err == nil && err2 == nil {
			return a, b, nil
		}
		return a, b, fmt.Errorf("%.40q are no two numbers", text)
	}
	tx, rx, err := pair(f[4])
	if err != nil {
		return s, err
	}
	s.RQueue, s.WQueue = uint32(rx), uint32(tx)
	timer, when, err := pair(f[5])
	if err != nil {
		return s, err
	}
	if timer > uint64(TimerPersist) {
		return s, fmt.Errorf("%.20q is no timer", f[5])
	}
	const tick = 10 * time.Millisecond // USER_HZ
	s.Timer, s.Expires = Timer(timer), time.Duration(min(when, 1<<40))*tick
	retrans, err := strconv.ParseUint(f[6], 16, 64)
	uid, err2 := strconv.ParseUint(f[7], 10, 32)
	probes, err3 := strconv.ParseUint(f[8], 10, 64)
	inode, err4 := strconv.ParseUint(f[9], 10, 32)
	if err != nil || err2 != nil || err3 != nil || err4 != nil {
		return s, fmt.Errorf("%.80q: no numbers", strings.Join(f[6:10], " "))
	}
	if s.Timer == TimerKeepalive || s.Timer == TimerPersist {
		retrans = probes
	}
	s.Retrans, s.UID, s.Inode = uint8(min(retrans, 255)), uint32(uid), uint32(inode)
	if s.State == Listen {
		s.WQueue = noBacklog
	}
	return s, nil
}

// procAddr reads an address as the kernel's memory has it: words of 32 bits in
// the machine's order (nearly always little-endian), then the port.
func procAddr(text string) (netip.AddrPort, error) {
	bad := fmt.Errorf("%.60q is no address of /proc/net/tcp", text)
	host, port, ok := strings.Cut(text, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	b, err2 := hex.DecodeString(host)
	if !ok || err != nil || err2 != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, bad
	}
	for i := 0; i < len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], binary.LittleEndian.Uint32(b[i:]))
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), nil
}
