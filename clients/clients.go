// Package clients is who sends. It believes that a request begins when the
// schedule says, not when the client gets to it: in an open loop nothing waits
// for an answer, and every latency runs from the intended start. It keeps its
// own lag, the subject's time and the kernel's time apart, so that a weak
// generator is not taken for a slow server. It counts each SYN that it caused,
// so that the kernel's counters can contradict it, and it believes an option
// only once getsockopt has confirmed it.
package clients

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// Kinds of client.
const (
	Echo = "echo" // length-prefixed frames over raw sockets, epoll on a locked thread
	HTTP = "http" // net/http as its users have it
	H2   = "h2"   // the same over HTTP/2 in cleartext, with prior knowledge (RFC 9113, 3.3)
	MQTT = "mqtt" // a relay that publishes to an MQTT broker
	Bulk = "bulk" // flows that send, or are sent to, without end
	// Incarnations are two connections with the same four ports, one after the
	// other.
	Incarnations = "incarnations"
)

// Reuse of connections.
const (
	None   = "none" // a fresh connection for each request
	Pooled = "pool" // connections are kept and used again
)

// Who closes a connection first: that end keeps the TIME-WAIT.
const (
	ByClient = "client"
	ByServer = "server"
)

// Pool is how connections are kept.
type Pool struct {
	Size int           `json:"size,omitempty"` // connections at most; 0: Config.Connections
	Idle time.Duration `json:"idle,omitempty"` // an idle connection is closed after it; 0: never
}

// Config describes a client. Durations are nanoseconds in JSON, sizes bytes
// of payload. Its zero value, with an address in To, is the raw echo client
// with a fresh connection for each request.
type Config struct {
	Kind         string            `json:"kind,omitempty"`          // echo (the default) | http
	To           []string          `json:"to"`                      // address:port, taken in turn by new connections
	Reuse        string            `json:"reuse,omitempty"`         // none (the default) | pool
	Pool         Pool              `json:"pool,omitzero"`           // with reuse: pool
	Closes       string            `json:"closes,omitempty"`        // client (the default) | server, with reuse: none
	Options      map[string]string `json:"options,omitempty"`       // socket options: "on", "20s", "64KiB", "cubic"
	Size         int               `json:"size,omitempty"`          // of a request
	ResponseSize int               `json:"response_size,omitempty"` // of an answer; 0: as the request
	Connections  int               `json:"connections,omitempty"`   // requests under way at once, at most; 0: 64
	Again        time.Duration     `json:"again,omitempty"`         // closed loop: from a failure to the next request; 0: as from an answer
	Deadline     time.Duration     `json:"deadline,omitempty"`      // from the intended start, after it a request has failed; 0: never
	Warmup       time.Duration     `json:"warmup,omitempty"`        // from t0 to the window's beginning
	Duration     time.Duration     `json:"duration,omitempty"`      // of the window
	Drain        time.Duration     `json:"drain,omitempty"`         // wait for the window's last answers; 0: the deadline, or 5s
	Shards       int               `json:"shards,omitempty"`        // threads of the echo client; 0: 1, which carries most loads best
	HTTP2        HTTP2             `json:"http2,omitzero"`          // of kind h2
	Relay        Relay             `json:"relay,omitzero"`          // of kind mqtt
	Heartbeat    Heartbeat         `json:"heartbeat,omitzero"`      // of kind echo's pool
	Flows        Flows             `json:"flows,omitzero"`          // of kind bulk
	Outrun       Outrun            `json:"outrun,omitzero"`         // of kind incarnations
	Writes       *Writes           `json:"writes,omitempty"`        // of kind echo: requests of several small writes
	Awaits       int               `json:"awaits,omitempty"`        // of kind echo: the server speaks first, so many bytes
}

// HTTP2 is what a client of kind h2 has of its own.
type HTTP2 struct {
	ReadIdle    time.Duration `json:"read_idle,omitempty"`    // silence after which a PING is sent; 0: no health check
	PingTimeout time.Duration `json:"ping_timeout,omitempty"` // wait for its answer, after which the connection is closed; 0: 15s
	Streams     int           `json:"streams,omitempty"`      // long-lived streams held open beside the requests
}

// Schedule says when requests are meant to start.
type Schedule interface {
	// Next is the intended start of the next request, since t0; it never
	// decreases. It is false when none will come.
	Next() (time.Duration, bool)
	// Closed tells whether requests follow answers instead, and after which
	// pause.
	Closed() (think time.Duration, closed bool)
}

// Sink takes what a client says while it runs. It is called rarely, never for
// a single request, from one goroutine that is not in the way of requests.
// Instants are CLOCK_MONOTONIC in nanoseconds.
type Sink interface {
	Event(at int64, name string, fields map[string]any)
	Sample(at int64, values map[string]float64)
}

