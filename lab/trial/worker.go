package trial

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
	"tcplab/lab/sheet"
	"tcplab/netns/tree"
	"tcplab/results"
)

// EntryPoint is the worker's name in the process tree.
const EntryPoint = "trials"

// AgentCommand is the argument that makes the binary an agent.
const AgentCommand = "agent"

// worker carries out one order.
type worker struct {
	out       *sender
	order     Order
	agentArgv []string
	released  chan struct{}
	temp      string
	single    bool // one user only: a plain user's namespace
	guest     bool // this kernel is the run's own
	virtual   bool // and its time is virtual

	mu sync.Mutex
	st *stage
}

// Work is the worker's entry point: it reads an order, carries it out, and
// tells the news.
func Work(ctx context.Context, tw tree.Worker) error {
	w := &worker{out: &sender{w: tw.Out}, agentArgv: []string{"/proc/self/exe", AgentCommand}, released: make(chan struct{}), temp: tw.Temp, single: tw.SingleUser}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	in := bufio.NewReaderSize(tw.In, 64<<10)
	first, err := readOrder(in)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	w.order = first
	w.guest, w.virtual = tw.Guest, tw.Virtual
	if tw.Guest {
		f, err := os.Create(filepath.Join(first.Dir, NewsFile))
		if err != nil {
			return err
		}
		defer f.Close()
		w.out.keep = f
	}
	go func() {
		for {
			o, err := readOrder(in)
			switch {
			case err != nil:
				cancel(errInterrupted)
				return
			case o.Type == "stop":
				cancel(errInterrupted)
			case o.Type == "release":
				select {
				case w.released <- struct{}{}:
				case <-ctx.Done():
				default:
				}
			}
		}
	}()
	err = w.work(ctx)
	if err != nil {
		var f *Failure
		code := 1
		if errors.As(err, &f) {
			code = f.Code
		}
		if context.Cause(ctx) == errInterrupted {
			return w.out.send(News{Type: "done"})
		}
		return w.out.send(News{Type: "error", Text: err.Error(), Code: code})
	}
	return w.out.send(News{Type: "done"})
}

func readOrder(r *bufio.Reader) (Order, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return Order{}, err
	}
	var o Order
	if err := json.Unmarshal(line, &o); err != nil {
		return o, fmt.Errorf("order: %w", err)
	}
	return o, nil
}

func (w *worker) work(ctx context.Context) error {
	exp, err := w.sheet(nil)
	if err != nil {
		return &Failure{2, err}
	}
	if !w.guest { // nobody can come in there
		defer w.serveEnter(ctx)()
	}
	if lack := needs(exp.Needs, w.guest); lack != "" {
		return &Failure{5, fmt.Errorf("%s needs what this machine lacks: %s", exp.Name, lack)}
	}
	unsupported := map[string]string{}
	for _, a := range exp.Arms {
		if lack := needs(a.Needs, w.guest); lack != "" {
			unsupported[a.Name] = lack
		}
	}
	if len(unsupported) > 0 {
		if err := w.out.send(News{Type: "unsupported", Unsupported: unsupported}); err != nil {
			return err
		}
	}

	for _, a := range exp.Arms {
		if lack := noCongestionControl(a); lack != "" && unsupported[a.Name] == "" {
			return &Failure{5, fmt.Errorf("arm %s: %s", a.Name, lack)}
		}
	}

	told := false
	for _, p := range w.order.Trials {
		if ctx.Err() != nil {
			return nil
		}
		if base, _, _ := strings.Cut(p.Arm, "["); unsupported[base] != "" {
			continue
		}
		here := exp
		if len(p.Set) > 0 {
			if here, err = w.sheet(p.Set); err != nil {
				return &Failure{2, err}
			}
		}
		name, _, _ := strings.Cut(p.Arm, "[")
		arm, err := armNamed(here, name)
		if err != nil {
			return &Failure{2, err}
		}
		o := &one{w: w, plan: p, arm: arm, exp: here}
		t, err := o.run(ctx)
		if err != nil && len(t.Agents) == 0 {
			return fmt.Errorf("arm %s: %w", p.Arm, err)
		}
		if !told {
			told = true
			if err := w.out.send(News{Type: "environment", Environment: w.environment(o)}); err != nil {
				return err
			}
		}
		if serr := w.out.send(News{Type: "trial", Number: p.Number, Arm: p.Arm, Trial: &t}); serr != nil {
			return serr
		}
		if err != nil {
			return fmt.Errorf("arm %s: %w", p.Arm, err)
		}
	}
	return nil
}

