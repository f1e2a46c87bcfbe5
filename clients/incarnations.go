package clients

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// Outrun is what a client of kind incarnations has of its own: two connections
// with the same four ports, one after the other (RFC 9293, 3.4.2, calls them
// incarnations of one). The first one echoes in lock-step until it has outrun
// the clock that initial sequence numbers come from, in both directions, and
// ends with one segment that is marked. The second one sends, in lock-step too,
// as far as that segment's place, and then goes on.
type Outrun struct {
	Ahead int64 `json:"ahead,omitempty"` // how far the first one is to be ahead of the clock; 0: it says a chunk and no more
	Most  int64 `json:"most,omitempty"`  // bytes of the first one, each way, at most; 0: 1 GiB
	Chunk int   `json:"chunk,omitempty"` // of the lock-step; 0: 512 KiB
	TOS   int   `json:"tos,omitempty"`   // the mark: the IP header's TOS byte; 0: 16
	// Waits has the second one wait for the answer to its last step to the
	// place, as a protocol of requests and answers does, before it goes on.
	Waits bool `json:"waits,omitempty"`
}

const (
	// isnTick is the clock's tick: seq_scale adds one every 64 ns (RFC 9293,
	// 3.4.1, asks for about 4 µs; net/core/secure_seq.c).
	isnTick = 64

	defaultMost    = 1 << 30
	defaultChunk   = 512 << 10
	defaultMark    = 16
	defaultPatient = 10 * time.Second

	// still is how long nothing is sent before the moments that a capture is to
	// show, and pause how long after the second.
	still = int64(25 * time.Millisecond)
	pause = int64(8 * time.Millisecond)
	// again is how long connect() waits while the kernel still has the old
	// connection's four ports.
	again = int64(time.Millisecond)
	// after is how many segments the second one sends beyond the place: what
	// comes after is what shows that nobody noticed.
	after = 8

	incarnationMode = 'i' // of the sink's protocol; see server/incarnation.go
	places          = 61
	over            = 0
)

// Succession is what became of two incarnations. Sizes are in bytes, times in
// ns.
type Succession struct {
	Bytes     int64  `json:"bytes"`           // of the first one, each way
	Took      int64  `json:"took"`            // from its connect() to its last segment
	Asked     int64  `json:"asked"`           // how far it was to be ahead of the clock
	Ahead     int64  `json:"ahead"`           // how far it was
	Segment   int    `json:"segment"`         // its last segment's payload
	Connected bool   `json:"connected"`       // the second one
	Class     string `json:"class,omitempty"` // why it was not
	Connect   int64  `json:"connect"`         // how long its connect() took, until it was established or failed
	// Behind is how far the second one begins behind the marked segment, and
	// PeerBehind how far the server's side begins behind what that segment
	// acknowledges; below 0 is ahead of it. They are read from the kernel.
	Behind     int64 `json:"behind"`
	PeerBehind int64 `json:"peer_behind"`
	Timestamps bool  `json:"timestamps"` // of the second one
	Place      int64 `json:"place"`      // when it was at the place; 0: never
	Written    int64 `json:"written"`    // bytes that the second one wrote
	Done       bool  `json:"done"`       // to the end
}

// incarnations is one connection after the other, on one locked thread.
type incarnations struct {
	cfg     Config
	options []socket.Setting
	to      *socket.Address

	poll *socket.Poller

	// Of the thread.
	ctx    context.Context
	meter  *meter
	end    int64
	fd     int32
	number byte
	local  *unix.RawSockaddrInet4
	events uint32
	called int64 // connect()
	since  int64 // when it was connected, or anything last moved
	sent   int64 // bytes of its stream, the preface apart
	got    int64
	lead   int64
	buf    []byte
	into   []byte
	is     Succession
}

var _ engine = (*incarnations)(nil)

// errStopped ends a client that was asked to.
var errStopped = errors.New("stopped")

// connError is a connection that broke, by class.
type connError string

func (e connError) Error() string { return string(e) }

