package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// AnswerSize is the header in which an HTTP request asks for the size of its
// answer's body, in bytes.
const AnswerSize = "Tcplab-Answer-Size"

// web is what serves over net: net/http, HTTP/2, a broker. Its listener and
// its connections can be looked into and held back; daemon speaks the protocol.
type web struct {
	cfg     Config
	options []socket.Setting
	ln      *net.TCPListener
	daemon  daemon

	mu        sync.Mutex
	cond      sync.Cond // of accepting and reading
	accepting bool
	reading   bool
	running   bool
	ended     bool
	service   time.Duration
	conns     map[*webConn]struct{}
	workers   []int64 // when each of them is free
	queue     []int64 // when each request that waits or has waited is served
	count     Result
	said      said
}

// daemon is a protocol on top of a listener. Serve returns once Close was
// called; connections that are left then are Close's to close.
type daemon interface {
	Serve(l net.Listener) error
	Close() error
}

func newWeb(cfg Config, options []socket.Setting) *web {
	w := &web{cfg: cfg, options: options, accepting: true, reading: true, service: cfg.Service,
		conns: map[*webConn]struct{}{}, workers: make([]int64, cfg.Workers), count: newResult(cfg.Kind)}
	w.cond.L = &w.mu
	switch cfg.Kind {
	case H2:
		w.daemon = newH2(w)
	case MQTT:
		w.daemon = newBroker(w)
	default:
		w.daemon = &http.Server{Handler: http.HandlerFunc(w.serve), ErrorLog: nowhere}
	}
	return w
}

var nowhere = log.New(io.Discard, "", 0)

func (w *web) listen() (string, map[string]string, error) {
	lc := net.ListenConfig{
		KeepAlive: -1, // net's default is 15 s
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) { err = bindable(int(fd), w.options) }), err)
		},
	}
	// net makes MPTCP listeners by default: other sockets, with other options,
	// and to inet_diag of another protocol.
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp", w.cfg.Listen)
	if err != nil {
		return "", nil, err
	}
	w.ln = ln.(*net.TCPListener)
	var got map[string]string
	err = control(w.ln, func(fd int) error {
		// Again, with our backlog; listen(2) on a listener only changes that.
		if err := unix.Listen(fd, w.cfg.Backlog); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		var err error
		got, err = socket.ReadBack(fd, w.options, false)
		return err
	})
	if err != nil {
		w.ln.Close()
		return "", nil, err
	}
	return w.ln.Addr().String(), got, nil
}

// control runs do with a socket's descriptor.
func control(c syscall.Conn, do func(fd int) error) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	err = rc.Control(func(fd uintptr) { doErr = do(int(fd)) })
	return errors.Join(err, doErr)
}

func (w *web) run(ctx context.Context, sink Sink) (*Result, error) {
	if w.ln == nil {
		return nil, errors.New("Run before Listen")
	}
	w.said = newSaid(sink)
	w.mu.Lock()
	w.running = true
	w.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- w.daemon.Serve((*accepting)(w)) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-done:
		done <- http.ErrServerClosed
	}
	w.mu.Lock()
	w.count.Open = int64(len(w.conns))
	w.said.files.seen(w.count.Open)
	w.running, w.ended, w.accepting, w.reading = false, true, true, true
	w.cond.Broadcast()
	w.mu.Unlock()
	w.daemon.Close()
	<-done
	w.mu.Lock()
	for len(w.conns) > 0 { // its goroutines close them
		w.cond.Wait()
	}
	defer w.mu.Unlock()
	w.count.Descriptors = w.said.finish(socket.Nanotime(), w.gauges())
	r := w.count // a Read that has just been interrupted may still count
	return &r, err
}

// serve answers a request with its own body, or with so many bytes of it as
// it asks for.
func (w *web) serve(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxPayload+1))
	if err != nil {
		return // the connection is broken, and counted
	}
	want := len(body)
	if v := r.Header.Get(AnswerSize); v != "" {
		if want, err = strconv.Atoi(v); err != nil {
			want = -1
		}
	} else if w.cfg.ResponseSize > 0 {
		want = w.cfg.ResponseSize
	}
	if len(body) > MaxPayload || want < 0 || want > MaxPayload {
		http.Error(rw, fmt.Sprintf("bodies go up to %d bytes", MaxPayload), http.StatusBadRequest)
		return
	}
	if !w.work(r.Context()) {
		return
	}
	w.mu.Lock()
	w.answered()
	w.mu.Unlock()
	h := rw.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(want))
	if w.cfg.Closes == ByServer {
		h.Set("Connection", "close")
	}
	if want != len(body) {
		body = repeat(nil, body, want)
	}
	rw.Write(body) // an error is the connection's, and counted there
}

// answered counts a request; the lock is held.
func (w *web) answered() {
	w.count.Requests++
	w.said.advance(socket.Nanotime, w.gauges)
}

