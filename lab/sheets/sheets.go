// Package sheets holds the experiments, as data.
//
// An experiment is one YAML file; adding one touches nothing else here. What is
// embedded and what lies on disk are the same thing: a sheet that is shown,
// saved and run again is the same experiment.
package sheets

import (
	"embed"
	"io/fs"
	"sort"
	"strings"
)

//go:embed *.yaml
var files embed.FS

//go:embed traces/*.trace
var traces embed.FS

// All lists the experiments by name.
func All() []string {
	entries, err := fs.ReadDir(files, ".")
	if err != nil { // an embedded file system cannot fail
		panic(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	sort.Strings(out)
	return out
}

// Text is an experiment's sheet as it was written.
func Text(name string) ([]byte, bool) {
	if strings.ContainsAny(name, "/\\") {
		return nil, false
	}
	text, err := files.ReadFile(name + ".yaml")
	return text, err == nil
}

// Traces lists the recorded traces that sheets may name.
func Traces() []string {
	entries, err := fs.ReadDir(traces, "traces")
	if err != nil { // as above
		panic(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// Trace is a recorded trace's text.
func Trace(name string) ([]byte, bool) {
	if strings.ContainsAny(name, "/\\") {
		return nil, false
	}
	text, err := traces.ReadFile("traces/" + name)
	return text, err == nil
}

// Nearest is the experiment whose name is nearest to what was typed, by the
// number of letters to change; "" when there is none at all.
func Nearest(name string) string {
	best, least := "", 0
	for _, n := range All() {
		if d := distance(strings.ToLower(name), n); best == "" || d < least {
			best, least = n, d
		}
	}
	return best
}

// distance counts insertions, deletions and substitutions (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal, row[j+1] = row[j+1], min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
