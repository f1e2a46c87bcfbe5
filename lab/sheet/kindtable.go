package sheet

import "tcplab/results"

func metrics(names ...string) []results.MetricInfo {
	out := make([]results.MetricInfo, len(names))
	for i, n := range names {
		m, ok := results.LookupMetric(n)
		if !ok {
			panic("sheet: kind table: no metric is called " + n)
		}
		out[i] = m
	}
	return out
}

// kinds is the table of everything that `kind` may say. Built says what this
// build can run; a kind that is not built still decodes, plans and dry-runs.
var kinds = []Kind{
	{Role: RoleServer, Name: "echo", Built: true, About: "length-prefixed echo over TCP", Faults: []string{"slow", "close-connections", "stall", "stop-accepting", "stop-closing"}, Keys: []Key{
		size("greeting", "it speaks first: so many bytes on each connection that it accepts, which a client with `awaits` reads before it asks").by("0").like("64B"),
	}},
	{Role: RoleServer, Name: "http", Built: true, About: "HTTP/1.1, Go's net/http", Faults: []string{"slow", "close-connections", "stall"}},
	{Role: RoleServer, Name: "exec", Built: true, About: "a program of your own"},
	{Role: RoleServer, Name: "sink", Built: true, About: "reads and drops, or sends without end: the other side of bulk; of incarnations it answers each byte and checks which connection it is of", Faults: []string{"stall", "close-connections"}},
	{Role: RoleServer, Name: "service", About: "a layer that calls others (`calls`) before it answers", Faults: []string{"slow", "close-connections", "stall"}},
	{Role: RoleServer, Name: "h2", Built: true, About: "HTTP/2 in cleartext, Go's net/http", Faults: []string{"slow", "close-connections", "goaway", "stall"}, Keys: []Key{
		share("goaway", "chance per request of a GOAWAY").by("0").like("0.1%"),
		count("streams", "most concurrent streams of a connection").by("250").like("100"),
	}},
	{Role: RoleServer, Name: "mqtt", Built: true, About: "an MQTT 3.1.1 broker, mochi-mqtt", Faults: []string{"close-connections", "stall"}},
	{Role: RoleServer, Name: "dns", About: "answers `names` over UDP", Faults: []string{"change-record", "slow"}},

	{Role: RoleClient, Name: "echo", Built: true, About: "length-prefixed echo over TCP: epoll and a timerfd", Keys: []Key{
		fixed("heartbeat", "a small request on each connection of the pool that is silent; without its answer the connection is closed, with error class heartbeat",
			duration("every", "silence after which it is sent").required().like("30s"),
			duration("timeout", "how long its answer may take").by("10s").like("10s")),
		word("send", "how the parts of a request of workload kind writes are written: each by itself, all in one write, or between setting TCP_CORK and taking it away", "parts", "coalesced", "corked").by("parts"),
		size("awaits", "a greeting of the server so long, read before the first request of a connection").by("0").like("64B"),
	}},
	{Role: RoleClient, Name: "http", Built: true, About: "HTTP/1.1, Go's net/http as its users have it"},
	{Role: RoleClient, Name: "exec", Built: true, About: "a program of your own"},
	{Role: RoleClient, Name: "h2", Built: true, About: "HTTP/2 in cleartext, Go's net/http", Keys: []Key{
		duration("read_idle", "silence after which a PING is sent").by("none: no health check").like("30s"),
		duration("ping_timeout", "wait for the PING's answer before the connection is closed").by("15s").like("15s"),
		count("streams", "long-lived streams held open beside the requests").by("0").like("1").within(0, 1e6),
	}},
	{Role: RoleClient, Name: "mqtt", Built: true, About: "a relay that publishes to a broker over MQTT 3.1.1: a bounded queue, one connection", Keys: []Key{
		word("library", "who speaks MQTT: a small publisher, or eclipse/paho.mqtt.golang as its users have it", "own", "paho").by("own"),
		duration("keepalive", "the keep-alive interval of CONNECT").by("none").like("30s"),
		duration("ping_timeout", "wait for PINGRESP before the connection is closed").by("10s").like("10s"),
		toggle("ping_blocks", "the ping waits behind a blocked write, as in some libraries").by("false"),
		count("qos", "quality of service of what it publishes").by("1").like("1").within(0, 2),
		count("queue", "most messages that wait to be sent; those that come then are dropped and have failed").by("100,000, or 64 MiB of them").like("10000").within(1, 1e6),
	}},
	{Role: RoleClient, Name: "bulk", Built: true, About: "one or more flows that send without end, or messages of `workload.size` at `workload.rate`", Silent: true,
		Metrics: metrics("goodput", "opens", "connect.p50", "connect.max", "first_error.time", "detect.time", "recover.time", "written", "acknowledged", "believed", "believed.time",
			"errors.ECONNRESET", "errors.ETIMEDOUT", "errors.EHOSTUNREACH", "errors.deadline",
			"tcp.cwnd.p50", "tcp.ssthresh.p50", "tcp.rtt.p50", "tcp.minrtt.min", "tcp.pacing.p50", "tcp.delivery.p50", "tcp.bbr.bandwidth.p50", "tcp.bbr.minrtt.min",
			"tcp.resent", "tcp.resent.share", "tcp.wscale", "tcp.sack", "tcp.timestamps"),
		Keys: []Key{count("flows", "flows side by side").by("1").like("1"), toggle("receive", "data comes towards the client").by("false"),
			toggle("acks", "the server's application acknowledges each message that it has read").by("false")}},
	{Role: RoleClient, Name: "incarnations", Built: true, About: "two connections with the same four ports, one after the other: the first one echoes in lock-step until it has outrun the clock of initial sequence numbers and ends with a marked segment, the second one sends as far as that segment's place and goes on", Silent: true,
		Metrics: metrics("opens", "connect.max", "first_error.time", "incarnation.bytes", "incarnation.rate", "incarnation.connect", "incarnation.behind", "incarnation.written",
			"errors.ECONNRESET", "errors.ETIMEDOUT", "errors.EADDRNOTAVAIL", "errors.deadline"),
		Keys: []Key{
			size("ahead", "how far the first one is to be ahead of the clock, 15.6 MB/s, in both directions; 0: it says a `chunk` and no more").by("0").like("8MB"),
			size("most", "bytes of the first one, each way, at most").by("1GiB").like("256MB"),
			size("chunk", "bytes of the lock-step: so many are written, and as many are read, before the next").by("512KiB").like("256KiB"),
			count("tos", "the mark: the TOS byte of the first one's last segment").by("16").within(4, 252).like("16"),
			toggle("waits", "the second one waits for the answer to its last step to that place before it goes on, as a protocol of requests and answers does").by("false"),
		}},
	{Role: RoleClient, Name: "dns", About: "looks `names` up, caching as its TTLs say"},
	{Role: RoleClient, Name: "flood", Built: true, About: "SYNs from many source addresses, bounded in packets and time; it takes a host of the run, never an address", Silent: true,
		Metrics: metrics("syns.sent"),
		Keys: []Key{
			rate("rate", "SYNs per second, over all of `to`; 20,000 at most").required().like("2000/s").within(0, 20_000),
			count("sources", "source addresses").by("1").like("1000").within(1, 1000),
			count("packets", "most packets").required().like("10000").within(1, 400_000),
			duration("for", "how long, from go; 20 s at most").required().like("5s").within(0.001, 20),
		}},

	{Role: RoleWorkload, Name: "requests", Built: true, About: "a request, its answer, the next"},
	{Role: RoleWorkload, Name: "bulk", Built: true, About: "data without end"},
	{Role: RoleWorkload, Name: "publish", Built: true, About: "messages to a topic, acknowledged by the broker", Keys: []Key{text("topic", "where to").by("t")}},
	{Role: RoleWorkload, Name: "writes", Built: true, About: "a request as several small writes, then its answer; from a `trace`, or all alike", Keys: []Key{
		list("parts", "length of each write, where there is no `trace`", size("", "")).like("[100B, 900B]"),
		duration("gap", "pause between writes").by("0").like("1ms"),
	}},

	{Role: RoleMiddlebox, Name: "l4lb", Built: true, About: "a layer-4 load balancer: addresses, a flow table, targets whose health it does not check", Faults: []string{"forget-flows", "set", "drop-target", "add-target"}},
	{Role: RoleMiddlebox, Name: "nat", Built: true, About: "source NAT with a port range", Faults: []string{"forget-flows", "set"}, Keys: []Key{
		text("ports", "the range of outer ports, LOW HIGH").by("1024 65535").like(`"1024 65535"`),
	}},
	{Role: RoleMiddlebox, Name: "flowtable", Built: true, About: "a stateful firewall: flows are known from their SYN on", Faults: []string{"forget-flows", "set"}, Keys: []Key{
		count("max", "most flows").by("unlimited").like("4096"),
	}},
	{Role: RoleMiddlebox, Name: "router", Built: true, About: "a Linux router with its own conntrack and nftables", Faults: []string{"forget-flows", "bypass", "fill", "look"}},

	{Role: RoleHost, Name: "namespace", Built: true, About: "a network namespace with its processes", Faults: []string{"freeze", "continue", "kill", "restart", "partition", "set"}},
	{Role: RoleHost, Name: "container", About: "a container's network namespace", Faults: []string{"freeze", "continue", "kill", "restart", "partition", "set"}},
	{Role: RoleLink, Name: "wire", Built: true, About: "what happens to frames", Faults: []string{"blackhole", "set", "drop-once", "drop", "hold"}},
}

