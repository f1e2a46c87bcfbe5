package workloads

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const someTrace = `tcplab-trace 1   # a comment
# header and body
0.012    0 100,900@0.000041 64

0.020518 1 120,80,700@0.0013 64	# three writes
1        0 1000 4
end 1.5
# and nothing more
`

func TestTraceIsRead(t *testing.T) {
	got, err := ParseTrace("some.trace", []byte(someTrace))
	if err != nil {
		t.Fatal(err)
	}
	want := &Trace{Length: 1500 * time.Millisecond, Exchanges: []Exchange{
		{12 * time.Millisecond, 0, []Part{{100, 0}, {900, 41 * time.Microsecond}}, 64},
		{20518 * time.Microsecond, 1, []Part{{120, 0}, {80, 0}, {700, 1300 * time.Microsecond}}, 64},
		{time.Second, 0, []Part{{1000, 0}}, 4},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if got.Connections() != 2 || got.Rate() != 2 {
		t.Errorf("%d connections, %v/s", got.Connections(), got.Rate())
	}
	for d, n := range map[time.Duration]int{0: 0, 12 * time.Millisecond: 0, 12*time.Millisecond + 1: 1, time.Second: 2, 1500 * time.Millisecond: 3, 3015 * time.Millisecond: 7} {
		if got.Within(d) != n {
			t.Errorf("%d exchanges within %v, not %d", got.Within(d), d, n)
		}
	}
	if dos, err := ParseTrace("dos.trace", []byte(strings.ReplaceAll(someTrace, "\n", "\r\n"))); err != nil || !reflect.DeepEqual(dos, want) {
		t.Errorf("with the line ends of another system: %+v, %v", dos, err)
	}
}

func TestTraceOfTheDocumentIsOne(t *testing.T) {
	text, err := os.ReadFile("../docs/traces.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "\n```\ntcplab-trace")
	example, _, found := strings.Cut("tcplab-trace"+after, "```")
	if tr, err := ParseTrace("docs/traces.md", []byte(example)); !found || err != nil || len(tr.Exchanges) != 3 {
		t.Errorf("%v\n%s", err, example)
	}
}

func TestBrokenTraceIsRefusedWithItsPlace(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", "t:1:1: this is no trace: begin with the line `tcplab-trace 1`"},
		{"tcplab-trace 2\n", "t:1:1: this is no trace: begin with the line `tcplab-trace 1`"},
		{"GET / HTTP/1.1\n", "t:1:1: this is no trace"},
		{"tcplab-trace 1\n0 0 1000 64\n", "t:3:1: the trace is cut off: it has no end"},
		{"tcplab-trace 1\nend 1\n", "t:3:1: no exchange: add one such as"},
		{"tcplab-trace 1\n0 0 1000\nend 1\n", "t:2:1: an exchange has 4 fields, and this line 3: write START CONNECTION PARTS ANSWER"},
		{"tcplab-trace 1\n  0 0 1000 64 7\nend 1\n", "t:2:3: an exchange has 4 fields, and this line 5"},
		{"tcplab-trace 1\n-1 0 1000 64\nend 1\n", "t:2:1: `-1` is not a time: write seconds"},
		{"tcplab-trace 1\n1e3 0 1000 64\nend 1\n", "t:2:1: `1e3` is not a time"},
		{"tcplab-trace 1\n0. 0 1000 64\nend 1\n", "t:2:1: `0.` is not a time"},
		{"tcplab-trace 1\n0.0000000001 0 1000 64\nend 1\n", "t:2:1: `0.0000000001` is not a time"},
		{"tcplab-trace 1\n86401 0 1000 64\nend 1\n", "t:2:1: `86401` seconds are too long"},
		{"tcplab-trace 1\n0 1000 1000 64\nend 1\n", "t:2:3: `1000` is not a connection's number: write a whole number from 0 to 999"},
		{"tcplab-trace 1\n0 +1 1000 64\nend 1\n", "t:2:3: `+1` is not a connection's number"},
		{"tcplab-trace 1\n0 0 100,,900 64\nend 1\n", "t:2:9: `` is not a part's bytes"},
		{"tcplab-trace 1\n0 0 100,9OO 64\nend 1\n", "t:2:9: `9OO` is not a part's bytes"},
		{"tcplab-trace 1\n0 0 100,900@x 64\nend 1\n", "t:2:13: `x` is not a time"},
		{"tcplab-trace 1\n0 0 100@1,900 64\nend 1\n", "t:2:5: the first part is written 1 after the exchange's start: let START be"},
		{"tcplab-trace 1\n0 0 100,900@0.2,7@0.1 64\nend 1\n", "t:2:19: a part at 0.1, after one at 0.2: write 0.2 or later"},
		{"tcplab-trace 1\n0 0 1,2 64\nend 1\n", "t:2:5: a request of 3 bytes: write 8 or more"},
		{"tcplab-trace 1\n0 0 100 3\nend 1\n", "t:2:9: `3` is not the answer's bytes: write a whole number from 4"},
		{"tcplab-trace 1\n1 0 100 64\n0.5 1 100 64\nend 2\n", "t:3:1: a start at 0.5, after one at 1: put the lines in order"},
		{"tcplab-trace 1\n1 0 100,9@0.2 64\n1.1 0 100 64\nend 2\n", "t:3:1: connection 0 begins an exchange at 1.1, and still writes until 1.2"},
		{"tcplab-trace 1\n1 0 100,9@0.2 64\nend 1.1\n", "t:3:5: an end at 1.1, before the last write at 1.2: write 1.2 or more"},
		{"tcplab-trace 1\n0 0 100 64\nend 0\n", "t:3:5: an end at 0: write how long"},
		{"tcplab-trace 1\n0 0 100 64\nend\n", "t:3:1: the end has 1 fields, and needs 2"},
		{"tcplab-trace 1\n0 0 100 64\nend 1\n0 0 100 64\n", "t:4:1: something after the end"},
		{"tcplab-trace 1\n0 0 100 \xff\nend 1\n", "t:2:1: not UTF-8"},
		{"tcplab-trace 1\n" + strings.Repeat("#", MaxTraceBytes), "t:1:1: a trace of 131087 bytes, and 131072 are the most: record for less long"},
		{"tcplab-trace 1\n0 0 " + strings.Repeat("8,", MaxParts) + "8 64\nend 1\n", "t:2:133: more than 64 parts"},
	} {
		_, err := ParseTrace("t", []byte(tt.text))
		var e *TraceError
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%.40q: %v\nwant %s", tt.text, err, tt.want)
		}
	}
}

// drawTrace is any trace that there can be.
func drawTrace(t *rapid.T) *Trace {
	out := &Trace{}
	start, last := time.Duration(0), time.Duration(0)
	busy := map[int]time.Duration{}
	for range rapid.IntRange(1, 20).Draw(t, "exchanges") {
		start += time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "gap"))
		x := Exchange{Start: start, Connection: rapid.IntRange(0, 4).Draw(t, "connection"), Answer: rapid.IntRange(MinAnswer, 16*MaxPart).Draw(t, "answer")}
		if x.Start < busy[x.Connection] {
			continue
		}
		at := time.Duration(0)
		for i := range rapid.IntRange(1, 5).Draw(t, "parts") {
			if i > 0 {
				at += time.Duration(rapid.Int64Range(0, 1e8).Draw(t, "pause"))
			}
			x.Parts = append(x.Parts, Part{rapid.IntRange(MinRequest, MaxPart).Draw(t, "bytes"), at})
		}
		busy[x.Connection] = x.Start + at
		last = max(last, busy[x.Connection])
		out.Exchanges = append(out.Exchanges, x)
	}
	out.Length = last + 1 + time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "rest"))
	return out
}

func TestTraceThatIsWrittenReadsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := drawTrace(t)
		got, err := ParseTrace("t", []byte(tr.String()))
		if err != nil {
			t.Fatalf("%v\n%s", err, tr)
		}
		if !reflect.DeepEqual(got, tr) {
			t.Fatalf("%+v\n%+v", got, tr)
		}
	})
}

func FuzzTrace(f *testing.F) {
	f.Add([]byte(someTrace))
	f.Add([]byte("tcplab-trace 1\n0 0 8 4\nend 1"))
	f.Add([]byte("tcplab-trace 1\n0 0 100,900@\nend 1\n"))
	f.Add([]byte("tcplab-trace 1\n9999999999 0 100 64"))
	f.Add([]byte("tcplab-trace 1\n0 0 \xc3\x28 64\nend 1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		tr, err := ParseTrace("t", text)
		if err != nil {
			var e *TraceError
			if !errors.As(err, &e) || e.Line < 1 || e.Col < 1 || e.Advice == "" {
				t.Fatalf("%#v", err)
			}
			return
		}
		again, err := ParseTrace("t", []byte(tr.String()))
		if err != nil || !reflect.DeepEqual(again, tr) {
			t.Fatalf("%v\n%s\n%s", err, text, tr)
		}
	})
}
