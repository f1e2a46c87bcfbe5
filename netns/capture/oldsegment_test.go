package capture

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"tcplab/results"
)

// twice plays two connections with the same ports, of which the second begins
// behind the first by so many bytes, and a segment of 1,460 bytes of the first
// that comes in the second. kept is TIME-WAIT's part in it.
type twice struct {
	behind     uint32
	stamps     bool
	timeWait   bool // TIME-WAIT answers the SYN
	shut       bool // and the RST does not kill it
	accepts    bool
	forgotten  bool // where the segment left was not kept
	old, next  *talk
	s          *script
	left, came int64
}

const oldBytes = 5000 // of the first one before its last segment

func (w *twice) options(at int64) []byte {
	if !w.stamps {
		return nil
	}
	o := []byte{1, 1, optTimestamp, 10}
	return append(binary.BigEndian.AppendUint32(o, uint32(at/ms)), 0, 0, 0, 0)
}

func (w *twice) play() *Recorder {
	w.s = &script{delay: 5 * ms}
	w.old = &talk{s: w.s, port: 40_000, isn: [2]uint32{1000, 7_000_000}}
	w.next = &talk{s: w.s, port: 40_000, isn: [2]uint32{1000 + oldBytes - w.behind, 7_000_000 + 900}}
	at := w.open(w.old, 0)
	w.old.send(at, 0, flagPSH|flagACK, 1, 1, oldBytes, false, w.options(at)...)
	w.old.send(at+10*ms, 1, flagACK, 1, oldBytes+1, 0, false, w.options(at)...)
	w.left = at + 30*ms
	w.old.send(w.left, 0, flagPSH|flagACK, oldBytes+1, 1, 1460, true, w.options(w.left)...)
	held := w.s.packets[len(w.s.packets)-1]
	if w.forgotten {
		w.s.packets = w.s.packets[:len(w.s.packets)-1]
	}
	at = w.left + 210*ms
	end := uint32(oldBytes + 1461)
	w.old.send(at, 0, flagPSH|flagACK, oldBytes+1, 1, 1460, false, w.options(at)...)
	w.old.send(at+5*ms, 1, flagACK|flagFIN, 1, end, 0, false, w.options(at)...)
	w.old.send(at+10*ms, 0, flagACK|flagFIN, end, 2, 0, false, w.options(at)...)
	w.old.send(at+15*ms, 1, flagACK, 2, end+1, 0, false, w.options(at)...)
	at += 30 * ms
	if w.timeWait {
		w.next.send(at, 0, flagSYN, 0, 0, 0, false)
		w.old.send(at+5*ms, 1, flagACK, 2, end+1, 0, false)
		w.old.send(at+10*ms, 0, flagRST, end+1, 0, 0, false)
		at += 22 * ms
	}
	if w.shut {
		w.next.send(at, 0, flagSYN, 0, 0, 0, false)
		return recorded(w.s, 1000*ms)
	}
	at = w.open(w.next, at)
	// As far as the old segment's place.
	w.next.send(at, 0, flagPSH|flagACK, 1, 1, int(w.behind), false, w.options(at)...)
	w.came = at + 5*ms + 1
	held.at, held.tap, held.out = w.came, 1, false
	w.s.packets = append(w.s.packets, held)
	next := w.behind + 1
	at += 6 * ms
	switch {
	case w.accepts:
		w.next.send(at, 1, flagACK, 1, next+1460, 0, false)
		w.next.send(at+20*ms, 0, flagPSH|flagACK, next, 1, 1460, false)
		w.next.send(at+25*ms, 1, flagACK, 1, next+1460, 0, false, dsack(w.next.isn[0]+next)...)
	case w.stamps:
		w.next.send(at, 1, flagACK, 1, next, 0, false, w.options(at)...)
	default:
		w.next.send(at, 1, flagACK, 1, next, 0, false)
		w.next.send(at, 1, flagACK, 1, next, 0, false, dsack(1000+oldBytes+1)...)
	}
	return recorded(w.s, 1000*ms)
}

func (w *twice) open(tk *talk, at int64) int64 {
	tk.send(at, 0, flagSYN, 0, 0, 0, false, w.options(at)...)
	tk.send(at+5*ms, 1, flagSYN|flagACK, 0, 1, 0, false, w.options(at)...)
	tk.send(at+10*ms, 0, flagACK, 1, 1, 0, false, w.options(at)...)
	return at + 10*ms
}

// dsack is the option that tells of 1,460 bytes from seq on that came twice.
func dsack(seq uint32) []byte {
	o := []byte{1, 1, optSACK, 10}
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(o, seq), seq+1460)
}

