package trial

import (
	"slices"
	"sort"
	"testing"

	"tcplab/lab/clock"
	"tcplab/lab/sheet"
	"tcplab/netns/capture"
)

// A show that the sheet takes and the capture does not know would be found out
// at the end of a trial of twelve hours.
func TestEveryShowOfASheetIsOneOfTheCapture(t *testing.T) {
	want := sheet.Shows()
	sort.Strings(want)
	if got := capture.Shows(); !slices.Equal(got, want) {
		t.Errorf("the capture shows %v, sheets ask for %v", got, want)
	}
}

func TestOptionsAreReadAsSecondsOrCounts(t *testing.T) {
	for text, want := range map[string]float64{"15": 15, "2h0m0s": 7200, "250ms": .25} {
		if got, ok := plainSeconds(text); !ok || got != want {
			t.Errorf("%q is %v, %v", text, got, ok)
		}
	}
	if v, ok := plainSeconds("on"); ok {
		t.Errorf("on is %v", v)
	}
}

// The kernels that this runs on have one of the rates that Kconfig.hz offers.
func TestKernelTellsItsTick(t *testing.T) {
	if hz := clock.HZ(); !slices.Contains([]int{100, 250, 300, 1000}, hz) {
		t.Errorf("HZ %d", hz)
	}
}
