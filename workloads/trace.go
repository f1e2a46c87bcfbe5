package workloads

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Writes is the kind of workload in which a request is several small writes.
const Writes = "writes"

// Trace is a recording of what programs wrote to their connections, to be
// replayed. Its text form has a line for each exchange, in order of their
// starts:
//
//	tcplab-trace 1
//	# START    CONNECTION  PARTS               ANSWER
//	0.012      0           100,900@0.000041    64
//	0.020518   1           120,80,700@0.0013   64
//	end 1.5
//
// START is when the exchange begins, in seconds since the recording did, with
// nine decimals at most. CONNECTION is a number, from 0 on. PARTS are the
// lengths of the writes in bytes, each with @ and its time in seconds since
// START; one without a time follows the one before it at once. ANSWER is how
// many bytes are awaited then. The last line says how long the recording took:
// a replay that lasts longer begins again there. What follows a # is a comment.
// Nothing of what was written is kept, only how much and when.
type Trace struct {
	Exchanges []Exchange
	Length    time.Duration
}

// Exchange is a request of several writes, and its answer.
type Exchange struct {
	Start      time.Duration // since the recording began
	Connection int
	Parts      []Part
	Answer     int // bytes
}

// Part is one write.
type Part struct {
	Bytes int
	At    time.Duration // since the exchange's start
}

// Bounds of a trace. It travels within a sheet, so it is small.
const (
	MaxTraceBytes  = 128 << 10
	MaxConnections = 1000
	MaxParts       = 64
	MaxPart        = 1 << 20
	MaxTraceLength = 24 * time.Hour

	// The echo protocol carries an exchange: a request's header and an
	// answer's have to fit.
	MinRequest = 8
	MinAnswer  = 4

	traceVersion = "tcplab-trace 1"
)

// TraceError is the first mistake of a trace. Line and Col are 1-based, and
// count lines and characters.
type TraceError struct {
	File        string
	Line, Col   int
	Msg, Advice string
}

// Error is one line: "my.trace:7:12: 3 bytes … : write at least 8".
func (e *TraceError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s: %s", e.File, e.Line, e.Col, e.Msg, e.Advice)
}

// ParseTrace reads a trace. The name is for errors, each of which is a
// *TraceError.
func ParseTrace(name string, text []byte) (*Trace, error) {
	p := &traceParser{name: name, line: 1, col: 1, busy: map[int]time.Duration{}, t: &Trace{}}
	if err := p.parse(string(text)); err != nil {
		return nil, err
	}
	return p.t, nil
}

type traceParser struct {
	name      string
	line, col int // of the field at hand
	t         *Trace
	busy      map[int]time.Duration // when a connection's last part was written
}

func (p *traceParser) fail(advice, format string, args ...any) error {
	return &TraceError{File: p.name, Line: p.line, Col: p.col, Msg: fmt.Sprintf(format, args...), Advice: advice}
}

func (p *traceParser) parse(text string) error {
	if len(text) > MaxTraceBytes {
		return p.fail("record for less long, or fewer connections", "a trace of %d bytes, and %d are the most", len(text), MaxTraceBytes)
	}
	first, rest, _ := strings.Cut(text, "\n")
	if strings.TrimSpace(uncommented(first)) != traceVersion {
		return p.fail("begin with the line `"+traceVersion+"`", "this is no trace")
	}
	ended := false
	for raw := range strings.SplitSeq(rest, "\n") {
		p.line, p.col = p.line+1, 1
		if !utf8.ValidString(raw) {
			return p.fail("save it as UTF-8", "not UTF-8")
		}
		fields := split(raw)
		if len(fields) == 0 {
			continue
		}
		p.col = fields[0].col
		if ended {
			return p.fail("let `end` be the last line", "something after the end")
		}
		var err error
		if ended = fields[0].text == "end"; ended {
			err = p.end(fields)
		} else {
			err = p.exchange(fields)
		}
		if err != nil {
			return err
		}
	}
	switch {
	case len(p.t.Exchanges) == 0:
		p.col = 1
		return p.fail("add one such as `0.01 0 100,900 64`", "no exchange")
	case !ended:
		p.col = 1
		return p.fail("finish with a line such as `end 1.5`: how long the recording took", "the trace is cut off: it has no end")
	}
	return nil
}

