package trial

import (
	"fmt"
	"net/netip"
	"slices"

	"tcplab/lab/agent"
	"tcplab/lab/program"
	"tcplab/lab/sheet"
	"tcplab/netns/middlebox"
)

// startMiddleboxes starts an agent inside every host that forwards by a policy
// of ours.
func (s *stage) startMiddleboxes() ([]*agent.Process, error) {
	var started []*agent.Process
	for _, h := range s.arm.Hosts {
		if h.Middlebox == nil {
			continue
		}
		p, err := s.start(agent.Job{Role: program.RoleMiddlebox, Kind: h.Middlebox.Kind, Name: h.Name, Host: h.Name, Spec: s.middlebox(h)}, s.hosts[h.Name])
		if err != nil {
			return nil, err
		}
		started = append(started, p)
	}
	return started, nil
}

// middlebox is the job of a host's policy: where everything is, as the stage
// has laid it out.
func (s *stage) middlebox(h sheet.Host) program.MiddleboxSpec {
	spec := program.MiddleboxSpec{Middlebox: *h.Middlebox, Targets: map[string]middlebox.Target{}}
	for _, p := range extras(h) {
		spec.Addresses = append(spec.Addresses, p.Addr())
	}
	by := map[string]int{}
	for i, la := range s.top.links {
		l := s.links[i]
		face := middlebox.Interface{Name: l.Name, Addr: la.a.Addr(), MAC: l.MACA, Peer: l.MACB}
		far := la.extraB
		switch h.Name {
		case la.link.A:
		case la.link.B:
			face.Addr, face.MAC, face.Peer, far = la.b.Addr(), l.MACB, l.MACA, la.extraA
		default:
			continue
		}
		n := len(spec.Interfaces)
		by[l.Name] = n
		spec.Interfaces = append(spec.Interfaces, face)
		for _, to := range append([]netip.Prefix{la.a.Masked()}, far...) {
			spec.Routes = append(spec.Routes, middlebox.Route{To: to, By: n})
		}
	}
	for _, r := range s.top.routes[h.Name] {
		spec.Routes = append(spec.Routes, middlebox.Route{To: r.to, By: by[r.dev]})
	}
	for _, o := range s.arm.Hosts {
		if a, ok := s.top.hostAddress(h.Name, o.Name); ok {
			spec.Targets[o.Name] = middlebox.Target{Name: o.Name, Addr: a}
		}
	}
	for _, v := range s.arm.Servers {
		if a, ok := s.top.hostAddress(h.Name, v.On); ok {
			spec.Targets[v.Name] = middlebox.Target{Name: v.Name, Addr: a, Port: uint16(v.Port)}
		}
	}
	return spec
}

// hostAddress is where host `from` reaches host `to`: on a link that they
// share, else on the first one that `to` has.
func (t *topology) hostAddress(from, to string) (netip.Addr, bool) {
	var first netip.Addr
	for _, la := range t.links {
		ends := []string{la.link.A, la.link.B}
		i := slices.Index(ends, to)
		if i < 0 {
			continue
		}
		a := []netip.Addr{la.a.Addr(), la.b.Addr()}[i]
		if ends[1-i] == from {
			return a, true
		}
		if !first.IsValid() {
			first = a
		}
	}
	return first, first.IsValid() && from != to
}

// middleboxMetrics are what the policies counted.
func (o *one) middleboxMetrics(m *measured) {
	for _, h := range o.arm.Hosts {
		r := m.middleboxes[h.Name]
		if r == nil {
			continue
		}
		for name, v := range map[string]int64{
			"middlebox.forwarded": r.Forwarded, "middlebox.unknown": r.Unknown, "middlebox.resets": r.Resets, "middlebox.refused": r.Refused,
			"middlebox.flows": r.Opened, "middlebox.flows.max": r.Most, "middlebox.expired": r.Expired, "middlebox.forgotten": r.Forgotten,
		} {
			o.put(h.Name, name, float64(v))
		}
		if l := r.Lost; l.RingFull+l.SendErr > 0 {
			m.reason(fmt.Errorf("middlebox %s: %d packets found its ring full and %d could not be sent: it did not get enough CPU", h.Name, l.RingFull, l.SendErr))
		}
	}
}
