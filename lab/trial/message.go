// Package trial executes trials inside the process tree: one order comes in,
// measured trials go out.
//
// It measures and does not judge: what it hands over is the record of each
// trial, complete with files, metrics and the reasons why it may not count.
// Everything that varies a trial is in the order (the sheet, the arm, the
// seed), so the same order gives the same trial wherever the tree runs.
package trial

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"tcplab/results"
)

// Order is what the outer process sends: first "run", then perhaps "release"
// (a hold ends) or "stop" (end the trial, write what was measured).
type Order struct {
	Type string `json:"type"`

	File    string            `json:"file,omitempty"`   // the sheet's name, for errors
	Text    []byte            `json:"text,omitempty"`   // its bytes
	Traces  map[string]string `json:"traces,omitempty"` // those that it names
	Profile string            `json:"profile,omitempty"`
	Kernel  string            `json:"kernel,omitempty"`
	Clock   string            `json:"clock,omitempty"`
	Set     []string          `json:"set,omitempty"`
	Trials  []Planned
	Dir     string `json:"dir,omitempty"` // the run's folder
	Hold    *Hold  `json:"hold,omitempty"`
}

// Planned is one trial of the plan.
type Planned struct {
	Number int    `json:"number"`
	Arm    string `json:"arm"`
	Pair   int    `json:"pair"`
	Seed   uint64 `json:"seed"`
	// Set is what a point of a sweep merges over the sheet, as PATH=VALUE; the
	// arm's name has the point in brackets then.
	Set []string `json:"set,omitempty"`
}

// Hold keeps the hosts of one trial up.
type Hold struct {
	Arm string  `json:"arm"` // "" is the last trial
	At  float64 `json:"at"`  // s after go; 0 is the end
}

// News is what the worker says.
type News struct {
	Type string `json:"type"` // environment | phase | tick | held | trial | log | done | error

	Environment *results.Environment `json:"environment,omitempty"`
	Trial       *results.Trial       `json:"trial,omitempty"`
	Unsupported map[string]string    `json:"unsupported,omitempty"` // arm → what the kernel lacks

	Number  int     `json:"number,omitempty"`
	Arm     string  `json:"arm,omitempty"`
	Phase   string  `json:"phase,omitempty"`
	Seconds float64 `json:"seconds,omitempty"` // of the phase, or since go
	Of      float64 `json:"of,omitempty"`      // the whole trial's length

	OK     int64            `json:"ok,omitempty"` // completed since the last tick
	Failed int64            `json:"failed,omitempty"`
	Errors map[string]int64 `json:"errors,omitempty"`
	Span   float64          `json:"span,omitempty"` // s that the counts cover

	Text string `json:"text,omitempty"`
	Code int    `json:"code,omitempty"` // exit code of the design, with error
}

// NewsFile is where a worker in a guest leaves the news that the record is
// made of: a console is no place for it.
const NewsFile = "news.ndjson"

// sender writes news, one JSON value a line, from any goroutine.
type sender struct {
	mu   sync.Mutex
	w    io.Writer
	keep io.Writer // nil: everything goes to w
}

func (s *sender) send(n News) error {
	line, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("news: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.w
	switch n.Type {
	case "environment", "unsupported", "trial", "error":
		if s.keep != nil {
			w = s.keep
		}
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// Failure is an error with the exit code that it means.
type Failure struct {
	Code int
	Err  error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }
