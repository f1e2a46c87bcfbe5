package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"tcplab/lab/agent"
	"tcplab/lab/clock"
	"tcplab/lab/sheet"
	"tcplab/netns/middlebox"
)

// RoleMiddlebox is the role of a host that forwards by a policy of ours.
const RoleMiddlebox = "middlebox"

// MiddleboxSpec is the job of a middlebox.
type MiddleboxSpec struct {
	Middlebox  sheet.Middlebox
	Addresses  []netip.Addr // its own, in order of their names
	Interfaces []middlebox.Interface
	Routes     []middlebox.Route
	// Targets are all hosts and servers that may be behind it, by name.
	Targets map[string]middlebox.Target
}

// MiddleboxResult is what a middlebox reports.
type MiddleboxResult struct {
	middlebox.Counts
	Lost middlebox.Lost `json:"lost"`
}

type middleboxProgram struct {
	spec MiddleboxSpec
	b    *middlebox.Box
	stop context.CancelFunc
	done chan error
}

func (p *middleboxProgram) Prepare(raw json.RawMessage) (agent.Ready, error) {
	if err := json.Unmarshal(raw, &p.spec); err != nil {
		return agent.Ready{}, fmt.Errorf("middlebox: job: %w", err)
	}
	cfg, err := MiddleboxConfig(p.spec)
	if err != nil {
		return agent.Ready{}, err
	}
	b, err := middlebox.Open(cfg, p.spec.Interfaces, p.spec.Routes)
	if err != nil {
		return agent.Ready{}, err
	}
	p.b, p.done = b, make(chan error, 1)
	// It forwards from now on: what connects before go finds a box that works.
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() {
		defer close(p.done)
		p.done <- b.Run(ctx)
	}()
	options := map[string]string{"on_unknown": cfg.OnUnknown, "idle": "never"}
	if cfg.Idle > 0 {
		options["idle"] = cfg.Idle.String()
	}
	return agent.Ready{Options: options}, nil
}

// MiddleboxConfig is the policy of a sheet's middlebox.
func MiddleboxConfig(s MiddleboxSpec) (middlebox.Config, error) {
	m := s.Middlebox
	cfg := middlebox.Config{Kind: m.Kind, Addresses: s.Addresses, PreserveClient: m.PreserveClient, CrossZone: m.CrossZone,
		Idle: m.Idle, OnUnknown: m.OnUnknown}
	for _, name := range m.Targets {
		t, ok := s.Targets[name]
		if !ok {
			return cfg, fmt.Errorf("middlebox: no target is called %q", name)
		}
		cfg.Targets = append(cfg.Targets, t)
	}
	if r := m.Options["ports"]; r != "" {
		if _, err := fmt.Sscan(r, &cfg.Ports[0], &cfg.Ports[1]); err != nil {
			return cfg, fmt.Errorf("middlebox: ports %q: write LOW HIGH, such as 1024 65535", r)
		}
	}
	if n := m.Options["max"]; n != "" {
		max, err := strconv.Atoi(strings.ReplaceAll(n, "_", ""))
		if err != nil {
			return cfg, fmt.Errorf("middlebox: max: %w", err)
		}
		cfg.Max = max
	}
	return cfg, nil
}

func (p *middleboxProgram) Run(ctx context.Context, _ agent.Go, out *agent.Out) (any, error) {
	select {
	case <-ctx.Done():
		p.stop()
		if err := <-p.done; err != nil {
			return nil, err
		}
	case err := <-p.done:
		if err == nil {
			err = errors.New("the middlebox ended by itself")
		}
		return nil, err
	}
	n, lost := p.b.Counts()
	out.Event(clock.Now(), "middlebox", map[string]any{"counts": n, "lost": lost})
	return MiddleboxResult{n, lost}, nil
}

func (p *middleboxProgram) Do(f agent.Fault) error {
	mf, err := MiddleboxFault(f, p.spec.Targets)
	if err != nil {
		return err
	}
	return p.b.Do(mf)
}

// MiddleboxFault turns a fault of the sheet into one of the box.
func MiddleboxFault(f agent.Fault, targets map[string]middlebox.Target) (middlebox.Fault, error) {
	o := middlebox.Fault{Do: f.Do}
	var args struct {
		Target string `json:"target"`
		Set    struct {
			Idle           *time.Duration `json:"idle"`
			OnUnknown      *string        `json:"on_unknown"`
			PreserveClient *bool          `json:"preserve_client"`
			CrossZone      *bool          `json:"cross_zone"`
			Max            *float64       `json:"max"`
			Targets        any            `json:"targets"`
			Ports          any            `json:"ports"`
		} `json:"set"`
	}
	raw, err := json.Marshal(f.Args)
	if err == nil {
		err = json.Unmarshal(raw, &args)
	}
	if err != nil {
		return o, fmt.Errorf("fault %s: %w", f.Name, err)
	}
	s := args.Set
	if s.Targets != nil || s.Ports != nil {
		return o, fmt.Errorf("fault %s: targets change by drop-target and add-target, and ports stay what they are", f.Name)
	}
	o.Set = middlebox.Change{Idle: s.Idle, OnUnknown: s.OnUnknown, PreserveClient: s.PreserveClient, CrossZone: s.CrossZone}
	if s.Max != nil {
		n := int(*s.Max)
		o.Set.Max = &n
	}
	if args.Target != "" {
		t, ok := targets[args.Target]
		if !ok {
			return o, fmt.Errorf("fault %s: no target is called %q", f.Name, args.Target)
		}
		o.Target = t
	}
	return o, nil
}

func (p *middleboxProgram) Close() error {
	if p.stop == nil {
		return nil
	}
	p.stop()
	for range p.done { // until it has let go of its rings
	}
	return p.b.Close()
}
