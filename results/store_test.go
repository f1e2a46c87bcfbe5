package results_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tcplab/results"
)

func record(verdict results.Verdict) *results.Run {
	return &results.Run{Experiment: "x", Verdict: verdict, Arms: map[string]results.Arm{"a": {Baseline: true}}}
}

// A run that was killed has no record: not for report, not for latest, and the
// next run clears it away. One that still runs is left alone.
func TestAKilledRunLeavesNothingThatLooksWhole(t *testing.T) {
	root := t.TempDir()
	running, err := results.NewFolder(root, "x", time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(root, "x", "19700101T000000.000.partial")
	if err := os.MkdirAll(filepath.Join(killed, "trials"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := results.Save(killed, record(results.Pass)); err != nil {
		t.Fatal(err)
	}
	if _, err := results.Load(killed); err == nil {
		t.Error("a killed run's folder loads")
	}
	if _, err := results.Find(root, "x"); err == nil {
		t.Error("there is a latest run")
	}
	next, err := results.NewFolder(root, "x", time.Unix(2, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(killed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the killed run left is still there: %v", err)
	}
	if _, err := os.Stat(running.Path); err != nil {
		t.Errorf("the running one's folder: %v", err)
	}
	if err := results.Save(next.Path, record(results.Fail)); err != nil {
		t.Fatal(err)
	}
	dir, err := next.Commit()
	if err != nil {
		t.Fatal(err)
	}
	found, err := results.Find(root, "x")
	if err != nil || found != dir {
		t.Errorf("latest is %q, %v; want %q", found, err, dir)
	}
	r, err := results.Load(found)
	if err != nil || r.Verdict != results.Fail {
		t.Errorf("loaded %+v, %v", r, err)
	}
	if es, _ := os.ReadDir(dir); len(es) != 1 {
		t.Errorf("in the folder: %v, want run.json alone", es)
	}
	if err := running.Discard(); err != nil {
		t.Error(err)
	}
}

func TestTwoRunsInTheSameMillisecondHaveTheirOwnFolders(t *testing.T) {
	root := t.TempDir()
	a, err := results.NewFolder(root, "x", time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	b, err := results.NewFolder(root, "x", time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	if a.Path == b.Path {
		t.Error(a.Path)
	}
}

func TestPruneKeepsTheNewest(t *testing.T) {
	root := t.TempDir()
	for i := range 5 {
		f, err := results.NewFolder(root, "x", time.Unix(int64(i), 0))
		if err != nil {
			t.Fatal(err)
		}
		if err := results.Save(f.Path, record(results.Pass)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	gone, err := results.Prune(root, 2)
	if err != nil || len(gone) != 3 {
		t.Fatalf("removed %v, %v", gone, err)
	}
	for _, g := range gone {
		if strings.Contains(g, "000004") || strings.Contains(g, "000003") {
			t.Errorf("removed %s", g)
		}
	}
	if _, err := results.Find(root, "x"); err != nil {
		t.Error(err)
	}
}

func TestANewerRecordIsRefusedAndAnUnknownFieldIsNot(t *testing.T) {
	for doc, want := range map[string]string{
		`{"schema":"tcplab.run/2"}`:                          "written by a newer tcplab",
		`{"schema":"something/1"}`:                           "is no record",
		`{"schema":"tcplab.run/x"}`:                          "is no record",
		`{"schema":"tcplab.run/1"`:                           "is no record",
		`{"schema":"tcplab.run/1","from_tomorrow":[1,2,{}]}`: "",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "run.json"), []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := results.Load(dir)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", doc, err, want)
		}
	}
}

// Whatever is recorded comes back, quantile by quantile.
func TestHistogramsSurviveTheirFile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := results.NewHistogram()
		for _, v := range rapid.SliceOfN(rapid.Int64Range(100, 1e12), 1, 200).Draw(t, "values") {
			if err := h.RecordValue(v); err != nil {
				t.Fatal(err)
			}
		}
		var b bytes.Buffer
		if err := results.WriteHistograms(&b, results.Histograms{"client.latency": h, "client.connect.call": results.NewHistogram()}); err != nil {
			t.Fatal(err)
		}
		hs, err := results.ReadHistograms(&b)
		if err != nil {
			t.Fatal(err)
		}
		got := hs["client.latency"]
		if got == nil || !got.Equals(h) {
			t.Fatalf("read back %v", got)
		}
	})
}

func TestSamplesSurviveTheirFile(t *testing.T) {
	want := []results.Series{
		{Name: "client.ok", Unit: "1", About: "answered", T: []float64{0, .1, .2}, V: []float64{40, 41, 39}},
		{Name: "client.connect.call.p50", Unit: "s", T: []float64{.1, .15}, V: []float64{1.25e-05, 3.5e-4}},
		{Name: "host.sockets.time_wait", Unit: "1", T: []float64{.1, .1}, V: []float64{5, 6}},
	}
	var b bytes.Buffer
	if err := results.WriteSamples(&b, want); err != nil {
		t.Fatal(err)
	}
	got, err := results.ReadSamples(&b, []results.Column{want[0].Column()})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) || got["client.ok"].About != "answered" || got["client.ok"].Unit != "1" {
		t.Errorf("read %+v", got)
	}
	for _, w := range want {
		g := got[w.Name]
		if len(g.T) != len(w.T) {
			t.Errorf("%s: %+v", w.Name, g)
			continue
		}
		for i := range w.T {
			if g.T[i] != w.T[i] || g.V[i] != w.V[i] {
				t.Errorf("%s[%d] = %v at %v, want %v at %v", w.Name, i, g.V[i], g.T[i], w.V[i], w.T[i])
			}
		}
	}
}

func TestAPercentileNeedsTenSamplesBeyondIt(t *testing.T) {
	h := results.NewHistogram()
	for i := range 999 {
		h.RecordValue(int64(i+1) * 1000)
	}
	if _, ok := results.Quantile(h, .99); ok {
		t.Error("p99 of 999 samples")
	}
	h.RecordValue(1e6)
	if v, ok := results.Quantile(h, .99); !ok || v < 980e-6 || v > 1000e-6 {
		t.Errorf("p99 of 1,000 samples: %v %v", v, ok)
	}
	if v, ok := results.Quantile(h, 1); !ok || v < 1e-3 {
		t.Errorf("max: %v %v", v, ok)
	}
}

func TestAMetricIsFoundWithoutItsOwnerWhereOneThingHasIt(t *testing.T) {
	tr := results.Trial{
		Metrics: map[string]results.Quantity{
			"client.latency.p50": {Value: 1, Unit: "s"}, "client.requests.failed": {Value: 0, Unit: "1"},
			"client.handshakes.count": {Value: 5, Unit: "1"}, "server.handshakes.count": {Value: 0, Unit: "1"},
			"wire>server.lost": {Value: 7, Unit: "1"}, "wire>client.lost": {Value: 8, Unit: "1"}, "wire.lost": {Value: 15, Unit: "1"},
		},
		Hosts: []results.Host{{Name: "server", Counters: map[string]int64{"TcpExtSyncookiesSent": 9}}},
	}
	for _, c := range []struct {
		owner, metric string
		want          float64
		ok            bool
	}{
		{"", "latency.p50", 1, true},
		{"", "handshakes.count", 0, false}, // two have it
		{"client", "handshakes.count", 5, true},
		{"wire>server", "lost", 7, true},
		{"", "lost", 15, true},
		{"", "errors.ECONNRESET", 0, true}, // never seen is 0
		{"client", "errors.EADDRNOTAVAIL", 0, true},
		{"server", "errors.EADDRNOTAVAIL", 0, false}, // no client
		{"server", "snmp.SyncookiesSent", 9, true},
		{"server", "snmp.ListenDrops", 0, true},
		{"nobody", "snmp.ListenDrops", 0, false},
		{"", "latency.p99", 0, false},
	} {
		q, ok := tr.Metric(c.owner, c.metric, "")
		if ok != c.ok || q.Value != c.want {
			t.Errorf("%q %q: %v %v, want %v %v", c.owner, c.metric, q.Value, ok, c.want, c.ok)
		}
	}
}
