package kernel

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Env names a kernel of the user's own, which is taken as it is.
const Env = "TCPLAB_KERNEL"

// Kernel is a guest kernel that is there to be booted.
type Kernel struct {
	Path    string // absolute
	Version string // of Linux, such as 6.12.117
	ID      string // first 12 hex digits of the binary's SHA-256: equal IDs, equal bits
}

// NotBuiltError says that no kernel of this recipe is in the cache.
type NotBuiltError struct {
	Dir   string // the cache that was looked into
	Other string // a kernel of another recipe that is there, if any
}

func (e *NotBuiltError) Error() string {
	if e.Other != "" {
		return fmt.Sprintf("the guest kernel is not built: %s has one of other config or patches (%s). %s", e.Dir, e.Other, advice)
	}
	return fmt.Sprintf("the guest kernel is not built: none in %s. %s", e.Dir, advice)
}

const advice = "Build it once with `make kernel` or `tcplab kernel build` (some 4 minutes), or name one in $" + Env

// DamagedError is a file that cannot be booted as a guest.
type DamagedError struct {
	Path string
	Why  string
	Own  bool // the user named it
}

func (e *DamagedError) Error() string {
	if e.Own {
		return fmt.Sprintf("$%s=%s %s: name a user-mode Linux built for x86-64, or unset it", Env, e.Path, e.Why)
	}
	return fmt.Sprintf("the guest kernel %s %s: build it again with `tcplab kernel build`", e.Path, e.Why)
}

// UnsupportedError is a machine on which no guest kernel runs.
type UnsupportedError struct{ Arch string }

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("the guest kernel, and with it the virtual clock, needs an x86-64 machine; this is %s. --kernel=host --clock=real works here", e.Arch)
}

// CacheError is a user without a place to keep a kernel.
type CacheError struct{ Err error }

func (e *CacheError) Error() string {
	return fmt.Sprintf("no place for the guest kernel: %v; set XDG_CACHE_HOME to a folder that you may write to", e.Err)
}

func (e *CacheError) Unwrap() error { return e.Err }

// Built is kernel.json, beside a kernel in the cache.
type Built struct {
	Version  string    `json:"version"`
	SHA256   string    `json:"sha256"`
	Size     int64     `json:"size"`
	Key      string    `json:"key"`    // names the folder: source and recipe
	Recipe   string    `json:"recipe"` // hash of config, patches and build steps
	Config   string    `json:"config_sha256"`
	Patches  []string  `json:"patches"`
	Source   string    `json:"source"`
	Compiler string    `json:"compiler"`
	At       time.Time `json:"built"`
	Seconds  float64   `json:"seconds"`
	Objects  int       `json:"objects"`
}

const (
	binaryName = "linux"
	recordName = "kernel.json"
)

// CacheDir is where kernels are kept, a folder each.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", &CacheError{err}
	}
	return filepath.Join(dir, "tcplab", "kernel"), nil
}

// Find is the kernel that guests boot: the one that $TCPLAB_KERNEL names, or
// the one of this recipe that Build returned last. It looks at size and ELF header, so that
// a truncated file is found here; Verify reads it all.
func Find() (Kernel, error) {
	if err := onX86(runtime.GOARCH); err != nil {
		return Kernel{}, err
	}
	if own := os.Getenv(Env); own != "" {
		return inspect(own)
	}
	dir, err := CacheDir()
	if err != nil {
		return Kernel{}, err
	}
	return findIn(dir, Recipe())
}

func onX86(arch string) error {
	if arch != "amd64" {
		return &UnsupportedError{arch}
	}
	return nil
}

func findIn(dir, recipe string) (Kernel, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, &CacheError{err}
	}
	var best Built
	var latest time.Time
	missing := &NotBuiltError{Dir: dir}
	for _, e := range entries {
		if !e.IsDir() || strings.Contains(e.Name(), partial) {
			continue
		}
		b, err := readRecord(filepath.Join(dir, e.Name()))
		if err != nil || b.Key != e.Name() {
			continue // not ours, or not whole: as good as not built
		}
		if b.Recipe != recipe {
			missing.Other = b.Key
			continue
		}
		if at := chosen(filepath.Join(dir, b.Key)); best.Key == "" || at.After(latest) {
			best, latest = b, at
		}
	}
	if best.Key == "" {
		return Kernel{}, missing
	}
	return best.open(dir)
}

