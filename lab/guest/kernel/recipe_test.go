package kernel

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

func TestEveryLineOfTheConfigSaysWhy(t *testing.T) {
	r, err := readRecipe(embedded)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, l := range r.lines {
		if len(strings.Fields(l.Why)) < 2 {
			t.Errorf("%s: %s: %q says nothing", l.Fragment, l.Name, l.Why)
		}
		if at, twice := seen[l.Name]; twice {
			t.Errorf("%s is in %s and in %s", l.Name, at, l.Fragment)
		}
		seen[l.Name] = l.Fragment
	}
	if len(r.lines) < 50 {
		t.Errorf("only %d lines", len(r.lines))
	}
}

func TestEveryPatchSaysWhyAndUnderWhichLicence(t *testing.T) {
	for _, p := range Patches() {
		head, _, _ := strings.Cut(p.Text, "\n--- ")
		if !strings.HasPrefix(head, "Subject: ") || !strings.Contains(head, "SPDX-License-Identifier: GPL-2.0") || len(strings.Fields(head)) < 30 {
			t.Errorf("%s opens with %q", p.Name, head)
		}
		if strings.Contains(p.Why(), "Subject") || p.Why() == "" {
			t.Errorf("%s: %q", p.Name, p.Why())
		}
	}
	if len(Patches()) == 0 {
		t.Error("no patches")
	}
}

func TestALineWithoutReasonIsRefusedWithItsPlace(t *testing.T) {
	for _, s := range []string{"CONFIG_A=y", "CONFIG_A # why", "A=y # why", "CONFIG_A=y #", "CONFIG_A= # why"} {
		_, err := readRecipe(fstest.MapFS{"config/x.config": {Data: []byte("# head\n\n" + s + "\n")}})
		if err == nil || !strings.Contains(err.Error(), "x.config:3: write CONFIG_NAME=value # why") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestKeyNamesSourceConfigAndPatchesAndNotTheirReasons(t *testing.T) {
	read := func(config, patch string) recipe {
		t.Helper()
		r, err := readRecipe(fstest.MapFS{"config/a.config": {Data: []byte(config)}, "patches/a.patch": {Data: []byte(patch)}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	const config, patch = "CONFIG_A=y # one reason\n", "Subject: why\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"
	first := read(config, patch).key("source")
	same := read("# head\nCONFIG_A=y # a better reason\n", strings.Replace(patch, "why", "why indeed", 1)).key("source")
	if same != first {
		t.Error("another reason makes another kernel")
	}
	for name, k := range map[string]string{
		"source": read(config, patch).key("another"),
		"config": read("CONFIG_A=n # one reason\n", patch).key("source"),
		"patch":  read(config, strings.Replace(patch, "+b", "+c", 1)).key("source"),
	} {
		if k == first {
			t.Errorf("another %s makes the same kernel", name)
		}
	}
}

func TestLinesThatFellAreNamed(t *testing.T) {
	r := recipe{lines: []Line{
		{"x.config", "CONFIG_ON", "y", "is there"}, {"x.config", "CONFIG_GONE", "y", "depends on nothing"},
		{"x.config", "CONFIG_OFF", "n", "is off"}, {"x.config", "CONFIG_SELECTED", "n", "comes back"},
	}}
	got := r.notTaken("CONFIG_ON=y\n# CONFIG_GONE is not set\nCONFIG_SELECTED=y\n")
	want := []string{"CONFIG_GONE=y (x.config; depends on nothing)", "CONFIG_SELECTED=n (x.config; comes back)"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("%q", got)
	}
}

var touched = regexp.MustCompile(`(?m)^\+\+\+ b/(\S+)$`)

// In CI the source is there, since the kernel is built from it.
func TestPatchesApplyToDebiansSource(t *testing.T) {
	if _, err := os.Stat(debianSource); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	want := map[string]bool{}
	for _, p := range Patches() {
		for _, m := range touched.FindAllStringSubmatch(p.Text, -1) {
			if !kept(m[1]) {
				t.Errorf("%s changes %s, which is not unpacked", p.Name, m[1])
			}
			want[m[1]] = true
		}
	}
	dir := t.TempDir()
	xz := exec.Command("xz", "-dc", debianSource)
	out, err := xz.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := xz.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { xz.Process.Kill(); xz.Wait() }()
	r := tar.NewReader(out)
	for len(want) > 0 {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			t.Fatalf("the source lacks %v", want)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		if !want[name] {
			continue
		}
		delete(want, name)
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name), string(text), 0o644)
	}
	b := &builder{recipe: ours(), work: dir, env: environment(dir), say: func(Progress) {}, source: source{path: debianSource}}
	if err := b.patch(t.Context(), dir, "6.12"); err != nil {
		t.Error(err)
	}
}

func writeFile(t *testing.T, path, text string, perm os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), perm); err != nil {
		t.Fatal(err)
	}
}
