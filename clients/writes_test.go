package clients_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tcplab/clients"
	"tcplab/server"
	"tcplab/workloads"
)

// chopped is a client of several writes to a request.
func chopped(to string, w clients.Writes) clients.Config {
	return clients.Config{To: []string{to}, Reuse: clients.Pooled, Connections: 4, Writes: &w, Drain: 30 * time.Second, Duration: 300 * time.Millisecond}
}

// sending runs it; load is for one without a trace.
func sending(t *testing.T, cfg clients.Config, load workloads.Config) (*clients.Result, *kept) {
	t.Helper()
	var sched clients.Schedule
	if len(cfg.Writes.Trace) == 0 {
		var err error
		if sched, err = workloads.New(load); err != nil {
			t.Fatal(err)
		}
	}
	r, k := finish(t, context.Background(), prepare(t, cfg, sched))
	consistent(t, r, k)
	return r, k
}

func exchange(at time.Duration, connection, answer int, parts ...int) clients.Exchange {
	x := clients.Exchange{Start: at, Connection: connection, Answer: answer}
	for i, n := range parts {
		x.Parts = append(x.Parts, clients.Part{Bytes: n, At: time.Duration(i) * time.Millisecond})
	}
	return x
}

// segments is a server of the test's own, which notes how the requests of each
// connection arrive, read by read, and answers once they are whole. It reads
// slower than a client that does not wait can write.
type segments struct {
	mu   sync.Mutex
	seen [][]int
}

func (s *segments) serve(c net.Conn) {
	defer c.Close()
	s.mu.Lock()
	n := len(s.seen)
	s.seen = append(s.seen, nil)
	s.mu.Unlock()
	for {
		var b []byte
		for len(b) < 8 || len(b) < 8+int(binary.BigEndian.Uint32(b)) {
			buf := make([]byte, 64<<10)
			k, err := c.Read(buf)
			if err != nil {
				return
			}
			b = append(b, buf[:k]...)
			s.mu.Lock()
			s.seen[n] = append(s.seen[n], k)
			s.mu.Unlock()
		}
		want := binary.BigEndian.Uint32(b[4:])
		out := binary.BigEndian.AppendUint32(nil, want)
		for len(out) < 4+int(want) {
			out = append(out, b[8:min(len(b), 8+int(want)-len(out)+4)]...)
		}
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

func TestPartsAreWrittenAsTheyAreSent(t *testing.T) {
	gate(t)
	for send, want := range map[string][]int{clients.InParts: {100, 200, 700}, clients.Coalesced: {1000}, clients.Corked: {1000}} {
		var s segments
		cfg := chopped(handle(t, s.serve), clients.Writes{Send: send, Period: 500 * time.Millisecond,
			Trace: []clients.Exchange{exchange(50*time.Millisecond, 0, 104, 100, 200, 700)}})
		// Parts are a millisecond apart, so that each is a read; a busy machine
		// may merge some.
		cfg.Options = map[string]string{"TCP_NODELAY": "on"}
		r, _ := sending(t, cfg, workloads.Config{})
		if r.OK != 1 || r.Offered != 1 || r.Opens != 1 || r.BytesSent != 1000 || r.BytesReceived != 104 || r.Options["TCP_NODELAY"] != "on" {
			t.Errorf("%s: %+v, %d opens, %d bytes sent, %d received, %v", send, r.Counts, r.Opens, r.BytesSent, r.BytesReceived, r.Options)
		}
		s.mu.Lock()
		got := slices.Concat(s.seen...)
		s.mu.Unlock()
		total := 0
		for _, n := range got {
			total += n
		}
		if total != 1000 || send != clients.InParts && len(got) != 1 || len(got) > len(want) {
			t.Errorf("%s: %v", send, got)
		}
	}
}

func TestTraceIsReplayedRoundAfterRound(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{Kind: server.Echo})
	cfg := chopped(s.addr, clients.Writes{Period: 100 * time.Millisecond, Trace: []clients.Exchange{
		exchange(0, 0, 104, 100, 900), exchange(10*time.Millisecond, 1, 4, 8), exchange(20*time.Millisecond, 0, 1004, 10, 10, 80),
	}})
	cfg.Warmup = 100 * time.Millisecond
	r, k := sending(t, cfg, workloads.Config{})
	if r.Total.OK != 12 || r.OK != 9 || r.Offered != 9 || r.Opens != 2 || r.BytesSent != 4*(1000+8+100) || r.BytesReceived != 4*(104+4+1004) {
		t.Errorf("%+v, total %+v, %d opens, %d sent, %d received", r.Counts, r.Total, r.Opens, r.BytesSent, r.BytesReceived)
	}
	if got := s.stop(); got.Requests != 12 || got.Accepted != 2 {
		t.Errorf("the server: %+v", got)
	}
	if k.sum("opened") != 2 {
		t.Errorf("opened %d", k.sum("opened"))
	}
}

// A connection carries one exchange at a time: the second waits for the first,
// and its latency runs.
func TestExchangeWaitsForItsConnection(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{Kind: server.Echo, Service: 100 * time.Millisecond})
	cfg := chopped(s.addr, clients.Writes{Period: time.Second, Trace: []clients.Exchange{
		exchange(10*time.Millisecond, 0, 104, 100), exchange(20*time.Millisecond, 0, 104, 100), exchange(30*time.Millisecond, 1, 104, 100),
	}})
	r, _ := sending(t, cfg, workloads.Config{})
	if r.OK != 3 || r.Opens != 2 {
		t.Errorf("%+v, %d opens", r.Counts, r.Opens)
	}
	if n := above(r.Histograms["latency"], 180*time.Millisecond); n < 1 {
		t.Errorf("none waited for the one before: %v", r.Histograms["latency"].Max())
	}
	if got := above(r.Histograms["service"], 100*time.Millisecond); got != 3 {
		t.Errorf("%d of 3 took the service time", got)
	}
}

