package wire

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// incarnation is one connection between the same ports as all others.
type incarnation struct {
	m    *model
	isn  uint32
	next uint32
	now  int64
	tos  byte
}

func open(m *model, isn uint32, now int64) *incarnation {
	c := &incarnation{m: m, isn: isn, next: isn + 1, now: now}
	c.send(tcpFrame(1, 2, 5000, 80, isn, 0, flagSYN, 0), dirB)
	c.send(tcpFrame(2, 1, 80, 5000, isn+77, isn+1, flagSYN|flagACK, 0), dirA)
	return c
}

func (c *incarnation) send(b []byte, dir int) verdict {
	b[15] = c.tos
	c.now += 1000
	return c.m.decide(dir, c.now, b)
}

// data sends new bytes.
func (c *incarnation) data(n int) verdict {
	v := c.send(tcpFrame(1, 2, 5000, 80, c.next, 9, flagACK, n), dirB)
	c.next += uint32(n)
	return v
}

const marked = 16

func strayModel(t interface{ Fatal(...any) }, d Direction) (*model, *[]Happening) {
	m, err := newModel(Config{TowardsB: d, Faults: []Fault{
		{Name: "stray", Do: DoHold, Successor: true, Match: Match{Kind: "data", TOS: marked}, Towards: TowardsB},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var told []Happening
	m.tell = func(h Happening) { told = append(told, h) }
	return m, &told
}

func TestAStrayGoesOnWhereALaterConnectionHasComeToItsPlace(t *testing.T) {
	m, told := strayModel(t, Direction{Delay: 5})
	old := open(m, 1000, 0)
	old.data(4000)
	old.tos = marked
	if v := old.data(500); v.fate != held || v.stray != 1 {
		t.Fatalf("the marked segment: %+v", v)
	}
	// The old connection retransmits it, goes on and closes: none of that is
	// another connection.
	old.next -= 500
	again := old.data(500)
	if again.fate != delivered || len(m.freed) > 0 {
		t.Fatalf("its retransmission: %+v, freed %v", again, m.freed)
	}
	old.tos = 0
	old.data(100)
	if len(m.freed) > 0 {
		t.Error("the old connection went on, and the stray with it")
	}
	// The next one begins 3,000 bytes behind it.
	next := open(m, 2001, 1e9)
	if next.data(2990); len(m.freed) > 0 {
		t.Error("it went on before its place: 9 bytes are missing")
	}
	v := next.data(9)
	if len(m.freed) != 1 || m.freed[0] != 1 {
		t.Fatalf("at its place: freed %v", m.freed)
	}
	want := []Happening{
		{At: 4000, Fault: "stray", What: Held, Seq: 5001, Len: 500},
		{At: again.due, Fault: "stray", What: Resent, Seq: 5001, Len: 500, After: again.due - 4000},
		{At: v.due, Fault: "stray", What: Released, Seq: 5001, Len: 500, Next: 5001, After: v.due - 4000},
	}
	if !slices.Equal(*told, want) {
		t.Errorf("told %+v, want %+v", *told, want)
	}
	if next.data(10); len(m.freed) > 0 {
		t.Error("it went on twice")
	}
	if c := m.dirs[dirB].count; c.held != 1 || c.released != 1 {
		t.Errorf("held %d, released %d", c.held, c.released)
	}
}

func TestAStrayThatALaterConnectionIsBeyondGoesOnAtOnce(t *testing.T) {
	m, _ := strayModel(t, Direction{})
	old := open(m, 1000, 0)
	old.tos = marked
	old.data(100)
	next := open(m, 900_000, 1e9) // the ISN clock was faster
	if len(m.freed) > 0 {
		t.Error("it went on before the handshake was over")
	}
	if next.data(1); len(m.freed) != 1 {
		t.Error("it is behind, and stays on the wire")
	}
}

func TestOnlyALaterConnectionOfTheSamePortsFreesAStray(t *testing.T) {
	m, _ := strayModel(t, Direction{})
	old := open(m, 1000, 0)
	old.tos = marked
	old.data(100)
	for _, f := range []struct {
		what string
		b    []byte
		dir  int
	}{
		{"other ports", tcpFrame(1, 2, 5001, 80, 5000, 0, flagSYN, 0), dirB},
		{"other ports' data", tcpFrame(1, 2, 5001, 80, 5001, 0, flagACK, 10), dirB},
		{"the other direction", tcpFrame(2, 1, 80, 5000, 900_000, 0, flagACK, 10), dirA},
		{"no data", tcpFrame(1, 2, 5000, 80, 1101, 0, flagACK, 0), dirB},
		{"a later connection's SYN", tcpFrame(1, 2, 5000, 80, 900_000, 0, flagSYN, 0), dirB},
		{"its RST", tcpFrame(1, 2, 5000, 80, 900_001, 0, flagRST, 0), dirB},
	} {
		if m.decide(f.dir, 1e9, f.b); len(m.freed) > 0 {
			t.Errorf("%s let it go", f.what)
		}
	}
}

func TestAHoldBySequenceIsChecked(t *testing.T) {
	for _, f := range []Fault{
		{Do: DoHold, Successor: true},
		{Do: DoHold, Successor: true, Match: Match{Kind: "SYN"}},
		{Do: DoHold, Successor: true, For: 1, Match: Match{Kind: "data"}},
		{Do: DoDrop, Successor: true, Match: Match{Kind: "data"}},
		{Do: DoDrop, Match: Match{TOS: 256}},
	} {
		if f.validate() == nil {
			t.Errorf("%+v passes", f)
		}
	}
}

// Whatever the sequence numbers and the sizes of segments, wrapped or not: a
// stray goes on behind the first delivered segment that ends at its first byte
// or beyond, and never before.
func TestAStraysPlaceIsFoundOnTheCircle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lossy := rapid.Bool().Draw(t, "lossy")
		d := Direction{}
		if lossy {
			d.Loss.P = 0.3
		}
		m, _ := strayModel(t, d)
		isn := rapid.Uint32().Draw(t, "isn")
		old := open(m, isn, 0)
		for range rapid.IntRange(0, 5).Draw(t, "segments before") {
			old.data(rapid.IntRange(1, 1460).Draw(t, "length"))
		}
		at := old.next
		old.tos = marked
		n := rapid.IntRange(1, 1460).Draw(t, "stray")
		if old.data(n).fate != held {
			t.Fatal("not held")
		}
		old.tos = 0
		behind := rapid.IntRange(-3000, 6000).Draw(t, "behind")
		if at-uint32(behind)-1 == isn {
			return // the same ISN is the same connection
		}
		next := open(m, at-uint32(behind)-1, 1e9)
		free := false
		for range 12 {
			v := next.data(rapid.IntRange(1, 1460).Draw(t, "length"))
			due := !free && v.fate == delivered && int32(next.next-at) >= 0
			if got := len(m.freed) == 1; got != due {
				t.Fatalf("freed %v at byte %d of its place, fate %d", got, int32(next.next-at), v.fate)
			}
			free = free || due
		}
		if c := m.dirs[dirB].count; c.held != 1 || (c.released == 1) != free {
			t.Fatalf("held %d, released %d, free %v", c.held, c.released, free)
		}
	})
}
