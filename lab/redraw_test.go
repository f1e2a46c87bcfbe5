package lab

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"tcplab/results"
)

const examples = "../docs/examples"

// The committed reports are what their records say, to the byte: a change to
// how things are drawn, or to the record, shows up here. `tcplab --results
// docs/examples report churn` draws them again.
func TestCommittedReportsAreDrawnFromTheirRecords(t *testing.T) {
	records, err := filepath.Glob(examples + "/*/run.json")
	if err != nil || len(records) == 0 {
		t.Fatalf("no example: %v", err)
	}
	for _, rec := range records {
		from := filepath.Dir(rec)
		name := filepath.Base(from)
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			to := filepath.Join(root, name)
			if err := os.CopyFS(to, os.DirFS(from)); err != nil {
				t.Fatal(err)
			}
			drawn := map[string]bool{}
			for _, pattern := range []string{"report.*", "figures/*"} {
				files, _ := filepath.Glob(filepath.Join(to, pattern))
				for _, f := range files {
					rel, _ := filepath.Rel(to, f)
					drawn[rel] = true
					if err := os.Remove(f); err != nil {
						t.Fatal(err)
					}
				}
			}
			if len(drawn) < 3 {
				t.Fatalf("only %v were drawn", drawn)
			}
			r, _, err := Redraw(root, name)
			if err != nil {
				t.Fatal(err)
			}
			for rel := range drawn {
				want, err := os.ReadFile(filepath.Join(from, rel))
				if err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(filepath.Join(to, rel))
				if err != nil {
					t.Error(err)
				} else if !bytes.Equal(got, want) {
					t.Errorf("%s is drawn otherwise now (%d bytes, committed %d)", rel, len(got), len(want))
				}
			}
			filesAreTheRecords(t, from, r)
		})
	}
}

// filesAreTheRecords holds every file of every trial against its digest.
func filesAreTheRecords(t *testing.T, dir string, r *results.Run) {
	t.Helper()
	seen := 0
	for _, a := range r.Arms {
		for _, tr := range a.Trials {
			for _, f := range tr.Files {
				got, err := results.DigestFile(filepath.Join(dir, tr.Dir), f.Name)
				if err != nil {
					t.Error(err)
				} else if got != f {
					t.Errorf("%s/%s: %+v, the record says %+v", tr.Dir, f.Name, got, f)
				}
				seen++
			}
		}
	}
	n := 0
	err := fs.WalkDir(os.DirFS(filepath.Join(dir, "trials")), ".", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil || n != seen {
		t.Errorf("%d files in trials, %d in the record: %v", n, seen, err)
	}
}
