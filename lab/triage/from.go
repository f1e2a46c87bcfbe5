package triage

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tcplab/netns/probe"
)

//go:embed collector.sh
var collector string

// Script is the collector: a POSIX shell script that prints what From reads.
func Script() string {
	return strings.ReplaceAll(collector, "@SYSCTLS@", strings.Join(sysctls, " "))
}

// collected is the first line of the collector's output.
const collected = "# tcplab triage collector "

// Read is what From made of its input.
type Read struct {
	A, B   Sample // A is the zero Sample where there is one only
	Host   string // "" where the input does not say
	Kernel string
}

// From reads the collector's output, or that of ss alone.
func From(text string) (Read, error) {
	var r Read
	// What an editor or another system has done to the file.
	text = strings.ReplaceAll(strings.TrimPrefix(text, "\ufeff"), "\r\n", "\n")
	switch {
	case strings.TrimSpace(text) == "":
		return r, &SyntaxError{0, "the input is empty", giveSS}
	case strings.HasPrefix(text, collected):
		return fromCollector(text)
	}
	l, err := parseSS(text, 1)
	if err != nil {
		return r, err
	}
	r.B = Sample{At: time.Second, Sockets: l.sockets, Known: l.known}
	r.B.countUnnamed()
	return r, nil
}

// section is a part of the collector's output.
type section struct {
	text string
	line int // of its first line
}

func sections(text string) (map[string]section, error) {
	out := map[string]section{}
	name, from, no := "", 0, 0
	var b strings.Builder
	ended := false
	for line := range strings.Lines(text) {
		no++
		head, ok := strings.CutPrefix(line, "== ")
		if !ok || !strings.HasSuffix(line, "\n") {
			b.WriteString(line)
			continue
		}
		if name != "" {
			out[name] = section{b.String(), from}
		}
		name, from = strings.TrimSpace(head), no+1
		b.Reset()
		if name == "end" {
			ended = true
			break
		}
		if _, twice := out[name]; twice {
			return nil, &SyntaxError{no, fmt.Sprintf("a second section %q: two outputs in one?", name), "give one output of the collector"}
		}
	}
	if !ended {
		return nil, &SyntaxError{no, fmt.Sprintf("the output was cut in section %q", name), "give all of it, up to the line == end"}
	}
	return out, nil
}

func fromCollector(text string) (Read, error) {
	var r Read
	first, _, _ := strings.Cut(text, "\n")
	if v := strings.TrimPrefix(first, collected); strings.TrimSpace(v) != "1" {
		return r, &SyntaxError{1, fmt.Sprintf("output of a collector of version %.20q", v), "take the collector of this tcplab: tcplab triage --script"}
	}
	parts, err := sections(text)
	if err != nil {
		return r, err
	}
	at := func(s section, err error) error {
		var se *SyntaxError
		if err == nil || errors.As(err, &se) {
			return err
		}
		return &SyntaxError{s.line, err.Error(), "run the collector again: tcplab triage --script"}
	}
	host := strings.Split(parts["host"].text+"\n\n", "\n")
	r.Host, r.Kernel = printable(host[0]), printable(host[1])
	sys := map[string]string{}
	for line := range strings.Lines(parts["sysctl"].text) {
		if k, v, ok := strings.Cut(line, " = "); ok {
			sys[k] = strings.Join(strings.Fields(v), " ")
		}
	}
	for i, to := range []*Sample{&r.A, &r.B} {
		n := " " + strconv.Itoa(i+1)
		s := Sample{Sysctls: sys}
		clock := parts["time"+n]
		up, err := strconv.ParseFloat(strings.TrimSpace(clock.text), 64)
		if err != nil || !(up > 0) || up > 1e10 {
			return r, &SyntaxError{clock.line, fmt.Sprintf("section \"time%s\" has no time", n), "run the collector again: tcplab triage --script"}
		}
		s.At = time.Duration(up * 1e9)
		if c := parts["nstat"+n]; strings.TrimSpace(c.text) != "" {
			if s.Counters, err = parseCounters(c.text); err != nil {
				return r, at(c, err)
			}
		}
		if c := parts["sockstat"+n]; strings.TrimSpace(c.text) != "" {
			st, err := probe.ParseSockstat([]byte(c.text))
			if err != nil {
				return r, at(c, err)
			}
			s.Sockstat = &st
		}
		if c := parts["conntrack"+n]; strings.TrimSpace(c.text) != "" {
			if s.Conntrack, err = parseCollectedConntrack(c.text); err != nil {
				return r, at(c, err)
			}
		}
		if c, ok := parts["ss"+n]; ok {
			l, err := parseSS(c.text, c.line)
			if err != nil {
				return r, err
			}
			s.Sockets, s.Known = l.sockets, l.known
			// The collector asks for everything: what is not there is not so.
			s.Known.Timers, s.Known.Owners, s.Known.Partial = true, true, false
			s.Known.Info = i == 1 && (l.known.Info || !slices.ContainsFunc(s.Sockets, func(k Socket) bool { return hasInfo(&k) }))
		} else {
			c := parts["tcp"+n]
			if s.Sockets, err = parseProcTCP(c.text, c.line); err != nil {
				return r, err
			}
			s.Known = Known{Timers: true, Owners: true, NoBacklog: true}
		}
		*to = s
	}
	if r.B.At <= r.A.At {
		return r, &SyntaxError{parts["time 2"].line, "the second look was not after the first", "run the collector again: tcplab triage --script"}
	}
	r.B.limits(parts["limits"].text)
	r.B.countUnnamed()
	return r, nil
}

