package sheet

import (
	"math"
	"net/netip"
	"strings"
	"time"

	"tcplab/lab/expr"
)

// fields reads a checked map through its key table. Asking for a key that the
// table does not have is a mistake of this package; that each key of each
// table is asked for is held by a test, through onRead.
type fields struct {
	n     *node
	table string
	keys  []Key
}

// onRead hears of every key that is read; set by tests.
var onRead func(table, key string)

func (f fields) get(name string) *node {
	if findKey(f.keys, name) == nil {
		panic("sheet: the table of " + f.table + " has no key " + name)
	}
	if onRead != nil {
		onRead(f.table, name)
	}
	return f.n.get(name)
}

func (f fields) text(name string) string            { return f.get(name).word() }
func (f fields) flag(name string) bool              { return f.get(name).word() == "true" }
func (f fields) number(name string) float64         { return quantity(f.get(name)) }
func (f fields) count(name string) int              { return int(quantity(f.get(name))) }
func (f fields) duration(name string) time.Duration { return toDuration(f.get(name)) }

// or gives a word, or what its absence means.
func (f fields) or(name, absent string) string {
	if w := f.text(name); w != "" {
		return w
	}
	return absent
}

func (f fields) list(name string) []string {
	n := f.get(name)
	if n == nil {
		return nil
	}
	if n.kind == scalarNode {
		return []string{n.text}
	}
	out := make([]string, len(n.items))
	for i, v := range n.items {
		out[i] = v.text
	}
	return out
}

func (f fields) texts(name string) map[string]string {
	n := f.get(name)
	if n == nil || len(n.keys) == 0 {
		return nil
	}
	out := make(map[string]string, len(n.keys))
	for _, e := range n.keys {
		out[e.key] = e.val.text
	}
	return out
}

// sub reads a map within this one; without it, one in which nothing is said.
func (f fields) sub(name string) fields {
	n := f.get(name)
	k := findKey(f.keys, name)
	out := fields{n: n, table: f.table + "." + name, keys: k.Keys}
	if k.Role != "" {
		out.keys = keysFor(*k, kindIn(n, k.Role))
	}
	return out
}

// toDuration rounds to a nanosecond.
func toDuration(n *node) time.Duration {
	return time.Duration(math.Round(quantity(n) * 1e9))
}

// decodeArm makes the typed form of a checked tree.
func decodeArm(tree *node) Arm {
	var a Arm
	body := fields{n: tree, table: "body", keys: bodyKeys}
	for _, e := range mapEntries(body.get("hosts")) {
		a.Hosts = append(a.Hosts, decodeHost(e))
	}
	for _, e := range mapEntries(body.get("links")) {
		a.Links = append(a.Links, decodeLink(e))
	}
	for _, e := range mapEntries(body.get("servers")) {
		a.Servers = append(a.Servers, decodeServer(e))
	}
	for _, e := range mapEntries(body.get("clients")) {
		a.Clients = append(a.Clients, decodeClient(e))
	}
	for _, e := range mapEntries(body.get("faults")) {
		a.Faults = append(a.Faults, decodeFault(e))
	}
	for _, e := range mapEntries(body.get("names")) {
		f := fields{e.val, "names", nameKeys}
		ttl := f.get("ttl")
		d := DNSName{Name: e.key, Server: f.text("server"), TTL: time.Minute}
		if ttl != nil {
			d.TTL = toDuration(ttl)
		}
		a.DNS = append(a.DNS, d)
	}
	a.Trial = decodeTrial(body.sub("trial"))
	a.Kernel = body.sub("kernel").texts("sysctl")
	return a
}

func decodeHost(e entry) Host {
	f := fields{e.val, "host", hostKeys}
	h := Host{Name: e.key, Sysctl: f.texts("sysctl"), Container: f.text("container")}
	if n := f.get("routes"); n != nil {
		for _, r := range n.items {
			rf := fields{r, "route", findKey(hostKeys, "routes").Of.Keys}
			h.Routes = append(h.Routes, Route{To: rf.text("to"), Via: rf.text("via")})
		}
	}
	h.NoFile = f.sub("limits").count("nofile")
	clock := f.sub("clock")
	h.Clock.Offset, h.Clock.Drift = clock.duration("offset"), clock.number("drift")
	if f.get("middlebox") != nil {
		m := f.sub("middlebox")
		kind := m.text("kind")
		h.Middlebox = &Middlebox{
			Kind: kind, Targets: m.list("targets"), PreserveClient: m.flag("preserve_client"), CrossZone: m.flag("cross_zone"),
			Idle: m.duration("idle"), OnUnknown: m.or("on_unknown", "drop"),
		}
		for name, s := range m.texts("addresses") {
			if addr, err := netip.ParseAddr(s); err == nil {
				if h.Addresses == nil {
					h.Addresses = map[string]netip.Addr{}
				}
				h.Addresses[name] = addr
			}
		}
		for _, k := range kindKeys(RoleMiddlebox, kind) {
			if n := m.get(k.Name); n != nil {
				if h.Middlebox.Options == nil {
					h.Middlebox.Options = map[string]string{}
				}
				h.Middlebox.Options[k.Name] = n.text
			}
		}
	}
	if f.get("router") != nil {
		r := f.sub("router")
		h.Router = &Router{NAT: r.text("nat"), Invalid: r.text("invalid"), Track: r.flag("track"), NoTrack: r.flag("notrack"),
			NFT: r.text("nft"), Sysctl: r.texts("sysctl")}
	}
	return h
}

