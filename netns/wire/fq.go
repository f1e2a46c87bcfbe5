package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// fqHorizon is how far ahead a frame is handed over: fq's own horizon, the
	// largest that it takes, less some for the clock to move.
	fqHorizonMicros = 4_000_000_000
	fqHorizon       = int64(fqHorizonMicros)*1000 - int64(time.Second)
	// fqLimit is out of the way: what bounds the frames on a wire is MaxFrames.
	fqLimit = 1 << 24

	// pacedBuffer is the send buffer asked for, which only root may have: a
	// frame takes its room in it until it leaves fq.
	pacedBuffer = 1 << 30
	// maxPaced is how many sockets a plain user's port has instead, each with
	// what net.core.wmem_max allows (some 180 full frames).
	maxPaced = 32

	controlTime = 24 // a control message with SCM_TXTIME
	controlSize = 48 // and one that asks for a stamp
)

// Attributes of TCA_OPTIONS for fq (linux/pkt_sched.h).
const (
	fqPLimit     = 1
	fqFlowPLimit = 2
	fqRateEnable = 5
	fqOrphanMask = 10
	fqTimerSlack = 13
	fqHorizonOpt = 14 // Linux 5.8
)

// fqOptions make fq a clockwork and nothing else: one flow (frames of a packet
// socket are told apart by a hash under the orphan mask), no pacing of its own,
// no slack.
func fqOptions() []byte {
	var b []byte
	for _, o := range []struct {
		typ   int
		value uint32
	}{{fqPLimit, fqLimit}, {fqFlowPLimit, fqLimit}, {fqRateEnable, 0}, {fqOrphanMask, 0}, {fqTimerSlack, 0}, {fqHorizonOpt, fqHorizonMicros}} {
		b = append(b, nl.NewRtAttr(o.typ, binary.LittleEndian.AppendUint32(nil, o.value)).Serialize()...)
	}
	return b
}

func parseFQ(b []byte) (parsed, error) {
	p := parsed{}
	names := map[int]string{fqPLimit: "limit", fqFlowPLimit: "flow limit", fqRateEnable: "rate enable",
		fqOrphanMask: "orphan mask", fqTimerSlack: "timer slack", fqHorizonOpt: "horizon"}
	err := attributes(b, func(typ int, data []byte) error {
		if name, ok := names[typ]; ok {
			if len(data) < 4 {
				return fmt.Errorf("fq attribute %d of %d bytes", typ, len(data))
			}
			p[name] = words(data, 1)[0]
		}
		return nil
	})
	for _, name := range names {
		if _, ok := p[name]; !ok && err == nil {
			// A kernel that does not know the option does not say so.
			return nil, &UnsupportedError{What: "sch_fq with " + name, Err: unix.EOPNOTSUPP}
		}
	}
	return p, err
}

// pacer is the release by fq: a frame that leaves behind all those before it
// is handed over as soon as it is decided, and the kernel lets it go at the
// nanosecond of its departure. One that overtakes cannot go this way, since fq
// sleeps until the frame that was its first when it fell asleep; it waits with
// the wire (Wire.release), and leaves past fq.
type pacer struct {
	rtnl
	lanes [2]*lane // by the port that frames leave by
}

// lane is what leaves by one port.
type lane struct {
	name  string
	index int

	sockets []pacedSocket
	use     int // the socket that had room last

	out   []mmsghdr
	iov   []unix.Iovec
	ctl   [][controlSize]byte
	batch []entry
	ready int

	last int64 // the latest departure handed over
	kept int64 // the latest one that was not
	// flying are the departures handed over that are still to come.
	flying instants
	since  int // frames handed over since one was stamped

	handed uint64
	tally  installed // fq's own count, as it was read last
	broken error     // why it could not be read
}

