// Package agent is the protocol between the lab and the processes inside
// hosts.
//
// An agent is a child process of the same binary. It reads NDJSON from stdin
// and writes NDJSON to stdout; nothing else is needed to drive one, so the
// same agent runs in a namespace, in a container and in a guest, and a user's
// own program can be wrapped by one. Instants are CLOCK_MONOTONIC
// nanoseconds. End of input means: exit within 100 ms.
package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// Message is one line, either way. Type says which fields count:
//
//	to the agent    job{role, kind, name, spec}  go{t0, from, to}  do{fault}  stop
//	from the agent  ready{addresses, options}  event{name, fields}  sample{values}  result{result, usage}  error{error}
type Message struct {
	Type string `json:"type"`
	At   int64  `json:"at,omitempty"`

	Role string          `json:"role,omitempty"`
	Kind string          `json:"kind,omitempty"`
	Name string          `json:"name,omitempty"` // of the program, or of the event
	Spec json.RawMessage `json:"spec,omitempty"`

	T0   int64 `json:"t0,omitempty"`
	From int64 `json:"from,omitempty"` // start of the measuring window
	To   int64 `json:"to,omitempty"`   // its end

	Fault *Fault `json:"fault,omitempty"`

	Addresses []string           `json:"addresses,omitempty"`
	Options   map[string]string  `json:"options,omitempty"` // read back from the kernel
	Fields    map[string]any     `json:"fields,omitempty"`
	Values    map[string]float64 `json:"values,omitempty"`
	Result    json.RawMessage    `json:"result,omitempty"`
	Usage     *Usage             `json:"usage,omitempty"`
	Error     string             `json:"error,omitempty"`
}

// Types of messages.
const (
	TypeJob    = "job"
	TypeGo     = "go"
	TypeDo     = "do"
	TypeStop   = "stop"
	TypeReady  = "ready"
	TypeEvent  = "event"
	TypeSample = "sample"
	TypeResult = "result"
	TypeError  = "error"
)

// Fault is a timed change, for the program that declares the verb.
type Fault struct {
	Name    string         `json:"name"`
	At      int64          `json:"at"` // instant it holds from: a wire decides by a frame's stamp
	Do      string         `json:"do"`
	Towards string         `json:"towards,omitempty"`
	Args    map[string]any `json:"args,omitempty"`
}

// Usage is what the agent's process cost, from getrusage(2).
type Usage struct {
	CPU       float64 `json:"cpu"`            // s, since the process began
	CPUWindow float64 `json:"cpu_window"`     // s, in the measuring window
	MaxRSS    int64   `json:"max_rss"`        // B
	Wakeups   int64   `json:"wakeups"`        // times that its threads went to sleep
	Nice      int     `json:"nice,omitempty"` // its nice value, as the kernel has it
}

// MaxLine bounds one message: a result carries a dozen histograms.
const MaxLine = 16 << 20

// An Encoder writes messages, one a line.
type Encoder struct{ w io.Writer }

// NewEncoder writes to w.
func NewEncoder(w io.Writer) *Encoder { return &Encoder{w} }

// Encode writes m with one Write call.
func (e *Encoder) Encode(m *Message) error {
	line, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("agent message %s: %w", m.Type, err)
	}
	_, err = e.w.Write(append(line, '\n'))
	return err
}

// A Decoder reads messages.
type Decoder struct{ s *bufio.Scanner }

// NewDecoder reads from r.
func NewDecoder(r io.Reader) *Decoder {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), MaxLine)
	return &Decoder{s}
}

// Garbage is the error for a line that is no message.
type Garbage struct{ Line string }

func (g *Garbage) Error() string { return fmt.Sprintf("not a message: %.80q", g.Line) }

// Decode reads the next message; io.EOF at the end, *Garbage for a line that
// is none.
func (d *Decoder) Decode() (*Message, error) {
	for d.s.Scan() {
		line := bytes.TrimSpace(d.s.Bytes())
		if len(line) == 0 {
			continue
		}
		var m Message
		if err := json.Unmarshal(line, &m); err != nil || m.Type == "" {
			return nil, &Garbage{Line: string(line)}
		}
		return &m, nil
	}
	if err := d.s.Err(); err != nil {
		return nil, fmt.Errorf("agent's output: %w", err)
	}
	return nil, io.EOF
}
