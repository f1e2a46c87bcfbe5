package sheet

import (
	"slices"
	"sort"
	"strings"

	"tcplab/lab/expr"
)

// builder makes one profile's experiment out of a source.
type builder struct {
	s       *source
	e       *Experiment
	profile string
	top     *node // what is claimed, and the rest that belongs to no arm
	arms    []builtArm
	out     []leftOut
	whys    []*why
	broken  bool // an arm has problems
}

// builtArm is an arm of this profile.
type builtArm struct {
	src  *armSource
	tree *node
	pre  *node // before --set
	arm  Arm
	run  bool // false: left out by Options.Only
}

// leftOut is an arm that this profile does not have.
type leftOut struct {
	src  *armSource
	tree *node
}

// why is one line of justification; used once something is changed there.
type why struct {
	arm  string // "" is the sheet's
	path []string
	text string
	at   pos
	used bool
}

func (b *builder) where(arm string) context { return context{b.profile, arm} }

// trees merges every arm, and gives all of them one order and one way of saying
// what they leave unsaid: the baseline's order first, and a default spelled out
// where any arm spells the key out. An arm is then the same however it was
// written, and a default that is merely written down is no lever.
func (b *builder) trees() {
	var built []builtArm
	for i := range b.s.arms {
		src := &b.s.arms[i]
		tree, pre := b.s.armTree(b.profile, src)
		built = append(built, builtArm{src: src, tree: tree, pre: pre})
		if src.baseline && i > 0 {
			copy(built[1:], built[:i])
			built[0] = builtArm{src: src, tree: tree, pre: pre}
		}
	}
	if len(built) == 0 {
		return
	}
	var union *node
	for _, a := range built {
		union = merge(union, a.tree)
	}
	base := built[0].tree
	for _, a := range built {
		a.tree = inOrderOf(spellOut(a.tree, union, base, bodyKey), base)
		a.pre = inOrderOf(spellOut(a.pre, union, base, bodyKey), base)
		if a.src.only != "" && a.src.only != b.profile {
			b.out = append(b.out, leftOut{a.src, a.tree})
		} else {
			b.arm(a)
		}
	}
}

// spellOut adds defaults where some arm says the key. A key that only one kind
// has is left alone where the baseline is of another kind: there it would look
// like one more change.
func spellOut(n, union, base *node, k Key) *node {
	if n == nil || union == nil || n.kind != mapNode || union.kind != mapNode {
		return n
	}
	if k.Form == FormNamed {
		out := &node{kind: mapNode, at: n.at}
		for _, e := range n.keys {
			out.keys = append(out.keys, entry{e.key, e.at, spellOut(e.val, valueOf(union, e.key), valueOf(base, e.key), *k.Of)})
		}
		return out
	}
	if k.Form != FormMap {
		return n
	}
	out := n
	keys := k.Keys
	if kind := kindIn(n, k.Role); k.Role != "" && base != nil && kindIn(base, k.Role) == kind {
		keys = keysFor(k, kind)
	}
	for _, sub := range keys {
		u := union.get(sub.Name)
		if u == nil {
			continue
		}
		if e := n.entry(sub.Name); e != nil {
			out = out.with(sub.Name, e.at, spellOut(e.val, u, valueOf(base, sub.Name), sub))
		} else if exactDefault(sub) {
			out = out.with(sub.Name, n.at, newText(n.at, sub.Default))
		}
	}
	return out
}

// exactDefault tells whether a key's default is a value that could be written,
// and not a description.
func exactDefault(k Key) bool {
	switch k.Form {
	case FormText, FormValue, FormName, FormMap, FormNamed, FormList:
		return false
	}
	if k.Default == "" || k.Role != "" {
		return false
	}
	msg, _, err := scalar(newText(pos{}, k.Default), k)
	return msg == "" && err == nil
}

// arm checks and decodes one whole arm.
func (b *builder) arm(built builtArm) {
	src, tree := built.src, built.tree
	p, where := b.s.p, b.where(src.name)
	before := p.n
	checker{p: p, where: where}.check(tree, bodyKey, "arms."+src.name, src.at)
	if p.n > before {
		b.broken = true
		return
	}
	a := decodeArm(tree)
	a.Name, a.Baseline, a.Costs = src.name, src.baseline, src.costs
	a.Needs = b.needs(src)
	if len(a.Kernel) > 0 && !contains(a.Needs, "guest") {
		a.Needs = append(a.Needs, "guest")
	}
	x := crossing{p: p, where: where, tree: tree, a: &a}
	x.check()
	if p.n > before {
		b.broken = true
		return
	}
	a.Numbers = numbers(&a)
	built.arm = a
	built.run = len(b.s.opts.Only) == 0 || contains(b.s.opts.Only, src.name)
	b.arms = append(b.arms, built)
}

