//go:build soak

package crosscheck

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"sync"
	"testing"

	"tcplab/lab/guest"
	"tcplab/lab/guest/kernel/kerneltest"
	"tcplab/netns/tree"
)

var update = flag.Bool("update", false, "write docs/cross-check.md and its figure")

func onHost(t *testing.T) (Run, error) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tr, err := tree.Start(ctx, Worker, tree.Options{Stderr: t.Output()})
	if err != nil {
		return Run{}, err
	}
	line, err := io.ReadAll(tr.Out())
	return parse(line, errors.Join(err, tr.Wait()))
}

// quietly adds rounds, in up to three goes, until each timer has one in which
// the machine was late by less than a granule: in a later one two kernels would
// agree whatever they do.
func quietly(run func() (Run, error)) (all Run, err error) {
	for range 3 {
		r, err := run()
		if err != nil {
			return all, err
		}
		all.Release, all.HZ = r.Release, r.HZ
		for _, t := range r.Timers {
			for _, round := range t.Rounds {
				all.add(t.Experiment, timing{Round: round, name: t.Name})
			}
		}
		if all.busy() == nil {
			break
		}
	}
	return all, nil
}

// busy names the timers of which the run cannot tell much. A tick's share of a
// millisecond or two is what a look or a turn on the CPU takes.
func (r Run) busy() (all []string) {
	for _, t := range r.Timers {
		if b := t.Best(); b.Late > b.Granule+0.002 {
			all = append(all, fmt.Sprintf("%s, %s: the machine was late by %s", t.Experiment, t.Name, ms(b.Late)))
		}
	}
	return all
}

// kernels are those that must agree.
var kernels = [3]string{"host/real", "guest/real", "guest/virtual"}

func TestHostAndGuestAgree(t *testing.T) {
	kernel, path := kerneltest.Need(t).Path, program(t)
	var runs [3]Run
	var errs [3]error
	var all sync.WaitGroup
	all.Go(func() { runs[0], errs[0] = quietly(func() (Run, error) { return onHost(t) }) })
	all.Go(func() {
		runs[1], errs[1] = quietly(func() (Run, error) { return inGuest(t, kernel, path, guest.Real, 1) })
	})
	all.Go(func() { runs[2], errs[2] = inGuest(t, kernel, path, guest.Virtual, 0) })
	all.Wait()
	quiet := true
	for i, r := range runs {
		if errs[i] != nil {
			t.Fatalf("%s: %v", kernels[i], errs[i])
		}
		for _, s := range r.Unpredicted() {
			t.Errorf("%s: %s", kernels[i], s)
		}
		for _, s := range r.busy() {
			t.Logf("%s tells little: %s", kernels[i], s)
			quiet = false
		}
		for k := range i {
			for _, s := range Disagreements(runs[k], r) {
				t.Errorf("%s and %s: %s", kernels[k], kernels[i], s)
			}
		}
	}
	t.Logf("\n%s", table(runs))
	switch {
	case !*update:
	case !quiet:
		t.Error("the machine is too busy to write a document on it")
	case !t.Failed():
		if err := document(runs); err != nil {
			t.Error(err)
		}
	}
}
