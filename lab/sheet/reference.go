package sheet

import (
	"fmt"
	"sort"
	"strings"

	"tcplab/lab/expr"
	"tcplab/results"
)

// Reference is the sheet reference in Markdown, made from the key tables that
// the decoder uses, so that it cannot tell of a key that is not there.
func Reference() []byte {
	r := &referenceMaker{}
	r.text(referenceIntro)
	r.text("## Two examples")
	r.text("The short form, for two hosts:")
	r.text("```yaml\n" + ShortExample + "```")
	r.text("The general form, for everything else:")
	r.text("```yaml\n" + GeneralExample + "```")
	r.forms()
	r.table("Keys of a sheet", "", withoutAny(sheetKeys, shortKeys, bodyKeys, judgedKeys))
	r.table("The short form", "For two hosts, `client` and `server`, with one wire between them. It is rewritten to the general form before anything else happens, in profiles and arms too.", shortKeys)
	r.table("What runs", "The same in a sheet, a profile, an arm, and an arm's profile.", bodyKeys)
	r.table("Hosts", "", hostKeys)
	r.table("Middleboxes", "`hosts.NAME.middlebox`. It forwards; it runs no programs.", middleboxKeys)
	r.kindList(RoleMiddlebox)
	r.table("Links and wires", "`links.NAME`. An interface bears its link's name (at most 15 characters).", linkKeys)
	r.table("", "`wire`, and each direction of `towards`:", wireKeys)
	r.table("Servers", "", serverKeys)
	r.kindList(RoleServer)
	r.table("Clients", "", clientKeys)
	r.kindList(RoleClient)
	r.table("Workloads", "", workloadKeys)
	r.kindList(RoleWorkload)
	r.table("A program of your own", referenceExec, execKey.Keys)
	r.table("Socket options", "`options` of a server or client; each is read back from the kernel.", socketOptions)
	r.table("Trials", "All times count from `go`, warm-up included.", trialKeys)
	r.table("Faults", "A fault's target may be a host, a program or a link. Where a program bears its host's name, the program is meant if its kind knows the verb, else the host.", faultKeys)
	r.verbs()
	r.table("Profiles", "`quick` is small, for CI and a first look; `full` has the real magnitudes. Each may change:", withoutAny(profileKeys, shortKeys, bodyKeys, judgedKeys))
	r.table("Arms", referenceArms, withoutAny(armKeys, shortKeys, bodyKeys, judgedKeys))
	r.needs()
	r.table("Claims", referenceClaims, judgedKeys)
	for _, k := range judgedKeys {
		r.table("", "`"+k.Name+".NAME`:", k.Of.Keys)
	}
	r.paths()
	r.metrics()
	r.numbers()
	r.functions()
	return []byte(r.b.String())
}

const referenceIntro = `# Sheets

<!-- Made from the decoder's tables: go test ./lab/sheet -run Reference -update -->

A sheet is one experiment: a question, hosts, what joins them, what is offered, the arms under test, and what is expected of them. It is a YAML file. Sheets on disk and embedded ones are the same thing: ` + "`tcplab show churn > mine.yaml; tcplab run mine.yaml`" + `.

A sheet is decoded strictly, and as a whole, before anything is started. An unknown key, a wrong unit or an expectation over a metric that nothing measures is an error with its line and column, and with what to write instead:

    churn.yaml:12:9: unknown key ` + "`rat` in `workload`: did you mean `rate`?" + ` allowed: …

YAML's anchors, aliases, merge keys and tags are refused: a sheet's own way of not writing things twice is that profiles and arms are merged into it.

**Merging.** Everything that an arm may change is a map with names. The order is sheet ← profile ← arm ← the arm's own profile ← ` + "`--set PATH=VALUE`" + `. Maps merge deeply, a list replaces, ` + "`null`" + ` deletes. What is then different from the baseline are the arm's levers.

**Paths** name a key: ` + "`clients.publisher.workload.rate`, and with a key that has dots itself `hosts.client.sysctl[net.ipv4.tcp_retries2]`" + `. They may use the short form. They are written in ` + "`why`, `sweep` and `--set`" + `.

**Names** of hosts, links, servers, clients, faults and arms are letters, digits and _, since metrics' paths name them.
`

// ShortExample and GeneralExample are whole sheets in the two forms.
const ShortExample = `experiment: keepalive
question: What does a fresh connection per request cost?
wire: {delay: 5ms}                        # each way
server: {kind: http}
client: {closes: client}
workload: {rate: 200/s, connections: 32, size: 128B}
trial: {warmup: 1s, duration: 10s}
profiles:
  full: {trial: {duration: 60s}}
arms:
  fresh: {baseline: true, client: {reuse: none}}
  kept:
    client: {reuse: pool, pool: {size: 32}}
    why: {client.reuse: the handshake is not paid again}
expect:
  faster: {that: kept.latency.p50 < 0.7 * fresh.latency.p50, because: one round trip instead of two}
  fewer: {that: kept.client.handshakes.count <= pool}
`