// parseCounters reads nstat's table, or the texts of /proc/net/snmp and
// netstat.
func parseCounters(text string) (map[string]int64, error) {
	m := map[string]int64{}
	if !strings.HasPrefix(text, "#") {
		return m, probe.EachCounter([]byte(text), func(group, name []byte, v int64) { m[string(group)+string(name)] = v })
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if len(f) < 2 {
			return nil, fmt.Errorf("%.40q is no line of nstat", strings.TrimSpace(line))
		}
		v, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			u, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%.40q is no line of nstat", strings.TrimSpace(line))
			}
			v = int64(u)
		}
		m[f[0]] = v
	}
	return m, nil
}

func parseCollectedConntrack(text string) (*Conntrack, error) {
	if strings.TrimSpace(text) == "none" {
		return &Conntrack{}, nil
	}
	var entries, most int64
	rest := text
	for _, f := range []struct {
		name string
		to   *int64
	}{{"count", &entries}, {"max", &most}} {
		line, tail, _ := strings.Cut(rest, "\n")
		v, ok := strings.CutPrefix(line, f.name)
		if !ok {
			return nil, fmt.Errorf("%.40q where the tracker's %s should be", line, f.name)
		}
		if v = strings.TrimSpace(v); v != "" {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("%.40q is no number of entries", v)
			}
			*f.to = n
		}
		rest = tail
	}
	c, err := ParseConntrackStat([]byte(rest))
	if entries > 0 {
		c.Entries = entries
	}
	c.Max = most
	return &c, err
}

// limits gives the processes what the collector says of their descriptors.
func (s *Sample) limits(text string) {
	by := map[int][2]int{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		pid, err := strconv.Atoi(f[0])
		files, err2 := strconv.Atoi(f[1])
		limit, err3 := strconv.Atoi(f[2])
		if err == nil && err2 == nil && err3 == nil && files >= 0 && limit >= 0 {
			by[pid] = [2]int{files, limit}
		}
	}
	for i := range s.Sockets {
		if p := s.Sockets[i].Owner; p != nil {
			if l, ok := by[p.PID]; ok {
				p.Files, p.FileLimit = l[0], l[1]
			}
		}
	}
}

// countUnnamed counts the sockets in question whose process the input does not
// name.
func (s *Sample) countUnnamed() {
	if !s.Known.Owners {
		return
	}
	want := map[uint32]bool{}
	for _, i := range s.Questionable() {
		want[i] = true
	}
	for i := range s.Sockets {
		if k := &s.Sockets[i]; k.Owner != nil {
			delete(want, k.Inode)
		}
	}
	if s.Unnamed = len(want); s.Unnamed > 0 {
		s.UnnamedWhy = "the list has no process for them: take it as root, and with ss -p, as the collector does where there is ss"
	}
}
