package sheet

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// traced is a sheet whose client and workload say what is given.
func traced(client, workload string) []byte {
	return []byte(`experiment: x
wire: {delay: 5ms}
server: {kind: echo}
client: {` + client + `}
workload: {` + workload + `}
trial: {duration: 10s}
arms:
  a: {baseline: true}
  b: {wire: {delay: 6ms}}
`)
}

const goodTrace = "tcplab-trace 1\n# of a test\n0.01 3 100,900@0.00004 64\n0.02 8 1000 64\nend 0.5\n"

// files gives traces by name, as a folder would.
func files(all map[string]string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		if text, ok := all[name]; ok {
			return []byte(text), nil
		}
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
}

func TestTraceTravelsWithinTheResolvedSheet(t *testing.T) {
	e, err := Parse("x.yaml", traced("reuse: pool, send: corked", "kind: writes, trace: my.trace"), Options{Traces: files(map[string]string{"my.trace": goodTrace})})
	if err != nil {
		t.Fatal(err)
	}
	c := e.Arms[0].Clients[0]
	if c.Workload.Trace != goodTrace || c.Workload.Connections != 2 || c.Pool.Size != 2 || c.Workload.Arrivals != "" || e.Traces["my.trace"] != goodTrace {
		t.Errorf("%+v", c)
	}
	if n := e.Arms[0].Numbers; n["rate"].V != 4 || n["exchanges"].V != 40 || n["connections"].V != 2 || n["size"].V != 0 {
		t.Errorf("numbers %v", n)
	}
	resolved, err := Resolved(e)
	if err != nil {
		t.Fatal(err)
	}
	// Nobody has the file any more.
	again, err := Parse("resolved.yaml", resolved, Options{Traces: files(nil)})
	if err != nil {
		t.Fatalf("%v\n%s", err, resolved)
	}
	if again.Arms[0].Clients[0].Workload.Trace != goodTrace {
		t.Errorf("%+v", again.Arms[0].Clients[0].Workload)
	}
	if twice, _ := Resolved(again); string(twice) != string(resolved) {
		t.Errorf("resolving again gives\n%s", twice)
	}
}

func TestTraceOfTheCommandLineIsRead(t *testing.T) {
	e, err := Parse("x.yaml", traced("reuse: pool", "kind: writes, trace: nagle.trace"), Options{Set: []string{"arms.b.workload.trace=my.trace"},
		Traces: files(map[string]string{"nagle.trace": goodTrace, "my.trace": strings.ReplaceAll(goodTrace, "900", "800")})})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := e.Arms[0].Clients[0].Workload.Recorded(), e.Arms[1].Clients[0].Workload.Recorded(); a.Exchanges[0].Parts[1].Bytes != 900 || b.Exchanges[0].Parts[1].Bytes != 800 {
		t.Errorf("%+v, %+v", a, b)
	}
}

func TestBrokenTraceIsRefusedWithTheSheet(t *testing.T) {
	traces := files(map[string]string{"my.trace": goodTrace, "broken.trace": "tcplab-trace 1\n0.01 0 100,9OO 64\nend 1\n"})
	for _, tt := range []struct{ client, workload, want string }{
		{"reuse: pool", "kind: writes, trace: broken.trace", "broken.trace:2:12: `9OO` is not a part's bytes: write a whole number from 1 to"},
		{"reuse: pool", "kind: writes, trace: none.trace", "x.yaml:5:33: no trace `none.trace`: name a file beside the sheet, or one of the lab's own: nagle.trace"},
		{"reuse: pool", `kind: writes, trace: "tcplab-trace 1\n0.01 0 1,2 64\nend 1\n"`, "x.yaml:5:33: line 2, column 8 of the trace: a request of 3 bytes: write 8 or more"},
		{"reuse: pool", "kind: writes", "x.yaml:5:12: workload kind writes needs a `trace`, or the length of each write: add `trace: FILE`"},
		{"", "kind: writes, trace: my.trace", "x.yaml:5:1: workload kind writes is for kept connections, and `reuse` is none: write `reuse: pool` for the client"},
		{"reuse: pool", "kind: writes, trace: my.trace, rate: 5/s", "x.yaml:5:43: a trace says itself when each request begins"},
		{"reuse: pool", "kind: writes, trace: my.trace, connections: 5", "x.yaml:5:43: a trace says itself"},
		{"reuse: pool, pool: {size: 3}", "kind: writes, trace: my.trace", "x.yaml:4:30: the trace says how many connections there are"},
		{"reuse: pool", "trace: my.trace", "x.yaml:5:12: a trace is of workload kind writes, not requests: write `kind: writes`"},
		{"reuse: pool, pool: {idle: 1s}", "kind: writes, trace: my.trace", "x.yaml:4:30: `pool.idle` is not of workload kind writes"},
		{"reuse: pool, awaits: 5B", "kind: writes, trace: my.trace", "x.yaml:4:23: `awaits` is not of workload kind writes"},
		{"reuse: pool, send: corked", "rate: 5/s", "x.yaml:4:23: `send` is how several writes are made, and a request of workload kind requests is one"},
		{"reuse: pool", "kind: writes, rate: 5/s, parts: [3B, 4B]", "x.yaml:5:37: parts of 7 bytes together"},
		{"reuse: pool", "kind: writes, rate: 5/s, parts: [30B, 0B]", "x.yaml:5:37: a write of nothing"},
		{"reuse: pool", "kind: writes, rate: 5/s, parts: [30B], size: 30B", "x.yaml:5:51: `parts` say how long a request is: leave it out"},
	} {
		_, err := Parse("x.yaml", traced(tt.client, tt.workload), Options{Traces: traces})
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s; %s:\n%v\nwant %s", tt.client, tt.workload, err, tt.want)
		}
	}
}

func TestTraceIsFoundBesideItsSheetAndElseAmongTheLabsOwn(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "my.trace"), []byte(goodTrace), 0o644); err != nil {
		t.Fatal(err)
	}
	find := TracesBeside(filepath.Join(dir, "x.yaml"))
	if text, err := find("my.trace"); err != nil || string(text) != goodTrace {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := find("nagle.trace"); err != nil || !strings.HasPrefix(string(text), "tcplab-trace 1") {
		t.Errorf("%.20q, %v", text, err)
	}
	if _, err := find("none.trace"); err == nil {
		t.Error("a trace that nobody has")
	}
}