// field is a word of a line, with its column.
type field struct {
	text string
	col  int
}

func uncommented(line string) string {
	line, _, _ = strings.Cut(line, "#")
	return line
}

func split(line string) []field {
	var out []field
	col, from := 0, -1
	line = uncommented(line)
	start := 0
	for i, r := range line + " " {
		col++
		blank := r == ' ' || r == '\t' || r == '\r'
		switch {
		case !blank && from < 0:
			from, start = i, col
		case blank && from >= 0:
			out = append(out, field{line[from:i], start})
			from = -1
		}
	}
	return out
}

func (p *traceParser) end(fields []field) error {
	if len(fields) != 2 {
		return p.fail("write `end SECONDS`", "the end has %d fields, and needs 2", len(fields))
	}
	d, err := p.seconds(fields[1])
	if err != nil {
		return err
	}
	for _, x := range p.t.Exchanges {
		if last := x.Start + x.Parts[len(x.Parts)-1].At; last > d {
			return p.fail("write "+seconds(last)+" or more", "an end at %s, before the last write at %s", seconds(d), seconds(last))
		}
	}
	if d == 0 {
		return p.fail("write how long the recording took", "an end at 0")
	}
	p.t.Length = d
	return nil
}

func (p *traceParser) exchange(fields []field) error {
	if len(fields) != 4 {
		return p.fail("write START CONNECTION PARTS ANSWER, such as `0.01 0 100,900@0.00004 64`", "an exchange has 4 fields, and this line %d", len(fields))
	}
	var x Exchange
	var err error
	if x.Start, err = p.seconds(fields[0]); err != nil {
		return err
	}
	if n := len(p.t.Exchanges); n > 0 && x.Start < p.t.Exchanges[n-1].Start {
		return p.fail("put the lines in order of their starts", "a start at %s, after one at %s", seconds(x.Start), seconds(p.t.Exchanges[n-1].Start))
	}
	if x.Connection, err = p.number(fields[1], "a connection's number", 0, MaxConnections-1); err != nil {
		return err
	}
	if last, ok := p.busy[x.Connection]; ok && x.Start < last {
		p.col = fields[0].col
		return p.fail("a connection carries one exchange at a time: write "+seconds(last)+" or later", "connection %d begins an exchange at %s, and still writes until %s", x.Connection, seconds(x.Start), seconds(last))
	}
	if x.Parts, err = p.parts(fields[2]); err != nil {
		return err
	}
	if x.Answer, err = p.number(fields[3], "the answer's bytes", MinAnswer, 16*MaxPart); err != nil {
		return err
	}
	p.busy[x.Connection] = x.Start + x.Parts[len(x.Parts)-1].At
	p.t.Exchanges = append(p.t.Exchanges, x)
	return nil
}

func (p *traceParser) parts(f field) ([]Part, error) {
	var out []Part
	at, total, col := time.Duration(0), 0, f.col
	for word := range strings.SplitSeq(f.text, ",") {
		p.col = col
		if len(out) == MaxParts {
			return nil, p.fail("let writes that belong together be one", "more than %d parts", MaxParts)
		}
		length, when, timed := strings.Cut(word, "@")
		n, err := p.number(field{length, col}, "a part's bytes", 1, MaxPart)
		if err != nil {
			return nil, err
		}
		if timed {
			t, err := p.seconds(field{when, col + len([]rune(length)) + 1})
			if err != nil {
				return nil, err
			}
			if t < at {
				return nil, p.fail("write "+seconds(at)+" or later", "a part at %s, after one at %s", seconds(t), seconds(at))
			}
			at = t
		}
		out = append(out, Part{n, at})
		total += n
		col += len([]rune(word)) + 1
	}
	p.col = f.col
	switch {
	case out[0].At != 0:
		return nil, p.fail("let START be when the first part is written", "the first part is written %s after the exchange's start", seconds(out[0].At))
	case total < MinRequest:
		return nil, p.fail(fmt.Sprintf("write %d or more: it has the header of the lab's own protocol in it", MinRequest), "a request of %d bytes", total)
	case total > 16*MaxPart:
		return nil, p.fail("write less", "a request of %d bytes, and %d are the most", total, 16*MaxPart)
	}
	return out, nil
}