func (c Config) validateIncarnations() error {
	i := c.Outrun
	if c.Kind != Incarnations {
		if i != (Outrun{}) {
			return errors.New("client: ahead, most, chunk and tos belong to kind incarnations")
		}
		return nil
	}
	switch {
	case i.Ahead < 0 || i.Most < 0 || i.Chunk < 0:
		return errors.New("client: ahead, most and chunk are 0 or more")
	case i.Ahead > 1<<30 || i.Most > 1<<31-1 || i.Chunk > 16<<20:
		// Sequence numbers are compared on a circle of 4 GiB.
		return errors.New("client: ahead is at most 1 GiB, most below 2 GiB, chunk at most 16 MiB")
	case i.TOS < 0 || i.TOS > 255 || i.TOS&3 != 0:
		return fmt.Errorf("client: tos %d: the last two bits are ECN's (RFC 3168): write a multiple of 4 up to 252", i.TOS)
	case c.Reuse == Pooled:
		return errors.New("client: incarnations are one connection after the other: leave reuse and pool out")
	}
	return nil
}

func newIncarnations(cfg Config, options []socket.Setting) (*incarnations, error) {
	to, err := socket.NewAddress(cfg.To[0])
	if err != nil {
		return nil, err
	}
	if to.Family() != unix.AF_INET {
		return nil, errors.New("client: incarnations speak IPv4")
	}
	if cfg.Deadline == 0 {
		cfg.Deadline = defaultPatient
	}
	o := &cfg.Outrun
	if o.Most == 0 {
		o.Most = defaultMost
	}
	if o.Chunk == 0 {
		o.Chunk = defaultChunk
	}
	if o.TOS == 0 {
		o.TOS = defaultMark
	}
	return &incarnations{cfg: cfg, options: options, to: to, fd: -1, buf: make([]byte, o.Chunk+places), into: make([]byte, 256<<10)}, nil
}

func (c *incarnations) do(order) error { return errNotRunning }

func (c *incarnations) run(ctx context.Context, t0 int64, sink Sink) (*Result, error) {
	p, err := socket.NewPoller()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	defer socket.LockThread()()
	rep := newReporter(sink, t0, 1)
	c.ctx, c.poll = ctx, p
	c.meter = newMeter(c.cfg, t0, rep, 0, threadCPU)
	c.meter.bulk = true
	c.end = c.meter.w1
	c.meter.running(socket.Nanotime())
	stop := context.AfterFunc(ctx, p.Kick)
	err = c.rest(t0)
	if err == nil {
		err = c.both()
	}
	stop()
	c.close()
	now := socket.Nanotime()
	var broken connError
	switch {
	case errors.Is(err, errStopped):
		c.meter.result.Stopped = true
		err = nil
	case errors.As(err, &broken):
		c.meter.lost(min(now, c.end-1), c.since, string(broken)) // what the window's end cuts off belongs to it
		err = nil
	case err == nil:
		c.is.Done = true
	}
	if now < c.end { // it has said what it had to say
		c.meter.w1 = max(now, c.meter.w0)
	}
	c.meter.report.event(now, "over", nil)
	c.meter.result.Wakeups = p.Waits
	c.meter.finish(now)
	rep.stop()
	r := merge(c.cfg, []*meter{c.meter}, rep)
	r.Succession = &c.is
	return r, err
}

func (c *incarnations) tell(name string, fields map[string]any) {
	c.meter.report.event(socket.Nanotime(), name, fields)
}

// both runs the two of them.
func (c *incarnations) both() error {
	from := socket.Nanotime()
	if err := c.open(1); err != nil {
		return err
	}
	if err := c.preface(); err != nil {
		return err
	}
	seq, ack, err := c.outrun(from)
	if err != nil {
		return err
	}
	if err := c.finish(); err != nil {
		return err
	}
	err = c.open(2)
	c.is.Connect = socket.Nanotime() - c.called
	var broken connError
	if errors.As(err, &broken) {
		c.is.Class = string(broken)
	}
	c.is.Connected = err == nil
	c.tell("second", map[string]any{"connected": c.is.Connected, "class": c.is.Class, "took": float64(c.is.Connect) / 1e9})
	if err != nil {
		return err
	}
	return c.succeed(seq, ack)
}

