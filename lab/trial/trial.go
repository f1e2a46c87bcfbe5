package trial

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tcplab/lab/agent"
	"tcplab/lab/clock"
	"tcplab/lab/program"
	"tcplab/lab/sheet"
	"tcplab/netns"
	"tcplab/results"
)

const (
	settle       = 100 * time.Millisecond // from the last ready to go
	resultWithin = 5 * time.Second        // after the drain
	stopWithin   = 3 * time.Second        // once asked
)

// errInterrupted ends a trial because the user wished so.
var errInterrupted = errors.New("interrupted")

// one is a trial while it runs.
type one struct {
	w    *worker
	plan Planned
	arm  sheet.Arm
	exp  *sheet.Experiment
	dir  string // absolute

	out     results.Trial
	st      *stage
	rec     *recorder
	smp     *sampler
	trk     *trackers
	cap     *capturing
	watches []*watch // what TCP says of the clients' connections

	evMu    sync.Mutex
	events  []eventLine
	refused []error          // faults that their programs do not know
	reached map[string]int64 // events that a trial may wait for → their instant
	news    chan struct{}    // closed and made anew when one is reached

	tickMu sync.Mutex
	tick   News
	ticked int64
}

type eventLine struct {
	T      float64        `json:"t"` // s since go
	Agent  string         `json:"agent"`
	Event  string         `json:"event"`
	Fields map[string]any `json:"fields,omitempty"`
}

// run executes one trial. The error is for what kept it from being one at all
// (the machine lacks something, the disk is full); whatever went wrong with
// the measuring itself is in the trial's validity.
func (o *one) run(ctx context.Context) (results.Trial, error) {
	started := clock.Now()
	o.out = results.Trial{
		Number: o.plan.Number, Arm: o.plan.Arm, Pair: o.plan.Pair, Seed: o.plan.Seed,
		Dir:    filepath.Join("trials", fmt.Sprintf("%d-%s-%d", o.plan.Number, o.plan.Arm, o.plan.Seed)),
		Warmup: o.arm.Trial.Warmup.Seconds(), Duration: (o.arm.Trial.Length() - o.arm.Trial.Warmup).Seconds(),
		Metrics: map[string]results.Quantity{},
	}
	o.dir = filepath.Join(o.w.order.Dir, o.out.Dir)
	if err := os.MkdirAll(o.dir, 0o777); err != nil {
		return o.out, &Failure{1, fmt.Errorf("trial's folder: %w", err)}
	}
	o.rec = newRecorder()
	o.reached, o.news = map[string]int64{}, make(chan struct{})
	o.phase("hosts and links", 0)
	err := o.setKernel()
	if err != nil {
		return o.out, err
	}
	if o.st, err = newStage(o.arm, o.plan.Seed, o.w.agentArgv, o.hear); err != nil {
		return o.out, err
	}
	o.st.virtual, o.st.counted = o.w.virtual, counted(o.exp)
	defer func() {
		if cerr := o.st.close(); cerr != nil && err == nil {
			o.warn("hosts", "not everything came down: "+cerr.Error())
		}
	}()
	o.w.setStage(o.st)
	defer o.w.setStage(nil)
	if text := notPinned(o.st.notPinned); text != "" {
		o.warn("sysctls", text)
	}
	if err = o.prepare(ctx); err != nil {
		return o.out, err
	}
	defer o.smp.close()
	defer o.cap.close()
	defer o.trk.close()

	measured := o.measure(ctx)
	for _, err := range o.refused {
		measured.reason(err)
	}
	o.collect(measured)
	werr := o.write()
	if werr != nil {
		// The numbers are measured all the same: they go into the record.
		werr = &Failure{1, fmt.Errorf("trial %d: its files could not be written: %w", o.plan.Number, werr)}
		o.out.Validity.Valid = false
		o.out.Validity.Reasons = append(o.out.Validity.Reasons, werr.Error())
	}
	o.out.Took = clock.Seconds(started, clock.Now())
	return o.out, werr
}

