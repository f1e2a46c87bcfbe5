// Package server is who answers. It believes that the server under a lab's
// client must never be the bottleneck unless it was asked to be: its capacity
// is workers × service time, kept by arithmetic on a timer and not by threads
// that sleep, and so it is the same on a busy machine and in a guest where CPU
// costs nothing. It sets every socket option itself and says what the kernel
// made of it. Go's own keepalive (15 s, on by default) is off: it would hide
// what idleness does to a connection.
package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"tcplab/lab/socket"
)

// Kinds of server.
const (
	Echo    = "echo" // length-prefixed frames, answered with their own payload
	HTTP    = "http" // net/http: a POST is answered with its own body
	H2      = "h2"   // the same over HTTP/2 in cleartext, with prior knowledge (RFC 9113, 3.3)
	MQTT    = "mqtt" // an MQTT 3.1.1 broker
	Discard = "sink" // reads and drops, or sends without end: the other side of bulk
)

// Who closes a connection first: that end keeps the TIME-WAIT.
const (
	ByClient = "client"
	ByServer = "server"
)

// Config describes a server. Durations are nanoseconds in JSON, sizes bytes.
type Config struct {
	Kind         string            `json:"kind,omitempty"`          // echo (the default) | http
	Listen       string            `json:"listen,omitempty"`        // address:port; port 0: the kernel chooses
	Backlog      int               `json:"backlog,omitempty"`       // of listen(2); 0: 4096, which somaxconn may cut
	Workers      int               `json:"workers,omitempty"`       // requests served at once; 0: all
	Service      time.Duration     `json:"service,omitempty"`       // how long a request occupies its worker
	Options      map[string]string `json:"options,omitempty"`       // socket options: "on", "20s", "64KiB", "cubic"
	Closes       string            `json:"closes,omitempty"`        // client (the default) | server: after each answer
	ResponseSize int               `json:"response_size,omitempty"` // of an answer to a request that asks for no size; 0: as the request
	Streams      int               `json:"streams,omitempty"`       // of h2: most at once on a connection; 0: 250
	GoAway       float64           `json:"goaway,omitempty"`        // of h2: the share of requests whose answer comes with a GOAWAY
	Greeting     int               `json:"greeting,omitempty"`      // of echo: it speaks first, so many bytes
}

// Validate says in one line what is wrong and what to write instead.
func (c Config) Validate() error {
	switch c.Kind {
	case "", Echo, HTTP, H2, MQTT, Discard:
	default:
		return fmt.Errorf("server: kind %q is unknown: write %s, %s, %s, %s or %s", c.Kind, Echo, HTTP, H2, MQTT, Discard)
	}
	if _, err := socket.NewAddress(c.Listen); err != nil {
		return fmt.Errorf("server: listen: %w", err)
	}
	switch c.Closes {
	case "", ByClient, ByServer:
	default:
		return fmt.Errorf("server: closes %q: write %s or %s, who closes first", c.Closes, ByClient, ByServer)
	}
	for _, n := range []struct {
		name string
		v    int64
	}{{"backlog", int64(c.Backlog)}, {"workers", int64(c.Workers)}, {"service", int64(c.Service)}, {"response_size", int64(c.ResponseSize)}} {
		if n.v < 0 {
			return fmt.Errorf("server: %s is negative: write 0 or more", n.name)
		}
	}
	if c.Kind == MQTT && (c.Workers > 0 || c.Service > 0 || c.ResponseSize > 0 || c.Closes == ByServer) {
		return errors.New("server: a broker acknowledges at once and does not close first: leave workers, service, response and closes out")
	}
	if c.Kind != H2 && (c.Streams != 0 || c.GoAway != 0) {
		return errors.New("server: streams and goaway belong to kind h2")
	}
	if c.Streams < 0 || !(c.GoAway >= 0 && c.GoAway <= 1) {
		return errors.New("server: streams is 0 or more, and goaway a share from 0 to 100%")
	}
	if c.Kind == Discard && (c.Workers > 0 || c.Service > 0 || c.ResponseSize > 0 || c.Closes == ByServer) {
		return errors.New("server: a sink reads as fast as it can and does not close first: leave workers, service, response and closes out")
	}
	if err := c.validateGreeting(); err != nil {
		return err
	}
	if c.ResponseSize > MaxPayload {
		return fmt.Errorf("server: response_size %d is above %d bytes", c.ResponseSize, MaxPayload)
	}
	if _, err := socket.ParseOptions(c.Options); err != nil {
		return fmt.Errorf("server: %w", err)
	}
	return nil
}

// Sink takes what a server says while it runs. It is called rarely, from one
// goroutine at a time, never for a single request. Instants are
// CLOCK_MONOTONIC in nanoseconds.
type Sink interface {
	Event(at int64, name string, fields map[string]any)
	Sample(at int64, values map[string]float64)
}

