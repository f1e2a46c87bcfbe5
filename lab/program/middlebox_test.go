package program

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"tcplab/lab/agent"
	"tcplab/lab/sheet"
	"tcplab/netns/middlebox"
)

func TestAFaultOfTheSheetBecomesOneOfTheMiddlebox(t *testing.T) {
	broker := middlebox.Target{Name: "broker", Addr: netip.MustParseAddr("10.77.2.2")}
	targets := map[string]middlebox.Target{"broker": broker}
	for _, c := range []struct {
		name string
		in   agent.Fault
		want middlebox.Fault
		err  string
	}{
		{"forgetting", agent.Fault{Do: "forget-flows"}, middlebox.Fault{Do: "forget-flows"}, ""},
		{"set, as the sheet decodes it", agent.Fault{Do: "set", Args: map[string]any{"set": map[string]any{"idle": 5 * time.Second, "on_unknown": "rst", "max": 7}}},
			middlebox.Fault{Do: "set", Set: middlebox.Change{Idle: ptr(5 * time.Second), OnUnknown: ptr("rst"), Max: ptr(7)}}, ""},
		{"a target", agent.Fault{Do: "drop-target", Args: map[string]any{"target": "broker"}}, middlebox.Fault{Do: "drop-target", Target: broker}, ""},
		{"no target", agent.Fault{Do: "drop-target", Args: map[string]any{"target": "moon"}}, middlebox.Fault{}, `no target is called "moon"`},
		{"all targets at once", agent.Fault{Do: "set", Args: map[string]any{"set": map[string]any{"targets": []string{"broker"}}}}, middlebox.Fault{}, "drop-target"},
	} {
		got, err := MiddleboxFault(c.in, targets)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", c.name, err, c.err)
			}
		} else if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n%+v, %v\nwant\n%+v", c.name, got, err, c.want)
		}
	}
}

func TestASheetsMiddleboxBecomesAPolicy(t *testing.T) {
	vip := netip.MustParseAddr("10.9.0.1")
	spec := MiddleboxSpec{Addresses: []netip.Addr{vip}, Targets: map[string]middlebox.Target{"t": {Name: "t", Addr: netip.MustParseAddr("10.77.2.2")}},
		Middlebox: sheet.Middlebox{Kind: "nat", Targets: []string{"t"}, Idle: time.Minute, OnUnknown: "rst", PreserveClient: true,
			Options: map[string]string{"ports": "1024 2047", "max": "4096"}}}
	got, err := MiddleboxConfig(spec)
	if err != nil || got.Kind != "nat" || got.Ports != [2]uint16{1024, 2047} || got.Max != 4096 || len(got.Targets) != 1 || !got.PreserveClient || got.CrossZone || got.Idle != time.Minute || got.OnUnknown != "rst" {
		t.Errorf("%+v, %v", got, err)
	}
	spec.Middlebox.Targets = []string{"moon"}
	if _, err := MiddleboxConfig(spec); err == nil {
		t.Error("a target that is not there was taken")
	}
}