// notPinned says which of the lab's own sysctls a host has otherwise; keys that
// the kernel does not have are nothing to tell.
func notPinned(list []netns.NotPinned) string {
	var differ []string
	for _, n := range list {
		if n.Has != "" {
			differ = append(differ, fmt.Sprintf("%s is %s and not %s", n.Key, n.Has, n.Wanted))
		}
	}
	if differ == nil {
		return ""
	}
	return "these could not be pinned here: " + strings.Join(differ, ", ")
}

// prepare starts the agents, opens probes and taps.
func (o *one) prepare(ctx context.Context) error {
	o.phase("agents", 0)
	if err := o.st.startAll(ctx); err != nil {
		var f *Failure
		if errors.As(err, &f) || ctx.Err() != nil {
			return err
		}
		// An agent that cannot be made ready is the sheet's or the machine's
		// fault, and no measurement.
		return &Failure{3, err}
	}
	var names []string
	ports := map[string][2]int{}
	for _, h := range o.arm.Hosts {
		names = append(names, h.Name)
		r, err := o.st.hosts[h.Name].Sysctl("net.ipv4.ip_local_port_range")
		if err != nil {
			return lacks(err)
		}
		ports[h.Name] = portRange(r)
	}
	var err error
	if o.smp, err = newSampler(o.rec, names, o.st.hosts, ports); err != nil {
		return err
	}
	if o.trk, err = openTrackers(o); err != nil {
		o.smp.close()
		return err
	}
	o.smp.trk = o.trk
	if o.cap, err = openCapture(o); err != nil {
		o.smp.close()
		o.trk.close()
		return lacks(err)
	}
	return nil
}

func portRange(s string) [2]int {
	var r [2]int
	for i, f := range strings.Fields(s) {
		if i < 2 {
			r[i], _ = strconv.Atoi(f)
		}
	}
	return r
}

// span is a trial's instants.
type span struct{ t0, from, to int64 }

// measured is how the measuring ended.
type measured struct {
	span
	clients     map[string]*program.ClientResult
	servers     map[string]*program.ServerResult
	wires       map[string]*program.WireResult
	middleboxes map[string]*program.MiddleboxResult
	counters    map[string]map[string]int64 // host → whole trial
	waits       map[string]float64          // agent → s of the window that it waited for a CPU; none on the virtual clock
	interrupted bool
	ended       atomic.Int64 // when an awaited event ended the window; 0: it ran to its end

	mu      sync.Mutex
	reasons []string
}

