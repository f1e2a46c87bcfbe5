package program

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"tcplab/clients"
	"tcplab/lab/agent"
	"tcplab/lab/sheet"
	"tcplab/netns/flood"
	"tcplab/workloads"
)

// ClientSpec is the job of a client.
type ClientSpec struct {
	Client sheet.Client
	To     []string // address:port
	Trial  sheet.Trial
	Seed   uint64
}

// ClientResult is what a client reports: what it counted, and for a user's
// own program the command that ran.
type ClientResult struct {
	clients.Result
	Argv   []string      `json:"argv,omitempty"`
	Silent bool          `json:"silent,omitempty"` // it writes no events: there are no client metrics
	Flood  *flood.Result `json:"flood,omitempty"`  // of kind flood, which has nothing else
}

// Drain is how long an arm's clients may wait for their last answers.
func Drain(arm sheet.Arm) time.Duration {
	d := time.Duration(0)
	for _, c := range arm.Clients {
		cfg := clientConfig(ClientSpec{Client: c, Trial: arm.Trial})
		d = max(d, cfg.Drain)
	}
	return d + Grace(arm)
}

// Grace is the longest that a user's own program of an arm may take to end.
func Grace(arm sheet.Arm) time.Duration {
	d := time.Duration(0)
	grace := func(x *sheet.Exec) {
		if x != nil {
			d = max(d, x.Grace)
			if x.Grace == 0 {
				d = max(d, defaultGrace)
			}
		}
	}
	for _, c := range arm.Clients {
		grace(c.Exec)
	}
	for _, v := range arm.Servers {
		grace(v.Exec)
	}
	return d
}

const defaultDrain = 2 * time.Second

func clientConfig(s ClientSpec) clients.Config {
	c, w := s.Client, s.Client.Workload
	cfg := clients.Config{
		Kind: c.Kind, To: s.To, Reuse: c.Reuse, Closes: c.Closes, Options: c.Options,
		Size: w.Size, ResponseSize: w.Response, Connections: w.Connections, Deadline: c.Deadline, Again: w.Again,
		Warmup: s.Trial.Warmup, Duration: s.Trial.Length() - s.Trial.Warmup, Drain: defaultDrain,
	}
	if c.Reuse == clients.Pooled {
		cfg.Pool = clients.Pool{Size: c.Pool.Size, Idle: c.Pool.Idle}
	}
	if c.Deadline > 0 {
		cfg.Drain = c.Deadline
	}
	ownKeys(&cfg, c)
	return cfg
}

func workloadConfig(s ClientSpec) workloads.Config {
	w := s.Client.Workload
	cfg := workloads.Config{
		Kind: w.Kind, Arrivals: w.Arrivals, Rate: w.Rate, RateTo: w.RateTo, Connections: w.Connections,
		Size: w.Size, ResponseSize: w.Response, Think: w.Think, Deadline: s.Client.Deadline, Seed: s.Seed,
	}
	if w.Arrivals == workloads.Ramp {
		cfg.RampOver = s.Trial.Length()
	}
	return cfg
}

// schedule is when a client is meant to send; nil where it never stops.
func schedule(s ClientSpec) (clients.Schedule, error) {
	if s.Client.Kind == clients.Incarnations {
		return nil, nil // it has no requests
	}
	w := workloadConfig(s)
	switch {
	case s.Client.Workload.Trace != "":
		return nil, nil // a trace has its own times
	case w.Kind == clients.Bulk && w.Rate == 0:
		return nil, nil
	case w.Kind == clients.Bulk, w.Kind == workloads.Writes:
		w.Kind = workloads.Requests // a message has its time as a request has
	}
	return workloads.New(w)
}

type clientProgram struct {
	c *clients.Client
}

func (p *clientProgram) Prepare(raw json.RawMessage) (agent.Ready, error) {
	var spec ClientSpec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return agent.Ready{}, fmt.Errorf("client: job: %w", err)
	}
	sched, err := schedule(spec)
	if err != nil {
		return agent.Ready{}, err
	}
	cfg := clientConfig(spec)
	if cfg.Writes, err = writesOf(spec.Client); err != nil {
		return agent.Ready{}, err
	}
	if p.c, err = clients.New(cfg, sched); err != nil {
		return agent.Ready{}, err
	}
	options, err := p.c.Prepare()
	return agent.Ready{Options: options}, err
}

func (p *clientProgram) Run(ctx context.Context, g agent.Go, out *agent.Out) (any, error) {
	r, err := p.c.Run(ctx, g.T0, inSeconds{out})
	if err != nil {
		return nil, err
	}
	return ClientResult{Result: *r}, nil
}

func (p *clientProgram) Do(f agent.Fault) error { return p.c.Do(f.Do, f.Args) }

func (p *clientProgram) Close() error { return nil }

// inSeconds turns the nanoseconds of a client's samples into the record's
// seconds.
type inSeconds struct{ *agent.Out }

func (o inSeconds) Sample(at int64, values map[string]float64) {
	for k := range values {
		if strings.HasPrefix(k, "latency.") || strings.HasPrefix(k, "connect.call.") {
			values[k] /= 1e9
		}
	}
	o.Out.Sample(at, values)
}
