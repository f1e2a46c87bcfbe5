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

	var s sleepers
	if !w.Virtual {
		var err error
		if s, err = startSleepers(r.HZ); err != nil {
			s.end()
			return err
		}
	}
	timed, errs := make([][rounds][]timing, len(experiments)), make([][rounds]error, len(experiments))
	var running sync.WaitGroup
	for i, e := range experiments {
		for n := range rounds {
			running.Go(func() {
				if errs[i][n] = clock.SleepUntil(ctx, clock.Now()+int64(n)*int64(stagger)); errs[i][n] == nil {
					timed[i][n], errs[i][n] = e.time(r.HZ)
				}
			})
		}
	}
	running.Wait()
	s.end()
	for i, e := range experiments {
		if err := errors.Join(errs[i][:]...); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		for _, round := range timed[i] {
			for _, t := range round {
				t.Took = clock.Seconds(t.from, t.to)
				if t.Late == 0 { // not known to the experiment itself
					t.Late = max(s.late(t.from), s.late(t.to))
					t.Skew = s.skew()
				}
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
// long: what the machine has the timers of one CPU wait for its tick and its
// softirqs, and every thread there for its turn. It sleeps on a timer of the
// wheel, as TCP does: a socket's receive timeout is one, unlike nanosleep.
type sleeper struct {
	hz    int
	fd    [2]int
	wakes []int64
	ended chan struct{}
}

// near is how far from an event sleeps tell of it.
const near = 25 * time.Millisecond

// startSleepers starts one on each CPU that this process may use.
func startSleepers(hz int) (all sleepers, err error) {
	var mine unix.CPUSet
	if err := unix.SchedGetaffinity(0, &mine); err != nil {
		return nil, err
	}
	for cpu, left := 0, mine.Count(); left > 0; cpu++ {
		if !mine.IsSet(cpu) {
			continue
		}
		left--
		s := &sleeper{hz: hz, ended: make(chan struct{})}
		if s.fd, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return all, err
		}
		all = append(all, s)
		go s.run(cpu)
	}
	return all, nil
}

// run sleeps for one tick, which takes two: the one that it begins in does not
// count, and it begins with the end of a sleep.
func (s *sleeper) run(cpu int) {
	defer close(s.ended)
	runtime.LockOSThread() // for ever: the thread has one CPU now, and ends
	var one unix.CPUSet
	one.Set(cpu)
	tick := unix.NsecToTimeval(1e9 / int64(s.hz))
	if unix.SchedSetaffinity(0, &one) != nil || unix.SetsockoptTimeval(s.fd[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tick) != nil {
		return
	}
	for buf := make([]byte, 1); ; {
		n, _, err := unix.Recvfrom(s.fd[0], buf, 0)
		switch {
		case n > 0:
			return
		case errors.Is(err, unix.EAGAIN):
			s.wakes = append(s.wakes, clock.Now())
		case !errors.Is(err, unix.EINTR):
			return
		}
	}
}

// late is by how much a sleep near an instant was too long at worst, s.
func (s *sleeper) late(at int64) (worst float64) {
	for i := 1; i < len(s.wakes); i++ {
		if from, to := s.wakes[i-1], s.wakes[i]; from-int64(near) <= at && at <= to+int64(near) {
			worst = max(worst, clock.Seconds(from, to)-2/float64(s.hz))
		}
	}
	return worst
}

// sleepers are those of all CPUs; none on the virtual clock, which stands still
// while anything waits for a CPU.
type sleepers []*sleeper

// end ends them once they have slept past the last event.
func (all sleepers) end() {
	time.Sleep(near)
	for _, s := range all {
		_, _ = unix.Write(s.fd[1], []byte{0})
		<-s.ended
		unix.Close(s.fd[0])
		unix.Close(s.fd[1])
	}
}

func (all sleepers) skew() float64 {
	if len(all) < 2 {
		return 0
	}
	return 1 / float64(all[0].hz)
}

func (all sleepers) late(at int64) (worst float64) {
	for _, s := range all {
		worst = max(worst, s.late(at))
	}
	return worst
}