const GeneralExample = `experiment: outage
question: How long does each side believe in a connection that a router no longer carries?
hosts:
  client: {}
  gateway: {router: {nft: ""}}
  server: {}
links:
  inside: {between: [client, gateway], wire: {delay: 1ms}}
  outside: {between: [gateway, server], wire: {delay: 20ms, towards: {gateway: {delay: 25ms}}}}
servers:
  api: {on: server, kind: echo, port: 7000}
clients:
  worker: {on: client, to: api, reuse: pool, workload: {rate: 20/s}}
trial: {until: recovered + 5s, at_most: 120s}
faults:
  dark: {at: 5s, for: 60s, on: outside, do: blackhole}
arms:
  as_found: {baseline: true}
  user_timeout:
    clients: {worker: {options: {TCP_USER_TIMEOUT: 10s}}}
    why: {clients.worker.options.TCP_USER_TIMEOUT: bounds how long sent data may stay unacknowledged}
expect:
  sooner: {that: user_timeout.worker.detect.time@dark < 0.5 * as_found.worker.detect.time@dark}
`

const referenceExec = "`exec` puts a program of your own into a server's or client's place. Unless it writes agent events, there are no client metrics of it; what probes see without its help remains (see Metrics)."

const referenceArms = "An arm is the sheet with changes. Exactly one is the baseline, and both profiles have it. A kernel setting that is changed without a line in `why` is a warning in the report. Entries of `predict`, `expect`, `evidence` and `triage` whose arm a profile leaves out are listed as not asked."

const referenceClaims = "What is computed before the run, what should hold after it, which packets show it, and what a diagnosis should find."

type referenceMaker struct{ b strings.Builder }

func (r *referenceMaker) text(s string) { r.b.WriteString(strings.TrimSpace(s) + "\n\n") }

// cell escapes what a table's cell cannot hold.
func cell(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "|", "\\|"), "\n", " ")
}

func (r *referenceMaker) table(title, intro string, keys []Key) {
	if title != "" {
		r.text("## " + title)
	}
	if intro != "" {
		r.text(intro)
	}
	r.b.WriteString("| key | form | means |\n|---|---|---|\n")
	for _, k := range keys {
		r.row("", k)
	}
	r.b.WriteByte('\n')
}

// row is one key, and the keys of a small map within it.
func (r *referenceMaker) row(prefix string, k Key) {
	about := k.About
	if k.Required {
		about += ". **Needed**"
	}
	if k.Default != "" {
		about += ". Without it: " + k.Default
	}
	fmt.Fprintf(&r.b, "| `%s%s` | %s | %s |\n", prefix, k.Name, cell(formText(k)), cell(about))
	own := map[string]bool{"middlebox": true, "exec": true, "wire": true, "workload": true, "server": true, "client": true, "trial": true}
	if k.Form == FormMap && !own[k.Name] {
		for _, sub := range k.Keys {
			r.row(prefix+k.Name+".", sub)
		}
	}
	if k.Form == FormList && k.Of.Form == FormMap {
		for _, sub := range k.Of.Keys {
			r.row(prefix+k.Name+"[].", sub)
		}
	}
	for _, o := range k.Or {
		for _, sub := range o.Keys {
			r.row(prefix+k.Name+".", sub)
		}
	}
}

// formText says how a value is written, with an example.
func formText(k Key) string {
	one := func(k Key) string {
		switch k.Form {
		case FormWord:
			words := k.Words
			if k.Role != "" && k.Role != roleFault {
				return "a kind (below)"
			}
			if k.Role == roleFault {
				return "a verb (below)"
			}
			if len(words) > 0 {
				return "`" + strings.Join(words, "` `") + "`"
			}
			return "a word" + exampleText(k)
		case FormFlag:
			return "`true` `false`"
		case FormMap:
			return "a map"
		case FormNamed:
			return "a map of names" + exampleText(k)
		case FormList:
			return "a list" + exampleText(k)
		case FormCount:
			return "a count" + exampleText(k) + rangeText(k)
		case FormPath:
			return "a metric's path" + exampleText(k)
		case FormNumber:
			return "an expression" + exampleText(k)
		case FormCondition:
			return "a condition" + exampleText(k)
		case FormEvent:
			return "an event" + exampleText(k)
		case FormAny:
			return "a map" + exampleText(k)
		case FormValue:
			return "a value" + exampleText(k)
		}
		return article(k) + exampleText(k)
	}
	out := []string{one(k)}
	for _, o := range k.Or {
		if o.Form == FormMap || o.Form == FormNamed {
			out = append(out, "a map")
		} else {
			out = append(out, one(o))
		}
	}
	return strings.Join(out, ", or ")
}

