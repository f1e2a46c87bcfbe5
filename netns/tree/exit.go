package tree

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ExitError says how a worker, or its init, ended otherwise than well.
type ExitError struct {
	Worker string
	// Init tells that init died, and all with it, before the worker did.
	Init bool
	// Code is the exit status, -1 if a signal ended it.
	Code int
	// Signal that ended it, 0 if it exited.
	Signal syscall.Signal
	// Stderr is the end of what the tree wrote to standard error.
	Stderr string
}

func (e *ExitError) set(ws syscall.WaitStatus) {
	if ws.Signaled() {
		e.Signal = ws.Signal()
		return
	}
	e.Code = ws.ExitStatus()
}

func (e *ExitError) Error() string {
	who := "worker " + e.Worker
	if e.Init {
		who = "the init of worker " + e.Worker
	}
	how := fmt.Sprintf("ended with exit status %d", e.Code)
	if e.Signal != 0 {
		how = "was killed by " + unix.SignalName(e.Signal)
	}
	s := who + " " + how
	if words := lastWords(e.Stderr); words != "" {
		s += ": " + words
	}
	return s
}

// lastWords is the line that tells why: where a Go program panics that is not
// the last one.
func lastWords(stderr string) string {
	last := ""
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "SIG") && strings.Contains(line, ": ") {
			return line
		}
		if line != "" {
			last = line
		}
	}
	return last
}

// tailSize is how much of standard error is kept, in bytes; a goroutine's
// trace is some 2 KiB.
const tailSize = 16 << 10

// tail passes writes on and keeps the last of them.
type tail struct {
	mu      sync.Mutex
	to      io.Writer
	kept    []byte
	stopped bool
}

// Write never fails: a closed terminal must not end the run.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return len(p), nil
	}
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - tailSize; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	_, _ = t.to.Write(p)
	return len(p), nil
}

// stop ends writes to the caller's sink.
func (t *tail) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.ToValidUTF8(t.kept, []byte("?")))
}
