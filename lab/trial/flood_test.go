package trial

import (
	"strings"
	"testing"
	"time"

	"tcplab/lab/program"
	"tcplab/lab/sheet"
	"tcplab/netns"
	"tcplab/netns/flood"
	"tcplab/results"
)

func floodedArm() sheet.Arm {
	return sheet.Arm{
		Hosts: []sheet.Host{{Name: "flooder"}, {Name: "server"}, {Name: "near"}},
		Links: []sheet.Link{{Name: "dark", A: "flooder", B: "server"}, {Name: "lan", A: "near", B: "server"}},
		Clients: []sheet.Client{{Name: "flood", On: "flooder", Kind: program.KindFlood, Extra: map[string]any{"rate": 2000.0, "packets": 5000, "for": 3 * time.Second}},
			{Name: "near", On: "near", Kind: "echo"}},
		Trial: sheet.Trial{Duration: 10 * time.Second},
	}
}

func TestSpoofedSourcesAreRoutedBackToTheFlooderAndNobodyHasThem(t *testing.T) {
	arm := floodedArm()
	top, err := layOut(arm)
	if err != nil {
		t.Fatal(err)
	}
	to := map[string]int{}
	for host, rs := range top.routes {
		for _, r := range rs {
			if r.to == netns.SpoofedSources {
				to[host]++
				if host != "server" || r.dev != "dark" || r.via != top.addrs["flooder"]["dark"] {
					t.Errorf("%s: %+v", host, r)
				}
			}
		}
	}
	if to["server"] != 1 {
		t.Errorf("routes to the spoofed sources: %v", to)
	}
	arm.Clients = arm.Clients[1:]
	if top, err = layOut(arm); err != nil || len(top.routes["server"]) > 0 {
		t.Errorf("without a flooder: %v, %v", top.routes, err)
	}
	for i := range 248 {
		arm.Links = append(arm.Links, sheet.Link{Name: "l" + strings.Repeat("x", i%7), A: "near", B: "server"})
	}
	if top, err = layOut(arm); err != nil {
		t.Fatal(err)
	}
	for _, l := range top.links {
		if netns.SpoofedSources.Overlaps(l.a.Masked()) || !netns.Range.Contains(l.a.Addr()) {
			t.Fatalf("link %v lies in the spoofed sources, or outside of the lab's range", l.a)
		}
	}
}

func TestAFloodThatIsNoneMakesTheTrialInvalid(t *testing.T) {
	for _, tt := range []struct {
		name     string
		sent     int64
		counters map[string]map[string]int64
		says     string
	}{
		{"as it should be", 5000, nil, ""},
		{"just enough", 4950, nil, ""},
		{"too few", 4949, nil, "sent 4949 of 5000 SYNs"},
		{"answered by RST", 5000, map[string]map[string]int64{"flooder": {"TcpOutRsts": 1}}, "TcpOutRsts of host flooder is 1"},
		{"answered by ICMP", 5000, map[string]map[string]int64{"flooder": {"IcmpOutMsgs": 3}}, "IcmpOutMsgs of host flooder"},
		{"told to the server", 5000, map[string]map[string]int64{"server": {"IcmpInDestUnreachs": 3}}, "IcmpInDestUnreachs of host server"},
		{"others may reset", 5000, map[string]map[string]int64{"near": {"TcpOutRsts": 7}, "server": {"TcpOutRsts": 2}}, ""},
	} {
		o := &one{arm: floodedArm(), out: results.Trial{Metrics: map[string]results.Quantity{}}}
		r := &program.ClientResult{Flood: &flood.Result{Sent: tt.sent}}
		m := &measured{clients: map[string]*program.ClientResult{"flood": r}, counters: tt.counters}
		o.floodMetrics("flood", r)
		o.validateFlood(m)
		if got := strings.Join(m.reasons, "; "); (tt.says == "") != (got == "") || !strings.Contains(got, tt.says) {
			t.Errorf("%s: %q", tt.name, got)
		}
		if got := o.out.Metrics["flood.syns.sent"].Value; got != float64(tt.sent) {
			t.Errorf("%s: syns.sent is %v", tt.name, got)
		}
	}
}
