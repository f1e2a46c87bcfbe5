package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attributes of linux/pkt_sched.h that the libraries lack or lag behind.
const (
	netemReorder   = 3
	netemCorrupt   = 4
	netemLoss      = 5
	netemRate      = 6
	netemRate64    = 8
	netemLatency64 = 10 // Linux 4.15
	netemJitter64  = 11
	netemDelayDist = 2
	netemSeed      = 14 // TCA_NETEM_PRNG_SEED, Linux 6.6
	netemLossGE    = 2  // NETEM_LOSS_GE within netemLoss

	tbfParms  = 1
	tbfRate64 = 4
	tbfBurst  = 6

	// netemLimit is the delay queue's limit in frames, out of the way: what
	// bounds a queue is the tbf below.
	netemLimit = 1 << 20
	// netemMaxJitter: sch_netem caps it silently at an int.
	netemMaxJitter = math.MaxInt32 * time.Nanosecond
	// netemDistScale is one standard deviation in a table (NETEM_DIST_SCALE).
	netemDistScale = 8192
	// linkEthernet (TC_LINKLAYER_ETHERNET) makes the kernel compute times
	// from the rate instead of asking for a table of them.
	linkEthernet = 1

	rootParent  = math.MaxUint32 // TC_H_ROOT
	rootHandle  = 1 << 16        // 1:
	childParent = 1<<16 | 1      // 1:1, netem's only class
	childHandle = 0x10 << 16     // 10:
)

// qdisc is a queueing discipline and where it goes.
type qdisc struct {
	kind           string
	parent, handle uint32
	options        []byte // the payload of TCA_OPTIONS
}

// request is the rtnetlink message that puts q onto an interface.
func (q qdisc) request(ifindex int) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	r.AddData(&nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(ifindex), Handle: q.handle, Parent: q.parent})
	r.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated(q.kind)))
	r.AddData(nl.NewRtAttr(nl.TCA_OPTIONS, q.options))
	return r
}

// netemQdiscs are what makes an egress do what d asks for: netem at the root
// for everything but a bounded queue, which is a tbf with its bfifo below it.
// Behind the delay instead of before it the queue is equally long, and frames
// take equally long in all. d is valid for netem.
func netemQdiscs(d Direction, seed uint64) []qdisc {
	root := qdisc{kind: "netem", parent: rootParent, handle: rootHandle}
	bounded := d.Rate > 0 && d.Queue != (Queue{})
	root.options = netemOptions(d, bounded, seed)
	if !bounded {
		return []qdisc{root}
	}
	return []qdisc{root, {kind: "tbf", parent: childParent, handle: childHandle, options: tbfOptions(d)}}
}

// probability is p as netem has it: 0 never, all ones always.
func probability(p float64) uint32 { return uint32(math.Round(p * math.MaxUint32)) }

// ticks are the kernel's, of 64 ns (PSCHED_SHIFT); saturated, since the 64-bit
// attributes override them.
func ticks(d time.Duration) uint32 { return uint32(min(int64(d)>>6, math.MaxUint32)) }

func netemOptions(d Direction, bounded bool, seed uint64) []byte {
	le := binary.LittleEndian
	// struct tc_netem_qopt
	b := le.AppendUint32(nil, ticks(d.Delay))
	b = le.AppendUint32(b, netemLimit)
	b = le.AppendUint32(b, probability(d.Loss.P))
	gap := uint32(0)
	if d.Reorder.P > 0 {
		gap = 1 // every frame is a candidate
	}
	b = le.AppendUint32(b, gap)
	b = le.AppendUint32(b, probability(d.Duplicate))
	b = le.AppendUint32(b, ticks(d.Jitter))

	attr := func(typ int, data []byte) { b = append(b, nl.NewRtAttr(typ, data).Serialize()...) }
	u32s := func(v ...uint32) (out []byte) {
		for _, x := range v {
			out = le.AppendUint32(out, x)
		}
		return out
	}
	u64 := func(v uint64) []byte { return le.AppendUint64(nil, v) }
	attr(netemLatency64, u64(uint64(d.Delay)))
	if d.Jitter > 0 {
		attr(netemJitter64, u64(uint64(d.Jitter)))
		if d.JitterDist == Normal || d.JitterDist == Pareto {
			attr(netemDelayDist, netemTable(shapeOf(d.JitterDist)))
		}
	}
	if d.Reorder.P > 0 {
		attr(netemReorder, u32s(probability(d.Reorder.P), 0))
	}
	if d.Corrupt > 0 {
		attr(netemCorrupt, u32s(probability(d.Corrupt), 0))
	}
	if g := d.Loss.GilbertElliott; g.P > 0 {
		// struct tc_netem_gemodel: p, r, h, k1. h is the chance of delivery in
		// the bad state, but k1 that of loss in the good one.
		ge := nl.NewRtAttr(netemLossGE, u32s(probability(g.P), probability(g.R), ^probability(1-g.H), probability(1-g.deliverGood())))
		attr(netemLoss|unix.NLA_F_NESTED, ge.Serialize())
	}
	if d.Rate > 0 && !bounded {
		// struct tc_netem_rate: bytes/s, then overhead, cell size and cell overhead.
		bytes := uint64(d.Rate) / 8
		attr(netemRate, u32s(uint32(min(bytes, math.MaxUint32)), 0, 0, 0))
		if bytes > math.MaxUint32 {
			attr(netemRate64, u64(bytes))
		}
	}
	if d.random() {
		attr(netemSeed, u64(seed))
	}
	return b
}

