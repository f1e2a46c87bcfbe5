package sheet

import (
	"net/netip"
	"regexp"
	"strings"
)

// crossing holds one whole arm against itself: what its parts say of each
// other. Messages stand at the node that would have to change.
type crossing struct {
	p     *problems
	where context
	tree  *node
	a     *Arm
	lost  bool // a link is wrong: then it is not told what has no way to what
}

func (x crossing) add(at pos, advice, format string, args ...any) {
	x.p.addIn(x.where, at, advice, format, args...)
}

// val is where the value at a path stands, key where its key does.
func (x crossing) val(path ...string) pos { return x.tree.place(path...) }
func (x crossing) key(path ...string) pos { return x.tree.keyPlace(path...) }

func (x *crossing) check() {
	x.names()
	x.trial()
	before := x.p.n
	for i := range x.a.Links {
		x.link(&x.a.Links[i])
	}
	x.lost = x.p.n > before
	for i := range x.a.Hosts {
		x.host(&x.a.Hosts[i])
	}
	for i := range x.a.Servers {
		x.server(&x.a.Servers[i])
	}
	x.callCycles()
	for i := range x.a.Clients {
		x.client(&x.a.Clients[i])
	}
	for i := range x.a.Faults {
		x.fault(&x.a.Faults[i])
	}
	for _, d := range x.a.DNS {
		if x.a.server(d.Server) == nil {
			x.add(x.val("names", d.Name, "server"), suggest(d.Server, x.servers(), "servers"), "no server `%s`", d.Server)
		}
	}
}

func (x crossing) hosts() []string   { return x.tree.get("hosts").names() }
func (x crossing) links() []string   { return x.tree.get("links").names() }
func (x crossing) servers() []string { return x.tree.get("servers").names() }
func (x crossing) clients() []string { return x.tree.get("clients").names() }

// names checks that a name says which thing is meant.
func (x crossing) names() {
	if len(x.a.Hosts) == 0 {
		x.add(x.tree.at, "add `hosts: {client: {}, server: {}}`", "there are no hosts")
	}
	if len(x.a.Clients) == 0 {
		x.add(x.tree.at, "add `clients`, or `client` in the short form", "there is no client, so nothing is offered")
	}
	heads := metricHeads()
	for _, section := range []string{"hosts", "links", "servers", "clients"} {
		for _, e := range mapEntries(x.tree.get(section)) {
			if heads[e.key] {
				x.add(e.at, "give it another name", "the name `%s` in `%s` is the beginning of a metric's name, so a path could not tell them apart", e.key, section)
			}
		}
	}
	for _, l := range x.a.Links {
		if x.a.host(l.Name) != nil {
			x.add(x.key("links", l.Name), "give one another name", "`%s` is both a host and a link", l.Name)
		}
	}
	for i := range x.a.Servers {
		x.bearsName(x.a.Servers[i].Name, x.a.Servers[i].On, "servers")
	}
	for i := range x.a.Clients {
		c := &x.a.Clients[i]
		if x.a.server(c.Name) != nil {
			x.add(x.key("clients", c.Name), "give one another name", "`%s` is both a server and a client", c.Name)
		}
		x.bearsName(c.Name, c.On, "clients")
	}
}

// bearsName lets a program bear its own host's name, and no other's.
func (x crossing) bearsName(name, on, section string) {
	if x.a.host(name) != nil && name != on {
		x.add(x.key(section, name), "give it another name", "the program `%s` runs on `%s`, but `%s` is a host too", name, on, name)
	}
	if x.a.link(name) != nil {
		x.add(x.key(section, name), "give one another name", "`%s` is both a program and a link", name)
	}
}