func (o *one) measure(ctx context.Context) *measured {
	length := o.arm.Trial.Length()
	t0 := clock.Now() + int64(settle)
	if o.w.virtual {
		// A file that one machine has and another has not is a microsecond of
		// setting up: go is at a whole second all the same, and the trial alike.
		t0 = (t0/1e9 + 1) * 1e9
	}
	m := &measured{span: span{t0, t0 + int64(o.arm.Trial.Warmup), t0 + int64(length)},
		clients: map[string]*program.ClientResult{}, servers: map[string]*program.ServerResult{},
		wires: map[string]*program.WireResult{}, middleboxes: map[string]*program.MiddleboxResult{}, counters: map[string]map[string]int64{}}
	o.rec.start(t0)
	o.ticked = t0
	o.cap.window(o, m.span)
	back := func() {}
	if !o.w.virtual {
		back = goFirst()
	}
	for _, p := range o.st.procs {
		if err := p.Go(agent.Go{T0: t0, From: m.from, To: m.to}); err != nil {
			m.reason(fmt.Errorf("agent %s could not be sent go: %w", p.Job.Name, err))
		}
	}
	woken := agent.Wakeups()
	run, stop := context.WithCancel(ctx)
	var bg sync.WaitGroup
	spawn := func(f func()) { bg.Add(1); go func() { defer bg.Done(); f() }() }
	spawn(func() { o.smp.run(run, m.t0, m.from, m.to, o.w.virtual) })
	spawn(func() { o.phases(run, m.span) })
	spawn(func() { o.faults(run, m) })
	spawn(func() { o.flows(run, m) })
	spawn(func() { o.diagnose(run, m) })
	if !o.w.virtual {
		spawn(func() { o.waits(run, m) })
	}
	if o.arm.Trial.Until != "" {
		spawn(func() { o.until(run, m) })
	}

	o.waitClients(ctx, m)
	back()
	if o.w.holds(o.plan, false) {
		o.hold(ctx)
	}
	if ctx.Err() == nil && !o.w.virtual {
		// Tools differ from machine to machine, and what they do takes some of
		// the guest's time: there they would spoil what makes runs equal.
		o.compareTools(m)
	}
	o.early(m)
	stop()
	bg.Wait()
	if e := m.ended.Load(); e != 0 {
		m.to = e
		o.out.Duration = clock.Seconds(m.from, m.to)
	}
	o.thaw()
	woken = agent.Wakeups() - woken
	o.stopAgents(m)
	if o.w.guest {
		o.out.Wakeups = woken
		for _, p := range o.st.procs {
			o.out.Wakeups += p.Usage().Wakeups
		}
	}
	for _, h := range o.arm.Hosts {
		c, err := o.smp.by[h.Name].Counters()
		if err != nil {
			m.reason(fmt.Errorf("host %s: counters at the end: %w", h.Name, err))
			continue
		}
		m.counters[h.Name] = c
	}
	if ctx.Err() != nil {
		m.interrupted = true
		m.reason(context.Cause(ctx))
	}
	return m
}

func (m *measured) reason(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.reasons {
		if r == err.Error() {
			return
		}
	}
	m.reasons = append(m.reasons, err.Error())
}

// waitClients waits until every client has its result, one of the agents is
// dead, a hold at a given time begins, or the trial is stopped.
func (o *one) waitClients(ctx context.Context, m *measured) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	drain := program.Drain(o.arm)
	deadline := time.NewTimer(time.Duration(m.to-clock.Now()) + drain + resultWithin)
	defer deadline.Stop()
	var hold <-chan time.Time
	if at, ok := o.w.holdAt(o.plan); ok {
		t := time.NewTimer(time.Duration(m.t0 + at - clock.Now()))
		defer t.Stop()
		hold = t.C
	}
	dead := make(chan *agent.Process, len(o.st.procs))
	for _, p := range o.st.procs {
		if p.Job.Role != program.RoleClient {
			go func() {
				select {
				case <-p.Done():
					if !p.Ended() {
						dead <- p
					}
				case <-ctx.Done():
				}
			}()
		}
	}
	for _, p := range o.st.role(program.RoleClient) {
		select {
		case <-p.Done():
		case d := <-dead:
			if err := d.Err(); err != nil {
				m.reason(err)
			} else {
				m.reason(fmt.Errorf("agent %s ended before it was asked to", d.Job.Name))
			}
			return
		case <-deadline.C:
			m.reason(fmt.Errorf("agent %s hangs: no result %v after the window", p.Job.Name, drain+resultWithin))
			return
		case <-hold:
			m.reason(errors.New("held in the middle of the trial, so it was not measured to its end"))
			o.hold(ctx)
			return
		case <-ctx.Done():
			return
		}
	}
}

