package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tcplab/lab"
)

const runbook = "../../docs/runbook.md"

// asked is a command of the runbook in one lab, and what must be seen there.
type asked struct {
	lab, host string
	command   string
	line      int // in the document
	expect    []*regexp.Regexp
	not       []*regexp.Regexp
	nothing   bool
	sample    *[2]int // lines of its output in the document, without the fences
}

var labComment = regexp.MustCompile(`^<!-- lab: (\S+ \S+@\S+) on (\S+); (.*?) ?-->$`)

// readRunbook takes the commands out of a runbook. A command without a lab is
// an error, and so is one in running text that no block has.
func readRunbook(text string) ([]asked, error) {
	lines := strings.Split(text, "\n")
	var all []asked
	var due []asked // comments before the next block
	var last []asked
	for i := 0; i < len(lines); i++ {
		l := strings.TrimSpace(lines[i])
		switch {
		case strings.HasPrefix(l, "<!--"):
			m := labComment.FindStringSubmatch(l)
			if m == nil {
				return nil, fmt.Errorf("line %d: a comment that names no lab: write <!-- lab: SHEET ARM@TIME on HOST; expect: REGEXP -->", i+1)
			}
			a := asked{lab: m[1], host: m[2]}
			for _, p := range strings.Split(m[3], "; ") {
				var err error
				var re *regexp.Regexp
				if rest, ok := strings.CutPrefix(p, "expect: "); ok {
					re, err = regexp.Compile("(?m)" + rest)
					a.expect = append(a.expect, re)
				} else if rest, ok := strings.CutPrefix(p, "not: "); ok {
					re, err = regexp.Compile("(?m)" + rest)
					a.not = append(a.not, re)
				} else if p == "expect nothing" {
					a.nothing = true
				} else {
					err = fmt.Errorf("%q is none of `expect: REGEXP`, `not: REGEXP` and `expect nothing`", p)
				}
				if err != nil {
					return nil, fmt.Errorf("line %d: %w", i+1, err)
				}
			}
			due = append(due, a)
		case strings.HasPrefix(l, "```"):
			end := i + 1
			for end < len(lines) && strings.TrimSpace(lines[end]) != "```" {
				end++
			}
			if end == len(lines) {
				return nil, fmt.Errorf("line %d: a block without an end", i+1)
			}
			switch l {
			case "```sh":
				if len(due) == 0 {
					return nil, fmt.Errorf("line %d: a command without a lab", i+1)
				}
				indent := len(lines[i]) - len(strings.TrimLeft(lines[i], " "))
				var cmd []string
				for _, c := range lines[i+1 : end] {
					cmd = append(cmd, c[min(indent, len(c)):])
				}
				last = nil
				for j := range due {
					due[j].command, due[j].line = strings.Join(cmd, "\n"), i+1
				}
				all = append(all, due...)
				last, due = all[len(all)-len(due):], nil
			case "```text":
				if len(last) == 0 {
					return nil, fmt.Errorf("line %d: an output without its command, or one more than it has labs", i+1)
				}
				last[0].sample = &[2]int{i + 1, end}
				last = last[1:]
			default:
				return nil, fmt.Errorf("line %d: a block must be ```sh or, below it, ```text", i+1)
			}
			i = end
		default:
			if len(due) > 0 && l != "" {
				return nil, fmt.Errorf("line %d: a lab without a command", i+1)
			}
		}
	}
	for _, m := range regexp.MustCompile("`((?:ss|nstat|sysctl|cat|awk|ip) [^`]*)`").FindAllStringSubmatch(text, -1) {
		if !slices.ContainsFunc(all, func(a asked) bool { return strings.Contains(a.command, m[1]) }) && !excused[m[1]] {
			return nil, fmt.Errorf("`%s` stands in the text, and no block with a lab has it", m[1])
		}
	}
	return all, nil
}

// excused are mentions that are no command to run as it stands.
var excused = map[string]bool{"ss -K": true}

