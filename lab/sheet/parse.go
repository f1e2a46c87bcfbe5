package sheet

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"tcplab/lab/expr"
)

// Options are what the command line adds to a sheet.
type Options struct {
	Profile string   // quick | full; "" is quick
	Set     []string // PATH=VALUE: one more merge over every arm (or ARM's, with arms.ARM. before it)
	Kernel  string   // host leaves out arms that need a guest; guest and "" leave out none
	Clock   string   // real | virtual; "" is what the sheet asks for
	Only    []string // the arms to run; nil is all
	Sweep   bool     // the sweep's points run too
	// Traces gives a trace's text by its name; nil: the lab's own.
	Traces func(name string) ([]byte, error)
}

// Parse decodes a sheet for one profile. Both profiles are checked, whichever
// is asked for. The error is Errors, each with its place.
func Parse(file string, text []byte, opts Options) (*Experiment, error) {
	p := &problems{file: file}
	root := parseYAML(p, text, "")
	if p.any() {
		return nil, p.err()
	}
	own := root.get("profile").word()
	if opts.Profile == "" {
		opts.Profile = "quick"
		if contains(profileNames, own) {
			opts.Profile = own
		}
	}
	if own != "" && contains(profileNames, own) && own != opts.Profile {
		p.add(root.place("profile"), "run it with profile "+own+", or the sheet that it was resolved from", "this sheet was resolved for profile %s, and has no %s", own, opts.Profile)
		return nil, p.err()
	}
	if !contains(profileNames, opts.Profile) {
		p.add(pos{src: "profile"}, suggest(opts.Profile, profileNames, "there are"), "no profile `%s`", opts.Profile)
		return nil, p.err()
	}
	s := read(p, root, opts)
	if p.any() {
		return nil, p.err()
	}
	var asked *Experiment
	for _, profile := range s.both {
		e := s.experiment(profile)
		if profile == opts.Profile {
			asked = e
		}
	}
	s.unusedWhys()
	if p.any() {
		return nil, p.err()
	}
	asked.Source, asked.Text, asked.Traces = file, text, s.traces
	if opts.Kernel == "host" {
		for _, a := range slices.Clone(asked.Arms) {
			if !a.Baseline && contains(a.Needs, "guest") {
				if err := asked.Leave(a.Name, "it needs a guest kernel"); err != nil {
					return nil, err
				}
			}
		}
	}
	return asked, nil
}

// source is a sheet in the general form, its layers not merged yet.
type source struct {
	p        *problems
	opts     Options
	both     []string         // the profiles that it has
	base     *node            // all but profiles and arms
	profiles map[string]*node // by name
	arms     []armSource
	sets     []setting
	whyUsed  map[pos]*why
	traces   map[string]string // by the names that the sheet has for them
}

type armSource struct {
	name     string
	at       pos
	layer    *node
	profiles map[string]*node
	baseline bool
	only     string
	costs    string
}

// setting is one --set.
type setting struct {
	arm  string // "" is every arm
	path []string
	tree *node
}

var experimentName = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)

