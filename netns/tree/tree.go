package tree

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/netns"
)

// self is this program, also when its file was replaced or removed.
const self = "/proc/self/exe"

// defaultGrace is how long a worker may take to end once it is asked to.
const defaultGrace = 2 * time.Second

// Options for Start. The zero value is an ordinary run.
type Options struct {
	// Env is added to the environment, as NAME=value.
	Env []string
	// Stderr gets what init, the worker and its descendants write to standard
	// error; nil is os.Stderr. The last of it is in an *ExitError as well.
	Stderr io.Writer
	// Grace is how long the worker may go on after the context ended and
	// closed its input; 0 is 2 s.
	Grace time.Duration
	// ForceUserNS takes a plain user's path even as root.
	ForceUserNS bool
}

// Tree is a running worker with its init.
type Tree struct {
	// Temp is the run's temporary folder; the tree removes it.
	Temp string
	// UserNS tells that the tree runs in a user namespace, as a plain user's.
	UserNS bool
	// ProcMasked is why the tree has no /proc of its own, "" if it has.
	ProcMasked string
	// Swept are the temporary folders of dead runs that Start removed, and
	// SweepErr what it could not remove.
	Swept    []string
	SweepErr error

	worker  string
	cmd     *exec.Cmd
	in      *pipeEnd
	out     *pipeEnd
	control *os.File
	owner   *os.File
	stderr  *tail

	done chan struct{} // closed once all is gone
	err  error         // valid then
}

// Start starts the worker registered under name and returns once it runs. The
// tree ends when the worker does; when ctx ends it is asked to, by the end of
// In, and killed after Options.Grace. Where the machine forbids namespaces the
// error is a *netns.ForbiddenError, which says by what rule and what to do.
func Start(ctx context.Context, name string, opts Options) (*Tree, error) {
	if workers[name] == nil {
		return nil, fmt.Errorf("no worker %q is registered", name)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(self); err != nil {
		return nil, cannotExec(err)
	}
	t := &Tree{worker: name, done: make(chan struct{})}
	t.Swept, t.SweepErr = Sweep()
	t.UserNS = opts.ForceUserNS || !privileged()

	var undo []func() error
	fail := func(err error) (*Tree, error) {
		for _, f := range undo {
			err = errors.Join(err, f())
		}
		return nil, err
	}
	var err error
	t.Temp, t.owner, err = makeTemp()
	if err != nil {
		return nil, err
	}
	undo = append(undo, t.owner.Close, func() error { return os.RemoveAll(t.Temp) })

	var theirs []*os.File // init's ends of the pipes
	var ours [4]*os.File
	for i, initReads := range []bool{true, false, true, false} { // control, status, In, Out
		r, w, err := os.Pipe()
		if err != nil {
			return fail(fmt.Errorf("make pipes: %w", err))
		}
		undo = append(undo, ignoreClosed(r.Close), ignoreClosed(w.Close))
		if initReads {
			theirs, ours[i] = append(theirs, r), w
		} else {
			theirs, ours[i] = append(theirs, w), r
		}
	}
	t.control, t.in, t.out = ours[0], &pipeEnd{File: ours[2]}, &pipeEnd{File: ours[3]}

	sink := opts.Stderr
	if sink == nil {
		sink = os.Stderr
	}
	t.stderr = &tail{to: sink}
	cfg, err := json.Marshal(initConfig{Worker: name, Temp: t.Temp, SingleUser: t.UserNS})
	if err != nil {
		return fail(err)
	}
	t.cmd = exec.Command(self)
	t.cmd.Args = []string{initArg0, string(cfg)}
	t.cmd.Env = append(os.Environ(), opts.Env...)
	t.cmd.Stdout = os.Stdout
	t.cmd.Stderr = t.stderr
	t.cmd.ExtraFiles = append(theirs, t.owner)
	// Standard error ends with the tree; what it still has then is worth a
	// moment, and a descriptor that was passed out of it is not worth more.
	t.cmd.WaitDelay = time.Second
	t.cmd.SysProcAttr = initAttr(t.UserNS)
	if err := t.cmd.Start(); err != nil {
		return fail(explainStart(t.UserNS, err))
	}
	for _, f := range theirs {
		f.Close()
	}
	grace := opts.Grace
	if grace == 0 {
		grace = defaultGrace
	}
	started := make(chan status, 1)
	go t.attend(ours[1], started)
	go t.obey(ctx, grace)

	s, ok := <-started
	if !ok { // init died without a word
		err := t.Wait()
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("start the lab's processes: %w", err)
	}
	if s.Failed != "" {
		t.Wait() // its error is that of s
		return nil, explainSetup(t.UserNS, s)
	}
	t.ProcMasked = s.ProcMasked
	return t, nil
}

// initAttr puts init into namespaces of its own, and into a session of its
// own, out of reach of the terminal's signals.
func initAttr(userNS bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	if userNS {
		attr.Cloneflags |= unix.CLONE_NEWUSER | unix.CLONE_NEWNET
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		attr.GidMappingsEnableSetgroups = false // user_namespaces(7): else a plain user's map is refused
	}
	return attr
}

// privileged tells whether this process may make and run namespaces as it is.
// Root in a container often may not; then a user namespace may still do.
func privileged() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&head, &data[0]) != nil {
		return false
	}
	for _, c := range []uint{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW} {
		if data[c/32].Effective&(1<<(c%32)) == 0 {
			return false
		}
	}
	return os.Geteuid() == 0
}