// programFaults are what any server or client can be given.
var programFaults = []string{"freeze", "continue", "kill", "restart"}

// A Verb is something that `do` may say.
type Verb struct {
	Name  string
	About string
	Built bool
	Keys  []Key // its own keys, beside at, for, on, do
}

// verbs explains what faults do. Which thing knows which verb is in kinds.
var verbs = []Verb{
	{Name: "blackhole", Built: true, About: "frames vanish without a word; ARP passes, else its failure would be what is seen (RFC 6069)", Keys: []Key{
		word("arp", "`too`: ARP vanishes as well", "passes", "too").by("passes"),
	}},
	{Name: "set", Built: true, About: "other values from then on", Keys: []Key{
		{Name: "set", Form: FormAny, About: "the values: a wire's, a host's sysctls, a middlebox's", Example: "{delay: 50ms}"},
	}},
	{Name: "drop-once", Built: true, About: "the frame that `match` describes vanishes"},
	{Name: "drop", Built: true, About: "every frame that `match` describes vanishes"},
	{Name: "hold", Built: true, About: "the data segment that `match` describes stays on the wire until a later connection of the same four ports expects the bytes that it has; then it goes on"},
	{Name: "freeze", Built: true, About: "SIGSTOP: the kernel still answers for it"},
	{Name: "continue", Built: true, About: "SIGCONT"},
	{Name: "kill", Built: true, About: "SIGKILL: the kernel closes its sockets. On a host: power off, nothing is said"},
	{Name: "restart", Built: true, About: "killed and started again"},
	{Name: "partition", About: "no frames between this host and the others named", Keys: []Key{
		list("from", "the hosts that it is cut off from", ref("", "a host")).required().like("[c]"),
	}},
	{Name: "slow", Built: true, About: "another service time", Keys: []Key{duration("service", "how long a request takes from then on").required().like("2s")}},
	{Name: "close-connections", Built: true, About: "it closes every connection", Keys: []Key{word("with", "how", "fin", "rst").by("fin")}},
	{Name: "stall", Built: true, About: "it stops reading, so its window fills"},
	{Name: "stop-accepting", Built: true, About: "it accepts no connection: they wait in the kernel's queue"},
	{Name: "stop-closing", Built: true, About: "it does not close what its peer has closed: CLOSE-WAIT"},
	{Name: "goaway", Built: true, About: "a GOAWAY on every connection"},
	{Name: "change-record", About: "a name points to another server", Keys: []Key{
		text("name", "the name").required().like("api"), ref("server", "where it points to from then on").required(),
	}},
	{Name: "forget-flows", Built: true, About: "its flow table is emptied, and nobody is told"},
	{Name: "bypass", Built: true, About: "packets take another path for that long, around the router's conntrack: a failover that hides what passes meanwhile"},
	{Name: "fill", Built: true, About: "conntrack's table is filled with flows of others, without a packet", Keys: []Key{
		count("entries", "how many").by("until the table is full").like("262144").within(1, 1<<24),
		toggle("assured", "they have had an answer, so that the kernel does not throw them out for new ones").by("true"),
		duration("timeout", "how long they live").by("432000s").like("600s"),
	}},
	{Name: "look", Built: true, About: "what conntrack has of a client's connection is noted", Keys: []Key{ref("client", "whose").by("the only one's")}},
	{Name: "drop-target", Built: true, About: "a target is taken out", Keys: []Key{ref("target", "which").required()}},
	{Name: "add-target", Built: true, About: "a target comes in", Keys: []Key{ref("target", "which").required()}},
}

