package clients_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"tcplab/clients"
	"tcplab/server"
	"tcplab/workloads"

	"tcplab/lab/socket"
)

var libraries = []string{clients.Own, clients.Paho}

func publisher(library, to string) clients.Config {
	return clients.Config{Kind: clients.MQTT, To: []string{to}, Size: 512, Duration: 300 * time.Millisecond,
		Relay: clients.Relay{Library: library, QoS: 1, Topic: "orders"}}
}

func publishing(rate float64) workloads.Config {
	return workloads.Config{Kind: workloads.Publish, Rate: rate}
}

func TestEveryPublishIsAcknowledgedByTheBrokerAndCountedOnBothSides(t *testing.T) {
	for _, library := range libraries {
		for qos := range 3 {
			t.Run(library+string(rune('0'+qos)), func(t *testing.T) {
				gate(t)
				b := serve(t, server.Config{Kind: server.MQTT})
				cfg := publisher(library, b.addr)
				cfg.Relay.QoS = qos
				r, _ := run(t, cfg, publishing(200))
				if r.Offered != 60 || r.OK != r.Offered || r.Opens != 1 || r.Established != 1 || len(r.Errors) != 0 {
					t.Errorf("%+v, opens %d, established %d", r.Counts, r.Opens, r.Established)
				}
				if h := r.Histograms["latency"]; h.TotalCount() != r.OK {
					t.Errorf("%d latencies", h.TotalCount())
				}
				if s := b.stop(); s.Requests != r.OK || s.Accepted != 1 || s.BytesReceived-r.BytesSent > 2 || s.BytesReceived < r.BytesSent { // DISCONNECT comes when the trial is over
					t.Errorf("broker: %d messages, %d connections, %d bytes of %d", s.Requests, s.Accepted, s.BytesReceived, r.BytesSent)
				}
			})
		}
	}
}

func TestBrokerThatClosesIsSeenAndRelayGoesOnOverANewConnection(t *testing.T) {
	for _, library := range libraries {
		for with, classes := range map[string]string{"fin": "eof", "rst": "ECONNRESET"} {
			t.Run(library+with, func(t *testing.T) {
				gate(t)
				b := serve(t, server.Config{Kind: server.MQTT})
				cfg := publisher(library, b.addr)
				cfg.Duration = 500 * time.Millisecond
				var k kept
				c := start(t, cfg, publishing(100))
				done := beside(t, context.Background(), c, &k)
				eventually(t, "a connection", func() bool { return len(k.named("options")) > 0 })
				time.Sleep(150 * time.Millisecond) // whenever it comes in the middle, the claims are the same
				if err := b.Do("close-connections", map[string]any{"with": with}); err != nil {
					t.Fatal(err)
				}
				r := <-done
				consistentButForLost(t, r)
				broken := k.named("broken")
				if len(broken) != 1 || broken[0].fields["class"] != classes {
					t.Errorf("broken: %v", broken)
				}
				if r.Opens != 2 || r.Unfinished != 0 || len(k.named("failing")) != 1 || len(k.named("working")) != 1 {
					t.Errorf("%+v, opens %d, failing %v, working %v", r.Counts, r.Opens, k.named("failing"), k.named("working"))
				}
			})
		}
	}
}

// consistentButForLost: a connection that broke while nothing was under way is
// an error, and no request has failed with it.
func consistentButForLost(t *testing.T, r *clients.Result) {
	t.Helper()
	if r.Offered != r.OK+r.Failed+r.Unfinished || r.Sent > r.Offered {
		t.Errorf("%+v does not add up", r.Counts)
	}
}

// stalled is a publisher whose broker has stopped reading, so that a write
// blocks soon: the kernel's part of it goes on answering, and nothing is lost.
// It runs until done, which may be nil, for as long as length.
func stalled(t *testing.T, relay clients.Relay, length time.Duration, done func(*kept) bool) (*clients.Result, *kept) {
	t.Helper()
	b := serve(t, server.Config{Kind: server.MQTT, Options: map[string]string{"SO_RCVBUF": "4KiB"}})
	cfg := publisher(relay.Library, b.addr)
	relay.QoS = 1
	cfg.Relay, cfg.Duration, cfg.Size, cfg.Drain = relay, length, 4096, time.Millisecond
	cfg.Options = map[string]string{"SO_SNDBUF": "8KiB"}
	var k kept
	c := start(t, cfg, publishing(200))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	result := make(chan *clients.Result, 1)
	go func() {
		r, err := c.Run(ctx, socket.Nanotime(), &k)
		if err != nil {
			t.Error(err)
		}
		result <- r
	}()
	eventually(t, "a connection", func() bool { return len(k.named("options")) > 0 })
	if err := b.Do("stall", nil); err != nil {
		t.Fatal(err)
	}
	if done != nil {
		eventually(t, "what was waited for", func() bool { return done(&k) })
		cancel()
	}
	return <-result, &k
}