func (x crossing) trial() {
	t := x.tree.get("trial")
	until, length := t.get("until"), t.get("duration")
	switch {
	case until == nil && length == nil:
		x.add(x.key("trial"), "add `trial: {duration: 12s}`, or `{until: EVENT + T, at_most: T}`", "the trial has no end")
	case until != nil && length != nil:
		x.add(x.key("trial", "duration"), "keep one; in an arm, `duration: null` takes it away", "`duration` and `until` both end the trial")
	case until != nil && t.get("at_most") == nil:
		x.add(until.at, "add `at_most: 1200s`", "`until` needs `at_most`: the event may never come")
	case until == nil && t.get("at_most") != nil:
		x.add(x.key("trial", "at_most"), "leave it out", "`at_most` goes with `until`")
	}
	if until != nil {
		if ev := x.a.Trial.Until; !contains(x.a.events(), ev) {
			advice := suggest(ev, x.a.events(), "events")
			if len(x.a.Faults) == 0 {
				advice = "add `faults`, or write `duration`"
			}
			x.add(until.at, advice, "no event `%s`", ev)
		}
		if at := x.a.Trial.AtMost; at > 0 && x.a.Trial.Warmup >= at {
			x.add(x.val("trial", "warmup"), "make it shorter", "the warm-up (%s) is as long as the trial may last (%s)", x.a.Trial.Warmup, at)
		}
	}
}

func (x crossing) host(h *Host) {
	n := []string{"hosts", h.Name}
	if h.Middlebox != nil && h.Router != nil {
		x.add(x.key(append(n, "router")...), "keep one", "`%s` is both a middlebox and a router", h.Name)
	}
	x.sysctls(append(n, "sysctl"))
	x.sysctls(append(n, "router", "sysctl"))
	if h.Router != nil {
		if nat := h.Router.NAT; nat != "" {
			l := x.a.link(nat)
			switch {
			case l == nil:
				x.add(x.val("hosts", h.Name, "router", "nat"), suggest(nat, x.links(), "links"), "no link `%s`", nat)
			case l.A != h.Name && l.B != h.Name:
				x.add(x.val("hosts", h.Name, "router", "nat"), "name the one that its clients are hidden behind", "the link `%s` does not reach `%s`", nat, h.Name)
			}
		}
		if h.Router.NoTrack && (h.Router.NAT != "" || h.Router.Invalid != "" || h.Router.Track) {
			x.add(x.key("hosts", h.Name, "router", "notrack"), "leave `nat`, `invalid` and `track` out", "`notrack`: without conntrack there is no NAT, and no packet is INVALID")
		}
		for k := range h.Router.Sysctl {
			if _, twice := h.Sysctl[k]; twice {
				x.add(x.key("hosts", h.Name, "router", "sysctl", k), "keep one", "`%s` is in `sysctl` and in `router.sysctl`", k)
			}
		}
	}
	for i, r := range h.Routes {
		at := x.val("hosts", h.Name, "routes")
		if items := x.tree.get("hosts", h.Name, "routes").items; i < len(items) {
			at = items[i].at
		}
		if x.a.host(r.Via) == nil {
			x.add(at, suggest(r.Via, x.hosts(), "hosts"), "the route to %s goes via `%s`, which is no host", r.To, r.Via)
		} else if !x.neighbours(h.Name, r.Via) {
			x.add(at, "name a host that shares a link with it", "the route to %s goes via `%s`, which has no link to `%s`", r.To, r.Via, h.Name)
		}
		if _, err := netip.ParsePrefix(r.To); err != nil && r.To != "default" && x.a.host(r.To) == nil && x.a.link(r.To) == nil {
			if _, ok := parseAddr(r.To); !ok {
				x.add(at, "write a host, a link, a prefix such as 10.9.0.0/24, or default", "a route to `%s`", short(r.To))
			}
		}
	}
	if m := h.Middlebox; m != nil {
		x.middlebox(h, m)
	}
	if x.tree.get("hosts", h.Name, "container") != nil && (h.Middlebox != nil || h.Router != nil) {
		x.add(x.key("hosts", h.Name, "container"), "leave `container` out", "a middlebox or router is a namespace of the lab's own")
	}
}

// noWay tells that packets of one host cannot get to another.
func (x crossing) noWay(from, to string) bool {
	return !x.lost && x.a.host(from) != nil && x.a.host(to) != nil && x.a.path(from, to) == nil
}

func (x crossing) neighbours(a, b string) bool {
	for _, l := range x.a.Links {
		if l.A == a && l.B == b || l.A == b && l.B == a {
			return true
		}
	}
	return false
}

