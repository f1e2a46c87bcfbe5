package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options is how to build; the zero value builds Debian's source into the
// user's cache.
type Options struct {
	Source   string         // a tree or .tar.xz; "" is Debian's package
	Cache    string         // "" is CacheDir
	Jobs     int            // compilers at once; 0 is one more than there are CPUs
	Progress func(Progress) // called in order, one at a time; may be nil
}

// Progress is where a build is.
type Progress struct {
	Step        string
	Done, Total int // of the step; 0 of 0 if it has no parts
}

// Result is what Build found or made.
type Result struct {
	Kernel
	Built Built
	// Fresh: built by this call; Waited: by another one, which this waited for.
	Fresh, Waited bool
}

// BuildError is a step that failed, with what it said.
type BuildError struct {
	Step string
	Said []string
	Log  string // file with the step's last output
}

func (e *BuildError) Error() string {
	msg := "the guest kernel was not built: " + e.Step + " failed"
	if e.Log != "" {
		msg += " (more in " + e.Log + ")"
	}
	for _, s := range e.Said {
		msg += "\n  " + s
	}
	return msg
}

// SpaceError is a disk that is full, or too small to begin with.
type SpaceError struct {
	Dir  string
	Free int64 // bytes; -1 if the disk filled up on the way
}

func (e *SpaceError) Error() string {
	if e.Free < 0 {
		return fmt.Sprintf("no space left in %s: building the guest kernel takes %d MB for a while. Make room, or set XDG_CACHE_HOME to a folder elsewhere", e.Dir, spaceNeeded>>20)
	}
	return fmt.Sprintf("%s has %d MB free; building the guest kernel takes %d MB for a while (and keeps 6). Make room, or set XDG_CACHE_HOME to a folder elsewhere", e.Dir, e.Free>>20, spaceNeeded>>20)
}

// NoExecError is a folder in which nothing can be run.
type NoExecError struct {
	Dir string
	Err error
}

func (e *NoExecError) Error() string {
	return fmt.Sprintf("%s does not let programs run (%v; mounted noexec?), and a kernel's build runs its own: set XDG_CACHE_HOME to a folder that does", e.Dir, e.Err)
}

func (e *NoExecError) Unwrap() error { return e.Err }

// Lacks says that an error is the machine's: something that it lacks.
func Lacks(err error) bool {
	for _, is := range []func() bool{
		is[*NotBuiltError](err), is[*DamagedError](err), is[*UnsupportedError](err),
		is[*MissingError](err), is[*SpaceError](err), is[*NoExecError](err), is[*CacheError](err),
	} {
		if is() {
			return true
		}
	}
	return false
}

func is[E error](err error) func() bool {
	return func() bool { _, ok := errors.AsType[E](err); return ok }
}

// spaceNeeded is what a build was seen to take, and a fifth more.
const spaceNeeded = 300 << 20

// Build returns the kernel of this recipe and that source, building it if the
// cache has none that is whole. Builders of the same kernel wait for each
// other. What it needs and the machine lacks is installed first, where it can
// be. When ctx ends, or anything fails, the cache is as it was.
func Build(ctx context.Context, opt Options) (Result, error) {
	return build(ctx, opt, ours())
}

func build(ctx context.Context, opt Options, r recipe) (res Result, err error) {
	if err := onX86(runtime.GOARCH); err != nil {
		return res, err
	}
	say := opt.Progress
	if say == nil {
		say = func(Progress) {}
	}
	cache := opt.Cache
	if cache == "" {
		if cache, err = CacheDir(); err != nil {
			return res, err
		}
	}
	var src source
	if opt.Source != "" { // a wrong one is said before anything is installed
		if src, err = findSource(opt.Source); err != nil {
			return res, err
		}
	}
	if opt.Source == "" {
		if _, err := os.Stat(debianSource); err != nil {
			// Gone since: what was built from it is still good.
			if k, err := findIn(cache, r.hash()); err == nil {
				if b, err := Verify(k); err == nil {
					return Result{Kernel: k, Built: b}, nil
				}
			}
			if err := provide(ctx, "", say); err != nil {
				return res, err
			}
		}
		if src, err = findSource(""); err != nil {
			return res, err
		}
	}
	key := r.key(src.fingerprint)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return res, &CacheError{err}
	}
	if res, ok := whole(cache, key); ok {
		return res, nil
	}
	unlock, waited, err := lock(ctx, filepath.Join(cache, key+".lock"), func() {
		say(Progress{Step: "waiting for another build of the same kernel"})
	})
	if err != nil {
		return res, err
	}
	defer unlock()
	if res, ok := whole(cache, key); ok {
		res.Waited = waited
		return res, nil
	}
	sweep(cache, key)
	if err := provide(ctx, opt.Source, say); err != nil {
		return res, err
	}
	place := filepath.Join(cache, key+partial+strconv.Itoa(os.Getpid()))
	defer func() { err = errors.Join(err, os.RemoveAll(place)) }()
	work := filepath.Join(place, "work")
	if strings.ContainsAny(work, " :") {
		// Linux's Makefile refuses such a path.
		tmp := filepath.Join(os.TempDir(), fmt.Sprintf("tcplab-%d", os.Geteuid()))
		if strings.ContainsAny(tmp, " :") {
			return res, &BuildError{Step: "choosing a folder", Said: []string{fmt.Sprintf("Linux does not build in a folder with spaces or colons, and both %s and %s have some: set XDG_CACHE_HOME or TMPDIR", cache, os.TempDir())}}
		}
		if err := os.MkdirAll(tmp, 0o700); err != nil {
			return res, err
		}
		sweep(tmp, key)
		work = filepath.Join(tmp, key+partial+strconv.Itoa(os.Getpid()))
		defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	}
	if err := os.MkdirAll(place, 0o755); err != nil {
		return res, noSpace(err, cache)
	}
	if err := os.MkdirAll(filepath.Join(work, "tmp"), 0o755); err != nil {
		return res, noSpace(err, cache)
	}
	if err := roomy(work); err != nil {
		return res, err
	}
	if err := executes(work); err != nil {
		return res, err
	}
	b := &builder{recipe: r, source: src, work: work, cache: cache, jobs: opt.Jobs, say: say, env: environment(filepath.Join(work, "tmp"))}
	built, err := b.make(ctx, key, filepath.Join(place, binaryName))
	if err != nil {
		return res, noSpace(err, work)
	}
	if err := os.RemoveAll(work); err != nil {
		return res, err
	}
	if err := publish(cache, key, place, built); err != nil {
		return res, noSpace(err, cache)
	}
	k, err := built.open(cache)
	return Result{Kernel: k, Built: built, Fresh: true}, err
}

