// Package recorder records what programs write to their connections, as a
// trace: it stands between a client and its server, on loopback, and notes how
// much is sent and when. Of what is sent it keeps nothing.
//
// A TCP connection has no marks where one write ends and the next begins. The
// recorder makes them visible by when it acknowledges: not before it has read,
// and at once then. A sender under Nagle's algorithm holds its next small write
// back until the one before is acknowledged, so the two are read one by one.
// What it cannot see are writes that the sender's kernel has merged before:
// those made within a loopback round trip and a wake-up, some 50 µs, of the
// write before the last; and writes that a sender with TCP_NODELAY makes within
// such a wake-up.
package recorder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
	"tcplab/workloads"
)

// Recorder is a listening proxy.
type Recorder struct {
	to     string
	listen net.Listener
	start  int64 // of the first connection; 0: none yet

	mu    sync.Mutex
	conns map[*link]bool
	count int
	bytes int // of the trace's text so far, about
	out   Recording
	last  int64
	wg    sync.WaitGroup
}

// Recording is what was recorded.
type Recording struct {
	Trace       workloads.Trace
	Connections int      // that were made to it
	Unanswered  int      // exchanges that ended without an answer; they are left out
	Raised      int      // exchanges shorter than the lab's protocol, which were made as long as it needs
	LeftOut     int      // exchanges beyond what a trace can hold
	Unasked     int64    // bytes of the server that nobody had asked for
	Failed      []string // why connections to the server failed, each reason once
}

// Listen opens the recorder's address, which has to be on loopback: it is no
// way into the machine.
func Listen(address, to string) (*Recorder, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: write an address and a port, such as 127.0.0.1:9000", address)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("listen on %q: it listens on loopback only: write 127.0.0.1:9000", address)
	}
	if _, port, err := net.SplitHostPort(to); err != nil || port == "" {
		return nil, fmt.Errorf("the server %q: write HOST:PORT, such as 127.0.0.1:8080", to)
	}
	var conf net.ListenConfig
	conf.SetMultipathTCP(false) // Go's default, whose sockets do not pass the option on
	l, err := conf.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	// Accepted connections inherit it: a client may write before accept()
	// returns. listen() itself would take it away (inet_csk_delack_init).
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err == nil {
		err = quick(raw, 0)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("TCP_QUICKACK: %w", err)
	}
	return &Recorder{to: to, listen: l, conns: map[*link]bool{}}, nil
}

// Address is where it listens.
func (r *Recorder) Address() string { return r.listen.Addr().String() }

// Run forwards and records until ctx ends.
func (r *Recorder) Run(ctx context.Context) (*Recording, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { r.listen.Close() })
	defer stop()
	var failed error
	for {
		c, err := r.listen.Accept()
		if err != nil {
			if ctx.Err() == nil {
				failed = err
			}
			break
		}
		r.wg.Go(func() { r.serve(ctx, c.(*net.TCPConn)) })
	}
	r.listen.Close()
	cancel()
	now := clock.Now()
	r.mu.Lock()
	if len(r.conns) > 0 {
		r.last = now // they were still open
	}
	for l := range r.conns {
		l.client.Close()
		l.server.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
	return r.finish(), failed
}

// finish puts the exchanges of all connections in order.
func (r *Recorder) finish() *Recording {
	t := &r.out.Trace
	slices.SortStableFunc(t.Exchanges, func(a, b workloads.Exchange) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Connection, b.Connection))
	})
	if r.start > 0 {
		t.Length = time.Duration(r.last - r.start).Truncate(time.Microsecond)
	}
	for _, x := range t.Exchanges {
		t.Length = max(t.Length, x.Start+x.Parts[len(x.Parts)-1].At+time.Microsecond)
	}
	return &r.out
}

// link is a client's connection and the one to the server for it.
type link struct {
	r              *Recorder
	number         int
	client, server *net.TCPConn
	raw            syscall.RawConn // of the client's

	mu    sync.Mutex
	parts []workloads.Part
	whole bool // the last part filled the buffer: the next belongs to it
	began int64
	reply int
}

