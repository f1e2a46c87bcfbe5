package sheet

import (
	"slices"

	"tcplab/results"
)

// The grammar's tables. A key that is not here does not exist; a key that is
// here is decoded (a test holds the tables against the decoder), is in the JSON
// Schema and in the reference.

func bound(v float64) *float64 { return &v }

var (
	zero = bound(0)
	one  = bound(1)
)

// Builders keep the tables readable: a line says name, form, and what it is.

func duration(name, about string) Key {
	return Key{Name: name, Form: FormDuration, Unit: "s", About: about, Example: "5ms", Min: zero}
}

func count(name, about string) Key {
	return Key{Name: name, Form: FormCount, Unit: "1", About: about, Example: "64", Min: one, Max: bound(1e9)}
}

func size(name, about string) Key {
	return Key{Name: name, Form: FormSize, Unit: "B", About: about, Example: "128B", Min: zero, Max: bound(1 << 40)}
}

func share(name, about string) Key {
	return Key{Name: name, Form: FormShare, Unit: "share", About: about, Example: "1%", Min: zero, Max: one}
}

func rate(name, about string) Key {
	return Key{Name: name, Form: FormRate, Unit: "1/s", About: about, Example: "600/s", Min: zero, Max: bound(1e7), Above: true}
}

func word(name, about string, words ...string) Key {
	return Key{Name: name, Form: FormWord, About: about, Words: words}
}

func text(name, about string) Key { return Key{Name: name, Form: FormText, About: about} }
func toggle(name, about string) Key {
	return Key{Name: name, Form: FormFlag, About: about, Example: "true"}
}
func value(name, about string) Key { return Key{Name: name, Form: FormValue, About: about} }

func ref(name, about string) Key { return Key{Name: name, Form: FormName, About: about} }

func list(name, about string, of Key) Key {
	return Key{Name: name, Form: FormList, About: about, Of: &of}
}

func fixed(name, about string, keys ...Key) Key {
	return Key{Name: name, Form: FormMap, About: about, Keys: keys}
}

// named is a map whose keys a metric's path may have to name.
func named(name, about string, of Key) Key {
	return Key{Name: name, Form: FormNamed, About: about, Of: &of, Identifier: true}
}

// free is a map whose keys are any text.
func free(name, about string, of Key) Key {
	return Key{Name: name, Form: FormNamed, About: about, Of: &of}
}

func (k Key) required() Key             { k.Required = true; return k }
func (k Key) patch() Key                { k.Patch = true; return k }
func (k Key) by(d string) Key           { k.Default = d; return k }
func (k Key) like(e string) Key         { k.Example = e; return k }
func (k Key) within(lo, hi float64) Key { k.Min, k.Max = &lo, &hi; return k }
func (k Key) or(others ...Key) Key      { k.Or = others; return k }
func (k Key) kindsOf(r Role) Key        { k.Role = r; return k }

var sysctlKey = free("sysctl", "kernel settings of this host, read back after they are set; only net.*, others are global (`kernel`)",
	value("", "the setting's value")).like(`{net.ipv4.tcp_retries2: 8}`)

var optionsKey = free("options", "socket options of each connection, read back from the kernel",
	value("", "the option's value")).like("{TCP_USER_TIMEOUT: 20s}")

var execKey = fixed("exec", "a program of your own in an agent's place; `{{SERVER.addr}}`, `{{SERVER.host}}`, `{{SERVER.port}}` and `{{HOST.ADDRESS}}` are filled in",
	list("argv", "the program and its arguments", text("", "an argument")).required().like(`[./mine, --to, "{{server.addr}}"]`),
	free("env", "further environment variables", text("", "a variable's value")),
	fixed("ready", "when it is ready; without it, at once",
		count("listen", "ready when something listens on this port").within(1, 65535).like("8080"),
		text("log", "ready when a line that it prints matches this regular expression")),
	word("stop", "the signal that ends it", "SIGTERM", "SIGINT", "SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2").by("SIGTERM"),
	duration("grace", "how long it may take to end before it is killed").by("5s").like("5s"),
	toggle("events", "it writes agent events to its standard output, so its client metrics exist").by("false"))

