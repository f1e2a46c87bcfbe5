package clients

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tcplab/lab/socket"
)

// AnswerSize is the header in which an HTTP request asks for the size of its
// answer's body, in bytes.
const AnswerSize = "Tcplab-Answer-Size"

// web is net/http as its users have it: a goroutine for each request under
// way, and a Transport. Only the pace is ours: a locked thread with a timerfd
// hands the requests out.
type web struct {
	cfg     Config
	dialer  dialer
	starts  *starts
	payload []byte

	mu      sync.Mutex // of all below
	meter   *meter
	poll    *socket.Poller
	pauses  queue // the closed loop's
	conns   map[*webConn]struct{}
	running bool
	out     int // requests handed out that have not ended
	err     error
	seq     uint64
}

func newWeb(cfg Config, options []socket.Setting, sched Schedule) (*web, error) {
	w := &web{cfg: cfg, starts: newStarts(sched), conns: map[*webConn]struct{}{}}
	w.dialer = dialer{options: options, account: w.account, broken: func(err error) { w.err = err }}
	w.payload = newRequest(cfg.Size, 0, false).payload()
	return w, nil
}

// intended is the key of a request's intended start in its context, so that a
// dial can be counted where its request is.
type intendedKey struct{}

// transport makes what one pool needs. Without reuse every worker has one of
// its own, so that no request finds another's connection before it is closed.
func (w *web) transport() *http.Transport {
	t := &http.Transport{DialContext: w.dial, DisableCompression: true}
	if w.cfg.Kind == H2 {
		w.speakH2(t)
		return t
	}
	switch {
	case w.cfg.Reuse == Pooled:
		n := w.cfg.slots()
		each := max(1, n/len(w.cfg.To))
		t.MaxIdleConns, t.MaxIdleConnsPerHost, t.MaxConnsPerHost = n, each, each
		t.IdleConnTimeout = w.cfg.Pool.Idle
	case w.cfg.Closes == ByServer:
		t.DisableKeepAlives = true // Connection: close, which the server obeys
	}
	return t
}

func (w *web) run(ctx context.Context, t0 int64, sink Sink) (*Result, error) {
	p, err := socket.NewPoller()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	rep := newReporter(sink, t0, 1)
	w.meter = newMeter(w.cfg, t0, rep, 0, nil)
	w.meter.running(socket.Nanotime())
	w.starts.begin(t0, w.meter.w1)

	// What is under way when the trial ends is given up, not failed.
	work, giveUp := context.WithCancelCause(context.Background())
	defer giveUp(nil)
	ready := make(chan int64)
	var wg sync.WaitGroup
	var shared *http.Transport
	if w.cfg.Reuse == Pooled {
		shared = w.transport()
	}
	for i := range w.cfg.users() {
		k := &worker{web: w, number: i, transport: shared}
		if shared == nil {
			k.transport = w.transport()
		}
		wg.Go(func() { k.run(work, ready) })
	}
	w.mu.Lock()
	w.poll, w.running = p, true
	if w.starts.closed {
		w.pauses.ring = make([]int64, w.cfg.users())
		for range w.pauses.ring {
			w.pauses.push(t0)
		}
	}
	w.mu.Unlock()

	if w.cfg.HTTP2.Streams > 0 {
		if shared == nil {
			shared = w.transport()
		}
		for range w.cfg.HTTP2.Streams {
			wg.Go(func() { w.hold(work, shared) })
		}
	}
	stop := context.AfterFunc(ctx, p.Kick)
	stopped, left, derr := w.deal(ctx, ready)
	stop()
	if !stopped && derr == nil {
		w.await(ctx)
	}
	w.mu.Lock()
	now := socket.Nanotime()
	w.meter.cut(now)
	for _, at := range left {
		w.meter.offered(at)
	}
	w.running = false
	w.meter.finish(now)
	m := w.meter
	w.meter = nil // what ends from here on is not counted
	err = errors.Join(derr, w.err)
	w.mu.Unlock()
	giveUp(errGivenUp)
	close(ready)
	wg.Wait()
	if shared != nil {
		shared.CloseIdleConnections()
	}
	rep.stop()
	return merge(w.cfg, []*meter{m}, rep), err
}

var errGivenUp = errors.New("the trial is over")