// needs is what an arm needs: its own list, and a guest for global settings.
func (b *builder) needs(src *armSource) []string {
	var out []string
	for _, layer := range []*node{src.layer, src.profiles[b.profile]} {
		if n := layer.get("needs"); n != nil {
			out = b.s.needsList(n)
		}
	}
	return out
}

func (s *source) needsList(n *node) []string {
	var out []string
	var known []string
	for _, c := range capabilities {
		known = append(known, c.Name)
	}
	for _, i := range n.items {
		if name, ok := strings.CutPrefix(i.text, "sysctl:"); ok && sysctlName.MatchString(name) || contains(known, i.text) {
			out = append(out, i.text)
			continue
		}
		s.p.add(i.at, suggest(i.text, known, "sysctl:NAME or one of"), "`%s` is no capability", short(i.text))
	}
	return out
}

// finish fills in the experiment once all its arms are right.
func (b *builder) finish() {
	e, top, p := b.e, b.top, b.s.p
	f := fields{top, "sheet", sheetKeys}
	e.Name, e.Question, e.Clock = f.text("experiment"), f.text("question"), f.text("clock")
	if n := f.get("needs"); n != nil {
		e.Needs = b.s.needsList(n)
	}
	if w := f.get("writeup"); w != nil && w.kind == mapNode {
		e.Writeups = f.texts("writeup")
	} else {
		e.Writeup = w.word()
	}
	b.sweep(f.get("sweep"))
	e.Apart = f.text("vary") == "apart"
	b.levers()
	b.judged(f)
	if n := f.get("gate"); n != nil {
		b.gate(n)
	}
	b.resolve()
	for _, a := range b.arms {
		if a.run {
			e.Arms = append(e.Arms, a.arm)
		}
	}
	if len(e.Arms) == 0 && !p.any() {
		p.add(pos{src: "--only"}, "arms: "+join(b.s.armNames()), "no arm of profile %s is left", b.profile)
	}
}

// inOrderOf gives n the order of base, what base lacks at the end.
func inOrderOf(n, base *node) *node {
	if n == nil || base == nil || n.kind != mapNode || base.kind != mapNode {
		return n
	}
	out := &node{kind: mapNode, at: n.at}
	for _, e := range base.keys {
		if own := n.entry(e.key); own != nil {
			out.keys = append(out.keys, entry{own.key, own.at, inOrderOf(own.val, e.val)})
		}
	}
	for _, e := range n.keys {
		if !base.has(e.key) {
			out.keys = append(out.keys, e)
		}
	}
	return out
}

// levers are what each arm changes, and kernel settings what all of them set.
func (b *builder) levers() {
	b.readWhys()
	base := b.arms[0]
	settings := map[string]*Setting{}
	for i := range b.arms {
		a := &b.arms[i]
		var found []Lever
		changes(nil, base.tree, a.tree, &found)
		found = append(found, b.setLevers(a, found)...)
		sort.Slice(found, func(i, j int) bool { return found[i].Path < found[j].Path })
		for j := range found {
			if found[j].Why == bySet {
				continue // the sheet's line is about the sheet's value
			}
			found[j].Why = b.whyFor(a.src.name, found[j].Path, found[j].Why)
		}
		a.arm.Levers = found
		if !a.arm.Baseline && len(found) == 0 {
			b.warn("arm `" + a.src.name + "` changes nothing against the baseline")
		}
		for _, s := range kernelSettings(a.tree) {
			s.Why = b.whyFor(a.src.name, s.Path, "")
			id := s.Path + "=" + s.Value + "=" + s.Why
			if settings[id] == nil {
				settings[id] = &s
				b.e.Settings = append(b.e.Settings, s)
			}
			for j := range b.e.Settings {
				if x := &b.e.Settings[j]; x.Path == s.Path && x.Value == s.Value && x.Why == s.Why {
					x.Arms = append(x.Arms, a.src.name)
				}
			}
		}
	}
	for _, s := range b.e.Settings {
		if s.Why == "" {
			b.warn("kernel setting " + s.Path + " = " + s.Value + " (" + join(s.Arms) + ") has no line of justification: add it under `why`")
		}
	}
}