func exampleText(k Key) string {
	if k.Example == "" {
		return ""
	}
	return ": `" + k.Example + "`"
}

func rangeText(k Key) string {
	if k.Min != nil && k.Max != nil && *k.Max < 1e5 {
		return fmt.Sprintf(" (%s–%s)", itoa(*k.Min), itoa(*k.Max))
	}
	return ""
}

func (r *referenceMaker) forms() {
	r.text("## Forms")
	r.text("A number bears its unit, and a value in the wrong unit is an error. `0` needs none.")
	r.b.WriteString("| form | is written | units |\n|---|---|---|\n")
	for _, f := range []struct{ form, example, units string }{
		{"a time", "`5ms`", "ns us µs ms s min h d"},
		{"a rate per second", "`600/s`, `1/min`", "/s /min /h"},
		{"a data rate", "`100Mbit/s`", "bit kbit Mbit Gbit B kB MB, per s"},
		{"a size in bytes", "`128B`, `64KiB`", "B kB MB GB (thousands), KiB MiB GiB (1,024)"},
		{"a share", "`1%`", "%"},
		{"a count", "`64`, `4_096`", "none"},
		{"true or false", "`true`", ""},
		{"an event", "`recovered + 30s`", "a fault's name, `detected`, `recovered`"},
		{"a condition", "`pooled.latency.p50 < 0.7 * per_request.latency.p50`", "see Expressions"},
	} {
		fmt.Fprintf(&r.b, "| %s | %s | %s |\n", f.form, f.example, f.units)
	}
	r.b.WriteByte('\n')
}

func withoutAny(keys []Key, without ...[]Key) []Key {
	var out []Key
	for _, k := range keys {
		if findKey(concat(without...), k.Name) == nil {
			out = append(out, k)
		}
	}
	return out
}

func (r *referenceMaker) kindList(role Role) {
	fmt.Fprintf(&r.b, "Kinds of %s:\n\n| kind | is | keys of its own | faults | built |\n|---|---|---|---|---|\n", role)
	for _, k := range kinds {
		if k.Role != role {
			continue
		}
		var keys []string
		for _, x := range k.Keys {
			s := "`" + x.Name + "` (" + formText(x) + "): " + x.About
			if x.Default != "" {
				s += "; without it: " + x.Default
			}
			keys = append(keys, s)
		}
		faults := k.Faults
		if role == RoleServer || role == RoleClient {
			faults = concatWords(programFaults, k.Faults)
		}
		built := "yes"
		if !k.Built {
			built = "not yet"
		}
		fmt.Fprintf(&r.b, "| `%s` | %s | %s | %s | %s |\n", k.Name, cell(k.About), cell(strings.Join(keys, "<br>")), cell(strings.Join(faults, ", ")), built)
	}
	r.b.WriteByte('\n')
}

func (r *referenceMaker) verbs() {
	r.b.WriteString("What `do` may say:\n\n| verb | does | keys of its own | of | built |\n|---|---|---|---|---|\n")
	for _, v := range verbs {
		var keys, of []string
		for _, x := range v.Keys {
			keys = append(keys, "`"+x.Name+"` ("+formText(x)+"): "+x.About)
		}
		if contains(programFaults, v.Name) {
			of = append(of, "any program")
		}
		for _, k := range kinds {
			if contains(k.Faults, v.Name) {
				of = append(of, string(k.Role)+" "+k.Name)
			}
		}
		built := "yes"
		if !v.Built {
			built = "not yet"
		}
		fmt.Fprintf(&r.b, "| `%s` | %s | %s | %s | %s |\n", v.Name, cell(v.About), cell(strings.Join(keys, "<br>")), join(of), built)
	}
	r.b.WriteByte('\n')
}

func (r *referenceMaker) needs() {
	r.b.WriteString("What `needs` may name, beside `sysctl:NAME`:\n\n")
	for _, c := range capabilities {
		fmt.Fprintf(&r.b, "- `%s`: %s\n", c.Name, c.About)
	}
	r.b.WriteByte('\n')
}

func (r *referenceMaker) paths() {
	r.text("## Expressions")
	r.text("Arithmetic (`+ - * /`), comparison (`< <= > >= == !=`), ranges (`x in LOW..HIGH`), `and or not`, numbers with units, the sheet's numbers, metrics, and functions. Comparing a time with a count is an error.")
	r.text("A metric's path is `ARM[.HOST|.PROGRAM|.LINK>HOST].METRIC[@FAULT]`. The middle part may go where one thing in that arm has the metric; a program may bear its host's name, since each metric belongs to one kind of owner. `LINK>HOST` is one direction of a link; without it both are added up. `ARM[loss=1%]` is a sweep's point. `HOST.snmp.SyncookiesSent` is any counter of the kernel. `@FAULT` may go where there is one fault.")
}

