package grade

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tcplab/lab"
	"tcplab/lab/sheet"
	"tcplab/results"
)

// tamper notes what is not as it was measured.
func (s *subject) tamper(format string, args ...any) {
	s.tampered = append(s.tampered, fmt.Sprintf(format, args...))
}

func recordIsWhole(s *subject) (float64, string) {
	files, before := 0, len(s.tampered)
	for _, t := range s.trials() {
		for _, f := range t.Files {
			files++
			name := filepath.Join(t.Dir, f.Name)
			if !filepath.IsLocal(name) {
				s.tamper("%s lies outside of the run's folder", name)
				continue
			}
			now, err := results.DigestFile(filepath.Join(s.dir, t.Dir), f.Name)
			switch {
			case errors.Is(err, os.ErrNotExist):
				s.tamper("%s is missing", name)
			case err != nil:
				s.tamper("%s cannot be read: %v", name, err)
			case now.SHA256 != f.SHA256:
				s.tamper("%s was changed: its digest is %.12s… and the record says %.12s…", name, now.SHA256, f.SHA256)
			}
		}
	}
	if d := results.Digest(s.trials()); d != s.run.Digest {
		s.tamper("run.json was changed: the digest of its trials is %.19s… and it says %.19s…", d, s.run.Digest)
	}
	if bad := s.tampered[before:]; len(bad) > 0 {
		return 0, strings.Join(bad, "; ")
	}
	if files == 0 {
		return 0, "no trial left a file"
	}
	return 1, fmt.Sprintf("%d files have their digests", files)
}

// conclusionsFollow summarises and judges again, and reads the percentiles
// again from the histograms, whose digests are known to be right.
func conclusionsFollow(s *subject) (float64, string) {
	if s.expErr != nil {
		return 0, fmt.Sprintf("they cannot be judged again: this tcplab does not read the record's sheet: %v (the record is of tcplab %s)", s.expErr, s.run.Environment.Version)
	}
	before := len(s.tampered)
	again, err := copyOf(s.run)
	if err != nil {
		return 0, err.Error()
	}
	for _, name := range s.armNames() {
		a, was := again.Arms[name], s.run.Arms[name]
		a.Summarise()
		again.Arms[name] = a
		for _, k := range sorted(was.Metrics) {
			if now, ok := a.Metrics[k]; !ok || !same(now.Value, was.Metrics[k].Value) {
				s.tamper("arm %s: %s is %v in the table, and %v by its trials", name, k, was.Metrics[k].Value, now.Value)
				break
			}
		}
	}
	if err := lab.Judge(again, s.exp); err != nil {
		s.tamper("the claims cannot be judged again: %v", err)
	}
	for _, k := range sorted(s.run.Expectations) {
		if was, now := s.run.Expectations[k], again.Expectations[k]; was.Holds != now.Holds || was.That != now.That {
			s.tamper("expectation %s: the record says %q, and its trials say %q", k, was.Holds, now.Holds)
		}
	}
	for _, k := range sorted(again.Expectations) {
		if _, ok := s.run.Expectations[k]; !ok {
			s.tamper("expectation %s is missing from the record", k)
		}
	}
	for _, k := range sorted(s.run.Predictions) {
		if was, now := s.run.Predictions[k], again.Predictions[k]; was.Holds != now.Holds {
			s.tamper("prediction %s: the record says %q, and its trials say %q", k, was.Holds, now.Holds)
		}
	}
	if s.run.Verdict != again.Verdict && s.run.Verdict != results.Invalid {
		s.tamper("the record says %s, and its trials say %s", s.run.Verdict, again.Verdict)
	}
	read := 0
	for _, t := range s.trials() {
		n, why := s.histograms(t)
		read += n
		if why != "" {
			s.tamper("%s", why)
		}
	}
	if bad := s.tampered[before:]; len(bad) > 0 {
		return 0, strings.Join(bad, "; ")
	}
	return 1, fmt.Sprintf("%d claims judged again with the same results; %d percentiles read again", len(again.Expectations)+len(again.Predictions), read)
}

