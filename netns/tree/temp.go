package tree

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tempPrefix = "tcplab-"
	// ownerFile is in every temporary folder of ours and says whose it is. It
	// is locked (flock) for as long as the outer process or init lives, which
	// holds across PID namespaces, where a process number would not.
	ownerFile  = "owner.json"
	ownerKind  = "tcplab.run-folder/1"
	orphanedBy = time.Minute
)

// tempName is what os.MkdirTemp makes of tempPrefix.
var tempName = regexp.MustCompile(`^` + tempPrefix + `[0-9]+$`)

// Owner is what a temporary folder says about its run.
type Owner struct {
	Kind string `json:"kind"`
	// PID is the outer process, in its own PID namespace.
	PID int `json:"pid"`
	// Start is that process's start in clock ticks since boot
	// (/proc/PID/stat, field 22), which tells it from a later one with its
	// number; 0 where it cannot be read.
	Start   uint64    `json:"start"`
	Began   time.Time `json:"began"`
	Command []string  `json:"command"`
}

// makeTemp makes a folder that only this user can read, with a locked owner
// file. The lock ends when all duplicates of the returned file are closed.
func makeTemp() (dir string, owner *os.File, err error) {
	dir, err = os.MkdirTemp("", tempPrefix+"*")
	if err != nil {
		return "", nil, fmt.Errorf("make a temporary folder (TMPDIR chooses where): %w", err)
	}
	owner, err = writeOwner(dir)
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("temporary folder %s: %w", dir, err), os.RemoveAll(dir))
	}
	return dir, owner, nil
}

// writeOwner makes the file appear with its lock already held.
func writeOwner(dir string) (*os.File, error) {
	unnamed := filepath.Join(dir, ownerFile+".new")
	f, err := os.OpenFile(unnamed, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	err = func() error {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return fmt.Errorf("lock %s: %w", ownerFile, err)
		}
		o := Owner{Kind: ownerKind, PID: os.Getpid(), Start: startTime(), Began: time.Now().UTC().Truncate(time.Second), Command: os.Args}
		if err := json.NewEncoder(f).Encode(o); err != nil {
			return err
		}
		return os.Rename(unnamed, filepath.Join(dir, ownerFile))
	}()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// startTime is field 22 of /proc/self/stat; the name in field 2 may have
// blanks and parentheses.
func startTime() uint64 {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return 0
	}
	var ticks uint64
	if _, err := fmt.Sscan(fields[19], &ticks); err != nil {
		return 0
	}
	return ticks
}

// folder is a temporary folder of this user's in $TMPDIR.
type folder struct {
	dir   string
	owner Owner
	file  *os.File // the open owner file, nil where there is none
	born  time.Time
}

// folders lists this user's, each with its owner file open: close them.
func folders() ([]folder, error) {
	entries, err := os.ReadDir(os.TempDir())
	if err != nil {
		return nil, err
	}
	var list []folder
	for _, e := range entries {
		if !tempName.MatchString(e.Name()) || !e.IsDir() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // removed meanwhile
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
			continue
		}
		f := folder{dir: filepath.Join(os.TempDir(), e.Name()), born: info.ModTime()}
		f.file, err = os.OpenFile(filepath.Join(f.dir, ownerFile), os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err == nil {
			if json.NewDecoder(f.file).Decode(&f.owner) != nil || f.owner.Kind != ownerKind {
				f.file.Close()
				continue // a folder of somebody else's with a name like ours
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		list = append(list, f)
	}
	return list, nil
}

// alive tells whether a process of the run still holds the lock.
func (f folder) alive() bool {
	if f.file == nil {
		return false
	}
	err := unix.Flock(int(f.file.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if err == nil {
		// Let go at once: a shared lock would hide the folder from a sweep.
		unix.Flock(int(f.file.Fd()), unix.LOCK_UN)
	}
	return err != nil
}

// Sweep removes the temporary folders of this user's dead runs, which only a
// SIGKILL of the outer process and of init together leaves behind, and returns
// their paths.
func Sweep() (removed []string, err error) {
	list, err := folders()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, f := range list {
		switch {
		case f.file == nil:
			// Died before it said whose it is. Only an empty folder goes, so
			// that nobody's own folder can.
			if time.Since(f.born) > orphanedBy && os.Remove(f.dir) == nil {
				removed = append(removed, f.dir)
			}
			continue
		case unix.Flock(int(f.file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil:
			if err := os.RemoveAll(f.dir); err != nil {
				errs = append(errs, err)
			} else {
				removed = append(removed, f.dir)
			}
		}
		f.file.Close()
	}
	return removed, errors.Join(errs...)
}
