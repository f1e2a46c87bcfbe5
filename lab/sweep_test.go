package lab

import (
	"strings"
	"testing"
	"time"

	"tcplab/lab/guest"
	"tcplab/lab/sheet"
	"tcplab/results"
)

const sweptSheet = `experiment: x
question: q
clock: virtual
hosts: {a: {}, b: {}}
links: {l: {between: [a, b], wire: {delay: 10ms, rate: 50Mbit/s, loss: 1%}}}
servers: {s: {on: b, kind: sink}}
clients: {flow: {on: a, to: s, kind: bulk}}
trial: {duration: 10s, pairs: 4}
arms: {one: {baseline: true}, two: {clients: {flow: {options: {TCP_CONGESTION: reno}}}, why: {"clients.flow.options[TCP_CONGESTION]": w}}}
sweep: {links.l.wire.loss: [0, 1%, 2%], links.l.wire.delay: [10ms, 50ms]}
`

func sweptPlan(t *testing.T, more string) (*Plan, RunOptions) {
	t.Helper()
	opt := RunOptions{File: "x.yaml", Text: []byte(sweptSheet + more), Seed: 1, Sweep: true}
	e, err := sheet.Parse(opt.File, opt.Text, sheet.Options{Sweep: true})
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(e, opt.Seed, pairs(opt.Pairs, e, opt.Sweep), opt.Sweep)
	if err != nil {
		t.Fatal(err)
	}
	p.how.ran = results.Mode{Profile: e.Profile, Kernel: OnGuest, Clock: guest.Virtual}
	return p, opt
}

func TestAxesVaryTogetherOrApart(t *testing.T) {
	p, _ := sweptPlan(t, "expect: {e: {that: \"one[loss=0,delay=10ms].goodput > 0bit/s\"}}\n")
	if n := len(p.Trials); n != 6 {
		t.Errorf("together: %d trials, want 6: one arm at each combination, once", n)
	}
	p, opt := sweptPlan(t, "vary: apart\nexpect: {e: {that: \"one[loss=0].goodput > 0bit/s and two[delay=50ms].goodput > 0bit/s\"}}\n")
	var names []string
	for _, x := range p.Trials {
		names = append(names, x.Arm)
	}
	if got, want := strings.Join(names, " "), "one[loss=0] two[loss=0] one[loss=1%] two[loss=1%] one[loss=2%] two[loss=2%] one[delay=10ms] two[delay=10ms] one[delay=50ms] two[delay=50ms]"; got != want {
		t.Errorf("apart: %s", got)
	}
	at, err := p.places(opt)
	if err != nil {
		t.Fatal(err)
	}
	far := at["two[delay=50ms]"]
	if len(far.point) != 1 || far.point[0] != (results.Coordinate{Axis: "delay", Value: "50ms"}) || far.numbers["rtt"].Value != .1 {
		t.Errorf("%+v", far)
	}
	if none := at["one[loss=0]"].numbers["loss"]; none.Value != 0 || at["one[loss=2%]"].numbers["rtt"].Value != .02 {
		t.Errorf("loss %v", none)
	}
}

func TestWhatFlowsCostIsSaidBeforehand(t *testing.T) {
	p, _ := sweptPlan(t, "vary: apart\nexpect: {e: {that: \"one[loss=0].goodput > 0bit/s\"}}\n")
	// Five trials of 10 s at half of 100 Mbit/s.
	least, most := p.wall(1)
	if least != 2500*time.Millisecond+5*bootCost || most != 7500*time.Millisecond+10*bootCost {
		t.Errorf("%v to %v", least, most)
	}
	if l, m := p.wall(5); l != least/5 || m != most/5 {
		t.Errorf("five side by side: %v to %v", l, m)
	}
	p.Experiment.Arms[0].Clients[0].Workload.Rate = 5 // messages at a rate fill nothing
	if l, m := p.wall(1); l != 0 || m != 0 {
		t.Errorf("a flow at a rate: %v to %v", l, m)
	}
	if s := p.Takes(); strings.Contains(s, "wall") {
		t.Error(s)
	}
}