// read checks the layers as they are written and rewrites them.
func read(p *problems, root *node, opts Options) *source {
	c := checker{p: p, layer: true, base: true}
	if root.kind != mapNode {
		p.add(root.at, "begin with `experiment: NAME`", "a sheet is a map, not %s", root.kind)
		return nil
	}
	c.check(root, sheetKey, "", root.at)
	for _, key := range []string{"experiment", "arms"} {
		if root.get(key) == nil && !root.has(key) {
			k := findKey(sheetKeys, key)
			p.add(root.at, "add `"+key+": "+example(*k)+"`", "a sheet needs `%s`: %s", key, k.About)
		}
	}
	if n := root.get("experiment"); n != nil && n.kind == scalarNode && !experimentName.MatchString(n.text) {
		p.add(n.at, "lower-case letters, digits, - and _, a letter first", "`%s` is no experiment's name", short(n.text))
	}
	s := &source{p: p, opts: opts, both: profileNames, profiles: map[string]*node{}}
	if own := root.get("profile"); own != nil {
		s.both = []string{own.text}
		if root.get("profiles") != nil {
			p.add(own.at, "leave it out", "`profile` is of a resolved sheet, which has no `profiles`")
		}
	}
	if p.any() {
		return s
	}
	s.base = general(p, root.only(func(k string) bool { return k != "profiles" && k != "arms" }), nil)
	for _, e := range mapEntries(root.get("profiles")) {
		s.profiles[e.key] = general(p, e.val, s.base)
	}
	for _, e := range mapEntries(root.get("arms")) {
		a := armSource{name: e.key, at: e.at, profiles: map[string]*node{}}
		a.baseline = e.val.get("baseline").word() == "true"
		a.only = e.val.get("only").word()
		a.costs = e.val.get("costs").word()
		a.layer = general(p, e.val.only(func(k string) bool { return k != "profiles" }), s.base)
		for _, pe := range mapEntries(e.val.get("profiles")) {
			a.profiles[pe.key] = general(p, pe.val, s.base)
		}
		if e.key == "predict" {
			p.add(e.at, "give it another name", "an arm cannot be called `predict`: {{predict.NAME}} is a prediction's value")
		}
		s.arms = append(s.arms, a)
	}
	s.baseline(root)
	s.readSets()
	s.readTraces()
	for _, name := range opts.Only {
		if s.arm(name) == nil {
			p.add(pos{src: "--only " + name}, suggest(name, s.armNames(), "arms"), "no arm `%s`", name)
		}
	}
	for _, profile := range s.both {
		for _, a := range s.arms {
			if a.only == "" || a.only == profile {
				p.all = append(p.all, context{profile, a.name})
			}
		}
	}
	return s
}

// mapEntries are a map's entries that are maps themselves; an empty value in
// YAML (`full:`) is an empty map where a map belongs.
func mapEntries(n *node) []entry {
	if n == nil || n.kind != mapNode {
		return nil
	}
	var out []entry
	for _, e := range n.keys {
		if e.val.kind == nullNode {
			e.val = newMap(e.val.at)
		}
		if e.val.kind == mapNode {
			out = append(out, e)
		}
	}
	return out
}

func (s *source) arm(name string) *armSource {
	for i := range s.arms {
		if s.arms[i].name == name {
			return &s.arms[i]
		}
	}
	return nil
}

func (s *source) armNames() []string {
	out := make([]string, len(s.arms))
	for i, a := range s.arms {
		out[i] = a.name
	}
	return out
}

// baseline checks that there is exactly one, and that both profiles have it.
func (s *source) baseline(root *node) {
	var first *armSource
	for i := range s.arms {
		a := &s.arms[i]
		switch {
		case !a.baseline:
		case first != nil:
			s.p.add(a.at, "let one arm be the baseline", "`%s` is a baseline, and so is `%s`", a.name, first.name)
		default:
			first = a
			if a.only != "" {
				s.p.add(a.layer.place("only"), "leave `only` out, or let another arm be the baseline", "the baseline `%s` is in profile %s only, so the other has nothing to compare with", a.name, a.only)
			}
		}
	}
	if at := root.keyPlace("arms"); len(s.arms) == 0 {
		s.p.add(at, "add `arms: {NAME: {baseline: true}}`", "there is no arm")
	} else if first == nil {
		s.p.add(at, "say `baseline: true` in one of "+join(s.armNames()), "no arm is the baseline")
	}
}

