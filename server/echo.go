package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// peer is an accepted connection of the echo server.
type peer struct {
	fd, index, gen int32
	events         uint32 // that the poller watches for
	in             []byte // received and not yet answered; empty when nothing is left over
	out            []byte // answered and not yet taken by the kernel
	spare          []byte // out's memory
	busy           bool   // a request of its is in service or waits for a worker
	ended          bool   // the client has sent FIN
	leaked         bool   // and nobody closes it
	last           bool   // close when out is empty
	drain          drain  // of a sink
}

// job is a request that waits for a worker, or has one until done.
type job struct {
	index, gen int32
	done       int64
}

// echo is the echo server, and the sink: one locked thread, one epoll set.
type echo struct {
	cfg     Config
	options []socket.Setting
	poll    *socket.Poller
	lfd     int

	accepting, reading, closing bool
	parked                      bool // the listener, for want of descriptors
	parkedUntil                 int64
	service                     time.Duration
	quickack                    *socket.Setting

	peers   []*peer
	free    []*peer
	serving []job // in order of done
	waiting []job
	head    int // of waiting
	buf     []byte
	scratch []byte
	// greeting is what a server that speaks first says.
	greeting []byte
	said     said
	count    Result

	mu      sync.Mutex
	orders  []order
	replies []chan error
	running bool
}

func newEcho(cfg Config, options []socket.Setting) *echo {
	e := &echo{cfg: cfg, options: options, lfd: -1, accepting: true, reading: true, closing: true, service: cfg.Service,
		buf: make([]byte, 64<<10), count: newResult(cfg.Kind), greeting: newGreeting(cfg.Greeting)}
	if s, ok := socket.Find(options, "TCP_QUICKACK"); ok {
		e.quickack = &s
	}
	return e
}

func newResult(kind string) Result {
	return Result{Kind: kind, Errors: map[string]int64{}, AcceptErrors: map[string]int64{}}
}

func (e *echo) listen() (string, map[string]string, error) {
	a, err := socket.NewAddress(e.cfg.Listen)
	if err != nil {
		return "", nil, err
	}
	fd32, errno := a.Socket()
	if errno != 0 {
		return "", nil, fmt.Errorf("socket: %w", errno)
	}
	fd := int(fd32)
	fail := func(what string, err error) (string, map[string]string, error) {
		unix.Close(fd)
		if what != "" {
			err = fmt.Errorf("%s: %w", what, err)
		}
		return "", nil, err
	}
	if err := bindable(fd, e.options); err != nil {
		return fail("", err)
	}
	sa, n := a.Raw()
	if _, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(sa), n); errno != 0 {
		return fail("bind", errno)
	}
	if err := unix.Listen(fd, e.cfg.Backlog); err != nil {
		return fail("listen", err)
	}
	got, err := socket.ReadBack(fd, e.options, false)
	if err != nil {
		return fail("", err)
	}
	name, err := localAddress(fd)
	if err != nil {
		return fail("getsockname", err)
	}
	if e.poll, err = socket.NewPoller(); err != nil {
		return fail("", err)
	}
	if err := e.poll.Watch(fd, unix.EPOLLIN, socket.OnListen, 0); err != nil {
		e.poll.Close()
		return fail("", err)
	}
	e.lfd = fd
	return name, got, nil
}

func localAddress(fd int) (string, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return "", err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String(), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)).String(), nil
	}
	return "", fmt.Errorf("an address of type %T", sa)
}

func (e *echo) run(ctx context.Context, sink Sink) (*Result, error) {
	if e.poll == nil {
		return nil, errors.New("Run before Listen")
	}
	defer socket.LockThread()()
	e.said = newSaid(sink)
	stop := context.AfterFunc(ctx, e.poll.Kick)
	e.mu.Lock()
	e.running = true
	e.mu.Unlock()
	err := e.loop(ctx)
	e.refuse()
	stop()
	e.count.Open = int64(len(e.peers) - len(e.free))
	e.said.files.seen(e.count.Open)
	for _, p := range e.peers {
		if p.fd >= 0 {
			e.drop(p)
		}
	}
	unix.Close(e.lfd)
	e.poll.Close()
	e.count.Descriptors = e.said.finish(socket.Nanotime(), e.gauges())
	return &e.count, err
}

