package server

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"tcplab/lab/socket"
)

var bothKinds = []string{Echo, HTTP}

func TestRequestsInAnyPiecesAreAnsweredInOrder(t *testing.T) {
	gate(t)
	for _, cfg := range []Config{{}, {Service: time.Millisecond, Workers: 2}} {
		s := serve(t, cfg, nil)
		rapid.Check(t, func(rt *rapid.T) {
			var requests, answers []byte
			for range rapid.IntRange(1, 8).Draw(rt, "requests") {
				payload := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "payload")
				want := rapid.IntRange(0, 60).Draw(rt, "want")
				requests = append(requests, 0, 0, 0, byte(len(payload)), 0, 0, 0, byte(want))
				requests = append(requests, payload...)
				answers = append(answers, plain(payload, want)...)
			}
			c, err := net.Dial("tcp4", s.addr)
			if err != nil {
				rt.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			for len(requests) > 0 {
				n := rapid.IntRange(1, len(requests)).Draw(rt, "n")
				if _, err := c.Write(requests[:n]); err != nil {
					rt.Fatal(err)
				}
				requests = requests[n:]
			}
			// The client has said everything and still gets its answers.
			c.(*net.TCPConn).CloseWrite()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, answers) {
				rt.Fatalf("%v: %x, want %x", err, got, answers)
			}
		})
		s.stop()
	}
}

func TestGarbageEndsItsConnectionOnly(t *testing.T) {
	gate(t)
	var k kept
	s := serve(t, Config{}, &k)
	good := dial(t, s.addr)
	good.Write(ask(Echo, "one"))
	hear(t, good, "one")
	bad := dial(t, s.addr)
	bad.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	if err := end(bad); err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	good.Write(ask(Echo, "two"))
	hear(t, good, "two")
	good.Close()
	r := s.stop()
	if r.Errors["garbage"] != 1 || r.Requests != 2 || r.Accepted != 2 || !slices.Contains(k.events, "error garbage") {
		t.Errorf("%+v, %v", r, k.events)
	}
}

func TestSlowReaderGetsALargeAnswerWhole(t *testing.T) {
	gate(t)
	s := serve(t, Config{Options: map[string]string{"SO_SNDBUF": "8KiB"}}, nil)
	c := dial(t, s.addr)
	const size = 3 << 20
	// Two at once: the second must wait until the first answer is out.
	c.Write([]byte{0, 0, 0, 2, 0, size >> 16, 0, 0, 'a', 'b', 0, 0, 0, 1, 0, 0, 0, 1, 'z'})
	got := make([]byte, 4+size+5)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:4+size], plain([]byte("ab"), size)) || !bytes.Equal(got[4+size:], plain([]byte("z"), 1)) {
		t.Error("it is another answer")
	}
	other := dial(t, s.addr) // and one that goes away in the middle
	other.Write([]byte{0, 0, 0, 2, 0, size >> 16, 0, 0, 'a', 'b'})
	io.ReadFull(other, got[:100])
	other.SetLinger(0)
	other.Close()
	c.Write(ask(Echo, "still here"))
	hear(t, c, "still here")
	s.order(t, "resume", nil) // it still obeys
	r := s.stop()
	if r.Requests != 4 {
		t.Errorf("%+v", r)
	}
}

func TestCapacityIsWorkersTimesServiceTime(t *testing.T) {
	gate(t)
	const service = 20 * time.Millisecond
	for _, kind := range bothKinds {
		s := serve(t, Config{Kind: kind, Workers: 2, Service: service}, nil)
		var conns []net.Conn
		for range 10 {
			conns = append(conns, dial(t, s.addr))
		}
		begin := socket.Nanotime()
		for _, c := range conns {
			c.Write(ask(kind, "hello"))
		}
		for _, c := range conns {
			hear(t, c, "hello")
		}
		// Ten requests, two at a time: five service times, and not one less.
		if took := time.Duration(socket.Nanotime() - begin); took < 5*service {
			t.Errorf("%s: ten requests took %v", kind, took)
		}
		for _, c := range conns {
			c.Close()
		}
		r := s.stop()
		if r.Requests != 10 || r.QueueMax < 1 || r.QueueMax > 8 || r.OpenMax != 10 {
			t.Errorf("%s: %+v", kind, r)
		}
	}
}