// Validate says in one line what is wrong and what to write instead.
func (c Config) Validate() error {
	switch c.Kind {
	case "", Echo, HTTP, H2, Bulk, Incarnations:
	case MQTT:
		if err := c.Relay.validate(c); err != nil {
			return fmt.Errorf("client: %w", err)
		}
	default:
		return fmt.Errorf("client: kind %q is unknown: write %s, %s, %s or %s", c.Kind, Echo, HTTP, H2, MQTT)
	}
	if c.Kind != H2 && c.HTTP2 != (HTTP2{}) || c.Kind != MQTT && c.Relay != (Relay{}) {
		return fmt.Errorf("client: kind %q has keys of another kind", c.Kind)
	}
	if len(c.To) == 0 {
		return errors.New("client: nobody to send to: write to, such as server or 10.0.0.2:8080")
	}
	for _, to := range c.To {
		if _, err := socket.NewAddress(to); err != nil {
			return fmt.Errorf("client: to: %w", err)
		}
	}
	switch c.Reuse {
	case "", None:
		if c.Pool != (Pool{}) {
			return errors.New("client: a pool needs reuse: pool")
		}
	case Pooled:
		if c.Closes == ByServer {
			return errors.New("client: closes: server belongs to reuse: none; the client closes what its pool holds")
		}
	default:
		return fmt.Errorf("client: reuse %q is unknown: write %s or %s", c.Reuse, None, Pooled)
	}
	switch c.Closes {
	case "", ByClient, ByServer:
	default:
		return fmt.Errorf("client: closes %q: write %s or %s, who closes first", c.Closes, ByClient, ByServer)
	}
	for _, n := range []struct {
		name string
		v    int64
	}{{"size", int64(c.Size)}, {"response_size", int64(c.ResponseSize)}, {"connections", int64(c.Connections)}, {"pool.size", int64(c.Pool.Size)},
		{"pool.idle", int64(c.Pool.Idle)}, {"heartbeat.every", int64(c.Heartbeat.Every)}, {"heartbeat.timeout", int64(c.Heartbeat.Timeout)}, {"flows", int64(c.Flows.Count)}, {"deadline", int64(c.Deadline)}, {"warmup", int64(c.Warmup)}, {"drain", int64(c.Drain)}, {"shards", int64(c.Shards)},
		{"read_idle", int64(c.HTTP2.ReadIdle)}, {"ping_timeout", int64(c.HTTP2.PingTimeout)}, {"streams", int64(c.HTTP2.Streams)}} {
		if n.v < 0 {
			return fmt.Errorf("client: %s is negative: write 0 or more", n.name)
		}
	}
	if err := errors.Join(c.validateKind(), c.validateIncarnations()); err != nil {
		return err
	}
	if err := c.validateAwaits(); err != nil {
		return err
	}
	if c.Writes != nil {
		if err := c.Writes.validate(c); err != nil {
			return fmt.Errorf("client: %w", err)
		}
	}
	if c.Duration <= 0 {
		return errors.New("client: the window has no duration: write trial.duration, such as 12s")
	}
	if c.Size > MaxPayload || c.ResponseSize > MaxPayload {
		return fmt.Errorf("client: size and response_size go up to %d bytes", MaxPayload)
	}
	if c.Shards > c.slots() {
		return fmt.Errorf("client: %d shards for %d connections: write fewer shards", c.Shards, c.slots())
	}
	if _, err := socket.ParseOptions(c.Options); err != nil {
		return fmt.Errorf("client: %w", err)
	}
	return nil
}

// users is how many requests may wait or be under way at once in a closed
// loop.
func (c Config) users() int {
	if c.Connections == 0 {
		return 64
	}
	return c.Connections
}

// slots is how many connections there may be at once.
func (c Config) slots() int {
	switch c.Kind {
	case Bulk:
		return max(c.Flows.Count, 1)
	case Incarnations:
		return 1
	}
	if c.Writes != nil && len(c.Writes.Trace) > 0 {
		return c.Writes.connections()
	}
	n := c.users()
	if c.Reuse == Pooled && c.Pool.Size > 0 {
		n = min(n, c.Pool.Size)
	}
	return n
}

func (c Config) answerSize() int {
	if c.ResponseSize > 0 {
		return c.ResponseSize
	}
	return c.Size
}

// drain is how long to wait for the window's last requests. With a deadline
// they all end by themselves; a second is for seeing it.
func (c Config) drain() time.Duration {
	d := c.Drain
	if d == 0 {
		if d = c.Deadline; d == 0 {
			d = 5 * time.Second
		}
	}
	if c.Deadline > 0 && d >= c.Deadline {
		d += time.Second
	}
	return d
}