func (r *referenceMaker) metrics() {
	r.text("## Metrics")
	r.text("Those marked † need the client's own word: one of the lab's kinds, or a program that writes agent events. Those marked ‡ exist on the real clock only.")
	r.b.WriteString("| metric | of a | unit | means |\n|---|---|---|---|\n")
	mark := func(m results.MetricInfo) string {
		s := ""
		if m.NeedsEvents {
			s += " †"
		}
		if m.RealClock {
			s += " ‡"
		}
		return s
	}
	seen := map[string]bool{}
	row := func(name string, m results.MetricInfo) {
		fmt.Fprintf(&r.b, "| `%s`%s | %s | %s | %s |\n", name, mark(m), m.Owner, m.Unit, cell(m.About))
	}
	for _, m := range results.Metrics() {
		base, q := m.Name, ""
		for _, p := range []string{".p50", ".p90", ".p99", ".p999", ".max"} {
			if b, ok := strings.CutSuffix(m.Name, p); ok && inCatalogue(b+".p50") {
				base, q = b, p
			}
		}
		if q == "" {
			row(m.Name, m)
			continue
		}
		if !seen[base] {
			seen[base] = true
			m.About = strings.TrimSuffix(m.About, ", "+q[1:])
			row(base+".{p50,p90,p99,p999,max}", m)
		}
	}
	for _, name := range []string{"errors.CLASS", "snmp.COUNTER"} {
		if m, ok := results.LookupMetric(name); ok {
			row(name, m)
		}
	}
	for _, k := range kinds {
		for _, m := range k.Metrics {
			if !inCatalogue(m.Name) {
				m.About += " (client kind " + k.Name + ")"
				row(m.Name, m)
			}
		}
	}
	r.b.WriteByte('\n')
}

// numberNames explains the names that a sheet's expressions may use; a test
// holds it against what numbers() gives.
var numberNames = map[string]string{
	"rate":              "offered requests per second (1/s); SYNs per second of a flooder",
	"rate_to":           "rate at the end of a ramp (1/s)",
	"ports":             "ephemeral ports of the client's host: 28,232 unless net.ipv4.ip_local_port_range says otherwise",
	"connections":       "most connections at once",
	"size":              "length of a request (B)",
	"response":          "length of an answer that is asked for (B)",
	"pool":              "most connections kept, where `reuse` is pool",
	"deadline":          "how long the application waits (s)",
	"sndbuf":            "send buffer that the client's `options` ask for, which the kernel doubles (B)",
	"rcvbuf":            "receive buffer that the server's `options` ask for, which the kernel doubles (B)",
	"exchanges":         "exchanges of a trace that the whole trial offers (a count)",
	"heartbeat_every":   "silence after which a heartbeat is sent (s)",
	"heartbeat_timeout": "how long its answer may take (s)",
	"think":             "pause in the closed loop (s)",
	"delay":             "one-way delay of the path to the server (s)",
	"rtt":               "both ways' delays of the path, through middleboxes to what is behind them (s)",
	"loss":              "loss of the path in the direction of the data",
	"bandwidth":         "least rate of the path in the direction of the data (bit/s), where it is limited",
	"mtu":               "least MTU of the path (B)",
	"workers":           "of the server",
	"service":           "of the server (s)",
	"backlog":           "of the server",
	"nofile":            "descriptors that the server's host grants a process, where `limits` say so",
	"warmup":            "of the trial (s)",
	"duration":          "of the trial (s), where it has one",
	"length":            "from go to the end of measuring, at most (s)",
}

func (r *referenceMaker) numbers() {
	r.text("## Numbers of the sheet")
	r.text("Names in expressions mean the arms that the expression speaks of, and the baseline where it speaks of none; where those differ, write `ARM.rate`. Where several programs differ, write `PROGRAM.rate` or `ARM.PROGRAM.rate`. Numeric keys that only one kind has are numbers too (`keepalive`, `read_idle` …).")
	names := make([]string, 0, len(numberNames))
	for n := range numberNames {
		names = append(names, n)
	}
	sort.Strings(names)
	r.b.WriteString("| name | is |\n|---|---|\n")
	for _, n := range names {
		fmt.Fprintf(&r.b, "| `%s` | %s |\n", n, cell(numberNames[n]))
	}
	r.b.WriteByte('\n')
}

func (r *referenceMaker) functions() {
	r.text("## Functions")
	r.b.WriteString("| function | gives | source |\n|---|---|---|\n")
	for _, f := range expr.Functions() {
		fmt.Fprintf(&r.b, "| `%s` | %s | %s |\n", f.Usage, cell(f.Doc), cell(f.Source))
	}
}