// The arithmetic of the queue, without sockets: each request is done when its
// worker has served those before it, however late this thread looks.
func TestWorkersGoOnWhereTheyEndedAndNotWhereTheyWereSeen(t *testing.T) {
	e := newEcho(Config{Workers: 2, Service: 10}, nil)
	for i := range 6 {
		e.peers = append(e.peers, &peer{fd: -1, index: int32(i)}) // gone: nothing is sent
	}
	e.serve(job{index: 0}, 100)
	e.serve(job{index: 1}, 103)
	e.waiting = []job{{index: 2}, {index: 3}, {index: 4}, {index: 5}}
	if err := e.release(112); err != nil {
		t.Fatal(err)
	}
	// 0 was done at 110, so 2 is at 120; 1 goes on until 113.
	if got := []int64{e.serving[0].done, e.serving[1].done}; !slices.Equal(got, []int64{113, 120}) {
		t.Errorf("done at %v", got)
	}
	if err := e.release(125); err != nil { // late
		t.Fatal(err)
	}
	if got := []int64{e.serving[0].done, e.serving[1].done}; !slices.Equal(got, []int64{130, 133}) || e.next() != 130 {
		t.Errorf("done at %v", got)
	}
	e.service = 1
	if err := e.release(140); err != nil {
		t.Fatal(err)
	}
	if len(e.serving) != 0 || e.next() != socket.Never {
		t.Errorf("still serving %v", e.serving)
	}
}

func TestServerClosesFirstIfItIsToldTo(t *testing.T) {
	gate(t)
	for _, kind := range bothKinds {
		s := serve(t, Config{Kind: kind, Closes: ByServer}, nil)
		c := dial(t, s.addr)
		c.Write(ask(kind, "bye"))
		hear(t, c, "bye")
		if err := end(c); err != io.EOF {
			t.Errorf("%s: %v", kind, err)
		}
		s.stop()
	}
	s := serve(t, Config{}, nil)
	c := dial(t, s.addr)
	c.Write([]byte{0, 0, 0, 1, 0x80, 0, 0, 1, 'x'}) // the request asks for it
	if got, err := io.ReadAll(c); err != nil || string(got) != "\x00\x00\x00\x01x" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFaults(t *testing.T) {
	gate(t)
	for _, kind := range bothKinds {
		s := serve(t, Config{Kind: kind}, nil)
		c := dial(t, s.addr)
		exchange := func() {
			t.Helper()
			c.Write(ask(kind, "hello"))
			hear(t, c, "hello")
		}
		exchange()

		s.order(t, "slow", map[string]any{"service": "50ms"})
		begin := socket.Nanotime()
		exchange()
		if took := time.Duration(socket.Nanotime() - begin); took < 50*time.Millisecond {
			t.Errorf("%s: slowed by 50 ms it took %v", kind, took)
		}
		s.order(t, "resume", nil)

		s.order(t, "stall", nil)
		c.Write(ask(kind, "hello"))
		silent(t, c)
		s.order(t, "resume", nil)
		hear(t, c, "hello")

		s.order(t, "slow", map[string]any{"service": 1e9})
		s.order(t, "stall", map[string]any{"for": "60ms"})
		begin = socket.Nanotime()
		c.Write(ask(kind, "hello"))
		s.order(t, "resume", nil) // of slow; stall ends by itself, again
		s.order(t, "stall", map[string]any{"for": int64(60 * time.Millisecond)})
		c.Write(ask(kind, "again"))
		hear(t, c, "again")
		if took := time.Duration(socket.Nanotime() - begin); took < 60*time.Millisecond {
			t.Errorf("%s: stalled for 60 ms it took %v", kind, took)
		}

		s.order(t, "stop-accepting", nil)
		late := dial(t, s.addr) // the kernel still takes it
		late.Write(ask(kind, "late"))
		silent(t, late)
		exchange()
		s.order(t, "resume", nil)
		hear(t, late, "late")

		s.order(t, "close-connections", nil)
		if a, b := end(c), end(late); a != io.EOF || b != io.EOF {
			t.Errorf("%s: closed: %v, %v", kind, a, b)
		}
		c = dial(t, s.addr)
		exchange()
		s.order(t, "close-connections", map[string]any{"with": "rst"})
		if err := end(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: reset: %v", kind, err)
		}

		// What is stalled or slowed must not keep the server from ending.
		c = dial(t, s.addr)
		exchange()
		s.order(t, "stall", nil)
		c.Write(ask(kind, "never"))
		s.stop()
		if err := s.Do("resume", nil); !errors.Is(err, errNotRunning) {
			t.Errorf("%s: after its end: %v", kind, err)
		}
	}
}

func TestFaultsThatMakeNoSenseAreRefused(t *testing.T) {
	s, err := New(Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		fault string
		args  map[string]any
		says  string
	}{
		{"explode", nil, "it has stop-closing, slow"},
		{"slow", nil, "service is missing"},
		{"slow", map[string]any{"service": "soon"}, "not a time"},
		{"slow", map[string]any{"service": -1.0}, "negative"},
		{"slow", map[string]any{"service": true}, "not a time"},
		{"close-connections", map[string]any{"with": "glue"}, "fin or rst"},
		{"close-connections", map[string]any{"for": "1s"}, "over at once"},
		{"stall", map[string]any{"for": "ever"}, "not a time"},
		{"stall", nil, "not running"},
	} {
		if err := s.Do(c.fault, c.args); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %v: %v", c.fault, c.args, err)
		}
	}
}

