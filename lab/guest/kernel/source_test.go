package kernel

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhatIsUnpackedOfASource(t *testing.T) {
	for name, want := range map[string]bool{
		"Makefile": true, "Kconfig": true, "arch/Kconfig": true, "arch/arm/Kconfig": true, "drivers/gpu/drm/Kconfig": true,
		"drivers/gpu/drm/drm.c": false, "drivers/net/veth.c": true, "drivers/net/ethernet/intel/e1000.c": false, "drivers/base/core.c": true,
		"arch/um/kernel/time.c": true, "arch/x86/um/signal.c": true, "arch/x86/include/asm/page.h": true, "arch/arm/kernel/smp.c": false,
		"fs/open.c": true, "fs/hostfs/hostfs_kern.c": true, "fs/ext4/super.c": false, "net/ipv4/tcp.c": true,
		"Documentation/x.rst": false, "sound/core/sound.c": false, "include/net/tcp.h": true, "scripts/kconfig/conf.c": true,
	} {
		if kept(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

func TestWhatIsNoSourceIsRefused(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "made/Makefile"), "all:\n", 0o644)
	writeFile(t, filepath.Join(dir, "half/Makefile"), "VERSION = 6\nPATCHLEVEL = 12\n", 0o644)
	writeFile(t, filepath.Join(dir, "text.tar.xz"), "no archive\n", 0o644)
	writeFile(t, filepath.Join(dir, "empty"), "", 0o644)
	for name, why := range map[string]string{
		"none": "cannot be read", ".": "(no Makefile)", "made": "names no VERSION", "half": "no arch/um",
		"text.tar.xz": "is neither a folder nor a .tar.xz", "empty": "is neither",
	} {
		_, err := Build(t.Context(), Options{Source: filepath.Join(dir, name), Cache: filepath.Join(dir, "cache")})
		if _, ok := errors.AsType[*SourceError](err); !ok || !strings.Contains(err.Error(), why) || Lacks(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "cache")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a cache was made: %v", err)
	}
}

// archive makes a .tar.xz of those entries.
func archive(t *testing.T, entries ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		text := []byte("text of " + h.Name)
		if strings.HasSuffix(h.Name, "/Makefile") {
			text = []byte("VERSION = 6\nPATCHLEVEL = 12\n")
		}
		if h.Typeflag == 0 {
			h.Typeflag, h.Size, h.Mode = tar.TypeReg, int64(len(text)), 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	xz := exec.Command("xz", "-c")
	xz.Stdin = &b
	out, err := xz.Output()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "linux.tar.xz")
	writeFile(t, path, string(out), 0o644)
	return path
}

func unpacked(t *testing.T, path string) (dir, version string, err error) {
	t.Helper()
	s, err := findSource(path)
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	version, err = s.unpack(t.Context(), dir, func(int64, int64) {})
	return dir, version, err
}

func TestArchiveIsUnpackedWithoutWhatIsNotNeeded(t *testing.T) {
	dir, version, err := unpacked(t, archive(t, tar.Header{Name: "linux-6.12/Makefile"}, tar.Header{Name: "linux-6.12/arch/um/Makefile"},
		tar.Header{Name: "linux-6.12/sound/core/sound.c"}, tar.Header{Name: "linux-6.12/net/ipv4/tcp.c"},
		tar.Header{Name: "linux-6.12/scripts/link", Typeflag: tar.TypeSymlink, Linkname: "../Makefile"}))
	if err != nil || version != "6.12" {
		t.Fatal(version, err)
	}
	for name, want := range map[string]bool{"net/ipv4/tcp.c": true, "sound/core/sound.c": false, "scripts/link": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestArchiveCannotWriteOutside(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"by name":    {{Name: "linux/../../evil"}},
		"by symlink": {{Name: "linux/net/out", Typeflag: tar.TypeSymlink, Linkname: "../.."}, {Name: "linux/net/out/../evil"}, {Name: "linux/net/out/evil"}},
	} {
		dir, _, err := unpacked(t, archive(t, entries...))
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		for _, out := range []string{filepath.Dir(dir), filepath.Dir(filepath.Dir(dir))} {
			if _, err := os.Lstat(filepath.Join(out, "evil")); err == nil {
				t.Errorf("%s: wrote into %s", name, out)
			}
		}
	}
}

func TestDamagedArchiveIsAnErrorThatNamesIt(t *testing.T) {
	whole := archive(t, tar.Header{Name: "linux/Makefile"}, tar.Header{Name: "linux/arch/um/Makefile"})
	text, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, whole, string(text[:len(text)/2]), 0o644)
	if _, _, err := unpacked(t, whole); err == nil || !strings.Contains(err.Error(), "linux.tar.xz does not unpack: ") {
		t.Errorf("truncated: %v", err)
	}
	if _, _, err := unpacked(t, archive(t, tar.Header{Name: "linux/README"})); err == nil || !strings.Contains(err.Error(), "no kernel source (no Makefile)") {
		t.Errorf("not Linux: %v", err)
	}
}

func TestATreeThatWasBuiltInIsTakenWithoutItsObjects(t *testing.T) {
	s := newStage(t)
	before, err := findSource(s.source)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".config", "init/main.o", "init/.main.o.cmd", "include/generated/autoconf.h", "vmlinux"} {
		writeFile(t, filepath.Join(s.source, name), "left\n", 0o644)
	}
	after, err := findSource(s.source)
	if err != nil || after.fingerprint != before.fingerprint {
		t.Errorf("%s, then %s, %v", before.fingerprint, after.fingerprint, err)
	}
}