var directionKeys = []Key{
	duration("delay", "one-way delay").by("0").within(0, 86400),
	duration("jitter", "how far delay varies, uniformly, to either side, at most by itself; order is kept").by("0").like("1ms"),
	{Name: "rate", Form: FormBitRate, Unit: "bit/s", About: "bottleneck rate, Ethernet headers included", Default: "unlimited", Example: "100Mbit/s", Min: bound(1000), Max: bound(1e12)},
	size("queue", "room before the bottleneck; a time is that long at `rate`").by("unlimited").like("64KiB").or(duration("", "").like("50ms")),
	share("loss", "frames lost: a share, or the Gilbert–Elliott channel").by("0").or(fixed("", "Gilbert–Elliott: two states with a loss each (RFC 6534)",
		share("p", "chance per step of going from good to bad; a step is a frame, a millisecond (`fates: by-time`) or 1,448 bytes of a flow (`by-byte`)").required(),
		share("r", "chance per step of going from bad to good").required().like("30%"),
		share("bad", "loss in the bad state").by("100%").like("100%"),
		share("good", "loss in the good state").by("0").like("0"))),
	share("reorder", "frames that overtake those before them, without any delay").by("0").or(fixed("", "reordering by holding back",
		share("share", "frames reordered").required(),
		duration("by", "how long they are held back, so that those behind overtake").by("they skip the delay").like("5ms"))),
	share("duplicate", "frames delivered twice").by("0"),
	share("corrupt", "frames with one bit flipped after checksums are filled in").by("0"),
	size("mtu", "largest frame's payload").by("1500B").like("1400B").within(68, 65535).or(count("", "").within(68, 65535).like("1400")),
}

var wireKeys = append([]Key{
	word("kind", "which implementation", "auto", "userspace", "netem", "kernel").by("auto: netem for pure delay and rate where the kernel has it, else userspace; `kernel` is netem wherever the kernel has it, random impairments too"),
	word("fates", "how packets' fates are paired between arms", "by-byte", "by-time", "unpaired").by("by-byte; unpaired with netem, which draws its own"),
}, append(directionKeys[:len(directionKeys):len(directionKeys)],
	free("towards", "one direction's own values, by the host that the frames go to", fixed("", "", directionKeys...)).like("{lb: {delay: 2ms}}"))...)

var serverKeys = []Key{
	ref("on", "the host that it runs on").required(),
	word("kind", "what it is").by("exec where `exec` is given").kindsOf(RoleServer),
	count("port", "the port that it listens on").within(1, 65535).by("the kind's usual one").like("8080"),
	count("backlog", "length of the accept queue, as given to listen(2)").by("4096").like("128"),
	count("workers", "requests that it works on at a time").by("unlimited").like("8"),
	duration("service", "how long a worker takes for a request").by("0").like("2ms"),
	word("closes", "who closes a connection first, and so keeps the TIME-WAIT", "client", "server").by("client"),
	optionsKey,
	size("response", "length of each answer").by("as long as the request").like("1KiB"),
	list("calls", "what it calls, in turn, to answer one request: layers of services", fixed("", "a call",
		ref("to", "the server that it calls").required(),
		count("tries", "attempts in all").by("1").like("3"),
		duration("timeout", "how long an attempt may take").by("none").like("1s"),
		text("backoff", "wait between attempts: none, a time, or `exponential FIRST..LAST`").by("none").like("exponential 100ms..10s"),
		share("budget", "most retries as a share of requests (a retry budget)").by("none").like("10%"),
		count("breaker", "failures in a row that open the circuit breaker").by("none").like("5"))),
	execKey,
}

var workloadKeys = []Key{
	word("kind", "shape of what is offered").by("the client kind's usual one").kindsOf(RoleWorkload),
	rate("rate", "offered requests per second: open loop").by("closed loop"),
	rate("rate_to", "rate at the end of the trial, where `arrivals` is ramp").like("1200/s"),
	word("arrivals", "how requests are spread", "constant", "poisson", "ramp", "closed").by("constant where a rate is given, else closed"),
	count("connections", "most connections at once").by("1"),
	size("size", "length of a request").like("128B").by("128B"),
	size("response", "length of an answer that is asked for").by("as the server has it").like("1KiB"),
	duration("think", "pause between an answer and the next request, in the closed loop").by("0").like("10ms"),
	duration("again", "pause after a failed request instead, in the closed loop").by("`think`").like("1s"),
	text("trace", "a recorded trace of sends, replayed as it was, again and again where the trial is longer: a file beside the sheet that `tcplab record-trace` wrote, one of the lab's own, or the trace itself; of workload kind writes").like("sends.trace"),
}