func decodeLink(e entry) Link {
	f := fields{e.val, "link", linkKeys}
	l := Link{Name: e.key, ARP: f.or("arp", "permanent")}
	if between := f.list("between"); len(between) == 2 {
		l.A, l.B = between[0], between[1]
	}
	w := f.sub("wire")
	l.Wire = Wire{Kind: w.or("kind", "auto"), Fates: w.or("fates", "by-byte"), To: map[string]Direction{}}
	towards := w.get("towards")
	common := w.n
	for _, host := range []string{l.A, l.B} {
		n := newMap(e.at)
		if common != nil {
			n = common.only(func(k string) bool { return findKey(directionKeys, k) != nil })
		}
		if own := towards.get(host); own != nil {
			n = merge(n, own)
		}
		l.Wire.To[host] = decodeDirection(fields{n, "wire", directionKeys})
	}
	return l
}

func decodeDirection(f fields) Direction {
	d := Direction{
		Delay: f.duration("delay"), Jitter: f.duration("jitter"), Rate: f.number("rate"),
		Duplicate: f.number("duplicate"), Corrupt: f.number("corrupt"), MTU: f.count("mtu"),
	}
	if q := f.get("queue"); q != nil {
		if v, _ := expr.ParseQuantity(q.text); v.Unit == expr.Second {
			d.QueueTime = toDuration(q)
		} else {
			d.QueueBytes = int(v.V)
		}
	}
	if l := f.get("loss"); l != nil && l.kind == mapNode {
		g := fields{l, "loss", findKey(directionKeys, "loss").Or[0].Keys}
		d.GE = &GilbertElliott{P: g.number("p"), R: g.number("r"), Bad: 1, Good: g.number("good")}
		if g.get("bad") != nil {
			d.GE.Bad = g.number("bad")
		}
	} else {
		d.Loss = quantity(l)
	}
	if r := f.get("reorder"); r != nil && r.kind == mapNode {
		g := fields{r, "reorder", findKey(directionKeys, "reorder").Or[0].Keys}
		d.Reorder, d.ReorderBy = g.number("share"), g.duration("by")
	} else {
		d.Reorder = quantity(r)
	}
	return d
}

func decodeExec(f fields) *Exec {
	if f.get("exec") == nil {
		return nil
	}
	x := f.sub("exec")
	ready := x.sub("ready")
	out := &Exec{
		Argv: x.list("argv"), Env: x.texts("env"), Listen: ready.count("listen"), Log: ready.text("log"),
		Stop: x.or("stop", "SIGTERM"), Grace: 5 * time.Second, Events: x.flag("events"),
	}
	if x.get("grace") != nil {
		out.Grace = x.duration("grace")
	}
	return out
}

// usualPorts are where a kind of server listens unless the sheet says.
var usualPorts = map[string]int{"echo": 7, "http": 80, "h2": 443, "mqtt": 1883, "dns": 53, "sink": 5001, "service": 80}

func decodeServer(e entry) Server {
	f := fields{e.val, "server", keysFor(Key{Keys: serverKeys, Role: RoleServer}, programKind(e.val))}
	s := Server{
		Name: e.key, On: f.text("on"), Kind: f.text("kind"), Port: f.count("port"), Backlog: f.count("backlog"),
		Workers: f.count("workers"), Service: f.duration("service"), Closes: f.or("closes", "client"),
		Options: f.texts("options"), Response: f.count("response"), Exec: decodeExec(f),
	}
	if s.Port == 0 {
		s.Port = usualPorts[s.Kind]
		if s.Exec != nil {
			s.Port = s.Exec.Listen
		}
	}
	if s.Backlog == 0 {
		s.Backlog = 4096
	}
	if n := f.get("calls"); n != nil {
		for _, c := range n.items {
			cf := fields{c, "call", findKey(serverKeys, "calls").Of.Keys}
			call := Call{To: cf.text("to"), Tries: max(1, cf.count("tries")), Timeout: cf.duration("timeout"), Backoff: cf.text("backoff")}
			for _, k := range []string{"budget", "breaker"} {
				call.Extra = extra(call.Extra, cf, *findKey(cf.keys, k))
			}
			s.Calls = append(s.Calls, call)
		}
	}
	s.Extra = kindExtra(RoleServer, s.Kind, f)
	return s
}

