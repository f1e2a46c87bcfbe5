package tree

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/netns"
	"tcplab/netns/internal/nstest"
)

// ways are those in which a tree can be started by this user.
func ways() map[string]Options {
	if nstest.PlainUser() {
		return map[string]Options{"plain user": {}}
	}
	return map[string]Options{"root": {}, "root by way of a user namespace": {ForceUserNS: true}}
}

func TestWorkerIsRootInATreeOfItsOwn(t *testing.T) {
	for way, opts := range ways() {
		t.Run(way, func(t *testing.T) {
			got := strings.Fields(shell(t, opts, `id -u; stat -c %a $TEMP; readlink /proc/self/ns/pid /proc/self/ns/mnt /proc/self/ns/user; ls -d /proc/[0-9]* | wc -l; cat /proc/1/cmdline | tr '\0' '\n' | head -1`))
			if got[0] != "0" || got[1] != "700" {
				t.Errorf("uid and mode of the temporary folder: %v", got[:2])
			}
			for i, ns := range []string{"pid", "mnt", "user"} {
				own, err := os.Readlink("/proc/self/ns/" + ns)
				if err != nil {
					t.Fatal(err)
				}
				want := ns != "user" || nstest.PlainUser() || opts.ForceUserNS
				if (own != got[2+i]) != want {
					t.Errorf("%s namespace: outside %s, inside %s", ns, own, got[2+i])
				}
			}
			// init, worker, sh, and the few of its pipeline: not the machine's.
			if len(got[5]) > 1 || strings.Join(got[6:], " ") != initArg0 {
				t.Errorf("/proc inside shows %s processes, the first is %q", got[5], strings.Join(got[6:], " "))
			}
		})
	}
}

func TestInAndOutCarryBytesBothWays(t *testing.T) {
	tr := start(t, "echo", Options{})
	in := bufio.NewReader(tr.Out())
	for _, line := range []string{`{"a":1}` + "\n", strings.Repeat("x", 100_000) + "\n"} {
		go io.WriteString(tr.In(), line)
		if got, err := in.ReadString('\n'); err != nil || got != line {
			t.Fatalf("%d bytes back, %v", len(got), err)
		}
	}
	if err := tr.In().Close(); err != nil {
		t.Fatal(err)
	}
	if err := tr.In().Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
	for range 2 {
		if err := tr.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestWorkersContextEndsWithItsInput(t *testing.T) {
	tr := start(t, "until-eof", Options{})
	out := bufio.NewReader(tr.Out())
	if line, err := out.ReadString('\n'); line != "ready\n" {
		t.Fatal(line, err)
	}
	// Unread input does not hide the end.
	io.WriteString(tr.In(), "never read\n")
	tr.In().Close()
	if line, err := out.ReadString('\n'); !strings.Contains(line, errHangup.Error()) {
		t.Error(line, err)
	}
	if err := tr.Wait(); err != nil {
		t.Error(err)
	}
}

func TestTheTerminalsSignalsReachOnlyTheOuterProcess(t *testing.T) {
	own, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	tr := start(t, "until-eof", Options{})
	pid := tr.cmd.Process.Pid
	sid, err1 := unix.Getsid(pid)
	pgid, err2 := unix.Getpgid(pid)
	if err := errors.Join(err1, err2); err != nil || sid != pid || pgid != pid || sid == own {
		t.Errorf("init %d is in session %d and group %d: %v", pid, sid, pgid, err)
	}
	// Inherited dispositions would make agents deaf to a stop.
	got := shell(t, Options{}, "grep SigIgn /proc/self/status")
	mine, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mine), got) {
		t.Errorf("signals ignored inside: %s", got)
	}
}

func TestProgramsInTheTreeInheritNoDescriptors(t *testing.T) {
	got := strings.Fields(shell(t, Options{}, "exec ls /proc/self/fd"))
	allowed := []string{"0", "1", "2", "3"} // 3 is ls's, the folder
	// What whoever runs the tests left open is not of our making.
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			allowed = append(allowed, e.Name())
		}
	}
	for _, fd := range got {
		if !slices.Contains(allowed, fd) {
			t.Errorf("descriptor %s is inherited: %v", fd, got)
		}
	}
}

