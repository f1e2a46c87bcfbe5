package kernel

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv(inMount) != "" {
		os.Exit(m.Run()) // one test, in a mount namespace
	}
	goleak.VerifyTestMain(m)
}

// stage is a source of Linux in small, and tools in front of the machine's
// that build it in no time.
type stage struct {
	t      *testing.T
	source string
	cache  string
	tools  string
	recipe recipe
}

const patchOfHello = `Subject: why

--- a/arch/um/hello.c
+++ b/arch/um/hello.c
@@ -1 +1 @@
-int old;
+int new;
`

func newStage(t *testing.T) *stage {
	dir := t.TempDir()
	s := &stage{t: t, source: filepath.Join(dir, "src"), cache: filepath.Join(dir, "cache"), tools: filepath.Join(dir, "bin")}
	for name, text := range map[string]string{
		"Makefile":            "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 7\nEXTRAVERSION =\n",
		"arch/um/Makefile":    "# um\n",
		"arch/um/hello.c":     "int old;\n",
		"arch/arm/far.c":      "int far;\n",
		"drivers/gpu/Kconfig": "menu\n",
		"init/main.c":         "int main;\n",
	} {
		writeFile(t, filepath.Join(s.source, name), text, 0o644)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(s.tools, "compile"), "#!/bin/sh\nexit 0\n", 0o755)
	writeFile(t, filepath.Join(s.tools, "make"), fmt.Sprintf(`#!/bin/sh
for a; do
  case $a in
  KCONFIG_ALLCONFIG=*) cp "${a#*=}" .config ;;
  linux)
    grep -q new arch/um/hello.c || exit 9
    echo linux >> %q
    echo "  CC      init/main.o"
    echo "  AS      init/head.o"
    %q || exit 2
    cp %q linux ;;
  esac
done
`, s.calls(), filepath.Join(s.tools, "compile"), self), 0o755)
	for _, tool := range []string{"gcc", "ld", "flex", "bison", "bc"} {
		writeFile(t, filepath.Join(s.tools, tool), "#!/bin/sh\necho fake "+tool+" 1.0\n", 0o755)
	}
	writeFile(t, filepath.Join(s.tools, "strip"), "#!/bin/sh\ncp \"$3\" \"$2\"\n", 0o755)
	t.Setenv("PATH", s.tools+":"+os.Getenv("PATH"))
	t.Setenv(Env, "")
	s.recipe = recipe{lines: []Line{{"a.config", "CONFIG_A", "y", "a reason"}}, patches: []Patch{{"a.patch", patchOfHello}}}
	return s
}

func (s *stage) calls() string { return filepath.Join(filepath.Dir(s.tools), "calls") }

// compiling replaces what the compiler does.
func (s *stage) compiling(script string) {
	s.t.Helper()
	writeFile(s.t, filepath.Join(s.tools, "compile"), "#!/bin/sh\n"+script+"\n", 0o755)
}

func (s *stage) build(ctx context.Context, progress func(Progress)) (Result, error) {
	return build(ctx, Options{Source: s.source, Cache: s.cache, Progress: progress}, s.recipe)
}

