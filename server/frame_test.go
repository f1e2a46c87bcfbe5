package server

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

// plain is the answer to a request, built as plainly as possible.
func plain(payload []byte, want int) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(want))
	for i := range want {
		b := byte(0)
		if len(payload) > 0 {
			b = payload[i%len(payload)]
		}
		out = append(out, b)
	}
	return out
}

func TestAnswerRepeatsOrCutsThePayload(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payload := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "payload")
		want := rapid.IntRange(0, 300).Draw(t, "want")
		b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
		b = binary.BigEndian.AppendUint32(b, uint32(want))
		b = append(b, payload...)
		f, n, err := parseFrame(append(b, "next"...))
		if err != nil || n != len(b) {
			t.Fatalf("%d bytes, %v", n, err)
		}
		expect := plain(payload, want)
		if out, _ := answer(f, b, make([]byte, 3)); !bytes.Equal(out, expect) {
			t.Fatalf("%x, want %x", out, expect)
		}
	})
}

// Whatever comes, the parser takes whole requests only, the same ones however
// the bytes are cut, and refuses nothing that has sane lengths.
func FuzzFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3, 0, 0, 0, 3, 'a', 'b', 'c'}, uint8(5))
	f.Add([]byte{0, 0, 0, 0, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, uint8(1))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint8(3))
	f.Add([]byte{1, 0, 0, 0, 1, 0, 0, 0}, uint8(8))
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		whole, wholeErr := parseAll(t, b, len(b)+1)
		pieces, piecesErr := parseAll(t, b, int(cut)+1)
		if !bytes.Equal(whole, pieces) || wholeErr != piecesErr {
			t.Errorf("at once %x (%v), in pieces of %d %x (%v)", whole, wholeErr, int(cut)+1, pieces, piecesErr)
		}
	})
}

// parseAll answers what b holds, given in pieces of n bytes, and tells whether
// it ended with garbage.
func parseAll(t *testing.T, b []byte, n int) (out []byte, bad bool) {
	var have, scratch []byte
	for len(b) > 0 {
		k := min(n, len(b))
		have, b = append(have, b[:k]...), b[k:]
		for {
			f, length, err := parseFrame(have)
			if err != nil {
				return out, true
			}
			if length == 0 {
				break
			}
			if length > len(have) || f.size > MaxPayload || f.want > MaxPayload {
				t.Fatalf("a request of %d bytes (%+v) in %d", length, f, len(have))
			}
			if f.want > 1<<16 {
				return out, false // enough memory
			}
			var a []byte
			request := bytes.Clone(have[:length])
			a, scratch = answer(f, request, scratch)
			if expect := plain(have[requestHeader:length], f.want); !bytes.Equal(a, expect) {
				t.Fatalf("answer %x, want %x", a, expect)
			}
			out = append(out, a...)
			have = have[length:]
		}
	}
	return out, false
}
