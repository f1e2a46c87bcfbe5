package trial

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/agent"
	"tcplab/lab/program"
	"tcplab/lab/sheet"
	"tcplab/netns"
	"tcplab/results"
)

// readyWithin is how long agents may take until they can be sent go.
const readyWithin = 20 * time.Second

// defaultCongestionControl is what every host has unless the sheet says
// otherwise: init's may be anything (it is bbr on some kernels).
const defaultCongestionControl = "cubic"

// stage is everything that stands when a trial begins: hosts, links, wires
// and programs.
type stage struct {
	arm   sheet.Arm
	seed  uint64
	argv  []string // of an agent
	top   *topology
	hosts map[string]*netns.Host
	facts map[string]*results.Host
	links []*netns.Link
	procs []*agent.Process // in order of start: wires, middleboxes, servers, clients
	hear  agent.Listener
	wires map[string]program.WireSpec
	// counted are the links whose wire has to count what netem cannot.
	counted map[string]bool
	// virtual time stands still in a loop that watches the clock.
	virtual bool
	// killed are the agents that a fault has killed: they owe no result.
	killed map[*agent.Process]bool
	// What the first host has of the lab's own sysctls, and what it has not.
	pinned    map[string]string
	notPinned []netns.NotPinned
}

// newStage puts up the hosts and links of an arm. The wires do not run yet.
func newStage(arm sheet.Arm, seed uint64, argv []string, hear agent.Listener) (*stage, error) {
	top, err := layOut(arm)
	if err != nil {
		return nil, &Failure{2, err}
	}
	s := &stage{arm: arm, seed: seed, argv: argv, top: top, hear: hear,
		hosts: map[string]*netns.Host{}, facts: map[string]*results.Host{}, wires: map[string]program.WireSpec{}, killed: map[*agent.Process]bool{}}
	if err := s.build(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *stage) build() error {
	for _, h := range s.arm.Hosts {
		if err := s.addHost(h); err != nil {
			return err
		}
	}
	if err := s.route(); err != nil {
		return err
	}
	for _, la := range s.top.links {
		a, b := s.hosts[la.link.A], s.hosts[la.link.B]
		l, err := netns.Connect(netns.LinkConfig{
			Name: la.link.Name, ARP: la.link.ARP == "real",
			A: netns.Endpoint{Host: a, Addr: la.a, Extra: la.extraA, CongControl: s.congestion(la.link.A)},
			B: netns.Endpoint{Host: b, Addr: la.b, Extra: la.extraB, CongControl: s.congestion(la.link.B)},
		})
		if err != nil {
			return lacks(err)
		}
		s.links = append(s.links, l)
	}
	for _, h := range s.arm.Hosts {
		for _, r := range s.top.routes[h.Name] {
			if neighbour(s.top, h.Name, r.to) {
				continue // Connect routes to a neighbour's own addresses
			}
			if err := s.hosts[h.Name].AddRoute(r.to, r.via, r.dev, s.congestion(h.Name)); err != nil {
				return lacks(err)
			}
		}
	}
	return nil
}

// neighbour says whether p is an extra address of a host on the far end of one
// of name's links.
func neighbour(t *topology, name string, p netip.Prefix) bool {
	for _, la := range t.links {
		far := la.extraB
		switch name {
		case la.link.A:
		case la.link.B:
			far = la.extraA
		default:
			continue
		}
		for _, e := range far {
			if e == p {
				return true
			}
		}
	}
	return false
}

func (s *stage) addHost(h sheet.Host) error {
	host, err := netns.NewHost(h.Name)
	if err != nil {
		return lacks(err)
	}
	s.hosts[h.Name] = host
	facts := &results.Host{Name: h.Name, Sysctls: map[string]string{}, Address: map[string]string{}}
	s.facts[h.Name] = facts
	for n, a := range s.top.addrs[h.Name] {
		facts.Address[n] = a.String()
	}
	if h.Name == flooder(s.arm) {
		facts.Address["spoofed sources"] = netns.SpoofedSources.String()
	}
	role := netns.RoleHost
	own := map[string]string{}
	maps.Copy(own, h.Sysctl)
	delete(own, congestionKey) // the routes pin it
	switch {
	case h.Router != nil:
		role = netns.RoleRouter
		maps.Copy(own, h.Router.Sysctl)
	case h.Middlebox != nil:
		role = netns.RoleMiddlebox
	}
	got, not, err := host.Pin(role, own)
	if err != nil {
		return lacks(err)
	}
	for k := range own {
		facts.Sysctls[k] = got[k]
		delete(got, k)
	}
	if s.pinned == nil {
		s.pinned, s.notPinned = got, not
	}
	facts.Congestion = s.congestion(h.Name)
	return nil
}

const congestionKey = "net.ipv4.tcp_congestion_control"

// congestion is what the routes of a host pin: nothing where a program sets
// its own, because the kernel refuses that once a route has locked it.
func (s *stage) congestion(host string) string {
	for _, c := range s.arm.Clients {
		if c.On == host && c.Options["TCP_CONGESTION"] != "" {
			return ""
		}
	}
	for _, v := range s.arm.Servers {
		if v.On == host && v.Options["TCP_CONGESTION"] != "" {
			return ""
		}
	}
	for _, h := range s.arm.Hosts {
		if h.Name == host && h.Sysctl[congestionKey] != "" {
			return h.Sysctl[congestionKey]
		}
	}
	return defaultCongestionControl
}

// lacks marks an error that only another machine or more privileges cure.
func lacks(err error) error { return &Failure{5, err} }

// start starts one agent inside a host.
func (s *stage) start(job agent.Job, in *netns.Host) (*agent.Process, error) {
	p, err := agent.Start(job, s.argv, func(cmd *exec.Cmd) error {
		start := cmd.Start
		if goesFirst(job) && !s.virtual {
			start = func() error { return startFirst(cmd) }
		}
		if err := in.Do(start); err != nil {
			return err
		}
		return s.limit(job.Host, cmd.Process.Pid)
	}, s.hear)
	if err != nil {
		return nil, err
	}
	s.procs = append(s.procs, p)
	return p, nil
}

// limit sets the limits that the sheet gives the processes of a host.
func (s *stage) limit(host string, pid int) error {
	for _, h := range s.arm.Hosts {
		if h.Name != host || h.NoFile == 0 {
			continue
		}
		l := unix.Rlimit{Cur: uint64(h.NoFile), Max: uint64(h.NoFile)}
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &l, nil); err != nil {
			return lacks(fmt.Errorf("host %s: limits.nofile %d: %w: a plain user cannot have more than the hard limit (ulimit -Hn)", host, h.NoFile, err))
		}
	}
	return nil
}