func TestAlikeRequestsComeAtARateOrOneAfterTheOther(t *testing.T) {
	gate(t)
	parts := []clients.Part{{Bytes: 100}, {Bytes: 900, At: time.Millisecond}}
	for _, load := range []workloads.Config{{Rate: 100}, {Arrivals: workloads.Closed, Think: 20 * time.Millisecond}} {
		s := serve(t, server.Config{Kind: server.Echo})
		r, _ := sending(t, chopped(s.addr, clients.Writes{Parts: parts}), load)
		if r.OK == 0 || r.OK != r.Offered || r.Opens != 4 || r.BytesSent != 1000*r.Total.OK || load.Rate > 0 && r.OK != 30 {
			t.Errorf("%+v: %+v, %d opens, %d bytes", load, r.Counts, r.Opens, r.BytesSent)
		}
	}
}

func TestExchangesThatFailHaveTheirClass(t *testing.T) {
	gate(t)
	one := clients.Writes{Period: time.Second, Trace: []clients.Exchange{exchange(20*time.Millisecond, 0, 104, 100, 900)}}
	silent := handle(t, func(c net.Conn) { io.Copy(io.Discard, c); c.Close() })
	cfg := chopped(silent, one)
	cfg.Deadline = 100 * time.Millisecond
	if r, _ := sending(t, cfg, workloads.Config{}); r.Failed != 1 || r.Errors["deadline"] != 1 {
		t.Errorf("no answer: %+v", r.Counts)
	}
	early := handle(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 50))
		c.Write([]byte("what?"))
		io.Copy(io.Discard, c)
		c.Close()
	})
	if r, _ := sending(t, chopped(early, one), workloads.Config{}); r.Failed != 1 || r.Errors["garbage"] != 1 {
		t.Errorf("an answer before its time: %+v", r.Counts)
	}
	closes := handle(t, func(c net.Conn) { io.ReadFull(c, make([]byte, 1000)); c.Close() })
	if r, _ := sending(t, chopped(closes, one), workloads.Config{}); r.Failed != 1 || r.Errors["eof"] != 1 {
		t.Errorf("the server closes: %+v", r.Counts)
	}
	// Nobody listens: what was offered fails at its deadline, without a
	// connection.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	cfg = chopped(l.Addr().String(), one)
	cfg.Deadline = 100 * time.Millisecond
	r, _ := sending(t, cfg, workloads.Config{})
	if r.Failed != 1 || r.Sent != 0 || r.Errors["deadline"] != 1 || r.Lost == 0 || r.Errors["ECONNREFUSED"] != r.Lost || r.Opens > 3 {
		t.Errorf("nobody listens: %+v, %d opens", r.Counts, r.Opens)
	}
}

func TestWriterClosesItsConnectionsWhenToldAndGoesOn(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{Kind: server.Echo})
	cfg := chopped(s.addr, clients.Writes{Parts: []clients.Part{{Bytes: 100}, {Bytes: 50}}})
	var k kept
	c := start(t, cfg, workloads.Config{Rate: 200})
	done := beside(t, context.Background(), c, &k)
	for k.sum("opened") < 4 {
		time.Sleep(time.Millisecond)
	}
	if err := c.Do("close-connections", map[string]any{"with": "rst"}); err != nil {
		t.Error(err)
	}
	r := <-done
	if r.Opens != 8 || r.OK < 50 || r.Stale+r.Errors["closed"] != 4 {
		t.Errorf("%+v, %d opens, %d stale", r.Counts, r.Opens, r.Stale)
	}
	consistent(t, r, &k)
}

func TestWritesThatMakeNoSenseAreRefused(t *testing.T) {
	good := []clients.Part{{Bytes: 100}, {Bytes: 50}}
	x := exchange(0, 0, 104, 100)
	for want, change := range map[string]func(*clients.Config){
		"leave awaits":         func(c *clients.Config) { c.Awaits = 5 },
		"write reuse: pool":    func(c *clients.Config) { c.Reuse = clients.None },
		"write kind: echo":     func(c *clients.Config) { c.Kind = clients.HTTP },
		`send "later"`:         func(c *clients.Config) { c.Writes.Send = "later" },
		"header in it":         func(c *clients.Config) { c.Writes.Parts = []clients.Part{{Bytes: 7}} },
		"in order of time":     func(c *clients.Config) { c.Writes.Parts = []clients.Part{{Bytes: 70, At: 2}, {Bytes: 7, At: 1}} },
		"takes longer than 0s": func(c *clients.Config) { c.Writes.Trace = []clients.Exchange{x} },
		"out of order, or has": func(c *clients.Config) {
			c.Writes.Trace = []clients.Exchange{exchange(5, 0, 104, 100), exchange(4, 0, 104, 100)}
		},
		"a part of 0 bytes":     func(c *clients.Config) { c.Writes.Trace = []clients.Exchange{exchange(5, 0, 104, 100, 0)} },
		"parts of 4 bytes toge": func(c *clients.Config) { c.Writes.Trace = []clients.Exchange{exchange(5, 0, 104, 4)} },
	} {
		cfg := chopped("127.0.0.1:1", clients.Writes{Parts: good})
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
