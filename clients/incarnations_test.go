package clients_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"tcplab/clients"
	"tcplab/server"
)

// twice runs a client of two incarnations.
func twice(t *testing.T, ctx context.Context, cfg clients.Config) (*clients.Result, *kept) {
	t.Helper()
	cfg.Kind = clients.Incarnations
	if cfg.Duration == 0 {
		cfg.Duration = 40 * time.Second
	}
	r, k := finish(t, ctx, prepare(t, cfg, nil))
	if r.Succession == nil {
		t.Fatal("no succession in the result")
	}
	return r, k
}

func TestASmallFirstIncarnationIsBehindTheClock(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	gate(t)
	sysctl(t, "net.ipv4.tcp_timestamps", "0")
	s := serve(t, server.Config{Kind: server.Discard, Listen: "127.0.0.1:0"})
	r, _ := twice(t, context.Background(), clients.Config{To: []string{s.addr}, Closes: clients.ByServer, Outrun: clients.Outrun{Chunk: 1000}})
	if is := r.Succession; !is.Done || is.Behind >= 0 || is.Place != 0 || is.Written == 0 {
		t.Errorf("%+v", is)
	}
	if got := s.stop(); got.Incarnations != 2 || got.Stale+got.Misplaced != 0 {
		t.Errorf("the server: %+v", got)
	}
}

func TestASecondIncarnationWaitsForItsPorts(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	gate(t)
	// Who closes first keeps TIME-WAIT: from there the same ports are not to be
	// had, and the client says so.
	// (With timestamps the kernel gives a port that was bound to back at once:
	// tcp_twsk_unique.)
	sysctl(t, "net.ipv4.tcp_timestamps", "0")
	s := serve(t, server.Config{Kind: server.Discard, Listen: "127.0.0.1:0"})
	r, _ := twice(t, context.Background(), clients.Config{To: []string{s.addr}, Outrun: clients.Outrun{Chunk: 1000}})
	if is := r.Succession; is.Connected || is.Class != "EADDRNOTAVAIL" || r.Errors["EADDRNOTAVAIL"] != 1 || r.Opens != 1 {
		t.Errorf("%+v, %v", is, r.Errors)
	}
	// An RST leaves none.
	r, _ = twice(t, context.Background(), clients.Config{To: []string{s.addr}, Options: map[string]string{"SO_LINGER": "0"}, Outrun: clients.Outrun{Chunk: 1000}})
	if is := r.Succession; !is.Connected || !is.Done || len(r.Errors) != 0 {
		t.Errorf("%+v, %v", is, r.Errors)
	}
}

func TestIncarnationsThatCannotBeSaySo(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	gate(t)
	r, _ := twice(t, context.Background(), clients.Config{To: []string{"127.0.0.1:9"}})
	if is := r.Succession; is.Connected || is.Class != "" || is.Done || r.Errors["ECONNREFUSED"] != 1 {
		t.Errorf("nobody listens: %+v, %v", is, r.Errors)
	}
	// The clock cannot be outrun: the first one goes on for as much as it may.
	s := serve(t, server.Config{Kind: server.Discard, Listen: "127.0.0.1:0"})
	r, _ = twice(t, context.Background(), clients.Config{To: []string{s.addr}, Closes: clients.ByServer, Outrun: clients.Outrun{Ahead: 1 << 30, Most: 1 << 20}})
	if is := r.Succession; is.Ahead >= is.Asked || is.Bytes < 1<<20 || !is.Done {
		t.Errorf("%+v, %v", is, r.Errors)
	}
	// It is stopped, or its time is over.
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	quiet := handle(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	if r, _ = twice(t, ctx, clients.Config{To: []string{quiet}}); !r.Stopped {
		t.Errorf("%+v", r.Succession)
	}
	if r, _ = twice(t, context.Background(), clients.Config{To: []string{quiet}, Duration: 100 * time.Millisecond}); r.Errors["unfinished"] != 1 {
		t.Errorf("%+v, %v", r.Succession, r.Errors)
	}
	if r, _ = twice(t, context.Background(), clients.Config{To: []string{quiet}, Deadline: 50 * time.Millisecond}); r.Errors["deadline"] != 1 {
		t.Errorf("%+v, %v", r.Succession, r.Errors)
	}
}

func TestIncarnationsRefuseWhatTheyCannotDo(t *testing.T) {
	ok := clients.Config{Kind: clients.Incarnations, To: []string{"127.0.0.1:1"}, Duration: time.Second}
	for what, change := range map[string]func(*clients.Config){
		"a pool":          func(c *clients.Config) { c.Reuse = clients.Pooled },
		"ECN's bits":      func(c *clients.Config) { c.Outrun.TOS = 17 },
		"too far ahead":   func(c *clients.Config) { c.Outrun.Ahead = 1<<30 + 1 },
		"too much":        func(c *clients.Config) { c.Outrun.Most = 1 << 31 },
		"below zero":      func(c *clients.Config) { c.Outrun.Ahead = -1 },
		"another's keys":  func(c *clients.Config) { c.Kind, c.Outrun.Waits = clients.Bulk, true },
		"IPv6":            func(c *clients.Config) { c.To = []string{"[::1]:1"} },
		"a flow's acks":   func(c *clients.Config) { c.Flows.Acks = true },
		"a window of 0 s": func(c *clients.Config) { c.Duration = 0 },
	} {
		cfg := ok
		change(&cfg)
		if _, err := clients.New(cfg, nil); err == nil {
			t.Errorf("%s passes", what)
		}
	}
	if _, err := clients.New(ok, nil); err != nil {
		t.Error(err)
	}
}
