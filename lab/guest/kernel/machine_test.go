package kernel

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMissingPackagesAreNamed(t *testing.T) {
	s := newStage(t)
	os.Remove(filepath.Join(s.tools, "flex"))
	os.Remove(filepath.Join(s.tools, "bc"))
	writeFile(t, filepath.Join(s.tools, "gcc"), "#!/bin/sh\nexit 1\n", 0o755) // no headers
	for _, tool := range []string{"sh", "sed", "awk", "xz", "patch"} {
		real, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(real, filepath.Join(s.tools, tool)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", s.tools) // and so without apt-get
	_, err := s.build(t.Context(), nil)
	m, ok := errors.AsType[*MissingError](err)
	if !ok || !slices.Equal(m.Packages, []string{"flex", "bc", "libc6-dev"}) || !Lacks(err) || m.Why == "" {
		t.Errorf("%v", err)
	}
	s.holds()
}

func TestRootOnDebianHasWhatIsMissingInstalled(t *testing.T) {
	s := newStage(t)
	for _, tool := range []string{"sh", "sed", "awk", "xz", "patch", "cp", "grep"} {
		real, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(real, filepath.Join(s.tools, tool)); err != nil {
			t.Fatal(err)
		}
	}
	bison := filepath.Join(s.tools, "bison")
	if err := os.Rename(bison, bison+".package"); err != nil {
		t.Fatal(err)
	}
	asked := filepath.Join(filepath.Dir(s.tools), "asked")
	apt := filepath.Join(s.tools, "apt-get")
	writeFile(t, apt, fmt.Sprintf("#!/bin/sh\necho $DEBIAN_FRONTEND $* >> %q\n[ $1 = update ] || cp %q %q\n", asked, bison+".package", bison), 0o755)
	t.Setenv("PATH", s.tools)
	r, err := s.build(t.Context(), nil)
	if _, derr := os.Stat("/etc/debian_version"); os.Geteuid() != 0 || derr != nil {
		if m, ok := errors.AsType[*MissingError](err); !ok || !slices.Equal(m.Packages, []string{"bison"}) || !strings.Contains(m.Why, "Debian") {
			t.Errorf("%v", err)
		}
		return
	}
	if err != nil || !r.Fresh {
		t.Fatal(err)
	}
	text, err := os.ReadFile(asked)
	if want := "noninteractive update -qq\nnoninteractive install -y -qq --no-install-recommends bison\n"; err != nil || string(text) != want {
		t.Errorf("%q, %v", text, err)
	}
	os.Remove(bison)
	writeFile(t, apt, "#!/bin/sh\necho 'E: Unable to locate package bison'\nexit 100\n", 0o755)
	s.recipe.lines[0].Value = "n" // another kernel
	if _, err := s.build(t.Context(), nil); !Lacks(err) || !strings.Contains(err.Error(), "could not install them: E: Unable to locate package bison") {
		t.Errorf("%v", err)
	}
}

// inMount tells a test that it runs in a mount namespace of its own.
const inMount = "KERNEL_TEST_IN_MOUNT_NAMESPACE"

func TestFoldersThatCannotHoldABuild(t *testing.T) {
	if os.Getenv(inMount) == "" {
		c := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		c.Env = append(os.Environ(), inMount+"=1")
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	s := newStage(t)
	mount := func(flags uintptr, data string) {
		t.Helper()
		at := t.TempDir()
		s.cache = at
		if err := unix.Mount("tmpfs", s.cache, "tmpfs", flags, data); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	}
	mount(unix.MS_NOEXEC, "size=2g")
	_, err := s.build(t.Context(), nil)
	if ne, ok := errors.AsType[*NoExecError](err); !ok || !strings.HasPrefix(ne.Dir, s.cache) || !strings.Contains(err.Error(), "XDG_CACHE_HOME") || !Lacks(err) {
		t.Errorf("noexec: %v", err)
	}
	s.holds()
	mount(0, "size=64m")
	_, err = s.build(t.Context(), nil)
	if se, ok := errors.AsType[*SpaceError](err); !ok || se.Free < 60<<20 || !strings.Contains(err.Error(), "MB free") {
		t.Errorf("small: %v", err)
	}
	s.holds()
	mount(unix.MS_RDONLY, "")
	if _, err := s.build(t.Context(), nil); !errors.Is(err, unix.EROFS) || !Lacks(err) || !strings.Contains(err.Error(), "set XDG_CACHE_HOME") {
		t.Errorf("read-only: %v", err)
	}
}
