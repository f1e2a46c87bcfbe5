package clients_test

import (
	"context"
	"testing"
	"time"

	"tcplab/clients"
	"tcplab/server"
	"tcplab/workloads"
)

func h2Client(to string) clients.Config {
	return clients.Config{Kind: clients.H2, To: []string{to}, Reuse: clients.Pooled, Size: 100, ResponseSize: 1000,
		Connections: 8, Duration: 300 * time.Millisecond}
}

func TestHTTP2RequestsShareOneConnection(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{Kind: server.H2})
	r, _ := run(t, h2Client(s.addr), workloads.Config{Rate: 200})
	// Those that come before the first connection stands may open others.
	if r.Offered != 60 || r.OK != r.Offered || r.Established > 8 {
		t.Errorf("%+v over %d connections", r.Counts, r.Established)
	}
	if got := s.stop(); got.Requests != r.OK || got.Accepted > 8 {
		t.Errorf("server: %d requests, %d connections", got.Requests, got.Accepted)
	}
}

func TestHTTP2WithoutReuseOpensAConnectionForEachRequest(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{Kind: server.H2})
	cfg := h2Client(s.addr)
	cfg.Reuse = clients.None
	r, _ := run(t, cfg, workloads.Config{Rate: 50})
	if r.OK != r.Offered || r.Established != r.OK {
		t.Errorf("%+v over %d connections", r.Counts, r.Established)
	}
}

// during runs a client until do returns, which it calls once there is a
// connection.
func during(t *testing.T, cfg clients.Config, rate float64, do func(k *kept)) *clients.Result {
	t.Helper()
	cfg.Duration = time.Minute
	var k kept
	c := start(t, cfg, workloads.Config{Rate: rate})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := beside(t, ctx, c, &k)
	eventually(t, "a connection", func() bool { return len(k.named("options")) > 0 })
	do(&k)
	cancel()
	return <-done
}

func TestGoAwayMovesRequestsToANewConnectionWithoutAFailure(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{Kind: server.H2})
	r := during(t, h2Client(s.addr), 100, func(k *kept) {
		eventually(t, "answers", func() bool { return k.sum("ok") > 5 })
		if err := s.Do("goaway", nil); err != nil {
			t.Fatal(err)
		}
		before := k.sum("ok")
		eventually(t, "further answers", func() bool { return k.sum("ok") > before+40 })
	})
	if r.Failed != 0 || r.Established < 2 || r.Established > 16 {
		t.Errorf("%+v over %d connections", r.Counts, r.Established)
	}
}

func TestShareOfAnswersComesWithAGoAway(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{Kind: server.H2, GoAway: 0.1})
	cfg := h2Client(s.addr)
	cfg.Duration = time.Second
	r, _ := run(t, cfg, workloads.Config{Rate: 40})
	if r.OK != 40 || r.Established < 3 || r.Established > 20 {
		t.Errorf("%+v over %d connections", r.Counts, r.Established)
	}
}

func TestPINGFindsAServerThatDoesNotRead(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{Kind: server.H2})
	cfg := h2Client(s.addr)
	cfg.HTTP2 = clients.HTTP2{ReadIdle: 100 * time.Millisecond, PingTimeout: 100 * time.Millisecond}
	r := during(t, cfg, 20, func(k *kept) {
		if err := s.Do("stall", nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a failure", func() bool { return len(k.named("failing")) > 0 })
	})
	if r.Errors["ping_timeout"] == 0 {
		t.Errorf("errors %v", r.Errors)
	}
}

func TestWithoutAPINGNobodyNoticesAServerThatDoesNotRead(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{Kind: server.H2})
	r := during(t, h2Client(s.addr), 50, func(k *kept) {
		// net/http gives up a connection whose SETTINGS it has not read within 2 s.
		eventually(t, "answers", func() bool { return k.sum("ok") > 20 })
		if err := s.Do("stall", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond) // however long: nothing is to happen
	})
	if len(r.Errors) != 0 || r.Unfinished == 0 {
		t.Errorf("%+v", r.Counts)
	}
}

func TestLongLivedStreamsBreakWithTheirConnection(t *testing.T) {
	gate(t)
	s := serve(t, server.Config{Kind: server.H2})
	cfg := h2Client(s.addr)
	cfg.HTTP2.Streams = 3
	total := func(errors map[string]int64) (n int64) {
		for _, c := range errors {
			n += c
		}
		return n
	}
	r := during(t, cfg, 20, func(k *kept) {
		eventually(t, "the end of three streams", func() bool {
			// Again and again: a stream may not have been open yet.
			if err := s.Do("close-connections", nil); err != nil {
				t.Fatal(err)
			}
			broken := int64(0)
			for _, class := range []string{"eof", "closed", "ECONNRESET", "EPIPE", "stream_reset", "goaway", "garbage"} {
				broken += k.sum("errors." + class)
			}
			return broken-k.sum("failed") >= 3
		})
	})
	if total(r.Total.Errors)-r.Total.Failed != 3 {
		t.Errorf("errors %v, %d requests failed: three streams broke besides", r.Total.Errors, r.Total.Failed)
	}
}