// readSets reads --set PATH=VALUE.
func (s *source) readSets() {
	for _, text := range s.opts.Set {
		at := pos{src: "--set " + text}
		left, right, ok := strings.Cut(text, "=")
		// A key in brackets may hold = only in theory; PATH ends at the first.
		path, good := splitPath(strings.TrimSpace(left))
		if !ok || !good {
			s.p.add(at, "write --set PATH=VALUE, such as workload.rate=200/s or hosts.client.sysctl[net.ipv4.tcp_retries2]=8", "not a merge")
			continue
		}
		if i := slices.Index(path, "sysctl"); i >= 0 && len(path) > i+2 {
			right := formatPath(append(path[:i+1:i+1], strings.Join(path[i+1:], ".")))
			s.p.add(at, "write "+right, "a key with dots stands in brackets")
			continue
		}
		set := setting{}
		if path[0] == "arms" && len(path) > 2 {
			set.arm, path = path[1], path[2:]
			if s.arm(set.arm) == nil {
				s.p.add(at, suggest(set.arm, s.armNames(), "arms"), "no arm `%s`", set.arm)
				continue
			}
		}
		val := &node{kind: nullNode, at: at}
		if right = strings.TrimSpace(right); right != "" {
			sub := &problems{file: at.src}
			val = parseYAML(sub, []byte(right), at.src)
			if sub.any() {
				s.p.add(at, "quote it for the shell, and write a value as a sheet does", "%s", sub.list[0].msg)
				continue
			}
		}
		val = moved(val, at)
		set.path = generalPath(path)
		set.tree = nest(set.path, val)
		before := s.p.n
		checker{p: s.p, layer: true}.check(set.tree, fixed("", "", concat(bodyKeys, judgedKeys)...), "--set", at)
		if s.p.n > before {
			continue
		}
		if len(set.path) < 2 || s.known(set) == nil {
			s.p.add(at, "it has "+orNone(s.sectionNames(set.path[0])), "the sheet has no `%s`", formatPath(set.path[:min(2, len(set.path))]))
			continue
		}
		s.sets = append(s.sets, set)
	}
}

// known is what a --set would change, as any layer has it: a new host or arm
// is not made from the command line.
func (s *source) known(set setting) *node {
	section := set.path[0]
	k := findKey(concat(bodyKeys, judgedKeys), section)
	if k == nil || k.Form == FormMap {
		return set.tree
	}
	for _, l := range s.layers() {
		if n := l.get(section, set.path[1]); n != nil {
			return n
		}
	}
	return nil
}