// sheet is the order's, with what a point of a sweep sets.
func (w *worker) sheet(point []string) (*sheet.Experiment, error) {
	return sheet.Parse(w.order.File, w.order.Text, sheet.Options{Profile: w.order.Profile,
		Set: slices.Concat(w.order.Set, point), Kernel: w.order.Kernel, Clock: w.order.Clock,
		Traces: func(name string) ([]byte, error) {
			if text, ok := w.order.Traces[name]; ok {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		}})
}

// serveEnter lets `tcplab enter` in until the function that it returns is
// called.
func (w *worker) serveEnter(ctx context.Context) func() {
	ctx, done := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() {
		served <- tree.ServeEnter(ctx, w.temp, w.startIn, w.hostNames)
	}()
	return func() {
		done()
		if err := <-served; err != nil {
			w.out.send(News{Type: "log", Text: "tcplab enter could not be served: " + err.Error()})
		}
	}
}

func armNamed(e *sheet.Experiment, name string) (sheet.Arm, error) {
	for _, a := range e.Arms {
		if a.Name == name {
			return a, nil
		}
	}
	return sheet.Arm{}, fmt.Errorf("no arm %q in %s", name, e.Name)
}

// last says whether p is the trial that a hold without an arm means.
func (w *worker) last(p Planned) bool {
	return p.Number == w.order.Trials[len(w.order.Trials)-1].Number
}

// holds says whether the trial is held at its end.
func (w *worker) holds(p Planned, _ bool) bool {
	h := w.order.Hold
	return h != nil && h.At == 0 && (h.Arm == p.Arm || h.Arm == "" && w.last(p))
}

// holdAt is when the trial is to be held, ns after go.
func (w *worker) holdAt(p Planned) (int64, bool) {
	h := w.order.Hold
	if h == nil || h.At == 0 || !(h.Arm == p.Arm || h.Arm == "" && w.last(p)) {
		return 0, false
	}
	return int64(math.Round(h.At * 1e9)), true
}

func (w *worker) setStage(s *stage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.st = s
}

func (w *worker) hostNames() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.st == nil {
		return nil
	}
	var names []string
	for _, h := range w.st.arm.Hosts {
		names = append(names, h.Name)
	}
	return names
}

func (w *worker) startIn(host string, cmd *exec.Cmd) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.st == nil {
		return errors.New("no hosts are up between two trials: try again in a moment")
	}
	return w.st.startIn(host, cmd)
}

// environment describes the kernel that the trials ran on.
func (w *worker) environment(o *one) *results.Environment {
	e := &results.Environment{
		KernelPlace: "host", Clock: "real", CPUs: runtime.NumCPU(), Hosts: "namespaces",
		Privilege: "plain user, in a user namespace", Go: runtime.Version(),
		Wires: map[string]string{}, Sysctls: o.st.pinned,
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		e.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if !w.single {
		e.Privilege = "root"
	}
	if w.guest {
		e.KernelPlace = "guest"
	}
	if w.virtual {
		e.Clock = "virtual"
	}
	for _, wr := range o.out.Wires {
		e.Wires[wr.Link] = wr.Kind
		if wr.Release != "" && wr.Release != wr.Kind {
			e.Wires[wr.Link] += ", " + wr.Release
		}
	}
	e.CPU, e.Memory, e.HZ = CPUModel(), memory(), clock.HZ()
	return e
}

// CPUModel is this machine's.
func CPUModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

// memory is the machine's, in bytes.
func memory() uint64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			return n * 1024
		}
	}
	return 0
}