// addresses are those of To, as the kernel takes them.
func (c Config) addresses() ([]*socket.Address, error) {
	all := make([]*socket.Address, len(c.To))
	for i, to := range c.To {
		var err error
		if all[i], err = socket.NewAddress(to); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// engine is a kind of client.
type engine interface {
	run(ctx context.Context, t0 int64, sink Sink) (*Result, error)
	do(order) error
}

var (
	_ engine = (*echo)(nil)
	_ engine = (*web)(nil)
	_ engine = (*relay)(nil)
	_ engine = (*bulk)(nil)
	_ engine = (*writer)(nil)
)

// Client is one client. Prepare comes first, then Run, once each.
type Client struct {
	cfg     Config
	options []socket.Setting
	engine
}

// New makes a client; it takes no resource yet. The schedule is the client's
// from then on.
func New(cfg Config, sched Schedule) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	options, err := socket.ParseOptions(cfg.Options)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, options: options}
	switch cfg.Kind {
	case HTTP, H2:
		c.engine, err = newWeb(cfg, options, sched)
	case MQTT:
		c.engine, err = newRelay(cfg, options, sched)
	case Bulk:
		c.engine, err = newBulk(cfg, options, sched)
	case Incarnations:
		c.engine, err = newIncarnations(cfg, options)
	default:
		if cfg.Writes != nil {
			c.engine, err = newWriter(cfg, options, sched)
			break
		}
		c.engine, err = newEcho(cfg, options, sched)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Prepare sets the options on a socket that is not connected and reads them
// back, before anything is sent. An option that is not as asked is an error,
// and so is a number of connections that the process has no descriptors for.
func (c *Client) Prepare() (map[string]string, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil && uint64(c.cfg.slots())+32 > limit.Cur {
		return nil, fmt.Errorf("client: %d connections need %d descriptors and the limit is %d: raise limits.nofile of the host, or ask for fewer", c.cfg.slots(), c.cfg.slots()+32, limit.Cur)
	}
	a, err := socket.NewAddress(c.cfg.To[0])
	if err != nil {
		return nil, fmt.Errorf("client: to: %w", err)
	}
	fd, errno := a.Socket()
	if errno != 0 {
		return nil, fmt.Errorf("client: socket: %w", errno)
	}
	defer unix.Close(int(fd))
	if c.cfg.Kind != "" && c.cfg.Kind != Echo && c.cfg.Kind != Bulk && c.cfg.Kind != Incarnations { // as net does with every connection
		if err := unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_NODELAY, 1); err != nil {
			return nil, fmt.Errorf("client: TCP_NODELAY: %w", err)
		}
	}
	if err := socket.SetAll(int(fd), c.options); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	got, err := socket.ReadBack(int(fd), c.options, false)
	if err == nil && c.cfg.Kind == Incarnations {
		_, _, err = socket.Sequences(int(fd))
	}
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return got, nil
}

// Run sends from t0 on, an instant of CLOCK_MONOTONIC. It returns when the
// window is over and its requests have ended, after drain at the latest, or
// when ctx ends. The result is there even beside an error.
func (c *Client) Run(ctx context.Context, t0 int64, sink Sink) (*Result, error) {
	r, err := c.run(ctx, t0, sink)
	if err != nil {
		return r, fmt.Errorf("client: %w", err)
	}
	return r, nil
}

// Do makes a fault of those that the kind declares happen now. Run must be
// under way.
func (c *Client) Do(fault string, args map[string]any) error {
	kind := c.cfg.Kind
	if kind == "" {
		kind = Echo
	}
	for _, k := range Kinds() {
		if k.Name != kind {
			continue
		}
		for _, f := range k.Faults {
			if f.Name == fault {
				o, err := newOrder(fault, args)
				if err == nil {
					err = c.do(o)
				}
				if err != nil {
					return fmt.Errorf("client: fault %s: %w", fault, err)
				}
				return nil
			}
		}
		return fmt.Errorf("client: kind %s has no fault %q: it has %s", k.Name, fault, strings.Join(k.faultNames(), ", "))
	}
	return fmt.Errorf("client: kind %q is unknown", kind)
}

// Fault is something that can be done to a running program of a kind.
type Fault struct {
	Name  string   `json:"name"`
	About string   `json:"about"`
	Args  []string `json:"args,omitempty"` // names of its arguments
	Undo  string   `json:"undo,omitempty"` // the fault that ends it, without arguments
}

// Kind describes a kind of client for a catalogue.
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
	faults := []Fault{{Name: "close-connections", About: "it closes every connection, with: fin or rst; requests under way fail with class closed", Args: []string{"with"}}}
	return []Kind{
		{Name: Echo, About: "length-prefixed frames over raw sockets, epoll on a locked thread", Options: socket.OptionNames(), Faults: faults},
		{Name: HTTP, About: "POST through net/http as its users have it", Options: socket.OptionNames(), Faults: faults},
		{Name: Bulk, About: "flows that send or receive without end, or messages at a rate", Options: socket.OptionNames(), Faults: faults},
		{Name: Incarnations, About: "two connections with the same four ports, one after the other", Options: socket.OptionNames()},
		{Name: H2, About: "POST through net/http over HTTP/2 in cleartext", Options: socket.OptionNames(), Faults: faults},
		{Name: MQTT, About: "a relay that publishes to an MQTT 3.1.1 broker: its own, or paho's", Options: socket.OptionNames(), Faults: faults},
	}
}

// order is a fault with its arguments read.
type order struct {
	fault string
	reset bool // of close-connections
}

func newOrder(fault string, args map[string]any) (order, error) {
	o := order{fault: fault}
	switch with := args["with"]; with {
	case nil, "", "fin":
	case "rst":
		o.reset = true
	default:
		return o, fmt.Errorf("with: %v: write fin or rst", with)
	}
	return o, nil
}

// errNotRunning is what a fault meets before Run and after it.
var errNotRunning = errors.New("the client is not running")
