package probe

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"sort"
	"strings"
)

// Difference is a number that the system's own tool gives otherwise than we
// do, by more than 1%, although ours was read just before and just after.
type Difference struct {
	What          string // "ss: TIME-WAIT sockets", "nstat: TcpActiveOpens"
	Before, After int64  // ours
	Theirs        int64
}

func (d Difference) String() string {
	if d.Before == d.After {
		return fmt.Sprintf("%s: %d, ours %d", d.What, d.Theirs, d.Before)
	}
	return fmt.Sprintf("%s: %d, ours %d before and %d after", d.What, d.Theirs, d.Before, d.After)
}

// tolerance between a tool's number and ours, once what changed in between is
// allowed for.
const tolerance = 0.01

// perState is how many lines of ss are kept for each state.
const perState = 50

// CompareTools asks `ss -tan` and `nstat -asz` once, between two readings of
// our own, and compares: counts of sockets by state, and every counter that
// both have. run executes a command inside the probe's namespace and gives
// its standard output; it fails with exec.ErrNotFound or fs.ErrNotExist where
// there is no such tool, which the text then says. nstat's history is neither
// read nor written (-a with -s).
//
// A count of sockets moves while ss walks the table, so that as many may
// differ as connections were opened or left TIME-WAIT between our readings.
func (p *Probe) CompareTools(run func(argv ...string) ([]byte, error)) (text string, diffs []Difference, err error) {
	var b strings.Builder
	ss, err := p.compareSS(&b, run)
	if err != nil {
		return b.String(), nil, err
	}
	ns, err := p.compareNstat(&b, run)
	return b.String(), append(ss, ns...), err
}

func missing(err error) bool {
	return errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist)
}

func (p *Probe) compareSS(b *strings.Builder, run func(...string) ([]byte, error)) ([]Difference, error) {
	before, err := p.reading()
	if err != nil {
		return nil, err
	}
	out, err := run("ss", "-tan")
	if missing(err) {
		fmt.Fprintf(b, "ss is not installed (Debian: iproute2): not compared.\n\n")
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ss -tan: %w", err)
	}
	after, err := p.reading()
	if err != nil {
		return nil, err
	}
	theirs, kept, err := parseSS(out)
	if err != nil {
		return nil, fmt.Errorf("ss -tan: %w", err)
	}
	moved := after.moved - before.moved
	diffs := compareStates(before.states, after.states, theirs, moved)
	fmt.Fprintf(b, "$ ss -tan\n%s\n", kept)
	fmt.Fprintf(b, "%-14s %10s %10s %10s\n", "state", "before", "ss", "after")
	for _, s := range states(before.states, after.states, theirs) {
		fmt.Fprintf(b, "%-14s %10d %10d %10d\n", s, before.states[s], theirs[s], after.states[s])
	}
	fmt.Fprintf(b, "%d connections opened or left TIME-WAIT meanwhile.\n", moved)
	writeDiffs(b, diffs)
	return diffs, nil
}

func (p *Probe) compareNstat(b *strings.Builder, run func(...string) ([]byte, error)) ([]Difference, error) {
	before, err := p.Counters()
	if err != nil {
		return nil, err
	}
	out, err := run("nstat", "-asz")
	if missing(err) {
		fmt.Fprintf(b, "nstat is not installed (Debian: iproute2): not compared.\n")
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("nstat -asz: %w", err)
	}
	after, err := p.Counters()
	if err != nil {
		return nil, err
	}
	theirs, err := parseNstat(out)
	if err != nil {
		return nil, fmt.Errorf("nstat -asz: %w", err)
	}
	diffs := compareCounters(before, after, theirs)
	fmt.Fprintf(b, "$ nstat -asz   # those that are not 0\n")
	fmt.Fprintf(b, "%-32s %16s %16s %16s\n", "counter", "before", "nstat", "after")
	for _, n := range sortedKeys(theirs) {
		if theirs[n] != 0 || before[n] != 0 {
			fmt.Fprintf(b, "%-32s %16d %16d %16d\n", n, before[n], theirs[n], after[n])
		}
	}
	writeDiffs(b, diffs)
	return diffs, nil
}

func writeDiffs(b *strings.Builder, diffs []Difference) {
	if len(diffs) == 0 {
		fmt.Fprintf(b, "No difference over 1%%.\n\n")
		return
	}
	for _, d := range diffs {
		fmt.Fprintf(b, "DIFFERENCE over 1%%: %s\n", d)
	}
	b.WriteByte('\n')
}

