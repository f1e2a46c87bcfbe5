package clients

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"tcplab/lab/socket"
)

// pahoPublisher is eclipse/paho.mqtt.golang with its defaults: a clean session
// that is resumed all the same, automatic reconnection, no write timeout. Its
// detector of dead connections writes PINGREQ itself, behind whatever is being
// written. Only the TCP socket is ours, so that its options and its bytes are
// known.
type pahoPublisher struct {
	relay *relay
	mu    sync.Mutex
	conn  *pahoConn
}

// pahoConn counts bytes.
type pahoConn struct {
	*net.TCPConn
	relay *relay
}

func (c *pahoConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.relay.account(func(m *meter) { m.read(socket.Nanotime(), n) })
	return n, err
}

func (c *pahoConn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	c.relay.account(func(m *meter) { m.wrote(socket.Nanotime(), n) })
	return n, err
}

func (p *pahoPublisher) run(stop <-chan struct{}) {
	r := p.relay
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	opts := mqtt.NewClientOptions().SetClientID(r.cfg.Relay.name()).SetKeepAlive(r.cfg.Relay.KeepAlive).
		SetPingTimeout(r.cfg.Relay.pingTimeout()).SetConnectRetry(true).SetConnectRetryInterval(firstRetry)
	for _, to := range r.cfg.To {
		opts.AddBroker("tcp://" + to)
	}
	opts.SetCustomOpenConnectionFn(func(uri *url.URL, o mqtt.ClientOptions) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, o.ConnectTimeout)
		defer cancel()
		from := socket.Nanotime()
		c, err := r.dialer.dial(ctx, "tcp", uri.Host, from)
		if err != nil {
			r.account(func(m *meter) { m.lost(socket.Nanotime(), from, pahoReason(err)) })
			return nil, err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.conn = &pahoConn{c, r}
		return p.conn, nil
	})
	opts.SetConnectionLostHandler(func(_ mqtt.Client, err error) {
		now := socket.Nanotime()
		r.account(func(m *meter) {
			m.report.event(now, "broken", map[string]any{"class": pahoReason(err), "error": err.Error()})
			m.lost(now, now, pahoReason(err))
		})
	})
	client := mqtt.NewClient(opts)
	connected := client.Connect()
	var wg sync.WaitGroup
	select {
	case <-connected.Done():
		// Publish may wait 30 s behind a blocked write, and nothing can end
		// that: the trial does not wait for it.
		carried := make(chan struct{})
		go func() { defer close(carried); p.carry(client, stop, &wg) }()
		select {
		case <-carried:
		case <-stop:
		}
	case <-stop:
	}
	cancel()
	client.Disconnect(uint(goodbyeTime / time.Millisecond))
	wg.Wait()
}

// goodbyeTime is how long DISCONNECT may take.
const goodbyeTime = 100 * time.Millisecond

// carry publishes, as a service does: one message after the other, and
// whatever becomes of each is heard elsewhere.
func (p *pahoPublisher) carry(client mqtt.Client, stop <-chan struct{}, wg *sync.WaitGroup) {
	r := p.relay
	qos, topic := byte(r.cfg.Relay.QoS), r.cfg.Relay.topic()
	payload := newRequest(r.cfg.Size, 0, false).payload()
	free := socket.Nanotime()
	for {
		intended, ok := r.next(stop, nil)
		if !ok {
			return
		}
		entry := socket.Nanotime()
		r.account(func(m *meter) { m.begin(intended, free, entry) })
		token := client.Publish(topic, qos, false, payload)
		free = socket.Nanotime()
		wg.Go(func() {
			select {
			case <-token.Done():
			case <-stop:
				return
			}
			now, err := socket.Nanotime(), token.Error()
			r.account(func(m *meter) {
				if err != nil {
					m.fail(intended, now, pahoReason(err), true)
				} else {
					m.ok(intended, entry, now, now)
				}
			})
		})
	}
}

func (p *pahoPublisher) closeConnection(reset bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == nil {
		return nil
	}
	var err error
	if reset {
		err = p.conn.SetLinger(0)
	}
	return closed([]error{err, p.conn.TCPConn.Close()})
}

// pahoReason is the class of what paho returned: its own errors have texts
// only.
func pahoReason(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "pingresp not received"):
		return "ping_timeout"
	case strings.Contains(text, "broken by timeout"):
		return "publish_timeout"
	case strings.Contains(text, "no message IDs"):
		return "identifiers"
	case errors.Is(err, mqtt.ErrNotConnected):
		return "not_connected"
	}
	return mqttReason(err)
}
