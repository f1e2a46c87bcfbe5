package server

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
)

// defaultStreams is net/http's own bound.
const defaultStreams = 250

// h2 is net/http over HTTP/2 in cleartext. Each connection has an http.Server
// of its own, because GOAWAY is something that net/http says of a server.
type h2 struct {
	web      *web
	protocol http.Protocols
	door     door
	mu       sync.Mutex
	servers  []*http.Server // one a connection, in the order in which they came
	requests uint64
}

func newH2(w *web) *h2 {
	h := &h2{web: w}
	h.protocol.SetUnencryptedHTTP2(true)
	return h
}

func (h *h2) Serve(l net.Listener) error { return h.door.serve(l, h.talk) }
func (h *h2) Close() error               { return h.door.close() }

// talk serves one connection until it is closed.
func (h *h2) talk(c net.Conn) {
	streams := h.web.cfg.Streams
	if streams == 0 {
		streams = defaultStreams
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(h.serve), ErrorLog: nowhere, Protocols: &h.protocol,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: streams},
	}
	h.mu.Lock()
	h.servers = append(h.servers, srv)
	h.mu.Unlock()
	one := &oneConn{conn: make(chan net.Conn, 1), addr: c.LocalAddr(), taken: make(chan struct{})}
	gone := make(chan struct{})
	one.conn <- &lastConn{Conn: c, closed: sync.OnceFunc(func() { close(gone); one.Close() })}
	// It has nothing to say: how the connection ends is counted there.
	_ = srv.Serve(one)
	<-gone
	h.mu.Lock()
	defer h.mu.Unlock()
	h.servers = slices.DeleteFunc(h.servers, func(o *http.Server) bool { return o == srv })
}

// oneConn is the listener of one connection.
type oneConn struct {
	conn  chan net.Conn
	addr  net.Addr
	taken chan struct{}
	once  sync.Once
}

func (o *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-o.conn:
		return c, nil
	default:
	}
	<-o.taken
	return nil, net.ErrClosed
}

func (o *oneConn) Addr() net.Addr { return o.addr }

func (o *oneConn) Close() error {
	o.once.Do(func() { close(o.taken) })
	return nil
}

// lastConn tells when the only connection of a server is closed.
type lastConn struct {
	net.Conn
	closed func()
}

func (c *lastConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// serve answers as the HTTP server does, and with a GOAWAY every so often: a
// fixed share and no draw, so that arms are alike.
func (h *h2) serve(rw http.ResponseWriter, r *http.Request) {
	if share := h.web.cfg.GoAway; share > 0 {
		h.mu.Lock()
		h.requests++
		n := float64(h.requests)
		h.mu.Unlock()
		if uint64(n*share) > uint64((n-1)*share) {
			rw.Header().Set("Connection", "close") // net/http's way of asking for a GOAWAY
		}
	}
	h.web.serve(rw, r)
}

// goAway says GOAWAY on every connection. A context that has ended keeps
// Shutdown from polling until the connections are idle.
func (h *h2) goAway() {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	h.mu.Lock()
	all := slices.Clone(h.servers)
	h.mu.Unlock()
	for _, s := range all {
		_ = s.Shutdown(over) // context.Canceled, as meant
	}
}
