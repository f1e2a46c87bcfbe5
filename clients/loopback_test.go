package clients_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"tcplab/clients"
	"tcplab/server"
	"tcplab/workloads"

	"tcplab/lab/socket"
)

// kinds are the clients with their servers.
var kinds = []string{clients.Echo, clients.HTTP}

func TestEveryRequestIsAnsweredAndCounted(t *testing.T) {
	for _, kind := range kinds {
		for _, reuse := range []string{clients.None, clients.Pooled} {
			for _, arrivals := range []string{workloads.Constant, workloads.Poisson, workloads.Ramp, workloads.Closed} {
				t.Run(kind+"/"+reuse+"/"+arrivals, func(t *testing.T) {
					t.Parallel()
					s := serve(t, server.Config{Kind: kind})
					load := workloads.Config{Arrivals: arrivals, Rate: 100, Seed: 3}
					switch arrivals {
					case workloads.Ramp:
						load.RateTo, load.RampOver = 50, 200*time.Millisecond
					case workloads.Closed:
						load.Rate, load.Think = 0, 20*time.Millisecond
					}
					cfg := clients.Config{Kind: kind, To: []string{s.addr}, Reuse: reuse, Size: 100, ResponseSize: 333, Connections: 8,
						Warmup: 100 * time.Millisecond, Duration: 300 * time.Millisecond}
					if reuse == clients.Pooled {
						cfg.Pool.Size = 4
					}
					r, _ := run(t, cfg, load)
					if r.Total.OK == 0 || r.Total.OK != r.Total.Offered || r.OK != r.Offered || r.Total.OK < r.OK || r.FirstError != 0 {
						t.Errorf("window %+v, total %+v", r.Counts, r.Total)
					}
					switch {
					case reuse == clients.None && r.Opens != r.Total.Sent:
						t.Errorf("%d opens for %d requests", r.Opens, r.Total.Sent)
					case reuse == clients.Pooled && (r.Opens > 4 && kind == clients.Echo || r.Opens > r.Total.OK/2 || r.Opens == 0):
						// net/http drops a connection whose writer is not
						// scheduled for 50 ms (maxWriteWaitBeforeConnReuse).
						t.Errorf("%d opens with a pool of 4", r.Opens)
					}
					if r.Established != r.Opens {
						t.Errorf("%d opens, %d established", r.Opens, r.Established)
					}
					if arrivals == workloads.Constant && r.Offered != 30 {
						t.Errorf("100/s for 0.3 s offered %d", r.Offered)
					}
					got := s.stop()
					if got.Accepted != r.Opens || got.Requests != r.Total.OK || got.BytesReceived != r.BytesSent || got.BytesSent != r.BytesReceived {
						t.Errorf("the server counted %+v, the client %+v", got, r)
					}
					if kind == clients.Echo && (r.BytesSent != r.Total.OK*108 || r.BytesReceived != r.Total.OK*337) {
						t.Errorf("%d requests of 8+100 and answers of 4+333 bytes: %d sent, %d received", r.Total.OK, r.BytesSent, r.BytesReceived)
					}
				})
			}
		}
	}
}

func TestAnswersOfAnySizeComeBackWhole(t *testing.T) {
	gate(t)
	for _, kind := range kinds {
		for _, size := range [][2]int{{0, 0}, {1, 0}, {3, 5000}, {0, 70}, {5000, 3}, {1 << 20, 0}, {9, 3 << 20}} {
			s := serve(t, server.Config{Kind: kind, Service: time.Millisecond, Workers: 2})
			r, _ := run(t, clients.Config{Kind: kind, To: []string{s.addr}, Reuse: clients.Pooled, Size: size[0], ResponseSize: size[1], Duration: 100 * time.Millisecond},
				workloads.Config{Rate: 40})
			if r.OK != 4 {
				t.Errorf("%s: sizes %v: %+v", kind, size, r.Counts)
			}
			s.stop()
		}
	}
}