// Result is what a server counted, from Listen on.
type Result struct {
	Kind          string            `json:"kind"`
	Accepted      int64             `json:"accepted"` // connections
	Requests      int64             `json:"requests"` // answered whole
	BytesReceived int64             `json:"bytes_received"`
	BytesSent     int64             `json:"bytes_sent"`
	Received      int64             `json:"received,omitempty"`      // bytes of messages that the application read; of sink
	Incarnations  int64             `json:"incarnations,omitempty"`  // connections whose bytes are checked; of sink
	LaterRead     int64             `json:"later_read,omitempty"`    // bytes read in those after the first
	Stale         int64             `json:"stale,omitempty"`         // of these, bytes of an earlier one
	StaleAt       int64             `json:"stale_at,omitempty"`      // bytes read before the piece that had the first of them
	Misplaced     int64             `json:"misplaced,omitempty"`     // bytes of the right one that were not the ones due
	Open          int64             `json:"open"`                    // connections at the end
	OpenMax       int64             `json:"open_max"`                // most at once
	QueueMax      int64             `json:"queue_max"`               // most requests that waited for a worker
	Errors        map[string]int64  `json:"errors"`                  // connections that ended otherwise than by EOF, by class
	AcceptErrors  map[string]int64  `json:"accept_errors"`           // by class
	AcceptFailed  int64             `json:"accept_failed,omitempty"` // when accept() first failed, CLOCK_MONOTONIC ns; 0: it never did
	Descriptors   int64             `json:"descriptors,omitempty"`   // most that the process had open at once, as the kernel lists them
	Options       map[string]string `json:"options"`                 // read back from the first connection accepted
}

// engine is a kind of server.
type engine interface {
	listen() (addr string, options map[string]string, err error)
	run(ctx context.Context, sink Sink) (*Result, error)
	do(order) error
}

var (
	_ engine = (*echo)(nil)
	_ engine = (*web)(nil)
)

// Server is one server. Listen comes first, then Run, once each.
type Server struct {
	cfg Config
	engine

	mu   sync.Mutex
	undo []*time.Timer // ends of faults
	turn int           // counts how often they were forgotten
}

// New makes a server; it takes no resource yet.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	options, err := socket.ParseOptions(cfg.Options)
	if err != nil {
		return nil, err
	}
	if cfg.Backlog == 0 {
		cfg.Backlog = 4096
	}
	if cfg.Kind == HTTP || cfg.Kind == H2 || cfg.Kind == MQTT {
		return &Server{cfg: cfg, engine: newWeb(cfg, options)}, nil
	}
	if cfg.Kind == "" {
		cfg.Kind = Echo
	}
	return &Server{cfg: cfg, engine: newEcho(cfg, options)}, nil
}

// Listen opens the listening socket and gives its address and its options as
// the kernel reads them back. An option that is not as asked is an error.
func (s *Server) Listen() (addr string, options map[string]string, err error) {
	addr, options, err = s.listen()
	if err != nil {
		return "", nil, fmt.Errorf("server %s: %w", s.cfg.Listen, err)
	}
	return addr, options, nil
}

// Run answers until ctx ends, then closes everything it opened.
func (s *Server) Run(ctx context.Context, sink Sink) (*Result, error) {
	r, err := s.run(ctx, sink)
	s.forgetUndos()
	if err != nil {
		return r, fmt.Errorf("server %s: %w", s.cfg.Listen, err)
	}
	return r, nil
}

// undoAfter ends the fault o when it has lasted long enough.
func (s *Server) undoAfter(o order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	turn := s.turn
	s.undo = append(s.undo, time.AfterFunc(o.last, func() {
		// Under the lock: one that has gone off already must not end a fault
		// that came after it was forgotten.
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.turn == turn {
			// Its only error is that the server has ended, and the fault with it.
			_ = s.do(order{fault: "resume", from: o.fault})
		}
	}))
}

func (s *Server) forgetUndos() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.undo {
		t.Stop()
	}
	s.undo = nil
	s.turn++
}

// Do makes a fault of those that the kind declares happen now. One that can be
// undone ends by itself with an argument "for". Run must be under way.
func (s *Server) Do(fault string, args map[string]any) error {
	for _, k := range Kinds() {
		if k.Name != s.cfg.Kind {
			continue
		}
		for _, f := range k.Faults {
			if f.Name == fault {
				o, err := newOrder(fault, args)
				if err == nil {
					err = s.do(o)
				}
				switch {
				case err == nil && o.fault == "resume":
					s.forgetUndos() // a later fault is not theirs to end
				case err == nil && o.last > 0:
					s.undoAfter(o)
				}
				if err != nil {
					return fmt.Errorf("server: fault %s: %w", fault, err)
				}
				return nil
			}
		}
		return fmt.Errorf("server: kind %s has no fault %q: it has %s", k.Name, fault, strings.Join(k.faultNames(), ", "))
	}
	return fmt.Errorf("server: kind %q is unknown", s.cfg.Kind)
}

