package wire

import (
	"encoding/json"
	"slices"
	"testing"
	"time"
)

// passage is traffic through a wire of its own in a guest of its own.
type passage struct {
	Kind   Kind
	Config Config
	// Datagrams towards b, Burst at a time, one burst each Gap; or else one
	// connection For so long.
	Datagrams, Size, Burst int
	Gap                    time.Duration
	Congestion             string
	For                    time.Duration
}

// passed is what came of it.
type passed struct {
	carried
	Bytes int64 // received on the connection
	// Of each datagram received, in order of arrival: its number and how long
	// it was on the way, ns.
	Number []int
	Delay  []int64
}

const passageArg = "passage"

// through sends p's traffic in a guest.
func through(t *testing.T, p passage) (got passed) {
	t.Helper()
	p.Config.NoWatch = true
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	lines, _ := visit(t, errand{Run: "^TestTrafficThroughAWire$", Args: map[string]string{passageArg: string(text)}})
	if len(lines) != 1 {
		t.Fatalf("%d reports", len(lines))
	}
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil {
		t.Fatal(err)
	}
	return got
}

// pass is through's part inside the guest.
func pass(t *testing.T) {
	var p passage
	if err := json.Unmarshal([]byte(args[passageArg]), &p); err != nil {
		t.Fatal(err)
	}
	r := newHosts(t)
	w := wireOf(t, r, p.Kind, p.Config)
	var got passed
	if p.Datagrams > 0 {
		for _, a := range datagrams(t, r, p.Datagrams, p.Size, p.Burst, p.Gap) {
			got.Number = append(got.Number, int(a.N))
			got.Delay = append(got.Delay, a.Received-a.Sent)
		}
	} else {
		got.Bytes = bulk(t, r, p.Congestion, p.For)
	}
	got.carried = w.strike()
	got.Fates = nil
	report(t, got)
}

func TestTrafficThroughAWire(t *testing.T) {
	if inGuest() {
		pass(t)
		return
	}
	for _, kind := range []Kind{Userspace, InKernel} {
		got := through(t, passage{Kind: kind, Config: Symmetric(Direction{Delay: 10 * time.Millisecond}), Datagrams: 50, Size: 100, Gap: time.Millisecond})
		if len(got.Number) != 50 || !slices.IsSorted(got.Number) {
			t.Errorf("%s: %v", kind, got.Number)
		}
		for _, d := range got.Delay {
			if d < int64(10*time.Millisecond) || d > int64(10*time.Millisecond+20*time.Microsecond) {
				t.Errorf("%s: %v on the way", kind, time.Duration(d))
			}
		}
	}
}
