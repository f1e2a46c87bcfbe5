package tree

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Descriptors of init.
const (
	initControl = 3 + iota // ends when the outer process does
	initStatus             // messages to the outer process
	initIn                 // the worker's
	initOut                // the worker's
	initOwner              // the lock on the temporary folder
)

const (
	// hangupGrace is how long a worker may go on when the outer process is
	// gone. It has noticed too, and may end what is not in the tree.
	hangupGrace = 300 * time.Millisecond
	// reapWait bounds the wait for killed processes to be gone. When init
	// exits, the kernel waits for the rest.
	reapWait = 5 * time.Second
)

// initConfig is init's second argument.
type initConfig struct {
	Worker     string `json:"worker"`
	Temp       string `json:"temp"`
	SingleUser bool   `json:"single_user"`
}

// status is a line from init to the outer process: the first says that the
// worker runs, or what failed; the second how the worker ended.
type status struct {
	Running bool `json:"running,omitempty"`
	// Failed is the step that failed, Why its error in words and, if it has
	// one, Errno as a number.
	Failed string        `json:"failed,omitempty"`
	Why    string        `json:"why,omitempty"`
	Errno  syscall.Errno `json:"errno,omitempty"`
	// ProcMasked says why no /proc of the tree's own could be mounted.
	ProcMasked string `json:"proc_masked,omitempty"`
	Ended      bool   `json:"ended,omitempty"`
	// Wait is the worker's wait status (wait(2)).
	Wait syscall.WaitStatus `json:"wait,omitempty"`
	// Cleanup is what could not be removed.
	Cleanup string `json:"cleanup,omitempty"`
}

// runInit is PID 1 of the tree. It has no state but its children.
func runInit(args []string) int {
	var cfg initConfig
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &cfg) != nil {
		fmt.Fprintln(os.Stderr, "tcplab: started as init without its configuration")
		return 2
	}
	for fd := initControl; fd <= initOwner; fd++ {
		unix.CloseOnExec(fd)
	}
	// Caught and dropped, not ignored: an ignored signal stays ignored in the
	// worker and its agents (execve(2)). PID 1 cannot be killed by signals of
	// its own tree anyway.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE)

	out := json.NewEncoder(os.NewFile(initStatus, "status"))
	say := func(s status) {
		// The outer process may be gone; then nobody is left to be told.
		_ = out.Encode(s)
	}
	masked, step, err := setUpMounts()
	if err == nil {
		step = "start the worker"
		var pid int
		pid, err = startWorker(cfg)
		if err == nil {
			say(status{Running: true, ProcMasked: masked})
			ended := superviseWorker(pid)
			ended.Cleanup = errText(os.RemoveAll(cfg.Temp))
			say(ended)
			return 0
		}
	}
	var errno syscall.Errno
	errors.As(err, &errno)
	cleanup := errText(os.RemoveAll(cfg.Temp))
	say(status{Failed: step, Why: err.Error(), Errno: errno, Cleanup: cleanup})
	return 1
}

// setUpMounts keeps the tree's mounts from the machine and mounts a /proc that
// shows the tree's processes. Where /proc is masked, as in containers, that is
// refused to a plain user (mount_too_revealing in fs/namespace.c); the old one
// serves then: sysctls and /proc/thread-self work in it.
func setUpMounts() (masked, step string, err error) {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", "mount --make-rprivate /", err
	}
	err = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	return errText(err), "", nil
}

func startWorker(cfg initConfig) (pid int, err error) {
	user := "all-users"
	if cfg.SingleUser {
		user = "single-user"
	}
	pid, err = syscall.ForkExec("/proc/self/exe",
		[]string{workerArg0, cfg.Worker, cfg.Temp, user},
		&syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2, initIn, initOut}})
	if err != nil {
		return 0, err
	}
	// The pipes' ends are the worker's alone, so that each side sees the
	// other's end.
	unix.Close(initIn)
	unix.Close(initOut)
	return pid, nil
}

// superviseWorker reaps everything that ends in the tree until the worker has
// ended or the outer process is gone, and then kills what is left.
func superviseWorker(pid int) status {
	worker := make(chan syscall.WaitStatus, 1)
	allGone := make(chan struct{})
	go func() {
		defer close(allGone)
		for {
			var ws syscall.WaitStatus
			got, err := syscall.Wait4(-1, &ws, 0, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil { // ECHILD: nobody is left
				return
			}
			if got == pid {
				worker <- ws
			}
		}
	}()
	hangup := make(chan struct{})
	go func() {
		waitHangup(initControl)
		close(hangup)
	}()

	ended := status{Ended: true}
	known := false
	select {
	case ended.Wait = <-worker:
		known = true
	case <-hangup:
		select {
		case ended.Wait = <-worker:
			known = true
		case <-time.After(hangupGrace):
		}
	}
	// From PID 1, -1 is every process of the PID namespace but itself.
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && err != unix.ESRCH {
		fmt.Fprintf(os.Stderr, "tcplab: kill what is left of the run: %v\n", err)
	}
	select {
	case <-allGone:
	case <-time.After(reapWait):
	}
	if !known {
		select {
		case ended.Wait = <-worker:
		default:
		}
	}
	return ended
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
