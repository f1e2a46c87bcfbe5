// Package lab is what an experiment is: it plans a sheet, has its trials
// executed, judges what came back and keeps the record.
//
// The process that calls it stays outside: it draws progress, hears the user's
// Ctrl-C and writes the record, while everything that touches the network
// happens in a process tree of its own, which dies with it. Whatever happens
// there, what was measured becomes a record; a record that may not count says
// so and why.
package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"tcplab/lab/sheet"
	"tcplab/lab/trial"
	"tcplab/netns/tree"
	"tcplab/plots"
	"tcplab/results"
)

// Exit codes of run and compare.
const (
	ExitPass         = 0
	ExitFail         = 1
	ExitUsage        = 2
	ExitInvalid      = 3
	ExitInconclusive = 4
	ExitLacks        = 5
)

// Error is an error with the exit code that it means.
type Error struct {
	Code int
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// ExitCode is what a verdict exits with.
func ExitCode(v results.Verdict) int {
	switch v {
	case results.Pass:
		return ExitPass
	case results.Fail:
		return ExitFail
	case results.Inconclusive:
		return ExitInconclusive
	}
	return ExitInvalid
}

// RunOptions is what a run is asked for.
type RunOptions struct {
	File    string // the sheet's name, for errors and the record
	Text    []byte
	Profile string        // "" is quick; full where the sheet asks for the virtual clock and gets it
	Kernel  string        // host | guest; "" is what the sheet needs
	Clock   string        // real | virtual; "" is what the sheet asks for
	Only    []string      // the arms to run; nil is all
	Sweep   bool          // the sweep's points instead of the sheet's own values
	Jobs    int           // guests side by side; 0 is one for each CPU
	Memory  int           // of a guest, MiB; 0 is guest.DefaultMemory
	Stall   time.Duration // a guest that says nothing for so long is ended; 0 is guest.Start's
	Set     []string
	Seed    uint64
	Pairs   int // trials of each arm; 0 is what the sheet says
	Hold    *trial.Hold
	Release <-chan struct{} // the user lets a held lab go
	Results string          // root of the records
	Command []string
	Version string
	Watch   Watcher
	Stderr  io.Writer

	// Traces gives a trace's text by its name; nil: the lab's own.
	Traces func(name string) ([]byte, error)
}

// Watcher hears how a run goes on.
type Watcher interface {
	Plan(p *Plan)
	News(n trial.News)
	Close()
}

// Decode parses the sheet and plans the run, without starting anything.
func Decode(opt RunOptions) (*Plan, error) {
	e, h, err := decode(opt)
	if err != nil {
		return nil, err
	}
	if opt.Sweep && len(e.Sweep) == 0 {
		return nil, &Error{ExitUsage, fmt.Errorf("%s sweeps nothing: leave --sweep out, or write sweep: {PATH: [VALUES]} in its sheet", e.Name)}
	}
	p, err := NewPlan(e, opt.Seed, pairs(opt.Pairs, e, opt.Sweep), opt.Sweep)
	if err != nil {
		return nil, &Error{ExitUsage, err}
	}
	p.how = h
	if text := h.fellBack(); text != "" {
		p.Warnings = append(p.Warnings, results.Warning{About: "clock", Text: text})
	}
	return p, nil
}

// Run executes the experiment, and leaves a record even when it is cut short
// by ctx. It returns the record and the folder that has it.
func Run(ctx context.Context, opt RunOptions) (*results.Run, string, error) {
	plan, err := Decode(opt)
	if err != nil {
		return nil, "", err
	}
	if missing := plan.Experiment.NotBuilt(); len(missing) > 0 {
		return nil, "", &Error{ExitLacks, fmt.Errorf("%s cannot run yet: %s", plan.Experiment.Name, strings.Join(missing, "; "))}
	}
	started := time.Now()
	folder, err := results.NewFolder(opt.Results, plan.Experiment.Name, started)
	if err != nil {
		return nil, "", &Error{ExitLacks, err}
	}
	if err := room(folder.Path, plan); err != nil {
		folder.Discard()
		return nil, "", &Error{ExitLacks, err}
	}
	r, err := newRecord(plan, opt, started)
	if err != nil {
		folder.Discard()
		return nil, "", err
	}
	opt.Watch.Plan(plan)
	run := execute
	if plan.how.ran.Kernel == OnGuest {
		run = inGuests
	}
	cut := run(ctx, plan, opt, folder.Path, r)
	opt.Watch.Close()
	var f *trial.Failure
	if cut == nil && measuredTrials(r) == 0 {
		var lack []string
		for name, a := range r.Arms {
			lack = append(lack, name+" ("+a.Unsupported+")")
		}
		slices.Sort(lack)
		cut = &trial.Failure{Code: ExitLacks, Err: fmt.Errorf("no arm can run on this machine: %s", strings.Join(lack, ", "))}
	}
	if cut != nil && measuredTrials(r) == 0 && ctx.Err() == nil {
		folder.Discard()
		if errors.As(cut, &f) {
			return nil, "", &Error{f.Code, f.Err}
		}
		return nil, "", &Error{ExitLacks, cut}
	}
	r.Took = time.Since(started).Seconds()
	if err := conclude(r, plan, folder.Path, cut); err != nil {
		return nil, "", err
	}
	dir, err := keep(folder, r, opt.Results)
	if err != nil {
		return r, dir, &Error{ExitInvalid, err}
	}
	return r, dir, nil
}

// perTrial is how much room a trial's files may need, in bytes: the capture is
// bounded at 8 MB, the rest is small.
const perTrial = 16 << 20

// room refuses a run whose files would not fit.
func room(dir string, p *Plan) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("results folder: %w", err)
	}
	free := st.Bavail * uint64(st.Bsize)
	if need := uint64(len(p.Trials)) * perTrial; free < need {
		return fmt.Errorf("the disk with %s has %d MB free and this run may need %d MB: make room (tcplab prune --keep 3), or name another with --results DIR", filepath.Dir(dir), free>>20, need>>20)
	}
	return nil
}