func (e *echo) loop(ctx context.Context) error {
	for {
		n, err := e.poll.Wait(e.next())
		if err != nil {
			return err
		}
		for i := range n {
			ev := &e.poll.Events[i]
			switch index := ev.Fd; index {
			case socket.OnTimer:
			case socket.OnWake:
				e.poll.Hush()
				if ctx.Err() != nil {
					return nil
				}
				e.obey()
			case socket.OnListen:
				if err := e.accept(); err != nil {
					return err
				}
			default:
				p := e.peers[index]
				if p.fd >= 0 && p.gen == ev.Pad {
					if err := e.handle(p, ev.Events); err != nil {
						return err
					}
				}
			}
		}
		if err := e.release(socket.Nanotime()); err != nil {
			return err
		}
	}
}

// next is when something is due although nobody sends.
func (e *echo) next() int64 {
	at := int64(socket.Never)
	if len(e.serving) > 0 {
		at = e.serving[0].done
	}
	if e.parked {
		at = min(at, e.parkedUntil)
	}
	return at
}

// accept takes what waits, but leaves the loop to others now and then.
func (e *echo) accept() error {
	for range 64 {
		// accept4 neither needs nor gets the peer's address.
		fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(e.lfd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
		case unix.EAGAIN:
			return nil
		case unix.EINTR, unix.ECONNABORTED:
			continue
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			e.said.refused(&e.count, errno, "accept: "+errno.Error())
			// The listener stays readable: looking again at once would be a
			// busy loop. The next close() helps, or somebody else's.
			e.parked, e.parkedUntil = true, socket.Nanotime()+int64(time.Second)
			return e.poll.Change(e.lfd, 0, socket.OnListen, 0)
		default:
			e.said.refused(&e.count, errno, "accept: "+errno.Error())
			return nil
		}
		if err := e.welcome(int32(fd)); err != nil {
			return err
		}
	}
	return nil
}

func (e *echo) welcome(fd int32) error {
	var p *peer
	if n := len(e.free); n > 0 {
		p, e.free = e.free[n-1], e.free[:n-1]
	} else {
		p = &peer{index: int32(len(e.peers))}
		e.peers = append(e.peers, p)
	}
	p.fd, p.gen, p.events = fd, p.gen+1, unix.EPOLLIN
	if !e.reading {
		p.events = 0
	}
	if e.quickack != nil {
		e.quickack.Set(int(fd)) // refused only on a connection that is dead, as the read will tell
	}
	if e.count.Accepted++; e.count.Accepted == 1 {
		got, err := socket.ReadBack(int(fd), e.options, true)
		if err != nil {
			return err
		}
		e.count.Options = got
		e.said.options(socket.Nanotime(), got)
	}
	e.count.OpenMax = max(e.count.OpenMax, int64(len(e.peers)-len(e.free)))
	if err := e.poll.Watch(int(fd), p.events, p.index, p.gen); err != nil {
		return err
	}
	if len(e.greeting) > 0 {
		return e.greet(p)
	}
	return nil
}

// watch changes what the poller looks for on p, if need be.
func (e *echo) watch(p *peer) error {
	if p.leaked {
		return nil
	}
	var want uint32
	if e.cfg.Kind == Discard {
		want = e.watched(p)
	} else if len(p.out) > 0 {
		want = unix.EPOLLOUT // and read no more until the answer is gone
	} else if e.reading && !p.ended && !(p.busy && len(p.in) > requestHeader+MaxPayload) {
		want = unix.EPOLLIN
	}
	if want == p.events {
		return nil
	}
	p.events = want
	return e.poll.Change(int(p.fd), want, p.index, p.gen)
}

