package expr

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

// Numbers: source, what it prints as, unit, value, all from the bench.
var numbers = []struct {
	src, printed, unit string
	value              float64
}{
	// Literals.
	{"5ms", "5ms", "s", 0.005},
	{"6.81ms", "6.81ms", "s", 0.00681},
	{"800s", "800s", "s", 800},
	{"1.5min", "1.5min", "s", 90},
	{"2h", "2h", "s", 7200},
	{"5d", "5d", "s", 432000},
	{"250us", "250us", "s", 250e-6},
	{"250µs", "250µs", "s", 250e-6},
	{"250μs", "250μs", "s", 250e-6},
	{"40ns", "40ns", "s", 40e-9},
	{"5%", "5%", "share", 0.05},
	{"0.5%", "0.5%", "share", 0.005},
	{"64KiB", "64KiB", "B", 65536},
	{"128B", "128B", "B", 128},
	{"1MB", "1MB", "B", 1e6},
	{"2GiB", "2GiB", "B", 2 << 30},
	{"8bit", "8bit", "B", 1},
	{"100Mbit/s", "100Mbit/s", "bit/s", 1e8},
	{"10kbit/s", "10kbit/s", "bit/s", 1e4},
	{"1MB/s", "1MB/s", "bit/s", 8e6},
	{"600/s", "600/s", "1/s", 600},
	{"600/min", "600/min", "1/s", 10},
	{"4096", "4096", "1", 4096},
	{"1_024", "1_024", "1", 1024},
	{"1e3", "1e3", "1", 1000},
	{"2.5e-3s", "2.5e-3s", "s", 0.0025},
	// Arithmetic and its units.
	{"1+2*3", "1 + 2 * 3", "1", 7},
	{"(1+2)*3", "(1 + 2) * 3", "1", 9},
	{"2-3-4", "2 - 3 - 4", "1", -5},
	{"2-(3-4)", "2 - (3 - 4)", "1", 3},
	{"8/4/2", "8 / 4 / 2", "1", 1},
	{"8/(4/2)", "8 / (4 / 2)", "1", 4},
	{"-5ms", "-5ms", "s", -0.005},
	{"--5", "--5", "1", 5},
	{"-(2+3)", "-(2 + 3)", "1", -5},
	{"ports / rate", "ports / rate", "s", 10.24},
	{"ports / 2 / rate", "ports / 2 / rate", "s", 5.12},
	{"rate*duration", "rate * duration", "1", 4800},
	{"size * rate", "size * rate", "bit/s", 409600},
	{"128B / 1ms", "128B / 1ms", "bit/s", 1024000},
	{"bandwidth * rtt", "bandwidth * rtt", "B", 125000},
	{"64KiB / bandwidth", "64KiB / bandwidth", "s", 65536 * 8 / 1e8},
	{"600/size", "600 / size", "1/B", 600.0 / 128},
	{"600 / 2/s", "600 / 2/s", "s", 300},
	{"600/min(2, 3)", "600 / min(2, 3)", "1", 300},
	{"1 - loss", "1 - loss", "share", 0.99},
	{"loss * loss", "loss * loss", "share", 0.0001},
	{"loss / loss", "loss / loss", "1", 1},
	{"rtt * 5%", "rtt * 5%", "s", 0.0005},
	{"1s/2s", "1s / 2s", "1", 0.5},
	// Functions.
	{"time_wait()", "time_wait()", "s", 60},
	{"ports()/time_wait()", "ports() / time_wait()", "1/s", 4096.0 / 60},
	{"rtt()", "rtt()", "s", 0.01},
	{"rto_chain(15)", "rto_chain(15)", "s", 924.6},
	{"rto_chain(15, 200ms)", "rto_chain(15, 200ms)", "s", 924.8},
	{"rto_chain(15, rtt + 200ms)", "rto_chain(15, rtt + 200ms)", "s", 0.21*1024 + 720},
	{"rto_chain(15, 220ms)", "rto_chain(15, 220ms)", "s", 945.28}, // measured on Linux 6.12, HZ 250: 955 s
	{"rto_chain(15, 1s)", "rto_chain(15, 1s)", "s", 968},
	{"rto_chain(15, 200ms, 10s)", "rto_chain(15, 200ms, 10s)", "s", 112.8},
	{"rto_chain(8)", "rto_chain(8)", "s", 102.2},
	{"rto_chain(3)", "rto_chain(3)", "s", 3},
	{"rto_chain(3, 210ms)", "rto_chain(3, 210ms)", "s", 0.21 * 32},
	{"rto_chain(3, 220ms)", "rto_chain(3, 220ms)", "s", 3.52},                 // measured: 3.59 s
	{"rto_chain(8, 220ms)", "rto_chain(8, 220ms)", "s", 112.64},               // measured: 116.2 s
	{"orphan_chain(0)", "orphan_chain(0)", "s", 102.2},                        // tcp_orphan_retries: 0 is 8
	{"orphan_chain(0, 220ms)", "orphan_chain(0, 220ms)", "s", 112.64},         // measured: 114.7 s
	{"orphan_chain(3, 220ms)", "orphan_chain(3, 220ms)", "s", 3.52},           // measured: 3.69 s
	{"user_timeout(20s, 220ms)", "user_timeout(20s, 220ms)", "s", 20.44},      // measured: 20.7 s
	{"unheard(64KiB, 64KiB, 1kB)", "unheard(64KiB, 64KiB, 1kB)", "B", 130424}, // tcp_sendmsg_locked; measured to the byte
	{"unheard(16KiB, 64KiB, 1kB)", "unheard(16KiB, 64KiB, 1kB)", "B", 34856},
	{"unheard(16KiB, 64KiB, 100B)", "unheard(16KiB, 64KiB, 100B)", "B", 32156},
	{"unheard(64KiB, 64KiB, 128B)", "unheard(64KiB, 64KiB, 128B)", "B", 127808},
	{"syn_chain(6)", "syn_chain(6)", "s", 131},
	{"syn_chain(6, 0)", "syn_chain(6, 0)", "s", 127},
	{"syn_chain(1, 0)", "syn_chain(1, 0)", "s", 3},  // measured: 3.04 s
	{"syn_chain(1)", "syn_chain(1)", "s", 3},        // measured: 3.06 s
	{"syn_chain(2)", "syn_chain(2)", "s", 7},        // measured: 7.14 s
	{"syn_chain(3)", "syn_chain(3)", "s", 19},       // measured: 19.59 s
	{"syn_chain(3, 0)", "syn_chain(3, 0)", "s", 15}, // measured: 15.34 s
	{"syn_chain(0)", "syn_chain(0)", "s", 2},
	{"syn_chain(2, 4, 12ms)", "syn_chain(2, 4, 12ms)", "s", 10.012},
	{"keepalive(2h, 75s, 9)", "keepalive(2h, 75s, 9)", "s", 7875},
	{"delayed_ack()", "delayed_ack()", "s", 0.04},
	{"mathis(1%, 80ms)", "mathis(1%, 80ms)", "bit/s", 8 * 1448 / 0.08 * math.Sqrt(1.5) / 0.1},
	{"mathis(loss, rtt, 1460B)", "mathis(loss, rtt, 1460B)", "bit/s", 8 * 1460 / 0.01 * math.Sqrt(1.5) / 0.1},
	{"abs(-3ms)", "abs(-3ms)", "s", 0.003},
	{"min(3, 1, 2)", "min(3, 1, 2)", "1", 1},
	{"max(3ms, 1s)", "max(3ms, 1s)", "s", 1},
	{"sum(1, 5%, 2)", "sum(1, 5%, 2)", "1", 3.05},
	{"sqrt(2)", "sqrt(2)", "1", math.Sqrt2},
	{"sqrt(4ms * 9ms)", "sqrt(4ms * 9ms)", "s", 0.006},
	{"sqrt(4B * 9B)", "sqrt(4B * 9B)", "B", 6},
	{"floor(ports / 3)", "floor(ports / 3)", "1", 1365},
	{"ceil(ports / 3)", "ceil(ports / 3)", "1", 1366},
	// Paths.
	{"0.7*per_request.latency.p50", "0.7 * per_request.latency.p50", "s", 0.7 * 0.0215},
	{"as_found.publisher.detect.time@forget", "as_found.publisher.detect.time@forget", "s", 926.1},
	{"as_found.front>lb.lost", "as_found.front>lb.lost", "1", 12},
	{"per_request.client.snmp.TCPTimeouts", "per_request.client.snmp.TCPTimeouts", "1", 0},
	{"per_request.sockets.time_wait.max / time_wait()", "per_request.sockets.time_wait.max / time_wait()", "1/s", 4096.0 / 60},
	{"bbr.goodput/cubic.goodput", "bbr.goodput / cubic.goodput", "1", 93.1 / 4.5},
	{"pooled.cpu.client / pooled.requests.rate", "pooled.cpu.client / pooled.requests.rate", "s", 0.25 / 400},
	{"per_request.latency.p50 - pooled.latency.p50 - rtt", "per_request.latency.p50 - pooled.latency.p50 - rtt", "s", 0.0003},
}

