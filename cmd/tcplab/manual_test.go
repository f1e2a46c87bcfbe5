package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"tcplab/lab/grade"
	"tcplab/lab/sheet"
	"tcplab/lab/sheets"
)

const (
	manual  = "../../docs/lab-manual.md"
	answers = "../../docs/lab-answers.md"
)

func document(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// commandsIn are the lines of a document's sh blocks.
func commandsIn(text string) []string {
	var out []string
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(m[1]) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// words of a command line; A='b c' is one.
func shellWords(s string) []string {
	var out []string
	for _, f := range regexp.MustCompile(`(?:'[^']*'|[^ '])+`).FindAllString(s, -1) {
		out = append(out, strings.ReplaceAll(f, "'", ""))
	}
	return out
}

// Names in a handout rot. Each experiment's command is run dry, each other one
// is parsed, and no experiment is left out.
func TestManualCommandsAreTcplabs(t *testing.T) {
	u := newUser(t, false)
	targets := regexp.MustCompile(`(?m)^([a-z]+):`).FindAllStringSubmatch(document(t, "../../Makefile"), -1)
	var named []string
	for _, line := range commandsIn(document(t, manual)) {
		w := shellWords(line)
		var args []string
		switch {
		case w[0] == "make":
			if !slices.ContainsFunc(targets, func(m []string) bool { return m[1] == w[1] }) {
				t.Errorf("%s: make has no %s", line, w[1])
			}
			if w[1] != "experiment" {
				continue
			}
			args = []string{"run"}
			for _, v := range w[2:] {
				name, value, _ := strings.Cut(v, "=")
				switch name {
				case "NAME":
					args = append(args, value)
					named = append(named, value)
				case "PROFILE":
					args = append(args, "--profile", value)
				case "ARGS":
					args = append(args, strings.Fields(value)...)
				default:
					t.Errorf("%s: make experiment knows no %s", line, name)
				}
			}
		case w[0] == "bin/tcplab":
			args = w[1:]
		default:
			t.Errorf("%q is no command of tcplab's", line)
			continue
		}
		if args[0] == "run" {
			if out, err := u.command(append(args, "--dry-run")...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			continue
		}
		var c cli
		helped := false
		parser, err := kong.New(&c, kong.Exit(func(int) { helped = true }), kong.Writers(new(strings.Builder), new(strings.Builder)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(args); err != nil && !helped {
			t.Errorf("%s: %v", line, err)
		}
	}
	for _, name := range sheets.All() {
		if !slices.Contains(named, name) {
			t.Errorf("the manual does not run %s", name)
		}
	}
}

// section is a part of a document about experiments: its heading's first word.
type section struct {
	title, text string
	questions   int
}

var heading = regexp.MustCompile(`(?m)^##+ (?:[0-9]+\. )?([a-z-]+)(?::.*)?$`)

func sections(text string) []section {
	var out []section
	at := heading.FindAllStringSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if next := regexp.MustCompile(`(?m)^## `).FindStringIndex(text[m[1]:]); next != nil {
			end = m[1] + next[0]
		}
		if i+1 < len(at) {
			end = min(end, at[i+1][0])
		}
		s := section{title: text[m[2]:m[3]], text: text[m[1]:end]}
		for n := 1; strings.Contains(s.text, fmt.Sprintf("\n%d. ", n)); n++ {
			s.questions = n
		}
		out = append(out, s)
	}
	return out
}

// experimentsOf a section: by name, or all whose name begins with it.
func experimentsOf(title string) []string {
	var out []string
	for _, name := range sheets.All() {
		if name == title || strings.HasPrefix(name, title+"-") {
			out = append(out, name)
		}
	}
	return out
}

var backticked = regexp.MustCompile("`([a-z][a-z0-9_]*)`")

// Every question has an answer, and what is named in both is in the sheets.
func TestEveryQuestionHasAnAnswer(t *testing.T) {
	asked, answered := sections(document(t, manual)), sections(document(t, answers))
	if len(asked) < 12 {
		t.Fatalf("only %d experiments are asked about", len(asked))
	}
	for i, q := range asked {
		if i >= len(answered) || answered[i].title != q.title || answered[i].questions != q.questions {
			t.Fatalf("%s: %d questions; the answers there are %+v", q.title, q.questions, answered[min(i, len(answered)-1)])
		}
		if q.questions < 3 || q.questions > 6 {
			t.Errorf("%s has %d questions", q.title, q.questions)
		}
		known := map[string]bool{}
		for _, name := range experimentsOf(q.title) {
			text, _ := sheets.Text(name)
			for _, profile := range []string{"quick", "full"} {
				e, err := sheet.Parse(name+".yaml", text, sheet.Options{Profile: profile})
				if err != nil {
					t.Fatal(err)
				}
				known[name] = true
				for _, a := range e.Arms {
					known[a.Name] = true
				}
				for _, v := range e.Evidence {
					known[v.Name] = true
				}
				for _, p := range e.Predict {
					known[p.Name] = true
				}
				for _, x := range e.Expect {
					known[x.Name] = true
				}
			}
		}
		if len(known) == 0 {
			t.Errorf("there is no experiment %s", q.title)
		}
		for _, m := range backticked.FindAllStringSubmatch(q.text+answered[i].text, -1) {
			if !known[m[1]] && !strings.HasPrefix(m[1], "tcp_") && m[1] != "nstat" && m[1] != "ss" {
				t.Errorf("%s speaks of `%s`, which its sheet does not have", q.title, m[1])
			}
		}
	}
}

// The manual prints the rubric as the program has it.
func TestManualHasTheRubric(t *testing.T) {
	text := document(t, manual)
	for mark, table := range map[string]string{"rubric": grade.RubricTable(), "wanted": grade.WantedTable()} {
		begin, end := "<!-- "+mark+" -->\n", "<!-- end of "+mark+" -->\n"
		before, rest, ok := strings.Cut(text, begin)
		is, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("the manual has no place for %s", mark)
		}
		if is != table {
			if !*update {
				t.Errorf("the manual's %s is not the program's: go test ./cmd/tcplab -run Rubric -update", mark)
			}
			text = before + begin + table + end + after
		}
	}
	if *update {
		if err := os.WriteFile(manual, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