// Fault is something that can be done to a running program of a kind.
type Fault struct {
	Name  string   `json:"name"`
	About string   `json:"about"`
	Args  []string `json:"args,omitempty"` // names of its arguments
	Undo  string   `json:"undo,omitempty"` // the fault that ends it, without arguments; it then has the argument "for", too
}

// Kind describes a kind of server for a catalogue.
type Kind struct {
	Name    string   `json:"name"`
	About   string   `json:"about"`
	Faults  []Fault  `json:"faults"`
	Options []string `json:"options"`
}

func (k Kind) faultNames() []string {
	var names []string
	for _, f := range k.Faults {
		names = append(names, f.Name)
	}
	return names
}

// Kinds lists what New can make.
func Kinds() []Kind {
	all := []Fault{
		{Name: "slow", About: "another service time", Args: []string{"service"}, Undo: "resume"},
		{Name: "close-connections", About: "it closes every connection, with: fin or rst", Args: []string{"with"}},
		{Name: "stall", About: "it stops reading, so its window fills", Undo: "resume"},
		{Name: "stop-accepting", About: "new connections stay in the accept queue", Undo: "resume"},
		{Name: "resume", About: "the end of slow, stall, stop-accepting and stop-closing"},
	}
	leak := Fault{Name: "stop-closing", About: "it does not close what the client has closed: CLOSE-WAIT", Undo: "resume"}
	return []Kind{
		{Name: Echo, About: "length-prefixed frames, answered with their own payload", Options: socket.OptionNames(), Faults: append([]Fault{leak}, all...)},
		{Name: Discard, About: "reads and drops, or sends without end: the other side of bulk", Options: socket.OptionNames(), Faults: append([]Fault{leak}, all[1:]...)},
		{Name: HTTP, About: "net/http: a request is answered with its own body", Options: socket.OptionNames(), Faults: all},
		{Name: H2, About: "net/http over HTTP/2 in cleartext: a request is answered with its own body", Options: socket.OptionNames(),
			Faults: append([]Fault{{Name: "goaway", About: "a GOAWAY on every connection: requests under way are answered, and no more begin"}}, all...)},
		{Name: MQTT, About: "an MQTT 3.1.1 broker: mochi-mqtt, without its housekeeping", Options: socket.OptionNames(), Faults: all[1:]},
	}
}

// order is a fault with its arguments read.
type order struct {
	fault   string
	service time.Duration // of slow
	reset   bool          // of close-connections
	last    time.Duration // then it is undone; 0: it is not
	from    string        // of resume: the fault to end; "" all
}

// ends tells whether a resume ends a fault.
func (o order) ends(fault string) bool { return o.from == "" || o.from == fault }

func newOrder(fault string, args map[string]any) (order, error) {
	o := order{fault: fault}
	var err error
	switch fault {
	case "slow":
		o.service, err = duration(args, "service")
	case "close-connections":
		switch with := args["with"]; with {
		case nil, "", "fin":
		case "rst":
			o.reset = true
		default:
			err = fmt.Errorf("with: %v: write fin or rst", with)
		}
	}
	if _, ok := args["for"]; ok && err == nil {
		switch o.last, err = duration(args, "for"); fault {
		case "close-connections", "goaway", "resume":
			err = errors.New("it is over at once: leave for out")
		}
	}
	return o, err
}

// duration reads a fault's argument: "20ms", or nanoseconds.
func duration(args map[string]any, name string) (time.Duration, error) {
	var d time.Duration
	switch v := args[name].(type) {
	case nil:
		return 0, fmt.Errorf("%s is missing: write a time such as 20ms", name)
	case string:
		var err error
		if d, err = socket.ParseTime(v); err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
	case time.Duration:
		d = v
	case int64:
		d = time.Duration(v)
	case float64: // what encoding/json makes of a number
		d = time.Duration(v)
	default:
		return 0, fmt.Errorf("%s: %v is not a time: write one such as 20ms", name, v)
	}
	if d < 0 {
		return 0, fmt.Errorf("%s is negative: write 0 or more", name)
	}
	return d, nil
}

// bindable prepares a socket for bind.
func bindable(fd int, options []socket.Setting) error {
	// Without it a restarted server could not bind while connections of its
	// predecessor are in TIME-WAIT; net does the same.
	if err := socket.Reusable(fd); err != nil {
		return err
	}
	return socket.SetAll(fd, options)
}