func TestNumbersHaveTheirUnitAndValue(t *testing.T) {
	b := newBench()
	for _, tt := range numbers {
		e, err := Parse(tt.src)
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		if e.String() != tt.printed {
			t.Errorf("%s prints as %s, want %s", tt.src, e, tt.printed)
		}
		u, err := e.Check(b)
		if err != nil || u.String() != tt.unit {
			t.Errorf("%s is in %s (%v), want %s", tt.src, u, err, tt.unit)
		}
		v, err := e.Eval(b)
		if err != nil || v.Missing || !near(v.V, tt.value) || v.Unit != u {
			t.Errorf("%s = %v %s (%v), want %v", tt.src, v.V, v.Unit, err, tt.value)
		}
	}
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-12*math.Max(math.Abs(a), math.Abs(b)) }

// Conditions, with what they came to on the bench.
var conditions = []struct {
	src, printed string
	holds        bool
	missing      string
	observed     string
	left, right  string
}{
	{"pooled.latency.p50 < 0.7 * per_request.latency.p50", "", true, "", "pooled.latency.p50 = 11.2 ms, per_request.latency.p50 = 21.5 ms", "11.2 ms", "15 ms"},
	{"per_request.errors.EADDRNOTAVAIL > 0", "", true, "", "per_request.errors.EADDRNOTAVAIL = 731", "731", "0"},
	{"pooled.errors.EADDRNOTAVAIL==0", "pooled.errors.EADDRNOTAVAIL == 0", true, "", "pooled.errors.EADDRNOTAVAIL = 0", "0", "0"},
	{"per_request.connect.call.p50>0.5ms", "per_request.connect.call.p50 > 0.5ms", false, "", "per_request.connect.call.p50 = 12 µs", "12 µs", "500 µs"},
	{"as_found.publisher.detect.time@forget in 800s..1100s", "", true, "", "as_found.publisher.detect.time@forget = 926.1 s", "926.1 s", "800 s"},
	{"as_found.publisher.detect.time@forget in 930s..1100s", "", false, "", "as_found.publisher.detect.time@forget = 926.1 s", "926.1 s", "930 s"},
	{"as_found.publisher.detect.time@forget in 0s..924s", "", false, "", "as_found.publisher.detect.time@forget = 926.1 s", "926.1 s", "924 s"},
	{"1 in 1..2 and 2 in 1..2", "", true, "", "", "1", "1"},
	{"ports in 1..4096", "", true, "", "ports = 4,096", "4,096", "4,096"},
	{"rate in 300/s..500/s", "", true, "", "rate = 400/s", "400/s", "300/s"},
	{"ports in rate * 1s..rate*2*duration", "ports in rate * 1s..rate * 2 * duration", true, "", "ports = 4,096, rate = 400/s, duration = 12 s", "4,096", "400"},
	{"1 <= 1 and 2 >= 2 and 1 != 2", "", true, "", "", "1", "1"},
	{"1 < 2 and 3 < 2", "", false, "", "", "3", "2"},
	{"2 < 1 or 1 < 2", "", true, "", "", "1", "2"},
	{"not 1 < 2", "", false, "", "", "1", "2"},
	{"not (1 < 2 and 2 < 1)", "", true, "", "", "2", "1"},
	{"1 < 2 or 2 < 1 and 3 < 1", "", true, "", "", "1", "2"},
	{"(1 < 2 or 2 < 1) and 3 < 1", "", false, "", "", "3", "1"},
	{"pooled.ports.used.max <= 5%", "", true, "", "pooled.ports.used.max = 1.5 %", "1.5 %", "5 %"},
	{"per_request.requests.ok>pooled.requests.rate * 1s", "per_request.requests.ok > pooled.requests.rate * 1s", true, "", "per_request.requests.ok = 4,096, pooled.requests.rate = 400/s", "4,096", "400"},
	{"pooled.handshakes.count <= 64", "", false, "pooled.handshakes.count", "pooled.handshakes.count = no value", "no value", "64"},
	{"pooled.handshakes.count <= 64 or 1 < 2", "", true, "", "pooled.handshakes.count = no value", "1", "2"},
	{"pooled.handshakes.count <= 64 and 2 < 1", "", false, "", "pooled.handshakes.count = no value", "2", "1"},
	{"pooled.handshakes.count + 1 in 1..2 and 1 < 2", "", false, "pooled.handshakes.count", "pooled.handshakes.count = no value", "no value", "1"},
	{"not pooled.handshakes.count > 64", "", false, "pooled.handshakes.count", "pooled.handshakes.count = no value", "no value", "64"},
	{"1 / pooled.errors.EADDRNOTAVAIL > 5", "", false, "1 / pooled.errors.EADDRNOTAVAIL (no finite value)", "pooled.errors.EADDRNOTAVAIL = 0", "no value", "5"},
	{"other_arm.latency.p50 < 5ms", "", false, "other_arm.latency.p50", "other_arm.latency.p50 = no value", "no value", "5 ms"},
}