// sysctls checks that a host has these settings for itself, and the range of
// ports, on which predictions rest.
func (x crossing) sysctls(path []string) {
	for _, e := range mapLeaves(x.tree.get(path...)) {
		if !strings.HasPrefix(e.key, "net.") || contains(globalSysctls, e.key) {
			x.add(e.at, "write it under `kernel: {sysctl: …}`, which a guest kernel grants", "`%s` is global: no host has it for itself", e.key)
		}
		if e.key == portRangeKey {
			if _, _, ok := portRange(e.val.text); !ok {
				x.add(e.val.at, `write "32768 60999": the lowest and the highest port`, "`%s: %s` is no range of ports", e.key, short(e.val.text))
			}
		}
	}
}

func (x crossing) middlebox(h *Host, m *Middlebox) {
	path := []string{"hosts", h.Name, "middlebox"}
	n := x.tree.get(path...)
	for i, t := range m.Targets {
		if x.a.host(t) == nil && x.a.server(t) == nil {
			x.add(n.get("targets").items[i].at, suggest(t, x.hosts(), "hosts"), "the target `%s` is neither a host nor a server", t)
		} else if x.noWay(h.Name, x.a.targetHost(Target{Server: t})) && x.noWay(h.Name, t) {
			x.add(n.get("targets").items[i].at, "add a link", "`%s` has no way to its target `%s`", h.Name, t)
		}
	}
	taken := map[netip.Addr]string{}
	for _, other := range x.a.Hosts {
		if other.Name == h.Name {
			break
		}
		for name, addr := range other.Addresses {
			taken[addr] = other.Name + "." + name
		}
	}
	for _, e := range mapLeaves(n.get("addresses")) {
		addr, ok := parseAddr(e.val.text)
		switch {
		case !identifier(e.key):
			x.add(e.at, "write `"+asIdentifier(e.key)+"`", "an address is called `%s`, and clients write HOST.NAME: letters, digits and _", short(e.key))
		case !ok:
			x.add(e.val.at, "write an IPv4 address, such as 10.9.0.1", "`%s` is no address", short(e.val.text))
		case taken[addr] != "":
			x.add(e.val.at, "give each its own", "the address %s is `%s` too", addr, taken[addr])
		case !addr.IsPrivate():
			x.add(e.val.at, "write one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16", "%s is not a private address", addr)
		}
		if ok && taken[addr] == "" {
			taken[addr] = h.Name + "." + e.key
		}
	}
	if m.Kind == "l4lb" && (len(m.Targets) == 0 || len(h.Addresses) == 0) && n.get("addresses") == nil {
		x.add(x.key(path...), "add `addresses: {vip: 10.9.0.1}` and `targets: [HOST]`", "the load balancer `%s` has no address", h.Name)
	} else if m.Kind == "l4lb" && len(m.Targets) == 0 {
		x.add(x.key(path...), "add `targets: [HOST]`", "the load balancer `%s` has no targets", h.Name)
	}
	if v, ok := m.Options["ports"]; ok {
		if _, _, ok := portRange(v); !ok {
			x.add(n.get("ports").at, `write "1024 65535"`, "`ports: %s` is no range of ports", short(v))
		}
	}
}

func (x crossing) link(l *Link) {
	n := x.tree.get("links", l.Name)
	between := n.get("between")
	if len(between.items) != 2 {
		x.add(between.at, "write two hosts: [client, server]", "a link joins two hosts, and `%s` has %d", l.Name, len(between.items))
		return
	}
	for _, i := range between.items {
		if x.a.host(i.text) == nil {
			x.add(i.at, suggest(i.text, x.hosts(), "hosts"), "no host `%s`", i.text)
		}
	}
	if l.A == l.B {
		x.add(between.at, "write two different hosts", "the link `%s` joins `%s` with itself", l.Name, l.A)
	}
	// IFNAMSIZ is 16 with its NUL (include/uapi/linux/if.h).
	if len(l.Name) > 15 || l.Name == "lo" || l.Name == "all" || l.Name == "default" {
		x.add(x.key("links", l.Name), "give it a name of at most 15 characters, and not lo, all or default", "`%s` cannot be an interface's name", l.Name)
	}
	w := n.get("wire")
	for _, e := range mapEntries(w.get("towards")) {
		if e.key != l.A && e.key != l.B {
			x.add(e.at, "write "+l.A+" or "+l.B, "the link `%s` has no direction towards `%s`", l.Name, e.key)
		}
	}
	for _, host := range []string{l.A, l.B} {
		d := l.Wire.To[host]
		at := func(key string) pos {
			if w.get("towards", host, key) != nil {
				return w.place("towards", host, key)
			}
			return w.place(key)
		}
		if d.Jitter > d.Delay {
			x.add(at("jitter"), "at most the delay", "the jitter (%s) is larger than the delay (%s)", d.Jitter, d.Delay)
		}
		if (d.QueueBytes > 0 || d.QueueTime > 0) && d.Rate == 0 {
			x.add(at("queue"), "add `rate: 100Mbit/s`", "a queue without a rate never fills")
		}
		if d.Reorder > 0 && d.Delay == 0 && d.ReorderBy == 0 {
			x.add(at("reorder"), "add `delay: 5ms`, or write `reorder: {share: 1%, by: 5ms}`", "frames that skip a delay of 0 overtake nothing")
		}
	}
	if k := w.get("kind").word(); k == "netem" || k == "kernel" {
		x.netem(l, w)
		if f := w.get("fates"); f != nil && f.text != "unpaired" {
			x.add(f.at, "write `fates: unpaired`, or `kind: userspace`", "netem draws its own fates, so they cannot be paired")
		} else if f == nil {
			l.Wire.Fates = "unpaired"
		}
	}
}

