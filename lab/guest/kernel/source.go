package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// SourceEnv names a source other than Debian's.
const SourceEnv = "KERNEL_SRC"

// debianSource is what the package linux-source-6.12 brings.
const debianSource = "/usr/src/linux-source-6.12.tar.xz"

// SourceError is a source that cannot become a guest kernel.
type SourceError struct {
	Path string
	Why  string
}

func (e *SourceError) Error() string {
	return fmt.Sprintf("%s %s; %s names the unpacked source of Linux 6.12, or its .tar.xz", e.Path, e.Why, SourceEnv)
}

// kept says which files of Linux the guest is built from: every Kconfig and
// Makefile, since all are read, and the rest only where something is compiled.
// A tenth of a gigabyte instead of one and a half.
func kept(p string) bool {
	base := path.Base(p)
	for _, head := range []string{"Kconfig", "Makefile", "Kbuild"} {
		if strings.HasPrefix(base, head) {
			return true
		}
	}
	dir, rest, _ := strings.Cut(p, "/")
	sub, _, below := strings.Cut(rest, "/")
	switch dir {
	case "Documentation", "samples", "sound", "rust", "LICENSES", "virt", "block", "certs":
		return false
	case "arch":
		return sub == "um" || sub == "x86" && !strings.HasPrefix(rest, "x86/kvm/")
	case "drivers":
		switch sub {
		case "base", "char", "tty":
			return true
		case "net":
			return strings.Count(rest, "/") == 1
		}
		return false
	case "fs":
		switch sub {
		case "hostfs", "proc", "sysfs", "kernfs", "ramfs", "notify", "devpts", "debugfs", "iomap", "crypto", "verity", "quota", "nls":
			return true
		}
		return !below
	case "tools":
		return strings.HasPrefix(rest, "include/") || strings.HasPrefix(rest, "arch/x86/include/")
	case "net":
		return sub != "mac80211" && sub != "wireless" && sub != "bluetooth"
	}
	return true
}

// source is a tree or an archive of Linux.
type source struct {
	path    string
	archive bool
	// fingerprint hashes the content: of an archive all, of a tree what is kept.
	fingerprint string
	version     string // known only after unpacking, of an archive
}

// findSource looks at $KERNEL_SRC, or for Debian's package.
func findSource(own string) (source, error) {
	s := source{path: own}
	if own == "" {
		s.path = debianSource
	}
	st, err := os.Stat(s.path)
	if err != nil {
		return s, &SourceError{s.path, "cannot be read: " + errors.Unwrap(err).Error()}
	}
	if s.path, err = filepath.Abs(s.path); err != nil {
		return s, err
	}
	h := sha256.New()
	if st.IsDir() {
		if s.version, err = versionOf(os.DirFS(s.path)); err != nil {
			return s, &SourceError{s.path, err.Error()}
		}
		fmt.Fprintf(h, "%s\n", s.version)
		err = s.walk(func(name string, d fs.DirEntry) error {
			if d.Type()&fs.ModeSymlink != 0 {
				to, err := os.Readlink(filepath.Join(s.path, name))
				fmt.Fprintf(h, "%s -> %s\n", name, to)
				return err
			}
			f, err := os.Open(filepath.Join(s.path, name))
			if err != nil {
				return err
			}
			defer f.Close()
			sum := sha256.New()
			n, err := io.Copy(sum, f)
			fmt.Fprintf(h, "%s %d %x\n", name, n, sum.Sum(nil))
			return err
		})
	} else {
		s.archive = true
		var f *os.File
		if f, err = os.Open(s.path); err != nil {
			return s, &SourceError{s.path, "cannot be read: " + errors.Unwrap(err).Error()}
		}
		defer f.Close()
		magic := make([]byte, 6)
		if _, err := io.ReadFull(f, magic); err != nil || !bytes.Equal(magic, []byte("\xfd7zXZ\x00")) {
			return s, &SourceError{s.path, "is neither a folder nor a .tar.xz"}
		}
		h.Write(magic)
		_, err = io.Copy(h, f)
	}
	if err != nil {
		return s, fmt.Errorf("reading the kernel source: %w", err)
	}
	s.fingerprint = hex.EncodeToString(h.Sum(nil))
	return s, nil
}

// walk visits what is kept of a tree, in lexical order, without what an earlier
// build left in it.
func (s source) walk(visit func(name string, d fs.DirEntry) error) error {
	return filepath.WalkDir(s.path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(s.path, p)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if d.IsDir() {
			switch name {
			case ".git", "include/config", "include/generated", "arch/x86/include/generated", "arch/um/include/generated":
				return fs.SkipDir
			}
			return nil
		}
		if built(name) || !kept(name) || (!d.Type().IsRegular() && d.Type()&fs.ModeSymlink == 0) {
			return nil
		}
		return visit(name, d)
	})
}