func TestConditionsAreDecidedAndExplained(t *testing.T) {
	b := newBench()
	for _, tt := range conditions {
		e, err := Parse(tt.src)
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		printed := tt.printed
		if printed == "" {
			printed = tt.src
		}
		if e.String() != printed {
			t.Errorf("%s prints as %s, want %s", tt.src, e, printed)
		}
		if err := e.CheckBool(b); err != nil {
			t.Errorf("%s: %v", tt.src, err)
		}
		o, err := e.Holds(b)
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		got := [...]any{o.Holds, strings.Join(o.Missing, "; "), o.Observed, o.Left.String(), o.Right.String()}
		want := [...]any{tt.holds, tt.missing, tt.observed, tt.left, tt.right}
		if got != want {
			t.Errorf("%s\n got %q\nwant %q", tt.src, got, want)
		}
	}
}

func TestPathsKeepTheirParts(t *testing.T) {
	for _, tt := range []struct {
		src, arm, point, owner, towards, metric, fault string
	}{
		{"pooled.latency.p50", "pooled", "", "", "", "latency.p50", ""},
		{"pooled.client.handshakes.count", "pooled", "", "client", "", "handshakes.count", ""},
		{"as_found.publisher.detect.time@forget", "as_found", "", "publisher", "", "detect.time", "forget"},
		{"cubic[loss=1%].goodput", "cubic", "loss=1%", "", "", "goodput", ""},
		{"cubic[loss=1%, delay = 5ms].client.goodput", "cubic", "delay=5ms loss=1%", "client", "", "goodput", ""},
		{"arm.front>lb.lost", "arm", "", "front", "lb", "lost", ""},
		{"arm.front>lb.lost@cut", "arm", "", "front", "lb", "lost", "cut"},
		{"arm.client.snmp.SyncookiesSent", "arm", "", "client", "", "snmp.SyncookiesSent", ""},
		{"arm.errors.ETIMEDOUT", "arm", "", "", "", "errors.ETIMEDOUT", ""},
	} {
		e, err := Parse(tt.src)
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		p, err := bench{}.split(e.Paths()[0])
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
		}
		var point []string
		for k, v := range p.Point {
			point = append(point, k+"="+v)
		}
		slices.Sort(point)
		got := [...]string{p.Arm, strings.Join(point, " "), p.Owner, p.Towards, p.Metric, p.Fault, p.Raw}
		want := [...]string{tt.arm, tt.point, tt.owner, tt.towards, tt.metric, tt.fault, tt.src}
		if got != want {
			t.Errorf("%s\n got %q\nwant %q", tt.src, got, want)
		}
	}
}

