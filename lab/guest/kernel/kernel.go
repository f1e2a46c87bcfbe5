// Package kernel builds the guest kernel, a user-mode Linux with virtual time,
// once into the user's cache, and finds it there.
//
// What makes the guest is in config/ and patches/, each line with its reason;
// a kernel whose config did not take as asked is not kept. A folder of the
// cache is whole or not there: it is built beside its place and renamed. Its
// name hashes source, config, patches and build steps, so a kernel is rebuilt
// when one of them changes and never otherwise; and the same source, recipe
// and compiler give the same bits, on which equal captures depend.
package kernel

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

//go:embed config/*.config patches/*.patch
var embedded embed.FS

// partial marks a folder of the cache that is being built.
const partial = ".partial-"

// steps is part of the recipe: it changes when what Build does to the source
// changes the binary.
const steps = "2 x86-64 " + optimise

// optimise lowers -O2: system calls by ptrace decide the guest's speed, not
// its code, and the build takes two thirds of the time.
const optimise = "-O1"

// objects is how many files the recipe compiles, for progress only.
const objects = 684

// A Line is one setting of the config, with its reason.
type Line struct {
	Fragment string
	Name     string // CONFIG_…
	Value    string
	Why      string
}

// A Patch is a change to Linux, and as such GPL-2.0.
type Patch struct {
	Name string
	Text string
}

// Why is the patch's first line.
func (p Patch) Why() string {
	first, _, _ := strings.Cut(p.Text, "\n")
	return strings.TrimPrefix(first, "Subject: ")
}

// recipe is what makes a kernel of a source.
type recipe struct {
	lines   []Line
	patches []Patch
}

func ours() recipe {
	r, err := readRecipe(embedded)
	if err != nil {
		panic("kernel: " + err.Error()) // a test reads it first
	}
	return r
}

// Recipe hashes config, patches and build steps.
func Recipe() string { return ours().hash() }

// Lines is the config, fragment by fragment.
func Lines() []Line { return ours().lines }

// Patches is what is changed in Linux, in the order in which it is.
func Patches() []Patch { return ours().patches }

func readRecipe(files fs.FS) (recipe, error) {
	var r recipe
	names, err := fs.Glob(files, "config/*.config")
	if err != nil {
		return r, err
	}
	for _, n := range names {
		text, err := fs.ReadFile(files, n)
		if err != nil {
			return r, err
		}
		lines, err := parseFragment(strings.TrimPrefix(n, "config/"), string(text))
		if err != nil {
			return r, err
		}
		r.lines = append(r.lines, lines...)
	}
	if names, err = fs.Glob(files, "patches/*.patch"); err != nil {
		return r, err
	}
	for _, n := range names {
		text, err := fs.ReadFile(files, n)
		if err != nil {
			return r, err
		}
		r.patches = append(r.patches, Patch{strings.TrimPrefix(n, "patches/"), string(text)})
	}
	return r, nil
}

func parseFragment(name, text string) ([]Line, error) {
	var lines []Line
	for i, s := range strings.Split(text, "\n") {
		s = strings.TrimSpace(s)
		if s == "" || s[0] == '#' {
			continue
		}
		set, why, _ := strings.Cut(s, "#")
		key, value, ok := strings.Cut(strings.TrimSpace(set), "=")
		why = strings.TrimSpace(why)
		if !ok || !strings.HasPrefix(key, "CONFIG_") || value == "" || why == "" {
			return nil, fmt.Errorf("%s:%d: write CONFIG_NAME=value # why", name, i+1)
		}
		lines = append(lines, Line{name, key, value, why})
	}
	return lines, nil
}

// config is what make allnoconfig reads.
func (r recipe) config() string {
	var b strings.Builder
	for _, l := range r.lines {
		fmt.Fprintf(&b, "%s=%s\n", l.Name, l.Value)
	}
	return b.String()
}

// notTaken compares what Kconfig made of it: a line falls when what it depends
// on is not there.
func (r recipe) notTaken(dotConfig string) []string {
	got := map[string]string{}
	for s := range strings.Lines(dotConfig) {
		if k, v, ok := strings.Cut(strings.TrimSpace(s), "="); ok && strings.HasPrefix(k, "CONFIG_") {
			got[k] = v
		}
	}
	var fell []string
	for _, l := range r.lines {
		v, ok := got[l.Name]
		if !ok {
			v = "n"
		}
		if v != l.Value {
			fell = append(fell, fmt.Sprintf("%s=%s (%s; %s)", l.Name, l.Value, l.Fragment, l.Why))
		}
	}
	return fell
}

// hash leaves reasons out: a better comment is no other kernel.
func (r recipe) hash() string {
	h := sha256.New()
	io.WriteString(h, steps+"\n"+r.config())
	for _, p := range r.patches {
		// From the first file header on: what is above it is the reason.
		_, change, _ := strings.Cut("\n"+p.Text, "\n--- ")
		fmt.Fprintf(h, "%s\n%s\n", p.Name, change)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// key names a kernel's folder in the cache.
func (r recipe) key(source string) string {
	h := sha256.Sum256([]byte(r.hash() + " " + source))
	return hex.EncodeToString(h[:8])
}
