package sheet

import (
	"strconv"
	"strings"

	"tcplab/lab/expr"
)

// pos is where something stands: in the sheet, or on the command line (src).
type pos struct {
	line, col int
	src       string
}

type nodeKind int

const (
	nullNode nodeKind = iota
	scalarNode
	listNode
	mapNode
)

func (k nodeKind) String() string {
	return [...]string{"nothing", "a value", "a list", "a map"}[k]
}

// node is one value of a sheet with its place. Scalars stay text: what a text
// means is the key table's to say, not YAML's (`on: off` is a word). Nodes are
// not changed once they are built: merging makes new ones.
type node struct {
	kind   nodeKind
	text   string // scalar
	plain  bool   // written without quotes
	inline bool   // text stands on one line at `at`, so columns within it are known
	items  []*node
	keys   []entry
	at     pos
	// fresh marks a map that came after a null or another value: it replaces
	// what was there, as the null did, instead of merging into it.
	fresh bool
}

// entry is one key of a map.
type entry struct {
	key string
	at  pos
	val *node
}

// get gives the value of a key, nil when it is not there or null.
func (n *node) get(path ...string) *node {
	for _, key := range path {
		if n == nil || n.kind != mapNode {
			return nil
		}
		e := n.entry(key)
		if e == nil {
			return nil
		}
		n = e.val
	}
	if n == nil || n.kind == nullNode {
		return nil
	}
	return n
}

func (n *node) entry(key string) *entry {
	if n == nil || n.kind != mapNode {
		return nil
	}
	for i := range n.keys {
		if n.keys[i].key == key {
			return &n.keys[i]
		}
	}
	return nil
}

// has tells whether a key is there, be it null.
func (n *node) has(key string) bool { return n.entry(key) != nil }

// names are a map's keys in order.
func (n *node) names() []string {
	if n == nil {
		return nil
	}
	out := make([]string, len(n.keys))
	for i, e := range n.keys {
		out[i] = e.key
	}
	return out
}

func (n *node) word() string {
	if n == nil || n.kind != scalarNode {
		return ""
	}
	return n.text
}

// place is where the value at path stands, or the nearest thing above it that
// is there.
func (n *node) place(path ...string) pos {
	at := n.at
	for _, key := range path {
		e := n.entry(key)
		if e == nil {
			return at
		}
		n, at = e.val, e.at
		if n.kind == scalarNode || n.kind == listNode {
			at = n.at
		}
	}
	return at
}

// keyPlace is where the last key of path stands, or the nearest above.
func (n *node) keyPlace(path ...string) pos {
	at := n.at
	for _, key := range path {
		e := n.entry(key)
		if e == nil {
			return at
		}
		n, at = e.val, e.at
	}
	return at
}

func newMap(at pos, entries ...entry) *node {
	return &node{kind: mapNode, at: at, keys: entries}
}

func newText(at pos, text string) *node {
	return &node{kind: scalarNode, at: at, text: text, plain: true}
}

// with gives a map in which key has another value; the order stays.
func (n *node) with(key string, at pos, val *node) *node {
	out := &node{kind: mapNode, at: n.at, fresh: n.fresh, keys: make([]entry, 0, len(n.keys)+1)}
	found := false
	for _, e := range n.keys {
		if e.key == key {
			e.val, e.at, found = val, at, true
		}
		out.keys = append(out.keys, e)
	}
	if !found {
		out.keys = append(out.keys, entry{key, at, val})
	}
	return out
}

// only gives a map with just the keys that keep wants.
func (n *node) only(keep func(key string) bool) *node {
	out := &node{kind: mapNode, at: n.at, fresh: n.fresh}
	for _, e := range n.keys {
		if keep(e.key) {
			out.keys = append(out.keys, e)
		}
	}
	return out
}

// merge lays over on top of base: maps merge deeply, a list or a value
// replaces, null deletes. Nulls stay in the result as tombstones, so that
// merge(a, merge(b, c)) is merge(merge(a, b), c); strip removes them at the end.
func merge(base, over *node) *node {
	switch {
	case over == nil:
		return base
	case base == nil:
		return over
	case over.kind != mapNode:
		return over
	case base.kind != mapNode:
		out := *over
		out.fresh = true
		return &out
	case over.fresh:
		return over
	}
	out := &node{kind: mapNode, at: base.at, fresh: base.fresh, keys: make([]entry, 0, len(base.keys)+len(over.keys))}
	for _, e := range base.keys {
		if o := over.entry(e.key); o != nil {
			e.val = merge(e.val, o.val)
			if o.val.kind != mapNode || base.entry(e.key).val.kind != mapNode {
				e.at = o.at
			}
		}
		out.keys = append(out.keys, e)
	}
	for _, o := range over.keys {
		if !base.has(o.key) {
			out.keys = append(out.keys, o)
		}
	}
	return out
}