// chosen is when Build last returned that kernel: of two sources the last one
// asked for counts, also if the other was built later.
func chosen(dir string) time.Time {
	st, err := os.Stat(filepath.Join(dir, recordName))
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}

func choose(dir string) error {
	now := time.Now()
	return os.Chtimes(filepath.Join(dir, recordName), now, now)
}

// open checks what can be checked without reading the whole file.
func (b Built) open(cache string) (Kernel, error) {
	path := filepath.Join(cache, b.Key, binaryName)
	st, err := os.Stat(path)
	if err != nil {
		return Kernel{}, &DamagedError{Path: path, Why: "is not there: " + errors.Unwrap(err).Error()}
	}
	if st.Size() != b.Size {
		return Kernel{}, &DamagedError{Path: path, Why: fmt.Sprintf("has %d bytes of %d", st.Size(), b.Size)}
	}
	if why := notAGuest(path); why != "" {
		return Kernel{}, &DamagedError{Path: path, Why: why}
	}
	return Kernel{Path: path, Version: b.Version, ID: b.SHA256[:12]}, nil
}

func readRecord(dir string) (Built, error) {
	var b Built
	text, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return b, err
	}
	if err := json.Unmarshal(text, &b); err != nil {
		return b, err
	}
	if len(b.SHA256) != 64 || b.Size <= 0 || b.Key == "" {
		return b, fmt.Errorf("%s in %s is not whole", recordName, dir)
	}
	return b, nil
}

// inspect takes a kernel about which nothing is recorded, so it is read.
func inspect(path string) (Kernel, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Kernel{}, err
	}
	st, err := os.Stat(abs)
	switch {
	case err != nil:
		return Kernel{}, &DamagedError{Path: path, Own: true, Why: "cannot be read: " + errors.Unwrap(err).Error()}
	case !st.Mode().IsRegular():
		return Kernel{}, &DamagedError{Path: path, Own: true, Why: "is no file"}
	case st.Mode()&0o111 == 0:
		return Kernel{}, &DamagedError{Path: path, Own: true, Why: "is not executable (chmod +x)"}
	}
	if why := notAGuest(abs); why != "" {
		return Kernel{}, &DamagedError{Path: path, Own: true, Why: why}
	}
	text, err := os.ReadFile(abs)
	if err != nil {
		return Kernel{}, &DamagedError{Path: path, Own: true, Why: "cannot be read: " + errors.Unwrap(err).Error()}
	}
	version := bannerVersion(text)
	if version == "" || !bytes.Contains(text, []byte("User Mode Linux")) {
		return Kernel{}, &DamagedError{Path: path, Own: true, Why: "is no user-mode Linux"}
	}
	sum := sha256.Sum256(text)
	return Kernel{Path: abs, Version: version, ID: hex.EncodeToString(sum[:6])}, nil
}

// bannerVersion reads linux_banner (init/version.c).
func bannerVersion(text []byte) string {
	const head = "Linux version "
	for rest := text; ; {
		_, after, found := bytes.Cut(rest, []byte(head))
		if !found {
			return ""
		}
		v, _, _ := bytes.Cut(after[:min(len(after), 64)], []byte(" "))
		if len(v) > 0 && v[0] >= '0' && v[0] <= '9' {
			return string(v)
		}
		rest = after
	}
}

// notAGuest says why a file cannot be a guest kernel, going by its headers; ""
// if it can. A program's section headers stand at its end, so a truncated file
// does not parse.
func notAGuest(path string) string {
	f, err := elf.Open(path)
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			return "cannot be read: " + pe.Err.Error()
		}
		return "is truncated, or no ELF program"
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 || f.Class != elf.ELFCLASS64 {
		return fmt.Sprintf("is for %s, not for x86-64", strings.TrimPrefix(f.Machine.String(), "EM_"))
	}
	if !slices.Contains([]elf.Type{elf.ET_EXEC, elf.ET_DYN}, f.Type) {
		return "is no program (" + f.Type.String() + ")"
	}
	return ""
}
