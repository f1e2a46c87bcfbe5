package clients_test

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/clients"
	"tcplab/server"
	"tcplab/workloads"
)

func TestKernelCountsTheSameOpens(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, kind := range kinds {
		for _, reuse := range []string{clients.None, clients.Pooled} {
			s := serve(t, server.Config{Kind: kind, Listen: "127.0.0.1:0"})
			before := snmp(t, "ActiveOpens")
			r, _ := run(t, clients.Config{Kind: kind, To: []string{s.addr}, Reuse: reuse, Size: 64, Warmup: 100 * time.Millisecond, Duration: 400 * time.Millisecond}, workloads.Config{Rate: 500})
			if got := snmp(t, "ActiveOpens") - before; got != r.Opens || r.Opens == 0 {
				t.Errorf("%s, %s: the kernel counted %d opens, the client %d", kind, reuse, got, r.Opens)
			}
		}
		// Refused ones sent a SYN, too.
		before := snmp(t, "ActiveOpens")
		r, _ := run(t, clients.Config{Kind: kind, To: []string{"127.0.0.1:9"}, Size: 64, Duration: 100 * time.Millisecond}, workloads.Config{Rate: 500})
		if got := snmp(t, "ActiveOpens") - before; got != r.Opens || r.Errors["ECONNREFUSED"] != 50 {
			t.Errorf("%s: the kernel counted %d opens, the client %d: %v", kind, got, r.Opens, r.Errors)
		}
		// Those without a route did not.
		before = snmp(t, "ActiveOpens")
		r, _ = run(t, clients.Config{Kind: kind, To: []string{"10.9.9.9:9"}, Size: 64, Duration: 100 * time.Millisecond}, workloads.Config{Rate: 500})
		if got := snmp(t, "ActiveOpens") - before; got != 0 || r.Opens != 0 || r.Errors["ENETUNREACH"] != 50 {
			t.Errorf("%s: no route: the kernel counted %d opens, the client %d: %v", kind, got, r.Opens, r.Errors)
		}
	}
}

func TestConnectFailsExactlyWhenThePortsAreUsedUp(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	sysctl(t, "net.ipv4.tcp_tw_reuse", "0")
	sysctl(t, "net.ipv4.ip_local_port_range", "40000 40199")
	for i, kind := range kinds {
		// TIME-WAITs towards another address are in nobody's way.
		s := serve(t, server.Config{Kind: kind, Listen: []string{"127.0.0.1:8080", "127.0.0.2:8080"}[i]})
		before := snmp(t, "ActiveOpens")
		r, k := run(t, clients.Config{Kind: kind, To: []string{s.addr}, Size: 64, Duration: 600 * time.Millisecond}, workloads.Config{Rate: 500})
		if r.OK != 200 || r.Errors["EADDRNOTAVAIL"] != 100 || r.Opens != 200 || snmp(t, "ActiveOpens")-before != 200 {
			t.Errorf("%s: 200 ports: %+v, %d opens", kind, r.Counts, r.Opens)
		}
		if r.FirstErrorClass != "EADDRNOTAVAIL" || r.FirstError-r.T0 < int64(200*time.Second/500) || len(k.named("failing")) == 0 {
			t.Errorf("%s: first error %s %v after go", kind, r.FirstErrorClass, time.Duration(r.FirstError-r.T0))
		}
		if _, atClient := timeWait(t, s.addr); atClient != 200 {
			t.Errorf("%s: %d TIME-WAITs at the client", kind, atClient)
		}
		if kind == clients.Echo && r.Histograms["connect.call"].TotalCount() != 300 {
			t.Errorf("%d connect() calls were timed", r.Histograms["connect.call"].TotalCount())
		}
	}
}

func TestWhoClosesFirstKeepsTheTimeWait(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, kind := range kinds {
		for _, closes := range []string{clients.ByClient, clients.ByServer} {
			s := serve(t, server.Config{Kind: kind, Listen: "127.0.0.1:0"})
			r, _ := run(t, clients.Config{Kind: kind, To: []string{s.addr}, Closes: closes, Size: 64, Duration: 200 * time.Millisecond}, workloads.Config{Rate: 500})
			s.stop()
			if r.OK != 100 {
				t.Errorf("%s: %+v", kind, r.Counts)
			}
			// The last ACK may still be under way: on loopback it is not.
			atServer, atClient := timeWait(t, s.addr)
			want := [2]int64{0, 100}
			if closes == clients.ByServer {
				want = [2]int64{100, 0}
			}
			got := [2]int64{atServer, atClient}
			// Of net/http's own way one in twenty is closed by the other side.
			if got != want && !(kind == clients.HTTP && closes == clients.ByServer && atServer >= 80) {
				t.Errorf("%s: %s closes first: %d TIME-WAITs at the server, %d at the client", kind, closes, atServer, atClient)
			}
		}
	}
}

