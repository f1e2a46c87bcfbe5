package main

import (
	"bufio"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"tcplab/lab"
)

// sickText has two hosts to look at, soon.
const sickText = `
experiment: bedside
question: Who is ill?
hosts: {client: {}, server: {}}
wire: {delay: 1ms}
server: {kind: echo, backlog: 4}
client: {reuse: none, deadline: 300ms}
workload: {rate: 100/s, connections: 64, size: 128B}
trial: {warmup: 100ms, duration: 3s}
arms:
  rosy: {baseline: true, server: {backlog: 128}}
  pallid: {faults: {stuck: {at: 100ms, on: server, do: stop-accepting}}, why: {faults.stuck: no accept}}
expect:
  alive: {that: rosy.requests.ok > 0}
triage:
  rosy: {on: server, at: 400ms, finds: nothing}
  pallid: {on: server, at: 400ms, finds: accept-queue-overflow}
`

// bedside writes that sheet, and finds a seed whose rounds have these truths.
func (u *user) bedside(t *testing.T, truths ...string) (seed string) {
	t.Helper()
	name := filepath.Join(u.dir, "bedside.yaml")
	if err := os.WriteFile(name, []byte(sickText), 0o644); err != nil {
		t.Fatal(err)
	}
	all, err := lab.Patients(name, []byte(sickText))
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
next:
	for n := range 1000 {
		rng := rand.New(rand.NewPCG(uint64(n), 0))
		for _, want := range truths {
			if lab.ChoosePatient(all, rng).Truth != want {
				continue next
			}
		}
		b, _ := json.Marshal(n)
		return string(b)
	}
	t.Fatal("no such seed")
	return ""
}

func TestADrillTellsTimeAndTruthAndKeepsTheScore(t *testing.T) {
	u := newUser(t, true)
	seed := u.bedside(t, "accept-queue-overflow", "nothing")
	cmd := u.command("drill", "--seed", seed, "--rounds", "2", "--only", "./bedside.yaml")
	cmd.Stdin = strings.NewReader("ss -Htln\necho host=$TCPLAB_HOST.\nanswer\nno idea\naccept\n" + "ss -Htln\nanswer 1\n")
	var errs strings.Builder
	cmd.Stderr = &errs
	text, err := cmd.Output()
	out := string(text)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs.String())
	}
	for _, want := range []string{
		"Round 1 of 2", "host=.\n", `"no idea" is not in the list`, "Right: accept-queue-overflow, after ",
		"It was host server in arm pallid of bedside", "What shows it: a listener whose Recv-Q is above its Send-Q",
		"Wrong: it was nothing, and you said ", "host server in arm rosy", "Score: 1 of 2 right, 1 of them within 5 min", "runs/drills.ndjson",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	// What the shell showed of the sick host's listener; nothing before the
	// answer says what it is.
	before, _, _ := strings.Cut(out, "Right:")
	if !strings.Contains(before, "LISTEN 5      4") {
		t.Errorf("the listener's queue is not full:\n%s", before)
	}
	for _, tells := range []string{"bedside", "pallid", "rosy", "server", "stop-accepting"} {
		if strings.Contains(before+errs.String(), tells) {
			t.Errorf("it gives away %q:\n%s%s", tells, before, errs.String())
		}
	}
	f, err := os.Open(filepath.Join(u.dir, "runs", "drills.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var rounds []round
	for s := bufio.NewScanner(f); s.Scan(); {
		var r round
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		rounds = append(rounds, r)
	}
	if len(rounds) != 2 || !rounds[0].Right || rounds[1].Right || rounds[0].Answer != "accept-queue-overflow" || rounds[1].Truth != "nothing" || rounds[0].Seconds <= 0 {
		t.Errorf("%+v", rounds)
	}
	if left, _ := filepath.Glob(filepath.Join(u.dir, "runs", "drill", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	u.nothingLeft(t)
}

func TestAnInterruptedDrillLeavesNothing(t *testing.T) {
	u := newUser(t, true)
	seed := u.bedside(t, "nothing")
	s := u.start(t, "drill", "--seed", seed, "--only", "./bedside.yaml")
	if _, err := s.in.Write([]byte("echo here I am >&2\n")); err != nil {
		t.Fatal(err)
	}
	s.until(t, "here I am")
	s.Process.Signal(os.Interrupt)
	if code := s.end(t); code != 130 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(filepath.Join(u.dir, "runs", "drills.ndjson")); err == nil {
		t.Error("a round without an answer is in the score")
	}
	u.nothingLeft(t)
}

func TestADrillOnATerminalHasAShellThatAnswers(t *testing.T) {
	u := newUser(t, true)
	seed := u.bedside(t, "nothing")
	cmd := u.command("drill", "--seed", seed, "--only", "./bedside.yaml")
	cmd.Env = append(cmd.Env, "TERM=dumb")
	attr := cmd.SysProcAttr
	attr.Setsid, attr.Setctty = true, true
	terminal, err := pty.StartWithAttrs(cmd, &pty.Winsize{Rows: 40, Cols: 120}, attr)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	seen := ""
	until := func(word string) {
		t.Helper()
		buf := make([]byte, 4096)
		for !strings.Contains(seen, word) {
			n, err := terminal.Read(buf)
			seen += string(buf[:n])
			if err != nil {
				t.Fatalf("it never showed %q: %v\n%s", word, err, seen)
			}
		}
		_, seen, _ = strings.Cut(seen, word)
	}
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Signal(syscall.SIGKILL) })
	defer timer.Stop()
	until("drill #") // root, inside
	terminal.Write([]byte("ss -Htln | head -1; echo $((6 * 7))\r"))
	until("LISTEN")
	until("42")
	terminal.Write([]byte("answer nothing\r"))
	until("Right: nothing")
	until("Score: 1 of 1 right")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	u.nothingLeft(t)
}

func TestADrillSaysWhatItNeeds(t *testing.T) {
	u := newUser(t, true)
	u.bedside(t)
	for _, tt := range []struct {
		args []string
		env  string
		code int
		says string
	}{
		{[]string{"drill", "--only", "./bedside.yaml"}, "PATH=" + u.dir, lab.ExitLacks, "ss, which is not here: install iproute2"},
		{[]string{"drill", "--only", "churm"}, "", lab.ExitUsage, "did you mean churn"},
		{[]string{"drill", "--seed", "x"}, "", lab.ExitUsage, "write a whole number, or random"},
		{[]string{"drill", "--rounds", "0"}, "", lab.ExitUsage, "write 1 to 100"},
		{[]string{"drill", "--seed", "1", "--only", "./bedside.yaml"}, "", lab.ExitUsage, "the input ended without a diagnosis"},
	} {
		cmd := u.command(tt.args...)
		cmd.Env = append(cmd.Env, tt.env)
		if tt.env == "" {
			cmd.Env = cmd.Env[:len(cmd.Env)-1]
		}
		var errs strings.Builder
		cmd.Stderr = &errs
		cmd.Run()
		if cmd.ProcessState.ExitCode() != tt.code || !strings.Contains(errs.String(), tt.says) {
			t.Errorf("%v: exit code %d, %s", tt.args, cmd.ProcessState.ExitCode(), errs.String())
		}
	}
	u.nothingLeft(t)
}
