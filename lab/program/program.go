// Package program is what runs inside an agent: it joins the protocol to the
// packages that do the work (clients, server, workloads, the wire), which know
// neither the protocol nor each other.
package program

import (
	"fmt"

	"tcplab/lab/agent"
)

// Roles of programs.
const (
	RoleClient = "client"
	RoleServer = "server"
	RoleWire   = "wire"
)

// KindExec is a user's own program in an agent's place.
const KindExec = "exec"

// New makes the program that a job names.
func New(role, kind string) (agent.Program, error) {
	switch {
	case kind == KindExec && (role == RoleClient || role == RoleServer):
		return &execProgram{}, nil
	case role == RoleClient && kind == KindFlood:
		return &floodProgram{}, nil
	case role == RoleClient:
		return &clientProgram{}, nil
	case role == RoleServer:
		return &serverProgram{}, nil
	case role == RoleWire:
		return &wireProgram{}, nil
	case role == RoleMiddlebox:
		return &middleboxProgram{}, nil
	}
	return nil, fmt.Errorf("no program of role %q and kind %q in this build", role, kind)
}
