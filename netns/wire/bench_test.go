package wire

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"tcplab/lab/clock"
)

// BenchmarkBulk is one TCP connection through the wire: frames per second and
// the wire's share of the time.
func BenchmarkBulk(b *testing.B) {
	for _, v := range []struct {
		name  string
		delay time.Duration
	}{{"cable", 0}, {"2ms", 2 * time.Millisecond}} {
		b.Run(v.name, func(b *testing.B) {
			r := newRig(b, Symmetric(Direction{Delay: v.delay}))
			done := make(chan int64, 1)
			r.serve(b, addrB+":9", func(c net.Conn) {
				n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 1<<18))
				done <- n
			})
			c := r.dial(b, addrB+":9")
			chunk := make([]byte, 1<<18)
			b.SetBytes(int64(len(chunk)))
			b.ResetTimer()
			for range b.N {
				if _, err := c.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
			c.(*net.TCPConn).CloseWrite()
			<-done
			b.StopTimer()
			k := r.wire.Counters()
			frames := float64(*k.TowardsA.Out + *k.TowardsB.Out)
			b.ReportMetric(frames/b.Elapsed().Seconds(), "frames/s")
			b.ReportMetric(float64(*k.TowardsB.RetransmittedSegments), "again")
			noErrors(b, k)
			b.ReportMetric(float64(r.wire.DelayError().ValueAtQuantile(99)), "error-p99-ns")
		})
	}
}

// BenchmarkRoundTrip is a request of 128 bytes every 2.5 ms over 5 ms each
// way: what the round trip takes beyond the 10 ms, and the wire's own error.
func BenchmarkRoundTrip(b *testing.B) {
	const each = 5 * time.Millisecond
	r := newRig(b, Symmetric(Direction{Delay: each}))
	r.serve(b, addrB+":7", echo)
	var conns []net.Conn
	for range 8 {
		conns = append(conns, r.dial(b, addrB+":7"))
	}
	took := make([]int64, b.N)
	b.ResetTimer()
	began := clock.Now()
	var running sync.WaitGroup
	for i := range b.N {
		if err := clock.SleepUntil(b.Context(), began+int64(i)*2_500_000); err != nil {
			b.Fatal(err)
		}
		c := conns[i%len(conns)]
		running.Go(func() {
			began := clock.Now()
			exchange(b, c, 1, 128)
			took[i] = clock.Now() - began - 2*int64(each)
		})
	}
	running.Wait()
	b.StopTimer()
	slices.Sort(took)
	h := r.wire.DelayError()
	b.ReportMetric(float64(took[len(took)/2]), "added-p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100]), "added-p99-ns")
	b.ReportMetric(float64(h.ValueAtQuantile(50)), "error-p50-ns")
	b.ReportMetric(float64(h.ValueAtQuantile(99)), "error-p99-ns")
}

// BenchmarkDecide is the cost of one decision, all impairments on.
func BenchmarkDecide(b *testing.B) {
	ge := GilbertElliott{P: 0.01, R: 0.2}
	for _, v := range []struct {
		name string
		d    Direction
	}{
		{"cable", Direction{}},
		{"delay", Direction{Delay: time.Millisecond}},
		{"rate", Direction{Rate: 1e8, Queue: Queue{Bytes: 1 << 20}}},
		{"loss", Direction{Loss: Loss{P: 0.01}}},
		{"bursts", Direction{Loss: Loss{GilbertElliott: ge}}},
		{"all", Direction{Delay: time.Millisecond, Jitter: time.Millisecond, JitterDist: Normal, Loss: Loss{P: 0.01},
			Rate: 1e9, Duplicate: 0.01, Corrupt: 0.01, Reorder: Reorder{P: 0.01}}},
	} {
		b.Run(v.name, func(b *testing.B) {
			m, err := newModel(Symmetric(v.d))
			if err != nil {
				b.Fatal(err)
			}
			f := tcpFrame(1, 2, 1000, 80, 1, 0, flagACK, 1448)
			b.ReportAllocs()
			for i := range b.N {
				setSeq(f, uint32(1+i*1448))
				m.decide(dirB, int64(i)*10000, f)
			}
		})
	}
}
