//go:build soak

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tcplab/lab"
	"tcplab/results"
)

// bench is one tcplab binary with a place of its own for results and
// temporary folders.
type bench struct {
	bin, results, temp string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{bin: filepath.Join(dir, "tcplab"), results: filepath.Join(dir, "runs"), temp: filepath.Join(dir, "tmp")}
	if err := os.Mkdir(b.temp, 0o777); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-trimpath", "-o", b.bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return b
}

func (b *bench) run(args ...string) (*exec.Cmd, *bytes.Buffer) {
	return b.runOf("churn", args...)
}

func (b *bench) runOf(name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(b.bin, append([]string{"run", name, "--json"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+b.temp, "TCPLAB_RESULTS="+b.results)
	var out bytes.Buffer
	cmd.Stdout = &out
	return cmd, &out
}

// left is everything on the machine that a run could leave behind.
type left struct {
	namespaces, links []string
	processes         []string
	temp, partial     []string
}

func (b *bench) look(t *testing.T) left {
	t.Helper()
	var l left
	ns := map[string]bool{}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if p.Name()[0] < '0' || p.Name()[0] > '9' {
			continue
		}
		if n, err := os.Readlink("/proc/" + p.Name() + "/ns/net"); err == nil {
			ns[n] = true
		}
		// A zombie has no executable any more.
		if exe, err := os.Readlink("/proc/" + p.Name() + "/exe"); err == nil && strings.TrimSuffix(exe, " (deleted)") == b.bin {
			l.processes = append(l.processes, p.Name())
		}
	}
	l.namespaces = slices.Sorted(maps.Keys(ns))
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range links {
		l.links = append(l.links, n.Name())
	}
	if es, err := os.ReadDir(b.temp); err == nil {
		for _, e := range es {
			l.temp = append(l.temp, e.Name())
		}
	}
	l.partial, _ = filepath.Glob(filepath.Join(b.results, "*", "*.partial"))
	return l
}

// settle waits until the process tree of an ended run is gone: the kernel ends
// it, but not before the outer process's exit is seen.
func (b *bench) settle(t *testing.T) left {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		l := b.look(t)
		if len(l.processes) == 0 && len(l.temp) == 0 || time.Now().After(deadline) {
			return l
		}
		time.Sleep(50 * time.Millisecond)
	}
}

type outcome struct{ Record, Verdict, Because string }

// Twenty runs, five of them killed and five interrupted in the middle: nothing
// is left, every record is whole, and an interrupted one says so.
func TestTwentyRunsWithKillsAndInterruptsLeaveNothing(t *testing.T) {
	b := newBench(t)
	before := b.look(t)
	records := 0
	for i := range 20 {
		cmd, out := b.run()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		how := []string{"whole", "SIGKILL", "whole", "SIGINT"}[i%4]
		if how != "whole" {
			// Anywhere in the run, which takes some 28 s: 3 s, 8 s … 23 s.
			time.Sleep(time.Duration(3+5*(i/4)) * time.Second)
			cmd.Process.Signal(map[string]syscall.Signal{"SIGKILL": syscall.SIGKILL, "SIGINT": syscall.SIGINT}[how])
		}
		err := cmd.Wait()
		after := b.settle(t)
		var o outcome
		if how != "SIGKILL" {
			if jerr := json.Unmarshal(out.Bytes(), &o); jerr != nil {
				t.Fatalf("run %d (%s): %v, printed %q", i+1, how, err, out)
			}
			r, lerr := results.Load(o.Record)
			if lerr != nil {
				t.Fatalf("run %d (%s): %v", i+1, how, lerr)
			}
			records++
			if how == "SIGINT" && (r.Verdict != results.Invalid || cmd.ProcessState.ExitCode() != 3) {
				t.Errorf("run %d: interrupted, and its record says %s (%s), exit %d", i+1, r.Verdict, r.Because, cmd.ProcessState.ExitCode())
			}
			if how == "whole" && r.Verdict != results.Pass {
				t.Errorf("run %d: %s: %s", i+1, r.Verdict, r.Because)
			}
		}
		t.Logf("run %2d %-8s %s %s", i+1, how, o.Verdict, o.Because)
		for _, d := range []struct {
			what      string
			had, have []string
		}{{"namespaces", before.namespaces, after.namespaces}, {"links", before.links, after.links}, {"processes", nil, after.processes}, {"temporary folders", nil, after.temp}} {
			if !slices.Equal(d.had, d.have) {
				t.Errorf("run %d (%s): %s: %v, before it %v", i+1, how, d.what, d.have, d.had)
			}
		}
		if how != "SIGKILL" && len(after.partial) > 0 {
			t.Errorf("run %d (%s): half records: %v", i+1, how, after.partial)
		}
	}
	whole, _ := filepath.Glob(filepath.Join(b.results, "churn", "2*", "run.json"))
	if len(whole) != records {
		t.Errorf("%d records, %d were announced", len(whole), records)
	}
}

