package sheet

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// trees draws small values that share keys often.
func trees(depth int, nulls bool) *rapid.Generator[*node] {
	return rapid.Custom(func(t *rapid.T) *node {
		kinds := []nodeKind{scalarNode, listNode}
		if nulls {
			kinds = append(kinds, nullNode)
		}
		if depth > 0 {
			kinds = append(kinds, mapNode, mapNode, mapNode)
		}
		n := &node{kind: rapid.SampledFrom(kinds).Draw(t, "kind")}
		switch n.kind {
		case scalarNode:
			n.text, n.plain = rapid.SampledFrom([]string{"1", "5ms", "a", "1s"}).Draw(t, "text"), true
		case listNode:
			n.items = rapid.SliceOfN(trees(0, false), 0, 2).Draw(t, "items")
		case mapNode:
			n.keys = entries(t, depth, nulls)
		}
		return n
	})
}

func entries(t *rapid.T, depth int, nulls bool) []entry {
	var out []entry
	for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 0, 3, rapid.ID[string]).Draw(t, "keys") {
		out = append(out, entry{key: k, val: trees(depth-1, nulls).Draw(t, k)})
	}
	return out
}

func layer(t *rapid.T, label string, nulls bool) *node {
	return &node{kind: mapNode, keys: rapid.Custom(func(t *rapid.T) []entry { return entries(t, 3, nulls) }).Draw(t, label)}
}

func TestMergingLayersIsAssociative(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := layer(t, "a", false), layer(t, "b", true), layer(t, "c", true)
		left, right := strip(merge(merge(a, b), c)), strip(merge(a, merge(b, c)))
		if flow(left) != flow(right) {
			t.Fatalf("(a b) c = %s\na (b c) = %s", flow(left), flow(right))
		}
	})
}

func TestMergingNothingChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := layer(t, "a", false)
		if got := strip(merge(a, newMap(pos{}))); flow(got) != flow(strip(a)) {
			t.Fatalf("%s became %s", flow(a), flow(got))
		}
	})
}

func TestNullDeletesAndAMapAfterItStartsAnew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base, anew := layer(t, "base", false), layer(t, "anew", false)
		key := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "key")
		gone := merge(base, nest([]string{key}, &node{kind: nullNode}))
		if strip(gone).has(key) {
			t.Fatalf("%s is still in %s", key, flow(strip(gone)))
		}
		again := strip(merge(gone, nest([]string{key}, anew)))
		if flow(again.get(key)) != flow(strip(anew)) {
			t.Fatalf("after a null, %s became %s", flow(anew), flow(again.get(key)))
		}
	})
}

func TestListsAndValuesReplace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := layer(t, "base", false)
		v := trees(0, false).Draw(t, "value")
		got := strip(merge(base, nest([]string{"a"}, v)))
		if flow(got.get("a")) != flow(v) {
			t.Fatalf("%s was not replaced by %s: %s", flow(base), flow(v), flow(got))
		}
		for _, k := range strip(base).names() {
			if k != "a" && flow(got.get(k)) != flow(strip(base).get(k)) {
				t.Fatalf("%s changed too", k)
			}
		}
	})
}

func TestDifferenceLaidOverTheBaseGivesTheTarget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base, target := strip(layer(t, "base", false)), strip(layer(t, "target", false))
		d := diff(base, target)
		if got := strip(merge(base, d)); !same(got, target) {
			t.Fatalf("%s + %s = %s, not %s", flow(base), flow(d), flow(got), flow(target))
		}
		if d != nil && same(base, target) {
			t.Fatalf("equal, and yet %s", flow(d))
		}
	})
}

func TestPathsAreReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := []string{rapid.StringMatching(`[a-z_]{1,5}`).Draw(t, "head")}
		keys = append(keys, rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,4}(\.[a-z0-9]{1,4})?`), 0, 4).Draw(t, "rest")...)
		got, ok := splitPath(formatPath(keys))
		if !ok || fmt.Sprint(got) != fmt.Sprint(keys) {
			t.Fatalf("%q → %s → %q", keys, formatPath(keys), got)
		}
	})
	for _, bad := range []string{"", ".", "a.", ".a", "a..b", "[a]", "a[", "a[]", "a[b]c", "a.[b]"} {
		if got, ok := splitPath(bad); ok {
			t.Errorf("%q was read as %q", bad, got)
		}
	}
}

// anyText draws texts that YAML could take for something else.
var anyText = rapid.OneOf(
	rapid.String(),
	rapid.StringMatching(`[ -~]{0,12}`),
	rapid.SampledFrom([]string{"null", "~", "true", "on", "1e3", "0x1F", ": ", "a: b", "a #b", "- a", "[a", "{a}", "'", `"`, "\\", "\n", " a", "a ", "a\nb\n", "a\n\n", "\ta", "%", "1%", "|", ">", "@", "`", "&a", "*a", "!a", "<<", "?", "? a", "---", "...", "é", "a\u2028b", "a\u0085b", "\ufeff", "a\n b\n", " a\nb"}),
)

func TestCanonicalYAMLReadsBackAsTheSameTexts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := newMap(pos{})
		for i, s := range rapid.SliceOfN(anyText, 1, 4).Draw(t, "texts") {
			n.keys = append(n.keys, entry{key: fmt.Sprint("k", i), val: newText(pos{}, s)},
				entry{key: fmt.Sprint("l", i), val: &node{kind: listNode, items: []*node{newText(pos{}, s)}}},
				entry{key: fmt.Sprint("m", i), val: newMap(pos{}, entry{key: "x", val: newText(pos{}, s)})})
			if s != "" && len(s) < 100 {
				n = n.with("key "+s, pos{}, newText(pos{}, "v"))
			}
		}
		var b strings.Builder
		emit(&b, n, 0)
		p := &problems{file: "t"}
		got := parseYAML(p, []byte(b.String()), "")
		if p.any() {
			t.Fatalf("%v\n%s", p.err(), b.String())
		}
		if flow(got) != flow(n) {
			t.Fatalf("wrote %s\nread  %s\n%s", flow(n), flow(got), b.String())
		}
	})
}