var clientKeys = []Key{
	ref("on", "the host that it runs on").required(),
	ref("to", "SERVER, HOST.ADDRESS, or a list of them").required().or(list("", "", ref("", "SERVER or HOST.ADDRESS"))),
	word("kind", "what it is").by("its server's kind, or exec where `exec` is given").kindsOf(RoleClient),
	word("reuse", "connections: a fresh one for each request, or kept ones", "none", "pool").by("none"),
	fixed("pool", "bounds of the kept connections, where `reuse` is pool",
		count("size", "most connections kept").by("`workload.connections`"),
		duration("idle", "how long an unused one is kept").by("for ever").like("30s")),
	word("closes", "who closes a connection first, and so keeps the TIME-WAIT", "client", "server").by("client"),
	optionsKey,
	duration("deadline", "how long the application waits for an answer").by("for ever").like("2s"),
	fixed("workload", "what it offers", workloadKeys...).kindsOf(RoleWorkload),
	execKey,
}

var middleboxKeys = []Key{
	word("kind", "the policy").required().kindsOf(RoleMiddlebox),
	free("addresses", "its own addresses by name; clients go to HOST.NAME", text("", "an IPv4 address").like("10.9.0.1")).like("{vip: 10.9.0.1}"),
	list("targets", "the hosts or servers behind it", ref("", "a host")).like("[broker]"),
	toggle("preserve_client", "targets see the client's own address and port").by("false"),
	toggle("cross_zone", "each address may use every target").by("false"),
	duration("idle", "when an unused flow is forgotten").by("never").like("350s"),
	word("on_unknown", "what happens to a packet of no known flow", "drop", "rst").by("drop"),
}

var hostKeys = []Key{
	sysctlKey,
	list("routes", "static routes beside those that the links make", fixed("", "a route",
		text("to", "a host, a link, a prefix or `default`").required().like("10.9.0.0/24"),
		ref("via", "the neighbour that it goes through").required())),
	fixed("limits", "bounds of its processes",
		count("nofile", "open descriptors of a process (RLIMIT_NOFILE)").by("the lab's").like("200")),
	fixed("clock", "how wrong its clock is",
		duration("offset", "ahead of the true time; negative is behind").by("0").like("40ms").within(-1e9, 1e9),
		share("drift", "seconds gained per second; negative is lost").by("0").like("0.001%").within(-0.5, 0.5)),
	fixed("middlebox", "it forwards with a policy of ours", middleboxKeys...).kindsOf(RoleMiddlebox),
	fixed("router", "it forwards as Linux does, with its own conntrack and nftables",
		ref("nat", "the link that it hides everybody behind (masquerade)"),
		word("invalid", "what becomes of packets that conntrack calls INVALID", "accept", "drop").by("nothing is said of them"),
		toggle("track", "conntrack is on, though no rule needs it").by("false"),
		toggle("notrack", "no packet goes through conntrack").by("false"),
		text("nft", "further nftables rules, as `nft -f` reads them; only these need the program nft"),
		sysctlKey),
	text("container", "an image whose network namespace is the host").by("a namespace").like("tcplab"),
}

var linkKeys = []Key{
	list("between", "the two hosts that it joins", ref("", "a host")).required().like("[client, server]"),
	fixed("wire", "what happens to its frames; nothing is a perfect cable", wireKeys...),
	word("arp", "how its hosts know each other: `permanent` neighbour entries, or `real` ARP, whose failure tells TCP that the host is unreachable (RFC 6069)", "permanent", "real").by("permanent"),
}

var faultKeys = []Key{
	duration("at", "when, from go").required().like("20s"),
	duration("for", "how long; then it is undone").by("for good").like("30s"),
	ref("on", "a host, a program or a link").required(),
	ref("towards", "of a link: frames towards this host only").by("both ways"),
	fixed("match", "which frames only",
		text("flow", "a flow: CLIENT, CLIENT>SERVER or a port").like("client>server"),
		text("flags", "TCP flags that are all set: S, A, F, R, P").like("SA"),
		count("nth", "the n-th such frame").by("all").like("1"),
		count("tos", "its IP header's TOS byte, by which a sender can mark what is meant").by("any").within(1, 255).like("16")),
	word("do", "what happens").required().kindsOf(roleFault),
}