// outrun is the first one: lock-step until it is far enough ahead of the clock,
// then the marked segment. It gives back where that one stands.
func (c *incarnations) outrun(from int64) (seq, ack uint32, err error) {
	o := c.cfg.Outrun
	c.is.Asked = o.Ahead
	for {
		if err := c.exchange(int64(o.Chunk)); err != nil {
			return 0, 0, err
		}
		now := socket.Nanotime()
		// Its SYN took its number from the clock after from: what is counted
		// here is at least what the next one will find.
		c.is.Ahead = c.sent - (now-from)/isnTick
		c.is.Bytes, c.is.Took = c.sent, now-from
		if c.is.Ahead >= o.Ahead || c.sent >= o.Most || now-from > (c.end-from)/2 {
			break // without its lead, if the machine is too slow for it: the other half is the second one's
		}
	}
	if err := c.rest(socket.Nanotime() + still); err != nil {
		return 0, 0, err
	}
	if seq, ack, err = socket.Sequences(int(c.fd)); err != nil {
		return 0, 0, err
	}
	if c.is.Segment, err = unix.GetsockoptInt(int(c.fd), unix.SOL_TCP, unix.TCP_MAXSEG); err != nil {
		return 0, 0, fmt.Errorf("TCP_MAXSEG: %w", err)
	}
	c.tell("marked", map[string]any{"seq": seq, "ack": ack, "len": c.is.Segment, "bytes": c.is.Bytes, "ahead": c.is.Ahead})
	if err := c.mark(o.TOS); err != nil {
		return 0, 0, err
	}
	if err := c.exchange(int64(c.is.Segment)); err != nil {
		return 0, 0, err
	}
	return seq, ack, c.mark(0)
}

func (c *incarnations) mark(tos int) error {
	if err := unix.SetsockoptInt(int(c.fd), unix.SOL_IP, unix.IP_TOS, tos); err != nil {
		return fmt.Errorf("IP_TOS %d: %w", tos, err)
	}
	return nil
}

// finish ends a connection: by the server, which is asked to and then keeps
// TIME-WAIT, or by this end.
func (c *incarnations) finish() error {
	if c.cfg.Closes == ByServer {
		if err := c.write([]byte{over}); err != nil {
			return err
		}
		for {
			n, errno := socket.RawRead(c.fd, c.into)
			if errno == unix.EAGAIN {
				if err := c.wait(unix.EPOLLIN); err != nil {
					return err
				}
				continue
			}
			if errno != 0 && errno != unix.EINTR {
				return connError(socket.Class(errno))
			}
			if errno == 0 && n == 0 {
				break
			}
		}
	}
	c.close()
	return nil
}

// succeed is the second one: as far as the old segment's place, and beyond.
func (c *incarnations) succeed(seq, ack uint32) error {
	send, receive, err := socket.Sequences(int(c.fd))
	if err != nil {
		return err
	}
	c.is.Behind, c.is.PeerBehind = int64(int32(seq-send)), int64(int32(ack-receive))
	if info, err := unix.GetsockoptTCPInfo(int(c.fd), unix.SOL_TCP, unix.TCP_INFO); err == nil {
		c.is.Timestamps = info.Options&1 != 0 // TCPI_OPT_TIMESTAMPS
	}
	c.tell("behind", map[string]any{"bytes": c.is.Behind, "peer": c.is.PeerBehind, "timestamps": c.is.Timestamps})
	way := c.is.Behind - prefaceLength
	if c.is.PeerBehind >= 0 {
		// The segment acknowledges what the old server had sent. The new one is
		// led there too, before the last step to the place, or its TCP would
		// refuse the segment for acknowledging what was never sent (RFC 9293,
		// 3.10.7.4).
		c.lead = c.is.PeerBehind - max(0, way-int64(c.is.Segment))
	}
	if err := c.preface(); err != nil {
		return err
	}
	if way < int64(c.is.Segment) {
		// The clock was faster: the place lies behind.
		if err := c.exchange(int64(c.is.Segment)); err != nil {
			return err
		}
		return c.goOn()
	}
	for left := way - int64(c.is.Segment); left > 0; {
		n := min(left, int64(c.cfg.Outrun.Chunk))
		if err := c.exchange(n); err != nil {
			return err
		}
		left -= n
	}
	if err := c.rest(socket.Nanotime() + still); err != nil {
		return err
	}
	place := c.sent + int64(c.is.Segment)
	step := c.exchange
	if !c.cfg.Outrun.Waits {
		step = c.send
	}
	err = step(int64(c.is.Segment))
	if c.sent == place {
		c.is.Place, c.is.Written = c.since, c.sent
		c.tell("place", map[string]any{"written": c.sent})
	}
	if err != nil {
		return err
	}
	return c.goOn()
}

