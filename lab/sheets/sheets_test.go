package sheets_test

import (
	"strings"
	"testing"

	"tcplab/lab/sheet"
	"tcplab/lab/sheets"
)

func TestEveryExperimentDecodesInBothProfilesWithoutWarnings(t *testing.T) {
	if len(sheets.All()) == 0 {
		t.Fatal("no experiments")
	}
	for _, name := range sheets.All() {
		text, ok := sheets.Text(name)
		if !ok {
			t.Fatalf("%s is listed and not there", name)
		}
		for _, profile := range []string{"quick", "full"} {
			e, err := sheet.Parse(name+".yaml", text, sheet.Options{Profile: profile})
			if err != nil {
				t.Fatal(err)
			}
			if e.Name != name {
				t.Errorf("%s.yaml calls itself %s", name, e.Name)
			}
			if len(e.Warnings) > 0 {
				t.Errorf("%s, %s: %q", name, profile, e.Warnings)
			}
			if e.Question == "" || e.Writeup == "" {
				t.Errorf("%s has no question or no account", name)
			}
			if n := e.NotBuilt(); len(n) > 0 {
				t.Errorf("%s cannot run: %q", name, n)
			}
		}
	}
}

func TestNearestExperimentIsSuggested(t *testing.T) {
	for typed, want := range map[string]string{"churm": "churn", "Churn": "churn", "chrun": "churn", "churn.yaml": "churn"} {
		if got := sheets.Nearest(typed); got != want {
			t.Errorf("%s: %s", typed, got)
		}
	}
	for _, none := range []string{"", "nothing", "../sheets", "churn/", "churn.yaml"} {
		if _, ok := sheets.Text(none); ok {
			t.Errorf("there is an experiment %q", none)
		}
	}
}

func TestChurnIsTheExperimentThatTheLabPromises(t *testing.T) {
	text, _ := sheets.Text("churn")
	for profile, want := range map[string]struct {
		ports, rate, knee, seconds float64
		arms                       int
	}{
		"quick": {4096, 400, 10.24, 13, 2},
		"full":  {28232, 600, 47.0533, 132, 3},
	} {
		e, err := sheet.Parse("churn.yaml", text, sheet.Options{Profile: profile})
		if err != nil {
			t.Fatal(err)
		}
		a := e.Arms[0]
		if len(e.Arms) != want.arms || a.Name != "per_request" || !a.Baseline {
			t.Errorf("%s: %d arms, first %s", profile, len(e.Arms), a.Name)
		}
		n := a.Numbers
		if n["ports"].V != want.ports || n["rate"].V != want.rate || n["length"].V != want.seconds || n["rtt"].V != 0.01 || n["size"].V != 128 || n["connections"].V != 64 {
			t.Errorf("%s: %v", profile, n)
		}
		v, err := e.Predict[0].Is.Eval(e.Env(nil, e.Predict[0].Is))
		if err != nil || v.V < want.knee*0.9999 || v.V > want.knee*1.0001 {
			t.Errorf("%s: the first error is predicted at %v (%v)", profile, v, err)
		}
		pooled := e.Arms[1]
		var changed []string
		for _, l := range pooled.Levers {
			changed = append(changed, l.Path)
			if l.Why == "" {
				t.Errorf("%s is changed without a reason", l.Path)
			}
		}
		if got := strings.Join(changed, " "); got != "clients.client.pool.size clients.client.reuse" {
			t.Errorf("%s: pooled changes %s", profile, got)
		}
		if profile == "full" {
			c := e.Arms[2]
			if c.Numbers["ports"].V != 4096 || c.Numbers["rate"].V != 150 || c.Trial.Duration.Seconds() != 190 {
				t.Errorf("ceiling: %v", c.Numbers)
			}
		}
	}
}
