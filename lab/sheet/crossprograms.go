package sheet

import (
	"fmt"
	"strings"

	"tcplab/workloads"
)

// speaks tells whether a kind of client can talk to a kind of server.
func speaks(client, server string) bool {
	switch {
	case client == server, client == "exec", server == "exec", client == "flood":
		return true
	case client == "bulk", client == "incarnations":
		return server == "sink"
	case client == "http":
		return server == "service"
	}
	return false
}

func (x crossing) client(c *Client) {
	n := x.tree.get("clients", c.Name)
	path := func(keys ...string) []string { return append([]string{"clients", c.Name}, keys...) }
	x.on("clients", c.Name, c.On)
	x.exec(n, c.Exec, c.Kind, "clients", c.Name)
	x.targets(c, n)
	if k := kindOf(RoleClient, c.Kind); k == nil {
		// `kind` is not required by the table, since it mostly follows from the
		// server's.
		if name := firstServer(c); name != "" && (x.a.server(name) == nil || x.a.server(name).Kind == "") {
			return // told already
		}
		x.add(x.key("clients", c.Name), "add `kind: "+kindNames(RoleClient)[0]+"`; there are "+join(kindNames(RoleClient)), "`%s` needs `kind`: it does not follow from its server", c.Name)
		return
	}
	if c.Kind == "flood" {
		x.flood(c, n, path)
		return
	}
	if c.Kind == "incarnations" {
		x.incarnations(c, n, path)
		return
	}
	if c.Exec != nil {
		for _, k := range []string{"reuse", "pool", "closes", "options", "deadline"} {
			if n.get(k) != nil {
				x.add(x.key(path(k)...), "leave it out", "`%s` is the affair of the program that `exec` starts", k)
			}
		}
	}
	x.workload(c, n, path)
	x.pool(c, n, path)
}

func firstServer(c *Client) string {
	if len(c.To) == 0 {
		return ""
	}
	return c.To[0].Server
}

// targets checks where a client's packets go.
func (x crossing) targets(c *Client, n *node) {
	to := n.get("to")
	if to == nil {
		return
	}
	items := to.items
	if to.kind != listNode {
		items = []*node{to}
	} else if len(items) == 0 {
		x.add(to.at, suggest("", x.servers(), "servers"), "`to` names nothing")
	}
	seen := map[string]bool{}
	for i, t := range c.To {
		at := items[i].at
		if seen[items[i].text] {
			x.add(at, "name it once", "`to` has `%s` twice", items[i].text)
		}
		seen[items[i].text] = true
		if t.Server != "" {
			s := x.a.server(t.Server)
			if s == nil {
				x.add(at, suggest(t.Server, x.targetNames(), "there are"), "no server `%s`", t.Server)
				continue
			}
			if x.noWay(c.On, s.On) {
				x.add(at, "add a link, or a middlebox or router between them", "`%s` on `%s` has no way to `%s` on `%s`", c.Name, c.On, s.Name, s.On)
			}
			if c.Kind != "" && kindOf(RoleClient, c.Kind) != nil && !speaks(c.Kind, s.Kind) {
				at := x.val("clients", c.Name, "to")
				if n.get("kind") != nil {
					at = n.get("kind").at
				}
				x.add(at, "let both be of one kind", "client kind %s cannot talk to `%s`, which is of server kind %s", c.Kind, s.Name, s.Kind)
			}
			continue
		}
		h := x.a.host(t.Host)
		switch {
		case h == nil:
			x.add(at, suggest(t.Host, x.hosts(), "hosts"), "no host `%s` in `%s`", t.Host, items[i].text)
		case h.Middlebox == nil:
			x.add(at, "write a server's name, or HOST.ADDRESS of a middlebox", "`%s` is no middlebox, so it has no address `%s`", t.Host, t.Address)
		default:
			if x.tree.get("hosts", h.Name, "middlebox", "addresses", t.Address) == nil {
				var all []string
				for _, e := range mapLeaves(x.tree.get("hosts", h.Name, "middlebox", "addresses")) {
					all = append(all, h.Name+"."+e.key)
				}
				x.add(at, suggest(items[i].text, all, "there are"), "`%s` has no address `%s`", t.Host, t.Address)
			} else if x.noWay(c.On, h.Name) {
				x.add(at, "add a link", "`%s` on `%s` has no way to `%s`", c.Name, c.On, h.Name)
			}
		}
	}
}

func (x crossing) targetNames() []string {
	out := x.servers()
	for _, h := range x.a.Hosts {
		for _, e := range mapLeaves(x.tree.get("hosts", h.Name, "middlebox", "addresses")) {
			out = append(out, h.Name+"."+e.key)
		}
	}
	return out
}

