package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
	"tcplab/lab/heap"
)

// Ready is what a program says once it can be sent go.
type Ready struct {
	Addresses []string
	Options   map[string]string
}

// Go starts a program: t0, and the measuring window.
type Go struct{ T0, From, To int64 }

// A Program is what runs inside an agent: a client, a server, a wire, a
// middlebox, or the wrapper of a user's own program.
type Program interface {
	// Prepare does all that may fail before load is offered.
	Prepare(spec json.RawMessage) (Ready, error)
	// Run works until its task is done or ctx ends; both are success.
	Run(ctx context.Context, g Go, out *Out) (any, error)
	// Do applies a fault that the program's kind declares.
	Do(f Fault) error
	// Close gives back what Prepare took.
	Close() error
}

// FaultRefused is the event of a fault that the program does not know or cannot
// do.
const FaultRefused = "fault-refused"

// Out is a running program's way to speak. Its methods may be called from any
// goroutine.
type Out struct {
	mu  sync.Mutex
	enc *Encoder
	err error
}

func (o *Out) send(m *Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.enc.Encode(m); err != nil && o.err == nil {
		o.err = err
	}
}

// Event reports a state change.
func (o *Out) Event(at int64, name string, fields map[string]any) {
	o.send(&Message{Type: TypeEvent, At: at, Name: name, Fields: fields})
}

// Sample reports values of the program's series.
func (o *Out) Sample(at int64, values map[string]float64) {
	o.send(&Message{Type: TypeSample, At: at, Values: values})
}

// exitWithin is how long an agent may live on after its input ended.
const exitWithin = 90 * time.Millisecond

// Serve runs the program that the first message names, and returns the exit
// code of the process: 0 after a result, 1 after an error.
func Serve(in io.Reader, out io.Writer, programs func(role, kind string) (Program, error)) int {
	heap.Inherit()
	o := &Out{enc: NewEncoder(out)}
	fail := func(err error) int {
		o.send(&Message{Type: TypeError, At: clock.Now(), Error: err.Error()})
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dec := NewDecoder(in)
	first, err := dec.Decode()
	if errors.Is(err, io.EOF) {
		return 0
	}
	if err != nil {
		return fail(err)
	}
	if first.Type != TypeJob {
		return fail(fmt.Errorf("the first message is %q, not job", first.Type))
	}
	p, err := programs(first.Role, first.Kind)
	if err != nil {
		return fail(err)
	}
	ready, err := p.Prepare(first.Spec)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", first.Name, err))
	}
	defer p.Close()
	o.send(&Message{Type: TypeReady, At: clock.Now(), Addresses: ready.Addresses, Options: ready.Options})

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	started := make(chan Go, 1)
	readErr := make(chan error, 1)
	var exitCode atomic.Int32
	exitCode.Store(1)
	go func() {
		begun := false
		for {
			m, err := dec.Decode()
			switch {
			case err != nil:
				readErr <- err
				cancel()
				if errors.Is(err, io.EOF) {
					// The lab is gone. Whatever the program is doing, it ends.
					time.AfterFunc(exitWithin, func() { os.Exit(int(exitCode.Load())) })
				}
				return
			case m.Type == TypeGo && !begun:
				begun = true
				started <- Go{m.T0, m.From, m.To}
			case m.Type == TypeDo && m.Fault != nil:
				if err := p.Do(*m.Fault); err != nil {
					o.Event(clock.Now(), FaultRefused, map[string]any{"fault": m.Fault.Name, "error": err.Error()})
				} else {
					o.Event(clock.Now(), "fault", map[string]any{"fault": m.Fault.Name, "do": m.Fault.Do})
				}
			case m.Type == TypeStop:
				cancel()
			}
		}
	}()

	var g Go
waiting:
	select {
	case g = <-started:
	case <-ctx.Done():
		select {
		case g = <-started:
			// Stop came on the heels of go: there is a result all the same.
			break waiting
		case err := <-readErr:
			if !errors.Is(err, io.EOF) {
				return fail(err)
			}
		default:
		}
		return 0
	}
	usage := watch(ctx, g)
	result, err := p.Run(ctx, g, o)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", first.Name, err))
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return fail(fmt.Errorf("%s: result: %w", first.Name, err))
	}
	u := usage()
	exitCode.Store(0)
	o.send(&Message{Type: TypeResult, At: clock.Now(), Result: raw, Usage: &u})
	if o.err != nil {
		return 1
	}
	// What the program holds open stays open until it is asked to stop: the
	// lab looks at its sockets once more.
	<-ctx.Done()
	return 0
}

// watch takes the process's CPU time at both ends of the window.
func watch(ctx context.Context, g Go) func() Usage {
	var mu sync.Mutex
	var from, to float64
	var have int
	go func() {
		for i, at := range []int64{g.From, g.To} {
			if clock.SleepUntil(ctx, at) != nil {
				return
			}
			c, _ := cpu()
			mu.Lock()
			if i == 0 {
				from = c
			} else {
				to = c
			}
			have = i + 1
			mu.Unlock()
		}
	}()
	return func() Usage {
		c, rss := cpu()
		mu.Lock()
		defer mu.Unlock()
		u := Usage{CPU: c, MaxRSS: rss, Wakeups: Wakeups(), Nice: nice()}
		switch have {
		case 1:
			u.CPUWindow = c - from
		case 2:
			u.CPUWindow = to - from
		}
		return u
	}
}

// nice is the nice value of this process, as the kernel has it.
func nice() int {
	attr, err := unix.SchedGetAttr(os.Getpid(), 0)
	if err != nil {
		return 0
	}
	return int(attr.Nice)
}

// cpu is user + system time of this process and its ended children, s, and
// the most memory it held, B.
func cpu() (float64, int64) {
	var s, c unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &s) != nil || unix.Getrusage(unix.RUSAGE_CHILDREN, &c) != nil {
		return 0, 0
	}
	sec := func(tv unix.Timeval) float64 { return float64(tv.Sec) + float64(tv.Usec)/1e6 }
	return sec(s.Utime) + sec(s.Stime) + sec(c.Utime) + sec(c.Stime), peakRSS()
}

// Wakeups is how often the threads of this process have gone to sleep so far,
// the Go runtime's monitor included, which wakes up once a minute by itself.
func Wakeups() int64 {
	var s unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &s) != nil {
		return 0
	}
	return s.Nvcsw
}

// peakRSS is VmHWM, B. Not ru_maxrss: that is inherited over exec, so that a
// small agent would show the memory of the lab that started it.
func peakRSS() int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
			return kb * 1024
		}
	}
	return 0
}
