// Package results is what a run leaves behind, and the arithmetic on it.
//
// It believes that a record must be enough to redraw everything: tables,
// figures and the report are functions of run.json and trials/. Values are in
// SI base units (s, bit/s, B, 1/s, counts); a number that was not measured is
// absent, never zero. Readers ignore fields they do not know and refuse a
// higher major version. It imports nothing of the rest of the project.
package results

import "time"

// Schema is the version that this code writes: name/major.
const Schema = "tcplab.run/1"

// Verdict is what a run concluded.
type Verdict string

const (
	Pass         Verdict = "pass"
	Fail         Verdict = "fail"
	Inconclusive Verdict = "inconclusive"
	Invalid      Verdict = "invalid"
)

// Mode is how an experiment was asked to run, or ran.
type Mode struct {
	Profile string `json:"profile"`
	Kernel  string `json:"kernel"` // host | guest
	Clock   string `json:"clock"`  // real | virtual
}

// Run is the record of one run: the content of run.json.
type Run struct {
	Schema      string      `json:"schema"`
	Experiment  string      `json:"experiment"`
	Question    string      `json:"question"`
	Started     time.Time   `json:"started"`
	Took        float64     `json:"took"` // s, wall time
	Asked       Mode        `json:"asked"`
	Ran         Mode        `json:"ran"`
	Verdict     Verdict     `json:"verdict"`
	Because     string      `json:"because"` // one sentence: why this verdict
	Digest      string      `json:"digest"`  // sha256 over the digests of the trials' files
	Command     []string    `json:"command"`
	Sheet       string      `json:"sheet"` // resolved, as YAML
	Seeds       Seeds       `json:"seeds"`
	Environment Environment `json:"environment"`

	Predictions  map[string]Prediction  `json:"predictions"`
	Arms         map[string]Arm         `json:"arms"`
	Expectations map[string]Expectation `json:"expectations"`
	// Numbers are the sheet's own names with their values (rate, ports …).
	Numbers  map[string]Quantity  `json:"numbers,omitempty"`
	Evidence map[string]Evidence  `json:"evidence,omitempty"`
	Triage   map[string]TriageRow `json:"triage,omitempty"`
	Writeup  string               `json:"writeup,omitempty"` // Markdown, numbers filled in
	Warnings []Warning            `json:"warnings"`
}

// Seeds says where every random choice of the run came from.
type Seeds struct {
	Run   uint64   `json:"run"`
	Pairs []uint64 `json:"pairs"`
}