func (p *traceParser) number(f field, what string, low, high int) (int, error) {
	p.col = f.col
	n, err := strconv.Atoi(f.text)
	if err != nil || f.text[0] == '+' || n < low || n > high {
		return 0, p.fail(fmt.Sprintf("write a whole number from %d to %d", low, high), "`%s` is not %s", brief(f.text), what)
	}
	return n, nil
}

// seconds reads a time exactly: no floating point is between the file and the
// nanosecond.
func (p *traceParser) seconds(f field) (time.Duration, error) {
	p.col = f.col
	bad := func() (time.Duration, error) {
		return 0, p.fail("write seconds with nine decimals at most, such as 0.012", "`%s` is not a time", brief(f.text))
	}
	whole, frac, dot := strings.Cut(f.text, ".")
	if whole == "" || len(whole) > 9 || len(frac) > 9 || dot && frac == "" {
		return bad()
	}
	for _, r := range whole + frac {
		if r < '0' || r > '9' {
			return bad()
		}
	}
	ns, err := strconv.ParseInt(whole+frac+strings.Repeat("0", 9-len(frac)), 10, 64)
	if err != nil || ns > math.MaxInt64/2 {
		return bad()
	}
	if time.Duration(ns) > MaxTraceLength {
		return 0, p.fail("a trace lasts a day at most", "`%s` seconds are too long", brief(f.text))
	}
	return time.Duration(ns), nil
}

func brief(s string) string {
	if r := []rune(s); len(r) > 24 {
		return string(r[:23]) + "…"
	}
	return s
}

// seconds writes a time with as many decimals as it needs.
func seconds(d time.Duration) string {
	s := fmt.Sprintf("%d.%09d", d/time.Second, d%time.Second)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// String is the trace's text. Parsing it gives the same trace.
func (t *Trace) String() string {
	var b strings.Builder
	b.WriteString(traceVersion + "\n")
	b.WriteString(t.Lines())
	return b.String()
}

// Lines is the trace's text without its first line, for who has comments to
// put between.
func (t *Trace) Lines() string {
	var b strings.Builder
	for _, x := range t.Exchanges {
		fmt.Fprintf(&b, "%s %d ", seconds(x.Start), x.Connection)
		at := time.Duration(0)
		for i, p := range x.Parts {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strconv.Itoa(p.Bytes))
			if p.At != at {
				b.WriteString("@" + seconds(p.At))
				at = p.At
			}
		}
		fmt.Fprintf(&b, " %d\n", x.Answer)
	}
	fmt.Fprintf(&b, "end %s\n", seconds(t.Length))
	return b.String()
}

// Connections is how many connections it has.
func (t *Trace) Connections() int {
	seen := map[int]bool{}
	for _, x := range t.Exchanges {
		seen[x.Connection] = true
	}
	return len(seen)
}

// Within is how many exchanges start before a time, the trace beginning again
// whenever it is over.
func (t *Trace) Within(d time.Duration) int {
	n := int(d/t.Length) * len(t.Exchanges)
	for _, x := range t.Exchanges {
		if x.Start < d%t.Length {
			n++
		}
	}
	return n
}

// Rate is how many exchanges it offers per second.
func (t *Trace) Rate() float64 { return float64(len(t.Exchanges)) / t.Length.Seconds() }
