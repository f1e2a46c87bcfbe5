package expr

import (
	"fmt"
	"strings"
)

// bench is a Scope and an Env over fixed names and measurements, as a sheet
// and a record would be.
type bench struct {
	names   map[string]Value
	metrics map[string]Value // by ARM.METRIC, or ARM.OWNER.METRIC, @FAULT included
}

func newBench() bench {
	q := func(s string) Value {
		v, err := ParseQuantity(s)
		if err != nil {
			panic(err)
		}
		return v
	}
	return bench{
		names: map[string]Value{
			"rate": q("400/s"), "ports": q("4096"), "connections": q("64"), "duration": q("12s"), "size": q("128B"),
			"rtt": q("10ms"), "loss": q("1%"), "bandwidth": q("100Mbit/s"),
		},
		metrics: map[string]Value{
			"pooled.latency.p50":                    q("11.2ms"),
			"per_request.latency.p50":               q("21.5ms"),
			"per_request.connect.call.p50":          q("12us"),
			"per_request.errors.EADDRNOTAVAIL":      q("731"),
			"pooled.errors.EADDRNOTAVAIL":           q("0"),
			"per_request.first_error.time":          q("10.24s"),
			"per_request.requests.ok":               q("4096"),
			"pooled.requests.rate":                  q("400/s"),
			"pooled.goodput":                        q("409.6kbit/s"),
			"pooled.ports.used.max":                 q("1.5%"),
			"pooled.handshakes.count":               {Unit: One, Missing: true},
			"pooled.client.handshakes.count":        q("64"),
			"per_request.sockets.time_wait.max":     q("4096"),
			"per_request.client.snmp.TCPTimeouts":   q("0"),
			"as_found.publisher.detect.time@forget": q("926.1s"),
			"as_found.front>lb.lost":                q("12"),
			"bbr.goodput":                           q("93.1Mbit/s"),
			"cubic.goodput":                         q("4.5Mbit/s"),
			"pooled.cpu.client":                     q("0.25"),
			"pooled.tcp.rtt.p50":                    q("10.1ms"),
		},
	}
}

// metricUnits is a small catalogue; errors.* and snmp.* are open families.
var metricUnits = map[string]Unit{
	"latency.p50": Second, "connect.call.p50": Second, "first_error.time": Second, "detect.time": Second, "tcp.rtt.p50": Second,
	"requests.ok": One, "requests.rate": PerSecond, "goodput": BitPerSecond, "ports.used.max": Share, "handshakes.count": One,
	"sockets.time_wait.max": One, "lost": One, "cpu.client": One,
}

func metricUnit(name string) (Unit, bool) {
	u, ok := metricUnits[name]
	for _, family := range []string{"errors.", "snmp."} {
		if rest, in := strings.CutPrefix(name, family); in && rest != "" && !strings.Contains(rest, ".") {
			return One, true
		}
	}
	return u, ok
}

func (b bench) split(p Path) (Path, error) {
	return p.Split(func(m string) bool { _, ok := metricUnit(m); return ok })
}

func (b bench) Name(name string) (Unit, error) {
	v, err := b.NameValue(name)
	return v.Unit, err
}

func (b bench) NameValue(name string) (Value, error) {
	v, ok := b.names[name]
	if !ok {
		return v, fmt.Errorf("the sheet has no name %s", name)
	}
	return v, nil
}

func (b bench) Metric(p Path) (Unit, error) {
	p, err := b.split(p)
	if err != nil {
		return One, err
	}
	u, _ := metricUnit(p.Metric)
	return u, nil
}

func (b bench) MetricValue(p Path) (Value, error) {
	p, err := b.split(p)
	if err != nil {
		return Value{}, err
	}
	key := p.Arm
	if p.Towards != "" {
		key += "." + p.Owner + ">" + p.Towards
	} else if p.Owner != "" {
		key += "." + p.Owner
	}
	key += "." + p.Metric
	if p.Fault != "" {
		key += "@" + p.Fault
	}
	v, ok := b.metrics[key]
	if !ok {
		return Value{Missing: true}, nil
	}
	return v, nil
}
