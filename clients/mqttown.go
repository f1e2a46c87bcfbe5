package clients

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/socket"
)

// ownPublisher is a small MQTT publisher. It is written like those that wait
// fifteen minutes for a connection that is long gone: one goroutine writes,
// without a deadline, another reads, a third sends PINGREQ and waits for the
// answer. With PingBlocks that third one writes PINGREQ itself and only then
// looks at its watch; without, it looks at its watch alone.
type ownPublisher struct {
	relay *relay
	turn  int

	mu   sync.Mutex
	link *mqttLink // the connection that is up
}

func newOwnPublisher(r *relay) *ownPublisher { return &ownPublisher{relay: r} }

const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	// handshake is how long CONNACK may take; then the connection has failed.
	handshake = 30 * time.Second
)

// run keeps a connection up until stop is closed. One that breaks is followed
// by another at once; where that fails, there are pauses.
func (p *ownPublisher) run(stop <-chan struct{}) {
	pause := firstRetry
	for {
		select {
		case <-stop:
			return
		default:
		}
		from := socket.Nanotime()
		l, err := p.connect(stop)
		if err != nil {
			now := socket.Nanotime()
			p.relay.account(func(m *meter) { m.lost(now, from, mqttReason(err)) })
			if !waitUntil(now+int64(pause), stop) {
				return
			}
			pause = min(2*pause, lastRetry)
			continue
		}
		pause = firstRetry
		l.serve(stop)
		p.mu.Lock()
		p.link = nil
		p.mu.Unlock()
	}
}

// connect opens a connection and an MQTT session on it.
func (p *ownPublisher) connect(stop <-chan struct{}) (*mqttLink, error) {
	r := p.relay
	ctx, cancel := context.WithTimeout(context.Background(), handshake)
	defer cancel()
	given := make(chan struct{})
	defer close(given)
	go func() { // ends a dial or a handshake that nobody waits for any more
		select {
		case <-stop:
			cancel()
		case <-given:
		}
	}()
	to := r.cfg.To[p.turn%len(r.cfg.To)]
	p.turn++
	from := socket.Nanotime()
	conn, err := r.dialer.dial(ctx, "tcp", to, from)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	l := &mqttLink{relay: r, conn: conn, dead: make(chan struct{}), answered: make(chan struct{}, 1), room: make(chan struct{}, 1),
		publish: newPublishing(r.cfg.Relay.topic(), r.cfg.Relay.QoS, r.cfg.Size)}
	l.in = bufio.NewReader(counted{l})
	err = l.write(connectPacket(r.cfg.Relay.name(), r.cfg.Relay.KeepAlive))
	if err == nil {
		err = readConnack(l.in, l.buf[:])
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link = l
	return l, nil
}

func (p *ownPublisher) closeConnection(reset bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link == nil {
		return nil
	}
	if reset {
		if err := p.link.conn.SetLinger(0); err != nil {
			return err
		}
	}
	p.link.die(net.ErrClosed)
	return nil
}

// mqttMessage is one that was handed to the connection.
type mqttMessage struct {
	id              uint16
	intended, entry int64
}

// mqttLink is one connection with a session on it.
type mqttLink struct {
	relay   *relay
	conn    *net.TCPConn
	in      *bufio.Reader
	buf     [128]byte
	publish publishing

	mu                     sync.Mutex
	flight                 []mqttMessage // in the order in which they were written
	lastID                 uint16
	lastSent, lastReceived int64
	answered               chan struct{} // PINGRESP came
	room                   chan struct{} // there is one less in flight
	pinging                atomic.Bool   // a PINGREQ is being written off the watch's path
	pings                  sync.WaitGroup
	cause                  error
	diedAt                 int64
	dead                   chan struct{} // closed when it is broken
}

// maxFlight is how many identifiers there are (2.3.1).
const maxFlight = 65535

// counted is a link's connection as a reader that counts.
type counted struct{ *mqttLink }

func (c counted) Read(b []byte) (int, error) {
	n, err := c.conn.Read(b)
	now := socket.Nanotime()
	c.mu.Lock()
	if n > 0 {
		c.lastReceived = now
	}
	c.mu.Unlock()
	c.relay.account(func(m *meter) { m.read(now, n) })
	return n, err
}

// write returns when the kernel has taken everything.
func (l *mqttLink) write(b []byte) error {
	n, err := l.conn.Write(b)
	now := socket.Nanotime()
	l.mu.Lock()
	if err == nil {
		l.lastSent = now
	}
	l.mu.Unlock()
	l.relay.account(func(m *meter) { m.wrote(now, n) })
	return err
}

// serve carries messages until the connection breaks or stop is closed. What
// was handed to it and not acknowledged has failed then: the session was a
// clean one, so nothing is sent again (MQTT 3.1.1, 4.4).
func (l *mqttLink) serve(stop <-chan struct{}) {
	l.mu.Lock()
	l.lastReceived = socket.Nanotime()
	l.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(l.read)
	if l.relay.cfg.Relay.KeepAlive > 0 {
		wg.Go(l.watch)
	}
	wg.Go(func() {
		select {
		case <-stop: // a write may be blocked, and shall not be waited for
			l.die(errGivenUp)
		case <-l.dead:
		}
	})
	l.carry(stop)
	<-l.dead
	wg.Wait()
	l.pings.Wait()
	if errors.Is(l.cause, errGivenUp) {
		l.goodbye()
	}
	l.conn.Close()

	class := mqttReason(l.cause)
	l.relay.account(func(m *meter) {
		m.report.event(l.diedAt, "broken", map[string]any{"class": class, "error": l.cause.Error(), "unacknowledged": len(l.flight)})
		if len(l.flight) == 0 {
			m.lost(l.diedAt, l.lastReceived, class)
		}
		for _, x := range l.flight {
			m.fail(x.intended, l.diedAt, class, true)
		}
	})
}

// goodbye says DISCONNECT if the kernel takes it at once.
func (l *mqttLink) goodbye() {
	if rc, err := l.conn.SyscallConn(); err == nil {
		// Whether it arrives makes no difference to anybody.
		_ = rc.Control(func(fd uintptr) { _, _ = unix.Write(int(fd), disconnect) })
	}
}

// die breaks the connection for a reason. Whoever is blocked on it is woken
// with a deadline and not by close(), since of the goroutines on a socket only
// one is told its error by the kernel (sk_err is cleared when it is read; the
// others see EPIPE or the end of data): the weightiest of what they bring back
// is the cause.
func (l *mqttLink) die(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		l.diedAt = socket.Nanotime()
		close(l.dead)
		_ = l.conn.SetDeadline(time.Unix(1, 0)) // an error is that it is closed already
	}
	if l.cause == nil || weight(err) > weight(l.cause) {
		l.cause = err
	}
}