// strip removes what a null deleted.
func strip(n *node) *node {
	if n == nil || n.kind == nullNode {
		return nil
	}
	switch n.kind {
	case mapNode:
		out := &node{kind: mapNode, at: n.at}
		for _, e := range n.keys {
			if e.val = strip(e.val); e.val != nil {
				out.keys = append(out.keys, e)
			}
		}
		return out
	case listNode:
		out := &node{kind: listNode, at: n.at}
		for _, i := range n.items {
			if i = strip(i); i != nil {
				out.items = append(out.items, i)
			}
		}
		return out
	}
	return n
}

// same tells whether two values mean the same: 1000ms is 1s, and a map's order
// does not matter.
func same(a, b *node) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.kind != b.kind {
		return false
	}
	switch a.kind {
	case scalarNode:
		if a.text == b.text {
			return true
		}
		x, err1 := expr.ParseQuantity(a.text)
		y, err2 := expr.ParseQuantity(b.text)
		return err1 == nil && err2 == nil && x == y
	case listNode:
		if len(a.items) != len(b.items) {
			return false
		}
		for i := range a.items {
			if !same(a.items[i], b.items[i]) {
				return false
			}
		}
	case mapNode:
		if len(a.keys) != len(b.keys) {
			return false
		}
		for _, e := range a.keys {
			if o := b.entry(e.key); o == nil || !same(e.val, o.val) {
				return false
			}
		}
	}
	return true
}

// diff is what has to be laid over base to get target; nil when nothing.
func diff(base, target *node) *node {
	if same(base, target) {
		return nil
	}
	if target == nil {
		return &node{kind: nullNode}
	}
	if base == nil || base.kind != mapNode || target.kind != mapNode {
		return target
	}
	out := newMap(target.at)
	for _, e := range base.keys {
		if d := diff(e.val, valueOf(target, e.key)); d != nil {
			out.keys = append(out.keys, entry{e.key, e.at, d})
		}
	}
	for _, e := range target.keys {
		if !base.has(e.key) {
			out.keys = append(out.keys, e)
		}
	}
	return out
}

func valueOf(n *node, key string) *node {
	if e := n.entry(key); e != nil {
		return e.val
	}
	return nil
}

// splitPath reads "hosts.client.sysctl[net.ipv4.tcp_retries2]": names joined by
// dots, and a key that has dots itself in brackets.
func splitPath(s string) ([]string, bool) {
	var out []string
	for s != "" {
		if s[0] == '[' {
			n := strings.IndexByte(s, ']')
			if n < 2 || len(out) == 0 {
				return nil, false
			}
			out, s = append(out, s[1:n]), s[n+1:]
		} else {
			n := strings.IndexAny(s, ".[")
			if n < 0 {
				n = len(s)
			}
			if n == 0 {
				return nil, false
			}
			out, s = append(out, s[:n]), s[n:]
		}
		if strings.HasPrefix(s, ".") {
			if s = s[1:]; s == "" || s[0] == '[' {
				return nil, false
			}
		} else if s != "" && s[0] != '[' {
			return nil, false
		}
	}
	return out, len(out) > 0
}

// formatPath is the inverse of splitPath.
func formatPath(keys []string) string {
	var b strings.Builder
	for i, k := range keys {
		switch {
		case strings.ContainsAny(k, ".[") && i > 0:
			b.WriteString("[" + k + "]")
		case i > 0:
			b.WriteString("." + k)
		default:
			b.WriteString(k)
		}
	}
	return b.String()
}

// nest wraps a value into maps: nest([a b], v) is {a: {b: v}}.
func nest(path []string, val *node) *node {
	for i := len(path) - 1; i >= 0; i-- {
		val = newMap(val.at, entry{path[i], val.at, val})
	}
	return val
}