func TestLatencyHoldsTheServiceTimeAndTheConnection(t *testing.T) {
	gate(t)
	const service = 30 * time.Millisecond
	for _, kind := range kinds {
		s := serve(t, server.Config{Kind: kind, Service: service})
		r, _ := run(t, clients.Config{Kind: kind, To: []string{s.addr}, Size: 64, Duration: 300 * time.Millisecond}, workloads.Config{Rate: 100})
		h := r.Histograms
		if r.OK != 30 {
			t.Fatalf("%+v", r.Counts)
		}
		for _, name := range []string{"latency", "service", "firstbyte"} {
			if got := h[name].Min(); !atLeast(got, int64(service)) {
				t.Errorf("%s: %s of at least %v is below the service time %v", kind, name, time.Duration(got), service)
			}
		}
		for _, q := range []float64{0, 50, 100} {
			l, f, s, c := h["latency"].ValueAtQuantile(q), h["firstbyte"].ValueAtQuantile(q), h["service"].ValueAtQuantile(q), h["connect"].ValueAtQuantile(q)
			if !atLeast(l, f) || !atLeast(l, s) || !atLeast(s, c) {
				t.Errorf("%s: at %g: latency %d, firstbyte %d, service %d, connect %d", kind, q, l, f, s, c)
			}
		}
	}
}

// atLeast compares what a histogram of three digits has rounded.
func atLeast(v, limit int64) bool { return v+v/500+200 >= limit }

func above(h *hdr.Histogram, limit time.Duration) int64 {
	var n int64
	for _, b := range h.Distribution() {
		if b.From > int64(limit) {
			n += b.Count
		}
	}
	return n
}

// A server that stops for 400 ms makes every request that was meant to start
// in that time late, though only one is sent: coordinated omission would show
// one.
func TestFrozenServerShowsInLatencyAndNotInService(t *testing.T) {
	gate(t)
	var served atomic.Int32
	addr := handle(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			if served.Add(1) == 20 {
				time.Sleep(400 * time.Millisecond)
			}
			if echoOne(r, c) != nil {
				return
			}
		}
	})
	r, _ := run(t, clients.Config{To: []string{addr}, Reuse: clients.Pooled, Connections: 1, Size: 16, Duration: 800 * time.Millisecond}, workloads.Config{Rate: 250})
	late, slow, lagging := above(r.Histograms["latency"], 200*time.Millisecond), above(r.Histograms["service"], 200*time.Millisecond), above(r.Histograms["lag"], 200*time.Millisecond)
	if r.OK != 200 || late < 45 || slow > late/10 || slow < 1 || lagging > late/10 {
		t.Errorf("%d ok, %d late in latency, %d in service, %d in lag", r.OK, late, slow, lagging)
	}
}

func TestWaitingForAConnectionIsNotTheGeneratorsLag(t *testing.T) {
	gate(t)
	// Two workers of 20 ms carry 100/s; 400/s are offered over 2 connections.
	s := serve(t, server.Config{Service: 20 * time.Millisecond, Workers: 2})
	r, _ := run(t, clients.Config{To: []string{s.addr}, Reuse: clients.Pooled, Connections: 2, Size: 16, Duration: 300 * time.Millisecond, Drain: 10 * time.Second}, workloads.Config{Rate: 400})
	latency, lag := r.Histograms["latency"].ValueAtQuantile(50), r.Histograms["lag"].ValueAtQuantile(50)
	if r.OK != 120 || latency < 10*lag {
		t.Errorf("%+v: latency p50 %v, lag p50 %v", r.Counts, time.Duration(latency), time.Duration(lag))
	}
}

