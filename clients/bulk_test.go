package clients_test

import (
	"context"
	"testing"
	"time"

	"tcplab/clients"
	"tcplab/server"
	"tcplab/workloads"

	"tcplab/lab/socket"
)

// flow runs a bulk client; without a rate it sends as fast as it can.
func flow(t *testing.T, cfg clients.Config, rate float64) (*clients.Result, *kept) {
	t.Helper()
	cfg.Kind = clients.Bulk
	var sched clients.Schedule
	if rate > 0 {
		var err error
		if sched, err = workloads.New(workloads.Config{Rate: rate}); err != nil {
			t.Fatal(err)
		}
	}
	c := prepare(t, cfg, sched)
	var k kept
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if rate == 0 {
		go func() { // for a while from where all flows are open, however late that is
			for k.sum("opened") < int64(max(cfg.Flows.Count, 1)) && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(200 * time.Millisecond)
			cancel()
		}()
	}
	r, err := c.Run(ctx, socket.Nanotime(), &k)
	if err != nil {
		t.Fatal(err)
	}
	return r, &k
}

func TestMessagesAtARateAreWrittenReadAndAcknowledged(t *testing.T) {
	gate(t)
	for _, acks := range []bool{false, true} {
		s := serve(t, server.Config{Kind: server.Discard})
		r, k := flow(t, clients.Config{To: []string{s.addr}, Size: 1000, Duration: 300 * time.Millisecond, Drain: 30 * time.Second, Flows: clients.Flows{Acks: acks}}, 100)
		got := s.stop()
		want := map[bool]int64{false: 0, true: 30_000}[acks]
		if r.OK != 30 || r.BytesSent != 30_000 || got.Received != 30_000 || got.Requests != 30 || r.Acknowledged != want || r.Opens != 1 {
			t.Errorf("acks %v: %+v, %d B written, %d read, %d acknowledged", acks, r.Counts, r.BytesSent, got.Received, r.Acknowledged)
		}
		last := k.samples[len(k.samples)-1].values
		if last["written"] != 30_000 || last["acknowledged"] != float64(want) {
			t.Errorf("acks %v: the last sample is %v", acks, last)
		}
		consistent(t, r, k)
	}
}

func TestEndlessFlowsSendAndReceive(t *testing.T) {
	gate(t)
	for _, f := range []clients.Flows{{Count: 3}, {Count: 3, Acks: true}, {Count: 2, Receive: true}} {
		s := serve(t, server.Config{Kind: server.Discard})
		r, _ := flow(t, clients.Config{To: []string{s.addr}, Duration: time.Minute, Drain: 30 * time.Second, Flows: f}, 0)
		got := s.stop()
		if f.Receive {
			if r.BytesReceived < 1e5 || r.Established != 2 || r.BytesSent != 0 {
				t.Errorf("%+v: received %d B", f, r.BytesReceived)
			}
			continue
		}
		if r.BytesSent < 1e5 || r.Established != 3 || got.Received > r.BytesSent || r.Delivered < 1e5 || r.Delivered > r.BytesSent+3*9 { // the prefaces, and SYNs
			t.Errorf("%+v: written %d B, acknowledged by TCP in the window %d, read %d", f, r.BytesSent, r.Delivered, got.Received)
		}
		if f.Acks && (r.Acknowledged == 0 || r.Acknowledged > got.Received || r.Acknowledged%(64<<10) != 0) {
			t.Errorf("%+v: acknowledged %d B of %d read, %+v", f, r.Acknowledged, got.Received, r.Counts)
		}
	}
}

func TestWritesIntoABufferThatNobodyEmptiesAreBelieved(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{Kind: server.Discard, Options: map[string]string{"SO_RCVBUF": "4096"}})
	time.AfterFunc(50*time.Millisecond, func() {
		if err := s.Do("stall", nil); err != nil {
			t.Error(err)
		}
	})
	r, k := flow(t, clients.Config{To: []string{s.addr}, Size: 4096, Duration: 500 * time.Millisecond, Options: map[string]string{"SO_SNDBUF": "16KiB"}}, 200)
	got := s.stop()
	if r.BytesSent <= got.Received || r.OK*4096 > r.BytesSent || r.OK == r.Offered {
		t.Errorf("%+v: %d B written, %d read", r.Counts, r.BytesSent, got.Received)
	}
	if len(k.named("blocked")) == 0 {
		t.Error("nobody was told that write() took no more")
	}
	if r.Wakeups > 300 {
		t.Errorf("woken %d times for at most 100 messages: a schedule that nobody can follow wakes nobody", r.Wakeups)
	}
}

func TestMessageWithoutItsAcknowledgementFailsAtTheDeadline(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{Kind: server.Discard})
	time.AfterFunc(150*time.Millisecond, func() {
		if err := s.Do("stall", nil); err != nil {
			t.Error(err)
		}
	})
	r, k := flow(t, clients.Config{To: []string{s.addr}, Size: 100, Duration: 600 * time.Millisecond, Deadline: 100 * time.Millisecond, Flows: clients.Flows{Acks: true}}, 50)
	consistent(t, r, k)
	if r.OK == 0 || r.Errors["deadline"] == 0 || r.Opens < 2 || r.Acknowledged >= r.BytesSent {
		t.Errorf("%+v, %d opens, %d of %d B acknowledged", r.Counts, r.Opens, r.Acknowledged, r.BytesSent)
	}
	if n := len(k.named("failing")); n == 0 {
		t.Error("failing was never told")
	}
}

func TestFlowThatCannotBeOpenedWaitsBeforeItTriesAgain(t *testing.T) {
	gate(t)
	addr := freshAddress() + ":9"
	r, _ := flow(t, clients.Config{To: []string{addr}, Size: 100, Duration: 200 * time.Millisecond}, 50)
	if r.Opens != 1 || r.Errors["ECONNREFUSED"] != 1 || r.OK != 0 {
		t.Errorf("%+v, %d opens", r.Counts, r.Opens)
	}
}
