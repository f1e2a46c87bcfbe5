package clients

import (
	"bytes"
	"encoding/binary"
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

	// MaxPayload is the largest N and W.
	MaxPayload = 16 << 20
)

// request is the one request of a client: all are alike but for a sequence
// number at the beginning of the payload, which is written in before each
// send, so that an answer to another request shows.
type request struct {
	frame []byte // header and payload
	want  int
	seq   uint64
}

func newRequest(size, want int, close bool) *request {
	r := &request{frame: make([]byte, requestHeader+size), want: want}
	binary.BigEndian.PutUint32(r.frame, uint32(size))
	w := uint32(want)
	if close {
		w |= closeBit
	}
	binary.BigEndian.PutUint32(r.frame[4:], w)
	for i := range r.payload() {
		r.payload()[i] = byte('!' + i%94) // printable, for whoever reads a capture
	}
	return r
}

func (r *request) payload() []byte { return r.frame[requestHeader:] }

// numbered gives the frame of request number seq; it holds until the next
// call.
func (r *request) numbered(seq uint64) []byte {
	if r.seq != seq {
		r.seq = seq
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], seq)
		copy(r.payload(), b[:])
	}
	return r.frame
}

// verdict on a piece of an answer.
type verdict int

const (
	more    verdict = iota // so far so good
	whole                  // and it is complete
	garbage                // it is no answer to the request
)

// check compares the next bytes of the answer to request seq, of which got
// bytes have come before.
func (r *request) check(seq uint64, got int, b []byte) verdict {
	var head [answerHeader]byte
	binary.BigEndian.PutUint32(head[:], uint32(r.want))
	if got+len(b) > answerHeader+r.want {
		return garbage
	}
	done := got+len(b) == answerHeader+r.want
	if got < answerHeader {
		n := min(answerHeader-got, len(b))
		if !bytes.Equal(b[:n], head[got:got+n]) {
			return garbage
		}
		got, b = got+n, b[n:]
	}
	payload := r.numbered(seq)[requestHeader:]
	if len(payload) == 0 {
		payload = zero[:]
	}
	if len(b) > 0 && !repeats(b, payload, (got-answerHeader)%len(payload)) {
		return garbage
	}
	if done {
		return whole
	}
	return more
}

// repeats tells whether b is period over and over, from its byte at on.
func repeats(b, period []byte, at int) bool {
	head := b[:min(len(b), len(period))]
	n := min(len(head), len(period)-at)
	if !bytes.Equal(head[:n], period[at:at+n]) || !bytes.Equal(head[n:], period[:len(head)-n]) {
		return false
	}
	// And the rest is what it was one period before.
	return bytes.Equal(b[len(head):], b[:len(b)-len(head)])
}

// zero is what an empty payload repeats as.
var zero [1]byte
