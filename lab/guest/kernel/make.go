package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// builder makes one kernel in a folder of its own. It compiles inside its copy
// of the source: so no path of this machine gets into the binary, and a tree
// that the user named is only read.
type builder struct {
	recipe recipe
	source source
	work   string
	cache  string
	jobs   int
	say    func(Progress)
	env    []string
}

func (b *builder) make(ctx context.Context, key, to string) (Built, error) {
	start := time.Now()
	tree := filepath.Join(b.work, "linux")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return Built{}, err
	}
	b.say(Progress{Step: "unpacking " + b.source.path})
	version, err := b.source.unpack(ctx, tree, func(done, total int64) {
		b.say(Progress{"unpacking " + b.source.path, int(done >> 20), int(total >> 20)})
	})
	if err != nil {
		return Built{}, err
	}
	if err := b.patch(ctx, tree, version); err != nil {
		return Built{}, err
	}
	if err := b.configure(ctx, tree); err != nil {
		return Built{}, err
	}
	n, err := b.compile(ctx, tree)
	if err != nil {
		return Built{}, err
	}
	if tail, err := run(ctx, tree, b.env, nil, "strip", "-o", to, "linux"); err != nil {
		return Built{}, b.failed(ctx, "strip", tail, err)
	}
	if why := notAGuest(to); why != "" {
		return Built{}, &BuildError{Step: "linking", Said: []string{"what came out " + why}}
	}
	if err := flush(to); err != nil {
		return Built{}, err
	}
	sum, size, err := hashFile(to)
	if err != nil {
		return Built{}, err
	}
	config := sha256.Sum256([]byte(b.recipe.config()))
	built := Built{Version: version, SHA256: sum, Size: size, Key: key, Recipe: b.recipe.hash(),
		Config: hex.EncodeToString(config[:]), Source: b.source.path, Compiler: output(ctx, "gcc", "--version"),
		At: time.Now().UTC(), Seconds: time.Since(start).Round(100 * time.Millisecond).Seconds(), Objects: n}
	for _, p := range b.recipe.patches {
		built.Patches = append(built.Patches, p.Name)
	}
	// Beside the kernel, for whoever asks what it can.
	return built, copyFile(filepath.Join(tree, ".config"), filepath.Join(filepath.Dir(to), "config"))
}

// patch applies ours. Fuzz is refused: a hunk that fits elsewhere by luck is no
// patch that was tried.
func (b *builder) patch(ctx context.Context, tree, version string) error {
	for i, p := range b.recipe.patches {
		b.say(Progress{"patching", i + 1, len(b.recipe.patches)})
		file := filepath.Join(b.work, p.Name)
		if err := os.WriteFile(file, []byte(p.Text), 0o644); err != nil {
			return err
		}
		tail, err := run(ctx, tree, b.env, nil, "patch", "-p1", "--forward", "--batch", "--fuzz=0", "--reject-file=-", "--no-backup-if-mismatch", "-i", file)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return &SourceError{b.source.path, fmt.Sprintf("is Linux %s, to which %s does not apply (%s)", version, p.Name, strings.Join(tail[max(0, len(tail)-2):], "; "))}
		}
	}
	return nil
}

// arch are the arguments of every make. The versions of tools that the kernel
// does not need go into its configuration, and that into the binary: on a
// machine with Rust it would be another build.
func arch() []string {
	return []string{"ARCH=um", "RUSTC=/nonexistent/rustc", "BINDGEN=/nonexistent/bindgen", "PAHOLE=/nonexistent/pahole"}
}

// configure switches off all that is not asked for, and looks whether what is
// asked for was given.
func (b *builder) configure(ctx context.Context, tree string) error {
	b.say(Progress{Step: "configuring"})
	file := filepath.Join(b.work, "asked.config")
	if err := os.WriteFile(file, []byte(b.recipe.config()), 0o644); err != nil {
		return err
	}
	if tail, err := run(ctx, tree, b.env, nil, "make", append(arch(), "KCONFIG_ALLCONFIG="+file, "allnoconfig")...); err != nil {
		return b.failed(ctx, "make allnoconfig", tail, err)
	}
	got, err := os.ReadFile(filepath.Join(tree, ".config"))
	if err != nil {
		return err
	}
	if fell := b.recipe.notTaken(string(got)); len(fell) > 0 {
		return &BuildError{Step: "configuring (this source does not take them)", Said: fell}
	}
	return nil
}

// compile returns how many files it compiled.
func (b *builder) compile(ctx context.Context, tree string) (int, error) {
	jobs := b.jobs
	if jobs <= 0 {
		jobs = runtime.GOMAXPROCS(0) + 1
	}
	n := 0
	hear := func(line string) {
		if strings.HasPrefix(line, "  CC ") || strings.HasPrefix(line, "  AS ") {
			n++
			b.say(Progress{"compiling", n, max(n, objects)})
		}
	}
	b.say(Progress{"compiling", 0, objects})
	tail, err := run(ctx, tree, b.env, hear, "make", append(arch(), "KCFLAGS="+optimise, "-j"+strconv.Itoa(jobs), "linux")...)
	if err != nil {
		return n, b.failed(ctx, "make linux", tail, err)
	}
	b.say(Progress{"compiling", n, n})
	return n, nil
}

// failed keeps the step's output where the user can read it.
func (b *builder) failed(ctx context.Context, step string, tail []string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e := &BuildError{Step: step, Said: excerpt(tail, 12)}
	if len(tail) == 0 {
		e.Said = []string{err.Error()}
		return e
	}
	log := filepath.Join(b.cache, "failed.log")
	if err := os.WriteFile(log, []byte(strings.Join(tail, "\n")+"\n"), 0o644); err == nil {
		e.Log = log
	}
	return e
}

func flush(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}
