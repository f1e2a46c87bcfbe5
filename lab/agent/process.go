package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Job is what an agent is started for.
type Job struct {
	Role string
	Kind string
	Name string
	Host string
	Spec any
}

// Process is an agent as the lab sees it. Its methods may be called from any
// goroutine.
type Process struct {
	Job   Job
	Ready Ready

	cmd    *exec.Cmd
	in     io.WriteCloser
	enc    *Encoder
	encMu  sync.Mutex
	stderr tail

	ready  chan struct{} // closed when ready came
	result chan struct{} // closed when the result came, or never will
	exited chan struct{} // closed when the process was reaped

	mu      sync.Mutex
	raw     json.RawMessage
	usage   Usage
	err     error // why it is not what it should be: died, garbage, its own error
	stopped bool
	state   *os.ProcessState
}

// Listener hears what an agent says while it runs. Calls come from one
// goroutine for each agent.
type Listener func(p *Process, m *Message)

// Start runs argv inside a host (start does that) and sends it the job.
func Start(job Job, argv []string, start func(*exec.Cmd) error, hear Listener) (*Process, error) {
	spec, err := json.Marshal(job.Spec)
	if err != nil {
		return nil, fmt.Errorf("%s: job: %w", job.Name, err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	p := &Process{Job: job, cmd: cmd, ready: make(chan struct{}), result: make(chan struct{}), exited: make(chan struct{})}
	cmd.Stderr = &p.stderr
	// Frozen or stopped from a terminal, an agent must not take the lab along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	// Not StdoutPipe: Wait would close it under the reader.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = w
	err = start(cmd)
	w.Close()
	if err != nil {
		r.Close()
		p.in.Close()
		return nil, fmt.Errorf("agent %s on %s: %w", job.Name, job.Host, err)
	}
	p.enc = NewEncoder(p.in)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer r.Close()
		p.read(NewDecoder(r), hear)
	}()
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.state = cmd.ProcessState
		p.mu.Unlock()
		<-read
		p.ended(err)
		close(p.exited)
	}()
	if err := p.send(&Message{Type: TypeJob, Role: job.Role, Kind: job.Kind, Name: job.Name, Spec: spec}); err != nil {
		p.Kill()
		return nil, fmt.Errorf("agent %s on %s: %w", job.Name, job.Host, p.why(err))
	}
	return p, nil
}

// PID is the process's id in the lab's own namespace of processes.
func (p *Process) PID() int { return p.cmd.Process.Pid }

func (p *Process) why(err error) error {
	<-p.exited
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	return err
}

func (p *Process) read(d *Decoder, hear Listener) {
	readySeen, resultSeen := false, false
	for {
		m, err := d.Decode()
		if err != nil {
			var g *Garbage
			if errors.As(err, &g) || !errors.Is(err, io.EOF) {
				p.fail(fmt.Errorf("agent %s printed what is no message: %w", p.Job.Name, err))
				p.Kill()
			}
			if !resultSeen {
				close(p.result)
			}
			return
		}
		switch m.Type {
		case TypeReady:
			if readySeen {
				continue
			}
			readySeen = true
			p.mu.Lock()
			p.Ready = Ready{m.Addresses, m.Options}
			p.mu.Unlock()
			close(p.ready)
		case TypeError:
			p.fail(errors.New(m.Error))
		case TypeResult:
			if resultSeen {
				continue
			}
			resultSeen = true
			p.mu.Lock()
			p.raw = m.Result
			if m.Usage != nil {
				p.usage = *m.Usage
			}
			p.mu.Unlock()
			close(p.result)
		}
		if hear != nil {
			hear(p, m)
		}
	}
}

func (p *Process) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}

func (p *Process) ended(waitErr error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil && p.raw == nil && !p.stopped {
		p.err = fmt.Errorf("agent %s on %s died unasked: %s%s", p.Job.Name, p.Job.Host, exitWord(p.state, waitErr), p.stderr.hint())
	}
}