func (x crossing) workload(c *Client, n *node, path func(...string) []string) {
	w := n.get("workload")
	has := func(key string) bool { return w.get(key) != nil }
	key := func(k string) pos { return x.key(path("workload", k)...) }
	arrivals := w.get("arrivals").word()
	switch {
	case arrivals == "closed" && has("rate"):
		x.add(key("rate"), "leave one out", "a closed loop has no rate: it sends when an answer has come")
	case arrivals != "" && arrivals != "closed" && !has("rate"):
		x.add(key("arrivals"), "add `rate: 600/s`", "`arrivals: %s` needs a rate", arrivals)
	case has("rate_to") && arrivals != "" && arrivals != "ramp":
		x.add(key("rate_to"), "write `arrivals: ramp`, or leave it out", "`rate_to` is where a ramp ends, and `arrivals` is %s", arrivals)
	case arrivals == "ramp" && !has("rate_to"):
		x.add(key("arrivals"), "add `rate_to: 1200/s`", "a ramp needs the rate that it ends at")
	case has("rate_to") && !has("rate"):
		x.add(key("rate_to"), "add `rate: 600/s`", "a ramp needs the rate that it begins at")
	case has("think") && c.Workload.Arrivals != "closed":
		x.add(key("think"), "leave `rate` out, or `think`", "`think` belongs to the closed loop: with a rate, the schedule says when to send")
	case has("again") && c.Workload.Arrivals != "closed":
		x.add(key("again"), "leave `rate` out, or `again`", "`again` belongs to the closed loop: with a rate, the schedule says when to send")
	}
	x.writes(c, n, path)
	if k := kindOf(RoleWorkload, c.Workload.Kind); k != nil && c.Exec == nil {
		if want := usualWorkloads[c.Kind]; want != "" && want != k.Name && !(c.Kind == "mqtt" && k.Name == "requests") {
			x.add(key("kind"), "write `kind: "+want+"`", "client kind %s does not offer workload kind %s", c.Kind, k.Name)
		}
	}
}

// ofTrace are the keys of a workload that its trace has said.
var ofTrace = []string{"rate", "rate_to", "arrivals", "connections", "size", "response", "think", "again", "parts", "gap"}

// writes checks requests of several writes: what says their lengths and times,
// and who sends them.
func (x crossing) writes(c *Client, n *node, path func(...string) []string) {
	w := n.get("workload")
	key := func(k string) pos { return x.key(path("workload", k)...) }
	trace, parts := w.get("trace"), c.Workload.parts()
	if c.Workload.Kind != "writes" {
		if send := n.get("send"); send != nil && send.text != "parts" {
			x.add(x.key(path("send")...), "write `workload: {kind: writes}`", "`send` is how several writes are made, and a request of workload kind %s is one", c.Workload.Kind)
		}
		if trace != nil {
			x.add(key("trace"), "write `kind: writes`", "a trace is of workload kind writes, not %s", c.Workload.Kind)
		}
		return
	}
	if c.Exec == nil && c.Kind != "echo" {
		x.add(key("kind"), "let the server be of kind echo", "client kind %s does not offer workload kind writes", c.Kind)
	}
	if c.Exec == nil && c.Reuse != "pool" {
		x.add(x.key(path("workload")...), "write `reuse: pool` for the client", "workload kind writes is for kept connections, and `reuse` is %s", c.Reuse)
	}
	for _, k := range [][]string{{"awaits"}, {"heartbeat"}, {"pool", "idle"}} {
		if v := n.get(k...); v != nil && v.text != "0" {
			x.add(x.key(path(k...)...), "leave it out", "`%s` is not of workload kind writes, whose connections are open from the start to the end and carry nothing else", formatPath(k))
		}
	}
	switch {
	case trace == nil && len(parts) == 0:
		x.add(key("kind"), "add `trace: FILE` or `parts: [100B, 900B]`", "workload kind writes needs a `trace`, or the length of each write")
	case trace != nil:
		keys := concat(workloadKeys, kindKeys(RoleWorkload, "writes"))
		for _, k := range ofTrace {
			// A default is spelled out where another arm has the key.
			if v := w.get(k); v != nil && v.text != findKey(keys, k).Default {
				x.add(key(k), "leave it out", "a trace says itself when each request begins, on which connection, and how long its writes are: `%s` is one too many", k)
			}
		}
		if n.get("pool", "size") != nil {
			x.add(x.key(path("pool", "size")...), "leave it out", "the trace says how many connections there are")
		}
	default:
		total := 0
		for _, v := range parts {
			if total += v; v < 1 {
				x.add(key("parts"), "write 1B or more", "a write of nothing")
			}
		}
		if total < workloads.MinRequest {
			x.add(key("parts"), fmt.Sprintf("write %dB or more", workloads.MinRequest), "parts of %d bytes together, and the lab's own protocol has a header", total)
		}
		if w.get("size") != nil {
			x.add(key("size"), "leave it out", "`parts` say how long a request is")
		}
	}
}