func TestLeakedConnectionsStayInCloseWait(t *testing.T) {
	if !inProcess(t) {
		return
	}
	s := serve(t, Config{}, nil)
	s.order(t, "stop-closing", nil)
	for range 5 {
		c := dial(t, s.addr)
		c.Write(ask(Echo, "hello"))
		hear(t, c, "hello")
		c.Close()
	}
	eventually(t, "five CLOSE-WAITs", func() bool { return inState(t, closeWaitState) == 5 })
	s.order(t, "resume", nil)
	eventually(t, "none", func() bool { return inState(t, closeWaitState) == 0 })
	if r := s.stop(); r.Open != 0 || r.OpenMax != 5 {
		t.Errorf("%+v", r)
	}
}

// A program that has forgotten a connection does not hear of its end either:
// the socket is gone, and the descriptor is not.
func TestLeakedConnectionsStayOpenWhenTheirPeerResets(t *testing.T) {
	if !inProcess(t) {
		return
	}
	s := serve(t, Config{}, nil)
	s.order(t, "stop-closing", nil)
	c := dial(t, s.addr)
	c.Write(ask(Echo, "hello"))
	hear(t, c, "hello")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "CLOSE-WAIT", func() bool { return inState(t, closeWaitState) == 1 })
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
	eventually(t, "the kernel's socket is gone", func() bool { return inState(t, closeWaitState) == 0 })
	other := dial(t, s.addr) // another round of the loop, in which it would be seen
	other.Write(ask(Echo, "still"))
	hear(t, other, "still")
	if r := s.stop(); r.Open != 2 {
		t.Errorf("%d open, want the forgotten one and the live one", r.Open)
	}
}

func TestOpenFilesCountsEntriesOfADirectory(t *testing.T) {
	gate(t)
	f := newOpenFiles()
	if f == nil {
		t.Fatal("/proc/self/fd cannot be read")
	}
	defer f.close()
	was := f.seen(1)
	a, b, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if n := f.seen(1); n != was {
		t.Errorf("%d, with no further connection: the list is not read again", n)
	}
	if n := f.seen(2); n < was+2 {
		t.Errorf("%d after two more than %d", n, was)
	}
	var none *openFiles
	none.count()
	none.close()
	if n := none.seen(5); n != 0 {
		t.Errorf("nothing counts %d", n)
	}
	for _, broken := range [][]byte{nil, make([]byte, 19), make([]byte, 24), bytes.Repeat([]byte{0xff}, 30)} {
		if n := entries(broken); n != 0 {
			t.Errorf("%v: %d", broken, n)
		}
	}
}

