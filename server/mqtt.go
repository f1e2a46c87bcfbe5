package server

import (
	"io"
	"log/slog"
	"net"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// broker is mochi-mqtt, a real broker, on our listener. Its Serve is not
// called: that starts four housekeeping tickers of a second each (expired
// sessions, messages and wills of MQTT 5, and $SYS topics), and a broker that
// is idle for a day must not wake anybody. Nothing that MQTT 3.1.1 asks of a
// broker is among them. Keep-alive is not either: it is a read deadline of one
// and a half times the client's interval (MQTT 3.1.1, 3.1.2.10).
type broker struct {
	server *mqtt.Server
	door   door
}

const listenerName = "tcp"

func newBroker(w *web) *broker {
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumInflight = 65535 // as many as there are packet identifiers
	b := &broker{server: mqtt.New(&mqtt.Options{Capabilities: caps, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})}
	// Its only error is of a hook's own configuration, and there is none.
	_ = b.server.AddHook(&counting{web: w}, nil)
	return b
}

func (b *broker) Serve(l net.Listener) error {
	return b.door.serve(l, func(c net.Conn) {
		// How it ends is the connection's affair, and counted there.
		_ = b.server.EstablishConnection(listenerName, c)
		c.Close()
	})
}

// Close closes the listener and every connection, without a word: a broker of
// MQTT 3.1.1 has no packet to say goodbye with.
func (b *broker) Close() error { return b.door.close() }

// counting lets everybody in, and counts messages.
type counting struct {
	mqtt.HookBase
	web *web
}

func (h *counting) ID() string { return "tcplab" }

func (h *counting) Provides(b byte) bool {
	return b == mqtt.OnConnectAuthenticate || b == mqtt.OnACLCheck || b == mqtt.OnPublished
}

func (h *counting) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

func (h *counting) OnACLCheck(*mqtt.Client, string, bool) bool { return true }

func (h *counting) OnPublished(*mqtt.Client, packets.Packet) {
	h.web.mu.Lock()
	defer h.web.mu.Unlock()
	h.web.answered()
}
