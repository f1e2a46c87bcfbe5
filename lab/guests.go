package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"tcplab/lab/guest"
	"tcplab/lab/sheet"
	"tcplab/lab/trial"
	"tcplab/results"
)

// guestGrace is what a trial in a guest may take beyond its own length, in
// guest time: agents up, the drain, and programs that are slow to end.
const guestGrace = 10 * time.Minute

// inGuests executes each of the plan's trials in a guest of its own, so that
// none depends on what ran before it, as many side by side as there are jobs.
func inGuests(ctx context.Context, p *Plan, opt RunOptions, dir string, r *results.Run) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(abs, "trials"), 0o777); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b := &batch{plan: p, opt: opt, dir: abs, r: r}
	jobs := opt.Jobs
	if jobs <= 0 {
		jobs = guest.CPUs()
	}
	todo := make(chan trial.Planned, len(p.Trials))
	for _, t := range p.Trials {
		todo <- t
	}
	close(todo)
	var wg sync.WaitGroup
	for job := range min(jobs, len(p.Trials)) {
		wg.Go(func() {
			for t := range todo {
				if ctx.Err() != nil {
					return
				}
				if err := b.one(ctx, t, job); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	for name, a := range r.Arms {
		slices.SortFunc(a.Trials, func(x, y results.Trial) int { return x.Number - y.Number })
		r.Arms[name] = a
	}
	if b.wall > 0 {
		r.Environment.Faster = b.guest / b.wall
	}
	r.Environment.Version = opt.Version
	cause := context.Cause(ctx)
	if errors.Is(cause, context.Canceled) {
		return errInterrupted
	}
	return cause
}

// batch is a run's guests.
type batch struct {
	plan *Plan
	opt  RunOptions
	dir  string

	mu          sync.Mutex
	r           *results.Run
	wall, guest float64 // s, over all guests
}

// one executes one trial. A guest that dies makes the trial invalid; the error
// is for what no other trial would survive either.
func (b *batch) one(ctx context.Context, t trial.Planned, job int) error {
	e := b.plan.Experiment
	arm, _ := armOf(e, t.Arm)
	// The resolved sheet is what the record keeps, so that a replay gives the
	// guest the same bytes; and it goes by the same name wherever it lies.
	text, err := sheet.Resolved(e)
	if err != nil {
		return err
	}
	order, err := json.Marshal(trial.Order{Type: "run", File: "sheet.yaml", Text: text, Profile: e.Profile, Kernel: OnGuest,
		Clock: b.plan.how.ran.Clock, Trials: []trial.Planned{t}, Dir: guest.Results})
	if err != nil {
		return err
	}
	g, err := guest.Start(ctx, guest.Options{
		Kernel: b.plan.how.kernel.Path, Worker: trial.EntryPoint, Input: append(order, '\n'), Dir: b.dir,
		Clock: b.plan.how.ran.Clock, Seed: t.Seed, CPU: job, Memory: b.opt.Memory, Stall: b.opt.Stall,
		Deadline: 2*arm.Trial.Length() + guestGrace,
		Line: func(line []byte) {
			var n trial.News
			if json.Unmarshal(line, &n) == nil {
				b.tell(n)
			}
		},
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return &trial.Failure{Code: ExitLacks, Err: err}
	}
	defer g.Close()
	died := g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	whole, _ := g.Took()
	var fatal error
	measured := false
	for _, n := range kept(g.Out) {
		switch n.Type {
		case "environment":
			b.environment(n.Environment, g)
		case "unsupported":
			measured = b.unsupported(n.Unsupported, t.Arm) || measured
		case "trial":
			measured = true
			b.add(*n.Trial, whole)
			b.tell(n)
		case "error":
			if died == nil {
				fatal = &trial.Failure{Code: n.Code, Err: errors.New(n.Text)}
			}
		}
	}
	if fatal != nil {
		return fatal
	}
	if err := b.take(g.Out); err != nil {
		return err
	}
	if !measured {
		if died == nil {
			died = errors.New("the guest ended without a result")
		}
		lost := results.Trial{Number: t.Number, Arm: t.Arm, Pair: t.Pair, Seed: t.Seed,
			Dir: filepath.Join("trials", fmt.Sprintf("%d-%s-%d", t.Number, t.Arm, t.Seed)), Metrics: map[string]results.Quantity{},
			Validity: results.Validity{Reasons: []string{died.Error()}}}
		b.add(lost, whole)
		b.tell(trial.News{Type: "trial", Number: t.Number, Arm: t.Arm, Trial: &lost})
	}
	return nil
}

func (b *batch) tell(n trial.News) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opt.Watch.News(n)
}

func (b *batch) add(t results.Trial, wall time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.guest += t.Took
	b.wall += wall.Seconds()
	a := b.r.Arms[t.Arm]
	a.Trials = append(a.Trials, t)
	b.r.Arms[t.Arm] = a
}

// environment is the guest's own account, with what only the host can say.
func (b *batch) environment(e *results.Environment, g *guest.Guest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.r.Environment.Kernel != "" {
		return
	}
	e.Privilege = "none needed"
	e.CPU, e.CPUs = trial.CPUModel(), 1
	e.GuestKernel, e.NotRepeatable = b.plan.how.kernel.ID, g.NotRepeatable
	if e.Clock == guest.Real {
		e.NotRepeatable = "the clock is real"
	}
	b.r.Environment = *e
}

// unsupported notes what the guest's kernel lacks for an arm; true if it is
// this one.
func (b *batch) unsupported(lacks map[string]string, arm string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	noteUnsupported(b.r, lacks)
	base, _, _ := strings.Cut(arm, "[")
	return lacks[base] != ""
}

// take moves the trial's files into the run's folder.
func (b *batch) take(out string) error {
	made, err := os.ReadDir(filepath.Join(out, "trials"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, d := range made {
		if err := os.Rename(filepath.Join(out, "trials", d.Name()), filepath.Join(b.dir, "trials", d.Name())); err != nil {
			return fmt.Errorf("a trial's files: %w", err)
		}
	}
	return nil
}

// kept is the news that the worker left in its folder.
func kept(out string) []trial.News {
	text, err := os.ReadFile(filepath.Join(out, trial.NewsFile))
	if err != nil {
		return nil
	}
	var all []trial.News
	in := bufio.NewReader(bytes.NewReader(text))
	for {
		line, err := in.ReadBytes('\n')
		var n trial.News
		if json.Unmarshal(line, &n) == nil {
			all = append(all, n)
		}
		if err != nil {
			return all
		}
	}
}
