package grade

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tcplab/lab/sheets"
	"tcplab/results"
)

func TestTheRubricAddsUpAndNamesWhatThereIs(t *testing.T) {
	machine, hand := 0.0, 0.0
	seen := map[string]bool{}
	for _, c := range Rubric {
		if seen[c.Name] || c.Title == "" || c.How == "" {
			t.Errorf("%+v", c)
		}
		seen[c.Name] = true
		if c.check == nil {
			hand += c.Of
		} else {
			machine += c.Of
		}
	}
	if machine != 70 || hand != 30 {
		t.Errorf("%v by the record, %v by a person", machine, hand)
	}
	for name, w := range wanted {
		if _, ok := sheets.Text(name); !ok {
			t.Errorf("there is no experiment %s", name)
		}
		for _, row := range w.rows {
			if _, ok := results.LookupMetric(row); !ok {
				t.Errorf("%s: there is no metric %s", name, row)
			}
		}
		if len(w.words) == 0 {
			t.Errorf("%s: notes need speak of nothing", name)
		}
	}
	for _, name := range sheets.All() {
		if _, ok := wanted[name]; !ok {
			t.Errorf("the rubric does not know %s", name)
		}
	}
}

// record is a small one: two arms, offered alike.
func record() *results.Run {
	arm := func(name string, number int, offered float64, baseline bool, levers map[string]results.Lever) results.Arm {
		return results.Arm{Position: number, Baseline: baseline, Levers: levers, Trials: []results.Trial{{
			Number: number, Arm: name, Pair: 1, Dir: "trials/" + name, Duration: 10, Validity: results.Validity{Valid: true},
			Metrics: map[string]results.Quantity{"client.requests.offered": {Value: offered, Unit: "1"}},
		}}}
	}
	return &results.Run{Experiment: "churn", Arms: map[string]results.Arm{
		"before": arm("before", 1, 1000, true, nil),
		"after":  arm("after", 2, 1010, false, map[string]results.Lever{"hosts.client.sysctl[net.ipv4.tcp_tw_reuse]": {To: "1"}}),
		"faster": arm("faster", 3, 5000, false, map[string]results.Lever{"clients.client.workload.rate": {To: "500/s"}}),
	}}
}

func TestLoadIsComparedWithTheBaselines(t *testing.T) {
	s := &subject{run: record()}
	if share, why := sameLoad(s); share != 1 || !strings.Contains(why, "left out") || !strings.Contains(why, "faster (clients.client.workload.rate)") {
		t.Errorf("%v: %s", share, why)
	}
	s.run.Arms["after"].Trials[0].Metrics["client.requests.offered"] = results.Quantity{Value: 800}
	if share, why := sameLoad(s); share != 0 || !strings.Contains(why, "after: client was offered 80/s, and in the baseline 100/s") {
		t.Errorf("%v: %s", share, why)
	}
	s.run.Arms["after"].Levers["clients.client"] = results.Lever{From: "{…}"}
	if share, why := sameLoad(s); share != 1 {
		t.Errorf("%v: %s", share, why)
	}
	delete(s.run.Arms, "before")
	if share, why := sameLoad(s); share != 0 || !strings.Contains(why, "baseline") {
		t.Errorf("%v: %s", share, why)
	}
}

func TestSettingsWithoutAReasonCostPoints(t *testing.T) {
	s := &subject{run: record()}
	if share, why := settingsJustified(s); share != 0 || !strings.Contains(why, "tcp_tw_reuse] has no reason") {
		t.Errorf("%v: %s", share, why)
	}
	s.run.Arms["after"].Levers["hosts.client.sysctl[net.ipv4.tcp_tw_reuse]"] = results.Lever{To: "1", Why: "the pool is not out yet"}
	if share, _ := settingsJustified(s); share != 1 {
		t.Errorf("%v", share)
	}
}

func TestAShareIsOfWhatWasAskedFor(t *testing.T) {
	s := &subject{run: record()}
	no := &s.run.Arms["after"].Trials[0].Validity
	no.Valid, no.Reasons = false, []string{"too slow"}
	holds := map[string]results.Holds{"a": results.HoldsYes, "b": results.HoldsNo, "c": results.HoldsMixed, "d": results.NotAsked, "e": results.NotReached}
	s.run.Expectations, s.run.Predictions = map[string]results.Expectation{}, map[string]results.Prediction{"f": {}}
	for name, h := range holds {
		s.run.Expectations[name] = results.Expectation{Holds: h}
		s.run.Predictions[name] = results.Prediction{Holds: h, Within: "5%"}
	}
	for name, tt := range map[string]struct {
		check func(*subject) (float64, string)
		share float64
		why   string
	}{
		"trials":      {trialsCount, 2. / 3, "2 of 3 trials count; trial 2 (after) does not: too slow"},
		"claims":      {claimsHold, 1. / 3, "1 of 3 hold; b: no; c: mixed"},
		"predictions": {predictionsHold, 1. / 3, "1 of 3 are within their tolerance; b: no; c: mixed"},
	} {
		if share, why := tt.check(s); share != tt.share || why != tt.why {
			t.Errorf("%s: %v: %s", name, share, why)
		}
	}
}

// What was handed in can neither lead the grader elsewhere nor hold it up.
func TestLinksAndPipesAreNotRead(t *testing.T) {
	for name, make := range map[string]func(file string) error{
		"a link":     func(file string) error { return os.Symlink("/dev/zero", file) },
		"a pipe":     func(file string) error { return syscall.Mkfifo(file, 0o600) },
		"long notes": func(file string) error { return os.WriteFile(file, bytes.Repeat([]byte("a "), mostNotes), 0o600) },
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "trials", "1-a-1"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "trials", "1-a-1", "capture.pcapng"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Ordinary(dir); err != nil {
			t.Fatal(err)
		}
		if err := make(filepath.Join(dir, "notes.md")); err != nil {
			t.Fatal(err)
		}
		latest := filepath.Join(t.TempDir(), "latest")
		if err := os.Symlink(dir, latest); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{dir, latest} {
			if err := Ordinary(dir); err == nil || !strings.Contains(err.Error(), "notes.md") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// A record cannot make the grader read outside of its folder.
func TestARecordsFilesLieInItsFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := &subject{dir: filepath.Join(dir, "run"), run: record()}
	tr := &s.run.Arms["before"].Trials[0]
	tr.Dir, tr.Files = "..", []results.File{{Name: "secret"}}
	if share, why := recordIsWhole(s); share != 0 || !strings.Contains(why, "lies outside") {
		t.Errorf("%v: %s", share, why)
	}
}

func TestWordsOfTheReportAreNotTheStudents(t *testing.T) {
	report := "The client opened a connection for every request and closed it after the answer. A request then takes two round trips."
	for notes, want := range map[string]int{
		"":                                  0,
		"I saw it too":                      4,
		report:                              0,
		report + " I saw it too":            4,
		"# Mine\n```\nss -s here\n```\nYes": 3,
		"A request then takes":              4, // too short to be a quotation
	} {
		if n := ownWords(notes, report); n != want {
			t.Errorf("%q: %d words, and not %d", notes, n, want)
		}
	}
}