func TestOutOfDescriptorsIsCountedAndDoesNotSpin(t *testing.T) {
	if !inProcess(t) { // for its limit
		return
	}
	for _, kind := range bothKinds {
		var k kept
		s := serve(t, Config{Kind: kind}, &k)
		first := dial(t, s.addr)
		first.Write(ask(kind, "hello"))
		hear(t, first, "hello")
		// Clients that are only kernel sockets of ours, made before the limit.
		var fds []int
		for range 30 {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
		}
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		was := limit.Cur
		limit.Cur = uint64(len(open) + 10)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		ap := first.RemoteAddr().(*net.TCPAddr).AddrPort()
		for _, fd := range fds {
			if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "EMFILE", func() bool {
			k.mu.Lock()
			defer k.mu.Unlock()
			return slices.Contains(k.events, "accept-error EMFILE")
		})
		first.Write(ask(kind, "still")) // those it has are served
		hear(t, first, "still")
		time.Sleep(100 * time.Millisecond) // for a loop to show
		// Descriptors come free as clients go.
		for _, fd := range fds {
			unix.Close(fd)
		}
		limit.Cur = was
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		last := dial(t, s.addr)
		last.Write(ask(kind, "last"))
		hear(t, last, "last")
		r := s.stop()
		if n := r.AcceptErrors["EMFILE"]; n == 0 || n > 40 || r.Accepted != 32 {
			t.Errorf("%s: %d accept errors, %d accepted", kind, n, r.Accepted)
		}
		// All of them when it failed, and what was inherited above the limit.
		if most := int64(len(open) + 10); r.AcceptFailed == 0 || r.Descriptors < most-1 || r.Descriptors > most+3 {
			t.Errorf("%s: %d descriptors at most, of %d; accept failed at %d", kind, r.Descriptors, most, r.AcceptFailed)
		}
	}
}

func TestOptionsAreSetAndReadBack(t *testing.T) {
	gate(t)
	asked := map[string]string{"TCP_NODELAY": "off", "TCP_CONGESTION": "reno", "SO_KEEPALIVE": "on", "TCP_KEEPIDLE": "9s", "TCP_USER_TIMEOUT": "3s", "SO_RCVBUF": "64KiB", "TCP_QUICKACK": "on"}
	want := map[string]string{"TCP_NODELAY": "off", "TCP_CONGESTION": "reno", "SO_KEEPALIVE": "on", "TCP_KEEPIDLE": "9s", "TCP_USER_TIMEOUT": "3s", "SO_RCVBUF": "131072"}
	for _, kind := range bothKinds {
		s := serve(t, Config{Kind: kind, Options: asked}, nil)
		c := dial(t, s.addr)
		c.Write(ask(kind, "hello"))
		hear(t, c, "hello")
		r := s.stop()
		for name, v := range want {
			if s.options[name] != v || r.Options[name] != v {
				t.Errorf("%s: %s: %q on the listener, %q on a connection, want %q", kind, name, s.options[name], r.Options[name], v)
			}
		}
	}
	s := serve(t, Config{Kind: HTTP}, nil)
	c := dial(t, s.addr)
	c.Write(ask(HTTP, "hello"))
	hear(t, c, "hello")
	if r := s.stop(); r.Options["SO_KEEPALIVE"] != "off" || r.Options["TCP_NODELAY"] != "on" {
		t.Errorf("net/http by itself: %v", r.Options)
	}
}

func TestListenerIsPlainTCPWithTheBacklogAskedFor(t *testing.T) {
	gate(t)
	e := newEcho(Config{Listen: freshAddress() + ":0", Backlog: 7}, nil)
	if _, _, err := e.listen(); err != nil {
		t.Fatal(err)
	}
	w := newWeb(Config{Listen: freshAddress() + ":0", Backlog: 7}, nil)
	if _, _, err := w.listen(); err != nil {
		t.Fatal(err)
	}
	check := func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		if err != nil {
			return err
		}
		// Of a listener these are sk_max_ack_backlog (net/ipv4/tcp.c, tcp_get_info).
		if info.Sacked != 7 {
			t.Errorf("backlog %d", info.Sacked)
		}
		if proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || proto != unix.IPPROTO_TCP {
			t.Errorf("protocol %d, %v", proto, err)
		}
		return nil
	}
	if err := errors.Join(check(e.lfd), control(w.ln, check)); err != nil {
		t.Error(err)
	}
	unix.Close(e.lfd)
	e.poll.Close()
	w.ln.Close()
}

