package sheet

import (
	"strings"
	"testing"
	"time"
)

const reborn = `experiment: x
wire: {delay: 5ms}
server: {kind: sink}
client: {kind: incarnations, ahead: 8MB, tos: 16, closes: server}
trial: {duration: 10s}
faults:
  stray: {at: 0s, on: wire, towards: server, do: hold, match: {flags: P, tos: 16, nth: 1}}
arms:
  a: {baseline: true}
expect:
  e: {that: a.stale.bytes == 0B and a.incarnation.behind > 0B and a.released == 1 and a.held == 1}
predict:
  p: {of: a.incarnation.behind, is: ahead - isn_clock() * 0.1s}
`

func TestIncarnationsAndAHoldDecode(t *testing.T) {
	e, err := Parse("x.yaml", []byte(reborn), Options{})
	if err != nil {
		t.Fatal(err)
	}
	a := e.Arms[0]
	if c := a.Clients[0]; c.Kind != "incarnations" || c.Extra["ahead"] != 8_000_000 || c.Extra["tos"] != 16 || c.Workload.Kind != "" {
		t.Errorf("%+v", c)
	}
	if f := a.Faults[0]; f.Do != "hold" || f.Match["tos"] != "16" || f.Match["flags"] != "P" || f.At != time.Duration(0) {
		t.Errorf("%+v", f)
	}
	if got := e.Predict[0].Is; got == nil {
		t.Error("no prediction")
	}
}

func TestIncarnationsAreToldWhatToWrite(t *testing.T) {
	for _, tt := range []struct{ old, new, says string }{
		{"closes: server}", "closes: server}\nworkload: {rate: 5/s}", "incarnations have no workload"},
		{"closes: server}", "reuse: pool}", "one connection after the other"},
		{"ahead: 8MB, tos: 16", "ahead: 8MB, tos: 17", "the last two bits are ECN's"},
		{"{kind: sink}", "{kind: echo}", "cannot talk to"},
		{"do: hold, match: {flags: P", "do: hold, for: 5s, match: {flags: P", "not after a time"},
		{"match: {flags: P", "match: {flags: SA", "keeps a data segment"},
		{"{delay: 5ms}", "{delay: 5ms, kind: netem}", "netem cannot decide a fault by a frame's arrival"},
	} {
		text := strings.Replace(reborn, tt.old, tt.new, 1)
		if text == reborn {
			t.Fatalf("%q is not in the sheet", tt.old)
		}
		if _, err := Parse("x.yaml", []byte(text), Options{}); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.new, err)
		}
	}
}
