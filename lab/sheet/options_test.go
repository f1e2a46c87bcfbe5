package sheet

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"tcplab/lab/expr"
)

const small = `experiment: x
wire: {delay: 5ms}
server: {kind: echo}
client: {reuse: none}
workload: {rate: 100/s, connections: 8}
trial: {duration: 10s}
arms:
  a: {baseline: true}
  b: {client: {reuse: pool}}
  late: {only: full, workload: {rate: 50/s}}
expect:
  e: {that: b.latency.p50 < a.latency.p50}
  l: {that: late.latency.p50 < 1s}
`

func TestSetIsOneMoreMergeAndALeverOfEveryArm(t *testing.T) {
	e, err := Parse("x.yaml", []byte(small), Options{Profile: "full", Set: []string{"workload.rate=200/s", "hosts.client.sysctl[net.ipv4.tcp_sack]=0", "arms.b.client.pool.size=4"}})
	if err != nil {
		t.Fatal(err)
	}
	got := leversText(e)
	for _, want := range []string{
		"arm a (baseline)\n  clients.client.workload.rate: 100/s → 200/s | --set\n  hosts.client.sysctl[net.ipv4.tcp_sack]: - → 0 | --set\n",
		"clients.client.pool.size: - → 4 |",
		"arm late\n  clients.client.workload.rate: 50/s → 200/s | --set\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for _, a := range e.Arms {
		if a.Clients[0].Workload.Rate != 200 {
			t.Errorf("arm %s has rate %v: --set comes last", a.Name, a.Clients[0].Workload.Rate)
		}
	}
}

func TestSetToNothingDeletes(t *testing.T) {
	e, err := Parse("x.yaml", []byte(small), Options{Set: []string{"workload.rate="}})
	if err != nil {
		t.Fatal(err)
	}
	if w := e.Arms[0].Clients[0].Workload; w.Rate != 0 || w.Arrivals != "closed" {
		t.Errorf("%+v", w)
	}
}

func TestWrongOptionsAreToldWhatToWrite(t *testing.T) {
	var out strings.Builder
	for _, o := range []Options{
		{Profile: "fast"},
		{Only: []string{"c", "poold"}},
		{Only: []string{"late"}},
		{Set: []string{"workload.rate"}},
		{Set: []string{"=5"}},
		{Set: []string{"workload.rat=5/s"}},
		{Set: []string{"workload.rate=5"}},
		{Set: []string{"workload.rate={"}},
		{Set: []string{"arms.c.workload.rate=5/s"}},
		{Set: []string{"clients.klient.reuse=pool"}},
		{Set: []string{"links.wan.wire.loss=1%"}},
		{Set: []string{"client.to=servr"}},
		{Set: []string{"profiles.quick.workload.rate=5/s"}},
		{Set: []string{"workload=5"}},
		{Set: []string{"trial=5"}},
		{Set: []string{"hosts.client.sysctl.net.ipv4.tcp_sack=0"}},
		{Set: []string{"workload.connections=40000"}},
	} {
		_, err := Parse("x.yaml", []byte(small), o)
		var one *Error
		if !errors.As(err, &one) {
			t.Errorf("%+v: %v", o, err)
			continue
		}
		fmt.Fprintln(&out, err)
	}
	golden(t, "testdata/options.golden", out.String())
}

func TestVirtualClockDoesNotAskWhatExistsOnTheRealOneOnly(t *testing.T) {
	text := strings.Replace(small, "b.latency.p50 < a.latency.p50", "b.cpu.client < a.cpu.client", 1)
	x, err := Parse("x.yaml", []byte(text), Options{})
	if err != nil || x.Expect[0].NotAsked != "" {
		t.Fatal(err, x)
	}
	x, err = Parse("x.yaml", []byte(text), Options{Clock: "virtual"})
	if err != nil || !strings.Contains(x.Expect[0].NotAsked, "virtual clock") {
		t.Error(err, x)
	}
	// A sheet that asks for that clock itself contradicts itself.
	_, err = Parse("x.yaml", []byte(text+"clock: virtual\n"), Options{})
	if err == nil || !strings.Contains(err.Error(), "virtual clock") {
		t.Error(err)
	}
}