func TestWhatCannotBeHadIsAnError(t *testing.T) {
	gate(t)
	taken := serve(t, Config{}, nil)
	for _, kind := range bothKinds {
		for _, c := range []struct {
			Config
			says string
		}{
			{Config{Listen: taken.addr}, "address already in use"},
			{Config{Listen: "203.0.113.7:80"}, "cannot assign"},
			{Config{Listen: "127.0.0.1:0", Options: map[string]string{"SO_RCVBUF": "1GiB"}}, "rmem_max"},
			{Config{Listen: "127.0.0.1:0", Options: map[string]string{"TCP_CONGESTION": "warp"}}, "tcp_available"},
			{Config{Listen: "somewhere:80"}, "IP address"},
			{Config{Listen: "127.0.0.1:0", Options: map[string]string{"TCP_TURBO": "on"}}, "known are"},
			{Config{Listen: "127.0.0.1:0", Closes: "both"}, "closes"},
			{Config{Listen: "127.0.0.1:0", Workers: -1}, "workers is negative"},
			{Config{Listen: "127.0.0.1:0", ResponseSize: 1 << 30}, "response_size"},
		} {
			c.Kind = kind
			s, err := New(c.Config)
			if err == nil {
				_, _, err = s.Listen()
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", c.says, err)
			}
		}
	}
	if _, err := New(Config{Kind: "gopher", Listen: "127.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), "write echo, http") {
		t.Error(err)
	}
}

func TestHTTPAnswersAnyClient(t *testing.T) {
	gate(t)
	s := serve(t, Config{Kind: HTTP, ResponseSize: 10}, nil)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	c := http.Client{Transport: tr}
	get := func(method, size, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+s.addr+"/any/path", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if size != "" {
			req.Header.Set(AnswerSize, size)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if code, body := get("GET", "", ""); code != 200 || body != strings.Repeat("\x00", 10) {
		t.Errorf("%d %q", code, body)
	}
	if code, body := get("POST", "5", "abc"); code != 200 || body != "abcab" {
		t.Errorf("%d %q", code, body)
	}
	for _, size := range []string{"many", "-1", "99999999999"} {
		if code, _ := get("POST", size, "abc"); code != 400 {
			t.Errorf("size %s: %d", size, code)
		}
	}
}

func TestServerSamplesAsItWorks(t *testing.T) {
	gate(t)
	for _, kind := range bothKinds {
		var k kept
		s := serve(t, Config{Kind: kind}, &k)
		c := dial(t, s.addr)
		c.Write(ask(kind, "hello"))
		hear(t, c, "hello")
		s.stop()
		last := k.samples[len(k.samples)-1]
		if len(k.samples) < 2 || last["requests"] != 1 || last["accepted"] != 1 || !slices.Contains(k.events, "options") {
			t.Errorf("%s: %v, %v", kind, k.samples, k.events)
		}
	}
}

func TestSilentServerIsNotWokenUp(t *testing.T) {
	// An idle server has no timer: with nothing to do it sleeps until never.
	e := newEcho(Config{Listen: freshAddress() + ":0"}, nil)
	if _, _, err := e.listen(); err != nil {
		t.Fatal(err)
	}
	if at := e.next(); at != socket.Never {
		t.Errorf("it wakes at %d", at)
	}
	unix.Close(e.lfd)
	e.poll.Close()
}

func TestKindsSayWhatTheyCan(t *testing.T) {
	for _, k := range Kinds() {
		names := k.faultNames()
		for _, f := range k.Faults {
			if f.About == "" || f.Undo != "" && !slices.Contains(names, f.Undo) {
				t.Errorf("%s: %+v", k.Name, f)
			}
		}
		if k.About == "" || len(k.Options) < 10 {
			t.Errorf("%+v", k)
		}
	}
}