// netem refuses what the kernel's own queueing discipline cannot do, wherever
// the sheet would run: `kind: kernel` may be netem.
func (x crossing) netem(l *Link, w *node) {
	for _, host := range []string{l.A, l.B} {
		d := l.Wire.To[host]
		for _, c := range []struct {
			key, why string
			asked    bool
		}{
			{"mtu", "netem has no MTU", d.MTU > 0},
			{"jitter", "netem's jitter reorders frames", d.Jitter > 0},
			{"reorder", "netem cannot hold a frame back", d.ReorderBy > 0},
		} {
			at := w.place(c.key)
			if w.get("towards", host, c.key) != nil {
				at = w.place("towards", host, c.key)
			}
			if c.asked {
				x.add(at, "leave it out, or write `kind: userspace`", "%s", c.why)
				return
			}
		}
	}
	for _, f := range x.a.Faults {
		if f.On == l.Name && x.a.host(f.On) == nil && x.a.client(f.On) == nil && x.a.server(f.On) == nil {
			x.add(x.key("faults", f.Name), "write `kind: userspace`", "netem cannot decide a fault by a frame's arrival, and the link `%s` asks for it", l.Name)
		}
	}
}

func (x crossing) on(section, name, host string) {
	h := x.a.host(host)
	if h == nil {
		x.add(x.val(section, name, "on"), suggest(host, x.hosts(), "hosts"), "no host `%s`", host)
		return
	}
	if h.Middlebox != nil {
		x.add(x.val(section, name, "on"), "let it run on another host", "`%s` is a middlebox, which runs no programs", host)
	}
}

func (x crossing) server(s *Server) {
	x.on("servers", s.Name, s.On)
	n := x.tree.get("servers", s.Name)
	if s.Kind == "" {
		x.add(x.key("servers", s.Name), "add `kind: echo`; there are "+join(kindNames(RoleServer)), "`%s` needs `kind`", s.Name)
		return
	}
	x.exec(n, s.Exec, s.Kind, "servers", s.Name)
	if s.Port == 0 {
		x.add(x.key("servers", s.Name), "add `port: 8080`, or `ready: {listen: 8080}`", "the lab does not know which port `%s` listens on", s.Name)
	}
	for i := range x.a.Servers {
		o := &x.a.Servers[i]
		if o == s {
			break
		}
		if o.On == s.On && o.Port == s.Port && s.Port != 0 {
			x.add(x.val("servers", s.Name, "port"), "give one another port", "`%s` and `%s` both listen on port %d of `%s`", o.Name, s.Name, s.Port, s.On)
		}
	}
	if len(s.Calls) > 0 && s.Kind != "service" {
		x.add(x.key("servers", s.Name, "calls"), "write `kind: service`", "`calls` belongs to server kind service, not to %s", s.Kind)
	}
	if s.Closes == "server" && s.Exec != nil {
		x.add(x.key("servers", s.Name, "closes"), "leave it out", "who closes first is the program's own affair")
	}
	for i, c := range s.Calls {
		item := n.get("calls").items[i]
		to := x.a.server(c.To)
		switch {
		case to == nil:
			x.add(item.get("to").at, suggest(c.To, x.servers(), "servers"), "no server `%s`", c.To)
			continue
		case to == s:
			x.add(item.get("to").at, "name another server", "`%s` calls itself", s.Name)
		case x.noWay(s.On, to.On):
			x.add(item.get("to").at, "add a link, or a router between them", "`%s` on `%s` has no way to `%s` on `%s`", s.Name, s.On, to.Name, to.On)
		}
		if c.Backoff != "" && !backoffForm(c.Backoff) {
			x.add(item.get("backoff").at, "write none, 100ms, or exponential 100ms..10s", "`backoff: %s` is none of its forms", short(c.Backoff))
		}
	}
}

