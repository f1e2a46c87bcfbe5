package plots

import (
	"strings"
	"testing"

	"tcplab/results"
)

func diagnosed(arm, truth string, found ...string) *results.Run {
	r := &results.Run{Experiment: "x", Ran: results.Mode{Profile: "quick", Kernel: "guest"}, Arms: map[string]results.Arm{},
		Triage: map[string]results.TriageRow{arm + " on client": {Arm: arm, On: "client", At: "11s", Truth: truth}}}
	var a results.Arm
	for i, f := range found {
		d := results.Diagnosis{On: "client", At: 11}
		if f != results.Nothing {
			d.Findings = []results.Finding{{Cause: f, Text: "it is " + f}, {Cause: results.KeepaliveOff, Text: "and that"}}
		}
		a.Trials = append(a.Trials, results.Trial{Number: i + 1, Arm: arm, Triage: []results.Diagnosis{d}})
	}
	r.Arms[arm] = a
	r.FillFound()
	return r
}

func TestTruthIsHeldAgainstTheFirstCause(t *testing.T) {
	c := Confuse([]*results.Run{
		diagnosed("sick", results.ZeroWindow, results.ZeroWindow, results.ZeroWindow),
		diagnosed("well", results.Nothing, results.Nothing),
		diagnosed("odd", results.Nothing, results.PeerVanished),
		{Experiment: "old", Triage: map[string]results.TriageRow{"a": {Arm: "a", Truth: results.Nothing}}, Arms: map[string]results.Arm{"a": {Trials: []results.Trial{{Number: 1}}}}},
	})
	if c.Trials != 4 || c.Runs != 3 || c.Wrong() != 1 {
		t.Errorf("%d looks in %d runs, %d wrong", c.Trials, c.Runs, c.Wrong())
	}
	text := c.Text()
	for _, want := range []string{
		"4 looks in 3 runs. The right cause came first in 2 of 2 at sick hosts; there was silence in 1 of 2 at healthy ones.",
		"✗ x (quick, guest), odd on client at 11s: nothing is true, peer-vanished was found\n  it is peer-vanished",
		"not looked at: old",
		"peer-vanished (nowhere the truth)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	md := c.Markdown()
	for _, want := range []string{"| nothing | ✗ 1 | · | 1 |", "| zero-window | · | 2 | · |", "✓ zero-window × 2"} {
		if !strings.Contains(strings.ReplaceAll(strings.ReplaceAll(md, `\-`, "-"), "  ", " "), want) {
			t.Errorf("%q is not in\n%s", want, md)
		}
	}
	if again := Confuse([]*results.Run{diagnosed("sick", results.ZeroWindow, results.ZeroWindow)}); again.Wrong() != 0 {
		t.Error("a right one is wrong")
	}
}

func TestAReportSaysWhatTriageFound(t *testing.T) {
	r := diagnosed("sick", results.ZeroWindow, results.ZeroWindow, results.PeerVanished)
	row := newTriageRow(r, r.Triage["sick on client"])
	if row.Found != "✗ peer-vanished in 1 of 2, ✓ zero-window in 1 of 2" || row.Said != "it is zero-window (and after it: keepalive-off)" {
		t.Errorf("%+v", row)
	}
	r = diagnosed("well", results.Nothing, results.Nothing)
	if row := newTriageRow(r, r.Triage["well on client"]); row.Found != "✓ nothing" || row.Said != "" {
		t.Errorf("%+v", row)
	}
	if triageFound([]triageRow{{Truth: results.Nothing}}) {
		t.Error("an older record is said to have been diagnosed")
	}
}
