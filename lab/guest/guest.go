// Package guest runs a worker of the lab on a kernel of its own: user-mode
// Linux, booted with tcplab as its init.
//
// It believes that a guest should be something nobody notices having: no root,
// no device, no image. The kernel is an ordinary process; its root is this
// machine's, read-only, by hostfs; what it may write is one folder. On the
// virtual clock time jumps to the next timer as soon as nothing is left to do,
// so that a wait of hours takes as long as the packets in it.
//
// It also believes that a guest must be the same wherever it runs. Everything
// the kernel can see of its host is therefore the same each time: a folder
// that is always called by the same relative name holds the job, the binary
// and the results; the environment is not passed on; address space
// randomisation is off and the kernel's random numbers follow the seed. Where
// the host refuses one of these, the guest runs all the same and says that it
// cannot be repeated.
package guest

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Clocks of a guest.
const (
	Virtual = "virtual" // idle time is skipped, and the CPU is infinitely fast
	Real    = "real"
)

// DefaultMemory of a guest, MiB. Linux scales tables and limits with memory,
// so it is the same on every machine.
const DefaultMemory = 512

// start is the wall clock's value at boot on the virtual clock, ns: a Tuesday
// in November 2023.
const start = 1700000000000000000

// Options for Start.
type Options struct {
	Kernel string // path of the guest kernel
	// Init is the program that becomes the guest's init and calls Main: it has
	// to be linked statically. "" is this program.
	Init   string
	Worker string // entry point, as registered with the process tree
	Input  []byte // what the worker reads
	// Dir is an existing folder of the caller, on a disk with room, in which
	// the guest gets one of its own. The caller finds the guest's results in
	// Guest.Out afterwards.
	Dir    string
	Clock  string // Virtual (the default) | Real
	Seed   uint64 // of the kernel's own randomness
	CPU    int    // index into the CPUs that this process may use, modulo their number
	Memory int    // MiB; 0 is DefaultMemory
	// Deadline is when the guest ends itself, in its own time from boot; an
	// idle guest would never end. 0 is none.
	Deadline time.Duration
	// Stall ends a guest from which nothing was heard for so long, in wall
	// time: on the virtual clock a program that spins stops time for all. 0 is
	// one minute.
	Stall time.Duration
	// Line hears each line of the worker on its way (JSON values), from one
	// goroutine.
	Line func([]byte)
	// Log hears each other line of the console.
	Log func(string)
}

// Guest is a running guest.
type Guest struct {
	Out string // folder with what the worker wrote
	// NotRepeatable is why the same options may give another result, "" if
	// they do not.
	NotRepeatable string

	dir   string
	cmd   *exec.Cmd
	opts  Options
	tail  tail
	heard atomic.Int64 // wall time of the last line, ns
	began time.Time
	first atomic.Int64 // wall ns from the start to the first line

	mu   sync.Mutex
	why  error // why it was killed
	done chan struct{}
	err  error
	took time.Duration
}

// Job is what init reads. Nothing in it may differ between two runs that are
// to be equal.
type job struct {
	Worker   string        `json:"worker"`
	Input    []byte        `json:"input"`
	Deadline time.Duration `json:"deadline"`
	Virtual  bool          `json:"virtual"`
}

// Names inside a guest's folder.
const (
	initName = "init"
	jobName  = "job"
	outName  = "out"
	rootName = "root" // where the host's root is mounted
	umlName  = "uml"
)

// Start boots a guest. It ends when its worker does, when ctx ends, or when
// something is wrong with it; Wait says which.
func Start(ctx context.Context, opts Options) (_ *Guest, err error) {
	if opts.Memory == 0 {
		opts.Memory = DefaultMemory
	}
	if opts.Stall == 0 {
		opts.Stall = time.Minute
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	opts.Init = cmp.Or(opts.Init, "/proc/self/exe")
	if err := static(opts.Init); err != nil {
		return nil, fmt.Errorf("%s cannot be a guest's init: %w", opts.Init, err)
	}
	mem, err := memoryFolder(int64(opts.Memory)<<20, opts.Dir)
	if err != nil {
		return nil, err
	}
	g := &Guest{opts: opts, done: make(chan struct{})}
	if g.dir, err = os.MkdirTemp(opts.Dir, ".guest-"); err != nil {
		return nil, fmt.Errorf("guest's folder: %w", err)
	}
	g.Out = filepath.Join(g.dir, outName)
	defer func() {
		if err != nil {
			os.RemoveAll(g.dir)
		}
	}()
	for _, d := range []string{outName, rootName, umlName} {
		if err := os.Mkdir(filepath.Join(g.dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("guest's folder: %w", err)
		}
	}
	text, err := json.Marshal(job{opts.Worker, opts.Input, opts.Deadline, opts.Clock != Real})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(g.dir, jobName), text, 0o644); err != nil {
		return nil, fmt.Errorf("guest's folder: %w", err)
	}
	if err := copyFile(opts.Init, filepath.Join(g.dir, initName)); err != nil {
		return nil, fmt.Errorf("guest's init: %w", err)
	}
	return g, g.boot(ctx, mem)
}

// arguments are the kernel's command line: alike for all guests of one kind,
// since even an argument that nobody reads moves what follows it in memory.
func (g *Guest) arguments() []string {
	args := []string{
		"mem=" + strconv.Itoa(g.opts.Memory) + "M",
		"root=/dev/root", "rootfstype=hostfs", "rootflags=/proc/self/cwd", "ro", "init=/" + initName,
		"uml_dir=./" + umlName + "/", "con=null", "con0=null,fd:1", "quiet",
		marker + "=1", "GODEBUG=asyncpreemptoff=1",
	}
	if g.opts.Clock != Real {
		args = append([]string{"time-travel=inf-cpu", "time-travel-start=" + strconv.FormatInt(start, 10)}, args...)
	}
	return args
}

func (g *Guest) boot(ctx context.Context, mem string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	// A full pipe would have the guest wait for this process, in its own time.
	unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 1<<20)
	g.cmd = exec.Command(g.opts.Kernel, g.arguments()...)
	g.cmd.Dir = g.dir
	g.cmd.Env = []string{"UML_RANDOM_SEED=" + strconv.FormatUint(g.opts.Seed, 10), "TMPDIR=" + mem, "HOME=" + g.dir, "PATH=/usr/bin:/bin"}
	g.cmd.Stdout, g.cmd.Stderr = w, w
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	ended := make(chan error, 1)
	g.began = time.Now()
	g.heard.Store(g.began.UnixNano())
	go func() {
		// What the kernel inherits is set on this thread alone, and the parent
		// whose death kills it is this thread: it is kept until the guest ends
		// and thrown away then.
		runtime.LockOSThread()
		g.NotRepeatable = settle(g.opts.CPU)
		err := g.cmd.Start()
		started <- err
		if err == nil {
			ended <- g.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		r.Close()
		return fmt.Errorf("guest kernel: %w", err)
	}
	w.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer r.Close()
		g.listen(r)
	}()
	go func() {
		watched := make(chan struct{})
		over := make(chan struct{})
		go func() { defer close(watched); g.watch(ctx, over) }()
		err := <-ended
		g.took = time.Since(g.began)
		<-read
		close(over)
		<-watched
		g.err = g.explain(err)
		close(g.done)
	}()
	return nil
}

