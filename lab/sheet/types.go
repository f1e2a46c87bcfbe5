// Package sheet reads experiments: YAML in, a checked Experiment out.
//
// A sheet is refused as a whole, before anything is started, with the place
// and what to write instead: an unknown key, a wrong unit, or an expectation
// over a metric that nothing measures is an error, never a default. Short
// sheets are rewritten to the general form first, so that the rest of the
// program knows one form only; what an arm changes is data (its levers), not
// code.
package sheet

import (
	"net/netip"
	"time"

	"tcplab/lab/expr"
)

// An Experiment is a decoded sheet for one profile: everything resolved,
// every arm whole. Slices keep the sheet's order.
type Experiment struct {
	Name     string
	Question string
	Profile  string // quick | full
	Profiles []string
	Clock    string // "" | real | virtual: what the sheet asks for
	Needs    []string
	Arms     []Arm // the baseline first
	Sweep    []SweepAxis
	Apart    bool // its axes vary each by itself, not in every combination
	Predict  []Prediction
	Expect   []Expectation
	Evidence []Evidence
	Triage   []Triage
	Gate     []string          // metrics that CI gates on, six at most
	Writeup  string            // Markdown with {{metric path or name}} to fill in
	Writeups map[string]string // by language or section; unused unless the sheet has them

	// Settings are the kernel settings of the sheet, each with its justification.
	Settings []Setting
	// Warnings are doubts about the sheet that do not stop it.
	Warnings []string

	// Source is the sheet's file name and Text its bytes, as read.
	Source string
	Text   []byte
	// Traces are the texts of the traces that it names.
	Traces map[string]string

	resolved []byte
}

// An Arm is one configuration under test, after all merging.
type Arm struct {
	Name     string
	Baseline bool
	Costs    string // what its lever costs, in the sheet's words
	Needs    []string
	Levers   []Lever // what differs from the baseline, in path order
	Hosts    []Host
	Links    []Link
	Servers  []Server
	Clients  []Client
	Faults   []Fault
	Trial    Trial
	DNS      []DNSName
	Kernel   map[string]string // global sysctls, guest only
	// Numbers are the names that expressions may use: rate, ports,
	// connections, size, pool, duration, warmup, rtt …
	Numbers map[string]expr.Value
}

// A Lever is one key that an arm changes.
type Lever struct {
	Path string // "clients.client.reuse", "hosts.client.sysctl[net.ipv4.tcp_retries2]"
	From string // as YAML; "" when the baseline does not have it
	To   string // as YAML; "" when the arm removes it
	Why  string // the sheet's line of justification
}

// A Setting is one kernel setting that a sheet makes, in the arms that have it.
type Setting struct {
	Path  string // "hosts.client.sysctl[net.ipv4.ip_local_port_range]"
	Value string
	Why   string // the one line of justification; a warning where it is empty
	Arms  []string
}

// Host is a network namespace with its processes.
type Host struct {
	Name   string
	Sysctl map[string]string
	Routes []Route
	NoFile int // RLIMIT_NOFILE of its processes; 0: the lab's
	Clock  struct {
		Offset time.Duration
		Drift  float64
	}
	Middlebox *Middlebox
	Router    *Router
	Container string                // image; "" is a namespace
	Addresses map[string]netip.Addr // extra, by name (from middlebox.addresses too)
}

// Route is a static route: to a host, link or prefix, through a host.
type Route struct {
	To  string
	Via string
}

// Middlebox is a forwarding policy of ours.
type Middlebox struct {
	Kind           string // l4lb | nat | flowtable …
	Targets        []string
	PreserveClient bool
	CrossZone      bool
	Idle           time.Duration
	OnUnknown      string // drop | rst
	Options        map[string]string
}

// Router is a Linux router with its own conntrack and nftables.
type Router struct {
	NAT     string // the link that it hides its clients behind
	Invalid string // accept | drop | ""
	Track   bool
	NoTrack bool
	NFT     string
	Sysctl  map[string]string
}

// Link joins two hosts; A and B are host names, in the sheet's order.
type Link struct {
	Name string
	A, B string
	Wire Wire
	ARP  string // permanent | real
}

// Wire is what happens to frames on a link. To["B"] is the direction towards
// host B. The zero value is a perfect cable.
type Wire struct {
	Kind  string // auto | userspace | netem
	Fates string // by-byte | by-time | unpaired
	To    map[string]Direction
}