func TestNamesMeanTheArmsThatAnExpressionSpeaksOf(t *testing.T) {
	e, err := Parse("x.yaml", []byte(small), Options{Profile: "full"})
	if err != nil {
		t.Fatal(err)
	}
	measured := func(m Metric) (expr.Value, error) {
		u, err := expr.ParseUnit(m.Info.Unit)
		return expr.Value{V: float64(len(m.Arm)), Unit: u}, err
	}
	for src, want := range map[string]string{
		"rate":                                     "100/s", // the baseline's
		"rate + 0 * late.requests.rate":            "50/s",
		"late.rate":                                "50/s",
		"late.client.rate":                         "50/s",
		"b.pool":                                   "8",
		"pool * (b.opens / b.opens)":               "8",
		"late.client.handshakes.count":             "4",
		"a.wire>server.first_syns":                 "1",
		"late.server.snmp.SyncookiesSent":          "4",
		"client.connections + 0 * late.opens":      "8",
		"ports()":                                  "28,232",
		"rtt() / 2 - delay":                        "0 s",
		"a.errors.EADDRNOTAVAIL":                   "1",
		"late.errors.ETIMEDOUT / late.requests.ok": "1",
	} {
		x, err := expr.Parse(src)
		if err != nil {
			t.Fatal(err)
		}
		v, err := x.Eval(e.Env(measured, x))
		if err != nil || v.String() != want {
			t.Errorf("%s = %v, %v; want %s", src, v, err, want)
		}
	}
	for _, src := range []string{"rate + 0 * late.requests.rate + 0 * a.requests.rate", "c.rate", "nothing.rate", "a.latency.p77"} {
		x, err := expr.Parse(src)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := x.Eval(e.Env(measured, x)); err == nil {
			t.Errorf("%s = %v", src, v)
		}
	}
}

func TestParagraphsWithANumberThatIsNotThereAreLeftOut(t *testing.T) {
	text := `# Account

It took {{a.latency.p50}}.

In {{late.latency.p50}} it was
over.

- first {{a.opens}}
- second {{late.opens}}
  and more of it
- third

| arm | p50 |
|---|---|
| a | {{ a.latency.p50 }} |
| late | {{late.latency.p50}} |

## Nothing is left here

Only {{late.opens}}.

## End

End {{predict.knee}}, {{open`
	got := FillWriteup(text, func(src string) (string, bool) {
		return "<" + src + ">", !strings.HasPrefix(src, "late")
	})
	want := `# Account

It took <a.latency.p50>.

- first <a.opens>
- third

| arm | p50 |
|---|---|
| a | <a.latency.p50> |

## End

End <predict.knee>, {{open
`
	if got != want {
		t.Errorf("%s", got)
	}
}