// startAll starts wires and middleboxes, then servers, then clients, each once what it needs
// is ready.
func (s *stage) startAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("more than %v", readyWithin))
	defer cancel()
	wires, err := s.startWires()
	if err != nil {
		return err
	}
	boxes, err := s.startMiddleboxes()
	if err != nil {
		return err
	}
	for _, p := range boxes {
		if err := p.WaitReady(ctx); err != nil {
			return err
		}
	}
	addrs := map[string][]string{} // server → where it listens
	var servers []*agent.Process
	for _, v := range s.arm.Servers {
		job := agent.Job{Role: program.RoleServer, Kind: v.Kind, Name: v.Name, Host: v.On, Spec: program.ServerSpec{Server: v}}
		if v.Exec != nil {
			job.Kind, job.Spec = program.KindExec, program.ExecSpec{Name: v.Name, Exec: *v.Exec, Vars: s.vars(v.On, nil), Server: true}
		}
		p, err := s.start(job, s.hosts[v.On])
		if err != nil {
			return err
		}
		servers = append(servers, p)
	}
	for _, p := range append(wires, servers...) {
		if err := p.WaitReady(ctx); err != nil {
			return err
		}
		addrs[p.Job.Name] = p.Ready.Addresses
	}
	var clients []*agent.Process
	for _, c := range s.arm.Clients {
		to, err := s.targets(c, addrs)
		if err != nil {
			return &Failure{2, err}
		}
		job := agent.Job{Role: program.RoleClient, Kind: c.Kind, Name: c.Name, Host: c.On,
			Spec: program.ClientSpec{Client: c, To: to, Trial: s.arm.Trial, Seed: s.seed}}
		if c.Exec != nil {
			job.Kind, job.Spec = program.KindExec, program.ExecSpec{Name: c.Name, Exec: *c.Exec, Vars: s.vars(c.On, addrs)}
		}
		p, err := s.start(job, s.hosts[c.On])
		if err != nil {
			return err
		}
		clients = append(clients, p)
	}
	for _, p := range clients {
		if err := p.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// vars are what a user's own program on a host may name in braces: NAME.host,
// NAME.port and NAME.addr of every server.
func (s *stage) vars(from string, listening map[string][]string) map[string]string {
	m := map[string]string{}
	for _, v := range s.arm.Servers {
		a, err := s.top.address(s.arm, from, sheet.Target{Server: v.Name})
		if v.On == from {
			// Where it is to listen, not how to reach it from beside it.
			a, err = s.top.address(s.arm, "", sheet.Target{Server: v.Name})
		}
		if err != nil {
			continue
		}
		m[v.Name+".host"] = a.String()
		if port := listenPort(v, listening); port > 0 {
			m[v.Name+".port"] = strconv.Itoa(port)
			m[v.Name+".addr"] = netip.AddrPortFrom(a, uint16(port)).String()
		}
	}
	return m
}

// listenPort is the port that a server said it listens on, or the sheet's.
func listenPort(v sheet.Server, listening map[string][]string) int {
	for _, l := range listening[v.Name] {
		if i := strings.LastIndexByte(l, ':'); i >= 0 {
			if n, err := strconv.Atoi(l[i+1:]); err == nil {
				return n
			}
		}
	}
	if v.Port == 0 && v.Exec != nil {
		return v.Exec.Listen
	}
	return v.Port
}

// startWires starts an agent between the two halves of every link.
func (s *stage) startWires() ([]*agent.Process, error) {
	var started []*agent.Process
	for i, la := range s.top.links {
		l := s.links[i]
		spec := program.WireSpec{
			Link: la.link.Name, HostA: la.link.A, HostB: la.link.B, PortA: l.PortA, PortB: l.PortB,
			Config: program.WireConfig(la.link, s.seed),
		}
		spec.Config.NoWatch = s.virtual
		err := l.Middle.Do(func() (err error) {
			spec.Kind, err = program.WireKind(s.wireKind(la.link), spec.Config)
			return err
		})
		if err != nil {
			return nil, lacks(fmt.Errorf("link %s: %w", la.link.Name, err))
		}
		s.wires[la.link.Name] = spec
		p, err := s.start(agent.Job{Role: program.RoleWire, Kind: string(spec.Kind), Name: la.link.Name, Host: "between " + la.link.A + " and " + la.link.B, Spec: spec}, l.Middle)
		if err != nil {
			return nil, err
		}
		started = append(started, p)
	}
	return started, nil
}

// targets are the addresses that a client is given.
func (s *stage) targets(c sheet.Client, listening map[string][]string) ([]string, error) {
	var out []string
	for _, t := range c.To {
		a, err := s.top.address(s.arm, c.On, t)
		if err != nil {
			return nil, fmt.Errorf("client %s: %w", c.Name, err)
		}
		port := 0
		for _, v := range s.arm.Servers {
			if v.Name == t.Server || t.Server == "" {
				port = listenPort(v, listening)
			}
		}
		if port == 0 && c.Exec != nil {
			continue
		}
		if port == 0 {
			return nil, fmt.Errorf("client %s: nothing listens for %+v", c.Name, t)
		}
		out = append(out, netip.AddrPortFrom(a, uint16(port)).String())
	}
	return out, nil
}

// process is the agent that runs the program or link of that name.
func (s *stage) process(role, name string) *agent.Process {
	for _, p := range s.procs {
		if p.Job.Role == role && p.Job.Name == name {
			return p
		}
	}
	return nil
}

func (s *stage) role(role string) []*agent.Process {
	var ps []*agent.Process
	for _, p := range s.procs {
		if p.Job.Role == role {
			ps = append(ps, p)
		}
	}
	return ps
}

// startIn runs a command of the user's inside a host.
func (s *stage) startIn(host string, cmd *exec.Cmd) error {
	h, ok := s.hosts[host]
	if !ok {
		return fmt.Errorf("no host %q here", host)
	}
	return h.Start(cmd)
}

// close takes everything down: programs first, then links, then hosts.
func (s *stage) close() error {
	var errs []error
	for i := len(s.procs) - 1; i >= 0; i-- {
		s.procs[i].Close()
	}
	for _, l := range s.links {
		errs = append(errs, l.Close())
	}
	for _, h := range s.hosts {
		errs = append(errs, h.Close())
	}
	return errors.Join(errs...)
}
