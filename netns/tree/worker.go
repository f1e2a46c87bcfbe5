package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// The first argument by which this program knows that it was started again.
// No program's name is like it, and ps shows what it is.
const (
	initArg0   = "tcplab: init"
	workerArg0 = "tcplab: worker"
)

// Worker is what a worker is given.
type Worker struct {
	// In and Out carry NDJSON from and to the outer process. Standard output
	// and error stay free for what the worker has to say to people.
	In  io.Reader
	Out io.Writer
	// Temp is a folder for the worker alone, removed after it.
	Temp string
	// SingleUser tells that only one user, root, exists in here: the plain
	// user outside. Programs that drop privileges fail.
	SingleUser bool
	// Guest tells that the worker has a kernel of its own, and Virtual that
	// time is virtual there.
	Guest, Virtual bool
}

var workers = map[string]func(ctx context.Context, w Worker) error{}

// Register names a worker's entry point. It is called before Main, in the
// outer process and its descendants alike. ctx ends when the outer process
// closes In, or is gone; the worker should then end within 100 ms.
func Register(name string, f func(ctx context.Context, w Worker) error) {
	if _, twice := workers[name]; twice {
		panic("tree: worker " + name + " is registered twice")
	}
	workers[name] = f
}

// Lookup is the worker registered under name, or nil.
func Lookup(name string) func(ctx context.Context, w Worker) error { return workers[name] }

// Main is called first in main and in TestMain, after all Registers. It
// returns in the outer process, and never does in init or a worker.
func Main() {
	switch os.Args[0] {
	case initArg0:
		os.Exit(runInit(os.Args[1:]))
	case workerArg0:
		os.Exit(runWorker(os.Args[1:]))
	}
}

// Descriptors of a worker.
const (
	workerIn  = 3
	workerOut = 4
)

// runWorker runs the entry point that args name and returns the exit status.
func runWorker(args []string) int {
	if len(args) != 3 || workers[args[0]] == nil {
		fmt.Fprintf(os.Stderr, "tcplab: started as a worker with %q, which names none\n", args)
		return 2
	}
	// Agents must not keep the outer process waiting for the end of Out.
	unix.CloseOnExec(workerIn)
	unix.CloseOnExec(workerOut)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() { cancel(waitHangup(workerIn)) }()
	w := Worker{
		In:         os.NewFile(workerIn, "in"),
		Out:        os.NewFile(workerOut, "out"),
		Temp:       args[1],
		SingleUser: args[2] == "single-user",
	}
	if err := workers[args[0]](ctx, w); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n", err)
		return 1
	}
	return 0
}

// errHangup is the cause of a worker's ending context.
var errHangup = errors.New("the outer process closed the worker's input, or is gone")

// waitHangup returns when nobody has the pipe's other end any more, whether or
// not what was written has been read: poll reports POLLHUP unasked.
func waitHangup(fd int) error {
	for {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("watch the worker's input: %w", err)
		}
		return errHangup
	}
}