// newPacer puts fq onto both ports, in the current thread's network namespace.
// The error is an ErrUnsupported where the kernel cannot.
func newPacer(ports [2]*port) (_ *pacer, err error) {
	p := &pacer{}
	if p.rtnl, err = openRtnl(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	for i, port := range ports {
		l := &lane{name: port.name, last: math.MinInt64, kept: math.MinInt64}
		if l.index, _, err = port.identify(); err != nil {
			return nil, fmt.Errorf("wire: port %s: %w", port.name, err)
		}
		q := qdisc{kind: "fq", parent: rootParent, handle: rootHandle, options: fqOptions()}
		if _, err = p.install(l.index, []qdisc{q}); err != nil {
			return nil, fmt.Errorf("wire: port %s: %w", port.name, err)
		}
		p.lanes[i] = l
		if err = l.open(); err != nil {
			return nil, fmt.Errorf("wire: port %s: %w", port.name, err)
		}
		l.out, l.iov = make([]mmsghdr, batch), make([]unix.Iovec, batch)
		l.ctl, l.batch = make([][controlSize]byte, batch), make([]entry, batch)
		for k := range l.out {
			h := &l.out[k].hdr
			h.Iov = &l.iov[k]
			h.SetIovlen(1)
			c := l.ctl[k][:]
			h.Control = &c[0]
			putControl(c, unix.SO_TXTIME, 8)
			putControl(c[controlTime:], unix.SO_TIMESTAMPING, 4)
			binary.LittleEndian.PutUint32(c[controlTime+unix.SizeofCmsghdr:], unix.SOF_TIMESTAMPING_TX_SOFTWARE)
		}
	}
	return p, nil
}

// putControl writes the header of a control message for the socket level.
func putControl(b []byte, typ uint32, n int) {
	binary.LittleEndian.PutUint64(b, uint64(unix.SizeofCmsghdr+n))
	binary.LittleEndian.PutUint32(b[8:], unix.SOL_SOCKET)
	binary.LittleEndian.PutUint32(b[12:], typ)
}

// open makes the sockets that the lane sends by.
func (l *lane) open() error {
	for len(l.sockets) < maxPaced {
		s, err := openPaced(l.index)
		if err != nil {
			return err
		}
		l.sockets = append(l.sockets, s)
		if s.room >= pacedBuffer {
			break
		}
	}
	return nil
}

// takes reports whether a frame can be handed over: it must leave behind all
// those before it, and within fq's horizon.
func (p *pacer) takes(e entry, now int64) bool {
	l := p.lanes[1-e.dir]
	if e.due < l.last || e.due-now > fqHorizon || e.due <= l.kept && l.kept > now {
		l.kept = max(l.kept, e.due)
		return false
	}
	l.last = e.due
	return true
}

// put adds a frame to its lane's batch; the caller flushes a full one.
func (l *lane) put(e entry, data []byte, now int64) {
	i := l.ready
	l.iov[i].Base = &data[0]
	l.iov[i].SetLen(len(data))
	binary.LittleEndian.PutUint64(l.ctl[i][unix.SizeofCmsghdr:], uint64(e.due))
	l.since++
	// One frame in so many is stamped by the kernel as it leaves, and each
	// that leaves alone.
	size := controlTime
	if l.since >= sampleEach || l.flying.count(now) == 0 && i == 0 {
		size, l.since = controlSize, 0
	}
	l.out[i].hdr.SetControllen(size)
	l.batch[i] = e
	l.ready++
}

// roomier moves to another socket that has room.
func (l *lane) roomier() bool {
	for i := range l.sockets {
		k := (l.use + 1 + i) % len(l.sockets)
		if l.sockets[k].hasRoom() {
			l.use = k
			return true
		}
	}
	return false
}

// count asks fq for its own; after close it is the last one.
func (p *pacer) count(port int) (installed, error) {
	l := p.lanes[port]
	if p.socket == nil {
		return l.tally, l.broken
	}
	set, err := p.read(l.index)
	q, ok := set[rootHandle]
	if err == nil && (!ok || q.kind != "fq") {
		err = errors.New("fq is gone from the port it was on")
	}
	l.broken = err
	if err == nil {
		l.tally = q
	}
	return l.tally, err
}

// close takes fq away, and with it the frames it still has.
func (p *pacer) close() error {
	var errs []error
	for i, l := range p.lanes {
		if l == nil {
			continue
		}
		// What is reported from here on.
		_, _ = p.count(i)
		if err := p.remove(l.index); err != nil {
			errs = append(errs, fmt.Errorf("wire: remove fq: %w", err))
		}
		for _, s := range l.sockets {
			errs = append(errs, unix.Close(s.fd))
		}
		l.sockets = nil
	}
	p.rtnl.close()
	return errors.Join(errs...)
}

// instants is a queue of points in time that were put in order.
type instants struct {
	ring []int64 // a power of two
	from int
	n    int
}

func (q *instants) push(at int64) {
	if q.n == len(q.ring) {
		ring := make([]int64, max(256, 2*len(q.ring)))
		for i := range q.n {
			ring[i] = q.ring[(q.from+i)&(len(q.ring)-1)]
		}
		q.ring, q.from = ring, 0
	}
	q.ring[(q.from+q.n)&(len(q.ring)-1)] = at
	q.n++
}

// count is how many are still to come; those that have passed are forgotten.
func (q *instants) count(now int64) int {
	for q.n > 0 && q.ring[q.from] <= now {
		q.from = (q.from + 1) & (len(q.ring) - 1)
		q.n--
	}
	return q.n
}
