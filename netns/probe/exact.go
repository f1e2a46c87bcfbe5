package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ErrNoSocket is what Exact answers about a socket that is not there (any more).
var ErrNoSocket = errors.New("no such socket")

// Exact asks for the one TCP socket between two addresses, with its tcp_info.
// It is a look into the hash table, not a walk through it: microseconds, where
// Dump takes milliseconds on a machine with a large table.
func (p *Probe) Exact(src, dst netip.AddrPort) (Socket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.diag == nil {
		return Socket{}, errClosed
	}
	var s Socket
	found := false
	err := p.diag.exact(src, dst, DumpOptions{Info: true}.extensions(), func(msg []byte) (err error) {
		s, err = ParseSocket(msg)
		found = true
		return err
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return s, fmt.Errorf("probe: %v to %v: %w", src, dst, ErrNoSocket)
	case err != nil:
		return s, fmt.Errorf("probe: %v to %v: %w", src, dst, err)
	case !found:
		return s, fmt.Errorf("probe: %v to %v: an answer without a socket", src, dst)
	}
	return s, nil
}

// exact asks without NLM_F_DUMP: tcp_diag_get_exact (inet_diag_dump_one_icsk)
// answers with one message, or with the error.
func (d *diag) exact(src, dst netip.AddrPort, ext uint8, f func(msg []byte) error) error {
	family := uint8(unix.AF_INET6)
	if src.Addr().Is4() {
		family = unix.AF_INET
	}
	b := d.request(family, AllStates, ext, unix.NLM_F_REQUEST)
	// struct inet_diag_sockid: ports and addresses in network order, the
	// interface, and a cookie that says "whichever".
	binary.BigEndian.PutUint16(b[24:], src.Port())
	binary.BigEndian.PutUint16(b[26:], dst.Port())
	copy(b[28:44], src.Addr().AsSlice())
	copy(b[44:60], dst.Addr().AsSlice())
	binary.NativeEndian.PutUint64(b[64:], ^uint64(0))
	if err := d.send(b); err != nil {
		return err
	}
	for {
		n, err := d.receive()
		if err != nil {
			return err
		}
		// What is left of an earlier request that was given up is passed over.
		mine := 0
		_, _, err = parseAnswer(d.buf[:n], d.seq, func(msg []byte) error { mine++; return f(msg) })
		if err != nil || mine > 0 {
			return err
		}
	}
}

// BBRInfo is the kernel's struct tcp_bbr_info (include/uapi/linux/inet_diag.h):
// the model of the path that BBR sends by.
type BBRInfo struct {
	Bandwidth  uint64  // B/s: the largest delivery rate of the last ten round trips
	MinRTT     uint32  // µs: the smallest round trip of the last ten seconds
	PacingGain float64 // what it paces at, in Bandwidth
	CwndGain   float64 // its window, in Bandwidth × MinRTT
}

// bbrUnit is BBR_UNIT: gains are fixed-point numbers of eight bits.
const bbrUnit = 1 << 8

// ParseBBRInfo decodes a struct tcp_bbr_info; a longer one is a newer kernel's.
func ParseBBRInfo(b []byte) (BBRInfo, error) {
	if len(b) < 20 {
		return BBRInfo{}, fmt.Errorf("a tcp_bbr_info of %d bytes, fewer than 20", len(b))
	}
	ne := binary.NativeEndian
	return BBRInfo{
		Bandwidth: uint64(ne.Uint32(b)) | uint64(ne.Uint32(b[4:]))<<32, MinRTT: ne.Uint32(b[8:]),
		PacingGain: float64(ne.Uint32(b[12:])) / bbrUnit, CwndGain: float64(ne.Uint32(b[16:])) / bbrUnit,
	}, nil
}