func TestFailuresHaveTheirClass(t *testing.T) {
	closed := func() string {
		ln, err := net.Listen("tcp4", freshAddress()+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return ln.Addr().String()
	}()
	read := func(c net.Conn) *bufio.Reader {
		r := bufio.NewReader(c)
		r.Peek(1)
		return r
	}
	cases := []struct {
		name  string
		kinds []string
		addr  string
		do    func(net.Conn)
		class string
	}{
		{name: "nobody listens", kinds: kinds, addr: closed, class: "ECONNREFUSED"},
		{name: "answers nothing and closes", kinds: kinds, do: func(c net.Conn) { read(c) }, class: "eof"},
		{name: "resets instead of answering", kinds: kinds, do: func(c net.Conn) {
			read(c)
			c.(*net.TCPConn).SetLinger(0)
		}, class: "ECONNRESET"},
		{name: "answers another length", kinds: kinds[:1], do: func(c net.Conn) { read(c); c.Write([]byte{0, 0, 0, 17, 1, 2, 3}); drain(c) }, class: "garbage"},
		{name: "answers other bytes", kinds: kinds[:1], do: func(c net.Conn) { read(c); c.Write(make([]byte, 4+16)); drain(c) }, class: "garbage"},
		{name: "answers what is no HTTP", kinds: kinds[1:], do: func(c net.Conn) { read(c); c.Write([]byte("220 smtp ready\r\n\r\n")); drain(c) }, class: "garbage"},
		{name: "answers an error", kinds: kinds[1:], do: func(c net.Conn) {
			read(c)
			c.Write([]byte("HTTP/1.1 503 no\r\nConnection: close\r\n\r\n"))
		}, class: "http.503"},
		{name: "answers half and resets", kinds: kinds[:1], do: func(c net.Conn) {
			r := read(c)
			c.Write([]byte{0, 0, 0, 16, 0, 0})
			r.Discard(r.Buffered())
			time.Sleep(20 * time.Millisecond) // let the half arrive first
			c.(*net.TCPConn).SetLinger(0)
		}, class: "ECONNRESET"},
		{name: "never answers", kinds: kinds, do: func(c net.Conn) { drain(c) }, class: "deadline"},
	}
	for _, c := range cases {
		for _, kind := range c.kinds {
			for _, reuse := range []string{clients.None, clients.Pooled} {
				t.Run(c.name+"/"+kind+"/"+reuse, func(t *testing.T) {
					t.Parallel()
					addr := c.addr
					if addr == "" {
						addr = handle(t, c.do)
					}
					deadline := 20 * time.Second
					if c.class == "deadline" {
						deadline = 300 * time.Millisecond
					}
					r, k := run(t, clients.Config{Kind: kind, To: []string{addr}, Reuse: reuse, Size: 16, Connections: 50, Deadline: deadline,
						Warmup: 50 * time.Millisecond, Duration: 100 * time.Millisecond}, workloads.Config{Rate: 100})
					if r.Offered != 10 || r.Failed != 10 || r.Errors[c.class] != 10 {
						t.Errorf("%+v", r.Counts)
					}
					if r.FirstErrorClass != c.class || r.FirstError < r.T0 || r.FirstError > r.Ended {
						t.Errorf("first error %s at %d of %d…%d", r.FirstErrorClass, r.FirstError, r.T0, r.Ended)
					}
					first := k.named("error")
					if len(first) != 1 || first[0].fields["class"] != c.class || len(k.named("failing")) != 1 || len(k.named("working")) != 0 {
						t.Errorf("events %v", k.events)
					}
					if c.class == "deadline" && !atLeast(r.Histograms["failure"].Min(), int64(300*time.Millisecond)) {
						t.Errorf("a deadline of 300 ms passed after %d ns", r.Histograms["failure"].Min())
					}
				})
			}
		}
	}
}

// drain reads until the other side closes.
func drain(c net.Conn) {
	b := make([]byte, 1<<10)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if tc, ok := c.(*net.TCPConn); ok {
		defer tc.CloseWrite()
	}
	for {
		if _, err := c.Read(b); err != nil {
			return
		}
	}
}

func TestDeadlinePassesForRequestsThatNeverGotAConnection(t *testing.T) {
	gate(t)
	addr := handle(t, func(c net.Conn) { drain(c) })
	// Fifty users and one connection: their deadlines pass at the same time,
	// and then there is a pause longer than the window.
	r, _ := run(t, clients.Config{To: []string{addr}, Size: 16, Connections: 50, Reuse: clients.Pooled, Pool: clients.Pool{Size: 1}, Deadline: 100 * time.Millisecond, Duration: 200 * time.Millisecond},
		workloads.Config{Arrivals: workloads.Closed, Think: time.Hour})
	if r.Offered != 50 || r.Failed != 50 || r.Errors["deadline"] != 50 || r.Sent != 1 || !atLeast(r.Histograms["failure"].Min(), int64(100*time.Millisecond)) {
		t.Errorf("%+v, failed after %d ns", r.Counts, r.Histograms["failure"].Min())
	}
}

func TestWhatIsUnderWayAtTheEndIsUnfinished(t *testing.T) {
	gate(t)
	addr := handle(t, func(c net.Conn) { drain(c) })
	for _, kind := range kinds {
		r, _ := run(t, clients.Config{Kind: kind, To: []string{addr}, Size: 16, Connections: 3, Duration: 100 * time.Millisecond, Drain: 50 * time.Millisecond}, workloads.Config{Rate: 100})
		if r.Offered != 10 || r.Sent > 3 || r.Unfinished != 10 || r.Failed != 0 || r.Stopped {
			t.Errorf("%s: %+v", kind, r.Counts)
		}
	}
}

func TestStoppedClientTellsWhatItMeasuredSoFar(t *testing.T) {
	gate(t)
	for _, kind := range kinds {
		for _, load := range []workloads.Config{{Rate: 500}, {Arrivals: workloads.Closed, Think: time.Millisecond}} {
			s := serve(t, server.Config{Kind: kind})
			c := start(t, clients.Config{Kind: kind, To: []string{s.addr}, Reuse: clients.Pooled, Connections: 4, Size: 16, Warmup: 20 * time.Millisecond, Duration: time.Hour}, load)
			ctx, cancel := context.WithCancel(context.Background())
			var k kept
			go func() {
				defer cancel()
				for began := socket.Nanotime(); socket.Nanotime() < began+int64(20*time.Second); time.Sleep(time.Millisecond) {
					if len(k.named("phase")) == 2 && k.sum("ok") >= 50 {
						return
					}
				}
			}()
			r, err := c.Run(ctx, socket.Nanotime(), &k)
			if err != nil {
				t.Fatal(err)
			}
			consistent(t, r, &k)
			if !r.Stopped || r.OK == 0 || r.WindowEnd > r.Ended || r.WindowEnd <= r.WindowStart {
				t.Errorf("%s: %+v from %d to %d, ended %d", kind, r.Counts, r.WindowStart, r.WindowEnd, r.Ended)
			}
			s.stop()
		}
	}
}

func TestClosedLoopKeepsOneRequestPerUserUnderWay(t *testing.T) {
	gate(t)
	for _, kind := range kinds {
		s := serve(t, server.Config{Kind: kind, Service: 5 * time.Millisecond})
		r, _ := run(t, clients.Config{Kind: kind, To: []string{s.addr}, Reuse: clients.Pooled, Connections: 6, Pool: clients.Pool{Size: 3}, Size: 16, Duration: 300 * time.Millisecond}, workloads.Config{Arrivals: workloads.Closed})
		// Three connections, 5 ms each: some 180 requests at most.
		if kind == clients.Echo && r.Opens != 3 || r.OK > 190 || r.OK < 6 || r.OK != r.Offered {
			t.Errorf("%s: %d opens, %+v", kind, r.Opens, r.Counts)
		}
	}
}

func TestClosedLoopDoesNotSpinWhenNobodyListens(t *testing.T) {
	gate(t)
	ln, err := net.Listen("tcp4", freshAddress()+":0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	for _, kind := range kinds {
		r, _ := run(t, clients.Config{Kind: kind, To: []string{ln.Addr().String()}, Connections: 1, Duration: 100 * time.Millisecond}, workloads.Config{Arrivals: workloads.Closed})
		if r.Failed == 0 || r.Failed > 101 {
			t.Errorf("%s: %d failed in 100 ms", kind, r.Failed)
		}
	}
}

func TestIdleConnectionsOfThePoolAreClosedAndOpenedAgain(t *testing.T) {
	gate(t)
	for _, kind := range kinds {
		s := serve(t, server.Config{Kind: kind})
		r, _ := run(t, clients.Config{Kind: kind, To: []string{s.addr}, Reuse: clients.Pooled, Pool: clients.Pool{Idle: 20 * time.Millisecond}, Size: 16, Duration: 500 * time.Millisecond}, workloads.Config{Rate: 10})
		if r.OK != 5 || r.Opens < 2 || r.Opens > 5 || r.Stale != 0 {
			t.Errorf("%s: %+v, %d opens, %d stale", kind, r.Counts, r.Opens, r.Stale)
		}
		s.stop()
	}
}

func TestConnectionsThatTheServerClosedWhileIdleAreNotUsed(t *testing.T) {
	gate(t)
	addr := handle(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		echoOne(r, c)
		echoOne(r, c)
	})
	r, _ := run(t, clients.Config{To: []string{addr}, Reuse: clients.Pooled, Size: 16, Connections: 1, Duration: 1500 * time.Millisecond}, workloads.Config{Rate: 2})
	// Half a second between two requests is what the close has to arrive in.
	if r.OK != 3 || r.Opens != 2 || r.Stale != 1 {
		t.Errorf("%+v, %d opens, %d stale", r.Counts, r.Opens, r.Stale)
	}
}

