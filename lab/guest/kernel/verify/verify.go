// Package verify boots the guest kernel and tries what labs need of it.
//
// It does not ask what a kernel was configured with, but lets it do the thing:
// an hour's sleep, a frame released at its time, a lossy transfer through
// connection tracking, a socket destroyed. Each boot repeats all of it, and
// the boots' accounts must not differ in a nanosecond, unless the seed does.
package verify

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tcplab/lab/guest"
	"tcplab/lab/guest/kernel"
)

// Worker is the entry point that runs in the guest; Work is registered for it.
const Worker = "kernel-verify"

// Check is one thing that was tried.
type Check struct {
	What string `json:"what"`
	// Failed is why it does not work, "" if it does.
	Failed string `json:"failed,omitempty"`
	// Unknown: this machine does not allow to find out, for the reason in Said.
	Unknown bool   `json:"unknown,omitempty"`
	Said    string `json:"said,omitempty"`
}

// deadline ends a guest that hangs, in its own time.
const deadline = 3 * time.Hour

// Run boots k three times below dir and returns what works. An error is a
// kernel that cannot be booted at all.
func Run(ctx context.Context, k kernel.Kernel, dir string) ([]Check, error) {
	b, err := kernel.Verify(k)
	if err != nil {
		return nil, err
	}
	whole := Check{What: "file", Said: fmt.Sprintf("Linux %s, %s", k.Version, k.ID)}
	if b.SHA256 == "" {
		whole.Said += ", of your own: nothing to compare it with"
	}
	first, err := boot(ctx, k, dir, 1, 0)
	if err != nil {
		return nil, err
	}
	again, err := boot(ctx, k, dir, 1, 1)
	if err != nil {
		return nil, err
	}
	other, err := boot(ctx, k, dir, 2, 0)
	if err != nil {
		return nil, err
	}
	start := Check{What: "boot", Said: fmt.Sprintf("to the first line in %v; all checks in %v of wall time, %v of its own",
		first.toFirst.Round(time.Millisecond), first.took.Round(time.Millisecond), first.guestTime().Round(time.Second))}
	return append(append([]Check{whole, start}, first.checks...), equality(first, again, other)), nil
}

// account is all that one boot said.
type account struct {
	checks        []Check
	lines         [][]byte
	took, toFirst time.Duration
	notRepeatable string
}

func (a account) digest() string {
	h := sha256.New()
	for _, l := range a.lines {
		h.Write(l)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:6])
}

func (a account) guestTime() time.Duration {
	var last struct{ At time.Duration }
	if n := len(a.lines); n > 0 {
		_ = json.Unmarshal(a.lines[n-1], &last)
	}
	return last.At
}

// equality compares two boots with one seed, on two CPUs where there are, and a
// third with another: a digest that never changes would prove nothing.
func equality(first, again, other account) Check {
	c := Check{What: "equal to the bit"}
	switch {
	case first.notRepeatable != "":
		c.Unknown, c.Said = true, first.notRepeatable
	case first.digest() != again.digest():
		c.Failed = "two boots with the same seed differ: " + difference(first, again)
	case first.digest() == other.digest():
		c.Failed = "another seed gives the same run"
	default:
		c.Said = fmt.Sprintf("two boots %s; with another seed %s", first.digest(), other.digest())
	}
	return c
}

func difference(a, b account) string {
	for i := range min(len(a.lines), len(b.lines)) {
		if string(a.lines[i]) != string(b.lines[i]) {
			return fmt.Sprintf("%s, then %s", a.lines[i], b.lines[i])
		}
	}
	return fmt.Sprintf("%d lines, then %d", len(a.lines), len(b.lines))
}

func boot(ctx context.Context, k kernel.Kernel, dir string, seed uint64, cpu int) (account, error) {
	var a account
	g, err := guest.Start(ctx, guest.Options{
		Kernel: k.Path, Worker: Worker, Dir: dir, Clock: guest.Virtual, Seed: seed, CPU: cpu, Deadline: deadline,
		Line: func(b []byte) { a.lines = append(a.lines, append([]byte(nil), b...)) },
	})
	if err != nil {
		return a, err
	}
	err = errors.Join(g.Wait(), g.Close())
	if err != nil {
		return a, err
	}
	a.took, a.toFirst = g.Took()
	a.notRepeatable = g.NotRepeatable
	for _, l := range a.lines {
		var s said
		if err := json.Unmarshal(l, &s); err != nil {
			return a, fmt.Errorf("the guest said %q: %w", l, err)
		}
		if s.What != "" {
			a.checks = append(a.checks, s.Check)
		}
	}
	if len(a.checks) != len(tries) {
		return a, fmt.Errorf("the guest ended after %d of %d checks", len(a.checks), len(tries))
	}
	return a, nil
}

// said is a line of the guest's.
type said struct {
	Check
	At time.Duration // since its boot
}
