package clients

import (
	"context"
	"errors"
	"sync"

	"tcplab/lab/socket"
)

// echo is the raw client: shards, each one locked thread with its own epoll
// set, sockets and account.
type echo struct {
	cfg     Config
	options []socket.Setting
	to      []*socket.Address
	starts  *starts

	mu      sync.Mutex
	shards  []*shard // while Run is under way
	running bool
}

func newEcho(cfg Config, options []socket.Setting, sched Schedule) (*echo, error) {
	to, err := cfg.addresses()
	if err != nil {
		return nil, err
	}
	return &echo{cfg: cfg, options: options, to: to, starts: newStarts(sched)}, nil
}

func (e *echo) run(ctx context.Context, t0 int64, sink Sink) (*Result, error) {
	n := max(e.cfg.Shards, 1)
	rep := newReporter(sink, t0, n)
	e.starts.begin(t0, t0+int64(e.cfg.Warmup+e.cfg.Duration))
	var err error
	for i := range n {
		// The slots are dealt out evenly.
		slots := e.cfg.slots()/n + b2i(i < e.cfg.slots()%n)
		s, serr := newShard(e, i, n, slots, t0, rep)
		if serr != nil {
			err = serr
			break
		}
		e.mu.Lock()
		e.shards = append(e.shards, s)
		e.mu.Unlock()
	}
	if err == nil {
		err = e.runShards(ctx)
	}
	ms := make([]*meter, len(e.shards))
	for i, s := range e.shards {
		ms[i] = s.meter
		s.poll.Close()
	}
	rep.stop()
	return merge(e.cfg, ms, rep), err
}

func (e *echo) runShards(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	e.mu.Lock()
	e.running = true
	e.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range e.shards {
		wg.Go(func() {
			stop := context.AfterFunc(ctx, s.poll.Kick)
			if err := s.run(ctx); err != nil {
				cancel(err) // the others stop too
			}
			stop()
		})
	}
	wg.Wait()
	e.mu.Lock()
	e.running = false
	e.mu.Unlock()
	for _, s := range e.shards {
		s.mailbox.shut()
	}
	if err := context.Cause(ctx); err != nil && ctx.Err() != nil && err != context.Canceled && err != context.DeadlineExceeded {
		return err
	}
	return nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// do hands a fault to every shard and waits until it happened.
func (e *echo) do(o order) error {
	e.mu.Lock()
	shards, running := e.shards, e.running
	e.mu.Unlock()
	if !running {
		return errNotRunning
	}
	var errs []error
	for _, s := range shards {
		errs = append(errs, s.do(o))
	}
	return errors.Join(errs...)
}