func TestClientClosesItsConnectionsWhenTold(t *testing.T) {
	gate(t)
	for _, kind := range kinds {
		for _, with := range []string{"fin", "rst"} {
			addr := handle(t, func(c net.Conn) { drain(c) })
			c := start(t, clients.Config{Kind: kind, To: []string{addr}, Reuse: clients.Pooled, Size: 16, Connections: 3, Duration: time.Hour}, workloads.Config{Rate: 1000})
			ctx, cancel := context.WithCancel(context.Background())
			var k kept
			go func() {
				defer cancel()
				for c.Do("close-connections", map[string]any{"with": with}) == nil && len(k.named("error")) == 0 {
					time.Sleep(10 * time.Millisecond)
				}
			}()
			eventuallyRuns := socket.Nanotime()
			r, err := c.Run(ctx, eventuallyRuns, &k)
			if err != nil {
				t.Fatal(err)
			}
			consistent(t, r, &k)
			if r.Total.Failed > 0 && r.Total.Errors["closed"] == 0 {
				t.Errorf("%s: %+v", kind, r.Total)
			}
			if err := c.Do("close-connections", nil); err == nil {
				t.Error("a fault happened to a client that is not running")
			}
		}
	}
	if c := start(t, clients.Config{To: []string{"127.0.0.1:1"}, Duration: 1}, workloads.Config{Rate: 1}); c.Do("explode", nil) == nil {
		t.Error("it exploded")
	}
}