func (b *builder) warn(text string) { b.e.Warnings = append(b.e.Warnings, text) }

// changes lists the leaves in which target differs from base.
func changes(path []string, base, target *node, out *[]Lever) {
	if same(base, target) {
		return
	}
	path = path[:len(path):len(path)]
	if (base == nil || target == nil) && len(path) == 2 {
		// A host, a program, a fault as a whole: that it comes or goes is one
		// change, however many keys it has.
		*out = append(*out, Lever{Path: formatPath(path), From: flowOr(base), To: flowOr(target)})
		return
	}
	if b, t := isMap(base), isMap(target); (b || base == nil) && (t || target == nil) && len(path) < maxDepth {
		keys := base.names()
		for _, k := range target.names() {
			if !base.has(k) {
				keys = append(keys, k)
			}
		}
		for _, k := range keys {
			changes(append(path, k), valueOf(base, k), valueOf(target, k), out)
		}
		if len(keys) == 0 && len(path) > 0 { // an empty map came or went: `hosts: {extra: {}}`
			*out = append(*out, Lever{Path: formatPath(path), From: flowOr(base), To: flowOr(target)})
		}
		return
	}
	*out = append(*out, Lever{Path: formatPath(path), From: flowOr(base), To: flowOr(target)})
}

func isMap(n *node) bool { return n != nil && n.kind == mapNode }

func flowOr(n *node) string {
	if n == nil {
		return ""
	}
	return flow(n)
}

// bySet is the justification of what --set changes.
const bySet = "--set"

// setLevers are what --set changes in an arm, unless that is told already.
func (b *builder) setLevers(a *builtArm, have []Lever) []Lever {
	if len(b.s.sets) == 0 {
		return nil
	}
	var all, out []Lever
	changes(nil, a.pre, a.tree, &all)
	for _, l := range all {
		told := false
		for i := range have {
			if have[i].Path == l.Path {
				told = true
			}
		}
		if !told {
			l.Why = bySet
			out = append(out, l)
		}
	}
	return out
}

// kernelSettings are the sysctls that an arm sets.
func kernelSettings(tree *node) []Setting {
	var out []Setting
	add := func(path ...string) {
		for _, e := range mapLeaves(tree.get(path...)) {
			out = append(out, Setting{Path: formatPath(append(append([]string(nil), path...), e.key)), Value: e.val.text})
		}
	}
	for _, h := range tree.get("hosts").names() {
		add("hosts", h, "sysctl")
		add("hosts", h, "router", "sysctl")
	}
	add("kernel", "sysctl")
	return out
}

func mapLeaves(n *node) []entry {
	if n == nil || n.kind != mapNode {
		return nil
	}
	return n.keys
}

// readWhys collects the lines of justification of this profile.
func (b *builder) readWhys() {
	add := func(arm string, layer *node) {
		for _, e := range mapLeaves(layer.get("why")) {
			path, ok := splitPath(e.key)
			if !ok {
				b.s.p.add(e.at, "write it as in client.reuse or hosts.client.sysctl[net.ipv4.tcp_retries2]", "`%s` is no path", short(e.key))
				continue
			}
			b.whys = append(b.whys, &why{arm: arm, path: generalPath(path), text: e.val.text, at: e.at})
		}
	}
	add("", b.s.base)
	add("", b.s.profiles[b.profile])
	for i := range b.s.arms {
		a := &b.s.arms[i]
		if a.only == "" || a.only == b.profile {
			add(a.name, a.layer)
			add(a.name, a.profiles[b.profile])
		}
	}
	// A line counts as used if it is in either profile.
	for _, w := range b.whys {
		if _, ok := b.s.whyUsed[w.at]; !ok {
			if b.s.whyUsed == nil {
				b.s.whyUsed = map[pos]*why{}
			}
			b.s.whyUsed[w.at] = w
		}
	}
}