func (e *echo) handle(p *peer, events uint32) error {
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 && events&unix.EPOLLIN == 0 {
		// Reported whether watched for or not: reset, or closed both ways.
		errno, _ := unix.GetsockoptInt(int(p.fd), unix.SOL_SOCKET, unix.SO_ERROR)
		e.broken(p, syscall.Errno(errno))
		return nil
	}
	if events&unix.EPOLLOUT != 0 {
		if e.flush(p); p.fd < 0 {
			return nil
		}
		if p.drain.mode == receives {
			e.pour(p)
		} else if e.cfg.Kind == Discard {
			e.ending(p)
		} else {
			e.consume(p)
		}
	}
	if events&unix.EPOLLIN != 0 && p.fd >= 0 {
		e.receive(p)
	}
	if p.fd < 0 {
		return nil
	}
	return e.watch(p)
}

// receive reads once: the set is level-triggered, and says if there is more.
func (e *echo) receive(p *peer) {
	b := e.buf
	own := len(p.in) > 0 && e.cfg.Kind != Discard
	if own {
		p.in = slices.Grow(p.in, 64<<10)
		b = p.in[len(p.in):cap(p.in)]
	}
	n, errno := socket.RawRead(p.fd, b)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return
	case errno != 0:
		e.broken(p, errno)
		return
	case n == 0:
		p.ended = true
		if !p.busy && len(p.out) == 0 {
			e.finish(p)
		}
		return
	}
	e.count.BytesReceived += int64(n)
	if e.quickack != nil {
		e.quickack.Set(int(p.fd)) // tcp(7): not permanent
	}
	if e.cfg.Kind == Discard {
		e.swallow(p, b[:n])
		return
	}
	if own {
		p.in = p.in[:len(p.in)+n]
		e.consume(p)
		return
	}
	rest := e.answerAll(p, b[:n])
	if p.fd >= 0 && len(rest) > 0 {
		p.in = append(p.in, rest...)
	}
}

// consume answers what p.in holds.
func (e *echo) consume(p *peer) {
	if p.busy || len(p.out) > 0 || len(p.in) == 0 {
		e.ending(p)
		return
	}
	rest := e.answerAll(p, p.in)
	if p.fd >= 0 {
		p.in = p.in[:copy(p.in, rest)]
		e.ending(p)
	}
}

// ending closes p once it has nothing left to say to a client that has
// finished.
func (e *echo) ending(p *peer) {
	if p.ended && !p.busy && len(p.out) == 0 {
		e.finish(p)
	}
}

// answerAll answers the requests in b, as far as they are whole and can be
// answered now, and gives back the rest.
func (e *echo) answerAll(p *peer, b []byte) []byte {
	for p.fd >= 0 && !p.busy && len(p.out) == 0 {
		f, n, err := parseFrame(b)
		if err != nil {
			e.count.Errors["garbage"]++
			e.said.once(socket.Nanotime(), "error", "garbage", err.Error())
			e.drop(p)
			return nil
		}
		if n == 0 {
			return b
		}
		if e.service > 0 {
			e.enqueue(p)
			return b
		}
		e.reply(p, f, b[:n])
		b = b[n:]
	}
	return b
}

// enqueue gives the request at the beginning of p.in (or of what will be
// p.in) to a worker, or makes it wait for one.
func (e *echo) enqueue(p *peer) {
	p.busy = true
	j := job{index: p.index, gen: p.gen}
	if e.cfg.Workers > 0 && len(e.serving) >= e.cfg.Workers {
		e.waiting = append(e.waiting, j)
		e.count.QueueMax = max(e.count.QueueMax, int64(len(e.waiting)-e.head))
		return
	}
	e.serve(j, socket.Nanotime())
}

func (e *echo) serve(j job, from int64) {
	j.done = from + int64(e.service)
	// In order of done: at the end, unless the service time has just changed.
	i, _ := slices.BinarySearchFunc(e.serving, j.done+1, func(a job, t int64) int { return cmp.Compare(a.done, t) })
	e.serving = slices.Insert(e.serving, i, j)
}

