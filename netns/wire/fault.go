package wire

import (
	"fmt"
	"math"
	"time"
)

// Action is what a fault does.
type Action string

const (
	// DoBlackhole swallows a direction, or both; ARP passes unless Fault.ARP.
	DoBlackhole Action = "blackhole"
	// DoPartition is a blackhole in both directions.
	DoPartition Action = "partition"
	// DoSet replaces the fields named by Fault.Set.
	DoSet Action = "set"
	// DoDrop loses the frames that match, by default the first one.
	DoDrop Action = "drop"
	// DoHold keeps the frames that match on the wire until the fault ends, or
	// until a release of the same name; with Fault.Successor, until a later
	// connection of the same addresses and ports has come to their place.
	DoHold Action = "hold"
	// DoRelease lets go what the hold of the same name keeps, and ends it.
	DoRelease Action = "release"
)

// Fault changes a running wire. It concerns the frames that arrive from At on,
// for For (zero: to the end), by their own arrival stamps: when the command
// came plays no part, except that frames decided before it came stay as they
// were decided.
type Fault struct {
	Name string `json:"name,omitempty"`
	// At is an instant of CLOCK_MONOTONIC in ns.
	At      int64         `json:"at_ns"`
	For     time.Duration `json:"for_ns,omitempty"`
	Towards Towards       `json:"towards,omitempty"`
	Do      Action        `json:"do"`
	// ARP makes a blackhole or partition swallow ARP too.
	ARP   bool    `json:"arp,omitempty"`
	Set   *Change `json:"set,omitempty"`
	Match Match   `json:"match,omitzero"`
	// Successor ends a hold of data segments by sequence numbers and not by
	// time: see stray.
	Successor bool `json:"successor,omitempty"`
}

// Change replaces the fields of a Direction that are not nil.
type Change struct {
	Delay      *time.Duration `json:"delay_ns,omitempty"`
	Jitter     *time.Duration `json:"jitter_ns,omitempty"`
	JitterDist *JitterDist    `json:"jitter_dist,omitempty"`
	Rate       *int64         `json:"rate,omitempty"`
	Queue      *Queue         `json:"queue,omitempty"`
	Loss       *Loss          `json:"loss,omitempty"`
	Reorder    *Reorder       `json:"reorder,omitempty"`
	Duplicate  *float64       `json:"duplicate,omitempty"`
	Corrupt    *float64       `json:"corrupt,omitempty"`
	MTU        *int           `json:"mtu,omitempty"`
	Blackhole  *Blackhole     `json:"blackhole,omitempty"`
}

func put[T any](dst *T, v *T) {
	if v != nil {
		*dst = *v
	}
}

func (c *Change) apply(d Direction) Direction {
	put(&d.Delay, c.Delay)
	put(&d.Jitter, c.Jitter)
	put(&d.JitterDist, c.JitterDist)
	put(&d.Rate, c.Rate)
	put(&d.Queue, c.Queue)
	put(&d.Loss, c.Loss)
	put(&d.Reorder, c.Reorder)
	put(&d.Duplicate, c.Duplicate)
	put(&d.Corrupt, c.Corrupt)
	put(&d.MTU, c.MTU)
	put(&d.Blackhole, c.Blackhole)
	return d
}

// Match picks frames for a drop or a hold. The zero value picks the first
// frame that arrives while the fault lasts.
type Match struct {
	// Port is the port that the flow's first SYN went to; zero is any.
	Port int `json:"port,omitempty"`
	// Flow is the flow's ordinal towards its destination, from 1; zero is any.
	Flow int `json:"flow,omitempty"`
	// Kind is SYN, SYN-ACK, FIN, RST, ACK (no payload) or data; empty is any.
	Kind string `json:"kind,omitempty"`
	// TOS is the IP header's TOS byte, the traffic class of IPv6; zero is any.
	TOS int `json:"tos,omitempty"`
	// Nth is the first of the matching frames that is taken, from 1; zero is 1.
	Nth int `json:"nth,omitempty"`
	// Count is how many are taken from there; zero is 1, -1 all.
	Count int `json:"count,omitempty"`
}

// wants reports whether a frame matches, its turn apart.
func (m Match) wants(f *frame, fl *flow) bool {
	if m.Kind != "" && kindNames[f.kind] != m.Kind {
		return false
	}
	if m.TOS != 0 && f.tos != uint8(m.TOS) {
		return false
	}
	if m.Port == 0 && m.Flow == 0 {
		return true
	}
	return fl != nil && (m.Port == 0 || fl.port == uint16(m.Port)) && (m.Flow == 0 || fl.ordinal == uint32(m.Flow))
}

// turn reports whether the n-th matching frame, from 1, is to be taken.
func (m Match) turn(n int) bool {
	first, count := max(m.Nth, 1), m.Count
	if count == 0 {
		count = 1
	}
	return n >= first && (count < 0 || n-first < count)
}

// end is the first instant at which f no longer holds.
func (f Fault) end() int64 {
	if f.For == 0 || f.At > math.MaxInt64-int64(f.For) {
		return math.MaxInt64
	}
	return f.At + int64(f.For)
}

func (f Fault) concerns(dir int) bool {
	return f.Towards == Both || f.Towards == TowardsB && dir == dirB || f.Towards == TowardsA && dir == dirA
}

func (f Fault) validate() error {
	switch f.Towards {
	case Both, TowardsA, TowardsB:
	default:
		return fmt.Errorf("towards %q: write a, b or nothing", f.Towards)
	}
	if f.For < 0 {
		return fmt.Errorf("for %v: a duration above 0, or 0 for the rest of the run", f.For)
	}
	if f.Successor && (f.Do != DoHold || f.For != 0 || f.Match.Kind != "data") {
		return fmt.Errorf("successor belongs to a hold of data segments without for: it ends when a later connection has come to their place")
	}
	if f.Set != nil && f.Do != DoSet {
		return fmt.Errorf("do %s takes no set", f.Do)
	}
	if f.Match != (Match{}) && f.Do != DoDrop && f.Do != DoHold {
		return fmt.Errorf("do %s takes no match: only drop and hold do", f.Do)
	}
	switch f.Do {
	case DoBlackhole:
	case DoPartition:
		if f.Towards != Both {
			return fmt.Errorf("a partition is both ways: use blackhole for one")
		}
	case DoSet:
		if f.Set == nil {
			return fmt.Errorf("do set needs set: the fields to change")
		}
	case DoDrop, DoHold:
		if m := f.Match; m.Nth < 0 || m.Flow < 0 || m.Count < -1 || m.Port < 0 || m.Port > 65535 || m.TOS < 0 || m.TOS > 255 {
			return fmt.Errorf("match %+v: nth and flow count from 1, count is -1 for all, tos is a byte", m)
		}
		if f.Match.Kind != "" && kindOf(f.Match.Kind) < 0 {
			return fmt.Errorf("match kind %q: write SYN, SYN-ACK, FIN, RST, ACK or data", f.Match.Kind)
		}
	case DoRelease:
		if f.For != 0 {
			return fmt.Errorf("a release happens at once: it takes no for")
		}
	default:
		return fmt.Errorf("do %q: write blackhole, partition, set, drop, hold or release", f.Do)
	}
	return nil
}

// check validates a fault against the configuration it would change.
func (m *model) check(f Fault) error {
	if err := f.validate(); err != nil {
		return err
	}
	for dir := range m.dirs {
		if f.Set == nil || !f.concerns(dir) {
			continue
		}
		if err := f.Set.apply(m.dirs[dir].base).validate(m.fates); err != nil {
			return err
		}
	}
	return nil
}
