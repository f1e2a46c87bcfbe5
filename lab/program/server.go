package program

import (
	"context"
	"encoding/json"
	"fmt"

	"tcplab/lab/agent"
	"tcplab/lab/sheet"
	"tcplab/server"
)

// ServerSpec is the job of a server.
type ServerSpec struct {
	Server sheet.Server
}

// ServerResult is what a server reports.
type ServerResult struct {
	server.Result
	Argv []string `json:"argv,omitempty"`
}

type serverProgram struct {
	s *server.Server
}

func (p *serverProgram) Prepare(raw json.RawMessage) (agent.Ready, error) {
	var spec ServerSpec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return agent.Ready{}, fmt.Errorf("server: job: %w", err)
	}
	v := spec.Server
	s, err := server.New(server.Config{
		Kind: v.Kind, Listen: fmt.Sprintf("0.0.0.0:%d", v.Port), Backlog: v.Backlog, Workers: v.Workers,
		Service: v.Service, Options: v.Options, Closes: v.Closes, ResponseSize: v.Response,
		Streams: extra(v.Extra).count("streams", 0), GoAway: extra(v.Extra).number("goaway", 0),
		Greeting: extra(v.Extra).count("greeting", 0),
	})
	if err != nil {
		return agent.Ready{}, err
	}
	addr, options, err := s.Listen()
	if err != nil {
		return agent.Ready{}, err
	}
	p.s = s
	return agent.Ready{Addresses: []string{addr}, Options: options}, nil
}

func (p *serverProgram) Run(ctx context.Context, _ agent.Go, out *agent.Out) (any, error) {
	r, err := p.s.Run(ctx, out)
	if err != nil {
		return nil, err
	}
	return ServerResult{Result: *r}, nil
}

func (p *serverProgram) Do(f agent.Fault) error { return p.s.Do(f.Do, f.Args) }

func (p *serverProgram) Close() error { return nil }
