package wire

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tcplab/lab/guest"
	"tcplab/lab/guest/kernel/kerneltest"
	"tcplab/netns/tree"
)

// guestTests is the worker that runs this binary's tests inside a guest.
const guestTests = "wire tests"

// errand is what a guest is sent for: the tests to run, and what they find as
// their arguments.
type errand struct {
	Run  string
	Args map[string]string
}

// args are the arguments of the tests in this guest; nil outside.
var args map[string]string

// inGuest reports whether this process is in a guest.
func inGuest() bool { return args != nil }

func registerGuestTests(m *testing.M) {
	tree.Register(guestTests, func(_ context.Context, w tree.Worker) error {
		line, err := bufio.NewReader(w.In).ReadBytes('\n')
		if err != nil {
			return err
		}
		var e errand
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		if args = e.Args; args == nil {
			args = map[string]string{}
		}
		os.Args = []string{os.Args[0], "-test.run=" + e.Run, "-test.v", "-test.timeout=0"}
		if m.Run() != 0 {
			return fmt.Errorf("tests failed")
		}
		return nil
	})
}

// report tells the test outside the guest what one inside has found.
func report(t testing.TB, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s\n", b)
}

// staticFolder is what staticBinary leaves behind; "" is nothing.
var staticFolder string

// staticBinary is this test's binary without cgo, which a guest can start: the
// race detector needs cgo.
var staticBinary = sync.OnceValues(func() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	f, err := elf.Open(self)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if f.Section(".interp") == nil {
		return self, nil
	}
	dir, err := os.MkdirTemp("", "wire-test-")
	if err != nil {
		return "", err
	}
	staticFolder = dir
	static := filepath.Join(dir, "wire.test")
	cmd := exec.Command("go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", static, "tcplab/netns/wire")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the tests without cgo: %v\n%s", err, out)
	}
	return static, nil
})

// visits counts the guests: one after the other goes to another CPU.
var visits atomic.Int64

// visit runs tests in a guest of its own, and gives the JSON lines that they
// reported and how long the guest ran.
func visit(t *testing.T, e errand) ([]string, time.Duration) {
	t.Helper()
	k := kerneltest.Need(t)
	init, err := staticBinary()
	if err != nil {
		t.Fatal(err)
	}
	in, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	var said bytes.Buffer
	g, err := guest.Start(t.Context(), guest.Options{
		Kernel: k.Path, Init: init, Worker: guestTests, Input: append(in, '\n'), Dir: t.TempDir(), Seed: 1, CPU: int(visits.Add(1)),
		Deadline: 200 * time.Hour, Stall: 5 * time.Minute, // silent while it works
		Line: func(b []byte) { lines = append(lines, string(b)) },
		Log:  func(s string) { said.WriteString(s + "\n") },
	})
	if err != nil {
		t.Fatal(err)
	}
	err = g.Wait()
	took, _ := g.Took()
	if cerr := g.Close(); cerr != nil {
		t.Error(cerr)
	}
	if err != nil || !strings.Contains(said.String(), "--- PASS") {
		t.Errorf("in the guest: %v\n%s", err, said.String())
	} else {
		t.Logf("%v of wall time\n%s", took.Round(time.Millisecond), said.String())
	}
	return lines, took
}

// TestOnTheGuestKernel runs the tests that WIRE_GUEST names, for whoever works
// on them.
func TestOnTheGuestKernel(t *testing.T) {
	run := os.Getenv("WIRE_GUEST")
	if run == "" || inGuest() {
		run = "TestDelayIsAddedEachWay"
	}
	if inGuest() {
		return
	}
	visit(t, errand{Run: run})
}
