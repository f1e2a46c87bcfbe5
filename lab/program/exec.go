package program

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/clients"
	"tcplab/lab/agent"
	"tcplab/lab/clock"
	"tcplab/lab/sheet"
	"tcplab/results"
)

// ExecSpec is the job of a user's own program.
type ExecSpec struct {
	Name string
	Exec sheet.Exec
	// Vars fill {{NAME}} in argv and env: server.addr, server.host, server.port.
	Vars   map[string]string
	Server bool
}

// execProgram runs a user's own program where an agent's would be. What it
// prints goes to the agent's standard error, whose end is in the record, but
// for request events if it writes them.
type execProgram struct {
	spec ExecSpec
	cmd  *exec.Cmd
	done chan struct{} // closed once it was reaped
	err  error

	mu     sync.Mutex
	tally  *requestTally
	ready  chan struct{}
	signal syscall.Signal
}

// defaultGrace is from the stop signal to SIGKILL.
const defaultGrace = 5 * time.Second

func (p *execProgram) Prepare(raw json.RawMessage) (agent.Ready, error) {
	if err := json.Unmarshal(raw, &p.spec); err != nil {
		return agent.Ready{}, fmt.Errorf("exec: job: %w", err)
	}
	x := &p.spec.Exec
	if len(x.Argv) == 0 {
		return agent.Ready{}, errors.New("exec: argv is empty: write argv: [./program, …]")
	}
	for i := range x.Argv {
		x.Argv[i] = fill(x.Argv[i], p.spec.Vars)
	}
	if x.Grace == 0 {
		x.Grace = defaultGrace
	}
	p.signal = syscall.SIGTERM
	if x.Stop != "" {
		if p.signal = unix.SignalNum(x.Stop); p.signal == 0 {
			return agent.Ready{}, fmt.Errorf("exec: stop: %s is no signal: write SIGTERM or SIGINT", x.Stop)
		}
	}
	if _, err := exec.LookPath(x.Argv[0]); err != nil {
		return agent.Ready{}, fmt.Errorf("exec: %s: %w: install it, or name it by its path", x.Argv[0], err)
	}
	if !p.spec.Server {
		return agent.Ready{}, nil // a client starts at go
	}
	if err := p.start(); err != nil {
		return agent.Ready{}, err
	}
	return agent.Ready{Addresses: p.addresses()}, p.waitReady()
}

func (p *execProgram) addresses() []string {
	if p.spec.Exec.Listen == 0 {
		return nil
	}
	return []string{fmt.Sprintf("0.0.0.0:%d", p.spec.Exec.Listen)}
}

func fill(s string, vars map[string]string) string {
	for k, v := range vars {
		s = strings.ReplaceAll(s, "{{"+k+"}}", v)
	}
	return s
}

func (p *execProgram) start() error {
	x := p.spec.Exec
	p.cmd = exec.Command(x.Argv[0], x.Argv[1:]...)
	p.cmd.Env = os.Environ()
	for k, v := range x.Env {
		p.cmd.Env = append(p.cmd.Env, k+"="+fill(v, p.spec.Vars))
	}
	// A shell's children may hold its output open longer than it lives.
	p.cmd.WaitDelay = 500 * time.Millisecond
	p.done, p.ready = make(chan struct{}), make(chan struct{})
	var match *regexp.Regexp
	if x.Log != "" {
		var err error
		if match, err = regexp.Compile(x.Log); err != nil {
			return fmt.Errorf("exec: ready: log: %w", err)
		}
	}
	var once sync.Once
	line := func(l []byte) {
		if match != nil && match.Match(l) {
			once.Do(func() { close(p.ready) })
		}
	}
	stdout := &lines{each: func(l []byte) {
		line(l)
		if x.Events && p.request(l) {
			return
		}
		os.Stderr.Write(append(bytes.Clone(l), '\n'))
	}}
	p.cmd.Stdout = stdout
	p.cmd.Stderr = &lines{each: func(l []byte) { line(l); os.Stderr.Write(append(bytes.Clone(l), '\n')) }}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("exec: %s: %w", x.Argv[0], err)
	}
	go func() {
		p.err = p.cmd.Wait()
		if errors.Is(p.err, exec.ErrWaitDelay) {
			p.err = nil // it ended well; its children's output is not waited for
		}
		close(p.done)
	}()
	return nil
}