func exitWord(s *os.ProcessState, err error) string {
	if s != nil {
		return s.String()
	}
	if err != nil {
		return err.Error()
	}
	return "exit status 0"
}

func (p *Process) send(m *Message) error {
	p.encMu.Lock()
	defer p.encMu.Unlock()
	return p.enc.Encode(m)
}

// WaitReady waits until the agent can be sent go.
func (p *Process) WaitReady(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	case <-p.exited:
		return p.why(fmt.Errorf("agent %s on %s ended before it was ready: %s%s", p.Job.Name, p.Job.Host, p.Exit(), p.stderr.hint()))
	case <-ctx.Done():
		return fmt.Errorf("agent %s on %s did not get ready in time: %w%s", p.Job.Name, p.Job.Host, context.Cause(ctx), p.stderr.hint())
	}
}

// Go starts the program at t0.
func (p *Process) Go(g Go) error {
	return p.send(&Message{Type: TypeGo, T0: g.T0, From: g.From, To: g.To})
}

// Do applies a fault.
func (p *Process) Do(f Fault) error { return p.send(&Message{Type: TypeDo, Fault: &f}) }

// Stop asks for the result.
func (p *Process) Stop() error {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	return p.send(&Message{Type: TypeStop})
}

// Result waits for the program's result and decodes it into v.
func (p *Process) Result(ctx context.Context, v any) error {
	select {
	case <-p.result:
	case <-ctx.Done():
		return fmt.Errorf("agent %s on %s hangs: no result in time%s", p.Job.Name, p.Job.Host, p.stderr.hint())
	}
	p.mu.Lock()
	raw := p.raw
	p.mu.Unlock()
	if raw == nil {
		<-p.exited
		return p.why(fmt.Errorf("agent %s on %s ended without a result: %s%s", p.Job.Name, p.Job.Host, p.Exit(), p.stderr.hint()))
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("agent %s on %s: result: %w", p.Job.Name, p.Job.Host, err)
	}
	return nil
}

// Done is closed when the result came, or never will.
func (p *Process) Done() <-chan struct{} { return p.result }

// Err is what went wrong with the agent so far.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// grace is how long an agent may take to exit once its input has ended: its
// programs need some milliseconds.
var grace = time.Second

// Close ends the agent: end of input first, SIGKILL to its process group
// after that, and waits until it is reaped.
func (p *Process) Close() {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.encMu.Lock()
	p.in.Close()
	p.encMu.Unlock()
	select {
	case <-p.exited:
	case <-time.After(grace):
		p.Kill()
		<-p.exited
	}
	// What the agent itself had started is in the same group.
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
}

// Kill ends the agent and its children at once.
func (p *Process) Kill() {
	select {
	case <-p.exited:
	default:
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		p.cmd.Process.Kill()
	}
}

// End kills the agent because it was asked for: that is no error of its own.
func (p *Process) End() error {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	return p.Signal(syscall.SIGKILL)
}

// Ended says whether the agent was asked to stop, or killed on purpose.
func (p *Process) Ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopped
}

// Signal sends the agent's process group a signal.
func (p *Process) Signal(s syscall.Signal) error { return syscall.Kill(-p.cmd.Process.Pid, s) }

// Usage is what the agent said of its own cost, or the kernel at its end.
func (p *Process) Usage() Usage {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.usage
	if p.state != nil {
		u.CPU = max(u.CPU, p.state.UserTime().Seconds()+p.state.SystemTime().Seconds())
	}
	return u
}

// Exit says how the process ended, or that it runs.
func (p *Process) Exit() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == nil {
		return "running"
	}
	return p.state.String()
}

// Stderr is the last of what the agent wrote there.
func (p *Process) Stderr() string { return p.stderr.String() }

// tail keeps the last few KiB written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if n := len(t.buf) - tailSize; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

func (t *tail) hint() string {
	s := strings.TrimSpace(t.String())
	if s == "" {
		return ""
	}
	lines := strings.Split(s, "\n")
	return "; it last said: " + lines[len(lines)-1]
}