func TestKernelSettingsWithoutJustificationAreWarnedOf(t *testing.T) {
	text := small + "hosts: {server: {sysctl: {net.ipv4.tcp_syncookies: 1}}}\n"
	e, err := Parse("x.yaml", []byte(text), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Warnings) != 1 || !strings.Contains(e.Warnings[0], "tcp_syncookies") {
		t.Errorf("%q", e.Warnings)
	}
	e, err = Parse("x.yaml", []byte(text+"why: {\"hosts.server.sysctl[net.ipv4.tcp_syncookies]\": the default}\n"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Warnings) != 0 || e.Settings[0].Why != "the default" || fmt.Sprint(e.Settings[0].Arms) != "[a b]" {
		t.Errorf("%q %+v", e.Warnings, e.Settings)
	}
}

func TestAnArmThatCannotRunHereLeavesItsEntriesUnasked(t *testing.T) {
	e, err := Parse("x.yaml", []byte(small+"evidence: {p: {capture: b, show: handshake}}\ntriage: {b: {on: client, at: 1s, finds: nothing}}\npredict: {k: {of: b.opens, is: b.pool}, k2: {of: a.opens, is: rate * duration}}\n"), Options{Profile: "full"})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Leave("b", "the kernel lacks bbr"); err != nil {
		t.Fatal(err)
	}
	if len(e.Arms) != 2 || e.Expect[0].NotAsked == "" || e.Expect[1].NotAsked != "" || e.Evidence[0].NotAsked == "" ||
		e.Triage[0].NotAsked == "" || e.Predict[0].NotAsked == "" || e.Predict[1].NotAsked != "" {
		t.Errorf("%+v", e)
	}
	for _, arm := range []string{"a", "b", "c"} {
		if e.Leave(arm, "x") == nil {
			t.Errorf("%s was left out", arm)
		}
	}
}

func TestGlobalSettingsNeedAGuest(t *testing.T) {
	e, err := Parse("x.yaml", []byte(strings.Replace(small, "b: {client: {reuse: pool}}", "b: {kernel: {sysctl: {net.netfilter.nf_conntrack_max: 100}}, why: {kernel.sysctl: few}}", 1)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(e.Arms[0].Needs, e.Arms[1].Needs) != "[] [guest]" {
		t.Errorf("%v %v", e.Arms[0].Needs, e.Arms[1].Needs)
	}
	e, err = Parse("x.yaml", e.Text, Options{Kernel: "host"})
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Arms) != 1 || e.Expect[0].NotAsked != "arm b: it needs a guest kernel" {
		t.Errorf("%d arms, %q", len(e.Arms), e.Expect[0].NotAsked)
	}
}

func TestATrialThatTheCommandLineShortensLeavesLaterTruthsUnasked(t *testing.T) {
	text := []byte(small + "triage: {a: {on: client, at: 8s, finds: nothing}}\n")
	e, err := Parse("x.yaml", text, Options{Set: []string{"trial.duration=4s"}})
	if err != nil {
		t.Fatal(err)
	}
	if e.Triage[0].NotAsked == "" {
		t.Error("it is asked for after the end")
	}
	if e, err = Parse("x.yaml", text, Options{}); err != nil || e.Triage[0].NotAsked != "" {
		t.Error(err, e)
	}
}

func TestHostileYAMLIsRefusedNotRunInto(t *testing.T) {
	for _, s := range []string{
		strings.Repeat("- ", 50000), strings.Repeat("[", 50000), strings.Repeat("{a: ", 30000), strings.Repeat("? ", 2000), strings.Repeat("&a ", 2000),
		strings.Repeat("!a ", 2000), "a: " + strings.Repeat("*a ", 2000), strings.Repeat("a: ", 2000), "x: \xff", "x: \x00", strings.Repeat("#", maxBytes+1),
		"arms: {a: &x [*x]}", "\ufeff", "---", "...", "? {a: b}\n: c\n", "? [a]\n: c\n", "{", "}", "experiment: {}", "arms: []", "arms: {a: 5}", "profiles: {quick: 5}",
	} {
		if e, err := Parse("x", []byte(s), Options{}); err == nil || e != nil {
			t.Errorf("%.40q was accepted", s)
		}
	}
}

func TestLineEndingsAndByteOrderMarksDoNotMatter(t *testing.T) {
	want, err := Parse("x", []byte(small), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{strings.ReplaceAll(small, "\n", "\r\n"), "\ufeff" + small, "---\n" + small, small + "...\n", "# x\n\n" + small} {
		e, err := Parse("x", []byte(text), Options{})
		if err != nil {
			t.Errorf("%q: %v", text[:10], err)
			continue
		}
		if string(e.resolved) != string(want.resolved) {
			t.Errorf("%q is another sheet", text[:10])
		}
	}
}

func TestSetMayDecideWhatAnArmJustifies(t *testing.T) {
	text := []byte(`
experiment: x
wire: {delay: 5ms}
server: {kind: echo}
workload: {rate: 100/s}
trial: {duration: 1s}
arms:
  a: {baseline: true}
  slow: {workload: {rate: 5/s}, why: {workload.rate: less of it}}
`)
	if _, err := Parse("x.yaml", text, Options{Set: []string{"workload.rate=5/s"}}); err != nil {
		t.Errorf("the sheet is refused for a value that --set gives: %v", err)
	}
	if _, err := Parse("x.yaml", text, Options{Set: []string{"workload.size=5B"}}); err != nil {
		t.Error(err)
	}
	// What is resolved has the value, and no line about another one.
	without := []byte(strings.Replace(string(text), "rate: 5/s}", "size: null}", 1))
	without = []byte(strings.Replace(strings.Replace(string(without), "workload.rate: less", "workload.size: less", 1), "rate: 100/s}", "rate: 100/s, size: 9B}", 1))
	e, err := Parse("x.yaml", without, Options{Set: []string{"workload.size=5B"}})
	if err != nil {
		t.Fatal(err)
	}
	if resolved, _ := Resolved(e); err == nil {
		if _, err := Parse("x.yaml", resolved, Options{}); err != nil {
			t.Errorf("the resolved sheet is refused: %v\n%s", err, resolved)
		}
	}
	broken := []byte(strings.Replace(string(text), "slow: {workload: {rate: 5/s}", "slow: {workload: {size: 5B}", 1))
	if _, err := Parse("x.yaml", broken, Options{Set: []string{"workload.connections=5"}}); err == nil {
		t.Error("a line of justification for what nothing changes was let through")
	}
}