func TestServerThatIsToldClosesEveryConnectionFirst(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := serve(t, server.Config{Listen: "127.0.0.1:0", Closes: server.ByServer})
	r, _ := run(t, clients.Config{To: []string{s.addr}, Closes: clients.ByServer, Size: 64, Duration: 200 * time.Millisecond}, workloads.Config{Rate: 500})
	if atServer, atClient := timeWait(t, s.addr); atServer != 100 || atClient != 0 || r.OK != 100 {
		t.Errorf("%d at the server, %d at the client: %+v", atServer, atClient, r.Counts)
	}
}

func TestPoolLeavesNoTimeWaitUntilTheEnd(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, kind := range kinds {
		s := serve(t, server.Config{Kind: kind, Listen: "127.0.0.1:0"})
		r, _ := run(t, clients.Config{Kind: kind, To: []string{s.addr}, Reuse: clients.Pooled, Pool: clients.Pool{Size: 5}, Size: 64, Duration: 300 * time.Millisecond}, workloads.Config{Rate: 500})
		if atServer, atClient := timeWait(t, s.addr); atServer+atClient > r.Opens {
			t.Errorf("%s: %d opens, TIME-WAITs: %d at the server, %d at the client", kind, r.Opens, atServer, atClient)
		}
	}
}

func TestLingerOfZeroLeavesNoTimeWait(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := serve(t, server.Config{Listen: "127.0.0.1:0"})
	r, _ := run(t, clients.Config{To: []string{s.addr}, Options: map[string]string{"SO_LINGER": "0s"}, Size: 64, Duration: 100 * time.Millisecond}, workloads.Config{Rate: 500})
	got := s.stop()
	if atServer, atClient := timeWait(t, s.addr); atServer+atClient != 0 || r.OK != 50 || got.Errors["ECONNRESET"] != 50 {
		t.Errorf("%d and %d TIME-WAITs, %+v, the server saw %v", atServer, atClient, r.Counts, got.Errors)
	}
}

func TestUnansweredSYNsEndAtTheDeadlineOrAtTCPsOwn(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	// The accept queue is full: SYNs get no answer at all.
	sysctl(t, "net.ipv4.tcp_syn_linear_timeouts", "0")
	fd := fullListener(t)
	defer unix.Close(fd)
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := addrOf(sa)
	for _, kind := range kinds {
		r, _ := run(t, clients.Config{Kind: kind, To: []string{addr}, Deadline: 100 * time.Millisecond, Size: 64, Duration: 50 * time.Millisecond}, workloads.Config{Rate: 100})
		if r.Errors["connect_deadline"] != 5 || r.Opens > 5 || r.Established != 0 {
			t.Errorf("%s: the deadline: %+v, %d opens", kind, r.Counts, r.Opens)
		}
	}
	r, _ := run(t, clients.Config{To: []string{addr}, Options: map[string]string{"TCP_SYNCNT": "1"}, Size: 64, Duration: 50 * time.Millisecond, Drain: 20 * time.Second}, workloads.Config{Rate: 100})
	if r.Errors["ETIMEDOUT"] != 5 || r.Opens != 5 || r.Established != 0 {
		t.Errorf("TCP's own: %+v", r.Counts)
	}
}

// fullListener is a listener whose accept queue is full: the kernel drops
// further SYNs.
func fullListener(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(c, sa); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(c) })
	return fd
}

func addrOf(sa unix.Sockaddr) string {
	return "127.0.0.1:" + strconv.Itoa(sa.(*unix.SockaddrInet4).Port)
}

func TestOutOfDescriptorsIsAClassOfItsOwn(t *testing.T) {
	if !inNamespace(t) { // a process of its own, for its limit
		return
	}
	s := serve(t, server.Config{Listen: "127.0.0.1:0", Service: 10 * time.Second})
	c := start(t, clients.Config{To: []string{s.addr}, Size: 64, Connections: 100, Duration: 200 * time.Millisecond, Drain: time.Second}, workloads.Config{Rate: 500})
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	// Client and server share it: room for about 20 connections.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = uint64(len(open) + 45)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	r, k := finish(t, context.Background(), c)
	consistent(t, r, k)
	if r.Errors["EMFILE"] == 0 || r.Errors["EMFILE"]+r.Unfinished != r.Offered || r.Opens != r.Unfinished {
		t.Errorf("%+v, %d opens", r.Counts, r.Opens)
	}
}

func TestOpensSYNsAndKernelAgreeWhileConnectionsBreak(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := serve(t, server.Config{Listen: "127.0.0.1:0"})
	c := start(t, clients.Config{To: []string{s.addr}, Reuse: clients.Pooled, Connections: 8, Size: 64, Duration: 400 * time.Millisecond}, workloads.Config{Rate: 1000})
	before := snmp(t, "ActiveOpens")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 20 {
			if s.Do("close-connections", map[string]any{"with": []string{"fin", "rst"}[i%2]}) != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	r, k := finish(t, context.Background(), c)
	<-done
	consistent(t, r, k)
	if got := snmp(t, "ActiveOpens") - before; got != r.Opens || r.Opens < 2 || r.OK < 200 {
		t.Errorf("the kernel counted %d opens, the client %d; %+v", got, r.Opens, r.Counts)
	}
	for class := range r.Errors {
		if !strings.Contains("eof ECONNRESET EPIPE", class) {
			t.Errorf("errors %v", r.Errors)
		}
	}
}
