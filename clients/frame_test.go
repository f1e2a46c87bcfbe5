package clients

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

// plainAnswer is the answer to request seq, built as plainly as possible.
func plainAnswer(r *request, seq uint64) []byte {
	payload := bytes.Clone(r.numbered(seq)[requestHeader:])
	if len(payload) == 0 {
		payload = []byte{0}
	}
	out := binary.BigEndian.AppendUint32(nil, uint32(r.want))
	for i := range r.want {
		out = append(out, payload[i%len(payload)])
	}
	return out
}

func TestAnswerInAnyPiecesIsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRequest(rapid.IntRange(0, 40).Draw(t, "size"), rapid.IntRange(0, 200).Draw(t, "want"), false)
		seq := rapid.Uint64().Draw(t, "seq")
		answer := plainAnswer(r, seq)
		for got := 0; got < len(answer); {
			n := rapid.IntRange(1, len(answer)-got).Draw(t, "n")
			want := more
			if got+n == len(answer) {
				want = whole
			}
			if v := r.check(seq, got, answer[got:got+n]); v != want {
				t.Fatalf("bytes %d to %d of %d: %v", got, got+n, len(answer), v)
			}
			got += n
		}
	})
}

func TestAnswerWithAnyByteChangedIsGarbage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRequest(rapid.IntRange(0, 40).Draw(t, "size"), rapid.IntRange(0, 200).Draw(t, "want"), false)
		answer := plainAnswer(r, 7)
		i := rapid.IntRange(0, len(answer)-1).Draw(t, "at")
		answer[i] ^= byte(rapid.IntRange(1, 255).Draw(t, "by"))
		if v := r.check(7, 0, answer); v != garbage {
			t.Fatalf("byte %d of %d changed: %v", i, len(answer), v)
		}
		if v := r.check(7, 0, append(plainAnswer(r, 7), 0)); v != garbage {
			t.Fatalf("a byte more: %v", v)
		}
		if len(r.payload()) >= 8 && r.want >= 8 {
			if v := r.check(8, 0, plainAnswer(r, 7)); v != garbage {
				t.Fatalf("the answer to another request: %v", v)
			}
		}
	})
}

// However the bytes come, the verdict is that of comparing them to the answer.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3, 'a', 'b', 'c'}, uint8(3), uint8(3), uint8(2))
	f.Add([]byte{0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, '!'}, uint8(9), uint8(9), uint8(5))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), uint8(20), uint8(0), uint8(28))
	f.Fuzz(func(t *testing.T, b []byte, size, want, cut uint8) {
		r := newRequest(int(size), int(want), false)
		answer := plainAnswer(r, 1)
		got, v := 0, more
		for len(b) > got && v == more {
			n := min(len(b)-got, int(cut)+1)
			v = r.check(1, got, b[got:got+n])
			got += n
		}
		plain := more
		switch {
		case got > len(answer) || !bytes.Equal(b[:got], answer[:got]):
			plain = garbage
		case got == len(answer):
			plain = whole
		}
		if v != plain {
			t.Errorf("%d bytes of an answer of %d: %v, want %v", got, len(answer), v, plain)
		}
	})
}