// deal hands out intended starts until none is left, on a locked thread. It
// tells whether it was stopped, and which starts it had not handed out.
func (w *web) deal(ctx context.Context, ready chan<- int64) (stopped bool, left []int64, err error) {
	defer socket.LockThread()()
	end := w.meter.w1
	drained := time.NewTimer(time.Duration(end-socket.Nanotime()) + w.cfg.drain())
	defer drained.Stop()
	next := w.starts.next()
	due := func() int64 {
		if !w.starts.closed {
			return next
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if at := w.pauses.first(); at < end {
			return at
		}
		return socket.Never
	}
	take := func() {
		if !w.starts.closed {
			next = w.starts.next()
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.pauses.pop()
	}
	rest := func() []int64 {
		var all []int64
		now := socket.Nanotime()
		for at := due(); at <= now; at = due() {
			all = append(all, at)
			take()
		}
		return all
	}
	for {
		at, now := due(), socket.Nanotime()
		if ctx.Err() != nil || w.broken() != nil {
			return true, rest(), nil
		}
		if now < at {
			if now >= end {
				return false, nil, nil // nothing comes before the end
			}
			n, err := w.poll.Wait(min(at, end))
			if err != nil {
				return false, rest(), err
			}
			if n > 0 {
				w.poll.Hush()
			}
			continue
		}
		take()
		w.account(func(m *meter) { m.offered(at); w.out++ })
		select {
		case ready <- at:
			continue
		case <-drained.C:
		case <-ctx.Done():
		}
		return true, rest(), nil
	}
}

// await waits for the requests under way, until the drain is over.
func (w *web) await(ctx context.Context) {
	giveUp := w.meter.w1 + int64(w.cfg.drain())
	for {
		w.mu.Lock()
		out := w.out
		w.mu.Unlock()
		now := socket.Nanotime()
		if out == 0 || now >= giveUp || ctx.Err() != nil {
			return
		}
		// Kicked by the last request, or by ctx.
		if n, err := w.poll.Wait(giveUp); err != nil {
			return
		} else if n > 0 {
			w.poll.Hush()
		}
	}
}

func (w *web) broken() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// account runs do with the meter, unless the trial is over.
func (w *web) account(do func(m *meter)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.meter != nil {
		do(w.meter)
	}
}

// worker is one request at a time.
type worker struct {
	web       *web
	number    int
	transport *http.Transport
	free      int64 // since when
	buf       bytes.Buffer
}

func (k *worker) run(ctx context.Context, ready <-chan int64) {
	k.free = socket.Nanotime()
	for intended := range ready {
		k.do(ctx, intended)
		if k.web.cfg.Reuse != Pooled {
			k.transport.CloseIdleConnections() // close() comes from here first, and not from the server
		}
		k.free = socket.Nanotime()
		k.again()
	}
}

// again is the closed loop's next request, and wakes who waits for the last.
func (k *worker) again() {
	w := k.web
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out--
	if w.meter == nil {
		return
	}
	if w.starts.closed {
		w.pauses.push(k.free + w.starts.pause(w.meter.failing, w.cfg.Again))
		w.poll.Kick()
		return
	}
	if w.out == 0 && k.free >= w.meter.w1 {
		w.poll.Kick()
	}
}

func (k *worker) do(ctx context.Context, intended int64) {
	w := k.web
	var seq uint64
	entry := socket.Nanotime()
	d := int64(w.cfg.Deadline)
	over := d > 0 && intended+d <= k.free // if it is we who are late, it is sent
	w.account(func(m *meter) {
		if over {
			m.fail(intended, entry, late, false)
			return
		}
		m.begin(intended, k.free, entry)
		w.seq++
		seq = w.seq
	})
	if over || seq == 0 {
		return
	}
	ctx = context.WithValue(ctx, intendedKey{}, intended)
	if d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(intended+d-entry))
		defer cancel()
	}
	first, err := k.request(ctx, seq)
	now := socket.Nanotime()
	w.account(func(m *meter) {
		if err == nil {
			m.ok(intended, entry, first, now)
			return
		}
		why := reason(err)
		if !m.seen[why] {
			m.seen[why] = true
			m.report.event(now, "error", map[string]any{"class": why, "error": err.Error()})
		}
		m.fail(intended, now, why, true)
	})
}

