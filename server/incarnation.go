package server

import (
	"encoding/binary"

	"tcplab/lab/socket"
)

// What a sink does with incarnations: connections of the same four ports, one
// after the other. Each byte bears the number of its connection and its place,
// so that bytes of an earlier one are known wherever they come out. The preface
// is the mode, the number, two bytes of zero and how much more (or less) is to
// be answered than was read, big-endian and signed. A byte of zero asks the
// server to close.
const (
	incarnations = 'i'

	// Over is the byte that bears no number.
	over = 0
	// places is after how many bytes the pattern begins again: a prime, so that
	// no length of segment hides a shift.
	places = 61
)

// patternByte is the byte at a place of the stream of an incarnation, 1 to 3.
func patternByte(number byte, at int64) byte { return number<<6 | byte(at%places) }

// filler is what answers are made of.
var filler [64 << 10]byte

// succeed takes bytes of an incarnation, checks each and answers.
func (e *echo) succeed(p *peer, b []byte) {
	d := &p.drain
	before := e.count.Stale
	for i, c := range b {
		switch number := c >> 6; {
		case c == over:
			// Nothing follows it: whoever asks for the close sends no more.
			b, p.last = b[:i], true
		case number < d.number:
			if e.count.Stale == 0 {
				e.said.once(socket.Nanotime(), "stale", "first", "a byte of an earlier connection")
			}
			e.count.Stale++
		case c != patternByte(d.number, d.got+int64(i)):
			e.count.Misplaced++
		}
		if p.last {
			break
		}
	}
	if d.number > 1 {
		e.count.LaterRead += int64(len(b))
	}
	if e.count.Stale > before && before == 0 {
		e.count.StaleAt = d.got
	}
	d.got += int64(len(b))
	e.count.Received += int64(len(b))
	e.answerFor(p)
	if p.fd >= 0 && p.last && len(p.out) == 0 {
		e.drop(p)
	}
}

// answerFor sends what is owed: a byte for each byte read, and the lead.
func (e *echo) answerFor(p *peer) {
	d := &p.drain
	for owed := d.got + d.lead - d.told; owed > 0; owed = d.got + d.lead - d.told {
		n := min(owed, int64(len(filler)))
		d.told += n
		if len(p.out) > 0 {
			p.out = append(p.out, filler[:n]...)
			continue
		}
		sent, ok := e.send(p, filler[:n])
		if !ok {
			return
		}
		p.out = append(p.out, filler[sent:n]...)
	}
}

func (d *drain) openIncarnation(preface []byte) {
	d.mode, d.number = incarnations, preface[1]
	d.lead = int64(int32(binary.BigEndian.Uint32(preface[4:])))
}