func newRecord(p *Plan, opt RunOptions, started time.Time) (*results.Run, error) {
	e := p.Experiment
	resolved, err := sheet.Resolved(e)
	if err != nil {
		return nil, fmt.Errorf("resolved sheet: %w", err)
	}
	r := &results.Run{
		Schema: results.Schema, Experiment: e.Name, Question: e.Question, Started: started.UTC(),
		Asked: p.how.asked, Ran: p.how.ran, Command: opt.Command, Sheet: string(resolved),
		Seeds: results.Seeds{Run: p.Seed, Pairs: p.Pairs}, Predictions: p.Predictions,
		Arms: map[string]results.Arm{}, Numbers: map[string]results.Quantity{},
		Evidence: map[string]results.Evidence{}, Triage: map[string]results.TriageRow{},
		Expectations: map[string]results.Expectation{}, Warnings: p.Warnings,
	}
	at, err := p.places(opt)
	if err != nil {
		return nil, err
	}
	for i, name := range p.arms() {
		a, _ := armOf(e, name)
		arm := results.Arm{Position: i, Baseline: a.Baseline, Costs: a.Costs, Levers: map[string]results.Lever{}, Metrics: map[string]results.Metric{}}
		for _, l := range a.Levers {
			arm.Levers[l.Path] = results.Lever{From: l.From, To: l.To, Why: l.Why}
		}
		arm.Point, arm.Numbers = at[name].point, at[name].numbers
		r.Arms[name] = arm
	}
	for name, v := range e.Arms[0].Numbers {
		if !v.Missing {
			r.Numbers[name] = results.Quantity{Value: v.V, Unit: v.Unit.String()}
		}
	}
	for i, ev := range e.Evidence {
		if ev.NotAsked == "" {
			r.Evidence[ev.Name] = results.Evidence{Position: i, Arm: ev.Capture, Show: ev.Show, Title: ev.Title}
		}
	}
	for i, t := range e.Triage {
		if t.NotAsked == "" {
			r.Triage[fmt.Sprintf("%s on %s", t.Arm, t.On)] = results.TriageRow{Position: i, Arm: t.Arm, On: t.On, At: t.At.String(), Truth: t.Finds}
		}
	}
	return r, nil
}

