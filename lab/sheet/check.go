package sheet

import (
	"fmt"
	"regexp"
	"strings"
)

// checker holds nodes against the key tables. In a layer (a profile, an arm,
// the sheet itself before anything is merged) what is missing may come from
// below, a null deletes, and where `kind` is not said any kind's keys may be
// meant; a whole arm has neither excuse.
type checker struct {
	p     *problems
	layer bool
	base  bool    // the sheet itself, in which a null has nothing to delete
	where context // the arm, of a whole one
}

func (c checker) add(at pos, advice, format string, args ...any) {
	c.p.addIn(c.where, at, advice, format, args...)
}

// check holds n against key k; name is what messages call it, at where that
// name stands.
func (c checker) check(n *node, k Key, name string, at pos) {
	if n.kind == nullNode {
		switch {
		case c.layer && !c.base, k.Patch:
		case k.Form == FormMap || k.Form == FormNamed:
			c.add(at, "write `"+name+": {}`", "`%s` has no value", name)
		default:
			c.add(at, "leave the key out, or give it a value", "`%s` has no value", name)
		}
		return
	}
	if len(k.Or) > 0 {
		c.union(n, k, name, at)
		return
	}
	if k.Patch {
		c.base = false
	}
	switch k.Form {
	case FormAny:
		if n.kind != mapNode {
			c.add(n.at, "write "+example(k), "`%s` is %s, not a map", name, n.kind)
		}
	case FormMap:
		c.fixed(n, k, name, at)
	case FormNamed:
		c.named(n, k, name)
	case FormList:
		if n.kind != listNode {
			c.add(n.at, "write "+listExample(k, n), "`%s` is %s, not a list", name, n.kind)
			return
		}
		for i, item := range n.items {
			if item.kind == nullNode {
				c.add(item.at, "give it a value", "`%s` has an empty element", name)
				continue
			}
			c.check(item, *k.Of, fmt.Sprintf("%s[%d]", name, i), item.at)
		}
	default:
		if n.kind != scalarNode {
			c.add(n.at, "write "+example(k), "`%s` is %s, not %s", name, n.kind, article(k))
			return
		}
		if msg, advice, err := scalar(n, k); err != nil {
			c.p.addExpr(c.where, n, err)
		} else if msg != "" {
			c.add(n.at, advice, "`%s: %s` %s", name, short(n.text), msg)
		}
	}
}

func short(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:39]) + "…"
	}
	return s
}

// union checks a value that may have several forms: those that are written as
// it is written (as a map, a list, a value) come into question.
func (c checker) union(n *node, k Key, name string, at pos) {
	forms := append([]Key{k}, k.Or...)
	var fit, all []string
	for i, f := range forms {
		f.Or = nil
		if f.Name == "" {
			f.Name = k.Name
		}
		if f.Example == "" {
			f.Example = k.Example
		}
		all = append(all, example(f))
		if shapeOf(f.Form) != n.kind {
			continue
		}
		if n.kind != scalarNode {
			c.check(n, f, name, at)
			return
		}
		if msg, _, err := scalar(n, f); msg == "" && err == nil {
			return
		}
		fit = append(fit, example(forms[i]))
	}
	switch len(fit) {
	case 0:
		c.add(n.at, "write "+strings.Join(all, " or "), "`%s` is %s", name, n.kind)
	case 1:
		for _, f := range forms {
			if f.Or = nil; shapeOf(f.Form) == scalarNode {
				c.check(n, f, name, at)
			}
		}
	default:
		c.add(n.at, "write "+strings.Join(fit, " or "), "`%s: %s` is neither", name, short(n.text))
	}
}

func shapeOf(f Form) nodeKind {
	switch f {
	case FormMap, FormNamed, FormAny:
		return mapNode
	case FormList:
		return listNode
	}
	return scalarNode
}

// fixed checks a map whose keys are in a table.
func (c checker) fixed(n *node, k Key, name string, at pos) {
	if n.kind != mapNode {
		if name == "" {
			name = "a sheet"
		}
		c.add(n.at, "write "+example(k), "`%s` is %s, not a map", name, n.kind)
		return
	}
	kind := ""
	if k.Role != "" {
		kind = kindIn(n, k.Role)
	}
	keys := keysFor(k, kind)
	for _, e := range n.keys {
		sub := findKey(keys, e.key)
		if sub == nil && c.layer && e.val.kind == nullNode && findKey(keysFor(k, ""), e.key) != nil {
			continue // an arm takes away what belonged to another kind
		}
		if sub == nil {
			c.unknown(e, k, kind, name)
			continue
		}
		c.check(e.val, *sub, e.key, e.at)
	}
	if c.layer {
		return
	}
	for _, sub := range keys {
		if sub.Required && n.get(sub.Name) == nil {
			c.add(at, "add `"+sub.Name+": "+exampleValue(sub)+"`", "%s needs `%s`: %s", called(name), sub.Name, sub.About)
		}
	}
}

func called(name string) string {
	if name == "" {
		return "a sheet"
	}
	return "`" + name + "`"
}

// kindIn is what a map says it is.
func kindIn(n *node, role Role) string {
	if role == roleFault {
		return n.get("do").word()
	}
	return programKind(n)
}