// release answers the requests whose service is over. A worker's next request
// begins when its last one was over, not when this thread came to see it:
// capacity is exactly workers ÷ service.
func (e *echo) release(now int64) error {
	if e.parked && now >= e.parkedUntil {
		if err := e.unpark(); err != nil {
			return err
		}
	}
	for len(e.serving) > 0 && e.serving[0].done <= now {
		j := e.serving[0]
		e.serving = slices.Delete(e.serving, 0, 1)
		if e.head < len(e.waiting) {
			e.serve(e.waiting[e.head], j.done)
			if e.head++; e.head == len(e.waiting) {
				e.waiting, e.head = e.waiting[:0], 0
			}
		}
		p := e.peers[j.index]
		if p.fd < 0 || p.gen != j.gen {
			continue // gone meanwhile: the worker has worked in vain, as they do
		}
		p.busy = false
		f, n, err := parseFrame(p.in)
		if err != nil || n == 0 {
			return fmt.Errorf("a request of %d bytes is no longer whole: %w", len(p.in), err)
		}
		e.reply(p, f, p.in[:n])
		if p.fd < 0 {
			continue
		}
		p.in = p.in[:copy(p.in, p.in[n:])]
		e.consume(p)
		if p.fd < 0 {
			continue
		}
		if err := e.watch(p); err != nil {
			return err
		}
	}
	return nil
}

// reply sends the answer to f, which is at the beginning of b.
func (e *echo) reply(p *peer, f frame, b []byte) {
	var out []byte
	out, e.scratch = answer(f, b, e.scratch)
	e.count.Requests++
	e.said.advance(socket.Nanotime, e.gauges)
	p.last = f.close || e.cfg.Closes == ByServer
	n, ok := e.send(p, out)
	if !ok {
		return
	}
	if n < len(out) {
		p.out = append(p.spare[:0], out[n:]...)
		p.spare = p.out
		return
	}
	if p.last {
		e.drop(p)
	}
}

// send writes what the kernel takes.
func (e *echo) send(p *peer, b []byte) (n int, ok bool) {
	for {
		n, errno := socket.RawWrite(p.fd, b)
		switch errno {
		case 0:
			e.count.BytesSent += int64(n)
			return n, true
		case unix.EAGAIN:
			return 0, true
		case unix.EINTR:
		default:
			e.broken(p, errno)
			return 0, false
		}
	}
}

func (e *echo) flush(p *peer) {
	n, ok := e.send(p, p.out)
	if !ok {
		return
	}
	if p.out = p.out[n:]; len(p.out) == 0 && p.last {
		e.drop(p)
	}
}

// finish is the answer to the client's FIN: ours. A program that leaks has
// forgotten the connection: it does not hear of its end either.
func (e *echo) finish(p *peer) {
	if !e.closing {
		p.leaked = true
		_ = e.poll.Forget(int(p.fd)) // it is in the set: it has just been heard of
		return
	}
	e.drop(p)
}

func (e *echo) broken(p *peer, errno syscall.Errno) {
	name := "hup"
	if errno != 0 {
		name = socket.Class(errno)
	}
	e.count.Errors[name]++
	e.said.once(socket.Nanotime(), "error", name, "connection: "+name)
	e.drop(p)
}

// drop closes the connection and forgets it.
func (e *echo) drop(p *peer) {
	// Not RawSyscall: with SO_LINGER close() may block.
	unix.Close(int(p.fd))
	keep := p.in[:0]
	if cap(keep) > 1<<20 {
		keep = nil
	}
	*p = peer{fd: -1, index: p.index, gen: p.gen, in: keep, spare: p.spare[:0]}
	if cap(p.spare) > 1<<20 {
		p.spare = nil
	}
	e.free = append(e.free, p)
	if e.parked {
		e.unpark() // its error would come again at the next accept
	}
}

func (e *echo) unpark() error {
	e.parked = false
	if !e.accepting {
		return nil
	}
	return e.poll.Change(e.lfd, unix.EPOLLIN, socket.OnListen, 0)
}

func (e *echo) gauges() map[string]float64 {
	if e.cfg.Kind == Discard {
		return map[string]float64{
			"accepted": float64(e.count.Accepted),
			"open":     float64(len(e.peers) - len(e.free)),
			"received": float64(e.count.Received),
		}
	}
	return map[string]float64{
		"accepted": float64(e.count.Accepted),
		"requests": float64(e.count.Requests),
		"open":     float64(len(e.peers) - len(e.free)),
		"queue":    float64(len(e.waiting) - e.head),
	}
}
