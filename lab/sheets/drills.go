package sheets

import (
	"embed"
	"io/fs"
	"sort"
	"strings"
)

//go:embed drills/*.yaml
var drills embed.FS

// Drills lists the sheets that show a fault and compare nothing, by name:
// "drills/backlog". They are for practice, and for the runbook's tests.
func Drills() []string {
	entries, err := fs.ReadDir(drills, "drills")
	if err != nil { // an embedded file system cannot fail
		panic(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, "drills/"+strings.TrimSuffix(e.Name(), ".yaml"))
	}
	sort.Strings(out)
	return out
}

// Drill is the sheet of one of them.
func Drill(name string) ([]byte, bool) {
	if short, ok := strings.CutPrefix(name, "drills/"); !ok || strings.ContainsAny(short, "/\\") {
		return nil, false
	}
	text, err := drills.ReadFile(name + ".yaml")
	return text, err == nil
}