func TestHowAWorkerEndedIsToldApart(t *testing.T) {
	for _, c := range []struct {
		worker, script string
		want           ExitError
		says           []string
	}{
		{"exit-3", "", ExitError{Code: 3}, []string{"worker exit-3", "exit status 3", "three it is"}},
		{"fails", "", ExitError{Code: 1}, []string{"exit status 1", "no such luck"}},
		{"panics", "", ExitError{Code: 2}, []string{"exit status 2", "panic: at the disco"}},
		{"shell", "kill -KILL $WORKER", ExitError{Code: -1, Signal: unix.SIGKILL}, []string{"killed by SIGKILL"}},
		{"shell", "kill -SEGV $WORKER; sleep 60", ExitError{Code: 2}, []string{"SIGSEGV"}},
	} {
		tr := start(t, c.worker, Options{Stderr: io.Discard})
		if c.script != "" {
			io.WriteString(tr.In(), c.script+"\n")
		}
		err := tr.Wait()
		var e *ExitError
		if !errors.As(err, &e) || e.Code != c.want.Code || e.Signal != c.want.Signal || e.Init {
			t.Errorf("%s %s: %v", c.worker, c.script, err)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%q does not say %q", err, s)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %q", err)
		}
	}
}

func TestStandardErrorIsPassedOnAndItsEndKept(t *testing.T) {
	var sink strings.Builder
	tr := start(t, "shell", Options{Stderr: &sink})
	io.WriteString(tr.In(), "seq 20000 >&2; exit 1\n")
	err := tr.Wait()
	var e *ExitError
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	if n := strings.Count(sink.String(), "\n"); n != 20001 { // and the worker's own error
		t.Errorf("%d lines passed on, want 20001", n)
	}
	if len(e.Stderr) != tailSize || !strings.Contains(e.Stderr, "20000\n") {
		t.Errorf("kept %d bytes", len(e.Stderr))
	}
}

func TestWorkerThatIgnoresTheEndIsKilledWithAllItStarted(t *testing.T) {
	for way, opts := range ways() {
		t.Run(way, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			opts.Stderr, opts.Grace = t.Output(), 50*time.Millisecond
			tr, err := Start(ctx, "stubborn", opts)
			if err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(tr.Out()).ReadString('\n'); line != "ready\n" {
				t.Fatal(line, err)
			}
			w := watch(t, tr.cmd.Process.Pid)
			if n := len(w.processes(t)); n < 6 { // init, worker, four sleeps
				t.Errorf("only %d processes", n)
			}
			cancel()
			err = tr.Wait()
			var e *ExitError
			if !errors.As(err, &e) || !e.Init || e.Signal != unix.SIGKILL {
				t.Errorf("Wait: %v", err)
			}
			w.nothingLeft(t, tr.Temp)
		})
	}
}

func TestNothingIsLeftWhoeverIsKilled(t *testing.T) {
	for _, victim := range []string{"outer", "init", "worker", "outer, gently"} {
		t.Run(victim, func(t *testing.T) {
			cmd, rep, out := startOuter(t, "stubborn")
			w := watch(t, rep.Init)
			var err error
			switch victim {
			case "outer":
				err = cmd.Process.Kill()
			case "outer, gently":
				err = cmd.Process.Signal(unix.SIGINT)
			case "init":
				err = unix.Kill(rep.Init, unix.SIGKILL)
			case "worker":
				err = unix.Kill(childOf(t, rep.Init), unix.SIGKILL)
			}
			if err != nil {
				t.Fatal(err)
			}
			said, err := io.ReadAll(out)
			if err != nil {
				t.Fatal(err)
			}
			waitErr := cmd.Wait()
			w.nothingLeft(t, rep.Temp)
			if victim == "init" && !strings.Contains(string(said), "init of worker stubborn was killed by SIGKILL") ||
				victim == "worker" && !strings.Contains(string(said), "worker stubborn was killed by SIGKILL") {
				t.Errorf("the outer process said %q", said)
			}
			if waitErr == nil {
				t.Error("the outer process did not fail")
			}
		})
	}
}

// childOf is the worker, by the machine's number: init's only child but those
// it took over, and the first.
func childOf(t *testing.T, init int) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		cmdline, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(cmdline), workerArg0+"\x00stubborn\x00") {
			continue
		}
		stat, err := os.ReadFile(filepath.Dir(path) + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if f[1] == strconv.Itoa(init) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("no worker")
	return 0
}