// A runbook that is wrong is worse than none: every command in it is run in a
// lab with the fault that it is for, and in one without.
func TestRunbookCommandsShowWhatTheRunbookSays(t *testing.T) {
	text, err := os.ReadFile(runbook)
	if err != nil {
		t.Fatal(err)
	}
	all, err := readRunbook(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d commands", len(all))
	}
	u := newUser(t, true)
	var labs []string
	for _, a := range all {
		if !slices.Contains(labs, a.lab) {
			labs = append(labs, a.lab)
		}
	}
	// All labs come up side by side; they stay as they are until they are asked.
	held := map[string]*heldLab{}
	for i, name := range labs {
		held[name] = u.startLab(t, i, name)
	}
	outputs := map[int]string{} // line of the output → what its command said in its lab
	// Who is there first is asked first.
	slices.SortStableFunc(labs, func(a, b string) int { return cmp.Compare(momentOf(a), momentOf(b)) })
	for _, name := range labs {
		t.Run(name, func(t *testing.T) {
			l := held[name]
			l.run.until(t, "msg=held")
			for _, a := range all {
				if a.lab == name {
					out := l.ask(t, a)
					if a.sample != nil {
						outputs[a.sample[0]] = out
					}
				}
			}
		})
	}
	for _, name := range labs {
		held[name].run.Process.Signal(os.Interrupt)
	}
	for _, name := range labs {
		if code := held[name].run.end(t); code != lab.ExitInvalid { // held in the middle, it cannot count
			t.Errorf("%s: exit code %d", name, code)
		}
	}
	for i := range labs {
		// What a lab leaves in its own folder keeps it from being removed.
		if err := os.Remove(filepath.Join(u.dir, "tmp", fmt.Sprint(i))); err != nil {
			t.Error(err)
		}
	}
	u.nothingLeft(t)
	if *update && !t.Failed() {
		if err := os.WriteFile(runbook, []byte(withOutputs(string(text), all, outputs)), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	// The outputs that are printed show what is claimed of them, too.
	lines := strings.Split(string(text), "\n")
	for _, a := range all {
		if a.sample != nil {
			var out []string
			for _, l := range lines[a.sample[0]:a.sample[1]] {
				out = append(out, strings.TrimSpace(l))
			}
			if why := a.missing(strings.Join(out, "\n")); why != "" {
				t.Errorf("line %d: the output in the document %s", a.line, why)
			}
		}
	}
}

// withOutputs puts what the commands said into the document.
func withOutputs(text string, all []asked, outputs map[int]string) string {
	lines := strings.Split(text, "\n")
	for _, a := range slices.Backward(all) {
		if a.sample == nil {
			continue
		}
		fence := lines[a.sample[0]-1]
		indent := fence[:len(fence)-len(strings.TrimLeft(fence, " "))]
		var out []string
		for l := range strings.SplitSeq(strings.TrimRight(outputs[a.sample[0]], "\n"), "\n") {
			out = append(out, strings.TrimRight(indent+l, " "))
		}
		lines = slices.Replace(lines, a.sample[0], a.sample[1], out...)
	}
	return strings.Join(lines, "\n")
}

// missing says what of the expectations an output does not show.
func (a asked) missing(out string) string {
	if a.nothing && strings.TrimSpace(out) != "" {
		return "is not empty"
	}
	for _, re := range a.expect {
		if !re.MatchString(strings.TrimSpace(out) + "\n") {
			return "does not show " + strings.TrimPrefix(re.String(), "(?m)")
		}
	}
	for _, re := range a.not {
		if re.MatchString(out) {
			return "shows " + strings.TrimPrefix(re.String(), "(?m)")
		}
	}
	return ""
}

// momentOf is when a lab is held, of `SHEET ARM@TIME`.
func momentOf(lab string) time.Duration {
	_, at, _ := strings.Cut(lab, "@")
	d, _ := time.ParseDuration(at)
	return d
}

// heldLab is a lab that stands at a moment, with its load going on.
type heldLab struct {
	u    *user
	temp string
	run  *started
}

// startLab starts `SHEET ARM@TIME`, whose load goes on once it is there.
func (u *user) startLab(t *testing.T, number int, name string) *heldLab {
	t.Helper()
	what, moment, _ := strings.Cut(name, " ")
	arm, _, _ := strings.Cut(moment, "@")
	file, text, err := sheetOf(what)
	if err != nil {
		t.Fatal(err)
	}
	set, err := lab.Patient{File: file, Text: text, Arm: arm}.Lasting()
	if err != nil {
		t.Fatal(err)
	}
	l := &heldLab{u: u, temp: filepath.Join(u.dir, "tmp", fmt.Sprint(number))}
	if err := errors.Join(os.Mkdir(l.temp, 0o777), os.Chmod(l.temp, 0o777)); err != nil { // whatever the umask says
		t.Fatal(err)
	}
	args := []string{"run", what, "--kernel=host", "--profile=quick", "--only=" + arm, "--hold-at=" + moment, "--json"}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	l.run = u.startWith(t, l.temp, args...)
	return l
}

// ask runs a command until it shows what it should, for a while: a busy
// machine's lab may be behind its schedule.
func (l *heldLab) ask(t *testing.T, a asked) string {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		cmd := l.u.command("enter", a.host, "--", "sh", "-c", a.command)
		cmd.Env = append(cmd.Env, "TMPDIR="+l.temp, "NSTAT_HISTORY="+filepath.Join(l.u.dir, "nstat"))
		out, err := cmd.Output()
		why := a.missing(string(out))
		if err != nil {
			why = err.Error()
		}
		if why == "" {
			return string(out)
		}
		if time.Now().After(deadline) {
			t.Errorf("docs/runbook.md:%d on %s: %s: %s\n%s\n%s", a.line, a.host, a.lab, why, a.command, out)
			return string(out)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// What the reader of a runbook must not meet is found when it is read.
func TestARunbookCommandWithoutALabIsAnError(t *testing.T) {
	good := "<!-- lab: churn pooled@1s on client; expect: ESTAB; not: CLOSE -->\n```sh\nss -tan\n```\n```text\nESTAB 0\n```\n"
	all, err := readRunbook(good)
	if err != nil || len(all) != 1 || all[0].command != "ss -tan" || all[0].lab != "churn pooled@1s" || all[0].host != "client" || all[0].sample == nil {
		t.Fatalf("%+v, %v", all, err)
	}
	for text, says := range map[string]string{
		"```sh\nss -s\n```\n":                       "line 1: a command without a lab",
		"<!-- a note -->\n":                         "names no lab",
		good + "```sh\nss -s\n```\n":                "line 8: a command without a lab",
		"<!-- lab: a b@1s on c; expect: ( -->\n":    "line 1: error parsing regexp",
		"<!-- lab: a b@1s on c; perhaps -->\n":      "none of",
		"<!-- lab: a b@1s on c; expect: x -->\nyes": "line 2: a lab without a command",
		good + "or `ss -s`":                         "`ss -s` stands in the text",
		"```text\nx\n```":                           "an output without its command",
		"```sh\nss":                                 "without an end",
		"```yaml\nx\n```":                           "must be ```sh",
	} {
		if _, err := readRunbook(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, and not %q", text, err, says)
		}
	}
	a := all[0]
	if a.missing("ESTAB") != "" || !strings.Contains(a.missing("TIME"), "does not show ESTAB") || !strings.Contains(a.missing("ESTAB CLOSE"), "shows CLOSE") {
		t.Error("expectations are not held against the output")
	}
}
