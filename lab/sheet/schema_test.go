package sheet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func compiled(t testing.TB, schema []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("sheet.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("sheet.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asJSON is a sheet as a YAML reader that knows nothing of sheets has it.
func asJSON(text []byte) (any, error) {
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		return nil, err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(b))
}

func TestCommittedSchemaIsThatOfTheTables(t *testing.T) {
	s, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "../../docs/schema/sheet.schema.json", string(s))
}

func TestCommittedSheetsFitTheSchema(t *testing.T) {
	text, err := os.ReadFile("../../docs/schema/sheet.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	s := compiled(t, text)
	for file, text := range committed(t) {
		sheets := [][]byte{text}
		for _, p := range profileNames {
			e, err := Parse(file, text, Options{Profile: p})
			if err != nil {
				t.Fatal(err)
			}
			r, _ := Resolved(e)
			sheets = append(sheets, r)
		}
		for i, text := range sheets {
			v, err := asJSON(text)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Validate(v); err != nil {
				t.Errorf("%s (%d): %v", file, i, err)
			}
		}
	}
}

// beyondSchema are mistakes in the way a sheet is written that a schema of keys
// and forms cannot see, each with the reason.
var beyondSchema = map[string]string{
	"key-of-another-kind":           "any kind's keys are allowed for all",
	"fault-with-another-faults-key": "any fault's keys are allowed for all",
	"expression-that-does-not-end":  "an expression is a text to it",
	"prediction-of-two-metrics":     "an expression is a text to it",
	"negative-time":                 "bounds of quantities are not patterns",
	"rate-of-nothing":               "bounds of quantities are not patterns",
	"share-above-one":               "bounds of quantities are not patterns",
	"until-plus-nonsense":           "the time after + is a text to it",
	"loss-model-without-its-parts":  "another layer may bring the rest",
}

func TestSheetsThatAreWrittenWronglyDoNotFitTheSchema(t *testing.T) {
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	s := compiled(t, text)
	rejected := 0
	for _, f := range brokenSheets(t) {
		name := strings.TrimSuffix(f.Name, ".yaml")
		p := &problems{file: f.Name}
		root := parseYAML(p, f.Data, "")
		if p.any() || root == nil {
			continue // not YAML as sheets use it
		}
		checker{p: p, layer: true, base: true}.check(root, sheetKey, "", root.at)
		v, err := asJSON(f.Data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		fits := s.Validate(v) == nil
		_, excused := beyondSchema[name]
		switch {
		case !fits:
			rejected++
			if excused {
				t.Errorf("%s is excused, and the schema does see it", name)
			}
		case p.any() && !excused:
			t.Errorf("the schema accepts %s: %v", name, p.err())
		}
	}
	if rejected < 30 {
		t.Errorf("the schema rejects only %d of the broken sheets", rejected)
	}
}

// walk visits every key of the tables, those of kinds included.
func walk(path string, k Key, visit func(path string, k Key)) {
	visit(path, k)
	for _, o := range k.Or {
		if o.Name == "" {
			o.Name = k.Name
		}
		walk(path, o, visit)
	}
	if k.Of != nil {
		walk(path+"[]", *k.Of, visit)
	}
	if k.Name == "options" {
		for _, o := range socketOptions {
			visit(path+"."+o.Name, o)
		}
	}
	if k.Form == FormMap {
		for _, sub := range keysFor(k, "") {
			walk(path+"."+sub.Name, sub, visit)
		}
	}
}

func TestEveryKeysExampleFitsItsTableAndTheSchema(t *testing.T) {
	g := schemaMaker{defs: map[string]any{}}
	properties, values, paths := object{}, map[string]any{}, map[string]string{}
	walk("sheet", sheetKey, func(path string, k Key) {
		if k.Name == "" || k.Form == FormMap && k.Example == "" {
			return
		}
		// The same key stands in sheet, profile and arm.
		id := fmt.Sprint(k.Name, k.Form, k.About, k.Example)
		if paths[id] != "" {
			return
		}
		paths[id] = path
		p := &problems{file: path}
		text := []byte("x: " + written(k) + "\n")
		n := parseYAML(p, text, "")
		if p.any() {
			t.Fatalf("%s: %v", path, p.err())
		}
		checker{p: p, layer: true}.check(n.get("x"), k, k.Name, pos{})
		if p.any() {
			t.Errorf("%s: the decoder refuses its example: %v", path, p.err())
		}
		v, err := asJSON(text)
		if err != nil {
			t.Fatal(err)
		}
		properties[id], values[id] = g.of(k, false), v.(map[string]any)["x"]
	})
	if len(properties) < 150 {
		t.Errorf("only %d keys", len(properties))
	}
	b, err := json.Marshal(object{"properties": properties, "$defs": g.defs})
	if err != nil {
		t.Fatal(err)
	}
	if err := compiled(t, b).Validate(values); err != nil {
		t.Errorf("the schema refuses examples: %v", err)
	}
}

// written is a key's example as a sheet has it.
func written(k Key) string {
	ex := example(k)
	if shapeOf(k.Form) == scalarNode && !strings.HasPrefix(ex, `"`) {
		return yamlText(ex, false)
	}
	return ex
}

func TestEveryKeyOfTheTablesIsDecoded(t *testing.T) {
	read := map[string]bool{}
	onRead = func(table, key string) { read[table+"."+key] = true }
	defer func() { onRead = nil }()
	for file, text := range committed(t) {
		for _, p := range profileNames {
			if _, err := Parse(file, text, Options{Profile: p}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, src := range moreSheets {
		if _, err := Parse("more.yaml", []byte(src), Options{}); err != nil {
			t.Fatalf("%v\n%s", err, src)
		}
	}
	tables := map[string][]Key{
		"host": hostKeys, "link": linkKeys, "wire": directionKeys, "server": serverKeys, "client": clientKeys, "fault": faultKeys,
		"client.workload": workloadKeys, "host.middlebox": middleboxKeys, "link.wire": wireKeys[:2], "body.trial": trialKeys, "body": bodyKeys,
		"names": nameKeys, "server.exec": execKey.Keys, "client.exec": execKey.Keys, "client.pool": findKey(clientKeys, "pool").Keys,
		"host.limits": findKey(hostKeys, "limits").Keys, "host.clock": findKey(hostKeys, "clock").Keys, "host.router": findKey(hostKeys, "router").Keys,
		"route": findKey(hostKeys, "routes").Of.Keys, "call": findKey(serverKeys, "calls").Of.Keys, "fault.match": findKey(faultKeys, "match").Keys,
		"predict": findKey(judgedKeys, "predict").Of.Keys, "expect": findKey(judgedKeys, "expect").Of.Keys,
		"evidence": findKey(judgedKeys, "evidence").Of.Keys, "triage": findKey(judgedKeys, "triage").Of.Keys,
	}
	for table, keys := range tables {
		for _, k := range keys {
			if !read[table+"."+k.Name] {
				t.Errorf("%s.%s is in the table and never decoded", table, k.Name)
			}
		}
	}
	for _, kd := range kinds {
		table := map[Role]string{RoleServer: "server", RoleClient: "client", RoleWorkload: "client.workload", RoleMiddlebox: "host.middlebox"}[kd.Role]
		for _, k := range kd.Keys {
			if !read[table+"."+k.Name] {
				t.Errorf("%s.%s of kind %s is in the table and never decoded", table, k.Name, kd.Name)
			}
		}
	}
	for _, v := range verbs {
		for _, k := range v.Keys {
			if !read["fault."+k.Name] {
				t.Errorf("fault.%s of %s is in the table and never decoded", k.Name, v.Name)
			}
		}
	}
}

// moreSheets use what the committed ones leave out.
var moreSheets = []string{`
experiment: more
hosts:
  a: {routes: [{to: r2, via: r1}], limits: {nofile: 100}, clock: {offset: -40ms, drift: 0.01%}, container: img}
  r1: {router: {nft: "", sysctl: {net.ipv4.ip_forward: 1}}}
  r2: {middlebox: {kind: nat, ports: "1024 2047", idle: 5s}}
  r3: {middlebox: {kind: flowtable, max: 100}}
  b: {}
links:
  l1: {between: [a, r1], wire: {kind: userspace, fates: by-time, delay: 5ms, jitter: 1ms, rate: 1Mbit/s, queue: 10KiB, loss: {p: 1%, r: 10%, bad: 50%, good: 1%}, reorder: {share: 1%, by: 1ms}, duplicate: 1%, corrupt: 1%, mtu: 1400}}
  l2: {between: [r1, r2]}
  l3: {between: [r2, r3]}
  l4: {between: [r3, b]}
servers:
  web: {on: b, kind: h2, goaway: 1%, streams: 5}
  dns: {on: b, kind: dns}
  mqtt: {on: b, kind: mqtt}
clients:
  c: {on: a, to: web, kind: h2, read_idle: 1s, ping_timeout: 1s, streams: 1, workload: {rate: 1/s, rate_to: 5/s}}
  m: {on: a, to: mqtt, kind: mqtt, qos: 1, ping_blocks: true, keepalive: 1s, workload: {topic: x}}
  d: {on: a, to: dns, kind: dns}
trial: {duration: 10s, pairs: 2}
names: {api: {server: web, ttl: 5s}}
kernel: {sysctl: {net.netfilter.nf_conntrack_max: 4096}}
faults:
  change: {at: 1s, on: dns, do: change-record, name: api, server: mqtt}
  drop: {at: 1s, on: l1, do: drop-once, match: {flow: c>web, flags: SA, nth: 1}}
  set: {at: 1s, on: l1, do: set, set: {loss: 1%}}
  lose: {at: 1s, on: l1, do: drop, match: {flags: PA}}
  close: {at: 1s, on: web, do: close-connections, with: rst}
arms: {a0: {baseline: true}}
`, `
experiment: more2
hosts: {h: {}, lb: {middlebox: {kind: l4lb, addresses: {vip: 10.9.0.1}, targets: [t]}}, t: {}, u: {}}
links: {l1: {between: [h, lb]}, l2: {between: [lb, t]}, l3: {between: [lb, u]}}
servers: {web: {on: t, kind: http}, sink: {on: u, kind: sink}, echo: {on: t, kind: echo}}
clients:
  c: {on: h, to: lb.vip, kind: http, workload: {connections: 2, response: 1KiB}}
  w: {on: h, to: lb.vip, kind: exec, exec: {argv: [x], ready: {log: up}, stop: SIGINT, grace: 1s, events: true}}
  s: {on: h, to: sink, flows: 2, receive: true, acks: false}
  e: {on: h, to: echo, reuse: pool, send: corked, workload: {kind: writes, trace: nagle.trace}}
trial: {duration: 10s}
faults:
  out: {at: 1s, on: lb, do: drop-target, target: t}
  in: {at: 1s, on: lb, do: add-target, target: u}
  slow: {at: 2s, on: web, do: slow, service: 1s}
arms: {a0: {baseline: true}}
evidence: {x: {capture: a0, show: reset, title: t, flow: c>web, at: slow + 1s}}
`, `
experiment: more3
wire: {delay: 1ms}
server: {kind: echo}
client: {exec: {argv: [x], env: {A: b}}}
trial: {duration: 10s}
arms: {a0: {baseline: true}}
`, `
experiment: more4
hosts: {client: {}, server: {}}
server: {kind: echo}
client: {reuse: pool, heartbeat: {every: 30s, timeout: 5s}}
links: {wire: {between: [client, server], wire: {delay: 1ms}, arp: real}}
workload: {rate: 10/s}
trial: {duration: 10s}
arms: {a0: {baseline: true}}
`, `
experiment: more6
hosts: {client: {}, server: {}}
wire: {delay: 1ms}
server: {kind: echo}
client: {reuse: pool}
workload: {kind: writes, parts: [100B, 900B], gap: 1ms}
trial: {duration: 10s}
arms: {a0: {baseline: true}}
`, `
experiment: more5
hosts: {a: {}, r: {router: {nat: l2, invalid: drop, track: true, notrack: false}}, b: {}}
links: {l1: {between: [a, r]}, l2: {between: [r, b]}}
servers: {web: {on: b, kind: echo}}
clients: {c: {on: a, to: web, reuse: pool, workload: {think: 9s, again: 1s}}}
trial: {duration: 10s}
faults:
  around: {at: 1s, for: 1s, on: r, do: bypass}
  fill: {at: 1s, on: r, do: fill, entries: 10, assured: false, timeout: 60s}
  look: {at: 2s, on: r, do: look, client: c}
arms: {a0: {baseline: true}}
`}