// netemTable is a shape as sch_netem reads it: 16-bit samples.
func netemTable(s *shape) []byte {
	b := make([]byte, 0, 2*shapeSize)
	for _, x := range s {
		v := math.Round(x * netemDistScale)
		b = binary.LittleEndian.AppendUint16(b, uint16(int16(max(math.MinInt16, min(math.MaxInt16, v)))))
	}
	return b
}

// tbfBurstBytes is how much a tbf may send at once: a full frame, or what its
// timers can be late by.
func tbfBurstBytes(rate int64) uint32 {
	const late = 250 * time.Microsecond
	return uint32(min(max(1514, bytesIn(int64(late), rate)), 1<<24))
}

func tbfOptions(d Direction) []byte {
	le := binary.LittleEndian
	bytes := uint64(d.Rate) / 8
	burst := tbfBurstBytes(d.Rate)
	// struct tc_tbf_qopt: rate and peak rate (struct tc_ratespec), limit,
	// buffer in ticks (overridden by TCA_TBF_BURST), mtu.
	p := make([]byte, 36)
	p[1] = linkEthernet
	le.PutUint32(p[8:], uint32(min(bytes, math.MaxUint32)))
	le.PutUint32(p[24:], uint32(min(d.Queue.limit(d.Rate), math.MaxInt32)))
	le.PutUint32(p[28:], ticks(time.Duration(float64(burst)/float64(bytes)*1e9)))
	b := nl.NewRtAttr(tbfParms, p).Serialize()
	if bytes > math.MaxUint32 {
		b = append(b, nl.NewRtAttr(tbfRate64, le.AppendUint64(nil, bytes)).Serialize()...)
	}
	return append(b, nl.NewRtAttr(tbfBurst, le.AppendUint32(nil, burst)).Serialize()...)
}

// parsed is what a qdisc's options say, for comparing what was asked for with
// what the kernel set.
type parsed map[string]uint64

// attributes calls f for each attribute in b, without its nested flag.
func attributes(b []byte, f func(typ int, data []byte) error) error {
	for len(b) >= 4 {
		n := int(binary.LittleEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return fmt.Errorf("attribute of %d bytes in %d", n, len(b))
		}
		if err := f(int(binary.LittleEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)), b[4:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// words reads what there is of up to n 32-bit words.
func words(b []byte, n int) []uint64 {
	out := make([]uint64, n)
	for i := 0; i < n && len(b) >= 4*i+4; i++ {
		out[i] = uint64(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out
}

func parseNetem(b []byte) (parsed, error) {
	if len(b) < 24 {
		return nil, fmt.Errorf("netem options of %d bytes", len(b))
	}
	q := words(b, 6)
	p := parsed{"latency": q[0] << 6, "limit": q[1], "loss": q[2], "gap": q[3], "duplicate": q[4], "jitter": q[5] << 6}
	err := attributes(b[24:], func(typ int, data []byte) error {
		switch typ {
		case netemLatency64, netemJitter64, netemRate64, netemSeed:
			if len(data) < 8 {
				return fmt.Errorf("attribute %d of %d bytes", typ, len(data))
			}
			p[map[int]string{netemLatency64: "latency", netemJitter64: "jitter", netemRate64: "rate", netemSeed: "seed"}[typ]] = binary.LittleEndian.Uint64(data)
		case netemReorder:
			p["reorder"] = words(data, 2)[0]
		case netemCorrupt:
			p["corrupt"] = words(data, 2)[0]
		case netemRate:
			if _, ok := p["rate"]; !ok {
				p["rate"] = words(data, 4)[0]
			}
		case netemLoss:
			return attributes(data, func(typ int, data []byte) error {
				if typ == netemLossGE {
					w := words(data, 4)
					p["gemodel p"], p["gemodel r"], p["gemodel h"], p["gemodel k1"] = w[0], w[1], w[2], w[3]
				}
				return nil
			})
		}
		return nil
	})
	return p, err
}

func parseTBF(b []byte) (parsed, error) {
	p := parsed{}
	err := attributes(b, func(typ int, data []byte) error {
		switch typ {
		case tbfParms:
			if len(data) < 36 {
				return fmt.Errorf("tbf parameters of %d bytes", len(data))
			}
			if _, ok := p["rate"]; !ok {
				p["rate"] = words(data[8:], 1)[0]
			}
			p["limit"] = words(data[24:], 1)[0]
		case tbfRate64:
			if len(data) < 8 {
				return fmt.Errorf("tbf rate of %d bytes", len(data))
			}
			p["rate"] = binary.LittleEndian.Uint64(data)
		}
		return nil
	})
	return p, err
}

// differs says what of the options asked for the kernel did not set.
func (q qdisc) differs(set []byte) error {
	parse := parseNetem
	switch q.kind {
	case "tbf":
		parse = parseTBF
	case "fq":
		parse = parseFQ
	}
	asked, err := parse(q.options)
	if err != nil {
		return err
	}
	got, err := parse(set)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	for _, name := range []string{"latency", "limit", "loss", "gap", "duplicate", "jitter", "reorder", "corrupt", "rate",
		"gemodel p", "gemodel r", "gemodel h", "gemodel k1",
		"flow limit", "rate enable", "orphan mask", "timer slack", "horizon"} {
		// What was not asked for is 0 or absent.
		if asked[name] != got[name] && !(name == "reorder" && asked["gap"] == 0) {
			return fmt.Errorf("%s: asked for %s %d, the kernel set %d", q.kind, name, asked[name], got[name])
		}
	}
	return nil
}