func (r *Recorder) serve(ctx context.Context, client *net.TCPConn) {
	defer client.Close()
	var d net.Dialer
	up, err := d.DialContext(ctx, "tcp", r.to)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if s := err.Error(); ctx.Err() == nil && !slices.Contains(r.out.Failed, s) && len(r.out.Failed) < 10 {
			r.out.Failed = append(r.out.Failed, s)
		}
		return
	}
	defer up.Close()
	raw, err := client.SyscallConn()
	if err != nil {
		return // closed already
	}
	l := &link{r: r, client: client, server: up.(*net.TCPConn), raw: raw}
	now := clock.Now()
	r.mu.Lock()
	if ctx.Err() != nil {
		r.mu.Unlock()
		return // it came too late to be closed with the others
	}
	if r.start == 0 {
		r.start = now
	}
	l.number, r.count = r.count, r.count+1
	r.out.Connections++
	r.conns[l] = true
	r.mu.Unlock()

	// net sets TCP_NODELAY on it: what the client sends goes on at once.
	var wg sync.WaitGroup
	wg.Go(func() { forward(l.client, l.server, l.sent) })
	wg.Go(func() { forward(l.server, l.client, l.answered) })
	wg.Wait()
	l.mu.Lock()
	l.end()
	l.mu.Unlock()
	r.mu.Lock()
	delete(r.conns, l)
	if ctx.Err() == nil {
		r.last = max(r.last, clock.Now())
	}
	r.mu.Unlock()
}

// readBuffer is the most that one read takes.
const readBuffer = 64 << 10

// forward copies what comes from one side to the other, and tells of each read.
// The end of one direction is passed on; an error ends both.
func forward(from, to *net.TCPConn, tell func(at int64, n int)) {
	buf := make([]byte, readBuffer)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			tell(clock.Now(), n)
			if _, err := to.Write(buf[:n]); err != nil {
				from.Close()
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				to.Close()
				return
			}
			to.CloseWrite()
			return
		}
	}
}

// quick sets TCP_QUICKACK. Off is not only the absence of quick ACKs: the
// connection counts as a conversation then, whose ACKs wait for data to go
// along with (net/ipv4/tcp.c, __tcp_sock_set_quickack). On sends the ACK that
// waits.
func quick(c syscall.RawConn, on int) error {
	var err error
	return cmp.Or(c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_QUICKACK, on)
	}), err)
}

// sent is a read of what the client wrote.
func (l *link) sent(at int64, n int) {
	l.mu.Lock()
	if l.reply > 0 {
		l.end()
	}
	if len(l.parts) == 0 {
		l.began = at
	}
	if k := len(l.parts); k > 0 && l.whole {
		l.parts[k-1].Bytes += n
	} else {
		l.parts = append(l.parts, workloads.Part{Bytes: n, At: time.Duration(at - l.began).Truncate(time.Microsecond)})
	}
	l.whole = n == readBuffer
	l.mu.Unlock()
	// Now that it is read it is acknowledged, and the next one may come. An
	// error is a connection that has ended, which the next read tells.
	quick(l.raw, 1)
	quick(l.raw, 0)
}

// answered is a read of what the server wrote.
func (l *link) answered(_ int64, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.parts) == 0 {
		l.r.mu.Lock()
		l.r.out.Unasked += int64(n)
		l.r.mu.Unlock()
		return
	}
	l.reply += n
}

// end closes the exchange that is under way: it ends where the client speaks
// again, or the connection ends.
func (l *link) end() {
	parts, reply := l.parts, l.reply
	l.parts, l.reply, l.whole = nil, 0, false
	if len(parts) == 0 {
		return
	}
	r := l.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if reply == 0 {
		r.out.Unanswered++
		return
	}
	x := workloads.Exchange{Start: time.Duration(l.began - r.start).Truncate(time.Microsecond), Connection: l.number, Parts: parts, Answer: reply}
	total, long := 0, false
	for _, p := range parts {
		total += p.Bytes
		long = long || p.Bytes > workloads.MaxPart
	}
	size := 40 + 20*len(parts) // more than its line
	if long || len(parts) > workloads.MaxParts || total > 16*workloads.MaxPart || reply > 16*workloads.MaxPart || x.Start > workloads.MaxTraceLength/2 ||
		l.number >= workloads.MaxConnections || r.bytes+size > workloads.MaxTraceBytes-4<<10 {
		r.out.LeftOut++
		return
	}
	if total < workloads.MinRequest || reply < workloads.MinAnswer {
		r.out.Raised++
		x.Parts[len(parts)-1].Bytes += max(0, workloads.MinRequest-total)
		x.Answer = max(reply, workloads.MinAnswer)
	}
	r.bytes += size
	r.out.Trace.Exchanges = append(r.out.Trace.Exchanges, x)
}
