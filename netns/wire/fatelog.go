package wire

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
)

// maxFates bounds what a FateLog remembers: 16 MiB.
const maxFates = 2_000_000

// An entry is a key of which the highest bits are kept and the lowest ones are
// the fate: five bytes, so that a full log fits into one message. Of two
// unrelated trials some 15 packets in a million seem to be the same.
const (
	keyShift  = 64 - 37
	fateMask  = 1<<3 - 1
	entrySize = 5
)

// FateLog remembers which frames had random fates drawn for them, so that two
// trials can be compared.
type FateLog struct {
	chunks [][]uint64
	n      int
	limit  int // of n; maxFates if 0
	seen   uint64
}

const chunkFates = 1 << 15

func (l *FateLog) add(key uint64, f fate) {
	l.seen++
	if l.n == cmp.Or(l.limit, maxFates) {
		return
	}
	l.put(key>>keyShift<<keyShift | uint64(f))
}

func (l *FateLog) put(entry uint64) {
	if l.n%chunkFates == 0 {
		l.chunks = append(l.chunks, make([]uint64, 0, chunkFates))
	}
	c := &l.chunks[len(l.chunks)-1]
	*c = append(*c, entry)
	l.n++
}

// Seen is how many frames were drawn for, remembered or not.
func (l *FateLog) Seen() uint64 { return l.seen }

// Truncated reports whether some were not remembered.
func (l *FateLog) Truncated() bool { return l.seen > uint64(l.n) }

// Entries is a copy of what is remembered, in order of arrival.
func (l *FateLog) Entries() []uint64 {
	e := make([]uint64, 0, l.n)
	for _, c := range l.chunks {
		e = append(e, c...)
	}
	return e
}

// fateLogJSON is a FateLog in a message.
type fateLogJSON struct {
	// Seen frames had fates drawn for them.
	Seen uint64 `json:"seen"`
	// Truncated is true when the first ones only were remembered.
	Truncated bool `json:"truncated,omitempty"`
	// Entries are five bytes each, little-endian.
	Entries []byte `json:"entries,omitempty"`
}

// MarshalJSON encodes all of the log, some 13 MB at most.
func (l *FateLog) MarshalJSON() ([]byte, error) {
	j := fateLogJSON{Seen: l.seen, Truncated: l.Truncated(), Entries: make([]byte, 0, l.n*entrySize)}
	for _, c := range l.chunks {
		for _, e := range c {
			e = e>>keyShift<<3 | e&fateMask
			j.Entries = append(j.Entries, byte(e), byte(e>>8), byte(e>>16), byte(e>>24), byte(e>>32))
		}
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (l *FateLog) UnmarshalJSON(data []byte) error {
	var j fateLogJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return fmt.Errorf("wire: log of fates: %w", err)
	}
	if n := len(j.Entries); n%entrySize != 0 || uint64(n/entrySize) > j.Seen || n/entrySize > maxFates {
		return fmt.Errorf("wire: log of fates has %d bytes for %d frames", n, j.Seen)
	}
	*l = FateLog{seen: j.Seen}
	for b := j.Entries; len(b) > 0; b = b[entrySize:] {
		e := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32
		l.put(e>>3<<keyShift | e&fateMask)
	}
	return nil
}

// Share is the share of the packets of both trials whose key occurred in the
// other one too: 1 when both drew for the same packets, 0 when none was the
// same or nothing was drawn. It leaves its arguments as they are.
func Share(a, b []uint64) float64 {
	if len(a)+len(b) == 0 {
		return 0
	}
	x, y := sortedKeys(a), sortedKeys(b)
	same := 0
	for i, j := 0, 0; i < len(x) && j < len(y); {
		switch {
		case x[i] < y[j]:
			i++
		case x[i] > y[j]:
			j++
		default:
			same++
			i++
			j++
		}
	}
	return 2 * float64(same) / float64(len(x)+len(y))
}

func sortedKeys(e []uint64) []uint64 {
	k := make([]uint64, len(e))
	for i, v := range e {
		k[i] = v >> keyShift
	}
	slices.Sort(k)
	return k
}
