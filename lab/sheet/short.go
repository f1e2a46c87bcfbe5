package sheet

import "strings"

// The short form for two hosts, and what each of its keys stands for.
var shortPaths = map[string][]string{
	"wire":     {"links", "wire", "wire"},
	"server":   {"servers", "server"},
	"client":   {"clients", "client"},
	"workload": {"clients", "client", "workload"},
}

// generalPath rewrites a path of the short form.
func generalPath(path []string) []string {
	if len(path) > 0 {
		if p, ok := shortPaths[path[0]]; ok {
			return append(append([]string(nil), p...), path[1:]...)
		}
	}
	return path
}

// shortOrder is the order in which short keys are rewritten.
var shortOrder = []string{"wire", "server", "client", "workload"}

// general rewrites a layer from the short form to the general one, each value
// keeping its place. base is the general form of the sheet that the layer is
// laid over, nil for the sheet itself.
func general(p *problems, layer, base *node) *node {
	out := layer.only(func(key string) bool { return shortPaths[key] == nil })
	for _, key := range shortOrder {
		e := layer.entry(key)
		if e == nil {
			continue
		}
		path := shortPaths[key]
		section := layer.entry(path[0])
		switch {
		case section != nil && (base == nil || section.val.entry(path[1]) != nil):
			p.add(e.at, "write one of the two", "`%s` is short for `%s`, and `%s` is here too", key, formatPath(path), path[0])
			continue
		case base != nil && base.get(path[:2]...) == nil:
			p.add(e.at, "`"+path[0]+"` has "+orNone(base.get(path[0]).names()), "`%s` is short for `%s`, which this sheet does not have", key, formatPath(path))
			continue
		case key == "workload" && layer.entry("client") != nil && layer.entry("client").val.entry("workload") != nil:
			p.add(e.at, "write one of the two", "`workload` is short for `client.workload`, which is here too")
			continue
		}
		val := e.val
		for i := len(path) - 1; i >= 0; i-- {
			val = newMap(e.at, entry{path[i], e.at, val})
		}
		out = merge(out, val)
	}
	if base == nil && isShort(layer) {
		out = twoHosts(p, layer, out)
	}
	return out
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return join(names)
}

func isShort(layer *node) bool {
	for key := range shortPaths {
		if layer.has(key) {
			return true
		}
	}
	return false
}

// twoHosts adds what the short form leaves unsaid.
func twoHosts(p *problems, layer, out *node) *node {
	// What is added stands where it was left unsaid.
	place := func(keys ...string) pos {
		for _, k := range keys {
			if e := layer.entry(k); e != nil {
				return e.at
			}
		}
		return layer.at
	}
	top, wire, server, client := place(shortOf(layer)...), place("wire", "client"), place("server", "client"), place("client", "workload", "server")
	hosts := newMap(top, entry{"client", top, newMap(top)}, entry{"server", top, newMap(top)})
	link := newMap(wire,
		entry{"between", wire, &node{kind: listNode, at: wire, items: []*node{newText(wire, "client"), newText(wire, "server")}}},
		entry{"wire", wire, newMap(wire)})
	def := newMap(layer.at,
		entry{"hosts", top, hosts},
		entry{"links", wire, newMap(wire, entry{"wire", wire, link})},
		entry{"servers", server, newMap(server, entry{"server", server, newMap(server, entry{"on", server, newText(server, "server")})})},
		entry{"clients", client, newMap(client, entry{"client", client, newMap(client,
			entry{"on", client, newText(client, "client")}, entry{"to", client, newText(client, "server")})})})
	if hosts := layer.entry("hosts"); hosts != nil && hosts.val.kind == mapNode {
		for _, h := range hosts.val.keys {
			if h.key != "client" && h.key != "server" {
				p.add(h.at, "write `links`, `servers` and `clients` to have more", "the short form (`"+strings.Join(shortOf(layer), "`, `")+"`) has the hosts client and server only, not %s", h.key)
			}
		}
	}
	return merge(def, out)
}

func shortOf(layer *node) []string {
	var out []string
	for _, e := range layer.keys {
		if shortPaths[e.key] != nil {
			out = append(out, e.key)
		}
	}
	return out
}