func TestBracketedKeyKeepsItsDots(t *testing.T) {
	e, err := Parse("hosts.client.sysctl[net.ipv4.tcp_retries2] + 1")
	if err != nil {
		t.Fatal(err)
	}
	p, err := e.Paths()[0].Split(func(m string) bool { return m == "sysctl[net.ipv4.tcp_retries2]" })
	if err != nil || p.Owner != "client" || p.Metric != "sysctl[net.ipv4.tcp_retries2]" {
		t.Errorf("%+v %v", p, err)
	}
}

func TestPathsAndNamesAreListedOnceInOrder(t *testing.T) {
	e, err := Parse("a.b.c < rate * rtt() + ports and (d.e@f > a.b.c or rate in ports()..2)")
	if err != nil {
		t.Fatal(err)
	}
	var raw []string
	for _, p := range e.Paths() {
		raw = append(raw, p.Raw)
	}
	if !slices.Equal(raw, []string{"a.b.c", "d.e@f"}) {
		t.Errorf("paths %q", raw)
	}
	if names := e.Names(); !slices.Equal(names, []string{"rate", "rtt", "ports"}) {
		t.Errorf("names %q", names)
	}
	if col := e.Paths()[1].Col; col != 35 {
		t.Errorf("d.e@f is at column %d", col)
	}
}

