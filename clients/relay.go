package clients

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tcplab/lab/socket"
)

// Libraries that speak MQTT.
const (
	Own  = "own"  // a small publisher, whose detector is where Config says
	Paho = "paho" // eclipse/paho.mqtt.golang, as its users have it
)

// Relay is what a client of kind mqtt has of its own.
type Relay struct {
	Library     string        `json:"library,omitempty"`      // own (the default) | paho
	Name        string        `json:"name,omitempty"`         // the client identifier; "": tcplab
	KeepAlive   time.Duration `json:"keepalive,omitempty"`    // silence, in either direction, after which PINGREQ is sent; whole seconds, 0: never
	PingTimeout time.Duration `json:"ping_timeout,omitempty"` // wait for PINGRESP, after which the connection is closed; 0: 10s
	PingBlocks  bool          `json:"ping_blocks,omitempty"`  // of own: the wait begins once PINGREQ is written, behind whatever is being written
	QoS         int           `json:"qos,omitempty"`          // 0: at most once, 1: at least, 2: exactly
	Topic       string        `json:"topic,omitempty"`        // "": t
	Queue       int           `json:"queue,omitempty"`        // messages that may wait, at most; 0: 100,000, or 64 MiB of them if that is less
}

const (
	defaultPingTimeout = 10 * time.Second
	maxQueue           = 100_000
	maxQueueBytes      = 64 << 20
)

func (r Relay) validate(c Config) error {
	switch r.Library {
	case "", Own:
	case Paho:
		if r.PingBlocks {
			return errors.New("ping_blocks belongs to library: own; in paho the ping is always behind the write")
		}
	default:
		return fmt.Errorf("library %q is unknown: write %s or %s", r.Library, Own, Paho)
	}
	switch {
	case r.KeepAlive < 0 || r.KeepAlive%time.Second != 0 || r.KeepAlive > 65535*time.Second:
		return fmt.Errorf("keepalive %v: MQTT has whole seconds, 65,535 at most (MQTT 3.1.1, 3.1.2.10)", r.KeepAlive)
	case r.PingTimeout < 0 || r.Queue < 0:
		return errors.New("ping_timeout and queue are 0 or more")
	case r.QoS < 0 || r.QoS > 2:
		return fmt.Errorf("qos %d: write 0, 1 or 2", r.QoS)
	case len(r.Topic) > 1000 || len(r.Name) > 1000:
		return errors.New("topic and name have 1,000 bytes at most")
	case c.Deadline > 0:
		return errors.New("a relay has no deadline for a message: what bounds its wait is keepalive and ping_timeout")
	case c.Reuse == Pooled || c.Closes == ByServer || c.ResponseSize > 0:
		return errors.New("a relay has one connection and keeps it: leave reuse, pool, closes and response out")
	}
	return nil
}

func (r Relay) pingTimeout() time.Duration {
	if r.PingTimeout == 0 {
		return defaultPingTimeout
	}
	return r.PingTimeout
}

func (r Relay) topic() string {
	if r.Topic == "" {
		return "t"
	}
	return r.Topic
}

func (r Relay) name() string {
	if r.Name == "" {
		return "tcplab"
	}
	return r.Name
}

// bound is how many messages may wait.
func (c Config) bound() int {
	if c.Relay.Queue > 0 {
		return c.Relay.Queue
	}
	return max(1, min(maxQueue, maxQueueBytes/max(1, c.Size)))
}

// relay is a publisher as services have it: messages come when the schedule
// says, wait in a bounded queue, and one connection carries them to a broker.
// While the connection does not take them, the queue grows; when it is full,
// what comes is dropped and has failed. A message's latency runs from when it
// came. write() has no deadline, as in most libraries.
type relay struct {
	cfg    Config
	dialer dialer
	starts *starts

	publisher publisher

	mu      sync.Mutex // of all below
	meter   *meter
	queue   []int64 // intended starts of messages that wait: a ring
	head, n int
	wake    chan struct{} // something is in the queue
	poll    *socket.Poller
	running bool
	err     error
}

// publisher carries messages from the queue to a broker.
type publisher interface {
	run(stop <-chan struct{})
	closeConnection(reset bool) error
}

var (
	_ publisher = (*ownPublisher)(nil)
	_ publisher = (*pahoPublisher)(nil)
)

func newRelay(cfg Config, options []socket.Setting, sched Schedule) (*relay, error) {
	r := &relay{cfg: cfg, starts: newStarts(sched), wake: make(chan struct{}, 1)}
	if r.starts.closed {
		return nil, errors.New("client: a relay needs a rate: messages come when they come, and not after acknowledgements")
	}
	r.dialer = dialer{options: options, account: r.account, broken: func(err error) { r.err = err }}
	if cfg.Relay.Library == Paho {
		r.publisher = &pahoPublisher{relay: r}
	} else {
		r.publisher = newOwnPublisher(r)
	}
	return r, nil
}