var (
	errGarbage         = errors.New("the answer is not the request's payload")
	errConnectDeadline = errors.New("the deadline passed before there was a connection")
)

// statusError is an answer other than 200.
type statusError int

func (e statusError) Error() string { return "HTTP status " + strconv.Itoa(int(e)) }

// request sends one request and reads its answer whole. It gives the instant
// of the answer's first byte.
func (k *worker) request(ctx context.Context, seq uint64) (first int64, err error) {
	w := k.web
	var got atomic.Int64 // set by the connection's goroutine
	var dialled, connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		ConnectStart:         func(string, string) { dialled.Store(true) },
		GotConn:              func(httptrace.GotConnInfo) { connected.Store(true) },
		GotFirstResponseByte: func() { got.Store(socket.Nanotime()) },
	})
	// The transport may still be writing it when an error is known: it is not
	// used again.
	payload := bytes.Clone(w.payload)
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], seq)
	copy(payload, number[:])
	to := w.cfg.To[int(seq-1)%len(w.cfg.To)]
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+to+"/", bytes.NewReader(payload))
	if err != nil {
		return 0, err
	}
	want := w.cfg.answerSize()
	req.Header.Set(AnswerSize, strconv.Itoa(want))
	resp, err := (&http.Client{Transport: k.transport}).Do(req)
	if err != nil {
		if dialled.Load() && !connected.Load() && errors.Is(err, context.DeadlineExceeded) {
			err = errConnectDeadline
		}
		return 0, err
	}
	defer resp.Body.Close()
	k.buf.Reset()
	if _, err := k.buf.ReadFrom(io.LimitReader(resp.Body, int64(want)+1)); err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, statusError(resp.StatusCode)
	}
	if len(payload) == 0 {
		payload = zero[:]
	}
	if k.buf.Len() != want || !repeats(k.buf.Bytes(), payload, 0) {
		return 0, errGarbage
	}
	return got.Load(), nil
}

// reason is the class of what net/http returned.
func reason(err error) string {
	var errno syscall.Errno
	var status statusError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return late
	case errors.Is(err, errConnectDeadline):
		return lateConnect
	case errors.As(err, &errno):
		return socket.Class(errno)
	case h2Reason(err) != "":
		return h2Reason(err)
	case errors.As(err, &status):
		return "http." + strconv.Itoa(int(status))
	case errors.Is(err, errGarbage):
		return "garbage"
	case errors.Is(err, net.ErrClosed):
		return "closed"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(err.Error(), "server closed idle connection"):
		return "eof"
	case errors.Is(err, errOption):
		return "option"
	}
	// What net/http cannot parse has no type of its own.
	return "garbage"
}

// dial opens a connection, counts it, and knows it until it is closed.
func (w *web) dial(ctx context.Context, network, address string) (net.Conn, error) {
	intended, _ := ctx.Value(intendedKey{}).(int64)
	tc, err := w.dialer.dial(ctx, network, address, intended)
	if err != nil {
		return nil, err
	}
	wc := &webConn{TCPConn: tc, web: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[wc] = struct{}{}
	return wc, nil
}

// webConn is a connection that counts its bytes.
type webConn struct {
	*net.TCPConn
	web *web
}

func (c *webConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.web.account(func(m *meter) { m.read(socket.Nanotime(), n) })
	return n, err
}

func (c *webConn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	c.web.account(func(m *meter) { m.wrote(socket.Nanotime(), n) })
	return n, err
}

// ReadFrom is net.TCPConn's shortcut past Write, for splice and sendfile.
func (c *webConn) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c}, r)
}

func (c *webConn) Close() error {
	c.web.mu.Lock()
	delete(c.web.conns, c)
	c.web.mu.Unlock()
	return c.TCPConn.Close()
}

// do makes a fault happen.
func (w *web) do(o order) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.running {
		return errNotRunning
	}
	var errs []error
	for c := range w.conns {
		if o.reset {
			errs = append(errs, c.SetLinger(0))
		}
		errs = append(errs, c.TCPConn.Close())
	}
	return closed(errs)
}

// closed joins what came of closing connections; some are closed already.
func closed(errs []error) error {
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, net.ErrClosed) })...)
}