// Quantity is a number with its unit.
type Quantity struct {
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// Environment is what the run ran on.
type Environment struct {
	Kernel      string            `json:"kernel"`       // release
	KernelPlace string            `json:"kernel_place"` // host | guest
	Clock       string            `json:"clock"`        // real | virtual
	CPU         string            `json:"cpu"`
	CPUs        int               `json:"cpus"`
	Memory      uint64            `json:"memory"` // B
	Hosts       string            `json:"hosts"`  // namespaces | containers
	Privilege   string            `json:"privilege"`
	Wires       map[string]string `json:"wires"` // link → kind, release
	Go          string            `json:"go"`
	Version     string            `json:"version"`
	Sysctls     map[string]string `json:"sysctls,omitempty"` // pinned for every host, as read back
	Faster      float64           `json:"faster,omitempty"`  // guest seconds per wall second
	// GuestKernel names the build: equal names, equal bits.
	GuestKernel string `json:"guest_kernel,omitempty"`
	HZ          int    `json:"hz,omitempty"` // the kernel's ticks a second
	// NotRepeatable says why another run need not be equal to the bit; "" where
	// it is, or where nobody could expect it (the real clock).
	NotRepeatable string `json:"not_repeatable,omitempty"`
}

// Prediction is a number computed before the run, beside what was measured.
type Prediction struct {
	Position int     `json:"position"`
	Of       string  `json:"of"`
	Is       string  `json:"is"` // the formula
	Because  string  `json:"because,omitempty"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
	Within   string  `json:"within,omitempty"` // "5%" or an absolute quantity; judged when present

	Observed *float64 `json:"observed,omitempty"`
	Holds    Holds    `json:"holds,omitempty"`
	Note     string   `json:"note,omitempty"`
}

// Holds says how an expectation came out over all trials.
type Holds string

const (
	HoldsYes    Holds = "yes"
	HoldsNo     Holds = "no"
	HoldsMixed  Holds = "mixed"       // in some trials only: inconclusive
	HoldsAbsent Holds = "missing"     // a value is missing: inconclusive
	NotReached  Holds = "not reached" // its `unless` held: neither pass nor fail
	NotAsked    Holds = "not asked"   // an arm it names was left out
)

// Expectation is one named claim and how it came out.
type Expectation struct {
	Position int    `json:"position"`
	That     string `json:"that"`
	Because  string `json:"because,omitempty"`
	Unless   string `json:"unless,omitempty"`
	Holds    Holds  `json:"holds"`
	Observed string `json:"observed"` // "pooled.latency.p50 = 11.2 ms, …"
	Note     string `json:"note,omitempty"`
}

// Evidence names the packets that show an arm's point.
type Evidence struct {
	Position int    `json:"position"`
	Arm      string `json:"arm"`
	Show     string `json:"show"` // e.g. "handshake", "reused request"
	Title    string `json:"title,omitempty"`
	Trial    int    `json:"trial"`          // trial number whose capture has it; 0 when none
	File     string `json:"file,omitempty"` // relative to the run's folder
}

// TriageRow is the cause that a sheet says triage should find.
type TriageRow struct {
	Position int    `json:"position"`
	Arm      string `json:"arm"`
	On       string `json:"on"`
	At       string `json:"at"`
	Truth    string `json:"truth"`
	// Found are the causes that triage named in this arm's trials, the first
	// one of each; "nothing" where it was silent. Empty: it did not run.
	Found []string `json:"found,omitempty"`
}

// Diagnosis is what triage said of a host in a trial.
type Diagnosis struct {
	On       string    `json:"on"`
	At       float64   `json:"at"` // s since go
	Findings []Finding `json:"findings"`
}

// Finding is one cause that triage named, the most pressing one first.
type Finding struct {
	Cause    string `json:"cause"` // "time-wait-exhaustion"
	Text     string `json:"text"`  // what was seen, in a sentence with its numbers
	Evidence string `json:"evidence,omitempty"`
}

// Warning is a doubt that travels beside the numbers it concerns.
type Warning struct {
	About string `json:"about"` // arm, metric, figure or file
	Text  string `json:"text"`
}

// Arm is one configuration under test, over all its trials.
type Arm struct {
	Position    int              `json:"position"`
	Baseline    bool             `json:"baseline"`
	Levers      map[string]Lever `json:"levers"`
	Unsupported string           `json:"unsupported,omitempty"` // what the kernel lacks; no trials then
	Costs       string           `json:"costs,omitempty"`       // what its lever costs, in the sheet's words
	// Point is where on a sweep's axes it is, and Numbers are the sheet's own
	// names with their values there (loss, rtt …); absent without a sweep.
	Point   []Coordinate        `json:"point,omitempty"`
	Numbers map[string]Quantity `json:"numbers,omitempty"`
	Metrics map[string]Metric   `json:"metrics"` // OWNER.METRIC → value over trials
	Trials  []Trial             `json:"trials"`
}

// Coordinate is a value on one axis of a sweep.
type Coordinate struct {
	Axis  string `json:"axis"`  // what ARM[AXIS=VALUE] calls it
	Value string `json:"value"` // as the sheet has it
}

// Lever is one thing that an arm changes, from the baseline's value.
type Lever struct {
	From string `json:"from"`
	To   string `json:"to"`
	Why  string `json:"why,omitempty"`
}

// Metric is a value over the trials of an arm: their median, with the range.
type Metric struct {
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	N     int     `json:"n"` // trials it was measured in
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// Trial is one execution of one arm with one seed.
type Trial struct {
	Number   int     `json:"number"` // 1… in order of execution
	Arm      string  `json:"arm"`
	Pair     int     `json:"pair"` // 1…
	Seed     uint64  `json:"seed"`
	Dir      string  `json:"dir"` // trials/<n>-<arm>-<seed>
	Warmup   float64 `json:"warmup"`
	Duration float64 `json:"duration"` // of the measuring window, s
	Took     float64 `json:"took"`     // s, wall time
	// Wakeups are how often the lab and its agents in a guest woke up: on the
	// virtual clock that is what a trial costs. 0 elsewhere.
	Wakeups  int64               `json:"wakeups,omitempty"`
	Metrics  map[string]Quantity `json:"metrics"`          // OWNER.METRIC
	Kernel   map[string]string   `json:"kernel,omitempty"` // the arm's global settings, as read back
	Validity Validity            `json:"validity"`
	Files    []File              `json:"files"`
	Columns  []Column            `json:"columns"` // of samples.csv.gz
	Agents   []Agent             `json:"agents"`
	Hosts    []Host              `json:"hosts"`
	Wires    []Wire              `json:"wires"`
	Capture  *Capture            `json:"capture,omitempty"`
	Ladders  map[string]Ladder   `json:"ladders,omitempty"` // evidence name → the packets to draw
	Chains   []Chain             `json:"chains,omitempty"`  // what timers sent into a silence, from the capture
	Faults   []Fault             `json:"faults,omitempty"`
	Triage   []Diagnosis         `json:"triage,omitempty"` // what triage said at the moments that the sheet names
	Warnings []Warning           `json:"warnings,omitempty"`
}

// Fault is a timed change that the sheet made.
type Fault struct {
	Name string  `json:"name"`
	At   float64 `json:"at"`            // s since go
	For  float64 `json:"for,omitempty"` // s; 0: to the end
	On   string  `json:"on"`
	Do   string  `json:"do"`
}

// Validity says whether a trial counts, and each reason why not.
type Validity struct {
	Valid   bool     `json:"valid"`
	Reasons []string `json:"reasons,omitempty"`
	// The generator's own lag, s: call entry − max(intended start, moment a
	// connection slot became free).
	LagP50      float64 `json:"lag_p50"`
	LagP99      float64 `json:"lag_p99"`
	LagMax      float64 `json:"lag_max"`
	Interrupted bool    `json:"interrupted,omitempty"`
}

// File is one file of a trial with its digest.
type File struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

// Column is one column of samples.csv.gz.
type Column struct {
	Name  string `json:"name"` // OWNER.SERIES, or "t"
	Unit  string `json:"unit"`
	About string `json:"about"`
}

// Agent is one process inside a host.
type Agent struct {
	Name      string            `json:"name"`
	Role      string            `json:"role"` // client | server | wire | middlebox
	Kind      string            `json:"kind"`
	Host      string            `json:"host"`
	Argv      []string          `json:"argv,omitempty"`
	CPU       float64           `json:"cpu"`              // s
	MaxRSS    int64             `json:"max_rss"`          // B
	Nice      int               `json:"nice,omitempty"`   // its nice value, read back: -20 goes before others
	Waited    float64           `json:"waited,omitempty"` // s of the window that its threads waited for a CPU, where the clock is real
	Addresses []string          `json:"addresses,omitempty"`
	Options   map[string]string `json:"options,omitempty"` // read back from the kernel
	Exit      string            `json:"exit"`
	Stderr    string            `json:"stderr,omitempty"` // the last lines
}

// Host is a network namespace of the trial.
type Host struct {
	Name    string            `json:"name"`
	Sysctls map[string]string `json:"sysctls"` // the sheet's own, as read back
	Address map[string]string `json:"addresses"`
	// Congestion is the congestion control that the host's routes pin; "" where
	// its programs set their own.
	Congestion string           `json:"congestion,omitempty"`
	Counters   map[string]int64 `json:"counters"` // SNMP, growth over the whole trial, non-zero only
}

// Wire is one link's wire as it ran. Directions are keyed "FROM>TO".
type Wire struct {
	Link        string                      `json:"link"`
	Kind        string                      `json:"kind"`    // userspace | netem | direct
	Release     string                      `json:"release"` // timerfd | fq | kernel
	Fates       string                      `json:"fates"`
	Directions  map[string]map[string]int64 `json:"directions"`             // counter → value; what cannot be counted is absent
	DelayError  map[string]float64          `json:"delay_error,omitempty"`  // p50, p99, max: s
	Draws       int64                       `json:"draws,omitempty"`        // packets that random fates were drawn for
	SharedFates *float64                    `json:"shared_fates,omitempty"` // share of packets whose key occurred in the baseline too
}

// Capture is what the trial's capture.pcapng holds.
type Capture struct {
	File      string `json:"file"`
	Packets   int64  `json:"packets"`   // written
	Seen      int64  `json:"seen"`      // by the capture's filter
	Dropped   int64  `json:"dropped"`   // by the kernel: the ring was full
	Commented int64  `json:"commented"` // packets with a comment
	Bound     string `json:"bound"`     // what was kept, in words
}

// Ladder is a few packets to draw as a ladder diagram: time downwards, a
// vertical line for each host.
type Ladder struct {
	Title  string        `json:"title"`
	Left   string        `json:"left"`
	Right  string        `json:"right"`
	Events []LadderEvent `json:"events"`
	Spans  []LadderSpan  `json:"spans,omitempty"`
	Marks  []LadderMark  `json:"marks,omitempty"`
}

// LadderMark is something that happened beside the packets: "fault vanish".
type LadderMark struct {
	At   float64 `json:"at"` // s since the ladder's first packet
	Text string  `json:"text"`
}

// LadderEvent is one packet: where and when it left, where and when it came.
type LadderEvent struct {
	From    string   `json:"from"`
	Sent    float64  `json:"sent"`              // s since the ladder's first packet
	Arrived *float64 `json:"arrived,omitempty"` // nil: lost on the way
	Label   string   `json:"label"`             // "SYN seq 0", "PSH,ACK seq 1:129 ack 1"
	Flags   string   `json:"flags"`
	Seq     uint32   `json:"seq"` // relative
	Ack     uint32   `json:"ack"` // relative
	Len     int      `json:"len"` // payload bytes
	Comment string   `json:"comment,omitempty"`
	Frame   int      `json:"frame,omitempty"` // number in the capture file
}

// LadderSpan is a bracket over time on one host's side: "handshake: 10.3 ms".
type LadderSpan struct {
	Host  string  `json:"host"`
	From  float64 `json:"from"`
	To    float64 `json:"to"`
	Label string  `json:"label"`
}