func (r *relay) run(ctx context.Context, t0 int64, sink Sink) (*Result, error) {
	p, err := socket.NewPoller()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	rep := newReporter(sink, t0, 1)
	rep.hasQueue = true
	m := newMeter(r.cfg, t0, rep, 0, nil)
	m.running(socket.Nanotime())
	r.starts.begin(t0, m.w1)
	r.mu.Lock()
	r.meter, r.poll, r.running = m, p, true
	r.mu.Unlock()

	stopping := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if waitUntil(t0, stopping) {
			r.publisher.run(stopping)
		}
	})
	stop := context.AfterFunc(ctx, p.Kick)
	ferr := r.feed(ctx)
	if ferr == nil {
		r.await(ctx)
	}
	stop()

	r.mu.Lock()
	now := socket.Nanotime()
	m.cut(now)
	r.running = false
	m.finish(now)
	r.meter = nil // what ends from here on is not counted
	err = errors.Join(ferr, r.err)
	r.mu.Unlock()
	close(stopping)
	wg.Wait()
	rep.stop()
	return merge(r.cfg, []*meter{m}, rep), err
}

// feed puts messages into the queue when they are due, on a locked thread.
func (r *relay) feed(ctx context.Context) error {
	defer socket.LockThread()()
	next := r.starts.next()
	for {
		now := socket.Nanotime()
		if ctx.Err() != nil || r.broken() != nil {
			return nil
		}
		if now >= next {
			r.put(next, now)
			next = r.starts.next()
			continue
		}
		if now >= r.starts.over() {
			return nil
		}
		n, err := r.poll.Wait(min(next, r.starts.over()))
		if err != nil {
			return err
		}
		if n > 0 {
			r.poll.Hush()
		}
	}
}

// await waits until every message has its answer, or the drain is over.
func (r *relay) await(ctx context.Context) {
	giveUp := r.starts.over() + int64(r.cfg.drain())
	for {
		r.mu.Lock()
		left := r.n + int(r.meter.inflight)
		r.mu.Unlock()
		if left == 0 || socket.Nanotime() >= giveUp || ctx.Err() != nil || r.broken() != nil {
			return
		}
		n, err := r.poll.Wait(giveUp)
		if err != nil {
			return
		}
		if n > 0 {
			r.poll.Hush()
		}
	}
}

func (r *relay) broken() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// account runs do with the meter, unless the trial is over.
func (r *relay) account(do func(m *meter)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.meter == nil {
		return
	}
	do(r.meter)
	if r.err != nil || r.n == 0 && r.meter.inflight == 0 && socket.Nanotime() >= r.meter.w1 {
		r.poll.Kick() // await may have waited for this
	}
}

// put takes a message in, or drops it.
func (r *relay) put(intended, now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.meter.offered(intended)
	if r.n == r.cfg.bound() {
		r.meter.fail(intended, now, "queue_full", false)
		return
	}
	if r.n == len(r.queue) {
		larger := make([]int64, max(64, min(2*len(r.queue), r.cfg.bound())))
		for i := range r.n {
			larger[i] = r.queue[(r.head+i)%len(r.queue)]
		}
		r.queue, r.head = larger, 0
	}
	r.queue[(r.head+r.n)%len(r.queue)] = intended
	r.n++
	r.meter.queued(now, int64(r.n))
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// next takes the oldest message out, and waits for one until stop or dead is
// closed.
func (r *relay) next(stop, dead <-chan struct{}) (intended int64, ok bool) {
	for {
		select {
		case <-dead:
			return 0, false
		case <-stop:
			return 0, false
		default:
		}
		r.mu.Lock()
		if r.n > 0 {
			intended = r.queue[r.head]
			r.head = (r.head + 1) % len(r.queue)
			r.n--
			if r.meter != nil {
				r.meter.queued(socket.Nanotime(), int64(r.n))
			}
			r.mu.Unlock()
			return intended, true
		}
		r.mu.Unlock()
		select {
		case <-r.wake:
		case <-dead:
		case <-stop:
		}
	}
}

func (r *relay) do(o order) error {
	r.mu.Lock()
	running := r.running
	r.mu.Unlock()
	if !running {
		return errNotRunning
	}
	return r.publisher.closeConnection(o.reset)
}

// waitUntil waits for an instant; it is false if stop was closed before.
func waitUntil(at int64, stop <-chan struct{}) bool {
	d := at - socket.Nanotime()
	if d <= 0 {
		return true
	}
	t := time.NewTimer(time.Duration(d))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-stop:
		return false
	}
}
