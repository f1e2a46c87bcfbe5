package program

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"tcplab/clients"
	"tcplab/lab/agent"
	"tcplab/lab/sheet"
	"tcplab/netns/flood"
)

// KindFlood is the client that sends SYNs and nothing else.
const KindFlood = "flood"

// floodProgram is a client in a sheet and no client in code: it opens no
// socket of TCP's, and clients know no packets.
type floodProgram struct {
	f *flood.Flooder
}

func floodConfig(s ClientSpec) flood.Config {
	e := extra(s.Client.Extra)
	return flood.Config{
		To: s.To, Rate: e.number("rate", 0), Sources: e.count("sources", 1), Packets: e.count("packets", 0),
		For: e.duration("for"), Seed: s.Seed,
	}
}

func (p *floodProgram) Prepare(raw json.RawMessage) (agent.Ready, error) {
	var spec ClientSpec
	err := json.Unmarshal(raw, &spec)
	if err != nil {
		return agent.Ready{}, fmt.Errorf("flooder: job: %w", err)
	}
	p.f, err = flood.Open(floodConfig(spec))
	return agent.Ready{}, err
}

func (p *floodProgram) Run(ctx context.Context, g agent.Go, out *agent.Out) (any, error) {
	r := p.f.Run(ctx, g.T0)
	out.Event(r.Ended, "flood ends", map[string]any{"sent": r.Sent})
	return ClientResult{
		Result: clients.Result{Kind: KindFlood, T0: g.T0, WindowStart: g.From, WindowEnd: g.To, Ended: r.Ended, Stopped: ctx.Err() != nil},
		Flood:  &r,
	}, nil
}

func (p *floodProgram) Do(f agent.Fault) error {
	return fmt.Errorf("a flooder does not know %s", f.Do)
}

func (p *floodProgram) Close() error {
	if p.f == nil {
		return nil
	}
	return p.f.Close()
}

// Flood is what a client of kind flood is asked for: SYNs a second, packets at
// most, and how long.
func Flood(c sheet.Client) (rate float64, packets int, length time.Duration) {
	f := floodConfig(ClientSpec{Client: c})
	return f.Rate, f.Packets, f.For
}