// waitReady waits for what the sheet says of a program that is ready. The lab
// bounds how long that may take.
func (p *execProgram) waitReady() error {
	x := p.spec.Exec
	switch {
	case x.Log != "":
		select {
		case <-p.ready:
			return nil
		case <-p.done:
			return p.ended()
		}
	case x.Listen > 0:
		for {
			if listens(x.Listen) {
				return nil
			}
			select {
			case <-p.done:
				return p.ended()
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return nil
}

func (p *execProgram) ended() error {
	if p.err != nil {
		return fmt.Errorf("%s ended: %w", p.spec.Exec.Argv[0], p.err)
	}
	return fmt.Errorf("%s ended by itself", p.spec.Exec.Argv[0])
}

// listens says whether a TCP socket of this namespace listens on port.
func listens(port int) bool {
	for _, name := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		s := bufio.NewScanner(f)
		want := fmt.Sprintf(":%04X", port)
		for s.Scan() {
			// sl local_address rem_address st …; 0A is LISTEN.
			if w := strings.Fields(s.Text()); len(w) > 3 && w[3] == "0A" && strings.HasSuffix(w[1], want) {
				f.Close()
				return true
			}
		}
		f.Close()
	}
	return false
}

func (p *execProgram) Run(ctx context.Context, g agent.Go, out *agent.Out) (any, error) {
	if p.spec.Server {
		select {
		case <-ctx.Done():
			return ServerResult{Argv: p.spec.Exec.Argv}, p.stop()
		case <-p.done:
			return nil, p.ended()
		}
	}
	p.tally = newRequestTally(g)
	if err := clock.SleepUntil(ctx, g.T0); err != nil {
		return p.result(g), nil
	}
	if err := p.start(); err != nil {
		return nil, err
	}
	out.Event(clock.Now(), "started", map[string]any{"argv": p.spec.Exec.Argv})
	over := make(chan struct{})
	go func() { clock.SleepUntil(ctx, g.To); close(over) }()
	select {
	case <-p.done:
		out.Event(clock.Now(), "ended", nil)
		if p.err != nil {
			return nil, p.ended()
		}
		<-over // the window is measured to its end all the same
	case <-over:
		if err := p.stop(); err != nil {
			return nil, err
		}
	}
	return p.result(g), nil
}

// stop asks the program to end, and makes it.
func (p *execProgram) stop() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	// The whole group, which is the agent's own: a shell's children must hear
	// it too. The agent catches what it sends itself; what does not end is
	// killed with the group when the lab closes the agent.
	own := make(chan os.Signal, 8)
	signal.Notify(own, p.signal)
	if err := syscall.Kill(0, p.signal); err != nil {
		return fmt.Errorf("exec: stop: %w", err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(p.spec.Exec.Grace):
	}
	p.cmd.Process.Kill()
	<-p.done
	return nil
}

func (p *execProgram) Do(f agent.Fault) error {
	return fmt.Errorf("a user's own program knows no fault %q: kill, freeze and continue are the lab's", f.Do)
}

func (p *execProgram) Close() error {
	if p.cmd != nil && p.cmd.Process != nil {
		return p.stop()
	}
	return nil
}

func (p *execProgram) result(g agent.Go) ClientResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := ClientResult{Argv: p.spec.Exec.Argv, Silent: !p.spec.Exec.Events}
	if p.spec.Exec.Events {
		r.Result = p.tally.result()
	}
	r.T0, r.WindowStart, r.WindowEnd = g.T0, g.From, g.To
	return r
}

// request takes a line of the program's output if it is a request event:
//
//	{"type":"request","at":NS,"took":S,"connect":S,"error":"CLASS"}
//
// at is the intended start (CLOCK_MONOTONIC); connect and error may be absent.
func (p *execProgram) request(line []byte) bool {
	var e struct {
		Type    string   `json:"type"`
		At      int64    `json:"at"`
		Took    float64  `json:"took"`
		Connect *float64 `json:"connect"`
		Error   string   `json:"error"`
	}
	if json.Unmarshal(line, &e) != nil || e.Type != "request" {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tally != nil {
		p.tally.add(e.At, e.Took, e.Connect, e.Error)
	}
	return true
}

// requestTally counts a program's own request events as a client would.
type requestTally struct {
	g agent.Go
	r clients.Result
}

func newRequestTally(g agent.Go) *requestTally {
	t := &requestTally{g: g}
	t.r.Errors, t.r.Total.Errors = map[string]int64{}, map[string]int64{}
	t.r.First = map[string]int64{}
	t.r.Histograms = clients.Histograms{}
	for _, n := range []string{"latency", "failure", "connect"} {
		t.r.Histograms[n] = results.NewHistogram()
	}
	return t
}

func (t *requestTally) add(at int64, took float64, connect *float64, class string) {
	ns := int64(took * 1e9)
	if connect != nil {
		t.r.Opens++
	}
	if class != "" && t.r.FirstError == 0 {
		t.r.FirstError, t.r.FirstErrorClass = at+ns, class
	}
	if first, known := t.r.First[class]; class != "" && (!known || at+ns < first) {
		t.r.First[class] = at + ns
	}
	counts := []*clients.Counts{&t.r.Total}
	in := at >= t.g.From && at < t.g.To
	if in {
		counts = append(counts, &t.r.Counts)
	}
	for _, c := range counts {
		c.Offered++
		c.Sent++
		if class == "" {
			c.OK++
		} else {
			c.Failed++
			c.Errors[class]++
		}
	}
	if !in {
		return
	}
	h := t.r.Histograms
	if class == "" {
		h["latency"].RecordValue(ns)
	} else {
		h["failure"].RecordValue(ns)
	}
	if connect != nil {
		h["connect"].RecordValue(int64(*connect * 1e9))
	}
}

func (t *requestTally) result() clients.Result { return t.r }

// lines calls each for every line written to it.
type lines struct {
	buf  []byte
	each func([]byte)
}

const longestLine = 64 << 10

func (l *lines) Write(b []byte) (int, error) {
	l.buf = append(l.buf, b...)
	for {
		i := bytes.IndexByte(l.buf, '\n')
		if i < 0 {
			if len(l.buf) > longestLine {
				l.each(l.buf)
				l.buf = l.buf[:0]
			}
			return len(b), nil
		}
		l.each(l.buf[:i])
		l.buf = l.buf[i+1:]
	}
}

var _ io.Writer = (*lines)(nil)