func TestPingBehindABlockedWriteFindsNothingOut(t *testing.T) {
	gate(t)
	r, k := stalled(t, clients.Relay{KeepAlive: time.Second, PingTimeout: 200 * time.Millisecond, PingBlocks: true}, 3*time.Second, nil)
	if len(k.named("broken")) != 0 || r.Opens != 1 {
		t.Errorf("broken %v, opens %d: the ping should have waited behind the write", k.named("broken"), r.Opens)
	}
	if r.QueueMax < 300 || r.Unfinished < 300 || r.Sent > 100 {
		t.Errorf("queue %d, %+v: the write should have blocked, and the queue grown", r.QueueMax, r.Counts)
	}
}

func TestQueueIsBoundedAndWhatItCannotTakeHasFailed(t *testing.T) {
	gate(t)
	r, k := stalled(t, clients.Relay{Queue: 10}, time.Second, nil)
	if r.QueueMax != 10 || r.Errors["queue_full"] < 50 || r.Unfinished < 10 {
		t.Errorf("queue %d, %+v", r.QueueMax, r.Counts)
	}
	depth := 0.0
	for _, s := range k.samples {
		depth = max(depth, s.values["queue.depth"])
	}
	if depth != 10 {
		t.Errorf("the samples' deepest queue is %v", depth)
	}
}

func TestMessagesThatComeBeforeTheBrokerWaitInTheQueue(t *testing.T) {
	gate(t)
	address := freshAddress()
	ln, err := net.Listen("tcp4", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	cfg := publisher(clients.Own, addr)
	cfg.Duration, cfg.Drain = 200*time.Millisecond, 20*time.Second
	var k kept
	c := start(t, cfg, publishing(100))
	done := beside(t, context.Background(), c, &k)
	eventually(t, "a refusal", func() bool { return len(k.named("failing")) > 0 })
	serve(t, server.Config{Kind: server.MQTT, Listen: addr})
	r := <-done
	if r.OK != r.Offered || r.Total.Errors["ECONNREFUSED"] == 0 {
		t.Errorf("%+v, errors of the whole trial %v", r.Counts, r.Total.Errors)
	}
}

func TestAnswersThatAreNotMQTTBreakTheConnection(t *testing.T) {
	for name, answer := range map[string]string{
		"no CONNACK": "\x30\x00", "long": "\x20\xff\x7f", "nonsense later": "\x20\x02\x00\x00\x50\x01\x00", "refused": "\x20\x02\x00\x05", "nothing": "",
	} {
		t.Run(name, func(t *testing.T) {
			gate(t)
			addr := handle(t, func(c net.Conn) {
				buf := make([]byte, 100)
				c.Read(buf)
				io.WriteString(c, answer)
				if answer != "" {
					io.Copy(io.Discard, c)
				}
			})
			cfg := publisher(clients.Own, addr)
			cfg.Drain = time.Millisecond
			var k kept
			r, err := start(t, cfg, publishing(100)).Run(context.Background(), socket.Nanotime(), &k)
			if err != nil {
				t.Fatal(err)
			}
			want := "garbage"
			switch name {
			case "refused":
				want = "refused"
			case "nothing":
				want = "eof"
			}
			if r.Total.Errors[want] == 0 || r.OK != 0 {
				t.Errorf("%v, %+v", r.Total.Errors, r.Counts)
			}
		})
	}
}

func TestRelayRefusesWhatItCannotDo(t *testing.T) {
	for want, spoil := range map[string]func(*clients.Config){
		"library":      func(c *clients.Config) { c.Relay.Library = "mosquitto" },
		"ping_blocks":  func(c *clients.Config) { c.Relay.Library, c.Relay.PingBlocks = clients.Paho, true },
		"whole second": func(c *clients.Config) { c.Relay.KeepAlive = 1500 * time.Millisecond },
		"qos":          func(c *clients.Config) { c.Relay.QoS = 3 },
		"deadline":     func(c *clients.Config) { c.Deadline = time.Second },
		"reuse":        func(c *clients.Config) { c.Reuse = clients.Pooled },
	} {
		cfg := publisher(clients.Own, "127.0.0.1:1")
		spoil(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	sched, err := workloads.New(workloads.Config{Kind: workloads.Publish, Arrivals: workloads.Closed})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := clients.New(publisher(clients.Own, "127.0.0.1:1"), sched); err == nil || !strings.Contains(err.Error(), "rate") {
		t.Error(err)
	}
}

// eventually waits until ok, for as long as a test may take.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}
