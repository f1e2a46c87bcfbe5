package results

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrNewerSchema is what Load gives for a record of a higher major version.
var ErrNewerSchema = errors.New("written by a newer tcplab")

// partial marks the folder of a run that has not ended: no reader takes it
// for a record.
const partial = ".partial"

// A Folder is a run's folder while it is being written. It has a temporary
// name until Commit gives it its own, so that a killed run never leaves what a
// later command reads as whole.
type Folder struct {
	Path  string // where to write now
	final string
	lock  *os.File // held while the run lives, so that a dead one's folder can be told
}

const lockName = ".running"

// NewFolder makes root/<experiment>/<time>.partial.
func NewFolder(root, experiment string, at time.Time) (*Folder, error) {
	base := filepath.Join(root, experiment)
	if err := os.MkdirAll(base, 0o777); err != nil {
		return nil, fmt.Errorf("the results folder cannot be written: %w; name another with --results DIR", err)
	}
	if err := sweep(base); err != nil {
		return nil, err
	}
	stamp := at.UTC().Format("20060102T150405.000")
	for i := 0; ; i++ {
		name := stamp
		if i > 0 {
			name += "-" + strconv.Itoa(i)
		}
		f := &Folder{final: filepath.Join(base, name)}
		f.Path = f.final + partial
		if _, err := os.Lstat(f.final); err == nil {
			continue
		}
		err := os.Mkdir(f.Path, 0o777)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("the results folder cannot be written: %w; name another with --results DIR", err)
		}
		f.lock, err = hold(filepath.Join(f.Path, lockName))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("the results folder cannot be written: %w; name another with --results DIR", err), f.Discard())
		}
		return f, nil
	}
}

// hold takes the lock of a folder; the kernel lets go of it with the process.
func hold(name string) (*os.File, error) {
	l, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(l.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// sweep removes what killed runs of an experiment left: folders without a
// record whose lock nobody holds.
func sweep(base string) error {
	left, err := filepath.Glob(filepath.Join(base, "*"+partial))
	if err != nil {
		return err
	}
	for _, dir := range left {
		l, err := hold(filepath.Join(dir, lockName))
		if err != nil {
			continue // it runs
		}
		err = os.RemoveAll(dir)
		l.Close()
		if err != nil {
			return fmt.Errorf("what a killed run left cannot be removed: %w", err)
		}
	}
	return nil
}

// Commit gives the folder its final name and points latest to it.
func (f *Folder) Commit() (string, error) {
	if err := os.Remove(filepath.Join(f.Path, lockName)); err != nil {
		return f.Path, fmt.Errorf("record: %w", err)
	}
	defer f.lock.Close()
	if err := os.Rename(f.Path, f.final); err != nil {
		return f.Path, fmt.Errorf("record: %w", err)
	}
	f.Path = f.final
	latest := filepath.Join(filepath.Dir(f.final), "latest")
	tmp := latest + "." + strconv.Itoa(os.Getpid())
	if err := os.Symlink(filepath.Base(f.final), tmp); err != nil {
		return f.final, fmt.Errorf("latest: %w", err)
	}
	if err := os.Rename(tmp, latest); err != nil {
		os.Remove(tmp)
		return f.final, fmt.Errorf("latest: %w", err)
	}
	return f.final, nil
}

// Discard removes an uncommitted folder.
func (f *Folder) Discard() error {
	err := os.RemoveAll(f.Path)
	if f.lock != nil {
		err = errors.Join(err, f.lock.Close())
	}
	return err
}

// WriteFile writes to a temporary name, syncs and renames: either the whole
// file is there, or none of it.
func WriteFile(name string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}

// Save writes run.json into dir.
func Save(dir string, r *Run) error {
	r.Schema = Schema
	r.fillEmpty()
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("run.json: %w", err)
	}
	if err := WriteFile(filepath.Join(dir, "run.json"), append(data, '\n')); err != nil {
		return fmt.Errorf("run.json: %w", err)
	}
	return nil
}

// fillEmpty makes what is empty an empty list or map: a reader need not tell
// null from it.
func (r *Run) fillEmpty() {
	list(&r.Warnings)
	list(&r.Command)
	list(&r.Seeds.Pairs)
	dict(&r.Environment.Wires)
	dict(&r.Predictions)
	dict(&r.Expectations)
	dict(&r.Arms)
	for name, a := range r.Arms {
		dict(&a.Levers)
		dict(&a.Metrics)
		list(&a.Trials)
		for i := range a.Trials {
			t := &a.Trials[i]
			dict(&t.Metrics)
			list(&t.Files)
			list(&t.Columns)
			list(&t.Agents)
			list(&t.Hosts)
			list(&t.Wires)
			for j := range t.Hosts {
				dict(&t.Hosts[j].Sysctls)
				dict(&t.Hosts[j].Address)
				dict(&t.Hosts[j].Counters)
			}
			for j := range t.Wires {
				dict(&t.Wires[j].Directions)
			}
		}
		r.Arms[name] = a
	}
}

func list[T any](s *[]T) {
	if *s == nil {
		*s = []T{}
	}
}

func dict[T any](m *map[string]T) {
	if *m == nil {
		*m = map[string]T{}
	}
}

// Load reads the record in dir (a run's folder, its run.json, or a link to it).
func Load(dir string) (*Run, error) {
	if filepath.Base(dir) == "run.json" {
		dir = filepath.Dir(dir)
	}
	if strings.HasSuffix(filepath.Clean(dir), partial) {
		return nil, fmt.Errorf("%s is a run that did not end: it has no record", dir)
	}
	data, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if err != nil {
		return nil, fmt.Errorf("no record there: %w", err)
	}
	var head struct{ Schema string }
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("%s/run.json is no record: %w", dir, err)
	}
	name, major, _ := strings.Cut(head.Schema, "/")
	n, err := strconv.Atoi(major)
	if name != "tcplab.run" || err != nil {
		return nil, fmt.Errorf("%s/run.json is no record: schema %q", dir, head.Schema)
	}
	if n > 1 {
		return nil, fmt.Errorf("%s/run.json: schema %s: %w; read it with that version", dir, head.Schema, ErrNewerSchema)
	}
	var r Run
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s/run.json: %w", dir, err)
	}
	return &r, nil
}