func TestOptionsAreSetAndReadBack(t *testing.T) {
	gate(t)
	for _, kind := range kinds {
		asked := map[string]string{
			"TCP_NODELAY": "off", "TCP_CONGESTION": "reno", "TCP_USER_TIMEOUT": "20s", "SO_LINGER": "3s", "SO_KEEPALIVE": "on",
			"TCP_KEEPIDLE": "2min", "TCP_KEEPINTVL": "2s", "TCP_KEEPCNT": "4", "SO_RCVBUF": "64KiB", "SO_SNDBUF": "32_768", "TCP_MAXSEG": "1000B",
			"IP_BIND_ADDRESS_NO_PORT": "on", "TCP_QUICKACK": "on", "TCP_SYNCNT": "3", "TCP_NOTSENT_LOWAT": "16KiB",
		}
		want := map[string]string{
			"TCP_NODELAY": "off", "TCP_CONGESTION": "reno", "TCP_USER_TIMEOUT": "20s", "SO_LINGER": "3s", "SO_KEEPALIVE": "on",
			"TCP_KEEPIDLE": "2m0s", "TCP_KEEPINTVL": "2s", "TCP_KEEPCNT": "4", "SO_RCVBUF": "131072", "SO_SNDBUF": "65536",
			"IP_BIND_ADDRESS_NO_PORT": "on", "TCP_SYNCNT": "3", "TCP_NOTSENT_LOWAT": "16384",
		}
		s := serve(t, server.Config{Kind: kind})
		cfg := clients.Config{Kind: kind, To: []string{s.addr}, Reuse: clients.Pooled, Size: 16, Options: asked, Duration: 50 * time.Millisecond}
		got, err := start(t, cfg, workloads.Config{Rate: 100}).Prepare()
		if err != nil {
			t.Fatal(err)
		}
		r, k := run(t, cfg, workloads.Config{Rate: 100})
		for name, v := range want {
			if got[name] != v || r.Options[name] != v {
				t.Errorf("%s: %s=%s: %q before, %q on the connection", kind, name, asked[name], got[name], r.Options[name])
			}
		}
		if got["TCP_MAXSEG"] != "1000" {
			t.Errorf("TCP_MAXSEG %s", got["TCP_MAXSEG"])
		}
		if e := k.named("options"); len(e) != 1 {
			t.Errorf("options were told %d times", len(e))
		}
		plain := clients.Config{Kind: kind, To: []string{s.addr}, Size: 16, Duration: 50 * time.Millisecond}
		before, err := start(t, plain, workloads.Config{Rate: 100}).Prepare()
		if err != nil {
			t.Fatal(err)
		}
		r, _ = run(t, plain, workloads.Config{Rate: 100})
		nodelay := map[string]string{clients.Echo: "off", clients.HTTP: "on"}[kind] // Go's net turns it on
		if r.Options["TCP_NODELAY"] != nodelay || before["TCP_NODELAY"] != nodelay || r.Options["SO_KEEPALIVE"] != "off" {
			t.Errorf("%s by itself: %v before, then %v", kind, before, r.Options)
		}
	}
}

