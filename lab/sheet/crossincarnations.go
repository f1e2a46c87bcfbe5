package sheet

import "strings"

// incarnations checks a client that has two connections, one after the other,
// and says itself what they carry.
func (x crossing) incarnations(c *Client, n *node, path func(...string) []string) {
	if n.get("workload") != nil {
		x.add(x.key(path("workload")...), "write `ahead`, `most` and `chunk` of the client", "incarnations have no workload")
	}
	for _, k := range []string{"reuse", "pool"} {
		if n.get(k) != nil {
			x.add(x.key(path(k)...), "leave it out", "`%s` is of requests, and incarnations are one connection after the other", k)
		}
	}
	if tos := n.get("tos"); tos != nil && int(quantity(tos))&3 != 0 {
		x.add(tos.at, "write a multiple of 4, such as 16", "`tos: %s`: the last two bits are ECN's (RFC 3168)", tos.text)
	}
}

// hold checks a fault that a sequence number ends.
func (x crossing) hold(f *Fault, n *node, path func(...string) []string) {
	if f.For > 0 {
		x.add(x.key(path("for")...), "leave it out", "`hold` ends when a later connection of the same four ports has come to the segment's place, not after a time")
	}
	if flags := n.get("match").get("flags"); flags != nil && strings.Trim(flags.text, "PA") != "" {
		x.add(flags.at, "write P, or leave it out", "`hold` keeps a data segment: `flags: %s` are none", flags.text)
	}
}
