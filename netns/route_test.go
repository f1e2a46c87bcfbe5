package netns

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzRouteMessage feeds the decoder of the kernel's route messages; what
// encodes a route is its seed.
func FuzzRouteMessage(f *testing.F) {
	for _, r := range []route{
		{dst: prefix("10.0.0.0/24"), src: netip.MustParseAddr("10.0.0.1"), index: 2, congctl: "cubic"},
		{dst: prefix("0.0.0.0/0"), via: netip.MustParseAddr("10.0.0.2"), index: 3},
	} {
		f.Add(encode(r))
	}
	f.Add([]byte{2, 24, 0})
	f.Add(append(encode(route{dst: prefix("10.0.0.0/24")}), 4, 0, 8, 0, 3, 0, 2, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, _, _, err := parseRoute(b)
		if err == nil && r.dst.IsValid() && r.dst.Addr().Is4() && r.dst.Bits() > 32 {
			t.Errorf("%v", r)
		}
	})
}

func encode(r route) []byte {
	var b []byte
	for _, d := range r.message() {
		b = append(b, d.Serialize()...)
	}
	return b
}

func TestRouteMessageIsReadBackAsItWasWritten(t *testing.T) {
	want := route{dst: prefix("10.1.0.0/16"), via: netip.MustParseAddr("10.0.0.2"), src: netip.MustParseAddr("10.0.0.1"), index: 7, congctl: "reno"}
	got, table, locked, err := parseRoute(encode(want))
	if err != nil || got != want || table != unix.RT_TABLE_MAIN || !locked {
		t.Errorf("got %+v in table %d, locked %v, %v; want %+v", got, table, locked, err, want)
	}
	if _, _, _, err := parseRoute(make([]byte, 4)); err == nil {
		t.Error("a message that is too short: no error")
	}
}