// programKind is the kind that a map says it is: by `kind`, or by having exec.
func programKind(n *node) string {
	if k := n.get("kind").word(); k != "" {
		return k
	}
	if n.get("exec") != nil {
		return "exec"
	}
	return ""
}

// keysFor are the keys of a map: its own, and its kind's. Where the kind is
// open, any kind's may be meant.
func keysFor(k Key, kind string) []Key {
	keys := k.Keys
	if k.Role == "" {
		return keys
	}
	keys = keys[:len(keys):len(keys)]
	for _, name := range kindNames(k.Role) {
		if kind != "" && kind != name {
			continue
		}
		for _, x := range kindKeys(k.Role, name) {
			if kind == "" {
				x.Required = false
			}
			if findKey(keys, x.Name) == nil {
				keys = append(keys, x)
			}
		}
	}
	return keys
}

func findKey(keys []Key, name string) *Key {
	for i := range keys {
		if keys[i].Name == name {
			return &keys[i]
		}
	}
	return nil
}

func keyNames(keys []Key) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.Name
	}
	return out
}

// commaAdvice is for the most common slip of flow style: {because: a, b} has two
// keys.
const commaAdvice = "a comma ends a text within { }: put the text into quotes"

// unknown tells about a key that the table does not have.
func (c checker) unknown(e entry, k Key, kind, name string) {
	all := keyNames(keysFor(k, kind))
	allowed := all
	if kind == "" { // any kind's keys are meant, but need not all be told
		allowed = keyNames(k.Keys)
	}
	if k.Role != "" && kind != "" {
		for _, other := range kindNames(k.Role) {
			if findKey(kindKeys(k.Role, other), e.key) != nil {
				c.add(e.at, "allowed: "+join(allowed), "`%s` is a key of the %s %s, not of %s", e.key, k.Role, other, kind)
				return
			}
		}
	}
	in := ""
	if name != "" {
		in = " in `" + name + "`"
	}
	if e.val.kind == nullNode && strings.Contains(e.key, " ") {
		c.add(e.at, commaAdvice, "unknown key `%s`%s", short(e.key), in)
		return
	}
	advice := "allowed: " + join(allowed)
	if n := nearest(e.key, all); n != "" {
		advice = "did you mean `" + n + "`? " + advice
	}
	c.add(e.at, advice, "unknown key `%s`%s", e.key, in)
}

// named checks a map whose keys are names.
func (c checker) named(n *node, k Key, name string) {
	if n.kind != mapNode {
		c.add(n.at, "write "+example(k), "`%s` is %s, not a map", name, n.kind)
		return
	}
	for _, e := range n.keys {
		if k.Identifier && !identifier(e.key) {
			c.add(e.at, "write `"+asIdentifier(e.key)+"`", "the name `%s` in `%s` cannot stand in a metric's path: letters, digits and _, not a digit first", short(e.key), name)
			continue
		}
		if e.key == "" {
			c.add(e.at, "give it a name", "an empty name in `%s`", name)
			continue
		}
		if e.val.kind == nullNode && strings.Contains(e.key, " ") {
			c.add(e.at, commaAdvice, "`%s` has no value", short(e.key))
			continue
		}
		of := *k.Of
		switch {
		case k.Name == "options":
			o := findKey(socketOptions, e.key)
			if o == nil {
				c.add(e.at, suggest(e.key, keyNames(socketOptions), "known"), "unknown socket option `%s`", e.key)
				continue
			}
			of = *o
		case k.Name == "profiles" && !contains(profileNames, e.key):
			c.add(e.at, suggest(e.key, profileNames, "there are"), "unknown profile `%s`", e.key)
			continue
		case k.Name == "sysctl":
			c.sysctl(e)
		}
		c.check(e.val, of, e.key, e.at)
	}
}

// globalSysctls are settings under net. that no namespace has for itself.
var globalSysctls = []string{
	"net.netfilter.nf_conntrack_max", "net.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets", "net.netfilter.nf_conntrack_expect_max",
	"net.core.rmem_max", "net.core.wmem_max", "net.core.rmem_default", "net.core.wmem_default", "net.core.netdev_max_backlog",
	"net.ipv4.tcp_mem", "net.ipv4.tcp_max_orphans", "net.ipv4.tcp_allowed_congestion_control", "net.ipv4.tcp_available_congestion_control",
}

var sysctlName = regexp.MustCompile(`^[a-z0-9_]+(\.[A-Za-z0-9_*/-]+)+$`)

func (c checker) sysctl(e entry) {
	switch {
	case !sysctlName.MatchString(e.key):
		c.add(e.at, "write it with dots, such as net.ipv4.tcp_retries2", "`%s` is no sysctl's name", short(e.key))
	case strings.HasPrefix(e.key, "net.ipv6."):
		c.add(e.at, "leave it out", "`%s`: hosts have no IPv6", e.key)
	}
}

func asIdentifier(s string) string {
	var b strings.Builder
	for _, r := range s {
		if identifier("x" + string(r)) {
			b.WriteRune(r)
		} else {
			b.WriteByte('_')
		}
	}
	out := b.String()
	if out == "" || out[0] >= '0' && out[0] <= '9' {
		out = "_" + out
	}
	return out
}

func contains(words []string, w string) bool {
	for _, x := range words {
		if x == w {
			return true
		}
	}
	return false
}