func verbOf(name string) *Verb {
	for i := range verbs {
		if verbs[i].Name == name {
			return &verbs[i]
		}
	}
	return nil
}

func verbNames() []string {
	out := make([]string, len(verbs))
	for i, v := range verbs {
		out[i] = v.Name
	}
	return out
}

// Verbs lists everything that a fault may do.
func Verbs() []Verb { return append([]Verb(nil), verbs...) }

// socketOptions are the options that a program may set on its connections, and
// the form of each value.
var socketOptions = []Key{
	toggle("TCP_NODELAY", "Nagle's algorithm off (RFC 896)"),
	toggle("TCP_QUICKACK", "no delayed ACKs; re-armed after each receive"),
	toggle("TCP_CORK", "only full segments until it is taken away"),
	duration("TCP_USER_TIMEOUT", "how long sent data may stay unacknowledged (RFC 5482)").like("20s"),
	toggle("SO_KEEPALIVE", "keepalive probes"),
	duration("TCP_KEEPIDLE", "idle time before the first keepalive probe").like("15s"),
	duration("TCP_KEEPINTVL", "time between keepalive probes").like("5s"),
	count("TCP_KEEPCNT", "unanswered probes before the connection is dropped").like("3").within(1, 127),
	count("TCP_SYNCNT", "SYN retransmissions").like("2").within(1, 127),
	duration("SO_LINGER", "how close() waits; 0 sends a RST and leaves no TIME-WAIT").like("0"),
	size("SO_SNDBUF", "send buffer").like("64KiB"),
	size("SO_RCVBUF", "receive buffer").like("64KiB"),
	count("TCP_MAXSEG", "largest segment").like("1360").within(88, 65495),
	size("TCP_NOTSENT_LOWAT", "unsent bytes above which the socket is not writable").like("16KiB"),
	size("TCP_WINDOW_CLAMP", "bound of the advertised window").like("64KiB"),
	word("TCP_CONGESTION", "congestion control").like("cubic"),
	count("TCP_FASTOPEN", "length of the queue of TCP Fast Open (RFC 7413)").like("16"),
	count("TCP_DEFER_ACCEPT", "seconds to wait for data before accept").like("5"),
	count("IP_TOS", "the TOS byte").within(0, 255).like("16"),
	toggle("SO_REUSEADDR", "bind to an address with connections in TIME-WAIT"),
	toggle("SO_REUSEPORT", "several listeners on one port"),
	toggle("IP_BIND_ADDRESS_NO_PORT", "the port is chosen at connect(), not at bind()"),
}