// goOn sends what comes after the place, and ends.
func (c *incarnations) goOn() error {
	if err := c.rest(socket.Nanotime() + pause); err != nil {
		return err
	}
	if err := c.exchange(int64(after * c.is.Segment)); err != nil {
		return err
	}
	c.is.Written = c.sent
	return c.finish()
}

// open makes the connection with a number, from the port that the first one was
// given.
func (c *incarnations) open(number byte) error {
	fd, errno := c.to.Socket()
	if errno != 0 {
		return connError(socket.Class(errno))
	}
	c.fd, c.number, c.sent, c.got, c.lead, c.since = fd, number, 0, 0, 0, socket.Nanotime()
	if err := socket.Reusable(int(fd)); err != nil {
		return err
	}
	// A write that waited for an acknowledgement would not be the lock-step's.
	if err := unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("TCP_NODELAY: %w", err)
	}
	if err := socket.SetAll(int(fd), c.options); err != nil {
		return err
	}
	local := c.local
	if local == nil {
		local = &unix.RawSockaddrInet4{Family: unix.AF_INET}
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(local)), unix.SizeofSockaddrInet4); errno != 0 {
		return connError(socket.Class(errno))
	}
	c.events = unix.EPOLLOUT
	if err := c.connect(); err != nil {
		return err
	}
	if c.local == nil {
		c.local = local
		size := uint32(unix.SizeofSockaddrInet4)
		if _, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(local)), uintptr(unsafe.Pointer(&size))); errno != 0 {
			return fmt.Errorf("getsockname: %w", errno)
		}
		got, err := socket.ReadBack(int(fd), c.options, true)
		c.meter.result.Options = got
		c.tell("options", map[string]any{"options": got})
		return err
	}
	return nil
}

// connect waits until the connection is established. While the kernel has the
// same four ports in another state than TIME-WAIT, or in one that may not be
// used again, it says EADDRNOTAVAIL: that is tried again for a while.
func (c *incarnations) connect() error {
	sa, size := c.to.Raw()
	for first := socket.Nanotime(); ; {
		c.called = socket.Nanotime()
		_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(c.fd), uintptr(sa), size)
		if errno == unix.EADDRNOTAVAIL && c.called-first < int64(time.Second) {
			if err := c.rest(c.called + again); err != nil {
				return err
			}
			continue
		}
		if errno != 0 && errno != unix.EINPROGRESS {
			return connError(socket.Class(errno))
		}
		break
	}
	c.meter.result.Opens++
	c.since = c.called
	if err := c.poll.Watch(int(c.fd), c.events, 0, int32(c.number)); err != nil {
		return err
	}
	if err := c.wait(unix.EPOLLOUT); err != nil {
		return err
	}
	if v, err := unix.GetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil || v != 0 {
		return connError(socket.Class(syscall.Errno(v)))
	}
	now := socket.Nanotime()
	c.since = now
	c.meter.established(c.called, now-c.called)
	c.meter.opened(now)
	return nil
}

func (c *incarnations) preface() error {
	b := []byte{incarnationMode, c.number, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(b[4:], uint32(int32(c.lead)))
	return c.write(b)
}