// keepBusy has a process spin on every core until the test ends.
func keepBusy(t *testing.T) {
	t.Helper()
	for range runtime.NumCPU() {
		hog := exec.Command("sh", "-c", "while :; do :; done")
		if err := hog.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { hog.Process.Kill(); hog.Wait() })
	}
}

// Both cores kept busy by others: one verdict, ten times of ten, but for at
// most two runs that say that they do not count, and why.
func TestTenRunsOnABusyMachineHaveOneVerdict(t *testing.T) {
	b := newBench(t)
	keepBusy(t)
	verdicts := map[string]int{}
	for i := range 10 {
		cmd, out := b.run("--seed", fmt.Sprint(i+1))
		cmd.Run()
		var o outcome
		if err := json.Unmarshal(out.Bytes(), &o); err != nil {
			t.Fatalf("run %d: %v, printed %q", i+1, err, out)
		}
		verdicts[o.Verdict]++
		t.Logf("run %2d %s: %s", i+1, o.Verdict, o.Because)
	}
	if verdicts["invalid"] > 2 || verdicts["pass"]+verdicts["invalid"] != 10 {
		t.Errorf("verdicts: %v", verdicts)
	}
}

// The memory of the whole tree of processes, summed over them each 200 ms,
// stays under 600 MB in full.
func TestFullStaysUnder600MB(t *testing.T) {
	b := newBench(t)
	cmd, out := b.run("--profile", "full")
	started := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	peak := int64(0)
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(200 * time.Millisecond):
			sum := int64(0)
			for _, p := range b.look(t).processes {
				sum += pss(p)
			}
			peak = max(peak, sum)
		}
	}
	var o outcome
	if err := json.Unmarshal(out.Bytes(), &o); err != nil {
		t.Fatalf("%v, printed %q", err, out)
	}
	t.Logf("full: %s (%s) in %v, at most %d MB (proportional set size)", o.Verdict, o.Because, time.Since(started).Round(time.Second), peak>>20)
	if peak > 600<<20 {
		t.Errorf("%d MB", peak>>20)
	}
	if o.Verdict != "pass" {
		t.Errorf("%s: %s", o.Verdict, o.Because)
	}
}

// pss is a process's proportional set size, B: shared pages count once over
// all that share them.
func pss(pid string) int64 {
	data, err := os.ReadFile("/proc/" + pid + "/smaps_rollup")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			var kb int64
			fmt.Sscan(rest, &kb)
			return kb << 10
		}
	}
	return 0
}

// Twenty runs of the quarter-of-an-hour hang in its real magnitude, on idle
// and busy CPUs, as root and as a plain user, from two builds: one digest.
func TestTwentyGuestsAreEqualToTheBit(t *testing.T) {
	users := []*user{guestUser(t, false, "one"), guestUser(t, true, "another-build")}
	digests := map[string]int{}
	for i := range 20 {
		u := users[i%2]
		stop := func() {}
		if i%4 >= 2 {
			stop = busy(t)
		}
		env := []string{"SOMETHING=" + strings.Repeat("x", 1000*i)}
		code, out, errs := u.inGuest(t, env, "run", "hang", "--profile", "full", "--jobs", strconv.Itoa(1+i%3))
		stop()
		if code != lab.ExitPass {
			t.Fatalf("run %d: exit code %d\n%s%s", i+1, code, out, errs)
		}
		r, err := results.Load(filepath.Join(u.dir, "runs", "hang", "latest"))
		if err != nil {
			t.Fatal(err)
		}
		digests[r.Digest]++
		t.Logf("run %d: %s in %.1f s", i+1, r.Digest, r.Took)
	}
	if len(digests) != 1 {
		t.Errorf("digests: %v", digests)
	}
}
