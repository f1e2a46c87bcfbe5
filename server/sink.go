package server

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// The bulk protocol: see the client's side. A flow begins with a mode, three
// bytes of zero and a message's length, big-endian.
const (
	sendOnly  = 's' // the client sends, and nobody answers
	sendAcked = 'a' // each message that was read whole is answered with the bytes of messages read so far
	receives  = 'r' // the server sends without end

	prefaceLength = 8
	sendRounds    = 16 // writes in a row before others are looked at
)

// drain is what the sink knows of a connection.
type drain struct {
	mode    byte
	message int64 // a message's length
	got     int64 // bytes of messages
	told    int64 // of these, acknowledged; of an incarnation, bytes answered
	number  byte  // of an incarnation, from 1
	lead    int64 // how much more it is answered than it has sent
}

// swallow takes what a flow has sent.
func (e *echo) swallow(p *peer, b []byte) {
	if p.drain.mode == 0 {
		p.in = append(p.in, b...)
		if len(p.in) < prefaceLength {
			return
		}
		if err := p.drain.open(p.in); err != nil {
			e.count.Errors["garbage"]++
			e.said.once(socket.Nanotime(), "error", "garbage", err.Error())
			e.drop(p)
			return
		}
		b = p.in[prefaceLength:]
		defer func() { p.in = p.in[:0] }()
		if p.drain.mode == incarnations {
			e.count.Incarnations++
		}
		if p.drain.mode == receives {
			e.pour(p)
			return
		}
	}
	d := &p.drain
	if d.mode == incarnations {
		e.succeed(p, b)
		e.said.advance(socket.Nanotime, e.gauges)
		return
	}
	d.got += int64(len(b))
	e.count.Received += int64(len(b))
	whole := d.got / d.message * d.message
	if whole > d.told {
		e.count.Requests += (whole - d.told) / d.message
		if d.mode == sendAcked {
			e.acknowledge(p, whole)
		}
		d.told = whole
	}
	e.said.advance(socket.Nanotime, e.gauges)
}

func (d *drain) open(preface []byte) error {
	if n := preface[1]; preface[0] == incarnations && n >= 1 && n <= 3 && preface[2]|preface[3] == 0 {
		d.openIncarnation(preface)
		return nil
	}
	d.mode, d.message = preface[0], int64(binary.BigEndian.Uint32(preface[4:]))
	if d.mode != sendOnly && d.mode != sendAcked && d.mode != receives || preface[1]|preface[2]|preface[3] != 0 || d.message == 0 {
		return fmt.Errorf("not a flow: it begins with % x", preface[:prefaceLength])
	}
	return nil
}

// acknowledge says how much has been read. A client that does not read its
// acknowledgements makes them wait.
func (e *echo) acknowledge(p *peer, upto int64) {
	b := binary.BigEndian.AppendUint64(nil, uint64(upto))
	if len(p.out) == 0 {
		n, ok := e.send(p, b)
		if !ok {
			return
		}
		b = b[n:]
	}
	p.out = append(p.out, b...)
}

// pour sends as much as the connection takes now.
func (e *echo) pour(p *peer) {
	for range sendRounds {
		n, ok := e.send(p, e.buf)
		if !ok || n < len(e.buf) {
			return
		}
	}
}

// wantsOut tells whether the sink has more to send on p.
func (p *peer) wantsOut() bool { return len(p.out) > 0 || p.drain.mode == receives && !p.ended }

// watched is what the poller looks for on a sink's connection.
func (e *echo) watched(p *peer) uint32 {
	var want uint32
	if p.wantsOut() {
		want |= unix.EPOLLOUT
	}
	if e.reading && !p.ended {
		want |= unix.EPOLLIN
	}
	return want
}