// histograms holds a trial's percentiles against its histograms; the number is
// how many were.
func (s *subject) histograms(t results.Trial) (n int, why string) {
	if !filepath.IsLocal(t.Dir) {
		return 0, "" // told already
	}
	f, err := os.Open(filepath.Join(s.dir, t.Dir, results.HistogramFile))
	if err != nil {
		return 0, "" // there is none, or it is missing, which is told already
	}
	defer f.Close()
	hs, err := results.ReadHistograms(f)
	if err != nil {
		return 0, fmt.Sprintf("%s: %v", filepath.Join(t.Dir, results.HistogramFile), err)
	}
	for _, name := range sorted(hs) {
		for _, q := range []float64{50, 90, 99} {
			key := fmt.Sprintf("%s.p%g", name, q)
			m, ok := t.Metrics[key]
			if !ok {
				continue
			}
			if v, ok := results.Quantile(hs[name], q/100); !ok || !same(v, m.Value) {
				return n, fmt.Sprintf("trial %d: %s is %v in the record, and %v by its histogram", t.Number, key, m.Value, v)
			}
			n++
		}
	}
	return n, ""
}

// sheetIsOurs compares the canonical sheets, line by line, but for what triage
// should find: nothing that was measured depends on it.
func sheetIsOurs(s *subject) (float64, string) {
	text, ok := s.ours(s.run.Experiment)
	if !ok {
		return 0, fmt.Sprintf("tcplab has no experiment %s: it is a sheet of the student's own", s.run.Experiment)
	}
	set := setOf(s.run.Command)
	only, swept := s.arms()
	e, err := sheet.Parse(s.run.Experiment+".yaml", text, sheet.Options{Profile: s.run.Ran.Profile, Set: set, Kernel: s.run.Ran.Kernel, Clock: s.run.Ran.Clock, Only: only, Sweep: swept})
	if err != nil {
		return 0, fmt.Sprintf("tcplab's own sheet does not decode as the run had it: %v", err)
	}
	ours, err := sheet.Resolved(e)
	if err != nil {
		return 0, err.Error()
	}
	if line, was, is := firstDifference(withoutTriage(s.run.Sheet), withoutTriage(string(ours))); line > 0 {
		return 0, fmt.Sprintf("line %d of the resolved sheet is %q, and tcplab's is %q (the record is of tcplab %s)", line, was, is, s.run.Environment.Version)
	}
	if len(set) > 0 {
		return 1, "as tcplab has it, with " + strings.Join(set, ", ")
	}
	return 1, "as tcplab has it"
}

