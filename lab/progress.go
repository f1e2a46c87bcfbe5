package lab

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"tcplab/lab/trial"
)

// NewWatcher draws bars on a terminal of that width, and log lines elsewhere
// (width 0).
func NewWatcher(w io.Writer, width int) Watcher {
	if width > 0 {
		return &bars{out: w, width: width}
	}
	return &logLines{log: slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			a.Value = slog.StringValue(a.Value.Time().Format("15:04:05"))
		}
		return a
	}}))}
}

// Quiet hears nothing.
type Quiet struct{}

func (Quiet) Plan(*Plan)      {}
func (Quiet) News(trial.News) {}
func (Quiet) Close()          {}

// bars is one bar for each trial, filled by its time.
type bars struct {
	out   io.Writer
	width int

	p     *mpb.Progress
	mu    sync.Mutex
	bar   map[int]*mpb.Bar
	state map[int]*trialState
	begun map[int]time.Time
}

// trialState is what a trial's bar says.
type trialState struct {
	phase  string
	rate   float64
	failed map[string]int64
	of     float64
}

// per is how many steps of a bar one second has.
const per = 10

func (b *bars) Plan(p *Plan) {
	b.p = mpb.New(mpb.WithOutput(b.out), mpb.WithWidth(max(10, min(40, b.width/4))), mpb.WithRefreshRate(150*time.Millisecond))
	b.bar, b.state, b.begun = map[int]*mpb.Bar{}, map[int]*trialState{}, map[int]time.Time{}
	for _, t := range p.Trials {
		arm, _ := armOf(p.Experiment, t.Arm)
		st := &trialState{phase: "waiting", of: arm.Trial.Length().Seconds()}
		b.state[t.Number] = st
		name := fmt.Sprintf("%d/%d %s", t.Number, len(p.Trials), t.Arm)
		b.bar[t.Number] = b.p.AddBar(int64(st.of*per)+1,
			mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return b.words(st) })))
	}
}

func (b *bars) words(s *trialState) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := " " + s.phase
	if s.rate > 0 {
		w += fmt.Sprintf("  %.0f/s", s.rate)
	}
	if e := errorWords(s.failed); e != "" {
		w += "  " + e
	}
	return w
}

func errorWords(failed map[string]int64) string {
	var ws []string
	for _, k := range slices.Sorted(maps.Keys(failed)) {
		ws = append(ws, fmt.Sprintf("%s %d", k, failed[k]))
	}
	return strings.Join(ws, " ")
}

func (b *bars) News(n trial.News) {
	b.mu.Lock()
	s, bar := b.state[n.Number], b.bar[n.Number]
	if s == nil {
		b.mu.Unlock()
		return
	}
	switch n.Type {
	case "phase":
		s.phase = n.Phase
	case "tick":
		s.rate = float64(n.OK) / n.Span
		s.phase = fmt.Sprintf("measuring, %.0f s left", max(0, n.Of-n.Seconds))
		if s.failed == nil {
			s.failed = map[string]int64{}
		}
		for k, v := range n.Errors {
			s.failed[k] += v
		}
	case "held":
		s.phase = "held: tcplab enter HOST (" + n.Text + "); Enter lets go"
	case "trial":
		s.phase, s.rate = "done", 0
		if !n.Trial.Validity.Valid {
			s.phase = "does not count: " + strings.Join(n.Trial.Validity.Reasons, "; ")
		}
	}
	b.mu.Unlock()
	// Outside the lock: a bar's decorators take it.
	switch n.Type {
	case "tick":
		bar.SetCurrent(min(int64(n.Seconds*per), int64(n.Of*per)))
	case "trial":
		bar.SetCurrent(1 << 40)
		bar.SetTotal(-1, true)
	}
}

func (b *bars) Close() {
	for _, bar := range b.bar {
		if !bar.Completed() {
			bar.Abort(false)
		}
	}
	if b.p != nil {
		b.p.Wait()
	}
}

// logLines says what changes, and a line each ten seconds in between.
type logLines struct {
	log  *slog.Logger
	last float64
}

func (l *logLines) Plan(p *Plan) {
	l.log.Info("plan", "experiment", p.Experiment.Name, "profile", p.Experiment.Profile, "trials", len(p.Trials), "seed", p.Seed, "takes", p.Takes())
}

func (l *logLines) News(n trial.News) {
	switch n.Type {
	case "phase":
		l.log.Info(n.Phase, "trial", n.Number, "arm", n.Arm)
		l.last = 0
	case "tick":
		if n.Seconds-l.last < 10 {
			return
		}
		l.last = n.Seconds
		l.log.Info("measuring", "trial", n.Number, "arm", n.Arm, "at", fmt.Sprintf("%.0fs of %.0fs", n.Seconds, n.Of), "rate", fmt.Sprintf("%.0f/s", float64(n.OK)/n.Span), "failed", n.Failed)
	case "held":
		l.log.Info("held", "trial", n.Number, "arm", n.Arm, "hosts", n.Text, "look", "tcplab enter HOST", "end", "a line on standard input, or SIGINT")
	case "trial":
		if n.Trial.Validity.Valid {
			l.log.Info("trial done", "trial", n.Number, "arm", n.Arm, "took", fmt.Sprintf("%.1fs", n.Trial.Took))
		} else {
			l.log.Warn("trial does not count", "trial", n.Number, "arm", n.Arm, "why", strings.Join(n.Trial.Validity.Reasons, "; "))
		}
	case "log":
		l.log.Info(n.Text)
	}
}

func (l *logLines) Close() {}