// parts are the lengths of a request's writes, in bytes.
func (w Workload) parts() []int {
	list, _ := w.Extra["parts"].([]any)
	var out []int
	for _, v := range list {
		if n, ok := v.(int); ok {
			out = append(out, n)
		}
	}
	return out
}

// pool checks that the machine's ports suffice for what is asked.
func (x crossing) pool(c *Client, n *node, path func(...string) []string) {
	host := x.a.host(c.On)
	if host == nil {
		return
	}
	if h := n.get("heartbeat"); h != nil && c.Reuse != "pool" {
		x.add(x.key(path("heartbeat")...), "write `reuse: pool`", "a heartbeat is for kept connections, and `reuse` is %s", c.Reuse)
	} else if h != nil && c.Pool.Idle > 0 {
		x.add(x.key(path("heartbeat")...), "leave one out", "a heartbeat keeps idle connections, and `pool.idle` closes them")
	}
	have := ports(host)
	if size := c.Pool.Size; c.Reuse == "pool" && size > have && n.get("pool", "size") != nil {
		x.add(x.val(path("pool", "size")...), "widen "+portRangeKey+" of host `"+c.On+"`, or make the pool smaller", "a pool of %d needs more than the %d ports that `%s` has", size, have, c.On)
	}
	if conns := c.Workload.Connections; conns > have {
		x.add(x.val(path("workload", "connections")...), "widen "+portRangeKey+" of host `"+c.On+"`, or use fewer", "%d connections need more than the %d ports that `%s` has", conns, have, c.On)
	}
}

// faultTarget is what a fault's `on` may mean.
type faultTarget struct {
	kind  string // client | server | middlebox | host | link
	verbs []string
}

// meanings lists what bears a name: programs before the host whose name they
// bear, since a fault of a program is the more particular one.
func (x crossing) meanings(name string) []faultTarget {
	var out []faultTarget
	if s := x.a.server(name); s != nil {
		out = append(out, faultTarget{"server", concatWords(programFaults, faultsOf(RoleServer, s.Kind))})
	}
	if c := x.a.client(name); c != nil {
		out = append(out, faultTarget{"client", concatWords(programFaults, faultsOf(RoleClient, c.Kind))})
	}
	if h := x.a.host(name); h != nil {
		if h.Middlebox != nil {
			out = append(out, faultTarget{"middlebox", faultsOf(RoleMiddlebox, h.Middlebox.Kind)})
		} else if h.Router != nil {
			out = append(out, faultTarget{"middlebox", faultsOf(RoleMiddlebox, "router")})
		}
		out = append(out, faultTarget{"host", faultsOf(RoleHost, "namespace")})
	}
	if x.a.link(name) != nil {
		out = append(out, faultTarget{"link", faultsOf(RoleLink, "wire")})
	}
	return out
}

// faultsOf are the faults of a kind; none, where a program has no kind yet.
func faultsOf(role Role, kind string) []string {
	if k := kindOf(role, kind); k != nil {
		return k.Faults
	}
	return nil
}

