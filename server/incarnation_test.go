package server

import (
	"bytes"
	"io"
	"testing"
)

// stream is n bytes of an incarnation from a place on.
func stream(number byte, at, n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = patternByte(number, at+int64(i))
	}
	return b
}

func TestBytesOfAnEarlierConnectionAreKnown(t *testing.T) {
	gate(t)
	s := serve(t, Config{Kind: Discard}, nil)
	say := func(number byte, lead uint32, want int, pieces ...[]byte) {
		t.Helper()
		c := dial(t, s.addr)
		preface := []byte{incarnations, number, 0, 0, byte(lead >> 24), byte(lead >> 16), byte(lead >> 8), byte(lead)}
		c.Write(append(preface, bytes.Join(pieces, nil)...))
		if _, err := io.ReadFull(c, make([]byte, want)); err != nil {
			t.Fatalf("incarnation %d: %v", number, err)
		}
		// It is asked to close, and does.
		c.Write([]byte{over})
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Fatalf("incarnation %d: %d bytes more, %v", number, len(rest), err)
		}
	}
	say(1, 0, 3000, stream(1, 0, 3000))
	say(1, 200_000, 203_000, stream(1, 0, 3000))
	minus := uint32(1<<32 - 1000)
	say(1, minus, 2000, stream(1, 0, 3000))
	// 1,460 bytes of the first one in the second.
	say(2, 0, 6000, stream(2, 0, 2500), stream(1, 900, 1460), stream(2, 3960, 2040))
	// Bytes of the right one at the wrong place are another fault.
	say(2, 0, 200, stream(2, 0, 100), stream(2, 101, 100))
	r := s.stop()
	if r.Incarnations != 5 || r.Stale != 1460 || r.StaleAt > 2500 || r.Misplaced != 100 || r.LaterRead != 6200 || r.Received != 9000+6200 {
		t.Errorf("%+v", r)
	}
}

func TestASinkRefusesIncarnationsThatThereAreNone(t *testing.T) {
	gate(t)
	s := serve(t, Config{Kind: Discard}, nil)
	for _, preface := range [][]byte{
		{incarnations, 0, 0, 0, 0, 0, 0, 0}, {incarnations, 4, 0, 0, 0, 0, 0, 0}, {incarnations, 1, 1, 0, 0, 0, 0, 0},
	} {
		c := dial(t, s.addr)
		c.Write(preface)
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("% x is answered", preface)
		}
	}
	if r := s.stop(); r.Errors["garbage"] != 3 || r.Incarnations != 0 {
		t.Errorf("%+v", r)
	}
}