// execute has the plan's trials executed in a process tree of their own and
// puts them into the record. The error is why there are not all of them.
func execute(ctx context.Context, p *Plan, opt RunOptions, dir string, r *results.Run) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	// The tree outlives ctx by the time it needs to hand over what it has.
	t, err := tree.Start(context.WithoutCancel(ctx), trial.EntryPoint, tree.Options{Stderr: opt.Stderr})
	if err != nil {
		return err
	}
	defer t.Wait()
	defer t.In().Close()
	send := func(o trial.Order) {
		if line, err := json.Marshal(o); err == nil {
			t.In().Write(append(line, '\n'))
		}
	}
	send(trial.Order{Type: "run", File: opt.File, Text: opt.Text, Profile: p.Experiment.Profile, Kernel: "host",
		Traces: p.Experiment.Traces, Set: opt.Set, Trials: p.Trials, Dir: abs, Hold: opt.Hold})

	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case <-opt.Release:
				send(trial.Order{Type: "release"})
			case <-ctx.Done():
				send(trial.Order{Type: "stop"})
				select {
				case <-time.After(20 * time.Second):
					t.Kill() // it hangs
				case <-ended:
				}
				return
			case <-ended:
				return
			}
		}
	}()

	news := bufio.NewReaderSize(t.Out(), 64<<10)
	for {
		line, err := news.ReadBytes('\n')
		if err != nil {
			t.In().Close()
			if werr := t.Wait(); werr != nil {
				return werr
			}
			return errors.New("the lab ended in the middle of the run")
		}
		var n trial.News
		if err := json.Unmarshal(line, &n); err != nil {
			return fmt.Errorf("news from the lab: %w", err)
		}
		switch n.Type {
		case "environment":
			r.Environment = *n.Environment
			r.Environment.Version = opt.Version
		case "unsupported":
			noteUnsupported(r, n.Unsupported)
		case "trial":
			a := r.Arms[n.Arm]
			a.Trials = append(a.Trials, *n.Trial)
			r.Arms[n.Arm] = a
		case "error":
			return &trial.Failure{Code: n.Code, Err: errors.New(n.Text)}
		case "done":
			if ctx.Err() != nil {
				return errInterrupted
			}
			return nil
		}
		opt.Watch.News(n)
	}
}

// noteUnsupported notes what the kernel lacks for arms of the run.
func noteUnsupported(r *results.Run, lacks map[string]string) {
	for name, a := range r.Arms {
		base, _, _ := strings.Cut(name, "[")
		if a.Unsupported = lacks[base]; a.Unsupported != "" {
			r.Arms[name] = a
		}
	}
}

var errInterrupted = errors.New("interrupted by the user")

func measuredTrials(r *results.Run) int {
	n := 0
	for _, a := range r.Arms {
		n += len(a.Trials)
	}
	return n
}

// conclude summarises, judges, and fills the write-up in.
func conclude(r *results.Run, p *Plan, dir string, cut error) error {
	var all []results.Trial
	for _, t := range p.Trials {
		for _, x := range r.Arms[t.Arm].Trials {
			if x.Number == t.Number {
				all = append(all, x)
			}
		}
	}
	nameAbsentErrors(r)
	shareFates(r, dir)
	for name, a := range r.Arms {
		a.Summarise()
		r.Arms[name] = a
	}
	r.FillFound()
	r.Digest = results.Digest(all)
	for name, ev := range r.Evidence {
		for _, t := range r.Arms[ev.Arm].Trials {
			if _, ok := t.Ladders[name]; ok && ev.Trial == 0 {
				ev.Trial, ev.File = t.Number, filepath.Join(t.Dir, results.CaptureFile)
			}
		}
		r.Evidence[name] = ev
	}
	if err := Judge(r, p.Experiment); err != nil {
		return err
	}
	r.Writeup = fillIn(p.Experiment.Writeup, p.Experiment, r)
	if cut != nil {
		r.Verdict, r.Because = results.Invalid, cut.Error()
	}
	return nil
}

