package clients_test

import (
	"context"
	"net"
	"testing"
	"time"

	"tcplab/clients"
	"tcplab/server"
	"tcplab/workloads"

	"tcplab/lab/socket"
)

// times is a schedule of the test's own.
type times []time.Duration

func (s *times) Next() (time.Duration, bool) {
	if len(*s) == 0 {
		return 0, false
	}
	d := (*s)[0]
	*s = (*s)[1:]
	return d, true
}

func (s *times) Closed() (time.Duration, bool) { return 0, false }

func TestIdleClientIsNotWokenUp(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{})
	woken := func(gap time.Duration) int64 {
		sched := times{0, gap}
		c, err := clients.New(clients.Config{To: []string{s.addr}, Reuse: clients.Pooled, Connections: 1, Size: 16, Duration: 2 * gap, Drain: 30 * time.Second}, &sched)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Run(context.Background(), socket.Nanotime(), nil)
		if err != nil || r.OK != 2 {
			t.Fatalf("%+v, %v", r, err)
		}
		return r.Wakeups
	}
	short, long := woken(20*time.Millisecond), woken(600*time.Millisecond)
	// Connected, answered, due, answered, over; and a clock that has not quite
	// come there may need a second look.
	if long > 10 || long > short+4 {
		t.Errorf("woken %d times over 40 ms and %d times over 1.2 s", short, long)
	}
}

func TestHeartbeatFindsAConnectionThatNobodyAnswersOn(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{})
	sched := times{0, 100 * time.Millisecond}
	c, err := clients.New(clients.Config{To: []string{s.addr}, Reuse: clients.Pooled, Connections: 1, Size: 16, Duration: time.Second,
		Heartbeat: clients.Heartbeat{Every: 40 * time.Millisecond, Timeout: 200 * time.Millisecond}}, &sched)
	if err != nil {
		t.Fatal(err)
	}
	var k kept
	time.AfterFunc(250*time.Millisecond, func() {
		if err := s.Do("stall", nil); err != nil {
			t.Error(err)
		}
	})
	r, err := c.Run(context.Background(), socket.Nanotime(), &k)
	if err != nil {
		t.Fatal(err)
	}
	if r.OK != 2 || r.Failed != 0 || r.Lost != 1 || r.Errors["heartbeat"] != 1 || r.FirstErrorClass != "heartbeat" || r.Opens != 1 {
		t.Errorf("%+v, first %s, %d opens", r.Counts, r.FirstErrorClass, r.Opens)
	}
	if n := len(k.named("failing")); n != 1 {
		t.Errorf("failing was told %d times", n)
	}
	if n := s.stop().Requests; n < 3 {
		t.Errorf("the server answered %d requests: no heartbeat among them", n)
	}
}

func TestHeartbeatsThatAreAnsweredKeepTheirConnections(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{})
	r, k := run(t, clients.Config{To: []string{s.addr}, Reuse: clients.Pooled, Connections: 4, Size: 16, Duration: 400 * time.Millisecond,
		Heartbeat: clients.Heartbeat{Every: 10 * time.Millisecond, Timeout: 30 * time.Second}},
		workloads.Config{Arrivals: workloads.Closed, Connections: 4, Think: 150 * time.Millisecond})
	if r.Opens != 4 || r.Failed != 0 || r.Lost != 0 || r.OK < 4 {
		t.Errorf("%+v, %d opens", r.Counts, r.Opens)
	}
	if n := k.sum("opened"); n != 4 {
		t.Errorf("%d openings told", n)
	}
	if n := s.stop().Requests; n < r.Total.OK+8 {
		t.Errorf("%d requests, and the server answered %d in all", r.Total.OK, n)
	}
}

func TestIdleConnectionThatIsResetIsAnErrorOfNoRequest(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{})
	sched := times{0}
	c, err := clients.New(clients.Config{To: []string{s.addr}, Reuse: clients.Pooled, Connections: 1, Size: 16, Duration: 400 * time.Millisecond}, &sched)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(150*time.Millisecond, func() {
		if err := s.Do("close-connections", map[string]any{"with": "rst"}); err != nil {
			t.Error(err)
		}
	})
	var k kept
	r, err := c.Run(context.Background(), socket.Nanotime(), &k)
	if err != nil {
		t.Fatal(err)
	}
	if r.OK != 1 || r.Failed != 0 || r.Lost != 1 || r.Errors["ECONNRESET"] != 1 || r.Stale != 1 {
		t.Errorf("%+v, %d stale", r.Counts, r.Stale)
	}
}

// A client that writes twice a day reconnects at once when that fails.
func TestAfterAFailureAClosedLoopMayGoOnSooner(t *testing.T) {
	gate(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	for again, most := range map[time.Duration]int64{0: 1, 20 * time.Millisecond: 1000} {
		r, _ := run(t, clients.Config{To: []string{nobody}, Connections: 1, Size: 16, Duration: 400 * time.Millisecond, Again: again},
			workloads.Config{Arrivals: workloads.Closed, Connections: 1, Think: time.Hour})
		if r.Failed > most || again > 0 && r.Failed < 3 {
			t.Errorf("again %v: %d failures in 400 ms", again, r.Failed)
		}
	}
}