// built says what an earlier build in the same tree left: kbuild calls such a
// source not clean.
func built(name string) bool {
	base := path.Base(name)
	switch path.Ext(base) {
	case ".o", ".a", ".cmd", ".ko", ".order", ".symvers":
		return true
	}
	return strings.HasPrefix(base, ".config") || name == "vmlinux" || name == "linux" || name == "System.map"
}

var versionLine = regexp.MustCompile(`(?m)^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(\S*)$`)

// versionOf reads the top Makefile, and looks for what must be there.
func versionOf(tree fs.FS) (string, error) {
	text, err := fs.ReadFile(tree, "Makefile")
	if err != nil {
		return "", errors.New("is no kernel source (no Makefile)")
	}
	v := map[string]string{}
	for _, m := range versionLine.FindAllStringSubmatch(string(text), -1) {
		if _, twice := v[m[1]]; !twice {
			v[m[1]] = m[2]
		}
	}
	if v["VERSION"] == "" || v["PATCHLEVEL"] == "" {
		return "", errors.New("is no kernel source (its Makefile names no VERSION)")
	}
	if _, err := fs.Stat(tree, "arch/um/Makefile"); err != nil {
		return "", errors.New("is no whole kernel source (no arch/um)")
	}
	version := v["VERSION"] + "." + v["PATCHLEVEL"]
	if v["SUBLEVEL"] != "" {
		version += "." + v["SUBLEVEL"]
	}
	return version + v["EXTRAVERSION"], nil
}

// unpack brings what is kept into an empty folder and returns the version.
// Whatever the archive's names say, nothing is written outside of it.
func (s source) unpack(ctx context.Context, to string, progress func(done, total int64)) (string, error) {
	root, err := os.OpenRoot(to)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if s.archive {
		err = s.untar(ctx, root, progress)
	} else {
		err = s.copyTree(ctx, root)
	}
	if err != nil {
		return "", err
	}
	v, err := versionOf(root.FS())
	if err != nil {
		return "", &SourceError{s.path, err.Error()}
	}
	return v, nil
}

func (s source) untar(ctx context.Context, root *os.Root, progress func(done, total int64)) error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	size := int64(0)
	if st, err := f.Stat(); err == nil {
		size = st.Size()
	}
	var said bytes.Buffer
	xz := exec.CommandContext(ctx, "xz", "--decompress", "--stdout", "--threads=0")
	xz.Stdin, xz.Stderr = f, &said
	out, err := xz.StdoutPipe()
	if err != nil {
		return err
	}
	if err := xz.Start(); err != nil {
		return err
	}
	rerr := untarInto(root, out, func() {
		if at, err := f.Seek(0, io.SeekCurrent); err == nil { // xz reads through the same offset
			progress(at, size)
		}
	})
	if rerr == nil {
		_, rerr = io.Copy(io.Discard, out)
	} else {
		out.Close() // xz ends by SIGPIPE
	}
	werr := xz.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case rerr != nil && said.Len() == 0:
		if errors.Is(rerr, tar.ErrHeader) {
			return &SourceError{s.path, "is no tar archive inside"}
		}
		return rerr
	case werr != nil:
		return &SourceError{s.path, "does not unpack: " + strings.TrimSpace(said.String())}
	}
	return rerr
}

func untarInto(root *os.Root, in io.Reader, tick func()) error {
	made := map[string]bool{".": true}
	mkdir := func(dir string) error {
		if made[dir] {
			return nil
		}
		made[dir] = true
		return root.MkdirAll(dir, 0o755)
	}
	r := tar.NewReader(in)
	for n := 0; ; n++ {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n%500 == 0 {
			tick()
		}
		// Below the one folder that such archives have.
		_, name, ok := strings.Cut(path.Clean(strings.TrimPrefix(h.Name, "./")), "/")
		if !ok || !kept(name) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			if err := mkdir(path.Dir(name)); err != nil {
				return err
			}
			if err := write(root, name, r, h.FileInfo().Mode()); err != nil {
				return err
			}
		case tar.TypeSymlink:
			if err := mkdir(path.Dir(name)); err != nil {
				return err
			}
			if err := root.Symlink(h.Linkname, name); err != nil {
				return err
			}
		}
	}
}

func write(root *os.Root, name string, from io.Reader, mode fs.FileMode) error {
	perm := fs.FileMode(0o644)
	if mode&0o100 != 0 {
		perm = 0o755
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, from); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func (s source) copyTree(ctx context.Context, root *os.Root) error {
	return s.walk(func(name string, d fs.DirEntry) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		from := filepath.Join(s.path, name)
		if d.Type()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(from)
			if err != nil {
				return err
			}
			return root.Symlink(to, name)
		}
		f, err := os.Open(from)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		return write(root, name, f, st.Mode())
	})
}
