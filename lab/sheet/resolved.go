package sheet

import (
	"bytes"
	"strings"
)

// Resolved is the canonical sheet in the general form, as one profile has it:
// the baseline whole, and of every other arm what it changes. Parsing it gives
// the same experiment (with that one profile); resolving that gives the same
// bytes.
func Resolved(e *Experiment) ([]byte, error) { return bytes.Clone(e.resolved), nil }

// resolve writes the canonical sheet.
func (b *builder) resolve() {
	if len(b.arms) == 0 || b.s.p.any() {
		return
	}
	at := pos{}
	out := newMap(at)
	put := func(key string, n *node) {
		if n != nil && (n.kind != mapNode || len(n.keys) > 0) {
			out.keys = append(out.keys, entry{key, at, n})
		}
	}
	put("experiment", b.top.get("experiment"))
	put("question", b.top.get("question"))
	put("profile", newText(at, b.profile))
	put("clock", b.top.get("clock"))
	put("needs", b.top.get("needs"))
	base := b.arms[0].tree
	for _, k := range bodyKeys {
		put(k.Name, canonical(base.get(k.Name), k))
	}
	arms := newMap(at)
	whys := func(arm string) *node {
		n := newMap(at)
		for _, w := range b.whys {
			if w.arm == arm && w.used {
				n = n.with(formatPath(w.path), at, newText(at, w.text))
			}
		}
		return n
	}
	for i := range b.s.arms {
		src := &b.s.arms[i]
		arm := newMap(at)
		if src.baseline {
			arm = arm.with("baseline", at, newText(at, "true"))
		}
		var tree *node
		for j := range b.arms {
			if b.arms[j].src == src {
				tree = b.arms[j].tree
				if needs := b.arms[j].arm.Needs; len(needs) > 0 {
					l := &node{kind: listNode}
					for _, n := range needs {
						l.items = append(l.items, newText(at, n))
					}
					arm = arm.with("needs", at, l)
				}
			}
		}
		for _, l := range b.out {
			if l.src == src {
				tree = l.tree
			}
		}
		if src.only != "" {
			arm = arm.with("only", at, newText(at, src.only))
		}
		if src.costs != "" {
			arm = arm.with("costs", at, newText(at, src.costs))
		}
		if w := whys(src.name); len(w.keys) > 0 {
			arm = arm.with("why", at, w)
		}
		for _, k := range bodyKeys {
			if d := diff(base.get(k.Name), tree.get(k.Name)); d != nil {
				arm = arm.with(k.Name, at, canonical(d, k))
			}
		}
		arms = arms.with(src.name, at, arm)
	}
	put("arms", arms)
	put("sweep", b.top.get("sweep"))
	put("vary", b.top.get("vary"))
	for _, k := range judgedKeys {
		put(k.Name, canonical(b.top.get(k.Name), k))
	}
	put("gate", b.top.get("gate"))
	put("why", whys(""))
	put("writeup", b.top.get("writeup"))
	var s strings.Builder
	emit(&s, out, 0)
	b.e.resolved = []byte(s.String())
}

// canonical puts the keys of fixed maps into the table's order.
func canonical(n *node, k Key) *node {
	if n == nil {
		return nil
	}
	switch {
	case n.kind == mapNode && k.Form == FormNamed:
		out := newMap(n.at)
		for _, e := range n.keys {
			out.keys = append(out.keys, entry{e.key, e.at, canonical(e.val, *k.Of)})
		}
		return out
	case n.kind == mapNode:
		keys := k.Keys
		for _, o := range k.Or {
			keys = concat(keys, o.Keys)
		}
		if k.Role != "" {
			keys = keysFor(Key{Keys: keys, Role: k.Role}, "")
		}
		out := newMap(n.at)
		for _, sub := range keys {
			if e := n.entry(sub.Name); e != nil && !out.has(sub.Name) {
				out.keys = append(out.keys, entry{e.key, e.at, canonical(e.val, sub)})
			}
		}
		for _, e := range n.keys { // of a fault's `set`, whose keys depend on what gets it
			if !out.has(e.key) {
				out.keys = append(out.keys, e)
			}
		}
		return out
	case n.kind == listNode && k.Of != nil:
		out := &node{kind: listNode, at: n.at}
		for _, i := range n.items {
			out.items = append(out.items, canonical(i, *k.Of))
		}
		return out
	}
	return n
}