func TestOptionsThatCannotBeHadAreErrors(t *testing.T) {
	sched, _ := workloads.New(workloads.Config{Rate: 1})
	for _, c := range []struct{ name, value, says string }{
		{"SO_RCVBUF", "1GiB", "rmem_max"},
		{"SO_SNDBUF", "1GiB", "wmem_max"},
		{"TCP_CONGESTION", "warp", "tcp_available_congestion_control"},
		{"TCP_TURBO", "on", "known are"},
		{"TCP_NODELAY", "maybe", "neither on nor off"},
		{"TCP_USER_TIMEOUT", "20", "not a time"},
		{"TCP_KEEPIDLE", "1500ms", "whole seconds"},
		{"TCP_MAXSEG", "big", "not a size"},
		{"TCP_KEEPCNT", "-1", "not a number"},
		{"TCP_CONGESTION", "", "not a name"},
	} {
		c2, err := clients.New(clients.Config{To: []string{"127.0.0.1:9"}, Options: map[string]string{c.name: c.value}, Duration: time.Second}, sched)
		if err == nil {
			_, err = c2.Prepare()
		}
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.name) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s=%s: %v", c.name, c.value, err)
		}
	}
}

func TestConfigsThatMakeNoSenseAreRefused(t *testing.T) {
	ok := clients.Config{To: []string{"10.0.0.1:80"}, Duration: time.Second}
	if err := ok.Validate(); err != nil {
		t.Fatal(err)
	}
	for says, change := range map[string]func(*clients.Config){
		"kind":         func(c *clients.Config) { c.Kind = "gopher" },
		"nobody":       func(c *clients.Config) { c.To = nil },
		"IP address":   func(c *clients.Config) { c.To = []string{"server:80"} },
		"reuse":        func(c *clients.Config) { c.Reuse = "sometimes" },
		"reuse: pool":  func(c *clients.Config) { c.Pool.Size = 3 },
		"reuse: none":  func(c *clients.Config) { c.Reuse, c.Closes = clients.Pooled, clients.ByServer },
		"closes":       func(c *clients.Config) { c.Closes = "nobody" },
		"size":         func(c *clients.Config) { c.Size = -1 },
		"connections":  func(c *clients.Config) { c.Connections = -1 },
		"duration":     func(c *clients.Config) { c.Duration = 0 },
		"bytes":        func(c *clients.Config) { c.ResponseSize = 1 << 30 },
		"fewer shards": func(c *clients.Config) { c.Shards = 100 },
	} {
		c := ok
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

func TestMoreConnectionsThanDescriptorsAreRefused(t *testing.T) {
	sched, _ := workloads.New(workloads.Config{Rate: 1})
	c, err := clients.New(clients.Config{To: []string{"127.0.0.1:9"}, Connections: 1 << 30, Duration: time.Second}, sched)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Prepare(); err == nil || !strings.Contains(err.Error(), "limits.nofile") {
		t.Error(err)
	}
}

func TestSeveralShardsAndServersShareTheLoad(t *testing.T) {
	gate(t)
	a, b := serve(t, server.Config{}), serve(t, server.Config{})
	r, _ := run(t, clients.Config{To: []string{a.addr, b.addr}, Size: 16, Shards: 3, Connections: 10, Duration: 300 * time.Millisecond}, workloads.Config{Rate: 1000})
	ra, rb := a.stop(), b.stop()
	if r.OK != 300 || ra.Requests+rb.Requests != 300 || ra.Requests < 100 || rb.Requests < 100 {
		t.Errorf("%+v: %d and %d", r.Counts, ra.Requests, rb.Requests)
	}
}

func TestResultSurvivesJSON(t *testing.T) {
	s := serve(t, server.Config{})
	r, _ := run(t, clients.Config{To: []string{s.addr}, Size: 16, Duration: 100 * time.Millisecond}, workloads.Config{Rate: 500})
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back clients.Result
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	for name, h := range r.Histograms {
		if !h.Equals(back.Histograms[name]) {
			t.Errorf("histogram %s is another one", name)
		}
	}
	r.Histograms, back.Histograms = nil, nil
	x, _ := json.Marshal(r)
	y, _ := json.Marshal(back)
	if string(x) != string(y) {
		t.Errorf("%s\n%s", x, y)
	}
	if len(b) > 200<<10 {
		t.Errorf("%d bytes for a result", len(b))
	}
}
