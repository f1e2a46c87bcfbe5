package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tcplab/lab"
	"tcplab/lab/guest/kernel/kerneltest"
	"tcplab/results"
)

const guestSheet = `
experiment: small
question: Is it the same again?
clock: virtual
hosts: {client: {}, server: {}}
wire: {delay: 5ms, jitter: 1ms, loss: 2%, reorder: 1%}
server: {kind: echo}
client: {reuse: none}
workload: {kind: requests, rate: 50/s, connections: 16, size: 2000B}
trial: {warmup: 1s, duration: 10s}
arms:
  per_request: {baseline: true}
  pooled: {client: {reuse: pool, pool: {size: 16}}, why: {client.reuse: "no handshake"}}
expect:
  faster: {that: pooled.latency.p50 < per_request.latency.p50}
`

// built is a tcplab as users have it, linked statically. The version goes into
// the binary: another one is another build of the same sources.
func built(t *testing.T, version string) string {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	if builds.dir == "" {
		dir, err := os.MkdirTemp("", "tcplab-build-")
		if err != nil {
			t.Fatal(err)
		}
		builds.dir = dir
	}
	path := filepath.Join(builds.dir, "tcplab-"+version)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-X main.version="+version, "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

var builds struct {
	sync.Mutex
	dir string
}

// guestUser is somebody with a static tcplab and a guest kernel that they can
// read.
func guestUser(t *testing.T, plain bool, version string) *user {
	t.Helper()
	k := kerneltest.Need(t)
	u := newUser(t, plain)
	for name, from := range map[string]string{"tcplab": built(t, version), "linux": k.Path} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(u.dir, name), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

func (u *user) guestSheet(t *testing.T) string {
	t.Helper()
	name := filepath.Join(u.dir, "small.yaml")
	if err := os.WriteFile(name, []byte(guestSheet), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// inGuest runs tcplab with the user's kernel.
func (u *user) inGuest(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := u.command(args...)
	cmd.Env = append(cmd.Env, "TCPLAB_KERNEL="+filepath.Join(u.dir, "linux"))
	cmd.Env = append(cmd.Env, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	code, aerr := strconv.Atoi(exitCodeOf(err))
	if aerr != nil {
		t.Fatal(err)
	}
	return code, out.String(), errs.String()
}

func exitCodeOf(err error) string {
	if err == nil {
		return "0"
	}
	return exitCode(err)
}

// once runs the small sheet, and returns what it left.
func (u *user) once(t *testing.T, env []string, args ...string) *results.Run {
	t.Helper()
	code, out, errs := u.inGuest(t, env, append([]string{"run", u.guestSheet(t)}, args...)...)
	if code != lab.ExitPass {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	r := u.latest(t)
	if r.Environment.NotRepeatable != "" {
		t.Fatalf("not repeatable here: %s", r.Environment.NotRepeatable)
	}
	return r
}

// What must not matter does not: to the bit.
func TestRunsOnTheVirtualClockAreEqualToTheBit(t *testing.T) {
	root := guestUser(t, false, "one")
	first := root.once(t, nil)
	if first.Environment.Clock != "virtual" || first.Environment.KernelPlace != "guest" || first.Environment.Faster <= 1 {
		t.Errorf("environment %+v", first.Environment)
	}
	if first.Ran.Profile != "full" || first.Asked != first.Ran {
		t.Errorf("asked %+v, ran %+v", first.Asked, first.Ran)
	}
	same := func(what string, r *results.Run) {
		t.Helper()
		if r.Digest != first.Digest {
			t.Errorf("%s: digest %s, not %s", what, r.Digest, first.Digest)
		}
	}
	same("one after the other", root.once(t, nil, "--jobs", "1"))
	same("three side by side", root.once(t, []string{"SOMETHING=" + strings.Repeat("x", 60_000)}, "--jobs", "3"))

	plain := guestUser(t, true, "another-build")
	stop := busy(t)
	same("a plain user's own build in another folder, on busy CPUs", plain.once(t, []string{"LANG=de_DE.UTF-8"}))
	stop()

	code, out, errs := plain.inGuest(t, nil, "replay", "small")
	if code != lab.ExitPass || !strings.HasPrefix(out, "identical: 2 trials") {
		t.Errorf("replay: exit code %d\n%s%s", code, out, errs)
	}
	other := root.once(t, nil, "--seed", "2")
	if other.Digest == first.Digest {
		t.Error("another seed, and the same digest")
	}
	root.nothingLeft(t)
	plain.nothingLeft(t)
}

// busy keeps all CPUs busy until stop is called.
func busy(t *testing.T) (stop func()) {
	t.Helper()
	var all []*exec.Cmd
	for range 2 {
		cmd := exec.Command("sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			for _, c := range all {
				c.Process.Kill()
				c.Wait()
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func TestReplayOfARecordThatWasTamperedWithNamesTheFirstPacket(t *testing.T) {
	u := guestUser(t, false, "one")
	u.once(t, nil)
	path := filepath.Join(u.dir, "runs", "small", "latest", "run.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(text, []byte("2000B"), []byte("2001B"), 1)
	if bytes.Equal(text, changed) {
		t.Fatal("the resolved sheet has no size")
	}
	if err := os.WriteFile(path, changed, 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, _ := u.inGuest(t, nil, "replay", "small")
	if code != lab.ExitFail {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"different:", "capture.pcapng: entry ", "record ", "now ", "both "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestPairsOnTheVirtualClockHaveDifferentSeedsAndDigests(t *testing.T) {
	u := guestUser(t, false, "one")
	r := u.once(t, nil, "--pairs", "3")
	seen := map[string]bool{}
	for _, x := range r.Arms["per_request"].Trials {
		for _, f := range x.Files {
			if f.Name == results.CaptureFile {
				seen[f.SHA256] = true
			}
		}
	}
	if len(seen) != 3 {
		t.Errorf("%d different captures of 3", len(seen))
	}
}

// A program of the user's that spins stops the guest's time for all.
func TestProgramThatSpinsInAGuestMakesTheTrialInvalid(t *testing.T) {
	u := guestUser(t, false, "one")
	name := filepath.Join(u.dir, "small.yaml")
	text := strings.Replace(guestSheet, "client: {reuse: none}", `client: {exec: {argv: [sh, -c, "while :; do :; done"], events: true}}`, 1)
	text = strings.Replace(text, "  pooled: {client: {reuse: pool, pool: {size: 16}}, why: {client.reuse: \"no handshake\"}}\n", "", 1)
	text = strings.Replace(text, "pooled.latency.p50 < per_request.latency.p50", "per_request.requests.failed == 0", 1)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, errs := u.inGuest(t, nil, "run", name, "--stall", "2s")
	if code != lab.ExitInvalid || !strings.Contains(out, "spins") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	u.nothingLeft(t)
}

func TestKilledTcplabTakesItsGuestsAlong(t *testing.T) {
	u := guestUser(t, false, "one")
	name := filepath.Join(u.dir, "small.yaml")
	// Long enough in wall time: thousands of requests a second.
	long := strings.NewReplacer("50/s", "2000/s", "duration: 10s", "duration: 600s", "loss: 2%, reorder: 1%", "loss: 0").Replace(guestSheet)
	if err := os.WriteFile(name, []byte(long), 0o644); err != nil {
		t.Fatal(err)
	}
	s := u.startIn(t, "run", name)
	s.until(t, "measuring")
	if err := s.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.end(t)
	u.noProcess(t)
	// The next run sweeps what the killed one could not remove.
	u.once(t, nil)
	left, err := filepath.Glob(filepath.Join(u.dir, "runs", "small", ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func (u *user) startIn(t *testing.T, args ...string) *started {
	t.Helper()
	t.Setenv("TCPLAB_KERNEL", filepath.Join(u.dir, "linux"))
	return u.start(t, args...)
}

// noProcess waits until nothing of the user's runs, its guest kernels included:
// they are the file linux in the user's folder.
func (u *user) noProcess(t *testing.T) {
	t.Helper()
	waitFor(t, func() error {
		if left := u.processes(t); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
}

func TestWithoutAGuestKernelTheAdviceSaysHowToGetOne(t *testing.T) {
	u := guestUser(t, false, "one")
	sheet := u.guestSheet(t)
	for _, args := range [][]string{{"--kernel", "guest"}, {"--clock", "virtual"}, {"--profile", "full"}} {
		cmd := u.command(append([]string{"run", sheet}, args...)...)
		cmd.Env = append(cmd.Env, "TCPLAB_KERNEL=", "XDG_CACHE_HOME="+u.dir+"/empty")
		out, err := cmd.CombinedOutput()
		if code := exitCodeOf(err); code != "5" || !strings.Contains(string(out), "make kernel") {
			t.Errorf("%v: exit code %s\n%s", args, code, out)
		}
	}
	cmd := u.command("run", sheet, "--clock", "virtual", "--kernel", "host")
	out, err := cmd.CombinedOutput()
	if code := exitCodeOf(err); code != "2" || !strings.Contains(string(out), "--kernel=host") {
		t.Errorf("a virtual clock on the host's kernel: exit code %s\n%s", code, out)
	}
}

// waitFor waits until check has nothing to say, for half a minute at most.
func waitFor(t *testing.T, check func() error) {
	t.Helper()
	end := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Nothing of the lab's has a timer that recurs: a day in which nothing happens
// is a few thousand wake-ups, beside those of the Go runtime's monitor in each
// of the four processes, which are two a minute.
func TestIdleDayOnTheVirtualClockIsCheap(t *testing.T) {
	u := guestUser(t, false, "one")
	name := filepath.Join(u.dir, "small.yaml")
	text := strings.NewReplacer("50/s", "0.00002/s", "duration: 10s", "duration: 86400s", ", jitter: 1ms, loss: 2%, reorder: 1%", "",
		"  pooled: {client: {reuse: pool, pool: {size: 16}}, why: {client.reuse: \"no handshake\"}}\n", "",
		"pooled.latency.p50 < per_request.latency.p50", "per_request.requests.failed == 0").Replace(guestSheet)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := u.inGuest(t, nil, "run", name); code != lab.ExitPass {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	x := u.latest(t).Arms["per_request"].Trials[0]
	if monitors := int64(4 * 2 * 24 * 60); x.Wakeups == 0 || x.Wakeups > 5000+monitors {
		t.Errorf("%d wake-ups in %v s", x.Wakeups, x.Duration)
	}
	t.Logf("%d wake-ups", x.Wakeups)
}
