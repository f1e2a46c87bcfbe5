package crosscheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
	"tcplab/netns/tree"
)

// Worker is the name under which Work is to be registered.
const Worker = "crosscheck"

// A round begins a little after the one before, at another place in the wheel.
const (
	rounds  = 3
	stagger = 170 * time.Millisecond
)

// Work times all experiments, side by side, and writes a Run as one line.
func Work(ctx context.Context, w tree.Worker) error {
	r := Run{HZ: clock.HZ()}
	if r.HZ == 0 {
		return errors.New("this kernel does not tell its HZ")
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	r.Release = unix.ByteSliceToString(u.Release[:])

	s := sleeper{done: make(chan struct{}), ended: make(chan struct{})}
	go s.run(w.Virtual)
	timed, errs := make([][rounds][]timing, len(experiments)), make([][rounds]error, len(experiments))
	var all sync.WaitGroup
	for i, e := range experiments {
		for n := range rounds {
			all.Go(func() {
				if errs[i][n] = clock.SleepUntil(ctx, clock.Now()+int64(n)*int64(stagger)); errs[i][n] == nil {
					timed[i][n], errs[i][n] = e.time(r.HZ)
				}
			})
		}
	}
	all.Wait()
	s.end()
	for i, e := range experiments {
		if err := errors.Join(errs[i][:]...); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		for _, round := range timed[i] {
			for _, t := range round {
				t.Took = clock.Seconds(t.from, t.to)
				t.Late += max(s.late(t.from), s.late(t.to))
				r.add(e.name, t)
			}
		}
	}
	return json.NewEncoder(w.Out).Encode(r)
}

// add adds a round of a timer.
func (r *Run) add(experiment string, t timing) {
	for i, known := range r.Timers {
		if known.Experiment == experiment && known.Name == t.name {
			r.Timers[i].Rounds = append(known.Rounds, t.Round)
			return
		}
	}
	r.Timers = append(r.Timers, Timer{experiment, t.name, []Round{t.Round}})
}

// A sleeper sleeps again and again, and knows by how much each sleep was too
// long: what the machine has every thread wait for a CPU, and every kernel
// timer for its interrupt.
type sleeper struct {
	done, ended chan struct{}
	sleeps      []sleep
}

type sleep struct{ due, woke int64 }

const (
	nap  = 5 * time.Millisecond
	near = 5 * nap // how far from an event sleeps tell of it
)

// run ends with done. The virtual clock stands still while a thread waits for a
// CPU: there is nothing to know.
func (s *sleeper) run(virtual bool) {
	defer close(s.ended)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for !virtual {
		select {
		case <-s.done:
			return
		default:
		}
		due := clock.Now() + int64(nap)
		at := unix.NsecToTimespec(due)
		if err := unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &at, nil); err == nil {
			s.sleeps = append(s.sleeps, sleep{due, clock.Now()})
		}
	}
}

// end ends the sleeper once it has slept past the last event.
func (s *sleeper) end() {
	time.Sleep(near)
	close(s.done)
	<-s.ended
}

// late is how late a sleep near an instant was at worst, s.
func (s *sleeper) late(at int64) (worst float64) {
	for _, z := range s.sleeps {
		if z.due-int64(near) <= at && at <= z.woke+int64(near) {
			worst = max(worst, clock.Seconds(z.due, z.woke))
		}
	}
	return worst
}
