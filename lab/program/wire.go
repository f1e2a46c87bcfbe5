package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"tcplab/lab/agent"
	"tcplab/lab/sheet"
	"tcplab/netns/wire"
)

// WireSpec is the job of a wire: between two interfaces of its namespace.
type WireSpec struct {
	Link         string
	HostA, HostB string
	PortA, PortB string
	Kind         wire.Kind
	Config       wire.Config
}

// WireResult is what a wire reports at its end.
type WireResult struct {
	Counters   wire.Counters
	DelayError *Histogram
	Release    string
	Fates      *wire.FateLog `json:",omitempty"` // nil: nothing was drawn
}

// carrier is a wire of either kind.
type carrier interface {
	Run(ctx context.Context) error
	Do(wire.Fault) error
	Counters() wire.Counters
	DelayError() *hdr.Histogram
	Release() string
	Close() error
}

var (
	_ carrier = (*wire.Wire)(nil)
	_ carrier = (*wire.Netem)(nil)
)

func (s WireSpec) open() (carrier, error) {
	// Not returned as it comes: a nil *Wire in an interface is not nil.
	if s.Kind == wire.InKernel {
		n, err := wire.OpenNetem(s.PortA, s.PortB, s.Config)
		if err != nil {
			return nil, err
		}
		return n, nil
	}
	w, err := wire.Open(s.PortA, s.PortB, s.Config)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// wireProgram runs one link's wire.
type wireProgram struct {
	spec WireSpec
	w    carrier
	stop context.CancelFunc
	done chan error
}

func (p *wireProgram) Prepare(spec json.RawMessage) (agent.Ready, error) {
	if err := json.Unmarshal(spec, &p.spec); err != nil {
		return agent.Ready{}, fmt.Errorf("wire: job: %w", err)
	}
	w, err := p.spec.open()
	if err != nil {
		return agent.Ready{}, err
	}
	// It carries frames from now on: other agents may need it to get ready.
	p.w, p.done = w, make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() { p.done <- w.Run(ctx) }()
	return agent.Ready{Options: map[string]string{"release": w.Release()}}, nil
}

func (p *wireProgram) Run(ctx context.Context, g agent.Go, out *agent.Out) (any, error) {
	if w, ok := p.w.(*wire.Wire); ok {
		w.Start(g.T0)
		defer hear(w, out)()
	}
	select {
	case <-ctx.Done():
		p.stop()
		if err := <-p.done; err != nil {
			return nil, err
		}
	case err := <-p.done:
		if err == nil {
			err = errors.New("the wire ended by itself")
		}
		return nil, err
	}
	r := WireResult{Counters: p.w.Counters(), DelayError: encode(p.w.DelayError()), Release: p.w.Release()}
	if w, ok := p.w.(*wire.Wire); ok {
		if l := w.Fates(); l != nil && l.Seen() > 0 {
			r.Fates = l
		}
	}
	return r, nil
}

// hear passes on what the wire does by itself. What it gives back ends that,
// once everything was passed on.
func hear(w *wire.Wire, out *agent.Out) (stop func()) {
	news := make(chan wire.Happening, 64) // the wire's thread must not wait
	w.Tell(func(h wire.Happening) {
		select {
		case news <- h:
		default: // they are counted all the same
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for h := range news {
			fields := map[string]any{"fault": h.Fault, "seq": h.Seq, "len": h.Len}
			if h.What != wire.Held {
				fields["after"] = float64(h.After) / 1e9
			}
			if h.What == wire.Released {
				fields["next"] = h.Next
			}
			out.Event(h.At, h.What, fields)
		}
	}()
	return func() {
		w.Tell(nil)
		close(news)
		<-done
	}
}

func (p *wireProgram) Do(f agent.Fault) error {
	wf, err := WireFault(f, p.spec.HostA, p.spec.HostB)
	if err != nil {
		return err
	}
	return p.w.Do(wf)
}

func (p *wireProgram) Close() error {
	p.stop()
	return p.w.Close()
}

// towards turns a host's name into an end of the link.
func towards(host, a, b string) (wire.Towards, error) {
	switch host {
	case "":
		return wire.Both, nil
	case a:
		return wire.TowardsA, nil
	case b:
		return wire.TowardsB, nil
	}
	return wire.Both, fmt.Errorf("towards %s: the link joins %s and %s", host, a, b)
}

// WireConfig is the wire of a sheet's link. What the sheet says of the
// direction towards host A is the wire's direction a.
func WireConfig(l sheet.Link, seed uint64) wire.Config {
	return wire.Config{
		Link: l.Name, Seed: seed, Fates: wire.Fates(l.Wire.Fates),
		TowardsA: direction(l.Wire.To[l.A]), TowardsB: direction(l.Wire.To[l.B]),
	}
}

func direction(d sheet.Direction) wire.Direction {
	o := wire.Direction{
		Delay: d.Delay, Jitter: d.Jitter, Rate: int64(d.Rate),
		Queue:     wire.Queue{Bytes: int64(d.QueueBytes), Time: d.QueueTime},
		Loss:      wire.Loss{P: d.Loss},
		Reorder:   wire.Reorder{P: d.Reorder, Extra: d.ReorderBy},
		Duplicate: d.Duplicate, Corrupt: d.Corrupt, MTU: d.MTU,
	}
	if d.GE != nil {
		// A sheet gives the loss in each state, the wire the chance of delivery.
		o.Loss.GilbertElliott = wire.GilbertElliott{P: d.GE.P, R: d.GE.R, H: 1 - d.GE.Bad, K: 1 - d.GE.Good}
	}
	return o
}

// encode is a histogram's own compressed form, fit for a message.
func encode(h *hdr.Histogram) *Histogram {
	if h == nil {
		return nil
	}
	return &Histogram{h}
}

// Histogram carries an HdrHistogram through JSON in its V2 compressed form.
type Histogram struct{ *hdr.Histogram }

// MarshalJSON gives the base64 of the V2 compressed encoding.
func (h *Histogram) MarshalJSON() ([]byte, error) {
	if h == nil || h.Histogram == nil {
		return []byte("null"), nil
	}
	b, err := h.Encode(hdr.V2CompressedEncodingCookieBase)
	if err != nil {
		return nil, err
	}
	return json.Marshal(string(b))
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (h *Histogram) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil || s == "" {
		return err
	}
	d, err := hdr.Decode([]byte(s))
	if err != nil {
		return fmt.Errorf("histogram: %w", err)
	}
	h.Histogram = d
	return nil
}

// WireKind decides which wire a link gets, inside the namespace where it will
// run.
func WireKind(asked string, cfg wire.Config) (wire.Kind, error) {
	switch asked {
	case "kernel":
		if wire.ProbeNetem() == nil {
			return wire.InKernel, cfg.ValidateNetem()
		}
		return wire.Userspace, cfg.Validate()
	case "netem":
		if err := wire.ProbeNetem(); err != nil {
			return wire.InKernel, err
		}
		return wire.InKernel, cfg.ValidateNetem()
	case "", "auto":
		return wire.Choose(cfg, wire.ProbeNetem() == nil), cfg.Validate()
	}
	return wire.Kind(asked), cfg.Validate()
}

// Counts are a direction's counters by name; what the wire cannot count is
// absent.
func Counts(c wire.DirectionCounters) map[string]int64 {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil
	}
	m := map[string]int64{}
	if json.Unmarshal(raw, &m) != nil {
		return nil
	}
	return m
}
