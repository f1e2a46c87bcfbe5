package crosscheck

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tcplab/lab/guest"
	"tcplab/lab/guest/kernel/kerneltest"
	"tcplab/netns/tree"
)

func TestMain(m *testing.M) {
	tree.Register(Worker, Work)
	tree.Main()
	goleak.VerifyTestMain(m)
}

// limit is for a kernel whose timer never fires.
const limit = 3 * time.Minute

// inGuest starts the guest's program, which is linked statically as a
// race-enabled test binary is not.
func inGuest(t *testing.T, kernel, program, clock string, cpu int) (Run, error) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var line []byte
	g, err := guest.Start(ctx, guest.Options{
		Kernel: kernel, Init: program, Worker: Worker, Dir: t.TempDir(), Clock: clock, Seed: 1, CPU: cpu, Deadline: limit,
		Line: func(b []byte) { line = append(line, b...) },
	})
	if err != nil {
		return Run{}, err
	}
	err = errors.Join(g.Wait(), g.Close())
	return parse(line, err)
}

func parse(line []byte, err error) (r Run, _ error) {
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(line, &r)
}

func program(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "worker")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "./testdata/worker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

func TestVirtualClockIsAsPredictedAndRepeatsToTheNanosecond(t *testing.T) {
	kernel, path := kerneltest.Need(t).Path, program(t)
	var runs [2]Run
	for i := range runs {
		var err error
		if runs[i], err = inGuest(t, kernel, path, guest.Virtual, i); err != nil {
			t.Fatal(err)
		}
	}
	if len(runs[0].Timers) != 11 {
		t.Errorf("%d timers", len(runs[0].Timers))
	}
	for _, s := range runs[0].Unpredicted() {
		t.Error(s)
	}
	if !reflect.DeepEqual(runs[0], runs[1]) {
		t.Errorf("once\n%+v\nand then\n%+v", runs[0], runs[1])
	}
}

// wheel is a run with one timer on the wheel.
func wheel(name string, nominal, granule, took, late float64) Run {
	return Run{Timers: []Timer{{Experiment: "test", Name: name, Rounds: []Round{{Nominal: nominal, Granule: granule, Took: took, Late: late}}}}}
}

func TestTimersThatDifferByMoreThanAGranuleAreNamed(t *testing.T) {
	for _, c := range []struct {
		what  string
		a, b  Run
		agree bool
	}{
		{"at both ends of the bucket", wheel("t", 1, 0.032, 1, 0), wheel("t", 1, 0.032, 1.032, 0), true},
		{"a tick further", wheel("t", 1, 0.032, 1, 0), wheel("t", 1, 0.032, 1.036, 0), false},
		{"a tick further, on a machine that was late", wheel("t", 1, 0.032, 1, 0), wheel("t", 1, 0.032, 1.036, 0.01), true},
		{"ticks of 4 and of 10 ms, each in its own bucket", wheel("t", 0.204, 0.004, 0.208, 0), wheel("t", 0.21, 0.01, 0.22, 0), true},
		{"another timer", wheel("t", 1, 0.032, 1, 0), wheel("u", 1, 0.032, 1, 0), false},
		{"no timer", wheel("t", 1, 0.032, 1, 0), Run{}, false},
	} {
		for _, pair := range [][2]Run{{c.a, c.b}, {c.b, c.a}} {
			if got := Disagreements(pair[0], pair[1]); (len(got) == 0) != c.agree {
				t.Errorf("%s: %q", c.what, got)
			}
		}
	}
}

func TestTimerOutsideOfItsPredictionIsNamed(t *testing.T) {
	for _, c := range []struct {
		what string
		run  Run
		as   bool
	}{
		{"early", wheel("t", 1, 0.032, 0.996, 0), false},
		{"in its bucket", wheel("t", 1, 0.032, 1.03, 0), true},
		{"late", wheel("t", 1, 0.032, 1.036, 0.001), false},
		{"late with the machine", wheel("t", 1, 0.032, 1.036, 0.004), true},
	} {
		if got := c.run.Unpredicted(); (len(got) == 0) != c.as {
			t.Errorf("%s: %q", c.what, got)
		}
	}
}

func TestBestRoundIsTheOneOnTheQuietestMachine(t *testing.T) {
	for want, rounds := range map[float64][]Round{
		3: {{Took: 9, Late: 0.2}, {Took: 3, Late: 0.1}, {Took: 5, Late: 0.3}},
		9: {{Took: 9}, {Took: 3}, {Took: 5}},
	} {
		if got := (Timer{Rounds: rounds}).Best().Took; got != want {
			t.Errorf("of %v it takes %v", rounds, got)
		}
	}
}