func (s *source) sectionNames(section string) []string {
	var out []string
	for _, l := range s.layers() {
		for _, n := range l.get(section).names() {
			if !contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}

func (s *source) layers() []*node {
	out := []*node{s.base}
	for _, name := range profileNames {
		if l := s.profiles[name]; l != nil {
			out = append(out, l)
		}
	}
	for _, a := range s.arms {
		out = append(out, a.layer)
		for _, name := range profileNames {
			if l := a.profiles[name]; l != nil {
				out = append(out, l)
			}
		}
	}
	return out
}

// moved gives a tree that stands at one place altogether.
func moved(n *node, at pos) *node {
	out := *n
	out.at, out.inline = at, false
	out.items = nil
	for _, i := range n.items {
		out.items = append(out.items, moved(i, at))
	}
	out.keys = nil
	for _, e := range n.keys {
		out.keys = append(out.keys, entry{e.key, at, moved(e.val, at)})
	}
	return &out
}

var bodyKey = fixed("", "an arm", bodyKeys...)

func isBody(key string) bool   { return findKey(bodyKeys, key) != nil }
func isJudged(key string) bool { return findKey(judgedKeys, key) != nil }

// armTree is one arm whole: sheet ← profile ← arm ← arm's own profile ← --set.
// before is the same without --set.
func (s *source) armTree(profile string, a *armSource) (tree, before *node) {
	tree = s.base.only(isBody)
	for _, layer := range []*node{s.profiles[profile], a.layer, a.profiles[profile]} {
		if layer != nil {
			tree = merge(tree, layer.only(isBody))
		}
	}
	before = tree
	for _, set := range s.sets {
		if (set.arm == a.name || set.arm == "" && !a.takesAway(profile, set.path)) && isBody(set.path[0]) {
			tree = merge(tree, set.tree)
		}
	}
	return s.fillKinds(strip(tree)), s.fillKinds(strip(before))
}

// takesAway tells whether an arm has left out the host, program or fault that a
// path leads into: what is set for all arms is not for this one then.
func (a *armSource) takesAway(profile string, path []string) bool {
	if len(path) < 3 {
		return false
	}
	for _, layer := range []*node{a.layer, a.profiles[profile]} {
		if e := layer.get(path[0]).entry(path[1]); e != nil && e.val.kind == nullNode {
			return true
		}
	}
	return false
}

// fillKinds says what a sheet may leave unsaid about kinds.
func (s *source) fillKinds(tree *node) *node {
	for _, section := range []string{"servers", "clients"} {
		for _, e := range mapEntries(tree.get(section)) {
			if e.val.get("kind") != nil {
				continue
			}
			kind := programKind(e.val)
			if kind == "" && section == "clients" {
				kind = clientKindFor(tree, e.val)
			}
			if kind == "" {
				continue // the check says so
			}
			n := newMap(e.val.at, append([]entry{{"kind", e.at, newText(e.at, kind)}}, e.val.keys...)...)
			tree = tree.with(section, tree.entry(section).at, tree.get(section).with(e.key, e.at, n))
		}
	}
	for _, e := range mapEntries(tree.get("clients")) {
		w := e.val.get("workload")
		usual, ok := usualWorkloads[e.val.get("kind").word()]
		if !ok {
			usual = "requests"
		}
		if w == nil || w.kind != mapNode || w.get("kind") != nil || usual == "" {
			continue
		}
		at := e.val.keyPlace("workload")
		w = newMap(w.at, append([]entry{{"kind", at, newText(at, usual)}}, w.keys...)...)
		tree = tree.with("clients", tree.entry("clients").at, tree.get("clients").with(e.key, e.at, e.val.with("workload", at, w)))
	}
	return tree
}

// clientKindFor is the kind of client that speaks to a client's first server.
func clientKindFor(tree, client *node) string {
	to := client.get("to")
	if to != nil && to.kind == listNode && len(to.items) > 0 {
		to = to.items[0]
	}
	server := tree.get("servers", to.word())
	if host, _, ok := strings.Cut(to.word(), "."); ok { // an address of a middlebox: what is behind it
		if targets := tree.get("hosts", host, "middlebox", "targets"); targets != nil && len(targets.items) > 0 {
			behind := targets.items[0].word()
			server = tree.get("servers", behind)
			for _, e := range mapEntries(tree.get("servers")) {
				if server == nil && e.val.get("on").word() == behind {
					server = e.val
				}
			}
		}
	}
	switch kind := programKind(server); kind {
	case "sink":
		return "bulk"
	case "service":
		return "http"
	case "exec", "":
		return ""
	default:
		if kindOf(RoleClient, kind) != nil {
			return kind
		}
	}
	return ""
}

// judgedTree is what is claimed: the sheet's, the profile's and every arm's.
func (s *source) judgedTree(profile string) *node {
	tree := s.base
	if l := s.profiles[profile]; l != nil {
		tree = merge(tree, l.only(func(k string) bool { return !isBody(k) }))
	}
	owner := map[string]string{}
	for i := range s.arms {
		a := &s.arms[i]
		mine := a.layer.only(isJudged)
		for _, section := range mine.keys {
			for _, e := range mapEntries(section.val) {
				id := section.key + "." + e.key
				if other, taken := owner[id]; taken {
					s.p.add(e.at, "give it another name, or write it once for the sheet", "the arms `%s` and `%s` both say `%s`", other, a.name, id)
				}
				owner[id] = a.name
			}
		}
		tree = merge(tree, mine)
	}
	for _, set := range s.sets {
		if isJudged(set.path[0]) {
			tree = merge(tree, set.tree)
		}
	}
	return strip(tree)
}

// experiment builds one profile's experiment, nil where that has problems.
func (s *source) experiment(profile string) *Experiment {
	top := s.judgedTree(profile)
	e := &Experiment{Profile: profile, Profiles: append([]string(nil), s.both...)}
	b := builder{s: s, e: e, profile: profile, top: top}
	before := s.p.n
	b.trees()
	checker{p: s.p, where: context{profile: profile}}.check(top.only(isJudged), fixed("", "", judgedKeys...), "", top.at)
	if b.broken || s.p.n > before {
		return nil
	}
	b.finish()
	if s.p.n > before {
		return nil
	}
	return e
}

// quantity reads a checked value in base units.
func quantity(n *node) float64 {
	if n == nil {
		return 0
	}
	v, err := expr.ParseQuantity(n.text)
	if err != nil {
		panic(fmt.Sprintf("sheet: %q passed the check: %v", n.text, err))
	}
	return v.V
}
