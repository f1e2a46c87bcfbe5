package clients_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"tcplab/clients"
	"tcplab/server"
	"tcplab/workloads"
)

// A greeting is read once on each connection, however it comes, and is no part
// of an answer.
func TestAGreetingIsReadBeforeTheFirstRequestOfAConnection(t *testing.T) {
	for _, reuse := range []string{clients.None, clients.Pooled} {
		for _, size := range []int{1, 64, 300 << 10} { // more than the client reads at once
			s := serve(t, server.Config{Greeting: size})
			r, _ := run(t, clients.Config{To: []string{s.addr}, Reuse: reuse, Awaits: size, Size: 100, Connections: 2,
				Duration: 200 * time.Millisecond}, workloads.Config{Arrivals: workloads.Constant, Rate: 50})
			if r.OK != 10 || r.Failed > 0 {
				t.Errorf("%s, %d bytes: %+v", reuse, size, r.Counts)
			}
			if got := s.stop(); got.BytesSent != r.BytesReceived || r.BytesReceived != r.Opens*int64(size)+r.OK*104 {
				t.Errorf("%s, %d bytes: %d received on %d connections, %d sent", reuse, size, r.BytesReceived, r.Opens, got.BytesSent)
			}
		}
	}
}

// What goes wrong with a greeting is a failure of the request that waited for
// it, of the class that it is.
func TestAGreetingThatIsNotAsAwaitedFailsTheRequest(t *testing.T) {
	for _, tt := range []struct {
		class string
		do    func(net.Conn)
	}{
		{"deadline", func(c net.Conn) { io.Copy(io.Discard, c) }}, // nothing but the client's own clock ends it
		{"eof", func(c net.Conn) {}},
		{"garbage", func(c net.Conn) {
			c.Write(make([]byte, 65))
			io.Copy(io.Discard, c)
		}},
		{"deadline", func(c net.Conn) {
			c.Write(make([]byte, 63))
			io.Copy(io.Discard, c)
		}},
	} {
		deadline := 30 * time.Second // a busy machine may take its time
		if tt.class == "deadline" {
			deadline = 100 * time.Millisecond
		}
		r, _ := run(t, clients.Config{To: []string{handle(t, tt.do)}, Awaits: 64, Size: 10, Deadline: deadline,
			Duration: 20 * time.Millisecond}, workloads.Config{Arrivals: workloads.Constant, Rate: 50})
		if r.OK != 0 || r.Failed != 1 || r.Errors[tt.class] != 1 {
			t.Errorf("%s: %+v", tt.class, r.Counts)
		}
	}
}

// A client that does not await it takes it for a wrong answer, and says so.
func TestAnUnawaitedGreetingIsGarbage(t *testing.T) {
	addr := handle(t, func(c net.Conn) {
		c.Write(make([]byte, 64))
		echoOne(bufio.NewReader(c), c)
	})
	r, _ := run(t, clients.Config{To: []string{addr}, Size: 10, Duration: 20 * time.Millisecond}, workloads.Config{Arrivals: workloads.Constant, Rate: 50})
	if r.Errors["garbage"] != 1 {
		t.Errorf("%+v", r.Counts)
	}
}

func TestOnlyTheRawClientAwaitsAndOnlyTheRawServerGreets(t *testing.T) {
	for _, cfg := range []clients.Config{{Kind: clients.HTTP, Awaits: 1}, {Awaits: -1}, {Awaits: clients.MaxPayload + 1}} {
		cfg.To, cfg.Duration = []string{"127.0.0.1:1"}, time.Second
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "awaits") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	for _, cfg := range []server.Config{{Kind: server.HTTP, Greeting: 1}, {Kind: server.Discard, Greeting: 1}, {Greeting: -1}, {Greeting: server.MaxPayload + 1}} {
		cfg.Listen = "127.0.0.1:0"
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "greeting") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
