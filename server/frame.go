package server

import (
	"encoding/binary"
	"fmt"
)

// The echo protocol. All numbers are big-endian.
//
//	request: uint32 N | uint32 W, its top bit C | N bytes of payload
//	answer:  uint32 W | W bytes: the payload, repeated or cut to W bytes
//
// C asks the server to close the connection after the answer. Requests on a
// connection are answered one after the other, in order.
const (
	requestHeader = 8
	answerHeader  = 4
	closeBit      = 1 << 31

	// MaxPayload is the largest N and W. What claims to be larger is garbage.
	MaxPayload = 16 << 20
)

// frame is a request. Its payload is what follows the header.
type frame struct {
	size  int // N
	want  int // W
	close bool
}

// parseFrame reads the request at the beginning of b. Its length on the wire
// is 0 while some of it is missing; the header is checked as soon as it is
// there.
func parseFrame(b []byte) (f frame, length int, err error) {
	if len(b) < requestHeader {
		return f, 0, nil
	}
	n, w := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	f.close = w&closeBit != 0
	w &^= closeBit
	if n > MaxPayload || w > MaxPayload {
		return f, 0, fmt.Errorf("not a request: it claims %d bytes and asks for %d, more than %d", n, w, MaxPayload)
	}
	f.size, f.want = int(n), int(w)
	if len(b) < requestHeader+f.size {
		return f, 0, nil
	}
	return f, requestHeader + f.size, nil
}

// answer builds the answer to the request f at the beginning of b, in b itself
// where it fits and else in scratch, which it gives back grown.
func answer(f frame, b, scratch []byte) (out, grown []byte) {
	if f.want <= f.size {
		out = b[requestHeader-answerHeader : requestHeader+f.want]
		binary.BigEndian.PutUint32(out, uint32(f.want))
		return out, scratch
	}
	scratch = binary.BigEndian.AppendUint32(scratch[:0], uint32(f.want))
	scratch = repeat(scratch, b[requestHeader:requestHeader+f.size], f.want)
	return scratch, scratch
}

// repeat appends n bytes to b: period over and over, or zeros if it is empty.
func repeat(b, period []byte, n int) []byte {
	if len(period) == 0 {
		period = zero[:]
	}
	from := len(b)
	for left := n; left > 0; left = n - (len(b) - from) {
		b = append(b, period[:min(left, len(period))]...)
		// All that is there now ends with a whole period: twice as fast on.
		period = b[from:]
	}
	return b
}

// zero is what an empty payload repeats as.
var zero [1]byte
