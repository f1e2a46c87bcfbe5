package trial

import (
	"fmt"
	"net/netip"
	"sort"

	"tcplab/lab/program"
	"tcplab/lab/sheet"
	"tcplab/netns"
)

// topology says where everything is: computed from the sheet alone, so that a
// dry run can print it and two runs agree.
type topology struct {
	links []linkAddrs
	// routes[host] reach what is not on the host's own links.
	routes map[string][]route
	// addrs[host] are the host's addresses, by link or by the sheet's name.
	addrs map[string]map[string]netip.Addr
}

type linkAddrs struct {
	link   sheet.Link
	a, b   netip.Prefix
	extraA []netip.Prefix
	extraB []netip.Prefix
}

type route struct {
	to  netip.Prefix
	via netip.Addr
	dev string
}

// hop is a neighbour: its name, its address, and the link to it.
type hop struct {
	dev, peer string
	via       netip.Addr
}

// layOut gives link i the subnet 10.77.i.0/24, its first host .1 and its
// second .2, and finds the routes between hosts that are not neighbours:
// shortest paths through hosts that forward.
func layOut(arm sheet.Arm) (*topology, error) {
	if len(arm.Links) > 250 {
		return nil, fmt.Errorf("%d links: 250 at most", len(arm.Links))
	}
	t := &topology{routes: map[string][]route{}, addrs: map[string]map[string]netip.Addr{}}
	hosts := map[string]sheet.Host{}
	for _, h := range arm.Hosts {
		hosts[h.Name] = h
		t.addrs[h.Name] = map[string]netip.Addr{}
		for name, a := range h.Addresses {
			t.addrs[h.Name][name] = a
		}
	}
	next := map[string][]hop{} // a host's neighbours
	for i, l := range arm.Links {
		at := func(n byte) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(i + 1), n}), 24)
		}
		la := linkAddrs{link: l, a: at(1), b: at(2)}
		la.extraA, la.extraB = extras(hosts[l.A]), extras(hosts[l.B])
		t.links = append(t.links, la)
		t.addrs[l.A][l.Name], t.addrs[l.B][l.Name] = la.a.Addr(), la.b.Addr()
		next[l.A] = append(next[l.A], hop{l.Name, l.B, la.b.Addr()})
		next[l.B] = append(next[l.B], hop{l.Name, l.A, la.a.Addr()})
	}
	for _, h := range arm.Hosts {
		// The first hop towards every host, by breadth first.
		first := map[string]hop{}
		queue := []string{h.Name}
		seen := map[string]bool{h.Name: true}
		for len(queue) > 0 {
			at := queue[0]
			queue = queue[1:]
			if at != h.Name && !forwards(hosts[at]) {
				continue
			}
			for _, n := range next[at] {
				if seen[n.peer] {
					continue
				}
				seen[n.peer] = true
				if at == h.Name {
					first[n.peer] = n
				} else {
					first[n.peer] = first[at]
				}
				queue = append(queue, n.peer)
			}
		}
		own := map[netip.Prefix]bool{}
		for _, la := range t.links {
			if la.link.A == h.Name || la.link.B == h.Name {
				own[la.a.Masked()] = true
			}
		}
		add := func(to netip.Prefix, towards string) {
			f, ok := first[towards]
			if !ok || own[to] {
				return
			}
			own[to] = true
			t.routes[h.Name] = append(t.routes[h.Name], route{to, f.via, f.dev})
		}
		for _, la := range t.links {
			for _, end := range []string{la.link.A, la.link.B} {
				if forwards(hosts[end]) {
					add(la.a.Masked(), end)
				}
			}
		}
		for _, o := range arm.Hosts {
			if o.Name != h.Name {
				for _, p := range extras(o) {
					add(p, o.Name)
				}
			}
		}
		if f := flooder(arm); f != "" && f != h.Name {
			add(netns.SpoofedSources, f) // what answers a spoofed SYN ends there
		}
		if err := t.named(h, hosts, first); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// named replaces computed routes by the sheet's own.
func (t *topology) named(h sheet.Host, hosts map[string]sheet.Host, first map[string]hop) error {
	for _, r := range h.Routes {
		via, ok := first[r.Via]
		if !ok || via.peer != r.Via {
			return fmt.Errorf("host %s: the route via %s: %s is no neighbour of it", h.Name, r.Via, r.Via)
		}
		var to []netip.Prefix
		if p, err := netip.ParsePrefix(r.To); err == nil {
			to = append(to, p)
		} else if _, ok := hosts[r.To]; ok {
			for _, a := range t.addrs[r.To] {
				to = append(to, netip.PrefixFrom(a, 32))
			}
			sort.Slice(to, func(i, j int) bool { return to[i].Addr().Less(to[j].Addr()) })
		} else {
			for _, la := range t.links {
				if la.link.Name == r.To {
					to = append(to, la.a.Masked())
				}
			}
		}
		if to == nil {
			return fmt.Errorf("host %s: the route to %q: no such host, link or prefix", h.Name, r.To)
		}
		for _, p := range to {
			t.routes[h.Name] = append(drop(t.routes[h.Name], p), route{p, via.via, via.dev})
		}
	}
	return nil
}

func drop(rs []route, to netip.Prefix) []route {
	var kept []route
	for _, r := range rs {
		if r.to != to {
			kept = append(kept, r)
		}
	}
	return kept
}

// flooder is the host of an arm that SYNs with spoofed sources come from; "" if
// there is none.
func flooder(arm sheet.Arm) string {
	for _, c := range arm.Clients {
		if c.Kind == program.KindFlood {
			return c.On
		}
	}
	return ""
}

func forwards(h sheet.Host) bool { return h.Router != nil || h.Middlebox != nil }

func extras(h sheet.Host) []netip.Prefix {
	var ps []netip.Prefix
	for _, a := range h.Addresses {
		ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
	}
	sort.Slice(ps, func(i, j int) bool { return ps[i].Addr().Less(ps[j].Addr()) })
	return ps
}

// address is where clients on host from reach target.
func (t *topology) address(arm sheet.Arm, from string, target sheet.Target) (netip.Addr, error) {
	if target.Address != "" {
		if a, ok := t.addrs[target.Host][target.Address]; ok {
			return a, nil
		}
		return netip.Addr{}, fmt.Errorf("host %s has no address %q", target.Host, target.Address)
	}
	on := ""
	for _, s := range arm.Servers {
		if s.Name == target.Server {
			on = s.On
		}
	}
	if on == "" {
		return netip.Addr{}, fmt.Errorf("no server %q", target.Server)
	}
	if on == from {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	// On a shared link if there is one; else the server's first link.
	var first netip.Addr
	for _, la := range t.links {
		var a netip.Addr
		var peer string
		switch on {
		case la.link.A:
			a, peer = la.a.Addr(), la.link.B
		case la.link.B:
			a, peer = la.b.Addr(), la.link.A
		default:
			continue
		}
		if peer == from {
			return a, nil
		}
		if !first.IsValid() {
			first = a
		}
	}
	if !first.IsValid() {
		return netip.Addr{}, fmt.Errorf("host %s of server %s has no link", on, target.Server)
	}
	return first, nil
}