// stopAgents asks each for its result: clients first, so that servers and
// wires see their last packets.
func (o *one) stopAgents(m *measured) {
	for _, role := range []string{program.RoleClient, program.RoleServer, program.RoleMiddlebox, program.RoleWire} {
		ctx, cancel := context.WithTimeout(context.Background(), stopWithin+program.Grace(o.arm))
		defer cancel()
		for _, p := range o.st.role(role) {
			p.Stop()
		}
		for _, p := range o.st.role(role) {
			var err error
			switch role {
			case program.RoleClient:
				r := &program.ClientResult{}
				if err = p.Result(ctx, r); err == nil {
					m.clients[p.Job.Name] = r
				}
			case program.RoleServer:
				r := &program.ServerResult{}
				if err = p.Result(ctx, r); err == nil {
					m.servers[p.Job.Name] = r
				}
			case program.RoleMiddlebox:
				r := &program.MiddleboxResult{}
				if err = p.Result(ctx, r); err == nil {
					m.middleboxes[p.Job.Name] = r
				}
			case program.RoleWire:
				r := &program.WireResult{}
				if err = p.Result(ctx, r); err == nil {
					m.wires[p.Job.Name] = r
				}
			}
			if err != nil && !o.st.killed[p] {
				m.reason(err)
			}
		}
		if role == program.RoleClient {
			o.quiet()
		}
	}
	for _, p := range o.st.procs {
		p.Close()
	}
}

// quiet lets what the clients' closing put on the wires arrive: until no
// socket of a client's host waits for its peer, for a second at most.
func (o *one) quiet() {
	end, step := clock.Now()+int64(time.Second), 5*time.Millisecond
	if o.w.virtual {
		step = 50 * time.Millisecond // looking costs wall time there
	}
	for clock.Now() < end {
		busy := 0
		for _, c := range o.arm.Clients {
			census, err := o.smp.by[c.On].Census(o.smp.ports[c.On])
			if err != nil {
				return
			}
			for _, s := range []string{"SYN-SENT", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "LAST-ACK"} {
				busy += census.ByState[s]
			}
		}
		if busy == 0 {
			return
		}
		time.Sleep(step)
	}
}

// hear takes what agents say while they run.
func (o *one) hear(p *agent.Process, m *agent.Message) {
	switch m.Type {
	case agent.TypeSample:
		for k, v := range m.Values {
			o.rec.add(p.Job.Name, k, m.At, v)
		}
		if p.Job.Role == program.RoleClient {
			o.progress(m)
		}
	case agent.TypeEvent:
		if m.Name == agent.FaultRefused {
			o.refuse(fmt.Errorf("fault %v on %s: %v", m.Fields["fault"], p.Job.Name, m.Fields["error"]))
		}
		o.event(m.At, p.Job.Name, m.Name, m.Fields)
		switch p.Job.Role {
		case program.RoleClient:
			o.clientEvent(m.At, m.Name)
			if m.Name == "over" {
				o.reach("over "+p.Job.Name, m.At)
			}
		case program.RoleWire:
			o.wireEvent(m)
		}
	}
}

func (o *one) event(at int64, agent, name string, fields map[string]any) {
	o.evMu.Lock()
	defer o.evMu.Unlock()
	o.events = append(o.events, eventLine{T: clock.Seconds(o.rec.zero(), at), Agent: agent, Event: name, Fields: fields})
}

// progress adds a client's sample up, and passes it on twice a second.
func (o *one) progress(m *agent.Message) {
	o.tickMu.Lock()
	defer o.tickMu.Unlock()
	if o.tick.Errors == nil {
		o.tick = News{Type: "tick", Number: o.plan.Number, Arm: o.plan.Arm, Errors: map[string]int64{}}
	}
	for k, v := range m.Values {
		switch {
		case k == "ok":
			o.tick.OK += int64(v)
		case k == "failed":
			o.tick.Failed += int64(v)
		case strings.HasPrefix(k, "errors."):
			o.tick.Errors[k[len("errors."):]] += int64(v)
		}
	}
	now := clock.Now()
	if now-o.ticked < 500e6 {
		return
	}
	o.tick.Span = clock.Seconds(o.ticked, now)
	o.tick.Seconds = clock.Seconds(o.rec.zero(), now)
	o.tick.Of = o.arm.Trial.Length().Seconds()
	o.w.out.send(o.tick)
	o.tick, o.ticked = News{}, now
}

func (o *one) phase(name string, seconds float64) {
	o.w.out.send(News{Type: "phase", Number: o.plan.Number, Arm: o.plan.Arm, Phase: name, Seconds: seconds, Of: o.arm.Trial.Length().Seconds()})
}