func decodeClient(e entry) Client {
	f := fields{e.val, "client", keysFor(Key{Keys: clientKeys, Role: RoleClient}, programKind(e.val))}
	c := Client{
		Name: e.key, On: f.text("on"), Kind: f.text("kind"), Reuse: f.or("reuse", "none"), Closes: f.or("closes", "client"),
		Options: f.texts("options"), Deadline: f.duration("deadline"), Exec: decodeExec(f),
	}
	for _, to := range f.list("to") {
		t := Target{Server: to}
		if host, addr, ok := strings.Cut(to, "."); ok {
			t = Target{Host: host, Address: addr}
		}
		c.To = append(c.To, t)
	}
	pool := f.sub("pool")
	c.Pool = Pool{Size: pool.count("size"), Idle: pool.duration("idle")}
	c.Workload = decodeWorkload(f.sub("workload"), c.Kind)
	if c.Reuse == "pool" && c.Pool.Size == 0 {
		c.Pool.Size = c.Workload.Connections
	}
	c.Extra = kindExtra(RoleClient, c.Kind, f)
	return c
}

// usualWorkloads are what a kind of client offers unless the sheet says.
var usualWorkloads = map[string]string{"mqtt": "publish", "bulk": "bulk", "flood": "", "incarnations": ""}

func decodeWorkload(f fields, client string) Workload {
	kind, silent := usualWorkloads[client]
	if !silent {
		kind = "requests"
	}
	w := Workload{
		Kind: f.or("kind", kind), Rate: f.number("rate"), RateTo: f.number("rate_to"), Arrivals: f.text("arrivals"),
		Connections: max(1, f.count("connections")), Size: f.count("size"), Response: f.count("response"),
		Think: f.duration("think"), Again: f.duration("again"), Trace: f.text("trace"),
	}
	if f.get("size") == nil && kind != "" && kind != "bulk" {
		w.Size = 128
	}
	if w.Arrivals == "" && kind != "" && kind != "bulk" {
		switch {
		case w.RateTo > 0:
			w.Arrivals = "ramp"
		case w.Rate > 0:
			w.Arrivals = "constant"
		default:
			w.Arrivals = "closed"
		}
	}
	w.Extra = kindExtra(RoleWorkload, w.Kind, f)
	if t := w.Recorded(); t != nil {
		w.Arrivals, w.Connections, w.Size = "", t.Connections(), 0
	} else if parts := w.parts(); parts != nil {
		w.Size = 0
		for _, n := range parts {
			w.Size += n
		}
	}
	return w
}

// kindExtra reads the keys that only one kind has.
func kindExtra(role Role, kind string, f fields) map[string]any {
	var out map[string]any
	for _, key := range kindKeys(role, kind) {
		if findKey(f.keys, key.Name) != nil {
			out = extra(out, f, key)
		}
	}
	return out
}

func extra(m map[string]any, f fields, k Key) map[string]any {
	if n := f.get(k.Name); n != nil {
		if m == nil {
			m = map[string]any{}
		}
		m[k.Name] = plainValue(n, k)
	}
	return m
}

// plainValue is a value of the table's form as Go has it: time.Duration,
// float64 in base units, int for counts and sizes, bool, string, []any,
// map[string]any.
func plainValue(n *node, k Key) any {
	switch n.kind {
	case listNode:
		out := make([]any, len(n.items))
		for i, v := range n.items {
			of := Key{Form: FormValue}
			if k.Of != nil {
				of = *k.Of
			}
			out[i] = plainValue(v, of)
		}
		return out
	case mapNode:
		out := map[string]any{}
		for _, e := range n.keys {
			sub := Key{Form: FormValue}
			if x := findKey(k.Keys, e.key); x != nil {
				sub = *x
			}
			out[e.key] = plainValue(e.val, sub)
		}
		return out
	}
	switch k.Form {
	case FormDuration:
		return toDuration(n)
	case FormRate, FormBitRate, FormShare:
		return quantity(n)
	case FormCount, FormSize:
		return int(quantity(n))
	case FormFlag:
		return n.text == "true"
	}
	return n.text
}

func decodeTrial(f fields) Trial {
	t := Trial{Warmup: f.duration("warmup"), Duration: f.duration("duration"), AtMost: f.duration("at_most"), Pairs: f.count("pairs")}
	if u := f.get("until"); u != nil {
		m := eventForm.FindStringSubmatch(u.text)
		t.Until = m[1]
		if m[2] != "" {
			t.Plus = toDuration(newText(u.at, m[2]))
		}
	}
	return t
}

func decodeFault(e entry) Fault {
	do := e.val.get("do").word()
	f := fields{e.val, "fault", concat(faultKeys, kindKeys(roleFault, do))}
	out := Fault{
		Name: e.key, At: f.duration("at"), For: f.duration("for"), On: f.text("on"), Towards: f.text("towards"), Do: f.text("do"),
	}
	if m := f.get("match"); m != nil {
		mf := f.sub("match")
		out.Match = map[string]string{}
		for _, k := range []string{"flow", "flags", "nth", "tos"} {
			if v := mf.text(k); v != "" {
				out.Match[k] = v
			}
		}
	}
	for _, k := range kindKeys(roleFault, do) {
		out.Args = extra(out.Args, f, k)
	}
	return out
}