// reading is our count of sockets, and a counter that grows by at least one
// for each socket that changes its state for good.
type reading struct {
	states map[string]int
	moved  int64
}

var movers = []string{"TcpActiveOpens", "TcpPassiveOpens", "TcpEstabResets", "TcpExtTW", "TcpExtTWRecycled", "TcpExtTWKilled"}

func (p *Probe) reading() (r reading, err error) {
	var v [8]int64
	if err = p.Sample(movers, v[:len(movers)]); err != nil {
		return r, err
	}
	for _, n := range v[:len(movers)] {
		r.moved += n
	}
	c, err := p.Census([2]int{1, 65535})
	r.states = c.ByState
	return r, err
}

// outside is how far v lies outside the interval between a and b, widened by
// slack, as a share of the nearer end.
func outside(v, a, b, slack int64) float64 {
	low, high := min(a, b)-slack, max(a, b)+slack
	switch {
	case v < low:
		return float64(low-v) / float64(max(low, 1))
	case v > high:
		return float64(v-high) / float64(max(high, 1))
	}
	return 0
}

func compareStates(before, after, theirs map[string]int, moved int64) (diffs []Difference) {
	for _, s := range states(before, after, theirs) {
		a, b, v := int64(before[s]), int64(after[s]), int64(theirs[s])
		if outside(v, a, b, moved) > tolerance {
			diffs = append(diffs, Difference{"ss: " + s + " sockets", a, b, v})
		}
	}
	return diffs
}

func compareCounters(before, after, theirs map[string]int64) (diffs []Difference) {
	moved := int64(0)
	for _, n := range movers {
		moved += after[n] - before[n]
	}
	for _, n := range sortedKeys(theirs) {
		a, ok := before[n]
		if !ok {
			continue // IPv6's, SCTP's
		}
		slack := int64(0)
		if n == "TcpCurrEstab" { // a gauge
			slack = moved
		}
		if outside(theirs[n], a, after[n], slack) > tolerance {
			diffs = append(diffs, Difference{"nstat: " + n, a, after[n], theirs[n]})
		}
	}
	return diffs
}

func states(ms ...map[string]int) []string {
	all := map[string]int64{}
	for _, m := range ms {
		for s := range m {
			all[s] = 0
		}
	}
	return sortedKeys(all)
}

func sortedKeys(m map[string]int64) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// ssNames are ss's own names where they are not RFC 9293's (misc/ss.c).
var ssNames = map[string]string{"ESTAB": "ESTABLISHED", "UNCONN": "CLOSED"}

// parseSS counts the lines of `ss -tan` by state, and keeps the first of each.
func parseSS(out []byte) (counts map[string]int, kept string, err error) {
	counts = map[string]int{}
	var b strings.Builder
	for i, line := range strings.Split(strings.TrimRight(string(out), "\n"), "\n") {
		state, _, _ := strings.Cut(line, " ")
		if i == 0 && state == "State" {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			continue
		}
		if line == "" {
			continue
		}
		if n, ok := ssNames[state]; ok {
			state = n
		}
		if !known(state) {
			return nil, "", fmt.Errorf("line %d has the unknown state %.20q", i+1, state)
		}
		if counts[state]++; counts[state] <= perState {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
		}
	}
	for _, s := range states(counts) {
		if n := counts[s] - perState; n > 0 {
			fmt.Fprintf(&b, "… and %d more in %s\n", n, s)
		}
	}
	return counts, b.String(), nil
}

func known(state string) bool {
	for _, n := range stateNames[1:] {
		if n == state {
			return true
		}
	}
	return false
}

// parseNstat reads lines "NAME VALUE RATE".
func parseNstat(out []byte) (map[string]int64, error) {
	m := map[string]int64{}
	for len(out) > 0 {
		var line []byte
		line, out, _ = bytes.Cut(out, nl)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		name, rest := field(line)
		num, _ := field(rest)
		v, err := number(num)
		if err != nil {
			return nil, fmt.Errorf("%.40q: %w", line, err)
		}
		m[string(name)] = v
	}
	if len(m) == 0 {
		return nil, errors.New("it printed no counter")
	}
	return m, nil
}