func (o *one) phases(ctx context.Context, s span) {
	o.phase("warm-up", clock.Seconds(s.t0, s.from))
	if clock.SleepUntil(ctx, s.from) != nil {
		return
	}
	o.event(s.from, "lab", "window begins", nil)
	o.phase("measuring", clock.Seconds(s.from, s.to))
	if clock.SleepUntil(ctx, s.to) != nil {
		return
	}
	o.event(s.to, "lab", "window ends", nil)
	o.phase("drain", 0)
}

func (o *one) warn(about, text string) {
	o.out.Warnings = append(o.out.Warnings, results.Warning{About: about, Text: text})
}

// hold keeps everything up until the user lets go.
func (o *one) hold(ctx context.Context) {
	var hosts []string
	for _, h := range o.arm.Hosts {
		hosts = append(hosts, h.Name)
	}
	o.w.out.send(News{Type: "held", Number: o.plan.Number, Arm: o.plan.Arm, Text: strings.Join(hosts, " ")})
	select {
	case <-o.w.released:
	case <-ctx.Done():
	}
}

// compareTools takes the answer of ss and nstat once, where they are
// installed, and holds it against ours.
func (o *one) compareTools(m *measured) {
	var text strings.Builder
	seen := map[string]bool{}
	for _, c := range o.arm.Clients {
		if seen[c.On] {
			continue
		}
		seen[c.On] = true
		host := o.st.hosts[c.On]
		t, diffs, err := o.smp.by[c.On].CompareTools(func(argv ...string) ([]byte, error) {
			path, err := exec.LookPath(argv[0])
			if err != nil {
				return nil, err
			}
			cmd := exec.Command(path, argv[1:]...)
			cmd.Env = append(os.Environ(), "LC_ALL=C")
			var out strings.Builder
			cmd.Stdout = &out
			if err := host.Start(cmd); err != nil {
				return nil, err
			}
			err = cmd.Wait()
			return []byte(out.String()), err
		})
		fmt.Fprintf(&text, "# host %s, %.1f s after go\n%s\n", c.On, clock.Seconds(m.t0, clock.Now()), t)
		if err != nil {
			o.warn("sockets.txt", fmt.Sprintf("host %s: the system's own tools could not be asked: %v", c.On, err))
		}
		for _, d := range diffs {
			o.warn("sockets.txt", fmt.Sprintf("host %s: %s: more than 1%% apart", c.On, d))
		}
	}
	if err := os.WriteFile(filepath.Join(o.dir, results.SocketsFile), []byte(text.String()), 0o644); err != nil {
		m.reason(err)
	}
}

// write puts the trial's files into its folder and describes them.
func (o *one) write() error {
	o.evMu.Lock()
	var b strings.Builder
	enc := json.NewEncoder(&b)
	slices.SortStableFunc(o.events, func(a, b eventLine) int { return cmp.Compare(a.T, b.T) })
	for _, e := range o.events {
		if err := enc.Encode(e); err != nil {
			o.evMu.Unlock()
			return err
		}
	}
	o.evMu.Unlock()
	if err := results.WriteFile(filepath.Join(o.dir, results.EventsFile), []byte(b.String())); err != nil {
		return err
	}
	series := o.rec.all()
	var s strings.Builder
	if err := results.WriteSamples(&s, series); err != nil {
		return err
	}
	if err := results.WriteFile(filepath.Join(o.dir, results.SamplesFile), []byte(s.String())); err != nil {
		return err
	}
	for _, c := range series {
		o.out.Columns = append(o.out.Columns, c.Column())
	}
	names := []string{results.HistogramFile, results.SamplesFile, results.CaptureFile, results.EventsFile, results.SocketsFile}
	for _, l := range o.arm.Links {
		names = append(names, results.FatesFile(l.Name))
	}
	for _, name := range names {
		f, err := results.DigestFile(o.dir, name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		o.out.Files = append(o.out.Files, f)
	}
	return nil
}
