package sheet

// flood checks a client that is no program of TCP's: it has no connections, so
// none of what says how they are used, and an arm has one at most, so that its
// bounds are the arm's.
func (x crossing) flood(c *Client, n *node, path func(...string) []string) {
	if n.get("workload") != nil {
		x.add(x.key(path("workload")...), "write `rate`, `packets` and `for` of the client", "a flooder has no workload")
	}
	for _, k := range []string{"reuse", "pool", "closes", "options", "deadline"} {
		if n.get(k) != nil {
			x.add(x.key(path(k)...), "leave it out", "`%s` is of connections, and a flooder has none", k)
		}
	}
	for i := range x.a.Clients {
		other := &x.a.Clients[i]
		if other.Kind != "flood" {
			continue
		}
		if other.Name != c.Name {
			x.add(x.key("clients", c.Name), "keep one; it may have several targets in `to`", "`%s` is a second flooder beside `%s`, and what a flood may come to holds for all of them", c.Name, other.Name)
		}
		break
	}
	for _, t := range c.To {
		if t.Server == "" {
			x.add(x.val(path("to")...), suggest("", x.servers(), "servers"), "a flooder sends to a server of the run, and `%s.%s` is none", t.Host, t.Address)
		} else if s := x.a.server(t.Server); s != nil && s.On == c.On {
			x.add(x.val(path("on")...), "put it on a host of its own", "the flooder `%s` is on the host of its server `%s`: there is no link between them", c.Name, s.Name)
		}
	}
}