func weight(err error) int {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return 1
	case errors.Is(err, unix.EPIPE):
		return 2
	}
	return 3
}

// carry writes messages, one after the other.
func (l *mqttLink) carry(stop <-chan struct{}) {
	qos := l.relay.cfg.Relay.QoS
	free := socket.Nanotime()
	for {
		intended, ok := l.relay.next(stop, l.dead)
		if !ok {
			return
		}
		x := mqttMessage{intended: intended, entry: socket.Nanotime()}
		l.relay.account(func(m *meter) { m.begin(intended, free, x.entry) })
		x.id, ok = l.enter(x)
		if !ok {
			return
		}
		if err := l.write(l.publish.numbered(x.id)); err != nil {
			l.die(err)
			return
		}
		free = socket.Nanotime()
		if qos == 0 {
			l.acknowledged(x.id) // nobody will: that the kernel has it is all there is to know
		}
	}
}

// enter puts a message among those in flight, under an identifier that no
// other one there has; with all of them taken it waits for an acknowledgement.
func (l *mqttLink) enter(x mqttMessage) (uint16, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.flight) == maxFlight && l.cause == nil {
		l.mu.Unlock()
		select {
		case <-l.room:
		case <-l.dead:
		}
		l.mu.Lock()
	}
	for taken := true; taken; {
		if l.lastID++; l.lastID == 0 {
			l.lastID = 1 // 0 is no identifier (2.3.1)
		}
		taken = l.find(l.lastID) >= 0
	}
	x.id = l.lastID
	l.flight = append(l.flight, x)
	return x.id, l.cause == nil
}