var backoffPattern = regexp.MustCompile(`^exponential (\S+)\.\.(\S+)$`)

// backoffForm is: none, a time, or exponential FIRST..LAST.
func backoffForm(s string) bool {
	isTime := func(s string) bool {
		msg, _, _ := number(s, duration("", ""))
		return msg == ""
	}
	if m := backoffPattern.FindStringSubmatch(s); m != nil {
		return isTime(m[1]) && isTime(m[2])
	}
	return s == "none" || isTime(s)
}

// callCycles refuses layers that call each other in a ring.
func (x crossing) callCycles() {
	state := map[string]int{} // 1 being visited, 2 done
	var visit func(s *Server) bool
	visit = func(s *Server) bool {
		switch state[s.Name] {
		case 1:
			return false
		case 2:
			return true
		}
		state[s.Name] = 1
		for i, c := range s.Calls {
			if to := x.a.server(c.To); to != nil && to != s && !visit(to) {
				x.add(x.tree.get("servers", s.Name, "calls").items[i].get("to").at, "let the calls end somewhere", "`%s` and `%s` call each other in a ring", s.Name, c.To)
			}
		}
		state[s.Name] = 2
		return true
	}
	for i := range x.a.Servers {
		visit(&x.a.Servers[i])
	}
}

var templatePattern = regexp.MustCompile(`\{\{([^}]*)\}\}`)

// exec checks a program of the user's own.
func (x crossing) exec(n *node, e *Exec, kind, section, name string) {
	switch {
	case kind == "exec" && e == nil:
		x.add(x.key(section, name), "add `exec: {argv: [./mine]}`", "kind exec needs `exec`")
		return
	case kind != "exec" && e != nil:
		x.add(x.key(section, name, "exec"), "leave `kind` out, or `exec`", "`exec` is a program of your own, and `kind: %s` is one of the lab's", kind)
		return
	case e == nil:
		return
	}
	argv := n.get("exec", "argv")
	if len(e.Argv) == 0 {
		x.add(argv.at, "write [./mine, --flag]", "`argv` is empty")
	}
	if _, err := regexp.Compile(e.Log); err != nil {
		x.add(n.get("exec", "ready", "log").at, "write a regular expression (RE2)", "`log: %s`: %v", short(e.Log), err)
	}
	if e.Listen != 0 && e.Log != "" {
		x.add(x.key(section, name, "exec", "ready", "log"), "keep one", "`listen` and `log` both say when it is ready")
	}
	for _, i := range argv.items {
		x.template(i)
	}
	for _, v := range mapLeaves(n.get("exec", "env")) {
		x.template(v.val)
	}
}

// template checks the {{…}} of a program's arguments.
func (x crossing) template(n *node) {
	for _, m := range templatePattern.FindAllStringSubmatch(n.text, -1) {
		thing, field, ok := strings.Cut(strings.TrimSpace(m[1]), ".")
		if s := x.a.server(thing); s != nil && ok && (field == "addr" || field == "host" || field == "port") {
			continue
		}
		if h := x.a.host(thing); h != nil && ok {
			if _, has := h.Addresses[field]; has {
				continue
			}
		}
		var all []string
		for _, s := range x.a.Servers {
			all = append(all, s.Name+".addr", s.Name+".host", s.Name+".port")
		}
		for _, h := range x.a.Hosts {
			for a := range h.Addresses {
				all = append(all, h.Name+"."+a)
			}
		}
		x.add(n.at, suggest(strings.TrimSpace(m[1]), all, "there are"), "`%s` stands for nothing in this sheet", m[0])
	}
}