// whyFor is the justification of a path: the arm's own before the sheet's, the
// longest path first.
func (b *builder) whyFor(arm, path, have string) string {
	keys, _ := splitPath(path)
	best := -1
	for _, w := range b.whys {
		if w.arm != "" && w.arm != arm {
			continue
		}
		if len(w.path) > len(keys) {
			if len(keys) == 2 && slices.Equal(w.path[:2], keys) { // a line about one key of what came or went as a whole
				w.used, b.s.whyUsed[w.at].used = true, true
				if have == "" {
					have = w.text
				}
			}
			continue
		}
		match := true
		for i := range w.path {
			match = match && w.path[i] == keys[i]
		}
		if !match {
			continue
		}
		w.used, b.s.whyUsed[w.at].used = true, true
		rank := 2 * len(w.path)
		if w.arm != "" {
			rank++
		}
		if rank >= best {
			best, have = rank, w.text
		}
	}
	return have
}

// unusedWhys tells of justifications for what is not changed, in any profile.
func (s *source) unusedWhys() {
	for _, w := range s.whyUsed {
		if w.used || s.overridden(w) {
			continue
		}
		if w.arm == "" {
			s.p.add(w.at, "write the path of a kernel setting or of something that an arm changes", "`why` for `%s`, which nothing changes", formatPath(w.path))
		} else {
			s.p.add(w.at, "write the path of something that it changes", "`why` for `%s`, which arm `%s` does not change", formatPath(w.path), w.arm)
		}
	}
}

// overridden tells whether --set, or a point of a sweep, decides what a line
// of justification is about: then its arm may no longer change it, and that is
// not the sheet's fault.
func (s *source) overridden(w *why) bool {
	for _, set := range s.sets {
		n := min(len(set.path), len(w.path))
		if (set.arm == "" || set.arm == w.arm) && slices.Equal(set.path[:n], w.path[:n]) {
			return true
		}
	}
	return false
}

// sweep reads what varies.
func (b *builder) sweep(n *node) {
	if n == nil {
		return
	}
	p, where := b.s.p, b.where("")
	if len(b.arms) == 0 {
		return
	}
	tree := b.arms[0].tree
	for _, e := range n.keys {
		path, ok := splitPath(e.key)
		if ok {
			path = generalPath(path)
		}
		if !ok || len(path) < 2 {
			p.addIn(where, e.at, "write a path as in links.wan.wire.loss", "`%s` is no path", short(e.key))
			continue
		}
		section := findKey(bodyKeys, path[0])
		if section == nil {
			p.addIn(where, e.at, suggest(path[0], keyNames(bodyKeys), "a path begins with one of"), "the sweep's path `%s` is not in the sheet", e.key)
			continue
		}
		if section.Form == FormNamed && tree.get(path[:2]...) == nil {
			p.addIn(where, e.at, suggest(path[1], tree.get(path[0]).names(), "`"+path[0]+"` has"), "the sweep's path `%s` is not in the sheet", e.key)
			continue
		}
		axis := SweepAxis{Path: formatPath(path), Key: path[len(path)-1]}
		if len(e.val.items) == 0 {
			p.addIn(where, e.val.at, "write [0, 1%]", "the sweep `%s` has no values", e.key)
		}
		for i, v := range e.val.items {
			if v.kind == nullNode {
				v = &node{kind: nullNode, at: v.at}
			}
			for _, other := range e.val.items[:i] {
				if same(v, other) {
					p.addIn(where, v.at, "keep one", "the sweep `%s` has %s twice", e.key, flow(v))
				}
			}
			point := v
			for i := len(path) - 1; i >= 0; i-- {
				point = newMap(e.at, entry{path[i], e.at, point})
			}
			checker{p: p, layer: true, where: where}.check(point, bodyKey, "sweep", e.at)
			axis.Values = append(axis.Values, flow(v))
		}
		b.e.Sweep = append(b.e.Sweep, axis)
	}
	// A short name is one axis's only.
	seen := map[string]int{}
	for _, a := range b.e.Sweep {
		seen[a.Key]++
	}
	for i := range b.e.Sweep {
		if seen[b.e.Sweep[i].Key] > 1 {
			b.e.Sweep[i].Key = b.e.Sweep[i].Path
		}
	}
}

// gate reads the metrics that a comparison is gated on.
func (b *builder) gate(n *node) {
	if len(n.items) > 6 {
		b.s.p.add(n.items[6].at, "two-sided p is corrected for each of them: name those that matter", "%d gate metrics, and six are the most", len(n.items))
	}
	for _, i := range n.items {
		x, err := expr.Parse(i.text)
		if err == nil && b.missing(x) == "" {
			_, err = x.Check(b.scope(x))
		}
		if err != nil {
			b.s.p.addExpr(b.where(""), i, err)
			continue
		}
		b.e.Gate = append(b.e.Gate, i.text)
	}
}