// whole is a kernel of the cache that is what its record says, to the last bit.
func whole(cache, key string) (Result, bool) {
	b, err := readRecord(filepath.Join(cache, key))
	if err != nil || b.Key != key {
		return Result{}, false
	}
	k, err := b.open(cache)
	if err != nil {
		return Result{}, false
	}
	if _, err := Verify(k); err != nil {
		return Result{}, false
	}
	// One that may not be written to, such as another user's, stays as it is.
	_ = choose(filepath.Join(cache, key))
	return Result{Kernel: k, Built: b}, true
}

// Verify reads a kernel of the cache from end to end. One that the user named
// has no record to be compared with, and was read when it was found.
func Verify(k Kernel) (Built, error) {
	b, err := readRecord(filepath.Dir(k.Path))
	if err != nil {
		if own := os.Getenv(Env); own != "" {
			return Built{Version: k.Version, Source: own}, nil
		}
		return b, &DamagedError{Path: k.Path, Why: "has no record beside it"}
	}
	sum, size, err := hashFile(k.Path)
	if err != nil {
		return b, err
	}
	if sum != b.SHA256 || size != b.Size {
		return b, &DamagedError{Path: k.Path, Why: "is not what was built (its SHA-256 differs)"}
	}
	return b, nil
}

func hashFile(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// publish makes a finished folder the cache's, in one step.
func publish(cache, key, place string, b Built) error {
	text, err := json.MarshalIndent(b, "", " ")
	if err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(place, recordName), append(text, '\n')); err != nil {
		return err
	}
	to := filepath.Join(cache, key)
	// A damaged one may be there; a whole one cannot, under the lock.
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return os.Rename(place, to)
}

func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// lock waits for the builder of the same kernel. The file stays: removing it
// would let a third builder lock another one of the same name.
func lock(ctx context.Context, path string, waiting func()) (unlock func(), waited bool, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, false, &CacheError{err}
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, waited, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return nil, waited, fmt.Errorf("locking %s: %w", path, err)
		}
		if !waited {
			waited = true
			waiting()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, waited, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// sweep removes what killed builders left: those of this key, whose lock is
// held, and those of others whose lock nobody holds.
func sweep(dir, key string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		of, _, ok := strings.Cut(e.Name(), partial)
		if !ok {
			continue
		}
		stale := func() { os.RemoveAll(filepath.Join(dir, e.Name())) }
		if of == key {
			stale()
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, of+".lock"), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			stale()
		}
		f.Close()
	}
}

// roomy asks before ten minutes of work, not after.
func roomy(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < spaceNeeded {
		return &SpaceError{dir, free}
	}
	return nil
}

// executes runs a script there: a mount's flags are not the only thing that
// can forbid it.
func executes(dir string) error {
	p := filepath.Join(dir, "try")
	if err := os.WriteFile(p, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		return noSpace(err, dir)
	}
	defer os.Remove(p)
	_, err := run(context.Background(), dir, nil, nil, p)
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		return &NoExecError{dir, errors.Unwrap(err)}
	}
	return err
}

// noSpace turns what a full disk causes into an error that says so.
func noSpace(err error, dir string) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &SpaceError{dir, -1}
	}
	var be *BuildError
	if errors.As(err, &be) {
		for _, s := range be.Said {
			if strings.Contains(s, "No space left on device") || strings.Contains(s, "Disk quota exceeded") {
				return &SpaceError{dir, -1}
			}
		}
	}
	return err
}