// listen takes the console apart: the worker's lines are JSON objects, all
// else is what the kernel or a dying program had to say.
func (g *Guest) listen(r io.Reader) {
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := in.ReadBytes('\n')
		g.heard.Store(time.Now().UnixNano())
		for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
			line = line[:len(line)-1]
		}
		switch {
		case len(line) == 0:
		case line[0] == '{' && json.Valid(line):
			g.first.CompareAndSwap(0, int64(time.Since(g.began)))
			if g.opts.Line != nil {
				g.opts.Line(line)
			}
		default:
			g.tail.add(string(line))
			if g.opts.Log != nil {
				g.opts.Log(string(line))
			}
		}
		if err != nil {
			return
		}
	}
}

// watch ends a guest that went silent, or that nobody wants any more.
func (g *Guest) watch(ctx context.Context, over <-chan struct{}) {
	check := time.NewTicker(max(g.opts.Stall/20, time.Millisecond))
	defer check.Stop()
	for {
		select {
		case <-over:
			return
		case <-ctx.Done():
			g.kill(context.Cause(ctx))
			return
		case now := <-check.C:
			if silent := now.Sub(time.Unix(0, g.heard.Load())); silent > g.opts.Stall {
				g.kill(&StallError{silent.Round(time.Second / 10)})
				return
			}
		}
	}
}

// StallError ends a guest from which nothing was heard.
type StallError struct{ Silent time.Duration }

func (e *StallError) Error() string {
	return fmt.Sprintf("the guest said nothing for %v of wall time: a program in it spins (on the virtual clock that stops time), or it has far more to do than it can", e.Silent)
}

// DeadlineError ends a guest whose worker did not end in time.
type DeadlineError struct{ After time.Duration }

func (e *DeadlineError) Error() string {
	return fmt.Sprintf("the guest reached its deadline, %v of its own time after boot", e.After)
}

// DeathError is a guest that ended otherwise than its worker meant to.
type DeathError struct {
	Status string
	Last   string // of the console
}

func (e *DeathError) Error() string {
	s := "the guest died: " + e.Status
	if e.Last != "" {
		s += "; its console's last lines:\n" + e.Last
	}
	return s
}

func (g *Guest) kill(why error) {
	g.mu.Lock()
	if g.why == nil {
		g.why = why
	}
	g.mu.Unlock()
	syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL)
}

// Kill ends the guest at once.
func (g *Guest) Kill(why error) { g.kill(why) }

func (g *Guest) explain(err error) error {
	g.mu.Lock()
	why := g.why
	g.mu.Unlock()
	if why != nil {
		if last := g.tail.String(); last != "" {
			return fmt.Errorf("%w; its console's last lines:\n%s", why, last)
		}
		return why
	}
	if err == nil {
		return nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == codeDeadline {
		return &DeadlineError{g.opts.Deadline}
	}
	return &DeathError{err.Error(), g.tail.String()}
}

// Wait waits until the guest has ended and everything it said was heard.
func (g *Guest) Wait() error {
	<-g.done
	return g.err
}

// Took is how long the guest ran, in wall time, and how long it took to the
// worker's first line; after Wait.
func (g *Guest) Took() (whole, first time.Duration) {
	return g.took, time.Duration(g.first.Load())
}

// Close removes the guest's folder, and with it Out. The guest has ended.
func (g *Guest) Close() error {
	<-g.done
	return os.RemoveAll(g.dir)
}
