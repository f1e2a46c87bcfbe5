package sheet

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// committed are all sheets that must decode: shapes, the design's own examples,
// and the embedded experiments.
func committed(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, pattern := range []string{"testdata/shapes/*.yaml", "testdata/design/*.yaml", "../sheets/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d sheets, %v", pattern, len(files), err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			out[f] = text
		}
	}
	return out
}

// alike leaves out what says only where an experiment was read from.
func alike(e *Experiment) Experiment {
	c := *e
	c.Source, c.Text, c.Profiles, c.Traces = "", nil, nil, nil
	return c
}

func TestShapesDecodeInBothProfiles(t *testing.T) {
	files, err := filepath.Glob("testdata/shapes/*.yaml")
	if err != nil || len(files) < 8 {
		t.Fatal(len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, profile := range profileNames {
				e, err := Parse(file, text, Options{Profile: profile})
				if err != nil {
					t.Fatal(err)
				}
				resolved, err := Resolved(e)
				if err != nil {
					t.Fatal(err)
				}
				golden(t, "testdata/golden/"+name+"."+profile+".yaml", string(resolved))
				golden(t, "testdata/golden/"+name+"."+profile+".levers", leversText(e))
			}
		})
	}
}

// leversText is what an experiment changes, asks and warns of.
func leversText(e *Experiment) string {
	var b strings.Builder
	for _, a := range e.Arms {
		fmt.Fprintf(&b, "arm %s", a.Name)
		if a.Baseline {
			b.WriteString(" (baseline)")
		}
		for _, n := range a.Needs {
			b.WriteString(" needs " + n)
		}
		b.WriteByte('\n')
		for _, l := range a.Levers {
			from, to := l.From, l.To
			if from == "" {
				from = "-"
			}
			if to == "" {
				to = "-"
			}
			fmt.Fprintf(&b, "  %s: %s → %s | %s\n", l.Path, from, to, l.Why)
		}
	}
	for _, s := range e.Settings {
		fmt.Fprintf(&b, "setting %s = %s in %s | %s\n", s.Path, s.Value, join(s.Arms), s.Why)
	}
	for _, p := range e.Predict {
		fmt.Fprintf(&b, "predict %s %s\n", p.Name, p.NotAsked)
	}
	for _, x := range e.Expect {
		fmt.Fprintf(&b, "expect %s %s\n", x.Name, x.NotAsked)
	}
	for _, w := range e.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	for _, n := range e.NotBuilt() {
		fmt.Fprintf(&b, "%s\n", n)
	}
	return b.String()
}

func TestResolvedSheetIsTheSameExperiment(t *testing.T) {
	for file, text := range committed(t) {
		for _, profile := range profileNames {
			e, err := Parse(file, text, Options{Profile: profile})
			if err != nil {
				t.Fatal(err)
			}
			resolved, _ := Resolved(e)
			again, err := Parse(file, resolved, Options{})
			if err != nil {
				t.Fatalf("%s, %s: the resolved sheet is refused:\n%v\n%s", file, profile, err, resolved)
			}
			a, b := alike(e), alike(again)
			if !reflect.DeepEqual(a, b) {
				t.Errorf("%s, %s: the resolved sheet is another experiment:\n%s", file, profile, difference(a, b))
			}
			if other := map[string]string{"quick": "full", "full": "quick"}[profile]; true {
				if _, err := Parse(file, resolved, Options{Profile: other}); err == nil {
					t.Errorf("%s: resolved for %s, and decoded for %s", file, profile, other)
				}
			}
		}
	}
}

// difference says in which field two experiments differ.
func difference(a, b Experiment) string {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		if !va.Type().Field(i).IsExported() {
			continue
		}
		x, y := va.Field(i).Interface(), vb.Field(i).Interface()
		if !reflect.DeepEqual(x, y) {
			return fmt.Sprintf("%s\n %+v\n %+v", va.Type().Field(i).Name, x, y)
		}
	}
	return fmt.Sprintf("resolved\n%s", firstDifference(string(a.resolved), string(b.resolved)))
}

func TestDesignsExamplesDecodeAsPrinted(t *testing.T) {
	read := func(name string) []byte {
		text, err := os.ReadFile("testdata/design/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	churn, err := Parse("churn.yaml", read("churn.yaml"), Options{Profile: "full"})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintln(len(churn.Arms), churn.Arms[0].Name, churn.Arms[0].Numbers["ports"], churn.Arms[2].Numbers["ports"], churn.Arms[0].Numbers["rtt"]); got != "3 per_request 28,232 4,096 10 ms\n" {
		t.Error(got)
	}
	ghost, err := Parse("ghost.yaml", read("ghost.yaml"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	a := ghost.Arms[0]
	back := a.link("back")
	if d := back.Wire.To["lb"].Delay.String() + " " + back.Wire.To["broker"].Delay.String(); d != "2ms 1ms" {
		t.Errorf("towards lb and towards broker: %s", d)
	}
	if got := a.Numbers["rtt"].String(); got != "23 ms" { // 10 + 1 there, 2 + 10 back
		t.Errorf("rtt %s", got)
	}
	if got := fmt.Sprintln(a.Trial.Until, a.Trial.Plus, a.Trial.AtMost, a.Clients[0].Extra["keepalive"], a.Faults[0].OnKind, a.Faults[1].OnKind); got != "recovered 30s 20m0s 30s middlebox server\n" {
		t.Error(got)
	}
}

func TestEntriesOfAnArmThatTheProfileLeavesOutAreNotAsked(t *testing.T) {
	text := committed(t)["../sheets/churn.yaml"]
	asked := map[string]int{}
	for _, profile := range profileNames {
		e, err := Parse("churn.yaml", text, Options{Profile: profile})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range e.Expect {
			if (x.NotAsked == "") != (profile == "full" || !strings.HasPrefix(x.That.String(), "ceiling")) {
				t.Errorf("%s: expectation %s: %q", profile, x.Name, x.NotAsked)
			}
			if x.NotAsked == "" {
				asked[profile]++
			}
		}
	}
	if asked["quick"] == 0 || asked["quick"] >= asked["full"] {
		t.Error(asked)
	}
}

func TestArmsThatAreNotRunLeaveTheirEntriesUnasked(t *testing.T) {
	text := committed(t)["../sheets/churn.yaml"]
	e, err := Parse("churn.yaml", text, Options{Only: []string{"pooled"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Arms) != 1 || len(e.Arms[0].Levers) == 0 {
		t.Fatalf("arms %d, and pooled's levers are still against the baseline: %v", len(e.Arms), e.Arms[0].Levers)
	}
	for _, x := range e.Expect {
		if arms := armsOf(x.That, x.Unless); (x.NotAsked == "") != (len(arms) == 1 && arms[0] == "pooled") {
			t.Errorf("%s: %q", x.Name, x.NotAsked)
		}
	}
}
