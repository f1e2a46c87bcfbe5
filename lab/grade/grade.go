// Package grade fills the course's grading table from a record.
//
// It grades what a record proves and leaves to a person what it cannot: the
// rubric is data, each row says what it looked at and why it gave what it
// gave, and rows that need a reader come out empty. It does not trust a
// record: the files are held against their digests, and what the record
// concludes is concluded again from its trials.
package grade

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tcplab/lab/sheet"
	"tcplab/results"
)

// Row is one criterion of a graded record.
type Row struct {
	Name   string   `json:"name"`
	Title  string   `json:"title"`
	Points *float64 `json:"points"` // nil: a person gives them
	Of     float64  `json:"of"`
	Why    string   `json:"why,omitempty"`
}

// Result is the table.
type Result struct {
	Experiment string  `json:"experiment"`
	Run        string  `json:"run"` // its folder
	Digest     string  `json:"digest"`
	Seed       uint64  `json:"seed"`
	Verdict    string  `json:"verdict"`
	Rows       []Row   `json:"rows"`
	Points     float64 `json:"points"`
	Of         float64 `json:"of"`
	ByHand     float64 `json:"by_hand"` // what a person may add
	// Tampered names what is not as it was measured; then nothing counts
	// before a person has looked.
	Tampered []string `json:"tampered"`
}

// A subject is what the checks look at.
type subject struct {
	dir      string
	run      *results.Run
	exp      *sheet.Experiment // as the record has it; nil: it does not decode
	expErr   error
	ours     func(name string) ([]byte, bool)
	notes    string
	tampered []string
}

// mostNotes bounds what a person is thought to write, in bytes.
const mostNotes = 1 << 20

// Ordinary says whether what was handed in has files and folders only. A link
// or a pipe in it could lead out of the folder, or never end; so this comes
// before anything in it is read.
func Ordinary(dir string) error {
	dir, err := filepath.EvalSymlinks(dir) // EXPERIMENT/latest is a link
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		info, err := e.Info()
		switch {
		case err != nil:
			return err
		case !info.Mode().IsRegular():
			return fmt.Errorf("%s is no ordinary file: a run's folder has files and folders only, and is graded as tcplab left it, with notes.md", name)
		case name == "notes.md" && info.Size() > mostNotes:
			return fmt.Errorf("notes.md has %d bytes: more than %d MiB are no notes", info.Size(), mostNotes>>20)
		}
		return nil
	})
}

// Grade fills the table for the record in dir, which is Ordinary. ours gives
// the lab's own sheet of an experiment.
func Grade(dir string, r *results.Run, ours func(name string) ([]byte, bool)) (*Result, error) {
	s := &subject{dir: dir, run: r, ours: ours}
	notes, err := os.ReadFile(filepath.Join(dir, "notes.md"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("notes.md: %w", err)
	}
	s.notes = string(notes)
	only, swept := s.arms()
	s.exp, s.expErr = sheet.Parse("the record's sheet", []byte(r.Sheet), sheet.Options{Kernel: r.Ran.Kernel, Clock: r.Ran.Clock, Only: only, Sweep: swept})
	out := &Result{Experiment: r.Experiment, Run: dir, Digest: r.Digest, Seed: r.Seeds.Run, Verdict: string(r.Verdict)}
	for _, c := range Rubric {
		row := Row{Name: c.Name, Title: c.Title, Of: c.Of}
		if c.check == nil {
			out.ByHand += c.Of
			row.Why = c.How
		} else {
			share, why := c.check(s)
			p := float64(int(share*c.Of*10+0.5)) / 10
			row.Points, row.Why = &p, why
			out.Points += p
			out.Of += c.Of
		}
		out.Rows = append(out.Rows, row)
	}
	out.Tampered = append([]string{}, s.tampered...)
	return out, nil
}

// arms are the record's arms by their names in the sheet, and whether they are
// points of a sweep.
func (s *subject) arms() (names []string, swept bool) {
	for name := range s.run.Arms {
		base, _, point := strings.Cut(name, "[")
		swept = swept || point
		if !slices.Contains(names, base) {
			names = append(names, base)
		}
	}
	slices.Sort(names)
	return names, swept
}

// trials are the record's, in the order in which they ran.
func (s *subject) trials() []results.Trial {
	var all []results.Trial
	for _, a := range s.run.Arms {
		all = append(all, a.Trials...)
	}
	slices.SortFunc(all, func(a, b results.Trial) int { return a.Number - b.Number })
	return all
}

// armNames are the record's arms in the sheet's order.
func (s *subject) armNames() []string {
	var names []string
	for name := range s.run.Arms {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := s.run.Arms[a].Position - s.run.Arms[b].Position; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return names
}

// Markdown is the table as it goes under a report.
func (g *Result) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s: %s of %s points, and up to %s by hand\n\n", g.Experiment, number(g.Points), number(g.Of), number(g.ByHand))
	fmt.Fprintf(&b, "- run: %s\n- digest: `%s`\n- seed: %d\n- verdict: %s\n\n", cell(g.Run), g.Digest, g.Seed, g.Verdict)
	for _, t := range g.Tampered {
		fmt.Fprintf(&b, "> **Not as it was measured.** %s\n\n", cell(t))
	}
	b.WriteString("| criterion | points | of | why |\n| --- | --- | --- | --- |\n")
	for _, r := range g.Rows {
		p := ""
		if r.Points != nil {
			p = number(*r.Points)
		}
		fmt.Fprintf(&b, "| %s: %s | %s | %s | %s |\n", r.Name, cell(r.Title), p, number(r.Of), cell(r.Why))
	}
	fmt.Fprintf(&b, "| **sum** | %s | %s | and %s by hand |\n", number(g.Points), number(g.Of), number(g.ByHand))
	return b.String()
}

// RubricTable is the rubric as the manual prints it.
func RubricTable() string {
	var b strings.Builder
	b.WriteString("| criterion | points | how they are given |\n| --- | --- | --- |\n")
	for _, c := range Rubric {
		who := c.How
		if c.check == nil {
			who = "by a person: " + who
		}
		fmt.Fprintf(&b, "| %s: %s | %s | %s |\n", c.Name, cell(c.Title), number(c.Of), cell(who))
	}
	return b.String()
}

// WantedTable says what the criteria table and notes ask for, by experiment.
func WantedTable() string {
	var b strings.Builder
	b.WriteString("| experiment | rows of the table | the notes speak of |\n| --- | --- | --- |\n")
	for _, name := range sorted(wanted) {
		var words []string
		for _, w := range wanted[name].words {
			words = append(words, strings.Join(w, " or "))
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, cell(strings.Join(wanted[name].rows, ", ")), cell(strings.Join(words, "; ")))
	}
	return b.String()
}

func number(f float64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0")
}

// cell makes a text fit for a cell of a Markdown table.
func cell(s string) string {
	return strings.NewReplacer("\n", " ", "|", "\\|", "<", "&lt;", "_", "\\_", "*", "\\*").Replace(s)
}
