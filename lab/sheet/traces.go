package sheet

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"tcplab/lab/sheets"
	"tcplab/workloads"
)

// ownTrace gives the text of one of the lab's own traces.
func ownTrace(name string) ([]byte, error) {
	if text, ok := sheets.Trace(name); ok {
		return text, nil
	}
	return nil, fs.ErrNotExist
}

// TracesBeside finds traces in the folder of a sheet's file, and where there is
// none of that name, among the lab's own: a sheet of the lab that was saved and
// is run again has all that it had.
func TracesBeside(file string) func(name string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		path := name
		if !filepath.IsAbs(name) {
			path = filepath.Join(filepath.Dir(file), name)
		}
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return ownTrace(name)
		case err != nil:
			return nil, err
		case info.Size() > workloads.MaxTraceBytes:
			return make([]byte, workloads.MaxTraceBytes+1), nil // the parser says what is wrong
		}
		return os.ReadFile(path)
	}
}

// readTraces puts the traces themselves where the layers name their files: a
// resolved sheet is all that a guest and a record have.
func (s *source) readTraces() {
	each := func(n *node) *node { return s.withTraces(n) }
	s.base = each(s.base)
	for name, l := range s.profiles {
		s.profiles[name] = each(l)
	}
	for i := range s.arms {
		a := &s.arms[i]
		a.layer = each(a.layer)
		for name, l := range a.profiles {
			a.profiles[name] = each(l)
		}
	}
	for i := range s.sets {
		s.sets[i].tree = each(s.sets[i].tree)
	}
}

func (s *source) withTraces(layer *node) *node {
	for _, e := range mapEntries(layer.get("clients")) {
		w := e.val.get("workload")
		t := w.get("trace")
		if t == nil || t.kind != scalarNode {
			continue
		}
		text, ok := s.trace(t)
		if !ok {
			continue
		}
		w = w.with("trace", w.entry("trace").at, &node{kind: scalarNode, at: t.at, text: text})
		client := e.val.with("workload", e.val.entry("workload").at, w)
		layer = layer.with("clients", layer.entry("clients").at, layer.get("clients").with(e.key, e.at, client))
	}
	return layer
}

// trace is a trace's text, checked: of a file, or as it stands in the sheet,
// where it is several lines.
func (s *source) trace(n *node) (text string, ok bool) {
	name, inline := n.text, strings.Contains(n.text, "\n")
	if text = n.text; inline {
		name = "trace"
	} else {
		open := s.opts.Traces
		if open == nil {
			open = ownTrace
		}
		b, err := open(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			s.p.add(n.at, "name a file beside the sheet, or one of the lab's own: "+join(sheets.Traces()), "no trace `%s`", short(name))
			return "", false
		case err != nil:
			s.p.add(n.at, "name a file that can be read", "the trace `%s`: %v", short(name), err)
			return "", false
		}
		text = string(b)
		if s.traces == nil {
			s.traces = map[string]string{}
		}
		s.traces[name] = text
	}
	_, err := workloads.ParseTrace(name, []byte(text))
	var e *workloads.TraceError
	switch {
	case err == nil:
		return text, true
	case !errors.As(err, &e):
		s.p.add(n.at, "", "%v", err)
	case inline:
		s.p.add(n.at, e.Advice, "line %d, column %d of the trace: %s", e.Line, e.Col, e.Msg)
	default:
		s.p.add(pos{src: name, line: e.Line, col: e.Col}, e.Advice, "%s", e.Msg)
	}
	return "", false
}

// Recorded is the workload's trace; nil where it has none.
func (w Workload) Recorded() *workloads.Trace {
	if w.Trace == "" {
		return nil
	}
	t, err := workloads.ParseTrace("trace", []byte(w.Trace))
	if err != nil {
		panic("sheet: a trace passed the check: " + err.Error())
	}
	return t
}