var trialKeys = []Key{
	duration("warmup", "offered load before measuring begins").by("0").like("2s"),
	{Name: "duration", Form: FormDuration, Unit: "s", About: "how long it measures", Example: "130s", Min: zero, Above: true},
	{Name: "until", Form: FormEvent, About: "the event that ends it, and how long after: a fault's name, `detected` or `recovered`", Example: "recovered + 30s"},
	{Name: "at_most", Form: FormDuration, Unit: "s", About: "when it ends whatever happens, from go; needed with `until`", Example: "1200s", Min: zero, Above: true},
	count("pairs", "trials of each arm, paired by seed").by("1").like("10").within(1, 1000),
}

var nameKeys = []Key{
	ref("server", "the server that it points to").required(),
	duration("ttl", "how long an answer may be kept").by("60s").like("60s"),
}

// bodyKeys are what a sheet, a profile and an arm may say of what runs.
var bodyKeys = []Key{
	named("hosts", "network namespaces with their processes", fixed("", "a host", hostKeys...)).like("{client: {}, server: {}}"),
	named("links", "what joins hosts", fixed("", "a link", linkKeys...)),
	named("servers", "who answers", fixed("", "a server", serverKeys...).kindsOf(RoleServer)),
	named("clients", "who asks", fixed("", "a client", clientKeys...).kindsOf(RoleClient)),
	fixed("trial", "how long one execution lasts: `warmup` and `duration`, or `until` and `at_most`", trialKeys...),
	named("faults", "timed changes", fixed("", "a fault", faultKeys...).kindsOf(roleFault)),
	free("names", "names that the lab's resolver answers", fixed("", "a name", nameKeys...)).like("{api: {server: server, ttl: 30s}}"),
	fixed("kernel", "global kernel settings; granted only in a guest kernel", free("sysctl", "settings", value("", "the setting's value")).like("{net.netfilter.nf_conntrack_max: 4096}")).like("{sysctl: {net.netfilter.nf_conntrack_max: 4096}}"),
}

// shortKeys are the short form for two hosts.
var shortKeys = []Key{
	fixed("wire", "short for `links.wire.wire`, between the hosts client and server", wireKeys...).like("{delay: 5ms}"),
	fixed("server", "short for `servers.server`, on the host server", serverKeys...).kindsOf(RoleServer).like("{kind: echo}"),
	fixed("client", "short for `clients.client`, on the host client, to that server", clientKeys...).kindsOf(RoleClient).like("{reuse: pool}"),
	fixed("workload", "short for `clients.client.workload`", workloadKeys...).kindsOf(RoleWorkload).like("{rate: 600/s}"),
}

var whyKey = free("why", "one line of justification for each changed key, by its path", text("", "why")).like(`{client.reuse: "the handshake is not paid again"}`)

var needsKey = list("needs", "what the kernel must have; without it an arm is `unsupported`, never silently changed",
	Key{Form: FormWord, About: "a capability, or sysctl:NAME"}).like("[conntrack]")

var unlessKey = Key{Name: "unless", Form: FormCondition, About: "where this holds, the claim is `not reached`: neither pass nor fail", Example: "per_request.connect.call.p50 > 0.5ms"}

// judgedKeys are what is claimed and shown.
var judgedKeys = []Key{
	named("predict", "numbers computed before the run", fixed("", "a prediction",
		Key{Name: "of", Form: FormPath, About: "the metric that is predicted", Required: true, Example: "per_request.first_error.time"},
		Key{Name: "is", Form: FormNumber, About: "its value, computed from the sheet's numbers", Required: true, Example: "ports / rate"},
		Key{Name: "within", Form: FormQuantity, About: "how far off it may be: a share or a quantity; judged when given", Default: "shown, not judged", Example: "5%"},
		text("because", "the reason, in a few words"),
		unlessKey)),
	named("expect", "claims that are judged", fixed("", "an expectation",
		Key{Name: "that", Form: FormCondition, About: "what should hold", Required: true, Example: "pooled.latency.p50 < 0.7 * per_request.latency.p50"},
		text("because", "the reason, in a few words"),
		unlessKey)),
	named("evidence", "packets to show", fixed("", "a picture",
		ref("capture", "the arm whose packets it shows").required(),
		word("show", "what to show", shows...).required(),
		text("title", "its heading"),
		text("flow", "which flow, where it is not any: CLIENT or CLIENT>SERVER"),
		text("at", "near which time or event").like("forget"))),
	named("triage", "what a diagnosis should find, by arm", fixed("", "a truth",
		ref("on", "the host that is looked at").required(),
		duration("at", "when, from go").required().like("11s"),
		word("finds", "the cause that triage should put first, or `nothing`", results.CauseNames()...).required().like("time-wait-exhaustion"))),
}

