package sheet

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write goldens and generated documents anew")

// golden compares with a committed file, or writes it with -update.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s is not what the code gives; run the test with -update and read the difference\n%s", file, firstDifference(string(want), got))
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		a, b := "(end)", "(end)"
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			return fmt.Sprintf("line %d\n want %s\n got  %s", i+1, a, b)
		}
	}
	return ""
}

func brokenSheets(t testing.TB) []txtar.File {
	t.Helper()
	a, err := txtar.ParseFile("testdata/broken.txtar")
	if err != nil {
		t.Fatal(err)
	}
	return a.Files
}

func TestEveryBrokenSheetIsToldWhereAndWhatToWrite(t *testing.T) {
	var out strings.Builder
	files := brokenSheets(t)
	if len(files) < 40 {
		t.Fatalf("%d broken sheets", len(files))
	}
	for _, f := range files {
		e, err := Parse(f.Name, f.Data, Options{})
		if err == nil {
			t.Errorf("%s was accepted", f.Name)
			continue
		}
		if e != nil {
			t.Errorf("%s gave an experiment and an error", f.Name)
		}
		var all Errors
		var one *Error
		if !errors.As(err, &all) || !errors.As(err, &one) || one != all[0] {
			t.Errorf("%s: %T is not Errors, or its first is not found", f.Name, err)
			continue
		}
		lines := strings.Count(string(f.Data), "\n")
		for _, e := range all {
			if e.File != f.Name || e.Line < 1 || e.Line > lines || e.Col < 1 {
				t.Errorf("%s: no place in the sheet: %v", f.Name, e)
			}
			if strings.Contains(e.Error(), "\n") {
				t.Errorf("%s: more than one line: %q", f.Name, e.Error())
			}
		}
		fmt.Fprintf(&out, "%s\n", err)
	}
	golden(t, "testdata/broken.golden", out.String())
}
