package recorder

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tcplab/workloads"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers each request of size bytes with some.
func server(t *testing.T, size, answer int) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for b := make([]byte, size); ; {
					if _, err := io.ReadFull(c, b); err != nil {
						return
					}
					if _, err := c.Write(make([]byte, answer)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// recorded records what do does.
func recorded(t *testing.T, to string, do func(address string)) *Recording {
	t.Helper()
	r, err := Listen("127.0.0.1:0", to)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	got := make(chan *Recording)
	go func() {
		rec, err := r.Run(ctx)
		if err != nil {
			t.Error(err)
		}
		got <- rec
	}()
	do(r.Address())
	cancel()
	return <-got
}

func dial(t *testing.T, address string, nodelay bool) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.(*net.TCPConn).SetNoDelay(nodelay); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func write(t *testing.T, c net.Conn, sizes ...int) {
	t.Helper()
	for _, n := range sizes {
		if _, err := c.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, c net.Conn, n int) {
	t.Helper()
	if _, err := io.ReadFull(c, make([]byte, n)); err != nil {
		t.Fatal(err)
	}
}

func TestWritesUnderNagleAreRecordedOneByOne(t *testing.T) {
	const rounds = 20
	got := recorded(t, server(t, 1000, 64), func(address string) {
		for range 3 {
			c := dial(t, address, false)
			for range rounds {
				write(t, c, 100, 900)
				read(t, c, 64)
			}
			c.Close()
		}
	})
	if got.Connections != 3 || len(got.Trace.Exchanges) != 3*rounds || got.Unanswered != 0 || got.LeftOut != 0 || got.Raised != 0 {
		t.Fatalf("%+v", got)
	}
	last, merged := map[int]time.Duration{}, 0
	for _, x := range got.Trace.Exchanges {
		switch n := len(x.Parts); {
		case x.Answer != 64 || x.Start < last[x.Connection]:
			t.Errorf("%+v", x)
		case n == 1 && x.Parts[0].Bytes == 1000:
			merged++ // a recorder that gets no CPU for 40 ms is too late: the kernel acknowledges by itself
		case n != 2 || x.Parts[0].Bytes != 100 || x.Parts[1].Bytes != 900 || x.Parts[1].At <= 0:
			t.Errorf("%+v", x)
		}
		last[x.Connection] = x.Start + x.Parts[len(x.Parts)-1].At
	}
	if merged > rounds {
		t.Errorf("%d of %d exchanges were merged", merged, 3*rounds)
	}
	// What was recorded can be replayed.
	again, err := workloads.ParseTrace("t", []byte(got.Trace.String()))
	if err != nil || len(again.Exchanges) != 3*rounds {
		t.Errorf("%v\n%s", err, got.Trace.String())
	}
}

func TestThirdWriteIsMergedWithTheSecondThatWaits(t *testing.T) {
	got := recorded(t, server(t, 1000, 64), func(address string) {
		c := dial(t, address, false)
		defer c.Close()
		write(t, c, 100, 300, 600)
		read(t, c, 64)
	})
	total := 0
	for _, p := range got.Trace.Exchanges[0].Parts {
		total += p.Bytes
	}
	// Two or three: it is the sender's kernel that merges, or does not; one where
	// the recorder was late.
	if n := len(got.Trace.Exchanges[0].Parts); total != 1000 || n > 3 {
		t.Errorf("%+v", got.Trace.Exchanges)
	}
}

func TestExchangeEndsWhereTheClientSpeaksAgain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.Write(make([]byte, 30)) // before anybody asked
		io.ReadFull(c, make([]byte, 3))
		c.Write(make([]byte, 2)) // shorter than the lab's protocol
		io.ReadFull(c, make([]byte, 70_000))
		for range 2 {
			c.Write(make([]byte, 500))
		}
		io.Copy(io.Discard, c)
	}()
	got := recorded(t, l.Addr().String(), func(address string) {
		c := dial(t, address, true)
		read(t, c, 30)
		write(t, c, 3)
		read(t, c, 2)
		write(t, c, 70_000)
		read(t, c, 1000)
		write(t, c, 50) // and never an answer
		c.CloseWrite()
		read(t, c, 0)
		<-done
		c.Close()
	})
	x := got.Trace.Exchanges
	if len(x) != 2 || got.Unanswered != 1 || got.Raised != 1 || got.Unasked != 30 || got.Connections != 1 {
		t.Fatalf("%+v", got)
	}
	if x[0].Parts[0].Bytes != workloads.MinRequest || x[0].Answer != workloads.MinAnswer || x[1].Answer != 1000 {
		t.Errorf("%+v", x)
	}
	total := 0
	for _, p := range x[1].Parts {
		total += p.Bytes
	}
	if total != 70_000 {
		t.Errorf("%+v", x[1])
	}
}

func TestServerThatIsNotThereIsTold(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	got := recorded(t, l.Addr().String(), func(address string) {
		c := dial(t, address, true)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the client is told %v", err)
		}
	})
	if len(got.Failed) != 1 || !strings.Contains(got.Failed[0], "refused") || got.Connections != 0 {
		t.Errorf("%+v", got)
	}
}

func TestListensOnLoopbackOnly(t *testing.T) {
	for address, want := range map[string]string{
		"0.0.0.0:0": "loopback only", ":0": "loopback only", "192.0.2.1:9000": "loopback only", "localhost": "write an address and a port", "127.0.0.1": "write an address and a port",
	} {
		if _, err := Listen(address, "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := Listen("127.0.0.1:0", "here"); err == nil || !strings.Contains(err.Error(), "write HOST:PORT") {
		t.Errorf("%v", err)
	}
}