// shows are the pictures that a capture can be asked for.
var shows = []string{"handshake", "reused request", "teardown", "retransmissions", "keepalive", "silence", "reset", "reconnect", "fast retransmit", "unanswered", "unanswered SYN",
	"held segment", "quick ack", "cookie handshake", "lost ack", "old segment"}

// Shows lists what an entry of evidence may show.
func Shows() []string { return slices.Clone(shows) }

var sweepKey = free("sweep", "values to vary, by path; runs with --sweep only", list("", "", value("", "a value"))).like("{links.wan.wire.loss: [0, 1%]}")

var varyKey = word("vary", "how a sweep's axes go together: every combination of their values, or each axis by itself while the others keep the sheet's own value", "together", "apart").by("together")

var clockKey = word("clock", "which clock it asks for; virtual needs a guest kernel", "real", "virtual").by("real")

var writeupKey = text("writeup", "the account, in Markdown; {{an expression}} becomes its value, and a paragraph with one that was not asked is left out").or(free("", "accounts by name", text("", "")))

var gateKey = list("gate", "metrics that a comparison is gated on, six at most", Key{Form: FormPath, About: "a metric's path"}).like("[pooled.latency.p99]")

var (
	profileKeys = concat([]Key{clockKey, needsKey, sweepKey, varyKey, gateKey, whyKey}, shortKeys, bodyKeys, judgedKeys)
	armKeys     = concat([]Key{
		toggle("baseline", "the arm that the others are compared with; exactly one").by("false"),
		word("only", "the profile that it belongs to; left out of the other", profileNames...).by("both"),
		needsKey, whyKey,
		text("costs", "what its lever costs, in a sentence: where arms have it, the report draws one table of what each bought and what it costs, in the sheet's order"),
		named("profiles", "what this arm changes in a profile", fixed("", "a profile", concat([]Key{needsKey, whyKey}, shortKeys, bodyKeys)...).patch()).like("{full: {trial: {duration: 130s}}}"),
	}, shortKeys, bodyKeys, judgedKeys)
	sheetKeys = concat([]Key{
		Key{Name: "experiment", Form: FormText, About: "its name: lower-case letters, digits, - and _", Required: true, Example: "churn"},
		text("question", "what it asks, in one sentence"),
		word("profile", "the one profile that a resolved sheet has", profileNames...).by("it has both"),
		clockKey, needsKey,
	}, shortKeys, bodyKeys, []Key{
		named("profiles", "what `quick` or `full` changes", fixed("", "a profile", profileKeys...).patch()).like("{quick: {trial: {duration: 12s}}}"),
		named("arms", "configurations under test; each changes named levers", fixed("", "an arm", armKeys...).patch()).required(),
		sweepKey, varyKey,
	}, judgedKeys, []Key{gateKey, whyKey, writeupKey})
	sheetKey = fixed("", "a sheet", sheetKeys...)
)

var profileNames = []string{"quick", "full"}

func concat(lists ...[]Key) []Key {
	var out []Key
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// capabilities are what `needs` may name, beside sysctl:NAME.
var capabilities = []struct{ Name, About string }{
	{"guest", "a guest kernel: global settings, or time that can be skipped"},
	{"root", "privileges that a user namespace does not give"},
	{"netem", "sch_netem"},
	{"fq", "sch_fq with SO_TXTIME"},
	{"nftables", "nf_tables in a network namespace"},
	{"conntrack", "connection tracking in a network namespace"},
	{"inet_diag_destroy", "closing a socket of another process (SOCK_DESTROY)"},
	{"tun", "/dev/net/tun"},
	{"bbr", "BBR congestion control"},
	{"cubic", "CUBIC congestion control"},
	{"reno", "Reno congestion control"},
	{"syncookies", "SYN cookies"},
	{"containers", "a container engine"},
}
