package capture

import (
	"errors"
	"strings"
	"testing"
)

// window is a flight of segments of which one is lost, SACKs that tell of it,
// and the repair.
func flight(tk *talk, at int64, first uint32, lost int, n int, again int64) int64 {
	for i := range n {
		tk.send(at+int64(i)*ms/10, 0, flagACK, first+uint32(i)*1000, 1, 1000, i == lost)
	}
	hole := first + uint32(lost)*1000
	for i := lost + 1; i < n; i++ {
		sack := []byte{1, 1, optSACK, 10, 0, 0, 0x10, 0, 0, 0, 0x20, 0}
		tk.send(at+5*ms+int64(i)*ms/10, 1, flagACK, 1, hole, 0, false, sack...)
	}
	tk.send(at+again, 0, flagACK, hole, 1, 1000, false)
	end := at + again + 6*ms
	tk.send(end, 1, flagACK, 1, first+uint32(n)*1000, 0, false)
	return end + 10*ms
}

func TestLossAndItsRepairAreDrawnWithoutTheirRepetitions(t *testing.T) {
	s := &script{}
	tk := s.talk(40000)
	at := flight(tk, tk.open(0), 1, 3, 12, 12*ms)
	flight(tk, at, 12001, 2, 5, 14*ms)
	v := s.view([2]int64{at, at + 1000*ms})
	l, err := showFastRetransmit(v, Around{})
	if err != nil {
		t.Fatal(err)
	}
	// The one in the window: five segments, of which one was lost.
	if !strings.Contains(l.Title, "2 ACKs later, after 13.8 ms") {
		t.Errorf("title %q", l.Title)
	}
	lost, again := 0, 0
	for _, e := range l.Events {
		if e.Seq == 14001 && e.From == l.Left {
			if e.Arrived == nil {
				lost++
			} else {
				again++
			}
		}
	}
	if lost != 1 || again != 1 || len(l.Events) > 2*maxDuplicates+4 {
		t.Errorf("%d lost, %d sent again in %d events: %+v", lost, again, len(l.Events), l.Events)
	}
	if last := l.Events[len(l.Events)-1]; last.From != l.Right || last.Ack != 17001 {
		t.Errorf("it ends with %+v", last)
	}
	// A long flight is cut to what tells of it.
	l, err = showFastRetransmit(v, Around{At: 1})
	if err != nil || len(l.Events) != 2*maxDuplicates+4 {
		t.Errorf("%d events, %v", len(l.Events), err)
	}
}

func TestTimeoutIsNoFastRetransmission(t *testing.T) {
	s := &script{}
	tk := s.talk(40000)
	at := tk.open(0)
	tk.send(at, 0, flagACK, 1, 1, 1000, true)
	tk.send(at+230*ms, 0, flagACK, 1, 1, 1000, false)
	tk.send(at+240*ms, 1, flagACK, 1, 1001, 0, false)
	if _, err := showFastRetransmit(s.view([2]int64{0, 1000 * ms}), Around{}); !errors.Is(err, ErrNoSuchPackets) {
		t.Errorf("%v", err)
	}
}