var errRecord = errors.New("the record cannot be read")

type brokenEnv struct{ bench }

func (brokenEnv) MetricValue(Path) (Value, error) { return Value{}, errRecord }

func TestErrorOfTheEnvironmentKeepsItsCauseAndGetsAColumn(t *testing.T) {
	e, err := Parse("1ms + pooled.latency.p50")
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Eval(brokenEnv{newBench()})
	var at *Error
	if !errors.Is(err, errRecord) || !errors.As(err, &at) || at.Col != 7 {
		t.Errorf("%v", err)
	}
}

func TestEvalWithoutCheckStillRefusesMixedUnits(t *testing.T) {
	for _, src := range []string{"rtt + ports", "min(rtt, ports)", "rto_chain(rtt)"} {
		e, err := Parse(src)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := e.Eval(newBench()); err == nil {
			t.Errorf("%s = %v", src, v)
		}
	}
	for _, src := range []string{"rtt < ports", "rtt in 1..2", "ports in 1..2s"} {
		e, err := Parse(src)
		if err != nil {
			t.Fatal(err)
		}
		if o, err := e.Holds(newBench()); err == nil {
			t.Errorf("%s: %v", src, o)
		}
	}
}

func TestToleranceIsRelativeInPercentAndAbsoluteInUnits(t *testing.T) {
	for _, tt := range []struct {
		predicted, observed, tolerance string
		want                           bool
	}{
		{"10.24s", "10.7s", "5%", true},
		{"10.24s", "10.8s", "5%", false},
		{"10.24s", "9.7s", "5%", false},
		{"100", "105", "5%", true},
		{"100", "105", "5", true},
		{"100", "106", "5", false},
		{"-100", "-104", "5%", true},
		{"10s", "10.4s", "500ms", true},
		{"10s", "10.6s", "500ms", false},
		{"0", "0", "5%", true},
		{"100Mbit/s", "93Mbit/s", "10%", true},
	} {
		var q [3]Value
		for i, s := range []string{tt.predicted, tt.observed, tt.tolerance} {
			var err error
			if q[i], err = ParseQuantity(s); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Within(q[0], q[1], q[2])
		if err != nil || got != tt.want {
			t.Errorf("Within(%s, %s, %s) = %v, %v", tt.predicted, tt.observed, tt.tolerance, got, err)
		}
	}
	second := Value{V: 10, Unit: Second}
	for _, tt := range []struct {
		predicted, observed, tolerance Value
		want                           string
	}{
		{second, second, Value{V: 5}, "the tolerance is a count and the prediction is a time: write 5% or 5ms or 5s"},
		{second, Value{V: 10}, Value{V: 1, Unit: Second}, "the prediction is a time and the observation is a count: both need the same unit"},
		{second, second, Value{V: -1, Unit: Second}, "the tolerance is not a positive quantity: write 5%"},
		{second, Value{Missing: true}, Value{V: 1, Unit: Second}, "a value is missing"},
	} {
		if _, err := Within(tt.predicted, tt.observed, tt.tolerance); err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

func TestEveryFunctionIsDocumented(t *testing.T) {
	for _, f := range Functions() {
		if f.Doc == "" || !strings.HasPrefix(f.Usage, f.Name+"(") {
			t.Errorf("%+v", f)
		}
	}
}
