package capture

import "encoding/binary"

// packet is one kept packet at one tap.
type packet struct {
	at    int64 // CLOCK_MONOTONIC, ns
	wire  int   // bytes on the wire
	tap   int
	out   bool  // sent by the tap's host
	ord   int64 // as in verdict
	again bool
	data  []byte
}

const chunkSize = 64 << 10

// arena holds the bytes of kept packets.
type arena struct{ chunk []byte }

func (a *arena) copy(b []byte) []byte {
	if cap(a.chunk)-len(a.chunk) < len(b) {
		a.chunk = make([]byte, 0, max(chunkSize, len(b)))
	}
	n := len(a.chunk)
	a.chunk = append(a.chunk, b...)
	return a.chunk[n:len(a.chunk):len(a.chunk)]
}

const (
	historyTime  = int64(2e9)
	historyBytes = 4 << 20
	historyHead  = 8 + 8 + 4 + 2 + 1 + 1 // at, ord, wire, caplen, tap, flags

	historyOut   = 1
	historyTaken = 2
	historyAgain = 4
)

// history is the last two seconds of what was not kept, at most 4 MB: an
// event is known only after it happened.
type history struct {
	chunks []historyChunk // oldest first
	spare  [][]byte       // empty ones
}

type historyChunk struct {
	b    []byte
	last int64 // the newest stamp in it
}

func (s *history) add(p *packet) {
	n := historyHead + len(p.data)
	if len(s.chunks) == 0 || cap(s.chunks[len(s.chunks)-1].b)-len(s.chunks[len(s.chunks)-1].b) < n {
		s.grow(p.at, n)
	}
	c := &s.chunks[len(s.chunks)-1]
	b := c.b
	b = binary.NativeEndian.AppendUint64(b, uint64(p.at))
	b = binary.NativeEndian.AppendUint64(b, uint64(p.ord))
	b = binary.NativeEndian.AppendUint32(b, uint32(p.wire))
	b = binary.NativeEndian.AppendUint16(b, uint16(len(p.data)))
	flags := byte(0)
	if p.out {
		flags = historyOut
	}
	if p.again {
		flags |= historyAgain
	}
	c.b = append(append(b, byte(p.tap), flags), p.data...)
	c.last = max(c.last, p.at)
}

// grow adds a chunk: one that grew old, where there is one, so that a steady
// flow of packets settles into memory that is warm.
func (s *history) grow(now int64, n int) {
	old := 0
	for old < len(s.chunks) && s.chunks[old].last < now-historyTime {
		old++
	}
	if old == 0 && len(s.spare) == 0 && len(s.chunks) >= historyBytes/chunkSize {
		old = 1
	}
	for _, c := range s.chunks[:old] {
		s.spare = append(s.spare, c.b[:0])
	}
	s.chunks = append(s.chunks[:0], s.chunks[old:]...)
	var b []byte
	if k := len(s.spare); k > 0 {
		b, s.spare = s.spare[k-1], s.spare[:k-1]
	}
	if cap(b) < n {
		b = make([]byte, 0, max(chunkSize, n))
	}
	s.chunks = append(s.chunks, historyChunk{b: b, last: now})
}

// take hands over each packet between two instants that was not taken yet; it
// is taken when f says so. Its data is valid during the call.
func (s *history) take(from, to int64, f func(*packet) bool) {
	for _, c := range s.chunks {
		if c.last < from {
			continue
		}
		for b := c.b; len(b) > 0; {
			ne := binary.NativeEndian
			n, flags := int(ne.Uint16(b[20:])), &b[23]
			p := packet{
				at: int64(ne.Uint64(b)), ord: int64(ne.Uint64(b[8:])), wire: int(ne.Uint32(b[16:])), tap: int(b[22]),
				out: *flags&historyOut != 0, again: *flags&historyAgain != 0, data: b[historyHead : historyHead+n],
			}
			if p.at >= from && p.at <= to && *flags&historyTaken == 0 && f(&p) {
				*flags |= historyTaken
			}
			b = b[historyHead+n:]
		}
	}
}