// Find says which folder a user means: a path, EXPERIMENT (its latest), or
// EXPERIMENT/TIME below root.
func Find(root, what string) (string, error) {
	for _, p := range []string{what, filepath.Join(root, what), filepath.Join(root, what, "latest")} {
		p = strings.TrimSuffix(p, "/run.json")
		if _, err := os.Stat(filepath.Join(p, "run.json")); err == nil {
			return filepath.EvalSymlinks(p)
		}
	}
	return "", fmt.Errorf("no run %q: name a run's folder, or an experiment that has run (%s)", what, strings.Join(experiments(root), ", "))
}

func experiments(root string) []string {
	var names []string
	es, _ := os.ReadDir(root)
	for _, e := range es {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	if names == nil {
		return []string{"none so far in " + root}
	}
	return names
}

// Prune removes all but the newest keep runs of each experiment below root,
// and what killed runs left. It gives back what it removed.
func Prune(root string, keep int) ([]string, error) {
	var gone []string
	es, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range es {
		if !e.IsDir() {
			continue
		}
		base := filepath.Join(root, e.Name())
		if err := sweep(base); err != nil {
			return gone, err
		}
		rs, err := os.ReadDir(base)
		if err != nil {
			return gone, err
		}
		var whole, drop []string
		for _, r := range rs {
			switch {
			case !r.IsDir():
			case strings.HasSuffix(r.Name(), partial):
				// sweep's
			default:
				if _, err := os.Stat(filepath.Join(base, r.Name(), "run.json")); err == nil {
					whole = append(whole, r.Name())
				}
			}
		}
		sort.Strings(whole)
		if n := len(whole) - keep; n > 0 {
			drop = append(drop, whole[:n]...)
		}
		for _, d := range drop {
			p := filepath.Join(base, d)
			if err := os.RemoveAll(p); err != nil {
				return gone, err
			}
			gone = append(gone, p)
		}
	}
	return gone, nil
}

// DigestFile describes the file name in dir.
func DigestFile(dir, name string) (File, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return File{}, err
	}
	return File{Name: name, SHA256: hex.EncodeToString(h.Sum(nil)), Bytes: n}, nil
}

// Digest is one SHA-256 over what the trials left: the file names and digests
// of each, in order of execution. What the system's own tools said is no part
// of it: they differ from machine to machine.
func Digest(trials []Trial) string {
	var b bytes.Buffer
	for _, t := range trials {
		fmt.Fprintf(&b, "%d %s %d\n", t.Number, t.Arm, t.Seed)
		for _, f := range t.Files {
			if f.Name == SocketsFile {
				continue
			}
			fmt.Fprintf(&b, " %s %s\n", f.Name, f.SHA256)
		}
	}
	s := sha256.Sum256(b.Bytes())
	return "sha256:" + hex.EncodeToString(s[:])
}

// All lists the folders of all records below root: those of runs that ended.
func All(root string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(root, "*", "*", "run.json"))
	var out []string
	for _, f := range files {
		dir := filepath.Dir(f)
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() || strings.HasSuffix(dir, partial) {
			continue // latest is a link
		}
		out = append(out, dir)
	}
	return out, err
}