func TestOrphansAreReaped(t *testing.T) {
	// The inner shell's child outlives it and then ends: init must take it.
	got := shell(t, Options{}, `sh -c 'sh -c "exit 7" & sleep 0.01; exec true'; for i in $(seq 200); do z=$(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null); [ -z "$z" ] && break; sleep 0.01; done; echo zombies: $z`)
	if got != "zombies:" {
		t.Error(got)
	}
}

func TestFolderOfADeadRunIsSweptAtTheNextStart(t *testing.T) {
	cmd, rep, _ := startOuter(t, "stubborn")
	w := watch(t, rep.Init)
	// Both at once, so that neither can tidy up: init first stopped, then
	// both killed.
	if err := errors.Join(unix.Kill(rep.Init, unix.SIGSTOP), cmd.Process.Signal(unix.SIGSTOP),
		cmd.Process.Kill(), unix.Kill(rep.Init, unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	nstest.Gone(t, w.pidfd)
	if _, err := os.Stat(rep.Temp); err != nil {
		t.Fatalf("nothing to sweep: %v", err)
	}
	live := start(t, "until-eof", Options{})
	if !slices.Equal(live.Swept, []string{rep.Temp}) || live.SweepErr != nil {
		t.Errorf("swept %v, %v; want %s", live.Swept, live.SweepErr, rep.Temp)
	}
	// A live run's folder, and those of others, stay.
	mine := filepath.Join(os.TempDir(), "tcplab-1234")
	theirs := filepath.Join(os.TempDir(), "tcplab-notes")
	for _, dir := range []string{mine, theirs} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		if err := os.WriteFile(filepath.Join(dir, ownerFile), []byte(`{"kind":"something else"}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	empty := filepath.Join(os.TempDir(), "tcplab-5678")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	if removed, err := Sweep(); err != nil || len(removed) > 0 {
		t.Errorf("swept %v, %v", removed, err)
	}
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(empty, long, long); err != nil {
		t.Fatal(err)
	}
	if removed, err := Sweep(); err != nil || !slices.Equal(removed, []string{empty}) {
		t.Errorf("swept %v, %v; want %s", removed, err, empty)
	}
	if _, err := os.Stat(filepath.Join(live.Temp, ownerFile)); err != nil {
		t.Error(err)
	}
}

func TestRefusedNamespacesAreAnErrorThatNamesTheRule(t *testing.T) {
	tr := start(t, "nested", Options{ForceUserNS: true})
	out, err := io.ReadAll(tr.Out())
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Wait(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "user.max_user_namespaces=0") || strings.Count(string(out), "\n") != 1 {
		t.Errorf("got %q", out)
	}
}

func TestHostOutsideATreeIsRefusedToAPlainUser(t *testing.T) {
	if !nstest.PlainUser() {
		return // root may
	}
	_, err := netns.NewHost("client")
	var e *netns.NamespaceError
	if !errors.As(err, &e) || !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v", err)
	}
}

func TestProgramThatCannotBeStartedAgainSaysSo(t *testing.T) {
	// A copy whose execute permission goes while it runs.
	code, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(binary, code, 0o700); err != nil {
		t.Fatal(err)
	}
	outer := exec.Command(binary)
	outer.Args[0] = outerArg0
	outer.Env = append(os.Environ(), "WORKER=echo", "UNEXECUTABLE="+binary)
	out, err := outer.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "cannot start itself again") || strings.Count(string(out), "\n") != 1 {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestExecErrorsAreToldFromRefusedClones(t *testing.T) {
	for errno, exec := range map[syscall.Errno]bool{
		unix.ENOENT: true, unix.ENOEXEC: true,
		// This program can be executed, so it was the clone.
		unix.EACCES: false, unix.EPERM: false, unix.ENOSPC: false, unix.EINVAL: false,
	} {
		err := explainStart(true, &os.PathError{Op: "fork/exec", Path: self, Err: errno})
		if strings.Contains(err.Error(), "start itself again") != exec || errors.Is(err, netns.ErrNamespacesForbidden) == exec || !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

func TestStartingNothingSaysSo(t *testing.T) {
	if _, err := Start(t.Context(), "no such worker", Options{}); err == nil {
		t.Error("no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, "echo", Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	t.Setenv("TMPDIR", "/nonexistent")
	if _, err := Start(t.Context(), "echo", Options{}); err == nil || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("without a temporary folder: %v", err)
	}
}