func withoutTriage(sheet string) string {
	var keep []string
	in := false
	for line := range strings.SplitSeq(sheet, "\n") {
		if line != "" && line[0] != ' ' {
			in = strings.HasPrefix(line, "triage:")
		}
		if !in {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "\n")
}

// setOf are the values of --set on a command line.
func setOf(command []string) []string {
	var set []string
	for i, a := range command {
		if v, ok := strings.CutPrefix(a, "--set="); ok {
			set = append(set, v)
		} else if a == "--set" && i+1 < len(command) {
			set = append(set, command[i+1])
		}
	}
	return set
}

func firstDifference(a, b string) (line int, was, is string) {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range max(len(x), len(y)) {
		was, is = "", ""
		if i < len(x) {
			was = strings.TrimSpace(x[i])
		}
		if i < len(y) {
			is = strings.TrimSpace(y[i])
		}
		if was != is {
			return i + 1, was, is
		}
	}
	return 0, "", ""
}

func seedIsOwn(s *subject) (float64, string) {
	if s.run.Seeds.Run == 1 {
		return 0, "seed 1 is everybody's: run it with ARGS='--seed random', or with a number of your own"
	}
	return 1, fmt.Sprintf("seed %d", s.run.Seeds.Run)
}

// tally counts, of what was asked for, what holds, with why the rest does not.
type tally struct {
	asked, held int
	why         []string
}

func (t *tally) yes() { t.asked++; t.held++ }

func (t *tally) no(why string) {
	t.asked++
	t.why = append(t.why, why)
}

// claim takes an expectation or a prediction; what was not asked, or not
// reached, does not count.
func (t *tally) claim(name string, holds results.Holds) {
	switch holds {
	case results.NotAsked, results.NotReached:
	case results.HoldsYes:
		t.yes()
	default:
		t.no(name + ": " + string(holds))
	}
}

// score is the share that holds, in words too: format begins with the two
// counts.
func (t *tally) score(format string, more ...any) (float64, string) {
	return share(t.held, t.asked), joined(fmt.Sprintf(format, append([]any{t.held, t.asked}, more...)...), t.why)
}

func trialsCount(s *subject) (float64, string) {
	var t tally
	for _, one := range s.trials() {
		if one.Validity.Valid {
			t.yes()
		} else {
			t.no(fmt.Sprintf("trial %d (%s) does not: %s", one.Number, one.Arm, strings.Join(one.Validity.Reasons, ", ")))
		}
	}
	if t.asked == 0 {
		return 0, "no trial was measured"
	}
	return t.score("%d of %d trials count")
}

// sameLoad compares what was offered a second, arm by arm and client by
// client, with the baseline. A closed loop offers what it is answered, and a
// trial that an event ends has as many requests as came before it: there it is
// the sheet's word that counts, which has no lever on the load.
func sameLoad(s *subject) (float64, string) {
	var base string
	for _, name := range s.armNames() {
		if s.run.Arms[name].Baseline && (base == "" || len(s.run.Arms[base].Trials) == 0) {
			base = name
		}
	}
	if base == "" || len(s.run.Arms[base].Trials) == 0 {
		return 0, "the baseline was not measured"
	}
	var t tally
	var left []string
	for _, name := range s.armNames() {
		a := s.run.Arms[name]
		if name == base || len(a.Trials) == 0 {
			continue
		}
		if l := loadLever(a); l != "" {
			left = append(left, fmt.Sprintf("%s (%s)", name, l))
			continue
		}
		if diff := s.differs(s.run.Arms[base], a); diff != "" && !s.endsWithAnEvent(base) && !s.endsWithAnEvent(name) {
			t.no(name + ": " + diff)
		} else {
			t.yes()
		}
	}
	if len(left) > 0 {
		t.why = append(t.why, "left out, their lever being the load: "+strings.Join(left, ", "))
	}
	if t.asked == 0 {
		return 1, joined("no arm has to be compared", t.why)
	}
	return t.score("%d of %d arms had %s's load", base)
}

// loadLever is the lever of an arm that changes what is offered, or "".
func loadLever(a results.Arm) string {
	for _, l := range sorted(a.Levers) {
		if strings.Contains(l, ".workload.") {
			return l
		}
	}
	return ""
}

// differs says how an arm's offered load is another than the baseline's.
func (s *subject) differs(base, a results.Arm) string {
	b, t := base.Trials[0], a.Trials[0]
	for _, k := range sorted(b.Metrics) {
		client, ok := strings.CutSuffix(k, ".requests.offered")
		if !ok || b.Duration <= 0 || t.Duration <= 0 || s.closedLoop(client) {
			continue
		}
		if l, changed := a.Levers["clients."+client]; changed && l.To == "" {
			continue // the arm does without that client, and says so
		}
		was := b.Metrics[k].Value / b.Duration
		now, ok := t.Metrics[k]
		if !ok {
			return client + " was offered nothing that was counted"
		}
		if is := now.Value / t.Duration; math.Abs(is-was) > 0.02*was {
			return fmt.Sprintf("%s was offered %.4g/s, and in the baseline %.4g/s", client, is, was)
		}
	}
	return ""
}

// endsWithAnEvent says whether an arm's trial lasts until something happens.
func (s *subject) endsWithAnEvent(arm string) bool {
	base, _, _ := strings.Cut(arm, "[")
	return s.exp != nil && slices.ContainsFunc(s.exp.Arms, func(a sheet.Arm) bool { return a.Name == base && a.Trial.Until != "" })
}

// closedLoop says whether a client waits for each answer before it goes on.
func (s *subject) closedLoop(client string) bool {
	if s.exp == nil {
		return false
	}
	for _, a := range s.exp.Arms {
		for _, c := range a.Clients {
			if c.Name == client && c.Workload.Rate == 0 {
				return true
			}
		}
	}
	return false
}

func tableHasRows(s *subject) (float64, string) {
	rows := wanted[s.run.Experiment].rows
	if len(rows) == 0 {
		return 1, "this experiment asks for none in particular"
	}
	var t tally
	for _, row := range rows {
		var lack []string
		for _, name := range s.armNames() {
			if a := s.run.Arms[name]; len(a.Trials) > 0 && !hasMetric(a, row) {
				lack = append(lack, name)
			}
		}
		if len(lack) == 0 {
			t.yes()
		} else {
			t.no(fmt.Sprintf("%s is missing in %s", row, strings.Join(lack, ", ")))
		}
	}
	return t.score("%d of %d rows: %s", strings.Join(rows, ", "))
}

// hasMetric says whether anything in an arm has the metric; a class of errors
// that never occurred is 0.
func hasMetric(a results.Arm, name string) bool {
	for k := range a.Metrics {
		if strings.HasSuffix(k, "."+name) || strings.Contains(k, "."+name+"@") ||
			strings.HasPrefix(name, "errors.") && strings.HasSuffix(k, ".requests.failed") {
			return true
		}
	}
	return false
}

func claimsHold(s *subject) (float64, string) {
	var t tally
	for _, k := range sorted(s.run.Expectations) {
		t.claim(k, s.run.Expectations[k].Holds)
	}
	if t.asked == 0 {
		return 0, "nothing was claimed of the arms that ran"
	}
	return t.score("%d of %d hold")
}

func predictionsHold(s *subject) (float64, string) {
	var t tally
	for _, k := range sorted(s.run.Predictions) {
		if p := s.run.Predictions[k]; p.Within != "" {
			t.claim(k, p.Holds)
		}
	}
	if t.asked == 0 {
		return 1, "none with a tolerance was asked"
	}
	return t.score("%d of %d are within their tolerance")
}

func packetsShown(s *subject) (float64, string) {
	var t tally
	for _, k := range sorted(s.run.Evidence) {
		ev := s.run.Evidence[k]
		if len(s.run.Arms[ev.Arm].Trials) == 0 {
			continue
		}
		found := false
		for _, one := range s.run.Arms[ev.Arm].Trials {
			_, err := os.Stat(filepath.Join(s.dir, one.Dir, results.CaptureFile))
			found = found || err == nil && len(one.Ladders[k].Events) > 0
		}
		if found {
			t.yes()
		} else {
			t.no(fmt.Sprintf("%s (%s in %s) has no ladder or no capture", k, ev.Show, ev.Arm))
		}
	}
	if t.asked == 0 {
		return 0, "no evidence was asked for"
	}
	return t.score("%d of %d")
}

func settingsJustified(s *subject) (float64, string) {
	var t tally
	for _, name := range s.armNames() {
		a := s.run.Arms[name]
		for _, k := range sorted(a.Levers) {
			if !strings.Contains(k, "sysctl") && !strings.HasPrefix(k, "kernel.") {
				continue
			}
			if a.Levers[k].Why != "" {
				t.yes()
			} else {
				t.no(fmt.Sprintf("%s: %s has no reason", name, k))
			}
		}
	}
	if t.asked == 0 {
		return 1, "no arm changes a kernel setting"
	}
	return t.score("%d of %d")
}

func notesAreThere(s *subject) (float64, string) {
	if strings.TrimSpace(s.notes) == "" {
		return 0, "there is no notes.md beside run.json"
	}
	n := ownWords(s.notes, s.run.Writeup)
	got := math.Min(1, float64(n)/leastWords)
	why := []string{fmt.Sprintf("%d words of the student's own (of %d)", n, leastWords)}
	words := wanted[s.run.Experiment].words
	spoken := 0
	for _, w := range words {
		if slices.ContainsFunc(w, func(one string) bool { return strings.Contains(strings.ToLower(s.notes), strings.ToLower(one)) }) {
			spoken++
		} else {
			why = append(why, "nothing about "+strings.Join(w, " or "))
		}
	}
	about := 1.0
	if len(words) > 0 {
		about = share(spoken, len(words))
	}
	return (4*got + 2*about*math.Min(1, 2*got)) / 6, strings.Join(why, "; ")
}

// ownWords counts the words of notes but for lines that the write-up has too,
// and what stands between code fences.
func ownWords(notes, writeup string) int {
	n, fenced := 0, false
	for line := range strings.SplitSeq(notes, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
			continue
		}
		if fenced {
			continue
		}
		for sentence := range strings.SplitSeq(line, ". ") {
			if w := strings.Fields(sentence); len(w) > 0 && (len(w) < 5 || !strings.Contains(writeup, strings.TrimSuffix(sentence, "."))) {
				n += len(w)
			}
		}
	}
	return n
}

func share(n, of int) float64 { return float64(n) / float64(of) }

func joined(what string, why []string) string {
	return strings.Join(append([]string{what}, why...), "; ")
}

func sorted[T any](m map[string]T) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func same(a, b float64) bool {
	return a == b || math.Abs(a-b) <= 1e-9*math.Max(math.Abs(a), math.Abs(b))
}

func copyOf(r *results.Run) (*results.Run, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	var c results.Run
	return &c, json.Unmarshal(data, &c)
}
