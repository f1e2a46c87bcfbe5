package guest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"tcplab/lab/guest/kernel/kerneltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// prog is a guest's init for tests: linked statically, which a race-enabled
// test binary is not.
var prog = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tcplab-guest-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "boot")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "./testdata/boot")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.New(string(out))
	}
	return path, nil
})

// booted is how a guest came out.
type booted struct {
	lines []map[string]any
	out   string
	err   error
	g     *Guest
}

var found string // the guest kernel

func boot(t *testing.T, ctx context.Context, opt Options) booted {
	t.Helper()
	path, err := prog()
	if err != nil {
		t.Fatal(err)
	}
	opt.Init = path
	// Found once: a test may set another HOME.
	if found == "" {
		found = kerneltest.Need(t).Path
	}
	opt.Kernel = found
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	var b booted
	opt.Line = func(line []byte) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		b.lines = append(b.lines, m)
	}
	if b.g, err = Start(ctx, opt); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.g.Close() })
	b.err, b.out = b.g.Wait(), b.g.Out
	return b
}

func TestAnHourOfSleepIsAnHourThereAndItsResultsStay(t *testing.T) {
	b := boot(t, context.Background(), Options{Worker: "sleep", Input: []byte("work")})
	if b.err != nil || len(b.lines) != 1 {
		t.Fatal(b.lines, b.err)
	}
	if l := b.lines[0]; l["read"] != "work" || l["slept"] != 3600.0 {
		t.Errorf("it says %v", l)
	}
	if text, err := os.ReadFile(filepath.Join(b.out, "made")); err != nil || string(text) != "here" {
		t.Errorf("results: %q, %v", text, err)
	}
	// The hour was skipped: no test binary is given one.
	if whole, first := b.g.Took(); first <= 0 || whole < first || whole > 30*time.Minute {
		t.Errorf("took %v, first line after %v", whole, first)
	}
	if err := b.g.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(b.out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
}

func TestGuestSeesTheHostsRootAndCannotWriteIt(t *testing.T) {
	t.Setenv("SOMETHING_OF_MINE", strings.Repeat("x", 60_000))
	b := boot(t, context.Background(), Options{Worker: "look"})
	if b.err != nil || len(b.lines) != 1 {
		t.Fatal(b.lines, b.err)
	}
	if l := b.lines[0]; l["sees"] != true || l["writes"] != false || l["child"] != "it runs" || l["failed"] != false || l["mine"] != false {
		t.Errorf("it says %v", l)
	}
}

func TestGuestsOfOneSeedAreAlikeAndOfAnotherAreNot(t *testing.T) {
	one := boot(t, context.Background(), Options{Worker: "random", Seed: 7, CPU: 0})
	t.Setenv("HOME", "/somewhere/else")
	spaced := filepath.Join(t.TempDir(), "a folder with spaces, and a much longer name than before")
	if err := os.Mkdir(spaced, 0o755); err != nil {
		t.Fatal(err)
	}
	two := boot(t, context.Background(), Options{Worker: "random", Seed: 7, CPU: 1, Dir: spaced})
	other := boot(t, context.Background(), Options{Worker: "random", Seed: 8})
	for _, b := range []booted{one, two, other} {
		if b.err != nil || len(b.lines) != 1 {
			t.Fatal(b.lines, b.err)
		}
		if b.g.NotRepeatable != "" {
			t.Errorf("not repeatable here: %s", b.g.NotRepeatable)
		}
	}
	if one.lines[0]["random"] != two.lines[0]["random"] || one.lines[0]["now"] != two.lines[0]["now"] {
		t.Errorf("one seed, %v and %v", one.lines[0], two.lines[0])
	}
	if one.lines[0]["random"] == other.lines[0]["random"] {
		t.Errorf("two seeds, and both %v", one.lines[0])
	}
}

func TestGuestThatGoesWrongSaysHow(t *testing.T) {
	t.Run("the worker fails", func(t *testing.T) {
		var death *DeathError
		if b := boot(t, context.Background(), Options{Worker: "fail"}); !errors.As(b.err, &death) || !strings.Contains(b.err.Error(), "no luck") {
			t.Errorf("error %v", b.err)
		}
	})
	t.Run("the worker panics", func(t *testing.T) {
		var death *DeathError
		b := boot(t, context.Background(), Options{Worker: "panic"})
		if !errors.As(b.err, &death) || !strings.Contains(b.err.Error(), "out of luck") || !strings.Contains(b.err.Error(), "Kernel panic") {
			t.Errorf("error %v", b.err)
		}
	})
	t.Run("a program spins", func(t *testing.T) {
		var stall *StallError
		if b := boot(t, context.Background(), Options{Worker: "spin", Stall: 500 * time.Millisecond}); !errors.As(b.err, &stall) {
			t.Errorf("error %v", b.err)
		}
	})
	t.Run("nothing ever happens", func(t *testing.T) {
		var late *DeadlineError
		if b := boot(t, context.Background(), Options{Worker: "wait", Deadline: 24 * time.Hour}); !errors.As(b.err, &late) || late.After != 24*time.Hour {
			t.Errorf("error %v", b.err)
		}
	})
	t.Run("it runs out of memory", func(t *testing.T) {
		var death *DeathError
		b := boot(t, context.Background(), Options{Worker: "eat", Memory: 96})
		if !errors.As(b.err, &death) || !strings.Contains(strings.ToLower(b.err.Error()), "memory") {
			t.Errorf("error %v", b.err)
		}
	})
	t.Run("nobody wants it any more", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		gone := errors.New("changed my mind")
		time.AfterFunc(50*time.Millisecond, func() { cancel(gone) })
		if b := boot(t, ctx, Options{Worker: "spin"}); !errors.Is(b.err, gone) {
			t.Errorf("error %v", b.err)
		}
	})
}

func TestFolderThatCannotHoldTheMemoryIsNamedWithTheReason(t *testing.T) {
	if why := unfit(t.TempDir(), 1<<60); !strings.Contains(why, "MiB free") {
		t.Errorf("too small: %q", why)
	}
	if why := unfit(filepath.Join(t.TempDir(), "nowhere"), 1); why == "" {
		t.Error("a folder that is not there fits")
	}
	t.Setenv("TMPDIR", "/nowhere")
	_, err := memoryFolder(1<<60, t.TempDir())
	var no *NoMemoryError
	if !errors.As(err, &no) || !strings.Contains(err.Error(), "/nowhere (no such file or directory)") {
		t.Errorf("error %v", err)
	}
}

func TestFolderMountedNoexecIsPassedOver(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI runs as root")
		}
		t.Skip("only root can mount one")
	}
	dir, why := t.TempDir(), make(chan string)
	go func() {
		// The thread has a mount table of its own, and ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			why <- err.Error()
			return
		}
		err := errors.Join(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""), unix.Mount("none", dir, "tmpfs", unix.MS_NOEXEC, ""))
		if err != nil {
			why <- err.Error()
			return
		}
		why <- unfit(dir, 1)
	}()
	if got := <-why; got != "mounted noexec" {
		t.Errorf("it says %q", got)
	}
}

func TestProgramThatNeedsALinkerIsRefused(t *testing.T) {
	if err := static("/bin/sh"); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("error %v", err)
	}
}