// work occupies a worker for the service time. Who comes first is served
// first; when that will be is known at once, so a request waits for one
// instant and not for a worker.
func (w *web) work(ctx context.Context) bool {
	w.mu.Lock()
	if w.service == 0 {
		w.mu.Unlock()
		return true
	}
	now := socket.Nanotime()
	from := now
	if len(w.workers) > 0 {
		first := 0
		for i, free := range w.workers {
			if free < w.workers[first] {
				first = i
			}
		}
		from = max(now, w.workers[first])
		w.workers[first] = from + int64(w.service)
		for len(w.queue) > 0 && w.queue[0] <= now {
			w.queue = w.queue[1:]
		}
		if from > now {
			w.queue = append(w.queue, from)
			w.count.QueueMax = max(w.count.QueueMax, int64(len(w.queue)))
		}
	}
	until := from + int64(w.service)
	w.mu.Unlock()
	t := time.NewTimer(time.Duration(until - now))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *web) gauges() map[string]float64 {
	now, waiting := socket.Nanotime(), 0
	for _, from := range w.queue {
		waiting += b2i(from > now)
	}
	return map[string]float64{
		"accepted": float64(w.count.Accepted),
		"requests": float64(w.count.Requests),
		"open":     float64(len(w.conns)),
		"queue":    float64(waiting),
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (w *web) do(o order) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.running {
		return errNotRunning
	}
	switch o.fault {
	case "slow":
		w.service = o.service
	case "close-connections":
		var errs []error
		for c := range w.conns {
			if o.reset {
				errs = append(errs, c.SetLinger(0))
			}
			errs = append(errs, c.TCPConn.Close())
		}
		// Some are closed already, and soon forgotten.
		return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, net.ErrClosed) })...)
	case "goaway":
		w.daemon.(*h2).goAway()
	case "stall":
		w.reading = false
	case "stop-accepting":
		w.accepting = false
		return w.ln.SetDeadline(time.Unix(1, 0))
	case "resume":
		if o.ends("slow") {
			w.service = w.cfg.Service
		}
		w.reading = w.reading || o.ends("stall")
		w.accepting = w.accepting || o.ends("stop-accepting")
		w.cond.Broadcast()
		if w.accepting {
			return w.ln.SetDeadline(time.Time{})
		}
	}
	return nil
}

// accepting is web as a net.Listener that can hold back, and counts.
type accepting web

var _ net.Listener = (*accepting)(nil)

func (a *accepting) Addr() net.Addr { return a.ln.Addr() }
func (a *accepting) Close() error   { return a.ln.Close() }

func (a *accepting) Accept() (net.Conn, error) {
	w := (*web)(a)
	for {
		w.mu.Lock()
		for !w.accepting {
			w.cond.Wait()
		}
		w.mu.Unlock()
		c, err := w.ln.AcceptTCP()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue // stop-accepting has woken it
		}
		if err != nil {
			w.acceptFailed(err)
			return nil, err // net/http waits and tries again where that makes sense
		}
		w.mu.Lock()
		for !w.accepting { // it came in the instant of the fault: nobody shall answer it
			w.cond.Wait()
		}
		w.mu.Unlock()
		wc, err := w.welcome(c)
		if err != nil {
			return nil, err
		}
		if wc != nil {
			return wc, nil
		}
	}
}

func (w *web) acceptFailed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errno syscall.Errno
	if w.ended || !errors.As(err, &errno) {
		return
	}
	w.said.refused(&w.count, errno, err.Error())
}

// welcome sets the options again, since net has set some of its own meanwhile.
// It gives nothing if the connection is dead already.
func (w *web) welcome(c *net.TCPConn) (*webConn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count.Accepted++
	err := control(c, func(fd int) error {
		if err := socket.SetAll(fd, w.options); err != nil {
			return nil // a dead connection refuses some; the read will tell
		}
		if w.count.Options != nil {
			return nil
		}
		got, err := socket.ReadBack(fd, w.options, true)
		if err == nil {
			w.count.Options = got
			w.said.options(socket.Nanotime(), got)
		}
		return err
	})
	if err != nil {
		c.Close()
		return nil, err
	}
	wc := &webConn{TCPConn: c, web: w}
	w.conns[wc] = struct{}{}
	w.count.OpenMax = max(w.count.OpenMax, int64(len(w.conns)))
	return wc, nil
}

// webConn is a connection that counts and can be kept from reading.
type webConn struct {
	*net.TCPConn
	web *web
}

func (c *webConn) Read(b []byte) (int, error) {
	w := c.web
	w.mu.Lock()
	for !w.reading {
		w.cond.Wait()
	}
	w.mu.Unlock()
	n, err := c.TCPConn.Read(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.reading { // it was in Read already: nobody shall see what came
		w.cond.Wait()
	}
	w.count.BytesReceived += int64(n)
	w.note(err)
	return n, err
}

func (c *webConn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	w := c.web
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count.BytesSent += int64(n)
	w.note(err)
	return n, err
}

// ReadFrom is net.TCPConn's shortcut past Write, for splice and sendfile.
func (c *webConn) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c}, r)
}

func (w *web) note(err error) {
	var errno syscall.Errno
	if w.ended || err == nil || !errors.As(err, &errno) {
		return
	}
	w.count.Errors[socket.Class(errno)]++
	w.said.once(socket.Nanotime(), "error", socket.Class(errno), err.Error())
}

func (c *webConn) Close() error {
	err := c.TCPConn.Close()
	c.web.mu.Lock()
	defer c.web.mu.Unlock()
	delete(c.web.conns, c)
	c.web.cond.Broadcast()
	return err
}
