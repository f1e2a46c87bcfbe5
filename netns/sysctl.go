package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What can be wrong with a sysctl; a *SysctlError wraps one of them.
var (
	// ErrNoSysctl: this kernel has no such key in a network namespace.
	ErrNoSysctl = errors.New("this kernel has no such key in a network namespace")
	// ErrSysctlReadOnly: the key belongs to the whole machine, or a plain
	// user may not set it in a user namespace.
	ErrSysctlReadOnly = errors.New("it cannot be set from a network namespace without more privileges")
	// ErrSysctlRefused: the kernel rejected the value.
	ErrSysctlRefused = errors.New("the kernel refused the value")
	// ErrSysctlMismatch: the kernel took another value than the one written.
	ErrSysctlMismatch = errors.New("the kernel has another value than the one written")
	// ErrSysctlScope: the key is not under net, and so is not a host's.
	ErrSysctlScope = errors.New("only keys under net belong to a host; the whole kernel's go under kernel: {sysctl: …}")
)

// SysctlError says which key of which host was not set, and why.
type SysctlError struct {
	Host, Key, Wanted string
	Got               string // what was read back, "" if nothing could be
	Reason            error  // one of the sentinels above
	Err               error  // the system call's error, nil on a mismatch
}

func (e *SysctlError) Error() string {
	s := fmt.Sprintf("host %s: sysctl %s: wanted %q", e.Host, e.Key, e.Wanted)
	if e.Got != "" {
		s += fmt.Sprintf(", it is %q", e.Got)
	}
	s += ": " + e.Reason.Error()
	if e.Err != nil {
		s += fmt.Sprintf(" (%v)", e.Err)
	}
	return s
}

func (e *SysctlError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Reason}
	}
	return []error{e.Reason, e.Err}
}

// SetSysctls writes each key inside the host and reads it back. Keys are
// written with dots (net.ipv4.tcp_fin_timeout) or slashes, as in sysctl(8);
// fields of a value may be parted by any white space. It goes on after an
// error: readBack has what the host has now for every key that could be read,
// and err joins one *SysctlError for each that was not set.
func (h *Host) SetSysctls(want map[string]string) (readBack map[string]string, err error) {
	readBack = make(map[string]string, len(want))
	var errs []error
	err = h.Do(func() error {
		for _, key := range sysctlOrder(want) {
			got, err := writeSysctl(h.Name, key, want[key])
			if err != nil {
				errs = append(errs, err)
			}
			if got != "" || err == nil {
				readBack[key] = got
			}
		}
		return nil
	})
	return readBack, errors.Join(append(errs, err)...)
}

// Sysctl reads one key inside the host, its fields parted by single blanks.
func (h *Host) Sysctl(key string) (value string, err error) {
	err = h.Do(func() error {
		path, err := sysctlPath(key)
		if err != nil {
			return &SysctlError{Host: h.Name, Key: key, Reason: err}
		}
		value, err = readSysctl(path)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("host %s: sysctl %s: %w", h.Name, key, ErrNoSysctl)
		}
		return err
	})
	return value, err
}

// sysctlOrder sorts keys so that the result does not depend on map order, and
// puts ip_forward first: writing it rewrites the forwarding and redirect keys
// of every interface (Documentation/networking/ip-sysctl.rst), which must not
// undo what was asked for.
func sysctlOrder(want map[string]string) []string {
	return slices.SortedFunc(maps.Keys(want), func(a, b string) int {
		fa, fb := strings.HasSuffix(a, "ip_forward"), strings.HasSuffix(b, "ip_forward")
		switch {
		case fa && !fb:
			return -1
		case fb && !fa:
			return 1
		}
		return strings.Compare(a, b)
	})
}

// sysctlPath is the file of a key. As in sysctl(8), the first separator
// decides: after a dot, slashes stand for dots inside a name
// (net.ipv4.conf.eth0/1.forwarding).
func sysctlPath(key string) (string, error) {
	path := key
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
		path = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, key)
	}
	if !strings.HasPrefix(path, "net/") || !fs.ValidPath(path) || strings.ContainsRune(path, 0) {
		return "", ErrSysctlScope
	}
	return "/proc/sys/" + path, nil
}

func readSysctl(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return sysctlFields(string(b)), nil
}

func sysctlFields(s string) string { return strings.Join(strings.Fields(s), " ") }

// writeSysctl sets one key in the calling thread's namespace and returns what
// it reads back, also where that is not what was wanted. A key that has the
// value already is not written, so that a read-only /proc/sys is no error
// where nothing has to change.
func writeSysctl(host, key, want string) (got string, err error) {
	want = sysctlFields(want)
	e := &SysctlError{Host: host, Key: key, Wanted: want}
	path, err := sysctlPath(key)
	if err != nil {
		e.Reason = err
		return "", e
	}
	got, readErr := readSysctl(path)
	if errors.Is(readErr, fs.ErrNotExist) {
		e.Reason = ErrNoSysctl
		return "", e
	}
	if readErr == nil && got == want {
		return got, nil
	}
	writeErr := writeFile(path, want+"\n")
	if writeErr != nil {
		e.Got, e.Err = got, writeErr
		switch {
		case errors.Is(writeErr, unix.EACCES), errors.Is(writeErr, unix.EPERM), errors.Is(writeErr, unix.EROFS):
			e.Reason = ErrSysctlReadOnly
		default:
			e.Reason = ErrSysctlRefused
		}
		return got, e
	}
	got, readErr = readSysctl(path)
	if readErr != nil {
		e.Reason, e.Err = ErrSysctlMismatch, readErr
		return "", e
	}
	if got != want {
		e.Got, e.Reason = got, ErrSysctlMismatch
		return got, e
	}
	return got, nil
}

// writeFile writes in one write(2), as sysctls need, and never creates.
func writeFile(path, s string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(s)
	return errors.Join(err, f.Close())
}
