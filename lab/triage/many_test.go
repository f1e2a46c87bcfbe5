package triage

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/clock"
	"tcplab/netns"
	"tcplab/netns/probe"
)

// crowded is a host with many sockets: open connections towards itself, both
// ends, and TIME-WAITs.
func crowded(tb testing.TB, sockets int) *netns.Host {
	tb.Helper()
	h, err := netns.NewHost("crowded")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { h.Close() })
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		tb.Fatal(err)
	}
	// Two sockets each, half of all, or as many as there are descriptors for.
	conns := min(sockets/4, (int(min(limit.Cur, 1<<20))-1000)/2)
	var open []int
	tb.Cleanup(func() {
		for _, fd := range open {
			unix.Close(fd)
		}
	})
	err = h.Do(func() error {
		for _, s := range []struct{ name, value string }{{"ip_local_port_range", "1024 65535"}, {"tcp_tw_reuse", "0"}, {"tcp_max_tw_buckets", "200000"}} {
			if err := writeSysctl(s.name, s.value); err != nil {
				return err
			}
		}
		for part, last := range []byte{1, 2} { // one destination keeps, the other forgets
			to := &unix.SockaddrInet4{Port: 80, Addr: [4]byte{127, 0, 0, last}}
			ln, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			open = append(open, ln)
			if err := unix.Bind(ln, to); err != nil {
				return err
			}
			if err := unix.Listen(ln, 128); err != nil {
				return err
			}
			n := conns
			if part == 1 {
				n = sockets - 2*conns
			}
			for range n {
				c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				if err := unix.Connect(c, to); err != nil {
					return err
				}
				s, _, err := unix.Accept4(ln, unix.SOCK_CLOEXEC)
				if err != nil {
					return err
				}
				if part == 0 {
					open = append(open, c, s)
					continue
				}
				unix.Shutdown(c, unix.SHUT_WR)
				unix.Close(s)
				unix.Close(c)
			}
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func source(tb testing.TB, h *netns.Host) *Source {
	tb.Helper()
	var s *Source
	if err := h.Do(func() (err error) { s, err = Open(); return err }); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// wholeLook is all that the command does, but for the second between its
// samples.
func wholeLook(tb testing.TB, s *Source) (Sample, []Finding) {
	tb.Helper()
	a, err := s.Sample(time.Duration(clock.Now()), false)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := s.Sample(time.Duration(clock.Now()), true)
	if err != nil {
		tb.Fatal(err)
	}
	b.Named("/proc")
	fs := Diagnose(a, b)
	Unjudged(a, b)
	return b, fs
}

// cpu is what this process has used.
func cpu() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A whole look costs a small multiple of the two bare socket dumps that it
// cannot do without.
func TestALookAtManySocketsCostsLittleMoreThanTheirDumps(t *testing.T) {
	const n = 8000
	s := source(t, crowded(t, n))
	least := func(f func()) time.Duration {
		best := time.Hour
		for range 5 {
			runtime.GC()
			from := cpu()
			f()
			best = min(best, cpu()-from)
		}
		return best
	}
	floor := least(func() {
		for range 2 {
			if _, err := s.Probe.Dump(probe.DumpOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	})
	look := least(func() {
		if b, _ := wholeLook(t, s); len(b.Sockets) < n {
			t.Fatalf("%d sockets", len(b.Sockets))
		}
	})
	t.Logf("%d sockets: %v of CPU, two bare dumps %v", n, look, floor)
	if look > 8*floor+20*time.Millisecond {
		t.Errorf("a look at %d sockets costs %v of CPU, more than eight times two bare dumps (%v)", n, look, floor)
	}
}

// BenchmarkLookAt50000Sockets is the command's own work; a second's wait comes
// on top, and two seconds are the bound for both.
func BenchmarkLookAt50000Sockets(b *testing.B) {
	s := source(b, crowded(b, 50_000))
	b.ReportAllocs()
	for b.Loop() {
		if got, _ := wholeLook(b, s); len(got.Sockets) < 50_000 {
			b.Fatalf("%d sockets", len(got.Sockets))
		}
	}
	if per := b.Elapsed() / time.Duration(b.N); per > time.Second {
		b.Errorf("a look takes %v; with the second between the samples that is more than two", per)
	}
}
