package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tcplab/lab"
	"tcplab/netns"
	"tcplab/results"
)

const sheetText = `
experiment: small
question: Does a pool save the handshake?
hosts: {client: {}, server: {}}
wire: {delay: 5ms}
server: {kind: echo}
workload: {kind: requests, rate: 100/s, connections: 64, size: 128B}
trial: {warmup: 200ms, duration: DURATION}
arms:
  per_request: {baseline: true, client: {reuse: none}}
  pooled: {client: {reuse: pool, pool: {size: 64}}, why: {client.reuse: "no handshake"}}
expect:
  round_trip: {that: pooled.latency.p50 < 0.8 * per_request.latency.p50}
  counted_alike: {that: per_request.opens == per_request.client.handshakes.count and per_request.wire>server.first_syns == per_request.opens}
`

// user is somebody with a tcplab of their own in a folder of their own.
type user struct {
	dir  string
	cred *syscall.Credential
}

// newUser is a plain user if plain, else whoever runs the tests.
func newUser(t *testing.T, plain bool) *user {
	t.Helper()
	dir, err := os.MkdirTemp("", "tcplab-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// By its name the test binary knows that it is to be tcplab.
	if err := os.WriteFile(filepath.Join(dir, "tcplab"), self, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	u := &user{dir: dir}
	if plain && os.Getuid() == 0 {
		u.cred = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	return u
}

func (u *user) sheet(t *testing.T, duration string) string {
	t.Helper()
	name := filepath.Join(u.dir, "small.yaml")
	if err := os.WriteFile(name, []byte(strings.Replace(sheetText, "DURATION", duration, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func (u *user) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(u.dir, "tcplab"), args...)
	cmd.Dir = u.dir
	cmd.Env = append(os.Environ(), "HOME="+u.dir, "TMPDIR="+filepath.Join(u.dir, "tmp"), "TCPLAB_RESULTS="+filepath.Join(u.dir, "runs"), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u.cred}
	return cmd
}

// nothingLeft waits until no process of the user's tcplab runs, and then looks
// for temporary folders.
func (u *user) nothingLeft(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		running := u.processes(t)
		es, err := os.ReadDir(filepath.Join(u.dir, "tmp"))
		if err != nil {
			t.Fatal(err)
		}
		if len(running) == 0 && len(es) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: processes %v, temporary folders %v", running, es)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (u *user) processes(t *testing.T) []string {
	t.Helper()
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range exes {
		if target, err := os.Readlink(e); err == nil && strings.HasPrefix(target, u.dir+"/") {
			found = append(found, e)
		}
	}
	return found
}

func (u *user) latest(t *testing.T) *results.Run {
	t.Helper()
	r, err := results.Load(filepath.Join(u.dir, "runs", "small", "latest"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// started is a run that is under way.
type started struct {
	*exec.Cmd
	in     io.WriteCloser
	out    bytes.Buffer
	stderr *bufio.Reader
}

func (u *user) start(t *testing.T, args ...string) *started {
	t.Helper()
	return u.startWith(t, filepath.Join(u.dir, "tmp"), args...)
}

// startWith has temporary folders of its own, so that labs side by side are told
// apart.
func (u *user) startWith(t *testing.T, temp string, args ...string) *started {
	t.Helper()
	s := &started{Cmd: u.command(args...)}
	s.Env = append(s.Env, "TMPDIR="+temp)
	var err error
	if s.in, err = s.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	s.Stdout = &s.out
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.Stderr = w
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	s.stderr = bufio.NewReader(r)
	t.Cleanup(func() { s.Process.Kill(); s.Wait(); r.Close() })
	return s
}

// until reads what the run says until it says this.
func (s *started) until(t *testing.T, word string) {
	t.Helper()
	var seen strings.Builder
	for {
		line, err := s.stderr.ReadString('\n')
		seen.WriteString(line)
		if strings.Contains(line, word) {
			return
		}
		if err != nil {
			t.Fatalf("it never said %q: %v\n%s", word, err, seen.String())
		}
	}
}

// end drains stderr and waits.
func (s *started) end(t *testing.T) int {
	t.Helper()
	rest, _ := io.ReadAll(s.stderr)
	err := s.Wait()
	var x *exec.ExitError
	if err != nil && !errors.As(err, &x) {
		t.Fatal(err)
	}
	if s.ProcessState.ExitCode() > 5 {
		t.Logf("stderr: %s", rest)
	}
	return s.ProcessState.ExitCode()
}

func TestAPlainUserRunsWhatRootRuns(t *testing.T) {
	u := newUser(t, true)
	// A run that a busy machine has spoilt says so, and is made again.
	var out []byte
	var err error
	for range 3 {
		cmd := u.command("run", u.sheet(t, "1s"), "--json")
		if out, err = cmd.Output(); cmd.ProcessState.ExitCode() != lab.ExitInvalid {
			break
		}
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r := u.latest(t)
	if r.Verdict != results.Pass {
		t.Errorf("%s: %s", r.Verdict, r.Because)
	}
	if !strings.Contains(r.Environment.Privilege, "plain user") {
		t.Errorf("privilege: %s", r.Environment.Privilege)
	}
	for name, a := range r.Arms {
		for _, tr := range a.Trials {
			if tr.Capture == nil || tr.Capture.Packets == 0 {
				t.Errorf("arm %s has no capture: %+v", name, tr.Warnings)
			}
		}
	}
	u.nothingLeft(t)
}

func TestAnInterruptedRunIsARecordThatDoesNotCount(t *testing.T) {
	u := newUser(t, false)
	s := u.start(t, "run", u.sheet(t, "60s"), "--json")
	s.until(t, "msg=measuring")
	s.Process.Signal(os.Interrupt)
	if code := s.end(t); code != lab.ExitInvalid {
		t.Errorf("exit code %d", code)
	}
	r := u.latest(t)
	if r.Verdict != results.Invalid || !strings.Contains(r.Because, "interrupted") {
		t.Errorf("%s: %s", r.Verdict, r.Because)
	}
	tr := r.Arms["per_request"].Trials
	if len(tr) != 1 || !tr[0].Validity.Interrupted || tr[0].Validity.Valid {
		t.Fatalf("trials: %+v", tr)
	}
	if _, ok := tr[0].Metric("client", "requests.ok", ""); !ok {
		t.Errorf("what was measured is lost: %v", tr[0].Metrics)
	}
	if _, err := os.Stat(filepath.Join(u.dir, "runs", "small", "latest", "report.html")); err != nil {
		t.Error(err)
	}
	u.nothingLeft(t)
}

func TestTheSecondInterruptEndsAtOnceAndLeavesNothing(t *testing.T) {
	u := newUser(t, false)
	s := u.start(t, "run", u.sheet(t, "60s"))
	s.until(t, "msg=measuring")
	s.Process.Signal(os.Interrupt)
	s.until(t, "once more to exit at once")
	s.Process.Signal(os.Interrupt)
	if code := s.end(t); code != 130 && code != lab.ExitInvalid { // the first may have been faster
		t.Errorf("exit code %d", code)
	}
	u.nothingLeft(t)
}

func TestAKilledRunLeavesNothingAndTheNextClearsItsFolder(t *testing.T) {
	u := newUser(t, false)
	s := u.start(t, "run", u.sheet(t, "60s"))
	s.until(t, "msg=measuring")
	s.Process.Kill()
	s.end(t)
	u.nothingLeft(t)
	if _, err := results.Load(filepath.Join(u.dir, "runs", "small", "latest")); err == nil {
		t.Error("a killed run has a record")
	}
	if out, err := u.command("run", u.sheet(t, "1s"), "--json").Output(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	partial, _ := filepath.Glob(filepath.Join(u.dir, "runs", "small", "*.partial"))
	if len(partial) > 0 {
		t.Errorf("half records: %v", partial)
	}
	u.nothingLeft(t)
}

func TestAHeldHostCanBeEnteredAndLetGo(t *testing.T) {
	u := newUser(t, false)
	s := u.start(t, "run", u.sheet(t, "1s"), "--hold-at", "per_request", "--json")
	s.until(t, "msg=held")
	enter := u.command("enter", "client", "--", "cat", "/proc/self/net/dev")
	out, err := enter.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "wire:") {
		t.Errorf("in the client: %v\n%s", err, out)
	}
	enter = u.command("enter", "server", "--", "sh", "-c", "exit 7")
	if err := enter.Run(); enter.ProcessState.ExitCode() != 7 {
		t.Errorf("a command's exit code: %v", err)
	}
	out, err = u.command("enter", "nobody", "--", "true").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "client") || !strings.Contains(string(out), "server") {
		t.Errorf("a host that is not there: %v\n%s", err, out)
	}
	io.WriteString(s.in, "\n")
	if code := s.end(t); code != lab.ExitPass {
		t.Errorf("exit code %d, %s", code, s.out.String())
	}
	u.nothingLeft(t)
}

func TestATrialHeldInTheMiddleDoesNotCount(t *testing.T) {
	u := newUser(t, false)
	s := u.start(t, "run", u.sheet(t, "30s"), "--hold-at", "per_request@500ms", "--json")
	s.until(t, "msg=held")
	s.Process.Signal(os.Interrupt)
	if code := s.end(t); code != lab.ExitInvalid {
		t.Errorf("exit code %d", code)
	}
	u.nothingLeft(t)
}

// What CI's machine must have: a missing one is a failure and no skip.
func TestThisMachineHasWhatTheLabNeeds(t *testing.T) {
	u := newUser(t, true)
	out, err := u.command("doctor", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var caps []netns.Capability
	if err := json.Unmarshal(out, &caps); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var names []string
	for _, c := range caps {
		names = append(names, c.Name)
		if c.Answer != netns.Supported && slices.ContainsFunc(needed, func(n string) bool { return strings.Contains(c.Name, n) }) {
			t.Errorf("%s: %v: %s", c.Name, c.Answer, c.Detail)
		}
		if c.Answer == netns.Unsupported && (c.Costs == "" || c.Get == "") {
			t.Errorf("%s is missing, and nothing says what that costs or how to get it", c.Name)
		}
	}
	for _, n := range needed {
		if !slices.ContainsFunc(names, func(have string) bool { return strings.Contains(have, n) }) {
			t.Errorf("doctor does not speak of %s: %v", n, names)
		}
	}
}

var needed = []string{"user namespaces", "network namespaces", "AF_PACKET sockets", "TPACKET_V3", "veth pairs", "nftables", "connection tracking", "inet_diag", "congestion control cubic, by route"}
