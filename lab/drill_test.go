package lab

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"tcplab/lab/sheet"
	"tcplab/lab/sheets"
	"tcplab/results"
)

func everyPatient(t *testing.T) []Patient {
	t.Helper()
	var all []Patient
	for _, name := range sheets.All() {
		text, _ := sheets.Text(name)
		some, err := Patients(name+".yaml", text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		all = append(all, some...)
	}
	for _, name := range sheets.Drills() {
		text, _ := sheets.Drill(name)
		some, err := Patients(name+".yaml", text)
		if err != nil || len(some) == 0 {
			t.Errorf("%s: %d patients, %v", name, len(some), err)
		}
		for _, profile := range []string{"quick", "full"} {
			if e, err := sheet.Parse(name+".yaml", text, sheet.Options{Profile: profile}); err != nil || len(e.Warnings) > 0 {
				t.Errorf("%s, %s: %v, %q", name, profile, err, e.Warnings)
			}
		}
		all = append(all, some...)
	}
	return all
}

// A drill has to be able to hold every patient that it may draw, with its load
// going on for as long as somebody may look.
func TestEveryPatientCanBeKept(t *testing.T) {
	all := everyPatient(t)
	truths := map[string]int{}
	for _, p := range all {
		truths[p.Truth]++
		set, err := p.Lasting()
		if err != nil {
			t.Errorf("%s: %v", p.Arm, err)
			continue
		}
		plan, err := Decode(RunOptions{File: p.File, Text: p.Text, Profile: "quick", Kernel: OnHost, Clock: "real", Only: []string{p.Arm}, Set: set, Seed: 1})
		if err != nil {
			t.Errorf("%s, arm %s: %v", p.Experiment, p.Arm, err)
			continue
		}
		a, ok := armOf(plan.Experiment, p.Arm)
		if !ok || len(plan.Trials) != 1 || a.Trial.Until != "" || a.Trial.Length() < DrillEnds {
			t.Errorf("%s, arm %s: %d trials, until %q, %v", p.Experiment, p.Arm, len(plan.Trials), a.Trial.Until, a.Trial.Length())
		}
	}
	for _, c := range []string{Healthy, results.TimeWaitExhaustion, results.CloseWaitLeak, results.PeerVanished, results.AcceptQueueOverflow, results.SynBacklogOverflow, results.SynCookiesActive, results.ZeroWindow} {
		if truths[c] == 0 {
			t.Errorf("no host has %s: %v", c, truths)
		}
	}
}

func TestWhatComesIsTheSeedsAndTellsNothing(t *testing.T) {
	all := everyPatient(t)
	draw := func(seed uint64) []string {
		rng := rand.New(rand.NewPCG(seed, 0))
		var truths []string
		for range 4000 {
			truths = append(truths, ChoosePatient(all, rng).Truth)
		}
		return truths
	}
	one := draw(1)
	if !slices.Equal(one, draw(1)) || slices.Equal(one, draw(2)) {
		t.Error("a seed does not repeat its hosts, or two seeds have the same")
	}
	count, causes := map[string]int{}, map[string]bool{}
	for _, truth := range one {
		count[truth]++
	}
	for _, p := range all {
		causes[p.Truth] = true
	}
	sick := len(causes) - 1
	for truth := range causes {
		want := 4000 * 3 / 4 / sick
		if truth == Healthy {
			want = 1000
		}
		if n := count[truth]; n < want*3/4 || n > want*5/4 {
			t.Errorf("%s came %d times, and some %d were due", truth, n, want)
		}
	}
	healthy := []Patient{{Truth: Healthy}}
	if p := ChoosePatient(healthy, rand.New(rand.NewPCG(1, 0))); p.Truth != Healthy {
		t.Error(p)
	}
}

func TestEveryCauseSaysWhereItShows(t *testing.T) {
	for _, c := range Causes() {
		if c.Shows == "" || c.Ask == "" || c.About == "" {
			t.Errorf("%+v", c)
		}
	}
	if len(shown) != len(Causes()) {
		t.Errorf("%d causes are shown, and there are %d", len(shown), len(Causes()))
	}
}

func TestAnAnswerIsANumberOrAName(t *testing.T) {
	all := Causes()
	for s, want := range map[string]string{
		"1": all[0].Name, "12": Healthy, " nothing ": Healthy, "noth": Healthy, "Time-Wait": results.TimeWaitExhaustion,
		"close-wait-leak": results.CloseWaitLeak, "syn-b": results.SynBacklogOverflow,
	} {
		if c, err := ParseCause(s); err != nil || c.Name != want {
			t.Errorf("%q: %s, %v", s, c.Name, err)
		}
	}
	for s, says := range map[string]string{
		"": "not in the list", "0": "write 1 to 12", "13": "write 1 to 12", "flood": "not in the list", "syn-": "syn-backlog-overflow or syn-cookies-active",
	} {
		if _, err := ParseCause(s); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", s, err)
		}
	}
}
