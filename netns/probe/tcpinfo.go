package probe

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TCPInfo is the kernel's struct tcp_info (include/uapi/linux/tcp.h). Times
// are in µs but for the Last_ ones (ms); rates in B/s; Snd_cwnd and
// Snd_ssthresh in segments.
type TCPInfo struct {
	unix.TCPInfo
	SndWscale, RcvWscale   uint8
	DeliveryRateAppLimited bool
	Size                   int    // bytes that the kernel gave; fields beyond are zero
	Rest                   []byte // what a newer kernel gave beyond the fields above
}

// ParseTCPInfo decodes a struct tcp_info of any length: an older kernel's is
// shorter, a newer one's longer than the one known here.
func ParseTCPInfo(b []byte) (TCPInfo, error) {
	var t TCPInfo
	if len(b) == 0 {
		return t, errors.New("an empty tcp_info")
	}
	const known = int(unsafe.Sizeof(t.TCPInfo))
	t.Size = len(b)
	copy((*[known]byte)(unsafe.Pointer(&t.TCPInfo))[:], b)
	// Bit fields, which x/sys leaves out, in the two bytes before Rto.
	if len(b) > 7 {
		t.SndWscale, t.RcvWscale = b[6]&0xf, b[6]>>4
		t.DeliveryRateAppLimited = b[7]&1 != 0
	}
	if len(b) > known {
		t.Rest = append([]byte(nil), b[known:]...)
	}
	return t, nil
}

// infinite is TCP_INFINITE_SSTHRESH: no loss has set a threshold yet.
const infinite = 0x7fffffff

// Ssthresh is the slow start threshold in segments; false while it is
// infinite, before the first loss.
func (t *TCPInfo) Ssthresh() (uint32, bool) {
	return t.Snd_ssthresh, t.Snd_ssthresh < infinite
}
