package wire

// tally is one direction's counts. In everything that the wire decided
//
//	in + duplicated = out + lost + queue_dropped + mtu_dropped + blackholed +
//	                  fault_dropped + truncated + overflowed + send_errors + queued
type tally struct {
	in, bytesIn, out, bytesOut                         uint64
	lost, queueDropped, mtuDropped, blackholed         uint64
	faultDropped, truncated, overflowed, sendErrors    uint64
	reordered, duplicated, corrupted                   uint64
	firstSYNs, againSYNs, tcpAgain, unsummed, ringLost uint64
	held, released                                     uint64
	queued                                             uint64
	maxQueueBytes                                      int64
}

// Counters is what a wire has seen and done since it was opened. What an
// implementation cannot count is nil, and absent in JSON.
type Counters struct {
	TowardsA DirectionCounters `json:"towards_a"`
	TowardsB DirectionCounters `json:"towards_b"`
	// MaxFrames is the most frames that were on the wire at one time.
	MaxFrames *uint64 `json:"max_frames,omitempty"`
	// EvictedFlows were forgotten to bound memory; their later frames have
	// fates that no other trial repeats.
	EvictedFlows *uint64 `json:"evicted_flows,omitempty"`
	// Errors are reasons not to trust the rest, each in one line.
	Errors []string `json:"errors,omitempty"`
	// Warnings are what a reader should know about them.
	Warnings []string `json:"warnings,omitempty"`
}

// DirectionCounters count frames unless their name says bytes. For both kinds
// of wire, where all are known:
//
//	in + duplicated = out + lost + queue_dropped + mtu_dropped + blackholed +
//	                  fault_dropped + truncated + overflowed + send_errors + queued
type DirectionCounters struct {
	In       *uint64 `json:"in,omitempty"`
	BytesIn  *uint64 `json:"bytes_in,omitempty"`
	Out      *uint64 `json:"out,omitempty"`
	BytesOut *uint64 `json:"bytes_out,omitempty"`
	// Lost to the loss asked for; QueueDropped at the tail of the queue;
	// MTUDropped for their size; Blackholed by a blackhole or partition;
	// FaultDropped by a drop with a match.
	Lost         *uint64 `json:"lost,omitempty"`
	QueueDropped *uint64 `json:"queue_dropped,omitempty"`
	MTUDropped   *uint64 `json:"mtu_dropped,omitempty"`
	Blackholed   *uint64 `json:"blackholed,omitempty"`
	FaultDropped *uint64 `json:"fault_dropped,omitempty"`
	// Frames moved out of their order, second copies, and frames with a
	// flipped bit.
	Reordered  *uint64 `json:"reordered,omitempty"`
	Duplicated *uint64 `json:"duplicated,omitempty"`
	Corrupted  *uint64 `json:"corrupted,omitempty"`
	// Held were kept back by a hold, so far; Released of these went on.
	Held     *uint64 `json:"held,omitempty"`
	Released *uint64 `json:"released,omitempty"`
	// Queued are on the wire now: delayed, waiting or held.
	Queued        *uint64 `json:"queued,omitempty"`
	MaxQueueBytes *uint64 `json:"max_queue_bytes,omitempty"`
	// FirstSYNs begin a flow; RetransmittedSYNs repeat one with the same
	// ISN; RetransmittedSegments carry bytes that were sent before.
	FirstSYNs             *uint64 `json:"first_syns,omitempty"`
	RetransmittedSYNs     *uint64 `json:"retransmitted_syns,omitempty"`
	RetransmittedSegments *uint64 `json:"retransmitted_segments,omitempty"`
	// What the wire itself failed to do: Truncated did not fit into the ring
	// (segmentation offload is on at the sender), Overflowed found no memory
	// left, SendErrors were refused by the interface, RingDropped never
	// reached the wire (they are not in In).
	Truncated   *uint64 `json:"truncated,omitempty"`
	Overflowed  *uint64 `json:"overflowed,omitempty"`
	SendErrors  *uint64 `json:"send_errors,omitempty"`
	RingDropped *uint64 `json:"ring_dropped,omitempty"`
	// ChecksumMissing were forwarded with a checksum still to be filled in
	// (transmit checksum offload is on at the sender).
	ChecksumMissing *uint64 `json:"checksum_missing,omitempty"`
}

// export copies t into a form of its own.
func (t tally) export() DirectionCounters {
	b := &t // one allocation that the pointers share
	q := uint64(b.maxQueueBytes)
	return DirectionCounters{
		In: &b.in, BytesIn: &b.bytesIn, Out: &b.out, BytesOut: &b.bytesOut,
		Lost: &b.lost, QueueDropped: &b.queueDropped, MTUDropped: &b.mtuDropped,
		Blackholed: &b.blackholed, FaultDropped: &b.faultDropped,
		Reordered: &b.reordered, Duplicated: &b.duplicated, Corrupted: &b.corrupted,
		Held: &b.held, Released: &b.released, Queued: &b.queued, MaxQueueBytes: &q,
		FirstSYNs: &b.firstSYNs, RetransmittedSYNs: &b.againSYNs, RetransmittedSegments: &b.tcpAgain,
		Truncated: &b.truncated, Overflowed: &b.overflowed, SendErrors: &b.sendErrors,
		RingDropped: &b.ringLost, ChecksumMissing: &b.unsummed,
	}
}