// Direction is one way of a wire.
type Direction struct {
	Delay, Jitter time.Duration
	Rate          float64 // bit/s; 0 is unlimited
	QueueBytes    int
	QueueTime     time.Duration
	Loss          float64 // Bernoulli, share
	GE            *GilbertElliott
	Reorder       float64
	ReorderBy     time.Duration
	Duplicate     float64
	Corrupt       float64
	MTU           int
}

// GilbertElliott is the two-state loss channel: P good→bad, R bad→good, Bad
// and Good the loss in each state (RFC 6534 terms; netem's 1−h and 1−k).
type GilbertElliott struct{ P, R, Bad, Good float64 }

// Server answers.
type Server struct {
	Name     string
	On       string
	Kind     string // echo | http | mqtt | h2 | dns | exec …
	Port     int
	Backlog  int
	Workers  int
	Service  time.Duration
	Closes   string // client | server
	Options  map[string]string
	Response int // B of each answer; 0: as long as the request
	Calls    []Call
	Exec     *Exec
	Extra    map[string]any // keys that only its kind knows
}

// Call is one layer calling the next.
type Call struct {
	To      string
	Tries   int
	Timeout time.Duration
	Backoff string
	Extra   map[string]any
}

// Client offers load.
type Client struct {
	Name     string
	On       string
	To       []Target
	Kind     string // echo | http | mqtt | h2 | flood | bulk | exec …
	Reuse    string // none | pool
	Pool     Pool
	Closes   string
	Options  map[string]string
	Deadline time.Duration
	Workload Workload
	Exec     *Exec
	Extra    map[string]any
}

// Target is SERVER, or HOST.ADDRESS.
type Target struct {
	Server  string
	Host    string
	Address string
}

// Pool bounds a client's reused connections.
type Pool struct {
	Size int
	Idle time.Duration
}

// Workload is what a client offers.
type Workload struct {
	Kind        string  // requests | bulk | publish | writes …
	Rate        float64 // 1/s; 0 with arrivals: closed
	RateTo      float64 // for ramp
	Arrivals    string  // constant | poisson | ramp | closed
	Connections int
	Size        int // B
	Response    int // B
	Think       time.Duration
	Again       time.Duration // after a failure; 0: Think
	Trace       string        // its text: what a sheet names is a file, what it means is this
	Extra       map[string]any
}

// Exec is a user's own program in an agent's place.
type Exec struct {
	Argv   []string
	Env    map[string]string
	Listen int    // ready when something listens on this port
	Log    string // ready when a line matches
	Stop   string // signal, default SIGTERM
	Grace  time.Duration
	Events bool // it writes agent events on stdout, so client metrics exist
}

// Trial says how long an arm's trial lasts. Times count from go.
type Trial struct {
	Warmup, Duration time.Duration
	Until            string // event: a fault's name, detected, recovered; "" uses Duration
	Plus             time.Duration
	AtMost           time.Duration
	Pairs            int
}

// Length is the time from go to the end of measuring, at most.
func (t Trial) Length() time.Duration {
	if t.Until != "" {
		return t.AtMost
	}
	return t.Warmup + t.Duration
}

// Fault is a timed change.
type Fault struct {
	Name    string
	At, For time.Duration
	On      string // HOST | PROGRAM | LINK
	OnKind  string // host | server | client | link | middlebox: resolved
	Towards string
	Match   map[string]string // flow, flags, nth
	Do      string
	Args    map[string]any // `set: {…}` and other keys of the verb
}

// DNSName is a name that the lab's resolver answers.
type DNSName struct {
	Name   string
	Server string
	TTL    time.Duration
}

// SweepAxis is one varied path with its values, as YAML.
type SweepAxis struct {
	Path   string // in the general form
	Key    string // what ARM[KEY=VALUE] calls it: the path's last word, where that is one axis's
	Values []string
}

// Prediction is a number to compute before the run.
type Prediction struct {
	Name     string
	Of       string // metric path
	Is       *expr.Expr
	Within   string     // "" is shown but not judged
	Unless   *expr.Expr // nil: none; where it holds, the prediction is not reached
	Because  string
	NotAsked string // why it is not judged in this profile; "" is asked
}

// Expectation is a named claim over metrics.
type Expectation struct {
	Name     string
	That     *expr.Expr
	Unless   *expr.Expr // nil: none
	Because  string
	NotAsked string
}

// Evidence names packets to show.
type Evidence struct {
	Name     string
	Capture  string // arm
	Show     string
	Title    string
	Flow     string
	At       string
	NotAsked string
}

// Triage is the truth that a diagnosis is held against.
type Triage struct {
	Arm      string
	On       string
	At       time.Duration
	Finds    string // cause, or "nothing"
	NotAsked string
}