func concatWords(lists ...[]string) []string {
	var out []string
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// momentary are verbs that leave nothing to undo.
var momentary = []string{"drop-once", "fill", "look", "close-connections", "goaway", "forget-flows", "restart", "continue"}

func (x crossing) fault(f *Fault) {
	path := func(keys ...string) []string { return append([]string{"faults", f.Name}, keys...) }
	n := x.tree.get(path()...)
	if f.Name == "detected" || f.Name == "recovered" {
		x.add(x.key(path()...), "give it another name", "`%s` is an event of its own", f.Name)
	}
	if end := x.a.Trial.Length(); end > 0 && f.At >= end {
		x.add(x.val(path("at")...), "make it earlier, or the trial longer", "the fault `%s` comes at %s, and the trial ends at %s", f.Name, f.At, end)
	}
	means := x.meanings(f.On)
	if len(means) == 0 {
		all := concatWords(x.hosts(), x.links(), x.servers(), x.clients())
		x.add(x.val(path("on")...), suggest(f.On, unique(all), "there are"), "nothing is called `%s`", f.On)
		return
	}
	var can []string
	for _, m := range means {
		if contains(m.verbs, f.Do) && f.OnKind == "" {
			f.OnKind = m.kind
		}
		can = append(can, m.verbs...)
	}
	if f.OnKind == "" {
		x.add(x.val(path("do")...), suggest(f.Do, unique(can), "it knows"), "the %s `%s` does not know `%s`", means[0].kind, f.On, f.Do)
		return
	}
	if f.For > 0 && contains(momentary, f.Do) {
		x.add(x.key(path("for")...), "leave it out", "`%s` happens at once: there is nothing to undo", f.Do)
	}
	x.faultOfLink(f, n, path)
	switch f.Do {
	case "set":
		x.faultSet(f, n, path)
	case "partition":
		for _, i := range n.get("from").items {
			if x.a.host(i.text) == nil || i.text == f.On {
				x.add(i.at, suggest(i.text, x.hosts(), "hosts"), "`%s` is no other host", i.text)
			}
		}
	case "change-record":
		if s := n.get("server"); x.a.server(s.text) == nil {
			x.add(s.at, suggest(s.text, x.servers(), "servers"), "no server `%s`", s.text)
		}
		if name := n.get("name"); x.tree.get("names", name.text) == nil {
			x.add(name.at, suggest(name.text, x.tree.get("names").names(), "names"), "no name `%s`", name.text)
		}
	case "bypass":
		if f.For == 0 {
			x.add(x.key(path()...), "add `for: 20s`", "`bypass` without an end: packets would never come back")
		}
	case "look":
		if c := n.get("client"); c != nil && x.a.client(c.text) == nil {
			x.add(c.at, suggest(c.text, x.clients(), "clients"), "no client `%s`", c.text)
		} else if c == nil && len(x.a.Clients) != 1 {
			x.add(x.key(path()...), "add `client: NAME`", "`look` at whose connection? There are %d clients", len(x.a.Clients))
		}
	case "drop-target", "add-target":
		if t := n.get("target"); x.a.host(t.text) == nil && x.a.server(t.text) == nil {
			x.add(t.at, suggest(t.text, x.hosts(), "hosts"), "`%s` is neither a host nor a server", t.text)
		}
	}
}

func (x crossing) faultOfLink(f *Fault, n *node, path func(...string) []string) {
	if f.OnKind == "link" {
		l := x.a.link(f.On)
		if f.Towards != "" && f.Towards != l.A && f.Towards != l.B {
			x.add(x.val(path("towards")...), "write "+l.A+" or "+l.B, "the link `%s` has no direction towards `%s`", l.Name, f.Towards)
		}
		if (f.Do == "drop-once" || f.Do == "drop") && n.get("match") == nil {
			x.add(x.key(path()...), "add `match: {flags: SA, nth: 1}`", "`%s` needs `match`: which frame", f.Do)
		}
		if f.Do == "hold" {
			x.hold(f, n, path)
		}
		if f.Do == "set" && n.get("match") != nil {
			x.add(x.key(path("match")...), "leave it out", "`set` is for all frames")
		}
	} else {
		for _, k := range []string{"towards", "match"} {
			if n.get(k) != nil {
				x.add(x.key(path(k)...), "leave it out, or name a link in `on`", "`%s` is a link's, and `%s` is a %s", k, f.On, f.OnKind)
			}
		}
	}
	m := n.get("match")
	if flags := m.get("flags"); flags != nil && (strings.Trim(flags.text, "SAFRPUEC") != "" || flags.text == "") {
		x.add(flags.at, "write S, SA, FA, R, PA …", "`flags: %s` are no TCP flags", short(flags.text))
	}
	if flow := m.get("flow"); flow != nil {
		client, server, both := strings.Cut(strings.ReplaceAll(flow.text, " ", ""), ">")
		msg, _, _ := number(client, count("", "").within(1, 65535))
		if !(msg == "" && !both) && (x.a.client(client) == nil || both && x.a.server(server) == nil) {
			x.add(flow.at, "write CLIENT, CLIENT>SERVER or a port; clients are "+orNone(x.clients()), "no flow `%s`", short(flow.text))
		}
	}
}

// faultSet checks the new values against the keys of what gets them.
func (x crossing) faultSet(f *Fault, n *node, path func(...string) []string) {
	set := n.get("set")
	if set == nil || len(set.keys) == 0 {
		x.add(x.key(path()...), "add `set: {delay: 50ms}`", "`do: set` needs `set`: the new values")
		return
	}
	var k Key
	switch f.OnKind {
	case "link":
		k = fixed("set", "", directionKeys...)
	case "host":
		k = fixed("set", "", sysctlKey)
	default:
		var keys []Key
		for _, mk := range concat(middleboxKeys, kindKeys(RoleMiddlebox, x.a.host(f.On).Middlebox.Kind)) {
			if mk.Name != "kind" && mk.Name != "addresses" {
				keys = append(keys, mk)
			}
		}
		k = fixed("set", "", keys...)
	}
	before := x.p.n
	checker{p: x.p, where: x.where}.check(set, k, "set", x.key(path("set")...))
	if x.p.n > before {
		return
	}
	x.sysctls(path("set", "sysctl"))
	f.Args["set"] = plainValue(set, k)
}

func unique(words []string) []string {
	var out []string
	for _, w := range words {
		if !contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}