func TestAnOldSegmentIsToldFromTheConnectionThatItComesIn(t *testing.T) {
	for _, tt := range []struct {
		name string
		w    twice
		old  []string // said of the old segment
		next []string // said of packets after it
	}{
		{"accepted", twice{behind: 3000, accepts: true},
			[]string{"1,460 bytes of the connection before, sent 2", "byte 3001 is just what is expected: 1,460 bytes go to the application"},
			[]string{"ACK for 1,460 bytes that client has not sent in this connection", "the bytes that belong there, 21.0 ms after the old ones: they are taken for a repetition"}},
		{"by PAWS", twice{behind: 3000, stamps: true},
			[]string{"ms older than the newest one that came: PAWS (RFC 7323, 5.3) refuses it"},
			[]string{"duplicate ACK: refuses the old segment, and still waits for byte 3001"}},
		{"where it left was not kept", twice{behind: 3000, accepts: true, forgotten: true},
			[]string{"an old segment: 1,460 bytes of the connection before; byte 3001"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.w.play()
			l, err := r.Ladder("old segment")
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			seen := -1
			for i, e := range l.Events {
				all = append(all, e.Label+" # "+e.Comment)
				if strings.HasPrefix(e.Comment, "an old segment") {
					seen = i
				}
			}
			text := strings.Join(all, "\n")
			if seen < 0 {
				t.Fatalf("no old segment:\n%s", text)
			}
			for _, want := range tt.old {
				if !strings.Contains(l.Events[seen].Comment, want) {
					t.Errorf("of the old segment %q is not said:\n%s", want, text)
				}
			}
			for _, want := range tt.next {
				if !slices.ContainsFunc(l.Events[seen:], func(e results.LadderEvent) bool { return strings.Contains(e.Comment, want) }) {
					t.Errorf("%q is not said:\n%s", want, text)
				}
			}
			// The original leaves and does not come; nothing else is lost.
			for i, e := range l.Events {
				if (e.Arrived == nil) != (i == 0 && !tt.w.forgotten) {
					t.Errorf("event %d: arrived %v:\n%s", i, e.Arrived, text)
				}
			}
			if !tt.w.forgotten && l.Events[0].Comment != "the wire keeps it" {
				t.Errorf("the original: %q", l.Events[0].Comment)
			}
			for _, c := range r.view.pkts {
				for _, said := range c.comments {
					if strings.HasPrefix(said, "lost:") {
						t.Errorf("%s: %q", label(&c), said)
					}
				}
			}
		})
	}
}

func TestAnOldSegmentBehindEverythingIsRefusedAsOld(t *testing.T) {
	// The second connection begins beyond the first.
	const ahead = 9000
	w := twice{}
	w.s = &script{delay: 5 * ms}
	w.old = &talk{s: w.s, port: 40_000, isn: [2]uint32{1000, 1}}
	w.next = &talk{s: w.s, port: 40_000, isn: [2]uint32{1000 + oldBytes + ahead, 2}}
	at := w.open(w.old, 0)
	w.old.send(at, 0, flagPSH|flagACK, 1, 1, 1460, true)
	held := w.s.packets[len(w.s.packets)-1]
	w.old.send(at+210*ms, 0, flagPSH|flagACK, 1, 1, 1460, false)
	w.old.send(at+215*ms, 1, flagACK|flagFIN, 1, 1461, 0, false)
	w.old.send(at+220*ms, 0, flagACK|flagFIN, 1461, 2, 0, false)
	at = w.open(w.next, at+250*ms)
	w.next.send(at, 0, flagPSH|flagACK, 1, 1, 100, false)
	held.at, held.tap, held.out = at+5*ms+1, 1, false
	w.s.packets = append(w.s.packets, held)
	w.next.send(at+6*ms, 1, flagACK, 1, 101, 0, false)
	w.next.send(at+6*ms, 1, flagACK, 1, 101, 0, false, dsack(1001)...)
	l, err := recorded(w.s, 1000*ms).Ladder("old segment")
	if err != nil {
		t.Fatal(err)
	}
	text, last := "", ""
	for _, e := range l.Events {
		text += e.Label + " # " + e.Comment + "\n"
		last = e.Comment
	}
	for _, want := range []string{"PSH,ACK seq 1:1461", "before what is expected: refused as old"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing:\n%s", want, text)
		}
	}
	if last != "ACK with DSACK: these bytes are taken for ones that came twice" {
		t.Errorf("the answer: %q\n%s", last, text)
	}
}

func TestWhatTimeWaitSaysIsNotOfTheConnectionThatOpens(t *testing.T) {
	for _, shut := range []bool{false, true} {
		w := twice{behind: 3000, timeWait: true, shut: shut, accepts: true}
		r := w.play()
		l, err := r.Ladder("old segment")
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, e := range l.Events {
			text += e.Label + " # " + e.Comment + "\n"
		}
		want := []string{"ACK seq 2 ack 6462 # ACK out of TIME-WAIT", "RST seq 6462 # RST: that is no answer to the SYN. It ends TIME-WAIT early", "the same SYN again, 12.0 ms after the RST"}
		if shut {
			want[1] = "RST seq 6462 # RST: that is no answer to the SYN. TIME-WAIT ignores it"
		}
		for _, s := range want {
			if !strings.Contains(text, s) {
				t.Errorf("shut %v: %q is missing:\n%s", shut, s, text)
			}
		}
		for _, not := range []string{"what was sent before this was not kept", "missing before this"} {
			if strings.Contains(text, not) {
				t.Errorf("shut %v: %q is said:\n%s", shut, not, text)
			}
		}
	}
}

func TestConnectionsThatFollowEachOtherHaveNoOldSegment(t *testing.T) {
	s := &script{delay: 5 * ms}
	for i := range int64(3) {
		tk := &talk{s: s, port: 40_000, isn: [2]uint32{uint32(i) * 100_000, uint32(i) * 200_000}}
		tk.exchange(tk.open(i*1000*ms), 1, 100)
	}
	r := recorded(s, 1000*ms)
	if _, err := r.Ladder("old segment"); !errors.Is(err, ErrNoSuchPackets) {
		t.Errorf("error %v", err)
	}
}