// emit writes canonical YAML: block style, two spaces, quotes only where a
// plain text would be read as something else.
func emit(b *strings.Builder, n *node, indent int) {
	pad := strings.Repeat("  ", indent)
	switch n.kind {
	case mapNode:
		for _, e := range n.keys {
			b.WriteString(pad + yamlKey(e.key) + ":")
			emitValue(b, e.val, indent)
		}
	case listNode:
		for _, i := range n.items {
			b.WriteString(pad + "- " + line(i) + "\n")
		}
	default:
		b.WriteString(pad + line(n) + "\n")
	}
}

// line is a value after its key in block style, where fewer signs are special
// than within brackets.
func line(n *node) string {
	if n.kind == scalarNode {
		return yamlText(n.text, false)
	}
	return flow(n)
}

func emitValue(b *strings.Builder, n *node, indent int) {
	switch {
	case n.kind == mapNode && len(n.keys) > 0:
		b.WriteByte('\n')
		emit(b, n, indent+1)
	case n.kind == scalarNode && literalBlock(n.text):
		// The explicit indentation makes leading spaces safe; the chomping says
		// how many newlines the text ends with (none or one).
		chomp := "-"
		text := n.text
		if strings.HasSuffix(text, "\n") {
			chomp, text = "", strings.TrimSuffix(text, "\n")
		}
		b.WriteString(" |" + chomp + "\n")
		pad := strings.Repeat("  ", indent+1)
		for line := range strings.SplitSeq(text, "\n") {
			if line != "" {
				b.WriteString(pad + line)
			}
			b.WriteByte('\n')
		}
	default:
		b.WriteString(" " + line(n) + "\n")
	}
}

// literalBlock tells whether a text reads the same when written as a block: no
// odd white space that YAML would fold or drop.
func literalBlock(s string) bool {
	body := strings.TrimSuffix(s, "\n")
	if !strings.Contains(body, "\n") || body[0] == ' ' || body[0] == '\n' || strings.HasSuffix(body, "\n") {
		return false
	}
	for line := range strings.SplitSeq(body, "\n") {
		if line != "" && strings.TrimSpace(line) == "" || strings.HasSuffix(line, " ") {
			return false
		}
	}
	return printable(strings.ReplaceAll(s, "\n", ""))
}

func printable(s string) bool {
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff || r == 0xfffd {
			return false
		}
	}
	return true
}

// flow writes a value on one line.
func flow(n *node) string {
	switch n.kind {
	case nullNode:
		return "null"
	case mapNode:
		parts := make([]string, len(n.keys))
		for i, e := range n.keys {
			parts[i] = yamlKey(e.key) + ": " + flow(e.val)
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case listNode:
		parts := make([]string, len(n.items))
		for i, v := range n.items {
			parts[i] = flow(v)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return yamlText(n.text, true)
}

func yamlKey(s string) string {
	if identifier(s) && yamlText(s, true) == s {
		return s
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '.' || r == '-') {
			return quote(s)
		}
	}
	return yamlText(s, true)
}

// yamlText is a scalar as YAML, plain where that is certain to be read back as
// the same text.
func yamlText(s string, inFlow bool) string {
	switch strings.ToLower(s) {
	case "", "null", "~", "y", "n", "-", "---", "...":
		return quote(s)
	}
	special := "#{}\\\t"
	if inFlow {
		special += "[],:\"'"
	}
	if !printable(s) || s[0] == ' ' || s[len(s)-1] == ' ' || strings.ContainsRune("&*!|>'\"%@`<=[],", rune(s[0])) ||
		strings.ContainsRune("?:-", rune(s[0])) && (len(s) == 1 || s[1] == ' ' || inFlow && strings.ContainsRune("?:", rune(s[0]))) ||
		strings.ContainsAny(s, special) || strings.Contains(s, ": ") || strings.HasSuffix(s, ":") {
		return quote(s)
	}
	return s
}

// quote writes a double-quoted scalar.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < 0x20:
			h := strconv.FormatInt(int64(r), 16)
			b.WriteString(`\x` + strings.Repeat("0", 2-len(h)) + h)
		case !printable(string(r)):
			h := strconv.FormatInt(int64(r), 16)
			if len(h) > 4 {
				b.WriteString(`\U` + strings.Repeat("0", 8-len(h)) + h)
			} else {
				b.WriteString(`\u` + strings.Repeat("0", 4-len(h)) + h)
			}
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// identifier tells whether a path can name s without brackets.
func identifier(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}
