package program

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"tcplab/lab/agent"
	"tcplab/lab/sheet"
	"tcplab/netns/wire"
	"tcplab/results"
)

func ptr[T any](v T) *T { return &v }

func TestAFaultOfTheSheetBecomesOneOfTheWire(t *testing.T) {
	for _, c := range []struct {
		name string
		in   agent.Fault
		want wire.Fault
		err  string
	}{
		{"both ways", agent.Fault{Name: "cut", At: 7, Do: "blackhole", Args: map[string]any{"for": int64(5e8), "arp": "too"}},
			wire.Fault{Name: "cut", At: 7, Do: wire.DoBlackhole, For: 500 * time.Millisecond, ARP: true}, ""},
		{"towards the second host", agent.Fault{Do: "blackhole", Towards: "server"}, wire.Fault{Do: wire.DoBlackhole, Towards: wire.TowardsB}, ""},
		{"towards the first host", agent.Fault{Do: "blackhole", Towards: "client"}, wire.Fault{Do: wire.DoBlackhole, Towards: wire.TowardsA}, ""},
		{"towards nobody", agent.Fault{Do: "blackhole", Towards: "moon"}, wire.Fault{}, "the link joins client and server"},
		{"the second SYN-ACK", agent.Fault{Do: "drop-once", Args: map[string]any{"match": map[string]string{"flags": "SA", "nth": "2", "flow": "3"}}},
			wire.Fault{Do: wire.DoDrop, Match: wire.Match{Kind: "SYN-ACK", Nth: 2, Flow: 3}}, ""},
		{"a segment held for a later connection", agent.Fault{Name: "stray", Do: "hold", Towards: "server", Args: map[string]any{"match": map[string]string{"tos": "16", "nth": "1"}}},
			wire.Fault{Name: "stray", Do: wire.DoHold, Successor: true, Towards: wire.TowardsB, Match: wire.Match{Kind: "data", TOS: 16, Nth: 1}}, ""},
		{"flags that are none", agent.Fault{Do: "drop-once", Args: map[string]any{"match": map[string]string{"flags": "XYZ"}}}, wire.Fault{}, "write S, SA, F, R, A or P"},
		{"set, as the sheet decodes it", agent.Fault{Do: "set", Args: map[string]any{"set": map[string]any{"delay": 30 * time.Millisecond, "loss": 0.5, "rate": 1e6, "mtu": 1400}}},
			wire.Fault{Do: wire.DoSet, Set: &wire.Change{Delay: ptr(30 * time.Millisecond), Loss: &wire.Loss{P: .5}, Rate: ptr(int64(1e6)), MTU: ptr(1400)}}, ""},
		{"set, with units", agent.Fault{Do: "set", Args: map[string]any{"set": map[string]any{"queue": "50ms", "loss": map[string]any{"p": "1%", "r": "30%"}}}},
			wire.Fault{Do: wire.DoSet, Set: &wire.Change{Queue: &wire.Queue{Time: 50 * time.Millisecond}, Loss: &wire.Loss{GilbertElliott: wire.GilbertElliott{P: .01, R: .3, H: 0, K: 1}}}}, ""},
		{"set what a wire has not", agent.Fault{Do: "set", Args: map[string]any{"set": map[string]any{"colour": 1}}}, wire.Fault{}, `a wire has no "colour"`},
	} {
		got, err := WireFault(c.in, "client", "server")
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n%+v, %v\nwant\n%+v", c.name, got, err, c.want)
		}
	}
}

// A sheet gives the loss in each state, the wire the chance of delivery.
func TestASheetsDirectionBecomesTheWires(t *testing.T) {
	l := sheet.Link{Name: "wan", A: "client", B: "server", Wire: sheet.Wire{Fates: "by-time", To: map[string]sheet.Direction{
		"client": {Delay: time.Millisecond, Loss: .01},
		"server": {Delay: 2 * time.Millisecond, GE: &sheet.GilbertElliott{P: .1, R: .5, Bad: .8, Good: .02}, QueueBytes: 9000, Rate: 1e6},
	}}}
	got := WireConfig(l, 42)
	if got.Seed != 42 || got.Link != "wan" || got.Fates != wire.ByTime {
		t.Errorf("%+v", got)
	}
	if a := got.TowardsA; a.Delay != time.Millisecond || a.Loss.P != .01 {
		t.Errorf("towards client: %+v", a)
	}
	b := got.TowardsB
	if ge := b.Loss.GilbertElliott; b.Delay != 2*time.Millisecond || ge.P != .1 || ge.R != .5 || ge.H < .199 || ge.H > .201 || ge.K != .98 || b.Queue.Bytes != 9000 {
		t.Errorf("towards server: %+v", b)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
}

func TestAProgramsOwnRequestEventsAreCountedAsAClients(t *testing.T) {
	p := &execProgram{tally: newRequestTally(agent.Go{T0: 0, From: 1e9, To: 3e9})}
	for line, isEvent := range map[string]bool{
		`{"type":"request","at":500000000,"took":0.01,"connect":0.005}`:                  true, // warm-up
		`{"type":"request","at":1500000000,"took":0.02,"connect":0.01}`:                  true,
		`{"type":"request","at":2500000000,"took":0.03}`:                                 true,
		`{"type":"request","at":2600000000,"took":1,"connect":0.9,"error":"ECONNRESET"}`: true,
		`{"type":"request","at":3000000000,"took":0.02,"error":"ETIMEDOUT"}`:             true, // after the window
		`{"type":"hello"}`: false,
		`GET / 200`:        false,
	} {
		if got := p.request([]byte(line)); got != isEvent {
			t.Errorf("%s: %v", line, got)
		}
	}
	r := p.tally.result()
	if r.Offered != 3 || r.OK != 2 || r.Failed != 1 || r.Errors["ECONNRESET"] != 1 || r.Opens != 3 || r.Total.Offered != 5 || r.FirstError == 0 {
		t.Errorf("%+v", r)
	}
	if n := r.Histograms["latency"].TotalCount(); n != 2 {
		t.Errorf("%d latencies", n)
	}
	if n := r.Histograms["failure"].TotalCount(); n != 1 {
		t.Errorf("%d failures", n)
	}
}

func TestBracesAreFilledWithAddresses(t *testing.T) {
	if got := fill("http://{{server.addr}}/{{other}}", map[string]string{"server.addr": "10.77.1.2:80"}); got != "http://10.77.1.2:80/{{other}}" {
		t.Error(got)
	}
}

func TestLinesAreWholeHoweverTheyAreWritten(t *testing.T) {
	var got []string
	l := &lines{each: func(b []byte) { got = append(got, string(b)) }}
	for _, part := range []string{"one\ntw", "o\n", "", "\nthr", "ee\n", "rest"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if strings.Join(got, "|") != "one|two||three" {
		t.Errorf("%q", got)
	}
}

func TestAHistogramSurvivesItsMessage(t *testing.T) {
	h := results.NewHistogram()
	for i := range 1000 {
		h.RecordValue(int64(i+1) * 1000)
	}
	b, err := json.Marshal(WireResult{DelayError: encode(h)})
	if err != nil {
		t.Fatal(err)
	}
	var r WireResult
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if !r.DelayError.Equals(h) {
		t.Error("it is another one")
	}
	if b, err := json.Marshal(WireResult{}); err != nil || !strings.Contains(string(b), `"DelayError":null`) {
		t.Errorf("none: %s %v", b, err)
	}
}
