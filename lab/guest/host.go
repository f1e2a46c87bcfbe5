package guest

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// noRandomize is ADDR_NO_RANDOMIZE of personality(2).
const noRandomize = 0x0040000

// settle prepares the calling thread, whose attributes the guest inherits: one
// CPU, since user-mode Linux's processes take turns and migrating them costs a
// factor of three, and no address space randomisation, since the heap's start
// is part of what the guest counts as memory. It says what could not be had.
func settle(cpu int) (notRepeatable string) {
	var mine unix.CPUSet
	if unix.SchedGetaffinity(0, &mine) == nil && mine.Count() > 0 {
		nth := cpu % mine.Count()
		for c := 0; ; c++ {
			if !mine.IsSet(c) {
				continue
			}
			if nth == 0 {
				var one unix.CPUSet
				one.Set(c)
				_ = unix.SchedSetaffinity(0, &one) // slower without
				break
			}
			nth--
		}
	}
	before, _, errno := unix.Syscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
	if errno == 0 {
		_, _, errno = unix.Syscall(unix.SYS_PERSONALITY, before|noRandomize, 0, 0)
	}
	if errno != 0 {
		return fmt.Sprintf("this system refuses to switch address space randomisation off (personality: %v), as Docker's default seccomp profile does; --security-opt seccomp=unconfined allows it", errno)
	}
	return ""
}

// Check says where a guest would keep its memory, and why its runs would not be
// repeatable, "" if they would; the error is why none can run here.
func Check() (memory, notRepeatable string, err error) {
	if memory, err = memoryFolder(DefaultMemory<<20, ""); err != nil {
		return "", "", err
	}
	said := make(chan string)
	go func() {
		// The thread is changed, and thrown away with the goroutine.
		runtime.LockOSThread()
		said <- settle(0)
	}()
	return memory, <-said, nil
}

// CPUs is how many CPUs this process may use: as many guests run side by side
// without disturbing each other.
func CPUs() int {
	var mine unix.CPUSet
	if unix.SchedGetaffinity(0, &mine) != nil || mine.Count() == 0 {
		return 1
	}
	return mine.Count()
}

// memoryFolder finds a place for the file that is the guest's memory: user-mode
// Linux maps it executable, so that a folder mounted noexec will not do.
func memoryFolder(need int64, fallback string) (string, error) {
	var tried []string
	for _, dir := range []string{os.Getenv("TMPDIR"), "/dev/shm", "/tmp", fallback} {
		if dir == "" {
			continue
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			continue
		}
		if why := unfit(abs, need); why != "" {
			tried = append(tried, abs+" ("+why+")")
			continue
		}
		return abs, nil
	}
	return "", &NoMemoryError{need, tried}
}

// NoMemoryError says that no folder can hold a guest's memory.
type NoMemoryError struct {
	Need  int64 // B
	Tried []string
}

func (e *NoMemoryError) Error() string {
	return fmt.Sprintf("the guest keeps its memory in a file of %d MiB that is mapped executable, and no folder can hold it: %s; name one with TMPDIR (in a container: --tmpfs /tmp:exec and TMPDIR=/tmp)", e.Need>>20, strings.Join(e.Tried, ", "))
}

func unfit(dir string, need int64) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err.Error()
	}
	if st.Flags&unix.ST_NOEXEC != 0 {
		return "mounted noexec"
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return fmt.Sprintf("%d MiB free", free>>20)
	}
	f, err := os.CreateTemp(dir, ".tcplab-")
	if err != nil {
		var p *os.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return err.Error()
	}
	f.Close()
	os.Remove(f.Name())
	return ""
}

// static refuses a program that needs a dynamic linker: the root it would look
// for that in is not mounted yet when the guest starts it.
func static(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is linked dynamically: build it with CGO_ENABLED=0, as `make build` does")
		}
	}
	return nil
}

// copyFile puts a program where the guest finds it under a name that is always
// the same.
func copyFile(path, to string) error {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, from)
	return errors.Join(err, out.Close())
}

// tail keeps the console's last lines.
type tail struct {
	mu    sync.Mutex
	lines []string
}

const tailLines = 20

// noise is what a kernel prints of its stack, which tells nobody anything
// without symbols.
var noise = regexp.MustCompile(`^\[ *[0-9.]+\] +(\[<|[0-9a-f]{8} |Stack:|Call Trace:|CPU: |Modules |RIP|RSP|RAX|RDX|RBP|R[0-9]+:|EFLAGS)`)

func (t *tail) add(line string) {
	if noise.MatchString(line) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == tailLines {
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
	t.lines = append(t.lines, line)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}