// nameAbsentErrors gives every client a 0 for each class of error that occurred
// elsewhere in the run: it was looked for, and never seen.
func nameAbsentErrors(r *results.Run) {
	seen := map[string]bool{}
	for _, a := range r.Arms {
		for _, t := range a.Trials {
			for k := range t.Metrics {
				if _, class, ok := strings.Cut(k, ".errors."); ok {
					seen["errors."+class] = true
				}
			}
		}
	}
	for _, a := range r.Arms {
		for _, t := range a.Trials {
			for k := range t.Metrics {
				owner, ok := strings.CutSuffix(k, ".requests.failed")
				if !ok {
					continue
				}
				for metric := range seen {
					if key := results.Key(owner, metric, ""); t.Metrics[key] == (results.Quantity{}) {
						t.Metrics[key] = results.Quantity{Unit: "1"}
					}
				}
			}
		}
	}
}

// keep writes the record and its report, and gives the folder its name. On a
// disk that is full by now the record goes to the temporary folder instead.
func keep(folder *results.Folder, r *results.Run, root string) (string, error) {
	notes := carryNotes(folder, root, r.Experiment)
	err := results.Save(folder.Path, r)
	if err == nil {
		err = plots.Report(folder.Path, r, notes)
	}
	if err == nil {
		return folder.Commit()
	}
	saved, serr := salvage(folder, r, notes)
	if serr != nil {
		return "", fmt.Errorf("the record could not be written: %w; nor elsewhere: %w", err, serr)
	}
	return saved, fmt.Errorf("the record could not be written to %s: %w; what was measured is in %s", root, err, saved)
}

// carryNotes copies the notes of the latest run: they are the user's own words
// about the experiment, and a new run must not lose them.
func carryNotes(folder *results.Folder, root, experiment string) string {
	notes, err := os.ReadFile(filepath.Join(root, experiment, "latest", "notes.md"))
	if err != nil {
		return ""
	}
	if results.WriteFile(filepath.Join(folder.Path, "notes.md"), notes) != nil {
		return ""
	}
	return string(notes)
}

// salvage moves what was measured out of a folder that can take no more.
func salvage(folder *results.Folder, r *results.Run, notes string) (string, error) {
	dir, err := os.MkdirTemp("", "tcplab-saved-"+r.Experiment+"-")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(filepath.Join(dir, "trials"), os.DirFS(filepath.Join(folder.Path, "trials"))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := results.Save(dir, r); err != nil {
		return "", err
	}
	folder.Discard()
	return dir, plots.Report(dir, r, notes)
}

// Redraw draws the report of a record again, with the user's notes in it.
func Redraw(root, what string) (*results.Run, string, error) {
	dir, err := results.Find(root, what)
	if err != nil {
		return nil, "", &Error{ExitUsage, err}
	}
	r, err := results.Load(dir)
	if err != nil {
		return nil, "", &Error{ExitUsage, err}
	}
	notes, err := os.ReadFile(filepath.Join(dir, "notes.md"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, "", err
	}
	if err := plots.Report(dir, r, string(notes)); err != nil {
		return nil, "", fmt.Errorf("report: %w", err)
	}
	return r, dir, nil
}

// pairs is how many trials each arm has: as asked, or as the sheet says. A
// sweep has its points, and one trial at each unless more are asked for.
func pairs(asked int, e *sheet.Experiment, sweep bool) int {
	switch {
	case asked > 0:
		return asked
	case sweep:
		return 1
	}
	n := 1
	for _, a := range e.Arms {
		n = max(n, a.Trial.Pairs)
	}
	return n
}