// find is where a message stands among those in flight. Acknowledgements come
// in the order of messages (4.6), so it is mostly the first.
func (l *mqttLink) find(id uint16) int {
	if n := len(l.flight); n == 0 || id > l.flight[n-1].id && id > l.flight[0].id {
		return -1 // newer than all of them
	}
	return slices.IndexFunc(l.flight, func(x mqttMessage) bool { return x.id == id })
}

func (l *mqttLink) acknowledged(id uint16) {
	l.mu.Lock()
	at := l.find(id)
	if at < 0 {
		l.mu.Unlock()
		return // of no message in flight
	}
	x := l.flight[at]
	l.flight = slices.Delete(l.flight, at, at+1)
	select {
	case l.room <- struct{}{}:
	default:
	}
	l.mu.Unlock()
	now := socket.Nanotime()
	l.relay.account(func(m *meter) { m.ok(x.intended, x.entry, now, now) })
}

// read takes what the broker sends.
func (l *mqttLink) read() {
	for {
		kind, body, err := readPacket(l.in, l.buf[:])
		if err != nil {
			l.die(err)
			return
		}
		switch {
		case kind == mqttPingresp:
			select {
			case l.answered <- struct{}{}:
			default:
			}
		case len(body) != 2 || kind != mqttPuback && kind != mqttPubrec && kind != mqttPubcomp:
			l.die(fmt.Errorf("%w: packet type %d", errProtocol, kind))
			return
		case kind == mqttPubrec:
			if err := l.write(pubrel(binary.BigEndian.Uint16(body))); err != nil {
				l.die(err)
				return
			}
		default:
			l.acknowledged(binary.BigEndian.Uint16(body))
		}
	}
}

var errPingTimeout = errors.New("no PINGRESP")

// watch sends PINGREQ when nothing was sent, or nothing came, for the
// keep-alive interval: paho's rule, more than MQTT asks for (3.1.2.10), and
// what finds out about a peer that takes everything and answers nothing.
func (l *mqttLink) watch() {
	interval := int64(l.relay.cfg.Relay.KeepAlive)
	for {
		l.mu.Lock()
		due := min(l.lastSent, l.lastReceived) + interval
		l.mu.Unlock()
		if !waitUntil(due, l.dead) {
			return
		}
		l.mu.Lock()
		early := socket.Nanotime() < min(l.lastSent, l.lastReceived)+interval
		l.mu.Unlock()
		if !early && !l.ping() {
			return
		}
	}
}

// ping sends PINGREQ and waits for the answer; false: the connection is dead.
func (l *mqttLink) ping() bool {
	select {
	case <-l.answered: // of a PINGREQ that was given up for other signs of life
	default:
	}
	from := socket.Nanotime()
	if l.relay.cfg.Relay.PingBlocks {
		// This is the seed of fifteen minutes: it returns when the write before
		// it does.
		if err := l.write(pingreq); err != nil {
			l.die(err)
			return false
		}
		from = socket.Nanotime()
	} else if l.pinging.CompareAndSwap(false, true) {
		l.pings.Go(func() {
			defer l.pinging.Store(false)
			if err := l.write(pingreq); err != nil {
				l.die(err)
			}
		})
	}
	wait := time.NewTimer(time.Duration(from-socket.Nanotime()) + l.relay.cfg.Relay.pingTimeout())
	defer wait.Stop()
	select {
	case <-l.answered:
		return true
	case <-l.dead:
		return false
	case <-wait.C:
	}
	l.mu.Lock()
	alive := !l.relay.cfg.Relay.PingBlocks && l.lastReceived > from
	l.mu.Unlock()
	if alive {
		return true // the PINGREQ waits behind other data, and that is being answered
	}
	l.die(errPingTimeout)
	return false
}

// mqttReason is the class of why a connection broke.
func mqttReason(err error) string {
	var errno syscall.Errno
	var no refused
	switch {
	case errors.Is(err, errPingTimeout):
		return "ping_timeout"
	case errors.As(err, &errno):
		return socket.Class(errno)
	case errors.As(err, &no):
		return "refused"
	case errors.Is(err, errOption):
		return "option"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "deadline"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "eof"
	case errors.Is(err, errProtocol):
		return "garbage"
	}
	return "closed"
}