func (s *stage) mustBuild() Result {
	s.t.Helper()
	r, err := s.build(s.t.Context(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// compiled is how many kernels make was asked for.
func (s *stage) compiled() int {
	text, err := os.ReadFile(s.calls())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return strings.Count(string(text), "linux\n")
}

// holds asserts what is in the cache beside locks.
func (s *stage) holds(want ...string) {
	s.t.Helper()
	entries, err := os.ReadDir(s.cache)
	if err != nil {
		s.t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") {
			got = append(got, e.Name())
		}
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("the cache holds %q, want %q", got, want)
	}
}

func TestKernelIsBuiltOnceAndFoundAgain(t *testing.T) {
	s := newStage(t)
	_, err := findIn(s.cache, s.recipe.hash())
	if _, ok := errors.AsType[*NotBuiltError](err); !ok || !strings.Contains(err.Error(), "make kernel") || !Lacks(err) {
		t.Errorf("before: %v", err)
	}
	var steps []Progress
	first, err := s.build(t.Context(), func(p Progress) { steps = append(steps, p) })
	if err != nil {
		t.Fatal(err)
	}
	again := s.mustBuild()
	if !first.Fresh || again.Fresh || again.Waited || s.compiled() != 1 || again.Kernel != first.Kernel {
		t.Errorf("first %+v, again %+v, compiled %d times", first, again, s.compiled())
	}
	found, err := findIn(s.cache, s.recipe.hash())
	if err != nil || found != first.Kernel {
		t.Errorf("found %+v, %v", found, err)
	}
	if first.Version != "6.12.7" || len(first.ID) != 12 || !strings.HasPrefix(first.Built.SHA256, first.ID) || first.Built.Objects != 2 || first.Built.Compiler != "fake gcc 1.0" {
		t.Errorf("%+v", first)
	}
	if last := steps[len(steps)-1]; last != (Progress{"compiling", 2, 2}) {
		t.Errorf("progress ends with %+v", last)
	}
	s.holds(first.Built.Key)
	if text, err := os.ReadFile(filepath.Join(s.source, "arch/um/hello.c")); err != nil || string(text) != "int old;\n" {
		t.Errorf("the user's source was touched: %q, %v", text, err)
	}
	config, err := os.ReadFile(filepath.Join(filepath.Dir(first.Path), "config"))
	if err != nil || string(config) != "CONFIG_A=y\n" {
		t.Errorf("config beside it: %q, %v", config, err)
	}
}

func TestAnotherSourceConfigOrPatchIsAnotherKernel(t *testing.T) {
	s := newStage(t)
	keys := []string{s.mustBuild().Built.Key}
	writeFile(t, filepath.Join(s.source, "init/main.c"), "int main2;\n", 0o644)
	keys = append(keys, s.mustBuild().Built.Key)
	writeFile(t, filepath.Join(s.source, "arch/arm/far.c"), "int farther;\n", 0o644)
	if r := s.mustBuild(); r.Fresh {
		t.Error("a file that no guest is built from makes another kernel")
	}
	s.recipe.lines[0].Value = "n"
	keys = append(keys, s.mustBuild().Built.Key)
	s.recipe.patches[0].Text = strings.Replace(patchOfHello, "int new;", "int new, newer;", 1)
	keys = append(keys, s.mustBuild().Built.Key)
	slices.Sort(keys)
	if len(slices.Compact(keys)) != 4 || s.compiled() != 4 {
		t.Errorf("%d builds of %q", s.compiled(), keys)
	}
	_, err := findIn(s.cache, "another recipe")
	if nb, ok := errors.AsType[*NotBuiltError](err); !ok || nb.Other == "" || !strings.Contains(err.Error(), "other config or patches") {
		t.Errorf("%v", err)
	}
}

func TestOfTwoSourcesTheLastOneAskedForIsFound(t *testing.T) {
	s := newStage(t)
	first := s.mustBuild().Kernel
	writeFile(t, filepath.Join(s.source, "init/main.c"), "int another;\n", 0o644)
	second := s.mustBuild().Kernel
	long := time.Now().Add(-time.Hour)
	for text, want := range map[string]Kernel{"int main;\n": first, "int another;\n": second} {
		// Stamps of files follow the tick: two of the same one would not differ.
		for _, k := range []Kernel{first, second} {
			if err := os.Chtimes(filepath.Join(filepath.Dir(k.Path), recordName), long, long); err != nil {
				t.Fatal(err)
			}
		}
		writeFile(t, filepath.Join(s.source, "init/main.c"), text, 0o644)
		s.mustBuild()
		if got, err := findIn(s.cache, s.recipe.hash()); err != nil || got.Path != want.Path {
			t.Errorf("found %s, %v, want %s", got.Path, err, want.Path)
		}
	}
}

func TestSecondBuilderWaitsAndFindsItDone(t *testing.T) {
	s := newStage(t)
	gate := filepath.Join(filepath.Dir(s.tools), "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	s.compiling("read x < " + gate)
	compiling, waiting := make(chan struct{}), make(chan struct{})
	var res [2]Result
	var errs [2]error
	var wg sync.WaitGroup
	var once sync.Once
	wg.Go(func() {
		res[0], errs[0] = s.build(t.Context(), func(p Progress) {
			if p.Step == "compiling" && p.Done == 2 {
				once.Do(func() { close(compiling) })
			}
		})
	})
	<-compiling
	wg.Go(func() {
		res[1], errs[1] = s.build(t.Context(), func(p Progress) {
			if strings.Contains(p.Step, "waiting for another build") {
				close(waiting)
			} else {
				t.Errorf("the second one is %q", p.Step)
			}
		})
	})
	<-waiting
	if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if errors.Join(errs[:]...) != nil || !res[0].Fresh || res[1].Fresh || !res[1].Waited || s.compiled() != 1 {
		t.Errorf("%+v, %v; compiled %d times", res, errs, s.compiled())
	}
	s.holds(res[0].Built.Key)
}

func TestWaitingForAnotherBuilderCanBeInterrupted(t *testing.T) {
	s := newStage(t)
	src, err := findSource(s.source)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.cache, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, _, err := lock(t.Context(), filepath.Join(s.cache, s.recipe.key(src.fingerprint)+".lock"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := s.build(ctx, func(Progress) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	s.holds()
}

func TestFailingBuildShowsTheCompilerAndLeavesNothing(t *testing.T) {
	s := newStage(t)
	s.compiling(`i=0; while [ $i -lt 900 ]; do echo "  CC      noise$i.o"; i=$((i+1)); done
echo "net/ipv4/tcp.c: In function 'tcp_sendmsg':" >&2
echo "net/ipv4/tcp.c:7:1: error: expected ';'" >&2
echo "make: *** [Makefile:1: linux] Error 2" >&2
exit 2`)
	_, err := s.build(t.Context(), nil)
	be, ok := errors.AsType[*BuildError](err)
	if !ok || Lacks(err) {
		t.Fatalf("%v", err)
	}
	want := []string{"net/ipv4/tcp.c: In function 'tcp_sendmsg':", "net/ipv4/tcp.c:7:1: error: expected ';'", "make: *** [Makefile:1: linux] Error 2"}
	if !slices.Equal(be.Said, want) || be.Step != "make linux" || !strings.Contains(err.Error(), be.Log) {
		t.Errorf("%v", err)
	}
	s.holds("failed.log")
	s.compiling("exit 0")
	if r := s.mustBuild(); !r.Fresh {
		t.Errorf("%+v", r)
	}
}

func TestFullDiskOnTheWaySaysSo(t *testing.T) {
	s := newStage(t)
	s.compiling(`echo "{standard input}: Fatal error: can't write 8 bytes to section .text of init/main.o: 'No space left on device'"; echo "make: *** Error 1"; exit 2`)
	_, err := s.build(t.Context(), nil)
	if se, ok := errors.AsType[*SpaceError](err); !ok || se.Free != -1 || !Lacks(err) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("%v", err)
	}
	if err := noSpace(&os.PathError{Op: "write", Path: "x", Err: unix.ENOSPC}, "/d"); !Lacks(err) {
		t.Errorf("%v", err)
	}
}

func TestPatchThatDoesNotApplyIsNamedWithTheSource(t *testing.T) {
	for name, text := range map[string]string{"changed": "int other;\n", "already patched": "int new;\n"} {
		s := newStage(t)
		writeFile(t, filepath.Join(s.source, "arch/um/hello.c"), text, 0o644)
		_, err := s.build(t.Context(), nil)
		if _, ok := errors.AsType[*SourceError](err); !ok || !strings.Contains(err.Error(), "is Linux 6.12.7, to which a.patch does not apply") || Lacks(err) {
			t.Errorf("%s: %v", name, err)
		}
		s.holds()
	}
}

func TestConfigThatDoesNotTakeFailsTheBuild(t *testing.T) {
	s := newStage(t)
	s.recipe.lines = append(s.recipe.lines, Line{"a.config", "CONFIG_B", "y", "a second reason"})
	writeFile(t, filepath.Join(s.tools, "make"), "#!/bin/sh\necho CONFIG_A=y > .config\n", 0o755)
	_, err := s.build(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "CONFIG_B=y (a.config; a second reason)") || strings.Contains(err.Error(), "CONFIG_A") {
		t.Errorf("%v", err)
	}
	s.holds()
}

func TestInterruptedBuildLeavesNeitherFilesNorProcesses(t *testing.T) {
	s := newStage(t)
	pids := filepath.Join(filepath.Dir(s.tools), "pids")
	s.compiling("sleep 1000 & echo $$ $! > " + pids + "; echo '  CC      last.o'; wait")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.build(ctx, func(p Progress) {
		if p.Done == 3 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	s.holds()
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(text)) {
		pid, _ := strconv.Atoi(f)
		for syscall.Kill(pid, 0) == nil && !zombie(pid) {
			time.Sleep(time.Millisecond) // killed, not yet gone; the test's own time is the limit
		}
	}
}

func zombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}

func TestWhatKilledBuildersLeftIsSwept(t *testing.T) {
	s := newStage(t)
	key := s.mustBuild().Built.Key
	for _, d := range []string{key + partial + "1", "dead" + partial + "2", "live" + partial + "3"} {
		writeFile(t, filepath.Join(s.cache, d, "work/x"), "", 0o644)
	}
	for _, k := range []string{"dead", "live"} {
		writeFile(t, filepath.Join(s.cache, k+".lock"), "", 0o644)
	}
	unlock, _, err := lock(t.Context(), filepath.Join(s.cache, "live.lock"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	sweep(s.cache, key)
	s.holds(key, "live"+partial+"3")
}

func TestDamagedKernelIsRefusedAndBuiltAgain(t *testing.T) {
	s := newStage(t)
	k := s.mustBuild().Kernel
	damage := func(name, why string, found bool, change func([]byte) []byte) {
		t.Helper()
		text, err := os.ReadFile(k.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(k.Path, change(text), 0o755); err != nil {
			t.Fatal(err)
		}
		got, err := findIn(s.cache, s.recipe.hash())
		if found {
			_, err = Verify(got)
		}
		if _, ok := errors.AsType[*DamagedError](err); !ok || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "tcplab kernel build") || !Lacks(err) {
			t.Errorf("%s: %v", name, err)
		}
		if r := s.mustBuild(); !r.Fresh {
			t.Errorf("%s: not built again", name)
		}
	}
	damage("truncated", "bytes of", false, func(b []byte) []byte { return b[:len(b)/2] })
	damage("for another machine", "is for AARCH64, not for x86-64", false, func(b []byte) []byte {
		binary.LittleEndian.PutUint16(b[18:], uint16(elf.EM_AARCH64))
		return b
	})
	damage("flipped", "its SHA-256 differs", true, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	if err := os.Remove(k.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := findIn(s.cache, s.recipe.hash()); err == nil || !strings.Contains(err.Error(), "is not there") {
		t.Errorf("removed: %v", err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(k.Path), recordName), []byte("{\"version\""), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := findIn(s.cache, s.recipe.hash()); err == nil || !strings.Contains(err.Error(), "is not built") {
		t.Errorf("half a record: %v", err)
	}
}

func TestCacheInAPathWithSpaces(t *testing.T) {
	s := newStage(t)
	s.cache += " of mine"
	t.Setenv("TMPDIR", filepath.Dir(s.tools))
	// As Linux's Makefile does.
	s.compiling(`case $PWD in *" "*) echo "*** source directory cannot contain spaces"; exit 1 ;; esac`)
	r := s.mustBuild()
	s.holds(r.Built.Key)
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(s.tools), "tcplab-*", "*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestTheUsersBuildVariablesDoNotGetIn(t *testing.T) {
	t.Setenv("MAKEFLAGS", "-j9")
	t.Setenv("CFLAGS", "-g")
	t.Setenv("ARCH", "arm")
	t.Setenv("LANG", "de_DE.UTF-8")
	for _, kv := range environment("/tmp") {
		for _, k := range []string{"MAKEFLAGS", "CFLAGS", "ARCH", "LANG"} {
			if strings.HasPrefix(kv, k+"=") {
				t.Error(kv)
			}
		}
	}
}

func TestOnlyX86IsSupported(t *testing.T) {
	if err := onX86("amd64"); err != nil {
		t.Error(err)
	}
	if err := onX86("arm64"); err == nil || !Lacks(err) || !strings.Contains(err.Error(), "needs an x86-64 machine; this is arm64") {
		t.Errorf("%v", err)
	}
}

func TestAKernelOfTheUsersOwnIsLookedAt(t *testing.T) {
	dir := t.TempDir()
	other, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "text"), "hello\n", 0o755)
	writeFile(t, filepath.Join(dir, "plain"), "hello\n", 0o644)
	for path, why := range map[string]string{
		filepath.Join(dir, "none"):  "cannot be read: no such file",
		dir:                         "is no file",
		filepath.Join(dir, "plain"): "is not executable",
		filepath.Join(dir, "text"):  "is truncated, or no ELF program",
		other:                       "is no user-mode Linux",
	} {
		t.Setenv(Env, path)
		_, err := Find()
		if err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "$TCPLAB_KERNEL="+path) || !Lacks(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestVersionIsReadFromTheBanner(t *testing.T) {
	for text, want := range map[string]string{
		"\x00Linux version 6.12.7 (tcplab@guest) #1\x00":                  "6.12.7",
		"Linux version %s (%s)\x00\x00Linux version 6.12.7-rc1 (a@b)\x00": "6.12.7-rc1",
		"Linux version ": "",
		"":               "",
	} {
		if got := bannerVersion([]byte(text)); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}
