package netns

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Answer to the question whether this machine has a feature for this user.
type Answer int

const (
	// Undetermined: the question itself failed.
	Undetermined Answer = iota
	Supported
	Unsupported
)

func (a Answer) String() string {
	switch a {
	case Supported:
		return "supported"
	case Unsupported:
		return "unsupported"
	}
	return "undetermined"
}

// MarshalText writes the answer as its word.
func (a Answer) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (a *Answer) UnmarshalText(b []byte) error {
	for _, x := range []Answer{Undetermined, Supported, Unsupported} {
		if string(b) == x.String() {
			*a = x
			return nil
		}
	}
	return fmt.Errorf("%q is not an answer", b)
}

// Feature is something a lab may need of the machine. The names are those that
// a sheet's needs have.
type Feature string

const (
	UserNamespaces    Feature = "user-namespaces"
	NetworkNamespaces Feature = "network-namespaces"
	Sysctls           Feature = "sysctls"
	Priority          Feature = "priority"
	Veth              Feature = "veth"
	Bridge            Feature = "bridge"
	AFPacket          Feature = "af-packet"
	TPacketV3         Feature = "tpacket-v3"
	TXTime            Feature = "so-txtime"
	Tun               Feature = "tun"
	NFTables          Feature = "nftables"
	NFTablesNAT       Feature = "nftables-nat"
	Conntrack         Feature = "conntrack"
	InetDiag          Feature = "inet-diag"
	InetDiagDestroy   Feature = "inet-diag-destroy"
	SocketDeaths      Feature = "socket-deaths"
	TCPInfo           Feature = "tcp-info"
	SchNetem          Feature = "sch-netem"
	SchFQ             Feature = "sch-fq"
	SchHTB            Feature = "sch-htb"
	SchTBF            Feature = "sch-tbf"
	CongReno          Feature = "congestion-reno"
	CongCubic         Feature = "congestion-cubic"
	CongBBR           Feature = "congestion-bbr"
)

// ErrUnsupported is wrapped by every error that means "this machine, or this
// user on it, cannot"; any other error of Have means "could not be found out".
var ErrUnsupported = errors.New("not supported here")

// UnsupportedError says what is missing, and why it is thought to be.
type UnsupportedError struct {
	Feature Feature
	// Reason is what the probe met.
	Reason error
	// Costs is what cannot be done without it, Get how to get it.
	Costs, Get string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("this machine has no %s (%v): %s; %s", e.Feature, e.Reason, e.Costs, e.Get)
}

func (e *UnsupportedError) Unwrap() []error { return []error{ErrUnsupported, e.Reason} }

// probe is how one feature is asked for.
type probe struct {
	feature Feature
	// what it is, for people; costs: what a lab loses without; get: the way to it.
	what, costs, get string
	// ask returns what was seen; refused(err) says no, another error does not know.
	ask func() (detail string, err error)
}

// refusal marks an error as the answer no.
type refusal struct{ err error }

func (r refusal) Error() string { return r.err.Error() }
func (r refusal) Unwrap() error { return r.err }

func refused(err error) error { return refusal{err} }

// refusedIf gives the answer no for one of these errors, does not know for
// another, and yes for none.
func refusedIf(err error, no ...error) error {
	if slices.ContainsFunc(no, func(n error) bool { return errors.Is(err, n) }) {
		return refused(err)
	}
	return err
}

type answered struct {
	detail string
	err    error
}

var asked struct {
	sync.Mutex
	answers map[Feature]answered
}

// Features lists all that can be asked for.
func Features() []Feature {
	var all []Feature
	for _, p := range probes() {
		all = append(all, p.feature)
	}
	return all
}

// Have asks whether this machine has a feature for this user, in a namespace
// made for the question: nil means yes, an error that wraps ErrUnsupported (an
// *UnsupportedError) no, and any other error that it could not be found out. A
// definite answer is asked for once in a process.
func Have(f Feature) error {
	for _, p := range probes() {
		if p.feature == f {
			return p.answer().err
		}
	}
	return fmt.Errorf("%q is not a feature that can be asked for", f)
}

func (p probe) answer() answered {
	asked.Lock()
	defer asked.Unlock()
	if a, ok := asked.answers[p.feature]; ok {
		return a
	}
	detail, err := p.ask()
	var no refusal
	switch {
	case errors.As(err, &no):
		err = &UnsupportedError{Feature: p.feature, Reason: no.err, Costs: p.costs, Get: p.get}
	case err != nil:
		return answered{detail, fmt.Errorf("find out whether this machine has %s: %w", p.feature, err)}
	}
	if asked.answers == nil {
		asked.answers = map[Feature]answered{}
	}
	a := answered{detail, err}
	asked.answers[p.feature] = a
	return a
}
