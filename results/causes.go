package results

// Cause is a word that triage names a failure by, and sheets hold it against.
type Cause struct {
	Name  string // "time-wait-exhaustion"
	About string
}

// Nothing is the truth about a healthy host, and what triage's silence is
// called in a record.
const Nothing = "nothing"

// The causes that triage knows, by the words that are used for them in sheets,
// records and its own output.
const (
	TimeWaitExhaustion  = "time-wait-exhaustion"
	CloseWaitLeak       = "close-wait-leak"
	SynBacklogOverflow  = "syn-backlog-overflow"
	SynCookiesActive    = "syn-cookies-active"
	AcceptQueueOverflow = "accept-queue-overflow"
	PeerVanished        = "peer-vanished"
	RetransmissionStall = "retransmission-stall"
	ZeroWindow          = "zero-window"
	ConntrackFull       = "conntrack-full"
	ConntrackInvalid    = "conntrack-invalid"
	KeepaliveOff        = "keepalive-off"
)

var causes = []Cause{
	{ConntrackFull, "the table of tracked connections is full or nearly so: new flows are dropped without a word"},
	{CloseWaitLeak, "a program does not close what its peers have closed"},
	{AcceptQueueOverflow, "a program does not accept as fast as connections come"},
	{SynBacklogOverflow, "more handshakes are under way than a listener holds, and SYNs are dropped"},
	{TimeWaitExhaustion, "the local ports towards a destination are used up by TIME-WAIT, or soon will be"},
	{PeerVanished, "data or keepalive probes are sent and nothing at all comes back"},
	{ConntrackInvalid, "packets do not fit what the tracker knows of their connections"},
	{SynCookiesActive, "handshakes are answered with SYN cookies, which lose options"},
	{ZeroWindow, "a peer does not read: its window is shut, and data waits"},
	{RetransmissionStall, "the same data is sent again and again, though the peer is still heard; or a connection attempt has no answer"},
	{KeepaliveOff, "connections have been idle for long and nobody would notice if they were gone"},
}

// Causes lists them, the one that would explain the others first.
func Causes() []Cause { return append([]Cause(nil), causes...) }

// CauseNames are their words, and "nothing" at the end.
func CauseNames() []string {
	var out []string
	for _, c := range causes {
		out = append(out, c.Name)
	}
	return append(out, Nothing)
}

// First is the first cause of a diagnosis: what triage says the matter is.
func (d *Diagnosis) First() string {
	if len(d.Findings) == 0 {
		return Nothing
	}
	return d.Findings[0].Cause
}

// FillFound puts into each row of triage what its arm's trials found, in the
// order of the trials. A trial that was interrupted does not count.
func (r *Run) FillFound() {
	for name, row := range r.Triage {
		row.Found = nil
		for _, t := range r.Arms[row.Arm].Trials {
			if t.Validity.Interrupted {
				continue
			}
			for _, d := range t.Triage {
				if d.On == row.On {
					row.Found = append(row.Found, d.First())
				}
			}
		}
		r.Triage[name] = row
	}
}