// explainStart tells a refused clone from a program that cannot be executed:
// exec.Cmd has one error for both.
func explainStart(userNS bool, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return fmt.Errorf("start the lab's processes: %w", err)
	}
	switch errno {
	case unix.ENOENT, unix.ENOEXEC, unix.ELOOP, unix.ETXTBSY:
		return cannotExec(err)
	case unix.EACCES:
		// A security module may refuse the namespace with it, too.
		if unix.Access(self, unix.X_OK) != nil {
			return cannotExec(err)
		}
	}
	explained := netns.ExplainForbidden(os.DirFS("/"), !userNS, "", errno)
	if errors.Is(explained, netns.ErrNamespacesForbidden) {
		return explained
	}
	return fmt.Errorf("start the lab's processes: %w", err)
}

func cannotExec(err error) error {
	hint := "it must be on a file system that allows execution"
	if errors.Is(err, fs.ErrNotExist) {
		hint = "is /proc mounted?"
	}
	return fmt.Errorf("this program cannot start itself again through %s: %s: %w", self, hint, err)
}

// explainSetup explains what init could not do inside the new namespaces:
// under Ubuntu's AppArmor rule the clone succeeds, and the first use of a
// capability does not.
func explainSetup(userNS bool, s status) error {
	if s.Errno == 0 {
		return fmt.Errorf("start the lab's processes: %s: %s", s.Failed, s.Why)
	}
	err := netns.ExplainForbidden(os.DirFS("/"), !userNS, s.Failed, s.Errno)
	if !errors.Is(err, netns.ErrNamespacesForbidden) {
		return fmt.Errorf("start the lab's processes: %s: %w", s.Failed, err)
	}
	return err
}

// attend reads init's messages to their end, waits for init, and takes down
// what init could not.
func (t *Tree) attend(messages *os.File, started chan<- status) {
	defer close(t.done)
	var last status
	dec := json.NewDecoder(messages)
	for first := true; ; first = false {
		var s status
		if err := dec.Decode(&s); err != nil {
			break
		}
		if first {
			started <- s
		}
		last = s
	}
	close(started)
	waitErr := t.cmd.Wait()
	t.stderr.stop()
	t.err = t.verdict(last, waitErr)
	t.err = errors.Join(t.err, os.RemoveAll(t.Temp))
	messages.Close()
	t.control.Close()
	t.owner.Close()
	t.in.Close()
}

// verdict is how the worker ended, from init's last word and init's own end.
func (t *Tree) verdict(last status, waitErr error) error {
	if !last.Ended {
		e := &ExitError{Worker: t.worker, Init: true, Code: -1, Stderr: t.stderr.String()}
		var exit *exec.ExitError
		if !errors.As(waitErr, &exit) {
			if waitErr == nil {
				waitErr = errors.New("init ended early")
			}
			return waitErr
		}
		e.set(exit.Sys().(syscall.WaitStatus))
		return e
	}
	if last.Wait == 0 {
		return nil
	}
	e := &ExitError{Worker: t.worker, Code: -1, Stderr: t.stderr.String()}
	e.set(last.Wait)
	return e
}

// obey ends the tree when ctx ends.
func (t *Tree) obey(ctx context.Context, grace time.Duration) {
	select {
	case <-t.done:
		return
	case <-ctx.Done():
	}
	t.in.Close()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-t.done:
	case <-timer.C:
		t.Kill()
	}
}

// In is the worker's input; closing it asks the worker to end.
func (t *Tree) In() io.WriteCloser { return t.in }

// Out is the worker's output. It ends with the worker; read it to its end
// before Wait, which closes it.
func (t *Tree) Out() io.Reader { return t.out }

// Kill ends the tree at once: when init dies, the kernel kills the rest.
func (t *Tree) Kill() {
	// An error means that it is dead already.
	_ = t.cmd.Process.Kill()
}

// Done is closed once the tree is gone.
func (t *Tree) Done() <-chan struct{} { return t.done }

// Wait returns when all processes of the tree and its folder are gone. The
// error is nil if the worker returned nil, and an *ExitError if it did not or
// was killed. It may be called more than once.
func (t *Tree) Wait() error {
	<-t.done
	t.out.Close()
	return t.err
}

// pipeEnd is a pipe's end that may be closed twice.
type pipeEnd struct {
	*os.File
	once sync.Once
	err  error
}

func (p *pipeEnd) Close() error {
	p.once.Do(func() { p.err = p.File.Close() })
	return p.err
}

func ignoreClosed(close func() error) func() error {
	return func() error {
		if err := close(); err != nil && !errors.Is(err, os.ErrClosed) {
			return err
		}
		return nil
	}
}
