package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/heap"
	"tcplab/netns/tree"
)

// marker, an argument of the kernel, comes to init in its environment.
const marker = "TCPLAB_GUEST"

// codeDeadline is the exit code of a guest that reached its deadline.
const codeDeadline = 99

// settled is how long after boot a guest's timers can be relied on.
const settled = 50 * time.Millisecond

// Results is the folder that a worker may write to.
const Results = "/run/tcplab/out"

// Main is called first in main and in TestMain, after the workers are
// registered. It returns unless this process is a guest's init.
func Main() {
	if os.Getpid() != 1 || os.Getenv(marker) == "" {
		return
	}
	os.Unsetenv(marker)
	code := 0
	if err := runInit(); err != nil {
		fmt.Println("tcplab:", err)
		code = 1
	}
	powerOff(code)
}

// runInit makes the host's root the guest's, read-only, with what every
// program expects on top, and runs the worker.
func runInit() error {
	raw()
	text, err := os.ReadFile("/" + jobName)
	if err != nil {
		return err
	}
	var j job
	if err := json.Unmarshal(text, &j); err != nil {
		return fmt.Errorf("job: %w", err)
	}
	if err := mounts(); err != nil {
		return err
	}
	// Sleeps end when they were meant to, not up to 50 µs later: inherited by
	// every process of the guest.
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	files := unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	for _, s := range [][2]string{{"/proc/sys/fs/nr_open", "1048576"}, {"/proc/sys/fs/file-max", "2097152"}} {
		if err := os.WriteFile(s[0], []byte(s[1]), 0); err != nil {
			return err
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("limit of descriptors: %w", err)
	}
	os.Clearenv()
	for _, kv := range [][2]string{{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, {"HOME", "/run/home"}, {"TMPDIR", "/run/tmp"}, {"LC_ALL", "C"}, {"TZ", "UTC"}, {"GODEBUG", "asyncpreemptoff=1"}, {heap.Env, "1"}} {
		os.Setenv(kv[0], kv[1])
	}
	if j.Deadline > 0 {
		time.AfterFunc(j.Deadline, func() { powerOff(codeDeadline) })
	}
	if j.Virtual {
		// A timer of the first 20 ms after boot may go off 10 ms late, once.
		time.Sleep(settled)
	}
	heap.Quiet()
	work := tree.Lookup(j.Worker)
	if work == nil {
		return fmt.Errorf("no worker %q is registered", j.Worker)
	}
	return work(context.Background(), tree.Worker{
		In: &input{r: bytes.NewReader(j.Input)}, Out: os.Stdout, Temp: "/run/tmp", Virtual: j.Virtual, Guest: true,
	})
}

// input gives the job and then nothing, for ever: there is nobody outside who
// could say more without the guest's time depending on it.
type input struct{ r *bytes.Reader }

func (i *input) Read(p []byte) (int, error) {
	if i.r.Len() > 0 {
		return i.r.Read(p)
	}
	select {}
}

func mounts() error {
	flags := uintptr(unix.MS_RDONLY)
	if err := unix.Mount("none", "/"+rootName, "hostfs", flags, "/"); err != nil {
		return fmt.Errorf("mount the host's root: %w", err)
	}
	root := "/" + rootName
	for _, m := range []struct{ what, where, kind, data string }{
		{"proc", "/proc", "proc", ""}, {"sysfs", "/sys", "sysfs", ""}, {"dev", "/dev", "devtmpfs", ""}, {"run", "/run", "tmpfs", "mode=755"},
	} {
		if err := unix.Mount(m.what, root+m.where, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	for _, dir := range []string{"/run/tmp", "/run/home", Results} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("none", root+Results, "hostfs", 0, "/proc/self/cwd/"+outName); err != nil {
		return fmt.Errorf("mount the results folder: %w", err)
	}
	if err := unix.Chroot(root); err != nil {
		return err
	}
	return os.Chdir("/")
}

// raw keeps the console from rewriting what is printed there.
func raw() {
	t, err := unix.IoctlGetTermios(1, unix.TCGETS)
	if err != nil {
		return
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO
	_ = unix.IoctlSetTermios(1, unix.TCSETS, t)
}

func powerOff(code int) {
	os.WriteFile("/proc/exitcode", []byte(strconv.Itoa(code)+"\n"), 0)
	syscall.Sync()
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}
