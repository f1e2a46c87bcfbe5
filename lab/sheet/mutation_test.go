package sheet

import (
	"reflect"
	"sort"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// spots lists every place of a tree at which something can be changed.
func spots(n *node, path []int, out *[][]int) {
	*out = append(*out, path)
	for i := range n.keys {
		spots(n.keys[i].val, append(path[:len(path):len(path)], i), out)
	}
	for i := range n.items {
		spots(n.items[i], append(path[:len(path):len(path)], i), out)
	}
}

func at(n *node, path []int) *node {
	for _, i := range path {
		if n.kind == mapNode {
			n = n.keys[i].val
		} else {
			n = n.items[i]
		}
	}
	return n
}

// changed gives a tree in which the value at path is what change makes of it;
// nil takes it away.
func changed(n *node, path []int, change func(*node) *node) *node {
	if len(path) == 0 {
		return change(n)
	}
	out := *n
	out.keys, out.items = append([]entry(nil), n.keys...), append([]*node(nil), n.items...)
	i := path[0]
	if n.kind == mapNode {
		if v := changed(n.keys[i].val, path[1:], change); v != nil {
			out.keys[i].val = v
		} else {
			out.keys = append(out.keys[:i], out.keys[i+1:]...)
		}
	} else {
		if v := changed(n.items[i], path[1:], change); v != nil {
			out.items[i] = v
		} else {
			out.items = append(out.items[:i], out.items[i+1:]...)
		}
	}
	return &out
}

var oddTexts = []string{"", "0", "1", "5ms", "1s", "100/s", "1%", "128B", "client", "server", "lb.vip", "a.b", "exec", "echo", "flood", "mqtt", "none", "pool",
	"true", "full", "quick", "set", "kill", "detected + 1s", "32768 60999", "1 1", "ports / rate", "a.latency.p50 < 1s", "{{server.addr}}", "netem"}

// A sheet that was changed at random is either refused, or means the same when
// it is resolved; nothing makes the decoder panic.
func TestSheetsChangedAtRandomAreRefusedOrResolveToThemselves(t *testing.T) {
	sheets := committed(t)
	var files []string
	for f := range sheets {
		files = append(files, f)
	}
	sort.Strings(files)
	trees := map[string]*node{}
	for f, text := range sheets {
		trees[f] = parseYAML(&problems{file: f}, text, "")
	}
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		tree := trees[rapid.SampledFrom(files).Draw(t, "sheet")]
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			var all [][]int
			spots(tree, nil, &all)
			spot := rapid.SampledFrom(all[1:]).Draw(t, "spot")
			other := at(tree, rapid.SampledFrom(all[1:]).Draw(t, "other"))
			how := rapid.IntRange(0, 5).Draw(t, "how")
			text := rapid.SampledFrom(oddTexts).Draw(t, "text")
			tree = changed(tree, spot, func(n *node) *node {
				switch how {
				case 0:
					return nil
				case 1:
					return &node{kind: nullNode}
				case 2:
					return newText(pos{}, text)
				case 3:
					return other
				case 4:
					if n.kind == mapNode { // a key more, from elsewhere
						return n.with(rapid.SampledFrom([]string{"kind", "on", "to", "rate", "x", "wire", "workload", "only", "towards"}).Draw(t, "key"), pos{}, other)
					}
					return newMap(pos{}, entry{key: "x", val: n})
				default:
					return &node{kind: listNode, items: []*node{n}}
				}
			})
		}
		var b strings.Builder
		emit(&b, tree, 0)
		p := rapid.SampledFrom(profileNames).Draw(t, "profile")
		e, err := Parse("changed", []byte(b.String()), Options{Profile: p})
		if err != nil {
			return
		}
		accepted++
		again, err := Parse("resolved", e.resolved, Options{})
		if err != nil {
			t.Fatalf("accepted, and refused when resolved: %v\n%s\n---\n%s", err, b.String(), e.resolved)
		}
		if x, y := alike(e), alike(again); !reflect.DeepEqual(x, y) {
			t.Fatalf("another experiment when resolved: %s\n%s\n---\n%s", difference(x, y), b.String(), e.resolved)
		}
	})
	if accepted == 0 {
		t.Error("every change was refused: nothing was tried")
	}
}
